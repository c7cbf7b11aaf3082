/* SPDX-License-Identifier: Apache-2.0 */
/* tcp_stream through a worker: which bytes come out, in which order, and what is said of the rest.
 */
#include "tcp_rig.h"

/* Client ISN 100, server ISN 500: the first data bytes are 101 and 501. */
#define OPEN                                                                                       \
    "> S 100\n"                                                                                    \
    "< SA 500 a 101\n"                                                                             \
    "> A 101 a 501\n"

#define RAISED(r, packet, name) rig_raised(r, packet, NFM_EV_TCP_##name)

enum limit { FLOW_SLOTS, WORKER_SLOTS, GAP_WAIT, OVERLAP, URGENT, HISTORY };

static void expect_text(const char *script, const char *client) {
    tcp_rig *r = rig_told(script);
    CHECK_TEXT(r, 0, client);
    rig_free(r);
}

/* Runs |script| with one limit changed. */
static tcp_rig *told_with(enum limit which, uint64_t value, const char *script) {
    tcp_rig *r = rig_new();
    r->limits[which] = value;
    if (which == HISTORY)
        r->events |= NFM_BIT(NFM_EV_TCP_INCONSISTENT_OVERLAP);
    rig_say(r, script);
    rig_run(r);
    return r;
}

/* ---- order ---- */

static void test_in_order_bytes_are_in_the_snapshot(void) {
    tcp_rig *r = rig_told(OPEN "> A 101 a 501 'abc'\n> A 104 a 501 'de'\n< A 501 a 106 'xy'\n");
    CHECK_TEXT(r, 0, "abcde");
    CHECK_TEXT(r, 1, "xy");
    CHECK_EQ(r->snap[5].tcp.stream_off, 3);
    CHECK_EQ(r->snap[5].tcp.data_len, 2);
    CHECK_EQ(r->snap[5].tcp.data_off, r->snap[5].payload_off);
    CHECK(RAISED(r, 5, DATA) && !RAISED(r, 3, DATA));
    rig_free(r);
}

static void test_hole_is_filled(void) {
    tcp_rig *r = rig_told(OPEN "> A 104 a 501 'def'\n> A 107 a 501 'ghi'\n> A 101 a 501 'abc'\n");
    CHECK_TEXT(r, 0, "abcdefghi");
    CHECK(!RAISED(r, 4, DATA) && RAISED(r, 6, DATA));
    CHECK_EQ(r->snap[6].tcp.data_len, 3); /* its own bytes; the released ones have records */
    CHECK_EQ(r->n_gaps, 0);
    CHECK_EQ(rig_counter(r, "tcp_stream.held"), 2);
    CHECK_EQ(rig_counter(r, "tcp_stream.released"), 2);
    rig_free(r);
}

static void test_one_segment_fills_several_holes(void) {
    expect_text(OPEN "> A 103 a 501 'c'\n> A 106 a 501 'f'\n> A 101 a 501 'abcdefg'\n", "abcdefg");
    expect_text(OPEN "> A 103 a 501 'c'\n> A 102 a 501 'bcd'\n> A 101 a 501 'a'\n", "abcd");
}

static void test_retransmissions_are_not_delivered_twice(void) {
    expect_text(OPEN "> A 101 a 501 'abc'\n> A 101 a 501 'abc'\n> A 101 a 501 'abcdef'\n"
                     "> A 103 a 501 'cdefgh'\n",
                "abcdefgh");
}

/* ---- holes ---- */

static void test_acknowledged_hole_becomes_a_gap_in_time(void) {
    tcp_rig *r = rig_told(OPEN "> A 106 a 501 'f'\n< A 501 a 107\n"
                               "> A 107 a 501 'g' + 999\n"     /* 6: not yet */
                               "> A 108 a 501 'h' + 10\n"      /* 7: now */
                               "> A 101 a 501 'abcde' + 1\n"); /* too late */
    CHECK_TEXT(r, 0, "[5a]fgh");
    CHECK(!RAISED(r, 6, DATA) && RAISED(r, 7, DATA));
    CHECK_EQ(rig_counter(r, "tcp_stream.gap_acked"), 1);
    CHECK_EQ(rig_counter(r, "tcp_stream.duplicate_bytes"), 5);
    rig_free(r);
}

