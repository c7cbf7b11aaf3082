/* SPDX-License-Identifier: Apache-2.0 */
/* Frames for the wire tests: built from hex text and emitters, parsed at a guard page at every
 * length. */
#ifndef NFM_WIRE_FRAMES_H
#define NFM_WIRE_FRAMES_H

#include "nfm_test.h"

#include "wire/emit.h"
#include "wire/layers.h"

enum { FRAME_MAX = 70000, ETHERNET = 1 };

typedef struct frame {
    nfm_emit_buf buf;
    uint8_t bytes[FRAME_MAX];
} frame;

static const nfm_key KEY4 = {
    .addr = {{10, 0, 0, 1}, {192, 0, 2, 7}}, .port = {40000, 80}, .proto = 6, .ip_version = 4};
static const nfm_key KEY6 = {
    .addr = {{0x20, 1, 0x0d, 0xb8, [15] = 1}, {0x20, 1, 0x0d, 0xb8, [15] = 2}},
    .port = {40000, 80},
    .proto = 6,
    .ip_version = 6};
static const nfm_ip_fields IP = {.ttl = 64, .id = 77};

static inline void frame_init(frame *f) {
    f->buf = (nfm_emit_buf){.data = f->bytes, .cap = FRAME_MAX};
}

/* Appends bytes written as hex digits; spaces are ignored. */
static inline void hex(frame *f, const char *text) {
    for (; *text != '\0'; text++) {
        if (*text == ' ')
            continue;
        unsigned byte;
        if (sscanf(text, "%2x", &byte) != 1)
            abort();
        text++;
        f->buf.data[f->buf.len++] = (uint8_t)byte;
    }
}

static inline void fill(frame *f, uint32_t len, uint8_t first) {
    for (uint32_t i = 0; i < len; i++)
        f->buf.data[f->buf.len++] = (uint8_t)(first + i);
}

static inline nfm_key key_of(uint8_t version, uint8_t proto) {
    nfm_key key = version == 4 ? KEY4 : KEY6;
    key.proto = proto;
    return key;
}

static inline void eth(frame *f, uint16_t type) {
    static const uint8_t mac[2][6] = {{2, 0, 0, 0, 0, 2}, {2, 0, 0, 0, 0, 1}};
    nfm_emit_eth(&f->buf, mac[0], mac[1], type);
}

/* An IP header for |len| bytes of |proto|. */
static inline void ip(frame *f, uint8_t version, uint8_t proto, uint32_t len) {
    nfm_key key = key_of(version, proto);
    CHECK_EQ(version == 4 ? nfm_emit_ipv4(&f->buf, &key, &IP, len)
                          : nfm_emit_ipv6(&f->buf, &key, &IP, len),
             NFM_OK);
}

/* IP, TCP without options, |payload| bytes: the usual inside. */
static inline void ip_tcp(frame *f, uint8_t version, uint32_t payload) {
    static const uint8_t data[2048];
    nfm_key key = key_of(version, 6);
    nfm_tcp_fields tcp = {.seq = 1000, .ack = 2000, .window = 512, .flags = 0x18};
    ip(f, version, 6, 20 + payload);
    CHECK_EQ(nfm_emit_tcp(&f->buf, &key, &tcp, (nfm_view){data, payload}), NFM_OK);
}

static inline uint32_t ip_tcp_len(uint8_t version, uint32_t payload) {
    return (version == 4 ? 20u : 40u) + 20u + payload;
}

/* UDP header from |sport| to |dport| for |len| bytes, without checksum. */
static inline void udp(frame *f, uint16_t sport, uint16_t dport, uint32_t len) {
    uint8_t p[8] = {(uint8_t)(sport >> 8),     (uint8_t)sport,
                    (uint8_t)(dport >> 8),     (uint8_t)dport,
                    (uint8_t)((len + 8) >> 8), (uint8_t)(len + 8)};
    nfm_emit_bytes(&f->buf, p, 8);
}

