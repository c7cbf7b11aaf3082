/* SPDX-License-Identifier: Apache-2.0 */
/* A pool of equal blocks of one worker, named by index. Memory is reserved, touched when first
 * used. */
#ifndef NFM_HTTP_POOL_H
#define NFM_HTTP_POOL_H

#include <stdint.h>

typedef struct nfm__http_pool {
    uint8_t *memory;
    uint32_t *next; /* free list through unused blocks */
    uint32_t size, count;
    uint32_t free;  /* head of the list: id, 0 none */
    uint32_t fresh; /* blocks handed out at least once */
} nfm__http_pool;

int nfm__http_pool_init(nfm__http_pool *pool, uint32_t count, uint32_t size);
void nfm__http_pool_fini(nfm__http_pool *pool);
uint32_t nfm__http_pool_get(nfm__http_pool *pool);
void nfm__http_pool_put(nfm__http_pool *pool, uint32_t id);

/* The block of an id that nfm__http_pool_get returned. */
static inline uint8_t *nfm__http_pool_block(const nfm__http_pool *pool, uint32_t id) {
    return pool->memory + (uint64_t)(id - 1) * pool->size;
}

#endif
