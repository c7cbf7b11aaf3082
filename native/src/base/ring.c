/* SPDX-License-Identifier: Apache-2.0 */
#include "base/ring.h"

#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPILL_ENTRIES (1u << 16)

static bool is_entries(uint64_t entries) {
    return entries >= 64 && entries <= 1u << 24 && (entries & (entries - 1)) == 0;
}

uint64_t nfm_ring_object_size(uint32_t entries) {
    return is_entries(entries) ? nfm_ring_shared_size(entries) : 0;
}

size_t nfm_ring_shared_size(uint32_t entries) {
    return sizeof(nfm_ring_shared) +
           (size_t)entries * (sizeof(nfm_desc) + sizeof(uint32_t) + sizeof(nfm_edit)) +
           NFM_PAYLOAD_BYTES;
}

/* Positions below the limit may be written without a second look. */
static void set_limit(nfm_ring *ring) {
    if (ring->suppress > 0 || ring->quarantined || ring->missing > 0)
        ring->limit = 0;
    else if (ring->spilled == 0)
        ring->limit = ring->tail_seen + ring->quota;
    else
        ring->limit = 0; /* entries queue behind the spilled ones */
}

/* Entries that fit behind head, nothing being spilled. */
static uint64_t room(const nfm_ring *ring) {
    uint64_t end = ring->tail_seen + ring->quota;
    return end > ring->head ? end - ring->head : 0;
}

void nfm_ring_set_quota(nfm_ring *ring, uint32_t entries) {
    ring->quota = entries <= ring->mask ? entries : ring->mask + 1;
    set_limit(ring);
}

void nfm_ring_unspill(nfm_ring *ring) {
    ring->head -= ring->spilled;
    ring->spilled = 0;
    set_limit(ring);
}

/* The worker's own half, over a laid out shared part of |entries|, which its receiver may change
 * there. */
static int init_worker_side(nfm_ring *ring, nfm_ring_shared *shared, uint32_t entries, bool lossy) {
    ring->shared = shared;
    ring->desc = shared->desc;
    ring->mask = entries - 1;
    ring->quota = entries;
    ring->lossy = lossy;
    if (!lossy) {
        ring->spill = malloc(sizeof(nfm_desc) * SPILL_ENTRIES);
        if (ring->spill == NULL)
            return NFM_E_NOMEM;
        ring->n_spill = SPILL_ENTRIES;
    }
    set_limit(ring);
    return NFM_OK;
}

static void lay_out(nfm_ring_shared *shared, uint32_t entries) {
    shared->abi = NFM_ABI_VERSION;
    shared->entries = entries;
    atomic_thread_fence(memory_order_release);
    shared->magic = NFM_RING_MAGIC;
}

int nfm_ring_init(nfm_ring *ring, void *memory, uint32_t entries, bool lossy) {
    if (!is_entries(entries))
        return NFM_E_INVAL;
    memset(ring, 0, sizeof(*ring));
    ring->payload_left = UINT64_MAX;
    lay_out(memory, entries);
    return init_worker_side(ring, memory, entries, lossy);
}

/* The largest power of two of entries that an object of |size| bytes has room for. */
static uint32_t entries_of_size(size_t size) {
    uint32_t entries = 64;
    while (entries < 1u << 24 && nfm_ring_shared_size(entries * 2) <= size)
        entries *= 2;
    return entries;
}

int nfm_ring_adopt(nfm_ring *ring, int fd, bool lossy, nfm_error *err) {
    memset(ring, 0, sizeof(*ring));
    int rc = nfm_region_adopt(&ring->region, fd, nfm_ring_shared_size(64), true, err);
    if (rc != NFM_OK)
        return rc;
    nfm_ring_shared *shared = (nfm_ring_shared *)(void *)ring->region.base;
    uint32_t entries = entries_of_size(ring->region.size);
    uint64_t head = atomic_load(&shared->head), tail = atomic_load(&shared->tail);
    bool fresh = shared->magic != NFM_RING_MAGIC || shared->entries != entries;
    if (fresh || head - tail > entries) { /* new, or spoilt by its receiver: nothing to keep */
        head = fresh ? 0 : tail;
        atomic_store(&shared->head, head);
        lay_out(shared, entries);
    }
    atomic_store(&shared->ended, 0);
    uint64_t commands = atomic_load(&shared->cmd_head);
    ring->cmd_tail = atomic_load(&shared->cmd_tail);
    if (commands - ring->cmd_tail > NFM_COMMANDS)
        ring->cmd_tail = commands;
    ring->gaps = atomic_load(&shared->gaps);
    ring->is_shared = true;
    ring->adopted = head != tail;
    ring->head = ring->published = head;
    ring->tail_seen = head == 0 ? 0 : tail;
    return init_worker_side(ring, shared, entries, lossy);
}

