/* SPDX-License-Identifier: Apache-2.0 */
/* The translator in a real worker: what RFC 4787, 5382, 5508 and 6296 require of it. */
#include "nf_rig.h"

#include "nat.h"

enum {
    HOST = 0x0a000001,  /* 10.0.0.1, inside */
    OTHER = 0x0a000002, /* 10.0.0.2, inside */
    SELF = 0xc6336401,  /* 198.51.100.1, external */
    SELF2 = 0xc6336402,
    PEER = 0xcb007101, /* 203.0.113.1, outside */
    PEER2 = 0xcb007102,
    ROUTER = 0xcb0071fe
};

typedef struct setup {
    uint8_t filtering, preserve, paired;
    uint16_t low, high;
    uint32_t n_external, max_mappings, max_sessions;
    const nat_forward *forwards;
    uint32_t n_forwards;
    const nat_npt *npt;
    uint32_t n_npt;
} setup;

static const setup plain = {NAT_FILTER_ADDRESS, 1, 1, 1024, 65535, 1, 4096, 4096, NULL, 0, NULL, 0};

static nat *make_nat(const setup *s) {
    static const nat_prefix inside[] = {{0x0a000000, 8}};
    static const uint32_t external[] = {SELF, SELF2};
    nat_config config = {
        .inside = inside,
        .external = external,
        .forwards = s->forwards,
        .npt = s->npt,
        .n_inside = 1,
        .n_external = s->n_external,
        .n_forwards = s->n_forwards,
        .n_npt = s->n_npt,
        .port_low = s->low,
        .port_high = s->high,
        .filtering = s->filtering,
        .paired = s->paired,
        .preserve = s->preserve,
        .max_mappings = s->max_mappings,
        .max_sessions = s->max_sessions,
        .hold_ns = {240000000000, 120000000000, 60000000000},
        .seed = 77,
    };
    nat *self = nat_open(NULL);
    CHECK_EQ(nat_load(self, &config), NFM_OK);
    return self;
}

typedef struct rig {
    nf_rig *nf;
    nat *nat;
} rig;

static int process(void *state, const nfm_batch *batch) {
    return nat_process(state, batch);
}

static rig make_rig(const setup *s) {
    rig r = {.nat = make_nat(s)};
    r.nf = nf_rig_new(process, r.nat, true);
    nf_rig_start(r.nf);
    return r;
}

static void end_rig(rig *r) {
    nat_stats stats;
    nf_rig_free(r->nf);
    nat_stats_get(r->nat, &stats);
    CHECK_EQ(stats.sessions, 0);
    nat__expire(r->nat, INT64_MAX);
    nat_stats_get(r->nat, &stats);
    CHECK_EQ(stats.mappings, r->nat->config.n_forwards);
    nat_close(r->nat);
}

static nat_stats stats_of(const rig *r) {
    nat_stats stats;
    nat_stats_get(r->nat, &stats);
    return stats;
}

static message udp(uint32_t src, uint16_t src_port, uint32_t dst, uint16_t dst_port) {
    return (message){.proto = IPPROTO_UDP,
                     .src = src,
                     .dst = dst,
                     .src_port = src_port,
                     .dst_port = dst_port,
                     .mac = (uint8_t)src,
                     .payload = {(const uint8_t *)"payload!", 8}};
}

/* Sends |m| into |wire|; what comes out at the other one, or nothing (proto 0). */
static message across(rig *r, int wire, const message *m) {
    wire_frame f = frame_of(m);
    nf_rig_send(r->nf, wire, &f);
    const wire_frame *out = nf_rig_take(r->nf, !wire);
    CHECK(nf_rig_take(r->nf, !wire) == NULL);
    return out == NULL ? (message){0} : read_frame(out);
}

static message out_udp(rig *r, uint32_t src, uint16_t port, uint32_t dst, uint16_t dst_port) {
    message m = udp(src, port, dst, dst_port);
    return across(r, INSIDE, &m);
}

static message in_udp(rig *r, uint32_t src, uint16_t port, uint32_t dst, uint16_t dst_port) {
    message m = udp(src, port, dst, dst_port);
    return across(r, OUTSIDE, &m);
}

/* ---- mapping -------------------------------------------------------------------------------- */

