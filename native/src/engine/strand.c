/* SPDX-License-Identifier: Apache-2.0 */
/* Runs of bytes that are kept until their receiver has them, and numbers at both ends (strand.h).
 */
#include "engine/strand.h"

#include <stdlib.h>
#include <string.h>

int nfm__stream_way_init(nfm_worker *w, nfm_error *err) {
    nfm_stream_way *sw = w->way->stream = calloc(1, sizeof(*sw));
    if (sw == NULL)
        return NFM_E_NOMEM;
    sw->n_runs = w->pool.n_slots;
    sw->n_inquiries = w->delivery.n_records;
    const struct {
        const char *name;
        size_t size;
    } parts[4] = {{"strands", (size_t)w->table.max_flows * sizeof(nfm_strands)},
                  {"segments", (size_t)w->pool.n_slots * sizeof(nfm_segment)},
                  {"runs", (size_t)sw->n_runs * sizeof(nfm_run)},
                  {"inquiries", (size_t)sw->n_inquiries * sizeof(nfm_inquiry)}};
    for (int i = 0; i < 4; i++) {
        int rc = nfm_region_init(&sw->regions[i], parts[i].name, parts[i].size, err);
        if (rc != NFM_OK)
            return rc;
    }
    sw->strands = (nfm_strands *)(void *)sw->regions[0].base;
    sw->segments = (nfm_segment *)(void *)sw->regions[1].base;
    sw->runs = (nfm_run *)(void *)sw->regions[2].base;
    sw->inquiries = (nfm_inquiry *)(void *)sw->regions[3].base;
    return NFM_OK;
}

void nfm__stream_way_free(nfm_worker *w) {
    nfm_stream_way *sw = w->way->stream;
    for (int i = 0; sw != NULL && i < 4; i++)
        nfm_region_fini(&sw->regions[i]);
    free(sw);
    w->way->stream = NULL;
}

/* ---- runs ----------------------------------------------------------------------------------- */

static uint32_t take_run(nfm_stream_way *sw) {
    uint32_t link = sw->free_run;
    if (link != 0)
        sw->free_run = sw->runs[link - 1].next;
    else if (sw->fresh_runs < sw->n_runs)
        link = ++sw->fresh_runs;
    return link;
}

static bool is_large(const nfm_worker *w, uint32_t slot) {
    return slot >= w->pool.n_small;
}

uint32_t nfm__run_add(nfm_worker *w, nfm_strand *s, const nfm_run *what) {
    nfm_stream_way *sw = w->way->stream;
    uint32_t link = take_run(sw), before = s->tail;
    if (link == 0)
        return 0;
    while (before != 0 && nfm_seq_diff(nfm__run_at(w, before)->seq, what->seq) > 0)
        before = nfm__run_at(w, before)->prev;
    nfm_run *run = nfm__run_at(w, link);
    *run = *what;
    run->state = NFM_RUN_ASKED;
    run->new_slot = NFM_NO_SLOT;
    run->prev = before;
    run->next = before == 0 ? s->head : nfm__run_at(w, before)->next;
    *(before == 0 ? &s->head : &nfm__run_at(w, before)->next) = link;
    *(run->next == 0 ? &s->tail : &nfm__run_at(w, run->next)->prev) = link;
    s->n_runs++;
    sw->kept[is_large(w, run->slot)]++;
    nfm_pool_hold(&w->pool, run->slot);
    return link;
}

void nfm__run_restore(nfm_worker *w, nfm_run *run) {
    while (run->new_slot != NFM_NO_SLOT) {
        uint32_t slot = run->new_slot;
        run->new_slot = *nfm__next_of(w, slot);
        w->way->stream->kept[0]--;
        nfm_pool_put(&w->pool, slot);
    }
}

static void remove_run(nfm_worker *w, nfm_strand *s, uint32_t link) {
    nfm_stream_way *sw = w->way->stream;
    nfm_run *run = nfm__run_at(w, link);
    *(run->prev == 0 ? &s->head : &nfm__run_at(w, run->prev)->next) = run->next;
    *(run->next == 0 ? &s->tail : &nfm__run_at(w, run->next)->prev) = run->prev;
    s->n_runs--;
    sw->kept[is_large(w, run->slot)]--;
    nfm_pool_put(&w->pool, run->slot);
    nfm__run_restore(w, run);
    run->next = sw->free_run;
    sw->free_run = link;
}

uint32_t nfm__run_find(const nfm_worker *w, const nfm_strand *s, uint32_t seq) {
    uint32_t found = 0;
    for (uint32_t link = s->tail; link != 0; link = nfm__run_at(w, link)->prev) {
        const nfm_run *run = nfm__run_at(w, link);
        if (nfm_seq_diff(run->seq + run->len, seq) <= 0)
            break;
        found = link;
    }
    return found;
}

