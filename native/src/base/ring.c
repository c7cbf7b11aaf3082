/* SPDX-License-Identifier: Apache-2.0 */
#include "base/ring.h"

#include <stdlib.h>
#include <string.h>

#define SPILL_ENTRIES (1u << 16)

size_t nfm_ring_shared_size(uint32_t entries) {
    return sizeof(nfm_ring_shared) + (size_t)entries * sizeof(nfm_desc);
}

int nfm_ring_init(nfm_ring *ring, void *memory, uint32_t entries, bool lossy) {
    if (entries < 64 || (entries & (entries - 1)) != 0)
        return NFM_E_INVAL;
    memset(ring, 0, sizeof(*ring));
    ring->shared = memory;
    ring->shared->magic = NFM_RING_MAGIC;
    ring->shared->abi = NFM_ABI_VERSION;
    ring->shared->entries = entries;
    ring->desc = ring->shared->desc;
    ring->mask = entries - 1;
    ring->limit = entries;
    ring->lossy = lossy;
    if (!lossy) {
        ring->spill = malloc(sizeof(nfm_desc) * SPILL_ENTRIES);
        if (ring->spill == NULL)
            return NFM_E_NOMEM;
        ring->n_spill = SPILL_ENTRIES;
    }
    return NFM_OK;
}

void nfm_ring_fini(nfm_ring *ring) {
    free(ring->spill);
    memset(ring, 0, sizeof(*ring));
}

bool nfm_ring_push_full(nfm_ring *ring, uint32_t record, uint32_t flow, uint64_t what) {
    if (ring->head - ring->in_ring >= ring->n_spill) {
        ring->dropped++;
        return false;
    }
    ring->spill[ring->head++ % ring->n_spill] = (nfm_desc){record, flow, what};
    ring->limit = ring->in_ring; /* later entries must queue behind this one */
    return true;
}

void nfm_ring_flush(nfm_ring *ring) {
    uint64_t room = ring->tail_seen + ring->mask + 1;
    while (ring->in_ring < ring->head && ring->in_ring < room) {
        ring->desc[ring->in_ring & ring->mask] = ring->spill[ring->in_ring % ring->n_spill];
        ring->in_ring++;
    }
    if (ring->in_ring == ring->head)
        ring->limit = room;
    nfm_ring_publish(ring);
}

uint32_t nfm_ring_peek(nfm_ring *ring, const nfm_desc **desc, uint32_t max) {
    uint64_t head = atomic_load_explicit(&ring->shared->head, memory_order_acquire);
    uint64_t n = head - ring->tail;
    uint64_t to_end = ring->mask + 1 - (ring->tail & ring->mask);
    *desc = ring->desc + (ring->tail & ring->mask);
    n = n < to_end ? n : to_end;
    return (uint32_t)(n < max ? n : max);
}

void nfm_ring_advance(nfm_ring *ring, uint32_t n) {
    ring->tail += n;
    atomic_store_explicit(&ring->shared->tail, ring->tail, memory_order_release);
}
