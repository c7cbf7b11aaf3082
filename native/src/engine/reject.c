/* SPDX-License-Identifier: Apache-2.0 */
#include <netinet/in.h>
#include <string.h>

#include "engine/transit.h"
#include "wire/emit.h"

enum {
    QUOTED = 1232 - 48,
    TCP_MIN = 20,
    TTL = 64
}; /* quoted: as much as fits 1280 bytes (RFC 4443) */

typedef struct refused { /* the frame that is answered */
    const uint8_t *base, *l3, *l4;
    uint32_t l3_len, l4_len; /* bytes there are */
    nfm_key key;             /* of the answer: from its receiver to its sender */
    bool ipv6;
} refused;

static bool is_group(const uint8_t *address, bool ipv6) {
    return ipv6 ? address[0] == 0xff
                : address[0] >= 224 || (address[0] | address[1] | address[2] | address[3]) == 0;
}

/* What came in a tunnel is not answered: the way back has addresses, labels and lengths of its own.
 */
static bool read_frame(const nfm_worker *w, uint32_t slot, const nfm_transit *t, refused *f) {
    memset(f, 0, sizeof(*f));
    f->base = nfm_pool_addr(&w->pool, slot);
    f->ipv6 = (t->flags & NFM_F_IPV6) != 0;
    uint32_t end = NFM_HEADROOM + t->len, size = f->ipv6 ? 16 : 4, src = f->ipv6 ? 8 : 12;
    if (t->l3_off == 0 || t->l4_off == 0 || t->l4_off > end ||
        t->flags & (NFM_F_FRAGMENT | NFM_F_TUNNEL))
        return false;
    f->l3 = f->base + t->l3_off;
    f->l4 = f->base + t->l4_off;
    f->l3_len = end - t->l3_off;
    f->l4_len = end - t->l4_off;
    if (f->l3_len < src + 2 * size || is_group(f->l3 + src, f->ipv6) ||
        is_group(f->l3 + src + size, f->ipv6))
        return false;
    memcpy(f->key.addr[0], f->l3 + src + size, size);
    memcpy(f->key.addr[1], f->l3 + src, size);
    f->key.ip_version = f->ipv6 ? 6 : 4;
    f->key.proto = t->proto;
    return true;
}

/* The headers below IP, back to where they came from. */
static bool turn_link(const refused *f, const nfm_transit *t, nfm_emit_buf *out) {
    uint32_t len = t->l3_off - NFM_HEADROOM;
    if (nfm_emit_bytes(out, f->base + NFM_HEADROOM, len) != NFM_OK)
        return false;
    if (t->link_type == 1 && len >= 14) {
        memcpy(out->data, f->base + NFM_HEADROOM + 6, 6);
        memcpy(out->data + 6, f->base + NFM_HEADROOM, 6);
    }
    return true;
}

static bool emit_ip(const refused *f, nfm_emit_buf *out, uint32_t len) {
    nfm_ip_fields ip = {.ttl = TTL, .fragment = 0x4000};
    return (f->ipv6 ? nfm_emit_ipv6(out, &f->key, &ip, len)
                    : nfm_emit_ipv4(out, &f->key, &ip, len)) == NFM_OK;
}

static bool emit_reset(refused *f, nfm_emit_buf *out) {
    if (f->l4_len < TCP_MIN || f->l4[13] & 4) /* a reset is not answered */
        return false;
    uint32_t header = (uint32_t)(f->l4[12] >> 4) * 4, seq = nfm_read32(f->l4 + 4);
    uint32_t data = f->l4_len > header ? f->l4_len - header : 0;
    nfm_tcp_fields tcp = {.flags = 4};
    f->key.port[0] = nfm_read16(f->l4 + 2);
    f->key.port[1] = nfm_read16(f->l4);
    if (f->l4[13] & 0x10) {
        tcp.seq = nfm_read32(f->l4 + 8);
    } else {
        tcp.flags = 0x14;
        tcp.ack = seq + data + (f->l4[13] & 1) + (f->l4[13] >> 1 & 1);
    }
    return emit_ip(f, out, TCP_MIN) &&
           nfm_emit_tcp(out, &f->key, &tcp, (nfm_view){NULL, 0}) == NFM_OK;
}

static bool emit_prohibited(refused *f, nfm_emit_buf *out) {
    bool is_icmp = f->key.proto == IPPROTO_ICMP || f->key.proto == IPPROTO_ICMPV6;
    if (is_icmp && (f->l4_len < 8 || (f->ipv6 ? f->l4[0] < 128 : f->l4[0] != 8)))
        return false; /* an error is not answered */
    nfm_view quote = {f->l3, f->l3_len < QUOTED ? f->l3_len : QUOTED};
    f->key.proto = f->ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
    uint16_t type_code = f->ipv6 ? 1 << 8 | 1 : 3 << 8 | 13;
    return emit_ip(f, out, 8 + quote.len) &&
           nfm_emit_icmp(out, &f->key, type_code, 0, quote) == NFM_OK;
}

void nfm__reject(nfm_worker *w, uint32_t slot, const nfm_transit *t) {
    refused f;
    if (w->ports[t->in]->ops->tx == NULL || !read_frame(w, slot, t, &f))
        return;
    uint32_t reply = nfm_pool_get(&w->pool, NFM_SLOT_SMALL - NFM_HEADROOM);
    if (reply == NFM_NO_SLOT)
        return;
    uint8_t *base = nfm_pool_addr(&w->pool, reply);
    memset(base, 0, sizeof(nfm_slot_meta));
    nfm_emit_buf out = {base + NFM_HEADROOM, NFM_SLOT_SMALL - NFM_HEADROOM, 0};
    bool made = turn_link(&f, t, &out);
    made = made && (t->proto == IPPROTO_TCP ? emit_reset(&f, &out) : emit_prohibited(&f, &out));
    if (!made) {
        nfm_pool_put(&w->pool, reply);
        return;
    }
    nfm_tx tx = {reply, NFM_HEADROOM, out.len, out.len, t->ts_ns};
    nfm__output(w, t->in, &tx);
}
