/* SPDX-License-Identifier: Apache-2.0 */
/* The streaming scanner on hand-made tcp.data and flow.end records. */
#include "nfm/nfm.h"
#include "nfm_test.h"

#include "payload_scan.cdef"

#define FLOW_A UINT64_C(0x100000001)
#define FLOW_B UINT64_C(0x100000002)

static const char *const expressions[] = {"needle", "ab+c", "end$", "once"};
static const uint32_t flags[] = {PAYLOAD_SCAN_CASELESS, 0, 0, PAYLOAD_SCAN_ONCE};

static payload_scan *scanner(uint64_t memory, uint32_t max_matches) {
    char text[200];
    int32_t pattern;
    payload_scan_config config = {expressions, flags, 4, max_matches, memory};
    payload_scan *scan = payload_scan_open("{}");
    CHECK_EQ(payload_scan_load(scan, &config, text, sizeof text, &pattern), NFM_OK);
    return scan;
}

static void feed(payload_scan *scan, nfm_record record, uint64_t what, const void *data,
                 size_t len) {
    uint8_t *slot = calloc(1, NFM_SLOT_SMALL);
    record.slot = 0;
    record.frame_len = 256 - NFM_HEADROOM + (uint32_t)len;
    record.tcp.data_off = 256;
    record.tcp.data_len = (uint32_t)len;
    if (len > 0)
        memcpy(slot + 256, data, len);
    nfm_mem mem = {.packets = slot, .records = &record, .n_small = 1, .n_slots = 1, .n_records = 1};
    nfm_desc desc = {.record = 0, .flow = (uint32_t)record.flow, .what = what};
    nfm_batch batch = {.mem = &mem, .desc = &desc, .n = 1};
    CHECK_EQ(payload_scan_process(scan, &batch), NFM_OK);
    free(slot);
}

static void data(payload_scan *scan, uint64_t flow, uint8_t side, uint64_t off, const char *text) {
    nfm_record record = {.flow = flow, .side = side, .kind = NFM_REC_PACKET, .ts_ns = 7};
    record.events = NFM_BIT(NFM_EV_TCP_DATA);
    record.tcp.stream_off = off;
    feed(scan, record, NFM_BIT(NFM_EV_TCP_DATA), text, strlen(text));
}

static void end(payload_scan *scan, uint64_t flow) {
    nfm_record record = {.flow = flow, .kind = NFM_REC_FLOW, .events = NFM_BIT(NFM_EV_FLOW_END)};
    feed(scan, record, NFM_BIT(NFM_EV_FLOW_END), NULL, 0);
}

static uint32_t matches(payload_scan *scan, payload_scan_match *last) {
    payload_scan_match all[64];
    uint32_t n = payload_scan_take(scan, all, 64);
    if (n > 0)
        *last = all[n - 1];
    return n;
}

static void cut_at_every_byte(void) {
    const char *text = "xx NeeDLe yy";
    for (size_t cut = 0; cut <= strlen(text); cut++) {
        payload_scan *scan = scanner(1 << 20, 16);
        char head[32] = {0};
        memcpy(head, text, cut);
        data(scan, FLOW_A, 0, 0, head);
        data(scan, FLOW_A, 0, cut, text + cut);
        payload_scan_match hit = {0};
        CHECK_EQ(matches(scan, &hit), 1);
        CHECK_EQ(hit.pattern, 0);
        CHECK_EQ(hit.stream_off, 9);
        CHECK(hit.flow == FLOW_A);
        payload_scan_close(scan);
    }
}

static void sides_and_flows_do_not_mix(void) {
    payload_scan *scan = scanner(1 << 20, 16);
    data(scan, FLOW_A, 0, 0, "nee");
    data(scan, FLOW_A, 1, 0, "dle");
    data(scan, FLOW_B, 0, 0, "dle");
    payload_scan_match hit = {0};
    CHECK_EQ(matches(scan, &hit), 0);
    data(scan, FLOW_A, 0, 3, "dle");
    CHECK_EQ(matches(scan, &hit), 1);
    CHECK_EQ(hit.side, 0);
    payload_scan_close(scan);
}

static void a_hole_starts_a_new_search(void) {
    payload_scan *scan = scanner(1 << 20, 16);
    payload_scan_match hit = {0};
    data(scan, FLOW_A, 0, 0, "nee");
    data(scan, FLOW_A, 0, 10, "dle");
    CHECK_EQ(matches(scan, &hit), 0);
    data(scan, FLOW_A, 0, 13, "abbc");
    CHECK_EQ(matches(scan, &hit), 1);
    CHECK_EQ(hit.stream_off, 17);
    payload_scan_stats stats;
    payload_scan_stats_get(scan, &stats);
    CHECK_EQ(stats.restarts_after_gap, 1);
    payload_scan_close(scan);
}

