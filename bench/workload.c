/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Connections begin at an even pace, concurrency / life per second, each with a script of its own
 * (workload_script.c) made from the seed and its number alone. A heap ordered by the time of each
 * open connection's next step merges the scripts; ties go to the older connection. So packets of
 * many connections interleave in order of time while only the open ones are in memory.
 */
#include "workload.h"

#include "workload_emit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_MS INT64_C(1000000)
#define PASS_PAUSE_NS (1000 * NS_PER_MS)

/*
 * Packets and sizes: http has 22 packets of 727 bytes on average per connection, short 7 of 83,
 * c100k 10 and a response of 1 KiB. Lives are in the time of the packets: they decide how many
 * connections interleave and begin per second, and so how many closed ones a tracker remembers.
 * A pass has at least 30 MB of frames, many times a second-level cache: more would measure the
 * memory, where frames that a network card delivers come from the third level.
 */
static const workload_kind kinds[] = {
    {.name = "http",
     .packets = 44000,
     .concurrency = 1000,
     .life_ms = 10000,
     .ack_every = 3,
     .sizes = {{14273, 1}}},
    {.name = "short",
     .packets = 400000,
     .concurrency = 5000,
     .life_ms = 10000,
     .compact = true,
     .sizes = {{21, 1}}},
    {.name = "bulk",
     .packets = 40000,
     .concurrency = 100,
     .life_ms = 10000,
     .ack_every = 2,
     .sizes = {{65536, 6}, {131072, 3}, {262144, 1}}},
    {.name = "mix",
     .packets = 500000,
     .concurrency = 10000,
     .life_ms = 10000,
     .ack_every = 2,
     .sizes = {{64, 50}, {1024, 35}, {65536, 15}},
     .anomalies = {.retransmit = 655, .reorder = 655, .late = 328, .overlap = 328, .reset = 1311}},
    {.name = "c100k",
     .packets = 2000000,
     .concurrency = 100000,
     .life_ms = 60000,
     .ack_every = 2,
     .sizes = {{1024, 1}}},
    {.name = "lookup-1k", .packets = 4000000, .lookup_flows = 1000},
    {.name = "lookup-100k", .packets = 4000000, .lookup_flows = 100000},
    {.name = "lookup-1m", .packets = 4000000, .lookup_flows = 1000000},
    {.name = "dns", .packets = 400000, .concurrency = 2000, .life_ms = 25, .dns = true},
};
enum { N_KINDS = sizeof(kinds) / sizeof(kinds[0]) };

static const char *const names[N_KINDS + 1] = {
    "http", "short", "bulk", "mix", "c100k", "lookup-1k", "lookup-100k", "lookup-1m", "dns", NULL};

/*
 * nfm_workload_names returns the names of all workloads; NULL ends the list.
 */
const char *const *nfm_workload_names(void) {
    return names;
}

/* ---- emitting ----------------------------------------------------------------------------- */

/*
 * workload_flow_of gives conversation |id| its addresses. Halves of client addresses stay clear of
 * 0 and 65535, which the shifting of a mem port could merge; all servers share the upper half
 * 192.168, which is what keeps the flows of different passes apart.
 */
workload_flow workload_flow_of(const workload_emitter *emitter, uint32_t id, uint16_t server_port) {
    workload_rng rng = {.state = emitter->seed ^ (uint64_t)(id + 1) << 20};
    uint64_t dice = workload_random(&rng), more = workload_random(&rng);
    workload_flow flow = {
        .addr = {(0x0a00 + id / 65000 % 250) << 16 | (1 + id % 65000),
                 0xc0a80000 | id % 16 << 8 | (1 + id / 16 % 250)},
        .port = {(uint16_t)(1024 + dice % 64000), server_port},
        .isn = {(uint32_t)(dice >> 32), (uint32_t)more},
        .clock = {(uint32_t)(more >> 33), (uint32_t)(dice >> 17)},
    };
    return flow;
}

/*
 * workload_emit finishes the frame in emitter->frame, counts it and hands it to the sink. Returns
 * NFM_OK or the sink's status.
 */
