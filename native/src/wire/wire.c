/* SPDX-License-Identifier: Apache-2.0 */
/* The walk over a frame (layers.h), its result in the packet, and the fast path for the common
 * case. */
#include "wire/layers.h"

enum { MAX_STEPS = 64 };
enum { ETH_LEN = 14, IPV4_LEN = 20, TCP_LEN = 20, LINK_ETHERNET = 1 };

/*
 * nfm_wire_drop_name names a reason of enum nfm_parse_drop, as counters show it.
 * Returns static text; "unknown" for any other number.
 */
const char *nfm_wire_drop_name(int drop) {
    static const char *const names[] = {
        [NFM_PD_NONE] = "none",
        [NFM_PD_LINK_SHORT] = "link_short",
        [NFM_PD_IP_VERSION] = "ip_version",
        [NFM_PD_IPV4_SHORT] = "ipv4_short",
        [NFM_PD_IPV4_IHL] = "ipv4_ihl",
        [NFM_PD_IPV4_LENGTH] = "ipv4_length",
        [NFM_PD_IPV4_CHECKSUM] = "ipv4_checksum",
        [NFM_PD_IPV6_SHORT] = "ipv6_short",
        [NFM_PD_IPV6_LENGTH] = "ipv6_length",
        [NFM_PD_IPV6_EXTENSION] = "ipv6_extension",
        [NFM_PD_TCP_SHORT] = "tcp_short",
        [NFM_PD_TCP_OFFSET] = "tcp_offset",
        [NFM_PD_TCP_CHECKSUM] = "tcp_checksum",
        [NFM_PD_UDP_SHORT] = "udp_short",
        [NFM_PD_UDP_LENGTH] = "udp_length",
        [NFM_PD_UDP_CHECKSUM] = "udp_checksum",
        [NFM_PD_ICMP_SHORT] = "icmp_short",
        [NFM_PD_ICMP_CHECKSUM] = "icmp_checksum",
        [NFM_PD_SCTP_SHORT] = "sctp_short",
        [NFM_PD_VLAN_SHORT] = "vlan_short",
        [NFM_PD_MPLS_SHORT] = "mpls_short",
        [NFM_PD_PPPOE_SHORT] = "pppoe_short",
        [NFM_PD_FRAGMENT] = "fragment",
    };
    static_assert(sizeof(names) / sizeof(names[0]) == NFM_PD_COUNT, "every reason has a name");
    return drop >= 0 && drop < NFM_PD_COUNT ? names[drop] : "unknown";
}

static enum nfm__step step_once(nfm__walk *w, enum nfm__step step) {
    switch (step) {
    case NFM__DONE:
    case NFM__FRAGMENT:
    case NFM__OTHER:
    case NFM__MALFORMED:
        return step;
    case NFM__ETHERNET:
        return nfm__link_ethernet(w);
    case NFM__ETHERTYPE:
        return nfm__link_ethertype(w);
    case NFM__LLC:
        return nfm__link_llc(w);
    case NFM__WLAN:
        return nfm__link_wlan(w);
    case NFM__VLAN:
        return nfm__link_vlan(w);
    case NFM__MPLS:
        return nfm__link_mpls(w);
    case NFM__PPPOE:
        return nfm__link_pppoe(w);
    case NFM__PPP:
        return nfm__link_ppp(w);
    case NFM__IP:
        return nfm__ip_any(w);
    case NFM__IPV4:
        return nfm__ip_v4(w);
    case NFM__IPV6:
        return nfm__ip_v6(w);
    case NFM__TRANSPORT:
        return nfm__transport(w);
    }
    return NFM__OTHER;
}

/* Walks from |step| to a terminal step; back to the outer layer when a tunnel's inside made no
 * sense. */
static enum nfm__step walk(nfm__walk *w, enum nfm__step step) {
    while (step > NFM__MALFORMED && w->steps > 0) {
        w->steps--;
        step = step_once(w, step);
    }
    if (step > NFM__MALFORMED)
        step = NFM__OTHER;
    if (w->has_outer && (step == NFM__OTHER || step == NFM__MALFORMED)) {
        w->layer = w->outer;
        step = NFM__DONE;
    }
    return step;
}