static void test_late_fill_after_the_ack_is_no_gap(void) {
    expect_text(OPEN "> A 106 a 501 'f'\n< A 501 a 107\n> A 101 a 501 'abcde' + 500\n", "abcdef");
}

static void test_only_the_acknowledged_part_is_given_up(void) {
    expect_text(OPEN "> A 107 a 501 'g'\n< A 501 a 104\n> A 108 a 501 'h' + 1500\n"
                     "> A 104 a 501 'def'\n",
                "[3a]defgh");
}

static void test_wait_begins_with_each_hole_and_reaches_the_last_ack(void) {
    expect_text(OPEN "> A 106 a 501 'f'\n< A 501 a 103\n< A 501 a 107 + 10\n"
                     "> A 107 a 501 'g' + 1000\n> A 101 a 501 'abcde'\n",
                "[5a]fg");
    expect_text(OPEN "> A 106 a 501 'f'\n< A 501 a 107\n> A 101 a 501 'abcde' + 500\n"
                     "> A 110 a 501 'j'\n> A 111 a 501 'k' + 600\n> A 107 a 501 'ghi'\n",
                "abcdefghijk");
}

static void test_hole_without_ack_waits_for_the_end(void) {
    expect_text(OPEN "> A 106 a 501 'f'\n> A 107 a 501 'g' + 60000\n", "[5e]fg");
    expect_text(OPEN "> A 106 a 501 'f'\n> A 101 a 501 'abcde' + 60000\n", "abcdef");
    expect_text(OPEN "> A 103 a 501 'c'\n> A 106 a 501 'f'\n", "[2e]c[2e]f");
}

static void test_one_direction_does_not_wait_for_acks(void) {
    tcp_rig *r = rig_told("> S 100\n> A 106 a 501 'f'\n> A 107 a 501 'g' + 1001\n");
    CHECK_TEXT(r, 0, "[5a]fg");
    CHECK(RAISED(r, 3, DATA));
    rig_free(r);
}

static void test_impossible_ack_gives_nothing_up(void) {
    expect_text(OPEN "> A 106 a 501 'f'\n< A 501 a 90000000\n> A 107 a 501 'g' + 1500\n"
                     "> A 101 a 501 'abcde'\n",
                "abcdefg");
}

static void test_hole_at_the_end_is_not_reported(void) {
    expect_text(OPEN "> A 101 a 501 'abc'\n< A 501 a 110\n> A 110 a 501 + 2000\n", "abc");
}

static void test_snapped_capture_leaves_gaps(void) {
    tcp_rig *r = rig_told(OPEN "> A 101 a 501 'abcdef' cut 4\n> A 107 a 501 'ghi' cut 1\n"
                               "> A 110 a 501 'jk' cut 2\n");
    CHECK_TEXT(r, 0, "ab[4t]gh");
    CHECK_EQ(rig_counter(r, "tcp_stream.truncated"), 7);
    rig_free(r);
    expect_text(OPEN "> A 107 a 501 'gh' cut 1\n> A 101 a 501 'abcdef' cut 3\n> A 109 a 501 'i'\n",
                "abc[3t]g[1t]i");
    expect_text(OPEN "> A 103 a 501 'cdef' cut 4\n> A 103 a 501 'cdef'\n> A 101 a 501 'ab'\n",
                "abcdef"); /* bytes win against the lack of bytes */
}

/* ---- begin and end ---- */

static void test_midstream_begins_at_the_first_segment(void) {
    expect_text("> A 101 a 501 'abc'\n> A 104 a 501 'd'\n", "abcd");
    expect_text("< A 501 a 101\n> A 101 a 501 'abc'\n", "abc");
}

