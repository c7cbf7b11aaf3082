/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "ids.h"

static unsigned int flags_of(const ids_pattern *p) {
    return p->once ? HS_FLAG_SINGLEMATCH : 0;
}

static hs_expr_ext_t range_of(const ids_pattern *p) {
    hs_expr_ext_t ext = {0};
    if (p->least > 0) {
        ext.flags |= HS_EXT_FLAG_MIN_OFFSET;
        ext.min_offset = p->least;
    }
    if (p->most != IDS_END) {
        ext.flags |= HS_EXT_FLAG_MAX_OFFSET;
        ext.max_offset = p->most;
    }
    return ext;
}

static void say(char *text, uint32_t text_size, hs_compile_error_t *error) {
    snprintf(text, text_size, "%s", error != NULL ? error->message : "out of memory");
    hs_free_compile_error(error);
}

/*
 * ids_check compiles one pattern by itself. Returns NFM_OK, or NFM_E_INVAL with one line in |text|.
 */
int ids_check(const ids_pattern *pattern, int is_stream, char *text, uint32_t text_size) {
    const hs_expr_ext_t ext = range_of(pattern), *ext_at = &ext;
    unsigned int flags = flags_of(pattern);
    hs_database_t *database = NULL;
    hs_compile_error_t *error = NULL;
    hs_error_t rc =
        hs_compile_ext_multi(&pattern->expression, &flags, NULL, &ext_at, 1,
                             is_stream ? HS_MODE_STREAM : HS_MODE_BLOCK, NULL, &database, &error);
    if (rc == HS_SUCCESS) {
        hs_free_database(database);
        return NFM_OK;
    }
    say(text, text_size, error);
    return NFM_E_INVAL;
}

typedef struct listing { /* patterns of one buffer as the matcher wants them */
    const char **expressions;
    unsigned int *flags, *ids;
    hs_expr_ext_t *ext;
    const hs_expr_ext_t **ext_at;
} listing;

static void free_listing(listing *l) {
    free(l->expressions);
    free(l->flags);
    free(l->ids);
    free(l->ext);
    free(l->ext_at);
}

static bool make_listing(const ids_table *table, ids_span span, listing *l) {
    *l = (listing){calloc(span.n, sizeof(*l->expressions)), calloc(span.n, sizeof(*l->flags)),
                   calloc(span.n, sizeof(*l->ids)), calloc(span.n, sizeof(*l->ext)),
                   calloc(span.n, sizeof(*l->ext_at))};
    if (!l->expressions || !l->flags || !l->ids || !l->ext || !l->ext_at)
        return false;
    for (uint32_t i = 0; i < span.n; i++) {
        const ids_pattern *p = &table->r.patterns[span.begin + i];
        l->expressions[i] = p->expression;
        l->flags[i] = flags_of(p);
        l->ids[i] = i;
        l->ext[i] = range_of(p);
        l->ext_at[i] = &l->ext[i];
    }
    return true;
}

static bool compile_buffer(ids_table *table, uint32_t number, char *text, uint32_t text_size) {
    ids_span span = table->r.buffers[number].patterns;
    listing l;
    hs_compile_error_t *error = NULL;
    if (span.n == 0)
        return true;
    bool ok = make_listing(table, span, &l);
    if (ok && hs_compile_ext_multi(l.expressions, l.flags, l.ids, l.ext_at, span.n,
                                   number == 0 ? HS_MODE_STREAM : HS_MODE_BLOCK, NULL,
                                   &table->databases[number], &error) != HS_SUCCESS) {
        say(text, text_size, error);
        ok = false;
    }
    free_listing(&l);
    return ok && hs_alloc_scratch(table->databases[number], &table->scratch) == HS_SUCCESS;
}

/* ---- copies --------------------------------------------------------------------------------- */

/* A copy of n entries of |size| bytes; NULL without memory. */
static void *copy_of(const void *from, uint32_t n, size_t size) {
    void *made = calloc(n > 0 ? n : 1, size);
    if (made != NULL && n > 0)
        memcpy(made, from, n * size);
    return made;
}

