/* SPDX-License-Identifier: Apache-2.0 */
/* IP and transport headers, their limits and broken forms, checksums, and the fast path. */
#include "wire_frames.h"

static frame f;

static void start(uint16_t type) {
    frame_init(&f);
    eth(&f, type);
}

static void check_malformed(uint16_t link, int why) {
    nfm_packet p = parse(&f, link);
    CHECK_EQ(p.status, NFM_PARSE_MALFORMED);
    CHECK_EQ(p.malformed, why);
    CHECK(p.rec.events & NFM_BIT(NFM_EV_PACKET_MALFORMED));
    CHECK_EQ(p.rec.payload_len, 0);
}

static void tcp_plain(void) {
    for (uint8_t version = 4; version <= 6; version += 2) {
        start(version == 4 ? 0x0800 : 0x86dd);
        ip_tcp(&f, version, 100);
        nfm_packet p = parse(&f, ETHERNET);
        check_tcp(&p, version, 100);
        CHECK_EQ(p.rec.l3_off, 128 + 14);
        CHECK_EQ(p.rec.l4_off, version == 4 ? 162 : 182);
        CHECK_EQ(p.rec.payload_off, p.rec.l4_off + 20);
        CHECK_EQ(p.rec.flags, version == 4 ? 0 : NFM_F_IPV6);
        CHECK_EQ(p.rec.tcp_flags, 0x18);
        CHECK_EQ(p.ack, 2000);
        CHECK_EQ(p.window, 512);
        CHECK_EQ(p.ttl, 64);
        CHECK_EQ(p.depth, 0);
    }
}

static void link_padding_is_no_payload(void) {
    start(0x0800);
    ip_tcp(&f, 4, 0);
    fill(&f, 6, 0);
    nfm_packet p = parse(&f, ETHERNET);
    check_tcp(&p, 4, 0);
}

static void capture_cut(void) {
    start(0x0800);
    ip_tcp(&f, 4, 100);
    nfm_wire_config config = {.max_depth = 4};
    nfm_packet p = parse_at(&config, f.bytes, 14 + 40 + 30, f.buf.len, ETHERNET, false);
    CHECK_EQ(p.status, NFM_PARSE_OK);
    CHECK_EQ(p.rec.payload_len, 30);
    CHECK_EQ(p.l4_len, 100);
    CHECK(p.rec.flags & NFM_F_TRUNCATED);
    p = parse_at(&config, f.bytes, 14 + 39, f.buf.len, ETHERNET, false);
    CHECK_EQ(p.malformed, NFM_PD_TCP_SHORT);
}

static void segmentation_offload(void) {
    start(0x0800);
    ip_tcp(&f, 4, 100);
    nfm_write16(f.bytes + 16, 0);
    nfm_packet p = parse(&f, ETHERNET);
    check_tcp(&p, 4, 100);
}

static void ipv4_options(void) {
    start(0x0800);
    ip(&f, 4, 6, 24);
    f.bytes[14] = 0x46;
    hex(&f, "01 01 01 00");
    nfm_tcp_fields tcp = {.seq = 5};
    nfm_emit_tcp(&f.buf, &KEY4, &tcp, (nfm_view){NULL, 0});
    nfm_packet p = parse(&f, ETHERNET);
    CHECK_EQ(p.status, NFM_PARSE_OK);
    CHECK_EQ(p.seq, 5);
    CHECK_EQ(p.rec.l4_off, 128 + 14 + 24);
}

