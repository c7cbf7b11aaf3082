/* SPDX-License-Identifier: Apache-2.0 */
/* What the router does with single packets, and what it says to whom. */
#include "router_rig.h"

/* Answers an ARP request that came out at |wire|, for who asked. */
static void answer_arp(rig *r, int wire, uint32_t address, const uint8_t *mac) {
    wire_frame f = arp_of(2, wire, mac, address, V4(10, 1 + (uint32_t)wire, 0, 1));
    nf_rig_send(r->nf, wire, &f);
}

/* The ICMP error that came out inside; its rest is read, too. */
static message error_at(rig *r, uint32_t *rest) {
    const wire_frame *f = nf_rig_take(r->nf, INSIDE);
    message m = read_frame(f);
    CHECK_EQ(m.proto, IPPROTO_ICMP);
    CHECK_EQ(m.src, V4(10, 1, 0, 1));
    CHECK_EQ(m.dst, NEAR);
    CHECK(f != NULL && memcmp(f->data, near_mac, 6) == 0 &&
          memcmp(f->data + 6, own_mac[0], 6) == 0);
    *rest = f == NULL ? 0 : nfm_read32(f->data + 14 + 24);
    return m;
}

static void check_quiet(rig *r) {
    CHECK(nf_rig_take(r->nf, INSIDE) == NULL && nf_rig_take(r->nf, OUTSIDE) == NULL);
}

/* ---- neighbours ----------------------------------------------------------------------------- */

static void test_a_question_about_its_address_is_answered(void) {
    rig r = make_rig(16);
    wire_frame f = arp_of(1, INSIDE, near_mac, NEAR, V4(10, 1, 0, 1));
    nf_rig_send(r.nf, INSIDE, &f);
    const wire_frame *reply = nf_rig_take(r.nf, INSIDE);
    CHECK(reply != NULL && reply->data[14 + 7] == 2 && memcmp(reply->data, near_mac, 6) == 0);
    CHECK(reply != NULL && memcmp(reply->data + 14 + 8, own_mac[0], 6) == 0);
    f = arp_of(1, INSIDE, near_mac, NEAR, V4(10, 1, 0, 7)); /* somebody else's */
    nf_rig_send(r.nf, INSIDE, &f);
    check_quiet(&r);
    f = arp_of(1, INSIDE, near_mac, V4(10, 1, 0, 1), NEAR); /* who has taken our address */
    nf_rig_send(r.nf, INSIDE, &f);
    check_quiet(&r);
    CHECK_EQ(stats_of(&r).arp_replies, 1);
    CHECK_EQ(stats_of(&r).bad_neighbour, 1);
    CHECK_EQ(stats_of(&r).neighbours, 1);
    end_rig(&r);
}

static void test_packets_wait_for_their_next_hop_in_order_and_not_too_many(void) {
    rig r = make_rig(16);
    for (int i = 0; i < 5; i++) {
        wire_frame f = udp_to(PEER, 64);
        f.data[14 + 5] = (uint8_t)i; /* identification */
        nfm_write16(f.data + 14 + 10, 0);
        nfm_write16(f.data + 14 + 10, nfm_csum_fold(nfm_csum_add(0, f.data + 14, 20)));
        nf_rig_send(r.nf, INSIDE, &f);
        const wire_frame *question = nf_rig_take(r.nf, OUTSIDE);
        CHECK((question != NULL) == (i == 0)); /* one is enough */
        CHECK(question == NULL || nfm_read32(question->data + 14 + 24) == PEER);
    }
    CHECK_EQ(stats_of(&r).waiting, ROUTER_WAITING);
    CHECK_EQ(stats_of(&r).queue_full, 5 - ROUTER_WAITING);
    answer_arp(&r, OUTSIDE, PEER, peer_mac);
    for (int i = 0; i < ROUTER_WAITING; i++) {
        const wire_frame *f = nf_rig_take(r.nf, OUTSIDE);
        CHECK_EQ(read_frame(f).dst, PEER);
        CHECK(f != NULL && memcmp(f->data, peer_mac, 6) == 0 && f->data[14 + 5] == i);
        CHECK(f != NULL && memcmp(f->data + 6, own_mac[1], 6) == 0 && f->data[14 + 8] == 63);
    }
    check_quiet(&r);
    CHECK_EQ(stats_of(&r).waiting, 0);
    wire_frame f = udp_to(PEER, 64);
    nf_rig_send(r.nf, INSIDE, &f);
    CHECK_EQ(read_frame(nf_rig_take(r.nf, OUTSIDE)).dst, PEER);
    end_rig(&r);
}