static const char *keep_text(ids_table *table, const char *text) {
    char *made = text != NULL ? strdup(text) : NULL;
    if (made != NULL)
        table->texts[table->n_texts++] = made;
    return made;
}

static bool copy_rules(ids_table *table, const ids_rules *from) {
    ids_rules *r = &table->r;
    *r = *from;
    r->rules = copy_of(from->rules, from->n_rules, sizeof(*r->rules));
    r->chains = copy_of(from->chains, from->n_chains, sizeof(*r->chains));
    r->follows = copy_of(from->follows, from->n_follows, sizeof(*r->follows));
    r->uses = copy_of(from->uses, from->n_uses, sizeof(*r->uses));
    r->bits = copy_of(from->bits, from->n_bits, sizeof(*r->bits));
    r->headers = copy_of(from->headers, from->n_headers, sizeof(*r->headers));
    r->addresses = copy_of(from->addresses, from->n_addresses, sizeof(*r->addresses));
    r->ports = copy_of(from->ports, from->n_ports, sizeof(*r->ports));
    ids_pattern *patterns = copy_of(from->patterns, from->n_patterns, sizeof(*patterns));
    ids_buffer *buffers = copy_of(from->buffers, from->n_buffers, sizeof(*buffers));
    r->patterns = patterns;
    r->buffers = buffers;
    table->texts = calloc(from->n_patterns + from->n_buffers, sizeof(*table->texts));
    if (!r->rules || !r->chains || !r->follows || !r->uses || !r->bits || !r->headers ||
        !r->addresses || !r->ports || !patterns || !buffers || !table->texts)
        return false;
    bool ok = true;
    for (uint32_t i = 0; i < from->n_patterns; i++)
        ok &= (patterns[i].expression = keep_text(table, patterns[i].expression)) != NULL;
    for (uint32_t i = 0; i < from->n_buffers; i++)
        if (buffers[i].header != NULL)
            ok &= (buffers[i].header = keep_text(table, buffers[i].header)) != NULL;
    return ok;
}

/* ---- lists ---------------------------------------------------------------------------------- */

static bool needs_nothing_found(const ids_table *table, const ids_rule *rule) {
    for (uint32_t i = 0; i < rule->chains.n; i++)
        if (!table->r.chains[rule->chains.begin + i].negated)
            return false;
    return true;
}

static void list_rules(ids_table *table) {
    uint32_t n = 0;
    for (uint32_t kind = 0; kind < IDS_KINDS; kind++) {
        table->always_of[kind].begin = n;
        for (uint32_t i = 0; i < table->r.n_rules; i++)
            if (table->r.rules[i].kind == kind && needs_nothing_found(table, &table->r.rules[i]))
                table->always[n++] = i;
        table->always_of[kind].n = n - table->always_of[kind].begin;
    }
    for (uint32_t i = 0; i < table->r.n_stream_rules; i++)
        if (table->r.rules[i].terms & IDS_DEFERRED)
            table->deferred[table->n_deferred++] = i;
}

static void list_negated(ids_table *table) {
    uint32_t n = 0;
    for (uint32_t b = 0; b < table->r.n_buffers; b++) {
        ids_span patterns = table->r.buffers[b].patterns;
        table->negated_of[b].begin = n;
        for (uint32_t i = patterns.begin; i < patterns.begin + patterns.n; i++) {
            ids_span uses = table->r.patterns[i].uses;
            for (uint32_t u = uses.begin; u < uses.begin + uses.n; u++)
                if (table->r.chains[table->r.uses[u].chain].negated)
                    table->negated[n++] = table->r.uses[u].chain;
        }
        table->negated_of[b].n = n - table->negated_of[b].begin;
    }
}

