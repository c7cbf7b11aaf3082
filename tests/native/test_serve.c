/* SPDX-License-Identifier: Apache-2.0 */
/* The loop of native NFs: every entry once and in order, its bounds noted, what fails by policy. */
#include "base/ring.h"
#include "nfm_test.h"

enum { ENTRIES = 1024, SECOND_NS = 1000000000 };

typedef struct rig {
    nfm_ring worker; /* its side of the ring */
    nfm_ring *nf;
    nfm_object_info object;
    nfm_record records[ENTRIES];
    nfm_mem mem;
    nfm_served_ring from;
    nfm_serve_config config;
    nfm_served out;
    uint64_t work[2];
    int64_t beat;
    uint64_t heard, noted, at; /* entries, those that the journal named, position */
    uint32_t refuses;          /* the batch with this entry; 0: none */
} rig;

static int hear(void *state, const nfm_batch *batch) {
    rig *r = state;
    CHECK_EQ(r->work[0], (uint64_t)batch->n << 32 | 7);
    CHECK_EQ(r->work[1], r->heard + r->at);
    r->noted += r->work[0] >> 32;
    for (uint32_t i = 0; i < batch->n; i++) {
        CHECK_EQ(batch->desc[i].record, r->heard % ENTRIES);
        r->heard++;
        if (batch->verdict != NULL)
            batch->verdict[i] = NFM_REJECT;
        if (r->refuses != 0 && r->heard == r->refuses)
            return NFM_E_INVAL;
    }
    return NFM_OK;
}

static void begin(rig *r, bool lossy) {
    nfm_error err = {0};
    memset(r, 0, sizeof(*r));
    CHECK_EQ(nfm_object_create("ring", nfm_ring_object_size(ENTRIES), &r->object, &err), NFM_OK);
    CHECK_EQ(nfm_ring_adopt(&r->worker, r->object.fd, lossy, &err), NFM_OK);
    r->nf = nfm_ring_attach(r->object.fd, &err);
    CHECK(r->nf != NULL);
    r->mem = (nfm_mem){.records = r->records, .n_records = ENTRIES};
    r->from = (nfm_served_ring){.ring = r->nf, .mem = &r->mem, .source = 7};
    r->config = (nfm_serve_config){.process = hear,
                                   .state = r,
                                   .rings = &r->from,
                                   .n_rings = 1,
                                   .turn_ns = SECOND_NS,
                                   .beat = &r->beat,
                                   .work = r->work};
}

static void end(rig *r) {
    nfm_ring_detach(r->nf);
    nfm_ring_fini(&r->worker);
    close(r->object.fd);
}

static void push(rig *r, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t record = (uint32_t)(r->worker.head % ENTRIES);
        r->records[record].ts_ns = (int64_t)r->worker.head;
        nfm_ring_push(&r->worker, record, NFM_NO_FLOW, 1);
    }
    nfm_ring_flush(&r->worker);
}

static int serve(rig *r) {
    return nfm_serve(&r->config, &r->out);
}

static void all_is_heard_until_the_ring_ends(void) {
    rig r;
    begin(&r, false);
    push(&r, 1000);
    CHECK_EQ(serve(&r), NFM_RING_TIMEOUT);
    CHECK_EQ(r.out.events, 1000);
    CHECK(r.out.batches >= 4); /* the worker gets the tail batch by batch */
    CHECK_EQ(r.out.now_ns, 999);
    nfm_ring_collect(&r.worker);
    CHECK_EQ(nfm_ring_used(&r.worker), 0);
    push(&r, 500); /* past the ring's end */
    nfm_ring_end(&r.worker);
    CHECK_EQ(serve(&r), NFM_RING_ENDED);
    CHECK_EQ(r.heard, 1500);
    CHECK_EQ(r.noted, 1500);
    CHECK_EQ(r.work[0], 0);
    CHECK(r.beat > 0);
    end(&r);
}

static void a_turn_ends(void) {
    rig r;
    begin(&r, false);
    push(&r, 1000);
    r.config.turn_ns = 1;
    CHECK_EQ(serve(&r), NFM_RING_READY);
    CHECK(r.heard > 0 && r.heard < 1000);
    CHECK_EQ(r.out.stopped, 0);
    end(&r);
}

static void a_refused_batch_takes_the_policy_and_stops(void) {
    for (uint8_t open = 0; open < 2; open++) {
        rig r;
        begin(&r, false);
        r.config.in_line = 1;
        r.config.fail_open = open;
        r.refuses = 3;
        push(&r, 5);
        CHECK_EQ(serve(&r), NFM_RING_READY);
        CHECK_EQ(r.out.status, NFM_E_INVAL);
        CHECK_EQ(r.out.stopped, 1);
        for (uint64_t i = 0; i < 5; i++)
            CHECK_EQ(*nfm_ring_verdict_of(&r.worker, i), open ? NFM_PASS : NFM_DROP);
        r.refuses = 0;
        r.heard = 5;
        push(&r, 2);
        CHECK_EQ(serve(&r), NFM_RING_TIMEOUT);
        CHECK_EQ(*nfm_ring_verdict_of(&r.worker, 6), NFM_REJECT);
        end(&r);
    }
}

static void a_gap_is_left_to_the_caller(void) {
    rig r;
    begin(&r, true);
    push(&r, ENTRIES + 300);
    CHECK_EQ(serve(&r), NFM_RING_TIMEOUT);
    CHECK_EQ(r.heard, ENTRIES);
    nfm_ring_collect(&r.worker);
    r.heard = r.at = 0;
    push(&r, 1);
    CHECK_EQ(serve(&r), NFM_RING_READY);
    CHECK_EQ(r.out.stopped, 1);
    CHECK_EQ(nfm_ring_gap(r.nf), 300);
    nfm_ring_advance(r.nf, 1);
    CHECK_EQ(nfm_ring_gap(r.nf), 0);
    r.heard = 0;
    r.at = ENTRIES + 1;
    CHECK_EQ(nfm_ring_position(r.nf), ENTRIES + 1);
    end(&r);
}

static void several_rings_are_served_in_turn(void) {
    rig a, b;
    begin(&a, false);
    begin(&b, false);
    nfm_served_ring both[2] = {a.from, b.from};
    a.config.rings = both;
    a.config.n_rings = 2;
    push(&a, 10);
    nfm_ring_end(&b.worker);
    CHECK_EQ(serve(&a), NFM_RING_TIMEOUT);
    CHECK_EQ(a.out.events, 10);
    nfm_ring_end(&a.worker);
    CHECK_EQ(serve(&a), NFM_RING_ENDED);
    a.config.n_rings = NFM_SERVE_RINGS + 1;
    CHECK_EQ(serve(&a), NFM_E_INVAL);
    end(&a);
    end(&b);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(all_is_heard_until_the_ring_ends),           T(a_turn_ends),
        T(a_refused_batch_takes_the_policy_and_stops), T(a_gap_is_left_to_the_caller),
        T(several_rings_are_served_in_turn),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
