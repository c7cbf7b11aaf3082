/* SPDX-License-Identifier: Apache-2.0 */
#include <stdalign.h>

#include "log_rig.h"
#include "nfm_test.h"

enum { CAPACITY = NFM_LOG_MIN };

typedef struct stage { /* a log in memory of this process, with two readers */
    void *memory;
    uint64_t size;
    nfm_log log;
    nfm_log_reader reader[2];
    nfm__log_cursor cursor[2];
    log_rig rig;
    uint32_t published; /* events that the log was given */
} stage;

static stage s;

static void begin(int64_t deadline_ns) {
    memset(&s, 0, sizeof(s));
    s.memory = rig_memory(CAPACITY, &s.size);
    CHECK_EQ(nfm__log_init(&s.log, s.memory, s.size, deadline_ns, NULL), NFM_OK);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(nfm__log_reader_init(&s.reader[i], s.memory, s.size, &s.cursor[i], false, NULL),
                 NFM_OK);
}

static void end(void) {
    for (int i = 0; i < 2; i++)
        nfm__log_reader_fini(&s.reader[i]);
    free(s.memory);
}

/* Publishes one event in a run of its own. */
static void publish(void) {
    CHECK_EQ(nfm_log_begin(&s.log, 0, s.published, 1), NFM_OK);
    CHECK_EQ(nfm_log_write(&s.log, rig_batch(&s.rig, s.published, 1)), 1);
    s.published++;
}

/* Reads all there is; events must be whole and count up from *next. Returns how many. */
static uint32_t read_all(nfm_log_reader *reader, uint32_t *next) {
    uint32_t total = 0;
    const nfm_batch *batch;
    while ((batch = nfm_log_read(reader, 5))->n > 0) {
        for (uint32_t i = 0; i < batch->n; i++)
            CHECK_EQ(rig_event(batch, i), (*next)++);
        total += batch->n;
        nfm_log_advance(reader);
    }
    return total;
}

static void test_events_arrive_whole_and_in_order(void) {
    begin(0);
    uint32_t next[2] = {0, 0};
    for (int turn = 0; turn < 300; turn++) { /* the ring's end falls into many places of an entry */
        for (int i = 0; i < 7; i++)
            publish();
        CHECK_EQ(read_all(&s.reader[0], &next[0]), 7);
        if (turn % 2 == 1)
            CHECK_EQ(read_all(&s.reader[1], &next[1]), 14);
    }
    CHECK_EQ(s.reader[0].lost + s.reader[1].lost + s.reader[0].bad + s.reader[1].bad, 0);
    end();
}

static void test_what_is_read_refers_to_the_reader_alone(void) {
    begin(0);
    CHECK_EQ(nfm_log_begin(&s.log, 3, 77, 1), NFM_OK);
    const nfm_batch *batch = rig_batch(&s.rig, 1, 2);
    s.rig.records[1].slot = 5;
    s.rig.records[1].events = 1;
    CHECK_EQ(nfm_log_write(&s.log, batch), 2);
    const nfm_batch *got = nfm_log_read(&s.reader[0], 10);
    CHECK_EQ(got->n, 2);
    CHECK_EQ(rig_event(got, 1), 2);
    CHECK_EQ(got->mem->records[1].events, 0);
    CHECK_EQ(got->mem->records[1].app.ordinal, 1);
    CHECK_EQ(got->mem->records[1].app.fields, (rig_len(1) + 7) / 8 * 8);
    CHECK_EQ(nfm_log_position(&s.reader[0]), 0); /* read, not passed */
    nfm_log_advance(&s.reader[0]);
    CHECK_EQ(nfm_log_position(&s.reader[0]), s.log.head);
    end();
}

