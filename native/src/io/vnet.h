/* SPDX-License-Identifier: Apache-2.0 */
/* Offload facts of a frame: the kernel's virtio_net_hdr against our nfm_slot_meta. */
#ifndef NFM_IO_VNET_H
#define NFM_IO_VNET_H

#include "io/port.h"

#include <linux/virtio_net.h>

#define NFM_VLAN_LEN 4u

/*
 * nfm_vnet_to_meta writes what |hdr| says about a received frame. |shift|: bytes that were put into
 * the frame's link header after the kernel wrote |hdr| (a VLAN tag). hdr_len is a hint of the
 * kernel's, not the headers' length.
 */
static inline void nfm_vnet_to_meta(const struct virtio_net_hdr *hdr, uint32_t shift,
                                    nfm_slot_meta *meta) {
    *meta = (nfm_slot_meta){.needs_csum = hdr->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM,
                            .gso_type = hdr->gso_type,
                            .gso_size = hdr->gso_size};
    if (meta->needs_csum) {
        meta->csum_start = (uint16_t)(hdr->csum_start + shift);
        meta->csum_offset = hdr->csum_offset;
    }
    if (meta->gso_type != VIRTIO_NET_HDR_GSO_NONE)
        meta->hdr_len = (uint16_t)(hdr->hdr_len + shift);
}

/*
 * nfm_vnet_from_meta writes the header with which the kernel takes the frame of |len| bytes.
 * Returns the bytes of the longest frame on the wire (a segment's, when there are segments), or 0
 * when |meta| does not fit the frame: it must not be sent then.
 */
uint32_t nfm_vnet_from_meta(const nfm_slot_meta *meta, const uint8_t *frame, uint32_t len,
                            struct virtio_net_hdr *hdr);

/*
 * nfm_vnet_fits says whether a frame of |wire_len| bytes may leave through a link of |mtu| bytes
 * (0: not known) behind |l2_len| bytes of link header. Up to two VLAN tags in front do not count.
 */
bool nfm_vnet_fits(const uint8_t *frame, uint32_t wire_len, uint32_t l2_len, uint32_t mtu);

/* nfm_put_tag writes a VLAN tag at |at|, which lies behind the MAC addresses. */
static inline void nfm_put_tag(uint8_t *at, uint16_t tpid, uint16_t tci) {
    at[0] = (uint8_t)(tpid >> 8);
    at[1] = (uint8_t)tpid;
    at[2] = (uint8_t)(tci >> 8);
    at[3] = (uint8_t)tci;
}

#endif
