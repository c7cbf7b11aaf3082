/* SPDX-License-Identifier: Apache-2.0 */
/* The DNS parser: names and their traps, record types as text, EDNS, every truncation. */
#include "../../stack_modules/dns/dns_parse.h"
#include "dns_bytes.h"
#include "nfm_test.h"

static char qname[NFM__DNS_NAME_TEXT], subnet[NFM__DNS_SUBNET_TEXT], answers[8192];

static nfm__dns_message parse(const dns_bytes *b, uint32_t room) {
    nfm__dns_message m = {.qname = {.data = qname, .cap = sizeof(qname)},
                          .subnet = {.data = subnet, .cap = sizeof(subnet)},
                          .answers = {.data = answers, .cap = room}};
    CHECK_EQ(nfm__dns_parse((nfm_view){nfm_guarded(b->data, b->len), b->len}, &m), m.error);
    return m;
}

static int is(const nfm__dns_text *t, const char *want) {
    if (t->len == strlen(want) && memcmp(t->data, want, t->len) == 0)
        return 1;
    printf("# \"%.*s\", want \"%s\"\n", (int)t->len, t->data, want);
    return 0;
}

static void header_and_question(void) {
    dns_bytes b;
    dns_header(&b, 0x1234, 0x0100, 1, 0);
    dns_question(&b, "www.Example.com", NFM__DNS_AAAA);
    nfm__dns_message m = parse(&b, 100);
    CHECK_EQ(m.error, NFM__DNS_OK);
    CHECK_EQ(m.id, 0x1234);
    CHECK_EQ(m.flags, 0x0100);
    CHECK_EQ(m.qtype, 28);
    CHECK_EQ(m.qclass, 1);
    CHECK(m.has_question);
    CHECK(is(&m.qname, "www.Example.com"));
    dns_header(&b, 1, 0, 1, 0);
    dns_question(&b, "", NFM__DNS_NS);
    m = parse(&b, 100);
    CHECK(is(&m.qname, "."));
}

/* What a name of raw bytes at offset 12 gives. */
static int name_error(const void *bytes, size_t len, const char *text) {
    dns_bytes b;
    dns_header(&b, 1, 0, 1, 0);
    dns_raw(&b, bytes, len);
    dns_u32(&b, 0x00010001);
    nfm__dns_message m = parse(&b, 10);
    if (text != NULL)
        CHECK(is(&m.qname, text));
    CHECK(m.qname.len <= m.qname.cap && !m.qname.cut);
    return m.error;
}

static void names_are_escaped(void) {
    CHECK_EQ(name_error("\4a.b;\3\\\"\x7f\2 \n\0", 13, "a\\.b\\059.\\\\\\\"\\127.\\032\\010"), 0);
    CHECK_EQ(name_error("\5(@$)\xff\0", 7, "\\(\\@\\$\\)\\255"), 0);
    uint8_t longest[256];
    memset(longest, 0xff, sizeof(longest));
    longest[0] = longest[64] = longest[128] = 63;
    longest[192] = 61;
    longest[254] = 0;
    CHECK_EQ(name_error(longest, 255, NULL), NFM__DNS_OK);
    longest[192] = 62;
    longest[255] = 0;
    CHECK_EQ(name_error(longest, 256, NULL), NFM__DNS_E_NAME);
}

static void names_cannot_trap_the_parser(void) {
    CHECK_EQ(name_error("\xc0\x0c", 2, NULL), NFM__DNS_E_POINTER);      /* itself */
    CHECK_EQ(name_error("\1a\xc0\x0c", 4, NULL), NFM__DNS_E_POINTER);   /* its own begin */
    CHECK_EQ(name_error("\xc0\x0e\1a\0", 5, NULL), NFM__DNS_E_POINTER); /* forwards */
    CHECK_EQ(name_error("\xff\xff", 2, NULL), NFM__DNS_E_POINTER);      /* out of the message */
    CHECK_EQ(name_error("\x41x\0", 3, NULL), NFM__DNS_E_LABEL);
    CHECK_EQ(name_error("\x80x\0", 3, NULL), NFM__DNS_E_LABEL);
    CHECK_EQ(name_error("\x3fxyz", 4, NULL), NFM__DNS_E_SHORT);
}

/* A message of names that each walk over a long chain is cut off by the budget. */
static void work_is_bounded(void) {
    static dns_bytes b;
    dns_header(&b, 1, 0x8000, 1, 300);
    for (int i = 0; i < 120; i++)
        dns_raw(&b, "\1a", 2);
    dns_raw(&b, "\0\0\1\0\1", 5);
    for (int i = 0; i < 300; i++)
        dns_record(&b, 300, 0, "", 0);
    nfm__dns_message m = parse(&b, sizeof(answers));
    CHECK_EQ(m.error, NFM__DNS_E_WORK);
    CHECK(m.n_answers > 60 && m.n_answers < 70);
}

