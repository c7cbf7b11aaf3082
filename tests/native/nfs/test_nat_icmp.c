/* SPDX-License-Identifier: Apache-2.0 */
/* The translator in a real worker: ICMP queries and errors (RFC 5508), IPv6 prefixes (RFC 6296). */
#include "nat_rig.h"

/* ---- ICMP ----------------------------------------------------------------------------------- */

static message echo(uint32_t src, uint32_t dst, uint16_t id, bool reply) {
    return (message){.proto = IPPROTO_ICMP,
                     .icmp = reply ? 0 : 8 << 8,
                     .src = src,
                     .dst = dst,
                     .dst_port = id,
                     .mac = (uint8_t)src,
                     .payload = {(const uint8_t *)"ping", 4}};
}

static void test_icmp_queries_have_mappings_of_their_own(void) {
    rig r = make_rig(&plain);
    message first = echo(HOST, PEER, 7, false), second = echo(OTHER, PEER, 7, false);
    message a = across(&r, INSIDE, &first), b = across(&r, INSIDE, &second);
    CHECK_EQ(a.src, SELF);
    CHECK(a.dst_port != b.dst_port);
    message reply = echo(PEER, SELF, b.dst_port, true);
    message in = across(&r, OUTSIDE, &reply);
    CHECK_EQ(in.dst, OTHER);
    CHECK_EQ(in.dst_port, 7);
    message elsewhere = echo(HOST, PEER2, 7, false);
    CHECK_EQ(across(&r, INSIDE, &elsewhere).dst_port, a.dst_port);
    end_rig(&r);
}

typedef struct quote { /* what an error quotes, its checksums checked as far as they are there */
    uint32_t src, dst;
    uint16_t src_port, dst_port;
} quote;

static quote read_quote(const message *m, uint8_t proto, uint32_t l4_len) {
    const uint8_t *ip = m->payload.data, *l4 = ip + 20;
    CHECK_EQ(nfm_csum_fold(nfm_csum_add(0, ip, 20)), 0);
    if (m->payload.len == 20 + l4_len) {
        uint32_t sum = proto == IPPROTO_ICMP ? 0 : nfm_csum_add(proto + l4_len, ip + 12, 8);
        CHECK_EQ(nfm_csum_fold(nfm_csum_add(sum, l4, l4_len)), 0);
    }
    bool query = proto == IPPROTO_ICMP;
    return (quote){nfm_read32(ip + 12), nfm_read32(ip + 16), nfm_read16(l4 + (query ? 4 : 0)),
                   nfm_read16(l4 + (query ? 4 : 2))};
}

static message message_of(uint8_t proto) {
    if (proto == IPPROTO_ICMP)
        return echo(HOST, PEER, 5000, false);
    message m = udp(HOST, 5000, PEER, 80);
    m.proto = proto;
    m.tcp_flags = 2;
    return m;
}

static void test_errors_from_outside_reach_whom_they_are_about(void) {
    static const uint8_t protos[] = {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP};
    setup s = plain;
    s.preserve = 0;
    for (int i = 0; i < 6; i++) {
        rig r = make_rig(&s);
        message m = message_of(protos[i % 3]);
        wire_frame f = frame_of(&m);
        nf_rig_send(r.nf, INSIDE, &f);
        wire_frame sent = *nf_rig_take(r.nf, OUTSIDE);
        uint32_t l4_len = sent.len - 34;
        wire_frame error = error_about(&sent, 3 << 8 | 1, ROUTER, i < 3 ? 28 : 2000);
        nf_rig_send(r.nf, OUTSIDE, &error);
        message in = read_frame(nf_rig_take(r.nf, INSIDE));
        CHECK_EQ(in.icmp, 3 << 8 | 1);
        CHECK_EQ(in.src, ROUTER);
        CHECK_EQ(in.dst, HOST);
        quote q = read_quote(&in, m.proto, l4_len);
        CHECK_EQ(q.src, HOST);
        CHECK_EQ(q.src_port, 5000);
        CHECK_EQ(q.dst, PEER);
        CHECK_EQ(stats_of(&r).sessions, 1); /* it ended nothing and began nothing */
        CHECK_EQ(r.nf->w->flows_opened, 1);
        end_rig(&r);
    }
}

