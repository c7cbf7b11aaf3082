/* SPDX-License-Identifier: Apache-2.0 */
/* The dns module on a fake worker: datagrams, TCP framing cut anywhere, pairing, gaps, detaching.
 */
#include "dns_bytes.h"
#include "fake_worker.h"

extern const nfm_module nfm_module_dns;

enum { CLIENT = 0, SERVER = 1, TCP = 6, UDP = 17, ANY_PORT = 0, ASSEMBLIES = 2 };

static fake_worker w;

static void query(dns_bytes *b, uint16_t id, const char *name) {
    dns_header(b, id, 0x0100, 1, 0);
    dns_question(b, name, 1);
}

static void response(dns_bytes *b, uint16_t id, const char *name) {
    dns_header(b, id, 0x8580, 1, 1);
    dns_question(b, name, 1);
    dns_record(b, 1, 300, "\xc0\0\2\7", 4);
}

static void send_to(int side, const dns_bytes *b) {
    fake_data(&w, side, b->data, b->len);
}

/* Appends |b| with its length before it. */
static void frame(dns_bytes *stream, const dns_bytes *b) {
    dns_u16(stream, b->len);
    dns_raw(stream, b->data, b->len);
}

static void query_and_response(void) {
    dns_bytes b;
    fake_start(&w, &nfm_module_dns, UDP, 53);
    query(&b, 77, "a.example");
    send_to(CLIENT, &b);
    CHECK_HAS(&w, "dns.query", "id=77 opcode=0 qname=a.example qtype=1 qtype_name=A qclass=1");
    CHECK_HAS(&w, "dns.query", "n_questions=1 rd=1 edns_payload=0 edns_do=0 edns_subnet=");
    w.ts_ns += 1500000;
    response(&b, 77, "A.Example");
    send_to(SERVER, &b);
    CHECK_HAS(&w, "dns.response", "rcode=0 rcode_name=NOERROR aa=1 tc=0 ra=1 ad=0 n_answers=1");
    CHECK_HAS(&w, "dns.response", "ttl_min=300 answers=A 192.0.2.7 latency_us=1500");
    send_to(SERVER, &b);
    CHECK_HAS(&w, "dns.response", "latency_us=-1");
    CHECK_EQ(fake_counter(&w, "unmatched_responses"), 1);
    CHECK_EQ(fake_counter(&w, "errors"), 0);
    fake_stop(&w);
}

static void many_queries_forget_the_oldest(void) {
    dns_bytes b;
    fake_start(&w, &nfm_module_dns, UDP, 53);
    for (uint16_t id = 0; id < 9; id++) {
        query(&b, id, "a");
        send_to(CLIENT, &b);
    }
    response(&b, 0, "a");
    send_to(SERVER, &b);
    CHECK_EQ(fake_counter(&w, "unmatched_responses"), 1);
    response(&b, 8, "b"); /* another question */
    send_to(SERVER, &b);
    CHECK_EQ(fake_counter(&w, "unmatched_responses"), 2);
    for (uint16_t id = 1; id < 9; id++) {
        response(&b, id, "a");
        send_to(SERVER, &b);
    }
    CHECK_EQ(fake_counter(&w, "unmatched_responses"), 2);
    fake_stop(&w);
}

static void broken_datagrams_are_told(void) {
    dns_bytes b;
    fake_start(&w, &nfm_module_dns, UDP, 53);
    query(&b, 5, "a.example");
    b.len -= 3;
    send_to(CLIENT, &b);
    CHECK_HAS(&w, "dns.error", "id=5");
    CHECK_HAS(&w, "dns.error", "reason=short offset=23");
    CHECK_EQ(fake_counter(&w, "queries"), 0);
    response(&b, 5, "a.example");
    b.len -= 3;
    send_to(SERVER, &b);
    CHECK_HAS(&w, "dns.response", "n_answers=1");
    CHECK_EQ(fake_counter(&w, "errors"), 2);
    CHECK(!w.detached);
    fake_stop(&w);
}

static void ports(void) {
    static const struct {
        uint16_t port;
        bool any, dns, kept;
    } rows[] = {{53, false, true, true},   {5353, false, true, true}, {5355, false, true, true},
                {123, false, true, false}, {123, true, true, true},   {123, true, false, false}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        dns_bytes b;
        fake_init(&w, &nfm_module_dns, UDP, rows[i].port);
        w.limits[ANY_PORT] = rows[i].any;
        CHECK_EQ(w.module->start(&w.ctx), NFM_OK);
        fake_open(&w);
        query(&b, 1, "x");
        if (!rows[i].dns)
            b.len--;
        send_to(CLIENT, &b);
        CHECK_EQ(w.detached, !rows[i].kept);
        CHECK_EQ(fake_counter(&w, "queries"), rows[i].kept);
        CHECK_EQ(fake_counter(&w, "not_dns"), !rows[i].kept);
        fake_stop(&w);
    }
}

static void two_messages(dns_bytes *stream) {
    dns_bytes b;
    stream->len = 0;
    query(&b, 1, "first.example");
    frame(stream, &b);
    query(&b, 2, "second.example");
    frame(stream, &b);
}