static void test_a_batch_ends_where_its_arrays_end(void) {
    enum { LARGE = 100000, BIG_LOG = 1 << 20 };
    uint64_t size;
    void *memory = rig_memory(BIG_LOG, &size);
    nfm_log_reader reader;
    nfm_log *log = &s.log;
    nfm__log_cursor cursor = {0};
    CHECK_EQ(nfm__log_init(log, memory, size, 0, NULL), NFM_OK);
    CHECK_EQ(nfm__log_reader_init(&reader, memory, size, &cursor, false, NULL), NFM_OK);
    rig_batch(&s.rig, 0, 5);
    uint8_t *fields = calloc(1, LARGE);
    s.rig.mem.fields = fields;
    s.rig.mem.fields_size = LARGE;
    for (int i = 0; i < 5; i++) {
        s.rig.records[i].app.fields = 0;
        s.rig.records[i].app.fields_len = LARGE - (uint32_t)i;
    }
    CHECK_EQ(nfm_log_begin(log, 0, 0, 1), NFM_OK);
    CHECK_EQ(nfm_log_write(log, &s.rig.batch), 5);
    CHECK_EQ(nfm_log_read(&reader, 0)->n, 0);
    for (int i = 0; i < 3; i++) /* two and two and one fit */
        CHECK_EQ(nfm_log_read(&reader, UINT32_MAX)->n, i < 2 ? 2 : 1);
    CHECK_EQ(nfm_log_read(&reader, UINT32_MAX)->n, 0);
    nfm__log_reader_fini(&reader);
    free(fields);
    free(memory);
}

static void test_lossless_reader_holds_the_writer_to_its_deadline(void) {
    begin(3000000);
    CHECK_EQ(nfm__log_follow(&s.log, &s.cursor[0], true), 0);
    while (s.log.waits == 0)
        publish();
    CHECK_EQ(s.log.missed_deadlines, 1);
    uint64_t waits = s.log.waits;
    for (int i = 0; i < 1000; i++)
        publish();
    CHECK_EQ(s.log.waits, waits); /* who is dead costs one deadline */
    uint32_t next = (uint32_t)s.published;
    CHECK_EQ(s.reader[0].lost, 0);
    const nfm_batch *batch = nfm_log_read(&s.reader[0], 1);
    CHECK_EQ(batch->n, 1);
    CHECK_EQ(rig_event(batch, 0), s.reader[0].lost); /* the gap is exactly what came before */
    CHECK_EQ(s.reader[0].gaps, 1);
    next = (uint32_t)s.reader[0].lost + 1;
    read_all(&s.reader[0], &next);
    CHECK_EQ(next, s.published);
    CHECK_EQ(s.reader[0].read + s.reader[0].lost, s.published);
    for (int i = 0; i < 1000 && s.log.waits == waits; i++)
        publish(); /* caught up: it is waited for again */
    CHECK_EQ(s.log.missed_deadlines, 2);
    end();
}

static void test_lossless_reader_that_reads_loses_nothing(void) {
    begin(INT64_MAX);
    CHECK_EQ(nfm__log_follow(&s.log, &s.cursor[0], true), 0);
    uint32_t next = 0;
    for (int i = 0; i < 3000; i++) {
        if (s.log.head + s.log.max_entry - s.cursor[0].position > CAPACITY)
            read_all(&s.reader[0], &next);
        publish();
    }
    read_all(&s.reader[0], &next);
    CHECK_EQ(next, 3000);
    CHECK_EQ(s.log.waits, 0);
    end();
}

static void test_lossy_reader_counts_its_gap(void) {
    begin(INT64_MAX);
    CHECK_EQ(nfm__log_follow(&s.log, &s.cursor[0], false), 0);
    for (int i = 0; i < 500; i++)
        publish();
    CHECK_EQ(s.log.waits, 0);
    const nfm_batch *batch = nfm_log_read(&s.reader[0], 1);
    CHECK_EQ(rig_event(batch, 0), s.reader[0].lost);
    CHECK(s.reader[0].lost > 300);
    uint32_t next = (uint32_t)s.reader[0].lost + 1;
    read_all(&s.reader[0], &next);
    CHECK_EQ(next, 500);
    CHECK_EQ(s.reader[0].gaps, 1);
    end();
}

static void test_lying_cursor_hurts_only_its_reader(void) {
    begin(0);
    CHECK_EQ(nfm__log_follow(&s.log, &s.cursor[0], true), 0);
    CHECK_EQ(nfm__log_follow(&s.log, &s.cursor[1], false), 1);
    uint32_t next = 0;
    static const uint64_t lies[] = {UINT64_MAX, 1, 3, UINT64_C(1) << 63, 0};
    for (int turn = 0; turn < 500; turn++) {
        publish();
        CHECK_EQ(read_all(&s.reader[1], &next), 1);
        atomic_store(&s.cursor[0].position, lies[turn % 5]);
        atomic_store(&s.cursor[0].asleep, (uint32_t)turn);
    }
    CHECK(s.log.bad_cursors > 0);
    CHECK_EQ(next, 500);
    end();
}

