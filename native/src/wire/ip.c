/* SPDX-License-Identifier: Apache-2.0 */
/* IPv4 (RFC 791) and IPv6 with its extension headers (RFC 8200). */
#include "wire/layers.h"

enum { IPV4_LEN = 20, IPV6_LEN = 40, FRAGMENT_LEN = 8, MAX_EXTENSIONS = 16, JUMBO_OPTION = 0xc2 };
enum { MAX_L4_OFF = UINT16_MAX - 64 }; /* offsets in records are 16 bits wide */

/* Begins a new innermost IP layer at the walk's position: only tunnel facts outlive the old one. */
static nfm__layer *layer_begin(nfm__walk *w, uint8_t version) {
    nfm__layer *layer = &w->layer;
    nfm__key_clear(&layer->key);
    layer->key.ip_version = version;
    layer->flags &= NFM_F_FRAGMENT;
    if (version == 6)
        layer->flags |= NFM_F_IPV6;
    layer->l3_off = w->off;
    layer->frag_id = 0;
    layer->frag_off = layer->ext_off = 0;
    layer->frag_more = layer->tcp_flags = layer->via_routing = 0;
    return layer;
}

/* Ends the walk at a fragment whose data begin at the walk's position. */
static enum nfm__step fragment_end(nfm__walk *w) {
    if (w->off > MAX_L4_OFF)
        return nfm__bad(w, NFM_PD_IPV6_EXTENSION);
    if (w->wire_end == w->off)
        return nfm__bad(w, NFM_PD_FRAGMENT);
    w->layer.flags |= NFM_F_FRAGMENT;
    nfm__payload_set(w, 0);
    return NFM__FRAGMENT;
}

enum nfm__step nfm__ip_any(nfm__walk *w) {
    if (!nfm__has(w, 1))
        return nfm__bad(w, NFM_PD_LINK_SHORT);
    uint8_t version = nfm__at(w)[0] >> 4;
    if (version == 4)
        return NFM__IPV4;
    return version == 6 ? NFM__IPV6 : nfm__bad(w, NFM_PD_IP_VERSION);
}

/* Checks the lengths and the checksum of the IPv4 header at |p| and narrows the walk to the
 * datagram. A total length of 0 stands for a segmentation offload: the frame says how long it is.
 */
static enum nfm_parse_drop ipv4_check(nfm__walk *w, const uint8_t *p) {
    uint32_t header = (p[0] & 15u) * 4, total = nfm_read16(p + 2);
    if (p[0] >> 4 != 4)
        return NFM_PD_IP_VERSION;
    if (header < IPV4_LEN)
        return NFM_PD_IPV4_IHL;
    if (total == 0)
        total = w->wire_end - w->off;
    if (total < header || total > w->wire_end - w->off)
        return NFM_PD_IPV4_LENGTH;
    if (!nfm__has(w, header))
        return NFM_PD_IPV4_SHORT;
    nfm__narrow(w, total);
    if (w->config->verify_checksums && nfm_csum_fold(nfm_csum_add(0, p, header)) != 0) {
        w->layer.flags |= NFM_F_BAD_L3_CSUM;
        return NFM_PD_IPV4_CHECKSUM;
    }
    return NFM_PD_NONE;
}

enum nfm__step nfm__ip_v4(nfm__walk *w) {
    if (!nfm__has(w, IPV4_LEN))
        return nfm__bad(w, NFM_PD_IPV4_SHORT);
    const uint8_t *p = nfm__at(w);
    nfm__layer *layer = layer_begin(w, 4);
    enum nfm_parse_drop drop = ipv4_check(w, p);
    if (drop != NFM_PD_NONE)
        return nfm__bad(w, drop);
    memcpy(layer->key.addr[0], p + 12, 4);
    memcpy(layer->key.addr[1], p + 16, 4);
    layer->key.proto = p[9];
    layer->ttl = p[8];
    w->off += (p[0] & 15u) * 4;
    uint16_t fragment = nfm_read16(p + 6);
    if ((fragment & 0x3fff) == 0)
        return NFM__TRANSPORT;
    layer->frag_id = nfm_read16(p + 4);
    layer->frag_off = (uint16_t)((fragment & 0x1fff) * 8);
    layer->frag_more = (fragment & 0x2000) != 0;
    return fragment_end(w);
}

enum nfm__step nfm__ip_v4_auth(nfm__walk *w) {
    const uint8_t *p = nfm__at(w);
    if (!nfm__has(w, 12) || !nfm__has(w, (p[1] + 2u) * 4)) {
        nfm__payload_set(w, 0);
        return NFM__DONE;
    }
    w->layer.key.proto = p[0];
    w->off += (p[1] + 2u) * 4;
    return NFM__TRANSPORT;
}

