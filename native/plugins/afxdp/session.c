/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The socket's memory (UMEM) is the packets object itself, with chunks at any address
 * (XDP_UMEM_UNALIGNED_CHUNK_FLAG): a slot's stride is no power of two. The kernel writes a frame
 * XDP_PACKET_HEADROOM (256) bytes behind the address that it was lent. A slot's frame begins 128
 * bytes behind its start, so what is lent is the address 128 bytes before the slot: the kernel
 * leaves that headroom alone, since the program there (redirect.c) moves nothing into it. So a
 * chunk is a slot and the end of the one before, and slot 0, which has none before it, is never
 * lent. Frames are sent from where they lie. Nothing is copied between socket and slots; whether
 * the driver copies is the driver's matter.
 *
 * Every address in the kernel's hands is counted by slot, so that all can be taken back when the
 * socket is closed. What the kernel says is checked: an address outside the packets is dropped.
 */
#include "session.h"

#include "io/fail.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    KERNEL_HEADROOM = 256, /* XDP_PACKET_HEADROOM of linux/bpf.h */
    BEFORE_SLOT = KERNEL_HEADROOM - NFM_HEADROOM,
    CHUNK = BEFORE_SLOT + NFM_SLOT_SMALL, /* as long a frame as fits the slot */
    REFILL_STEP = 64,
};
static_assert(CHUNK <= 4096, "a chunk is a page at most");

static const char *remedy(int errnum) {
    switch (errnum) {
    case EPERM:
    case ENOBUFS:
    case ENOMEM:
        return "it takes CAP_NET_RAW, and locked memory for all packets (ulimit -l, or "
               "CAP_IPC_LOCK)";
    case EBUSY:
        return "another socket has this queue";
    case EOPNOTSUPP:
        return "its driver has no zero-copy for memory like this: let it copy";
    case EINVAL:
        return "it has no such queue (ethtool -l), or the packets do not begin at a page";
    default:
        return "dmesg may say more";
    }
}

static int make_umem(session *self, const nfm_afxdp_config *config) {
    const nfm_pool *pool = self->pool;
    uint64_t size = (uint64_t)pool->n_small * NFM_SLOT_SMALL +
                    (uint64_t)(pool->n_slots - pool->n_small) * NFM_SLOT_LARGE;
    const struct xsk_umem_config umem = {.fill_size = config->rx_size,
                                         .comp_size = config->tx_size,
                                         .frame_size = CHUNK,
                                         .flags = XDP_UMEM_UNALIGNED_CHUNK_FLAG};
    return xsk_umem__create(&self->umem, pool->packets, size, &self->fill, &self->done, &umem);
}

static int make_socket(session *self, const char *interface, const nfm_afxdp_config *config) {
    struct xsk_socket_config socket = {.rx_size = config->rx_size,
                                       .tx_size = config->tx_size,
                                       .libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD,
                                       .bind_flags = XDP_USE_NEED_WAKEUP};
    if (config->copy == NFM_COPY_ALWAYS)
        socket.bind_flags |= XDP_COPY;
    if (config->copy == NFM_COPY_NEVER)
        socket.bind_flags |= XDP_ZEROCOPY;
    return xsk_socket__create(&self->socket, interface, config->queue, self->umem, &self->rx,
                              &self->tx, &socket);
}

int session_start(session *self, nfm_pool *pool, const char *interface,
                  const nfm_afxdp_config *config, nfm_error *err) {
    *self = (session){.pool = pool, .fd = -1};
    self->lent = calloc(pool->n_slots, sizeof(uint16_t));
    if (self->lent == NULL)
        return nfm_io_fail(err, NFM_E_NOMEM, "afxdp: no memory for %u slots", pool->n_slots);
    /* A queue never has more than a quarter of the slots. */
    self->fill_target = config->rx_size < pool->n_small / 4 ? config->rx_size : pool->n_small / 4;
    int rc = make_umem(self, config);
    if (rc == 0) {
        session_refill(self);
        rc = make_socket(self, interface, config);
    }
    if (rc != 0) {
        session_stop(self);
        return nfm_io_fail(err, NFM_E_IO, "afxdp: %s: queue %u cannot be opened: %s; %s", interface,
                           config->queue, strerror(-rc), remedy(-rc));
    }
    self->fd = xsk_socket__fd(self->socket);
    return NFM_OK;
}

void session_stop(session *self) {
    if (self->socket != NULL)
        xsk_socket__delete(self->socket);
    if (self->umem != NULL)
        xsk_umem__delete(self->umem);
    for (uint32_t slot = 0; self->lent != NULL && slot < self->pool->n_slots; slot++)
        for (; self->lent[slot] > 0; self->lent[slot]--)
            nfm_pool_put(self->pool, slot);
    free(self->lent);
    *self = (session){.fd = -1};
}

void session_refill(session *self) {
    while (self->n_fill < self->fill_target) {
        uint32_t n = self->fill_target - self->n_fill, at = 0, done = 0;
        n = n < REFILL_STEP ? n : REFILL_STEP;
        n = n < self->pool->n_free_small ? n : self->pool->n_free_small;
        if (n == 0 || xsk_ring_prod__reserve(&self->fill, n, &at) != n)
            return;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t slot = nfm_pool_get(self->pool, 0);
            self->lent[slot]++; /* slot 0 too: it is kept out of the way */
            if (slot != 0)
                *xsk_ring_prod__fill_addr(&self->fill, at + done++) =
                    session_address(self, slot) - BEFORE_SLOT;
        }
        self->fill.cached_prod -= n - done; /* what was reserved and not used */
        xsk_ring_prod__submit(&self->fill, done);
        self->n_fill += done;
    }
}

void session_collect(session *self) {
    uint32_t at = 0, n = xsk_ring_cons__peek(&self->done, REFILL_STEP, &at);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t address = *xsk_ring_cons__comp_addr(&self->done, at + i);
        uint32_t slot = session_slot(self, xsk_umem__add_offset_to_addr(address));
        if (slot >= self->pool->n_slots || self->lent[slot] == 0)
            continue;
        self->lent[slot]--;
        nfm_pool_put(self->pool, slot);
    }
    if (n > 0)
        xsk_ring_cons__release(&self->done, n);
    self->unsent -= n < self->unsent ? n : self->unsent;
}

void session_kick(session *self) {
    /* What these calls return tells nothing that the rings do not. */
    if (self->unsent > 0 && xsk_ring_prod__needs_wakeup(&self->tx))
        (void)sendto(self->fd, NULL, 0, MSG_DONTWAIT, NULL, 0);
    if (xsk_ring_prod__needs_wakeup(&self->fill))
        (void)recvfrom(self->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
}
