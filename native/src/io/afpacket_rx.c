/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Two receive rings. By frames (TPACKET_V2): the kernel fills frames of 2 KiB and hands over each
 * at once. What does not fit, a GSO or jumbo frame, it queues on the socket as well
 * (TP_STATUS_COPY) and one system call brings it straight into a large slot: its bytes are copied
 * once, and the ring need not have room for 64 KiB in every frame. By blocks (TPACKET_V3): frames
 * of any size lie densely in blocks which are handed over when full or after block_ms.
 *
 * When several processors of the kernel feed one socket, queued frames may be in another order than
 * their places in the ring; so everything that belongs to such a frame, its VLAN tag too, is taken
 * from the message, and only the time from the ring.
 *
 * Each frame has a virtio_net_hdr in front of it: offload facts go into the slot's headroom. The
 * kernel takes the outermost VLAN tag out of a frame; it is put back.
 */
#include "io/afpacket.h"
#include "io/vnet.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <string.h>
#include <sys/socket.h>

#define VNET_LEN sizeof(struct virtio_net_hdr)
#define MACS 12u /* bytes of both MAC addresses */
#define NANO INT64_C(1000000000)

enum { NO_SLOT = -1, DROPPED = 0, TAKEN = 1 };

/* A frame as the kernel shows it, in either ring. */
typedef struct captured {
    const uint8_t *data; /* at the link header; the virtio_net_hdr lies before it */
    uint32_t len, snaplen, status;
    uint16_t tpid, tci;
    int64_t ts_ns;
} captured;

static uint16_t tpid_of(uint32_t status, uint16_t tpid) {
    return status & TP_STATUS_VLAN_TPID_VALID ? tpid : ETH_P_8021Q;
}

static void taken(nfm_port_afpacket *self, nfm_frame *frame, uint32_t slot, uint32_t len,
                  int64_t ts_ns) {
    *frame = (nfm_frame){.slot = slot,
                         .len = len,
                         .wire_len = len,
                         .link_type = self->link_type,
                         .ts_ns = ts_ns < 0 ? 0 : ts_ns};
    self->port.stats.rx_packets++;
    self->port.stats.rx_bytes += len;
}

/* What came with a message: the VLAN tag that the kernel took out of it; zeroes without one. */
static struct tpacket_auxdata aux_of(struct msghdr *message) {
    struct tpacket_auxdata aux = {0};
    struct cmsghdr *c = CMSG_FIRSTHDR(message);
    if (c != NULL && c->cmsg_level == SOL_PACKET && c->cmsg_type == PACKET_AUXDATA &&
        c->cmsg_len >= CMSG_LEN(sizeof(aux)))
        memcpy(&aux, CMSG_DATA(c), sizeof(aux));
    return aux;
}

/* Receives a frame that the ring had no room for. Bytes behind the addresses are put where they
 * belong if the ring was right about the tag, and moved otherwise. */