static void test_errors_from_inside_say_what_outside_knows(void) {
    static const uint8_t protos[] = {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP};
    setup s = plain;
    s.preserve = 0;
    for (int i = 0; i < 3; i++) {
        rig r = make_rig(&s);
        message m = message_of(protos[i]);
        message out = across(&r, INSIDE, &m);
        message reply = protos[i] == IPPROTO_ICMP ? echo(PEER, SELF, out.dst_port, true)
                                                  : udp(PEER, 80, SELF, out.src_port);
        reply.proto = protos[i];
        reply.tcp_flags = 0x12;
        wire_frame f = frame_of(&reply);
        nf_rig_send(r.nf, OUTSIDE, &f);
        wire_frame got = *nf_rig_take(r.nf, INSIDE);
        wire_frame error = error_about(&got, 3 << 8 | 3, OTHER, 2000);
        nf_rig_send(r.nf, INSIDE, &error);
        message away = read_frame(nf_rig_take(r.nf, OUTSIDE));
        CHECK_EQ(away.src, SELF); /* also when a router inside sent it */
        CHECK_EQ(away.dst, PEER);
        quote q = read_quote(&away, protos[i], got.len - 34);
        CHECK_EQ(q.src, PEER);
        CHECK_EQ(q.dst, SELF);
        CHECK_EQ(q.dst_port, protos[i] == IPPROTO_ICMP ? out.dst_port : out.src_port);
        end_rig(&r);
    }
}

static void test_errors_about_mappings_without_a_flow_are_translated(void) {
    rig r = make_rig(&plain);
    message m = udp(HOST, 5000, PEER, 80);
    wire_frame f = frame_of(&m);
    nf_rig_send(r.nf, INSIDE, &f);
    wire_frame sent = *nf_rig_take(r.nf, OUTSIDE);
    nfm_write16(sent.data + 34 + 2, 99); /* as if it had gone to another port, long ago */
    wire_frame error = error_about(&sent, 11 << 8, ROUTER, 28);
    nf_rig_send(r.nf, OUTSIDE, &error);
    message in = read_frame(nf_rig_take(r.nf, INSIDE));
    CHECK_EQ(in.dst, HOST);
    CHECK_EQ(read_quote(&in, IPPROTO_UDP, 16).src_port, 5000);
    CHECK_EQ(stats_of(&r).errors, 1);
    nfm_write16(sent.data + 34, 4711); /* nobody's port */
    error = error_about(&sent, 11 << 8, ROUTER, 28);
    nf_rig_send(r.nf, OUTSIDE, &error);
    CHECK(nf_rig_take(r.nf, INSIDE) == NULL);
    CHECK_EQ(stats_of(&r).no_mapping, 1);
    end_rig(&r);
}

static void test_damaged_errors_go_no_further(void) {
    static const uint32_t places[] = {34 + 2, 34 + 8 + 8}; /* its checksum, the quoted TTL */
    for (int i = 0; i < 2; i++) {
        rig r = make_rig(&plain);
        message m = udp(HOST, 5000, PEER, 80);
        wire_frame f = frame_of(&m);
        nf_rig_send(r.nf, INSIDE, &f);
        wire_frame sent = *nf_rig_take(r.nf, OUTSIDE);
        if (i == 1)
            sent.data[14 + 8] ^= 0x10;
        wire_frame error = error_about(&sent, 3 << 8 | 1, ROUTER, 28);
        if (i == 0)
            error.data[places[0]] ^= 0x10;
        nf_rig_send(r.nf, OUTSIDE, &error);
        CHECK(nf_rig_take(r.nf, INSIDE) == NULL);
        CHECK_EQ(nf_rig_counter(r.nf, NFM_CC_INLINE_UNEDITED), 1);
        end_rig(&r);
    }
}

/* ---- NPTv6 ---------------------------------------------------------------------------------- */

/* fd01:203:405::/48 <-> 2001:db8:1::/48, the example of RFC 6296 section 3.1 and appendix B. */
static const nat_npt npt48 = {{0xfd, 1, 2, 3, 4, 5}, {0x20, 1, 0x0d, 0xb8, 0, 1}, 48};

