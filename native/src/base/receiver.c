/* SPDX-License-Identifier: Apache-2.0 */
/* The receiver's side of a ring that another process writes: attaching, waiting. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ring.h"

/* |entries| is what the ring says: read once, since a supervisor that passes entries for an NF may
 * have that still writing there. */
static const char *wrong_with(const nfm_ring *ring, uint32_t entries) {
    if (ring->shared->magic != NFM_RING_MAGIC)
        return "not a ring, or its worker has not begun";
    if (entries < 64 || (entries & (entries - 1)) != 0 ||
        nfm_ring_shared_size(entries) > ring->region.size)
        return "its size is damaged";
    return NULL;
}

nfm_ring *nfm_ring_attach(int fd, nfm_error *err) {
    nfm_ring *ring = calloc(1, sizeof(*ring));
    if (ring == NULL || nfm_region_adopt(&ring->region, fd, sizeof(nfm_ring_shared), true, err)) {
        free(ring);
        return NULL;
    }
    ring->shared = (nfm_ring_shared *)(void *)ring->region.base;
    uint32_t entries = *(volatile uint32_t *)&ring->shared->entries;
    const char *wrong = wrong_with(ring, entries);
    if (wrong != NULL || ring->shared->abi != NFM_ABI_VERSION) {
        err->code = wrong != NULL ? NFM_E_FORMAT : NFM_E_ABI;
        if (wrong != NULL)
            snprintf(err->text, sizeof(err->text), "ring (descriptor %d): %s", fd, wrong);
        else
            snprintf(err->text, sizeof(err->text),
                     "ring (descriptor %d): made for ABI %u, this library has ABI %u: run one "
                     "version of nfmesh",
                     fd, ring->shared->abi, NFM_ABI_VERSION);
        nfm_ring_detach(ring);
        return NULL;
    }
    ring->desc = ring->shared->desc;
    ring->mask = entries - 1;
    ring->is_shared = true;
    ring->tail = atomic_load_explicit(&ring->shared->tail, memory_order_relaxed);
    ring->head_seen = ring->tail;
    ring->payload_left = UINT64_MAX;
    if (ring->tail != 0) { /* what another receiver left there may not be taken yet */
        ring->payload_used = NFM_PAYLOAD_BYTES / 2;
        ring->payload_left = ring->payload_end = ring->tail;
    }
    if (nfm_ring_begin_receiver(ring) != NFM_OK) {
        err->code = NFM_E_NOMEM;
        snprintf(err->text, sizeof(err->text), "ring (descriptor %d): no memory", fd);
        nfm_ring_detach(ring);
        return NULL;
    }
    nfm_ring_come(ring);
    return ring;
}

void nfm_ring_come(nfm_ring *ring) {
    nfm_ring_shared *shared = ring->shared;
    if (atomic_load_explicit(&shared->came_at, memory_order_relaxed) == NFM_NOBODY)
        atomic_store_explicit(&shared->came_at, ring->tail, memory_order_release);
}

void nfm_ring_leave(nfm_ring *ring) {
    nfm_ring_shared *shared = ring->shared;
    uint64_t came = atomic_load_explicit(&shared->came_at, memory_order_relaxed);
    if (came == NFM_NOBODY)
        return;
    uint64_t tail = atomic_load_explicit(&shared->tail, memory_order_acquire);
    if (atomic_load_explicit(&shared->judged, memory_order_acquire) >= came)
        atomic_store_explicit(&shared->left_at, tail, memory_order_relaxed);
    atomic_store_explicit(&shared->came_at, NFM_NOBODY, memory_order_release);
}

void nfm_ring_detach(nfm_ring *ring) {
    if (ring == NULL)
        return;
    nfm_region_fini(&ring->region);
    free(ring->free_holds);
    free(ring);
}

static nfm_command *command_at(const nfm_ring *ring, uint64_t position) {
    return &ring->shared->command[position % NFM_COMMANDS];
}

/* Where bytes of commands that were not taken begin in out. */
static uint64_t out_tail(const nfm_ring *ring, uint64_t taken) {
    const nfm_command *oldest = command_at(ring, taken);
    return taken == ring->cmd_head ? ring->out_head : oldest->out_end - oldest->b;
}