static void test_a_gateway_is_asked_for_what_lies_behind_it(void) {
    rig r = make_rig(16);
    wire_frame f = udp_to(V4(203, 0, 113, 9), 64);
    nf_rig_send(r.nf, INSIDE, &f);
    const wire_frame *question = nf_rig_take(r.nf, OUTSIDE);
    CHECK(question != NULL && nfm_read32(question->data + 14 + 24) == GATEWAY);
    answer_arp(&r, OUTSIDE, GATEWAY, peer_mac);
    CHECK_EQ(read_frame(nf_rig_take(r.nf, OUTSIDE)).dst, V4(203, 0, 113, 9));
    end_rig(&r);
}

static void test_who_does_not_answer_is_unreachable(void) {
    rig r = make_rig(16);
    wire_frame f = udp_to(PEER, 64);
    nf_rig_send(r.nf, INSIDE, &f);
    for (int i = 0; i < 2; i++) {
        pass_time(&r, 1100);
        CHECK(nf_rig_take(r.nf, OUTSIDE) != NULL); /* once more */
        CHECK(nf_rig_take(r.nf, INSIDE) == NULL);
    }
    pass_time(&r, 1100);
    uint32_t rest;
    CHECK_EQ(error_at(&r, &rest).icmp, 3 << 8 | 1);
    CHECK_EQ(stats_of(&r).waiting, 0);
    nf_rig_send(r.nf, INSIDE, &f); /* at once, for a while */
    CHECK_EQ(error_at(&r, &rest).icmp, 3 << 8 | 1);
    CHECK(nf_rig_take(r.nf, OUTSIDE) == NULL);
    pass_time(&r, 3200);
    CHECK_EQ(stats_of(&r).neighbours, 0);
    end_rig(&r);
}

static void test_a_neighbour_is_asked_again_while_packets_pass(void) {
    rig r = make_rig(16);
    wire_frame f = udp_to(PEER, 64);
    nf_rig_send(r.nf, INSIDE, &f);
    answer_arp(&r, OUTSIDE, PEER, peer_mac);
    pass_time(&r, 30001);
    check_quiet(&r);
    nf_rig_send(r.nf, INSIDE, &f); /* does not wait, and asks it alone */
    CHECK_EQ(read_frame(nf_rig_take(r.nf, OUTSIDE)).dst, PEER);
    const wire_frame *question = nf_rig_take(r.nf, OUTSIDE);
    CHECK(question != NULL && memcmp(question->data, peer_mac, 6) == 0 && question->data[13] == 6);
    for (int i = 0; i < 2; i++)
        pass_time(&r, 1100);
    pass_time(&r, 1100);
    CHECK_EQ(stats_of(&r).neighbours, 0); /* no answer: forgotten, and found anew */
    nf_rig_send(r.nf, INSIDE, &f);
    question = nf_rig_take(r.nf, OUTSIDE);
    CHECK(question != NULL && question->data[0] == 255);
    for (int i = 0; i < 3; i++)
        pass_time(&r, 1100);
    end_rig(&r);
}

static void test_room_for_neighbours_is_that_of_those_that_answer(void) {
    rig r = make_rig(4);
    for (uint32_t i = 0; i < 8; i++) {
        wire_frame f = udp_to(V4(10, 2, 0, 100 + i), 64);
        nf_rig_send(r.nf, INSIDE, &f);
    }
    CHECK_EQ(stats_of(&r).neighbours, 4);
    CHECK_EQ(stats_of(&r).neighbours_full, 4);
    for (int i = 0; i < 3; i++)
        pass_time(&r, 1100);
    wire_frame f = udp_to(PEER, 64); /* those that failed yield */
    nf_rig_send(r.nf, INSIDE, &f);
    answer_arp(&r, OUTSIDE, PEER, peer_mac);
    CHECK_EQ(read_frame(nf_rig_take(r.nf, OUTSIDE)).dst, PEER);
    end_rig(&r);
}

/* ---- errors --------------------------------------------------------------------------------- */

