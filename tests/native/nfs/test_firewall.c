/* SPDX-License-Identifier: Apache-2.0 */
/* The classifier against a linear scan, and verdicts on hand-made packets. */
#include "classify.h"
#include "nfm/nfm.h"
#include "nfm_test.h"
#include "wire/emit.h"

enum { MAX_RULES = 9000, MAX_RANGES = 100000 };

/* ---- random rules --------------------------------------------------------------------------- */

typedef struct ruleset {
    firewall_range *ranges;
    uint8_t *action, *bounded;
    uint32_t *before;
    firewall_rules rules;
} ruleset;

static uint64_t next_random(uint64_t *x) { /* xorshift64 (Marsaglia 2003) */
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static uint32_t below(uint64_t *x, uint32_t n) {
    return (uint32_t)(next_random(x) >> 11) % n;
}

static ruleset new_ruleset(uint32_t n) {
    ruleset r = {.ranges = calloc(MAX_RANGES, sizeof(*r.ranges)),
                 .action = calloc(MAX_RULES, 1),
                 .bounded = calloc(MAX_RULES, 1),
                 .before = malloc(MAX_RULES * sizeof(*r.before))};
    memset(r.before, 0xff, MAX_RULES * sizeof(*r.before));
    r.rules = (firewall_rules){.action = r.action,
                               .bounded = r.bounded,
                               .before = r.before,
                               .ranges = r.ranges,
                               .max_bytes = UINT64_C(1) << 30,
                               .n_rules = n,
                               .policy = FIREWALL_DROP};
    return r;
}

static void free_ruleset(ruleset *r) {
    free(r->ranges);
    free(r->action);
    free(r->bounded);
    free(r->before);
}

static void bound(ruleset *r, uint32_t rule, uint32_t dim, firewall_number first,
                  firewall_number last) {
    r->bounded[rule] |= (uint8_t)(1u << dim);
    r->ranges[r->rules.n_ranges++] =
        (firewall_range){.first = first, .last = last, .rule = rule, .dim = dim};
}

/* A prefix of a few hot networks, or of any. */
static void bound_prefix(ruleset *r, uint64_t *x, uint32_t rule, uint32_t dim) {
    bool ipv6 = dim == FIREWALL_SRC6 || dim == FIREWALL_DST6;
    unsigned bits = ipv6 ? 64 : 32, len = 4 + below(x, bits - 3);
    uint64_t mask = len == 64 ? 0 : UINT64_MAX >> (64 - bits) >> len;
    uint64_t value = next_random(x) >> (64 - bits);
    if (below(x, 2))
        value = (value & (UINT64_MAX >> (64 - bits) >> 8)) | (UINT64_C(10) << (bits - 8));
    value &= ~mask;
    if (ipv6)
        bound(r, rule, dim, (firewall_number){value, 0}, (firewall_number){value | mask, ~0ull});
    else
        bound(r, rule, dim, (firewall_number){0, value}, (firewall_number){0, value | mask});
}

static void bound_numbers(ruleset *r, uint64_t *x, uint32_t rule, uint32_t dim, uint32_t most) {
    uint32_t first = below(x, most + 1), last = first;
    if (below(x, 2))
        last = first + below(x, most - first + 1);
    bound(r, rule, dim, (firewall_number){0, first}, (firewall_number){0, last});
    if (last < most - 1 && below(x, 4) == 0) /* a second range */
        bound(r, rule, dim, (firewall_number){0, last + 2}, (firewall_number){0, most});
}

static ruleset random_rules(uint64_t seed, uint32_t n, uint32_t rich) {
    ruleset r = new_ruleset(n);
    uint64_t x = seed;
    for (uint32_t rule = 0; rule < n; rule++) {
        r.action[rule] = (uint8_t)below(&x, 3);
        for (uint32_t dim = FIREWALL_SRC4; dim <= FIREWALL_DST6; dim++)
            if (below(&x, 8) < rich)
                bound_prefix(&r, &x, rule, dim);
        if (below(&x, 8) < rich)
            bound_numbers(&r, &x, rule, FIREWALL_SPORT, below(&x, 2) ? 65535 : 20);
        if (below(&x, 8) < rich)
            bound_numbers(&r, &x, rule, FIREWALL_DPORT, below(&x, 2) ? 65535 : 20);
        if (below(&x, 8) < rich)
            bound_numbers(&r, &x, rule, FIREWALL_KIND, FIREWALL_KINDS - 1);
        if (below(&x, 50) == 0)
            r.bounded[rule] |= 1 << FIREWALL_DPORT; /* and perhaps nothing that matches */
    }
    return r;
}

/* ---- the oracle ----------------------------------------------------------------------------- */

static fw_number wide(firewall_number n) {
    return (fw_number)n.high << 64 | n.low;
}

static bool dim_matches(const ruleset *r, uint32_t rule, uint32_t dim, fw_number key,
                        const uint32_t *first_range) {
    if (!(r->bounded[rule] >> dim & 1))
        return true;
    for (uint32_t i = first_range[rule]; i < first_range[rule + 1]; i++)
        if (r->ranges[i].dim == dim && wide(r->ranges[i].first) <= key &&
            key <= wide(r->ranges[i].last))
            return true;
    return false;
}

static uint32_t scan(const ruleset *r, const firewall_key *key, const uint32_t *first_range) {
    bool ipv6 = key->kind & FIREWALL_IPV6;
    for (uint32_t rule = 0; rule < r->rules.n_rules; rule++)
        if (dim_matches(r, rule, ipv6 ? FIREWALL_SRC6 : FIREWALL_SRC4, wide(key->src),
                        first_range) &&
            dim_matches(r, rule, ipv6 ? FIREWALL_DST6 : FIREWALL_DST4, wide(key->dst),
                        first_range) &&
            dim_matches(r, rule, FIREWALL_SPORT, key->sport, first_range) &&
            dim_matches(r, rule, FIREWALL_DPORT, key->dport, first_range) &&
            dim_matches(r, rule, FIREWALL_KIND, key->kind, first_range))
            return rule;
    return FIREWALL_NO_RULE;
}

static firewall_number near(uint64_t *x, firewall_number edge) { /* it, or a neighbour */
    fw_number n = wide(edge) + below(x, 3) - 1;
    return (firewall_number){(uint64_t)(n >> 64), (uint64_t)n};
}

/* A packet near the ends of some rule's ranges: there classifiers go wrong. */
static firewall_key key_near(const ruleset *r, uint64_t *x, const uint32_t *first_range) {
    uint32_t rule = below(x, r->rules.n_rules), ipv6 = below(x, 2);
    firewall_key key = {.src = {ipv6 ? next_random(x) : 0, next_random(x) >> 32},
                        .dst = {ipv6 ? next_random(x) : 0, next_random(x) >> 32},
                        .sport = below(x, 65537),
                        .dport = below(x, 65537)};
    uint32_t kind = below(x, FIREWALL_KINDS);
    for (uint32_t i = first_range[rule]; i < first_range[rule + 1]; i++) {
        const firewall_range *range = &r->ranges[i];
        firewall_number at = near(x, below(x, 2) ? range->first : range->last);
        if (range->dim == (ipv6 ? FIREWALL_SRC6 : FIREWALL_SRC4))
            key.src = at;
        else if (range->dim == (ipv6 ? FIREWALL_DST6 : FIREWALL_DST4))
            key.dst = at;
        else if (range->dim == FIREWALL_SPORT)
            key.sport = (uint32_t)at.low & 0x1ffff;
        else if (range->dim == FIREWALL_DPORT)
            key.dport = (uint32_t)at.low & 0x1ffff;
        else if (range->dim == FIREWALL_KIND)
            kind = (uint32_t)at.low % FIREWALL_KINDS;
    }
    if (!ipv6)
        key.src.high = key.dst.high = 0, key.src.low &= UINT32_MAX, key.dst.low &= UINT32_MAX;
    key.kind = (kind & ~(uint32_t)FIREWALL_IPV6) | (ipv6 ? FIREWALL_IPV6 : 0);
    return key;
}

static void compare(uint64_t seed, uint32_t n, uint32_t rich, uint32_t keys) {
    ruleset r = random_rules(seed, n, rich);
    char text[100];
    uint32_t *first_range = calloc(n + 1, sizeof(*first_range));
    for (uint32_t rule = 0, i = 0; rule <= n; rule++) {
        while (i < r.rules.n_ranges && r.ranges[i].rule < rule)
            i++;
        first_range[rule] = i;
    }
    firewall_table *table = firewall_compile(&r.rules, text, sizeof(text));
    CHECK(table != NULL);
    uint64_t x = seed ^ 0x5555;
    for (uint32_t i = 0; i < keys && !nfm_test_failed; i++) {
        firewall_key key = key_near(&r, &x, first_range);
        CHECK_EQ(firewall_match(table, &key), scan(&r, &key, first_range));
    }
    firewall_table_free(table);
    free(first_range);
    free_ruleset(&r);
}

static void first_match_is_that_of_a_linear_scan(void) {
    for (uint64_t seed = 1; seed < 60; seed++)
        compare(seed * 77, 1 + (uint32_t)seed * 3, 1 + (uint32_t)seed % 8, 400);
}

static void it_is_so_for_thousands_of_rules(void) {
    compare(99, 5000, 3, 300);
    compare(98, MAX_RULES, 2, 200);
    compare(97, MAX_RULES, 7, 300);
}

static void what_makes_no_sense_or_is_too_large_is_refused(void) {
    char text[100];
    ruleset r = random_rules(5, 200, 8);
    r.rules.max_bytes = 10000;
    CHECK(firewall_compile(&r.rules, text, sizeof(text)) == NULL);
    CHECK(strstr(text, "memory_mb") != NULL);
    r.rules.max_bytes = 1 << 30;
    r.ranges[7].rule = 200;
    CHECK(firewall_compile(&r.rules, text, sizeof(text)) == NULL);
    CHECK(strstr(text, "no sense") != NULL);
    free_ruleset(&r);
}

static void no_rules_match_nothing(void) {
    char text[100];
    ruleset r = new_ruleset(0);
    firewall_key key = {.sport = 1, .dport = 2, .kind = 6};
    firewall_table *table = firewall_compile(&r.rules, text, sizeof(text));
    CHECK_EQ(firewall_match(table, &key), FIREWALL_NO_RULE);
    firewall_table_free(table);
    free_ruleset(&r);
}

/* ---- verdicts ------------------------------------------------------------------------------- */

enum { FLOWS = 8 };

typedef struct bench { /* a worker's memory with one packet in it */
    uint8_t slot[NFM_SLOT_SMALL];
    nfm_record record;
    nfm_flow_info flows[FLOWS];
    firewall *fw;
} bench;

/* A firewall with two rules: TCP to port 80 is accepted, port 81 rejected; the rest is dropped. */
static bench *new_bench(uint8_t midstream, uint8_t hold_drops) {
    static const uint8_t action[] = {FIREWALL_ACCEPT, FIREWALL_REJECT};
    static const uint8_t bounded[] = {1 << FIREWALL_DPORT, 1 << FIREWALL_DPORT};
    static const uint32_t before[] = {FIREWALL_NO_RULE, FIREWALL_NO_RULE};
    static const firewall_range ranges[] = {
        {{0, 80}, {0, 80}, 0, FIREWALL_DPORT},
        {{0, 81}, {0, 81}, 1, FIREWALL_DPORT},
    };
    firewall_rules rules = {.action = action,
                            .bounded = bounded,
                            .before = before,
                            .ranges = ranges,
                            .max_bytes = 1 << 20,
                            .n_rules = 2,
                            .n_ranges = 2,
                            .policy = FIREWALL_DROP};
    firewall_options options = {.midstream = midstream,
                                .malformed = FIREWALL_DROP,
                                .non_ip = FIREWALL_ACCEPT,
                                .hold_drops = hold_drops};
    char text[100];
    bench *b = calloc(1, sizeof(*b));
    b->fw = firewall_open("{}");
    firewall_set(b->fw, &options);
    firewall_swap(b->fw, firewall_compile(&rules, text, sizeof(text)));
    return b;
}

static void free_bench(bench *b) {
    firewall_close(b->fw);
    free(b);
}

static uint32_t process(bench *b) {
    nfm_mem mem = {.packets = b->slot,
                   .records = &b->record,
                   .flows = b->flows,
                   .n_small = 1,
                   .n_slots = 1,
                   .n_records = 1,
                   .n_flows = FLOWS};
    nfm_desc desc = {.what = b->record.events, .flow = (uint32_t)b->record.flow};
    uint32_t verdict = 0xdead;
    nfm_batch batch = {.mem = &mem, .desc = &desc, .n = 1, .verdict = &verdict};
    CHECK_EQ(firewall_process(b->fw, &batch), NFM_OK);
    return verdict;
}

static nfm_key key_of(uint16_t from, uint16_t to) {
    nfm_key key;
    memset(&key, 0, sizeof(key));
    key.ip_version = 4;
    key.proto = 6;
    memcpy(key.addr[0], "\x0a\0\0\1", 4);
    memcpy(key.addr[1], "\x0a\0\0\2", 4);
    key.port[0] = from;
    key.port[1] = to;
    return key;
}

/* Puts the frame's headers into the record, as the engine does. */
static void place(bench *b, uint32_t len, uint8_t proto, uint64_t flow, uint8_t flags) {
    b->record = (nfm_record){.flow = flow,
                             .kind = NFM_REC_PACKET,
                             .frame_len = len,
                             .l3_off = NFM_HEADROOM,
                             .l4_off = NFM_HEADROOM + 20,
                             .proto = proto,
                             .tcp_flags = flags};
    b->record.events = proto == 6 ? NFM_BIT(NFM_EV_PACKET_TCP) : NFM_BIT(NFM_EV_PACKET_ICMP);
}

/* The frame is an IPv4 packet without a link layer. */
static void put_tcp(bench *b, uint64_t flow, uint16_t from, uint16_t to, uint8_t flags) {
    nfm_key key = key_of(from, to);
    nfm_ip_fields ip = {.ttl = 64};
    nfm_emit_buf buf = {b->slot + NFM_HEADROOM, 256, 0};
    nfm_emit_ipv4(&buf, &key, &ip, 20);
    memset(buf.data + buf.len, 0, 20);
    buf.data[buf.len + 1] = (uint8_t)from, buf.data[buf.len] = (uint8_t)(from >> 8);
    buf.data[buf.len + 3] = (uint8_t)to, buf.data[buf.len + 2] = (uint8_t)(to >> 8);
    place(b, buf.len + 20, 6, flow, flags);
    nfm_flow_info *info = &b->flows[flow % FLOWS];
    if (info->id != flow) {
        *info = (nfm_flow_info){.id = flow, .proto = 6, .ip_version = 4};
        memcpy(info->addr, key.addr, sizeof(info->addr));
        memcpy(info->port, key.port, sizeof(info->port));
    }
}

static uint32_t tcp(bench *b, uint64_t flow, uint16_t from, uint16_t to, uint8_t flags) {
    put_tcp(b, flow, from, to, flags);
    return process(b);
}

enum { SYN = 2, ACK = 16 };

static void the_first_packet_decides_for_both_directions(void) {
    bench *b = new_bench(FIREWALL_MID_DROP, 0);
    CHECK_EQ(tcp(b, 1, 5000, 80, SYN), NFM_PASS | NFM_REST);
    CHECK_EQ(tcp(b, 1, 80, 5000, SYN | ACK), NFM_PASS | NFM_REST); /* was on its way */
    CHECK_EQ(tcp(b, 2, 5001, 81, SYN), NFM_REJECT);
    CHECK_EQ(tcp(b, 3, 5002, 82, SYN), NFM_DROP);
    uint64_t hits[2];
    firewall_stats stats;
    CHECK_EQ(firewall_hits(b->fw, hits, 2), 2);
    firewall_stats_get(b->fw, &stats);
    CHECK_EQ(hits[0], 1);
    CHECK_EQ(hits[1], 1);
    CHECK_EQ(stats.default_hits, 1);
    CHECK_EQ(stats.accepted, 2);
    CHECK_EQ(stats.flows, 1);
    free_bench(b);
}

static void a_slot_that_is_used_again_is_another_flow(void) {
    bench *b = new_bench(FIREWALL_MID_DROP, 0);
    CHECK_EQ(tcp(b, 1, 5000, 80, SYN), NFM_PASS | NFM_REST);
    CHECK_EQ(tcp(b, 1 + (UINT64_C(1) << 32), 5000, 90, SYN), NFM_DROP);
    free_bench(b);
}

static void midstream_packets_take_the_policy(void) {
    bench *b = new_bench(FIREWALL_MID_DROP, 0);
    CHECK_EQ(tcp(b, 1, 5000, 80, ACK), NFM_DROP);
    CHECK_EQ(tcp(b, 1, 5000, 80, SYN | ACK), NFM_DROP);
    CHECK_EQ(tcp(b, 1, 5000, 80, 1 | SYN), NFM_DROP); /* SYN with FIN begins nothing */
    CHECK_EQ(tcp(b, 1, 5000, 80, SYN), NFM_PASS | NFM_REST);
    free_bench(b);
    b = new_bench(FIREWALL_MID_JUDGE, 0);
    CHECK_EQ(tcp(b, 1, 5000, 80, ACK), NFM_PASS | NFM_REST);
    CHECK_EQ(tcp(b, 2, 5000, 82, ACK), NFM_DROP);
    free_bench(b);
    b = new_bench(FIREWALL_MID_ACCEPT, 0);
    CHECK_EQ(tcp(b, 2, 5000, 82, ACK), NFM_PASS | NFM_REST);
    free_bench(b);
}

static void a_drop_holds_for_the_flow_when_asked_for(void) {
    bench *b = new_bench(FIREWALL_MID_DROP, 1);
    CHECK_EQ(tcp(b, 1, 5000, 82, SYN), NFM_DROP | NFM_REST);
    free_bench(b);
}

static uint32_t icmp_error(bench *b, uint16_t from, uint16_t to) {
    uint8_t quote[48];
    put_tcp(b, 4, from, to, ACK);
    memcpy(quote, b->slot + NFM_HEADROOM, 28);
    nfm_key key = key_of(0, 0);
    key.proto = 1;
    nfm_ip_fields ip = {.ttl = 64};
    nfm_emit_buf buf = {b->slot + NFM_HEADROOM, 256, 0};
    nfm_emit_ipv4(&buf, &key, &ip, 8 + 28);
    CHECK_EQ(nfm_emit_icmp(&buf, &key, 3 << 8 | 4, 0, (nfm_view){quote, 28}), NFM_OK);
    place(b, buf.len, 1, 5, 0);
    return process(b);
}

static void icmp_errors_about_accepted_flows_pass(void) {
    bench *b = new_bench(FIREWALL_MID_DROP, 0);
    CHECK_EQ(tcp(b, 1, 5000, 80, SYN), NFM_PASS | NFM_REST);
    CHECK_EQ(icmp_error(b, 5000, 80), NFM_PASS);
    CHECK_EQ(icmp_error(b, 5001, 80), NFM_DROP);
    b->record.frame_len = 40; /* the quotation is cut */
    CHECK_EQ(process(b), NFM_DROP);
    free_bench(b);
}

static void bad_records_are_dropped(void) {
    bench *b = new_bench(FIREWALL_MID_DROP, 0);
    put_tcp(b, 1, 5000, 80, SYN);
    b->record.flow = UINT64_C(1) << 32 | 1000; /* not of this memory */
    CHECK_EQ(process(b), NFM_PASS | NFM_REST);
    b->record.l3_off = 65000;
    CHECK_EQ(process(b), NFM_DROP);
    put_tcp(b, 1, 5000, 80, SYN);
    b->record.frame_len = 70000;
    CHECK_EQ(process(b), NFM_DROP);
    put_tcp(b, 1, 5000, 80, SYN);
    b->record.slot = 9;
    CHECK_EQ(process(b), NFM_DROP);
    put_tcp(b, 1, 5000, 80, SYN);
    b->record.events = NFM_BIT(NFM_EV_PACKET_MALFORMED);
    CHECK_EQ(process(b), NFM_DROP);
    b->record.events = NFM_BIT(NFM_EV_PACKET_OTHER);
    b->record.l3_off = 0;
    CHECK_EQ(process(b), NFM_PASS);
    firewall_stats stats;
    firewall_stats_get(b->fw, &stats);
    CHECK_EQ(stats.malformed, 4);
    CHECK_EQ(stats.non_ip, 1);
    free_bench(b);
}

static void new_rules_hold_for_new_flows_and_hits_go_on(void) {
    static const uint8_t action[] = {FIREWALL_ACCEPT, FIREWALL_DROP}, bounded[] = {0, 0};
    static const uint32_t before[] = {1, FIREWALL_NO_RULE};
    firewall_rules rules = {
        .action = action, .bounded = bounded, .before = before, .max_bytes = 1 << 20, .n_rules = 2};
    char text[100];
    uint64_t hits[2];
    bench *b = new_bench(FIREWALL_MID_DROP, 0);
    CHECK_EQ(tcp(b, 1, 5000, 80, SYN), NFM_PASS | NFM_REST);
    CHECK_EQ(tcp(b, 2, 5000, 81, SYN), NFM_REJECT);
    firewall_swap(b->fw, firewall_compile(&rules, text, sizeof(text)));
    CHECK_EQ(tcp(b, 2, 5000, 81, SYN), NFM_PASS | NFM_REST);
    CHECK_EQ(firewall_hits(b->fw, hits, 2), 2);
    CHECK_EQ(hits[0], 2);
    CHECK_EQ(hits[1], 0);
    free_bench(b);
}

static void without_rules_nothing_passes(void) {
    bench *b = calloc(1, sizeof(*b));
    b->fw = firewall_open("{}");
    CHECK_EQ(tcp(b, 1, 5000, 80, SYN), NFM_DROP);
    free_bench(b);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(first_match_is_that_of_a_linear_scan),
        T(it_is_so_for_thousands_of_rules),
        T(what_makes_no_sense_or_is_too_large_is_refused),
        T(no_rules_match_nothing),
        T(the_first_packet_decides_for_both_directions),
        T(a_slot_that_is_used_again_is_another_flow),
        T(midstream_packets_take_the_policy),
        T(a_drop_holds_for_the_flow_when_asked_for),
        T(icmp_errors_about_accepted_flows_pass),
        T(bad_records_are_dropped),
        T(new_rules_hold_for_new_flows_and_hits_go_on),
        T(without_rules_nothing_passes),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
