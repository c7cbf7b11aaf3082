/* SPDX-License-Identifier: Apache-2.0 */
/* Packet slots: two classes, LIFO free lists (the next slot is the one still in cache), references
 * counted by the worker alone. Slot ids below n_small are small. */
#ifndef NFM_BASE_POOL_H
#define NFM_BASE_POOL_H

#include "nfm/nfm.h"

typedef struct nfm_pool {
    uint8_t *packets; /* the packets region */
    uint32_t n_small, n_slots;
    uint32_t n_free_small, n_free_large;
    uint32_t *free_small; /* stacks of slot ids */
    uint32_t *free_large;
    uint16_t *refs; /* by slot id */
} nfm_pool;

/* Borrows |packets| (n_small * 2 KiB + n_large * 68 KiB). Returns NFM_OK or NFM_E_NOMEM. */
int nfm_pool_init(nfm_pool *pool, uint8_t *packets, uint32_t n_small, uint32_t n_large);
void nfm_pool_fini(nfm_pool *pool);
/* Builds the free lists from the reference counts: after those were set for adopted slots. */
void nfm_pool_rebuild(nfm_pool *pool);

static inline uint8_t *nfm_pool_addr(const nfm_pool *pool, uint32_t slot) {
    if (slot < pool->n_small)
        return pool->packets + (size_t)slot * NFM_SLOT_SMALL;
    return pool->packets + (size_t)pool->n_small * NFM_SLOT_SMALL +
           (size_t)(slot - pool->n_small) * NFM_SLOT_LARGE;
}

static inline uint32_t nfm_pool_room(const nfm_pool *pool, uint32_t slot) {
    return (slot < pool->n_small ? NFM_SLOT_SMALL : NFM_SLOT_LARGE) - NFM_HEADROOM;
}

/* A slot with room for |len| frame bytes and one reference. Small frames never take large slots.
 * NFM_NO_SLOT when the class is empty or len > NFM_MAX_FRAME. */
static inline uint32_t nfm_pool_get(nfm_pool *pool, uint32_t len) {
    uint32_t slot;
    if (len <= NFM_SLOT_SMALL - NFM_HEADROOM) {
        if (pool->n_free_small == 0)
            return NFM_NO_SLOT;
        slot = pool->free_small[--pool->n_free_small];
    } else {
        if (pool->n_free_large == 0 || len > NFM_MAX_FRAME)
            return NFM_NO_SLOT;
        slot = pool->free_large[--pool->n_free_large];
    }
    pool->refs[slot] = 1;
    return slot;
}

static inline void nfm_pool_hold(nfm_pool *pool, uint32_t slot) {
    pool->refs[slot]++;
}

static inline void nfm_pool_put(nfm_pool *pool, uint32_t slot) {
    if (--pool->refs[slot] != 0)
        return;
    if (slot < pool->n_small)
        pool->free_small[pool->n_free_small++] = slot;
    else
        pool->free_large[pool->n_free_large++] = slot;
}

#endif
