/* SPDX-License-Identifier: Apache-2.0 */
#include "flow/table.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define FIRST_BUCKETS 1024u
#define FLOWS_PER_BUCKET                                                                           \
    4u /* of ten ways; twice that where a split is due: overflow stays rare                        \
        */

static uint64_t hash_of(const nfm_table *table, uint32_t index) {
    return nfm_hash_flow(&table->key, &nfm_table_flow(table, index)->key);
}

static uint16_t signature(uint64_t hash) {
    uint16_t sig = (uint16_t)(hash >> 48);
    return sig != 0 ? sig : 1;
}

int nfm_table_init(nfm_table *table, const nfm_worker_config *config, nfm_flow_info *info,
                   nfm_error *err) {
    memset(table, 0, sizeof(*table));
    uint32_t max = config->max_flows;
    table->max_flows = max;
    table->max_buckets =
        max / FLOWS_PER_BUCKET > FIRST_BUCKETS ? max / FLOWS_PER_BUCKET : FIRST_BUCKETS;
    table->max_overflow = table->max_buckets / 2;
    table->base = table->n_buckets = FIRST_BUCKETS;
    table->key = nfm_hash_key_make(config->hash_key);
    size_t n_lines = (size_t)table->max_buckets + table->max_overflow;
    int rc = nfm_region_init(&table->bucket_region, "flow-buckets", n_lines * 64, err);
    if (rc == NFM_OK)
        rc = nfm_region_init(&table->free_region, "flow-free", (size_t)max * 4, err);
    if (rc != NFM_OK) {
        nfm_table_fini(table);
        return rc;
    }
    table->info = info;
    table->buckets = (nfm_bucket *)(void *)table->bucket_region.base;
    table->free = (uint32_t *)(void *)table->free_region.base;
    return NFM_OK;
}

int nfm_table_start(nfm_table *table, size_t extra, nfm_error *err) {
    table->stride = sizeof(nfm_flow) + extra;
    int rc =
        nfm_region_init(&table->block_region, "flow-state", table->stride * table->max_flows, err);
    table->blocks = table->block_region.base;
    return rc;
}

void nfm_table_fini(nfm_table *table) {
    nfm_region_fini(&table->block_region);
    nfm_region_fini(&table->bucket_region);
    nfm_region_fini(&table->free_region);
    nfm_region_fini(&table->alias_region);
    memset(table, 0, sizeof(*table));
}

static nfm_bucket *overflow_of(const nfm_table *table, const nfm_bucket *bucket) {
    return bucket->next == 0 ? NULL : table->buckets + table->max_buckets + bucket->next - 1;
}

/* Bit per way whose signature equals |sig|; 0 finds the free ones. */
static inline uint32_t match_ways(const nfm_bucket *bucket, uint16_t sig) {
#ifdef __SSE2__
    /* Eight lanes from the first way, eight up to the last: of those the upper two are new. */
    const __m128i want = _mm_set1_epi16((short)sig);
    __m128i low = _mm_loadu_si128((const __m128i *)(const void *)bucket->sig);
    __m128i high = _mm_loadu_si128((const __m128i *)(const void *)(bucket->sig + 2));
    __m128i bytes = _mm_packs_epi16(_mm_cmpeq_epi16(low, want), _mm_cmpeq_epi16(high, want));
    uint32_t mask = (uint32_t)_mm_movemask_epi8(bytes);
    return (mask & 0xff) | (mask >> 14 << 8);
#else
    uint32_t mask = 0;
    for (unsigned i = 0; i < NFM_BUCKET_WAYS; i++)
        mask |= (uint32_t)(bucket->sig[i] == sig) << i;
    return mask;
#endif
}

/* Bit per way in use. */
static inline uint32_t used_ways(const nfm_bucket *bucket) {
    return ~match_ways(bucket, 0) & ((1u << NFM_BUCKET_WAYS) - 1);
}

uint32_t nfm_table_probe(const nfm_table *table, uint64_t hash) {
    const nfm_bucket *bucket = nfm_table_bucket(table, (uint32_t)hash);
    uint32_t ways = match_ways(bucket, signature(hash));
    return ways == 0 ? NFM_NO_FLOW : bucket->index[__builtin_ctz(ways)];
}

uint32_t nfm_table_find(const nfm_table *table, const nfm_key *key, uint64_t hash, uint8_t *side) {
    const nfm_bucket *bucket = nfm_table_bucket(table, (uint32_t)hash);
    for (; bucket != NULL; bucket = overflow_of(table, bucket)) {
        for (uint32_t ways = match_ways(bucket, signature(hash)); ways != 0; ways &= ways - 1) {
            uint32_t index = bucket->index[__builtin_ctz(ways)];
            int found = nfm_table_match(table, key, index);
            if (found >= 0) {
                *side = (uint8_t)found;
                return index;
            }
        }
    }
    return NFM_NO_FLOW;
}

/* Enters (sig, index) into the chain of |bucket|. False when no overflow bucket is left. */
static bool bucket_add(nfm_table *table, nfm_bucket *bucket, uint16_t sig, uint32_t index) {
    uint32_t vacant;
    while ((vacant = match_ways(bucket, 0)) == 0) {
        nfm_bucket *next = overflow_of(table, bucket);
        if (next == NULL) {
            uint32_t id = table->free_overflow;
            if (id != 0)
                table->free_overflow = table->buckets[table->max_buckets + id - 1].next;
            else if (table->n_overflow < table->max_overflow)
                id = ++table->n_overflow;
            else
                return false;
            next = table->buckets + table->max_buckets + id - 1;
            memset(next, 0, sizeof(*next));
            bucket->next = id;
        }
        bucket = next;
    }
    unsigned way = (unsigned)__builtin_ctz(vacant);
    bucket->sig[way] = sig;
    bucket->index[way] = index;
    return true;
}

