/* SPDX-License-Identifier: Apache-2.0 */
/* Rules about packets and events: buffers whose begin and end are at hand. */
#include "ids.h"

static int by_number(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void touch(ids_table *table, uint32_t chain) {
    if (ids_bit_is(table->seen, chain))
        return;
    ids_bit_set(table->seen, chain);
    table->touched[table->n_touched++] = chain;
}

/* A buffer that is not there: nothing is in it, and nothing can be said not to be in it. */
static void search_absent(ids_table *table, uint32_t number) {
    ids_span span = table->negated_of[number];
    for (uint32_t i = 0; i < span.n; i++) {
        ids_bit_set(table->block.met, table->negated[span.begin + i]);
        touch(table, table->negated[span.begin + i]);
    }
}

/* Looks through one buffer, and notes what is met. */
static void search(ids *nf, uint32_t number, nfm_view data) {
    ids_table *table = nf->table;
    ids_search context = {table, 0, table->r.buffers[number].patterns.begin};
    if (data.data == NULL || data.len == 0) {
        search_absent(table, number);
        return;
    }
    if (table->databases[number] == NULL)
        return;
    table->n_hits = 0;
    if (hs_scan(table->databases[number], (const char *)data.data, data.len, 0, table->scratch,
                ids_on_hit, &context) != HS_SUCCESS)
        nf->stats.failures++;
    ids_sort_hits(nf);
    for (uint32_t i = 0; i < table->n_hits; i++) {
        ids_apply(nf, &table->block, &table->hits[i]);
        touch(table, table->r.uses[table->hits[i].use].chain);
    }
}

/* Rules of which something was found, and those that need nothing found; in order. */
static uint32_t candidates(ids_table *table, uint8_t kind) {
    uint32_t n = table->always_of[kind].n, kept = 0;
    if (n > 0)
        memcpy(table->asked, table->always + table->always_of[kind].begin, n * sizeof(uint32_t));
    for (uint32_t i = 0; i < table->n_touched; i++) {
        const ids_chain *chain = &table->r.chains[table->touched[i]];
        uint64_t next = IDS_END;
        if (chain->follows.n > 0)
            ids_resolve(table, &table->block, chain, IDS_END, &next);
        if (!chain->negated)
            table->asked[n++] = chain->rule;
    }
    qsort(table->asked, n, sizeof(*table->asked), by_number);
    for (uint32_t i = 0; i < n; i++)
        if (i == 0 || table->asked[i] != table->asked[i - 1])
            table->asked[kept++] = table->asked[i];
    return kept;
}

static void ask_all(ids *nf, ids_occasion *o) {
    ids_table *table = nf->table;
    uint32_t n = candidates(table, o->kind);
    for (uint32_t i = 0; i < n && !o->passed; i++) {
        const ids_rule *rule = &table->r.rules[table->asked[i]];
        if (rule->kind == o->kind && ids_is_met(table, &table->block, rule, true))
            ids_ask(nf, o, rule);
    }
    for (uint32_t i = 0; i < table->n_touched; i++) {
        const ids_chain *chain = &table->r.chains[table->touched[i]];
        table->block.met[table->touched[i] / 64] = 0;
        table->seen[table->touched[i] / 64] = 0;
        if (chain->follows.n > 0)
            table->block.rings[chain->ring].n = 0;
    }
    table->n_touched = 0;
}

/*
 * ids_ask_packet asks the rules about packets at a packet.
 */
void ids_ask_packet(ids *nf, ids_occasion *o) {
    const uint8_t *slot = nfm_slot_ptr(o->mem, o->record->slot);
    nfm_view payload = {NULL, 0};
    if (o->record->proto == 17)
        payload = nfm_record_data(o->mem, o->record);
    else if (slot != NULL && !(o->record->flags & NFM_F_PART))
        payload = (nfm_view){slot + o->record->payload_off, o->record->payload_len};
    nf->stats.packets++;
    o->payload_len = o->record->payload_len;
    search(nf, 1, payload);
    ask_all(nf, o);
}

/*
 * ids_ask_event asks the rules about events of |o->kind| at one.
 */
void ids_ask_event(ids *nf, ids_occasion *o) {
    const ids_table *table = nf->table;
    nf->stats.events++;
    for (uint32_t i = 2; i < table->r.n_buffers; i++)
        if (table->r.buffers[i].kind == o->kind)
            search(nf, i, ids_buffer_of(table, &table->r.buffers[i], o));
    ask_all(nf, o);
}