/* Makes the chain of |len| bytes from |bytes| on, last part first. False: slots are short. */
static bool take_bytes(nfm_worker *w, nfm_run *run, const uint8_t *bytes, uint32_t len) {
    uint32_t left = len;
    do {
        uint32_t part = left == 0 ? 0 : (left - 1) % NFM_LINK_BYTES + 1;
        uint32_t slot = nfm_pool_get(&w->pool, NFM_LINK_BYTES);
        if (slot == NFM_NO_SLOT)
            return false;
        left -= part;
        w->way->stream->kept[0]++;
        memcpy(nfm_pool_addr(&w->pool, slot) + NFM_HEADROOM, bytes + left, part);
        *nfm__next_of(w, slot) = run->new_slot;
        run->new_slot = slot;
    } while (left > 0);
    run->new_len = len;
    return true;
}

bool nfm__run_replace(nfm_worker *w, nfm_ring *ring, uint32_t link, const nfm_edit *how) {
    nfm_run *run = nfm__run_at(w, link);
    const uint8_t *bytes = nfm__payload_of(ring, how);
    if (bytes == NULL || run->left)
        return false;
    nfm__run_restore(w, run);
    if (!take_bytes(w, run, bytes, how->bytes_len)) {
        nfm__run_restore(w, run);
        w->core_counters[NFM_CC_INLINE_NO_ROOM]++;
        return false;
    }
    w->core_counters[NFM_CC_INLINE_REPLACED]++;
    return true;
}

/* ---- numbers -------------------------------------------------------------------------------- */

uint32_t nfm__strand_out(const nfm_worker *w, const nfm_strand *s, uint32_t seq) {
    if (!s->shifted)
        return seq;
    for (uint32_t link = s->tail; link != 0; link = nfm__run_at(w, link)->prev) {
        const nfm_run *run = nfm__run_at(w, link);
        int32_t behind = nfm_seq_diff(seq, run->seq + run->len);
        if (!run->left)
            continue;
        if (behind >= 0)
            return run->out + nfm__run_out_len(run) + (uint32_t)behind;
        if (nfm_seq_diff(seq, run->seq) >= 0)
            return run->out + nfm__run_out_at(run, seq - run->seq);
    }
    return seq + s->shift;
}

uint32_t nfm__strand_in(const nfm_worker *w, const nfm_strand *s, uint32_t out) {
    if (!s->shifted)
        return out;
    for (uint32_t link = s->tail; link != 0; link = nfm__run_at(w, link)->prev) {
        const nfm_run *run = nfm__run_at(w, link);
        if (!run->left)
            continue;
        int32_t behind = nfm_seq_diff(out, run->out + nfm__run_out_len(run));
        if (behind >= 0)
            return run->seq + run->len + (uint32_t)behind;
        if (nfm_seq_diff(out, run->out) >= 0)
            return run->seq + nfm__run_in_at(run, out - run->out);
    }
    return out - s->shift;
}

/* Whether the receiver, who acknowledges |out|, has the whole of |run|. One that has not left is
 * given up when what came behind it is acknowledged. */
static bool is_acked(const nfm_worker *w, const nfm_strand *s, const nfm_run *run, uint32_t out) {
    uint32_t end =
        run->left ? run->out + nfm__run_out_len(run) : nfm__strand_out(w, s, run->seq) + run->len;
    return run->state != NFM_RUN_ASKED && nfm_seq_diff(out, end) >= 0;
}

uint32_t nfm__strand_acked(nfm_worker *w, nfm_strand *s, uint32_t out) {
    while (s->head != 0) {
        const nfm_run *run = nfm__run_at(w, s->head);
        if (!is_acked(w, s, run, out))
            break;
        if (run->left)
            s->shift = run->out + nfm__run_out_len(run) - (run->seq + run->len);
        remove_run(w, s, s->head);
    }
    uint32_t seq = nfm__strand_in(w, s, out);
    bool is_new = !s->acked || nfm_seq_diff(seq, s->una) > 0;
    if (is_new && s->started && nfm_seq_diff(seq, s->next) <= 0) {
        s->una = seq;
        s->acked = 1;
    }
    return seq;
}

/* ---- life ----------------------------------------------------------------------------------- */

void nfm__strands_end(nfm_worker *w, nfm_strands *both) {
    for (int side = 0; side < 2; side++)
        while (both->side[side].head != 0)
            remove_run(w, &both->side[side], both->side[side].head);
    memset(both, 0, sizeof(*both));
}

void nfm__strands_rest(nfm_worker *w, uint32_t flow) {
    if (!nfm__has_strands(w, flow))
        return;
    nfm_strands *both = nfm__strands_of(w, flow);
    const nfm_strand *a = &both->side[0], *b = &both->side[1];
    bool is_idle = both->free && (a->head | b->head) == 0 && !a->shifted && !b->shifted;
    if (both->closed || is_idle)
        nfm__strands_end(w, both);
}

void nfm__strands_close(nfm_worker *w, uint32_t flow) {
    if (!nfm__has_strands(w, flow))
        return;
    nfm_strands *both = nfm__strands_of(w, flow);
    both->closed = 1;
    if (!nfm__transit_has_line(w, flow))
        nfm__strands_end(w, both);
}