/* The text of one answer of |type| with these data. */
static nfm__dns_message answer(uint16_t type, const void *data, size_t len) {
    dns_bytes b;
    dns_header(&b, 7, 0x8180, 1, 1);
    dns_question(&b, "a.bc", type);
    dns_record(&b, type, 60, data, len);
    return parse(&b, sizeof(answers));
}

static void check_answer(uint16_t type, const void *data, size_t len, const char *want) {
    nfm__dns_message m = answer(type, data, len);
    CHECK_EQ(m.error, NFM__DNS_OK);
    CHECK(is(&m.answers, want));
    CHECK_EQ(m.n_answers, 1);
    CHECK_EQ(m.ttl_min, 60);
}

static void record_types_as_text(void) {
    check_answer(1, "\xc0\0\2\1", 4, "A 192.0.2.1");
    check_answer(28, " \1\r\xb8\0\0\0\0\0\0\0\0\0\0\0\1", 16, "AAAA 2001:db8::1");
    check_answer(5, "\1x\xc0\x0c", 4, "CNAME x.a.bc");
    check_answer(2, "\xc0\x0e", 2, "NS bc");
    check_answer(12, "\0", 1, "PTR .");
    check_answer(39, "\1d\0", 3, "DNAME d");
    check_answer(15, "\0\x0a\2mx\xc0\x0c", 7, "MX 10 mx.a.bc");
    check_answer(16, "\2hi\5a;\"\n ", 9, "TXT \"hi\" \"a\\059\\\"\\010 \"");
    check_answer(33, "\0\1\0\2\x1f\x90\1s\0", 9, "SRV 1 2 8080 s");
    check_answer(6, "\1n\0\1r\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0\4\xff\xff\xff\xff", 26,
                 "SOA n r 1 2 3 4 4294967295");
    check_answer(257, "\0\5issuele.org", 13, "CAA 0 issue \"le.org\"");
    check_answer(13, "\3CPU\2OS", 7, "HINFO \"CPU\" \"OS\"");
    check_answer(10, "\x01\xab", 2, "NULL \\# 2 01ab");
    check_answer(65280, "", 0, "TYPE65280 \\# 0");
}

static void service_bindings_as_text(void) {
    static const uint8_t https[] = "\0\1\0" /* 1 . */
                                   "\0\1\0\6\2h2\2h3"
                                   "\0\2\0\0"
                                   "\0\3\0\2\1\xbb"
                                   "\0\4\0\x8\xc0\0\2\1\xc0\0\2\2"
                                   "\0\6\0\x10 \1\r\xb8\0\0\0\0\0\0\0\0\0\0\0\1"
                                   "\0\5\0\2\xca\xfe"
                                   "\xff\0\0\1\7";
    check_answer(65, https, sizeof(https) - 1,
                 "HTTPS 1 . alpn=\"h2\",\"h3\" no-default-alpn port=443 "
                 "ipv4hint=192.0.2.1,192.0.2.2 ipv6hint=2001:db8::1 ech=cafe key65280=07");
    check_answer(64, "\0\0\1x\0", 5, "SVCB 0 x");
}

