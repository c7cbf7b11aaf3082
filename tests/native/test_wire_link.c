/* SPDX-License-Identifier: Apache-2.0 */
/* Every link layer that is understood, with the usual TCP segment inside. */
#include "wire_frames.h"

static frame f;

/* Begins a frame with a header in hex. */
static void head(const char *text) {
    frame_init(&f);
    hex(&f, text);
}

static nfm_packet check_inside(uint16_t link, uint8_t version) {
    ip_tcp(&f, version, 5);
    fill(&f, 3, 0xaa); /* padding or frame check sequence */
    nfm_packet p = parse(&f, link);
    check_tcp(&p, version, 5);
    return p;
}

static void raw(void) {
    static const uint16_t links[] = {12, 14, 101};
    for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++) {
        head("");
        check_inside(links[i], 4);
        head("");
        check_inside(links[i], 6);
    }
    head("");
    check_inside(228, 4);
    head("");
    check_inside(229, 6);
    head("");
    ip_tcp(&f, 6, 0);
    CHECK_EQ(parse(&f, 228).malformed, NFM_PD_IP_VERSION);
    head("50 00 00 00");
    CHECK_EQ(parse(&f, 101).malformed, NFM_PD_IP_VERSION);
}

static void loopback(void) {
    static const struct {
        const char *family;
        uint8_t version;
    } cases[] = {{"00000002", 4}, {"02000000", 4}, {"18000000", 6}, {"1c000000", 6},
                 {"1e000000", 6}, {"0000001e", 6}, {"0a000000", 6}, {"17000000", 6}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        head(cases[i].family);
        check_inside(0, cases[i].version);
        head(cases[i].family);
        check_inside(108, cases[i].version);
    }
    head("0f000800");
    check_inside(0, 4);
    head("07000000 4500");
    CHECK_EQ(parse(&f, 0).status, NFM_PARSE_OTHER);
    head("0200");
    CHECK_EQ(parse(&f, 0).malformed, NFM_PD_LINK_SHORT);
}

static void cooked(void) {
    head("0000 0001 0006 020000000001 0000 0800");
    check_inside(113, 4);
    head("0000 0001 0006 020000000001 0000 86dd");
    check_inside(113, 6);
    head("0000 0001 0006 020000000001 0000 8100 0007 0800");
    CHECK_EQ(check_inside(113, 4).vlan[0], 7);
    head("0000 0001 0006 020000000001 0000 0004 aaaa03 000000 0800");
    check_inside(113, 4);
    head("0000 0001 0006 020000000001 0000 0001 ffff");
    CHECK_EQ(parse(&f, 113).status, NFM_PARSE_OTHER);
    head("0800 0000 00000002 0001 00 06 0200000000010000");
    check_inside(276, 4);
    head("86dd 0000 00000002 0001 00 06 0200000000010000");
    check_inside(276, 6);
}

static void ppp(void) {
    static const char *const heads[] = {"ff03 0021", "0021", "ff03 21", "21"};
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        head(heads[i]);
        check_inside(9, 4);
        head(heads[i]);
        check_inside(50, 4);
    }
    head("ff03 0057");
    check_inside(9, 6);
    head("ff03 0281 00012140");
    CHECK_EQ(check_inside(9, 4).tunnel_id, 18);
    head("0f00 0800"); /* Cisco HDLC */
    check_inside(50, 4);
    head("8f00 86dd");
    check_inside(104, 6);
    head("ff03 c021 01010004"); /* link control */
    CHECK_EQ(parse(&f, 9).status, NFM_PARSE_OTHER);
    head("ff03");
    CHECK_EQ(parse(&f, 9).malformed, NFM_PD_LINK_SHORT);
}

static void pppoe(void) {
    head("020000000002 020000000001 8864 1100 0042");
    uint8_t len[2] = {0, (uint8_t)(2 + ip_tcp_len(4, 5))};
    nfm_emit_bytes(&f.buf, len, 2);
    hex(&f, "0021");
    nfm_packet p = check_inside(ETHERNET, 4);
    CHECK_EQ(p.tunnel_kind, NFM_TUNNEL_PPPOE);
    CHECK_EQ(p.tunnel_id, 0x42);
    CHECK_EQ(p.depth, 0);
    CHECK_EQ(p.rec.flags, NFM_F_TUNNEL);
    head("11 00 0042 0033 0021");
    check_inside(51, 4);
    head("020000000002 020000000001 8864 1109 0000 0004 01010000");
    CHECK_EQ(parse(&f, ETHERNET).status, NFM_PARSE_OTHER);
    head("020000000002 020000000001 8864 1100 00");
    CHECK_EQ(parse(&f, ETHERNET).malformed, NFM_PD_PPPOE_SHORT);
}

