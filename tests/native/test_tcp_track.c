/* SPDX-License-Identifier: Apache-2.0 */
/* tcp_track through a worker: what snapshots and totals say about connections written as scripts.
 */
#include "tcp_rig.h"

/* Handshake: client ISN 100, server ISN 500. Packets 1..3. */
#define OPEN                                                                                       \
    "> S 100 mss 1460\n"                                                                           \
    "< SA 500 a 101 mss 1400\n"                                                                    \
    "> A 101 a 501\n"

#define RAISED(r, packet, name) rig_raised(r, packet, NFM_EV_TCP_##name)

static unsigned state_of(const tcp_rig *r, uint32_t packet) { /* client's * 16 + server's */
    return (unsigned)r->snap[packet].tcp.state[0] << 4 | r->snap[packet].tcp.state[1];
}
#define STATES(client, server) (NFM_TCP_##client << 4 | NFM_TCP_##server)

/* Runs |script| and checks the word for its (first) connection. */
static void expect_state(const char *script, const char *word) {
    tcp_rig *r = rig_told(script);
    CHECK_STR(rig_end_state(r, 0), word);
    rig_free(r);
}

/* ---- state machine ---- */

static void test_handshake_and_close(void) {
    tcp_rig *r = rig_told(OPEN "> FA 101 a 501\n"  /* 4 */
                               "< A 501 a 102\n"   /* 5 */
                               "< FA 501 a 102\n"  /* 6 */
                               "> A 102 a 502\n"); /* 7 */
    CHECK_EQ(state_of(r, 1), STATES(SYN_SENT, NONE));
    CHECK_EQ(state_of(r, 2), STATES(SYN_SENT, SYN_RECEIVED));
    CHECK_EQ(state_of(r, 3), STATES(ESTABLISHED, ESTABLISHED));
    CHECK_EQ(state_of(r, 4), STATES(FIN_WAIT_1, CLOSE_WAIT));
    CHECK_EQ(state_of(r, 5), STATES(FIN_WAIT_2, CLOSE_WAIT));
    CHECK_EQ(state_of(r, 6), STATES(TIME_WAIT, LAST_ACK));
    CHECK_EQ(state_of(r, 7), STATES(TIME_WAIT, CLOSED));
    CHECK(RAISED(r, 1, SYN) && !RAISED(r, 2, SYN));
    CHECK(RAISED(r, 3, ESTABLISHED) && !RAISED(r, 4, ESTABLISHED));
    CHECK(RAISED(r, 6, FIN) && !RAISED(r, 4, FIN));
    CHECK(RAISED(r, 5, STATE) && RAISED(r, 7, STATE));
    CHECK_EQ(r->snap[2].tcp.mss, 1400);
    CHECK_EQ(r->snap[3].tcp.mss, 1460);
    CHECK_STR(rig_end_state(r, 0), "SF");
    CHECK_EQ(r->ends[0].flags & NFM_F_BASIS_SYN, NFM_F_BASIS_SYN);
    rig_free(r);
}

static void test_simultaneous_open_and_close(void) {
    tcp_rig *r = rig_told("> S 100\n< S 500\n> SA 100 a 501\n< SA 500 a 101\n"
                          "> FA 101 a 501\n"  /* 5 */
                          "< FA 501 a 101\n"  /* 6: crossed */
                          "> A 102 a 502\n"   /* 7 */
                          "< A 502 a 102\n"); /* 8 */
    CHECK_EQ(state_of(r, 2), STATES(SYN_RECEIVED, SYN_RECEIVED));
    CHECK_EQ(state_of(r, 4), STATES(ESTABLISHED, ESTABLISHED));
    CHECK_EQ(state_of(r, 6), STATES(CLOSING, CLOSING));
    CHECK_EQ(state_of(r, 7), STATES(CLOSING, TIME_WAIT));
    CHECK_EQ(state_of(r, 8), STATES(TIME_WAIT, TIME_WAIT));
    CHECK_EQ(r->n_ends, 1);
    rig_free(r);
}