static void the_end_decides_end_patterns(void) {
    payload_scan *scan = scanner(1 << 20, 16);
    payload_scan_match hit = {0};
    data(scan, FLOW_A, 1, 0, "the end");
    CHECK_EQ(matches(scan, &hit), 0);
    end(scan, FLOW_A);
    CHECK_EQ(matches(scan, &hit), 1);
    CHECK_EQ(hit.pattern, 2);
    CHECK_EQ(hit.stream_off, 7);
    payload_scan_stats stats;
    payload_scan_stats_get(scan, &stats);
    CHECK_EQ(stats.streams, 0);
    end(scan, FLOW_A);
    CHECK_EQ(matches(scan, &hit), 0);
    payload_scan_close(scan);
}

static void once_means_once_per_stream(void) {
    payload_scan *scan = scanner(1 << 20, 16);
    payload_scan_match hit = {0};
    data(scan, FLOW_A, 0, 0, "once once");
    data(scan, FLOW_A, 0, 9, " once");
    data(scan, FLOW_B, 0, 0, "once");
    CHECK_EQ(matches(scan, &hit), 2);
    payload_scan_close(scan);
}

static void the_oldest_stream_makes_room(void) {
    payload_scan *scan = scanner(1, 16); /* room for one */
    payload_scan_match hit = {0};
    data(scan, FLOW_A, 0, 0, "need");
    data(scan, FLOW_B, 0, 0, "needle");
    data(scan, FLOW_A, 0, 4, "le");
    CHECK_EQ(matches(scan, &hit), 1);
    CHECK(hit.flow == FLOW_B);
    payload_scan_stats stats;
    payload_scan_stats_get(scan, &stats);
    CHECK_EQ(stats.max_streams, 1);
    CHECK_EQ(stats.streams, 1);
    CHECK_EQ(stats.streams_evicted, 2);
    payload_scan_close(scan);
}

static void many_flows_stay_within_the_limit(void) {
    payload_scan *scan = scanner(1 << 16, 1000);
    payload_scan_stats stats;
    payload_scan_stats_get(scan, &stats);
    uint64_t limit = stats.max_streams;
    CHECK(limit > 1 && limit < 1000);
    for (uint64_t flow = 1; flow <= 1000; flow++)
        data(scan, flow, flow & 1, 0, "needle");
    for (uint64_t flow = 1; flow <= 1000; flow += 3)
        end(scan, flow);
    payload_scan_stats_get(scan, &stats);
    CHECK(stats.streams <= limit);
    CHECK_EQ(stats.matches, 1000);
    CHECK_EQ(stats.streams_evicted, 1000 - (long long)limit);
    CHECK_EQ(stats.failures, 0);
    payload_scan_close(scan);
}

static void full_match_ring_counts_what_it_drops(void) {
    payload_scan *scan = scanner(1 << 20, 2);
    payload_scan_match hit = {0};
    data(scan, FLOW_A, 0, 0, "needle needle needle");
    CHECK_EQ(matches(scan, &hit), 2);
    CHECK_EQ(hit.stream_off, 13);
    payload_scan_stats stats;
    payload_scan_stats_get(scan, &stats);
    CHECK_EQ(stats.matches, 3);
    CHECK_EQ(stats.matches_dropped, 1);
    payload_scan_close(scan);
}

static void a_bad_pattern_is_named(void) {
    static const char *const bad[] = {"fine", "(open"};
    char text[200];
    int32_t pattern;
    payload_scan_config config = {bad, flags, 2, 16, 1 << 20};
    payload_scan *scan = payload_scan_open("{}");
    CHECK_EQ(payload_scan_load(scan, &config, text, sizeof text, &pattern), NFM_E_INVAL);
    CHECK_EQ(pattern, 1);
    CHECK(text[0] != '\0');
    nfm_batch none = {0};
    CHECK_EQ(payload_scan_process(scan, &none), NFM_E_STATE);
    payload_scan_close(scan);
    payload_scan_close(NULL);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(cut_at_every_byte),
        T(sides_and_flows_do_not_mix),
        T(a_hole_starts_a_new_search),
        T(the_end_decides_end_patterns),
        T(once_means_once_per_stream),
        T(the_oldest_stream_makes_room),
        T(many_flows_stay_within_the_limit),
        T(full_match_ring_counts_what_it_drops),
        T(a_bad_pattern_is_named),
    };
    return nfm_run_tests(tests, sizeof tests / sizeof *tests, argc, argv);
}