static void test_senders_are_told_why(void) {
    static const struct {
        uint32_t dst;
        uint8_t ttl;
        uint16_t icmp;
    } cases[] = {
        {V4(192, 0, 2, 1), 64, 3 << 8 | 0}, {V4(10, 66, 0, 1), 64, 3 << 8 | 13}, {PEER, 1, 11 << 8},
        {V4(10, 2, 0, 1), 1, 3 << 8 | 3},   {V4(203, 0, 113, 9), 0, 11 << 8},
    };
    rig r = make_rig(16);
    for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        wire_frame f = udp_to(cases[i].dst, cases[i].ttl);
        uint32_t rest;
        nf_rig_send(r.nf, INSIDE, &f);
        message m = error_at(&r, &rest);
        CHECK_EQ(m.icmp, cases[i].icmp);
        CHECK_EQ(rest, 0);
        CHECK_EQ(m.payload.len, f.len - 14);
        CHECK_EQ(memcmp(m.payload.data, f.data + 14, f.len - 14), 0);
        CHECK(nf_rig_take(r.nf, OUTSIDE) == NULL);
        pass_time(&r, 1000); /* errors are few */
    }
    end_rig(&r);
}

static void test_errors_are_few(void) {
    rig r = make_rig(16);
    wire_frame f = udp_to(V4(192, 0, 2, 1), 64);
    for (int i = 0; i < 20; i++)
        nf_rig_send(r.nf, INSIDE, &f);
    CHECK_EQ(stats_of(&r).errors_sent, 5);
    CHECK_EQ(stats_of(&r).errors_limited, 15);
    pass_time(&r, 200);
    nf_rig_send(r.nf, INSIDE, &f);
    nf_rig_send(r.nf, INSIDE, &f);
    nf_rig_send(r.nf, INSIDE, &f);
    CHECK_EQ(stats_of(&r).errors_sent, 7);
    end_rig(&r);
}

static void test_what_is_too_long_is_told_the_mtu(void) {
    rig r = make_rig(16);
    static uint8_t payload[1490];
    message m = {.proto = IPPROTO_UDP, .src = NEAR, .dst = PEER, .src_port = 9, .dst_port = 53};
    m.payload = (nfm_view){payload, sizeof(payload)};
    wire_frame f = to_router(&m, INSIDE, near_mac);
    nfm_write16(f.data + 14 + 6, 0x4000);
    nfm_write16(f.data + 14 + 10, 0);
    nfm_write16(f.data + 14 + 10, nfm_csum_fold(nfm_csum_add(0, f.data + 14, 20)));
    nf_rig_send(r.nf, INSIDE, &f);
    uint32_t rest;
    CHECK_EQ(error_at(&r, &rest).icmp, 3 << 8 | 4);
    CHECK_EQ(rest, MTU);
    m = (message){.proto = IPPROTO_UDP, .src6 = near6, .dst6 = peer6, .payload = m.payload};
    f = to_router(&m, INSIDE, near_mac);
    nf_rig_send(r.nf, INSIDE, &f);
    const wire_frame *told = nf_rig_take(r.nf, INSIDE);
    CHECK_EQ(read_frame(told).icmp, 2 << 8);
    CHECK(told != NULL && nfm_read32(told->data + 14 + 44) == MTU && told->len == 14 + 1280);
    end_rig(&r);
}

static void test_nobody_is_told_about_errors_groups_and_later_fragments(void) {
    rig r = make_rig(16);
    wire_frame lost = udp_to(V4(192, 0, 2, 1), 64), f = error_about(&lost, 3 << 8, NEAR, 28);
    memcpy(f.data, own_mac[0], 6);
    nfm_write32(f.data + 14 + 16, V4(192, 0, 2, 1));
    nfm_write16(f.data + 14 + 10, 0);
    nfm_write16(f.data + 14 + 10, nfm_csum_fold(nfm_csum_add(0, f.data + 14, 20)));
    nf_rig_send(r.nf, INSIDE, &f); /* an error */
    check_quiet(&r);
    f = lost;
    memset(f.data, 0xff, 6); /* to all of the link */
    nf_rig_send(r.nf, INSIDE, &f);
    check_quiet(&r);
    f = lost;
    nfm_write16(f.data + 14 + 6, 100); /* a later fragment */
    nfm_write16(f.data + 14 + 10, 0);
    nfm_write16(f.data + 14 + 10, nfm_csum_fold(nfm_csum_add(0, f.data + 14, 20)));
    nf_rig_send(r.nf, INSIDE, &f);
    check_quiet(&r);
    CHECK_EQ(stats_of(&r).no_route, 2);
    CHECK_EQ(stats_of(&r).group, 1);
    CHECK_EQ(stats_of(&r).errors_sent, 0);
    end_rig(&r);
}