static void test_split_handshake(void) {
    tcp_rig *r = rig_told("> S 100\n< A 900 a 101\n< S 500\n> SA 100 a 501\n< A 501 a 101\n");
    CHECK(RAISED(r, 4, ESTABLISHED) || RAISED(r, 5, ESTABLISHED));
    CHECK_EQ(state_of(r, 5), STATES(ESTABLISHED, ESTABLISHED));
    CHECK_EQ(r->n_ends, 1);
    rig_free(r);
}

static void test_half_close_goes_on_delivering(void) {
    tcp_rig *r = rig_told(OPEN "> FA 101 a 501 'q'\n< A 501 a 103 'one'\n> A 103 a 504\n"
                               "< FA 504 a 103 'two'\n> A 103 a 508\n");
    CHECK_TEXT(r, 0, "q");
    CHECK_TEXT(r, 1, "onetwo");
    CHECK_EQ(state_of(r, 5), STATES(FIN_WAIT_2, CLOSE_WAIT));
    CHECK_STR(rig_end_state(r, 0), "SF");
    rig_free(r);
}

static void test_conn_states(void) {
    expect_state("> S 100\n", "S0");
    expect_state("> S 100\n> S 100 + 1000\n", "S0");
    expect_state(OPEN, "S1");
    expect_state(OPEN "> FA 101 a 501\n", "S2");
    expect_state(OPEN "< FA 501 a 101\n", "S3");
    expect_state("> S 100\n< RA 0 a 101\n", "REJ");
    expect_state("> S 100\n< SA 500 a 101\n< RA 501 a 101\n", "REJ");
    expect_state("> S 100\n< SA 500 a 101\n> R 101\n", "RSTO");
    expect_state(OPEN "> RA 101 a 501\n", "RSTO");
    expect_state(OPEN "< RA 501 a 101\n", "RSTR");
    expect_state("> S 100\n> R 101\n", "RSTOS0");
    expect_state("> S 100\n> F 101\n", "SH");
    expect_state("< SA 500 a 101\n< RA 501 a 101\n", "RSTRH");
    expect_state("< SA 500 a 101\n< FA 501 a 101\n", "SHR");
    expect_state("> A 100 a 900 'mid'\n< A 900 a 103\n", "OTH");
    expect_state("> F 100\n", "OTH");
    expect_state(OPEN "> FA 101 a 501\n< FA 501 a 102\n> R 102\n", "SF"); /* RST after both FINs */
}

static void test_client_is_who_sent_the_syn(void) {
    tcp_rig *r = rig_told("< SA 500 a 101\n> A 101 a 501 'x'\n"); /* the SYN was missed */
    CHECK_EQ(r->ends[0].flags & (NFM_F_BASIS_SYNACK | NFM_F_CLIENT_IS_1), NFM_F_BASIS_SYNACK);
    CHECK_EQ(r->snap[1].side, 1);
    CHECK_EQ(r->ends[0].flags & NFM_F_MIDSTREAM, 0);
    rig_free(r);
    r = rig_told("< A 500 a 101 'late'\n> S 100\n"); /* reordered: server's bytes came first */
    CHECK_EQ(r->n_ends, 1);
    CHECK_EQ(r->ends[0].flags & NFM_F_BASIS_SYN, NFM_F_BASIS_SYN);
    CHECK_EQ(r->ends[0].flags & NFM_F_CLIENT_IS_1, NFM_F_CLIENT_IS_1);
    CHECK_EQ(r->snap[2].flags & NFM_F_CLIENT_IS_1, NFM_F_CLIENT_IS_1);
    rig_free(r);
}

static void test_midstream_is_said_once(void) {
    tcp_rig *r = rig_told("> A 100 a 900 'one'\n< A 900 a 103 'two'\n");
    CHECK(RAISED(r, 1, MIDSTREAM) && !RAISED(r, 2, MIDSTREAM));
    CHECK_EQ(r->snap[2].flags & NFM_F_MIDSTREAM, NFM_F_MIDSTREAM);
    CHECK_EQ(state_of(r, 2), STATES(ESTABLISHED, ESTABLISHED));
    rig_free(r);
}

/* ---- reuse of the 5-tuple ---- */