static void test_replies_come_back_translated(void) {
    static const uint8_t protos[] = {IPPROTO_TCP, IPPROTO_UDP};
    for (int i = 0; i < 2; i++) {
        rig r = make_rig(&plain);
        message m = udp(HOST, 5000, PEER, 80);
        m.proto = protos[i];
        m.tcp_flags = 2;
        message out = across(&r, INSIDE, &m);
        CHECK_EQ(out.src, SELF);
        CHECK_EQ(out.dst, PEER);
        CHECK_EQ(out.dst_port, 80);
        message back = udp(PEER, 80, SELF, out.src_port);
        back.proto = protos[i];
        back.tcp_flags = 0x12;
        message in = across(&r, OUTSIDE, &back);
        CHECK_EQ(in.dst, HOST);
        CHECK_EQ(in.dst_port, 5000);
        CHECK_EQ(in.src, PEER);
        CHECK(memcmp(in.payload.data, "payload!", 8) == 0);
        CHECK_EQ(stats_of(&r).outbound, 1);
        CHECK_EQ(r.nf->w->flows_opened, 1); /* both directions are one flow */
        end_rig(&r);
    }
}

static void test_mapping_does_not_depend_on_the_remote_endpoint(void) {
    rig r = make_rig(&plain);
    uint16_t port = out_udp(&r, HOST, 5000, PEER, 80).src_port;
    CHECK_EQ(out_udp(&r, HOST, 5000, PEER, 81).src_port, port);
    CHECK_EQ(out_udp(&r, HOST, 5000, PEER2, 80).src_port, port);
    CHECK(out_udp(&r, OTHER, 5000, PEER, 80).src_port != port);
    CHECK_EQ(stats_of(&r).mappings, 2);
    end_rig(&r);
}

static void test_ports_keep_range_and_parity(void) {
    setup s = plain;
    for (int preserve = 0; preserve < 2; preserve++) {
        s.preserve = (uint8_t)preserve;
        rig r = make_rig(&s);
        for (uint32_t host = 0; host < 40; host++) {
            for (uint16_t port = 500; port < 502; port++) {
                uint16_t low = out_udp(&r, HOST + host, port, PEER, 80).src_port;
                uint16_t high =
                    out_udp(&r, HOST + host, (uint16_t)(port + 5000), PEER, 80).src_port;
                CHECK(low > 0 && low < 1024 && high >= 1024);
                CHECK_EQ(low & 1, port & 1);
                CHECK_EQ(high & 1, port & 1);
            }
        }
        CHECK_EQ(stats_of(&r).parity_lost, 0);
        end_rig(&r);
    }
}

static void test_neighbouring_ports_stay_neighbours(void) {
    setup s = plain;
    s.preserve = 0;
    rig r = make_rig(&s);
    uint16_t rtp = out_udp(&r, HOST, 7000, PEER, 80).src_port;
    CHECK_EQ(out_udp(&r, HOST, 7001, PEER, 81).src_port, rtp + 1);
    end_rig(&r);
}

static void test_an_exhausted_range_is_counted_and_shared_with_nobody(void) {
    setup s = plain;
    s.low = 2000;
    s.high = 2009;
    rig r = make_rig(&s);
    bool seen[65536] = {false};
    for (uint16_t i = 0; i < 10; i++) {
        uint16_t port = out_udp(&r, HOST, (uint16_t)(5000 + 2 * i), PEER, 80).src_port;
        CHECK(port >= 2000 && port <= 2009 && !seen[port]);
        seen[port] = true;
    }
    CHECK_EQ(out_udp(&r, HOST, 6000, PEER, 80).proto, 0);
    CHECK_EQ(stats_of(&r).no_port, 1);
    CHECK_EQ(stats_of(&r).parity_lost, 5);
    end_rig(&r);
}

static void test_a_host_keeps_its_external_address(void) {
    setup s = plain;
    s.n_external = 2;
    rig r = make_rig(&s);
    uint32_t used[2] = {0, 0};
    for (uint32_t host = 0; host < 16; host++) {
        uint32_t address = out_udp(&r, HOST + host, 5000, PEER, 80).src;
        CHECK(address == SELF || address == SELF2);
        used[address == SELF2]++;
        CHECK_EQ(out_udp(&r, HOST + host, 5001, PEER2, 80).src, address);
    }
    CHECK(used[0] > 0 && used[1] > 0);
    end_rig(&r);
}