static void ipv4_broken(void) {
    static const struct {
        uint32_t at;
        uint8_t value;
        int why;
    } cases[] = {{14, 0x65, NFM_PD_IP_VERSION}, {14, 0x44, NFM_PD_IPV4_IHL},
                 {17, 19, NFM_PD_IPV4_LENGTH},  {16, 2, NFM_PD_IPV4_LENGTH},
                 {46, 0x40, NFM_PD_TCP_OFFSET}, {46, 0xf0, NFM_PD_TCP_OFFSET}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        start(0x0800);
        ip_tcp(&f, 4, 4);
        f.bytes[cases[i].at] = cases[i].value;
        check_malformed(ETHERNET, cases[i].why);
    }
    start(0x0800);
    hex(&f, "45 00 00 14");
    check_malformed(ETHERNET, NFM_PD_IPV4_SHORT);
    start(0x0800);
    ip(&f, 4, 6, 10);
    fill(&f, 10, 0);
    check_malformed(ETHERNET, NFM_PD_TCP_SHORT);
    frame_init(&f);
    hex(&f, "02 00");
    check_malformed(ETHERNET, NFM_PD_LINK_SHORT);
}

static void tcp_options_all(void) {
    start(0x0800);
    ip(&f, 4, 6, 60);
    nfm_tcp_fields tcp = {.flags = 2};
    tcp.opts = (nfm_tcp_opts){.seen = NFM_OPT_MSS | NFM_OPT_WSCALE | NFM_OPT_SACK_OK |
                                      NFM_OPT_TIMESTAMP | NFM_OPT_SACK,
                              .mss = 1460,
                              .wscale = 7,
                              .tsval = 11,
                              .tsecr = 22,
                              .n_sack = 1,
                              .sack = {{1, 2}}};
    CHECK_EQ(nfm_emit_tcp_len(&tcp.opts), 56);
    nfm_emit_tcp(&f.buf, &KEY4, &tcp, (nfm_view){(const uint8_t *)"abcd", 4});
    nfm_packet p = parse(&f, ETHERNET);
    CHECK_EQ(p.tcp.seen, tcp.opts.seen);
    CHECK_EQ(p.tcp.mss, 1460);
    CHECK_EQ(p.tcp.wscale, 7);
    CHECK_EQ(p.tcp.tsval, 11);
    CHECK_EQ(p.tcp.tsecr, 22);
    CHECK_EQ(p.tcp.n_sack, 1);
    CHECK_EQ(p.tcp.sack[0][1], 2);
    CHECK_EQ(p.rec.payload_len, 4);
}

/* Options as bytes, and what is seen of them. */
static void tcp_options_odd(void) {
    static const struct {
        const char *bytes;
        unsigned seen;
    } cases[] = {
        {"00 02 04 05 b4 00 00 00", 0},                                  /* ended before the MSS */
        {"02 04 05 b4 08 0a 00 00", NFM_OPT_MSS | NFM_OPT_BAD},          /* runs past the header */
        {"02 01 05 b4 01 01 01 01", NFM_OPT_BAD},                        /* length below two */
        {"01 01 01 01 01 01 01 02", NFM_OPT_BAD},                        /* no room for a length */
        {"02 03 05 03 03 0f 01 01", NFM_OPT_WSCALE},                     /* MSS of a wrong length */
        {"22 02 13 02 04 02 01 01", NFM_OPT_FASTOPEN | NFM_OPT_SACK_OK}, /* MD5 of a wrong length */
        {"fe 06 f9 89 12 34 01 01", NFM_OPT_FASTOPEN},
        {"fe 04 12 34 05 04 00 00", 0}, /* another experiment; SACK without a block */
        {"4d 08 00 00 00 00 00 00", 0}, /* unknown: skipped */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        start(0x0800);
        ip(&f, 4, 6, 28);
        hex(&f, "9c40 0050 000003e8 00000000 7010 0200 0000 0000");
        hex(&f, cases[i].bytes);
        nfm_packet p = parse(&f, ETHERNET);
        CHECK_EQ(p.status, NFM_PARSE_OK);
        CHECK_EQ(p.tcp.seen, cases[i].seen);
        if (cases[i].seen == NFM_OPT_WSCALE)
            CHECK_EQ(p.tcp.wscale, 14);
    }
}

