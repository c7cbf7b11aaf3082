/* SPDX-License-Identifier: Apache-2.0 */
/* Events raised about bytes of streams and about such events in turn, decided on stage by stage;
 * and events that find no room. That each is heard once is held in stream_sim.h for random ones. */
#include "../../stack_modules/http/http_events.h"
#include "stream_sim.h"

extern const nfm_module nfm_module_http;

enum { ALWAYS = 256, LONG = NFM_RAISE_BYTES };

static void say(stream_sim *s, uint32_t at, uint32_t len) {
    sim_send(s, &s->end[0], at, len, 24);
    sim_flush(s);
}

/* Every run raises an event, which raises one more; stage |stage| says |verdict| on what it is
 * asked. */
static stream_sim *chain(uint32_t stage, uint32_t verdict) {
    stream_sim *s = sim_quiet(400, ALWAYS);
    say(s, 0, 100);
    CHECK_EQ(s->end[1].next, 100);
    CHECK_EQ(s->heard[1], 1);
    CHECK_EQ(s->heard[2], 1);
    s->verdict_later[stage] = verdict;
    return s;
}

static void test_a_drop_at_any_stage_is_for_the_flow(void) {
    for (uint32_t stage = 1; stage < SIM_STAGES; stage++) {
        stream_sim *s = chain(stage, NFM_DROP);
        say(s, 100, 100);
        s->verdict_later[stage] = NFM_PASS;
        say(s, 100, 100);
        say(s, 100, 200);
        CHECK_EQ(s->end[1].next, 100);
        CHECK(!s->end[1].on_wire[100] && !s->end[1].on_wire[200]);
        CHECK_EQ(s->heard[1], 2);
        CHECK_EQ(s->heard[2], 2);
        sim_quiet_end(s);
    }
}

static void test_a_rejection_at_any_stage_resets_both_ends(void) {
    for (uint32_t stage = 1; stage < SIM_STAGES; stage++) {
        stream_sim *s = chain(stage, NFM_REJECT);
        say(s, 100, 100);
        CHECK(s->end[0].reset && s->end[1].reset);
        CHECK_EQ(s->end[1].next, 100);
        CHECK(!s->end[1].on_wire[100]);
        sim_quiet_end(s);
    }
}

static void test_a_frame_waits_for_all_stages(void) {
    stream_sim *s = chain(1, NFM_PASS);
    sim_send(s, &s->end[0], 100, 100, 24);
    for (uint32_t stage = 0; stage < SIM_STAGES; stage++) {
        for (int turn = 0; turn < 10; turn++)
            sim_turn(s);
        CHECK_EQ(s->end[1].next, 100);
        CHECK_EQ(stage == 0 ? sim_serve(s, 1) : sim_serve_later(s, stage, 1), 1);
    }
    sim_turn(s);
    CHECK_EQ(s->end[1].next, 200);
    sim_quiet_end(s);
}

/* Who decides on events does not answer any more, and the first one has said that it will not be
 * asked again: neither the bytes nor copies of them get past. */
static void test_what_nobody_decides_on_takes_the_policy(void) {
    for (int open = 0; open < 2; open++) {
        stream_sim *s = chain(1, NFM_PASS);
        s->later[1]->in_line->config.fail_open = (uint8_t)open;
        s->later[1]->shared->tail = 1000000; /* it lies */
        s->verdict = NFM_PASS | NFM_REST;
        for (int copy = 0; copy < 3; copy++)
            say(s, 100, 100);
        CHECK_EQ(s->end[1].next, open ? 200 : 100);
        CHECK_EQ(s->end[1].on_wire[100], open);
        CHECK_EQ(sim_counter(s, NFM_CC_INLINE_FAILED_OPEN), open);
        CHECK_EQ(sim_counter(s, NFM_CC_INLINE_FAILED_CLOSED), !open);
        CHECK_EQ(s->heard[1], 1);
        sim_quiet_end(s);
    }
}

/* ---- no room -------------------------------------------------------------------------------- */

/* Raises |n| events of |len| bytes about the first |bytes|, and lets these pass. */
static void flood(stream_sim *s, uint32_t bytes, uint32_t n, uint32_t len) {
    static const uint8_t fields[LONG];
    const nfm_desc *desc;
    sim_send(s, &s->end[0], 0, bytes, 24);
    sim_turn(s);
    CHECK_EQ(nfm_ring_peek(s->ring, &desc, 8), 1);
    (void)nfm_ring_verdicts(s->ring, 1);
    for (uint32_t i = 0; i < n; i++) {
        while (nfm_ring_raise(s->ring, 0, SIM_TYPE + 1, fields, len) == NFM_E_AGAIN)
            nfm_worker_take_commands(s->worker);
    }
    nfm_ring_advance(s->ring, 1);
    s->end[0].judged = bytes;
}

/* Passes all that the receiver of events gets; returns how many. */
static uint32_t hear(stream_sim *s, nfm_ring *ring) {
    const nfm_desc *desc;
    uint32_t n, sum = 0;
    do {
        sim_turn(s);
        n = nfm_ring_peek(ring, &desc, 64);
        if (ring->in_line != NULL)
            (void)nfm_ring_verdicts(ring, n);
        nfm_ring_advance(ring, n);
        sum += n;
    } while (n > 0);
    sim_turn(s);
    return sum;
}

