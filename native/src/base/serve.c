/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop of a native NF that hears nothing but rings: between two batches there is no Python.
 *
 * Theory of operation. Before a batch is handed out, the caller's journal is told which entries it
 * has, and afterwards that none is at hand: so who restarts a killed NF knows where it was. Entries
 * are passed batch by batch, for the worker can release and judge them while the next batch is at
 * work. The caller gets control back after a turn, after a sleep that nothing ended, and whenever
 * something other than an entry comes: a gap, or a batch that the NF refuses.
 */
#include <time.h>

#include "base/ring.h"

/* Entries of a batch at most: their records are still in a cache when the tail passes them. */
enum { BATCH = 256 };

static int64_t monotonic_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Another process reads these words when this one is gone. */
static void note(const nfm_serve_config *config, uint64_t entries, uint64_t position) {
    volatile uint64_t *work = config->work;
    if (work == NULL)
        return;
    work[1] = position;
    work[0] = entries;
}

/* An NF that fails has judged nothing: its policy holds for the batch. */
static void fail(const nfm_serve_config *config, const nfm_batch *batch) {
    for (uint32_t i = 0; batch->verdict != NULL && i < batch->n; i++)
        batch->verdict[i] = config->fail_open ? NFM_PASS : NFM_DROP;
}

/* Hands out one batch of a ring; returns its entries. */
static uint32_t serve_one(const nfm_serve_config *config, const nfm_served_ring *from,
                          nfm_served *out) {
    nfm_ring *ring = from->ring;
    nfm_batch batch = {.mem = from->mem, .handler = UINT32_MAX, .ring = ring};
    batch.n = nfm_ring_peek(ring, &batch.desc, BATCH);
    if (batch.n == 0) {
        out->stopped |= nfm_ring_gap(ring) != 0;
        return 0;
    }
    if (config->in_line) {
        batch.verdict = nfm_ring_verdicts(ring, batch.n);
        batch.edit = nfm_ring_edits(ring);
    }
    uint32_t last = batch.desc[batch.n - 1].record;
    out->now_ns = last < from->mem->n_records ? from->mem->records[last].ts_ns : out->now_ns;
    note(config, (uint64_t)batch.n << 32 | from->source, ring->tail);
    out->status = config->process(config->state, &batch);
    if (out->status != NFM_OK)
        fail(config, &batch);
    note(config, 0, 0);
    nfm_ring_advance(ring, batch.n);
    out->events += batch.n;
    out->batches++;
    out->stopped |= out->status != NFM_OK;
    return batch.n;
}

static int wait(const nfm_serve_config *config) {
    nfm__place places[NFM_SERVE_RINGS];
    for (uint32_t i = 0; i < config->n_rings; i++)
        places[i] = nfm_ring_place(config->rings[i].ring);
    return nfm__wait(places, config->n_rings, config->spin_ns, config->idle_ns);
}

/*
 * nfm_serve hands what the rings of |config| get to its native NF, for |turn_ns|. All of |config|
 * is borrowed until it returns.  Returns NFM_RING_READY: the turn is over, or |out| says what
 * stopped it; NFM_RING_TIMEOUT: nothing came for |idle_ns|; NFM_RING_ENDED: nothing follows;
 * NFM_E_INVAL.
 */
int nfm_serve(const nfm_serve_config *config, nfm_served *out) {
    int64_t begin = monotonic_ns(), now = begin;
    *out = (nfm_served){0};
    if (config->n_rings == 0 || config->n_rings > NFM_SERVE_RINGS)
        return NFM_E_INVAL;
    while (now - begin < config->turn_ns) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < config->n_rings && !out->stopped; i++)
            n += serve_one(config, &config->rings[i], out);
        if (out->stopped)
            return NFM_RING_READY;
        if (n == 0) {
            int state = wait(config);
            if (state != NFM_RING_READY)
                return state;
        }
        now = monotonic_ns();
        if (config->beat != NULL)
            *(volatile int64_t *)config->beat = now;
    }
    return NFM_RING_READY;
}