static void tcp_options_cut_by_capture(void) {
    start(0x0800);
    ip(&f, 4, 6, 40);
    hex(&f, "9c40 0050 000003e8 00000000 a010 0200 0000 0000");
    hex(&f, "02 04 05 b4 01 01 08 0a 00 00 00 01 00 00 00 02 01 03 03 07");
    nfm_wire_config config = {.max_depth = 4};
    nfm_packet p = parse_at(&config, f.bytes, f.buf.len - 6, f.buf.len, ETHERNET, false);
    CHECK_EQ(p.status, NFM_PARSE_OK);
    CHECK_EQ(p.tcp.seen, NFM_OPT_MSS); /* the cut one is no sender's fault */
    CHECK_EQ(p.rec.payload_len, 0);
    CHECK(p.rec.flags & NFM_F_TRUNCATED);
}

static void md5_and_sack_blocks(void) {
    start(0x0800);
    ip(&f, 4, 6, 60);
    hex(&f, "9c40 0050 000003e8 00000000 f010 0200 0000 0000");
    hex(&f,
        "13 12 00000000000000000000000000000000 05 12 00000001 00000002 00000003 00000004 0000");
    fill(&f, 2, 0);
    nfm_packet p = parse(&f, ETHERNET);
    CHECK_EQ(p.tcp.seen, NFM_OPT_MD5 | NFM_OPT_SACK);
    CHECK_EQ(p.tcp.n_sack, 2);
    CHECK_EQ(p.tcp.sack[1][0], 3);
}