static void test_npt_example_of_the_rfc(void) {
    uint8_t address[16] = {0xfd, 1, 2, 3, 4, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0x12, 0x34};
    const uint8_t want[16] = {0x20, 1, 0x0d, 0xb8, 0, 1, 0xd5, 0x50, 0, 0, 0, 0, 0, 0, 0x12, 0x34};
    uint8_t copy[16];
    memcpy(copy, address, 16);
    CHECK_EQ(nat_npt_translate(&npt48, 1, copy), 1);
    CHECK(memcmp(copy, want, 16) == 0);
    CHECK_EQ(nat_npt_translate(&npt48, 0, copy), 1);
    CHECK(memcmp(copy, address, 16) == 0);
    address[6] = address[7] = 0xff;
    CHECK_EQ(nat_npt_translate(&npt48, 1, address), 0);
}

static void test_npt_is_neutral_and_undone_for_all_prefixes(void) {
    uint64_t random = 99172645463325257u;
    for (int i = 0; i < 20000; i++) {
        nat_npt npt = {{0}, {0}, 1 + (uint32_t)i % 64};
        uint8_t address[16], before[16];
        for (int k = 0; k < 16; k++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            npt.internal[k] = (uint8_t)(random >> 8);
            npt.external[k] = (uint8_t)(random >> 16);
            address[k] = (uint8_t)(random >> 24);
        }
        for (uint32_t bit = 0; bit < npt.bits; bit++) {
            uint8_t mask = (uint8_t)(0x80 >> bit % 8);
            address[bit / 8] =
                (uint8_t)((address[bit / 8] & ~mask) | (npt.internal[bit / 8] & mask));
        }
        memcpy(before, address, 16);
        if (!nat_npt_translate(&npt, 1, address))
            continue;
        CHECK_EQ(nfm_csum_fold(nfm_csum_add(0, address, 16)),
                 nfm_csum_fold(nfm_csum_add(0, before, 16)));
        CHECK_EQ(nat_npt_translate(&npt, 0, address), 1);
        CHECK(memcmp(address, before, 16) == 0);
    }
}

static void test_npt_translates_both_ways_and_errors(void) {
    setup s = plain;
    s.npt = &npt48;
    s.n_npt = 1;
    rig r = make_rig(&s);
    const uint8_t host[16] = {0xfd, 1, 2, 3, 4, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0x12, 0x34};
    const uint8_t peer[16] = {0x20, 1, 0x0d, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    message m = {.proto = IPPROTO_UDP,
                 .src6 = host,
                 .dst6 = peer,
                 .src_port = 5000,
                 .dst_port = 53,
                 .payload = {(const uint8_t *)"npt", 3}};
    wire_frame f = frame_of(&m);
    nf_rig_send(r.nf, INSIDE, &f);
    wire_frame sent = *nf_rig_take(r.nf, OUTSIDE);
    message out = read_frame(&sent);
    CHECK_EQ(out.src6[0], 0x20);
    CHECK_EQ(out.src_port, 5000);
    CHECK(memcmp(sent.data + 54 + 6, f.data + 54 + 6, 2) == 0); /* the UDP checksum stays */
    message reply = m;
    reply.src6 = peer;
    reply.src_port = 53;
    reply.dst_port = 5000;
    reply.dst6 = sent.data + 14 + 8;
    message in = across(&r, OUTSIDE, &reply);
    CHECK(memcmp(in.dst6, host, 16) == 0);
    CHECK_EQ(stats_of(&r).npt, 1);
    CHECK_EQ(r.nf->w->flows_opened, 1);
    message error = {.proto = IPPROTO_ICMPV6,
                     .icmp = 1 << 8,
                     .src6 = peer,
                     .dst6 = sent.data + 14 + 8,
                     .payload = {sent.data + 14, sent.len - 14}};
    in = across(&r, OUTSIDE, &error);
    CHECK(memcmp(in.dst6, host, 16) == 0);
    CHECK(memcmp(in.payload.data + 8, host, 16) == 0);
    CHECK_EQ(stats_of(&r).npt, 1);
    end_rig(&r);
}

static const nfm_test tests[] = {
    T(test_icmp_queries_have_mappings_of_their_own),
    T(test_errors_from_outside_reach_whom_they_are_about),
    T(test_errors_from_inside_say_what_outside_knows),
    T(test_errors_about_mappings_without_a_flow_are_translated),
    T(test_damaged_errors_go_no_further),
    T(test_npt_example_of_the_rfc),
    T(test_npt_is_neutral_and_undone_for_all_prefixes),
    T(test_npt_translates_both_ways_and_errors),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
