/* SPDX-License-Identifier: Apache-2.0 */
/* Tunnels: what is peeled, what stays with the outer flow, how deep it goes. */
#include "wire_frames.h"

static frame f;

/* An Ethernet frame whose IP carries |header| (hex) and then |inside| bytes still to come. */
static void outer_ip(uint8_t version, uint8_t proto, const char *header, uint32_t inside) {
    static frame h;
    frame_init(&h);
    hex(&h, header);
    frame_init(&f);
    eth(&f, version == 4 ? 0x0800 : 0x86dd);
    ip(&f, version, proto, h.buf.len + inside);
    nfm_emit_bytes(&f.buf, h.bytes, h.buf.len);
}

/* The same over UDP. */
static void outer_udp(uint16_t sport, uint16_t dport, const char *header, uint32_t inside) {
    static frame h;
    frame_init(&h);
    hex(&h, header);
    frame_init(&f);
    eth(&f, 0x0800);
    ip(&f, 4, 17, 8 + h.buf.len + inside);
    udp(&f, sport, dport, h.buf.len + inside);
    nfm_emit_bytes(&f.buf, h.bytes, h.buf.len);
}

static nfm_packet check_inside(uint8_t version, int kind, uint32_t id) {
    ip_tcp(&f, version, 5);
    fill(&f, 3, 0xaa);
    nfm_packet p = parse(&f, ETHERNET);
    check_tcp(&p, version, 5);
    CHECK_EQ(p.tunnel_kind, kind);
    CHECK_EQ(p.tunnel_id, id);
    CHECK_EQ(p.depth, 1);
    CHECK(p.rec.flags & NFM_F_TUNNEL);
    return p;
}

/* The packet is the outer one: |proto| with |payload| bytes behind its header. */
static void check_outer(const nfm_packet *p, uint8_t proto, uint32_t payload) {
    CHECK_EQ(p->status, NFM_PARSE_OK);
    CHECK_EQ(p->rec.proto, proto);
    CHECK_EQ(p->rec.payload_len, payload);
    CHECK_EQ(p->tunnel_kind, NFM_TUNNEL_NONE);
    CHECK_EQ(p->depth, 0);
    CHECK_EQ(p->rec.flags & ~NFM_F_IPV6, 0);
}

static void ip_in_ip(void) {
    for (uint8_t outer = 4; outer <= 6; outer += 2) {
        for (uint8_t inner = 4; inner <= 6; inner += 2) {
            outer_ip(outer, inner == 4 ? 4 : 41, "", ip_tcp_len(inner, 5));
            check_inside(inner, NFM_TUNNEL_IPIP, 0);
        }
    }
}

static void gre(void) {
    static const struct {
        const char *header;
        uint8_t version;
        uint32_t id;
    } cases[] = {
        {"0000 0800", 4, 0},
        {"0000 86dd", 6, 0},
        {"8000 0800 1234 0000", 4, 0},
        {"2000 0800 0000002a", 4, 42},
        {"b000 0800 1234 0000 0000002a 00000007", 4, 42},
        {"1000 0800 00000007", 4, 0},
        {"2000 6558 0000002a 020000000002 020000000001 0800", 4, 42},
        {"2000 6558 0000002a 020000000002 020000000001 8100 0009 86dd", 6, 42},
        {"0000 88be 020000000002 020000000001 0800", 4, 0}, /* ERSPAN I */
        {"1000 88be 00000001 10010065 00000000 020000000002 020000000001 0800", 4, 101},
        {"1000 22eb 00000001 20010065 00000000 00000000 020000000002 020000000001 0800", 4, 101},
        {"1000 22eb 00000001 20010065 00000000 00000001 0000000000000000 "
         "020000000002 020000000001 0800",
         4, 101}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        outer_ip(4, 47, cases[i].header, ip_tcp_len(cases[i].version, 5));
        check_inside(cases[i].version, NFM_TUNNEL_GRE, cases[i].id);
    }
    outer_ip(6, 47, "0000 0800", ip_tcp_len(4, 5));
    check_inside(4, NFM_TUNNEL_GRE, 0);
    outer_ip(4, 47, "0000 8847 00012140", ip_tcp_len(4, 5));
    check_inside(4, NFM_TUNNEL_MPLS, 18);
}