static void test_a_mapping_lives_for_its_time_after_the_last_packet(void) {
    setup s = plain;
    s.filtering = NAT_FILTER_ENDPOINT;
    rig r = make_rig(&s);
    uint16_t port = out_udp(&r, HOST, 5000, PEER, 80).src_port;
    const int64_t second = 1000000000;
    r.nf->now_ns += 119 * second;
    CHECK_EQ(in_udp(&r, PEER2, 9, SELF, port).dst, HOST);
    CHECK_EQ(out_udp(&r, HOST, 5000, PEER, 80).src_port, port); /* refreshed by outbound */
    r.nf->now_ns += 400 * second; /* flows are over after 300 s, the mapping 120 s later */
    CHECK_EQ(in_udp(&r, PEER2, 10, SELF, port).dst, HOST);
    r.nf->now_ns += 1000 * second;
    CHECK_EQ(in_udp(&r, PEER, 10, SELF, 1).proto, 0); /* time passes: the flow ends */
    r.nf->now_ns += 1000 * second;
    CHECK_EQ(in_udp(&r, PEER2, 11, SELF, port).proto, 0);
    CHECK_EQ(stats_of(&r).mappings, 0);
    end_rig(&r);
}

/* ---- filtering ------------------------------------------------------------------------------ */

static void test_filtering_lets_in_whom_the_mode_says(void) {
    for (uint8_t mode = 0; mode < 3; mode++) {
        setup s = plain;
        s.filtering = mode;
        rig r = make_rig(&s);
        uint16_t port = out_udp(&r, HOST, 5000, PEER, 80).src_port;
        CHECK_EQ(in_udp(&r, PEER, 80, SELF, port).dst, HOST);
        CHECK_EQ(in_udp(&r, PEER, 81, SELF, port).proto != 0, mode != NAT_FILTER_ADDRESS_PORT);
        CHECK_EQ(in_udp(&r, PEER2, 80, SELF, port).proto != 0, mode == NAT_FILTER_ENDPOINT);
        CHECK_EQ(stats_of(&r).filtered, mode);
        CHECK_EQ(in_udp(&r, PEER, 80, SELF, (uint16_t)(port + 1)).proto, 0);
        CHECK_EQ(stats_of(&r).no_mapping, 1);
        CHECK_EQ(in_udp(&r, PEER, 80, HOST, 5001).proto, 0);
        CHECK_EQ(stats_of(&r).to_inside, 1);
        end_rig(&r);
    }
}

static void test_both_sides_may_open_at_once(void) {
    rig r = make_rig(&plain);
    message syn = udp(PEER, 80, SELF, 5000);
    syn.proto = IPPROTO_TCP;
    syn.tcp_flags = 2;
    CHECK_EQ(across(&r, OUTSIDE, &syn).proto, 0); /* nothing comes back, either */
    CHECK(nf_rig_take(r.nf, OUTSIDE) == NULL);
    message own = udp(HOST, 5000, PEER, 80);
    own.proto = IPPROTO_TCP;
    own.tcp_flags = 2;
    CHECK_EQ(across(&r, INSIDE, &own).src_port, 5000);
    CHECK_EQ(across(&r, OUTSIDE, &syn).dst, HOST);
    CHECK_EQ(nf_rig_counter(r.nf, NFM_CC_ALIAS_TAKEN), 0);
    end_rig(&r);
}

static void test_a_static_forward_lets_everybody_in(void) {
    static const nat_forward forwards[] = {{SELF, HOST, 443, 8443, NAT_TCP}};
    setup s = plain;
    s.forwards = forwards;
    s.n_forwards = 1;
    s.filtering = NAT_FILTER_ADDRESS_PORT;
    rig r = make_rig(&s);
    message m = udp(PEER, 999, SELF, 443);
    m.proto = IPPROTO_TCP;
    m.tcp_flags = 2;
    message in = across(&r, OUTSIDE, &m);
    CHECK_EQ(in.dst, HOST);
    CHECK_EQ(in.dst_port, 8443);
    message reply = udp(HOST, 8443, PEER, 999);
    reply.proto = IPPROTO_TCP;
    reply.tcp_flags = 0x12;
    message out = across(&r, INSIDE, &reply);
    CHECK_EQ(out.src, SELF);
    CHECK_EQ(out.src_port, 443);
    CHECK_EQ(stats_of(&r).inbound, 1);
    end_rig(&r);
}