static void test_midstream_waits_for_what_is_on_its_way(void) {
    tcp_rig *r = rig_told("< A 501 a 101\n" /* 101 is next, 104 comes first */
                          "> A 104 a 501 'def'\n> A 101 a 501 'abc'\n< A 501 a 107\n"
                          "> A 107 a 501 'g'\n");
    CHECK_TEXT(r, 0, "abcdefg");
    CHECK_EQ(r->n_gaps, 0);
    rig_free(r);
    r = rig_told("< A 501 a 101\n> A 104 a 501 'def'\n> A 107 a 501 'g' + 2000\n");
    CHECK_TEXT(r, 0, "defg"); /* what was lost before the capture began is no gap */
    rig_free(r);
    r = rig_told("< A 501 a 0xfffffff0\n> A 0 a 501 'cd'\n> A 0xfffffffe a 501 'ab'\n"
                 "< A 501 a 2\n");
    CHECK_TEXT(r, 0, "abcd"); /* sequence number 0 is like any other */
    rig_free(r);
}

static void test_data_before_its_syn(void) {
    expect_text("> A 101 a 501 'abc'\n> S 100\n> A 104 a 501 'd'\n", "abcd");
    expect_text("< A 501 a 101\n> A 104 a 501 'def'\n> S 100\n> A 101 a 501 'abc'\n", "abcdef");
}

static void test_reset_data_is_no_stream_data(void) {
    tcp_rig *r = rig_told(OPEN "> A 101 a 501 'abc'\n> RA 104 a 501 'because'\n");
    CHECK_TEXT(r, 0, "abc");
    CHECK_EQ(rig_counter(r, "tcp_stream.rst_data"), 7);
    rig_free(r);
}

static void test_far_segments_are_ignored(void) {
    tcp_rig *r = rig_told(OPEN "> A 101 a 501 'abc'\n> A 100000000 a 501 'xyz'\n"
                               "> A 3000000000 a 501 'xyz'\n> A 104 a 501 'd'\n");
    CHECK_TEXT(r, 0, "abcd");
    CHECK_EQ(rig_counter(r, "tcp_stream.far_segment"), 2);
    rig_free(r);
}

static void test_new_connection_gets_a_new_stream(void) {
    tcp_rig *r = rig_told(OPEN "> A 104 a 501 'def'\n> S 9000\n< SA 70 a 9001\n"
                               "> A 9001 a 71 'new'\n");
    CHECK_TEXT(r, 0, "[3e]defnew");
    CHECK_EQ(r->n_ends, 2);
    rig_free(r);
}

static void test_urgent_byte(void) {
    static const char script[] =
        OPEN "> A 101 a 501 'ab'\n> AU 103 a 501 'cXd' u 2\n> A 106 a 501 'e'\n";
    expect_text(script, "abcXde");
    tcp_rig *r = told_with(URGENT, 1, script);
    CHECK_TEXT(r, 0, "abcde");
    CHECK_EQ(rig_counter(r, "tcp_stream.urgent_bytes"), 1);
    rig_free(r);
    r = told_with(URGENT, 1,
                  OPEN "> AU 103 a 501 'cXd' u 2\n> A 106 a 501 'e'\n> A 101 a 501 'ab'\n");
    CHECK_TEXT(r, 0, "abcde");
    rig_free(r);
}

static void test_stream_offsets_pass_four_gigabytes(void) {
    tcp_rig *r = rig_new();
    uint32_t seq = 101;
    rig_say(r, OPEN);
    r->limits[FLOW_SLOTS] = 1;
    for (int i = 0; i < 600; i++) { /* two such holes are as wide as is believed */
        uint8_t byte = 'x';
        rig_seg seg = {.seq = seq, .ack = 501, .window = 9, .flags = 16, .data = &byte, .len = 1};
        r->now_ns += 1000;
        rig_push(r, &seg);
        seq += 1 << 23;
    }
    rig_run(r);
    CHECK_EQ(r->bytes[0], 600);
    CHECK_EQ(r->gaps[0], 599 * ((INT64_C(1) << 23) - 1));
    CHECK(r->is_ordered && r->gaps[0] > UINT32_MAX);
    rig_free(r);
}

