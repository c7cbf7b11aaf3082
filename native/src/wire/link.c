/* SPDX-License-Identifier: Apache-2.0 */
/* Link layers: Ethernet and what it carries (LLC, VLAN, MPLS, PPPoE), PPP, cooked and raw captures.
 */
#include "wire/layers.h"

enum {
    LINK_NULL = 0,
    LINK_ETHERNET = 1,
    LINK_PPP = 9,
    LINK_RAW_BSD = 12, /* DLT_RAW where files carry DLT numbers */
    LINK_RAW_OPENBSD = 14,
    LINK_PPP_HDLC = 50,
    LINK_PPP_ETHER = 51,
    LINK_RAW = 101,
    LINK_C_HDLC = 104,
    LINK_LOOP = 108,
    LINK_SLL = 113,
    LINK_IPV4 = 228,
    LINK_IPV6 = 229,
    LINK_SLL2 = 276
};

enum { ETH_LEN = 14, SLL_LEN = 16, SLL2_LEN = 20, MPLS_MAX_LABELS = 16 };
enum { SLL_802_3 = 1, SLL_802_2 = 4 }; /* values of the protocol field below NFM__ET_MIN */

/*
 * nfm_wire_link_known tells whether frames of LINKTYPE_ number |link_type| are parsed.
 * Returns 1 or 0; frames of other types end as packet.other.
 */
int nfm_wire_link_known(uint32_t link_type) {
    static const uint16_t known[] = {LINK_NULL,        LINK_ETHERNET, LINK_PPP,       LINK_RAW_BSD,
                                     LINK_RAW_OPENBSD, LINK_PPP_HDLC, LINK_PPP_ETHER, LINK_RAW,
                                     LINK_C_HDLC,      LINK_LOOP,     LINK_SLL,       LINK_IPV4,
                                     LINK_IPV6,        LINK_SLL2};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (known[i] == link_type)
            return 1;
    return 0;
}

/* BSD loopback: an address family in the byte order of the machine that captured. AF_INET is 2
 * everywhere; AF_INET6 is 10 (Linux), 23 (Windows), 24 (NetBSD, OpenBSD), 28 (FreeBSD), 30
 * (Darwin). */
