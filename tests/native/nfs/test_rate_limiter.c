/* SPDX-License-Identifier: Apache-2.0 */
/* Token buckets on hand-made packets: rates, owners, several limits, eviction, and an oracle. */
#include "nfm/nfm.h"
#include "nfm_test.h"

#include "rate_limiter.cdef"

enum { FLOWS = 64, SECOND = 1000000000 };

typedef struct rig {
    rate_limiter *limiter;
    nfm_flow_info flows[FLOWS]; /* flow i: from 10.0.i/2.i to 10.9.9.9 */
} rig;

static rig make(const rate_limiter_limit *limits, uint32_t n, uint32_t max_buckets) {
    rig r = {.limiter = rate_limiter_open("{}")};
    CHECK_EQ(rate_limiter_load(r.limiter, limits, n, max_buckets, 77), NFM_OK);
    for (uint32_t i = 0; i < FLOWS; i++) {
        nfm_flow_info *flow = &r.flows[i];
        *flow = (nfm_flow_info){.ip_version = 4, .proto = 17, .port = {(uint16_t)i, 53}, .id = i};
        memcpy(flow->addr[0], (uint8_t[]){10, 0, (uint8_t)(i / 2), (uint8_t)i}, 4);
        memcpy(flow->addr[1], (uint8_t[]){10, 9, 9, 9}, 4);
    }
    return r;
}

static bool sends(rig *r, uint32_t flow, uint8_t side, int64_t now_ns, uint32_t len) {
    nfm_record record = {.ts_ns = now_ns, .side = side, .wire_len = len, .kind = NFM_REC_PACKET};
    nfm_mem mem = {.records = &record, .n_records = 1, .flows = r->flows, .n_flows = FLOWS};
    nfm_desc desc = {.record = 0, .flow = flow, .what = NFM_BIT(NFM_EV_PACKET_UDP)};
    uint32_t verdict = NFM_PASS;
    nfm_batch batch = {.mem = &mem, .desc = &desc, .n = 1, .verdict = &verdict};
    CHECK_EQ(rate_limiter_process(r->limiter, &batch), NFM_OK);
    CHECK(verdict == NFM_PASS || verdict == NFM_DROP);
    return verdict == NFM_PASS;
}

static rate_limiter_stats stats_of(const rig *r) {
    rate_limiter_stats stats;
    rate_limiter_stats_get(r->limiter, &stats);
    return stats;
}

static void a_burst_passes_and_then_the_rate(void) {
    rate_limiter_limit limit = {.packets_per_s = 10, .burst_packets = 3};
    rig r = make(&limit, 1, 0);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(sends(&r, 0, 0, 100, 60), i < 3);
    CHECK(!sends(&r, 0, 0, 100 + SECOND / 10 - 1, 60));
    CHECK(sends(&r, 0, 0, 100 + SECOND / 10, 60));
    CHECK(!sends(&r, 0, 0, 100 + SECOND / 10, 60));
    CHECK_EQ(stats_of(&r).dropped_packets, 4);
    rate_limiter_close(r.limiter);
}

static void bits_are_counted_on_the_wire(void) {
    rate_limiter_limit limit = {.bits_per_s = 8000, .burst_bytes = 1500};
    rig r = make(&limit, 1, 0);
    CHECK(!sends(&r, 0, 0, 0, 1501));
    CHECK(sends(&r, 0, 0, 0, 1000));
    CHECK(!sends(&r, 0, 0, 0, 501));
    CHECK(sends(&r, 0, 0, 0, 500));
    CHECK(sends(&r, 0, 0, SECOND / 10, 100)); /* 1000 bytes a second */
    CHECK(!sends(&r, 0, 0, SECOND / 10, 1));
    rate_limiter_counts counts;
    rate_limiter_counts_get(r.limiter, 0, &counts);
    CHECK_EQ(counts.passed_bytes, 1600);
    CHECK_EQ(counts.dropped_bytes, 2003);
    rate_limiter_close(r.limiter);
}

static void nothing_is_rounded(void) {
    rate_limiter_limit limit = {.packets_per_s = 3, .burst_packets = 1};
    rig r = make(&limit, 1, 0);
    int64_t now_ns = 0;
    for (uint64_t i = 0; i < 100000; i++) { /* 1/3 s in steps that are no multiple of it */
        CHECK(sends(&r, 0, 0, now_ns, 60));
        CHECK(!sends(&r, 0, 0, now_ns + 333333332, 60));
        now_ns += 333333334;
    }
    rate_limiter_close(r.limiter);
}