/* An access point's tunnel: 802.11 data frames, with or without quality of service. */
static void gre_wlan(void) {
    static const char *const addresses = "020000000001020000000002020000000003 0010";
    static const struct {
        const char *head, *tail;
    } cases[] = {{"08010000", ""},
                 {"88010000", "0000"},
                 {"88810000", "0000 00000000"},
                 {"88030000", "020000000004 0000"}};
    char text[200];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        snprintf(text, sizeof(text), "0000 8200 %s %s %s aaaa03 000000 0800", cases[i].head,
                 addresses, cases[i].tail);
        outer_ip(4, 47, text, ip_tcp_len(4, 5));
        check_inside(4, NFM_TUNNEL_GRE, 0);
    }
    static const char *const left[] = {"80000000", "48010000",
                                       "08410000"}; /* beacon, empty, encrypted */
    for (size_t i = 0; i < sizeof(left) / sizeof(left[0]); i++) {
        snprintf(text, sizeof(text), "0000 8200 %s %s aaaa03 000000 0800", left[i], addresses);
        outer_ip(4, 47, text, ip_tcp_len(4, 5));
        ip_tcp(&f, 4, 5);
        nfm_packet p = parse(&f, ETHERNET);
        check_outer(&p, 47, 4 + 24 + 8 + ip_tcp_len(4, 5));
    }
}

static void pptp(void) {
    outer_ip(4, 47, "3001 880b 0031 0007 00000001 ff03 0021", ip_tcp_len(4, 5));
    check_inside(4, NFM_TUNNEL_GRE, 7);
    outer_ip(4, 47, "3081 880b 002e 0007 00000001 00000002 21", ip_tcp_len(4, 5));
    check_inside(4, NFM_TUNNEL_GRE, 7);
    outer_ip(4, 47, "2081 880b 0000 0007 00000002", 0); /* an acknowledgment alone */
    nfm_packet p = parse(&f, ETHERNET);
    check_outer(&p, 47, 12);
    outer_ip(4, 47, "3001 880b 0008 0007 00000001 ff03 c021 01010004", 0); /* link control */
    p = parse(&f, ETHERNET);
    check_outer(&p, 47, 20);
}

static void gre_left_alone(void) {
    static const struct {
        const char *header;
        uint32_t len;
    } cases[] = {{"4000 0800 0000 0000", 8}, /* source routing */
                 {"0002 0800", 4},           /* version 2 */
                 {"0000 0806 0001", 6},      /* ARP inside */
                 {"0000 0800 4500", 6},      /* a cut inner header */
                 {"0000", 2},                /* a cut GRE header */
                 {"1000 22eb 00000001 2001", 10}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        outer_ip(4, 47, cases[i].header, 0);
        nfm_packet p = parse(&f, ETHERNET);
        check_outer(&p, 47, cases[i].len);
    }
}

static void vxlan(void) {
    static const char *const header = "08000000 00002a00 020000000002 020000000001 0800";
    outer_udp(50000, 4789, header, ip_tcp_len(4, 5));
    check_inside(4, NFM_TUNNEL_VXLAN, 42);
    outer_udp(50000, 8472, "08000000 00002a00 020000000002 020000000001 86dd", ip_tcp_len(6, 5));
    check_inside(6, NFM_TUNNEL_VXLAN, 42);
    outer_udp(50000, 4789, "08000000 00002a00 020000000002 020000000001 8100 0005 0800",
              ip_tcp_len(4, 5));
    nfm_packet p = check_inside(4, NFM_TUNNEL_VXLAN, 42);
    CHECK_EQ(p.vlan[0], 0); /* the tags of the frame count, not the tenant's */
    outer_udp(4789, 50000, header, ip_tcp_len(4, 5)); /* the source port says nothing */
    ip_tcp(&f, 4, 5);
    p = parse(&f, ETHERNET);
    check_outer(&p, 17, 22 + ip_tcp_len(4, 5));
    outer_udp(50000, 4789, "00000000 00002a00 020000000002 020000000001 0800", ip_tcp_len(4, 5));
    ip_tcp(&f, 4, 5); /* no network identifier */
    p = parse(&f, ETHERNET);
    check_outer(&p, 17, 22 + ip_tcp_len(4, 5));
}

static void geneve(void) {
    outer_udp(50000, 6081, "0000 6558 00002a00 020000000002 020000000001 0800", ip_tcp_len(4, 5));
    check_inside(4, NFM_TUNNEL_GENEVE, 42);
    outer_udp(50000, 6081, "0240 86dd 00002a00 0102 8001 00000000", ip_tcp_len(6, 5)); /* options */
    check_inside(6, NFM_TUNNEL_GENEVE, 42);
    outer_udp(50000, 6081, "3f00 0800 00002a00", 10); /* options beyond the datagram */
    fill(&f, 10, 0);
    nfm_packet p = parse(&f, ETHERNET);
    check_outer(&p, 17, 18);
}