/* Queues |command| with |bytes|, command.b of them; they fit out many times over. */
static int command_with(nfm_ring *ring, nfm_command command, const void *bytes) {
    nfm_ring_shared *shared = ring->shared;
    uint64_t taken = atomic_load_explicit(&shared->cmd_tail, memory_order_acquire);
    uint64_t at = ring->out_head, left = NFM_OUT_BYTES - at % NFM_OUT_BYTES;
    if (command.b > left)
        at += left;
    command.out_end = at + command.b;
    if (ring->cmd_head - taken >= NFM_COMMANDS ||
        command.out_end - out_tail(ring, taken) > NFM_OUT_BYTES)
        return NFM_E_AGAIN;
    if (command.b > 0)
        memcpy(shared->out + at % NFM_OUT_BYTES, bytes, command.b);
    ring->out_head = command.out_end;
    *command_at(ring, ring->cmd_head) = command;
    atomic_store_explicit(&shared->cmd_head, ++ring->cmd_head, memory_order_release);
    return NFM_OK;
}

static int command(nfm_ring *ring, nfm_command command) {
    return command_with(ring, command, NULL);
}

int nfm_ring_begin_receiver(nfm_ring *ring) {
    uint32_t holds = atomic_load_explicit(&ring->shared->holds, memory_order_acquire);
    ring->cmd_head = atomic_load_explicit(&ring->shared->cmd_head, memory_order_relaxed);
    ring->out_head = ring->cmd_head == 0 ? 0 : command_at(ring, ring->cmd_head - 1)->out_end;
    ring->gaps_seen = atomic_load_explicit(&ring->shared->gaps_seen, memory_order_relaxed);
    ring->max_holds = holds < NFM_MAX_HOLDS ? holds : NFM_MAX_HOLDS;
    free(ring->free_holds);
    ring->free_holds = NULL;
    ring->n_free_holds = 0;
    if (ring->max_holds == 0)
        return NFM_OK;
    ring->free_holds = malloc(ring->max_holds * sizeof(*ring->free_holds));
    if (ring->free_holds == NULL)
        return NFM_E_NOMEM;
    for (uint32_t i = ring->max_holds; i-- > 0;)
        ring->free_holds[ring->n_free_holds++] = (uint16_t)i;
    /* A full queue is one of holds that nobody took: the worker ends them when it takes this. */
    return command(ring, (nfm_command){.kind = NFM_CMD_BEGIN});
}

int nfm_ring_hold(nfm_ring *ring, uint32_t record) {
    if (ring->n_free_holds == 0)
        return NFM_E_LIMIT;
    uint32_t hold = ring->free_holds[ring->n_free_holds - 1];
    int rc = command(ring, (nfm_command){.kind = NFM_CMD_HOLD, .number = hold, .a = record});
    if (rc != NFM_OK)
        return rc;
    ring->n_free_holds--;
    return (int)hold;
}

int nfm_ring_release(nfm_ring *ring, uint32_t hold) {
    if (hold >= ring->max_holds || ring->n_free_holds == ring->max_holds)
        return NFM_E_INVAL;
    int rc = command(ring, (nfm_command){.kind = NFM_CMD_RELEASE, .number = hold});
    if (rc == NFM_OK)
        ring->free_holds[ring->n_free_holds++] = (uint16_t)hold;
    return rc;
}

/* A hold that |judgement| ends. */
static int judge(nfm_ring *ring, nfm_command judgement, const nfm_edit *edit) {
    if (judgement.number >= ring->max_holds || ring->n_free_holds == ring->max_holds)
        return NFM_E_INVAL;
    int rc = command_with(ring, judgement, edit);
    if (rc == NFM_OK)
        ring->free_holds[ring->n_free_holds++] = (uint16_t)judgement.number;
    return rc;
}

int nfm_ring_judge(nfm_ring *ring, uint32_t hold, uint32_t verdict) {
    return judge(ring, (nfm_command){.kind = NFM_CMD_JUDGE, .number = hold, .a = verdict}, NULL);
}

int nfm_ring_rewrite(nfm_ring *ring, uint32_t hold, const nfm_edit *edit) {
    nfm_command judgement = {
        .kind = NFM_CMD_JUDGE, .number = hold, .a = NFM_REWRITE, .b = sizeof(*edit)};
    return judge(ring, judgement, edit);
}