/* The packet event of an understood packet. */
static uint64_t event_of(const nfm_key *key) {
    switch (key->proto) {
    case NFM__IP_TCP:
        return NFM_BIT(NFM_EV_PACKET_TCP);
    case NFM__IP_UDP:
        return NFM_BIT(NFM_EV_PACKET_UDP);
    case NFM__IP_ICMP:
        return key->ip_version == 4 ? NFM_BIT(NFM_EV_PACKET_ICMP) : NFM_BIT(NFM_EV_PACKET_OTHER);
    case NFM__IP_ICMPV6:
        return key->ip_version == 6 ? NFM_BIT(NFM_EV_PACKET_ICMP) : NFM_BIT(NFM_EV_PACKET_OTHER);
    default:
        return NFM_BIT(NFM_EV_PACKET_OTHER);
    }
}

/* Status, reason and events of a walk that ended with |step|. */
static void conclude(nfm__walk *w, enum nfm__step step) {
    nfm_packet *packet = w->packet;
    nfm_record *rec = &packet->rec;
    packet->malformed = NFM_PD_NONE;
    rec->events = NFM_BIT(NFM_EV_PACKET_OTHER);
    if (step == NFM__DONE) {
        packet->status = NFM_PARSE_OK;
        rec->events = event_of(&w->layer.key);
    } else if (step == NFM__FRAGMENT) {
        packet->status = NFM_PARSE_FRAGMENT;
    } else if (step == NFM__OTHER) {
        packet->status = NFM_PARSE_OTHER;
    } else {
        packet->status = NFM_PARSE_MALFORMED;
        packet->malformed = w->drop;
        rec->events = NFM_BIT(NFM_EV_PACKET_MALFORMED);
        if (w->drop == NFM_PD_TCP_CHECKSUM)
            rec->events |= NFM_BIT(NFM_EV_TCP_BAD_CHECKSUM);
    }
    if (step == NFM__DONE || step == NFM__FRAGMENT)
        return;
    w->layer.payload_off = w->layer.payload_len = w->layer.l4_len = w->layer.l4_off = 0;
}

/* Both tags of QinQ count: they fill 16 bits of the key's |vlan| and these 8 of its |scope|, so
 * that no two pairs of tags share a key. */
static uint32_t scope_of_vlan(const nfm_wire_config *config, const nfm_packet *packet) {
    return config->key_vlan ? (uint32_t)(packet->vlan[1] >> 4) << 24 : 0;
}

/* The parts of the key that configuration adds. */
static void key_extend(const nfm__walk *w, nfm_packet *packet) {
    packet->key.scope = scope_of_vlan(w->config, packet);
    if (w->config->key_tunnel)
        packet->key.scope ^= w->layer.scope;
    if (w->config->key_vlan)
        packet->key.vlan = (uint16_t)(packet->vlan[0] | packet->vlan[1] << 12);
}

/* Copies what the walk found to the packet. */
static void publish(nfm__walk *w, enum nfm__step step) {
    nfm_packet *packet = w->packet;
    nfm_record *rec = &packet->rec;
    nfm__layer *layer = &w->layer;
    conclude(w, step);
    if (step == NFM__OTHER)
        layer->l3_off = 0;
    if (layer->tunnel_kind != NFM_TUNNEL_NONE)
        layer->flags |= NFM_F_TUNNEL;
    rec->payload_len = layer->payload_len;
    rec->l3_off = (uint16_t)layer->l3_off;
    rec->l4_off = (uint16_t)layer->l4_off;
    rec->payload_off = (uint16_t)layer->payload_off;
    rec->side = 0;
    rec->proto = layer->key.proto;
    rec->tcp_flags = layer->tcp_flags;
    rec->kind = NFM_REC_PACKET;
    rec->flags = layer->flags;
    if (packet->link_type != LINK_ETHERNET)
        rec->flags |= NFM_F_NOT_ETHERNET;
    rec->conn_state = rec->reason = 0;
    packet->key = layer->key;
    key_extend(w, packet);
    packet->l4_len = layer->l4_len;
    packet->frag_id = layer->frag_id;
    packet->frag_off = layer->frag_off;
    packet->frag_more = layer->frag_more;
    packet->ext_off = layer->ext_off;
    packet->ttl = layer->ttl;
    packet->tunnel_kind = layer->tunnel_kind;
    packet->tunnel_id = layer->tunnel_id;
    packet->depth = layer->depth;
}

static void layer_clear(nfm__layer *layer) {
    nfm__key_clear(&layer->key);
    layer->l3_off = layer->l4_off = layer->payload_off = 0;
    layer->payload_len = layer->l4_len = 0;
    layer->frag_id = layer->tunnel_id = layer->scope = 0;
    layer->frag_off = layer->ext_off = layer->flags = 0;
    layer->frag_more = layer->ttl = layer->tcp_flags = 0;
    layer->tunnel_kind = layer->depth = layer->via_routing = 0;
}