/* ---- overlaps ---- */

/* Held "ooooo" at 111..115; |segment| overlaps it; then dots fill what nobody sent. |want| tells
 * the bytes 109..117. */
static void expect_overlap(uint64_t policy, const char *segment, const char *want) {
    char line[128], whole[64];
    tcp_rig *r = rig_new();
    r->limits[OVERLAP] = policy;
    rig_say(r, OPEN "> A 111 a 501 'ooooo'\n");
    snprintf(line, sizeof(line), "> A %s\n", segment);
    rig_say(r, line);
    for (unsigned i = 0; i < 9; i++) {
        snprintf(line, sizeof(line), "> A %u a 501 '.'\n", 109 + i);
        if (want[i] == '.')
            rig_say(r, line);
    }
    rig_say(r, "> A 101 a 501 '........'\n");
    rig_run(r);
    snprintf(whole, sizeof(whole), "........%s", want);
    CHECK_TEXT(r, 0, whole);
    rig_free(r);
}

static void test_overlap_policies(void) {
    enum { FIRST, LAST, BSD, LINUX, OLD_LINUX, WINDOWS, SOLARIS, N };
    static const struct {
        const char *segment;
        const char *want[N]; /* of bytes 109..117 */
    } cases[] = {
        /* begins before, ends inside */
        {"109 a 501 'nnnn'",
         {"nnooooo..", "nnnnooo..", "nnnnooo..", "nnnnooo..", "nnnnooo..", "nnnnooo..",
          "nnooooo.."}},
        /* begins before, ends with it */
        {"109 a 501 'nnnnnnn'",
         {"nnooooo..", "nnnnnnn..", "nnnnnnn..", "nnnnnnn..", "nnnnnnn..", "nnnnnnn..",
          "nnnnnnn.."}},
        /* covers it */
        {"109 a 501 'nnnnnnnnn'",
         {"nnooooonn", "nnnnnnnnn", "nnnnnnnnn", "nnnnnnnnn", "nnnnnnnnn", "nnnnnnnnn",
          "nnnnnnnnn"}},
        /* begins with it, ends inside */
        {"111 a 501 'nnn'",
         {"..ooooo..", "..nnnoo..", "..ooooo..", "..ooooo..", "..ooooo..", "..ooooo..",
          "..ooooo.."}},
        /* the same place */
        {"111 a 501 'nnnnn'",
         {"..ooooo..", "..nnnnn..", "..ooooo..", "..ooooo..", "..nnnnn..", "..ooooo..",
          "..nnnnn.."}},
        /* begins with it, ends behind */
        {"111 a 501 'nnnnnnn'",
         {"..ooooonn", "..nnnnnnn", "..ooooonn", "..nnnnnnn", "..nnnnnnn", "..ooooonn",
          "..nnnnnnn"}},
        /* inside */
        {"112 a 501 'nn'",
         {"..ooooo..", "..onnoo..", "..ooooo..", "..ooooo..", "..ooooo..", "..ooooo..",
          "..ooooo.."}},
        /* begins inside, ends behind */
        {"113 a 501 'nnnnn'",
         {"..ooooonn", "..oonnnnn", "..ooooonn", "..ooooonn", "..ooooonn", "..ooooonn",
          "..oonnnnn"}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (unsigned policy = 0; policy < N; policy++)
            expect_overlap(policy, cases[i].segment, cases[i].want[policy]);
}

static void test_overlap_events(void) {
    tcp_rig *r = rig_told(OPEN "> A 111 a 501 'ooooo'\n"
                               "> A 113 a 501 'ooooo'\n"             /* 5: partial, same bytes */
                               "> A 111 a 501 'ooooo'\n"             /* 6: whole, the same */
                               "> A 111 a 501 'oxxoo'\n"             /* 7: whole, other bytes */
                               "> A 101 a 501 'aaaaaaaaaaooooo'\n"); /* 8: new and held */
    CHECK(RAISED(r, 5, OVERLAP) && !RAISED(r, 5, INCONSISTENT_OVERLAP));
    CHECK(!RAISED(r, 6, OVERLAP) && !RAISED(r, 6, INCONSISTENT_OVERLAP));
    CHECK(RAISED(r, 7, INCONSISTENT_OVERLAP));
    CHECK(RAISED(r, 8, OVERLAP) && !RAISED(r, 8, INCONSISTENT_OVERLAP));
    CHECK_TEXT(r, 0, "aaaaaaaaaaooooooo");
    rig_free(r);
}

static void test_other_bytes_are_noticed_after_delivery(void) {
    static const char script[] = OPEN "> A 101 a 501 * 3000\n> A 3101 a 501 * 1000\n"
                                      "> A 1500 a 501 * 2000\n" /* 6: the same, cut differently */
                                      "> A 200 a 501 'this#is#something#else'\n" /* 7 */
                                      "> A 4090 a 501 * 40\n";                   /* 8 */
    tcp_rig *r = told_with(HISTORY, 4, script);
    CHECK(!RAISED(r, 6, INCONSISTENT_OVERLAP) && RAISED(r, 7, INCONSISTENT_OVERLAP));
    CHECK(!RAISED(r, 8, INCONSISTENT_OVERLAP) && RAISED(r, 8, OVERLAP));
    CHECK_EQ(r->bytes[0], 4029);
    rig_free(r);
    r = rig_told(script);
    CHECK_EQ(rig_counter(r, "tcp_stream.inconsistent"), 0); /* nobody asked: nothing is kept */
    CHECK_EQ(r->bytes[0], 4029);
    rig_free(r);
}

static void test_what_was_given_up_is_not_compared(void) {
    tcp_rig *r = told_with(HISTORY, 4,
                           OPEN "> A 101 a 501 'abc'\n> A 111 a 501 'xyz'\n"
                                "< A 501 a 114\n> A 114 a 501 'z' + 1500\n"
                                "> A 101 a 501 'abcdefghijxyzz'\n");
    CHECK_TEXT(r, 0, "abc[7a]xyzz");
    CHECK(!RAISED(r, 8, INCONSISTENT_OVERLAP));
    rig_free(r);
}

static void test_history_is_bounded(void) {
    tcp_rig *r = told_with(HISTORY, 1,
                           OPEN "> A 101 a 501 'abcdefgh'\n< A 501 a 109 'xyz'\n"
                                "> A 101 a 501 'ABCDEFGH'\n< A 501 a 109 'XYZ'\n");
    CHECK(!RAISED(r, 6, INCONSISTENT_OVERLAP)); /* the one block went to the server's side */
    CHECK(RAISED(r, 7, INCONSISTENT_OVERLAP));
    CHECK_EQ(rig_counter(r, "tcp_stream.history_stolen"), 1);
    rig_free(r);
    r = told_with(HISTORY, 0, OPEN "> A 101 a 501 'abcdefgh'\n> A 101 a 501 'ABCDEFGH'\n");
    CHECK(!RAISED(r, 5, INCONSISTENT_OVERLAP));
    rig_free(r);
}

/* ---- caps ---- */

static void test_flow_cap_gives_up_the_oldest_hole(void) {
    tcp_rig *r = told_with(FLOW_SLOTS, 2,
                           OPEN "> A 103 a 501 'c'\n> A 105 a 501 'e'\n"
                                "> A 107 a 501 'g'\n> A 102 a 501 'b'\n");
    CHECK_TEXT(r, 0, "[2f]c[1e]e[1e]g");
    CHECK_EQ(rig_counter(r, "tcp_stream.flow_cap"), 1);
    rig_free(r);
}

/* A thousand single bytes with a hole before each; 512 slots, |percent| of which may be held. */
static uint64_t shed_with(uint64_t percent) {
    tcp_rig *r = rig_new();
    r->n_small = 512;
    r->events = NFM_BIT(NFM_EV_TCP_DATA) | NFM_BIT(NFM_EV_TCP_GAP) | NFM_BIT(NFM_EV_FLOW_END);
    r->limits[WORKER_SLOTS] = percent;
    rig_say(r, OPEN);
    for (uint32_t i = 0; i < 1000; i++) {
        uint8_t byte = (uint8_t)('a' + i % 26);
        rig_seg seg = {
            .seq = 103 + 2 * i, .ack = 501, .window = 9, .flags = 16, .data = &byte, .len = 1};
        rig_push(r, &seg);
    }
    rig_run(r);
    uint64_t shed = rig_counter(r, "tcp_stream.worker_cap");
    CHECK_EQ(r->bytes[0], 1000);
    CHECK_EQ(r->gaps[0], 1001);
    rig_free(r);
    return shed;
}

static void test_worker_cap_keeps_slots_free(void) {
    CHECK(shed_with(25) >= 1000 - 128);
    CHECK(shed_with(90) >= 1000 - (512 - 64)); /* an eighth of the pool stays free */
    CHECK(shed_with(90) < 600);                /* and no more is given up than that takes */
}

/* ---- properties ---- */

static uint32_t next_random(uint64_t *state) { /* xorshift64* (Vigna 2016) */
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (uint32_t)(*state * UINT64_C(2685821657736338717) >> 32);
}

enum { STREAM = 3000, MOST = 200 };

/* Random pieces of [0, STREAM) that cover it, duplicated, overlapping and shuffled. */
static uint32_t pieces_of(uint64_t *random, uint32_t (*piece)[2]) {
    uint32_t n = 0;
    for (uint32_t at = 0; at < STREAM; n++) {
        uint32_t len = 1 + next_random(random) % 120, back = next_random(random) % 3 ? 0 : 40;
        uint32_t from = at > back ? at - back : 0;
        piece[n][0] = from;
        piece[n][1] = at + len > STREAM ? STREAM - from : at + len - from;
        at += len;
    }
    for (uint32_t extra = next_random(random) % 20; extra > 0; extra--, n++) {
        piece[n][0] = next_random(random) % STREAM;
        piece[n][1] = 1 + next_random(random) % 100;
        if (piece[n][0] + piece[n][1] > STREAM)
            piece[n][1] = STREAM - piece[n][0];
    }
    uint32_t reach = 1 + next_random(random) % n;
    for (uint32_t i = 0; i + 1 < n; i++) {
        uint32_t j = i + next_random(random) % (n - i < reach ? n - i : reach), t;
        t = piece[i][0], piece[i][0] = piece[j][0], piece[j][0] = t;
        t = piece[i][1], piece[i][1] = piece[j][1], piece[j][1] = t;
    }
    return n;
}

static void push_piece(tcp_rig *r, uint32_t isn, const uint32_t *piece, const uint8_t *bytes) {
    rig_seg seg = {.seq = isn + 1 + piece[0],
                   .ack = 501,
                   .window = 999,
                   .flags = 16,
                   .data = bytes,
                   .len = piece[1]};
    r->now_ns += 100000;
    rig_push(r, &seg);
}

static void push_open(tcp_rig *r, uint32_t isn) {
    rig_seg syn = {.seq = isn, .window = 999, .flags = 2};
    rig_seg answer = {.seq = 500, .ack = isn + 1, .window = 999, .flags = 18, .from_server = true};
    rig_push(r, &syn);
    rig_push(r, &answer);
}

static void test_any_segmentation_gives_the_same_bytes(void) {
    static uint8_t stream[STREAM];
    static uint32_t piece[4 * MOST][2];
    uint64_t random = 42;
    for (uint32_t i = 0; i < STREAM; i++)
        stream[i] = (uint8_t)next_random(&random);
    for (unsigned round = 0; round < 150; round++) {
        tcp_rig *r = rig_new();
        uint32_t isn = round % 3 ? next_random(&random) : 0u - STREAM / 2; /* wraps */
        r->limits[OVERLAP] = round % 7; /* no policy matters where copies agree */
        if (round % 2)
            r->events |= NFM_BIT(NFM_EV_TCP_INCONSISTENT_OVERLAP);
        push_open(r, isn);
        uint32_t n = pieces_of(&random, piece);
        for (uint32_t i = 0; i < n; i++)
            push_piece(r, isn, piece[i], stream + piece[i][0]);
        rig_run(r);
        CHECK_EQ(r->n_gaps, 0);
        CHECK_EQ(r->text_len[0], STREAM);
        CHECK(memcmp(r->text[0], stream, STREAM) == 0);
        CHECK_EQ(rig_counter(r, "tcp_stream.inconsistent"), 0);
        rig_free(r);
        if (nfm_test_failed)
            return;
    }
}

/* Conflicting copies under |policy| against a byte array that does the same byte by byte. */
static void compare_with_model(uint64_t policy, uint64_t seed) {
    static uint8_t model[STREAM], bytes[STREAM];
    static uint32_t piece[4 * MOST][2];
    static bool seen[STREAM];
    uint64_t random = seed;
    tcp_rig *r = rig_new();
    uint32_t next = 0, isn = next_random(&random), n = pieces_of(&random, piece);
    memset(seen, 0, sizeof(seen));
    r->limits[OVERLAP] = policy;
    push_open(r, isn);
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < piece[i][1]; k++) {
            uint32_t at = piece[i][0] + k;
            bytes[k] = (uint8_t)next_random(&random);
            if (at >= next && (!seen[at] || policy == 1)) {
                model[at] = bytes[k];
                seen[at] = true;
            }
        }
        while (next < STREAM && seen[next])
            next++;
        push_piece(r, isn, piece[i], bytes);
    }
    rig_run(r);
    CHECK_EQ(r->text_len[0], STREAM);
    CHECK(memcmp(r->text[0], model, STREAM) == 0);
    rig_free(r);
}