int nfm_ring_inject(nfm_ring *ring, uint32_t port, const uint8_t *frame, uint32_t len) {
    if (len == 0 || len > NFM_MAX_FRAME)
        return NFM_E_INVAL;
    return command_with(ring, (nfm_command){.kind = NFM_CMD_INJECT, .number = port, .b = len},
                        frame);
}

int nfm_ring_raise(nfm_ring *ring, uint32_t entry, uint32_t type, const uint8_t *fields,
                   uint32_t len) {
    if (len > NFM_RAISE_BYTES)
        return NFM_E_INVAL;
    nfm_command raising = {
        .kind = NFM_CMD_RAISE, .number = type, .a = ring->tail + entry, .b = len};
    return command_with(ring, raising, fields);
}

uint32_t *nfm_ring_verdicts(nfm_ring *ring, uint32_t n) {
    uint32_t *verdicts = nfm_ring_verdict_of(ring, ring->tail);
    memset(verdicts, 0, n * sizeof(*verdicts));
    return verdicts;
}

nfm_edit *nfm_ring_edits(nfm_ring *ring) {
    return nfm_ring_edit_of(ring, ring->tail);
}

/* Whether the worker has taken all verdicts that refer to the half that is not being filled: the
 * last of them are those of the batch in which it was left. */
static bool other_half_is_free(nfm_ring *ring) {
    if (ring->payload_left == UINT64_MAX)
        return true;
    if (ring->payload_end == 0 && ring->tail != ring->payload_left)
        ring->payload_end = ring->tail;
    uint64_t judged = atomic_load_explicit(&ring->shared->judged, memory_order_acquire);
    return ring->payload_end != 0 && judged >= ring->payload_end;
}

uint32_t nfm_ring_payloads_fit(nfm_ring *ring, const nfm_mem *mem, const nfm_desc *desc,
                               uint32_t n) {
    const uint32_t half = NFM_PAYLOAD_BYTES / 2, more = 1024;
    uint32_t used = ring->payload_used, halves = other_half_is_free(ring) ? 2 : 1;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = desc[i].record, len = id < mem->n_records ? mem->records[id].frame_len : 0;
        len = len < (half - more) / 2 ? 2 * len + more : half;
        if (used + len > half && (used = 0, --halves) == 0)
            return i;
        used += len;
    }
    return n;
}

uint8_t *nfm_ring_payload(nfm_ring *ring, uint32_t len, uint32_t *off) {
    const uint32_t half = NFM_PAYLOAD_BYTES / 2;
    if (len > half)
        return NULL;
    if (ring->payload_used + len > half) {
        if (!other_half_is_free(ring))
            return NULL;
        ring->payload_half ^= 1;
        ring->payload_used = 0;
        ring->payload_left = ring->tail;
        ring->payload_end = 0;
    }
    *off = ring->payload_half * half + ring->payload_used;
    ring->payload_used += len;
    return nfm_ring_payloads_of(ring) + *off;
}

int nfm_ring_subscribe(nfm_ring *ring, uint64_t flow, uint32_t group) {
    return command(ring, (nfm_command){.kind = NFM_CMD_SUBSCRIBE, .number = group, .a = flow});
}

int nfm_ring_unsubscribe(nfm_ring *ring, uint64_t flow, uint32_t group) {
    return command(ring, (nfm_command){.kind = NFM_CMD_UNSUBSCRIBE, .number = group, .a = flow});
}

uint64_t nfm_ring_position(const nfm_ring *ring) {
    return ring->tail;
}

int nfm_ring_wait(nfm_ring *ring, int64_t spin_ns, int64_t timeout_ns) {
    nfm__place place = nfm_ring_place(ring);
    return nfm__wait(&place, 1, spin_ns, timeout_ns);
}

void nfm_ring_stats_get(const nfm_ring *ring, nfm_ring_stats *out) {
    *out = (nfm_ring_stats){
        .head = atomic_load_explicit(&ring->shared->head, memory_order_relaxed),
        .tail = atomic_load_explicit(&ring->shared->tail, memory_order_relaxed),
        .dropped = ring->dropped,
        .gaps = ring->gaps,
        .holds = ring->n_held,
        .max_holds = ring->max_holds,
        .bad_tails = ring->bad_tails,
        .wakeups = ring->wakeups,
        .entries = ring->mask + 1,
        .quarantined = ring->quarantined,
    };
}
