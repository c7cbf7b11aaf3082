/* SPDX-License-Identifier: Apache-2.0 */
/* What senders are told (RFC 1812 section 4.3.2, RFC 4443 section 2.4), and who talks to the
 * router. */
#include <netinet/in.h>
#include <string.h>

#include "router.h"

enum {
    HEADER = 8,
    ECHO4 = 8,
    ECHO6 = 128,
    REPLY6 = 129,
    ERROR_COST = 1000, /* thousandths of an error */
    NEXT_HEADER = 6,   /* where an IPv6 header says what follows */
};

typedef struct message_kind {
    uint8_t type, code;
} message_kind;

static const message_kind kinds[2][ROUTER_ERRORS] = {
    {
        [ROUTER_E_NET] = {3, 0},
        [ROUTER_E_HOST] = {3, 1},
        [ROUTER_E_PROHIBITED] = {3, 13},
        [ROUTER_E_PORT] = {3, 3},
        [ROUTER_E_PROTOCOL] = {3, 2},
        [ROUTER_E_TTL] = {11, 0},
        [ROUTER_E_TOO_BIG] = {3, 4},
        [ROUTER_E_SCOPE] = {3, 0},
    },
    {
        [ROUTER_E_NET] = {1, 0},
        [ROUTER_E_HOST] = {1, 3},
        [ROUTER_E_PROHIBITED] = {1, 1},
        [ROUTER_E_PORT] = {1, 4},
        [ROUTER_E_PROTOCOL] = {4, 1},
        [ROUTER_E_TTL] = {3, 0},
        [ROUTER_E_TOO_BIG] = {2, 0},
        [ROUTER_E_SCOPE] = {1, 2},
    },
};

/* Whether a message of this type must not be answered by an error. */
static bool is_error(uint8_t ip_version, uint8_t type) {
    if (ip_version == 6)
        return type < 128 || type == 137;
    return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

static bool may_tell(const router_packet *p) {
    uint8_t proto;
    uint32_t len;
    if (p->is_group || router_is_group(p->dst, p->ip_version) ||
        router_is_bad_source(p->src, p->ip_version))
        return false;
    const uint8_t *upper = router_upper(p, &proto, &len);
    if (upper == NULL)
        return false;
    bool is_icmp = proto == (p->ip_version == 6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
    return !is_icmp || (len > 0 && !is_error(p->ip_version, upper[0]));
}

/* Source: RFC 1812 section 4.3.2.8. */
static bool take_token(router *self) {
    const int64_t most = (int64_t)self->config.error_burst * ERROR_COST;
    int64_t ms = (self->now_ns - self->refill_ns) / 1000000;
    if (ms > 0) {
        self->refill_ns += ms * 1000000;
        ms = ms < 1000000 ? ms : 1000000;
        self->tokens += ms * self->config.errors_per_s;
        self->tokens = self->tokens < most ? self->tokens : most;
    }
    if (self->config.errors_per_s == 0 || self->tokens < ERROR_COST) {
        self->stats.errors_limited++;
        return false;
    }
    self->tokens -= ERROR_COST;
    return true;
}

/* Ethernet and IP headers of a message back to where |p| came from; NULL: the router has no address
 * there. */
static uint8_t *write_back(const router *self, const router_packet *p, const uint8_t *src,
                           uint8_t *frame, uint32_t len) {
    const router_address *own = router_source(self, p->port, p->ip_version, p->src);
    router_packet head = {.ip_version = p->ip_version};
    if (src == NULL && own == NULL)
        return NULL;
    memcpy(head.src, src != NULL ? src : own->address, 16);
    memcpy(head.dst, p->src, 16);
    memcpy(frame, p->frame + 6, 6);
    memcpy(frame + 6, self->config.interfaces[p->port].mac, 6);
    return router_write_ip(frame, &head, len, p->ip_version == 6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

/* The checksum of the message of |len| bytes at |at|, behind its IP header; send it with. */
static void finish(router *self, const router_packet *p, uint8_t *frame, uint8_t *at,
                   uint32_t len) {
    uint32_t sum = 0;
    if (p->ip_version == 6)
        sum = router_pseudo_sum(at - 32, at - 16, len, IPPROTO_ICMPV6);
    router_write16(at + 2, 0);
    router_write16(at + 2, router_fold(router_sum(sum, at, len)));
    router_send(self, p->ring, p->port, frame, (uint32_t)(at - frame) + len);
}

void router_tell(router *self, const router_packet *p, enum router_error error, uint32_t rest) {
    uint8_t frame[ROUTER_FRAME];
    const uint32_t most =
        p->ip_version == 6 ? 1280 - ROUTER_IPV6 - HEADER : 576 - ROUTER_IPV4 - HEADER;
    uint32_t quoted = p->l3_len < most ? p->l3_len : most;
    if (!may_tell(p) || !take_token(self))
        return;
    uint8_t *at = write_back(self, p, NULL, frame, HEADER + quoted);
    if (at == NULL)
        return;
    message_kind kind = kinds[p->ip_version == 6][error];
    at[0] = kind.type;
    at[1] = kind.code;
    router_write32(at + 4, rest);
    memcpy(at + HEADER, p->l3, quoted);
    self->stats.errors_sent++;
    finish(self, p, frame, at, HEADER + quoted);
}

static void reply(router *self, const router_packet *p, const uint8_t *echo, uint32_t len) {
    uint32_t sum = p->ip_version == 6 ? router_pseudo_sum(p->src, p->dst, len, IPPROTO_ICMPV6) : 0;
    if (!p->meta->needs_csum && router_fold(router_sum(sum, echo, len)) != 0) {
        self->stats.bad_header++;
        return;
    }
    uint8_t *at = write_back(self, p, p->dst, self->scratch, len);
    memcpy(at, echo, len);
    at[0] = p->ip_version == 6 ? REPLY6 : 0;
    self->stats.echo_replies++;
    finish(self, p, self->scratch, at, len);
}

void router_serve(router *self, const router_packet *p) {
    uint8_t proto;
    uint32_t len;
    const uint8_t *upper = router_upper(p, &proto, &len);
    self->stats.local++;
    if (upper == NULL)
        return;
    bool is_icmp = proto == (p->ip_version == 6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
    if (is_icmp && len >= HEADER && upper[0] == (p->ip_version == 6 ? ECHO6 : ECHO4) &&
        upper[1] == 0)
        reply(self, p, upper, len);
    else if (proto == IPPROTO_UDP || proto == IPPROTO_TCP)
        router_tell(self, p, ROUTER_E_PORT, 0);
    else if (!is_icmp)
        router_tell(self, p, ROUTER_E_PROTOCOL, p->ip_version == 6 ? NEXT_HEADER : 0);
}
