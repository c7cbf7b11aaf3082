/* SPDX-License-Identifier: Apache-2.0 */
/* Parsing of frames into nfm_packet: link layer, tunnels, IP, transport headers. No I/O, no state.
 */
#ifndef NFM_WIRE_WIRE_H
#define NFM_WIRE_WIRE_H

#include "nfm/module.h"

typedef struct nfm_wire_config {
    uint32_t max_depth;       /* tunnel headers peeled; 0 none */
    uint8_t verify_checksums; /* check IPv4 header, TCP, UDP, ICMP checksums */
    uint8_t key_vlan, key_tunnel;
} nfm_wire_config;

/* Why a frame is malformed; names by nfm_wire_drop_name(), counted per worker as "malformed.<name>"
 */
enum nfm_parse_drop {
    NFM_PD_NONE = 0,
    NFM_PD_LINK_SHORT, /* shorter than its link header */
    NFM_PD_IP_VERSION,
    NFM_PD_IPV4_SHORT,
    NFM_PD_IPV4_IHL,
    NFM_PD_IPV4_LENGTH, /* total length shorter than the header or longer than the packet */
    NFM_PD_IPV4_CHECKSUM,
    NFM_PD_IPV6_SHORT,
    NFM_PD_IPV6_LENGTH,
    NFM_PD_IPV6_EXTENSION, /* chain runs past the packet, or is too long */
    NFM_PD_TCP_SHORT,
    NFM_PD_TCP_OFFSET,
    NFM_PD_TCP_CHECKSUM,
    NFM_PD_UDP_SHORT,
    NFM_PD_UDP_LENGTH,
    NFM_PD_UDP_CHECKSUM,
    NFM_PD_ICMP_SHORT,
    NFM_PD_ICMP_CHECKSUM,
    NFM_PD_SCTP_SHORT,
    NFM_PD_VLAN_SHORT,
    NFM_PD_MPLS_SHORT,
    NFM_PD_PPPOE_SHORT,
    NFM_PD_FRAGMENT, /* impossible fragment: offset, length, overlap forbidden (RFC 5722) */
    NFM_PD_COUNT
};
const char *nfm_wire_drop_name(int drop);

/*
 * nfm_wire_parse fills |packet| from the frame at base + NFM_HEADROOM: rec line 1 except ts, flow,
 * packet; key; TCP header and options; fragment and tunnel facts; status. packet->base, rec.slot,
 * rec.frame_len, rec.wire_len and link_type are set by the caller. Never reads past frame_len.
 * A tunnel whose inside is not understood, or deeper than max_depth, is left as the outer flow
 * (UDP, GRE, ...), never malformed.
 */
void nfm_wire_parse(const nfm_wire_config *config, nfm_packet *packet);

/* The same from an IP header on, at slot offset |off| with |len| bytes (reassembled datagrams). */
void nfm_wire_parse_ip(const nfm_wire_config *config, nfm_packet *packet, uint32_t off,
                       uint32_t len);

/* Internet checksum (RFC 1071) over |len| bytes added to |sum| (host order words); folded. */
uint32_t nfm_csum_add(uint32_t sum, const uint8_t *data, uint32_t len);
uint16_t nfm_csum_fold(uint32_t sum); /* complemented, as stored in headers */

/* 1 when LINKTYPE |link_type| is understood. */
int nfm_wire_link_known(uint32_t link_type);

#endif
