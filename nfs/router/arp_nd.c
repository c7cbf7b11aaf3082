/* SPDX-License-Identifier: Apache-2.0 */
/* ARP (RFC 826) and neighbour discovery (RFC 4861): questions, answers, and what they say. */
#include <netinet/in.h>
#include <string.h>

#include "router.h"

enum {
    ARP_LEN = 28,
    ARP_FRAME = 60,
    REQUEST = 1,
    REPLY = 2,
    ND_HOPS = 255,
    ND_LEN = 24,
    SOLICITATION = 135,
    ADVERTISEMENT = 136,
    SOURCE_LINK = 1, /* options */
    TARGET_LINK = 2,
    FROM_ROUTER = 0x80, /* flags of an advertisement */
    SOLICITED = 0x40,
    OVERRIDE = 0x20,
};

static const uint8_t nobody[16];
static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

/* ---- ARP ------------------------------------------------------------------------------------ */

typedef struct arp { /* who says what to whom */
    const uint8_t *sender_mac, *sender, *target_mac, *target;
} arp;

static void send_arp(router *self, nfm_ring *ring, uint32_t port, uint16_t op, const arp *a) {
    uint8_t frame[ARP_FRAME] = {0}, *at = frame + ROUTER_ETH;
    memcpy(frame, op == REQUEST && a->target_mac == nobody ? everybody : a->target_mac, 6);
    memcpy(frame + 6, a->sender_mac, 6);
    router_write16(frame + 12, 0x0806);
    router_write16(at, 1);
    router_write16(at + 2, 0x0800);
    at[4] = 6;
    at[5] = 4;
    router_write16(at + 6, op);
    memcpy(at + 8, a->sender_mac, 6);
    memcpy(at + 14, a->sender, 4);
    memcpy(at + 18, a->target_mac, 6);
    memcpy(at + 24, a->target, 4);
    router_send(self, ring, port, frame, sizeof(frame));
}

static bool read_arp(const router *self, const router_packet *p, arp *a) {
    static const uint8_t begin[6] = {0, 1, 8, 0, 6, 4}; /* Ethernet, IPv4 */
    const uint8_t *at = p->frame + ROUTER_ETH;
    if (p->len < ROUTER_ETH + ARP_LEN || memcmp(at, begin, sizeof(begin)) != 0)
        return false;
    *a = (arp){at + 8, at + 14, at + 18, at + 24};
    uint8_t sender[16] = {0};
    memcpy(sender, a->sender, 4);
    uint16_t op = router_read16(at + 6);
    bool is_probe = memcmp(sender, nobody, 4) == 0; /* RFC 5227: does anybody have it? */
    return (op == REQUEST || op == REPLY) && !(a->sender_mac[0] & 1) &&
           (is_probe ||
            (!router_is_bad_source(sender, 4) && router_own(self, p->port, 4, sender) == NULL));
}

void router_take_arp(router *self, const router_packet *p) {
    arp a;
    if (!read_arp(self, p, &a)) {
        self->stats.bad_neighbour++;
        return;
    }
    uint8_t target[16] = {0};
    memcpy(target, a.target, 4);
    bool is_request = router_read16(p->frame + ROUTER_ETH + 6) == REQUEST;
    bool to_us = router_own(self, p->port, 4, target) != NULL;
    router_word word = {.port = p->port, .ip_version = 4, .may_change = true};
    word.is_answer = !is_request && to_us && !p->is_group;
    word.may_add = is_request && to_us;
    memcpy(word.address, a.sender, 4);
    memcpy(word.mac, a.sender_mac, 6);
    if (router_is_on_link(self, p->port, 4, word.address))
        router_hear(self, &word);
    if (!is_request || !to_us)
        return;
    arp reply = {self->config.interfaces[p->port].mac, a.target, a.sender_mac, a.sender};
    self->stats.arp_replies++;
    send_arp(self, p->ring, p->port, REPLY, &reply);
}

/* ---- neighbour discovery -------------------------------------------------------------------- */

typedef struct nd_message {
    const uint8_t *src, *dst, *mac; /* to which frame */
    const uint8_t *target;
    uint32_t port;
    uint8_t type, flags;
} nd_message;

static void send_nd(router *self, nfm_ring *ring, const nd_message *m) {
    uint8_t frame[ROUTER_ETH + ROUTER_IPV6 + ND_LEN + 8] = {0};
    const uint8_t *own = self->config.interfaces[m->port].mac;
    router_packet head = {.ip_version = 6, .ttl = ND_HOPS};
    memcpy(head.src, m->src, 16);
    memcpy(head.dst, m->dst, 16);
    memcpy(frame, m->mac, 6);
    memcpy(frame + 6, own, 6);
    uint8_t *at = router_write_ip(frame, &head, ND_LEN + 8, IPPROTO_ICMPV6);
    at[0] = m->type;
    at[4] = m->flags;
    memcpy(at + 8, m->target, 16);
    at[ND_LEN] = m->type == SOLICITATION ? SOURCE_LINK : TARGET_LINK;
    at[ND_LEN + 1] = 1;
    memcpy(at + ND_LEN + 2, own, 6);
    uint32_t sum = router_pseudo_sum(m->src, m->dst, ND_LEN + 8, IPPROTO_ICMPV6);
    router_write16(at + 2, router_fold(router_sum(sum, at, ND_LEN + 8)));
    router_send(self, ring, m->port, frame, sizeof(frame));
}