static void test_writer_begun_again_goes_on(void) {
    begin(0);
    uint32_t next = 0, n;
    uint64_t first;
    CHECK_EQ(nfm_log_pending(&s.log, 0, &first, &n), 0);
    CHECK_EQ(nfm_log_begin(&s.log, 0, 40, 8), NFM_OK);
    CHECK_EQ(nfm_log_write(&s.log, rig_batch(&s.rig, 0, 3)), 3);
    CHECK_EQ(nfm__log_init(&s.log, s.memory, s.size, 0, NULL), NFM_OK);
    CHECK_EQ(nfm_log_pending(&s.log, 0, &first, &n), 1);
    CHECK_EQ(first, 40);
    CHECK_EQ(n, 8);
    CHECK_EQ(nfm_log_write(&s.log, rig_batch(&s.rig, 0, 3)), NFM_E_STATE);
    CHECK_EQ(nfm_log_begin(&s.log, 0, first, n), NFM_OK);
    CHECK_EQ(nfm_log_write(&s.log, rig_batch(&s.rig, 0, 5)), 5);
    CHECK_EQ(s.log.repeated, 3);
    CHECK_EQ(nfm_log_begin(&s.log, 1, 40, 8), NFM_OK); /* another source counts for itself */
    CHECK_EQ(nfm_log_write(&s.log, rig_batch(&s.rig, 5, 1)), 1);
    CHECK_EQ(nfm_log_begin(&s.log, 0, 48, 1), NFM_OK);
    CHECK_EQ(nfm_log_write(&s.log, rig_batch(&s.rig, 6, 1)), 1);
    CHECK_EQ(s.log.repeated, 3);
    CHECK_EQ(read_all(&s.reader[0], &next), 7);
    CHECK_EQ(s.log.written, 7);
    end();
}

static void test_reader_begun_again_goes_on(void) {
    begin(0);
    uint32_t next = 0;
    for (int i = 0; i < 20; i++)
        publish();
    CHECK_EQ(nfm_log_read(&s.reader[0], 6)->n, 6);
    nfm_log_advance(&s.reader[0]);
    CHECK_EQ(nfm_log_read(&s.reader[0], 6)->n, 6); /* read, not passed: will be read again */
    nfm__log_reader_fini(&s.reader[0]);
    CHECK_EQ(nfm__log_reader_init(&s.reader[0], s.memory, s.size, &s.cursor[0], true, NULL), 0);
    next = 6;
    CHECK_EQ(read_all(&s.reader[0], &next), 14);
    nfm__log_reader_fini(&s.reader[1]);
    memset(&s.cursor[1], 0, sizeof(s.cursor[1]));
    CHECK_EQ(nfm__log_reader_init(&s.reader[1], s.memory, s.size, &s.cursor[1], true, NULL), 0);
    CHECK_EQ(nfm_log_read(&s.reader[1], 6)->n, 0); /* from now on */
    publish();
    next = 20;
    CHECK_EQ(read_all(&s.reader[1], &next), 1);
    CHECK_EQ(s.reader[1].lost, 0);
    end();
}

static void test_damaged_log_is_skipped_with_a_gap(void) {
    begin(0);
    uint32_t next = 0;
    for (int i = 0; i < 10; i++)
        publish();
    atomic_store(&s.log.shared->words[0], UINT64_MAX); /* its own process writes over the first */
    CHECK_EQ(nfm__log_init(&s.log, s.memory, s.size, 0, NULL), NFM_OK);
    publish();
    next = 10;
    CHECK_EQ(read_all(&s.reader[0], &next), 1);
    CHECK_EQ(s.reader[0].lost, 10);
    end();
}

