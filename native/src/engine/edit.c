/* SPDX-License-Identifier: Apache-2.0 */
/* Rewriting of headers, checksums adapted by what changes (RFC 1624). */
#include <netinet/in.h>
#include <string.h>

#include "engine/transit.h"

enum { ETH = 14, MACS = 12, TCP_SACK = 5, TCP_MIN = 20 };

typedef struct frame { /* where the headers are that an edit touches */
    uint8_t *base, *l3, *l4, *end;
    uint8_t *l4_csum; /* NULL: none, or switched off */
    bool partial;    /* the L4 checksum is the pseudo-header's sum: the rest is done when sending */
    bool has_pseudo; /* addresses count in the L4 checksum */
    bool ipv6;
    uint8_t proto;
} frame;

/* The one's complement checksum at |at| after |n| bytes (even) changed from |old| to |now|. A
 * partial one is a plain sum. */
void nfm__edit_adapt(uint8_t *at, const uint8_t *old, const uint8_t *now, uint32_t n,
                     bool partial) {
    uint32_t sum = partial ? nfm_read16(at) : (uint16_t)~nfm_read16(at);
    for (uint32_t i = 0; i < n; i += 2)
        sum += (uint16_t)~nfm_read16(old + i) + (uint32_t)nfm_read16(now + i);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    nfm_write16(at, (uint16_t)(partial ? sum : ~sum));
}

/* Writes |n| bytes of the L4 header, or of an address that its checksum covers. */
static void change(const frame *f, uint8_t *at, const void *now, uint32_t n, bool address) {
    uint8_t old[16];
    memcpy(old, at, n);
    memcpy(at, now, n);
    if (address && !f->ipv6)
        nfm__edit_adapt(f->l3 + 10, old, now, n, false);
    if (f->l4_csum == NULL || (address ? !f->has_pseudo : f->partial))
        return;
    nfm__edit_adapt(f->l4_csum, old, now, n, f->partial);
    if (f->proto == IPPROTO_UDP && nfm_read16(f->l4_csum) == 0 && !f->partial)
        nfm_write16(f->l4_csum, 0xffff); /* 0 would say: no checksum (RFC 768) */
}

/* Where the checksum of the L4 header is; NULL where it has none that counts. */
static uint8_t *checksum_of(const frame *f) {
    uint32_t at = f->proto == IPPROTO_TCP                                  ? 16
                  : f->proto == IPPROTO_UDP                                ? 6
                  : f->proto == IPPROTO_ICMP || f->proto == IPPROTO_ICMPV6 ? 2
                                                                           : 0;
    if (at == 0 || f->l4 + at + 2 > f->end)
        return NULL;
    if (f->proto == IPPROTO_UDP && nfm_read16(f->l4 + at) == 0)
        return NULL;
    return f->l4 + at;
}

static bool find_headers(uint8_t *base, const nfm_transit *t, const nfm_tx *tx, frame *f) {
    const nfm_slot_meta *meta = (const nfm_slot_meta *)(const void *)base;
    *f = (frame){.base = base, .end = base + tx->off + tx->len, .proto = t->proto};
    if (t->l3_off == 0)
        return false;
    f->l3 = base + t->l3_off;
    f->ipv6 = (t->flags & NFM_F_IPV6) != 0;
    f->l4 = t->l4_off == 0 ? f->end : base + t->l4_off;
    f->partial = meta->needs_csum != 0;
    f->has_pseudo = f->proto != IPPROTO_ICMP;
    f->l4_csum = checksum_of(f);
    return f->l3 + (f->ipv6 ? 40 : 20) <= f->end;
}

static void edit_addresses(const frame *f, const nfm_edit *e) {
    uint32_t size = f->ipv6 ? 16 : 4, src = f->ipv6 ? 8 : 12;
    if (e->fields & NFM_EDIT_SRC)
        change(f, f->l3 + src, e->src, size, true);
    if (e->fields & NFM_EDIT_DST)
        change(f, f->l3 + src + size, e->dst, size, true);
}

