/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Thresholds: how often a rule matched, by source, destination, both, flow or all together.
 *
 * Theory of operation. Counters lie in sets of eight, chosen by a hash of (rule, what is tracked);
 * in a full set the one whose window began first makes room (counted). A counter is named by the
 * rule's number, so it goes on under new rules.
 */
#include "ids.h"

#include <sys/random.h>

enum { WAYS = 8 };

struct ids_counter {
    uint8_t key[40]; /* gid, sid, addresses */
    int64_t begin_ns;
    uint32_t n;
    uint32_t is_used;
};

/*
 * ids_counters_init makes room for |max| counters at least. False without memory or randomness.
 */
bool ids_counters_init(ids *nf, uint32_t max) {
    nf->counter_sets = 1;
    while ((uint64_t)nf->counter_sets * WAYS < max)
        nf->counter_sets *= 2;
    nf->counters = calloc((size_t)nf->counter_sets * WAYS, sizeof(*nf->counters));
    return nf->counters != NULL && getrandom(&nf->seed, sizeof(nf->seed), 0) == sizeof(nf->seed);
}

static void key_of(const ids_rule *rule, const ids_occasion *o, uint8_t key[40]) {
    memset(key, 0, 40);
    memcpy(key, &rule->gid, 4);
    memcpy(key + 4, &rule->sid, 4);
    if (rule->track == IDS_BY_SRC || rule->track == IDS_BY_BOTH)
        memcpy(key + 8, o->info->addr[o->sender], 16);
    if (rule->track == IDS_BY_DST || rule->track == IDS_BY_BOTH)
        memcpy(key + 24, o->info->addr[o->sender ^ 1], 16);
    if (rule->track == IDS_BY_FLOW)
        memcpy(key + 8, &o->record->flow, 8);
}

/* Senders choose addresses: without the seed they could choose whose counter makes room. */
static uint64_t hash_of(const ids *nf, const uint8_t key[40]) {
    uint64_t hash = nf->seed, word;
    for (int i = 0; i < 40; i += 8) {
        memcpy(&word, key + i, 8);
        hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15); /* Knuth: golden ratio */
        hash ^= hash >> 29;
    }
    return hash;
}

/* The counter of |key|: the one that there is, or the one that makes room, emptied. */
static ids_counter *counter_of(ids *nf, const uint8_t key[40]) {
    ids_counter *set = &nf->counters[(hash_of(nf, key) & (nf->counter_sets - 1)) * WAYS];
    ids_counter *oldest = set;
    for (ids_counter *c = set; c < set + WAYS; c++) {
        if (c->is_used && memcmp(c->key, key, 40) == 0)
            return c;
        if (oldest->is_used && (!c->is_used || c->begin_ns < oldest->begin_ns))
            oldest = c;
    }
    nf->stats.counters_evicted += oldest->is_used;
    *oldest = (ids_counter){.is_used = 1};
    memcpy(oldest->key, key, 40);
    return oldest;
}

/*
 * ids_counted counts a match of |rule|, and says what it means.
 */
enum ids_count ids_counted(ids *nf, const ids_rule *rule, const ids_occasion *o) {
    uint8_t key[40];
    if (rule->threshold == IDS_NO_THRESHOLD)
        return IDS_TELL;
    key_of(rule, o, key);
    ids_counter *c = counter_of(nf, key);
    int64_t window_ns = (int64_t)rule->seconds * 1000000000;
    if (c->n == 0 || o->record->ts_ns - c->begin_ns > window_ns) {
        c->begin_ns = o->record->ts_ns;
        c->n = 0;
    }
    c->n += c->n < UINT32_MAX;
    switch ((enum ids_threshold_type)rule->threshold) {
    case IDS_LIMIT:
        return c->n <= rule->count ? IDS_TELL : IDS_ACT;
    case IDS_BOTH:
        return c->n < rule->count ? IDS_SILENT : c->n == rule->count ? IDS_TELL : IDS_ACT;
    case IDS_FILTER:
        return c->n > rule->count ? IDS_TELL : IDS_SILENT;
    case IDS_THRESHOLD:
        if (c->n < rule->count)
            return IDS_SILENT;
        c->n = 0;
        return IDS_TELL;
    case IDS_NO_THRESHOLD:
        break;
    }
    return IDS_TELL;
}
