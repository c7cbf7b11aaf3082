/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dns stack module: takes messages out of datagrams and TCP streams, parses them, pairs
 * responses with queries and raises events.
 *
 * Theory of operation
 *   A datagram is a message. In TCP each message has its length before it (RFC 7766 section 8): one
 *   that lies whole in the new bytes is parsed in place, another gathers in a slot of the packet
 *   pool, at most |assemblies| of them per worker. Lost bytes inside a message cost that message;
 *   lost bytes around a length cost the side.
 *   The last queries of a flow wait in a small ring, as id and a hash of the question, for their
 *   response; a query sent again replaces its first copy.
 */
#include "dns_events.h"

#include <stdlib.h>
#include <string.h>

enum { PENDING = 8, PORT_DNS = 53, PORT_MDNS = 5353, PORT_LLMNR = 5355, UDP = 17 };

enum { LIMIT_ANY_PORT, LIMIT_ANSWERS_BYTES, LIMIT_ASSEMBLIES, N_LIMITS };

enum {
    C_QUERIES,
    C_RESPONSES,
    C_ERRORS,
    C_NOT_DNS,
    C_UNMATCHED,
    C_ANSWERS_CUT,
    C_NO_SLOT,
    C_GAPS,
    C_INCOMPLETE
};

enum stream_state { LENGTH_HIGH = 0, LENGTH_LOW, MESSAGE, SKIP, DEAD };

struct stream {          /* one side of a TCP flow */
    uint32_t slot;       /* of the message under assembly + 1, 0 none */
    uint16_t have, need; /* bytes of this message */
    uint8_t state;       /* enum stream_state */
    uint8_t known;       /* its first message looked like DNS */
};

struct pending {
    uint16_t id, hash; /* of the question */
    uint32_t sent_us;  /* event time, low bits */
};

struct dns_flow {
    struct stream stream[2];
    struct pending pending[PENDING];
    uint8_t used; /* bit per entry of pending */
    uint8_t next;
    uint8_t is_dns; /* decided: 0 not yet, 1 */
    uint8_t multicast;
};
static_assert(sizeof(struct dns_flow) <= 128, "state of a flow stays small");

struct dns_worker {
    nfm__dns_message message;
    nfm__dns_names names;
    uint32_t assemblies; /* slots held */
    char qname[NFM__DNS_NAME_TEXT];
    char subnet[NFM__DNS_SUBNET_TEXT];
    char qtype[16], rcode[16];
    char answers[];
};

struct call { /* one on_event */
    nfm_ctx *ctx;
    struct dns_flow *flow;
    const nfm_record *record;
};

static uint16_t hash_question(const nfm__dns_message *m) {
    uint32_t h = 2166136261u ^ m->qtype;
    for (uint32_t i = 0; i < m->qname.len; i++) {
        uint8_t c = (uint8_t)m->qname.data[i];
        if (c >= 'A' && c <= 'Z') /* servers may change case */
            c |= 0x20;
        h = (h ^ c) * 16777619u;
    }
    return (uint16_t)(h ^ h >> 16);
}

static void remember(const struct call *call, const nfm__dns_message *m) {
    struct dns_flow *flow = call->flow;
    struct pending p = {m->id, hash_question(m), (uint32_t)(call->record->ts_ns / 1000)};
    for (uint32_t i = 0; i < PENDING; i++) {
        if ((flow->used >> i & 1) && flow->pending[i].id == p.id &&
            flow->pending[i].hash == p.hash) {
            flow->pending[i] = p;
            return;
        }
    }
    flow->pending[flow->next] = p;
    flow->used |= (uint8_t)(1u << flow->next);
    flow->next = (uint8_t)((flow->next + 1) % PENDING);
}

/* Microseconds since the query, which is forgotten; -1: none waits. */
static int64_t recall(const struct call *call, const nfm__dns_message *m) {
    struct dns_flow *flow = call->flow;
    uint16_t hash = hash_question(m);
    for (uint32_t i = 0; i < PENDING; i++) {
        const struct pending *p = &flow->pending[i];
        if (!(flow->used >> i & 1) || p->id != m->id || (m->has_question && p->hash != hash))
            continue;
        flow->used &= (uint8_t) ~(1u << i);
        return (uint32_t)((uint32_t)(call->record->ts_ns / 1000) - p->sent_us);
    }
    return -1;
}

