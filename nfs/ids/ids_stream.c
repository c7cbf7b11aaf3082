/* SPDX-License-Identifier: Apache-2.0 */
/* Rules about streams: a matcher, bits and candidates for each side of a flow. */
#include "ids.h"

typedef struct stream { /* one side under way */
    uint32_t index;
    ids_progress progress;
    uint64_t *done;
    uint64_t *next;
    bool whole; /* its begin was seen */
} stream;

static stream stream_at(const ids_table *table, uint32_t index) {
    return (stream){
        .index = index,
        .progress = {table->met + (size_t)index * table->met_words,
                     table->rings + (size_t)index * table->r.n_stream_rings},
        .done = table->done + (size_t)index * table->done_words,
        .next = &table->next[index],
        .whole = table->streams.at[index].base == 0,
    };
}

static void clear(const ids_table *table, stream *s) {
    memset(s->progress.met, 0, table->met_words * sizeof(uint64_t));
    memset(s->done, 0, table->done_words * sizeof(uint64_t));
    if (table->r.n_stream_rings > 0)
        memset(s->progress.rings, 0, table->r.n_stream_rings * sizeof(ids_ring));
    *s->next = IDS_END;
}

static bool is_over(const ids_occasion *o) {
    return o->passed || (o->flow != NULL && o->flow->passed);
}

static void ask(ids *nf, ids_occasion *o, stream *s, uint32_t number) {
    const ids_rule *rule = &nf->table->r.rules[number];
    if (is_over(o))
        return;
    enum ids_answer answer = ids_ask(nf, o, rule);
    if (answer == IDS_NEVER || rule->terms & IDS_DEFERRED ||
        (answer == IDS_MATCHED && !(rule->terms & IDS_REPEATS)))
        ids_bit_set(s->done, number);
}

/* When |rule|, of which all is met that must be found, is decided: IDS_END at the end. */
static uint64_t due_at(const ids_table *table, const ids_rule *rule) {
    uint64_t due = 0;
    for (uint32_t i = 0; i < rule->chains.n; i++) {
        const ids_chain *chain = &table->r.chains[rule->chains.begin + i];
        if (chain->negated && chain->until > due)
            due = chain->until;
    }
    return due;
}

/* Asks |number| if all of it is met and decided by |now|; else notes when it will be. */
static void ask_deferred(ids *nf, ids_occasion *o, stream *s, uint32_t number, uint64_t now) {
    const ids_table *table = nf->table;
    const ids_rule *rule = &table->r.rules[number];
    if (ids_bit_is(s->done, number))
        return;
    for (uint32_t i = 0; i < rule->chains.n; i++) {
        const ids_chain *chain = &table->r.chains[rule->chains.begin + i];
        if (chain->follows.n > 0)
            ids_resolve(table, &s->progress, chain, now, s->next);
    }
    if (!ids_is_met(table, &s->progress, rule, s->whole))
        return;
    uint64_t due = due_at(table, rule);
    if (due <= now)
        ask(nf, o, s, number);
    else if (due < *s->next)
        *s->next = due;
}

/* Decides what is decided by offset |now|, or at the end. */
static void decide(ids *nf, ids_occasion *o, stream *s, uint64_t now) {
    const ids_table *table = nf->table;
    o->position = now == IDS_END ? nf->table->streams.at[s->index].next_off : now;
    *s->next = IDS_END;
    for (uint32_t i = 0; i < table->n_deferred; i++)
        ask_deferred(nf, o, s, table->deferred[i], now);
}

/* Goes through the hits in order; what is decided before one of them comes before it. */
static void go_through(ids *nf, ids_occasion *o, stream *s) {
    ids_table *table = nf->table;
    ids_sort_hits(nf);
    for (uint32_t i = 0; i < table->n_hits && !is_over(o);) {
        const ids_hit *first = &table->hits[i];
        while (*s->next < first->end)
            decide(nf, o, s, *s->next);
        for (; i < table->n_hits && table->hits[i].end == first->end &&
               table->hits[i].rule == first->rule;
             i++)
            ids_apply(nf, &s->progress, &table->hits[i]);
        const ids_rule *rule = &table->r.rules[first->rule];
        o->position = first->end;
        if (ids_bit_is(s->done, first->rule))
            continue;
        if (rule->terms & IDS_DEFERRED)
            ask_deferred(nf, o, s, first->rule, first->end);
        else if (ids_is_met(table, &s->progress, rule, s->whole))
            ask(nf, o, s, first->rule);
    }
}

/*
 * ids_stream_data looks through further bytes of a stream.
 */
void ids_stream_data(ids *nf, ids_occasion *o) {
    ids_table *table = nf->table;
    nfm_view data = nfm_record_data(o->mem, o->record);
    bool is_new;
    if (table->databases[0] == NULL)
        return;
    uint32_t index = search_streams_take(&table->streams, o->record, data.len, &is_new);
    if (index == SEARCH_NONE) {
        nf->stats.failures++;
        return;
    }
    stream s = stream_at(table, index);
    if (is_new)
        clear(table, &s);
    const search_stream *e = &table->streams.at[index];
    ids_search search = {table, e->base, table->r.buffers[0].patterns.begin};
    table->n_hits = 0;
    nf->stats.stream_bytes += data.len;
    if (hs_scan_stream(e->matcher, (const char *)data.data, data.len, 0, table->scratch, ids_on_hit,
                       &search) != HS_SUCCESS)
        nf->stats.failures++;
    go_through(nf, o, &s);
    while (*s.next <= e->next_off && !is_over(o))
        decide(nf, o, &s, *s.next);
}

/* Decides what the end decides, of one side. */
static void end_side(ids *nf, ids_occasion *o, uint32_t index) {
    ids_table *table = nf->table;
    const search_stream *e = &table->streams.at[index];
    ids_search search = {table, e->base, table->r.buffers[0].patterns.begin};
    table->n_hits = 0;
    stream s = stream_at(table, index);
    if (!search_streams_restart(&table->streams, index, ids_on_hit, &search))
        nf->stats.failures++;
    go_through(nf, o, &s);
    if (!is_over(o))
        decide(nf, o, &s, IDS_END);
    search_streams_forget(&table->streams, index);
}

/*
 * ids_stream_end decides at a flow's end what waits for the end of its streams.
 */
void ids_stream_end(ids *nf, ids_occasion *o) {
    for (uint8_t side = 0; side < 2; side++) {
        uint32_t index = search_streams_find(&nf->table->streams, o->record->flow, side);
        if (index == SEARCH_NONE)
            continue;
        o->sender = side;
        end_side(nf, o, index);
    }
}
