/* SPDX-License-Identifier: Apache-2.0 */
#include "base/wait.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "nfm/nfm.h"

enum {
    SPINS_PER_LOOK = 64,
    TURN_NS = 1000000,
    FUTEX_WAITV_CALL = 449, /* on every architecture; headers may be older than the kernel */
    FUTEX_U32 = 2
};

/* struct futex_waitv of the kernel. */
typedef struct waiter {
    uint64_t value;
    uint64_t address;
    uint32_t flags;
    uint32_t reserved;
} waiter;

static int64_t monotonic_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static struct timespec timespec_of(int64_t ns) {
    return (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
}

static bool has_entry(const nfm__place *place) {
    return atomic_load_explicit(place->head, memory_order_acquire) != place->at;
}

/* Nothing follows, and nothing came between the two looks. */
static bool has_ended(const nfm__place *place) {
    return atomic_load_explicit(place->ended, memory_order_acquire) != 0 && !has_entry(place);
}

static bool any_entry(const nfm__place *places, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (has_entry(&places[i]))
            return true;
    return false;
}

static bool all_ended(const nfm__place *places, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (!has_ended(&places[i]))
            return false;
    return true;
}

/* One sleep at one place of at most |ns| (-1: for ever). */
static void doze(const nfm__place *place, int64_t ns) {
    uint32_t seq = atomic_load_explicit(place->wake_seq, memory_order_acquire);
    atomic_store_explicit(place->asleep, seq + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    if (!has_entry(place) && !has_ended(place)) {
        struct timespec t = timespec_of(ns);
        syscall(SYS_futex, place->wake_seq, FUTEX_WAIT, seq, ns < 0 ? NULL : &t, NULL, 0);
    }
    atomic_store_explicit(place->asleep, 0, memory_order_relaxed);
}

/* The places that have not ended. */
static uint32_t find_live(const nfm__place *places, uint32_t n, const nfm__place **live) {
    uint32_t n_live = 0;
    for (uint32_t i = 0; i < n && n_live < NFM_WAIT_PLACES; i++)
        if (!has_ended(&places[i]))
            live[n_live++] = &places[i];
    return n_live;
}

/* One sleep at all of |live| until |end| (-1: for ever); false when the kernel cannot do that. */
static bool doze_at_all(const nfm__place **live, uint32_t n, int64_t end) {
    waiter waiters[NFM_WAIT_PLACES];
    struct timespec t = timespec_of(end);
    bool is_quiet = true;
    long rc = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t seq = atomic_load_explicit(live[i]->wake_seq, memory_order_acquire);
        atomic_store_explicit(live[i]->asleep, seq + 1, memory_order_relaxed);
        waiters[i] = (waiter){seq, (uintptr_t)live[i]->wake_seq, FUTEX_U32, 0};
    }
    atomic_thread_fence(memory_order_seq_cst);
    for (uint32_t i = 0; i < n; i++)
        is_quiet = is_quiet && !has_entry(live[i]) && !has_ended(live[i]);
    if (is_quiet)
        rc = syscall(FUTEX_WAITV_CALL, waiters, n, 0, end < 0 ? NULL : &t, CLOCK_MONOTONIC);
    for (uint32_t i = 0; i < n; i++)
        atomic_store_explicit(live[i]->asleep, 0, memory_order_relaxed);
    return rc >= 0 || errno == EAGAIN || errno == EINTR || errno == ETIMEDOUT;
}

/* One sleep until |end| (-1: for ever), or shorter. */
static void sleep_once(const nfm__place *places, uint32_t n, int64_t now, int64_t end) {
    const nfm__place *live[NFM_WAIT_PLACES];
    uint32_t n_live = find_live(places, n, live);
    if (n_live == 1 && n <= NFM_WAIT_PLACES) {
        doze(live[0], end < 0 ? -1 : end - now);
        return;
    }
    if (n_live == 0 || (n <= NFM_WAIT_PLACES && doze_at_all(live, n_live, end)))
        return;
    int64_t turn = end < 0 || end - now > TURN_NS ? TURN_NS : end - now;
    doze(live[(uint64_t)(now / TURN_NS) % n_live], turn);
}

static inline void relax(void) {
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

int nfm__wait(const nfm__place *places, uint32_t n, int64_t spin_ns, int64_t timeout_ns) {
    if (any_entry(places, n))
        return NFM_RING_READY;
    int64_t begin = monotonic_ns(), now = begin;
    for (;;) {
        for (int i = 0; i < SPINS_PER_LOOK && now - begin < spin_ns; i++) {
            if (any_entry(places, n))
                return NFM_RING_READY;
            relax();
        }
        if (any_entry(places, n))
            return NFM_RING_READY;
        if (all_ended(places, n))
            return NFM_RING_ENDED;
        now = monotonic_ns();
        if (timeout_ns >= 0 && now - begin >= timeout_ns)
            return NFM_RING_TIMEOUT;
        if (now - begin >= spin_ns)
            sleep_once(places, n, now, timeout_ns < 0 ? -1 : begin + timeout_ns);
    }
}