static void test_another_isn_is_another_connection(void) {
    tcp_rig *r = rig_told(OPEN "> RA 101 a 501\n> S 7000\n< SA 9000 a 7001\n");
    CHECK_EQ(r->n_ends, 2);
    CHECK_STR(rig_end_state(r, 0), "RSTO");
    CHECK_STR(rig_end_state(r, 1), "S1");
    CHECK_EQ(r->ends[0].totals.packets[0], 3);
    CHECK_EQ(r->ends[1].totals.packets[0], 1);
    CHECK_EQ(rig_counter(r, "tcp_track.reused"), 1);
    rig_free(r);
    r = rig_told("> S 100\n> S 200\n> S 200\n"); /* attempts that nobody answered */
    CHECK_EQ(r->n_ends, 2);
    CHECK(RAISED(r, 3, RETRANSMIT) && !RAISED(r, 2, RETRANSMIT));
    rig_free(r);
}

static void test_same_isn_is_a_retransmission(void) {
    tcp_rig *r = rig_told("> S 100\n> S 100 + 1000\n< SA 500 a 101\n< SA 500 a 101 + 1000\n");
    CHECK_EQ(r->n_ends, 1);
    CHECK(RAISED(r, 2, RETRANSMIT) && RAISED(r, 4, RETRANSMIT));
    CHECK_EQ(r->ends[0].totals.retransmits[0], 1);
    CHECK_EQ(r->ends[0].totals.retransmits[1], 1);
    rig_free(r);
}

static void test_server_that_forgot_its_first_answer(void) {
    tcp_rig *r = rig_told("> S 100\n< SA 500 a 101\n< SA 90000 a 101 + 1000\n> A 101 a 90001\n"
                          "< A 90001 a 101 'hi'\n");
    CHECK_EQ(r->n_ends, 1);
    CHECK(RAISED(r, 4, ESTABLISHED));
    CHECK_TEXT(r, 1, "hi");
    rig_free(r);
}

/* ---- RST ---- */

static void test_rst_must_be_exact(void) {
    tcp_rig *r = rig_told(OPEN "> A 101 a 501 'abc'\n< A 501 a 104\n"
                               "> R 4000 + 1\n"               /* 6: in the window */
                               "> R 400000 + 1\n"             /* 7: outside */
                               "> A 104 a 501 'stillhere!'\n" /* 8 */
                               "> R 114 + 1\n");              /* 9: exact */
    CHECK(RAISED(r, 6, UNEXPECTED) && !RAISED(r, 6, RESET));
    CHECK(RAISED(r, 7, UNEXPECTED) && !RAISED(r, 7, RESET));
    CHECK_EQ(state_of(r, 8), STATES(ESTABLISHED, ESTABLISHED));
    CHECK(RAISED(r, 9, RESET));
    CHECK_EQ(state_of(r, 9), STATES(CLOSED, CLOSED));
    CHECK_EQ(rig_counter(r, "tcp_track.rst_in_window"), 1);
    CHECK_EQ(rig_counter(r, "tcp_track.bad_rst"), 1);
    CHECK_TEXT(r, 0, "abcstillhere!");
    rig_free(r);
}

static void test_refusal_must_acknowledge_the_syn(void) {
    tcp_rig *r = rig_told("> S 100\n< RA 0 a 999\n< SA 500 a 101\n> A 101 a 501\n");
    CHECK(!RAISED(r, 2, RESET) && RAISED(r, 4, ESTABLISHED));
    rig_free(r);
}

/* ---- sequence numbers ---- */

static void test_retransmission_and_spurious(void) {
    tcp_rig *r = rig_told(OPEN "> A 101 a 501 'abc'\n"
                               "> A 101 a 501 'abc' + 300\n" /* 5 */
                               "< A 501 a 104\n"
                               "> A 101 a 501 'abc' + 300\n"); /* 7 */
    CHECK(RAISED(r, 5, RETRANSMIT) && !RAISED(r, 5, SPURIOUS));
    CHECK(RAISED(r, 7, RETRANSMIT) && RAISED(r, 7, SPURIOUS));
    CHECK_EQ(r->ends[0].totals.retransmits[0], 2);
    CHECK_EQ(r->snap[7].tcp.retransmits, 2);
    CHECK_EQ(r->snap[7].tcp.packets, 5);
    CHECK_EQ(r->snap[7].tcp.payload_bytes, 9);
    CHECK_TEXT(r, 0, "abc");
    rig_free(r);
}

