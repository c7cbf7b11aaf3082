/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tunnels that ride on IP or UDP. A header that is not what its port promises is no tunnel: the
 * packet stays with the outer flow, which layer is complete before any function here runs.
 */
#include "wire/layers.h"

enum {
    PORT_GTPU = 2152,
    PORT_TEREDO = 3544,
    PORT_VXLAN = 4789,
    PORT_GENEVE = 6081,
    PORT_VXLAN_LINUX = 8472 /* the Linux kernel's default from before the assignment */
};
enum {
    GRE_CSUM = 0x8000,
    GRE_ROUTING = 0x4000,
    GRE_KEY = 0x2000,
    GRE_SEQ = 0x1000,
    GRE_ACK = 0x80
};
enum { GRE_ARUBA_FIRST = 0x8200, GRE_ARUBA_LAST = 0x83ff };
enum { VXLAN_LEN = 8, GENEVE_LEN = 8, GTPU_LEN = 8, GTPU_TPDU = 255, GTPU_MAX_EXTENSIONS = 8 };

/* Goes in: keeps the outer layer and moves the walk |header| bytes on. False when too deep. */
static bool enter(nfm__walk *w, enum nfm_tunnel kind, uint32_t header) {
    if (w->layer.depth >= w->config->max_depth)
        return false;
    w->outer = w->layer;
    w->has_outer = 1;
    w->layer.depth++;
    w->layer.tunnel_kind = (uint8_t)kind;
    w->layer.tunnel_id = w->layer.scope = 0;
    w->off += header;
    return true;
}

enum nfm__step nfm__tunnel_ipip(nfm__walk *w, enum nfm__step inner) {
    nfm__payload_set(w, 0);
    return enter(w, NFM_TUNNEL_IPIP, 0) ? inner : NFM__DONE;
}

/* ERSPAN (type II, III): session id and a mirrored frame; without sequence number type I, bare. */
static enum nfm__step gre_erspan(nfm__walk *w, uint16_t flags) {
    if (w->type == NFM__ET_ERSPAN_2 && (flags & GRE_SEQ) == 0)
        return NFM__ETHERNET;
    uint32_t len = w->type == NFM__ET_ERSPAN_2 ? 8 : 12;
    if (!nfm__has(w, len))
        return NFM__OTHER;
    const uint8_t *p = nfm__at(w);
    w->layer.tunnel_id = w->layer.scope = nfm_read16(p + 2) & 0x03ff;
    if (len == 12 && (p[11] & 1) != 0) /* type III: a platform specific subheader follows */
        len += 8;
    if (!nfm__has(w, len))
        return NFM__OTHER;
    w->off += len;
    return NFM__ETHERNET;
}

/* Bytes of the GRE header: RFC 2784 and 2890 (version 0), RFC 2637 (version 1); 0: not understood.
 */
static uint32_t gre_length(uint16_t flags) {
    uint32_t len = 4;
    uint16_t version = flags & 7;
    if (version > 1 || (flags & GRE_ROUTING) != 0)
        return 0;
    if (version == 1)
        return (flags & (GRE_KEY | GRE_SEQ)) != (GRE_KEY | GRE_SEQ) ? 0 /* only acknowledges */
               : (flags & GRE_ACK) != 0                             ? 16
                                                                    : 12;
    len += (flags & GRE_CSUM) != 0 ? 4 : 0;
    len += (flags & GRE_KEY) != 0 ? 4 : 0;
    len += (flags & GRE_SEQ) != 0 ? 4 : 0;
    return len;
}

enum nfm__step nfm__tunnel_gre(nfm__walk *w) {
    nfm__payload_set(w, 0);
    if (!nfm__has(w, 4))
        return NFM__DONE;
    const uint8_t *p = nfm__at(w);
    uint16_t flags = nfm_read16(p);
    uint32_t len = gre_length(flags);
    if (len == 0 || !nfm__has(w, len) || !enter(w, NFM_TUNNEL_GRE, len))
        return NFM__DONE;
    w->type = nfm_read16(p + 2);
    if ((flags & 7) == 1) {
        w->layer.tunnel_id = nfm_read16(p + 6); /* call id: the receiver's, so one direction's */
        nfm__narrow(w, nfm_read16(p + 4));
    } else if ((flags & GRE_KEY) != 0) {
        w->layer.tunnel_id = w->layer.scope = nfm_read32(p + ((flags & GRE_CSUM) != 0 ? 8 : 4));
    }
    if (w->type == NFM__ET_ERSPAN_2 || w->type == NFM__ET_ERSPAN_3)
        return gre_erspan(w, flags);
    if (w->type >= GRE_ARUBA_FIRST &&
        w->type <= GRE_ARUBA_LAST) /* a vendor's: frames off the air */
        return NFM__WLAN;
    return NFM__ETHERTYPE;
}

