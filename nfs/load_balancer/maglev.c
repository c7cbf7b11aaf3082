/* SPDX-License-Identifier: Apache-2.0 */
/* Maglev hashing with weights. */
#include "lb.h"

typedef struct turn { /* a backend while the table is filled */
    uint64_t identity;
    uint32_t offset, skip; /* its permutation of the places: offset + i * skip */
    uint32_t at;           /* i */
    uint32_t weight;
    uint64_t due; /* weight units until its next place */
    uint16_t backend;
} turn;

static int by_identity(const void *a, const void *b) {
    const turn *x = a, *y = b;
    if (x->identity != y->identity)
        return x->identity < y->identity ? -1 : 1;
    return (int)x->backend - (int)y->backend;
}

/* The backends that take part, in an order that does not depend on that of the list. */
static uint32_t take_part(const lb_backend *backends, uint32_t n, uint64_t seed, turn *turns) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++) {
        const lb_backend *b = &backends[i];
        if (b->state != LB_UP || b->weight == 0)
            continue;
        uint64_t identity = lb__mix(lb__mix_address(seed, b->address), b->port);
        for (int byte = 0; byte < 6; byte++)
            identity = lb__mix(identity, b->mac[byte]);
        turns[count++] = (turn){
            .identity = identity,
            .offset = (uint32_t)(identity % LB_TABLE),
            .skip = (uint32_t)(lb__mix(identity, 1) % (LB_TABLE - 1)) + 1,
            .weight = b->weight,
            .backend = (uint16_t)i,
        };
    }
    qsort(turns, count, sizeof(*turns), by_identity);
    return count;
}

/* The next place that is free in the permutation of |t|. */
static uint32_t next_place(turn *t, const uint16_t *table) {
    for (;;) {
        uint32_t place = (uint32_t)((t->offset + (uint64_t)t->at++ * t->skip) % LB_TABLE);
        if (table[place] == LB_NOBODY)
            return place;
    }
}

/*
 * lb_table_build fills |table|, LB_TABLE places, with numbers of |backends|, up to LB_MAX_BACKENDS:
 * those that are up take places in turns as often as their weight says. Nobody up: all places are
 * LB_NOBODY. The result depends on identities (address, port, MAC), weights and seed alone.
 * Source: Eisenbud et al., "Maglev", NSDI 2016, section 3.4.
 * Returns how many backends take part, or NFM_E_NOMEM.
 */
int lb_table_build(const lb_backend *backends, uint32_t n, uint64_t seed, uint16_t *table) {
    turn *turns = calloc(n + 1, sizeof(*turns));
    if (turns == NULL)
        return NFM_E_NOMEM;
    memset(table, 0xff, LB_TABLE * sizeof(*table));
    uint32_t count = take_part(backends, n, seed, turns), most = 0, filled = 0;
    for (uint32_t i = 0; i < count; i++)
        most = turns[i].weight > most ? turns[i].weight : most;
    for (uint64_t round = 1; count > 0 && filled < LB_TABLE; round++) {
        for (uint32_t i = 0; i < count && filled < LB_TABLE; i++) {
            if (round * turns[i].weight < turns[i].due + most)
                continue;
            turns[i].due += most;
            table[next_place(&turns[i], table)] = turns[i].backend;
            filled++;
        }
    }
    free(turns);
    return (int)count;
}
