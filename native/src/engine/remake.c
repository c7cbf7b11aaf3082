/* SPDX-License-Identifier: Apache-2.0 */
/* Frames with another payload: their lengths and checksums. Sources: RFC 791, RFC 768, RFC 8200. */
#include <netinet/in.h>
#include <string.h>

#include "engine/strand.h"
#include "io/port.h"
#include "wire/layers.h"

enum { LINK_MTU = 1500, IPV6_HEADER = 40 };

static nfm_slot_meta *meta_of(uint8_t *base) {
    return (nfm_slot_meta *)(void *)base;
}

uint32_t nfm__mtu_of(const nfm_worker *w, uint32_t port) {
    uint32_t mtu = w->ports[port]->stats.mtu;
    return mtu != 0 ? mtu : LINK_MTU;
}

static void write_ipv4(uint8_t *l3, uint32_t len) {
    nfm_write16(l3 + 2, (uint16_t)len);
    nfm_write16(l3 + 10, 0);
    nfm_write16(l3 + 10, nfm_csum_fold(nfm_csum_add(0, l3, (l3[0] & 0xfu) * 4)));
}

/* The checksum of TCP or UDP over |len| bytes; where the rest is done when sending, its begin. */
static void write_checksum(uint8_t *base, const nfm_transit *t, uint32_t len) {
    bool ipv6 = (t->flags & NFM_F_IPV6) != 0, is_udp = t->proto == IPPROTO_UDP;
    const uint8_t *addresses = base + t->l3_off + (ipv6 ? 8 : 12);
    uint8_t *l4 = base + t->l4_off, *at = l4 + (is_udp ? 6 : 16);
    nfm_key key = {.ip_version = ipv6 ? 6 : 4, .proto = t->proto};
    if (is_udp && !ipv6 && nfm_read16(at) == 0)
        return; /* it has none */
    memcpy(key.addr[0], addresses, ipv6 ? 16 : 4);
    memcpy(key.addr[1], addresses + (ipv6 ? 16 : 4), ipv6 ? 16 : 4);
    nfm_write16(at, 0);
    if (meta_of(base)->needs_csum) {
        uint32_t sum = nfm_csum_add(len + t->proto, addresses, ipv6 ? 32 : 8);
        nfm_write16(at, (uint16_t)~nfm_csum_fold(sum));
        return;
    }
    uint16_t sum = nfm__l4_checksum(&key, t->proto, l4, len);
    nfm_write16(at, is_udp && sum == 0 ? 0xffff : sum);
}

void nfm__remake(uint8_t *base, const nfm_transit *t, uint32_t len, uint32_t n) {
    nfm_slot_meta *meta = meta_of(base);
    uint8_t *l3 = base + t->l3_off;
    uint32_t all = t->payload_off - t->l3_off + len, l4_len = t->payload_off - t->l4_off + len;
    if (len <= meta->gso_size)
        meta->gso_type = meta->gso_size = 0;
    if (t->flags & NFM_F_IPV6) {
        nfm_write16(l3 + 4, (uint16_t)(all - IPV6_HEADER));
    } else {
        nfm_write16(l3 + 4, (uint16_t)(nfm_read16(l3 + 4) + n));
        write_ipv4(l3, all);
    }
    if (t->proto == IPPROTO_UDP)
        nfm_write16(base + t->l4_off + 4, (uint16_t)l4_len);
    write_checksum(base, t, l4_len);
}

bool nfm__datagram_replace(nfm_worker *w, nfm_ring *ring, uint32_t slot, const nfm_edit *how) {
    nfm_transit *t = &w->way->transits[slot];
    uint8_t *old = nfm_pool_addr(&w->pool, slot);
    const uint8_t *bytes = nfm__payload_of(ring, how);
    if (bytes == NULL || t->proto != IPPROTO_UDP || t->payload_off == 0 ||
        t->flags & NFM_F_TUNNEL || meta_of(old)->gso_type != 0 ||
        t->payload_off - t->l3_off + how->bytes_len > UINT16_MAX)
        return false;
    uint32_t made = nfm_pool_get(&w->pool, t->payload_off - NFM_HEADROOM + how->bytes_len);
    if (made == NFM_NO_SLOT) {
        w->core_counters[NFM_CC_INLINE_NO_ROOM]++;
        return false;
    }
    uint8_t *base = nfm_pool_addr(&w->pool, made);
    memcpy(base, old, t->payload_off);
    memcpy(base + t->payload_off, bytes, how->bytes_len);
    nfm__remake(base, t, how->bytes_len, 0);
    if (t->made != 0)
        nfm_pool_put(&w->pool, t->made - 1);
    t->made = made + 1;
    t->made_len = t->payload_off - NFM_HEADROOM + how->bytes_len;
    w->core_counters[NFM_CC_INLINE_REPLACED]++;
    return true;
}
