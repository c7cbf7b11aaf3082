/* SPDX-License-Identifier: Apache-2.0 */
#include "ids.h"

/*
 * ids_on_hit takes a match down for each chain that its pattern belongs to: a match_event_handler,
 * |context| is an ids_search.
 */
int ids_on_hit(unsigned int id, unsigned long long from, unsigned long long to, unsigned int flags,
               void *context) {
    const ids_search *search = context;
    ids_table *table = search->table;
    const ids_pattern *pattern = &table->r.patterns[search->pattern + id];
    (void)from;
    (void)flags;
    if (pattern->from_begin && search->base != 0)
        return 0;
    for (uint32_t i = 0; i < pattern->uses.n; i++) {
        uint32_t use = pattern->uses.begin + i;
        if (table->n_hits == IDS_MAX_HITS) {
            table->hits_overflow = true;
            return 0;
        }
        table->hits[table->n_hits++] =
            (ids_hit){search->base + to, table->r.chains[table->r.uses[use].chain].rule, use};
    }
    return 0;
}

static int by_place(const void *a, const void *b) {
    const ids_hit *x = a, *y = b;
    if (x->end != y->end)
        return x->end < y->end ? -1 : 1;
    if (x->rule != y->rule)
        return x->rule < y->rule ? -1 : 1;
    return x->use < y->use ? -1 : x->use > y->use;
}

/*
 * ids_sort_hits puts the hits that were collected in order: by end, rule, use.
 */
void ids_sort_hits(ids *nf) {
    ids_table *table = nf->table;
    nf->stats.hits_dropped += table->hits_overflow;
    table->hits_overflow = false;
    if (table->n_hits > 1)
        qsort(table->hits, table->n_hits, sizeof(*table->hits), by_place);
}

/* The offset by which all that must not follow would have come. */
static uint64_t decided_at(const ids_table *table, const ids_chain *chain, uint64_t end) {
    uint64_t last = end;
    for (uint32_t i = 0; i < chain->follows.n; i++) {
        const ids_follow *f = &table->r.follows[chain->follows.begin + i];
        uint64_t at = f->within == IDS_END ? IDS_END : end + f->distance + f->within;
        last = at > last ? at : last;
    }
    return last;
}

/* A further candidate; in a full ring it takes the place of the one before it. */
static void add_candidate(ids *nf, ids_ring *ring, uint64_t end) {
    if (ring->n == IDS_RING) {
        nf->stats.candidates_dropped++;
        ring->n--;
    }
    ring->end[ring->n++] = end;
}

/* Something came that must not follow: the candidates in whose range it lies are none. */
static void strike(ids_ring *ring, const ids_follow *follow, uint64_t end) {
    uint64_t begin = end - follow->length;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < ring->n; i++) {
        uint64_t from = ring->end[i] + follow->distance;
        bool inside = begin >= from && (follow->within == IDS_END || end <= from + follow->within);
        if (!inside)
            ring->end[kept++] = ring->end[i];
    }
    ring->n = kept;
}

/*
 * ids_apply notes one hit in |progress|.
 */
void ids_apply(ids *nf, ids_progress *progress, const ids_hit *hit) {
    const ids_table *table = nf->table;
    const ids_use *use = &table->r.uses[hit->use];
    const ids_chain *chain = &table->r.chains[use->chain];
    if (chain->follows.n == 0)
        ids_bit_set(progress->met, use->chain);
    else if (use->follow == IDS_HEAD)
        add_candidate(nf, &progress->rings[chain->ring], hit->end);
    else
        strike(&progress->rings[chain->ring], &table->r.follows[use->follow], hit->end);
}

/*
 * ids_resolve marks a chain as met when a candidate is left whose ranges end by |now|; lowers *next
 * to the earliest end of the others' ranges.
 */
void ids_resolve(const ids_table *table, ids_progress *progress, const ids_chain *chain,
                 uint64_t now, uint64_t *next) {
    ids_ring *ring = &progress->rings[chain->ring];
    for (uint32_t i = 0; i < ring->n; i++) {
        uint64_t at = decided_at(table, chain, ring->end[i]);
        if (at <= now) {
            ids_bit_set(progress->met, (uint32_t)(chain - table->r.chains));
            ring->n = 0;
            return;
        }
        *next = at < *next ? at : *next;
    }
}

/*
 * ids_is_met says whether all that |rule| wants was found, and nothing that it does not want.
 * |whole|: the begin of the bytes was seen.
 */
bool ids_is_met(const ids_table *table, const ids_progress *progress, const ids_rule *rule,
                bool whole) {
    for (uint32_t i = 0; i < rule->chains.n; i++) {
        uint32_t at = rule->chains.begin + i;
        const ids_chain *chain = &table->r.chains[at];
        if (ids_bit_is(progress->met, at) == (chain->negated != 0))
            return false;
        if (chain->negated && chain->from_begin && !whole)
            return false;
    }
    return true;
}