static void ask_nd(router *self, nfm_ring *ring, const router_entry *e, const uint8_t *src) {
    uint8_t group[16] = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff};
    uint8_t mac[6] = {0x33, 0x33, 0xff};
    memcpy(group + 13, e->is.address + 13, 3);
    memcpy(mac + 3, e->is.address + 13, 3);
    bool is_known = e->is.state == ROUTER_PROBE;
    nd_message m = {.src = src,
                    .dst = is_known ? e->is.address : group,
                    .mac = is_known ? e->is.mac : mac,
                    .target = e->is.address,
                    .port = e->is.port,
                    .type = SOLICITATION};
    send_nd(self, ring, &m);
}

void router_ask(router *self, nfm_ring *ring, const router_entry *e) {
    const router_address *from = router_source(self, e->is.port, e->is.ip_version, e->is.address);
    const uint8_t *src = from == NULL ? nobody : from->address;
    self->stats.requests++;
    if (e->is.ip_version == 6) {
        ask_nd(self, ring, e, src);
        return;
    }
    arp question = {self->config.interfaces[e->is.port].mac, src,
                    e->is.state == ROUTER_PROBE ? e->is.mac : nobody, e->is.address};
    send_arp(self, ring, e->is.port, REQUEST, &question);
}

/* The MAC address in option |kind|; NULL: there is none, or *fits says that options are damaged. */
static const uint8_t *option(const uint8_t *at, const uint8_t *end, uint8_t kind, bool *fits) {
    const uint8_t *found = NULL;
    *fits = true;
    while (at < end) {
        if (end - at < 8 || at[1] == 0 || end - at < at[1] * 8) {
            *fits = false;
            return NULL;
        }
        if (at[0] == kind && at[1] == 1 && !(at[2] & 1))
            found = at + 2;
        at += at[1] * 8;
    }
    return found;
}

static void answer_nd(router *self, const router_packet *p, const uint8_t *target,
                      const uint8_t *mac) {
    static const uint8_t all_nodes[16] = {0xff, 2, [15] = 1};
    static const uint8_t all_mac[6] = {0x33, 0x33, 0, 0, 0, 1};
    bool is_probe = memcmp(p->src, nobody, 16) == 0;
    nd_message m = {.src = target,
                    .dst = is_probe ? all_nodes : p->src,
                    .mac = is_probe ? all_mac : mac,
                    .target = target,
                    .port = p->port,
                    .type = ADVERTISEMENT};
    m.flags = FROM_ROUTER | OVERRIDE | (is_probe ? 0 : SOLICITED);
    self->stats.nd_replies++;
    send_nd(self, p->ring, &m);
}

static void solicited(router *self, const router_packet *p, const uint8_t *nd,
                      const uint8_t *source) {
    bool is_probe = memcmp(p->src, nobody, 16) == 0;
    if (router_own(self, p->port, 6, nd + 8) == NULL)
        return;
    const uint8_t *mac = source != NULL ? source : p->frame + 6;
    router_word word = {.port = p->port, .ip_version = 6, .may_change = true, .may_add = true};
    memcpy(word.address, p->src, 16);
    memcpy(word.mac, mac, 6);
    if (!is_probe && source != NULL && !router_is_bad_source(p->src, 6))
        router_hear(self, &word);
    answer_nd(self, p, nd + 8, mac);
}

static void advertised(router *self, const router_packet *p, const uint8_t *nd,
                       const uint8_t *target) {
    const router_entry *e = router_neighbour_find(self, p->port, 6, nd + 8);
    if (e == NULL || (target == NULL && e->is.state == ROUTER_INCOMPLETE))
        return;
    router_word word = {.port = p->port, .ip_version = 6};
    word.is_answer = (nd[4] & SOLICITED) && !p->is_group;
    word.may_change = (nd[4] & OVERRIDE) != 0;
    memcpy(word.address, nd + 8, 16);
    memcpy(word.mac, target != NULL ? target : e->is.mac, 6);
    router_hear(self, &word);
}

static bool is_sound(const router_packet *p, const uint8_t *nd, uint32_t len) {
    uint32_t sum = router_pseudo_sum(p->l3 + 8, p->l3 + 24, len, IPPROTO_ICMPV6);
    return p->ttl == ND_HOPS && len >= ND_LEN && nd[1] == 0 && !router_is_group(nd + 8, 6) &&
           (p->meta->needs_csum || router_fold(router_sum(sum, nd, len)) == 0);
}

bool router_take_nd(router *self, const router_packet *p) {
    const uint8_t *nd = p->l3 + ROUTER_IPV6;
    uint32_t len = p->l3_len - ROUTER_IPV6;
    if (p->l3[6] != IPPROTO_ICMPV6 || len < 1 || (nd[0] != SOLICITATION && nd[0] != ADVERTISEMENT))
        return false;
    bool is_question = nd[0] == SOLICITATION, fits = false;
    const uint8_t *mac = NULL;
    if (is_sound(p, nd, len))
        mac = option(nd + ND_LEN, nd + len, is_question ? SOURCE_LINK : TARGET_LINK, &fits);
    if (!fits)
        self->stats.bad_neighbour++;
    else if (is_question)
        solicited(self, p, nd, mac);
    else
        advertised(self, p, nd, mac);
    return true;
}