/* Gives the overflow buckets of a chain back; the chain's entries were copied out before. */
static void free_chain(nfm_table *table, nfm_bucket *bucket) {
    while (bucket->next != 0) {
        uint32_t id = bucket->next;
        nfm_bucket *next = table->buckets + table->max_buckets + id - 1;
        bucket->next = next->next;
        next->next = table->free_overflow;
        table->free_overflow = id;
    }
}

/* Linear hashing: splits the next bucket in two. Chains are short, so this is bounded work. */
static void split_one(nfm_table *table) {
    enum { CHAIN_MAX = 64 };
    uint32_t index[CHAIN_MAX], n = 0;
    uint16_t sig[CHAIN_MAX];
    uint32_t at = table->n_buckets - table->base, before = table->base - 1;
    nfm_bucket *old = table->buckets + at;
    for (nfm_bucket *b = old; b != NULL; b = overflow_of(table, b))
        n += (uint32_t)__builtin_popcount(used_ways(b));
    if (n > CHAIN_MAX) /* cannot happen with a keyed hash; growing later is harmless */
        return;
    n = 0;
    for (nfm_bucket *b = old; b != NULL; b = overflow_of(table, b)) {
        for (uint32_t ways = used_ways(b); ways != 0; ways &= ways - 1) {
            sig[n] = b->sig[__builtin_ctz(ways)];
            index[n++] = b->index[__builtin_ctz(ways)];
        }
    }
    free_chain(table, old);
    memset(old->sig, 0, sizeof(old->sig));
    memset(table->buckets + table->n_buckets, 0, sizeof(nfm_bucket));
    if (++table->n_buckets == 2 * table->base)
        table->base *= 2;
    for (uint32_t i = 0; i < n; i++) { /* what one chain held fits into two */
        uint64_t hash = hash_of(table, index[i]);
        if (((uint32_t)hash & before) != at || signature(hash) != sig[i]) /* it is the alias */
            hash = nfm_hash_flow(&table->key, &table->alias[index[i]]);
        (void)bucket_add(table, nfm_table_bucket(table, (uint32_t)hash), sig[i], index[i]);
    }
}

static uint32_t take_index(nfm_table *table) {
    if (table->n_free > 0)
        return table->free[--table->n_free];
    return table->n_fresh < table->max_flows ? table->n_fresh++ : NFM_NO_FLOW;
}

uint32_t nfm_table_insert(nfm_table *table, const nfm_key *key, uint64_t hash,
                          uint8_t sender_side) {
    uint32_t index = take_index(table);
    if (index == NFM_NO_FLOW)
        return NFM_NO_FLOW;
    if (!bucket_add(table, nfm_table_bucket(table, (uint32_t)hash), signature(hash), index)) {
        table->free[table->n_free++] = index;
        return NFM_NO_FLOW;
    }
    nfm_key *own = &nfm_table_flow(table, index)->key;
    *own = *key;
    if (sender_side == 1) {
        memcpy(own->addr[0], key->addr[1], 16);
        memcpy(own->addr[1], key->addr[0], 16);
        own->port[0] = key->port[1];
        own->port[1] = key->port[0];
    }
    table->n_flows++;
    if (table->n_flows > table->n_buckets * FLOWS_PER_BUCKET &&
        table->n_buckets < table->max_buckets)
        split_one(table);
    return index;
}

/* Gives an empty overflow bucket back; |before| is the one that links to it. */
static void unlink_empty(nfm_table *table, nfm_bucket *before, nfm_bucket *bucket) {
    uint32_t id = before->next;
    before->next = bucket->next;
    bucket->next = table->free_overflow;
    table->free_overflow = id;
}

/* Takes the entry (signature of |hash|, index) out of its chain; false when there is none. */
static bool remove_entry(nfm_table *table, uint64_t hash, uint32_t index) {
    nfm_bucket *bucket = nfm_table_bucket(table, (uint32_t)hash), *before = NULL;
    for (; bucket != NULL; before = bucket, bucket = overflow_of(table, bucket)) {
        for (uint32_t ways = match_ways(bucket, signature(hash)); ways != 0; ways &= ways - 1) {
            unsigned way = (unsigned)__builtin_ctz(ways);
            if (bucket->index[way] != index)
                continue;
            bucket->sig[way] = 0;
            if (before != NULL && used_ways(bucket) == 0)
                unlink_empty(table, before, bucket);
            return true;
        }
    }
    return false;
}

void nfm_table_remove(nfm_table *table, uint32_t index) {
    table->n_flows -= remove_entry(table, hash_of(table, index), index);
}

bool nfm_table_add_alias(nfm_table *table, uint32_t index, const nfm_key *key, uint8_t side) {
    uint64_t hash = nfm_hash_flow(&table->key, key);
    uint8_t found;
    if (table->alias == NULL) {
        size_t size = table->max_flows * sizeof(nfm_key);
        if (nfm_region_init(&table->alias_region, "aliases", size, NULL) != NFM_OK)
            return false;
        table->alias = (nfm_key *)(void *)table->alias_region.base;
    }
    if (nfm_table_find(table, key, hash, &found) != NFM_NO_FLOW ||
        !bucket_add(table, nfm_table_bucket(table, (uint32_t)hash), signature(hash), index))
        return false;
    table->alias[index] = *key;
    if (side == 1)
        nfm_key_turn(&table->alias[index]);
    return true;
}

void nfm_table_remove_alias(nfm_table *table, uint32_t index) {
    (void)remove_entry(table, nfm_hash_flow(&table->key, &table->alias[index]), index);
}

void nfm_table_recycle(nfm_table *table, uint32_t index) {
    table->free[table->n_free++] = index;
}
