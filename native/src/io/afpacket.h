/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of an afpacket port: opening and looking after it, receiving, sending. */
#ifndef NFM_IO_AFPACKET_H
#define NFM_IO_AFPACKET_H

#include "io/link.h"
#include "io/port.h"

#include <linux/if_packet.h>

/* A frame is a cache line more than 2 KiB, so that the heads of frames do not share a few sets of
 * the caches: at 64 bytes the kernel's side of a veth pair takes a tenth less time. */
enum {
    NFM_AFP_FRAME = 2112,    /* bytes of a ring's frame, the kernel's header included */
    NFM_AFP_BLOCK = 1 << 18, /* of a block: several GSO frames, or some 1500 short ones */
    NFM_AFP_PER_BLOCK = NFM_AFP_BLOCK / NFM_AFP_FRAME
};

/* A ring shared with the kernel. */
typedef struct nfm_afp_ring {
    uint8_t *base; /* NULL: none */
    size_t size;   /* bytes mapped */
    uint32_t n;    /* frames or blocks */
    uint32_t at;   /* the next one to look at: 0..n-1 */
} nfm_afp_ring;

static inline uint8_t *nfm_afp_frame(const nfm_afp_ring *ring, uint32_t at) {
    return ring->base + (size_t)(at / NFM_AFP_PER_BLOCK) * NFM_AFP_BLOCK +
           (size_t)(at % NFM_AFP_PER_BLOCK) * NFM_AFP_FRAME;
}

static inline uint32_t nfm_afp_after(const nfm_afp_ring *ring, uint32_t at) {
    return at + 1 == ring->n ? 0 : at + 1;
}

static inline uint32_t nfm_afp_before(const nfm_afp_ring *ring, uint32_t at, uint32_t steps) {
    return at >= steps ? at - steps : at + ring->n - steps;
}

typedef struct nfm_port_afpacket {
    nfm_port port;
    nfm_link link;
    nfm_afpacket_config config;
    int fd; /* receives, and sends what the transmit ring does not take. The number never changes */
    int tx_fd;   /* owns the transmit ring */
    bool joined; /* the fanout group, if any */
    uint32_t link_type;
    uint32_t l2_len; /* bytes of link header in front of an L3 packet */
    nfm_afp_ring rx;
    struct tpacket3_hdr *packet; /* of the block at hand */
    uint32_t packets_left;       /* in it */
    nfm_afp_ring tx;
    uint32_t pending; /* frames in the transmit ring that the kernel has not been told of */
} nfm_port_afpacket;

/* Receives, frame by frame or block by block as config.block_ms says; see nfm_port_ops.rx. */
int nfm_afp_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n);
/* Whether everything that the kernel has handed over was taken. */
bool nfm_afp_rx_empty(const nfm_port_afpacket *self);
/* Sends; see nfm_port_ops.tx. */
int nfm_afp_tx(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n);
/* Tells the kernel of queued frames. False: some are still queued. */
bool nfm_afp_kick(nfm_port_afpacket *self);
/* Drops what is queued: the link is down or gone. */
void nfm_afp_abandon(nfm_port_afpacket *self);

#endif