static void test_out_of_order_within_a_round_trip(void) {
    tcp_rig *r = rig_told(OPEN "> A 104 a 501 'def'\n"
                               "> A 101 a 501 'abc' + 1\n" /* 5: cannot be a repair yet */
                               "> A 110 a 501 'jkl' + 1\n"
                               "> A 107 a 501 'ghi' + 100\n"); /* 7: late enough for one */
    CHECK(RAISED(r, 5, OUT_OF_ORDER) && !RAISED(r, 5, RETRANSMIT));
    CHECK(RAISED(r, 7, RETRANSMIT) && !RAISED(r, 7, OUT_OF_ORDER));
    CHECK_EQ(r->ends[0].totals.out_of_order[0], 1);
    CHECK_TEXT(r, 0, "abcdefghijkl");
    rig_free(r);
}

static void test_fast_retransmission_follows_duplicate_acks(void) {
    tcp_rig *r = rig_told(OPEN "> A 101 a 501 'a'\n> A 102 a 501 'b'\n> A 103 a 501 'c'\n"
                               "> A 104 a 501 'd'\n"
                               "< A 501 a 102\n< A 501 a 102\n< A 501 a 102\n" /* 8..10 */
                               "> A 102 a 501 'b'\n");                         /* 11 */
    CHECK(!RAISED(r, 8, DUPLICATE_ACK) && RAISED(r, 9, DUPLICATE_ACK));
    CHECK(RAISED(r, 10, DUPLICATE_ACK) && RAISED(r, 11, RETRANSMIT));
    rig_free(r);
}

static void test_keep_alive_and_window_probe(void) {
    tcp_rig *r = rig_told(OPEN "> A 101 a 501 'abc'\n< A 501 a 104\n"
                               "> A 103 a 501 + 5000\n"     /* 6: one before next, empty */
                               "< A 501 a 104\n"            /* 7: its answer, no duplicate ACK */
                               "> A 103 a 501 'z' + 5000\n" /* 8: with a byte of garbage */
                               "< A 501 a 104 w 0\n"        /* 9 */
                               "> A 104 a 501 'd' + 200\n"  /* 10: probe with the next byte */
                               "> A 103 a 501 + 200\n");    /* 11: probe as Linux sends it */
    CHECK(RAISED(r, 6, KEEP_ALIVE) && !RAISED(r, 6, RETRANSMIT));
    CHECK(!RAISED(r, 7, DUPLICATE_ACK));
    CHECK(RAISED(r, 8, KEEP_ALIVE) && !RAISED(r, 8, INCONSISTENT_OVERLAP));
    CHECK(RAISED(r, 9, ZERO_WINDOW));
    CHECK(RAISED(r, 10, WINDOW_PROBE) && RAISED(r, 11, WINDOW_PROBE));
    CHECK(!RAISED(r, 10, KEEP_ALIVE) && !RAISED(r, 11, KEEP_ALIVE));
    CHECK_EQ(r->ends[0].totals.retransmits[0], 0);
    CHECK_TEXT(r, 0, "abcd");
    rig_free(r);
}

static void test_window_probe_of_a_busy_sender(void) {
    tcp_rig *r = rig_told(OPEN "> A 101 a 501 'abc'\n> A 104 a 501 'def'\n< A 501 a 107 w 0\n"
                               "> A 107 a 501 'g' + 200\n"); /* 7 */
    CHECK(RAISED(r, 7, WINDOW_PROBE));
    rig_free(r);
}

static void test_answer_to_a_keep_alive_is_no_duplicate_ack(void) {
    tcp_rig *r = rig_told(OPEN "> A 101 a 501 'abc'\n< A 501 a 102\n"
                               "> A 103 a 501 + 9000\n< A 501 a 102\n" /* 7: its answer */
                               "> A 104 a 501 'd'\n< A 501 a 102\n");  /* 9: a real one */
    CHECK(RAISED(r, 6, KEEP_ALIVE) && !RAISED(r, 7, DUPLICATE_ACK));
    CHECK(RAISED(r, 9, DUPLICATE_ACK));
    rig_free(r);
}

