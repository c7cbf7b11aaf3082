/* SPDX-License-Identifier: Apache-2.0 */
/* A log between threads, so that a thread sanitizer sees both sides. */
#include <pthread.h>

#include "log_rig.h"
#include "nfm_test.h"

enum { EVENTS = 20000 };

typedef struct seat { /* a reader in its thread */
    nfm_log_reader reader;
    nfm__log_cursor cursor;
    uint32_t most, pause_every;
    uint64_t torn, unordered;
} seat;

typedef struct stage {
    void *memory;
    uint64_t size;
    nfm_log log;
    log_rig rig;
    seat seats[3];
} stage;

static void *read_on(void *arg) {
    seat *s = arg;
    uint32_t next = 0, turns = 0;
    while (nfm_log_wait(&s->reader, 2000, -1) == NFM_RING_READY) {
        const nfm_batch *batch = nfm_log_read(&s->reader, s->most);
        for (uint32_t i = 0; i < batch->n; i++) {
            uint32_t n = rig_event(batch, i);
            s->torn += n == UINT32_MAX;
            s->unordered += n < next;
            next = n + 1;
        }
        nfm_log_advance(&s->reader);
        if (s->pause_every > 0 && ++turns % s->pause_every == 0)
            usleep(200);
    }
    return NULL;
}

static void *lie(void *arg) {
    nfm__log_cursor *cursor = arg;
    for (uint64_t i = 0; i < 2000; i++) {
        atomic_store(&cursor->position, i * UINT64_C(0x9e3779b97f4a7c15));
        atomic_store(&cursor->asleep, (uint32_t)i % 8);
        usleep(10);
    }
    return NULL;
}

static void begin(stage *s) {
    memset(s, 0, sizeof(*s));
    s->memory = rig_memory(NFM_LOG_MIN, &s->size);
    CHECK_EQ(nfm__log_init(&s->log, s->memory, s->size, INT64_MAX, NULL), NFM_OK);
    for (int i = 0; i < 3; i++) {
        seat *r = &s->seats[i];
        r->most = i == 0 ? UINT32_MAX : 7;
        r->pause_every = i == 2 ? 3 : 0;
        CHECK_EQ(nfm__log_reader_init(&r->reader, s->memory, s->size, &r->cursor, false, NULL), 0);
        CHECK_EQ(nfm__log_follow(&s->log, &r->cursor, i < 2), i); /* the third is lossy */
    }
}

static void test_readers_see_whole_events_in_order(void) {
    static stage s;
    pthread_t threads[4];
    nfm__log_cursor liar = {0};
    begin(&s);
    CHECK_EQ(nfm__log_follow(&s.log, &liar, false), 3);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, read_on, &s.seats[i]), 0);
    CHECK_EQ(pthread_create(&threads[3], NULL, lie, &liar), 0);
    for (uint32_t n = 0; n < EVENTS; n += RIG_BATCH) {
        CHECK_EQ(nfm_log_begin(&s.log, 0, n, RIG_BATCH), NFM_OK);
        CHECK_EQ(nfm_log_write(&s.log, rig_batch(&s.rig, n, RIG_BATCH)), RIG_BATCH);
    }
    nfm_log_end(&s.log);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 3; i++) {
        const seat *r = &s.seats[i];
        CHECK_EQ(r->torn + r->unordered + r->reader.bad, 0);
        CHECK_EQ(r->reader.read + (i < 2 ? 0 : r->reader.lost), EVENTS);
        printf("# reader %d: read %" PRIu64 ", lost %" PRIu64 " in %" PRIu64 " gaps\n", i,
               r->reader.read, r->reader.lost, r->reader.gaps);
        nfm__log_reader_fini(&s.seats[i].reader);
    }
    CHECK_EQ(s.log.missed_deadlines, 0);
    free(s.memory);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {T(test_readers_see_whole_events_in_order)};
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