static void data_that_do_not_fit_become_hexadecimal(void) {
    static const struct {
        uint16_t type;
        const char *data;
        size_t len;
        const char *want;
    } rows[] = {
        {1, "\1\2\3", 3, "A \\# 3 010203"},
        {28, "\1\2\3\4", 4, "AAAA \\# 4 01020304"},
        {5, "\1x\0\0", 4, "CNAME \\# 4 01780000"},
        {15, "\1", 1, "MX \\# 1 01"},
        {16, "\3hi", 3, "TXT \\# 3 036869"},
        {6, "\0\0\0", 3, "SOA \\# 3 000000"},
        {257, "\0\x9x", 3, "CAA \\# 3 000978"},
        {65, "\0\1\0\0\1\0\5x", 8, "HTTPS \\# 8 0001000001000578"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        nfm__dns_message m = answer(rows[i].type, rows[i].data, rows[i].len);
        CHECK_EQ(m.error, NFM__DNS_E_RDATA);
        CHECK(is(&m.answers, rows[i].want));
    }
}

static void answers_that_do_not_fit_are_counted(void) {
    dns_bytes b;
    dns_header(&b, 7, 0x8180, 1, 3);
    dns_question(&b, "a.bc", 1);
    dns_record(&b, 1, 60, "\1\1\1\1", 4);
    dns_record(&b, 5, 5, "\4abcd\0", 6);
    dns_record(&b, 1, 99, "\1\1\1\1", 4);
    nfm__dns_message m = parse(&b, 100);
    CHECK(is(&m.answers, "A 1.1.1.1;CNAME abcd;A 1.1.1.1"));
    CHECK_EQ(m.ttl_min, 5);
    m = parse(&b, 15);
    CHECK(is(&m.answers, "A 1.1.1.1"));
    CHECK(m.answers.cut);
    CHECK_EQ(m.n_answers, 3);
    CHECK_EQ(m.error, NFM__DNS_OK);
}

static void edns(void) {
    static const uint8_t opt[] = "\0\0\x29\x10\0\1\0\x80\0\0\x0b"
                                 "\0\x8\0\7\0\1\x18\0\xc0\0\2";
    dns_bytes b;
    dns_header(&b, 7, 0x8180, 1, 0);
    b.data[11] = 1;
    dns_question(&b, "a", 1);
    dns_raw(&b, opt, sizeof(opt) - 1);
    nfm__dns_message m = parse(&b, 100);
    CHECK_EQ(m.error, NFM__DNS_OK);
    CHECK_EQ(m.edns_payload, 4096);
    CHECK_EQ(m.rcode, 16);
    CHECK(m.edns_do);
    CHECK(is(&m.subnet, "192.0.2.0/24"));
    b.data[b.len - 6] = 3; /* no such address family */
    m = parse(&b, 100);
    CHECK_EQ(m.error, NFM__DNS_E_RDATA);
}

static void trailing_bytes_are_told(void) {
    dns_bytes b;
    dns_header(&b, 7, 0x0100, 1, 0);
    dns_question(&b, "a", 1);
    dns_raw(&b, "x", 1);
    nfm__dns_message m = parse(&b, 100);
    CHECK_EQ(m.error, NFM__DNS_E_TRAILING);
    CHECK_EQ(m.error_off, b.len - 1);
    CHECK(m.has_question);
}

static void every_truncation_is_survived(void) {
    dns_bytes whole;
    dns_header(&whole, 7, 0x8180, 1, 3);
    dns_question(&whole, "www.example.com", 1);
    dns_record(&whole, 5, 60, "\1x\xc0\x10", 4);
    dns_record(&whole, 16, 60, "\5hello", 6);
    dns_record(&whole, 6, 60, "\1n\0\1r\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0\4\0\0\0\5", 26);
    CHECK_EQ(parse(&whole, 200).error, NFM__DNS_OK);
    uint32_t len = whole.len;
    for (uint32_t cut = 0; cut < len; cut++) {
        dns_bytes b = whole;
        b.len = cut;
        nfm__dns_message m = parse(&b, 200);
        CHECK_EQ(m.error, cut < 12 ? NFM__DNS_E_HEADER : NFM__DNS_E_SHORT);
        CHECK_EQ(m.has_question, cut >= 33);
        CHECK(m.error_off <= cut);
    }
}

static void plausible_headers(void) {
    static const struct {
        const char *header;
        bool want;
    } rows[] = {
        {"\1\2\1\0\0\1\0\0\0\0\0\0", true},    {"\1\2\x81\x80\0\1\0\5\0\0\0\1", true},
        {"\0\0\x84\0\0\0\0\1\0\0\0\0", true},  {"\1\2\1\0\0\0\0\0\0\0\0\0", false},
        {"\1\2\1\0\0\1\0\1\0\0\0\0", false},   {"\1\2\x18\0\0\1\0\0\0\0\0\0", false},
        {"\1\2\0\x40\0\1\0\0\0\0\0\0", false}, {"GET / HTTP/1", false},
        {"\x16\3\1\2\0\1\0\1\xfc\3\3", false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        CHECK_EQ(nfm__dns_plausible((nfm_view){(const uint8_t *)rows[i].header, 12}), rows[i].want);
    CHECK(!nfm__dns_plausible((nfm_view){(const uint8_t *)rows[0].header, 11}));
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(header_and_question),
        T(names_are_escaped),
        T(names_cannot_trap_the_parser),
        T(work_is_bounded),
        T(record_types_as_text),
        T(service_bindings_as_text),
        T(data_that_do_not_fit_become_hexadecimal),
        T(answers_that_do_not_fit_are_counted),
        T(edns),
        T(trailing_bytes_are_told),
        T(every_truncation_is_survived),
        T(plausible_headers),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
