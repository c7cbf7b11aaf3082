/* SPDX-License-Identifier: Apache-2.0 */
/* What a log's writer knows of its readers: counting them in, waiting for them, waking them. */
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "event/log.h"

enum { FIRST_NAP_NS = 20000, LONGEST_NAP_NS = 1000000 };

int nfm__log_follow(nfm_log *log, const nfm__log_cursor *cursor, bool lossless) {
    uint32_t i = 0;
    while (i < NFM_LOG_READERS && log->followers[i].cursor != NULL)
        i++;
    if (i == NFM_LOG_READERS)
        return NFM_E_LIMIT;
    log->followers[i] = (nfm__log_follower){.cursor = cursor, .lossless = lossless};
    if (i >= log->n_followers)
        log->n_followers = i + 1;
    log->safe = 0;
    return (int)i;
}

int nfm_log_add_reader(nfm_log *log, int cursor_fd, int lossless, nfm_error *err) {
    nfm_region region;
    int rc = nfm_region_adopt(&region, cursor_fd, sizeof(nfm__log_cursor), false, err);
    if (rc != NFM_OK)
        return rc;
    rc = nfm__log_follow(log, (const nfm__log_cursor *)(const void *)region.base, lossless != 0);
    if (rc < 0)
        nfm_region_fini(&region);
    else
        log->followers[rc].region = region;
    return rc;
}

int nfm_log_remove_reader(nfm_log *log, uint32_t reader) {
    if (reader >= log->n_followers || log->followers[reader].cursor == NULL)
        return NFM_E_INVAL;
    nfm_region_fini(&log->followers[reader].region);
    memset(&log->followers[reader], 0, sizeof(log->followers[reader]));
    log->safe = 0;
    return NFM_OK;
}

/* Takes a reader's cursor in; one that has not begun stands at 0. */
static void look(nfm_log *log, nfm__log_follower *f) {
    uint64_t position = atomic_load_explicit(&f->cursor->position, memory_order_acquire);
    if (position >= f->seen && position <= log->head) {
        f->seen = position;
    } else if (position != f->refused) {
        f->refused = position;
        log->bad_cursors++;
    }
    if (f->seen >= f->lost_until)
        f->lost_until = 0;
}

/* Whether the reader is one whose entries must not be overwritten: it wants all, was not given up,
 * and still has all. */
static bool holds(const nfm_log *log, const nfm__log_follower *f) {
    return f->cursor != NULL && f->lossless && f->lost_until == 0 && f->seen >= log->tail;
}

/* Looks at all cursors. Returns the position up to which tail may move now; up to |safe| it may
 * move without another look, nowhere while a lossless reader may be catching up. */
static uint64_t slowest(nfm_log *log) {
    uint64_t least = UINT64_MAX;
    bool is_catching_up = false;
    for (uint32_t i = 0; i < log->n_followers; i++) {
        nfm__log_follower *f = &log->followers[i];
        if (f->cursor == NULL)
            continue;
        look(log, f);
        if (!holds(log, f))
            is_catching_up |= f->lossless;
        else if (f->seen < least)
            least = f->seen;
    }
    log->safe = is_catching_up ? 0 : least;
    return least;
}

static void give_up(nfm_log *log, uint64_t target) {
    for (uint32_t i = 0; i < log->n_followers; i++) {
        nfm__log_follower *f = &log->followers[i];
        if (!holds(log, f) || f->seen >= target)
            continue;
        f->lost_until = log->head;
        log->missed_deadlines++;
    }
    log->safe = 0;
}

static int64_t monotonic_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Waits until lossless readers have passed |target|, naps growing, or the deadline is there. */
static void wait_for(nfm_log *log, uint64_t target) {
    int64_t end = monotonic_ns();
    end = log->deadline_ns > INT64_MAX - end ? INT64_MAX : end + log->deadline_ns;
    struct timespec nap = {.tv_nsec = FIRST_NAP_NS};
    log->waits++;
    nfm__log_wake(log);
    while (slowest(log) < target) {
        if (monotonic_ns() >= end) {
            give_up(log, target);
            return;
        }
        nanosleep(&nap, NULL);
        if (nap.tv_nsec < LONGEST_NAP_NS)
            nap.tv_nsec *= 2;
    }
}

void nfm__log_make_room(nfm_log *log, uint64_t need) {
    if (log->head + need - log->tail <= log->capacity)
        return;
    uint64_t target = log->head + need - log->capacity;
    if (target > log->safe && target > slowest(log))
        wait_for(log, target);
    while (log->tail < target) {
        uint32_t len = nfm__log_entry_len_at(log, log->tail);
        bool sane = len >= NFM_LOG_ENTRY_MIN && len % 8 == 0 && len <= log->head - log->tail;
        log->tail = sane ? log->tail + len : log->head;
    }
    atomic_store_explicit(&log->shared->tail, log->tail, memory_order_release);
}

void nfm__log_wake(nfm_log *log) {
    if (log->n_followers == 0)
        return;
    atomic_thread_fence(memory_order_seq_cst);
    nfm__log_shared *shared = log->shared;
    uint32_t seq = atomic_load_explicit(&shared->wake_seq, memory_order_relaxed);
    for (uint32_t i = 0; i < log->n_followers; i++) {
        const nfm__log_cursor *cursor = log->followers[i].cursor;
        if (cursor == NULL ||
            atomic_load_explicit(&cursor->asleep, memory_order_relaxed) != seq + 1)
            continue;
        atomic_store_explicit(&shared->wake_seq, seq + 1, memory_order_release);
        syscall(SYS_futex, &shared->wake_seq, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
        log->wakeups++;
        return;
    }
}