static bool wanted(const struct call *call, uint32_t event) {
    return nfm_wanted(call->ctx, (uint32_t)call->record->flow, event);
}

static void raise_error(const struct call *call, const char *reason, uint32_t offset) {
    struct dns_worker *self = call->ctx->self;
    call->ctx->counters[C_ERRORS]++;
    if (!wanted(call, NFM__DNS_EV_ERROR))
        return;
    nfm_value v[NFM__DNS_MAX_FIELDS];
    nfm__dns_fill_node(v, &self->message, &self->names);
    nfm__dns_fill_error(v, reason, offset);
    (void)nfm_raise(call->ctx, NFM__DNS_EV_ERROR, v, (nfm_view){NULL, 0});
}

static void raise_message(const struct call *call) {
    struct dns_worker *self = call->ctx->self;
    const nfm__dns_message *m = &self->message;
    bool response = m->flags >> 15;
    uint32_t event = response ? NFM__DNS_EV_RESPONSE : NFM__DNS_EV_QUERY;
    int64_t latency = -1;
    if (!response && !call->flow->multicast)
        remember(call, m);
    else if (response && !call->flow->multicast)
        latency = recall(call, m);
    call->ctx->counters[response ? C_RESPONSES : C_QUERIES]++;
    if (response && latency < 0)
        call->ctx->counters[C_UNMATCHED]++;
    if (m->answers.cut)
        call->ctx->counters[C_ANSWERS_CUT]++;
    if (!wanted(call, event))
        return;
    nfm_value v[NFM__DNS_MAX_FIELDS];
    nfm__dns_fill_node(v, m, &self->names);
    if (response)
        nfm__dns_fill_response(v, m, &self->names, latency);
    else
        nfm__dns_fill_query(v, m);
    (void)nfm_raise(call->ctx, event, v, (nfm_view){NULL, 0});
}

static void on_message(const struct call *call, nfm_view data) {
    struct dns_worker *self = call->ctx->self;
    nfm__dns_message *m = &self->message;
    (void)nfm__dns_parse(data, m);
    if (m->has_question || (m->has_header && m->count[0] == 0 && nfm__dns_plausible(data)))
        raise_message(call);
    if (m->error != NFM__DNS_OK)
        raise_error(call, nfm__dns_error_name(m->error), m->error_off);
}

/* ---- TCP ---------------------------------------------------------------------------------- */

static void drop_slot(nfm_ctx *ctx, struct stream *s) {
    struct dns_worker *self = ctx->self;
    if (s->slot == 0)
        return;
    nfm_slot_release(ctx, s->slot - 1);
    s->slot = 0;
    self->assemblies--;
}

/* Judges the first bytes of a side's first message. False: this is no DNS. */
static bool recognise(const struct call *call, struct stream *s, nfm_view head) {
    if (s->known || (head.len < NFM__DNS_HEADER && s->need >= NFM__DNS_HEADER))
        return true;
    s->known = nfm__dns_plausible(head);
    if (s->known)
        call->flow->is_dns = 1;
    else
        s->state = DEAD;
    return s->known;
}

static void begin_message(struct stream *s, uint16_t need) {
    s->need = need;
    s->have = 0;
    if (need > 0)
        s->state = MESSAGE;
    else
        s->state = s->known ? LENGTH_HIGH : DEAD; /* nobody begins with an empty message */
}

static uint8_t *assembly(const struct call *call, struct stream *s) {
    struct dns_worker *self = call->ctx->self;
    if (s->slot == 0) {
        bool room = self->assemblies < call->ctx->limits[LIMIT_ASSEMBLIES];
        uint32_t slot = room ? nfm_slot_new(call->ctx, s->need) : NFM_NO_SLOT;
        if (slot == NFM_NO_SLOT) {
            call->ctx->counters[C_NO_SLOT]++;
            return NULL;
        }
        s->slot = slot + 1;
        self->assemblies++;
    }
    return nfm_slot_base(call->ctx, s->slot - 1) + NFM_HEADROOM;
}