static void test_tags_and_multicast_go_no_further_and_are_counted(void) {
    static const uint8_t all_hosts[6] = {1, 0, 0x5e, 1, 2, 3}, all6[6] = {0x33, 0x33, [5] = 0xfb};
    static const uint8_t group6[16] = {0xff, 2, [15] = 0xfb};
    rig r = make_rig(16);
    wire_frame plain = udp_to(PEER, 64), f = plain;
    for (uint16_t type = 0; type < 2; type++) {
        memcpy(f.data + 16, plain.data + 12, plain.len - 12);
        nfm_write16(f.data + 12, type == 0 ? 0x8100 : 0x88a8);
        nfm_write16(f.data + 14, 7);
        f.len = plain.len + 4;
        nf_rig_send(r.nf, INSIDE, &f);
        check_quiet(&r);
    }
    f = udp_to(V4(239, 1, 2, 3), 64);
    memcpy(f.data, all_hosts, 6);
    nf_rig_send(r.nf, INSIDE, &f);
    check_quiet(&r);
    message m = {.proto = IPPROTO_UDP, .src6 = near6, .dst6 = group6, .src_port = 5353};
    f = to_router(&m, INSIDE, near_mac);
    memcpy(f.data, all6, 6);
    nf_rig_send(r.nf, INSIDE, &f);
    check_quiet(&r);
    CHECK_EQ(stats_of(&r).tagged, 2);
    CHECK_EQ(stats_of(&r).multicast, 2);
    CHECK_EQ(stats_of(&r).group + stats_of(&r).other_protocol + stats_of(&r).forwarded, 0);
    end_rig(&r);
}

/* ---- what goes no further ------------------------------------------------------------------- */

static void test_martians_are_dropped(void) {
    static const uint32_t sources[] = {V4(127, 0, 0, 1), V4(0, 0, 0, 0),         V4(224, 0, 0, 1),
                                       V4(240, 0, 0, 1), V4(255, 255, 255, 255), V4(169, 254, 0, 1),
                                       V4(10, 2, 0, 1)};
    rig r = make_rig(16);
    for (uint32_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++) {
        message m = {.proto = IPPROTO_UDP, .src = sources[i], .dst = PEER};
        wire_frame f = to_router(&m, INSIDE, near_mac);
        nf_rig_send(r.nf, INSIDE, &f);
        check_quiet(&r);
        CHECK_EQ(stats_of(&r).martian, i + 1);
    }
    end_rig(&r);
}

static void test_damaged_headers_and_frames_of_others_are_dropped(void) {
    rig r = make_rig(16);
    wire_frame f = udp_to(PEER, 64);
    f.data[14 + 10] ^= 1;
    nf_rig_send(r.nf, INSIDE, &f);
    CHECK_EQ(stats_of(&r).bad_header, 1);
    f = udp_to(PEER, 64);
    f.data[5] ^= 1;
    nf_rig_send(r.nf, INSIDE, &f);
    CHECK_EQ(stats_of(&r).not_ours, 1);
    f = udp_to(V4(10, 67, 0, 1), 64);
    nf_rig_send(r.nf, INSIDE, &f);
    CHECK_EQ(stats_of(&r).refused_by_route, 1);
    check_quiet(&r);
    end_rig(&r);
}

/* ---- IPv6 ----------------------------------------------------------------------------------- */

/* A solicitation or advertisement about |target|, with the MAC address of who sends it. */
static wire_frame nd_of(uint8_t type, int wire, const uint8_t *src, const uint8_t *dst,
                        const uint8_t *target, const uint8_t *mac) {
    uint8_t body[24] = {0};
    memcpy(body, target, 16);
    body[16] = type == 135 ? 1 : 2;
    body[17] = 1;
    memcpy(body + 18, mac, 6);
    message m = {.proto = IPPROTO_ICMPV6, .icmp = (uint16_t)(type << 8), .src6 = src, .dst6 = dst};
    m.payload = (nfm_view){body, sizeof(body)};
    m.dst_port = type == 136 ? 0x6000 : 0; /* solicited, override; and 1 that is not looked at */
    wire_frame f = to_router(&m, wire, mac);
    f.data[14 + 7] = 255;
    return f;
}