static void streams_may_be_cut_anywhere(void) {
    dns_bytes stream;
    char whole[sizeof(w.log)];
    fake_start(&w, &nfm_module_dns, TCP, 53);
    two_messages(&stream);
    send_to(CLIENT, &stream);
    CHECK_HAS(&w, "dns.query", "id=1 opcode=0 qname=first.example");
    CHECK_HAS(&w, "dns.query", "id=2 opcode=0 qname=second.example");
    memcpy(whole, w.log, w.len + 1);
    for (uint32_t cut = 1; cut < stream.len; cut++) {
        fake_close(&w);
        fake_open(&w);
        fake_data(&w, CLIENT, stream.data, cut);
        fake_data(&w, CLIENT, stream.data + cut, stream.len - cut);
        CHECK(strcmp(w.log, whole) == 0);
    }
    fake_close(&w);
    fake_open(&w);
    for (uint32_t i = 0; i < stream.len; i++)
        fake_data(&w, CLIENT, stream.data + i, 1);
    CHECK(strcmp(w.log, whole) == 0);
    CHECK_EQ(fake_counter(&w, "errors"), 0);
    fake_stop(&w);
}

static void lost_bytes_cost_a_message_or_the_side(void) {
    dns_bytes stream;
    fake_start(&w, &nfm_module_dns, TCP, 53);
    two_messages(&stream);
    uint32_t first = 2 + nfm_read16(stream.data);
    fake_data(&w, CLIENT, stream.data, 20);
    fake_gap(&w, CLIENT, first - 20 - 3);
    fake_data(&w, CLIENT, stream.data + first - 3, stream.len - first + 3);
    CHECK_EQ(fake_counter(&w, "queries"), 1);
    CHECK_HAS(&w, "dns.query", "qname=second.example");
    fake_gap(&w, CLIENT, 1);
    send_to(CLIENT, &stream);
    CHECK_EQ(fake_counter(&w, "queries"), 1);
    CHECK(!w.detached);
    fake_gap(&w, SERVER, UINT32_MAX);
    CHECK(w.detached);
    fake_stop(&w);
}

static void no_room_skips_the_message(void) {
    dns_bytes stream;
    fake_start(&w, &nfm_module_dns, TCP, 53);
    w.limits[ASSEMBLIES] = 0;
    two_messages(&stream);
    fake_data(&w, CLIENT, stream.data, 5);
    fake_data(&w, CLIENT, stream.data + 5, stream.len - 5);
    CHECK_EQ(fake_counter(&w, "no_slot"), 1);
    CHECK_EQ(fake_counter(&w, "queries"), 1);
    CHECK_HAS(&w, "dns.query", "qname=second.example");
    fake_stop(&w);
}

static void other_protocols_are_left(void) {
    static const char *const begins[] = {"GET / HTTP/1.1\r\n\r\n", "SSH-2.0-OpenSSH_9 something x"};
    for (size_t i = 0; i < sizeof(begins) / sizeof(begins[0]); i++) {
        fake_start(&w, &nfm_module_dns, TCP, 53);
        fake_data(&w, CLIENT, begins[i], strlen(begins[i]));
        CHECK(w.detached);
        CHECK_EQ(w.len, 0);
        CHECK_EQ(fake_counter(&w, "not_dns"), 1);
        fake_stop(&w);
    }
    fake_start(&w, &nfm_module_dns, TCP, 53);
    fake_data(&w, CLIENT, "\0\0\0\0", 4);
    CHECK(w.detached);
    fake_stop(&w);
}

static void the_end_of_a_flow_tells_what_is_cut(void) {
    dns_bytes stream;
    fake_start(&w, &nfm_module_dns, TCP, 53);
    two_messages(&stream);
    fake_data(&w, CLIENT, stream.data, stream.len - 1);
    fake_end(&w, NFM_END_RESET);
    CHECK_HAS(&w, "dns.error", "reason=incomplete");
    CHECK_EQ(fake_counter(&w, "incomplete"), 1);
    CHECK_EQ(fake_counter(&w, "queries"), 1);
    fake_stop(&w);
}

static void unwanted_events_are_not_raised(void) {
    dns_bytes b;
    fake_start(&w, &nfm_module_dns, UDP, 53);
    w.unwanted = ~UINT64_C(0);
    query(&b, 1, "x");
    send_to(CLIENT, &b);
    b.len--;
    send_to(CLIENT, &b);
    CHECK_EQ(w.len, 0);
    CHECK_EQ(fake_counter(&w, "queries"), 1);
    CHECK_EQ(fake_counter(&w, "errors"), 1);
    fake_stop(&w);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(query_and_response),
        T(many_queries_forget_the_oldest),
        T(broken_datagrams_are_told),
        T(ports),
        T(streams_may_be_cut_anywhere),
        T(lost_bytes_cost_a_message_or_the_side),
        T(no_room_skips_the_message),
        T(other_protocols_are_left),
        T(the_end_of_a_flow_tells_what_is_cut),
        T(unwanted_events_are_not_raised),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