static void gtpu_case(const char *header, uint32_t payload, uint8_t version) {
    outer_udp(2152, 2152, header, ip_tcp_len(version, 5));
    nfm_write16(f.bytes + 14 + 20 + 8 + 2, (uint16_t)(payload + ip_tcp_len(version, 5)));
    check_inside(version, NFM_TUNNEL_GTPU, 0x2a);
}

static void gtpu(void) {
    gtpu_case("30ff 0000 0000002a", 0, 4);
    gtpu_case("30ff 0000 0000002a", 0, 6);
    gtpu_case("32ff 0000 0000002a 00010000", 4, 4);          /* sequence number */
    gtpu_case("34ff 0000 0000002a 00000085 01100900", 8, 4); /* one extension header */
    gtpu_case("36ff 0000 0000002a 000100c0 01000085 02100900 00000000", 16, 6);
    static const struct {
        const char *bytes;
        uint32_t len;
    } left[] = {{"3001 0004 00000000 00000000", 12},          /* echo request */
                {"30ff 0004 0000002a 00000000", 12},          /* not IP */
                {"34ff 0008 0000002a 00000085 00100900", 16}, /* extension of length 0 */
                {"34ff 0008 0000002a 00000085 7f100900", 16}, /* or longer than the packet */
                {"30ff 0fff 0000002a 45000000", 12},          /* length beyond the datagram */
                {"50ff 0004 0000002a 45000000", 12}};         /* version 2 */
    for (size_t i = 0; i < sizeof(left) / sizeof(left[0]); i++) {
        outer_udp(2152, 2152, left[i].bytes, 0);
        nfm_packet p = parse(&f, ETHERNET);
        check_outer(&p, 17, left[i].len);
    }
}

static void teredo(void) {
    static const char *const heads[] = {"", "0000 a000 3fffffff", "0001 0000 0000000000000000 00",
                                        "0001 0102 aa bbbb 0000000000000000 00 0000 a000 3fffffff"};
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        outer_udp(50000, 3544, heads[i], ip_tcp_len(6, 5));
        check_inside(6, NFM_TUNNEL_TEREDO, 0);
        outer_udp(3544, 50000, heads[i], ip_tcp_len(6, 5));
        check_inside(6, NFM_TUNNEL_TEREDO, 0);
    }
    outer_udp(50000, 3544, "", ip_tcp_len(4, 5)); /* IPv4 is not Teredo's */
    ip_tcp(&f, 4, 5);
    nfm_packet p = parse(&f, ETHERNET);
    check_outer(&p, 17, ip_tcp_len(4, 5));
}

/* IP in GRE in IP in IP: as deep as told, and the flow at that depth. */
static void depth(void) {
    for (uint32_t max = 0; max <= 4; max++) {
        nfm_wire_config config = {.max_depth = max};
        uint32_t len = ip_tcp_len(4, 5);
        frame_init(&f);
        eth(&f, 0x0800);
        ip(&f, 4, 41, 40 + 4 + 20 + len);
        ip(&f, 6, 47, 4 + 20 + len);
        hex(&f, "00000800");
        ip(&f, 4, 4, len);
        ip_tcp(&f, 4, 5);
        nfm_packet p = parse_with(&config, &f, ETHERNET);
        static const uint8_t protos[] = {41, 47, 4, 6, 6};
        static const uint8_t kinds[] = {NFM_TUNNEL_NONE, NFM_TUNNEL_IPIP, NFM_TUNNEL_GRE,
                                        NFM_TUNNEL_IPIP, NFM_TUNNEL_IPIP};
        CHECK_EQ(p.status, NFM_PARSE_OK);
        CHECK_EQ(p.rec.proto, protos[max]);
        CHECK_EQ(p.tunnel_kind, kinds[max]);
        CHECK_EQ(p.depth, max < 3 ? max : 3);
        CHECK_EQ(p.key.port[1], max < 3 ? 0 : 80);
    }
}

/* A broken packet two tunnels deep belongs to the flow of the inner tunnel. */
static void broken_inside(void) {
    frame_init(&f);
    eth(&f, 0x0800);
    ip(&f, 4, 41, 40 + 20 + 20);
    ip(&f, 6, 4, 20 + 20);
    ip(&f, 4, 6, 20);
    hex(&f, "9c40 0050 00000000 00000000 1000 0000 0000 0000"); /* data offset 1 */
    nfm_packet p = parse(&f, ETHERNET);
    CHECK_EQ(p.status, NFM_PARSE_OK);
    CHECK_EQ(p.rec.proto, 4);
    CHECK_EQ(p.key.ip_version, 6);
    CHECK_EQ(p.depth, 1);
    CHECK_EQ(p.rec.payload_len, 40);
    CHECK_EQ(p.rec.tcp_flags, 0);
}