/* A walk over the captured bytes from |off| on; |wire| is how many there were from there. */
static void walk_init(nfm__walk *w, const nfm_wire_config *config, nfm_packet *packet, uint32_t off,
                      uint32_t len, uint32_t wire) {
    w->config = config;
    w->packet = packet;
    w->base = packet->base;
    w->off = off;
    w->end = off + len;
    w->wire_end = off + (wire > len ? wire : len);
    w->type = 0;
    w->drop = NFM_PD_NONE;
    w->steps = MAX_STEPS;
    w->n_vlan = 0;
    w->has_outer = 0;
    layer_clear(&w->layer);
}

void nfm__wire_parse_general(const nfm_wire_config *config, nfm_packet *packet) {
    nfm__walk w;
    walk_init(&w, config, packet, NFM_HEADROOM, packet->rec.frame_len, packet->rec.wire_len);
    packet->vlan[0] = packet->vlan[1] = 0;
    publish(&w, walk(&w, nfm__link_begin(&w, packet->link_type)));
}

/* Options of almost every segment: none, or two NOPs and a timestamp (RFC 7323 appendix A); and
 * what Linux puts on a SYN: MSS, SACK permitted, timestamp, NOP, window scale. */
static inline void fast_options(nfm_tcp_opts *opts, const uint8_t *p, uint32_t len) {
    opts->mss = 0;
    opts->wscale = opts->n_sack = 0;
    if (len == 0) {
        opts->tsval = opts->tsecr = 0;
        opts->seen = 0;
    } else if (len == 12 && nfm_read32(p) == 0x0101080a) {
        opts->tsval = nfm_read32(p + 4);
        opts->tsecr = nfm_read32(p + 8);
        opts->seen = NFM_OPT_TIMESTAMP;
    } else if (len == 20 && nfm_read16(p) == 0x0204 && nfm_read32(p + 4) == 0x0402080a &&
               nfm_read24(p + 16) == 0x010303 && p[19] <= NFM__WSCALE_MAX) {
        opts->mss = nfm_read16(p + 2);
        opts->tsval = nfm_read32(p + 8);
        opts->tsecr = nfm_read32(p + 12);
        opts->wscale = p[19];
        opts->seen = NFM_OPT_MSS | NFM_OPT_SACK_OK | NFM_OPT_TIMESTAMP | NFM_OPT_WSCALE;
    } else {
        nfm__tcp_options(opts, p, len, len);
    }
}

/* Fills the packet from the headers of a whole TCP segment over IPv4; |total| is IP's length. */
static inline void fast_fill(nfm_packet *packet, const uint8_t *ip, uint32_t total) {
    nfm_record *rec = &packet->rec;
    const uint8_t *tcp = ip + IPV4_LEN;
    uint32_t header = (tcp[12] >> 4) * 4u;
    rec->events = NFM_BIT(NFM_EV_PACKET_TCP);
    rec->payload_len = packet->l4_len = total - IPV4_LEN - header;
    rec->l3_off = NFM_HEADROOM + ETH_LEN;
    rec->l4_off = NFM_HEADROOM + ETH_LEN + IPV4_LEN;
    rec->payload_off = (uint16_t)(NFM_HEADROOM + ETH_LEN + IPV4_LEN + header);
    rec->side = 0;
    rec->proto = NFM__IP_TCP;
    rec->tcp_flags = tcp[13];
    rec->kind = NFM_REC_PACKET;
    rec->flags = 0;
    rec->conn_state = rec->reason = 0;
    nfm__key_clear(&packet->key);
    memcpy(packet->key.addr[0], ip + 12, 4);
    memcpy(packet->key.addr[1], ip + 16, 4);
    packet->key.port[0] = nfm_read16(tcp);
    packet->key.port[1] = nfm_read16(tcp + 2);
    packet->key.proto = NFM__IP_TCP;
    packet->key.ip_version = 4;
    packet->seq = nfm_read32(tcp + 4);
    packet->ack = nfm_read32(tcp + 8);
    packet->window = nfm_read16(tcp + 14);
    packet->urgent = nfm_read16(tcp + 18);
    packet->frag_id = 0;
    packet->frag_off = 0;
    packet->frag_more = 0;
    packet->ttl = ip[8];
    packet->vlan[0] = packet->vlan[1] = 0;
    packet->tunnel_kind = NFM_TUNNEL_NONE;
    packet->status = NFM_PARSE_OK;
    packet->tunnel_id = 0;
    packet->malformed = NFM_PD_NONE;
    packet->depth = 0;
    packet->ext_off = 0;
    fast_options(&packet->tcp, tcp + TCP_LEN, header - TCP_LEN);
}

