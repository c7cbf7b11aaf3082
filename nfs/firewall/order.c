/* SPDX-License-Identifier: Apache-2.0 */
/* Which bit each rule has in the sets of a table: see "Theory of operation" in classify.h. */
#include <stdlib.h>
#include <string.h>

#include "classify.h"

enum { FEW_SOURCES = 1, FEW_TARGETS = 2, FEW_PORTS = 4 };
enum { MANY_PORTS = 1024 };

typedef struct place { /* of a rule */
    uint32_t few;      /* of what it asks for few */
    uint32_t rule;
    fw_number near; /* the begin of that: source, else destination, else port */
} place;

/* The least range of a rule in the dimensions where it asks for few; begins tell what is near. */
typedef struct asked {
    fw_number begin[FIREWALL_DIMS];
    uint8_t few; /* bit per dimension */
} asked;

/* Ranges up to this size are few of a dimension's numbers: IPv4 /12, IPv6 /24. */
static fw_number few_of(uint32_t dim) {
    switch ((enum firewall_dim)dim) {
    case FIREWALL_SRC4:
    case FIREWALL_DST4:
        return (fw_number)1 << 20;
    case FIREWALL_SRC6:
    case FIREWALL_DST6:
        return (fw_number)1 << 104;
    case FIREWALL_SPORT:
    case FIREWALL_DPORT:
        return MANY_PORTS;
    case FIREWALL_KIND:
    case FIREWALL_DIMS:
        break;
    }
    return 0;
}

static void look_at_ranges(const firewall_rules *rules, asked *by_rule) {
    for (uint32_t i = 0; i < rules->n_rules; i++)
        by_rule[i].few = rules->bounded[i];
    for (uint32_t i = rules->n_ranges; i-- > 0;) { /* backwards: the first begin stays */
        const firewall_range *range = &rules->ranges[i];
        asked *a = &by_rule[range->rule];
        fw_number first = fw__number(range->first);
        a->begin[range->dim] = first;
        if (fw__number(range->last) - first >= few_of(range->dim))
            a->few &= (uint8_t) ~(1u << range->dim);
    }
}

/* The begin of what the rule asks for in one of two dimensions: IPv4 or IPv6. */
static bool is_few(const asked *a, uint32_t dim, uint32_t other, fw_number *begin) {
    *begin = a->few >> dim & 1 ? a->begin[dim] : a->begin[other];
    return (a->few & (1u << dim | 1u << other)) != 0;
}

static place place_of(const asked *a, uint32_t rule) {
    place p = {.rule = rule};
    fw_number source, target, port;
    if (is_few(a, FIREWALL_SRC4, FIREWALL_SRC6, &source))
        p.few |= FEW_SOURCES;
    if (is_few(a, FIREWALL_DST4, FIREWALL_DST6, &target))
        p.few |= FEW_TARGETS;
    if (is_few(a, FIREWALL_DPORT, FIREWALL_DPORT, &port))
        p.few |= FEW_PORTS;
    if (p.few & FEW_SOURCES)
        p.near = source;
    else if (p.few & FEW_TARGETS)
        p.near = target;
    else if (p.few & FEW_PORTS)
        p.near = port;
    return p;
}

static int by_likeness(const void *a, const void *b) {
    const place *x = a, *y = b;
    if (x->few != y->few)
        return x->few < y->few ? -1 : 1;
    if (x->near != y->near)
        return x->near < y->near ? -1 : 1;
    return x->rule < y->rule ? -1 : x->rule > y->rule;
}

/* Numbers the bits: a word begins where the next rules are of another kind. */
static uint32_t give_bits(const place *places, uint32_t n, uint32_t *bit_of) {
    uint32_t bit = 0;
    for (uint32_t i = 0; i < n; i++, bit++) {
        if (i > 0 && places[i].few != places[i - 1].few)
            bit = (bit + FW_WORD - 1) / FW_WORD * FW_WORD;
        bit_of[places[i].rule] = bit;
    }
    return bit;
}

static place *sorted_places(const firewall_rules *rules) {
    asked *by_rule = calloc((size_t)rules->n_rules + 1, sizeof(*by_rule));
    place *places = calloc((size_t)rules->n_rules + 1, sizeof(*places));
    if (by_rule != NULL && places != NULL) {
        look_at_ranges(rules, by_rule);
        for (uint32_t i = 0; i < rules->n_rules; i++)
            places[i] = place_of(&by_rule[i], i);
        qsort(places, rules->n_rules, sizeof(*places), by_likeness);
    }
    if (by_rule == NULL) {
        free(places);
        places = NULL;
    }
    free(by_rule);
    return places;
}

bool fw__order(firewall_table *table, const firewall_rules *rules, uint32_t *bit_of) {
    place *places = sorted_places(rules);
    if (places == NULL)
        return false;
    table->n_bits = give_bits(places, rules->n_rules, bit_of);
    free(places);
    uint32_t per_group = FW_GROUP * FW_WORD;
    table->n_groups = (table->n_bits + per_group - 1) / per_group;
    uint32_t n_words = table->n_groups * FW_GROUP;
    table->number = fw__take(table, (size_t)n_words * FW_WORD, sizeof(uint32_t));
    table->word_first = fw__take(table, n_words, sizeof(uint32_t));
    if (table->number == NULL || table->word_first == NULL)
        return false;
    memset(table->number, 0xff, (size_t)n_words * FW_WORD * sizeof(uint32_t));
    memset(table->word_first, 0xff, n_words * sizeof(uint32_t));
    for (uint32_t rule = rules->n_rules; rule-- > 0;) {
        table->number[bit_of[rule]] = rule;
        table->word_first[bit_of[rule] / FW_WORD] = rule;
    }
    return true;
}
