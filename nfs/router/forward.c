/* SPDX-License-Identifier: Apache-2.0 */
/* Where a packet goes (RFC 1812 section 5.2, RFC 8200). */
#include <netinet/in.h>
#include <string.h>

#include "router.h"

enum { LOOSE = 131, STRICT = 137, DONT_FRAGMENT = 0x4000, OFFSET_AND_MORE = 0x3fff };

bool router_view(nfm_ring *ring, const nfm_mem *mem, uint32_t number, router_packet *p) {
    const nfm_record *record = &mem->records[number];
    const uint8_t *base = nfm_slot_ptr(mem, record->slot);
    *p = (router_packet){.ring = ring, .mem = mem, .record = record, .number = number};
    if (base == NULL || record->flags & NFM_F_NOT_ETHERNET || record->frame_len < ROUTER_ETH)
        return false;
    p->meta = (const nfm_slot_meta *)(const void *)base;
    p->frame = base + NFM_HEADROOM;
    p->len = record->frame_len;
    p->port = (uint8_t)record->port;
    p->is_group = p->frame[0] & 1;
    uint16_t type = router_read16(p->frame + 12);
    p->ip_version = type == 0x0800 ? 4 : type == 0x86dd ? 6 : 0;
    return true;
}

/* Whether the sender says by which routers a packet is to go: nobody does for good (RFC 7126). */
static bool is_source_routed(const router_packet *p) {
    const uint8_t *at = p->l3 + ROUTER_IPV4, *end = p->l3 + (p->l3[0] & 15u) * 4;
    while (p->ip_version == 4 && at < end && at[0] != 0) {
        if (at[0] == LOOSE || at[0] == STRICT)
            return true;
        if (at[0] == 1) {
            at++;
            continue;
        }
        if (at + 2 > end || at[1] < 2)
            return false;
        at += at[1];
    }
    return false;
}

static const router_hop *hop_of(const router *self, uint8_t ip_version, const uint8_t *address) {
    return &self->table->hops[lpm_find(&self->table->routes[ip_version == 6], address)];
}

/* Bytes of the longest IP packet that this frame is on a wire: a segment's, where there are some.
 */
static uint32_t size_on_wire(const router_packet *p) {
    uint8_t proto;
    uint32_t len;
    if (p->meta->gso_type == 0 || p->meta->gso_size == 0)
        return p->l3_len;
    const uint8_t *upper = router_upper(p, &proto, &len);
    if (upper == NULL || (proto == IPPROTO_TCP && len < 20))
        return p->l3_len;
    uint32_t header = proto == IPPROTO_TCP ? (uint32_t)(upper[12] >> 4) * 4 : 8;
    return (uint32_t)(upper - p->l3) + header + p->meta->gso_size;
}

/* Whether the worker may cut it: the sender allows it, or it came in pieces. */
static bool may_be_cut(const router_packet *p) {
    if (p->meta->gso_type != 0)
        return false;
    uint16_t fragment = p->ip_version == 4 ? router_read16(p->l3 + 6) : 0;
    bool was_put_together = (p->record->flags & NFM_F_FRAGMENT) && !(fragment & OFFSET_AND_MORE) &&
                            !(p->ip_version == 6 && p->l3[6] == IPPROTO_FRAGMENT);
    return was_put_together || (p->ip_version == 4 && !(fragment & DONT_FRAGMENT));
}

static uint32_t send_on(router *self, const router_packet *p, const router_hop *to,
                        nfm_edit *edit) {
    uint32_t mtu = self->config.interfaces[to->port].mtu;
    if (p->ttl <= 1) {
        self->stats.ttl_exceeded++;
        router_tell(self, p, ROUTER_E_TTL, 0);
        return NFM_DROP;
    }
    if (size_on_wire(p) > mtu && !may_be_cut(p)) {
        self->stats.too_big++;
        router_tell(self, p, ROUTER_E_TOO_BIG, mtu);
        return NFM_DROP;
    }
    return router_resolve(self, p, to, edit);
}

static uint32_t refuse(router *self, const router_packet *p, uint64_t *counter,
                       enum router_error error) {
    (*counter)++;
    router_tell(self, p, error, 0);
    return NFM_DROP;
}

static uint32_t drop(uint64_t *counter) {
    (*counter)++;
    return NFM_DROP;
}