static void test_sequence_numbers_wrap(void) {
    tcp_rig *r = rig_told("> S 0xfffffffe\n< SA 0xffffffff a 0xffffffff\n> A 0xffffffff a 0\n"
                          "> A 0xffffffff a 0 'abcd'\n< A 0 a 3 'wxyz'\n> FA 3 a 4\n"
                          "< FA 4 a 4\n> A 4 a 5\n");
    CHECK_TEXT(r, 0, "abcd");
    CHECK_TEXT(r, 1, "wxyz");
    CHECK_STR(rig_end_state(r, 0), "SF");
    CHECK_EQ(r->ends[0].totals.retransmits[0] + r->ends[0].totals.retransmits[1], 0);
    CHECK_EQ(r->snap[5].tcp.next, 4);
    CHECK_EQ(r->snap[6].tcp.una, 3);
    rig_free(r);
}

static void test_impossible_ack_and_far_segment(void) {
    tcp_rig *r = rig_told(OPEN "> A 101 a 501 'abc'\n"
                               "< A 501 a 40000000\n"          /* 5 */
                               "> A 500000000 a 501 'noise'\n" /* 6 */
                               "> A 104 a 501 'def'\n");       /* 7 */
    CHECK(RAISED(r, 5, UNEXPECTED) && RAISED(r, 6, UNEXPECTED) && !RAISED(r, 7, UNEXPECTED));
    CHECK_EQ(r->snap[7].tcp.next, 107);
    CHECK_EQ(rig_counter(r, "tcp_track.bad_ack"), 1);
    CHECK_EQ(rig_counter(r, "tcp_track.far_segment"), 1);
    CHECK_TEXT(r, 0, "abcdef");
    rig_free(r);
}

static void test_segments_without_ack_flag_are_unexpected(void) {
    tcp_rig *r = rig_told("> - 100\n> FPU 100\n"); /* null and Xmas scans */
    CHECK(RAISED(r, 1, UNEXPECTED) && RAISED(r, 2, UNEXPECTED));
    rig_free(r);
}

/* ---- options ---- */

static void test_window_is_scaled_when_both_offered_it(void) {
    tcp_rig *r = rig_told("> S 100 w 1000 ws 7\n< SA 500 a 101 w 1000 ws 2\n> A 101 a 501 w 1000\n"
                          "< A 501 a 101 w 1000\n");
    CHECK_EQ(r->snap[1].tcp.window, 1000);
    CHECK_EQ(r->snap[2].tcp.window, 1000);
    CHECK_EQ(r->snap[3].tcp.window, 128000);
    CHECK_EQ(r->snap[4].tcp.window, 4000);
    rig_free(r);
    r = rig_told("> S 100 w 1000 ws 7\n< SA 500 a 101 w 1000\n> A 101 a 501 w 1000\n");
    CHECK_EQ(r->snap[3].tcp.window, 1000);
    rig_free(r);
    r = rig_told("> S 100 w 1000\n< SA 500 a 101 w 1000 ws 2\n> A 101 a 501 w 1000\n"
                 "< A 501 a 101 w 1000\n");
    CHECK_EQ(r->snap[4].tcp.window, 1000);
    rig_free(r);
}

static void test_round_trips(void) {
    tcp_rig *r = rig_told("> S 100\n< SA 500 a 101 + 20\n> A 101 a 501 + 5\n"
                          "> A 101 a 501 'abc' + 1\n< A 501 a 104 + 30\n> A 104 a 501 'd'\n");
    CHECK_EQ(r->snap[3].tcp.rtt_us, 20000); /* client's SYN to its answer */
    CHECK_EQ(r->snap[5].tcp.rtt_us, 5000);  /* server's SYN-ACK to its ACK */
    CHECK_EQ(r->snap[6].tcp.rtt_us, 30000);
    rig_free(r);
}

