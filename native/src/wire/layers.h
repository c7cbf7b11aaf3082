/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of wire/ share: the walk over a frame's headers.
 *
 * Theory of operation
 *
 * A walk is a loop over steps. A step reads one header at |off|, notes what it found in |layer|,
 * moves |off| behind the header and names the next step, until a terminal step ends the loop.
 * Nothing recurses, and |steps| bounds the number of headers, so hostile nesting costs a constant.
 *
 * Two ends bound every read: |end| is where the captured bytes of the current layer stop,
 * |wire_end| where its bytes stopped on the wire. Each length field met narrows both; end <=
 * wire_end always, and off <= end. Bytes are read below |end| only.
 *
 * Entering a tunnel keeps a copy of |layer| in |outer|. If the walk then ends in anything but an
 * understood packet, the copy is put back: the packet belongs to the outer flow.
 */
#ifndef NFM_WIRE_LAYERS_H
#define NFM_WIRE_LAYERS_H

#include <string.h>

#include "wire/wire.h"

enum nfm__step {
    NFM__DONE, /* terminal from here ... */
    NFM__FRAGMENT,
    NFM__OTHER,
    NFM__MALFORMED, /* ... to here */
    NFM__ETHERNET,
    NFM__ETHERTYPE, /* |type| says what lies at |off| */
    NFM__LLC,
    NFM__WLAN,
    NFM__VLAN,
    NFM__MPLS,
    NFM__PPPOE,
    NFM__PPP,
    NFM__IP, /* version by its first nibble */
    NFM__IPV4,
    NFM__IPV6,
    NFM__TRANSPORT /* |layer.key.proto| lies at |off| */
};

enum nfm__proto { /* IANA protocol numbers */
                  NFM__IP_HOPOPT = 0,
                  NFM__IP_ICMP = 1,
                  NFM__IP_IPV4 = 4,
                  NFM__IP_TCP = 6,
                  NFM__IP_UDP = 17,
                  NFM__IP_IPV6 = 41,
                  NFM__IP_ROUTING = 43,
                  NFM__IP_FRAGMENT = 44,
                  NFM__IP_GRE = 47,
                  NFM__IP_AH = 51,
                  NFM__IP_ICMPV6 = 58,
                  NFM__IP_NONE = 59,
                  NFM__IP_DSTOPTS = 60,
                  NFM__IP_SCTP = 132,
                  NFM__IP_MOBILITY = 135,
                  NFM__IP_UDPLITE = 136,
                  NFM__IP_HIP = 139,
                  NFM__IP_SHIM6 = 140
};

enum nfm__ethertype {
    NFM__ET_MIN = 0x0600, /* below: IEEE 802.3 length */
    NFM__ET_IPV4 = 0x0800,
    NFM__ET_TEB = 0x6558, /* transparent Ethernet bridging, RFC 1701 */
    NFM__ET_VLAN = 0x8100,
    NFM__ET_IPV6 = 0x86dd,
    NFM__ET_PPP = 0x880b,
    NFM__ET_MPLS = 0x8847,
    NFM__ET_MPLS_UP = 0x8848,
    NFM__ET_PPPOE = 0x8864,
    NFM__ET_QINQ = 0x88a8,
    NFM__ET_ERSPAN_2 = 0x88be,
    NFM__ET_ERSPAN_3 = 0x22eb,
    NFM__ET_QINQ_OLD = 0x9100
};

enum { NFM__WSCALE_MAX = 14 }; /* larger ones mean this one: RFC 7323 section 2.3 */

typedef struct nfm__layer { /* what is known of the innermost understood headers */
    nfm_key key;
    uint32_t l3_off, l4_off, payload_off; /* from the slot's start */
    uint32_t payload_len, l4_len;
    uint32_t frag_id;
    uint32_t tunnel_id;
    uint32_t scope; /* tunnel_id where both directions carry the same one, else 0 */
    uint16_t frag_off, ext_off;
    uint16_t flags; /* enum nfm_flag */
    uint8_t frag_more, ttl, tcp_flags;
    uint8_t tunnel_kind, depth;
    uint8_t via_routing; /* a routing header hides the checksum's final destination */
} nfm__layer;