/* The length in a jumbo payload option (RFC 2675) of the hop-by-hop header at |p|; 0: none. */
static uint32_t jumbo_length(const uint8_t *p, uint32_t len) {
    for (uint32_t i = 2; i + 1 < len; i += p[i] == 0 ? 1 : 2u + p[i + 1])
        if (p[i] == JUMBO_OPTION)
            return p[i + 1] == 4 && i + 6 <= len ? nfm_read32(p + i + 2) : 0;
    return 0;
}

/* Narrows the walk, which stands behind the IPv6 header at |p|, to the packet. A length of 0 is a
 * jumbogram's, or that of a segmentation offload: then the frame says how long it is. */
static bool ipv6_length(nfm__walk *w, const uint8_t *p) {
    uint32_t len = nfm_read16(p + 4), room = w->wire_end - w->off;
    if (len == 0 && p[6] == NFM__IP_HOPOPT && nfm__has(w, 8)) {
        const uint8_t *hop = nfm__at(w);
        uint32_t hop_len = (hop[1] + 1u) * 8;
        len = jumbo_length(hop, nfm__has(w, hop_len) ? hop_len : w->end - w->off);
        if (len != 0 && len <= UINT16_MAX)
            return false;
    }
    if (len == 0 && p[6] != NFM__IP_NONE)
        len = room;
    if (len > room)
        return false;
    nfm__narrow(w, len);
    return true;
}

/* A fragment header. An atomic fragment (RFC 6946) is a whole packet; the walk goes on. */
static enum nfm__step ipv6_fragment(nfm__walk *w, uint8_t *next) {
    const uint8_t *p = nfm__at(w);
    nfm__layer *layer = &w->layer;
    uint16_t fragment = nfm_read16(p + 2);
    *next = layer->key.proto = p[0];
    if ((fragment & 0xfff9) == 0) {
        w->off += FRAGMENT_LEN;
        return NFM__IPV6;
    }
    if (w->off > MAX_L4_OFF)
        return nfm__bad(w, NFM_PD_IPV6_EXTENSION);
    layer->ext_off = (uint16_t)w->off;
    layer->frag_id = nfm_read32(p + 4);
    layer->frag_off = fragment & 0xfff8;
    layer->frag_more = fragment & 1;
    w->off += FRAGMENT_LEN;
    return fragment_end(w);
}

/* True when header number |proto| is walked over: what follows it is what the packet is about. */
static bool is_extension(const nfm__walk *w, uint8_t proto) {
    switch (proto) {
    case NFM__IP_HOPOPT:
    case NFM__IP_ROUTING:
    case NFM__IP_FRAGMENT:
    case NFM__IP_AH:
    case NFM__IP_DSTOPTS:
        return true;
    case NFM__IP_MOBILITY: /* protocols of their own unless something rides behind them */
    case NFM__IP_HIP:
    case NFM__IP_SHIM6:
        return nfm__has(w, 8) && nfm__at(w)[0] != NFM__IP_NONE;
    default:
        return false;
    }
}

/* Walks the extension headers from number |next| on. */
static enum nfm__step ipv6_extensions(nfm__walk *w, uint8_t next) {
    for (int i = 0; is_extension(w, next); i++) {
        if (i == MAX_EXTENSIONS || !nfm__has(w, 8))
            return nfm__bad(w, NFM_PD_IPV6_EXTENSION);
        if (next == NFM__IP_FRAGMENT) {
            enum nfm__step step = ipv6_fragment(w, &next);
            if (step != NFM__IPV6)
                return step;
            continue;
        }
        const uint8_t *p = nfm__at(w);
        uint32_t len = next == NFM__IP_AH ? (p[1] + 2u) * 4 : (p[1] + 1u) * 8;
        if (!nfm__has(w, len))
            return nfm__bad(w, NFM_PD_IPV6_EXTENSION);
        if (next == NFM__IP_ROUTING && p[3] != 0)
            w->layer.via_routing = 1;
        next = p[0];
        w->off += len;
    }
    w->layer.key.proto = next;
    return NFM__TRANSPORT;
}

enum nfm__step nfm__ip_v6(nfm__walk *w) {
    if (!nfm__has(w, IPV6_LEN))
        return nfm__bad(w, NFM_PD_IPV6_SHORT);
    const uint8_t *p = nfm__at(w);
    if (p[0] >> 4 != 6)
        return nfm__bad(w, NFM_PD_IP_VERSION);
    nfm__layer *layer = layer_begin(w, 6);
    w->off += IPV6_LEN;
    if (!ipv6_length(w, p))
        return nfm__bad(w, NFM_PD_IPV6_LENGTH);
    memcpy(layer->key.addr[0], p + 8, 16);
    memcpy(layer->key.addr[1], p + 24, 16);
    layer->ttl = p[7];
    return ipv6_extensions(w, p[6]);
}
