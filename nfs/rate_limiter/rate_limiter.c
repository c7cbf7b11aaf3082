/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Token buckets over packets, with event time as their clock.
 *
 * Theory of operation. A limit has a filter, a rate in packets or bits or both, and buckets: one
 * for everything, one per source prefix or one per flow. A packet passes when every limit that
 * applies has enough for it, and only then takes from all of them: what one limit drops costs the
 * others nothing.
 *
 * Buckets are whole numbers of a billionth of a packet and of a bit. A rate per second times the
 * nanoseconds that went by is then exact: nothing is rounded and nothing drifts, however often a
 * bucket is looked at. A full bucket fits 64 bits because bursts are bounded.
 *
 * Buckets lie in one table of fixed size, found through chained hashing with a seed. When it is
 * full the bucket that was not used for the longest time is taken over; its owner begins with a
 * full one, which an idle owner would have had anyway.
 *
 * Rules of this file.
 * 1. Time that runs backwards (several workers) fills no bucket and moves no clock.
 * 2. A packet's own buckets are never taken over by its others: the table has room for twice the
 *    number of limits, and what was just used is the newest.
 * 3. Nothing is allocated per packet.
 */
#include <stdlib.h>
#include <string.h>

#include "nfm/nfm.h"

#pragma GCC visibility push(default)
#include "rate_limiter.cdef"
#pragma GCC visibility pop

#define NONE UINT32_MAX
#define NANO UINT64_C(1000000000)
#define MIN_BUCKETS (2u * RATE_LIMITER_MAX_LIMITS)
#define MAX_BUCKETS (1u << 24)

enum {
    CHUNK = 256, /* entries whose filters are decided at once */
    KEY_WORDS = 6
};

/* The flow's facts that make its key, or a source prefix in the first address. */
typedef union owner {
    nfm_flow_info flow;
    uint64_t word[sizeof(nfm_flow_info) / 8];
} owner;
static_assert(offsetof(nfm_flow_info, start_ns) == (size_t)KEY_WORDS * 8, "the key comes first");

typedef struct bucket {
    uint64_t key[KEY_WORDS];
    int64_t last_ns;
    uint64_t packets, bits; /* what is left, in billionths */
    uint64_t dropped_packets, dropped_bytes;
    uint32_t limit;
    uint32_t chain;        /* next of the same hash */
    uint32_t newer, older; /* by use */
} bucket;

struct rate_limiter {
    rate_limiter_limit limits[RATE_LIMITER_MAX_LIMITS];
    rate_limiter_counts counts[RATE_LIMITER_MAX_LIMITS];
    uint32_t n_limits;
    bucket *buckets;
    uint32_t *heads;  /* n_heads first buckets */
    uint32_t n_heads; /* power of two */
    uint32_t newest, oldest;
    uint64_t seed;
    rate_limiter_stats stats;
};

typedef struct packet {
    const nfm_mem *mem;
    const nfm_desc *desc;
    const nfm_record *record;
    uint64_t cost; /* billionths of a bit */
} packet;

/* ---- buckets ------------------------------------------------------------------------------ */

static uint32_t *head_of(rate_limiter *r, const uint64_t *key, uint32_t limit) {
    uint64_t h = r->seed ^ limit;
    for (uint32_t i = 0; i < KEY_WORDS; i++) { /* multiply and fold */
        h = (h ^ key[i]) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 29;
    }
    return &r->heads[(uint32_t)(h >> 32) & (r->n_heads - 1)];
}

static void unlink_use(rate_limiter *r, uint32_t index) {
    bucket *b = &r->buckets[index];
    *(b->newer == NONE ? &r->newest : &r->buckets[b->newer].older) = b->older;
    *(b->older == NONE ? &r->oldest : &r->buckets[b->older].newer) = b->newer;
}

static void link_newest(rate_limiter *r, uint32_t index) {
    bucket *b = &r->buckets[index];
    b->newer = NONE;
    b->older = r->newest;
    *(r->newest == NONE ? &r->oldest : &r->buckets[r->newest].newer) = index;
    r->newest = index;
}