int workload_emit(workload_emitter *emitter, workload_frame *spec, uint8_t side, int64_t at_ns,
                  bool udp) {
    nfm_workload_truth *truth = emitter->truth;
    spec->ip_id = (uint16_t)truth->packets;
    uint32_t len =
        udp ? workload_put_udp(emitter->frame, spec) : workload_put_tcp(emitter->frame, spec);
    if (truth->packets == 0)
        truth->start_ns = at_ns;
    truth->span_ns = at_ns - truth->start_ns + PASS_PAUSE_NS;
    truth->packets++;
    truth->frame_bytes += len;
    truth->side_packets[side]++;
    truth->payload_bytes[side] += spec->payload_len;
    return emitter->sink.put(emitter->sink.to, emitter->frame, len, at_ns);
}

/*
 * workload_opened counts a conversation that begins.
 */
void workload_opened(workload_emitter *emitter) {
    emitter->truth->flows++;
    emitter->open++;
    if (emitter->open > emitter->truth->peak_flows)
        emitter->truth->peak_flows = emitter->open;
}

/*
 * workload_ended counts a conversation whose last packet has been sent.
 */
void workload_ended(workload_emitter *emitter) {
    emitter->open--;
}

/* ---- merging ------------------------------------------------------------------------------ */

typedef struct conversation {
    int64_t start_ns;
    uint32_t next; /* step */
    workload_flow flow;
    workload_script script;
} conversation;

typedef struct merger {
    workload_emitter *emitter;
    const workload_kind *kind;
    conversation **heap; /* least time of the next step first */
    uint32_t n, max;
    uint32_t next_id;
    uint64_t packets; /* of all scripts so far */
    int64_t next_start_ns;
} merger;

static int64_t due(const conversation *c) {
    return c->start_ns + c->script.steps[c->next].at_ns;
}

static bool before(const conversation *a, const conversation *b) {
    int64_t x = due(a), y = due(b);
    return x != y ? x < y : a->script.id < b->script.id;
}

static void sift_down(merger *m, uint32_t i) {
    conversation *moved = m->heap[i];
    for (uint32_t child; (child = 2 * i + 1) < m->n; i = child) {
        if (child + 1 < m->n && before(m->heap[child + 1], m->heap[child]))
            child++;
        if (!before(m->heap[child], moved))
            break;
        m->heap[i] = m->heap[child];
    }
    m->heap[i] = moved;
}

static int heap_add(merger *m, conversation *c) {
    if (m->n == m->max) {
        uint32_t max = m->max ? 2 * m->max : 1024;
        conversation **heap = realloc(m->heap, max * sizeof(*heap));
        if (heap == NULL)
            return NFM_E_NOMEM;
        m->heap = heap;
        m->max = max;
    }
    uint32_t i = m->n++;
    for (; i > 0 && before(c, m->heap[(i - 1) / 2]); i = (i - 1) / 2)
        m->heap[i] = m->heap[(i - 1) / 2];
    m->heap[i] = c;
    return NFM_OK;
}

static void conversation_free(conversation *c) {
    if (c != NULL)
        free(c->script.steps);
    free(c);
}

/* Begins the next conversation. */
static int open_next(merger *m) {
    workload_emitter *emitter = m->emitter;
    uint32_t id = m->next_id++;
    workload_rng rng = {.state = emitter->seed * UINT64_C(0xd1342543de82ef95) + id};
    conversation *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return NFM_E_NOMEM;
    int64_t spacing = m->kind->life_ms * NS_PER_MS / m->kind->concurrency;
    c->start_ns = m->next_start_ns + workload_below(&rng, 1000) * (spacing / 1000);
    c->flow = workload_flow_of(emitter, id, m->kind->dns ? 53 : 80);
    m->next_start_ns += spacing;
    int rc = workload_script_make(&c->script, m->kind, id, &rng, emitter->truth);
    m->packets += c->script.n;
    if (rc == NFM_OK)
        rc = heap_add(m, c);
    if (rc == NFM_OK)
        workload_opened(emitter);
    else
        conversation_free(c);
    return rc;
}