void nfm_ring_fini(nfm_ring *ring) {
    free(ring->spill);
    free(ring->held);
    free(ring->parked);
    free(ring->free_holds);
    nfm_region_fini(&ring->region);
    memset(ring, 0, sizeof(*ring));
}

static void put(nfm_ring *ring, nfm_desc desc) {
    ring->desc[ring->head++ & ring->mask] = desc;
}

static void put_gap(nfm_ring *ring) {
    put(ring, (nfm_desc){NFM_NO_RECORD, NFM_NO_FLOW, NFM_DESC_GAP | ring->missing});
    ring->missing = 0;
    atomic_store_explicit(&ring->shared->gaps, ++ring->gaps, memory_order_relaxed);
}

/* A lossy ring that is, or was, full: goes on when a sixteenth of it is free. */
static bool push_behind_gap(nfm_ring *ring, nfm_desc desc) {
    if (ring->missing == 0 || room(ring) < (ring->quota + 15) / 16) {
        ring->dropped++;
        ring->missing++;
        set_limit(ring);
        return false;
    }
    put_gap(ring);
    put(ring, desc);
    set_limit(ring);
    return true;
}

void nfm_ring_miss(nfm_ring *ring) {
    if (!ring->lossy || ring->quarantined || ring->suppress > 0)
        return;
    ring->dropped++;
    ring->missing++;
    set_limit(ring);
}

bool nfm_ring_push_full(nfm_ring *ring, uint32_t record, uint32_t flow, uint64_t what) {
    if (ring->suppress > 0) {
        if (--ring->suppress == 0)
            set_limit(ring);
        return false;
    }
    if (ring->lossy && !ring->quarantined)
        return push_behind_gap(ring, (nfm_desc){record, flow, what});
    if (ring->quarantined || ring->spilled >= ring->n_spill) {
        ring->dropped++;
        return false;
    }
    ring->spill[ring->head++ % ring->n_spill] = (nfm_desc){record, flow, what};
    ring->spilled++;
    set_limit(ring);
    return true;
}

void nfm_ring_take_tail(nfm_ring *ring, uint64_t tail) {
    if (tail < ring->tail_seen || tail > ring->published) {
        ring->bad_tails++;
        ring->quarantined = true;
        ring->tail_seen = ring->head; /* it holds nothing back any more */
        ring->spilled = 0;
    } else {
        ring->tail_seen = tail;
    }
    set_limit(ring);
}

void nfm_ring_flush(nfm_ring *ring) {
    if (ring->quarantined)
        return;
    if (ring->spilled > 0) {
        uint64_t end = ring->tail_seen + ring->mask + 1;
        for (uint64_t at = nfm_ring_in(ring); ring->spilled > 0 && at < end; at++) {
            ring->desc[at & ring->mask] = ring->spill[at % ring->n_spill];
            ring->spilled--;
        }
        set_limit(ring);
    }
    nfm_ring_publish(ring);
}

int nfm_ring_allow_holds(nfm_ring *ring, uint32_t holds) {
    uint32_t *held = calloc(holds, sizeof(*held));
    if (held == NULL)
        return NFM_E_NOMEM;
    free(ring->held);
    ring->held = held;
    ring->max_holds = holds;
    atomic_store_explicit(&ring->shared->holds, holds, memory_order_release);
    return ring->is_shared ? NFM_OK : nfm_ring_begin_receiver(ring);
}

bool nfm_ring_take_command(nfm_ring *ring, nfm_command *out) {
    uint64_t head = atomic_load_explicit(&ring->shared->cmd_head, memory_order_acquire);
    if (head == ring->cmd_tail || ring->quarantined)
        return false;
    if (head - ring->cmd_tail > NFM_COMMANDS) {
        nfm_ring_take_tail(ring, UINT64_MAX); /* lies here, too: quarantine */
        return false;
    }
    memcpy(out, &ring->shared->command[ring->cmd_tail % NFM_COMMANDS], sizeof(*out));
    atomic_store_explicit(&ring->shared->cmd_tail, ++ring->cmd_tail, memory_order_release);
    return true;
}

bool nfm_ring_see_command(const nfm_ring *ring, uint64_t position, nfm_command *out) {
    uint64_t head = atomic_load_explicit(&ring->shared->cmd_head, memory_order_acquire);
    uint64_t n = head - ring->cmd_tail;
    if (ring->quarantined || n > NFM_COMMANDS || position - ring->cmd_tail >= n)
        return false;
    memcpy(out, &ring->shared->command[position % NFM_COMMANDS], sizeof(*out));
    return true;
}

