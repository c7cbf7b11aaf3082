/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting at several places at once: every one of them wakes, and nobody stays marked asleep. */
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/ring.h"
#include "event/log.h"
#include "nfm_test.h"

enum { MANY = NFM_WAIT_PLACES + 2, FOR_EVER = -1 };

typedef struct writer { /* the writer's words of one place, and its sleeper's */
    _Atomic uint64_t head;
    _Atomic uint32_t wake_seq, ended, asleep;
} writer;

typedef struct stage {
    writer writers[MANY];
    nfm__place places[MANY];
    uint32_t n;
    writer *next; /* whose entry comes once the sleeper sleeps there */
    bool ends;    /* it ends instead */
} stage;

static void begin(stage *s, uint32_t n) {
    memset(s, 0, sizeof(*s));
    s->n = n;
    for (uint32_t i = 0; i < n; i++) {
        writer *w = &s->writers[i];
        s->places[i] = (nfm__place){&w->head, &w->wake_seq, &w->ended, &w->asleep, 0};
    }
}

static void *write_when_it_sleeps(void *state) {
    stage *s = state;
    uint32_t seq = atomic_load(&s->next->wake_seq);
    while (atomic_load(&s->next->asleep) != seq + 1)
        sched_yield();
    if (s->ends)
        atomic_store(&s->next->ended, 1);
    else
        atomic_fetch_add(&s->next->head, 1);
    atomic_store(&s->next->wake_seq, seq + 1);
    syscall(SYS_futex, &s->next->wake_seq, FUTEX_WAKE, 1, NULL, NULL, 0);
    return NULL;
}

/* Sleeps until place |i| has an entry, or ends. */
static int wait_for(stage *s, uint32_t i, bool ends) {
    pthread_t thread;
    s->next = &s->writers[i];
    s->ends = ends;
    CHECK_EQ(pthread_create(&thread, NULL, write_when_it_sleeps, s), 0);
    int state = nfm__wait(s->places, s->n, 0, FOR_EVER);
    pthread_join(thread, NULL);
    for (uint32_t k = 0; k < s->n; k++)
        CHECK_EQ(s->writers[k].asleep, 0);
    return state;
}

static void test_each_of_several_places_wakes(void) {
    stage s;
    begin(&s, 5);
    for (uint32_t i = 0; i < s.n; i++) {
        CHECK_EQ(wait_for(&s, i, false), NFM_RING_READY);
        s.places[i].at++;
        CHECK_EQ(nfm__wait(s.places, s.n, 1000, 100000), NFM_RING_TIMEOUT);
    }
}

static void test_places_that_have_ended_are_not_waited_at(void) {
    stage s;
    begin(&s, 3);
    s.writers[0].ended = 1;
    CHECK_EQ(nfm__wait(s.places, s.n, 0, 100000), NFM_RING_TIMEOUT);
    CHECK_EQ(wait_for(&s, 2, false), NFM_RING_READY);
    s.places[2].at++;
    s.writers[1].ended = 1;
    CHECK_EQ(wait_for(&s, 2, true), NFM_RING_ENDED);
    s.writers[1].head++;
    CHECK_EQ(nfm__wait(s.places, s.n, 0, FOR_EVER), NFM_RING_READY);
    CHECK_EQ(nfm__wait(s.places, 0, 0, FOR_EVER), NFM_RING_ENDED);
}

static void test_more_places_than_the_kernel_takes_are_waited_at_in_turns(void) {
    stage *s = malloc(sizeof(*s));
    begin(s, MANY);
    CHECK_EQ(nfm__wait(s->places, s->n, 0, 3000000), NFM_RING_TIMEOUT);
    CHECK_EQ(wait_for(s, 7, false), NFM_RING_READY);
    free(s);
}

static void test_rings_and_logs_are_waited_at_together(void) {
    enum { LOG_BYTES = 65536 };
    nfm_ring ring;
    nfm_log log;
    nfm_log_reader reader;
    nfm__log_cursor cursor = {0};
    nfm_error err;
    size_t size = nfm_ring_shared_size(64);
    void *memory = aligned_alloc(64, size);
    uint64_t log_size = nfm_log_object_size(LOG_BYTES);
    void *log_memory = aligned_alloc(64, (log_size + 63) / 64 * 64);
    memset(memory, 0, size);
    memset(log_memory, 0, log_size);
    CHECK_EQ(nfm_ring_init(&ring, memory, 64, false), NFM_OK);
    CHECK_EQ(nfm__log_init(&log, log_memory, log_size, 0, &err), NFM_OK);
    CHECK_EQ(nfm__log_reader_init(&reader, log_memory, log_size, &cursor, false, &err), NFM_OK);
    nfm_ring *rings[1] = {&ring};
    nfm_log_reader *logs[1] = {&reader};
    nfm_wait_set set = {.rings = rings, .logs = logs, .n_rings = 1, .n_logs = 1};
    CHECK_EQ(nfm_wait_any(&set, 0, 1000), NFM_RING_TIMEOUT);
    nfm_ring_push(&ring, 1, 2, 3);
    nfm_ring_publish(&ring);
    CHECK_EQ(nfm_wait_any(&set, 0, FOR_EVER), NFM_RING_READY);
    nfm_ring_advance(&ring, 1);
    CHECK_EQ(nfm_wait_any(&set, 0, 1000), NFM_RING_TIMEOUT);
    nfm_ring_end(&ring);
    CHECK_EQ(nfm_wait_any(&set, 0, 1000), NFM_RING_TIMEOUT);
    nfm_log_end(&log);
    CHECK_EQ(nfm_wait_any(&set, 0, FOR_EVER), NFM_RING_ENDED);
    nfm__log_reader_fini(&reader);
    nfm_ring_fini(&ring);
    free(memory);
    free(log_memory);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(test_each_of_several_places_wakes),
        T(test_places_that_have_ended_are_not_waited_at),
        T(test_more_places_than_the_kernel_takes_are_waited_at_in_turns),
        T(test_rings_and_logs_are_waited_at_together),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
