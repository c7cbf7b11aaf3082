/* SPDX-License-Identifier: Apache-2.0 */
#include "io/handover.h"

#include <string.h>
#include <unistd.h>

#include "io/fail.h"

enum { STEP = 16, MASK = NFM_HANDOVER_BYTES - 1 };
static_assert((NFM_HANDOVER_BYTES & MASK) == 0, "positions are masked");

/* nfm_handover_object_size returns the bytes of a handover object. */
uint64_t nfm_handover_object_size(void) {
    return sizeof(nfm_handover_shared);
}

int nfm_handover_open(nfm_handover *ring, int fd, bool produces, nfm_error *err) {
    memset(ring, 0, sizeof(*ring));
    int rc = nfm_region_adopt(&ring->region, fd, sizeof(nfm_handover_shared), true, err);
    if (rc != NFM_OK)
        return rc;
    nfm_handover_shared *shared = (nfm_handover_shared *)(void *)ring->region.base;
    if (shared->magic == NFM_HANDOVER_MAGIC && shared->abi != NFM_ABI_VERSION) {
        nfm_io_fail(err, NFM_E_ABI,
                    "handover ring: made for ABI %u, this library has ABI %u: run one version of "
                    "nfmesh",
                    shared->abi, NFM_ABI_VERSION);
        nfm_handover_close(ring);
        return NFM_E_ABI;
    }
    shared->abi = NFM_ABI_VERSION;
    shared->magic = NFM_HANDOVER_MAGIC;
    ring->shared = shared;
    ring->bell = -1;
    ring->at = ring->published = atomic_load(produces ? &shared->head : &shared->tail);
    ring->keys = produces ? atomic_load(&shared->keys_end) : ring->at;
    if (produces)
        atomic_fetch_add(&shared->life, 1);
    else
        ring->life = atomic_load(&shared->life);
    return NFM_OK;
}

void nfm_handover_close(nfm_handover *ring) {
    nfm_region_fini(&ring->region);
    ring->shared = NULL;
}

static bool is_key(const nfm_handed *head) {
    return head->kind == NFM_HANDED_KEY || head->kind == NFM_HANDED_NO_KEY;
}

static nfm_handed *place(const nfm_handover *ring, uint64_t at) {
    return (nfm_handed *)(void *)(ring->shared->data + (at & MASK));
}

uint8_t *nfm_handover_write(nfm_handover *ring, const nfm_handed *head) {
    uint64_t size = sizeof(*head) + ((head->len + STEP - 1) & ~(uint64_t)(STEP - 1));
    uint64_t end = NFM_HANDOVER_BYTES - (ring->at & MASK), skipped = end < size ? end : 0;
    uint64_t tail = atomic_load_explicit(&ring->shared->tail, memory_order_acquire);
    if (ring->at + skipped + size - tail > NFM_HANDOVER_BYTES)
        return NULL;
    if (skipped >= sizeof(*head))
        *place(ring, ring->at) = (nfm_handed){.size = (uint32_t)skipped, .kind = NFM_HANDED_PAD};
    nfm_handed *entry = place(ring, ring->at + skipped);
    *entry = *head;
    entry->size = (uint32_t)size;
    ring->at += skipped + size;
    if (is_key(head))
        ring->keys = ring->at;
    return (uint8_t *)(entry + 1);
}

void nfm_handover_publish(nfm_handover *ring) {
    if (ring->at == ring->published)
        return;
    ring->published = ring->at;
    atomic_store_explicit(&ring->shared->keys_end, ring->keys, memory_order_release);
    atomic_store_explicit(&ring->shared->head, ring->at, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&ring->shared->asleep, memory_order_relaxed) == 0 || ring->bell < 0)
        return;
    const uint64_t one = 1;
    ssize_t rung = write(ring->bell, &one, sizeof(one)); /* full: it rings already */
    (void)rung;
}

/* The first entry from |*at| on, which moves there; NULL: there is none before |end|. */
static const uint8_t *find(const nfm_handover *ring, uint64_t *at, uint64_t end, nfm_handed *out) {
    while (*at < end) {
        uint64_t left = NFM_HANDOVER_BYTES - (*at & MASK);
        if (left < sizeof(*out)) { /* no room for a head: nothing was written there */
            *at += left;
            continue;
        }
        const nfm_handed *entry = place(ring, *at);
        *out = *entry;
        if (out->kind != NFM_HANDED_PAD)
            return (const uint8_t *)(entry + 1);
        *at += out->size;
    }
    return NULL;
}

const uint8_t *nfm_handover_peek(nfm_handover *ring, nfm_handed *out) {
    uint64_t head = atomic_load_explicit(&ring->shared->head, memory_order_acquire);
    return find(ring, &ring->at, head, out);
}

const uint8_t *nfm_handover_next_key(nfm_handover *ring, nfm_handed *out) {
    uint64_t end = atomic_load_explicit(&ring->shared->keys_end, memory_order_acquire);
    if (ring->keys < ring->at)
        ring->keys = ring->at;
    for (const uint8_t *bytes; (bytes = find(ring, &ring->keys, end, out)) != NULL;) {
        ring->keys += out->size;
        if (is_key(out))
            return bytes;
    }
    return NULL;
}

void nfm_handover_take(nfm_handover *ring, const nfm_handed *head) {
    ring->at += head->size;
    atomic_store_explicit(&ring->shared->tail, ring->at, memory_order_release);
}

void nfm_handover_sleep(nfm_handover *ring, bool sleeps) {
    atomic_store_explicit(&ring->shared->asleep, sleeps, memory_order_relaxed);
}