static bool edit_ports(const frame *f, const nfm_edit *e) {
    uint8_t src[2], dst[2];
    bool is_icmp = f->proto == IPPROTO_ICMP || f->proto == IPPROTO_ICMPV6;
    bool has_ports = f->proto == IPPROTO_TCP || f->proto == IPPROTO_UDP;
    if (!(e->fields & (NFM_EDIT_SRC_PORT | NFM_EDIT_DST_PORT)))
        return true;
    if ((!is_icmp && !has_ports) || f->l4 + 8 > f->end)
        return false;
    nfm_write16(src, e->src_port);
    nfm_write16(dst, e->dst_port);
    if (is_icmp) {
        change(f, f->l4 + 4, e->fields & NFM_EDIT_SRC_PORT ? src : dst, 2, false);
        return true;
    }
    if (e->fields & NFM_EDIT_SRC_PORT)
        change(f, f->l4, src, 2, false);
    if (e->fields & NFM_EDIT_DST_PORT)
        change(f, f->l4 + 2, dst, 2, false);
    return true;
}

static void set_ttl(uint8_t *l3, bool ipv6, uint8_t ttl) {
    uint8_t *at = l3 + (ipv6 ? 7 : 8);
    uint8_t old[2] = {at[0], at[1]}, now[2] = {ttl, at[1]};
    *at = ttl;
    if (!ipv6)
        nfm__edit_adapt(l3 + 10, old, now, 2, false);
}

static bool edit_ttl(const frame *f, const nfm_edit *e) {
    if (!(e->fields & (NFM_EDIT_TTL | NFM_EDIT_TTL_DOWN)))
        return true;
    uint8_t ttl = e->ttl;
    if (e->fields & NFM_EDIT_TTL_DOWN) {
        uint8_t before = f->l3[f->ipv6 ? 7 : 8];
        if (before <= e->ttl)
            return false;
        ttl = (uint8_t)(before - e->ttl);
    }
    set_ttl(f->l3, f->ipv6, ttl);
    return true;
}

/* What a router does: of the outermost IP header, whatever is in the packet. */
static bool edit_hop(uint8_t *base, const nfm_transit *t, const nfm_tx *tx) {
    bool ipv6;
    uint8_t *l3 = t->link_type == 1 ? nfm__outer_ip(base, tx, &ipv6) : NULL;
    if (l3 == NULL || l3[ipv6 ? 7 : 8] <= 1)
        return false;
    set_ttl(l3, ipv6, (uint8_t)(l3[ipv6 ? 7 : 8] - 1));
    return true;
}

static void add32(const frame *f, uint8_t *at, uint32_t add) {
    uint8_t now[4];
    nfm_write32(now, nfm_read32(at) + add);
    change(f, at, now, 4, false);
}

/* The edges of SACK blocks are numbers of the other side, like the acknowledgement (RFC 2018).
 * Their option may lie at an odd place: the caller adapts the checksum to all options at once. */
static void edit_sack(uint32_t add, uint8_t *options, const uint8_t *end) {
    while (options < end && *options != 0) {
        if (*options == 1) {
            options++;
            continue;
        }
        if (options + 2 > end || options[1] < 2 || options + options[1] > end)
            return;
        for (uint8_t *edge = options + 2; *options == TCP_SACK && edge + 4 <= options + options[1];
             edge += 4)
            nfm_write32(edge, nfm_read32(edge) + add);
        options += options[1];
    }
}

static bool edit_tcp(const frame *f, const nfm_edit *e) {
    if (!(e->fields & (NFM_EDIT_SEQ | NFM_EDIT_ACK)))
        return true;
    if (f->proto != IPPROTO_TCP || f->l4 + TCP_MIN > f->end)
        return false;
    if (e->fields & NFM_EDIT_SEQ)
        add32(f, f->l4 + 4, e->seq_add);
    if (!(e->fields & NFM_EDIT_ACK) || !(f->l4[13] & 0x10))
        return true;
    add32(f, f->l4 + 8, e->ack_add);
    uint32_t size = (uint32_t)(f->l4[12] >> 4) * 4;
    if (size <= TCP_MIN || f->l4 + size > f->end)
        return true;
    uint8_t old[40];
    memcpy(old, f->l4 + TCP_MIN, size - TCP_MIN);
    edit_sack(e->ack_add, f->l4 + TCP_MIN, f->l4 + size);
    if (f->l4_csum != NULL && !f->partial)
        nfm__edit_adapt(f->l4_csum, old, f->l4 + TCP_MIN, size - TCP_MIN, false);
    return true;
}