/* ---- hairpin -------------------------------------------------------------------------------- */

static void test_inside_hosts_reach_each_other_by_their_external_endpoints(void) {
    setup s = plain;
    s.filtering = NAT_FILTER_ENDPOINT;
    rig r = make_rig(&s);
    uint16_t of_other = out_udp(&r, OTHER, 6000, PEER, 80).src_port;
    message m = udp(HOST, 5000, SELF, of_other);
    wire_frame f = frame_of(&m);
    nf_rig_send(r.nf, INSIDE, &f);
    CHECK(nf_rig_take(r.nf, OUTSIDE) == NULL);
    const wire_frame *there = nf_rig_take(r.nf, INSIDE);
    message in = read_frame(there);
    CHECK_EQ(in.src, SELF);
    CHECK_EQ(in.dst, OTHER);
    CHECK_EQ(in.dst_port, 6000);
    CHECK_EQ(there->data[5], OTHER & 0xff); /* to its own MAC address, */
    CHECK_EQ(there->data[11], 0xfe);        /* from that of the gateway */
    message reply = udp(OTHER, 6000, SELF, in.src_port);
    f = frame_of(&reply);
    nf_rig_send(r.nf, INSIDE, &f);
    const wire_frame *back = nf_rig_take(r.nf, INSIDE);
    message home = read_frame(back);
    CHECK_EQ(home.src, SELF);
    CHECK_EQ(home.src_port, of_other);
    CHECK_EQ(home.dst, HOST);
    CHECK_EQ(home.dst_port, 5000);
    CHECK_EQ(back->data[5], HOST & 0xff);
    CHECK_EQ(stats_of(&r).hairpin, 1);
    end_rig(&r);
}

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

/* ---- limits --------------------------------------------------------------------------------- */

static void test_packets_of_one_flow_that_come_together_get_one_mapping(void) {
    rig r = make_rig(&plain);
    message m = udp(HOST, 5000, PEER, 80);
    wire_frame f = frame_of(&m);
    for (int i = 0; i < 9; i++)
        nf_rig_put(r.nf, INSIDE, &f);
    nf_rig_send(r.nf, INSIDE, &f);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(read_frame(nf_rig_take(r.nf, OUTSIDE)).src, SELF);
    CHECK_EQ(stats_of(&r).mappings_made, 1);
    CHECK_EQ(stats_of(&r).outbound, 1);
    CHECK_EQ(nf_rig_counter(r.nf, NFM_CC_INLINE_BAD), 0);
    end_rig(&r);
}

static void test_full_tables_drop_and_count(void) {
    setup s = plain;
    s.max_mappings = 2;
    rig r = make_rig(&s);
    CHECK(out_udp(&r, HOST, 1, PEER, 80).proto != 0);
    CHECK(out_udp(&r, HOST, 2, PEER, 80).proto != 0);
    CHECK_EQ(out_udp(&r, HOST, 3, PEER, 80).proto, 0);
    CHECK_EQ(stats_of(&r).no_room, 1);
    end_rig(&r);
    s.max_mappings = 10;
    s.max_sessions = 1;
    r = make_rig(&s);
    CHECK(out_udp(&r, HOST, 1, PEER, 80).proto != 0);
    CHECK_EQ(out_udp(&r, HOST, 1, PEER, 81).proto, 0);
    CHECK_EQ(stats_of(&r).no_room, 1);
    end_rig(&r);
}