static void test_first_and_last_equal_a_byte_array(void) {
    for (uint64_t seed = 1; seed <= 60 && !nfm_test_failed; seed++) {
        compare_with_model(0, seed);
        compare_with_model(1, seed * 7919);
    }
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(test_in_order_bytes_are_in_the_snapshot),
        T(test_hole_is_filled),
        T(test_one_segment_fills_several_holes),
        T(test_retransmissions_are_not_delivered_twice),
        T(test_acknowledged_hole_becomes_a_gap_in_time),
        T(test_late_fill_after_the_ack_is_no_gap),
        T(test_only_the_acknowledged_part_is_given_up),
        T(test_wait_begins_with_each_hole_and_reaches_the_last_ack),
        T(test_hole_without_ack_waits_for_the_end),
        T(test_one_direction_does_not_wait_for_acks),
        T(test_impossible_ack_gives_nothing_up),
        T(test_hole_at_the_end_is_not_reported),
        T(test_snapped_capture_leaves_gaps),
        T(test_midstream_begins_at_the_first_segment),
        T(test_midstream_waits_for_what_is_on_its_way),
        T(test_data_before_its_syn),
        T(test_reset_data_is_no_stream_data),
        T(test_far_segments_are_ignored),
        T(test_new_connection_gets_a_new_stream),
        T(test_urgent_byte),
        T(test_stream_offsets_pass_four_gigabytes),
        T(test_overlap_policies),
        T(test_overlap_events),
        T(test_other_bytes_are_noticed_after_delivery),
        T(test_what_was_given_up_is_not_compared),
        T(test_history_is_bounded),
        T(test_flow_cap_gives_up_the_oldest_hole),
        T(test_worker_cap_keeps_slots_free),
        T(test_any_segmentation_gives_the_same_bytes),
        T(test_first_and_last_equal_a_byte_array),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
