/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ICMP errors and the packet that they quote.
 *
 * An error belongs to the flow whose packet it quotes, found by either of its keys, and goes to the
 * side that sent that packet. It gets that direction's rewriting; what it quotes is undone, so that
 * the sender recognises its own packet. Sources: RFC 792, RFC 4443 section 2.4, RFC 5508 sections 4
 * and 5.
 */
#include <netinet/in.h>
#include <string.h>

#include "engine/transit.h"

enum { ICMP_HEADER = 8, IPV4_MIN = 20, IPV6_MIN = 40, PORTS = 8, MAX_EXTENSIONS = 8 };

typedef struct quoted { /* headers inside an error */
    const uint8_t *l3, *l4, *end;
    nfm_key key; /* from its sender to its receiver */
} quoted;

bool nfm__is_icmp_error(const uint8_t *icmp, bool ipv6) {
    return ipv6 ? *icmp >= 1 && *icmp <= 4 : *icmp == 3 || *icmp == 4 || *icmp == 11 || *icmp == 12;
}

static bool read_ipv4(quoted *q) {
    const uint8_t *p = q->l3;
    uint32_t size = (p[0] & 0xfu) * 4;
    if (size < IPV4_MIN || q->l3 + size + PORTS > q->end || (nfm_read16(p + 6) & 0x1fff) != 0)
        return false;
    memcpy(q->key.addr[0], p + 12, 4);
    memcpy(q->key.addr[1], p + 16, 4);
    q->key.proto = p[9];
    q->l4 = p + size;
    return true;
}

static bool read_ipv6(quoted *q) {
    const uint8_t *p = q->l3 + IPV6_MIN;
    uint8_t next = q->l3[6];
    for (int i = 0; i < MAX_EXTENSIONS && p + PORTS <= q->end; i++) {
        bool is_fragment = next == IPPROTO_FRAGMENT;
        if (!is_fragment && next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING &&
            next != IPPROTO_DSTOPTS)
            break;
        if (is_fragment && (nfm_read16(p + 2) & 0xfff8) != 0)
            return false;
        next = p[0];
        p += is_fragment ? 8 : (p[1] + 1) * 8;
    }
    memcpy(q->key.addr[0], q->l3 + 8, 16);
    memcpy(q->key.addr[1], q->l3 + 24, 16);
    q->key.proto = next;
    q->l4 = p;
    return p + PORTS <= q->end;
}

/* Only queries have an identifier; an error about an error is none (RFC 1122 section 3.2.2). */
static bool read_ports(quoted *q) {
    const uint8_t *p = q->l4;
    switch (q->key.proto) {
    case IPPROTO_TCP:
    case IPPROTO_UDP:
        q->key.port[0] = nfm_read16(p);
        q->key.port[1] = nfm_read16(p + 2);
        return true;
    case IPPROTO_ICMP:
        q->key.port[0] = q->key.port[1] = nfm_read16(p + 4);
        return p[0] == 8 || p[0] == 0;
    case IPPROTO_ICMPV6:
        q->key.port[0] = q->key.port[1] = nfm_read16(p + 4);
        return p[0] == 128 || p[0] == 129;
    default:
        return true; /* found by its addresses */
    }
}

/* Reads what the ICMP message at |icmp| quotes; false: nothing that names a flow. */
static bool read_quoted(quoted *q, const uint8_t *icmp, const uint8_t *end, bool ipv6) {
    *q = (quoted){.l3 = icmp + ICMP_HEADER, .end = end};
    memset(&q->key, 0, sizeof(q->key));
    q->key.ip_version = ipv6 ? 6 : 4;
    if (icmp + ICMP_HEADER + (ipv6 ? IPV6_MIN : IPV4_MIN) > end ||
        q->l3[0] >> 4 != q->key.ip_version)
        return false;
    return (ipv6 ? read_ipv6(q) : read_ipv4(q)) && read_ports(q);
}

bool nfm__quoted_key(const nfm_packet *p, nfm_key *key) {
    const uint8_t *icmp = p->base + p->rec.l4_off;
    const uint8_t *end = p->base + NFM_HEADROOM + p->rec.frame_len;
    bool ipv6 = p->rec.proto == IPPROTO_ICMPV6;
    quoted q;
    if ((p->rec.proto != IPPROTO_ICMP && !ipv6) || p->rec.l4_off == 0 || icmp + ICMP_HEADER > end ||
        !nfm__is_icmp_error(icmp, ipv6) || !read_quoted(&q, icmp, end, ipv6))
        return false;
    *key = q.key;
    key->vlan = p->key.vlan;
    key->scope = p->key.scope;
    return true;
}

