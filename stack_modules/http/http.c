/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The http stack module: feeds the two sides of a flow to the parser, pairs responses with requests
 * and raises events.
 *
 * Theory of operation
 *   A flow's state holds two parser sides and the queue of requests that wait for their response.
 *   What is larger lies in blocks of two worker pools: heads that did not arrive in one piece, and
 *   per waiting request its method, target and host. Both pools are bounded; without a block the
 *   message is parsed all the same, or given up, and a counter tells.
 *   Which side is the HTTP server is decided by what the sides say, not by who opened the flow, so
 *   flows that are seen from the middle or from one side only need no special case.
 *   A flow whose first bytes are no HTTP is detached; so is one that switched protocols.
 */
#include "http_events.h"

#include <stdlib.h>
#include <string.h>

enum { LIMIT_HEADER_BYTES, LIMIT_HEAD_BUFFERS, LIMIT_REQUEST_BLOCKS, LIMIT_RESYNC_BYTES, N_LIMITS };

enum {
    C_REQUESTS,
    C_RESPONSES,
    C_ERRORS,
    C_NOT_HTTP,
    C_UPGRADES,
    C_GAVE_UP,
    C_NO_BUFFER,
    C_NO_REQUEST_BLOCK,
    C_QUEUE_FULL,
    C_UNMATCHED,
    C_GAPS
};

struct http_flow {
    nfm__http_side side[2];
    uint32_t head_buffer[2]; /* pool ids, 0 none */
    nfm__http_queue queue;
    uint8_t not_http;    /* nothing of this flow is HTTP */
    uint8_t doubtful;    /* a side began like a request but was none: the other side tells */
    uint8_t request_gap; /* requests may be missing: the queue is not to be trusted */
};
static_assert(sizeof(struct http_flow) <= 256, "state of a flow stays small");

struct http_worker {
    nfm__http_pool heads;
    nfm__http_pool requests;
    nfm__http_sink sink;
};

struct call { /* one on_event */
    nfm_ctx *ctx;
    struct http_flow *flow;
    const nfm_record *record;
};

static struct http_worker *self_of(const struct call *call) {
    return call->ctx->self;
}

static bool wanted(const struct call *call, uint32_t event) {
    return nfm_wanted(call->ctx, (uint32_t)call->record->flow, event);
}

static void raise_event(const struct call *call, uint32_t event, const nfm_value *values,
                        nfm_view data) {
    (void)nfm_raise(call->ctx, event, values, data); /* no room: the worker counts it */
}

static nfm__http_side *other_side(const struct call *call, const nfm__http_side *side) {
    return side == &call->flow->side[0] ? &call->flow->side[1] : &call->flow->side[0];
}

static void push_request(const struct call *call, const nfm__http_side *side,
                         const nfm__http_head *head) {
    struct http_flow *flow = call->flow;
    nfm__http_pool *pool = &self_of(call)->requests;
    /* After lost requests: an idle server owes nothing, so what waits was answered unseen. */
    if (flow->request_gap && other_side(call, side)->state == NFM__HTTP_START)
        nfm__http_queue_trim(&flow->queue, pool, 0);
    flow->request_gap = 0;
    int pushed = nfm__http_queue_push(&flow->queue, pool, head, call->record->ts_ns);
    if (pushed == NFM__HTTP_NO_BLOCK)
        call->ctx->counters[C_NO_REQUEST_BLOCK]++;
    else if (pushed == NFM__HTTP_QUEUE_FULL)
        call->ctx->counters[C_QUEUE_FULL]++;
}

/* ---- the parser's sink -------------------------------------------------------------------- */

static void raise_upgrade(const struct call *call, nfm__http_side *side, nfm_view protocol,
                          nfm_view target) {
    call->ctx->counters[C_UPGRADES]++;
    if (wanted(call, NFM__HTTP_EV_UPGRADE)) {
        nfm_value v[NFM__HTTP_MAX_FIELDS];
        nfm__http_fill_node(v, side);
        v[2] = (nfm_value){.bytes = protocol};
        v[3] = (nfm_value){.bytes = target};
        raise_event(call, NFM__HTTP_EV_UPGRADE, v, (nfm_view){NULL, 0});
    }
    nfm__http_tunnel(other_side(call, side), &self_of(call)->sink);
}

