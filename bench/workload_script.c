/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A script is what a tap between both ends of one connection sees: each side's steps at the time
 * they pass the tap. A response is laid out as arrivals (segment, time); anomalies move, repeat or
 * delay them. A model of the receiver then walks the arrivals in order of time and writes its
 * acknowledgements, cumulative and duplicate, so that every acknowledgement is one that a real
 * receiver would have sent. Last, all steps are sorted by time.
 *
 * Anomalies keep MARGIN segments from each other and from both ends of a response, and none begins
 * while a late segment is awaited, so each stays the one thing it was planted as.
 */
#include "workload_script.h"

#include "workload_frame.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS INT64_C(1000000)
#define PACE (INT64_C(100000)) /* between segments, ns */
#define PER_WINDOW 10          /* segments sent at once */
#define MARGIN 4u
/* Segments that may wait behind a hole: less than 64 KiB, which is where stacks that know no window
 * scaling give up. */
#define WAIT_MAX 40u

/*
 * workload_random returns 64 bits of a splitmix64 sequence.
 */
uint64_t workload_random(workload_rng *rng) {
    uint64_t z = rng->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/*
 * workload_below returns a number in 0..n-1; n must not be 0.
 */
uint32_t workload_below(workload_rng *rng, uint32_t n) {
    return (uint32_t)((workload_random(rng) >> 32) * n >> 32);
}

/* ---- text --------------------------------------------------------------------------------- */

/*
 * workload_text_init fills |text| with lines of letters: printable, without patterns that a
 * scanner would look for.
 */
void workload_text_init(workload_text *text) {
    workload_rng rng = {.state = 99};
    for (uint32_t i = 0; i < WORKLOAD_TEXT; i++)
        text->bytes[i] = i % 72 == 71 ? '\n' : (uint8_t)('a' + workload_below(&rng, 26));
    memcpy(text->bytes + WORKLOAD_TEXT, text->bytes, sizeof(text->bytes) - WORKLOAD_TEXT);
}

/* Lengths of these heads are part of the promised packet sizes; the test holds them to it. */
static int request_text(char *out, size_t room, const workload_script *script) {
    if (script->compact)
        return snprintf(out, room, "GET /%07u HTTP/1.1\r\nHost: bench.test\r\n\r\n",
                        script->id % 10000000);
    return snprintf(
        out, room,
        "GET /obj/%07u HTTP/1.1\r\nHost: www.bench.test\r\n"
        "User-Agent: nfm-workload/1.0 (deterministic traffic; no human will read this)\r\n"
        "Accept: */*\r\nAccept-Encoding: identity\r\n\r\n",
        script->id % 10000000);
}

static int response_text(char *out, size_t room, const workload_script *script) {
    return snprintf(out, room, "HTTP/1.1 200 OK\r\n%sContent-Length: %u\r\n\r\n",
                    script->compact ? "" : "Server: bench\r\nContent-Type: text/plain\r\n",
                    script->body);
}

/* A DNS message for an A record (RFC 1035 section 4); the response adds one answer. */
static uint32_t dns_message(uint8_t *out, const workload_script *script, uint8_t side) {
    uint32_t id = script->id;
    const uint8_t head[12] = {(uint8_t)(id >> 8),
                              (uint8_t)id,
                              side ? 0x81 : 1,
                              side ? 0x80 : 0,
                              0,
                              1,
                              0,
                              side,
                              0,
                              0,
                              0,
                              0};
    const uint8_t answer[16] = {
        0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 10, 9, (uint8_t)(id >> 8), (uint8_t)id};
    char name[24];
    snprintf(name, sizeof(name),
             "%c"
             "h%07u"
             "%cbench%ctest",
             8, id % 10000000, 5, 4);
    uint32_t len = sizeof(head);
    memcpy(out, head, len);
    memcpy(out + len, name, 20);
    len += 20;
    memcpy(out + len, "\0\0\1\0\1", 5);
    len += 5;
    memcpy(out + len, answer, side ? sizeof(answer) : 0);
    return len + (side ? (uint32_t)sizeof(answer) : 0);
}

/*
 * workload_content writes the step->len payload bytes of |step| to |out|.
 */
void workload_content(const workload_text *text, const workload_script *script,
                      const workload_step *step, uint8_t *out) {
    char head[256];
    uint8_t message[64];
    uint32_t head_len, off = step->off, len = step->len;
    const uint8_t *from = (const uint8_t *)head;
    if (script->dns) {
        head_len = dns_message(message, script, step->side);
        from = message;
    } else if (step->side == 0) {
        head_len = (uint32_t)request_text(head, sizeof(head), script);
    } else {
        head_len = (uint32_t)response_text(head, sizeof(head), script);
    }
    uint32_t n = off >= head_len ? 0 : head_len - off;
    if (n > len)
        n = len;
    memcpy(out, from + off, n);
    memcpy(out + n, text->bytes + (script->id * 97 + off + n) % WORKLOAD_TEXT, len - n);
}

/* ---- steps -------------------------------------------------------------------------------- */

static void step(workload_script *script, workload_step next) {
    if (script->n == script->max) {
        uint32_t max = script->max ? 2 * script->max : 32;
        workload_step *steps = realloc(script->steps, max * sizeof(*steps));
        if (steps == NULL) {
            script->failed = true;
            return;
        }
        script->steps = steps;
        script->max = max;
    }
    next.order = script->n;
    script->steps[script->n++] = next;
}

static int by_time(const void *a, const void *b) {
    const workload_step *x = a, *y = b;
    if (x->at_ns != y->at_ns)
        return x->at_ns < y->at_ns ? -1 : 1;
    return x->order < y->order ? -1 : 1;
}

typedef struct arrival {
    int64_t at_ns;
    uint32_t off, end;
} arrival;

typedef struct response { /* one response on its way through the tap */
    workload_script *script;
    const workload_kind *kind;
    workload_rng *rng;
    nfm_workload_truth *truth;
    int64_t start, rtt;
    int64_t last;       /* of the arrivals */
    int64_t hole_until; /* a late segment is still to come */
    uint32_t len, request;
    arrival *arrivals;
    uint32_t n;
} response;

static void arrive(response *r, int64_t at, uint32_t off, uint32_t end) {
    uint8_t flags = TCP_ACK | (end == r->len ? TCP_PSH : 0);
    step(r->script, (workload_step){.at_ns = at,
                                    .off = off,
                                    .ack = r->request,
                                    .len = (uint16_t)(end - off),
                                    .flags = flags,
                                    .side = 1});
    uint32_t i = r->n++;
    for (; i > 0 && r->arrivals[i - 1].at_ns > at; i--)
        r->arrivals[i] = r->arrivals[i - 1];
    r->arrivals[i] = (arrival){.at_ns = at, .off = off, .end = end};
    if (at > r->last)
        r->last = at;
}

/* Sends segment [off, end) with an anomaly or without. Returns whether one was planted. */
static bool send_segment(response *r, int64_t at, uint32_t off, uint32_t end, bool may) {
    const workload_anomalies *chance = &r->kind->anomalies;
    uint32_t dice = workload_below(r->rng, 65536);
    if (!may || dice >= chance->retransmit + chance->reorder + chance->late + chance->overlap) {
        arrive(r, at, off, end);
        return false;
    }
    if (dice < chance->retransmit) {
        arrive(r, at, off, end);
        arrive(r, at + 200 * MS, off, end);
        r->truth->retransmits++;
    } else if ((dice -= chance->retransmit) < chance->reorder) {
        arrive(r, at + PACE + PACE / 2, off, end);
        r->truth->reordered++;
    } else if (dice - chance->reorder < chance->late) {
        r->hole_until = at + r->rtt + r->rtt / 5;
        arrive(r, r->hole_until, off, end);
        r->truth->late++;
    } else {
        uint32_t half = (end - off) / 2;
        arrive(r, at, off, end);
        arrive(r, at + 150 * MS, off + half, end + half); /* the next segment is as long */
        r->truth->overlaps++;
    }
    return true;
}

static void send_response(response *r) {
    uint32_t segments = (r->len + WORKLOAD_MSS - 1) / WORKLOAD_MSS, quiet = MARGIN;
    for (uint32_t i = 0; i < segments; i++) {
        int64_t at = r->start + i * PACE + i / PER_WINDOW * (r->rtt / 5);
        uint32_t off = i * WORKLOAD_MSS;
        uint32_t end = off + WORKLOAD_MSS < r->len ? off + WORKLOAD_MSS : r->len;
        /* A window's last segment would be reordered past a pause. */
        bool may = quiet == 0 && i + MARGIN < segments && i % PER_WINDOW != PER_WINDOW - 1 &&
                   at > r->hole_until && segments - i <= WAIT_MAX;
        if (send_segment(r, at, off, end, may))
            quiet = MARGIN;
        else if (quiet > 0)
            quiet--;
    }
}

/* The client: an acknowledgement for every |ack_every| segments in order, at the end, and at once
 * for everything else (RFC 5681 section 4.2). */
static void acknowledge(response *r) {
    uint32_t next = 0, unacked = 0, held = 0; /* held: end of what lies behind a hole */
    for (uint32_t i = 0; i < r->n; i++) {
        const arrival *a = &r->arrivals[i];
        bool in_order = a->off <= next && a->end > next;
        if (in_order) {
            bool filled = held > next;
            next = a->end > held ? a->end : held;
            if (++unacked < r->kind->ack_every && next < r->len && !filled)
                continue;
        } else if (a->off > next && a->end > held) {
            held = a->end;
        }
        step(r->script, (workload_step){.at_ns = a->at_ns + r->rtt / 10,
                                        .off = r->request,
                                        .ack = next,
                                        .flags = TCP_ACK});
        unacked = 0;
    }
}

static uint32_t choose_body(const workload_kind *kind, workload_rng *rng) {
    uint32_t total = 0, i = 0;
    for (uint32_t k = 0; k < 3; k++)
        total += kind->sizes[k].weight;
    for (uint32_t dice = workload_below(rng, total); dice >= kind->sizes[i].weight; i++)
        dice -= kind->sizes[i].weight;
    return kind->sizes[i].bytes;
}

/* A response of several segments with its acknowledgements. Returns when its last segment passed.
 */
static int64_t exchange(workload_script *script, response *r) {
    /* Every segment arrives at most twice. */
    r->arrivals = malloc(2 * (r->len / WORKLOAD_MSS + 1) * sizeof(*r->arrivals));
    if (r->arrivals == NULL) {
        script->failed = true;
        return r->start;
    }
    send_response(r);
    acknowledge(r);
    free(r->arrivals);
    return r->last;
}

/* Client's FIN or RST after everything was acknowledged, and the server's answer to a FIN. */
static void close_connection(response *r, int64_t at) {
    workload_script *script = r->script;
    uint32_t request = r->request, len = r->len;
    if (workload_below(r->rng, 65536) < r->kind->anomalies.reset) {
        step(script,
             (workload_step){.at_ns = at, .off = request, .ack = len, .flags = TCP_RST | TCP_ACK});
        r->truth->flows_reset++;
        return;
    }
    r->truth->flows_fin++;
    step(script,
         (workload_step){.at_ns = at, .off = request, .ack = len, .flags = TCP_FIN | TCP_ACK});
    step(script, (workload_step){.at_ns = at + r->rtt,
                                 .off = len,
                                 .ack = request + 1,
                                 .flags = TCP_FIN | TCP_ACK,
                                 .side = 1});
    step(script, (workload_step){.at_ns = at + r->rtt + r->rtt / 10,
                                 .off = request + 1,
                                 .ack = len + 1,
                                 .flags = TCP_ACK});
}

/* Request, response and FIN in three segments, and two that finish. */
static void compact_exchange(workload_script *script, response *r, int64_t at) {
    uint32_t request = r->request, len = r->len;
    const uint8_t all = TCP_FIN | TCP_PSH | TCP_ACK;
    step(script,
         (workload_step){.at_ns = at, .len = (uint16_t)request, .flags = TCP_PSH | TCP_ACK});
    at += r->rtt;
    step(script, (workload_step){
                     .at_ns = at, .ack = request, .len = (uint16_t)len, .flags = all, .side = 1});
    at += r->rtt / 10;
    step(script,
         (workload_step){.at_ns = at, .off = request, .ack = len + 1, .flags = TCP_FIN | TCP_ACK});
    at += r->rtt;
    step(script, (workload_step){
                     .at_ns = at, .off = len + 1, .ack = request + 1, .flags = TCP_ACK, .side = 1});
    r->truth->flows_fin++;
}

static void tcp_script(workload_script *script, const workload_kind *kind, workload_rng *rng,
                       nfm_workload_truth *truth) {
    char head[256];
    script->body = choose_body(kind, rng);
    response r = {.script = script, .kind = kind, .rng = rng, .truth = truth};
    r.rtt = (5 + workload_below(rng, 40)) * MS;
    r.request = (uint32_t)request_text(head, sizeof(head), script);
    r.len = (uint32_t)response_text(head, sizeof(head), script) + script->body;
    script->stream_len[0] = r.request;
    script->stream_len[1] = r.len;
    /* Half of the life before the request, half after the response, both give or take a tenth. */
    int64_t pause = kind->life_ms * MS / 2;
    int64_t first = pause - pause / 10 + workload_below(rng, 1000) * (pause / 5000);
    int64_t second = pause - pause / 10 + workload_below(rng, 1000) * (pause / 5000);
    int64_t at = r.rtt;
    step(script, (workload_step){.flags = TCP_SYN});
    step(script, (workload_step){.at_ns = at, .flags = TCP_SYN | TCP_ACK, .side = 1});
    step(script, (workload_step){.at_ns = at + r.rtt / 10, .flags = TCP_ACK});
    at += first;
    if (kind->compact) {
        compact_exchange(script, &r, at + second);
        return;
    }
    step(script,
         (workload_step){.at_ns = at, .len = (uint16_t)r.request, .flags = TCP_PSH | TCP_ACK});
    step(script,
         (workload_step){.at_ns = at + r.rtt / 2, .ack = r.request, .flags = TCP_ACK, .side = 1});
    r.start = at + r.rtt;
    close_connection(&r, exchange(script, &r) + r.rtt + second);
}

static void dns_script(workload_script *script, workload_rng *rng) {
    uint8_t message[64];
    for (uint8_t side = 0; side < 2; side++) {
        script->stream_len[side] = dns_message(message, script, side);
        step(script, (workload_step){.at_ns = side * (5 + workload_below(rng, 40)) * MS,
                                     .len = (uint16_t)script->stream_len[side],
                                     .side = side});
    }
}

/*
 * workload_script_make writes the steps of connection |id| in order of time and counts what it
 * planted in |truth|. The caller frees script->steps, also after a failure. Returns NFM_OK or
 * NFM_E_NOMEM.
 */
int workload_script_make(workload_script *script, const workload_kind *kind, uint32_t id,
                         workload_rng *rng, nfm_workload_truth *truth) {
    *script = (workload_script){.id = id, .compact = kind->compact, .dns = kind->dns};
    if (kind->dns)
        dns_script(script, rng);
    else
        tcp_script(script, kind, rng, truth);
    if (script->failed)
        return NFM_E_NOMEM;
    qsort(script->steps, script->n, sizeof(*script->steps), by_time);
    for (int side = 0; side < 2; side++)
        truth->stream_bytes[side] += script->stream_len[side];
    return NFM_OK;
}