static void looking_often_loses_nothing(void) {
    rate_limiter_limit limit = {.packets_per_s = 3, .burst_packets = 2};
    rig r = make(&limit, 1, 0);
    uint64_t passed = 0;
    for (int64_t i = 0; i <= 3000; i++)
        passed += sends(&r, 0, 0, i * (SECOND / 1000), 60);
    CHECK_EQ(passed, 2 + 3 * 3);
    rate_limiter_close(r.limiter);
}

static void owners_have_buckets_of_their_own(void) {
    rate_limiter_limit limit = {
        .packets_per_s = 1, .burst_packets = 1, .each = RATE_LIMITER_SOURCE, .prefix4 = 24};
    rig r = make(&limit, 1, 0);
    CHECK(sends(&r, 0, 0, 0, 60));
    CHECK(!sends(&r, 1, 0, 0, 60)); /* the same /24 */
    CHECK(sends(&r, 2, 0, 0, 60));
    CHECK(sends(&r, 0, 1, 0, 60));  /* what the server sends */
    CHECK(!sends(&r, 2, 1, 0, 60)); /* the same server */
    CHECK(sends(&r, NFM_NO_FLOW, 0, 0, 60));
    CHECK_EQ(stats_of(&r).unattributed, 1);
    rate_limiter_offender worst[4];
    CHECK(!sends(&r, 0, 0, 0, 60));
    CHECK_EQ(rate_limiter_worst(r.limiter, worst, 4), 2);
    CHECK_EQ(worst[0].dropped_packets, 2);
    CHECK(memcmp(worst[0].addr[0], "\x0a\0\0\0", 4) == 0);
    CHECK(memcmp(worst[1].addr[0], "\x0a\x09\x09\0", 4) == 0);
    CHECK_EQ(rate_limiter_worst(r.limiter, worst, 1), 1);
    CHECK_EQ(worst[0].dropped_packets, 2);
    rate_limiter_close(r.limiter);
}

static void a_drop_by_one_limit_costs_the_others_nothing(void) {
    rate_limiter_limit limits[] = {
        {.packets_per_s = 1, .burst_packets = 1, .each = RATE_LIMITER_FLOW},
        {.packets_per_s = 1, .burst_packets = 2},
    };
    rig r = make(limits, 2, 0);
    CHECK(sends(&r, 0, 0, 0, 60));
    CHECK(!sends(&r, 0, 0, 0, 60));
    CHECK(!sends(&r, 0, 1, 0, 60)); /* both directions are one flow */
    CHECK(sends(&r, 1, 0, 0, 60));
    CHECK(!sends(&r, 2, 0, 0, 60)); /* the class is used up, not the flow */
    rate_limiter_counts counts;
    rate_limiter_counts_get(r.limiter, 1, &counts);
    CHECK_EQ(counts.passed_packets, 2);
    CHECK_EQ(counts.dropped_packets, 1);
    rate_limiter_close(r.limiter);
}

static void time_that_runs_backwards_fills_nothing(void) {
    rate_limiter_limit limit = {.packets_per_s = 1, .burst_packets = 1};
    rig r = make(&limit, 1, 0);
    CHECK(sends(&r, 0, 0, 5 * (int64_t)SECOND, 60));
    CHECK(!sends(&r, 0, 0, 0, 60));
    CHECK(!sends(&r, 0, 0, 6 * (int64_t)SECOND - 1, 60));
    CHECK(sends(&r, 0, 0, INT64_MAX, 60));
    CHECK(!sends(&r, 0, 0, INT64_MIN, 60));
    rate_limiter_close(r.limiter);
}

static void the_longest_idle_makes_room(void) {
    rate_limiter_limit limit = {.packets_per_s = 1, .burst_packets = 1, .each = RATE_LIMITER_FLOW};
    rig r = make(&limit, 1, 0); /* 64 buckets are the least */
    CHECK_EQ(stats_of(&r).max_buckets, 64);
    for (uint32_t i = 0; i < 64; i++)
        CHECK(sends(&r, i, 0, 0, 60));
    CHECK(!sends(&r, 0, 0, 0, 60));
    r.flows[63].port[0] = 9999; /* a 65th flow: takes over that of flow 1 */
    CHECK(sends(&r, 63, 0, 0, 60));
    CHECK(!sends(&r, 0, 0, 0, 60));
    CHECK(!sends(&r, 2, 0, 0, 60));
    CHECK(sends(&r, 1, 0, 0, 60));
    CHECK_EQ(stats_of(&r).buckets_evicted, 2);
    CHECK_EQ(stats_of(&r).buckets, 64);
    rate_limiter_close(r.limiter);
}

