/* SPDX-License-Identifier: Apache-2.0 */
#include "io/vnet.h"

#include <string.h>

#define GSO_UDP_L4 5 /* VIRTIO_NET_HDR_GSO_UDP_L4, Linux 6.2 */
#define TCP_HEADER 20u
#define UDP_HEADER 8u

/* Bytes of all headers of a frame to be segmented; 0 when they do not lie in the frame. */
static uint32_t headers_len(const nfm_slot_meta *meta, const uint8_t *frame, uint32_t len) {
    uint32_t l4 = meta->csum_start, end;
    if (!meta->needs_csum)
        return meta->hdr_len <= len ? meta->hdr_len : 0;
    switch (meta->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
    case VIRTIO_NET_HDR_GSO_TCPV4:
    case VIRTIO_NET_HDR_GSO_TCPV6:
        if (l4 + TCP_HEADER > len || frame[l4 + 12] >> 4 < 5)
            return 0;
        end = l4 + 4u * (frame[l4 + 12] >> 4);
        break;
    case GSO_UDP_L4:
        end = l4 + UDP_HEADER;
        break;
    default:
        return 0;
    }
    return end <= len ? end : 0;
}

uint32_t nfm_vnet_from_meta(const nfm_slot_meta *meta, const uint8_t *frame, uint32_t len,
                            struct virtio_net_hdr *hdr) {
    memset(hdr, 0, sizeof(*hdr));
    if (meta->needs_csum) {
        if ((uint32_t)meta->csum_start + meta->csum_offset + 2 > len)
            return 0;
        hdr->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        hdr->csum_start = meta->csum_start;
        hdr->csum_offset = meta->csum_offset;
    }
    if (meta->gso_type == VIRTIO_NET_HDR_GSO_NONE)
        return len;
    uint32_t headers = headers_len(meta, frame, len);
    if (headers == 0 || meta->gso_size == 0 || headers > UINT16_MAX)
        return 0;
    hdr->gso_type = meta->gso_type;
    hdr->gso_size = meta->gso_size;
    hdr->hdr_len = (uint16_t)headers;
    uint32_t segment = headers + meta->gso_size;
    return segment < len ? segment : len;
}

bool nfm_vnet_fits(const uint8_t *frame, uint32_t wire_len, uint32_t l2_len, uint32_t mtu) {
    if (mtu == 0 || wire_len <= l2_len + mtu)
        return true;
    uint32_t at = 12, tags = 0;
    while (l2_len != 0 && tags < 2 && at + 2 <= wire_len &&
           ((frame[at] == 0x81 && frame[at + 1] == 0x00) ||
            (frame[at] == 0x88 && frame[at + 1] == 0xa8))) {
        at += NFM_VLAN_LEN;
        tags++;
    }
    return wire_len <= l2_len + mtu + tags * NFM_VLAN_LEN;
}