/* VXLAN, RFC 7348: the I flag, a network identifier, an Ethernet frame. */
static enum nfm__step vxlan(nfm__walk *w) {
    const uint8_t *p = nfm__at(w);
    if (!nfm__has(w, VXLAN_LEN) || (p[0] & 0x08) == 0 || !enter(w, NFM_TUNNEL_VXLAN, VXLAN_LEN))
        return NFM__DONE;
    w->layer.tunnel_id = w->layer.scope = nfm_read24(p + 4);
    return NFM__ETHERNET;
}

/* Geneve, RFC 8926: options, then what an ethertype names. */
static enum nfm__step geneve(nfm__walk *w) {
    const uint8_t *p = nfm__at(w);
    if (!nfm__has(w, GENEVE_LEN) || p[0] >> 6 != 0)
        return NFM__DONE;
    uint32_t len = GENEVE_LEN + (p[0] & 0x3fu) * 4;
    if (!nfm__has(w, len) || !enter(w, NFM_TUNNEL_GENEVE, len))
        return NFM__DONE;
    w->type = nfm_read16(p + 2);
    w->layer.tunnel_id = w->layer.scope = nfm_read24(p + 4);
    return NFM__ETHERTYPE;
}

/* Bytes of a GTP-U header with its extension headers (3GPP TS 29.281 section 5); 0: broken. */
static uint32_t gtpu_length(const uint8_t *p, uint32_t room) {
    uint32_t len = GTPU_LEN + 4;
    if ((p[0] & 0x07) == 0)
        return GTPU_LEN;
    if (room < len)
        return 0;
    if ((p[0] & 0x04) == 0)
        return len;
    for (int i = 0; p[len - 1] != 0; i++) {
        if (i == GTPU_MAX_EXTENSIONS || room - len < 4 || p[len] == 0 || room - len < p[len] * 4u)
            return 0;
        len += p[len] * 4u;
    }
    return len;
}

static enum nfm__step gtpu(nfm__walk *w) {
    const uint8_t *p = nfm__at(w);
    if (!nfm__has(w, GTPU_LEN) || p[0] >> 4 != 3 || p[1] != GTPU_TPDU) /* version 1, GTP */
        return NFM__DONE;
    uint32_t payload = nfm_read16(p + 2), len = gtpu_length(p, w->end - w->off);
    if (payload > w->wire_end - w->off - GTPU_LEN || len == 0 ||
        !enter(w, NFM_TUNNEL_GTPU, GTPU_LEN))
        return NFM__DONE;
    nfm__narrow(w, payload);
    w->layer.tunnel_id = nfm_read32(p + 4); /* the receiver's: not part of the scope */
    if (!nfm__has(w, len - GTPU_LEN))
        return NFM__OTHER;
    w->off += len - GTPU_LEN;
    return NFM__IP;
}

/* Teredo, RFC 4380 section 5.1.1: authentication and origin indications, then IPv6. */
static enum nfm__step teredo(nfm__walk *w) {
    uint32_t len = 0, room = w->end - w->off;
    const uint8_t *p = nfm__at(w);
    if (room >= 13 && nfm_read16(p) == 1)
        len = 13u + p[2] + p[3]; /* client id, authentication value, nonce, confirmation */
    if (room >= 8 && len <= room - 8 && nfm_read16(p + len) == 0)
        len += 8;
    if (len >= room || p[len] >> 4 != 6 || !enter(w, NFM_TUNNEL_TEREDO, len))
        return NFM__DONE;
    return NFM__IPV6;
}

bool nfm__tunnel_is_port(uint16_t port) {
    return port == PORT_VXLAN || port == PORT_GENEVE || port == PORT_VXLAN_LINUX ||
           port == PORT_GTPU;
}

/* VXLAN and Geneve take their source port from a hash, so that only the destination tells. */
enum nfm__step nfm__tunnel_udp(nfm__walk *w) {
    const uint16_t *port = w->layer.key.port;
    enum nfm__step step = NFM__DONE;
    uint32_t off = w->off;
    w->off = w->layer.payload_off;
    if (port[1] == PORT_VXLAN || port[1] == PORT_VXLAN_LINUX)
        step = vxlan(w);
    else if (port[1] == PORT_GENEVE)
        step = geneve(w);
    else if (port[0] == PORT_GTPU || port[1] == PORT_GTPU)
        step = gtpu(w);
    else if (port[0] == PORT_TEREDO || port[1] == PORT_TEREDO)
        step = teredo(w);
    if (step == NFM__DONE)
        w->off = off;
    return step;
}