static int on_request(const struct call *call, nfm__http_side *side, const nfm__http_head *head) {
    call->ctx->counters[C_REQUESTS]++;
    if (wanted(call, NFM__HTTP_EV_REQUEST)) {
        nfm_value v[NFM__HTTP_MAX_FIELDS];
        nfm__http_fill_node(v, side);
        nfm__http_fill_request(v, head);
        raise_event(call, NFM__HTTP_EV_REQUEST, v, (nfm_view){NULL, 0});
    }
    push_request(call, side, head);
    if (head->method.len == 3 && memcmp(head->method.data, "PRI", 3) == 0) {
        raise_upgrade(call, side, (nfm_view){(const uint8_t *)"h2", 2}, head->target);
        return NFM__HTTP_SWITCH; /* the preface of HTTP/2 (RFC 9113 section 3.4) */
    }
    return NFM__HTTP_BY_HEAD;
}

static int follow_response(const struct call *call, nfm__http_side *side,
                           const nfm__http_head *head, const nfm__http_asked *asked) {
    int kind = nfm__http_queue_next(&call->flow->queue);
    if (head->partial)
        return NFM__HTTP_BY_HEAD;
    if (head->status == 101) {
        raise_upgrade(call, side, head->known[NFM__HTTP_UPGRADE], asked->target);
        return NFM__HTTP_SWITCH;
    }
    if (kind == NFM__HTTP_WAITS_CONNECT && head->status / 100 == 2) {
        raise_upgrade(call, side, (nfm_view){(const uint8_t *)"connect", 7}, asked->target);
        return NFM__HTTP_SWITCH;
    }
    if (kind == NFM__HTTP_WAITS_CONNECT && head->status >= 300)
        nfm__http_resume(other_side(call, side));
    if (kind == NFM__HTTP_WAITS_NONE)
        return NFM__HTTP_UNSURE;
    return kind == NFM__HTTP_WAITS_HEAD ? NFM__HTTP_NO_BODY : NFM__HTTP_BY_HEAD;
}

static int on_response(const struct call *call, nfm__http_side *side, const nfm__http_head *head) {
    call->ctx->counters[C_RESPONSES]++;
    nfm__http_asked asked = nfm__http_queue_peek(&call->flow->queue, &self_of(call)->requests);
    if (asked.method.len == 0)
        call->ctx->counters[C_UNMATCHED]++;
    if (wanted(call, NFM__HTTP_EV_RESPONSE)) {
        nfm_value v[NFM__HTTP_MAX_FIELDS];
        nfm__http_fill_node(v, side);
        nfm__http_fill_response(v, head, &asked, call->record->ts_ns);
        raise_event(call, NFM__HTTP_EV_RESPONSE, v, (nfm_view){NULL, 0});
    }
    int follow = follow_response(call, side, head, &asked);
    if (head->status >= 200 || head->status == 101)
        nfm__http_queue_pop(&call->flow->queue, &self_of(call)->requests);
    return follow;
}

static void on_body(void *arg, nfm__http_side *side, nfm_view data) {
    const struct call *call = arg;
    if (!wanted(call, NFM__HTTP_EV_BODY))
        return;
    nfm_value v[NFM__HTTP_MAX_FIELDS];
    nfm__http_fill_node(v, side);
    v[2] = (nfm_value){.number = side->body_len};
    v[3] = (nfm_value){.number = data.len};
    raise_event(call, NFM__HTTP_EV_BODY, v, data);
}

static void on_end(void *arg, nfm__http_side *side, const nfm__http_end *end) {
    const struct call *call = arg;
    if (!wanted(call, NFM__HTTP_EV_END))
        return;
    nfm_value v[NFM__HTTP_MAX_FIELDS];
    nfm__http_fill_node(v, side);
    nfm__http_fill_end(v, side, end);
    raise_event(call, NFM__HTTP_EV_END, v, (nfm_view){NULL, 0});
}

static bool seen(const nfm__http_side *side) {
    return (side->flags & NFM__HTTP_F_SEEN) != 0;
}

static void raise_error(const struct call *call, const nfm__http_side *side, int kind) {
    call->ctx->counters[C_ERRORS]++;
    if (!wanted(call, NFM__HTTP_EV_ERROR))
        return;
    const char *name = nfm__http_error_name(kind);
    nfm_value v[NFM__HTTP_MAX_FIELDS];
    nfm__http_fill_node(v, side);
    v[2] = (nfm_value){.bytes = {(const uint8_t *)name, (uint32_t)strlen(name)}};
    raise_event(call, NFM__HTTP_EV_ERROR, v, (nfm_view){NULL, 0});
}

static void on_error(void *arg, nfm__http_side *side, int kind) {
    const struct call *call = arg;
    const struct http_flow *flow = call->flow;
    bool no_start = kind == NFM__HTTP_E_NOT_HTTP || kind == NFM__HTTP_E_START_LINE;
    if (kind == NFM__HTTP_E_NO_BUFFER)
        call->ctx->counters[C_NO_BUFFER]++;
    if (!seen(side) && !seen(other_side(call, side))) { /* nothing of this flow was HTTP yet */
        call->flow->doubtful = kind == NFM__HTTP_E_START_LINE;
        call->flow->not_http = kind != NFM__HTTP_E_START_LINE;
        return;
    }
    if (no_start && side->role == NFM__HTTP_RESPONSE &&
        nfm__http_queue_next(&flow->queue) == NFM__HTTP_WAITS_SIMPLE)
        return; /* the answer to HTTP/0.9 has no head */
    raise_error(call, side, kind);
}

