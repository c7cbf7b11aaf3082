/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Short frames are copied into the transmit ring and the kernel is told once per turn of the
 * worker's loop, or after KICK_AT frames: one system call for many packets, and at 64 bytes a
 * sixth less time per packet than sendmmsg. Each is announced as "all header" (hdr_len), so that
 * the kernel copies it and does not hang pages of the ring into its buffers.
 *
 * What is longer than a ring's frame, or to be segmented, goes straight from its slot by sendmmsg
 * on the other socket, after the ring was emptied: order is kept, and each refusal has a reason.
 * Either way the bytes are the kernel's when the call returns, and the slot is put back at once.
 *
 * The ring's state lies in its frames. |pending| of them, before |tx.at|, were not yet taken by the
 * kernel; when its queue is full it leaves them (SEND_REQUEST) and is asked again. It skips a frame
 * that it cannot take at all (PACKET_LOSS), which the checks here leave it no cause for.
 */
#include "io/afpacket.h"
#include "io/vnet.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define KICK_AT 64u
#define RUN 16u /* frames of one sendmmsg */
#define LINEAR 128u
#define DATA_AT (TPACKET2_HDRLEN - sizeof(struct sockaddr_ll)) /* in a ring's frame */
#define VNET_LEN sizeof(struct virtio_net_hdr)
#define RING_ROOM (NFM_SLOT_SMALL - NFM_HEADROOM)

static_assert(DATA_AT + VNET_LEN + RING_ROOM <= NFM_AFP_FRAME, "a small slot fits a ring's frame");

enum { LINK_DOWN = -1, FULL = 0 };

static const nfm_slot_meta *meta_of(const nfm_pool *pool, const nfm_tx *tx) {
    return (const void *)nfm_pool_addr(pool, tx->slot);
}

static uint8_t *bytes_of(const nfm_pool *pool, const nfm_tx *tx) {
    return nfm_pool_addr(pool, tx->slot) + tx->off;
}

static bool for_ring(const nfm_pool *pool, const nfm_tx *tx) {
    return tx->len <= RING_ROOM && meta_of(pool, tx)->gso_type == VIRTIO_NET_HDR_GSO_NONE;
}

/* Writes the kernel's header of a frame; counts a frame that cannot be sent. */
static bool prepare(nfm_port_afpacket *self, nfm_pool *pool, const nfm_tx *tx,
                    struct virtio_net_hdr *vnet) {
    const uint8_t *frame = bytes_of(pool, tx);
    uint32_t wire_len = nfm_vnet_from_meta(meta_of(pool, tx), frame, tx->len, vnet);
    if (wire_len == 0 || tx->len < self->l2_len) {
        self->port.stats.tx_errors++;
        return false;
    }
    if (!nfm_vnet_fits(frame, wire_len, self->l2_len, self->link.mtu)) {
        self->port.stats.tx_oversize++;
        return false;
    }
    return true;
}

static void sent(nfm_port_afpacket *self, nfm_pool *pool, const nfm_tx *tx) {
    self->port.stats.tx_packets++;
    self->port.stats.tx_bytes += tx->len;
    nfm_pool_put(pool, tx->slot);
}

static struct tpacket2_hdr *ring_frame(const nfm_afp_ring *ring, uint32_t at) {
    return (void *)nfm_afp_frame(ring, at);
}

static uint32_t status_of(const nfm_afp_ring *ring, uint32_t at) {
    return __atomic_load_n(&ring_frame(ring, at)->tp_status, __ATOMIC_ACQUIRE);
}

/* Passes over frames that the kernel has taken since. */
static void settle(nfm_port_afpacket *self) {
    nfm_afp_ring *ring = &self->tx;
    if (status_of(ring, nfm_afp_before(ring, ring->at, 1)) != TP_STATUS_SEND_REQUEST)
        self->pending = 0;
    while (self->pending > 0 &&
           status_of(ring, nfm_afp_before(ring, ring->at, self->pending)) != TP_STATUS_SEND_REQUEST)
        self->pending--;
}

/* The interface cannot send: its frames are dropped, and the port looks at it soon. */
static void link_lost(nfm_port_afpacket *self) {
    nfm_afp_abandon(self);
    self->link.next_look_ns = 0;
}

static bool is_down(int errnum) {
    return errnum == ENETDOWN || errnum == ENXIO || errnum == ENODEV;
}

/*
 * nfm_afp_kick makes one system call when frames are queued. When the link turns out to be down
 * they are dropped and counted in tx_errors.
 * Returns true when nothing is queued any longer.
 */
bool nfm_afp_kick(nfm_port_afpacket *self) {
    if (self->pending == 0)
        return true;
    if (send(self->tx_fd, NULL, 0, MSG_DONTWAIT) < 0 && is_down(errno)) {
        link_lost(self);
        return true;
    }
    settle(self);
    return self->pending == 0;
}

/*
 * nfm_afp_abandon takes back the frames that the kernel has not looked at; they count as
 * tx_errors. The kernel goes on where it is, so the port does, too.
 */
