/* SPDX-License-Identifier: Apache-2.0 */
/* The http module on a fake worker: both sides of a flow, pairing, upgrades, gaps, detaching. */
#include "fake_worker.h"

extern const nfm_module nfm_module_http;

enum { CLIENT = 0, SERVER = 1, TCP = 6 };

static fake_worker w;

static void start(void) {
    fake_start(&w, &nfm_module_http, TCP, 80);
}

static void say(int side, const char *text) {
    fake_data(&w, side, text, strlen(text));
}

static void request_and_response(void) {
    start();
    say(CLIENT, "GET /a?b HTTP/1.1\r\nHost: x.example\r\nUser-Agent: t/1\r\n\r\n");
    CHECK_HAS(&w, "http.request", "message=0 is_response=0 method=GET target=/a?b host=x.example");
    CHECK_HAS(&w, "http.request", "version=1.1 user_agent=t/1 content_type= content_length=-1");
    CHECK_HAS(&w, "http.request", "n_headers=2 headers=Host: x.example\\0d\\0aUser-Agent: t/1\\0d");
    CHECK_HAS(&w, "http.message_end", "message=0 is_response=0 body_bytes=0 gap_bytes=0");
    w.ts_ns += 2500000;
    say(SERVER,
        "HTTP/1.1 200 Fine\r\nServer: s\r\nContent-Type: text/x\r\nContent-Length: 5\r\n\r\nhe");
    say(SERVER, "llo");
    CHECK_HAS(&w, "http.response", "message=0 is_response=1 status=200 reason=Fine version=1.1");
    CHECK_HAS(&w, "http.response", "server=s content_type=text/x content_length=5");
    CHECK_HAS(&w, "http.response", "request_method=GET request_target=/a?b request_host=x.example");
    CHECK_HAS(&w, "http.response", "latency_us=2500");
    CHECK_HAS(&w, "http.body", "is_response=1 offset=0 length=2 |he|");
    CHECK_HAS(&w, "http.body", "is_response=1 offset=2 length=3 |llo|");
    CHECK_HAS(&w, "http.message_end",
              "is_response=1 body_bytes=5 gap_bytes=0 chunked=0 complete=1");
    CHECK_EQ(fake_counter(&w, "requests"), 1);
    CHECK_EQ(fake_counter(&w, "responses"), 1);
    CHECK_EQ(fake_counter(&w, "errors"), 0);
    CHECK(!w.detached);
    fake_stop(&w);
}

static void pipelined_responses_find_their_requests(void) {
    char text[64];
    start();
    for (int i = 0; i < 20; i++) {
        snprintf(text, sizeof(text), "%s /%d HTTP/1.1\r\n\r\n", i == 3 ? "HEAD" : "GET", i);
        say(CLIENT, text);
    }
    for (int i = 0; i < 20; i++)
        say(SERVER,
            i == 3 ? "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" : "HTTP/1.1 204 No\r\n\r\n");
    CHECK_EQ(fake_counter(&w, "queue_full"), 4);
    CHECK_EQ(fake_counter(&w, "responses"), 20);
    CHECK_EQ(fake_counter(&w, "unmatched_responses"), 4);
    CHECK_HAS(&w, "http.response", "message=3 is_response=1 status=200");
    CHECK_HAS(&w, "http.response", "request_method=HEAD request_target=/3 ");
    CHECK_HAS(&w, "http.response", "request_method=GET request_target=/15 ");
    CHECK_HAS(&w, "http.response",
              "message=16 is_response=1 status=204 reason=No version=1.1 "
              "server= content_type= content_length=-1 request_method= ");
    CHECK_EQ(fake_counter(&w, "errors"), 0);
    fake_stop(&w);
}

