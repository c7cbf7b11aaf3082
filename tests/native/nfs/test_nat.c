/* SPDX-License-Identifier: Apache-2.0 */
/* The translator in a real worker: what RFC 4787 and 5382 require of mappings and filters. */
#include "nat_rig.h"

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

/* The rig's worker is the first of four: answers come to it, whoever asks whom. */
static void test_answers_come_to_the_worker_of_the_flow(void) {
    setup s = plain;
    s.workers = 4;
    rig r = make_rig(&s);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < 200; i++) {
        uint16_t port = (uint16_t)(20000 + i);
        message out = out_udp(&r, HOST + i % 7, port, PEER + i % 3, (uint16_t)(80 + i));
        nfm_flow_info answer = {.proto = IPPROTO_UDP, .ip_version = 4};
        nat__write32(answer.addr[0], PEER + i % 3);
        nat__write32(answer.addr[1], out.src);
        answer.port[0] = (uint16_t)(80 + i);
        answer.port[1] = out.src_port;
        CHECK_EQ(nfm_owner(&answer, 4), 0);
        CHECK_EQ(out.src_port & 1, port & 1);
        kept += out.src_port == port;
    }
    CHECK(kept > 20 && kept < 100); /* a quarter of the hosts' own ports will do */
    end_rig(&r);
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

static const nfm_test tests[] = {
    T(test_replies_come_back_translated),
    T(test_mapping_does_not_depend_on_the_remote_endpoint),
    T(test_answers_come_to_the_worker_of_the_flow),
    T(test_ports_keep_range_and_parity),
    T(test_neighbouring_ports_stay_neighbours),
    T(test_an_exhausted_range_is_counted_and_shared_with_nobody),
    T(test_a_host_keeps_its_external_address),
    T(test_a_mapping_lives_for_its_time_after_the_last_packet),
    T(test_filtering_lets_in_whom_the_mode_says),
    T(test_both_sides_may_open_at_once),
    T(test_a_static_forward_lets_everybody_in),
    T(test_inside_hosts_reach_each_other_by_their_external_endpoints),
    T(test_packets_of_one_flow_that_come_together_get_one_mapping),
    T(test_full_tables_drop_and_count),
    T(test_what_cannot_be_translated_does_not_leak),
    T(test_random_flows_never_meet),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