static void test_what_cannot_be_translated_does_not_leak(void) {
    rig r = make_rig(&plain);
    message m = udp(HOST, 5000, PEER, 80);
    m.proto = 47; /* GRE without its header: an unknown protocol to the parser, or malformed */
    CHECK_EQ(across(&r, INSIDE, &m).proto, 0);
    m.proto = 50;
    CHECK_EQ(across(&r, INSIDE, &m).proto, 0);
    wire_frame f = frame_of(&m);
    f.data[14 + 9] = IPPROTO_TCP;
    f.data[14 + 20 + 12] = 0; /* impossible data offset */
    f.len = 14 + 40;
    nf_rig_send(r.nf, INSIDE, &f);
    CHECK(nf_rig_take(r.nf, OUTSIDE) == NULL);
    nat_stats stats = stats_of(&r);
    CHECK_EQ(stats.not_translatable + stats.malformed, 3);
    m = udp(HOST, 5000, OTHER, 80); /* not across the border */
    CHECK_EQ(across(&r, INSIDE, &m).src, HOST);
    m = udp(PEER, 5000, PEER2, 80);
    CHECK_EQ(across(&r, OUTSIDE, &m).src, PEER);
    end_rig(&r);
}

/* Random traffic: a flow's replies come back to it as they were sent, and no two share a key. */
static void test_random_flows_never_meet(void) {
    enum { FLOWS = 600 };
    uint64_t random = 88172645463325252u;
    setup s = plain;
    s.n_external = 2;
    s.paired = 0;
    s.low = 30000;
    s.high = 30300;
    s.filtering = NAT_FILTER_ENDPOINT;
    rig r = make_rig(&s);
    static uint32_t owner[2][2][65536]; /* external address, protocol, port -> internal endpoint */
    memset(owner, 0, sizeof(owner));
    for (int i = 0; i < FLOWS; i++) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        bool tcp = random & 1;
        message m = udp(HOST + (random >> 8) % 50, (uint16_t)(20000 + (random >> 16) % 20),
                        PEER + (random >> 24) % 3, (uint16_t)(80 + (random >> 32) % 3));
        m.proto = tcp ? IPPROTO_TCP : IPPROTO_UDP;
        m.tcp_flags = 2;
        message out = across(&r, INSIDE, &m);
        if (out.proto == 0)
            continue;
        uint32_t endpoint = (m.src & 0xff) << 16 | m.src_port;
        uint32_t *of = &owner[out.src == SELF2][tcp][out.src_port];
        CHECK(*of == 0 || *of == endpoint);
        *of = endpoint;
        message reply = udp(m.dst, m.dst_port, out.src, out.src_port);
        reply.proto = m.proto;
        reply.tcp_flags = 0x12;
        message in = across(&r, OUTSIDE, &reply);
        CHECK_EQ(in.dst, m.src);
        CHECK_EQ(in.dst_port, m.src_port);
        CHECK_EQ(in.src, m.dst);
        CHECK_EQ(in.src_port, m.dst_port);
    }
    CHECK_EQ(nf_rig_counter(r.nf, NFM_CC_ALIAS_TAKEN), 0);
    end_rig(&r);
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
    T(test_replies_come_back_translated),
    T(test_mapping_does_not_depend_on_the_remote_endpoint),
    T(test_ports_keep_range_and_parity),
    T(test_neighbouring_ports_stay_neighbours),
    T(test_an_exhausted_range_is_counted_and_shared_with_nobody),
    T(test_a_host_keeps_its_external_address),
    T(test_a_mapping_lives_for_its_time_after_the_last_packet),
    T(test_filtering_lets_in_whom_the_mode_says),
    T(test_both_sides_may_open_at_once),
    T(test_a_static_forward_lets_everybody_in),
    T(test_inside_hosts_reach_each_other_by_their_external_endpoints),
    T(test_icmp_queries_have_mappings_of_their_own),
    T(test_errors_from_outside_reach_whom_they_are_about),
    T(test_errors_from_inside_say_what_outside_knows),
    T(test_errors_about_mappings_without_a_flow_are_translated),
    T(test_damaged_errors_go_no_further),
    T(test_packets_of_one_flow_that_come_together_get_one_mapping),
    T(test_full_tables_drop_and_count),
    T(test_what_cannot_be_translated_does_not_leak),
    T(test_random_flows_never_meet),
    T(test_npt_example_of_the_rfc),
    T(test_npt_is_neutral_and_undone_for_all_prefixes),
    T(test_npt_translates_both_ways_and_errors),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