static bool make_lists(ids_table *table) {
    const ids_rules *r = &table->r;
    uint32_t words = r->n_chains / 64 + 1;
    table->always = calloc(r->n_rules + 1, sizeof(*table->always));
    table->deferred = calloc(r->n_rules + 1, sizeof(*table->deferred));
    table->negated = calloc(r->n_uses + 1, sizeof(*table->negated));
    table->negated_of = calloc(r->n_buffers, sizeof(*table->negated_of));
    table->block.met = calloc(words, sizeof(uint64_t));
    table->block.rings = calloc(r->n_rings + 1, sizeof(ids_ring));
    table->seen = calloc(words, sizeof(*table->seen));
    table->touched = calloc(r->n_chains + 1, sizeof(*table->touched));
    table->asked = calloc(r->n_rules + r->n_chains + 1, sizeof(*table->asked));
    table->hits = calloc(IDS_MAX_HITS, sizeof(*table->hits));
    table->text = malloc(IDS_TEXT);
    if (!table->always || !table->deferred || !table->negated || !table->negated_of ||
        !table->block.met || !table->block.rings || !table->seen || !table->touched ||
        !table->asked || !table->hits || !table->text)
        return false;
    list_rules(table);
    list_negated(table);
    return true;
}

/* As many streams as fit the quota. */
static bool make_streams(ids_table *table) {
    const ids_rules *r = &table->r;
    size_t size = 0;
    if (table->databases[0] != NULL && hs_stream_size(table->databases[0], &size) != HS_SUCCESS)
        return false;
    table->met_words = r->n_stream_chains / 64 + 1;
    table->done_words = r->n_stream_rules / 64 + 1;
    table->bytes_per_stream = size + sizeof(search_stream) + 2 * sizeof(uint32_t) +
                              (table->met_words + table->done_words + 1) * sizeof(uint64_t) +
                              r->n_stream_rings * sizeof(ids_ring);
    uint64_t memory = table->databases[0] != NULL ? r->stream_memory : 0;
    uint32_t max = search_streams_fitting(memory, table->bytes_per_stream);
    table->met = calloc((size_t)max * table->met_words, sizeof(uint64_t));
    table->done = calloc((size_t)max * table->done_words, sizeof(uint64_t));
    table->next = calloc(max, sizeof(uint64_t));
    table->rings = calloc((size_t)max * r->n_stream_rings + 1, sizeof(ids_ring));
    table->streams.database = table->databases[0];
    table->streams.scratch = table->scratch;
    return table->met && table->done && table->next && table->rings &&
           search_streams_init(&table->streams, max);
}

/*
 * ids_compile makes a table of rules; may run in any thread. NULL with one line in |text| when the
 * matcher refuses the patterns together, or without memory. Free it, or give it to ids_swap.
 */
ids_table *ids_compile(const ids_rules *rules, char *text, uint32_t text_size) {
    ids_table *table = calloc(1, sizeof(*table));
    snprintf(text, text_size, "out of memory");
    bool ok = table != NULL && copy_rules(table, rules) && make_lists(table);
    if (ok)
        ok = (table->databases = calloc(rules->n_buffers, sizeof(*table->databases))) != NULL;
    for (uint32_t i = 0; ok && i < rules->n_buffers; i++)
        ok = compile_buffer(table, i, text, text_size);
    if (ok && make_streams(table))
        return table;
    ids_table_free(table);
    return NULL;
}

/*
 * ids_table_free frees a table that is not in force; NULL is fine.
 */
void ids_table_free(ids_table *table) {
    if (table == NULL)
        return;
    search_streams_fini(&table->streams);
    for (uint32_t i = 0; table->databases != NULL && i < table->r.n_buffers; i++)
        hs_free_database(table->databases[i]);
    hs_free_scratch(table->scratch);
    for (uint32_t i = 0; i < table->n_texts; i++)
        free(table->texts[i]);
    void *const owned[] = {table->texts,
                           table->databases,
                           table->always,
                           table->deferred,
                           table->negated,
                           table->negated_of,
                           table->met,
                           table->done,
                           table->next,
                           table->rings,
                           table->block.met,
                           table->block.rings,
                           table->seen,
                           table->touched,
                           table->asked,
                           table->hits,
                           table->text,
                           (void *)table->r.rules,
                           (void *)table->r.chains,
                           (void *)table->r.follows,
                           (void *)table->r.uses,
                           (void *)table->r.bits,
                           (void *)table->r.headers,
                           (void *)table->r.addresses,
                           (void *)table->r.ports,
                           (void *)table->r.patterns,
                           (void *)table->r.buffers};
    for (size_t i = 0; i < sizeof(owned) / sizeof(owned[0]); i++)
        free(owned[i]);
    free(table);
}