/* More than memory has room for: each event is heard, or what its receiver's policy says holds. */
static void overflow(bool open, uint32_t n, uint32_t len) {
    stream_sim *s = sim_quiet(100, 1);
    enum nfm_core_counter failed = open ? NFM_CC_INLINE_FAILED_OPEN : NFM_CC_INLINE_FAILED_CLOSED;
    s->later[1]->in_line->config.fail_open = open;
    flood(s, 100, n, len);
    uint32_t heard = hear(s, s->later[1]);
    CHECK(heard > 0 && heard < n);
    CHECK_EQ(heard + sim_counter(s, failed), n);
    CHECK(len < LONG || sim_counter(s, NFM_CC_INLINE_NO_ROOM) == n - heard);
    CHECK_EQ(sim_counter(s, NFM_CC_RAISE_LIMIT), len < LONG ? 0 : n - heard);
    CHECK_EQ(sim_counter(s, NFM_CC_INLINE_BAD_RAISE), 0);
    CHECK_EQ(s->end[1].next, open ? 100 : 0);
    say(s, 0, 100); /* again */
    CHECK_EQ(s->end[1].next, open ? 100 : 0);
    sim_quiet_end(s);
}

static void test_events_without_room_for_their_fields_are_not_overlooked(void) {
    for (int open = 0; open < 2; open++)
        overflow(open, 20, LONG);
}

static void test_events_without_a_record_are_not_overlooked(void) {
    for (int open = 0; open < 2; open++)
        overflow(open, 5000, 8);
}

/* A receiver that decides on requests, as the http module finds them. */
static void add_http(stream_sim *s) {
    static const uint32_t types[NFM__HTTP_EV_COUNT] = {20, 21, 22, 23, 24, 25, 26};
    nfm_error err = {0};
    const nfm_inline_config how = {0};
    int module = nfm_worker_add_module(s->worker, &nfm_module_http, NULL, types, &err);
    CHECK(module >= 0);
    s->later[0] = nfm_worker_add_ring(s->worker, 64, &err);
    CHECK_EQ(nfm_worker_make_inline(s->worker, s->later[0], &how), NFM_OK);
    const nfm_subscription sub = {.ring = s->later[0],
                                  .type_first = types[NFM__HTTP_EV_REQUEST],
                                  .type_last = types[NFM__HTTP_EV_REQUEST],
                                  .modules = UINT64_C(1) << module,
                                  .level = NFM_LEVEL_SPLIT,
                                  .in_line = 1,
                                  .stage = 1};
    CHECK(nfm_worker_subscribe(s->worker, &sub) >= 0);
}

static void test_a_request_without_room_does_not_pass_unjudged(void) {
    enum { FIRST = 10, ALL = 27 };
    for (int mode = 0; mode < 3; mode++) { /* room; none, closed; none, open */
        stream_sim *s = sim_quiet_with(ALL, 1, add_http);
        s->later[0]->in_line->config.fail_open = mode == 2;
        memcpy(s->end[0].stream, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", ALL);
        flood(s, FIRST, mode == 0 ? 1 : 8, mode == 0 ? 8 : LONG);
        sim_send(s, &s->end[0], FIRST, ALL - FIRST, 24);
        sim_turn(s);
        sim_serve(s, 8);
        CHECK_EQ(hear(s, s->later[0]), mode == 0);
        CHECK_EQ(hear(s, s->later[1]), mode == 0 ? 1 : 8);
        CHECK_EQ(s->end[1].next, mode == 1 ? FIRST : ALL);
        say(s, FIRST, ALL - FIRST); /* again */
        CHECK_EQ(s->end[1].next, mode == 1 ? FIRST : ALL);
        CHECK_EQ(s->end[1].on_wire[FIRST], mode != 1);
        CHECK_EQ(sim_counter(s, NFM_CC_RAISE_LIMIT), mode != 0);
        CHECK_EQ(sim_counter(s, NFM_CC_INLINE_NO_ROOM), mode != 0);
        s->later[0] = NULL;
        sim_quiet_end(s);
    }
}

static void test_observers_miss_what_has_no_room_and_it_is_counted(void) {
    stream_sim *s = sim_quiet(100, 0);
    nfm_error err = {0};
    const nfm_raisable what = {.type = SIM_TYPE + 1, .n_cells = 1};
    nfm_ring *beside = nfm_worker_add_ring(s->worker, 256, &err);
    nfm_subscription sub = {.ring = beside, .type_first = what.type, .type_last = what.type};
    CHECK(nfm_worker_subscribe(s->worker, &sub) >= 0);
    CHECK_EQ(nfm_worker_allow_raise(s->worker, s->ring, &what), NFM_OK);
    flood(s, 100, 20, LONG);
    uint32_t heard = hear(s, beside);
    CHECK(heard > 0);
    CHECK_EQ(heard + sim_counter(s, NFM_CC_RAISE_LIMIT), 20);
    CHECK_EQ(sim_counter(s, NFM_CC_INLINE_NO_ROOM), 0);
    CHECK_EQ(s->end[1].next, 100); /* nobody wanted to decide */
    sim_quiet_end(s);
}

static const nfm_test tests[] = {
    T(test_a_drop_at_any_stage_is_for_the_flow),
    T(test_a_rejection_at_any_stage_resets_both_ends),
    T(test_a_frame_waits_for_all_stages),
    T(test_what_nobody_decides_on_takes_the_policy),
    T(test_events_without_room_for_their_fields_are_not_overlooked),
    T(test_events_without_a_record_are_not_overlooked),
    T(test_a_request_without_room_does_not_pass_unjudged),
    T(test_observers_miss_what_has_no_room_and_it_is_counted),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