bool nfm__quoted_find(nfm_worker *w, nfm_packet *p) {
    nfm_key key;
    uint8_t side;
    if (!nfm__quoted_key(p, &key))
        return false;
    uint32_t index = nfm_table_find(&w->table, &key, nfm_hash_flow(&w->table.key, &key), &side);
    if (index == NFM_NO_FLOW)
        return false;
    p->flow = nfm_table_flow(&w->table, index);
    p->flow_index = index;
    p->rec.flow = nfm__flow_id(w, index);
    p->rec.side = !side;
    return true;
}

/* ---- rewriting ------------------------------------------------------------------------------ */

typedef struct writer { /* of quoted headers; NULL: no such checksum */
    uint8_t *icmp_csum, *ip_csum, *l4_csum;
    bool has_pseudo;
} writer;

static void adapt_inner(const writer *to, uint8_t *csum, const uint8_t *old, const uint8_t *now,
                        uint32_t n) {
    if (csum == NULL)
        return;
    uint8_t before[2] = {csum[0], csum[1]};
    nfm__edit_adapt(csum, old, now, n, false);
    nfm__edit_adapt(to->icmp_csum, before, csum, 2, false);
}

static void put(const writer *to, uint8_t *at, const uint8_t *now, uint32_t n, bool address) {
    uint8_t old[16];
    memcpy(old, at, n);
    memcpy(at, now, n);
    nfm__edit_adapt(to->icmp_csum, old, now, n, false);
    if (address)
        adapt_inner(to, to->ip_csum, old, now, n);
    if (!address || to->has_pseudo)
        adapt_inner(to, to->l4_csum, old, now, n);
}

static void put_port(const writer *to, uint8_t *at, uint16_t port) {
    uint8_t now[2];
    nfm_write16(now, port);
    put(to, at, now, 2, false);
}

static void put_shifted(const writer *to, uint8_t *at, uint32_t add) {
    uint8_t now[4];
    nfm_write32(now, nfm_read32(at) + add);
    put(to, at, now, 4, false);
}

static writer writer_of(const quoted *q, uint8_t *icmp, bool ipv6) {
    uint8_t proto = q->key.proto;
    uint32_t at = proto == IPPROTO_TCP ? 16 : proto == IPPROTO_UDP ? 6 : 2;
    uint8_t *l4 = icmp + (q->l4 - icmp);
    bool has = proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_ICMP ||
               proto == IPPROTO_ICMPV6;
    has = has && q->l4 + at + 2 <= q->end && !(proto == IPPROTO_UDP && nfm_read16(l4 + at) == 0);
    return (writer){
        .icmp_csum = icmp + 2,
        .ip_csum = ipv6 ? NULL : icmp + ICMP_HEADER + 10,
        .l4_csum = has ? l4 + at : NULL,
        .has_pseudo = proto != IPPROTO_ICMP,
    };
}

static void put_transport(const writer *to, const quoted *q, uint8_t *l4, const nfm_edit *e) {
    bool is_query = q->key.proto == IPPROTO_ICMP || q->key.proto == IPPROTO_ICMPV6;
    bool has_ports = q->key.proto == IPPROTO_TCP || q->key.proto == IPPROTO_UDP;
    if (is_query && e->fields & (NFM_EDIT_DST_PORT | NFM_EDIT_SRC_PORT))
        put_port(to, l4 + 4, e->fields & NFM_EDIT_DST_PORT ? e->dst_port : e->src_port);
    if (has_ports && e->fields & NFM_EDIT_DST_PORT)
        put_port(to, l4, e->dst_port);
    if (has_ports && e->fields & NFM_EDIT_SRC_PORT)
        put_port(to, l4 + 2, e->src_port);
    if (q->key.proto == IPPROTO_TCP && e->fields & NFM_EDIT_ACK)
        put_shifted(to, l4 + 4, e->ack_add);
    if (q->key.proto == IPPROTO_TCP && e->fields & NFM_EDIT_SEQ && l4 + 12 <= q->end)
        put_shifted(to, l4 + 8, e->seq_add);
}

bool nfm__quoted_edit(uint8_t *icmp, const uint8_t *end, bool ipv6, const nfm_edit *e) {
    quoted q;
    if (!read_quoted(&q, icmp, end, ipv6))
        return true; /* says nothing that would have to be translated */
    uint8_t *l3 = icmp + ICMP_HEADER, *l4 = icmp + (q.l4 - icmp);
    if (!ipv6 && nfm_csum_fold(nfm_csum_add(0, l3, (uint32_t)(l4 - l3))) != 0)
        return false; /* RFC 5508 REQ-3 a */
    writer to = writer_of(&q, icmp, ipv6);
    uint32_t size = ipv6 ? 16 : 4, src = ipv6 ? 8 : 12;
    if (e->fields & NFM_EDIT_DST)
        put(&to, l3 + src, e->dst, size, true);
    if (e->fields & NFM_EDIT_SRC)
        put(&to, l3 + src + size, e->src, size, true);
    put_transport(&to, &q, l4, e);
    return true;
}
