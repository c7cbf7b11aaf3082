/* SPDX-License-Identifier: Apache-2.0 */
/* Events that inline receivers raise with their verdicts: who gets them, who waits, what is
 * refused. */
#include "worker_rig.h"

enum { FLOWS = 4, PER_FLOW = 25, FRAMES = FLOWS * PER_FLOW, TYPE = 7, OTHER = 9, CELLS = 2 };

typedef struct rig {
    nfm_port *in, *out;
    nfm_worker *w;
    nfm_ring *first, *later, *observer;
} rig;

/* A field record: a number, and text behind the cells. */
typedef struct fields {
    uint64_t number;
    uint32_t off, len;
    char text[5];
} fields;

static fields record_of(uint64_t number) {
    return (fields){.number = number, .off = 16, .len = 5, .text = "found"};
}

static nfm_ring *add_judge(rig *r, uint8_t stage, uint64_t events, uint32_t type) {
    return add_inline(r->w, (nfm_inline_config){0},
                      (nfm_subscription){.events = events,
                                         .type_first = type == 0 ? 1 : type,
                                         .type_last = type,
                                         .stage = stage});
}

/* One receiver of all packets, which may raise; one of what it raises, a stage later; one beside.
 */
static rig make_rig(void) {
    nfm_error err = {0};
    rig r = {.in = nfm_port_mem_new(1, &err), .out = keeping_port()};
    const nfm_worker_config config = small_config();
    r.w = worker_between(&config, r.in, r.out);
    r.first = add_judge(&r, 3, NFM_BIT(NFM_EV_PACKET_UDP), 0);
    r.later = add_judge(&r, 4, 0, TYPE);
    const nfm_raisable what = {.type = TYPE, .n_cells = CELLS, .bytes_cells = 2};
    CHECK_EQ(nfm_worker_allow_raise(r.w, r.first, &what), NFM_OK);
    r.observer = nfm_worker_add_ring(r.w, 256, &err);
    nfm_subscription beside = {.ring = r.observer, .type_first = TYPE, .type_last = TYPE};
    CHECK(nfm_worker_subscribe(r.w, &beside) >= 0);
    push_numbered(r.in, FLOWS, PER_FLOW);
    CHECK_EQ(nfm_worker_start(r.w, &err), NFM_OK);
    return r;
}

static uint64_t counter(const rig *r, int which) {
    return r->w->core_counters[which];
}

static uint32_t sent(const rig *r) {
    uint64_t at = 0;
    uint32_t n = 0;
    while (nfm_port_mem_sent(r->out, &at).data != NULL)
        n++;
    return n;
}

static void end_rig(rig *r) {
    check_idle(r->w);
    CHECK_EQ(r->w->delivery.fields_used, 0);
    nfm_worker_free(r->w);
    nfm_port_free(r->in);
    nfm_port_free(r->out);
}

static uint32_t serial_of(const rig *r, uint32_t record) {
    uint32_t words[2];
    words_of(nfm_worker_mem(r->w), record, words);
    return words[1] * FLOWS + words[0];
}

/* Passes all, and raises an event about every fifth. */
static uint32_t serve_first(rig *r) {
    const nfm_desc *desc;
    uint32_t n = nfm_ring_peek(r->first, &desc, 64), raised = 0;
    (void)nfm_ring_verdicts(r->first, n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t serial = serial_of(r, desc[i].record);
        fields f = record_of(serial);
        if (serial % 5 != 0)
            continue;
        CHECK_EQ(nfm_ring_raise(r->first, i, TYPE, (const uint8_t *)&f, 21), NFM_OK);
        raised++;
    }
    nfm_ring_advance(r->first, n);
    return raised;
}

/* Takes events, which are about the packet that they say; returns how many. */
static uint32_t serve_events(rig *r, nfm_ring *ring, uint32_t verdict) {
    const nfm_mem *mem = nfm_worker_mem(r->w);
    const nfm_desc *desc;
    uint32_t n = nfm_ring_peek(ring, &desc, 64);
    uint32_t *verdicts = ring == r->later ? nfm_ring_verdicts(ring, n) : NULL;
    for (uint32_t i = 0; i < n; i++) {
        const nfm_record *record = &mem->records[desc[i].record];
        fields f;
        CHECK_EQ(desc[i].what & 0xffffffff, TYPE);
        CHECK_EQ(record->kind, NFM_REC_APP);
        CHECK_EQ(record->app.fields_len, 21);
        memcpy(&f, mem->fields + record->app.fields, 21);
        CHECK_EQ(f.number, serial_of(r, desc[i].record));
        CHECK(memcmp(f.text, "found", 5) == 0);
        CHECK((record->flow & 0xffffffff) == desc[i].flow && desc[i].flow != NFM_NO_FLOW);
        if (verdicts != NULL)
            verdicts[i] = f.number % FLOWS == 1 ? verdict : NFM_PASS;
    }
    nfm_ring_advance(ring, n);
    return n;
}

static void test_later_stages_decide_while_the_packet_waits(void) {
    rig r = make_rig();
    uint32_t raised = 0, decided = 0, seen = 0;
    for (int turn = 0; turn < 100; turn++) { /* nobody decides on the events yet */
        CHECK(nfm_worker_run(r.w, 64) != NFM_RUN_EOF);
        raised += serve_first(&r);
        seen += serve_events(&r, r.observer, 0);
    }
    CHECK_EQ(raised, FRAMES / 5);
    CHECK_EQ(seen, raised);
    CHECK_EQ(counter(&r, NFM_CC_INLINE_RAISED), raised);
    CHECK_EQ(sent(&r), 0 + 1 + 2 + 3); /* what is in front of each flow's first event */
    while (nfm_worker_run(r.w, 64) != NFM_RUN_EOF)
        decided += serve_events(&r, r.later, NFM_PASS);
    CHECK_EQ(decided, raised);
    CHECK_EQ(sent(&r), FRAMES);
    CHECK_EQ(counter(&r, NFM_CC_INLINE_BAD_RAISE), 0);
    end_rig(&r);
}

