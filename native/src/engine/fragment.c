/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Datagrams that are too long for the link by which they leave: those that came in fragments and
 * were put together for who observes, and what a router may cut. Sources: RFC 791 section 3.2, RFC
 * 8200 section 4.5.
 */
#include <netinet/in.h>
#include <string.h>

#include "engine/transit.h"

enum {
    MACS = 12,
    IPV4 = 20,
    IPV6 = 40,
    FRAGMENT_HEADER = 8,
    OPTIONS = 40,
    COPIED = 0x80, /* an option that every fragment has */
    MORE = 0x2000,
    DONT = 0x4000,
    OFFSET = 0x1fff,
};

typedef struct datagram { /* that is cut */
    const nfm_tx *tx;
    uint8_t *frame;  /* its link layer's header, too */
    uint32_t link;   /* bytes of that */
    uint32_t header; /* bytes of the IP header, which every fragment has */
    uint32_t len;    /* of the whole IP packet */
    uint32_t mtu;
    uint32_t id; /* IPv6: of all its fragments */
    bool ipv6;
    uint8_t rest[IPV4 + OPTIONS]; /* IPv4: header of all fragments but the first */
    uint32_t rest_len;
} datagram;

uint8_t *nfm__outer_ip(uint8_t *base, const nfm_tx *tx, bool *ipv6) {
    uint8_t *at = base + tx->off + MACS, *end = base + tx->off + tx->len;
    while (at + 6 <= end && (nfm_read16(at) == 0x8100 || nfm_read16(at) == 0x88a8))
        at += 4;
    if (at + 2 > end)
        return NULL;
    *ipv6 = nfm_read16(at) == 0x86dd;
    if (!*ipv6 && nfm_read16(at) != 0x0800)
        return NULL;
    at += 2;
    return at + (*ipv6 ? IPV6 : IPV4) > end ? NULL : at;
}

/* What the kernel left to a NIC is done before the bytes are shared out. */
static void finish_checksum(nfm_slot_meta *meta, uint8_t *frame, uint32_t len) {
    uint32_t at = meta->csum_start + (uint32_t)meta->csum_offset;
    if (!meta->needs_csum || at + 2 > len)
        return;
    uint16_t sum = nfm_csum_fold(nfm_csum_add(0, frame + meta->csum_start, len - meta->csum_start));
    nfm_write16(frame + at, sum == 0 ? 0xffff : sum);
    meta->needs_csum = 0;
}

/* The header of later fragments: of the options only those that are to be copied. */
static void copy_options(datagram *d, const uint8_t *ip) {
    uint32_t at = IPV4, n = IPV4;
    memcpy(d->rest, ip, IPV4);
    while (at < d->header && ip[at] != 0) {
        uint32_t len = ip[at] == 1 ? 1 : at + 1 < d->header ? ip[at + 1] : 0;
        if (len == 0 || (len < 2 && ip[at] != 1) || at + len > d->header)
            break;
        if (ip[at] & COPIED) {
            memcpy(d->rest + n, ip + at, len);
            n += len;
        }
        at += len;
    }
    while (n % 4 != 0)
        d->rest[n++] = 0;
    d->rest[0] = (uint8_t)(0x40 | n / 4);
    d->rest_len = n;
}

static bool read_ipv4(datagram *d, const uint8_t *ip, bool was_cut) {
    d->header = (ip[0] & 15u) * 4;
    d->len = nfm_read16(ip + 2);
    uint32_t field = nfm_read16(ip + 6);
    bool is_whole = (field & (MORE | OFFSET)) == 0;
    if (d->header < IPV4 || d->len < d->header || d->link + d->len > d->tx->len ||
        (field & DONT && !(was_cut && is_whole)))
        return false;
    copy_options(d, ip);
    return true;
}

/* What must stand before the fragment header: hop-by-hop options and routing. */
static bool read_ipv6(datagram *d, const uint8_t *ip, bool was_cut) {
    d->len = nfm_read16(ip + 4) + (uint32_t)IPV6;
    d->header = IPV6;
    uint8_t next = ip[6];
    if (d->link + d->len > d->tx->len)
        return false;
    while (next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING) {
        if (d->header + 8 > d->len)
            return false;
        next = ip[d->header];
        d->header += (ip[d->header + 1] + 1u) * 8;
    }
    return was_cut && next != IPPROTO_FRAGMENT && d->header < d->len;
}