/* Returns a bucket that nobody has: a fresh one, or that of the longest idle. */
static uint32_t vacate(rate_limiter *r) {
    if (r->stats.buckets < r->stats.max_buckets)
        return (uint32_t)r->stats.buckets++;
    uint32_t index = r->oldest;
    bucket *b = &r->buckets[index];
    uint32_t *link = head_of(r, b->key, b->limit);
    while (*link != index)
        link = &r->buckets[*link].chain;
    *link = b->chain;
    unlink_use(r, index);
    r->stats.buckets_evicted++;
    return index;
}

static uint32_t adopt(rate_limiter *r, uint32_t limit, const uint64_t *key, int64_t now_ns) {
    uint32_t index = vacate(r);
    uint32_t *head = head_of(r, key, limit);
    bucket *b = &r->buckets[index];
    const rate_limiter_limit *l = &r->limits[limit];
    *b = (bucket){.last_ns = now_ns,
                  .packets = l->burst_packets * NANO,
                  .bits = l->burst_bytes * 8 * NANO,
                  .limit = limit,
                  .chain = *head};
    memcpy(b->key, key, sizeof(b->key));
    *head = index;
    link_newest(r, index);
    return index;
}

static uint64_t refilled(uint64_t left, uint64_t full, uint64_t per_s, uint64_t elapsed_ns) {
    if (per_s == 0 || elapsed_ns > (full - left) / per_s)
        return full;
    return left + elapsed_ns * per_s;
}

static void refill(bucket *b, const rate_limiter_limit *l, int64_t now_ns) {
    if (now_ns <= b->last_ns)
        return;
    uint64_t elapsed_ns = (uint64_t)now_ns - (uint64_t)b->last_ns;
    b->packets = refilled(b->packets, l->burst_packets * NANO, l->packets_per_s, elapsed_ns);
    b->bits = refilled(b->bits, l->burst_bytes * 8 * NANO, l->bits_per_s, elapsed_ns);
    b->last_ns = now_ns;
}

/* Returns the refilled bucket of (limit, key); it is the newest then. */
static uint32_t bucket_of(rate_limiter *r, uint32_t limit, const uint64_t *key, int64_t now_ns) {
    uint32_t index = *head_of(r, key, limit);
    while (index != NONE && (r->buckets[index].limit != limit ||
                             memcmp(r->buckets[index].key, key, KEY_WORDS * 8) != 0))
        index = r->buckets[index].chain;
    if (index == NONE)
        return adopt(r, limit, key, now_ns);
    if (index != r->newest) {
        unlink_use(r, index);
        link_newest(r, index);
    }
    refill(&r->buckets[index], &r->limits[limit], now_ns);
    return index;
}

/* ---- packets ------------------------------------------------------------------------------ */

/* Clears the bits of an address behind a prefix. */
static void mask_address(uint8_t *addr, uint32_t bits) {
    for (uint32_t i = 0; i < 16; i++) {
        uint32_t keep = bits >= 8 ? 8 : bits;
        addr[i] &= (uint8_t)(0xff00u >> keep);
        bits -= keep;
    }
}

/* Says whose bucket the packet uses; false: it has no flow, so nobody's. */
static bool find_owner(const rate_limiter_limit *l, const packet *p, owner *out) {
    memset(out, 0, sizeof(*out));
    if (l->each == RATE_LIMITER_ALL)
        return true;
    if (p->desc->flow >= p->mem->n_flows)
        return false;
    const nfm_flow_info *flow = &p->mem->flows[p->desc->flow];
    if (l->each == RATE_LIMITER_FLOW) {
        memcpy(out, flow, (size_t)KEY_WORDS * 8);
        return true;
    }
    memcpy(out->flow.addr[0], flow->addr[p->record->side & 1u], 16);
    out->flow.ip_version = flow->ip_version;
    mask_address(out->flow.addr[0], flow->ip_version == 4 ? l->prefix4 : l->prefix6);
    return true;
}

static bool has_enough(const bucket *b, const rate_limiter_limit *l, const packet *p) {
    return (l->packets_per_s == 0 || b->packets >= NANO) &&
           (l->bits_per_s == 0 || b->bits >= p->cost);
}

