/* SPDX-License-Identifier: Apache-2.0 */
/* A worker whose port does not end: it stays for its turn, sleeps, keeps time, and waits for nobody
 * who does not answer. */
#include <time.h>

#include "worker_rig.h"

enum { TURN_NS = 10000000, SECOND_NS = 1000000000, LATE_NS = 20000000 };

typedef struct rig {
    nfm_port *in, *out;
    nfm_worker *w;
    nfm_ring *ring;
} rig;

static int64_t clock_of(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * SECOND_NS + t.tv_nsec;
}

/* A worker between a port that replays |n| frames, |gap_ns| apart, and one that counts. */
static rig make_rig(uint32_t n, int64_t gap_ns, double speed) {
    nfm_error err = {0};
    nfm_port *frames = nfm_port_mem_new(1, &err);
    for (uint32_t i = 0; i < n; i++) {
        uint8_t frame[FRAME_ROOM];
        uint32_t len = numbered_frame(frame, 0, i);
        CHECK_EQ(nfm_port_mem_push(frames, frame, len, len, (int64_t)i * gap_ns), NFM_OK);
    }
    const nfm_replay_config pace = {.speed = speed, .live = 1};
    rig r = {.in = nfm_port_replay_new(frames, &pace, &err), .out = nfm_port_mem_new(1, &err)};
    nfm_worker_config config = small_config();
    for (int i = 0; i < 8; i++)
        config.idle_s[i] = 1;
    r.w = worker_between(&config, r.in, r.out);
    const nfm_live_config live = {.turn_ns = TURN_NS, .spin_ns = 100000, .is_realtime = 1};
    CHECK_EQ(nfm_worker_live(r.w, &live), NFM_OK);
    return r;
}

static void add_judge(rig *r, bool open) {
    const nfm_inline_config config = {.deadline_ns = LATE_NS, .fail_open = open};
    r->ring = add_inline(r->w, config,
                         (nfm_subscription){.events = NFM_BIT(NFM_EV_PACKET_UDP), .type_first = 1});
}

static void begin(rig *r) {
    nfm_error err = {0};
    CHECK_EQ(nfm_worker_start(r->w, &err), NFM_OK);
}

static void end_rig(rig *r) {
    nfm_worker_release_ports(r->w);
    nfm_worker_free(r->w);
    nfm_port_free(r->in);
    nfm_port_free(r->out);
}

static uint64_t sent(const rig *r) {
    nfm_port_stats stats;
    nfm_port_stats_get(r->out, &stats);
    return stats.tx_packets;
}

static nfm_worker_stats stats_of(const rig *r) {
    nfm_worker_stats stats;
    nfm_worker_stats_get(r->w, &stats);
    return stats;
}

static void a_quiet_worker_stays_for_its_turn_and_sleeps(void) {
    rig r = make_rig(2, 100 * (int64_t)SECOND_NS, 1);
    begin(&r);
    CHECK_EQ(nfm_worker_run(r.w, 64), NFM_RUN_BUDGET);
    CHECK_EQ(sent(&r), 1);
    int64_t wall = clock_of(CLOCK_MONOTONIC), cpu = clock_of(CLOCK_THREAD_CPUTIME_ID);
    for (int i = 0; i < 20; i++)
        CHECK_EQ(nfm_worker_run(r.w, 64), NFM_RUN_BUDGET);
    wall = clock_of(CLOCK_MONOTONIC) - wall;
    cpu = clock_of(CLOCK_THREAD_CPUTIME_ID) - cpu;
    CHECK(wall >= 20 * (int64_t)TURN_NS);
    CHECK(cpu < wall / 4);
    end_rig(&r);
}

static void flows_end_while_no_packet_comes(void) {
    rig r = make_rig(2, 100 * (int64_t)SECOND_NS, 1);
    begin(&r);
    int64_t begun = clock_of(CLOCK_MONOTONIC);
    while (stats_of(&r).flows_closed == 0 && clock_of(CLOCK_MONOTONIC) - begun < 60LL * SECOND_NS)
        CHECK_EQ(nfm_worker_run(r.w, 64), NFM_RUN_BUDGET);
    CHECK_EQ(stats_of(&r).packets, 1);
    CHECK_EQ(stats_of(&r).flows_closed, 1);
    CHECK(clock_of(CLOCK_MONOTONIC) - begun >= SECOND_NS);
    end_rig(&r);
}

static void a_verdict_is_seen_on_a_quiet_link(void) {
    rig r = make_rig(2, 100 * (int64_t)SECOND_NS, 1);
    const nfm_desc *desc;
    add_judge(&r, false);
    r.ring->in_line->config.deadline_ns = 0;
    begin(&r);
    CHECK(nfm_worker_run(r.w, 64) > 0);
    CHECK_EQ(sent(&r), 0);
    CHECK_EQ(nfm_ring_peek(r.ring, &desc, 8), 1);
    CHECK_EQ(nfm_ring_verdicts(r.ring, 1)[0], NFM_PASS);
    nfm_ring_advance(r.ring, 1);
    CHECK(nfm_worker_run(r.w, 64) > 0);
    CHECK_EQ(sent(&r), 1);
    end_rig(&r);
}

/* Nobody reads the ring, which is much smaller than what comes, until all is over. */
static void forward_past_the_dead(bool open) {
    enum { FRAMES = 3000 };
    rig r = make_rig(FRAMES, 1000, 0);
    add_judge(&r, open);
    begin(&r);
    int reason = NFM_RUN_BUDGET;
    int64_t begun = clock_of(CLOCK_MONOTONIC);
    const uint64_t *failed =
        &r.w->core_counters[open ? NFM_CC_INLINE_FAILED_OPEN : NFM_CC_INLINE_FAILED_CLOSED];
    while (*failed < FRAMES && clock_of(CLOCK_MONOTONIC) - begun < 60LL * SECOND_NS)
        reason = nfm_worker_run(r.w, 64);
    const nfm_desc *desc;
    for (int turn = 0; turn < 100 && reason != NFM_RUN_EOF; turn++) {
        nfm_ring_advance(r.ring, nfm_ring_peek(r.ring, &desc, 256));
        reason = nfm_worker_run(r.w, 64);
    }
    CHECK_EQ(reason, NFM_RUN_EOF);
    CHECK_EQ(sent(&r), open ? FRAMES : 0);
    CHECK_EQ(*failed, FRAMES);
    CHECK_EQ(r.w->core_counters[NFM_CC_INLINE_LATE], 1);
    CHECK_EQ(r.w->way->n_transits, 0);
    end_rig(&r);
}

static void packets_pass_a_judge_that_is_dead_when_it_fails_open(void) {
    forward_past_the_dead(true);
}

static void packets_are_dropped_before_a_judge_that_is_dead_when_it_fails_closed(void) {
    forward_past_the_dead(false);
}

static void times_that_make_no_sense_are_refused(void) {
    rig r = make_rig(1, 0, 0);
    const nfm_live_config bad[] = {{.turn_ns = -1}, {.turn_ns = 2000000000}, {.spin_ns = -1}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        CHECK_EQ(nfm_worker_live(r.w, &bad[i]), NFM_E_INVAL);
    end_rig(&r);
}

static const nfm_test tests[] = {
    T(a_quiet_worker_stays_for_its_turn_and_sleeps),
    T(flows_end_while_no_packet_comes),
    T(a_verdict_is_seen_on_a_quiet_link),
    T(packets_pass_a_judge_that_is_dead_when_it_fails_open),
    T(packets_are_dropped_before_a_judge_that_is_dead_when_it_fails_closed),
    T(times_that_make_no_sense_are_refused),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
