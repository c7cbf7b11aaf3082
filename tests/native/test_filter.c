/* SPDX-License-Identifier: Apache-2.0 */
/* Filters against libpcap's own judgement, and what a flow's key decides against what each of its
 * packets gets. */
#include "event/filter.h"
#include "nfm_test.h"

#include <pcap/pcap.h>

typedef struct world { /* one record of one flow in one slot */
    uint8_t slot[NFM_SLOT_SMALL];
    nfm_record record;
    nfm_flow_info flow;
    nfm_mem mem;
} world;

static uint64_t random64(uint64_t *state) { /* xorshift64* */
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

static uint32_t below(uint64_t *state, uint32_t n) {
    return (uint32_t)(random64(state) >> 33) % n;
}

static uint16_t some_port(uint64_t *rng) {
    static const uint16_t ports[] = {80, 443, 53, 1024, 5000};
    return ports[below(rng, 5)];
}

static void some_address(uint64_t *rng, uint8_t *addr, bool v4) {
    static const uint8_t v4s[4][4] = {{10, 0, 0, 1}, {10, 1, 0, 1}, {192, 168, 0, 1}, {8, 8, 8, 8}};
    memset(addr, 0, 16);
    if (v4) {
        memcpy(addr, v4s[below(rng, 4)], 4);
        return;
    }
    memcpy(addr, "\x20\x01\x0d\xb8", 4);
    addr[15] = (uint8_t)(1 + below(rng, 3));
}

/* A random flow, as seen from a first packet. */
static void make_flow(uint64_t *rng, nfm_flow_info *flow) {
    static const uint8_t protos[] = {6, 17, 132, 1, 58, 47};
    memset(flow, 0, sizeof(*flow));
    flow->ip_version = below(rng, 2) ? 4 : 6;
    flow->proto = protos[below(rng, 6)];
    some_address(rng, flow->addr[0], flow->ip_version == 4);
    some_address(rng, flow->addr[1], flow->ip_version == 4);
    flow->port[0] = some_port(rng);
    flow->port[1] = some_port(rng);
    flow->id = 7;
}

static uint32_t put_ip(uint64_t *rng, const nfm_flow_info *flow, uint8_t side, uint8_t *p,
                       bool extension) {
    uint32_t len = flow->ip_version == 4 ? 4 : 16, words = 5 + below(rng, 3);
    for (uint32_t i = 0; i < 60; i++)
        p[i] = (uint8_t)random64(rng);
    if (flow->ip_version == 4) {
        p[0] = (uint8_t)(0x40 | words);
        p[6] &= 0xe0; /* a whole packet, or a first fragment */
        p[7] = 0;
        p[9] = flow->proto;
        memcpy(p + 12, flow->addr[side], len);
        memcpy(p + 16, flow->addr[side ^ 1], len);
        return words * 4;
    }
    p[0] = (uint8_t)(0x60 | (p[0] & 0xf));
    p[6] = extension ? 60 : flow->proto;
    memcpy(p + 8, flow->addr[side], len);
    memcpy(p + 24, flow->addr[side ^ 1], len);
    if (!extension)
        return 40;
    p[40] = flow->proto; /* destination options, 8 bytes */
    p[41] = 0;
    return 48;
}

/* A random packet of the world's flow, sent by |side|. */
static void make_packet(uint64_t *rng, world *w, uint8_t side, bool extension) {
    uint8_t *ip = w->slot + NFM_HEADROOM + 14;
    nfm_record *r = &w->record;
    memset(r, 0, sizeof(*r));
    uint32_t l4 = put_ip(rng, &w->flow, side, ip, extension), len = 20 + below(rng, 100);
    for (uint32_t i = 0; i < len; i++)
        ip[l4 + i] = (uint8_t)random64(rng);
    if (w->flow.proto == 6 || w->flow.proto == 17 || w->flow.proto == 132) {
        nfm_write16(ip + l4, w->flow.port[side]);
        nfm_write16(ip + l4 + 2, w->flow.port[side ^ 1]);
    }
    r->kind = NFM_REC_PACKET;
    r->side = side;
    r->proto = w->flow.proto;
    r->flow = w->flow.id;
    r->frame_len = 14 + l4 + len;
    r->wire_len = r->frame_len + below(rng, 2) * below(rng, 200);
    r->l3_off = NFM_HEADROOM + 14;
    r->l4_off = (uint16_t)(r->l3_off + l4);
    r->payload_off = (uint16_t)(r->l4_off + 20);
    r->payload_len = len - 20;
    r->tcp_flags = ip[l4 + 13];
    r->flags = w->flow.ip_version == 6 ? NFM_F_IPV6 : 0;
    r->tcp.retransmits = below(rng, 6);
}

static nfm_filter_input input_of(const world *w, bool with_flow) {
    return (nfm_filter_input){&w->mem, &w->record, with_flow ? &w->flow : NULL, w->slot};
}

static nfm_filter_op bpf_op(const char *text) {
    return (nfm_filter_op){.kind = NFM_OP_BPF, .text = text};
}

static nfm_filter_op number_op(uint8_t kind, uint8_t source, size_t offset, uint32_t compare,
                               uint64_t number) {
    return (nfm_filter_op){
        .kind = NFM_OP_FIELD,
        .compare = compare,
        .number = number,
        .integer = (int64_t)number,
        .field = {"f", kind, source, (uint16_t)offset, "", ""},
    };
}

static nfm_filter *compile(const nfm_filter_op *ops, uint32_t n) {
    nfm_error err = {0};
    nfm_filter *filter = nfm_filter_new(ops, n, &err);
    if (filter == NULL)
        printf("# %s\n", err.text);
    CHECK(filter != NULL);
    return filter;
}

static const char *const expressions[] = {
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "sctp",
    "ip",
    "ip6",
    "port 80",
    "tcp port 443",
    "src port 53",
    "udp dst port 5000",
    "portrange 50-443",
    "host 10.0.0.1",
    "src net 10.0.0.0/8",
    "dst host 2001:db8::2",
    "ip6 net 2001:db8::/32",
    "tcp[tcpflags] & tcp-syn != 0",
    "greater 100",
    "less 90",
    "ip[8] > 100",
    "ip6[7] < 30",
    "icmp[icmptype] = 8",
    "ip[6:2] & 0x1fff = 0",
    "udp[8] & 1 = 1",
    "tcp src port 80 and not dst net 192.168.0.0/16",
    "host 8.8.8.8 or (tcp and ip[1] & 4 != 0)",
    "ip6 protochain 17",
    "len < 120",
    "tcp[0:2] + tcp[2:2] > 1000",
    "ip proto 47",
};
enum { N_EXPRESSIONS = sizeof(expressions) / sizeof(expressions[0]) };

/* One expression, judged by libpcap from text to answer. */
static bool offline(const char *text, const world *w) {
    struct bpf_program program;
    pcap_t *pcap = pcap_open_dead(DLT_RAW, 65535);
    uint32_t cut = w->record.l3_off - NFM_HEADROOM;
    struct pcap_pkthdr header = {.caplen = w->record.frame_len - cut,
                                 .len = w->record.wire_len - cut};
    CHECK_EQ(pcap_compile(pcap, &program, text, 1, PCAP_NETMASK_UNKNOWN), 0);
    bool yes = pcap_offline_filter(&program, &header, w->slot + w->record.l3_off) != 0;
    pcap_freecode(&program);
    pcap_close(pcap);
    return yes;
}

static void test_expressions_agree_with_libpcap(void) {
    static world w;
    uint64_t rng = 11;
    int yes = 0;
    for (int e = 0; e < N_EXPRESSIONS; e++) {
        nfm_filter_op op = bpf_op(expressions[e]);
        nfm_filter *filter = compile(&op, 1);
        for (int i = 0; i < 300 && filter != NULL; i++) {
            make_flow(&rng, &w.flow);
            make_packet(&rng, &w, (uint8_t)below(&rng, 2), below(&rng, 4) == 0);
            nfm_filter_input alone = input_of(&w, false);
            bool got = nfm_filter_eval(filter, &alone), want = offline(expressions[e], &w);
            yes += got;
            if (got != want)
                printf("# %s\n", expressions[e]);
            CHECK_EQ(got, want);
        }
        nfm_filter_free(filter);
    }
    CHECK(yes > 300);
}

/* A random tree of at most 2^depth leaves in postfix order; returns its value by naive recursion
 * over answers that were computed leaf by leaf. */
static bool random_tree(uint64_t *rng, const bool *answers, nfm_filter_op *ops, uint32_t *n,
                        int depth) {
    uint32_t choice = depth == 0 ? 0 : below(rng, 4);
    if (choice == 0) {
        uint32_t e = below(rng, N_EXPRESSIONS);
        ops[(*n)++] = bpf_op(expressions[e]);
        return answers[e];
    }
    bool left = random_tree(rng, answers, ops, n, depth - 1), value = !left;
    if (choice > 1) {
        bool right = random_tree(rng, answers, ops, n, depth - 1);
        value = choice == 2 ? left && right : left || right;
    }
    static const uint32_t kinds[] = {0, NFM_OP_NOT, NFM_OP_AND, NFM_OP_OR};
    ops[(*n)++] = (nfm_filter_op){.kind = kinds[choice]};
    return value;
}

static void test_operators_agree_with_recursion(void) {
    static world w;
    uint64_t rng = 5;
    for (int round = 0; round < 300; round++) {
        bool answers[N_EXPRESSIONS];
        nfm_filter_op ops[128];
        uint32_t n = 0;
        make_flow(&rng, &w.flow);
        make_packet(&rng, &w, 0, false);
        for (int e = 0; e < N_EXPRESSIONS; e++)
            answers[e] = offline(expressions[e], &w);
        bool want = random_tree(&rng, answers, ops, &n, 4);
        nfm_filter *filter = compile(ops, n);
        nfm_filter_input alone = input_of(&w, false);
        if (filter != NULL)
            CHECK_EQ(nfm_filter_eval(filter, &alone), want);
        nfm_filter_free(filter);
    }
}

/* Any leaf: an expression, a field of the key, a field of the record. */
static nfm_filter_op any_leaf(uint64_t *rng) {
    switch (below(rng, 6)) {
    case 0:
        return number_op(NFM_KIND_U16, NFM_FROM_FLOW_SERVER, offsetof(nfm_flow_info, port), NFM_EQ,
                         some_port(rng));
    case 1:
        return number_op(NFM_KIND_BOOL, NFM_FROM_SENDER, 0, NFM_EQ, below(rng, 2));
    case 2:
        return number_op(NFM_KIND_U32, NFM_FROM_RECORD, offsetof(nfm_record, tcp.retransmits),
                         NFM_GT, below(rng, 6));
    default:
        return bpf_op(expressions[below(rng, N_EXPRESSIONS)]);
    }
}

static uint32_t any_program(uint64_t *rng, nfm_filter_op *ops) {
    uint32_t n = 0, leaves = 1 + below(rng, 5);
    for (uint32_t i = 0; i < leaves; i++) {
        ops[n++] = any_leaf(rng);
        if (below(rng, 3) == 0)
            ops[n++] = (nfm_filter_op){.kind = NFM_OP_NOT};
        if (i > 0)
            ops[n++] = (nfm_filter_op){.kind = below(rng, 2) ? NFM_OP_AND : NFM_OP_OR};
    }
    return n;
}

/* What the key decides, every packet of that flow and side gets, extension headers or not, and so
 * do records without a packet. */
static void test_the_key_decides_what_packets_get(void) {
    static world w;
    uint64_t rng = 99;
    int decided[3] = {0, 0, 0};
    for (int round = 0; round < 1500; round++) {
        nfm_filter_op ops[16];
        nfm_filter *filter = compile(ops, any_program(&rng, ops));
        if (filter == NULL)
            return;
        make_flow(&rng, &w.flow);
        uint8_t side = (uint8_t)below(&rng, 2), client = (uint8_t)below(&rng, 2);
        int truth = nfm_filter_eval_key(filter, &w.flow, side, client);
        decided[truth]++;
        CHECK(truth != NFM_NOT_YET || !nfm_filter_is_key_only(filter));
        for (int i = 0; i < 20 && truth != NFM_NOT_YET; i++) {
            make_packet(&rng, &w, side, below(&rng, 2) == 0);
            w.record.flags |= client ? NFM_F_CLIENT_IS_1 : 0;
            w.record.flags |= below(&rng, 4) == 0 ? NFM_F_FRAGMENT : 0;
            nfm_filter_input input = input_of(&w, true);
            if (below(&rng, 4) == 0)
                input.base = NULL;
            CHECK_EQ(nfm_filter_eval(filter, &input), truth == NFM_YES);
        }
        nfm_filter_free(filter);
    }
    CHECK(decided[NFM_NO] > 100 && decided[NFM_YES] > 100 && decided[NFM_NOT_YET] > 100);
}

static void test_key_only_expressions(void) {
    static const struct {
        const char *text;
        int key_only;
    } table[] = {
        {"", 1},
        {"tcp", 1},
        {"tcp port 80", 1},
        {"host 10.0.0.1", 1},
        {"ip6", 1},
        {"src net 10.0.0.0/8 and not port 53", 1},
        {"portrange 1-1024", 1},
        {"icmp", 1},
        {"sctp dst port 9", 1},
        {"ip6 host ::1 or net 10", 1},
        {"ip proto 47", 1},
        {"ip[6:2] & 0x1fff = 0", 1},
        {"greater 100", 0},
        {"ip[8] > 3", 0},
        {"len > 5", 0},
        {"tcp[tcpflags] & tcp-syn != 0", 0},
        {"icmp[icmptype] = 8", 0},
        {"ip6 protochain 6", 0},
        {"ip[6] & 0x20 != 0", 0},
        {"tcp port 80 and tcp[13] & 2 != 0", 0},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        nfm_filter_op op = bpf_op(table[i].text);
        nfm_filter *filter = compile(&op, 1);
        if (filter != NULL && nfm_filter_is_key_only(filter) != table[i].key_only)
            printf("# %s\n", table[i].text);
        CHECK(filter != NULL && nfm_filter_is_key_only(filter) == table[i].key_only);
        nfm_filter_free(filter);
    }
}

/* A flow of another port needs no look at its packets. */
static void test_mixed_expression_is_refused_by_the_key(void) {
    nfm_flow_info flow = {.ip_version = 4, .proto = 6, .port = {1024, 443}};
    nfm_filter_op op = bpf_op("tcp port 80 and tcp[tcpflags] & tcp-syn != 0");
    nfm_filter *filter = compile(&op, 1);
    CHECK_EQ(nfm_filter_eval_key(filter, &flow, 0, 0), NFM_NO);
    flow.port[1] = 80;
    CHECK_EQ(nfm_filter_eval_key(filter, &flow, 0, 0), NFM_NOT_YET);
    flow.proto = 17;
    CHECK_EQ(nfm_filter_eval_key(filter, &flow, 0, 0), NFM_NO);
    nfm_filter_free(filter);
}

static void test_frame_terms_see_the_link_layer(void) {
    static world w;
    uint64_t rng = 3;
    nfm_filter_op op = {.kind = NFM_OP_BPF_L2, .text = "ether src 02:00:00:00:00:07"};
    nfm_filter *filter = compile(&op, 1);
    make_flow(&rng, &w.flow);
    make_packet(&rng, &w, 0, false);
    nfm_filter_input input = input_of(&w, true);
    CHECK(!nfm_filter_eval(filter, &input));
    memcpy(w.slot + NFM_HEADROOM + 6, "\x02\0\0\0\0\x07", 6);
    CHECK(nfm_filter_eval(filter, &input));
    CHECK_EQ(nfm_filter_eval_key(filter, &w.flow, 0, 0), NFM_NOT_YET);
    w.record.flags |= NFM_F_NOT_ETHERNET;
    CHECK(!nfm_filter_eval(filter, &input));
    nfm_filter_free(filter);
}

static bool judge(const nfm_filter_op *op, const nfm_filter_input *input) {
    nfm_filter *filter = compile(op, 1);
    bool yes = filter != NULL && nfm_filter_eval(filter, input);
    nfm_filter_free(filter);
    return yes;
}

static void test_numbers_compare_by_kind(void) {
    static world w;
    uint64_t rng = 4;
    make_flow(&rng, &w.flow);
    make_packet(&rng, &w, 0, false);
    nfm_filter_input input = input_of(&w, true);
    w.record.ts_ns = -5;
    w.record.tcp.retransmits = 0xffffffffu;
    nfm_filter_op time = number_op(NFM_KIND_TIME, NFM_FROM_RECORD, 0, NFM_LT, 3);
    CHECK(judge(&time, &input));
    time.field.kind = NFM_KIND_U64;
    CHECK(!judge(&time, &input));
    static const struct {
        uint32_t compare;
        uint64_t number;
        int yes;
    } table[] = {
        {NFM_EQ, 0xffffffff, 1}, {NFM_EQ, 1, 0},          {NFM_NE, 1, 1},
        {NFM_GT, 0xfffffffe, 1}, {NFM_GE, 0xffffffff, 1}, {NFM_LT, 0x100000000, 1},
        {NFM_LE, 0xfffffffe, 0},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        nfm_filter_op op =
            number_op(NFM_KIND_U32, NFM_FROM_RECORD, offsetof(nfm_record, tcp.retransmits),
                      table[i].compare, table[i].number);
        CHECK_EQ(judge(&op, &input), table[i].yes);
    }
}

static void test_addresses_compare_by_family(void) {
    static world w;
    uint64_t rng = 4;
    make_flow(&rng, &w.flow);
    w.flow.ip_version = 4;
    memcpy(w.flow.addr[0], (uint8_t[16]){10, 1, 2, 3}, 16);
    make_packet(&rng, &w, 0, false);
    nfm_filter_input input = input_of(&w, true);
    static const uint8_t net[16] = {10, 1, 2, 0};
    nfm_filter_op op = {.kind = NFM_OP_FIELD,
                        .compare = NFM_IN_NET,
                        .field = {"src_ip", NFM_KIND_ADDR, NFM_FROM_FLOW_SRC, 0, "", ""},
                        .bytes = net,
                        .bytes_len = 4,
                        .prefix = 22};
    CHECK(judge(&op, &input));
    op.prefix = 31;
    CHECK(!judge(&op, &input));
    op.prefix = 0;
    CHECK(judge(&op, &input));
    op.bytes_len = 16; /* ::/0 holds no IPv4 address */
    CHECK(!judge(&op, &input));
    op.compare = NFM_NE;
    CHECK(judge(&op, &input));
    w.record.side = 1;
    op.compare = NFM_EQ;
    op.bytes_len = 4;
    op.bytes = w.flow.addr[1];
    CHECK(judge(&op, &input));
}

static void test_text_of_application_events(void) {
    static world w;
    static uint8_t region[64];
    uint32_t cell[2] = {8, 11};
    nfm_field_def field = {"method", NFM_KIND_STR, NFM_FROM_FIELDS, 0, "", ""};
    w.mem = (nfm_mem){.fields = region, .fields_size = sizeof(region)};
    w.record = (nfm_record){.kind = NFM_REC_APP, .app = {.fields = 16, .fields_len = 19}};
    memcpy(region + 16, cell, 8);
    memcpy(region + 24, "hello world", 11);
    nfm_filter_input input = {&w.mem, &w.record, NULL, NULL};
    static const struct {
        uint32_t compare;
        const char *text;
        int yes;
    } table[] = {
        {NFM_EQ, "hello world", 1},
        {NFM_EQ, "hello", 0},
        {NFM_NE, "hello", 1},
        {NFM_STARTSWITH, "hell", 1},
        {NFM_STARTSWITH, "world", 0},
        {NFM_ENDSWITH, "rld", 1},
        {NFM_ENDSWITH, "hello world!", 0},
        {NFM_CONTAINS, "o w", 1},
        {NFM_CONTAINS, "ow", 0},
        {NFM_CONTAINS, "", 1},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        nfm_filter_op op = {.kind = NFM_OP_FIELD,
                            .compare = table[i].compare,
                            .field = field,
                            .bytes = (const uint8_t *)table[i].text,
                            .bytes_len = (uint32_t)strlen(table[i].text)};
        w.record.kind = NFM_REC_APP;
        CHECK_EQ(judge(&op, &input), table[i].yes);
        w.record.kind = NFM_REC_PACKET; /* has no such field: neither equal nor different */
        CHECK(!judge(&op, &input));
    }
}

static void refused(const nfm_filter_op *ops, uint32_t n, const char *word) {
    nfm_error err = {0};
    nfm_filter *filter = nfm_filter_new(ops, n, &err);
    CHECK(filter == NULL);
    CHECK(err.code < 0 && strstr(err.text, word) != NULL);
    nfm_filter_free(filter);
}

static void test_bad_programs_are_refused(void) {
    nfm_filter_op tcp = bpf_op("tcp"), bad = bpf_op("tcp prot 80"), none = bpf_op(NULL);
    nfm_filter_op and_ = {.kind = NFM_OP_AND}, odd = {.kind = 77};
    nfm_filter_op big = number_op(NFM_KIND_U64, NFM_FROM_RECORD, 124, NFM_EQ, 1);
    nfm_filter_op kind = number_op(NFM_KIND_U64, NFM_FROM_RECORD, 0, NFM_CONTAINS, 1);
    refused(NULL, 0, "steps");
    refused(&bad, 1, "syntax error");
    refused(&none, 1, "no pcap expression");
    refused(&and_, 1, "operand");
    refused((nfm_filter_op[]){tcp, and_}, 2, "operand");
    refused((nfm_filter_op[]){tcp, tcp}, 2, "2 expressions");
    refused((nfm_filter_op[]){tcp, bad, and_}, 3, "syntax error");
    refused(&odd, 1, "unknown kind");
    refused(&big, 1, "valid place");
    refused(&kind, 1, "does not fit");
    nfm_filter_free(NULL);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(test_expressions_agree_with_libpcap),
        T(test_operators_agree_with_recursion),
        T(test_the_key_decides_what_packets_get),
        T(test_key_only_expressions),
        T(test_mixed_expression_is_refused_by_the_key),
        T(test_frame_terms_see_the_link_layer),
        T(test_numbers_compare_by_kind),
        T(test_addresses_compare_by_family),
        T(test_text_of_application_events),
        T(test_bad_programs_are_refused),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
