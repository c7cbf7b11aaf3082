/* SPDX-License-Identifier: Apache-2.0 */
/* Header builders and checksums, against the parser and against the definition. */
#include "wire_frames.h"

static frame f;

/* The sum of RFC 1071 section 4.1, written as it stands there. */
static void checksum_against_reference(void) {
    uint8_t data[67];
    srand(7);
    for (int round = 0; round < 2000; round++) {
        uint32_t len = (uint32_t)rand() % sizeof(data), sum = 0;
        for (uint32_t i = 0; i < len; i++) {
            data[i] = (uint8_t)(rand() % 4 == 0 ? 255 : rand());
            sum += i % 2 == 0 ? (uint32_t)data[i] << 8 : data[i];
        }
        while (sum >> 16 != 0)
            sum = (sum & 0xffff) + (sum >> 16);
        CHECK_EQ(nfm_csum_fold(nfm_csum_add(0, data, len)), (uint16_t)~sum);
    }
}

/* Random segments through the emitters come back as they were, and the checksums are right. */
static void emit_then_parse(void) {
    static const nfm_wire_config config = {.max_depth = 4, .verify_checksums = 1};
    static uint8_t data[1400];
    srand(11);
    for (int round = 0; round < 3000; round++) {
        nfm_key key = key_of(rand() % 2 ? 4 : 6, 6);
        nfm_tcp_fields tcp = {.seq = (uint32_t)rand() * 3u,
                              .ack = (uint32_t)rand() * 5u,
                              .window = (uint16_t)rand(),
                              .urgent = (uint16_t)rand(),
                              .flags = (uint8_t)rand()};
        tcp.opts.seen = (uint8_t)(rand() & (NFM_OPT_MSS | NFM_OPT_WSCALE | NFM_OPT_SACK_OK |
                                            NFM_OPT_TIMESTAMP));
        tcp.opts.mss = (uint16_t)rand();
        tcp.opts.wscale = (uint8_t)(rand() % 15);
        tcp.opts.tsval = (uint32_t)rand();
        tcp.opts.tsecr = (uint32_t)rand();
        for (uint32_t i = 0; i < sizeof(key.addr); i++)
            ((uint8_t *)key.addr)[i] =
                i % 16 < (key.ip_version == 4 ? 4 : 16) ? (uint8_t)rand() : 0;
        key.port[0] = (uint16_t)rand();
        key.port[1] = (uint16_t)rand();
        nfm_view payload = {data, (uint32_t)rand() % sizeof(data)};
        uint32_t len = nfm_emit_tcp_len(&tcp.opts) + payload.len;
        frame_init(&f);
        eth(&f, key.ip_version == 4 ? 0x0800 : 0x86dd);
        CHECK_EQ(key.ip_version == 4 ? nfm_emit_ipv4(&f.buf, &key, &IP, len)
                                     : nfm_emit_ipv6(&f.buf, &key, &IP, len),
                 NFM_OK);
        CHECK_EQ(nfm_emit_tcp(&f.buf, &key, &tcp, payload), NFM_OK);
        nfm_packet p = parse_at(&config, f.bytes, f.buf.len, f.buf.len, ETHERNET, false);
        CHECK_EQ(p.status, NFM_PARSE_OK);
        CHECK(memcmp(&p.key, &key, sizeof(key)) == 0);
        CHECK(p.seq == tcp.seq && p.ack == tcp.ack && p.window == tcp.window);
        CHECK(p.urgent == tcp.urgent && p.rec.tcp_flags == tcp.flags);
        CHECK_EQ(p.tcp.seen, tcp.opts.seen);
        CHECK(!(p.tcp.seen & NFM_OPT_MSS) || p.tcp.mss == tcp.opts.mss);
        CHECK(!(p.tcp.seen & NFM_OPT_WSCALE) || p.tcp.wscale == tcp.opts.wscale);
        CHECK(!(p.tcp.seen & NFM_OPT_TIMESTAMP) || p.tcp.tsval == tcp.opts.tsval);
        CHECK_EQ(p.rec.payload_len, payload.len);
    }
}

static void emit_refuses(void) {
    uint8_t small[19];
    nfm_emit_buf buf = {.data = small, .cap = sizeof(small)};
    CHECK_EQ(nfm_emit_ipv4(&buf, &KEY4, &IP, 0), NFM_E_LIMIT);
    CHECK_EQ(nfm_emit_tcp(&buf, &KEY4, &(nfm_tcp_fields){0}, (nfm_view){NULL, 0}), NFM_E_LIMIT);
    CHECK_EQ(buf.len, 0);
    frame_init(&f);
    CHECK_EQ(nfm_emit_ipv4(&f.buf, &KEY4, &IP, 65516), NFM_E_LIMIT);
    CHECK_EQ(nfm_emit_ipv6(&f.buf, &KEY6, &IP, 65536), NFM_E_LIMIT);
    CHECK_EQ(f.buf.len, 0);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(checksum_against_reference),
        T(emit_then_parse),
        T(emit_refuses),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