const uint8_t *nfm_ring_command_bytes(const nfm_ring *ring, const nfm_command *command) {
    uint64_t at = (command->out_end - command->b) % NFM_OUT_BYTES;
    if (command->b == 0 || command->b > NFM_OUT_BYTES - at)
        return NULL;
    return ring->shared->out + at;
}

void nfm_ring_suppress(nfm_ring *ring, uint64_t n) {
    ring->suppress = n;
    set_limit(ring);
}

void nfm_ring_wake(nfm_ring *ring) {
    ring->look_at = ring->head + (ring->mask + 1) / 2;
    atomic_thread_fence(memory_order_seq_cst);
    uint32_t seq = atomic_load_explicit(&ring->shared->wake_seq, memory_order_relaxed);
    if (atomic_load_explicit(&ring->shared->asleep, memory_order_relaxed) != seq + 1)
        return;
    atomic_store_explicit(&ring->shared->wake_seq, seq + 1, memory_order_release);
    syscall(SYS_futex, &ring->shared->wake_seq, FUTEX_WAKE, 1, NULL, NULL, 0);
    ring->wakeups++;
}

void nfm_ring_tell_time(nfm_ring *ring, int64_t now_ns, uint64_t packet) {
    if (ring->spilled > 0 ||
        packet <= atomic_load_explicit(&ring->shared->packet, memory_order_relaxed))
        return;
    atomic_store_explicit(&ring->shared->packet, packet, memory_order_release);
    if (now_ns > atomic_load_explicit(&ring->shared->now_ns, memory_order_relaxed))
        atomic_store_explicit(&ring->shared->now_ns, now_ns, memory_order_release);
}

int64_t nfm_ring_clock(const nfm_ring *ring) {
    if (atomic_load_explicit(&ring->shared->ended, memory_order_acquire) != 0)
        return INT64_MAX;
    return atomic_load_explicit(&ring->shared->now_ns, memory_order_acquire);
}

uint64_t nfm_ring_clock_packet(const nfm_ring *ring) {
    return atomic_load_explicit(&ring->shared->packet, memory_order_acquire);
}

void nfm_ring_end(nfm_ring *ring) {
    if (ring->missing > 0 && !ring->quarantined && room(ring) > 0) {
        put_gap(ring);
        nfm_ring_flush(ring);
    }
    atomic_store_explicit(&ring->shared->ended, 1, memory_order_release);
    nfm_ring_wake(ring);
}

uint32_t nfm_ring_peek(nfm_ring *ring, const nfm_desc **desc, uint32_t max) {
    if (ring->head_seen - ring->tail < max)
        ring->head_seen = atomic_load_explicit(&ring->shared->head, memory_order_acquire);
    uint64_t n = ring->head_seen - ring->tail;
    uint64_t to_end = ring->mask + 1 - (ring->tail & ring->mask);
    *desc = ring->desc + (ring->tail & ring->mask);
    n = n < to_end ? n : to_end;
    n = n < max ? n : max;
    if (__builtin_expect(
            atomic_load_explicit(&ring->shared->gaps, memory_order_relaxed) != ring->gaps_seen, 0))
        for (uint64_t i = 0; i < n; i++)
            if ((*desc)[i].what & NFM_DESC_GAP && !((*desc)[i].what & NFM_DESC_APP))
                n = i;
    return (uint32_t)n;
}

uint64_t nfm_ring_gap(const nfm_ring *ring) {
    uint64_t head = atomic_load_explicit(&ring->shared->head, memory_order_acquire);
    const nfm_desc *desc = &ring->desc[ring->tail & ring->mask];
    if (head == ring->tail || !(desc->what & NFM_DESC_GAP) || desc->what & NFM_DESC_APP)
        return 0;
    return desc->what & ((UINT64_C(1) << NFM_EV_MAX) - 1);
}

void nfm_ring_advance(nfm_ring *ring, uint32_t n) {
    uint64_t gaps = atomic_load_explicit(&ring->shared->gaps, memory_order_relaxed);
    if (__builtin_expect(gaps != ring->gaps_seen, 0) && nfm_ring_gap(ring) != 0)
        atomic_store_explicit(&ring->shared->gaps_seen, ++ring->gaps_seen, memory_order_relaxed);
    ring->tail += n;
    atomic_store_explicit(&ring->shared->tail, ring->tail, memory_order_release);
}