/* Takes bytes of the message at hand; returns how many. */
static uint32_t take_message(const struct call *call, struct stream *s, nfm_view data) {
    uint32_t left = (uint32_t)s->need - s->have, n = data.len < left ? data.len : left;
    if (s->have == 0 && n == s->need) {
        if (!recognise(call, s, (nfm_view){data.data, n}))
            return data.len;
        s->state = LENGTH_HIGH;
        on_message(call, (nfm_view){data.data, n});
        return n;
    }
    uint8_t *buffer = assembly(call, s);
    if (buffer == NULL) {
        s->state = SKIP;
        return 0;
    }
    memcpy(buffer + s->have, data.data, n);
    s->have = (uint16_t)(s->have + n);
    if (!recognise(call, s, (nfm_view){buffer, s->have})) {
        drop_slot(call->ctx, s);
        return data.len;
    }
    if (s->have == s->need) {
        s->state = LENGTH_HIGH;
        on_message(call, (nfm_view){buffer, s->need});
        drop_slot(call->ctx, s);
    }
    return n;
}

static uint32_t take_skipped(struct stream *s, uint32_t len) {
    uint32_t left = (uint32_t)s->need - s->have, n = len < left ? len : left;
    s->have = (uint16_t)(s->have + n);
    if (s->have == s->need)
        s->state = LENGTH_HIGH;
    return n;
}

static void on_stream(const struct call *call, struct stream *s, nfm_view data) {
    while (data.len > 0 && s->state != DEAD) {
        uint32_t used = 1;
        switch ((enum stream_state)s->state) {
        case LENGTH_HIGH:
            s->need = (uint16_t)(data.data[0] << 8);
            s->state = LENGTH_LOW;
            break;
        case LENGTH_LOW:
            begin_message(s, (uint16_t)(s->need | data.data[0]));
            break;
        case MESSAGE:
            used = take_message(call, s, data);
            break;
        case SKIP:
            used = take_skipped(s, data.len);
            break;
        case DEAD:
            break;
        }
        data.data += used;
        data.len -= used;
    }
}

static void on_gap(const struct call *call, struct stream *s) {
    uint32_t len = call->record->tcp.data_len, left = (uint32_t)s->need - s->have;
    call->ctx->counters[C_GAPS]++;
    drop_slot(call->ctx, s);
    if ((s->state == MESSAGE || s->state == SKIP) && len <= left) {
        s->state = SKIP;
        (void)take_skipped(s, len);
    } else {
        s->state = DEAD;
    }
}

static void on_flow_end(const struct call *call) {
    struct dns_worker *self = call->ctx->self;
    for (int i = 0; i < 2; i++) {
        struct stream *s = &call->flow->stream[i];
        if (s->known && s->state != LENGTH_HIGH && s->state != DEAD) {
            call->ctx->counters[C_INCOMPLETE]++;
            (void)nfm__dns_parse((nfm_view){NULL, 0}, &self->message);
            raise_error(call, "incomplete", s->have);
        }
        drop_slot(call->ctx, s);
        s->state = DEAD;
    }
}

/* ---- the module --------------------------------------------------------------------------- */

static bool is_dns_port(uint16_t port) {
    return port == PORT_DNS || port == PORT_MDNS || port == PORT_LLMNR;
}

/* Whether this flow is for us, judged at its first bytes. */
static bool decide(const struct call *call, nfm_view data) {
    const nfm_flow_info *info = &call->ctx->mem->flows[(uint32_t)call->record->flow];
    struct dns_flow *flow = call->flow;
    flow->multicast = info->port[0] == PORT_MDNS || info->port[1] == PORT_MDNS;
    bool port = is_dns_port(info->port[0]) || is_dns_port(info->port[1]);
    if (!port && !call->ctx->limits[LIMIT_ANY_PORT])
        return false;
    if (call->record->proto != UDP)
        return true; /* its streams judge their first message */
    if (!port) {
        struct dns_worker *self = call->ctx->self;
        if (!nfm__dns_plausible(data) || nfm__dns_parse(data, &self->message) != NFM__DNS_OK ||
            !self->message.has_question)
            return false;
    }
    flow->is_dns = 1;
    return true;
}

static void detach(const struct call *call) {
    call->ctx->counters[C_NOT_DNS] += !call->flow->is_dns;
    drop_slot(call->ctx, &call->flow->stream[0]);
    drop_slot(call->ctx, &call->flow->stream[1]);
    nfm_detach(call->ctx);
}