static enum nfm__step link_null(nfm__walk *w) {
    if (!nfm__has(w, 4))
        return nfm__bad(w, NFM_PD_LINK_SHORT);
    const uint8_t *p = nfm__at(w);
    uint32_t family = nfm_read32(p);
    if (family > 0xffff)
        family = (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
    w->off += 4;
    if (family == 2)
        return NFM__IPV4;
    if (family == 10 || family == 23 || family == 24 || family == 28 || family == 30)
        return NFM__IPV6;
    w->type = nfm_read16(p + 2); /* some writers put an ethertype there */
    return w->type < NFM__ET_MIN ? NFM__OTHER : NFM__ETHERTYPE;
}

/* Linux cooked capture: the ethertype lies |type_off| bytes into a header of |len| bytes. */
static enum nfm__step link_sll(nfm__walk *w, uint32_t len, uint32_t type_off) {
    if (!nfm__has(w, len))
        return nfm__bad(w, NFM_PD_LINK_SHORT);
    w->type = nfm_read16(nfm__at(w) + type_off);
    w->off += len;
    if (w->type == SLL_802_2)
        return NFM__LLC;
    return w->type == SLL_802_3 ? NFM__OTHER : NFM__ETHERTYPE;
}

static enum nfm__step link_hdlc(nfm__walk *w) {
    if (!nfm__has(w, 4))
        return nfm__bad(w, NFM_PD_LINK_SHORT);
    w->type = nfm_read16(nfm__at(w) + 2);
    w->off += 4;
    return NFM__ETHERTYPE;
}

/* PPP in HDLC-like framing (RFC 1662), or Cisco HDLC, told apart by the address byte. */
static enum nfm__step link_ppp_hdlc(nfm__walk *w) {
    if (nfm__has(w, 1) && (nfm__at(w)[0] == 0x0f || nfm__at(w)[0] == 0x8f))
        return link_hdlc(w);
    return NFM__PPP;
}

enum nfm__step nfm__link_begin(nfm__walk *w, uint32_t link_type) {
    switch (link_type) {
    case LINK_ETHERNET:
        return NFM__ETHERNET;
    case LINK_NULL:
    case LINK_LOOP:
        return link_null(w);
    case LINK_PPP:
    case LINK_PPP_HDLC:
        return link_ppp_hdlc(w);
    case LINK_C_HDLC:
        return link_hdlc(w);
    case LINK_PPP_ETHER:
        return NFM__PPPOE;
    case LINK_RAW:
    case LINK_RAW_BSD:
    case LINK_RAW_OPENBSD:
        return NFM__IP;
    case LINK_IPV4:
        return NFM__IPV4;
    case LINK_IPV6:
        return NFM__IPV6;
    case LINK_SLL:
        return link_sll(w, SLL_LEN, 14);
    case LINK_SLL2:
        return link_sll(w, SLL2_LEN, 0);
    default:
        return NFM__OTHER;
    }
}

enum nfm__step nfm__link_ethernet(nfm__walk *w) {
    if (!nfm__has(w, ETH_LEN))
        return nfm__bad(w, NFM_PD_LINK_SHORT);
    w->type = nfm_read16(nfm__at(w) + 12);
    w->off += ETH_LEN;
    return w->type < NFM__ET_MIN ? NFM__LLC : NFM__ETHERTYPE;
}

enum nfm__step nfm__link_ethertype(nfm__walk *w) {
    switch (w->type) {
    case NFM__ET_IPV4:
        return NFM__IPV4;
    case NFM__ET_IPV6:
        return NFM__IPV6;
    case NFM__ET_VLAN:
    case NFM__ET_QINQ:
    case NFM__ET_QINQ_OLD:
        return NFM__VLAN;
    case NFM__ET_MPLS:
    case NFM__ET_MPLS_UP:
        return NFM__MPLS;
    case NFM__ET_PPPOE:
        return NFM__PPPOE;
    case NFM__ET_PPP:
        return NFM__PPP;
    case NFM__ET_TEB:
        return NFM__ETHERNET;
    default:
        return NFM__OTHER;
    }
}

/* IEEE 802.2: SNAP (RFC 1042) with an ethertype, or the old SAP of IP. Everything else is not IP.
 */
enum nfm__step nfm__link_llc(nfm__walk *w) {
    if (!nfm__has(w, 3))
        return nfm__bad(w, NFM_PD_LINK_SHORT);
    const uint8_t *p = nfm__at(w);
    if (p[0] == 0x06 && p[1] == 0x06 && p[2] == 0x03) {
        w->off += 3;
        return NFM__IPV4;
    }
    if (p[0] != 0xaa || p[1] != 0xaa || p[2] != 0x03)
        return NFM__OTHER;
    if (!nfm__has(w, 8))
        return nfm__bad(w, NFM_PD_LINK_SHORT);
    uint32_t oui = nfm_read24(p + 3);
    if (oui != 0 && oui != 0x0000f8) /* 0000f8: bridge tunnel encapsulation (IEEE 802.1H) */
        return NFM__OTHER;
    w->type = nfm_read16(p + 6);
    w->off += 8;
    return NFM__ETHERTYPE;
}

/* A data frame of IEEE 802.11 that is not encrypted; LLC follows. */
enum nfm__step nfm__link_wlan(nfm__walk *w) {
    if (!nfm__has(w, 24))
        return nfm__bad(w, NFM_PD_LINK_SHORT);
    const uint8_t *p = nfm__at(w);
    uint32_t len = 24;
    if ((p[0] & 0x0f) != 0x08 || (p[0] & 0x40) != 0 || (p[1] & 0x44) != 0)
        return NFM__OTHER;     /* no data, empty data, encrypted, or a fragment */
    if ((p[1] & 0x03) == 0x03) /* between access points: a fourth address */
        len += 6;
    if ((p[0] & 0x80) != 0) /* quality of service, and with it maybe HT control */
        len += (p[1] & 0x80) != 0 ? 6 : 2;
    if (!nfm__has(w, len))
        return nfm__bad(w, NFM_PD_LINK_SHORT);
    w->off += len;
    return NFM__LLC;
}

enum nfm__step nfm__link_vlan(nfm__walk *w) {
    if (!nfm__has(w, 4))
        return nfm__bad(w, NFM_PD_VLAN_SHORT);
    uint16_t id = nfm_read16(nfm__at(w)) & 0x0fff;
    if (id != 0 && !w->has_outer && w->n_vlan < 2) /* 0: a priority tag */
        w->packet->vlan[w->n_vlan++] = id;
    w->type = nfm_read16(nfm__at(w) + 2);
    w->off += 4;
    return w->type < NFM__ET_MIN ? NFM__LLC : NFM__ETHERTYPE;
}

/* True when an Ethernet header that leads to something known may start |skip| bytes further on. */
static bool is_ethernet(const nfm__walk *w, uint32_t skip) {
    if (!nfm__has(w, skip + ETH_LEN))
        return false;
    uint16_t type = nfm_read16(nfm__at(w) + skip + 12);
    if (type < NFM__ET_MIN)
        return type >= 3 && type <= w->wire_end - w->off - skip - ETH_LEN;
    return type == NFM__ET_IPV4 || type == NFM__ET_IPV6 || type == NFM__ET_VLAN ||
           type == NFM__ET_QINQ || type == NFM__ET_MPLS || type == NFM__ET_PPPOE || type == 0x0806;
}

/* Tells an IP header from a MAC address that begins with the same nibble: its length fits what is
 * there, but for Ethernet's padding or check sequence. */
static bool is_ip(const nfm__walk *w) {
    const uint8_t *p = nfm__at(w);
    uint32_t room = w->wire_end - w->off, len;
    if (!nfm__has(w, 6))
        return true;
    len = p[0] >> 4 == 6 ? 40u + nfm_read16(p + 4) : nfm_read16(p + 2);
    return len >= 20 && len <= room && (room - len <= 4 || room <= 64);
}

/*
 * A label stack does not say what it carries (RFC 3032): by the first nibble (RFC 4928) it is IP,
 * or a pseudo-wire with (RFC 4385) or without control word, taken for Ethernet when its type makes
 * sense.
 */
static enum nfm__step mpls_payload(nfm__walk *w) {
    if (!nfm__has(w, 1))
        return nfm__bad(w, NFM_PD_MPLS_SHORT);
    uint8_t nibble = nfm__at(w)[0] >> 4;
    if (nibble == 4 || nibble == 6)
        return is_ip(w) || !is_ethernet(w, 0) ? NFM__IP : NFM__ETHERNET;
    if (nibble == 0 && is_ethernet(w, 4)) {
        w->off += 4;
        return NFM__ETHERNET;
    }
    return is_ethernet(w, 0) ? NFM__ETHERNET : NFM__OTHER;
}

enum nfm__step nfm__link_mpls(nfm__walk *w) {
    for (int i = 0; i < MPLS_MAX_LABELS; i++) {
        if (!nfm__has(w, 4))
            return nfm__bad(w, NFM_PD_MPLS_SHORT);
        uint32_t entry = nfm_read32(nfm__at(w));
        w->off += 4;
        if ((entry & 0x100) == 0) /* bottom of stack */
            continue;
        w->layer.tunnel_kind = NFM_TUNNEL_MPLS;
        w->layer.tunnel_id = entry >> 12;
        w->layer.scope = 0; /* labels belong to one direction */
        return mpls_payload(w);
    }
    return NFM__OTHER;
}

enum nfm__step nfm__link_pppoe(nfm__walk *w) {
    if (!nfm__has(w, 6))
        return nfm__bad(w, NFM_PD_PPPOE_SHORT);
    const uint8_t *p = nfm__at(w);
    if (p[0] != 0x11 || p[1] != 0) /* RFC 2516: version 1, type 1, session data */
        return NFM__OTHER;
    w->layer.tunnel_kind = NFM_TUNNEL_PPPOE;
    w->layer.tunnel_id = w->layer.scope = nfm_read16(p + 2);
    w->off += 6;
    nfm__narrow(w, nfm_read16(p + 4));
    return NFM__PPP;
}

/* PPP (RFC 1661) with address and control field or without, protocol field compressed or not. */
enum nfm__step nfm__link_ppp(nfm__walk *w) {
    if (nfm__has(w, 2) && nfm_read16(nfm__at(w)) == 0xff03)
        w->off += 2;
    if (!nfm__has(w, 1))
        return nfm__bad(w, NFM_PD_LINK_SHORT);
    uint32_t proto = nfm__at(w)[0], len = 1;
    if ((proto & 1) == 0) {
        if (!nfm__has(w, 2))
            return nfm__bad(w, NFM_PD_LINK_SHORT);
        proto = nfm_read16(nfm__at(w));
        len = 2;
    }
    w->off += len;
    if (proto == 0x0021)
        return NFM__IPV4;
    if (proto == 0x0057)
        return NFM__IPV6;
    return proto == 0x0281 || proto == 0x0283 ? NFM__MPLS : NFM__OTHER;
}
