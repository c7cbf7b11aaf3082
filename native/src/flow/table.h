/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The flow table: key -> flow index.
 *
 * Theory of operation. Buckets are cache lines of ten (signature, index) pairs and a link to an
 * overflow bucket. The table grows by linear hashing: each insertion beyond the load factor splits
 * one bucket, so growth never pauses. All arrays are reserved at their maximum and faulted on use.
 * The key lies in the flow's block beside the state that the packet needs next (a random
 * access costs a page walk more than the lines it loads); both directions meet there because the
 * hash is symmetric. A closed flow leaves the table at once, but its index is reused only when the
 * caller says that no unreleased record names it (nfm_table_recycle). A flow may have a second key,
 * its alias: that of its packets once their addresses were rewritten.
 */
#ifndef NFM_FLOW_TABLE_H
#define NFM_FLOW_TABLE_H

#include "base/region.h"
#include "flow/hash.h"

#define NFM_BUCKET_WAYS 10

typedef struct nfm_bucket {
    uint16_t sig[NFM_BUCKET_WAYS]; /* of the hash; 0: the way is free */
    uint32_t next;                 /* overflow bucket + 1, 0 none */
    uint32_t index[NFM_BUCKET_WAYS];
} nfm_bucket;
static_assert(sizeof(nfm_bucket) == 64, "a bucket is one cache line");

typedef struct nfm_table {
    nfm_flow_info *info; /* shared, by flow index */
    uint8_t *blocks;     /* worker's own: nfm_flow and what modules keep beside it */
    size_t stride;       /* bytes per block */
    nfm_bucket *buckets; /* main buckets, then overflow buckets */
    nfm_hash_key key;
    uint32_t base, n_buckets; /* linear hashing: base <= n_buckets < 2 * base */
    uint32_t max_buckets, n_overflow, max_overflow, free_overflow;
    uint32_t n_flows, max_flows; /* in the table */
    uint32_t n_fresh;            /* indices never used so far */
    uint32_t n_free;
    uint32_t *free; /* recycled indices */
    nfm_key *alias; /* by flow index; mapped with the first */
    nfm_region block_region, bucket_region, free_region, alias_region;
} nfm_table;

/* Borrows |info|, room for config->max_flows. */
int nfm_table_init(nfm_table *table, const nfm_worker_config *config, nfm_flow_info *info,
                   nfm_error *err);
/* Maps the flows' blocks: |extra| bytes beside each nfm_flow, a multiple of 8. Once, before use. */
int nfm_table_start(nfm_table *table, size_t extra, nfm_error *err);
void nfm_table_fini(nfm_table *table);

static inline nfm_flow *nfm_table_flow(const nfm_table *table, uint32_t index) {
    return (nfm_flow *)(void *)(table->blocks + (size_t)index * table->stride);
}

/* Main bucket of a hash, for prefetching and searching. */
static inline nfm_bucket *nfm_table_bucket(const nfm_table *table, uint32_t hash) {
    uint32_t b = hash & (2 * table->base - 1), is_unsplit = b >= table->n_buckets;
    /* Without a branch, which nobody could predict: the bits below base, when not split yet. */
    return table->buckets + (b - (table->base & -is_unsplit));
}

static inline bool nfm__same16(const uint8_t *a, const uint8_t *b) {
    uint64_t a0, a1, b0, b1;
    memcpy(&a0, a, 8);
    memcpy(&a1, a + 8, 8);
    memcpy(&b0, b, 8);
    memcpy(&b1, b + 8, 8);
    return ((a0 ^ b0) | (a1 ^ b1)) == 0;
}

/* Ports, protocol, version and VLAN of a key as one word. */
static inline uint64_t nfm__port_word(const nfm_key *key) {
    uint64_t word;
    memcpy(&word, key->port, 8);
    return word;
}

static inline uint64_t nfm__swap_ports(uint64_t word) {
    return (word & ~UINT64_C(0xffffffff)) | ((word >> 16) & 0xffff) | ((word & 0xffff) << 16);
}
static_assert(offsetof(nfm_key, port) + 8 == offsetof(nfm_key, scope), "one word of ports");

/* 0 or 1: the sender's side when |key| is |have|, in one direction or the other; -1 otherwise. */
static inline int nfm_key_match(const nfm_key *key, const nfm_key *have) {
    uint64_t want = nfm__port_word(key), word = nfm__port_word(have);
    if (key->scope != have->scope)
        return -1;
    if (want == word && nfm__same16(key->addr[0], have->addr[0]) &&
        nfm__same16(key->addr[1], have->addr[1]))
        return 0;
    if (nfm__swap_ports(want) == word && nfm__same16(key->addr[0], have->addr[1]) &&
        nfm__same16(key->addr[1], have->addr[0]))
        return 1;
    return -1;
}

/* The same for the keys of flow |index|. */
static inline int nfm_table_match(const nfm_table *table, const nfm_key *key, uint32_t index) {
    const nfm_flow *flow = nfm_table_flow(table, index);
    int side = nfm_key_match(key, &flow->key);
    if (__builtin_expect(side < 0 && flow->flags & NFM_FLOW_ALIASED, 0))
        side = nfm_key_match(key, &table->alias[index]);
    return side;
}

/* Turns a key round: from its receiver to its sender. */
static inline void nfm_key_turn(nfm_key *key) {
    nfm_key before = *key;
    for (int i = 0; i < 2; i++) {
        memcpy(key->addr[i], before.addr[!i], 16);
        key->port[i] = before.port[!i];
    }
}

/* The index that insertion number |n| from now will take, from 0; NFM_NO_FLOW none. */
static inline uint32_t nfm_table_next(const nfm_table *table, uint32_t n) {
    if (n < table->n_free)
        return table->free[table->n_free - 1 - n];
    uint32_t index = table->n_fresh + (n - table->n_free);
    return index < table->max_flows ? index : NFM_NO_FLOW;
}

/* First index in the main bucket whose signature fits, for prefetching; NFM_NO_FLOW none. */
uint32_t nfm_table_probe(const nfm_table *table, uint64_t hash);
/* Index of the flow with |key|, and in *side the side of the packet's sender; NFM_NO_FLOW none. */
uint32_t nfm_table_find(const nfm_table *table, const nfm_key *key, uint64_t hash, uint8_t *side);
/* Takes an index and enters |key| with its sender as |sender_side|. NFM_NO_FLOW when full. */
uint32_t nfm_table_insert(nfm_table *table, const nfm_key *key, uint64_t hash, uint8_t sender_side);
/* Makes flow |index| be found by |key|, too, as |side| sends it; the caller marks it as aliased.
 * False: another flow is found by it, or there is no room. */
bool nfm_table_add_alias(nfm_table *table, uint32_t index, const nfm_key *key, uint8_t side);
void nfm_table_remove_alias(nfm_table *table, uint32_t index);
/* Takes a flow out of the table. Its info stays readable until nfm_table_recycle. */
void nfm_table_remove(nfm_table *table, uint32_t index);
void nfm_table_recycle(nfm_table *table, uint32_t index);

#endif
