/* SPDX-License-Identifier: Apache-2.0 */
#include "classify.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_ROOT_BITS = 16 };

/* ---- lookup --------------------------------------------------------------------------------- */

static uint32_t root_index(const fw_dim *dim, fw_number key) {
    return (uint32_t)((uint64_t)(key << dim->skip >> 64) >> (64 - dim->bits));
}

static uint32_t interval_of(const fw_dim *dim, fw_number key) {
    if (dim->n == 1 || key < dim->begin[1])
        return 0;
    if (key >= dim->begin[dim->n - 1])
        return dim->n - 1;
    const uint32_t *root = &dim->root[root_index(dim, key)];
    uint32_t low = root[0], high = root[1];
    while (low < high) {
        uint32_t middle = (low + high + 1) / 2;
        if (dim->begin[middle] <= key)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static uint64_t word_of(const fw_dim *dim, const fw_group *group, unsigned bit) {
    uint64_t below = (UINT64_C(1) << bit) - 1;
    if (!(group->present >> bit & 1))
        return 0;
    return dim->word[group->first + (uint32_t)__builtin_popcountll(group->present & below)];
}

typedef struct chosen { /* a dimension that counts for this packet, and the packet's interval */
    const fw_dim *dim;
    const fw_group *set;
} chosen;

static void choose(const firewall_table *table, chosen *c, enum firewall_dim which, fw_number key) {
    c->dim = &table->dim[which];
    c->set = &c->dim->set[(size_t)interval_of(c->dim, key) * table->n_groups];
}

/* The least rule of a word that matches in all dimensions, if it is less than |best|. */
static uint32_t best_of_word(const firewall_table *table, const chosen *by, uint32_t g,
                             unsigned bit, uint32_t best) {
    uint32_t word = g * FW_GROUP + bit;
    if (table->word_first[word] >= best)
        return best;
    uint64_t all = UINT64_MAX;
    for (unsigned d = 0; d < 5 && all != 0; d++)
        all &= by[d].dim->any[word] | word_of(by[d].dim, &by[d].set[g], bit);
    for (; all != 0; all &= all - 1) {
        uint32_t rule = table->number[word * FW_WORD + (uint32_t)__builtin_ctzll(all)];
        best = rule < best ? rule : best;
    }
    return best;
}

/*
 * firewall_match returns the first rule that matches |key|, or FIREWALL_NO_RULE.
 */
uint32_t firewall_match(const firewall_table *table, const firewall_key *key) {
    chosen by[5];
    bool ipv6 = key->kind & FIREWALL_IPV6;
    choose(table, &by[0], ipv6 ? FIREWALL_SRC6 : FIREWALL_SRC4, fw__number(key->src));
    choose(table, &by[1], ipv6 ? FIREWALL_DST6 : FIREWALL_DST4, fw__number(key->dst));
    choose(table, &by[2], FIREWALL_DPORT, key->dport);
    choose(table, &by[3], FIREWALL_SPORT, key->sport);
    choose(table, &by[4], FIREWALL_KIND, key->kind);
    uint32_t best = FIREWALL_NO_RULE;
    for (uint32_t g = 0; g < table->n_groups; g++) {
        uint64_t may = UINT64_MAX;
        for (unsigned d = 0; d < 5; d++)
            may &= by[d].dim->any_present[g] | by[d].set[g].present;
        for (; may != 0; may &= may - 1)
            best = best_of_word(table, by, g, (unsigned)__builtin_ctzll(may), best);
    }
    return best;
}

/* ---- making --------------------------------------------------------------------------------- */

typedef struct edge { /* from |at| on the rule matches, or no longer: what it did not do before */
    fw_number at;
    uint32_t bit; /* of the rule */
} edge;

typedef struct sweep { /* the set of the interval that is being made */
    uint64_t *word;
    uint64_t *present;
} sweep;

static int by_place(const void *a, const void *b) {
    fw_number x = ((const edge *)a)->at, y = ((const edge *)b)->at;
    return x < y ? -1 : x > y;
}

void *fw__take(firewall_table *table, size_t n, size_t size) {
    table->bytes += n * size;
    return table->bytes > table->max_bytes ? NULL : calloc(n > 0 ? n : 1, size);
}

/* Room for |n| more words of sets in a dimension. */
static bool reserve(firewall_table *table, fw_dim *dim, uint32_t n) {
    if (dim->n_words + n <= dim->max_words)
        return true;
    uint32_t most = (dim->n_words + n) * 2;
    table->bytes += (uint64_t)(most - dim->max_words) * sizeof(uint64_t);
    if (table->bytes > table->max_bytes || most < dim->n_words)
        return false;
    uint64_t *grown = realloc(dim->word, most * sizeof(uint64_t));
    if (grown == NULL)
        return false;
    dim->word = grown;
    dim->max_words = most;
    return true;
}

static bool end_interval(firewall_table *table, fw_dim *dim, const sweep *now, fw_number begin) {
    fw_group *set = &dim->set[(size_t)dim->n * table->n_groups];
    for (uint32_t g = 0; g < table->n_groups; g++) {
        if (!reserve(table, dim, (uint32_t)__builtin_popcountll(now->present[g])))
            return false;
        set[g] = (fw_group){.present = now->present[g], .first = dim->n_words};
        for (uint64_t left = now->present[g]; left != 0; left &= left - 1)
            dim->word[dim->n_words++] = now->word[g * FW_GROUP + (uint32_t)__builtin_ctzll(left)];
    }
    dim->begin[dim->n++] = begin;
    return true;
}

static void turn(sweep *now, const edge *e) {
    uint32_t word = e->bit / FW_WORD;
    now->word[word] ^= UINT64_C(1) << e->bit % FW_WORD;
    uint64_t bit = UINT64_C(1) << word % FW_GROUP;
    if (now->word[word] != 0)
        now->present[word / FW_GROUP] |= bit;
    else
        now->present[word / FW_GROUP] &= ~bit;
}

/* The table over leading bits: about twice as many entries as there are intervals. */
static bool make_root(firewall_table *table, fw_dim *dim) {
    if (dim->n < 2)
        return true;
    fw_number differ = dim->begin[1] ^ dim->begin[dim->n - 1];
    while (dim->skip < 127 && !(differ >> (127 - dim->skip) & 1))
        dim->skip++;
    unsigned bits = 1;
    while (bits < MAX_ROOT_BITS && 1u << bits < dim->n * 2 && bits + dim->skip < 127)
        bits++;
    dim->bits = (uint8_t)bits;
    uint32_t n = 1u << bits;
    dim->root = fw__take(table, (size_t)n + 1, sizeof(uint32_t));
    if (dim->root == NULL)
        return false;
    for (uint32_t i = 1, next = 0; i < dim->n; i++) { /* those behind the begin of interval i */
        for (uint32_t last = root_index(dim, dim->begin[i]); next <= last; next++)
            dim->root[next] = i - 1;
        if (i + 1 == dim->n)
            for (; next <= n; next++)
                dim->root[next] = i;
    }
    return true;
}

/* Sweeps over the sorted edges of a dimension. */
static bool make_intervals(firewall_table *table, fw_dim *dim, const edge *edges, size_t n) {
    sweep now = {calloc(table->n_groups, FW_GROUP * sizeof(uint64_t)),
                 calloc(table->n_groups, sizeof(uint64_t))};
    bool fits = now.word != NULL && now.present != NULL;
    fw_number begin = 0;
    for (size_t i = 0; fits && i <= n; i++) {
        if (i == n || edges[i].at != begin) {
            fits = end_interval(table, dim, &now, begin);
            begin = i == n ? 0 : edges[i].at;
        }
        if (i < n)
            turn(&now, &edges[i]);
    }
    free(now.word);
    free(now.present);
    return fits && make_root(table, dim);
}

static size_t edges_of(const firewall_rules *rules, uint32_t which, const uint32_t *bit_of,
                       edge *edges) {
    size_t n = 0;
    for (uint32_t i = 0; i < rules->n_ranges; i++) {
        const firewall_range *range = &rules->ranges[i];
        if (range->dim != which)
            continue;
        edges[n++] = (edge){fw__number(range->first), bit_of[range->rule]};
        if (~fw__number(range->last) != 0)
            edges[n++] = (edge){fw__number(range->last) + 1, bit_of[range->rule]};
    }
    qsort(edges, n, sizeof(*edges), by_place);
    return n;
}

static bool make_dim(firewall_table *table, const firewall_rules *rules, const uint32_t *bit_of,
                     uint32_t which) {
    fw_dim *dim = &table->dim[which];
    edge *edges = calloc((size_t)rules->n_ranges * 2 + 1, sizeof(*edges));
    if (edges == NULL)
        return false;
    size_t n = edges_of(rules, which, bit_of, edges), places = 1;
    for (size_t i = 0; i < n; i++)
        places += i == 0 ? edges[0].at != 0 : edges[i].at != edges[i - 1].at;
    dim->begin = fw__take(table, places, sizeof(*dim->begin));
    dim->set = fw__take(table, places * table->n_groups, sizeof(*dim->set));
    dim->any = fw__take(table, (size_t)table->n_groups * FW_GROUP, sizeof(uint64_t));
    dim->any_present = fw__take(table, table->n_groups, sizeof(uint64_t));
    bool fits = dim->begin && dim->set && dim->any && dim->any_present;
    for (uint32_t rule = 0; fits && rule < rules->n_rules; rule++) {
        if (rules->bounded[rule] >> which & 1)
            continue;
        uint32_t bit = bit_of[rule], word = bit / FW_WORD;
        dim->any[word] |= UINT64_C(1) << bit % FW_WORD;
        dim->any_present[word / FW_GROUP] |= UINT64_C(1) << word % FW_GROUP;
    }
    fits = fits && make_intervals(table, dim, edges, n);
    free(edges);
    return fits;
}

static bool make_dims(firewall_table *table, const firewall_rules *rules, uint32_t *bit_of) {
    if (!fw__order(table, rules, bit_of))
        return false;
    for (uint32_t d = 0; d < FIREWALL_DIMS; d++)
        if (!make_dim(table, rules, bit_of, d))
            return false;
    return true;
}

static bool make(firewall_table *table, const firewall_rules *rules) {
    table->n_rules = rules->n_rules;
    table->policy = rules->policy;
    table->max_bytes = rules->max_bytes;
    table->action = fw__take(table, rules->n_rules, 1);
    table->hits = fw__take(table, rules->n_rules, sizeof(uint64_t));
    table->before = fw__take(table, rules->n_rules, sizeof(uint32_t));
    if (table->action == NULL || table->hits == NULL || table->before == NULL)
        return false;
    if (rules->n_rules > 0) {
        memcpy(table->action, rules->action, rules->n_rules);
        memcpy(table->before, rules->before, rules->n_rules * sizeof(uint32_t));
    }
    uint32_t *bit_of = calloc((size_t)rules->n_rules + 1, sizeof(*bit_of));
    bool fits = bit_of != NULL && make_dims(table, rules, bit_of);
    free(bit_of);
    return fits;
}

static bool is_sound(const firewall_rules *rules) {
    if (rules->n_rules > FIREWALL_MAX_RULES || rules->n_ranges > 16 * FIREWALL_MAX_RULES)
        return false;
    for (uint32_t i = 0; i < rules->n_ranges; i++) {
        const firewall_range *range = &rules->ranges[i];
        if (range->dim >= FIREWALL_DIMS || range->rule >= rules->n_rules ||
            fw__number(range->first) > fw__number(range->last))
            return false;
    }
    return true;
}

/*
 * firewall_compile makes a table of |rules|, which are borrowed until return. It touches nothing
 * else, so any thread may call it. The table is the caller's until firewall_swap.
 * Returns NULL with a line in |text|: no memory, more than max_bytes, or ranges that make no sense.
 */
firewall_table *firewall_compile(const firewall_rules *rules, char *text, uint32_t text_size) {
    const char *why = "rules, dimensions or ranges make no sense";
    firewall_table *table = is_sound(rules) ? calloc(1, sizeof(*table)) : NULL;
    if (table != NULL && make(table, rules)) {
        text[0] = '\0';
        return table;
    }
    if (table != NULL)
        why = table->bytes > table->max_bytes ? "the rules need more memory than memory_mb allows"
                                              : "out of memory";
    strncpy(text, why, text_size - 1);
    text[text_size - 1] = '\0';
    firewall_table_free(table);
    return NULL;
}

/*
 * firewall_table_free frees a table that is not in force; NULL is fine.
 */
void firewall_table_free(firewall_table *table) {
    if (table == NULL)
        return;
    for (uint32_t d = 0; d < FIREWALL_DIMS; d++) {
        fw_dim *dim = &table->dim[d];
        free(dim->begin);
        free(dim->set);
        free(dim->word);
        free(dim->any);
        free(dim->any_present);
        free(dim->root);
    }
    free(table->action);
    free(table->hits);
    free(table->before);
    free(table->number);
    free(table->word_first);
    free(table);
}
