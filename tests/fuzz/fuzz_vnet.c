/* SPDX-License-Identifier: Apache-2.0 */
/* Offload facts that do not fit a frame are refused; what is accepted names bytes in the frame and
 * no longer segment than the frame. No frame is read beyond its end, and both directions spread
 * alike. */
#include "io/spread.h"
#include "io/vnet.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
    if (!holds)
        abort();
}

static void check_header(const nfm_slot_meta *meta, const uint8_t *frame, uint32_t len) {
    struct virtio_net_hdr vnet;
    nfm_slot_meta again;
    uint32_t wire_len = nfm_vnet_from_meta(meta, frame, len, &vnet);
    if (wire_len == 0)
        return;
    require(wire_len <= len && vnet.hdr_len <= len);
    require(vnet.gso_type == meta->gso_type);
    if (vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
        require((uint32_t)vnet.csum_start + vnet.csum_offset + 2 <= len);
    if (vnet.gso_type != 0)
        require(vnet.gso_size > 0 && vnet.hdr_len > 0 && wire_len <= vnet.hdr_len + vnet.gso_size);
    nfm_vnet_to_meta(&vnet, 0, &again);
    require(again.needs_csum == (meta->needs_csum != 0) && again.gso_size == vnet.gso_size);
    (void)nfm_vnet_fits(frame, wire_len, 14, 1 + len / 2);
    require(nfm_vnet_fits(frame, wire_len, 14, len) && nfm_vnet_fits(frame, wire_len, 0, 0));
}

/* A plain IPv4 frame with ports and its reply. */
static void check_spread(uint8_t *frame, uint32_t len) {
    uint32_t hash = nfm_spread_frame(frame, len), at = 14;
    if (len < 38 || frame[12] != 8 || frame[13] != 0 || frame[14] != 0x45)
        return;
    uint8_t *ip = frame + at, swap[4];
    memcpy(swap, ip + 12, 4);
    memcpy(ip + 12, ip + 16, 4);
    memcpy(ip + 16, swap, 4);
    memcpy(swap, ip + 20, 2);
    memcpy(ip + 20, ip + 22, 2);
    memcpy(ip + 22, swap, 2);
    require(nfm_spread_frame(frame, len) == hash);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nfm_slot_meta meta;
    if (size < sizeof(meta) || size > NFM_MAX_FRAME)
        return 0;
    memcpy(&meta, data, sizeof(meta));
    uint32_t len = (uint32_t)(size - sizeof(meta));
    uint8_t *frame = malloc(len > 0 ? len : 1); /* ends where the frame ends */
    if (frame == NULL)
        return 0;
    memcpy(frame, data + sizeof(meta), len);
    check_header(&meta, frame, len);
    check_spread(frame, len);
    free(frame);
    return 0;
}
