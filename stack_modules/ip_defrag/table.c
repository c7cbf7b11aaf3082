/* SPDX-License-Identifier: Apache-2.0 */
/* Datagrams under reassembly: found by key, kept in order of age (defrag.h). */
#include <stdlib.h>
#include <string.h>

#include "defrag.h"

static uint32_t hash_of(const defrag_table *table, const defrag_key *key) {
    uint64_t word, hash = table->secret;
    for (size_t i = 0; i < sizeof(*key); i += 8) {
        memcpy(&word, (const uint8_t *)key + i, 8);
        unsigned __int128 product = (unsigned __int128)(hash ^ word) * (table->secret | 1);
        hash = (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    return (uint32_t)(hash >> 32) & (table->n_buckets - 1);
}

static uint32_t side_of(const defrag_key *key) {
    return key->ip_version == 6;
}

/* defrag_table_init allocates everything the module will ever need: |n_datagrams| and |n_pieces|;
 * |secret| keys the hash. The caller frees it with defrag_table_fini, also after a failure. Returns
 * NFM_OK or NFM_E_NOMEM.
 */
int defrag_table_init(defrag_table *table, uint32_t n_datagrams, uint32_t n_pieces,
                      uint64_t secret) {
    *table = (defrag_table){.secret = secret, .n_buckets = 16, .n_free_pieces = n_pieces};
    while (table->n_buckets < n_datagrams)
        table->n_buckets *= 2;
    table->datagrams = calloc(n_datagrams, sizeof(*table->datagrams));
    table->pieces = calloc(n_pieces, sizeof(*table->pieces));
    table->buckets = malloc(table->n_buckets * sizeof(*table->buckets));
    if (table->datagrams == NULL || table->pieces == NULL || table->buckets == NULL)
        return NFM_E_NOMEM;
    for (uint32_t i = 0; i < table->n_buckets; i++)
        table->buckets[i] = DEFRAG_NONE;
    for (uint32_t i = 0; i < n_datagrams; i++)
        table->datagrams[i].hash_next = i + 1 < n_datagrams ? i + 1 : DEFRAG_NONE;
    for (uint32_t i = 0; i < n_pieces; i++)
        table->pieces[i].next = i + 1 < n_pieces ? i + 1 : DEFRAG_NONE;
    table->oldest[0] = table->oldest[1] = table->newest[0] = table->newest[1] = DEFRAG_NONE;
    return NFM_OK;
}

/* defrag_table_fini frees the tables. Slots are the worker's and go with it. */
void defrag_table_fini(defrag_table *table) {
    free(table->datagrams);
    free(table->pieces);
    free(table->buckets);
}

/* defrag_find looks a datagram up. Returns its index, or DEFRAG_NONE. */
uint32_t defrag_find(const defrag_table *table, const defrag_key *key) {
    uint32_t index = table->buckets[hash_of(table, key)];
    while (index != DEFRAG_NONE && memcmp(&table->datagrams[index].key, key, sizeof(*key)) != 0)
        index = table->datagrams[index].hash_next;
    return index;
}

/* defrag_open begins a datagram, the newest of its IP version, without bytes. Returns its index, or
 * DEFRAG_NONE when the table is full. */
uint32_t defrag_open(defrag_table *table, const defrag_key *key, int64_t expires_ns) {
    uint32_t index = table->free_datagram, side = side_of(key);
    if (index == DEFRAG_NONE)
        return DEFRAG_NONE;
    defrag_datagram *datagram = &table->datagrams[index];
    uint32_t *bucket = &table->buckets[hash_of(table, key)];
    table->free_datagram = datagram->hash_next;
    *datagram = (defrag_datagram){.key = *key,
                                  .expires_ns = expires_ns,
                                  .hash_next = *bucket,
                                  .older = table->newest[side],
                                  .newer = DEFRAG_NONE,
                                  .pieces = DEFRAG_NONE,
                                  .first_slot = NFM_NO_SLOT};
    *bucket = index;
    if (table->newest[side] != DEFRAG_NONE)
        table->datagrams[table->newest[side]].newer = index;
    else
        table->oldest[side] = index;
    table->newest[side] = index;
    return index;
}

/* defrag_condemn releases all slots of datagram |index|; it stays in the table, and every further
 * fragment of it is dropped until it expires. Source: RFC 5722 section 4. */
void defrag_condemn(nfm_ctx *ctx, uint32_t index) {
    defrag_table *table = ctx->self;
    defrag_datagram *datagram = &table->datagrams[index];
    while (datagram->pieces != DEFRAG_NONE) {
        uint32_t i = datagram->pieces;
        defrag_piece *piece = &table->pieces[i];
        datagram->pieces = piece->next;
        table->n_large -= piece->slot >= ctx->mem->n_small;
        nfm_slot_release(ctx, piece->slot);
        piece->next = table->free_piece;
        table->free_piece = i;
        table->n_free_pieces++;
    }
    if (datagram->first_slot != NFM_NO_SLOT) {
        table->n_large -= datagram->first_slot >= ctx->mem->n_small;
        nfm_slot_release(ctx, datagram->first_slot);
    }
    datagram->first_slot = NFM_NO_SLOT;
    datagram->covered = 0;
    datagram->condemned = 1;
}

/* defrag_close releases all slots of datagram |index| and gives its place back. */
void defrag_close(nfm_ctx *ctx, uint32_t index) {
    defrag_table *table = ctx->self;
    defrag_datagram *datagram = &table->datagrams[index];
    uint32_t side = side_of(&datagram->key);
    uint32_t *link = &table->buckets[hash_of(table, &datagram->key)];
    defrag_condemn(ctx, index);
    while (*link != index)
        link = &table->datagrams[*link].hash_next;
    *link = datagram->hash_next;
    if (datagram->older != DEFRAG_NONE)
        table->datagrams[datagram->older].newer = datagram->newer;
    else
        table->oldest[side] = datagram->newer;
    if (datagram->newer != DEFRAG_NONE)
        table->datagrams[datagram->newer].older = datagram->older;
    else
        table->newest[side] = datagram->older;
    datagram->hash_next = table->free_datagram;
    table->free_datagram = index;
}

/* defrag_oldest names the datagram whose time is over first. Returns DEFRAG_NONE when there is
 * none. */
uint32_t defrag_oldest(const defrag_table *table) {
    uint32_t a = table->oldest[0], b = table->oldest[1];
    if (a == DEFRAG_NONE || b == DEFRAG_NONE)
        return a == DEFRAG_NONE ? b : a;
    return table->datagrams[b].expires_ns < table->datagrams[a].expires_ns ? b : a;
}
