/* SPDX-License-Identifier: Apache-2.0 */
/* Writes a complete datagram as one frame: the first fragment's headers, all pieces (defrag.h). */
#include <string.h>

#include "defrag.h"

enum { IPV6_LEN = 40, NEXT_FRAGMENT = 44, NEXT_AUTH = 51 };

/* The header checksum of IPv4 (RFC 1071) over |len| bytes, an even number. */
static uint16_t header_checksum(const uint8_t *p, uint32_t len) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < len; i += 2)
        sum += nfm_read16(p + i);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t) ~((sum & 0xffff) + (sum >> 16));
}

/* A whole datagram: new length, no fragment fields (RFC 791 section 3.2). */
static void rewrite_v4(uint8_t *ip, uint32_t header, uint32_t payload) {
    nfm_write16(ip + 2, (uint16_t)(header + payload));
    nfm_write16(ip + 6, 0);
    nfm_write16(ip + 10, 0);
    nfm_write16(ip + 10, header_checksum(ip, header));
}

/* Without its fragment header (RFC 8200 section 4.5): whatever named that names |next| now.
 * |header| is what stayed: IPv6's and the extension headers in front of it. */
static void rewrite_v6(uint8_t *ip, uint32_t header, uint32_t payload, uint8_t next) {
    uint32_t field = 6, at = IPV6_LEN;
    nfm_write16(ip + 4, (uint16_t)(header - IPV6_LEN + payload));
    while (ip[field] != NEXT_FRAGMENT && at + 8 <= header) {
        uint32_t len = ip[field] == NEXT_AUTH ? (ip[at + 1] + 2u) * 4 : (ip[at + 1] + 1u) * 8;
        field = at;
        at += len;
    }
    ip[field] = next;
}

/* Gives the packet the frame in |slot|. The packet's reference to its old slot is released, and the
 * one that nfm_slot_new gave is the packet's from here on: whoever ends the packet releases
 * rec.slot. */
static void exchange(nfm_ctx *ctx, nfm_packet *packet, uint32_t slot, uint32_t len) {
    nfm_slot_release(ctx, packet->rec.slot);
    packet->rec.slot = slot;
    packet->base = nfm_slot_base(ctx, slot);
    packet->rec.frame_len = packet->rec.wire_len = len;
    packet->rec.flags |= NFM_F_FRAGMENT;
}

/*
 * defrag_build copies |datagram|, whose pieces cover it, into a new slot behind the headers of its
 * first fragment, link and tunnel headers included (outer length fields stay as they were),
 * exchanges the slot of |packet|, and parses it. The datagram keeps its slots. Returns
 * DEFRAG_BUILT, or why not: longer than its header can say, or no slot.
 */
enum defrag_result defrag_build(nfm_ctx *ctx, const defrag_datagram *datagram, nfm_packet *packet) {
    const defrag_table *table = ctx->self;
    bool v4 = datagram->key.ip_version == 4;
    uint32_t head_end = v4 ? datagram->payload_off : datagram->ext_off;
    uint32_t header = head_end - datagram->l3_off, head = head_end - NFM_HEADROOM;
    if (datagram->total > UINT16_MAX - (v4 ? header : header - IPV6_LEN) ||
        head + datagram->total > NFM_MAX_FRAME)
        return DEFRAG_BUILD_LENGTH;
    uint32_t slot = nfm_slot_new(ctx, head + datagram->total);
    if (slot == NFM_NO_SLOT)
        return DEFRAG_BUILD_SLOT;
    const uint8_t *first = nfm_slot_base(ctx, datagram->first_slot);
    uint8_t *base = nfm_slot_base(ctx, slot), *ip = base + datagram->l3_off;
    memset(base, 0, sizeof(nfm_slot_meta)); /* nothing is left to a NIC */
    memcpy(base + NFM_HEADROOM, first + NFM_HEADROOM, head);
    for (uint32_t i = datagram->pieces; i != DEFRAG_NONE; i = table->pieces[i].next) {
        const defrag_piece *piece = &table->pieces[i];
        memcpy(base + head_end + piece->start, nfm_slot_base(ctx, piece->slot) + piece->data,
               piece->end - piece->start);
    }
    if (v4)
        rewrite_v4(ip, header, datagram->total);
    else
        rewrite_v6(ip, header, datagram->total, first[datagram->ext_off]);
    exchange(ctx, packet, slot, head + datagram->total);
    packet->rec.l3_off = datagram->l3_off;
    nfm_reparse(ctx, packet);
    return DEFRAG_BUILT;
}
