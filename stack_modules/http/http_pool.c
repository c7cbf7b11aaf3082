/* SPDX-License-Identifier: Apache-2.0 */
#include "http_pool.h"

#include <stdlib.h>

#include "nfm/module.h"

/*
 * nfm__http_pool_init reserves |count| blocks of |size| bytes; the caller calls fini. Pages are
 * touched as blocks are first used. Returns NFM_OK or NFM_E_NOMEM (nothing is held then).
 */
int nfm__http_pool_init(nfm__http_pool *pool, uint32_t count, uint32_t size) {
    *pool = (nfm__http_pool){.size = size, .count = count};
    pool->memory = calloc(count, size);
    pool->next = calloc(count, sizeof(*pool->next));
    if (pool->memory != NULL && pool->next != NULL)
        return NFM_OK;
    nfm__http_pool_fini(pool);
    return NFM_E_NOMEM;
}

/*
 * nfm__http_pool_fini gives all memory back. A zeroed or finished pool is fine.
 */
void nfm__http_pool_fini(nfm__http_pool *pool) {
    free(pool->memory);
    free(pool->next);
    *pool = (nfm__http_pool){0};
}

/*
 * nfm__http_pool_get takes a block. Returns its id from 1, or 0 when all are in use.
 */
uint32_t nfm__http_pool_get(nfm__http_pool *pool) {
    uint32_t id = pool->free;
    if (id != 0)
        pool->free = pool->next[id - 1];
    else if (pool->fresh < pool->count)
        id = ++pool->fresh;
    return id;
}

/*
 * nfm__http_pool_put gives a block back; id 0 is fine.
 */
void nfm__http_pool_put(nfm__http_pool *pool, uint32_t id) {
    if (id == 0)
        return;
    pool->next[id - 1] = pool->free;
    pool->free = id;
}
