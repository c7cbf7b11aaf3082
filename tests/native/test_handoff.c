/* SPDX-License-Identifier: Apache-2.0 */
/* Worker and receivers as threads over one memory, so that a thread sanitizer sees records being
 * written, read, released and written again, and receivers falling asleep and being woken. */
#include <pthread.h>
#include <sched.h>

#include "event/delivery.h"
#include "nfm_test.h"

enum { TOTAL = 60000, RECORDS = 256, SLOTS = 64, ENTRIES = 64, RECEIVERS = 2 };

typedef struct receiver {
    nfm_ring ring; /* its own side, over the worker's memory */
    const nfm_mem *mem;
    int64_t spin_ns;
    uint64_t seen, wrong, timeouts;
} receiver;

static void *receive(void *arg) {
    receiver *r = arg;
    const nfm_desc *desc;
    for (;;) {
        int state = nfm_ring_wait(&r->ring, r->spin_ns, INT64_C(20000000000));
        r->timeouts += state == NFM_RING_TIMEOUT;
        if (state != NFM_RING_READY)
            return NULL;
        uint32_t n = nfm_ring_peek(&r->ring, &desc, 48);
        for (uint32_t i = 0; i < n; i++) {
            const nfm_record *record = &r->mem->records[desc[i].record];
            uint32_t stamp;
            memcpy(&stamp, nfm_slot_ptr(r->mem, record->slot), 4);
            r->wrong += record->packet != r->seen || stamp != r->seen;
            r->seen++;
        }
        nfm_ring_advance(&r->ring, n);
    }
}

typedef struct worker {
    nfm_worker_config config;
    nfm_pool pool;
    nfm_mem mem;
    nfm_delivery delivery;
    nfm_ring ring[RECEIVERS];
    nfm_ring *rings[RECEIVERS];
    nfm_receiver receivers[RECEIVERS];
    nfm_subset set;
    void *memory; /* of the first ring */
} worker;

/* The first lies in memory of the process, and its worker fences; the second is an object, where
 * the receiver fences for both as far as the kernel lets it. */
static void open_ring(worker *w, uint32_t i) {
    nfm_object_info info;
    nfm_error err;
    if (i > 0) {
        CHECK_EQ(nfm_object_create("ring", nfm_ring_object_size(ENTRIES), &info, &err), NFM_OK);
        CHECK_EQ(nfm_ring_adopt(&w->ring[i], info.fd, false, &err), NFM_OK);
        close(info.fd);
        return;
    }
    size_t size = (nfm_ring_shared_size(ENTRIES) + 63) / 64 * 64;
    w->memory = aligned_alloc(64, size);
    memset(w->memory, 0, size);
    CHECK_EQ(nfm_ring_init(&w->ring[i], w->memory, ENTRIES, false), NFM_OK);
    w->ring[i].is_shared = true;
}

static void begin(worker *w, receiver *r) {
    memset(w, 0, sizeof(*w));
    w->config.n_records = RECORDS;
    uint8_t *packets = calloc(SLOTS, NFM_SLOT_SMALL);
    w->mem = (nfm_mem){.packets = packets,
                       .records = calloc(RECORDS, sizeof(nfm_record)),
                       .n_small = SLOTS,
                       .n_slots = SLOTS,
                       .n_records = RECORDS};
    CHECK_EQ(nfm_pool_init(&w->pool, packets, SLOTS, 0), NFM_OK);
    CHECK_EQ(nfm_delivery_init(&w->delivery, &w->config, &w->pool, &w->mem), NFM_OK);
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        open_ring(w, i);
        w->rings[i] = &w->ring[i];
        w->receivers[i] = (nfm_receiver){.ring = &w->ring[i], .events = 1};
        r[i] = (receiver){.mem = &w->mem, .spin_ns = 0};
        r[i].ring.shared = w->ring[i].shared;
        r[i].ring.desc = w->ring[i].desc;
        r[i].ring.mask = w->ring[i].mask;
    }
    w->set.receivers = w->receivers;
    w->set.n = RECEIVERS;
    w->delivery.rings = w->rings;
    w->delivery.n_rings = RECEIVERS;
}

static void work(worker *w) {
    uint32_t next = 0;
    for (uint32_t burst = 0; next < TOTAL; burst++) {
        uint32_t n = 1 + burst * 7 % NFM_BURST;
        for (; n > 0 && next < TOTAL && w->pool.n_free_small > 0; n--, next++) {
            uint32_t slot = nfm_pool_get(&w->pool, 64);
            memcpy(nfm_pool_addr(&w->pool, slot), &next, 4);
            nfm_record record = {.packet = next, .slot = slot, .events = 1};
            nfm_deliver(&w->delivery, &w->set, &record, NULL);
            nfm_pool_put(&w->pool, slot);
        }
        nfm_delivery_publish(&w->delivery);
        nfm_delivery_wake(&w->delivery, burst % 8 == 0);
        nfm_delivery_collect(&w->delivery);
        nfm_delivery_retire(&w->delivery);
        if (burst % 64 == 0)
            usleep(100); /* so that receivers run dry */
        else if (w->pool.n_free_small == 0)
            sched_yield();
    }
    while (!nfm_delivery_is_idle(&w->delivery)) {
        nfm_delivery_publish(&w->delivery);
        nfm_delivery_wake(&w->delivery, true);
        nfm_delivery_collect(&w->delivery);
        nfm_delivery_retire(&w->delivery);
        sched_yield();
    }
}

static void test_threads_hand_over_records_and_get_them_back(void) {
    static worker w;
    static receiver r[RECEIVERS];
    pthread_t threads[RECEIVERS];
    begin(&w, r);
    for (int i = 0; i < RECEIVERS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, receive, &r[i]), 0);
    work(&w);
    for (int i = 0; i < RECEIVERS; i++)
        nfm_ring_end(&w.ring[i]);
    for (int i = 0; i < RECEIVERS; i++) {
        pthread_join(threads[i], NULL);
        CHECK_EQ(r[i].seen, TOTAL);
        CHECK_EQ(r[i].wrong + r[i].timeouts, 0);
        printf("# receiver %d was woken %" PRIu64 " times\n", i, w.ring[i].wakeups);
    }
    CHECK(w.ring[0].wakeups > 0);
    CHECK_EQ(w.delivery.n_free, RECORDS);
    CHECK_EQ(w.pool.n_free_small, SLOTS);
    for (int i = 0; i < RECEIVERS; i++) {
        nfm_ring_fini(&w.ring[i]);
    }
    free(w.memory);
    nfm_delivery_fini(&w.delivery);
    nfm_pool_fini(&w.pool);
    free((void *)(uintptr_t)w.mem.packets);
    free((void *)(uintptr_t)w.mem.records);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {T(test_threads_hand_over_records_and_get_them_back)};
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