static void nonsense_is_refused(void) {
    rate_limiter_limit bad[] = {
        {.packets_per_s = 0},
        {.packets_per_s = 1, .burst_packets = 0},
        {.bits_per_s = 1, .burst_bytes = UINT64_C(2000000001)},
        {.packets_per_s = 1, .burst_packets = 1, .each = 3},
        {.packets_per_s = 1, .burst_packets = 1, .prefix4 = 33},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        rate_limiter *limiter = rate_limiter_open("{}");
        CHECK_EQ(rate_limiter_load(limiter, &bad[i], 1, 64, 0), NFM_E_INVAL);
        rate_limiter_close(limiter);
    }
    rig r = make(NULL, 0, 0);
    CHECK(sends(&r, 0, 0, 0, 60));
    CHECK_EQ(rate_limiter_load(r.limiter, NULL, 0, 64, 0), NFM_E_STATE);
    rate_limiter_close(r.limiter);
    rate_limiter_close(NULL);
}

/* ---- an oracle ---------------------------------------------------------------------------- */

typedef struct sent {
    int64_t at_ns;
    uint32_t len;
} sent;

static uint64_t next_random(uint64_t *state) { /* xorshift64 */
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

/*
 * What a token bucket means: the packet passes if in no interval that ends now more would have
 * passed than the burst and what the rate gives in it. It keeps all history and no bucket.
 */
static bool may_pass(const sent *passed, uint32_t n, sent now, const rate_limiter_limit *l) {
    unsigned __int128 bits = (unsigned __int128)now.len * 8, packets = 1;
    for (uint32_t i = n + 1; i-- > 0;) {
        int64_t since_ns = i < n ? passed[i].at_ns : now.at_ns;
        if (i < n) {
            bits += (unsigned __int128)passed[i].len * 8;
            packets++;
        }
        unsigned __int128 elapsed = (unsigned __int128)(now.at_ns - since_ns);
        if (bits * SECOND >
            elapsed * l->bits_per_s + (unsigned __int128)l->burst_bytes * 8 * SECOND)
            return false;
        if (packets * SECOND >
            elapsed * l->packets_per_s + (unsigned __int128)l->burst_packets * SECOND)
            return false;
    }
    return true;
}

static void agrees_with_the_definition(void) {
    enum { ROUNDS = 60, PACKETS = 400 };
    uint64_t state = 42, dropped = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        rate_limiter_limit limit = {.bits_per_s = 1 + next_random(&state) % 10000000,
                                    .packets_per_s = 1 + next_random(&state) % 2000,
                                    .burst_bytes = 1500 + next_random(&state) % 20000,
                                    .burst_packets = 1 + next_random(&state) % 20,
                                    .each = RATE_LIMITER_FLOW};
        rig r = make(&limit, 1, 0);
        static const uint32_t flows = 3;
        sent passed[3][PACKETS];
        uint32_t n[3] = {0};
        int64_t now_ns = 1;
        for (uint32_t i = 0; i < PACKETS; i++) {
            uint32_t flow = (uint32_t)(next_random(&state) % flows);
            now_ns += (int64_t)(next_random(&state) % (round % 2 ? 3000000 : 300000));
            sent now = {now_ns, 60 + (uint32_t)(next_random(&state) % 1440)};
            bool want = may_pass(passed[flow], n[flow], now, &limit);
            CHECK_EQ(sends(&r, flow, 0, now.at_ns, now.len), want);
            if (want)
                passed[flow][n[flow]++] = now;
            dropped += !want;
        }
        rate_limiter_close(r.limiter);
    }
    CHECK(dropped > 1000);
    CHECK(dropped < ROUNDS * PACKETS - 1000);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(a_burst_passes_and_then_the_rate),
        T(bits_are_counted_on_the_wire),
        T(nothing_is_rounded),
        T(looking_often_loses_nothing),
        T(owners_have_buckets_of_their_own),
        T(a_drop_by_one_limit_costs_the_others_nothing),
        T(time_that_runs_backwards_fills_nothing),
        T(the_longest_idle_makes_room),
        T(nonsense_is_refused),
        T(agrees_with_the_definition),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