static uint32_t take_hop(router *self, const router_packet *p, const router_hop *to,
                         nfm_edit *edit) {
    router_stats *stats = &self->stats;
    switch ((enum router_kind)to->kind) {
    case ROUTER_LINK:
    case ROUTER_VIA:
        return send_on(self, p, to, edit);
    case ROUTER_NOWHERE:
        return refuse(self, p, &stats->no_route, ROUTER_E_NET);
    case ROUTER_UNREACHABLE:
        return refuse(self, p, &stats->refused_by_route, ROUTER_E_HOST);
    case ROUTER_PROHIBIT:
        return refuse(self, p, &stats->refused_by_route, ROUTER_E_PROHIBITED);
    case ROUTER_BLACKHOLE:
        return drop(&stats->refused_by_route);
    case ROUTER_BROADCAST:
        return drop(&stats->group);
    case ROUTER_LOCAL:
        router_serve(self, p);
        return NFM_DROP;
    }
    return NFM_DROP;
}

/* Whether packets of this source come by the port by which it is reached (RFC 3704 section 2.2). */
static bool is_right_port(const router *self, const router_packet *p) {
    const router_hop *back = hop_of(self, p->ip_version, p->src);
    return (back->kind == ROUTER_LINK || back->kind == ROUTER_VIA) && back->port == p->port;
}

static bool is_martian(const router *self, const router_packet *p) {
    uint8_t v = p->ip_version;
    return router_is_bad_source(p->src, v) || router_is_bad_destination(p->dst, v) ||
           hop_of(self, v, p->src)->kind == ROUTER_LOCAL ||
           (v == 4 && (router_is_link_local(p->src, v) || router_is_link_local(p->dst, v)));
}

static bool is_multicast(const router_packet *p) {
    return p->ip_version == 6 ? p->dst[0] == 0xff : p->dst[0] >> 4 == 14;
}

static uint32_t judge_ip(router *self, const router_packet *p, nfm_edit *edit) {
    router_stats *stats = &self->stats;
    uint8_t v = p->ip_version;
    if (v == 6 && router_take_nd(self, p))
        return NFM_DROP;
    if (is_martian(self, p))
        return drop(&stats->martian);
    if (is_multicast(p))
        return drop(&stats->multicast);
    if (p->is_group || router_is_group(p->dst, v))
        return drop(&stats->group);
    if (is_source_routed(p))
        return drop(&stats->source_routed);
    if (router_own(self, p->port, v, p->to) != NULL) {
        router_serve(self, p);
        return NFM_DROP;
    }
    if (router_is_link_local(p->to, v))
        return drop(&stats->no_route);
    if (router_is_link_local(p->from, v))
        return refuse(self, p, &stats->no_route, ROUTER_E_SCOPE);
    const router_hop *to = hop_of(self, v, p->to);
    if (self->config.check_source && to->kind != ROUTER_LOCAL && !is_right_port(self, p))
        return drop(&stats->wrong_source);
    return take_hop(self, p, to, edit);
}

static bool is_tagged(const router_packet *p) {
    uint16_t type = router_read16(p->frame + 12);
    return type == 0x8100 || type == 0x88a8;
}

static void translate(router_packet *p, const nfm_edit *before) {
    uint32_t size = p->ip_version == 6 ? 16 : 4;
    memcpy(p->from, p->src, 16);
    memcpy(p->to, p->dst, 16);
    if (before != NULL && before->fields & NFM_EDIT_SRC)
        memcpy(p->from, before->src, size);
    if (before != NULL && before->fields & NFM_EDIT_DST)
        memcpy(p->to, before->dst, size);
}

uint32_t router_judge(router *self, router_packet *p, bool is_edited, nfm_edit *edit) {
    router_stats *stats = &self->stats;
    const router_interface *at = &self->config.interfaces[p->port];
    const nfm_edit before = *edit;
    *edit = (nfm_edit){0};
    if (!p->is_group && memcmp(p->frame, at->mac, 6) != 0)
        return drop(&stats->not_ours);
    if (router_read16(p->frame + 12) == 0x0806) {
        router_take_arp(self, p);
        return NFM_DROP;
    }
    if (p->ip_version == 0)
        return drop(is_tagged(p) ? &stats->tagged : &stats->other_protocol);
    if (!router_read_ip(p))
        return drop(&stats->bad_header);
    translate(p, is_edited ? &before : NULL);
    return judge_ip(self, p, edit);
}