/* The link layer's part: MAC addresses and the outer VLAN tag. */
static bool edit_link(uint8_t *base, const nfm_transit *t, const nfm_edit *e, nfm_tx *tx) {
    const uint32_t link =
        NFM_EDIT_SRC_MAC | NFM_EDIT_DST_MAC | NFM_EDIT_VLAN_PUSH | NFM_EDIT_VLAN_POP;
    nfm_slot_meta *meta = (nfm_slot_meta *)(void *)base;
    if (!(e->fields & link))
        return true;
    if (t->link_type != 1 || tx->len < ETH)
        return false;
    if (e->fields & NFM_EDIT_VLAN_POP) {
        uint16_t type = nfm_read16(base + tx->off + MACS);
        if ((type != 0x8100 && type != 0x88a8) || tx->len < ETH + 4)
            return false;
        memmove(base + tx->off + 4, base + tx->off, MACS);
        tx->off += 4;
        tx->len -= 4;
        meta->csum_start -= meta->needs_csum ? 4 : 0;
    }
    if (e->fields & NFM_EDIT_VLAN_PUSH) {
        if (tx->off < sizeof(*meta) + 4)
            return false;
        memmove(base + tx->off - 4, base + tx->off, MACS);
        tx->off -= 4;
        tx->len += 4;
        nfm_write16(base + tx->off + MACS, 0x8100);
        nfm_write16(base + tx->off + MACS + 2, e->vlan);
        meta->csum_start += meta->needs_csum ? 4 : 0;
    }
    if (e->fields & NFM_EDIT_DST_MAC)
        memcpy(base + tx->off, e->dst_mac, 6);
    if (e->fields & NFM_EDIT_SRC_MAC)
        memcpy(base + tx->off + 6, e->src_mac, 6);
    return true;
}