static void take(bucket *b, const rate_limiter_limit *l, const packet *p) {
    if (l->packets_per_s != 0)
        b->packets -= NANO;
    if (l->bits_per_s != 0)
        b->bits -= p->cost;
}

static void count_drop(rate_limiter *r, bucket *b, uint32_t bytes) {
    b->dropped_packets++;
    b->dropped_bytes += bytes;
    r->counts[b->limit].dropped_packets++;
    r->counts[b->limit].dropped_bytes += bytes;
}

/* Lets a packet pass or not; applies[limit * CHUNK] says which limits are asked. */
static bool admit(rate_limiter *r, const packet *p, const uint8_t *applies) {
    uint32_t found[RATE_LIMITER_MAX_LIMITS], n = 0, bytes = p->record->wire_len;
    bool passes = true, has_owner = true;
    for (uint32_t limit = 0; limit < r->n_limits; limit++) {
        const rate_limiter_limit *l = &r->limits[limit];
        owner who;
        if (!applies[(size_t)limit * CHUNK])
            continue;
        if (!find_owner(l, p, &who)) {
            has_owner = false;
            continue;
        }
        found[n] = bucket_of(r, limit, who.word, p->record->ts_ns);
        bucket *b = &r->buckets[found[n++]];
        if (!has_enough(b, l, p)) {
            passes = false;
            count_drop(r, b, bytes);
        }
    }
    for (uint32_t i = 0; passes && i < n; i++) {
        bucket *b = &r->buckets[found[i]];
        take(b, &r->limits[b->limit], p);
        r->counts[b->limit].passed_packets++;
        r->counts[b->limit].passed_bytes += bytes;
    }
    r->stats.unattributed += !has_owner;
    *(passes ? &r->stats.passed_packets : &r->stats.dropped_packets) += 1;
    return passes;
}

/* Decides the filters of up to CHUNK entries. */
static void select_limits(const rate_limiter *r, const nfm_batch *batch, uint32_t at, uint32_t n,
                          uint8_t *applies) {
    for (uint32_t limit = 0; limit < r->n_limits; limit++) {
        uint8_t *row = applies + (size_t)limit * CHUNK;
        if (r->limits[limit].filter)
            nfm_filter_select(r->limits[limit].filter, batch->mem, batch->desc + at, n, row);
        else
            memset(row, 1, n);
    }
}

/*
 * rate_limiter_process is the nfm_process_fn of this NF: |batch| is an nfm_batch of packets in
 * order. Packets over a limit get NFM_DROP; where nobody asks for verdicts they are only counted.
 * Returns NFM_OK.
 */
int rate_limiter_process(void *state, const void *batch) {
    rate_limiter *r = state;
    const nfm_batch *packets = batch;
    uint8_t applies[RATE_LIMITER_MAX_LIMITS * CHUNK];
    for (uint32_t at = 0; at < packets->n; at += CHUNK) {
        uint32_t n = packets->n - at < CHUNK ? packets->n - at : CHUNK;
        select_limits(r, packets, at, n, applies);
        for (uint32_t i = 0; i < n; i++) {
            const nfm_desc *desc = &packets->desc[at + i];
            packet p = {packets->mem, desc, &packets->mem->records[desc->record], 0};
            p.cost = (uint64_t)p.record->wire_len * 8 * NANO;
            if (!admit(r, &p, applies + i) && packets->verdict)
                packets->verdict[at + i] = NFM_DROP;
        }
    }
    return NFM_OK;
}

/* ---- life --------------------------------------------------------------------------------- */

/*
 * rate_limiter_open makes a limiter without limits, which lets everything pass; rate_limiter_load
 * gives it some. The configuration is not read: nf.py checks it first. Returns NULL without memory.
 */
void *rate_limiter_open(const char *config_json) {
    (void)config_json;
    return calloc(1, sizeof(rate_limiter));
}

static bool is_sound(const rate_limiter_limit *l) {
    return l->each <= RATE_LIMITER_FLOW && (l->packets_per_s != 0 || l->bits_per_s != 0) &&
           l->burst_packets <= RATE_LIMITER_MAX_BURST_PACKETS &&
           l->burst_bytes <= RATE_LIMITER_MAX_BURST_BYTES &&
           (l->packets_per_s == 0 || l->burst_packets > 0) &&
           (l->bits_per_s == 0 || l->burst_bytes > 0) && l->prefix4 <= 32 && l->prefix6 <= 128;
}