static void test_a_drop_of_the_event_drops_its_packet(void) {
    rig r = make_rig();
    while (nfm_worker_run(r.w, 64) != NFM_RUN_EOF) {
        serve_first(&r);
        serve_events(&r, r.later, NFM_DROP);
        serve_events(&r, r.observer, 0);
    }
    nfm_view frame;
    uint64_t at = 0;
    while ((frame = nfm_port_mem_sent(r.out, &at)).data != NULL) {
        uint32_t words[2], serial;
        memcpy(words, frame.data + frame.len - 8, 8);
        serial = words[1] * FLOWS + words[0];
        CHECK(serial % 5 != 0 || serial % FLOWS != 1);
    }
    CHECK(counter(&r, NFM_CC_INLINE_DROPPED) >= FRAMES / 5 / FLOWS);
    CHECK_EQ(sent(&r) + counter(&r, NFM_CC_INLINE_DROPPED), FRAMES);
    end_rig(&r);
}

static void test_the_own_stage_is_not_asked(void) {
    rig r = make_rig();
    nfm_ring *same = add_judge(&r, 3, 0, TYPE);
    const nfm_desc *desc;
    uint32_t decided = 0, raised = 0;
    while (nfm_worker_run(r.w, 64) != NFM_RUN_EOF) {
        raised += serve_first(&r);
        decided += serve_events(&r, r.later, NFM_PASS);
        serve_events(&r, r.observer, 0);
        CHECK_EQ(nfm_ring_peek(same, &desc, 64), 0);
    }
    CHECK_EQ(decided, FRAMES / 5);
    CHECK_EQ(raised, FRAMES / 5);
    end_rig(&r);
}

static void refused(rig *r, nfm_ring *ring, uint32_t entry, uint32_t type, const fields *f,
                    uint32_t len) {
    uint64_t before = counter(r, NFM_CC_INLINE_BAD_RAISE);
    CHECK_EQ(nfm_ring_raise(ring, entry, type, (const uint8_t *)f, len), NFM_OK);
    nfm_worker_take_commands(r->w);
    CHECK_EQ(counter(r, NFM_CC_INLINE_BAD_RAISE), before + 1);
}

static void test_what_makes_no_sense_is_counted(void) {
    rig r = make_rig();
    const nfm_desc *desc;
    fields good = record_of(0), outside = good, longer = good;
    outside.off = 22;
    longer.len = UINT32_MAX;
    nfm_worker_run(r.w, 64);
    uint32_t n = nfm_ring_peek(r.first, &desc, 64);
    CHECK(n > 2);
    refused(&r, r.first, 0, OTHER, &good, 21);   /* not one of its types */
    refused(&r, r.first, 0, TYPE, &good, 15);    /* not all cells */
    refused(&r, r.first, 0, TYPE, &outside, 21); /* text behind the end */
    refused(&r, r.first, 0, TYPE, &longer, 21);
    refused(&r, r.first, 1000, TYPE, &good, 21); /* no such entry */
    refused(&r, r.observer, 0, TYPE, &good, 21); /* decides on nothing */
    CHECK_EQ(nfm_ring_raise(r.first, 0, TYPE, NULL, NFM_RAISE_BYTES + 1), NFM_E_INVAL);
    CHECK_EQ(counter(&r, NFM_CC_INLINE_RAISED), 0);
    while (nfm_worker_run(r.w, 64) != NFM_RUN_EOF) {
        serve_first(&r);
        serve_events(&r, r.later, NFM_PASS);
        serve_events(&r, r.observer, 0);
    }
    CHECK_EQ(sent(&r), FRAMES);
    end_rig(&r);
}

static void test_only_inline_receivers_may_raise(void) {
    rig r = make_rig();
    nfm_raisable what = {.type = TYPE, .n_cells = 65};
    CHECK_EQ(nfm_worker_allow_raise(r.w, r.first, &what), NFM_E_INVAL);
    what = (nfm_raisable){.type = TYPE, .n_cells = 1, .bytes_cells = 2};
    CHECK_EQ(nfm_worker_allow_raise(r.w, r.first, &what), NFM_E_INVAL);
    what = (nfm_raisable){.type = TYPE};
    CHECK_EQ(nfm_worker_allow_raise(r.w, r.observer, &what), NFM_E_INVAL);
    for (int i = 1; i < NFM_MAX_RAISABLE; i++)
        CHECK_EQ(nfm_worker_allow_raise(r.w, r.first, &what), NFM_OK);
    CHECK_EQ(nfm_worker_allow_raise(r.w, r.first, &what), NFM_E_LIMIT);
    nfm_worker_free(r.w);
    nfm_port_free(r.in);
    nfm_port_free(r.out);
}

static const nfm_test tests[] = {
    T(test_later_stages_decide_while_the_packet_waits),
    T(test_a_drop_of_the_event_drops_its_packet),
    T(test_the_own_stage_is_not_asked),
    T(test_what_makes_no_sense_is_counted),
    T(test_only_inline_receivers_may_raise),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