typedef struct nfm__walk {
    const nfm_wire_config *config;
    nfm_packet *packet; /* for link-layer facts and TCP fields, which no tunnel can contain twice */
    const uint8_t *base;
    uint32_t off, end, wire_end;
    uint16_t type;
    uint8_t drop;  /* enum nfm_parse_drop, with NFM__MALFORMED */
    uint8_t steps; /* left */
    uint8_t n_vlan;
    uint8_t has_outer;
    nfm__layer layer;
    nfm__layer outer; /* valid with has_outer */
} nfm__walk;

/* True when |n| captured bytes lie at the walk's position. */
static inline bool nfm__has(const nfm__walk *w, uint32_t n) {
    return w->end - w->off >= n;
}

static inline const uint8_t *nfm__at(const nfm__walk *w) {
    return w->base + w->off;
}

static inline enum nfm__step nfm__bad(nfm__walk *w, enum nfm_parse_drop why) {
    w->drop = (uint8_t)why;
    return NFM__MALFORMED;
}

/* Narrows the walk to |len| bytes from its position, as a length field on the wire said. */
static inline void nfm__narrow(nfm__walk *w, uint32_t len) {
    uint32_t limit = w->off + len;
    if (limit < w->wire_end)
        w->wire_end = limit;
    if (limit < w->end)
        w->end = limit;
}

/* Clears in pieces that compilers turn into plain stores: one memset becomes a slow string
 * operation. */
static inline void nfm__key_clear(nfm_key *key) {
    memset(key->addr[0], 0, sizeof(key->addr[0]));
    memset(key->addr[1], 0, sizeof(key->addr[1]));
    key->port[0] = key->port[1] = 0;
    key->proto = key->ip_version = 0;
    key->vlan = 0;
    key->scope = 0;
}

/* The first step of a frame of |link_type|; NFM__OTHER when the type is unknown. */
enum nfm__step nfm__link_begin(nfm__walk *w, uint32_t link_type);
/* One header each: read at the walk's position, return the next step. */
enum nfm__step nfm__link_ethernet(nfm__walk *w);
enum nfm__step nfm__link_ethertype(nfm__walk *w);
enum nfm__step nfm__link_llc(nfm__walk *w);
enum nfm__step nfm__link_wlan(nfm__walk *w);
enum nfm__step nfm__link_vlan(nfm__walk *w);
enum nfm__step nfm__link_mpls(nfm__walk *w);
enum nfm__step nfm__link_pppoe(nfm__walk *w);
enum nfm__step nfm__link_ppp(nfm__walk *w);
enum nfm__step nfm__ip_any(nfm__walk *w);
enum nfm__step nfm__ip_v4(nfm__walk *w);
enum nfm__step nfm__ip_v6(nfm__walk *w);
/* An authentication header (RFC 4302) in front of what IPv4 carries; left as it is when broken. */
enum nfm__step nfm__ip_v4_auth(nfm__walk *w);
enum nfm__step nfm__transport(nfm__walk *w);

/* Notes an L4 header of |header| bytes at the walk's position, and the payload behind it. */
void nfm__payload_set(nfm__walk *w, uint32_t header);

/* Tunnels. The outer layer is complete in |layer|, the walk stands at the tunnel's header (of GRE,
 * the inner IP) or at the UDP payload. Return the step inside, or NFM__DONE: no tunnel, too deep.
 */
enum nfm__step nfm__tunnel_ipip(nfm__walk *w, enum nfm__step inner);
enum nfm__step nfm__tunnel_gre(nfm__walk *w);
enum nfm__step nfm__tunnel_udp(nfm__walk *w);
/* True when UDP |port| is one whose tunnels may leave the checksum out over IPv6 (RFC 6935). */
bool nfm__tunnel_is_port(uint16_t port);

/* Reads the options in |len| captured of |header| bytes behind the fixed TCP header. */
void nfm__tcp_options(nfm_tcp_opts *opts, const uint8_t *p, uint32_t len, uint32_t header);

/* Checksum over the pseudo-header and |len| bytes of L4 at |p|: 0 when it is right (RFC 9293
 * section 3.1, RFC 8200 section 8.1). */
uint16_t nfm__l4_checksum(const nfm_key *key, uint8_t proto, const uint8_t *p, uint32_t len);

/* nfm_wire_parse without its fast path: what the fast path must agree with. */
void nfm__wire_parse_general(const nfm_wire_config *config, nfm_packet *packet);

#endif
