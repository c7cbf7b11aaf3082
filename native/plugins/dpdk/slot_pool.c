/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A NIC's driver takes empty mbufs from a mempool and puts sent ones back. Here the mempool has
 * operations of its own: taking an mbuf takes a slot off the worker's free list, putting one back
 * drops a reference of its slot. There is one mbuf per slot, in DPDK's memory, whose buffer is
 * pinned to the slot for good (RTE_PKTMBUF_POOL_F_PINNED_EXT_BUF), so a received mbuf says its slot
 * by its buffer's address and a frame is sent by its slot's mbuf. Nothing is copied either way, and
 * there is no reserve for the NIC besides what its queues hold. Of the ways that DPDK 22.11 offers:
 * rte_pktmbuf_attach_extbuf wants a call and a counter per frame; rte_pktmbuf_pool_create_extbuf
 * splits memory into elements of its own that only it hands out, so slots would belong to either
 * the NIC or the worker for ever.
 *
 * The slot's headroom and the mbuf's are of the same size: the driver writes frames just where the
 * worker wants them.
 *
 * Rules: the mempool has no per-core cache, and only the worker's thread works with it: a device
 * that lets another thread free mbufs (a ring between two ports) must use copies. The exception is
 * the start of a device with several queues, which fills all of them from one thread: slots are
 * laid out for that beforehand (stock). While an mbuf is in a worker's hands nobody looks at it;
 * only its slot counts.
 */
#include "slot_pool.h"

#include <errno.h>
#include <rte_errno.h>
#include <rte_mempool.h>
#include <stdlib.h>
#include <string.h>

#define OPS_NAME "nfm_slots"

static_assert(RTE_PKTMBUF_HEADROOM == NFM_HEADROOM, "drivers write where slots have their frame");

typedef struct slot_mbuf { /* an element of the mempool */
    struct rte_mbuf mbuf;
    struct rte_mbuf_ext_shared_info shared; /* DPDK reads its reference count */
} slot_mbuf;

static int take_config(struct rte_mempool *mempool) {
    mempool->pool_data = mempool->pool_config;
    return 0;
}

static void forget(struct rte_mempool *mempool) {
    mempool->pool_data = NULL;
}

/* Also called with each new element while the mempool is filled: their order makes them slots. */
static int give_back(struct rte_mempool *mempool, void *const *objects, unsigned n) {
    slot_pool *self = mempool->pool_data;
    if (self->n_filled < mempool->size) {
        for (unsigned i = 0; i < n && self->n_filled < mempool->size; i++)
            self->mbufs[self->n_filled++] = objects[i];
        return 0;
    }
    if (self->pool == NULL)
        return 0;
    for (unsigned i = 0; i < n; i++) {
        uint32_t slot = slot_pool_slot(self, objects[i]);
        self->sending[slot] = 0;
        nfm_pool_put(self->pool, slot);
    }
    return 0;
}

static int take(struct rte_mempool *mempool, void **objects, unsigned n) {
    slot_pool *self = mempool->pool_data;
    nfm_pool *pool = self->pool;
    if (unlikely(self->stock != NULL)) {
        if (self->n_stock < n)
            return -ENOBUFS;
        for (unsigned i = 0; i < n; i++)
            objects[i] = self->mbufs[self->stock[--self->n_stock]];
        return 0;
    }
    if (pool == NULL || pool->n_free_small < n)
        return -ENOBUFS;
    for (unsigned i = 0; i < n; i++)
        objects[i] = self->mbufs[nfm_pool_get(pool, 0)];
    return 0;
}

static unsigned count_free(const struct rte_mempool *mempool) {
    const slot_pool *self = mempool->pool_data;
    if (self->n_filled < mempool->size)
        return self->n_filled;
    return self->pool != NULL ? self->pool->n_free_small : 0;
}

static const struct rte_mempool_ops slot_ops = {.name = OPS_NAME,
                                                .alloc = take_config,
                                                .free = forget,
                                                .enqueue = give_back,
                                                .dequeue = take,
                                                .get_count = count_free};

