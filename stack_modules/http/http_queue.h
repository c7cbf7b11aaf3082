/* SPDX-License-Identifier: Apache-2.0 */
/* The requests of a flow that wait for their response, oldest first. */
#ifndef NFM_HTTP_QUEUE_H
#define NFM_HTTP_QUEUE_H

#include "http_parse.h"
#include "http_pool.h"

enum { NFM__HTTP_QUEUE = 16, NFM__HTTP_REQUEST_BLOCK = 512 };

enum nfm__http_waiting {                           /* what the response's framing depends on */
                         NFM__HTTP_WAITS_NONE = 0, /* no request is known */
                         NFM__HTTP_WAITS,
                         NFM__HTTP_WAITS_HEAD,
                         NFM__HTTP_WAITS_CONNECT,
                         NFM__HTTP_WAITS_SIMPLE /* HTTP/0.9 */
};

typedef struct nfm__http_queue {     /* zeroed: empty */
    uint32_t block[NFM__HTTP_QUEUE]; /* pool ids of the texts, 0: not kept */
    uint8_t kind[NFM__HTTP_QUEUE];   /* enum nfm__http_waiting */
    uint32_t overflow; /* requests after those in the queue, of which nothing is kept */
    uint8_t first, count;
    uint8_t pad[2];
} nfm__http_queue;

typedef struct nfm__http_asked { /* what a response answers; empty views: not known */
    nfm_view method, target, host;
    int64_t ts_ns;
} nfm__http_asked;

enum nfm__http_pushed { NFM__HTTP_KEPT, NFM__HTTP_NO_BLOCK, NFM__HTTP_QUEUE_FULL };

int nfm__http_queue_push(nfm__http_queue *queue, nfm__http_pool *pool, const nfm__http_head *head,
                         int64_t ts_ns);
nfm__http_asked nfm__http_queue_peek(const nfm__http_queue *queue, const nfm__http_pool *pool);
void nfm__http_queue_pop(nfm__http_queue *queue, nfm__http_pool *pool);
void nfm__http_queue_trim(nfm__http_queue *queue, nfm__http_pool *pool, uint32_t keep);

/* What kind of request is answered next. */
static inline int nfm__http_queue_next(const nfm__http_queue *queue) {
    return queue->count > 0 ? queue->kind[queue->first] : NFM__HTTP_WAITS_NONE;
}

#endif