/* Whether it must be cut, and may be. */
static bool read_datagram(datagram *d, uint8_t *base, bool was_cut) {
    const nfm_slot_meta *meta = (const nfm_slot_meta *)(const void *)base;
    uint8_t *ip = nfm__outer_ip(base, d->tx, &d->ipv6);
    if (ip == NULL || meta->gso_type != 0)
        return false;
    d->frame = base + d->tx->off;
    d->link = (uint32_t)(ip - d->frame);
    if (!(d->ipv6 ? read_ipv6(d, ip, was_cut) : read_ipv4(d, ip, was_cut)))
        return false;
    return d->len > d->mtu && d->mtu >= d->header + FRAGMENT_HEADER + 8;
}

/* Writes the header of the fragment with |n| bytes from |at| on; returns where they belong. */
static uint8_t *put_ipv4(const datagram *d, uint8_t *ip, uint32_t at, uint32_t n) {
    const uint8_t *whole = d->frame + d->link;
    uint32_t header = at == 0 ? d->header : d->rest_len, field = nfm_read16(whole + 6);
    bool is_last = d->header + at + n == d->len;
    memcpy(ip, at == 0 ? whole : d->rest, header);
    nfm_write16(ip + 2, (uint16_t)(header + n));
    uint32_t offset = ((field & OFFSET) + at / 8) & OFFSET;
    nfm_write16(ip + 6, (uint16_t)((field & DONT) | offset | (is_last ? field & MORE : MORE)));
    nfm_write16(ip + 10, 0);
    nfm_write16(ip + 10, nfm_csum_fold(nfm_csum_add(0, ip, header)));
    return ip + header;
}

static uint8_t *put_ipv6(const datagram *d, uint8_t *ip, uint32_t at, uint32_t n) {
    bool is_last = d->header + at + n == d->len;
    uint8_t *fragment = ip + d->header, *next = ip + 6;
    memcpy(ip, d->frame + d->link, d->header);
    nfm_write16(ip + 4, (uint16_t)(d->header - IPV6 + FRAGMENT_HEADER + n));
    for (uint32_t skip = IPV6; skip < d->header; skip += (ip[skip + 1] + 1u) * 8)
        next = ip + skip;
    fragment[0] = *next;
    *next = IPPROTO_FRAGMENT;
    fragment[1] = 0;
    nfm_write16(fragment + 2, (uint16_t)(at | (is_last ? 0 : 1)));
    nfm_write32(fragment + 4, d->id);
    return fragment + FRAGMENT_HEADER;
}

/* One fragment, from byte |at| of the data on; returns how many bytes it has, 0: no slot. */
static uint32_t put_fragment(nfm_worker *w, uint32_t port, const datagram *d, uint32_t at) {
    uint32_t header = d->ipv6 ? d->header + FRAGMENT_HEADER : at == 0 ? d->header : d->rest_len;
    uint32_t left = d->len - d->header - at, room = (d->mtu - header) & ~7u;
    uint32_t n = left <= d->mtu - header ? left : room, len = d->link + header + n;
    uint32_t slot = nfm_pool_get(&w->pool, len);
    if (slot == NFM_NO_SLOT)
        return 0;
    uint8_t *base = nfm_pool_addr(&w->pool, slot), *frame = base + NFM_HEADROOM;
    memset(base, 0, sizeof(nfm_slot_meta));
    memcpy(frame, d->frame, d->link);
    uint8_t *data =
        d->ipv6 ? put_ipv6(d, frame + d->link, at, n) : put_ipv4(d, frame + d->link, at, n);
    memcpy(data, d->frame + d->link + d->header + at, n);
    nfm_tx tx = {slot, NFM_HEADROOM, len, len, d->tx->ts_ns};
    nfm__output(w, port, &tx);
    return n;
}

bool nfm__output_cut(nfm_worker *w, uint32_t port, const nfm_tx *tx, bool was_cut) {
    datagram d = {.tx = tx, .mtu = w->ports[port]->stats.mtu};
    uint8_t *base = nfm_pool_addr(&w->pool, tx->slot);
    if (d.mtu == 0 || tx->len <= d.mtu || !read_datagram(&d, base, was_cut))
        return false;
    finish_checksum((nfm_slot_meta *)(void *)base, d.frame, d.link + d.len);
    d.id = w->way->next_fragment++;
    uint32_t all = d.len - d.header;
    for (uint32_t at = 0, n; at < all; at += n) {
        n = put_fragment(w, port, &d, at);
        if (n == 0) {
            w->core_counters[NFM_CC_FORWARD_FULL]++;
            break;
        }
    }
    w->core_counters[NFM_CC_FRAGMENTED]++;
    nfm_pool_put(&w->pool, tx->slot);
    return true;
}