static void udp_lengths(void) {
    static const struct {
        uint32_t field;
        int why;
        uint32_t payload;
    } cases[] = {{18, 0, 10},
                 {12, 0, 4},
                 {8, 0, 0},
                 {7, NFM_PD_UDP_LENGTH, 0},
                 {0, NFM_PD_UDP_LENGTH, 0},
                 {19, NFM_PD_UDP_LENGTH, 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        start(0x0800);
        ip(&f, 4, 17, 18);
        udp(&f, 1111, 53, cases[i].field - 8);
        fill(&f, 10, 1);
        fill(&f, 8, 0xee); /* link padding */
        nfm_packet p = parse(&f, ETHERNET);
        CHECK_EQ(p.malformed, cases[i].why);
        if (cases[i].why != 0)
            continue;
        CHECK_EQ(p.rec.events, NFM_BIT(NFM_EV_PACKET_UDP));
        CHECK_EQ(p.rec.payload_len, cases[i].payload);
        CHECK_EQ(p.l4_len, cases[i].payload);
        CHECK_EQ(p.key.port[0], 1111);
        CHECK_EQ(p.key.port[1], 53);
    }
    start(0x0800);
    ip(&f, 4, 17, 7);
    fill(&f, 7, 0);
    check_malformed(ETHERNET, NFM_PD_UDP_SHORT);
}

static void other_transports(void) {
    start(0x0800);
    ip(&f, 4, 132, 16);
    hex(&f, "0b59 0b5a 00000001 00000000 00000000");
    nfm_packet p = parse(&f, ETHERNET);
    CHECK_EQ(p.key.port[0], 2905);
    CHECK_EQ(p.rec.payload_len, 4);
    CHECK_EQ(p.rec.events, NFM_BIT(NFM_EV_PACKET_OTHER));
    start(0x86dd);
    ip(&f, 6, 136, 12);
    hex(&f, "0b59 0b5a 0008 0000 00000000");
    p = parse(&f, ETHERNET);
    CHECK_EQ(p.key.port[1], 2906);
    CHECK_EQ(p.rec.payload_len, 4);
    start(0x86dd);
    ip(&f, 6, 50, 12); /* ESP hides what follows */
    fill(&f, 12, 0);
    p = parse(&f, ETHERNET);
    CHECK_EQ(p.status, NFM_PARSE_OK);
    CHECK_EQ(p.rec.proto, 50);
    CHECK_EQ(p.key.port[0], 0);
    CHECK_EQ(p.rec.payload_len, 12);
    start(0x0800);
    ip(&f, 4, 132, 8);
    fill(&f, 8, 0);
    check_malformed(ETHERNET, NFM_PD_SCTP_SHORT);
}

static uint16_t icmp_port(uint8_t version, uint16_t type_code, uint32_t rest) {
    nfm_key key = key_of(version, version == 4 ? 1 : 58);
    start(version == 4 ? 0x0800 : 0x86dd);
    ip(&f, version, key.proto, 12);
    nfm_emit_icmp(&f.buf, &key, type_code, rest, (nfm_view){(const uint8_t *)"ping", 4});
    nfm_packet p = parse(&f, ETHERNET);
    CHECK_EQ(p.status, NFM_PARSE_OK);
    CHECK_EQ(p.key.port[0], p.key.port[1]);
    CHECK_EQ(p.rec.payload_len, 4);
    CHECK_EQ(p.rec.events, NFM_BIT(NFM_EV_PACKET_ICMP));
    return p.key.port[0];
}

static void icmp_ports(void) {
    CHECK_EQ(icmp_port(4, 0x0800, 0x12340001), 0x1234);
    CHECK_EQ(icmp_port(4, 0x0000, 0x12340001), 0x1234);
    CHECK_EQ(icmp_port(4, 0x0301, 0), 0x0301);
    CHECK_EQ(icmp_port(6, 0x8000, 0x43210001), 0x4321);
    CHECK_EQ(icmp_port(6, 0x8100, 0x43210001), 0x4321);
    CHECK_EQ(icmp_port(6, 0x8700, 0), 0x8700);
    start(0x0800);
    ip(&f, 4, 1, 7);
    fill(&f, 7, 0);
    check_malformed(ETHERNET, NFM_PD_ICMP_SHORT);
    start(0x86dd); /* ICMP for IPv4 over IPv6 is some protocol */
    ip(&f, 6, 1, 3);
    fill(&f, 3, 0);
    nfm_packet p = parse(&f, ETHERNET);
    CHECK_EQ(p.status, NFM_PARSE_OK);
    CHECK_EQ(p.rec.events, NFM_BIT(NFM_EV_PACKET_OTHER));
}

static void ipv4_fragments(void) {
    start(0x0800);
    nfm_ip_fields fields = {.ttl = 9, .id = 0xbeef, .fragment = 0x2000 | 185};
    nfm_key key = key_of(4, 17);
    nfm_emit_ipv4(&f.buf, &key, &fields, 16);
    fill(&f, 16, 0);
    nfm_packet p = parse(&f, ETHERNET);
    CHECK_EQ(p.status, NFM_PARSE_FRAGMENT);
    CHECK_EQ(p.frag_id, 0xbeef);
    CHECK_EQ(p.frag_off, 1480);
    CHECK_EQ(p.frag_more, 1);
    CHECK_EQ(p.rec.proto, 17);
    CHECK_EQ(p.key.port[0], 0);
    CHECK_EQ(p.rec.payload_len, 16);
    CHECK_EQ(p.rec.flags, NFM_F_FRAGMENT);
    CHECK_EQ(p.rec.events, NFM_BIT(NFM_EV_PACKET_OTHER));
    start(0x0800);
    nfm_emit_ipv4(&f.buf, &key, &fields, 0);
    check_malformed(ETHERNET, NFM_PD_FRAGMENT);
}

static void ipv6_extensions(void) {
    start(0x86dd);
    ip(&f, 6, 0, 8 + 16 + 24 + 12 + 8 + 20);
    hex(&f, "2b 00 05 02 00 00 01 00");                         /* hop by hop */
    hex(&f, "3c 01 04 00 00 00 00 00 00 00 00 00 00 00 00 00"); /* routing */
    hex(&f, "33 02 01 04 00 00 00 00 01 02 00 00 00 00 00 00 00 00 00 00 00 00 00 00"); /* dest */
    hex(&f, "2c 01 00 00 00 00 00 01 00 00 00 02"); /* authentication */
    hex(&f, "06 00 00 00 00 00 00 07");             /* atomic fragment */
    nfm_tcp_fields tcp = {.seq = 1000};
    nfm_emit_tcp(&f.buf, &KEY6, &tcp, (nfm_view){NULL, 0});
    nfm_packet p = parse(&f, ETHERNET);
    check_tcp(&p, 6, 0);
    CHECK_EQ(p.ext_off, 0);
    CHECK_EQ(p.rec.flags, NFM_F_IPV6);
}

static void ipv6_fragment(void) {
    start(0x86dd);
    ip(&f, 6, 60, 8 + 8 + 16);
    hex(&f, "2c 00 01 04 00 00 00 00");
    hex(&f, "11 00 05 b9 ca fe ba be"); /* offset 1464, more */
    fill(&f, 16, 0);
    nfm_packet p = parse(&f, ETHERNET);
    CHECK_EQ(p.status, NFM_PARSE_FRAGMENT);
    CHECK_EQ(p.frag_id, 0xcafebabe);
    CHECK_EQ(p.frag_off, 1464);
    CHECK_EQ(p.frag_more, 1);
    CHECK_EQ(p.ext_off, 128 + 14 + 40 + 8);
    CHECK_EQ(p.rec.proto, 17);
    CHECK_EQ(p.rec.payload_off, p.ext_off + 8);
    CHECK_EQ(p.rec.payload_len, 16);
}

static void ipv6_odd(void) {
    start(0x86dd);
    ip(&f, 6, 59, 0); /* no next header */
    nfm_packet p = parse(&f, ETHERNET);
    CHECK_EQ(p.status, NFM_PARSE_OK);
    CHECK_EQ(p.rec.proto, 59);
    start(0x86dd);
    ip(&f, 6, 135, 8); /* mobility, alone */
    hex(&f, "3b 00 01 00 00 00 00 00");
    p = parse(&f, ETHERNET);
    CHECK_EQ(p.rec.proto, 135);
    CHECK_EQ(p.rec.payload_len, 8);
    start(0x86dd);
    ip(&f, 6, 60, 8); /* extension header longer than the packet */
    hex(&f, "06 01 00 00 00 00 00 00");
    check_malformed(ETHERNET, NFM_PD_IPV6_EXTENSION);
    start(0x86dd);
    ip(&f, 6, 60, 17 * 8); /* too many of them */
    for (int i = 0; i < 17; i++)
        hex(&f, "3c 00 01 04 00 00 00 00");
    check_malformed(ETHERNET, NFM_PD_IPV6_EXTENSION);
    start(0x86dd);
    ip(&f, 6, 6, 21);
    fill(&f, 20, 0x50);
    check_malformed(ETHERNET, NFM_PD_IPV6_LENGTH);
    start(0x86dd);
    hex(&f, "60 00");
    check_malformed(ETHERNET, NFM_PD_IPV6_SHORT);
    start(0x86dd);
    ip_tcp(&f, 6, 0);
    f.bytes[14] = 0x45;
    check_malformed(ETHERNET, NFM_PD_IP_VERSION);
}

static void ipv6_jumbo(void) {
    uint32_t len = 66000;
    for (int option = 0; option < 2; option++) {
        start(0x86dd);
        ip(&f, 6, option ? 0 : 6, 0);
        if (option) {
            hex(&f, "06 00 c2 04");
            uint8_t jumbo[4];
            nfm_write32(jumbo, 8 + 20 + len);
            nfm_emit_bytes(&f.buf, jumbo, 4);
        }
        nfm_tcp_fields tcp = {.seq = 1000};
        static const uint8_t data[66000];
        nfm_emit_tcp(&f.buf, &KEY6, &tcp, (nfm_view){data, len});
        nfm_packet p = parse(&f, ETHERNET);
        check_tcp(&p, 6, len);
        if (!option)
            continue;
        nfm_write32(f.bytes + 14 + 40 + 4, 65535); /* RFC 2675: not below 65536 */
        check_malformed(ETHERNET, NFM_PD_IPV6_LENGTH);
    }
}

static void not_ip(void) {
    static const char *const frames[] = {
        "020000000002 020000000001 0806 0001080006040001 0200000000010a0000010000000000000a000002",
        "0180c2000000 020000000001 0026 424203 0000000000000000",
        "020000000002 020000000001 0030 ffff0030000000000000",
        "020000000002 020000000001 0030 aaaa03 00000c 2000 0000",
        "020000000002 020000000001 88cc 0207",
    };
    for (size_t i = 0; i < sizeof(frames) / sizeof(frames[0]); i++) {
        frame_init(&f);
        hex(&f, frames[i]);
        nfm_packet p = parse(&f, ETHERNET);
        CHECK_EQ(p.status, NFM_PARSE_OTHER);
        CHECK_EQ(p.rec.events, NFM_BIT(NFM_EV_PACKET_OTHER));
        CHECK_EQ(p.rec.l3_off, 0);
    }
}

static void checksums(void) {
    nfm_wire_config config = {.max_depth = 4, .verify_checksums = 1};
    static const struct {
        uint8_t version, proto;
        int why;
    } cases[] = {{4, 6, NFM_PD_TCP_CHECKSUM},  {6, 6, NFM_PD_TCP_CHECKSUM},
                 {4, 17, NFM_PD_UDP_CHECKSUM}, {6, 17, NFM_PD_UDP_CHECKSUM},
                 {4, 1, NFM_PD_ICMP_CHECKSUM}, {6, 58, NFM_PD_ICMP_CHECKSUM}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        nfm_key key = key_of(cases[i].version, cases[i].proto);
        nfm_tcp_fields tcp = {.seq = 99};
        nfm_view data = {(const uint8_t *)"odd", 3};
        start(key.ip_version == 4 ? 0x0800 : 0x86dd);
        ip(&f, key.ip_version, key.proto, key.proto == 6 ? 23 : 11);
        if (key.proto == 6)
            nfm_emit_tcp(&f.buf, &key, &tcp, data);
        else if (key.proto == 17)
            nfm_emit_udp(&f.buf, &key, data);
        else
            nfm_emit_icmp(&f.buf, &key, 0x0800, 7, data);
        nfm_packet p = parse_with(&config, &f, ETHERNET);
        CHECK_EQ(p.status, NFM_PARSE_OK);
        f.bytes[f.buf.len - 1] ^= 1;
        p = parse_with(&config, &f, ETHERNET);
        CHECK_EQ(p.malformed, cases[i].why);
        CHECK(p.rec.flags & NFM_F_BAD_L4_CSUM);
        CHECK_EQ((p.rec.events & NFM_BIT(NFM_EV_TCP_BAD_CHECKSUM)) != 0, key.proto == 6);
        CHECK_EQ(parse(&f, ETHERNET).status, NFM_PARSE_OK); /* not verified */
    }
}

static void checksum_corners(void) {
    nfm_wire_config config = {.max_depth = 4, .verify_checksums = 1};
    start(0x0800);
    ip_tcp(&f, 4, 4);
    f.bytes[22] ^= 1; /* time to live */
    nfm_packet p = parse_with(&config, &f, ETHERNET);
    CHECK_EQ(p.malformed, NFM_PD_IPV4_CHECKSUM);
    CHECK(p.rec.flags & NFM_F_BAD_L3_CSUM);
    start(0x0800); /* UDP without one */
    ip(&f, 4, 17, 12);
    udp(&f, 5, 6, 4);
    fill(&f, 4, 1);
    CHECK_EQ(parse_with(&config, &f, ETHERNET).status, NFM_PARSE_OK);
    start(0x86dd); /* which IPv6 does not allow */
    ip(&f, 6, 17, 12);
    udp(&f, 5, 6, 4);
    fill(&f, 4, 1);
    CHECK_EQ(parse_with(&config, &f, ETHERNET).malformed, NFM_PD_UDP_CHECKSUM);
}

/* The fast path and the walk agree on damaged frames; what is compared is the whole packet. */
static void fast_path_agrees(void) {
    static const nfm_wire_config config = {.max_depth = 4};
    srand(13);
    uint32_t fast = 0, linux_syns = 0;
    for (int round = 0; round < 60000; round++) {
        start(0x0800);
        nfm_tcp_fields tcp = {.seq = (uint32_t)rand()};
        tcp.opts.seen = rand() % 3 ? NFM_OPT_TIMESTAMP : (uint8_t)(rand() & 15);
        uint32_t payload = (uint32_t)rand() % 40;
        ip(&f, 4, 6, nfm_emit_tcp_len(&tcp.opts) + payload);
        nfm_emit_tcp(&f.buf, &KEY4, &tcp, (nfm_view){f.bytes, payload});
        fill(&f, rand() % 3 ? 0 : 9, 0);
        if (tcp.opts.seen == (NFM_OPT_MSS | NFM_OPT_SACK_OK | NFM_OPT_TIMESTAMP)) /* 20 bytes too */
            memcpy(f.bytes + 54, "\2\4\5\264\4\2\10\12\1\2\3\4\5\6\7\10\1\3\3\7", 20);
        for (int i = rand() % 3; i > 0; i--)
            f.bytes[rand() % 74] = (uint8_t)rand();
        uint32_t len = rand() % 2 ? f.buf.len : (uint32_t)rand() % f.buf.len;
        nfm_packet a = parse_at(&config, f.bytes, len, f.buf.len, ETHERNET, false);
        nfm_packet b = parse_at(&config, f.bytes, len, f.buf.len, ETHERNET, true);
        bool tcp_ok = a.status == NFM_PARSE_OK && a.rec.proto == 6;
        if (!tcp_ok)
            memset(&a.tcp, 0, sizeof(a.tcp)), memset(&b.tcp, 0, sizeof(b.tcp));
        CHECK(memcmp(&a, &b, sizeof(a)) == 0);
        fast += tcp_ok;
        linux_syns += tcp_ok && a.tcp.mss == 1460 && a.tcp.tsval == 0x01020304 && a.tcp.wscale == 7;
    }
    CHECK(fast > 10000);
    CHECK(linux_syns > 100);
}

static void names(void) {
    for (int i = 0; i < NFM_PD_COUNT; i++) {
        CHECK(strcmp(nfm_wire_drop_name(i), "unknown") != 0);
        for (int j = 0; j < i; j++)
            CHECK(strcmp(nfm_wire_drop_name(i), nfm_wire_drop_name(j)) != 0);
    }
    CHECK(strcmp(nfm_wire_drop_name(NFM_PD_COUNT), "unknown") == 0);
    CHECK(strcmp(nfm_wire_drop_name(-1), "unknown") == 0);
}

static void whole_frame_call(void) {
    nfm_record rec;
    nfm_flow_info key;
    start(0x0800);
    ip_tcp(&f, 4, 9);
    CHECK_EQ(nfm_parse_frame(guard_place(f.bytes, f.buf.len), f.buf.len, 0, 1, 4, &rec, &key), 0);
    CHECK_EQ(rec.payload_len, 9);
    CHECK_EQ(key.port[1], 80);
    CHECK_EQ(rec.wire_len, f.buf.len);
    f.bytes[14] = 0x41;
    CHECK_EQ(nfm_parse_frame(f.bytes, f.buf.len, 0, 1, 4, &rec, &key), NFM_PD_IPV4_IHL);
    CHECK_EQ(nfm_parse_frame(f.bytes, f.buf.len, 0, 65537, 4, &rec, &key), 0);
    CHECK_EQ(rec.events, NFM_BIT(NFM_EV_PACKET_OTHER));
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(tcp_plain),
        T(link_padding_is_no_payload),
        T(capture_cut),
        T(segmentation_offload),
        T(ipv4_options),
        T(ipv4_broken),
        T(tcp_options_all),
        T(tcp_options_odd),
        T(tcp_options_cut_by_capture),
        T(md5_and_sack_blocks),
        T(udp_lengths),
        T(other_transports),
        T(icmp_ports),
        T(ipv4_fragments),
        T(ipv6_extensions),
        T(ipv6_fragment),
        T(ipv6_odd),
        T(ipv6_jumbo),
        T(not_ip),
        T(checksums),
        T(checksum_corners),

        T(fast_path_agrees),
        T(names),
        T(whole_frame_call),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
