/* SPDX-License-Identifier: Apache-2.0 */
#include "base/pool.h"

#include <stdlib.h>
#include <string.h>

int nfm_pool_init(nfm_pool *pool, uint8_t *packets, uint32_t n_small, uint32_t n_large) {
    memset(pool, 0, sizeof(*pool));
    pool->packets = packets;
    pool->n_small = n_small;
    pool->n_slots = n_small + n_large;
    pool->free_small = malloc(sizeof(uint32_t) * (n_small + 1));
    pool->free_large = malloc(sizeof(uint32_t) * (n_large + 1));
    pool->refs = calloc(pool->n_slots + 1, sizeof(uint16_t));
    if (pool->free_small == NULL || pool->free_large == NULL || pool->refs == NULL) {
        nfm_pool_fini(pool);
        return NFM_E_NOMEM;
    }
    nfm_pool_rebuild(pool);
    return NFM_OK;
}

void nfm_pool_rebuild(nfm_pool *pool) {
    pool->n_free_small = pool->n_free_large = 0;
    /* Lowest ids on top: a lightly loaded pool touches few pages. */
    for (uint32_t i = pool->n_slots; i-- > 0;) {
        if (pool->refs[i] != 0)
            continue;
        if (i < pool->n_small)
            pool->free_small[pool->n_free_small++] = i;
        else
            pool->free_large[pool->n_free_large++] = i;
    }
}

void nfm_pool_fini(nfm_pool *pool) {
    free(pool->free_small);
    free(pool->free_large);
    free(pool->refs);
    memset(pool, 0, sizeof(*pool));
}