/* A side that was in doubt turns out to have been a broken request. */
static void settle_doubt(const struct call *call, const nfm__http_side *side) {
    nfm__http_side first = *side;
    call->flow->doubtful = 0;
    first.message = 0;
    raise_error(call, &first, NFM__HTTP_E_START_LINE);
}

static int on_head(void *arg, nfm__http_side *side, const nfm__http_head *head) {
    const struct call *call = arg;
    nfm__http_side *other = other_side(call, side);
    bool request = head->role == NFM__HTTP_REQUEST;
    if (other->role == NFM__HTTP_UNKNOWN)
        other->role = request ? NFM__HTTP_RESPONSE : NFM__HTTP_REQUEST;
    if (call->flow->doubtful)
        settle_doubt(call, other);
    return request ? on_request(call, side, head) : on_response(call, side, head);
}

static uint32_t *buffer_id(const struct call *call, const nfm__http_side *side) {
    return &call->flow->head_buffer[side == &call->flow->side[1]];
}

static uint8_t *on_buffer(void *arg, nfm__http_side *side) {
    const struct call *call = arg;
    uint32_t *id = buffer_id(call, side);
    if (*id == 0)
        *id = nfm__http_pool_get(&self_of(call)->heads);
    return *id == 0 ? NULL : nfm__http_pool_block(&self_of(call)->heads, *id);
}

static void on_release(void *arg, nfm__http_side *side) {
    const struct call *call = arg;
    uint32_t *id = buffer_id(call, side);
    nfm__http_pool_put(&self_of(call)->heads, *id);
    *id = 0;
}

/* ---- the module --------------------------------------------------------------------------- */

static void http_stop(nfm_ctx *ctx) {
    struct http_worker *self = ctx->self;
    if (self == NULL)
        return;
    nfm__http_pool_fini(&self->heads);
    nfm__http_pool_fini(&self->requests);
    free(self);
    ctx->self = NULL;
}

static int http_start(nfm_ctx *ctx) {
    struct http_worker *self = calloc(1, sizeof(*self));
    if (self == NULL)
        return NFM_E_NOMEM;
    ctx->self = self;
    self->sink = (nfm__http_sink){
        .head_limit = (uint32_t)ctx->limits[LIMIT_HEADER_BYTES],
        .resync_limit = ctx->limits[LIMIT_RESYNC_BYTES],
        .head = on_head,
        .body = on_body,
        .end = on_end,
        .error = on_error,
        .buffer = on_buffer,
        .release = on_release,
    };
    int rc = nfm__http_pool_init(&self->heads, (uint32_t)ctx->limits[LIMIT_HEAD_BUFFERS],
                                 self->sink.head_limit);
    if (rc == NFM_OK)
        rc = nfm__http_pool_init(&self->requests, (uint32_t)ctx->limits[LIMIT_REQUEST_BLOCKS],
                                 NFM__HTTP_REQUEST_BLOCK);
    if (rc != NFM_OK)
        http_stop(ctx);
    return rc;
}

static void give_back(struct http_worker *self, struct http_flow *flow) {
    for (int i = 0; i < 2; i++) {
        nfm__http_pool_put(&self->heads, flow->head_buffer[i]);
        flow->head_buffer[i] = 0;
    }
    nfm__http_queue_trim(&flow->queue, &self->requests, 0);
}

static bool is_over(const nfm__http_side *side) {
    return side->state == NFM__HTTP_DEAD || side->state == NFM__HTTP_TUNNEL;
}

/* Detaches from a flow of which nothing more is to be learnt. */
static void detach_if_over(nfm_ctx *ctx, struct http_flow *flow) {
    const nfm__http_side *a = &flow->side[0], *b = &flow->side[1];
    bool blind = !seen(a) && !seen(b) && !flow->doubtful && (is_over(a) || is_over(b));
    if (!flow->not_http && !blind && !(is_over(a) && is_over(b)))
        return;
    if (flow->not_http || (!seen(a) && !seen(b)))
        ctx->counters[C_NOT_HTTP]++;
    else if (a->state == NFM__HTTP_DEAD || b->state == NFM__HTTP_DEAD)
        ctx->counters[C_GAVE_UP]++;
    give_back(ctx->self, flow);
    nfm_detach(ctx);
}