static void test_neighbours_of_ipv6_are_found(void) {
    static const uint8_t group[16] = {0xff, 2, [11] = 1, 0xff, 0, 0, 2};
    rig r = make_rig(16);
    message m = {.proto = IPPROTO_UDP, .src6 = near6, .dst6 = peer6, .src_port = 9, .dst_port = 53};
    m.payload = (nfm_view){(const uint8_t *)"question", 8};
    wire_frame f = to_router(&m, INSIDE, near_mac);
    nf_rig_send(r.nf, INSIDE, &f);
    const wire_frame *question = nf_rig_take(r.nf, OUTSIDE);
    message asked = read_frame(question);
    CHECK_EQ(asked.icmp, 135 << 8);
    CHECK_EQ(memcmp(asked.dst6, group, 16), 0);
    CHECK(question != NULL && question->data[0] == 0x33 && question->data[14 + 7] == 255);
    wire_frame answer = nd_of(136, OUTSIDE, peer6, own6[1], peer6, peer_mac);
    nf_rig_send(r.nf, OUTSIDE, &answer);
    const wire_frame *there = nf_rig_take(r.nf, OUTSIDE);
    CHECK_EQ(memcmp(read_frame(there).dst6, peer6, 16), 0);
    CHECK(there != NULL && memcmp(there->data, peer_mac, 6) == 0 && there->data[14 + 7] == 63);
    end_rig(&r);
}

static void test_questions_about_its_address_of_ipv6_are_answered(void) {
    rig r = make_rig(16);
    wire_frame f = nd_of(135, INSIDE, near6, own6[0], own6[0], near_mac);
    nf_rig_send(r.nf, INSIDE, &f);
    const wire_frame *reply = nf_rig_take(r.nf, INSIDE);
    CHECK_EQ(read_frame(reply).icmp, 136 << 8);
    CHECK(reply != NULL && memcmp(reply->data, near_mac, 6) == 0);
    CHECK(reply != NULL && memcmp(reply->data + 14 + 40 + 26, own_mac[0], 6) == 0);
    f.data[14 + 7] = 254; /* from beyond the link */
    nf_rig_send(r.nf, INSIDE, &f);
    check_quiet(&r);
    f.data[14 + 7] = 255;
    f.data[14 + 40 + 25] = 0; /* an option without a length */
    nf_rig_send(r.nf, INSIDE, &f);
    check_quiet(&r);
    CHECK_EQ(stats_of(&r).bad_neighbour, 2);
    end_rig(&r);
}

static void test_pings_are_answered(void) {
    rig r = make_rig(16);
    message m = {.proto = IPPROTO_ICMP, .icmp = 8 << 8, .src = NEAR, .dst = V4(10, 2, 0, 1)};
    m.payload = (nfm_view){(const uint8_t *)"ping", 4};
    wire_frame f = to_router(&m, INSIDE, near_mac);
    nf_rig_send(r.nf, INSIDE, &f);
    message reply = read_frame(nf_rig_take(r.nf, INSIDE));
    CHECK_EQ(reply.icmp, 0);
    CHECK_EQ(reply.src, V4(10, 2, 0, 1));
    CHECK_EQ(memcmp(reply.payload.data, "ping", 4), 0);
    f.data[f.len - 1] ^= 1; /* damaged: no answer that is whole */
    nf_rig_send(r.nf, INSIDE, &f);
    check_quiet(&r);
    end_rig(&r);
}

static const nfm_test tests[] = {
    T(test_a_question_about_its_address_is_answered),
    T(test_packets_wait_for_their_next_hop_in_order_and_not_too_many),
    T(test_a_gateway_is_asked_for_what_lies_behind_it),
    T(test_who_does_not_answer_is_unreachable),
    T(test_a_neighbour_is_asked_again_while_packets_pass),
    T(test_room_for_neighbours_is_that_of_those_that_answer),
    T(test_senders_are_told_why),
    T(test_errors_are_few),
    T(test_what_is_too_long_is_told_the_mtu),
    T(test_tags_and_multicast_go_no_further_and_are_counted),
    T(test_nobody_is_told_about_errors_groups_and_later_fragments),
    T(test_martians_are_dropped),
    T(test_damaged_headers_and_frames_of_others_are_dropped),
    T(test_neighbours_of_ipv6_are_found),
    T(test_questions_about_its_address_of_ipv6_are_answered),
    T(test_pings_are_answered),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
