/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>

#include "base/ring.h"
#include "nfm_test.h"

static nfm_ring ring;
static void *memory;

static void begin(uint32_t entries, bool lossy) {
    memory = aligned_alloc(64, (nfm_ring_shared_size(entries) + 63) / 64 * 64);
    memset(memory, 0, nfm_ring_shared_size(entries));
    CHECK_EQ(nfm_ring_init(&ring, memory, entries, lossy), NFM_OK);
}

static void end(void) {
    nfm_ring_fini(&ring);
    free(memory);
}

/* Takes all that is visible, checking that records count up from *next. */
static void take(uint32_t *next) {
    const nfm_desc *desc;
    uint32_t n;
    while ((n = nfm_ring_peek(&ring, &desc, 7)) > 0) {
        for (uint32_t i = 0; i < n; i++)
            CHECK_EQ(desc[i].record, (*next)++);
        nfm_ring_advance(&ring, n);
    }
}

static void test_entries_become_visible_when_published(void) {
    begin(64, false);
    const nfm_desc *desc;
    CHECK(nfm_ring_push(&ring, 1, 2, 3));
    CHECK_EQ(nfm_ring_peek(&ring, &desc, 10), 0);
    nfm_ring_publish(&ring);
    CHECK_EQ(nfm_ring_peek(&ring, &desc, 10), 1);
    CHECK_EQ(desc->what, 3);
    end();
}

static void test_blocking_ring_spills_and_loses_nothing(void) {
    begin(64, false);
    uint32_t next = 0;
    for (uint32_t i = 0; i < 1000; i++)
        CHECK(nfm_ring_push(&ring, i, 0, 0));
    for (int turn = 0; turn < 40 && next < 1000; turn++) {
        nfm_ring_collect(&ring);
        nfm_ring_flush(&ring);
        take(&next);
        if (turn == 3) /* new entries queue behind the spilled ones */
            for (uint32_t i = 1000; i < 1010; i++)
                CHECK(nfm_ring_push(&ring, i, 0, 0));
    }
    CHECK_EQ(next, 1010);
    CHECK_EQ(ring.dropped, 0);
    end();
}

static void test_lossy_ring_counts_what_it_drops(void) {
    begin(64, true);
    for (uint32_t i = 0; i < 100; i++)
        CHECK_EQ(nfm_ring_push(&ring, i, 0, 0), i < 64);
    CHECK_EQ(ring.dropped, 36);
    nfm_ring_publish(&ring);
    uint32_t next = 0;
    take(&next);
    CHECK_EQ(next, 64);
    end();
}

static void test_honest_tail_is_taken(void) {
    begin(64, false);
    for (uint32_t i = 0; i < 10; i++)
        nfm_ring_push(&ring, i, 0, 0);
    nfm_ring_publish(&ring);
    atomic_store(&ring.shared->tail, 5);
    nfm_ring_collect(&ring);
    CHECK_EQ(ring.tail_seen, 5);
    CHECK_EQ(nfm_ring_used(&ring), 5);
    end();
}

/* A tail outside (seen, published] is a lie: the ring gets nothing more and holds nothing back. */
static void test_lying_tail_is_quarantined(void) {
    static const uint64_t lies[] = {11, 4, UINT64_MAX};
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        begin(64, false);
        for (uint32_t k = 0; k < 10; k++)
            nfm_ring_push(&ring, k, 0, 0);
        nfm_ring_publish(&ring);
        atomic_store(&ring.shared->tail, 5);
        nfm_ring_collect(&ring);
        atomic_store(&ring.shared->tail, lies[i]);
        nfm_ring_collect(&ring);
        CHECK_EQ(ring.bad_tails, 1);
        CHECK(ring.quarantined);
        CHECK_EQ(nfm_ring_used(&ring), 0);
        CHECK(!nfm_ring_push(&ring, 99, 0, 0));
        CHECK_EQ(ring.dropped, 1);
        end();
    }
}

enum { TOTAL = 200000 };

static void *consumer(void *arg) {
    uint32_t *next = arg;
    while (*next < TOTAL)
        take(next);
    return NULL;
}

static void test_two_threads_pass_everything_in_order(void) {
    begin(256, false);
    uint32_t next = 0;
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, consumer, &next), 0);
    for (uint32_t i = 0; i < TOTAL;) {
        nfm_ring_collect(&ring);
        nfm_ring_flush(&ring);
        for (int burst = 0; burst < 32 && i < TOTAL && nfm_ring_used(&ring) < 1000; burst++)
            CHECK(nfm_ring_push(&ring, i++, 0, 0));
    }
    while (nfm_ring_used(&ring) > 0) {
        nfm_ring_collect(&ring);
        nfm_ring_flush(&ring);
    }
    pthread_join(thread, NULL);
    CHECK_EQ(next, TOTAL);
    end();
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(test_entries_become_visible_when_published),
        T(test_blocking_ring_spills_and_loses_nothing),
        T(test_lossy_ring_counts_what_it_drops),
        T(test_honest_tail_is_taken),
        T(test_lying_tail_is_quarantined),
        T(test_two_threads_pass_everything_in_order),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