void nfm_afp_abandon(nfm_port_afpacket *self) {
    if (self->pending > 0)
        settle(self);
    for (; self->pending > 0; self->pending--) {
        self->tx.at = nfm_afp_before(&self->tx, self->tx.at, 1);
        struct tpacket2_hdr *h = ring_frame(&self->tx, self->tx.at);
        __atomic_store_n(&h->tp_status, TP_STATUS_AVAILABLE, __ATOMIC_RELEASE);
        self->port.stats.tx_errors++;
        self->port.stats.tx_packets--;
        self->port.stats.tx_bytes -= h->tp_len - VNET_LEN;
    }
}

/* Queues a short frame, or drops it. Returns 1 or FULL. */
static int queue_frame(nfm_port_afpacket *self, nfm_pool *pool, const nfm_tx *tx) {
    struct tpacket2_hdr *h = ring_frame(&self->tx, self->tx.at);
    if (__atomic_load_n(&h->tp_status, __ATOMIC_ACQUIRE) != TP_STATUS_AVAILABLE) {
        nfm_afp_kick(self);
        if (status_of(&self->tx, self->tx.at) != TP_STATUS_AVAILABLE)
            return FULL;
        h = ring_frame(&self->tx, self->tx.at);
    }
    struct virtio_net_hdr vnet;
    if (!prepare(self, pool, tx, &vnet)) {
        nfm_pool_put(pool, tx->slot);
        return 1;
    }
    vnet.hdr_len = (uint16_t)tx->len;
    uint8_t *to = (uint8_t *)h + DATA_AT;
    memcpy(to, &vnet, VNET_LEN);
    memcpy(to + VNET_LEN, bytes_of(pool, tx), tx->len);
    h->tp_len = (uint32_t)VNET_LEN + tx->len;
    __atomic_store_n(&h->tp_status, TP_STATUS_SEND_REQUEST, __ATOMIC_RELEASE);
    self->tx.at = nfm_afp_after(&self->tx, self->tx.at);
    sent(self, pool, tx);
    if (++self->pending >= KICK_AT)
        nfm_afp_kick(self);
    return 1;
}

/* What became of the first frame of a run that the kernel refused. */
static int refused(nfm_port_afpacket *self, nfm_pool *pool, const nfm_tx *tx, int errnum) {
    if (errnum == EAGAIN || errnum == ENOBUFS || errnum == EINTR)
        return FULL;
    if (is_down(errnum)) {
        link_lost(self);
        return LINK_DOWN;
    }
    self->port.stats.tx_oversize += errnum == EMSGSIZE;
    self->port.stats.tx_errors += errnum != EMSGSIZE;
    nfm_pool_put(pool, tx->slot);
    return 1;
}

/* Sends a run of long frames, or drops the first. Returns how many were accepted, FULL, or
 * LINK_DOWN. */
static int send_run(nfm_port_afpacket *self, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    struct virtio_net_hdr vnet[RUN];
    struct iovec parts[RUN][2];
    struct mmsghdr messages[RUN];
    uint32_t run = 0;
    if (!nfm_afp_kick(self))
        return FULL;
    if (!prepare(self, pool, &frames[0], &vnet[0])) {
        nfm_pool_put(pool, frames[0].slot);
        return 1;
    }
    do {
        const nfm_tx *tx = &frames[run];
        if (vnet[run].hdr_len == 0)
            vnet[run].hdr_len = LINEAR < tx->len ? LINEAR : (uint16_t)tx->len;
        parts[run][0] = (struct iovec){&vnet[run], VNET_LEN};
        parts[run][1] = (struct iovec){bytes_of(pool, tx), tx->len};
        messages[run] = (struct mmsghdr){.msg_hdr = {.msg_iov = parts[run], .msg_iovlen = 2}};
        run++;
    } while (run < n && run < RUN && !for_ring(pool, &frames[run]) &&
             prepare(self, pool, &frames[run], &vnet[run]));
    int done = sendmmsg(self->fd, messages, run, MSG_DONTWAIT);
    if (done < 0)
        return refused(self, pool, &frames[0], errno);
    for (int i = 0; i < done; i++)
        sent(self, pool, &frames[i]);
    return done;
}

/*
 * nfm_afp_tx sends or queues frames in order; see the theory of operation. Frames that can never be
 * sent (longer than the MTU allows, offload facts that do not fit) are accepted and counted.
 * Returns how many it accepted; NFM_E_IO when the link is down and none was.
 */
int nfm_afp_tx(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    nfm_port_afpacket *self = (nfm_port_afpacket *)port;
    uint32_t done = 0;
    int result = 1;
    if (!self->link.enabled)
        return NFM_E_IO;
    while (done < n && result > 0) {
        const nfm_tx *tx = &frames[done];
        result =
            for_ring(pool, tx) ? queue_frame(self, pool, tx) : send_run(self, pool, tx, n - done);
        done += result > 0 ? (uint32_t)result : 0;
    }
    if (result == FULL)
        port->stats.tx_full += n - done;
    return result == LINK_DOWN && done == 0 ? NFM_E_IO : (int)done;
}