static void interim_responses_leave_the_request_waiting(void) {
    start();
    say(CLIENT, "PUT /f HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    say(SERVER, "HTTP/1.1 100 Continue\r\n\r\n");
    say(CLIENT, "abc");
    say(SERVER, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    CHECK_HAS(&w, "http.response", "message=1 is_response=1 status=201");
    CHECK_HAS(&w, "http.response", "content_length=0 request_method=PUT request_target=/f");
    CHECK_HAS(&w, "http.body", "is_response=0 offset=0 length=3 |abc|");
    CHECK_EQ(fake_counter(&w, "errors"), 0);
    fake_stop(&w);
}

static void connect_becomes_a_tunnel(void) {
    start();
    say(CLIENT, "CONNECT h:443 HTTP/1.1\r\n\r\n\x16\x03\x01");
    say(SERVER, "HTTP/1.1 200 OK\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    CHECK_HAS(&w, "http.upgrade", "protocol=connect target=h:443");
    CHECK(w.detached);
    CHECK_EQ(fake_counter(&w, "errors"), 0);
    CHECK_EQ(fake_counter(&w, "requests"), 1);
    fake_stop(&w);
}

static void refused_connect_goes_on(void) {
    start();
    say(CLIENT, "CONNECT h:443 HTTP/1.1\r\n\r\n");
    say(SERVER, "HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n");
    say(CLIENT, "CONNECT h:443 HTTP/1.1\r\nProxy-Authorization: x\r\n\r\n");
    CHECK_EQ(fake_counter(&w, "requests"), 2);
    CHECK_EQ(fake_counter(&w, "upgrades"), 0);
    CHECK(!w.detached);
    fake_stop(&w);
}

static void websocket_upgrade(void) {
    start();
    say(CLIENT, "GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    CHECK_HAS(&w, "http.request", "upgrade=websocket");
    say(SERVER,
        "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05");
    CHECK_HAS(&w, "http.upgrade", "protocol=websocket target=/ws");
    CHECK(w.detached);
    fake_stop(&w);
}

static void http2_preface(void) {
    start();
    say(CLIENT, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    CHECK_HAS(&w, "http.upgrade", "protocol=h2");
    CHECK(w.detached);
    fake_stop(&w);
}

static void other_protocols_are_left_at_once(void) {
    static const char *const begins[] = {
        "\x16\x03\x01\x02", "220 smtp ESMTP\r\n", "*1\r\n$4\r\nPING", "get k\r\n", "\x80", "DE\n"};
    for (size_t i = 0; i < sizeof(begins) / sizeof(begins[0]); i++)
        for (int side = 0; side < 2; side++) {
            start();
            say(side, begins[i]);
            CHECK(w.detached);
            CHECK_EQ(w.len, 0);
            CHECK_EQ(fake_counter(&w, "not_http"), 1);
            fake_stop(&w);
        }
}

static void broken_requests_wait_for_the_other_side(void) {
    static const char *const begins[] = {"EHLO me\r\n", "GET\t/ HTTP/1.1\r\n", "HEAD /\r\n",
                                         "SSH-2.0-x y\r\n"};
    for (size_t i = 0; i < sizeof(begins) / sizeof(begins[0]); i++) {
        start();
        say(CLIENT, begins[i]);
        CHECK(!w.detached);
        CHECK_EQ(w.len, 0);
        say(SERVER, "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n");
        CHECK_HAS(&w, "http.error", "message=0 is_response=0 kind=start_line");
        CHECK_HAS(&w, "http.response", "status=400");
        CHECK_EQ(fake_counter(&w, "errors"), 1);
        fake_close(&w);
        fake_open(&w);
        say(CLIENT, begins[i]);
        say(SERVER, i == 3 ? begins[i] : "250 ok\r\n");
        CHECK(w.detached);
        CHECK_EQ(w.len, 0);
        fake_stop(&w);
    }
}

static void http_0_9(void) {
    start();
    say(CLIENT, "GET /old\r\n\r\n");
    CHECK_HAS(&w, "http.request", "method=GET target=/old host= version=0.9");
    say(SERVER, "<html>");
    CHECK_EQ(fake_counter(&w, "errors"), 0);
    fake_end(&w, NFM_END_FIN);
    CHECK_EQ(fake_counter(&w, "errors"), 0);
    fake_stop(&w);
}

static void one_sided_responses_to_head_have_no_body(void) {
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Length: 70\r\n\r\n";
    start();
    say(SERVER, head);
    say(SERVER, head);
    say(SERVER, "body");
    say(SERVER, head); /* bytes of that body now */
    CHECK_EQ(fake_counter(&w, "responses"), 2);
    CHECK_HAS(&w, "http.message_end", "message=0 is_response=1 body_bytes=0 gap_bytes=0");
    CHECK_HAS(&w, "http.body", "message=1 is_response=1 offset=4 length=39");
    fake_stop(&w);
}

static void slow_heads_cost_a_buffer_and_give_it_back(void) {
    static const char head[] = "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok";
    start();
    for (size_t i = 0; i < sizeof(head) - 1; i++)
        fake_data(&w, CLIENT, head + i, 1);
    CHECK_HAS(&w, "http.request", "method=POST target=/x host=h");
    CHECK_HAS(&w, "http.body", "offset=1 length=1 |k|");
    fake_close(&w);
    fake_open(&w);
    w.limits[1] = 1; /* head_buffers, at the next start */
    fake_close(&w);
    w.module->stop(&w.ctx);
    CHECK_EQ(w.module->start(&w.ctx), NFM_OK);
    fake_open(&w);
    for (int round = 0; round < 3; round++) { /* one buffer serves one head after the other */
        say(CLIENT, "GET / HTT");
        say(CLIENT, "P/1.1\r\n\r\n");
    }
    CHECK_EQ(fake_counter(&w, "requests"), 4);
    say(CLIENT, "GET / HT");
    say(SERVER, "HTTP/1.1 20");
    CHECK_EQ(fake_counter(&w, "no_head_buffer"), 1);
    CHECK_HAS(&w, "http.error", "kind=no_buffer");
    fake_stop(&w);
}

static void gap_inside_a_body_is_counted(void) {
    start();
    say(CLIENT, "GET / HTTP/1.1\r\n\r\n");
    say(SERVER, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
    fake_gap(&w, SERVER, 4);
    say(SERVER, "hijHTTP/1.1 204 No\r\n\r\n");
    CHECK_HAS(&w, "http.body", "offset=7 length=3 |hij|");
    CHECK_HAS(&w, "http.message_end", "body_bytes=10 gap_bytes=4 chunked=0 complete=1");
    CHECK_HAS(&w, "http.response", "message=1 is_response=1 status=204");
    fake_stop(&w);
}

static void gap_over_a_message_resynchronises(void) {
    start();
    say(CLIENT, "GET /1 HTTP/1.1\r\n\r\n");
    say(SERVER, "HTTP/1.1 200 OK\r\nContent-Len");
    fake_gap(&w, SERVER, 500);
    CHECK_HAS(&w, "http.error", "kind=gap");
    say(CLIENT, "GET /2 HTTP/1.1\r\n\r\n");
    fake_gap(&w, CLIENT, 100);
    say(SERVER, "middle of nowhere");
    say(SERVER, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    CHECK_EQ(fake_counter(&w, "responses"), 1);
    say(CLIENT, "GET /9 HTTP/1.1\r\n\r\n");
    say(SERVER, "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
    CHECK_HAS(&w, "http.response",
              "status=404 reason=No version=1.1 server= content_type= "
              "content_length=0 request_method=GET request_target=/9 ");
    fake_stop(&w);
}

static void midstream_begins_at_the_next_message(void) {
    start();
    w.flags = NFM_F_MIDSTREAM;
    say(SERVER, "tail of a body\r\n");
    CHECK(!w.detached);
    say(CLIENT, "GET /m HTTP/1.1\r\n\r\n");
    say(SERVER, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    CHECK_HAS(&w, "http.response", "request_target=/m");
    CHECK_EQ(fake_counter(&w, "errors"), 0);
    fake_close(&w);
    fake_open(&w);
    say(SERVER, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); /* starts with the reply */
    CHECK_HAS(&w, "http.response", "status=200");
    fake_close(&w);
    fake_open(&w);
    static const char junk[70000] = {0};
    fake_data(&w, SERVER, junk, sizeof(junk));
    CHECK(!w.detached);
    fake_data(&w, SERVER, junk, sizeof(junk));
    CHECK(w.detached);
    fake_stop(&w);
}

static void the_end_of_the_flow_ends_messages(void) {
    start();
    say(CLIENT, "GET / HTTP/1.0\r\n\r\n");
    say(SERVER, "HTTP/1.0 200 OK\r\n\r\nall of it");
    fake_end(&w, NFM_END_FIN);
    CHECK_HAS(&w, "http.message_end",
              "is_response=1 body_bytes=9 gap_bytes=0 chunked=0 complete=1");
    CHECK_EQ(fake_counter(&w, "errors"), 0);
    fake_close(&w);
    fake_open(&w);
    say(CLIENT, "GET / HTTP/1.0\r\n\r\n");
    say(SERVER, "HTTP/1.0 200 OK\r\n\r\nsome of it");
    fake_end(&w, NFM_END_RESET);
    CHECK_HAS(&w, "http.message_end",
              "is_response=1 body_bytes=10 gap_bytes=0 chunked=0 complete=0");
    fake_close(&w);
    fake_open(&w);
    say(CLIENT, "GET /cut HTTP/1.1\r\nHost: h\r\nUser-");
    fake_end(&w, NFM_END_EOF);
    CHECK_HAS(&w, "http.request", "target=/cut host=h");
    CHECK_HAS(&w, "http.request", "complete=0");
    CHECK_HAS(&w, "http.error", "kind=incomplete");
    fake_stop(&w);
}

static void unwanted_events_are_not_raised(void) {
    start();
    w.unwanted = ~UINT64_C(0);
    say(CLIENT, "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n x\r\n\r\nA");
    say(SERVER, "HTTP/1.1 101 OK\r\n\r\n");
    CHECK_EQ(w.len, 0);
    CHECK_EQ(fake_counter(&w, "requests"), 1);
    fake_stop(&w);
}

static void long_texts_are_cut_for_the_response_only(void) {
    static char text[4096];
    memset(text, 'a', sizeof(text) - 1);
    memcpy(text, "GET /", 5);
    memcpy(text + 3000, " HTTP/1.1\r\n\r\n", 14);
    start();
    say(CLIENT, text);
    say(SERVER, "HTTP/1.1 204 No\r\n\r\n");
    text[3000] = 0;
    CHECK(strstr(w.log, text + 4) != NULL);
    text[400] = 0;
    CHECK_HAS(&w, "http.response", text + 4);
    fake_stop(&w);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(request_and_response),
        T(pipelined_responses_find_their_requests),
        T(interim_responses_leave_the_request_waiting),
        T(connect_becomes_a_tunnel),
        T(refused_connect_goes_on),
        T(websocket_upgrade),
        T(http2_preface),
        T(other_protocols_are_left_at_once),
        T(broken_requests_wait_for_the_other_side),
        T(http_0_9),
        T(one_sided_responses_to_head_have_no_body),
        T(slow_heads_cost_a_buffer_and_give_it_back),
        T(gap_inside_a_body_is_counted),
        T(gap_over_a_message_resynchronises),
        T(midstream_begins_at_the_next_message),
        T(the_end_of_the_flow_ends_messages),
        T(unwanted_events_are_not_raised),
        T(long_texts_are_cut_for_the_response_only),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