static void test_karn_ignores_what_was_sent_twice(void) {
    tcp_rig *r = rig_told(OPEN "> A 101 a 501 'abc'\n> A 101 a 501 'abc' + 300\n"
                               "< A 501 a 104 + 10\n> A 104 a 501 'd'\n");
    CHECK_EQ(r->snap[7].tcp.rtt_us, 1000); /* still that of the handshake */
    rig_free(r);
    r = rig_told("> S 100 ts 1 0\n< SA 500 a 101 ts 50 1\n> A 101 a 501 ts 2 50\n"
                 "> A 101 a 501 'abc' ts 3 50\n> A 101 a 501 'abc' ts 300 50 + 300\n"
                 "< A 501 a 104 ts 60 300 + 10\n> A 104 a 501 'd' ts 310 60\n");
    CHECK_EQ(r->snap[7].tcp.rtt_us, 10000); /* the echo names the second copy */
    rig_free(r);
    r = rig_told("> S 100 ts 1 0\n< SA 500 a 101 ts 50 1\n> A 101 a 501 ts 2 50\n"
                 "> A 101 a 501 'abc' ts 3 50\n> A 101 a 501 'abc' ts 300 50 + 300\n"
                 "< A 501 a 104 ts 60 3 + 10\n> A 104 a 501 'd' ts 310 60\n");
    CHECK_EQ(r->snap[7].tcp.rtt_us, 1000); /* the first copy: when that was sent is forgotten */
    rig_free(r);
}

static void test_old_timestamps_are_counted(void) {
    tcp_rig *r = rig_told("> S 100 ts 1000 0\n< SA 500 a 101 ts 50 1000\n> A 101 a 501 ts 1001 50\n"
                          "> A 101 a 501 'abc' ts 7 50\n");
    CHECK_EQ(rig_counter(r, "tcp_track.paws_old"), 1);
    rig_free(r);
}

static void test_fast_open_delivers_data_of_the_syn(void) {
    tcp_rig *r = rig_told("> S 100 'GET'\n< SA 500 a 104 '200'\n> A 104 a 504\n");
    CHECK_TEXT(r, 0, "GET");
    CHECK_TEXT(r, 1, "200");
    CHECK(RAISED(r, 3, ESTABLISHED));
    CHECK_EQ(r->snap[1].tcp.next, 104);
    rig_free(r);
    r = rig_told(
        "> S 100 'GET'\n< SA 500 a 101\n> A 101 a 501 'GET'\n"); /* the cookie was refused */
    CHECK_TEXT(r, 0, "GET");
    rig_free(r);
}

static void test_one_direction_is_enough(void) {
    tcp_rig *r = rig_told("> S 100\n> A 101 a 501\n> A 101 a 501 'abc'\n> FA 104 a 501\n");
    CHECK(RAISED(r, 2, ESTABLISHED));
    CHECK_TEXT(r, 0, "abc");
    rig_free(r);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(test_handshake_and_close),
        T(test_simultaneous_open_and_close),
        T(test_split_handshake),
        T(test_half_close_goes_on_delivering),
        T(test_conn_states),
        T(test_client_is_who_sent_the_syn),
        T(test_midstream_is_said_once),
        T(test_another_isn_is_another_connection),
        T(test_same_isn_is_a_retransmission),
        T(test_server_that_forgot_its_first_answer),
        T(test_rst_must_be_exact),
        T(test_refusal_must_acknowledge_the_syn),
        T(test_retransmission_and_spurious),
        T(test_out_of_order_within_a_round_trip),
        T(test_fast_retransmission_follows_duplicate_acks),
        T(test_keep_alive_and_window_probe),
        T(test_window_probe_of_a_busy_sender),
        T(test_answer_to_a_keep_alive_is_no_duplicate_ack),
        T(test_sequence_numbers_wrap),
        T(test_impossible_ack_and_far_segment),
        T(test_segments_without_ack_flag_are_unexpected),
        T(test_window_is_scaled_when_both_offered_it),
        T(test_round_trips),
        T(test_karn_ignores_what_was_sent_twice),
        T(test_old_timestamps_are_counted),
        T(test_fast_open_delivers_data_of_the_syn),
        T(test_one_direction_is_enough),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