static void test_other_versions_and_sizes_are_refused(void) {
    begin(0);
    nfm_error err;
    nfm_log other;
    CHECK_EQ(nfm__log_init(&other, s.memory, 4096, 0, &err), NFM_E_INVAL);
    CHECK_EQ(nfm__log_init(&other, s.memory, s.size, -1, &err), NFM_E_INVAL);
    s.log.shared->abi = 99;
    CHECK_EQ(nfm__log_init(&other, s.memory, s.size, 0, &err), NFM_E_ABI);
    CHECK(strstr(err.text, "version") != NULL);
    nfm_log_reader reader;
    nfm__log_cursor cursor = {0};
    CHECK_EQ(nfm__log_reader_init(&reader, s.memory, s.size, &cursor, false, &err), NFM_E_ABI);
    s.log.shared->abi = NFM_ABI_VERSION;
    s.log.shared->capacity = CAPACITY * 2;
    CHECK_EQ(nfm__log_init(&other, s.memory, s.size, 0, &err), NFM_E_FORMAT);
    CHECK_EQ(nfm__log_reader_init(&reader, s.memory, s.size, &cursor, false, &err), NFM_E_FORMAT);
    CHECK_EQ(nfm_log_object_size(CAPACITY / 2), 0);
    CHECK_EQ(nfm_log_object_size(CAPACITY + 8), 0);
    end();
}

static void test_bounds_are_counted(void) {
    begin(0);
    CHECK_EQ(nfm_log_begin(&s.log, NFM_LOG_SOURCES, 0, 1), NFM_E_INVAL);
    CHECK_EQ(nfm_log_begin(&s.log, 0, 0, 0), NFM_E_INVAL);
    CHECK_EQ(nfm_log_begin(&s.log, 0, 0, 1), NFM_OK);
    s.log.max_entry = 1000;
    rig_batch(&s.rig, 0, 3);
    s.rig.records[1].app.fields_len = 2000;
    CHECK_EQ(nfm_log_write(&s.log, &s.rig.batch), 2);
    CHECK_EQ(s.log.too_large, 1);
    s.rig.desc[0].record = RIG_BATCH;
    CHECK_EQ(nfm_log_write(&s.log, &s.rig.batch), NFM_E_INVAL);
    for (int i = 0; i < NFM_LOG_READERS; i++)
        CHECK_EQ(nfm__log_follow(&s.log, &s.cursor[0], false), i);
    CHECK_EQ(nfm__log_follow(&s.log, &s.cursor[0], false), NFM_E_LIMIT);
    CHECK_EQ(nfm_log_remove_reader(&s.log, 9), NFM_OK);
    CHECK_EQ(nfm_log_remove_reader(&s.log, 9), NFM_E_INVAL);
    CHECK_EQ(nfm__log_follow(&s.log, &s.cursor[0], false), 9);
    nfm_log_stats stats;
    nfm_log_stats_get(&s.log, &stats);
    CHECK_EQ(stats.readers, NFM_LOG_READERS);
    CHECK_EQ(stats.written, 2);
    end();
}

static void test_waiting_ends(void) {
    begin(0);
    CHECK_EQ(nfm_log_wait(&s.reader[0], 0, 0), NFM_RING_TIMEOUT);
    CHECK_EQ(nfm_log_wait(&s.reader[0], 1000, 100000), NFM_RING_TIMEOUT);
    publish();
    CHECK_EQ(nfm_log_wait(&s.reader[0], 0, -1), NFM_RING_READY);
    nfm_log_end(&s.log);
    CHECK_EQ(nfm_log_wait(&s.reader[0], 0, -1), NFM_RING_READY);
    uint32_t next = 0;
    read_all(&s.reader[0], &next);
    CHECK_EQ(nfm_log_wait(&s.reader[0], 0, -1), NFM_RING_ENDED);
    CHECK_EQ(s.cursor[0].asleep, 0);
    end();
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(test_events_arrive_whole_and_in_order),
        T(test_what_is_read_refers_to_the_reader_alone),
        T(test_a_batch_ends_where_its_arrays_end),
        T(test_lossless_reader_holds_the_writer_to_its_deadline),
        T(test_lossless_reader_that_reads_loses_nothing),
        T(test_lossy_reader_counts_its_gap),
        T(test_lying_cursor_hurts_only_its_reader),
        T(test_writer_begun_again_goes_on),
        T(test_reader_begun_again_goes_on),
        T(test_damaged_log_is_skipped_with_a_gap),
        T(test_other_versions_and_sizes_are_refused),
        T(test_bounds_are_counted),
        T(test_waiting_ends),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