static int take_queued(nfm_port_afpacket *self, nfm_pool *pool, const captured *c,
                       nfm_frame *frame) {
    uint32_t slot = nfm_pool_get(pool, NFM_MAX_FRAME);
    if (slot == NFM_NO_SLOT)
        return NO_SLOT;
    uint8_t *to = nfm_pool_addr(pool, slot) + NFM_HEADROOM;
    uint32_t gap = c->status & TP_STATUS_VLAN_VALID ? NFM_VLAN_LEN : 0;
    struct virtio_net_hdr vnet;
    union {
        struct cmsghdr align;
        uint8_t room[CMSG_SPACE(sizeof(struct tpacket_auxdata))];
    } control;
    struct iovec parts[] = {
        {&vnet, VNET_LEN}, {to, MACS}, {to + MACS + gap, NFM_MAX_FRAME - MACS - NFM_VLAN_LEN}};
    struct msghdr message = {.msg_iov = parts,
                             .msg_iovlen = 3,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    ssize_t got = recvmsg(self->fd, &message, MSG_DONTWAIT);
    if (got < (ssize_t)(VNET_LEN + MACS) || (message.msg_flags & MSG_TRUNC)) {
        nfm_pool_put(pool, slot);
        self->port.stats.rx_oversize += got > 0;
        self->port.stats.rx_errors += got <= 0;
        return DROPPED;
    }
    uint32_t len = (uint32_t)got - (uint32_t)VNET_LEN;
    struct tpacket_auxdata aux = aux_of(&message);
    uint32_t tag = aux.tp_status & TP_STATUS_VLAN_VALID ? NFM_VLAN_LEN : 0;
    if (tag != gap)
        memmove(to + MACS + tag, to + MACS + gap, len - MACS);
    if (tag != 0)
        nfm_put_tag(to + MACS, tpid_of(aux.tp_status, aux.tp_vlan_tpid), aux.tp_vlan_tci);
    nfm_vnet_to_meta(&vnet, tag, (nfm_slot_meta *)(void *)(to - NFM_HEADROOM));
    taken(self, frame, slot, len + tag, c->ts_ns);
    return TAKEN;
}

/* Copies a frame into a slot, or counts why not. */
static inline int take(nfm_port_afpacket *self, nfm_pool *pool, const captured *c,
                       nfm_frame *frame) {
    if (c->status & TP_STATUS_COPY)
        return take_queued(self, pool, c, frame);
    uint32_t tag = (c->status & TP_STATUS_VLAN_VALID) && c->len > MACS ? NFM_VLAN_LEN : 0;
    uint32_t len = c->len + tag;
    if (len > NFM_MAX_FRAME) {
        self->port.stats.rx_oversize++;
        return DROPPED;
    }
    if (c->snaplen < c->len) { /* the socket's queue for large frames was full */
        self->port.stats.rx_missed++;
        return DROPPED;
    }
    uint32_t slot = nfm_pool_get(pool, len);
    if (slot == NFM_NO_SLOT)
        return NO_SLOT;
    uint8_t *to = nfm_pool_addr(pool, slot) + NFM_HEADROOM;
    if (tag == 0) {
        memcpy(to, c->data, c->len);
    } else {
        memcpy(to, c->data, MACS);
        nfm_put_tag(to + MACS, c->tpid, c->tci);
        memcpy(to + MACS + NFM_VLAN_LEN, c->data + MACS, c->len - MACS);
    }
    struct virtio_net_hdr vnet;
    memcpy(&vnet, c->data - VNET_LEN, VNET_LEN);
    nfm_vnet_to_meta(&vnet, tag, (nfm_slot_meta *)(void *)(to - NFM_HEADROOM));
    taken(self, frame, slot, len, c->ts_ns);
    return TAKEN;
}

static int rx_by_frames(nfm_port_afpacket *self, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    nfm_afp_ring *ring = &self->rx;
    uint32_t done = 0;
    while (done < n) {
        struct tpacket2_hdr *h = (void *)nfm_afp_frame(ring, ring->at);
        uint32_t status = __atomic_load_n(&h->tp_status, __ATOMIC_ACQUIRE);
        if (!(status & TP_STATUS_USER))
            break;
        uint32_t after = nfm_afp_after(ring, ring->at);
        const uint8_t *next = nfm_afp_frame(ring, after);
        __builtin_prefetch(next);
        __builtin_prefetch(next + 64);
        captured c = {.data = (uint8_t *)h + h->tp_mac,
                      .len = h->tp_len,
                      .snaplen = h->tp_snaplen,
                      .status = status,
                      .tpid = tpid_of(status, h->tp_vlan_tpid),
                      .tci = h->tp_vlan_tci,
                      .ts_ns = h->tp_sec * NANO + h->tp_nsec};
        int result = take(self, pool, &c, &frames[done]);
        if (result == NO_SLOT)
            break;
        done += result == TAKEN;
        __atomic_store_n(&h->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        ring->at = after;
    }
    return (int)done;
}

static struct tpacket_hdr_v1 *block_of(const nfm_afp_ring *ring) {
    uint8_t *block = ring->base + (size_t)ring->at * NFM_AFP_BLOCK;
    return &((struct tpacket_block_desc *)(void *)block)->hdr.bh1;
}

/* Begins the next block. False: the kernel has not handed one over. */
static bool next_block(nfm_port_afpacket *self) {
    struct tpacket_hdr_v1 *block = block_of(&self->rx);
    if (!(__atomic_load_n(&block->block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
        return false;
    uint8_t *start = (uint8_t *)block - offsetof(struct tpacket_block_desc, hdr);
    self->packet = (void *)(start + block->offset_to_first_pkt);
    self->packets_left = block->num_pkts;
    return true;
}

static void end_block(nfm_port_afpacket *self) {
    __atomic_store_n(&block_of(&self->rx)->block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
    self->rx.at = nfm_afp_after(&self->rx, self->rx.at);
}

static int rx_by_blocks(nfm_port_afpacket *self, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    uint32_t done = 0;
    while (done < n) {
        if (self->packets_left == 0 && !next_block(self))
            break;
        if (self->packets_left == 0) {
            end_block(self);
            continue;
        }
        struct tpacket3_hdr *h = self->packet;
        struct tpacket3_hdr *next = (void *)((uint8_t *)h + h->tp_next_offset);
        __builtin_prefetch(next);
        captured c = {.data = (uint8_t *)h + h->tp_mac,
                      .len = h->tp_len,
                      .snaplen = h->tp_snaplen,
                      .status = h->tp_status,
                      .tpid = tpid_of(h->tp_status, h->hv1.tp_vlan_tpid),
                      .tci = (uint16_t)h->hv1.tp_vlan_tci,
                      .ts_ns = h->tp_sec * NANO + h->tp_nsec};
        int result = take(self, pool, &c, &frames[done]);
        if (result == NO_SLOT)
            break;
        done += result == TAKEN;
        self->packet = next;
        if (--self->packets_left == 0)
            end_block(self);
    }
    return (int)done;
}

/*
 * nfm_afp_rx takes up to |n| frames into slots of |pool|. Frames for which there is no slot stay in
 * the ring; when that is full the kernel drops and counts (rx_missed).
 * Returns how many; never fails, a link that is down is silent.
 */
int nfm_afp_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    nfm_port_afpacket *self = (nfm_port_afpacket *)port;
    return self->config.block_ms == 0 ? rx_by_frames(self, pool, frames, n)
                                      : rx_by_blocks(self, pool, frames, n);
}

bool nfm_afp_rx_empty(const nfm_port_afpacket *self) {
    if (self->config.block_ms != 0)
        return self->packets_left == 0 && !(block_of(&self->rx)->block_status & TP_STATUS_USER);
    const struct tpacket2_hdr *h = (const void *)nfm_afp_frame(&self->rx, self->rx.at);
    return !(__atomic_load_n(&h->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER);
}