/*
 * nfm_wire_parse parses a frame (wire.h). Ethernet, IPv4 without options and a whole TCP segment go
 * a straight line; everything else, and checksum verification, takes the walk. Both give the same
 * result. Borrows the frame; keeps nothing.
 */
void nfm_wire_parse(const nfm_wire_config *config, nfm_packet *packet) {
    const uint8_t *eth = packet->base + NFM_HEADROOM, *ip = eth + ETH_LEN;
    uint32_t len = packet->rec.frame_len;
    packet->emitted = 0;
    if (packet->link_type == LINK_ETHERNET && len >= ETH_LEN + IPV4_LEN + TCP_LEN &&
        nfm_read16(eth + 12) == NFM__ET_IPV4 && ip[0] == 0x45 && ip[9] == NFM__IP_TCP &&
        (nfm_read16(ip + 6) & 0x3fff) == 0 && !config->verify_checksums) {
        uint32_t total = nfm_read16(ip + 2), header = (ip[IPV4_LEN + 12] >> 4) * 4u;
        if (total + ETH_LEN <= len && header >= TCP_LEN && total >= IPV4_LEN + header) {
            fast_fill(packet, ip, total);
            return;
        }
    }
    nfm__wire_parse_general(config, packet);
}

/*
 * nfm_wire_parse_ip parses the IP packet in the |len| bytes at slot offset |off|, whole on the
 * wire. Link and tunnel facts of |packet| (VLAN, tunnel kind and id, depth) and NFM_F_FRAGMENT
 * stay; tunnels inside are peeled up to the same depth as in one piece. What is broken inside a
 * tunnel that was entered before this call is malformed: its outer headers are not at hand any
 * more.
 */
void nfm_wire_parse_ip(const nfm_wire_config *config, nfm_packet *packet, uint32_t off,
                       uint32_t len) {
    nfm__walk w;
    walk_init(&w, config, packet, off, len, len);
    w.layer.flags = packet->rec.flags & NFM_F_FRAGMENT;
    w.layer.tunnel_kind = packet->tunnel_kind;
    w.layer.tunnel_id = packet->tunnel_id;
    w.layer.depth = packet->depth;
    if (config->key_tunnel)
        w.layer.scope = packet->key.scope ^ scope_of_vlan(config, packet);
    publish(&w, walk(&w, NFM__IP));
}

/*
 * nfm_parse_frame parses one frame for tests and tools (nfm_abi.h). Borrows |frame|; |out| and
 * |key| are written whole, with the sender as side 0. Returns 0, or the enum nfm_parse_drop of a
 * malformed frame.
 */
int nfm_parse_frame(const uint8_t *frame, uint32_t len, uint32_t wire_len, uint32_t link_type,
                    uint32_t max_tunnel_depth, nfm_record *out, nfm_flow_info *key) {
    nfm_wire_config config = {.max_depth = max_tunnel_depth};
    nfm_packet packet;
    memset(&packet, 0, sizeof(packet));
    /* Offsets count from the slot's start; nothing below the frame is read. */
    packet.base = (uint8_t *)((uintptr_t)frame - NFM_HEADROOM);
    packet.rec.slot = NFM_NO_SLOT;
    packet.rec.frame_len = len;
    packet.rec.wire_len = wire_len > len ? wire_len : len;
    packet.link_type = link_type < UINT16_MAX ? (uint16_t)link_type : UINT16_MAX; /* unknown */
    nfm_wire_parse(&config, &packet);
    *out = packet.rec;
    memset(key, 0, sizeof(*key));
    memcpy(key->addr, packet.key.addr, sizeof(key->addr));
    memcpy(key->port, packet.key.port, sizeof(key->port));
    memcpy(key->vlan, packet.vlan, sizeof(key->vlan));
    key->proto = packet.key.proto;
    key->ip_version = packet.key.ip_version;
    key->tunnel_kind = packet.tunnel_kind;
    key->tunnel_id = packet.tunnel_id;
    return packet.status == NFM_PARSE_MALFORMED ? packet.malformed : 0;
}
