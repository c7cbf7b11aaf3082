/* SPDX-License-Identifier: Apache-2.0 */
/* A DPDK mempool that is our packet pool: mbuf i is the head of slot i. */
#ifndef NFM_DPDK_SLOT_POOL_H
#define NFM_DPDK_SLOT_POOL_H

#include "base/pool.h"

#include <rte_mbuf.h>

typedef struct slot_pool {
    nfm_pool *pool; /* NULL: the worker is gone; slots that come back go nowhere */
    struct rte_mempool *mempool;
    struct rte_mbuf **mbufs; /* by slot */
    uint8_t *sending;        /* by slot: its mbuf is in the device's hands to be sent */
    uint32_t n_filled;
    uint32_t *stock; /* slots laid out for another thread that starts the device; NULL: none */
    uint32_t n_stock;
} slot_pool;

/* Makes the mempool over |pool|, which is borrowed until slot_pool_fini. Returns 0, or -1 with
 * rte_errno set and nothing left. |name| is unique in the process. */
int slot_pool_init(slot_pool *self, nfm_pool *pool, const char *name);
/* Lays out |n| slots: until slot_pool_unstock mbufs are taken of these, by whichever thread starts
 * the device, while the worker's own goes on with its pool. False: no memory, or too few slots. */
bool slot_pool_stock(slot_pool *self, uint32_t n);
/* Puts back what is left of them; mbufs are taken of the pool from now on. */
void slot_pool_unstock(slot_pool *self);
/* Frees the mbufs; no device may hold one. Slots are not touched. */
void slot_pool_fini(slot_pool *self);

/* The slot of an mbuf of this mempool. */
static inline uint32_t slot_pool_slot(const slot_pool *self, const struct rte_mbuf *mbuf) {
    size_t at = (size_t)((const uint8_t *)mbuf->buf_addr - self->pool->packets);
    size_t small = (size_t)self->pool->n_small * NFM_SLOT_SMALL;
    if (at < small)
        return (uint32_t)(at / NFM_SLOT_SMALL);
    return self->pool->n_small + (uint32_t)((at - small) / NFM_SLOT_LARGE);
}

#endif
