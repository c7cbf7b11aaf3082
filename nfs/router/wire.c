/* SPDX-License-Identifier: Apache-2.0 */
/* Headers as they are on the wire. */
#include <netinet/in.h>
#include <string.h>

#include "router.h"

enum { TTL = 64, MAX_EXTENSIONS = 8 };

uint32_t router_sum(uint32_t sum, const uint8_t *bytes, uint32_t len) {
    uint64_t wide = sum;
    for (uint32_t i = 0; i + 1 < len; i += 2)
        wide += router_read16(bytes + i);
    if (len & 1)
        wide += (uint32_t)bytes[len - 1] << 8;
    while (wide >> 32)
        wide = (wide & 0xffffffff) + (wide >> 32);
    return (uint32_t)wide;
}

uint16_t router_fold(uint32_t sum) {
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

uint32_t router_pseudo_sum(const uint8_t *src, const uint8_t *dst, uint32_t len, uint8_t proto) {
    return router_sum(router_sum(0, src, 16), dst, 16) + (len >> 16) + (len & 0xffff) + proto;
}

static bool read_ipv4(router_packet *p, uint32_t there) {
    const uint8_t *ip = p->l3;
    if (there < ROUTER_IPV4 || ip[0] >> 4 != 4)
        return false;
    uint32_t header = (ip[0] & 15u) * 4, total = router_read16(ip + 2);
    if (total == 0 && p->meta->gso_type != 0)
        total = there; /* longer than its field can say */
    if (header < ROUTER_IPV4 || header > total || total > there ||
        router_fold(router_sum(0, ip, header)) != 0)
        return false;
    p->l3_len = total;
    p->ttl = ip[8];
    memcpy(p->src, ip + 12, 4);
    memcpy(p->dst, ip + 16, 4);
    return true;
}

static bool read_ipv6(router_packet *p, uint32_t there) {
    const uint8_t *ip = p->l3;
    if (there < ROUTER_IPV6 || ip[0] >> 4 != 6)
        return false;
    uint32_t total = router_read16(ip + 4) + (uint32_t)ROUTER_IPV6;
    if (total == ROUTER_IPV6 && p->meta->gso_type != 0)
        total = there;
    if (total > there)
        return false;
    p->l3_len = total;
    p->ttl = ip[7];
    memcpy(p->src, ip + 8, 16);
    memcpy(p->dst, ip + 24, 16);
    return true;
}

bool router_read_ip(router_packet *p) {
    memset(p->src, 0, sizeof(p->src));
    memset(p->dst, 0, sizeof(p->dst));
    p->l3 = p->frame + ROUTER_ETH;
    uint32_t there = p->len - ROUTER_ETH;
    return p->ip_version == 4 ? read_ipv4(p, there) : read_ipv6(p, there);
}

static const uint8_t *upper_of_ipv6(const router_packet *p, uint8_t *proto, uint32_t *len) {
    uint32_t at = ROUTER_IPV6;
    *proto = p->l3[6];
    for (int i = 0; i < MAX_EXTENSIONS; i++) {
        bool is_fragment = *proto == IPPROTO_FRAGMENT;
        if (!is_fragment && *proto != IPPROTO_HOPOPTS && *proto != IPPROTO_ROUTING &&
            *proto != IPPROTO_DSTOPTS) {
            *len = p->l3_len - at;
            return p->l3 + at;
        }
        if (at + 8 > p->l3_len || (is_fragment && router_read16(p->l3 + at + 2) & 0xfff8))
            return NULL;
        *proto = p->l3[at];
        at += is_fragment ? 8 : (p->l3[at + 1] + 1u) * 8;
        if (at > p->l3_len)
            return NULL;
    }
    return NULL;
}

const uint8_t *router_upper(const router_packet *p, uint8_t *proto, uint32_t *len) {
    if (p->ip_version == 6)
        return upper_of_ipv6(p, proto, len);
    uint32_t header = (p->l3[0] & 15u) * 4;
    *proto = p->l3[9];
    *len = p->l3_len - header;
    return router_read16(p->l3 + 6) & 0x1fff ? NULL : p->l3 + header;
}

uint8_t *router_write_ip(uint8_t *frame, const router_packet *head, uint32_t len, uint8_t proto) {
    uint8_t *ip = frame + ROUTER_ETH;
    router_write16(frame + 12, head->ip_version == 4 ? 0x0800 : 0x86dd);
    if (head->ip_version == 4) {
        memset(ip, 0, ROUTER_IPV4);
        ip[0] = 0x45;
        router_write16(ip + 2, ROUTER_IPV4 + len);
        ip[8] = head->ttl == 0 ? TTL : head->ttl;
        ip[9] = proto;
        memcpy(ip + 12, head->src, 4);
        memcpy(ip + 16, head->dst, 4);
        router_write16(ip + 10, router_fold(router_sum(0, ip, ROUTER_IPV4)));
        return ip + ROUTER_IPV4;
    }
    memset(ip, 0, 8);
    ip[0] = 0x60;
    router_write16(ip + 4, len);
    ip[6] = proto;
    ip[7] = head->ttl == 0 ? TTL : head->ttl;
    memcpy(ip + 8, head->src, 16);
    memcpy(ip + 24, head->dst, 16);
    return ip + ROUTER_IPV6;
}

void router_send(router *self, nfm_ring *ring, uint32_t port, const uint8_t *frame, uint32_t len) {
    if (ring == NULL || nfm_ring_inject(ring, port, frame, len) != NFM_OK)
        self->stats.not_sent++;
}