static void vlan(void) {
    head("020000000002 020000000001 8100 6064 0800");
    nfm_packet p = check_inside(ETHERNET, 4);
    CHECK_EQ(p.vlan[0], 100);
    CHECK_EQ(p.vlan[1], 0);
    CHECK_EQ(p.key.vlan, 0); /* not configured */
    head("020000000002 020000000001 88a8 000a 8100 0014 86dd");
    p = check_inside(ETHERNET, 6);
    CHECK_EQ(p.vlan[0], 10);
    CHECK_EQ(p.vlan[1], 20);
    head("020000000002 020000000001 9100 000a 8100 0014 8100 001e 0800"); /* the third counts no
                                                                             more */
    p = check_inside(ETHERNET, 4);
    CHECK_EQ(p.vlan[1], 20);
    head("020000000002 020000000001 8100 e000 0800"); /* priority only */
    CHECK_EQ(check_inside(ETHERNET, 4).vlan[0], 0);
    head("020000000002 020000000001 8100 0014 0035 aaaa03 000000 0800"); /* a length behind the tag
                                                                          */
    CHECK_EQ(check_inside(ETHERNET, 4).vlan[0], 20);
    head("020000000002 020000000001 8100 00");
    CHECK_EQ(parse(&f, ETHERNET).malformed, NFM_PD_VLAN_SHORT);
}

static nfm_packet keyed(const char *tags) {
    static const nfm_wire_config config = {.max_depth = 4, .key_vlan = 1, .key_tunnel = 1};
    head("020000000002 020000000001");
    hex(&f, tags);
    ip_tcp(&f, 4, 5);
    return parse_with(&config, &f, ETHERNET);
}

/* With VLANs in the key, any other tag or pair of tags is another key; labels of MPLS, which belong
 * to one direction, are not in it. */
static void key_parts(void) {
    static const char *const tags[] = {"0800",
                                       "8100 0064 0800",
                                       "8100 0065 0800",
                                       "88a8 0064 8100 0065 0800",
                                       "88a8 0065 8100 0064 0800",
                                       "88a8 0064 8100 0075 0800",
                                       "88a8 0064 8100 0165 0800"};
    nfm_packet seen[7];
    for (size_t i = 0; i < 7; i++) {
        seen[i] = keyed(tags[i]);
        for (size_t j = 0; j < i; j++)
            CHECK(memcmp(&seen[i].key, &seen[j].key, sizeof(nfm_key)) != 0);
    }
    nfm_packet a = keyed("8847 00012140"), b = keyed("8847 00022140");
    CHECK_EQ(a.tunnel_id, 18);
    CHECK(memcmp(&a.key, &b.key, sizeof(nfm_key)) == 0);
}

static void llc(void) {
    head("020000000002 020000000001 0035 aaaa03 000000 0800");
    check_inside(ETHERNET, 4);
    head("020000000002 020000000001 0035 aaaa03 0000f8 86dd");
    check_inside(ETHERNET, 6);
    head("020000000002 020000000001 0030 060603");
    check_inside(ETHERNET, 4);
    head("020000000002 020000000001 0005 aaaa03 0000");
    CHECK_EQ(parse(&f, ETHERNET).malformed, NFM_PD_LINK_SHORT);
}

static void mpls(void) {
    static const struct {
        const char *head;
        uint8_t version;
        uint32_t label;
    } cases[] = {
        {"8847 00012140", 4, 18},
        {"8847 00012140", 6, 18},
        {"8848 00012040 00013040 00014140", 4, 20},
        {"8100 0005 8847 00012140", 4, 18},
        {"8847 00012140 00000000 020000000002 020000000001 0800", 4,
         18},                                                    /* pseudo-wire, control word */
        {"8847 00012140 020000000002 020000000001 0800", 4, 18}, /* without */
        {"8847 00012140 420000000002 020000000001 0800", 4, 18}, /* a MAC that looks like IPv4 */
        {"8847 00012140 620000000002 ffffff000001 86dd", 6, 18}, /* and like IPv6 */
        {"8847 00012140 00000000 020000000002 020000000001 8100 0009 0800", 4, 18},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        head("020000000002 020000000001");
        hex(&f, cases[i].head);
        nfm_packet p = check_inside(ETHERNET, cases[i].version);
        CHECK_EQ(p.tunnel_kind, NFM_TUNNEL_MPLS);
        CHECK_EQ(p.tunnel_id, cases[i].label);
    }
    head("020000000002 020000000001 8847 0000d140 1000 0007 0000"); /* associated channel */
    CHECK_EQ(parse(&f, ETHERNET).status, NFM_PARSE_OTHER);
    head("020000000002 020000000001 8847 00012040 0001");
    CHECK_EQ(parse(&f, ETHERNET).malformed, NFM_PD_MPLS_SHORT);
    head("020000000002 020000000001 8847");
    for (int i = 0; i < 40; i++)
        hex(&f, "00012040");
    CHECK_EQ(parse(&f, ETHERNET).status, NFM_PARSE_OTHER);
}

/* Hundreds of nested tags end after a bounded number of steps. */
static void endless_nesting(void) {
    head("020000000002 020000000001");
    for (int i = 0; i < 300; i++)
        hex(&f, "8100 0001");
    hex(&f, "0800");
    ip_tcp(&f, 4, 0);
    CHECK_EQ(parse(&f, ETHERNET).status, NFM_PARSE_OTHER);
}

static void unknown(void) {
    head("0102030405060708");
    CHECK_EQ(parse(&f, 147).status, NFM_PARSE_OTHER);
    CHECK_EQ(nfm_wire_link_known(147), 0);
    static const uint32_t links[] = {0, 1, 9, 12, 14, 50, 51, 101, 104, 108, 113, 228, 229, 276};
    for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
        CHECK_EQ(nfm_wire_link_known(links[i]), 1);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(raw), T(loopback), T(cooked),          T(ppp),     T(pppoe), T(vlan), T(key_parts),
        T(llc), T(mpls),     T(endless_nesting), T(unknown),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
