/* SPDX-License-Identifier: Apache-2.0 */
/* A socket with its rings over the worker's slots. */
#ifndef NFM_AFXDP_SESSION_H
#define NFM_AFXDP_SESSION_H

#include "base/pool.h"
#include "redirect.h"

#include <xdp/xsk.h>

typedef struct session {
    nfm_pool *pool;
    struct xsk_umem *umem;
    struct xsk_socket *socket; /* NULL: not running */
    int fd;
    struct xsk_ring_prod fill, tx;
    struct xsk_ring_cons done, rx;
    uint16_t *lent;               /* by slot: how often the kernel has it */
    uint32_t n_fill, fill_target; /* slots that the kernel may fill */
    uint32_t unsent;              /* frames handed over and not completed */
} session;

/* Makes the packets the socket's memory and lets the frames of the queue come. Returns NFM_OK, or a
 * status with the reason in |err|. |config| is complete: no zeroes in its sizes. */
int session_start(session *self, nfm_pool *pool, const char *interface,
                  const nfm_afxdp_config *config, nfm_error *err);
/* Closes the socket and gives back every slot that the kernel had. */
void session_stop(session *self);

/* Lends the kernel slots to fill, as many as it should have and there are. */
void session_refill(session *self);
/* Takes back slots whose frames were sent. */
void session_collect(session *self);
/* Asks the kernel to send and receive when it waits to be asked. */
void session_kick(session *self);

/* The slot around an address that the kernel names. */
static inline uint32_t session_slot(const session *self, uint64_t address) {
    uint64_t small = (uint64_t)self->pool->n_small * NFM_SLOT_SMALL;
    if (address < small)
        return (uint32_t)(address / NFM_SLOT_SMALL);
    return self->pool->n_small + (uint32_t)((address - small) / NFM_SLOT_LARGE);
}

static inline uint64_t session_address(const session *self, uint32_t slot) {
    return (uint64_t)(nfm_pool_addr(self->pool, slot) - self->pool->packets);
}

#endif