static void fragment_inside(void) {
    nfm_ip_fields fields = {.ttl = 3, .id = 5, .fragment = 0x2000};
    nfm_key key = key_of(4, 17);
    outer_udp(50000, 4789, "08000000 00002a00 020000000002 020000000001 0800", 20 + 16);
    nfm_emit_ipv4(&f.buf, &key, &fields, 16);
    fill(&f, 16, 0);
    nfm_packet p = parse(&f, ETHERNET);
    CHECK_EQ(p.status, NFM_PARSE_FRAGMENT);
    CHECK_EQ(p.frag_id, 5);
    CHECK_EQ(p.rec.flags, NFM_F_FRAGMENT | NFM_F_TUNNEL);
    CHECK_EQ(p.tunnel_id, 42);
    CHECK_EQ(p.rec.payload_len, 16);
}

/* An ICMP error quotes a packet; that is no tunnel. */
static void icmp_error(void) {
    outer_ip(4, 1, "0301 0000 00000000", ip_tcp_len(4, 0));
    ip_tcp(&f, 4, 0);
    nfm_packet p = parse(&f, ETHERNET);
    check_outer(&p, 1, ip_tcp_len(4, 0));
    CHECK_EQ(p.key.port[0], 0x0301);
}

static void ipv4_authentication(void) {
    frame_init(&f);
    eth(&f, 0x0800);
    ip(&f, 4, 51, 12 + 20);
    hex(&f, "06 01 0000 00000001 00000002");
    nfm_emit_tcp(&f.buf, &KEY4, &(nfm_tcp_fields){.seq = 1000}, (nfm_view){NULL, 0});
    nfm_packet p = parse(&f, ETHERNET);
    check_tcp(&p, 4, 0);
    outer_ip(4, 51, "06 7f 0000 00000001 00000002", 0); /* longer than the packet */
    p = parse(&f, ETHERNET);
    check_outer(&p, 51, 12);
}

/* The identifier is part of the key where both directions carry the same. */
static void scope(void) {
    static const nfm_wire_config config = {.max_depth = 4, .key_tunnel = 1};
    outer_udp(50000, 4789, "08000000 00002a00 020000000002 020000000001 0800", ip_tcp_len(4, 5));
    ip_tcp(&f, 4, 5);
    CHECK_EQ(parse_with(&config, &f, ETHERNET).key.scope, 42);
    outer_udp(2152, 2152, "30ff 0031 0000002a", ip_tcp_len(4, 5));
    nfm_write16(f.bytes + 14 + 20 + 8 + 2, (uint16_t)ip_tcp_len(4, 5));
    ip_tcp(&f, 4, 5);
    nfm_packet p = parse_with(&config, &f, ETHERNET);
    CHECK_EQ(p.key.scope, 0);
    CHECK_EQ(p.tunnel_id, 42);
}

/* What reassembly calls: the walk goes on at an IP header, and link and tunnel facts stay. */
static void parse_from_ip(void) {
    static const nfm_wire_config config = {.max_depth = 4, .key_tunnel = 1, .key_vlan = 1};
    frame_init(&f);
    hex(&f, "020000000002 020000000001 88a8 0064 8100 0165 0800");
    ip(&f, 4, 17, 8 + 22 + ip_tcp_len(4, 5));
    udp(&f, 50000, 4789, 22 + ip_tcp_len(4, 5));
    hex(&f, "08000000 00002a00 020000000002 020000000001 0800");
    ip_tcp(&f, 4, 5);
    nfm_packet whole = parse_with(&config, &f, ETHERNET), p = whole;
    p.base = (uint8_t *)((uintptr_t)guard_place(f.bytes, f.buf.len) - NFM_HEADROOM);
    p.rec.flags |= NFM_F_FRAGMENT;
    nfm_wire_parse_ip(&config, &p, whole.rec.l3_off, f.buf.len + NFM_HEADROOM - whole.rec.l3_off);
    check_tcp(&p, 4, 5);
    CHECK(memcmp(&p.key, &whole.key, sizeof(nfm_key)) == 0);
    CHECK_EQ(p.rec.flags, whole.rec.flags | NFM_F_FRAGMENT);
    CHECK_EQ(p.tunnel_id, 42);
    CHECK_EQ(p.depth, 1);
    CHECK_EQ(p.vlan[1], 0x165);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(ip_in_ip),       T(gre),
        T(gre_wlan),       T(pptp),
        T(gre_left_alone), T(vxlan),
        T(geneve),         T(gtpu),
        T(teredo),         T(depth),
        T(broken_inside),  T(fragment_inside),
        T(icmp_error),     T(ipv4_authentication),
        T(scope),          T(parse_from_ip),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