static bool is_error(const frame *f) {
    bool is_icmp = f->proto == (f->ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
    return is_icmp && f->l4 + 8 <= f->end && nfm__is_icmp_error(f->l4, f->ipv6);
}

/* An error has no ports: it quotes a packet that has. One with a wrong checksum goes no further
 * (RFC 5508 REQ-3); what the capture cut off cannot be told. */
static bool edit_error(const frame *f, const nfm_edit *e) {
    uint32_t start = (uint32_t)(f->l4 - f->l3), len = nfm_read16(f->l3 + (f->ipv6 ? 4 : 2));
    len = len + (f->ipv6 ? 40 : 0) - start;
    uint32_t sum = f->ipv6 ? nfm_csum_add(len + IPPROTO_ICMPV6, f->l3 + 8, 32) : 0;
    if (f->l4 + len <= f->end && nfm_csum_fold(nfm_csum_add(sum, f->l4, len)) != 0)
        return false;
    return nfm__quoted_edit(f->l4, f->end, f->ipv6, e);
}

bool nfm__edit_apply(uint8_t *base, const nfm_transit *t, const nfm_edit *e, nfm_tx *tx) {
    const uint32_t inner = NFM_EDIT_SRC | NFM_EDIT_DST | NFM_EDIT_SRC_PORT | NFM_EDIT_DST_PORT |
                           NFM_EDIT_TTL | NFM_EDIT_TTL_DOWN | NFM_EDIT_SEQ | NFM_EDIT_ACK;
    frame f;
    if (e->fields & inner) {
        if (!find_headers(base, t, tx, &f) || !edit_ttl(&f, e) ||
            !(is_error(&f) ? edit_error(&f, e) : edit_ports(&f, e) && edit_tcp(&f, e)))
            return false;
        edit_addresses(&f, e);
    }
    if (e->fields & NFM_EDIT_HOP && !edit_hop(base, t, tx))
        return false;
    return edit_link(base, t, e, tx);
}

void nfm__edit_merge(nfm_edit *e, const nfm_edit *more) {
    uint32_t fields = more->fields;
    e->fields |= fields;
    if (fields & NFM_EDIT_SRC)
        memcpy(e->src, more->src, sizeof(e->src));
    if (fields & NFM_EDIT_DST)
        memcpy(e->dst, more->dst, sizeof(e->dst));
    if (fields & NFM_EDIT_SRC_PORT)
        e->src_port = more->src_port;
    if (fields & NFM_EDIT_DST_PORT)
        e->dst_port = more->dst_port;
    if (fields & NFM_EDIT_SRC_MAC)
        memcpy(e->src_mac, more->src_mac, sizeof(e->src_mac));
    if (fields & NFM_EDIT_DST_MAC)
        memcpy(e->dst_mac, more->dst_mac, sizeof(e->dst_mac));
    if (fields & (NFM_EDIT_TTL | NFM_EDIT_TTL_DOWN))
        e->ttl = more->ttl;
    if (fields & NFM_EDIT_VLAN_PUSH)
        e->vlan = more->vlan;
    if (fields & NFM_EDIT_OUT)
        e->out = more->out;
    e->seq_add += fields & NFM_EDIT_SEQ ? more->seq_add : 0;
    e->ack_add += fields & NFM_EDIT_ACK ? more->ack_add : 0;
}

nfm_key nfm__edit_key(const nfm_edit *e, const nfm_key *key) {
    nfm_key after = *key;
    bool is_icmp = key->proto == IPPROTO_ICMP || key->proto == IPPROTO_ICMPV6;
    uint32_t size = key->ip_version == 6 ? 16 : 4;
    if (e->fields & NFM_EDIT_SRC)
        memcpy(after.addr[0], e->src, size);
    if (e->fields & NFM_EDIT_DST)
        memcpy(after.addr[1], e->dst, size);
    if (e->fields & NFM_EDIT_SRC_PORT)
        after.port[0] = e->src_port;
    if (e->fields & NFM_EDIT_DST_PORT)
        after.port[1] = e->dst_port;
    if (is_icmp && e->fields & NFM_EDIT_SRC_PORT)
        after.port[1] = e->src_port;
    if (is_icmp && e->fields & NFM_EDIT_DST_PORT)
        after.port[0] = e->dst_port;
    return after;
}

nfm_edit nfm__edit_inverse(const nfm_edit *e, const nfm_key *key, const uint8_t *macs) {
    nfm_edit back = {.fields = e->fields & (NFM_EDIT_TTL_DOWN | NFM_EDIT_HOP | NFM_EDIT_BACK),
                     .ttl = e->ttl};
    if (macs != NULL && e->fields & NFM_EDIT_DST_MAC) {
        back.fields |= NFM_EDIT_SRC_MAC;
        memcpy(back.src_mac, macs, 6);
    }
    if (macs != NULL && e->fields & NFM_EDIT_SRC_MAC) {
        back.fields |= NFM_EDIT_DST_MAC;
        memcpy(back.dst_mac, macs + 6, 6);
    }
    if (e->fields & NFM_EDIT_SRC)
        back.fields |= NFM_EDIT_DST;
    if (e->fields & NFM_EDIT_DST)
        back.fields |= NFM_EDIT_SRC;
    if (e->fields & NFM_EDIT_SRC_PORT)
        back.fields |= NFM_EDIT_DST_PORT;
    if (e->fields & NFM_EDIT_DST_PORT)
        back.fields |= NFM_EDIT_SRC_PORT;
    if (e->fields & NFM_EDIT_SEQ)
        back.fields |= NFM_EDIT_ACK;
    if (e->fields & NFM_EDIT_ACK)
        back.fields |= NFM_EDIT_SEQ;
    memcpy(back.dst, key->addr[0], 16);
    memcpy(back.src, key->addr[1], 16);
    back.dst_port = key->port[0];
    back.src_port = key->port[1];
    back.ack_add = 0u - e->seq_add;
    back.seq_add = 0u - e->ack_add;
    return back;
}