/* One area that ends at a guard page, for frames of any length. */
static inline uint8_t *guard_place(const void *data, uint32_t len) {
    static uint8_t *end;
    if (end == NULL) {
        size_t body = 32 * 4096;
        uint8_t *m =
            mmap(NULL, body + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (m == MAP_FAILED || mprotect(m + body, 4096, PROT_NONE) != 0)
            abort();
        end = m + body;
    }
    if (len > 0)
        memcpy(end - len, data, len);
    return end - len;
}

static inline void check_packet(const nfm_packet *p) {
    const nfm_record *rec = &p->rec;
    uint32_t end = NFM_HEADROOM + rec->frame_len;
    CHECK(rec->l3_off <= end && rec->l4_off <= end && rec->payload_off <= end);
    CHECK(rec->payload_off + rec->payload_len <= end);
    CHECK(p->status <= NFM_PARSE_MALFORMED && p->malformed < NFM_PD_COUNT);
    CHECK((p->status == NFM_PARSE_MALFORMED) == (p->malformed != NFM_PD_NONE));
    CHECK(p->status != NFM_PARSE_OK || rec->l4_off >= rec->l3_off + 20);
    CHECK(rec->payload_len <= p->l4_len || p->l4_len == 0);
    CHECK(rec->kind == NFM_REC_PACKET && rec->events != 0);
}

static inline nfm_packet parse_at(const nfm_wire_config *config, const uint8_t *data, uint32_t len,
                                  uint32_t wire_len, uint16_t link, bool general) {
    nfm_packet p;
    memset(&p, 0, sizeof(p));
    p.base = (uint8_t *)((uintptr_t)guard_place(data, len) - NFM_HEADROOM);
    p.rec.frame_len = len;
    p.rec.wire_len = wire_len;
    p.link_type = link;
    if (general)
        nfm__wire_parse_general(config, &p);
    else
        nfm_wire_parse(config, &p);
    check_packet(&p);
    return p;
}

/* Parses the frame at all lengths, cut on the wire and cut by the capture; returns the whole one.
 */
static inline nfm_packet parse_with(const nfm_wire_config *config, const frame *f, uint16_t link) {
    uint32_t len = f->buf.len, most = len < 400 ? len : 400;
    for (uint32_t cut = 0; cut <= most; cut++) {
        for (int wire = 0; wire < 2; wire++) {
            nfm_packet a = parse_at(config, f->bytes, cut, wire ? len : cut, link, false);
            nfm_packet b = parse_at(config, f->bytes, cut, wire ? len : cut, link, true);
            if (a.rec.proto != 6 || a.status != NFM_PARSE_OK)
                a.tcp = b.tcp; /* only valid for TCP */
            CHECK(memcmp(&a, &b, sizeof(a)) == 0);
        }
    }
    return parse_at(config, f->bytes, len, len, link, false);
}

static inline nfm_packet parse(const frame *f, uint16_t link) {
    static const nfm_wire_config config = {.max_depth = 4};
    return parse_with(&config, f, link);
}

/* Checks that |p| is ip_tcp()'s packet, |payload| bytes long. */
static inline void check_tcp(const nfm_packet *p, uint8_t version, uint32_t payload) {
    CHECK_EQ(p->status, NFM_PARSE_OK);
    CHECK_EQ(p->rec.proto, 6);
    CHECK_EQ(p->key.ip_version, version);
    CHECK(memcmp(p->key.addr, key_of(version, 6).addr, 32) == 0);
    CHECK_EQ(p->key.port[0], 40000);
    CHECK_EQ(p->key.port[1], 80);
    CHECK_EQ(p->seq, 1000);
    CHECK_EQ(p->rec.payload_len, payload);
    CHECK_EQ(p->l4_len, payload);
    CHECK_EQ(p->rec.events, NFM_BIT(NFM_EV_PACKET_TCP));
}

#endif