static void dns_event(nfm_ctx *ctx, const nfm_record *record, nfm_view data, void *state) {
    struct call call = {.ctx = ctx, .flow = state, .record = record};
    struct stream *s = &call.flow->stream[record->side & 1];
    if (record->kind == NFM_REC_FLOW) {
        on_flow_end(&call);
        return;
    }
    if (!call.flow->is_dns && !decide(&call, data)) {
        detach(&call);
        return;
    }
    if (record->kind == NFM_REC_GAP)
        on_gap(&call, s);
    else if (record->proto == UDP)
        on_message(&call, data);
    else
        on_stream(&call, s, data);
    const struct stream *other = &call.flow->stream[!(record->side & 1)];
    if (s->state == DEAD && (other->state == DEAD || !call.flow->is_dns))
        detach(&call);
}

static void dns_close(nfm_ctx *ctx, nfm_flow *flow, uint32_t flow_index, int64_t now_ns,
                      void *state) {
    struct dns_flow *mine = state;
    (void)flow;
    (void)flow_index;
    (void)now_ns;
    drop_slot(ctx, &mine->stream[0]);
    drop_slot(ctx, &mine->stream[1]);
}

static int dns_start(nfm_ctx *ctx) {
    uint32_t answers = (uint32_t)ctx->limits[LIMIT_ANSWERS_BYTES];
    struct dns_worker *self = calloc(1, sizeof(*self) + answers);
    if (self == NULL)
        return NFM_E_NOMEM;
    self->message.qname = (nfm__dns_text){.data = self->qname, .cap = sizeof(self->qname)};
    self->message.subnet = (nfm__dns_text){.data = self->subnet, .cap = sizeof(self->subnet)};
    self->message.answers = (nfm__dns_text){.data = self->answers, .cap = answers};
    self->names.qtype = (nfm__dns_text){.data = self->qtype, .cap = sizeof(self->qtype)};
    self->names.rcode = (nfm__dns_text){.data = self->rcode, .cap = sizeof(self->rcode)};
    ctx->self = self;
    return NFM_OK;
}

static void dns_stop(nfm_ctx *ctx) {
    free(ctx->self);
    ctx->self = NULL;
}

static const char *const dns_needs[] = {"udp.datagram", "tcp.data", "tcp.anomaly.gap", "flow.end",
                                        NULL};

static const nfm_limit_def dns_limits[N_LIMITS] = {
    [LIMIT_ANY_PORT] = {.name = "any_port",
                        .value = 0,
                        .min = 0,
                        .max = 1,
                        .doc =
                            "1: also flows of other ports than 53, 5353, 5355 that look like DNS"},
    [LIMIT_ANSWERS_BYTES] = {.name = "answers_bytes",
                             .value = 4096,
                             .min = 64,
                             .max = 65536,
                             .doc = "text of a response's answers"},
    [LIMIT_ASSEMBLIES] = {.name = "assemblies",
                          .value = 256,
                          .min = 0,
                          .max = 1 << 20,
                          .doc = "TCP messages that arrive in pieces at the same time, per worker"},
};

static const char *const dns_counters[] = {
    [C_QUERIES] = "queries",
    [C_RESPONSES] = "responses",
    [C_ERRORS] = "errors",
    [C_NOT_DNS] = "not_dns",
    [C_UNMATCHED] = "unmatched_responses",
    [C_ANSWERS_CUT] = "answers_cut",
    [C_NO_SLOT] = "no_slot",
    [C_GAPS] = "gaps",
    [C_INCOMPLETE] = "incomplete",
    [C_INCOMPLETE + 1] = NULL,
};

/* The module's descriptor; builtin.c lists it. */
extern const nfm_module nfm_module_dns;
const nfm_module nfm_module_dns = {
    .abi = NFM_MODULE_ABI,
    .phase = NFM_PHASE_APP,
    .name = "dns",
    .summary = "DNS queries and responses over UDP and TCP, mDNS and LLMNR included",
    .needs = dns_needs,
    .emits = nfm__dns_events,
    .limits = dns_limits,
    .counters = dns_counters,
    .n_emits = NFM__DNS_EV_COUNT,
    .n_limits = N_LIMITS,
    .flow_size = sizeof(struct dns_flow),
    .proto = 0,
    .start = dns_start,
    .stop = dns_stop,
    .flow_close = dns_close,
    .on_event = dns_event,
};