/*
 * rate_limiter_load gives the limiter its |n| limits (copied; their filters are borrowed until
 * close) and room for |max_buckets| buckets, once; |seed| makes hashes unknown to senders.
 * Returns NFM_OK, NFM_E_STATE, NFM_E_INVAL or NFM_E_NOMEM.
 */
int rate_limiter_load(rate_limiter *limiter, const rate_limiter_limit *limits, uint32_t n,
                      uint32_t max_buckets, uint64_t seed) {
    if (limiter->buckets)
        return NFM_E_STATE;
    if (n > RATE_LIMITER_MAX_LIMITS || max_buckets > MAX_BUCKETS)
        return NFM_E_INVAL;
    for (uint32_t i = 0; i < n; i++)
        if (!is_sound(&limits[i]))
            return NFM_E_INVAL;
    max_buckets = max_buckets < MIN_BUCKETS ? MIN_BUCKETS : max_buckets;
    limiter->n_heads = 1;
    while (limiter->n_heads < max_buckets)
        limiter->n_heads *= 2;
    limiter->buckets = calloc(max_buckets, sizeof(*limiter->buckets));
    limiter->heads = malloc(limiter->n_heads * sizeof(*limiter->heads));
    if (!limiter->buckets || !limiter->heads)
        return NFM_E_NOMEM;
    memset(limiter->heads, 0xff, limiter->n_heads * sizeof(*limiter->heads));
    if (n > 0)
        memcpy(limiter->limits, limits, n * sizeof(*limits));
    limiter->n_limits = n;
    limiter->newest = limiter->oldest = NONE;
    limiter->seed = seed;
    limiter->stats.max_buckets = max_buckets;
    return NFM_OK;
}

/*
 * rate_limiter_close frees |state|; NULL is fine.
 */
void rate_limiter_close(void *state) {
    rate_limiter *r = state;
    if (!r)
        return;
    free(r->buckets);
    free(r->heads);
    free(r);
}

/*
 * rate_limiter_counts_get copies what limit number |limit| counted.
 */
void rate_limiter_counts_get(const rate_limiter *limiter, uint32_t limit,
                             rate_limiter_counts *out) {
    *out = limiter->counts[limit];
}

/*
 * rate_limiter_stats_get copies the counters since the start; buckets is how many are there now.
 */
void rate_limiter_stats_get(const rate_limiter *limiter, rate_limiter_stats *out) {
    *out = limiter->stats;
}

static rate_limiter_offender offender_of(const bucket *b) {
    owner who = {.word = {0}};
    memcpy(who.word, b->key, sizeof(b->key));
    rate_limiter_offender out = {.proto = who.flow.proto,
                                 .ip_version = who.flow.ip_version,
                                 .limit = b->limit,
                                 .dropped_packets = b->dropped_packets,
                                 .dropped_bytes = b->dropped_bytes};
    memcpy(out.addr, who.flow.addr, sizeof(out.addr));
    memcpy(out.port, who.flow.port, sizeof(out.port));
    return out;
}

/*
 * rate_limiter_worst writes to |out| the owners, of those whose buckets are there, that lost most
 * packets: at most |max|, the worst first; classes that share one bucket are left out. Not for the
 * data path: it looks at every bucket. Returns how many there are.
 */
uint32_t rate_limiter_worst(const rate_limiter *limiter, rate_limiter_offender *out, uint32_t max) {
    uint32_t n = 0;
    for (uint64_t i = 0; i < limiter->stats.buckets; i++) {
        const bucket *b = &limiter->buckets[i];
        if (b->dropped_packets == 0 || limiter->limits[b->limit].each == RATE_LIMITER_ALL)
            continue;
        uint32_t at = n;
        while (at > 0 && out[at - 1].dropped_packets < b->dropped_packets)
            at--;
        if (at >= max)
            continue;
        n = n < max ? n + 1 : max;
        memmove(out + at + 1, out + at, (n - at - 1) * sizeof(*out));
        out[at] = offender_of(b);
    }
    return n;
}