/* After lost bytes of the server the newest request is the likeliest to be answered next. */
static void on_gap(const struct call *call, nfm__http_side *side) {
    struct http_worker *self = call->ctx->self;
    uint64_t len = call->record->tcp.data_len;
    call->ctx->counters[C_GAPS]++;
    nfm__http_gap(side, &self->sink, len == UINT32_MAX ? UINT64_MAX : len);
    if (side->state != NFM__HTTP_RESYNC)
        return;
    if (side->role == NFM__HTTP_REQUEST)
        call->flow->request_gap = 1;
    else if (side->role == NFM__HTTP_RESPONSE)
        nfm__http_queue_trim(&call->flow->queue, &self->requests, 1);
}

static void on_flow_end(const struct call *call) {
    struct http_worker *self = call->ctx->self;
    bool clean = call->record->reason == NFM_END_FIN;
    int first = call->flow->side[1].role == NFM__HTTP_REQUEST;
    nfm__http_finish(&call->flow->side[first], &self->sink, clean);
    nfm__http_finish(&call->flow->side[!first], &self->sink, clean);
}

static void http_event(nfm_ctx *ctx, const nfm_record *record, nfm_view data, void *state) {
    struct http_worker *self = ctx->self;
    struct call call = {.ctx = ctx, .flow = state, .record = record};
    nfm__http_side *side = &call.flow->side[record->side & 1];
    self->sink.arg = &call;
    if (record->kind == NFM_REC_FLOW) {
        on_flow_end(&call);
    } else if (record->kind == NFM_REC_GAP) {
        on_gap(&call, side);
        detach_if_over(ctx, call.flow);
    } else {
        if ((record->flags & NFM_F_MIDSTREAM) && !seen(side))
            side->flags |= NFM__HTTP_F_LOOSE;
        nfm__http_feed(side, &self->sink, data);
        detach_if_over(ctx, call.flow);
    }
    self->sink.arg = NULL;
}

static void http_close(nfm_ctx *ctx, nfm_flow *flow, uint32_t flow_index, int64_t now_ns,
                       void *state) {
    (void)flow;
    (void)flow_index;
    (void)now_ns;
    give_back(ctx->self, state);
}

static const char *const http_needs[] = {"tcp.data", "tcp.anomaly.gap", "flow.end", NULL};

static const nfm_limit_def http_limits[N_LIMITS] = {
    [LIMIT_HEADER_BYTES] = {.name = "header_bytes",
                            .value = 16384,
                            .min = 256,
                            .max = 1 << 20,
                            .doc = "longest head or trailer section of a message"},
    [LIMIT_HEAD_BUFFERS] = {.name = "head_buffers",
                            .value = 4096,
                            .min = 1,
                            .max = 1 << 20,
                            .doc = "heads that arrive in pieces at the same time, per worker"},
    [LIMIT_REQUEST_BLOCKS] = {.name = "request_blocks",
                              .value = 65536,
                              .min = 1,
                              .max = 1 << 24,
                              .doc = "requests whose text is kept for their response, per worker"},
    [LIMIT_RESYNC_BYTES] = {.name = "resync_bytes",
                            .value = 65536,
                            .min = 0,
                            .max = UINT32_MAX,
                            .doc = "searched for a first message on a side seen from the middle"},
};

static const char *const http_counters[] = {
    [C_REQUESTS] = "requests",
    [C_RESPONSES] = "responses",
    [C_ERRORS] = "errors",
    [C_NOT_HTTP] = "not_http",
    [C_UPGRADES] = "upgrades",
    [C_GAVE_UP] = "gave_up",
    [C_NO_BUFFER] = "no_head_buffer",
    [C_NO_REQUEST_BLOCK] = "no_request_block",
    [C_QUEUE_FULL] = "queue_full",
    [C_UNMATCHED] = "unmatched_responses",
    [C_GAPS] = "gaps",
    [C_GAPS + 1] = NULL,
};

/* The module's descriptor; builtin.c lists it. */
extern const nfm_module nfm_module_http;
const nfm_module nfm_module_http = {
    .abi = NFM_MODULE_ABI,
    .phase = NFM_PHASE_APP,
    .name = "http",
    .summary = "HTTP/1.x requests, responses and bodies of both sides of a connection",
    .needs = http_needs,
    .emits = nfm__http_events,
    .limits = http_limits,
    .counters = http_counters,
    .n_emits = NFM__HTTP_EV_COUNT,
    .n_limits = N_LIMITS,
    .flow_size = sizeof(struct http_flow),
    .proto = 6,
    .start = http_start,
    .stop = http_stop,
    .flow_close = http_close,
    .on_event = http_event,
};
