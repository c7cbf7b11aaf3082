/* SPDX-License-Identifier: Apache-2.0 */
#include "lpm.h"

#include <stdlib.h>

/*
 * lpm_init makes an empty table that grows up to |max_bytes|: half a MiB at least.
 * False: no memory.
 */
bool lpm_init(lpm *table, uint64_t max_bytes) {
    const uint64_t root = LPM_ROOT * sizeof(uint32_t), chunk = LPM_CHUNK * sizeof(uint32_t);
    uint64_t most = max_bytes > 2 * root ? (max_bytes - root) / chunk : root / chunk;
    *table = (lpm){.max_chunks = most < LPM_IS_CHUNK - 1 ? (uint32_t)most : LPM_IS_CHUNK - 1};
    table->root = calloc(LPM_ROOT, sizeof(uint32_t));
    return table->root != NULL;
}

/* lpm_fini frees what lpm_init and lpm_add took. */
void lpm_fini(lpm *table) {
    free(table->root);
    free(table->chunks);
    *table = (lpm){0};
}

/* Room for one more chunk. */
static int reserve(lpm *table) {
    if (table->n_chunks == table->max_chunks)
        return NFM_E_LIMIT;
    if (table->n_chunks == 0 || (table->n_chunks & (table->n_chunks - 1)) == 0) {
        size_t n = table->n_chunks == 0 ? 1 : (size_t)table->n_chunks * 2;
        n = n < table->max_chunks ? n : table->max_chunks;
        uint32_t *more = realloc(table->chunks, n * LPM_CHUNK * sizeof(uint32_t));
        if (more == NULL)
            return NFM_E_NOMEM;
        table->chunks = more;
    }
    return NFM_OK;
}

static uint32_t *entry_at(lpm *table, uint32_t chunk, uint32_t place) {
    return chunk == LPM_IS_CHUNK ? &table->root[place]
                                 : &table->chunks[(size_t)chunk * LPM_CHUNK + place];
}

/* The chunk below an entry; made when there is none. */
static int descend(lpm *table, uint32_t *chunk, uint32_t place) {
    uint32_t before = *entry_at(table, *chunk, place);
    if (!(before & LPM_IS_CHUNK)) {
        int rc = reserve(table);
        if (rc != NFM_OK)
            return rc;
        uint32_t made = table->n_chunks++;
        for (uint32_t i = 0; i < LPM_CHUNK; i++)
            *entry_at(table, made, i) = before;
        before = *entry_at(table, *chunk, place) = made | LPM_IS_CHUNK;
    }
    *chunk = before & ~LPM_IS_CHUNK;
    return NFM_OK;
}

/*
 * lpm_add adds the prefix of |bits| bits at |prefix|, none longer than which was added before, with
 * a |value| from 1 on. Returns NFM_OK; NFM_E_INVAL: out of order, bits beyond the prefix are set,
 * or no such value; NFM_E_LIMIT: the table is as large as it may be; NFM_E_NOMEM.
 */
int lpm_add(lpm *table, const uint8_t *prefix, uint32_t bits, uint32_t value) {
    if (bits > 128 || bits < table->bits_max || value == 0 || value >= LPM_IS_CHUNK)
        return NFM_E_INVAL;
    table->bits_max = bits;
    uint32_t chunk = LPM_IS_CHUNK, end = 16, at = 2; /* this level's bits end there */
    uint32_t place = (uint32_t)prefix[0] << 8 | prefix[1];
    for (; bits > end; end += 8) {
        int rc = descend(table, &chunk, place);
        if (rc != NFM_OK)
            return rc;
        place = prefix[at++];
    }
    uint32_t n = UINT32_C(1) << (end - bits);
    if (place & (n - 1))
        return NFM_E_INVAL;
    for (uint32_t i = 0; i < n; i++)
        *entry_at(table, chunk, place + i) = value;
    return NFM_OK;
}
