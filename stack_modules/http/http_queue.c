/* SPDX-License-Identifier: Apache-2.0 */
#include "http_queue.h"

#include <string.h>

enum { HOST_MAX = 128 };

typedef struct request_block { /* in a block of NFM__HTTP_REQUEST_BLOCK bytes */
    int64_t ts_ns;
    uint16_t method_len, host_len, target_len;
    uint8_t text[];
} request_block;

static uint16_t put_text(request_block *block, uint32_t *used, nfm_view text) {
    uint32_t room = NFM__HTTP_REQUEST_BLOCK - (uint32_t)sizeof(*block) - *used;
    uint32_t len = text.len < room ? text.len : room;
    if (len > 0)
        memcpy(block->text + *used, text.data, len);
    *used += len;
    return (uint16_t)len;
}

static uint32_t keep_texts(nfm__http_pool *pool, const nfm__http_head *head, int64_t ts_ns) {
    uint32_t id = nfm__http_pool_get(pool), used = 0;
    if (id == 0)
        return 0;
    request_block *block = (void *)nfm__http_pool_block(pool, id);
    nfm_view host = head->known[NFM__HTTP_HOST];
    if (host.len > HOST_MAX)
        host.len = HOST_MAX;
    block->ts_ns = ts_ns;
    block->method_len = put_text(block, &used, head->method);
    block->host_len = put_text(block, &used, host);
    block->target_len = put_text(block, &used, head->target);
    return id;
}

static bool is_method(const nfm__http_head *head, const char *name) {
    size_t len = strlen(name);
    return head->method.len == len && memcmp(head->method.data, name, len) == 0;
}

static uint8_t kind_of(const nfm__http_head *head) {
    if (is_method(head, "HEAD"))
        return NFM__HTTP_WAITS_HEAD;
    if (is_method(head, "CONNECT"))
        return NFM__HTTP_WAITS_CONNECT;
    return head->major == 0 ? NFM__HTTP_WAITS_SIMPLE : NFM__HTTP_WAITS;
}

/*
 * nfm__http_queue_push adds a request; its method, host and target are copied to a block of |pool|,
 * cut to what fits. Returns enum nfm__http_pushed: KEPT, NO_BLOCK (waits without its texts), or
 * QUEUE_FULL (only counted, in its place).
 */
int nfm__http_queue_push(nfm__http_queue *queue, nfm__http_pool *pool, const nfm__http_head *head,
                         int64_t ts_ns) {
    if (queue->count == NFM__HTTP_QUEUE || queue->overflow > 0) {
        queue->overflow++;
        return NFM__HTTP_QUEUE_FULL;
    }
    uint32_t at = (queue->first + queue->count++) % NFM__HTTP_QUEUE;
    queue->kind[at] = kind_of(head);
    queue->block[at] = keep_texts(pool, head, ts_ns);
    return queue->block[at] != 0 ? NFM__HTTP_KEPT : NFM__HTTP_NO_BLOCK;
}

/*
 * nfm__http_queue_peek gives the oldest request as views into its block, valid until it is popped.
 */
nfm__http_asked nfm__http_queue_peek(const nfm__http_queue *queue, const nfm__http_pool *pool) {
    nfm__http_asked asked = {{NULL, 0}, {NULL, 0}, {NULL, 0}, 0};
    uint32_t id = queue->count > 0 ? queue->block[queue->first] : 0;
    if (id == 0)
        return asked;
    const request_block *block = (const void *)nfm__http_pool_block(pool, id);
    const uint8_t *text = block->text;
    asked.ts_ns = block->ts_ns;
    asked.method = (nfm_view){text, block->method_len};
    asked.host = (nfm_view){text + block->method_len, block->host_len};
    asked.target = (nfm_view){text + block->method_len + block->host_len, block->target_len};
    return asked;
}

/*
 * nfm__http_queue_pop forgets the oldest request; an empty queue is fine.
 */
void nfm__http_queue_pop(nfm__http_queue *queue, nfm__http_pool *pool) {
    if (queue->count == 0) {
        queue->overflow -= queue->overflow > 0;
        return;
    }
    nfm__http_pool_put(pool, queue->block[queue->first]);
    queue->block[queue->first] = 0;
    queue->first = (uint8_t)((queue->first + 1) % NFM__HTTP_QUEUE);
    queue->count--;
}

/*
 * nfm__http_queue_trim forgets all but the |keep| newest requests of which something is kept.
 */
void nfm__http_queue_trim(nfm__http_queue *queue, nfm__http_pool *pool, uint32_t keep) {
    while (queue->count > keep)
        nfm__http_queue_pop(queue, pool);
    queue->overflow = 0;
}