static void unused_free(void *address, void *opaque) {
    (void)address;
    (void)opaque;
}

/* Binds the mbuf of |slot| to it. */
static void bind(slot_pool *self, uint32_t slot) {
    slot_mbuf *element = (slot_mbuf *)(void *)self->mbufs[slot];
    struct rte_mbuf *mbuf = &element->mbuf;
    memset(element, 0, sizeof(*element));
    uint32_t room = nfm_pool_room(self->pool, slot) + NFM_HEADROOM;
    mbuf->buf_addr = nfm_pool_addr(self->pool, slot);
    /* Devices that reach memory themselves work with virtual addresses here (device.c). */
    mbuf->buf_iova = (rte_iova_t)(uintptr_t)mbuf->buf_addr;
    mbuf->buf_len = (uint16_t)RTE_MIN(room, UINT16_MAX);
    mbuf->data_off = NFM_HEADROOM;
    mbuf->pool = self->mempool;
    mbuf->nb_segs = 1;
    mbuf->port = RTE_MBUF_PORT_INVALID;
    mbuf->ol_flags = RTE_MBUF_F_EXTERNAL;
    rte_mbuf_refcnt_set(mbuf, 1);
    element->shared.free_cb = unused_free; /* pinned: DPDK never calls it */
    rte_mbuf_ext_refcnt_set(&element->shared, 1);
    mbuf->shinfo = &element->shared;
}

static struct rte_mempool *make_mempool(slot_pool *self, const char *name) {
    struct rte_mempool *made =
        rte_mempool_create_empty(name, self->pool->n_slots, sizeof(slot_mbuf), 0,
                                 sizeof(struct rte_pktmbuf_pool_private), SOCKET_ID_ANY, 0);
    if (made == NULL)
        return NULL;
    if (rte_mempool_set_ops_byname(made, OPS_NAME, self) != 0 &&
        (rte_mempool_register_ops(&slot_ops) < 0 ||
         rte_mempool_set_ops_byname(made, OPS_NAME, self) != 0)) {
        rte_mempool_free(made);
        return NULL;
    }
    struct rte_pktmbuf_pool_private private = {.mbuf_data_room_size = NFM_SLOT_SMALL,
                                               .flags = RTE_PKTMBUF_POOL_F_PINNED_EXT_BUF};
    rte_pktmbuf_pool_init(made, &private);
    return made;
}

int slot_pool_init(slot_pool *self, nfm_pool *pool, const char *name) {
    *self = (slot_pool){.pool = pool};
    self->mbufs = calloc(pool->n_slots, sizeof(struct rte_mbuf *));
    self->sending = calloc(pool->n_slots, 1);
    if (self->mbufs != NULL && self->sending != NULL)
        self->mempool = make_mempool(self, name);
    if (self->mempool == NULL || rte_mempool_populate_default(self->mempool) < 0 ||
        self->n_filled != pool->n_slots) {
        slot_pool_fini(self);
        return -1;
    }
    for (uint32_t slot = 0; slot < pool->n_slots; slot++)
        bind(self, slot);
    return 0;
}

bool slot_pool_stock(slot_pool *self, uint32_t n) {
    uint32_t *stock = self->pool->n_free_small >= n ? calloc(n, sizeof(uint32_t)) : NULL;
    if (stock == NULL)
        return false;
    for (self->n_stock = 0; self->n_stock < n; self->n_stock++)
        stock[self->n_stock] = nfm_pool_get(self->pool, 0);
    self->stock = stock;
    return true;
}

void slot_pool_unstock(slot_pool *self) {
    while (self->n_stock > 0)
        nfm_pool_put(self->pool, self->stock[--self->n_stock]);
    free(self->stock);
    self->stock = NULL;
}

void slot_pool_fini(slot_pool *self) {
    self->pool = NULL;               /* freeing takes every mbuf out: the slots are the worker's */
    rte_mempool_free(self->mempool); /* NULL is fine */
    free(self->mbufs);
    free(self->sending);
    *self = (slot_pool){0};
}