/* Sends the next step of the first conversation in the heap. */
static int send_first(merger *m) {
    workload_emitter *emitter = m->emitter;
    conversation *c = m->heap[0];
    const workload_step *step = &c->script.steps[c->next];
    const workload_flow *flow = &c->flow;
    uint8_t side = step->side;
    int64_t at_ns = due(c);
    uint32_t ms = (uint32_t)(step->at_ns / NS_PER_MS);
    bool syn = step->flags & TCP_SYN, ack = step->flags & TCP_ACK;
    workload_frame spec = {.src = flow->addr[side],
                           .dst = flow->addr[!side],
                           .src_port = flow->port[side],
                           .dst_port = flow->port[!side],
                           .seq = flow->isn[side] + (syn ? 0 : 1 + step->off),
                           .ack = ack ? flow->isn[!side] + 1 + step->ack : 0,
                           .tsval = flow->clock[side] + ms,
                           .tsecr = ack ? flow->clock[!side] + ms : 0,
                           .payload_len = step->len,
                           .flags = step->flags,
                           .timestamps = true,
                           .from_server = side};
    bool udp = m->kind->dns;
    uint32_t off = udp ? WORKLOAD_UDP_PAYLOAD_OFF : workload_tcp_payload_off(&spec);
    if (step->len > 0)
        workload_content(&emitter->text, &c->script, step, emitter->frame + off);
    if (++c->next == c->script.n) {
        m->heap[0] = m->heap[--m->n];
        conversation_free(c);
        workload_ended(emitter);
    }
    if (m->n > 0)
        sift_down(m, 0);
    return workload_emit(emitter, &spec, side, at_ns, udp);
}

static int run_scripts(workload_emitter *emitter, const workload_kind *kind, uint64_t packets) {
    merger m = {.emitter = emitter, .kind = kind, .next_start_ns = WORKLOAD_EPOCH_NS};
    int rc = NFM_OK;
    while (rc == NFM_OK) {
        bool more = m.packets < packets;
        if (more && (m.n == 0 || m.next_start_ns <= due(m.heap[0])))
            rc = open_next(&m);
        else if (m.n > 0)
            rc = send_first(&m);
        else
            break;
    }
    while (m.n > 0)
        conversation_free(m.heap[--m.n]);
    free(m.heap);
    return rc;
}

/* ---- the public side ---------------------------------------------------------------------- */

static int fail(nfm_error *err, int code, const char *name, const char *text) {
    if (err != NULL) {
        err->code = code;
        snprintf(err->text, sizeof(err->text), "workload %.64s: %s", name, text);
    }
    return code;
}

/*
 * nfm_workload_generate sends workload |name| to |sink| and fills |truth|; see workload.h.
 */
int nfm_workload_generate(const char *name, const nfm_workload_options *options,
                          nfm_workload_sink sink, nfm_workload_truth *truth, nfm_error *err) {
    const workload_kind *kind = NULL;
    for (int i = 0; i < N_KINDS; i++)
        if (strcmp(kinds[i].name, name) == 0)
            kind = &kinds[i];
    if (kind == NULL)
        return fail(err, NFM_E_INVAL, name, "no such workload; see nfm_workload_names()");
    workload_emitter *emitter = calloc(1, sizeof(*emitter));
    if (emitter == NULL)
        return fail(err, NFM_E_NOMEM, name, "no memory; free some");
    memset(truth, 0, sizeof(*truth));
    emitter->sink = sink;
    emitter->truth = truth;
    emitter->seed = options != NULL ? options->seed : 0;
    workload_text_init(&emitter->text);
    uint64_t packets = options != NULL && options->packets ? options->packets : kind->packets;
    int rc = kind->lookup_flows ? workload_lookup(emitter, kind, packets)
                                : run_scripts(emitter, kind, packets);
    free(emitter);
    return rc == NFM_OK ? rc : fail(err, rc, name, "not all frames could be made or taken");
}

static int push(void *to, const uint8_t *frame, uint32_t len, int64_t ts_ns) {
    return nfm_port_mem_push(to, frame, len, len, ts_ns);
}

/*
 * nfm_workload_fill pushes workload |name| into the mem port |port|; see workload.h.
 */
int nfm_workload_fill(nfm_port *port, const char *name, const nfm_workload_options *options,
                      nfm_workload_truth *truth, nfm_error *err) {
    return nfm_workload_generate(name, options, (nfm_workload_sink){push, port}, truth, err);
}
