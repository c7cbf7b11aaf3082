/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/module_host.h"

#include "base/attach.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum {
    RUN = 32, /* questions between two times that answers are shown */
    ROOM_NAP_NS = 20000,
};

static_assert((int)NFM_ANSWER_COUNTERS >= (int)NFM_MAX_COUNTERS, "all counters are told");

enum flow_state { FLOW_NONE = 0, FLOW_OPEN, FLOW_DETACHED };

typedef struct host_flow {
    uint32_t tag; /* high half of the flow's id */
    uint32_t state;
} host_flow;

struct nfm_module_host {
    nfm_worker worker; /* as much of one as services need */
    nfm_instance *in;
    nfm_attachment *attachment;
    nfm_ring *ring;
    nfm_answers answers;
    nfm_region slots;
    nfm_region flows_region;
    host_flow *flows;
    int64_t *beat;
    /* the question at hand */
    uint64_t position;
    const nfm_record *record;
    uint32_t wanted;
    bool detaches;
    bool abandoned; /* who asked is gone: nobody takes answers */
    /* lives */
    bool heeds; /* the worker knows of this session */
    uint32_t life;
    bool is_late;       /* flows may have begun before this session */
    int64_t heeds_from; /* event time of its first record, INT64_MIN none yet */
    nfm_module_host_stats stats;
};

/* ---- services ---- */

bool nfm__host_wants(const nfm_module_host *host, uint32_t event) {
    return event < 32 && (host->wanted >> event & 1);
}

static void beat(const nfm_module_host *host) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    if (host->beat != NULL)
        *host->beat = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Writes an answer's head; returns the place of its fields. Waits until the worker has made room;
 * NULL when it is gone. */
static uint8_t *answer(nfm_module_host *host, const nfm_answer *head) {
    struct timespec nap = {.tv_nsec = ROOM_NAP_NS};
    if (host->abandoned)
        return NULL;
    uint8_t *fields = nfm_answers_write(&host->answers, head);
    host->stats.waits += fields == NULL;
    while (fields == NULL) {
        nfm_answers_publish(&host->answers);
        beat(host);
        nanosleep(&nap, NULL);
        if (atomic_load(&host->answers.shared->life) != host->life) {
            host->abandoned = true;
            return NULL;
        }
        fields = nfm_answers_write(&host->answers, head);
    }
    return fields;
}

/* Where |data| lies in the slot of the record at hand: into |head|; nothing when it does not. */
static void locate(const nfm_module_host *host, nfm_view data, nfm_answer *head) {
    const uint8_t *base = nfm_slot_ptr(&host->worker.mem, host->record->slot);
    uint64_t end = (uint64_t)NFM_HEADROOM + host->record->frame_len;
    if (data.len == 0 || base == NULL || data.data < base ||
        (uint64_t)(data.data - base) + data.len > end)
        return;
    head->data_off = (uint32_t)(data.data - base);
    head->data_len = data.len;
}

int nfm__host_raise(nfm_module_host *host, uint32_t event, const nfm_value *values, nfm_view data) {
    if (host->record == NULL || !nfm__host_wants(host, event))
        return NFM_OK;
    uint64_t len = nfm__fields_len(host->in, event, values);
    nfm_answer head = {
        .kind = len > NFM_ANSWER_FIELDS ? NFM_ANSWER_TOO_LARGE : NFM_ANSWER_RAISED,
        .side = host->worker.trigger_side,
        .event = (uint16_t)event,
        .position = host->position,
        .fields_len = len > NFM_ANSWER_FIELDS ? 0 : (uint32_t)len,
    };
    locate(host, data, &head);
    uint8_t *fields = answer(host, &head);
    if (fields == NULL || head.kind == NFM_ANSWER_TOO_LARGE)
        return NFM_E_LIMIT;
    nfm__fields_write(host->in, event, values, fields);
    host->stats.raised++;
    return NFM_OK;
}

void nfm__host_detach(nfm_module_host *host) {
    host->detaches = true;
}

bool nfm__host_has_slot(nfm_module_host *host, uint32_t *slot) {
    uint32_t first = host->worker.mem.n_slots;
    if (*slot < first || *slot - first >= host->worker.pool.n_slots) {
        host->stats.refused++;
        return false;
    }
    *slot -= first;
    return true;
}

/* ---- flows ---- */

/* What a module may know of a flow: its key and its generation. Counters are the worker's. */
static nfm_flow flow_of(const nfm_module_host *host, uint32_t index) {
    const nfm_flow_info *info = &host->worker.mem.flows[index];
    nfm_flow flow = {.subs = {NFM_NO_SET, NFM_NO_SET},
                     .modules = 1,
                     .flags = NFM_FLOW_OPEN,
                     .proto = info->proto,
                     .generation = host->flows[index].tag & 0xffffff};
    memcpy(flow.key.addr, info->addr, sizeof(flow.key.addr));
    memcpy(flow.key.port, info->port, sizeof(flow.key.port));
    flow.key.proto = info->proto;
    flow.key.ip_version = info->ip_version;
    return flow;
}

/* A packet as |record| shows it, for flow_open. */
static void rebuild_packet(nfm_module_host *host, const nfm_record *record, nfm_flow *flow,
                           nfm_packet *out) {
    const nfm_mem *mem = &host->worker.mem;
    uint64_t end = (uint64_t)NFM_HEADROOM + record->frame_len;
    memset(out, 0, sizeof(*out));
    out->rec = *record;
    out->base = (uint8_t *)(uintptr_t)nfm_slot_ptr(mem, record->slot);
    if (out->base != NULL && record->l3_off >= NFM_HEADROOM && record->l3_off < end &&
        end <= (record->slot < mem->n_small ? NFM_SLOT_SMALL : NFM_SLOT_LARGE))
        nfm_wire_parse_ip(&host->worker.wire, out, record->l3_off, (uint32_t)end - record->l3_off);
    out->rec = *record; /* parsing began it anew */
    out->flow = flow;
    out->flow_index = (uint32_t)record->flow;
}

static void close_flow(nfm_module_host *host, uint32_t index, int64_t now_ns) {
    const nfm_module *m = host->in->module;
    host_flow *f = &host->flows[index];
    if (f->state == FLOW_OPEN && m->flow_close != NULL) {
        nfm_flow flow = flow_of(host, index);
        m->flow_close(&host->in->ctx, &flow, index, now_ns, nfm_instance_state(host->in, index));
    }
    f->state = FLOW_NONE;
}

static void open_flow(nfm_module_host *host, uint32_t index, const nfm_record *record) {
    const nfm_module *m = host->in->module;
    void *state = nfm_instance_state(host->in, index);
    host->flows[index] = (host_flow){(uint32_t)(record->flow >> 32), FLOW_OPEN};
    if (state != NULL)
        memset(state, 0, m->flow_size);
    if (m->flow_open == NULL)
        return;
    nfm_flow flow = flow_of(host, index);
    nfm_packet packet;
    rebuild_packet(host, record, &flow, &packet);
    m->flow_open(&host->in->ctx, &flow, &packet, state);
}

/* ---- questions ---- */

/* Forgets all flows: the module begins anew. */
static int begin_anew(nfm_module_host *host, bool is_fresh) {
    nfm_instance *in = host->in;
    if (in->started && in->module->stop != NULL)
        in->module->stop(&in->ctx);
    in->started = false;
    if (is_fresh)
        memset(in->counters, 0, sizeof(in->counters));
    if (host->worker.pool.refs != NULL)
        memset(host->worker.pool.refs, 0, host->worker.pool.n_slots * sizeof(uint16_t));
    nfm_pool_rebuild(&host->worker.pool);
    (void)madvise(host->flows_region.base, host->flows_region.size, MADV_DONTNEED);
    host->is_late = !is_fresh;
    host->heeds_from = INT64_MIN;
    host->stats.resets++;
    int rc = in->module->start == NULL ? NFM_OK : in->module->start(&in->ctx);
    in->started = rc == NFM_OK;
    return rc;
}

static void on_reset(nfm_module_host *host, uint64_t what) {
    host->heeds = (uint32_t)what == host->stats.session;
    if (!host->heeds)
        return;
    host->life = atomic_load(&host->answers.shared->life);
    host->abandoned = false;
    if (begin_anew(host, (what & NFM_ASK_FRESH) != 0) != NFM_OK)
        host->heeds = false; /* no memory: never an answer, and the worker gives it up */
}

/* A flow that began before this host joins as a flow seen from the middle. */
static void mark_late(nfm_module_host *host, nfm_record *record) {
    if (!host->is_late)
        return;
    if (host->heeds_from == INT64_MIN)
        host->heeds_from = record->ts_ns;
    if (host->worker.mem.flows[(uint32_t)record->flow].start_ns < host->heeds_from)
        record->flags |= NFM_F_MIDSTREAM;
}

static void on_event(nfm_module_host *host, uint32_t index, nfm_record *record) {
    nfm_worker *w = &host->worker;
    mark_late(host, record);
    host->record = w->trigger = record;
    w->trigger_flow = index;
    w->trigger_side = record->side & 1;
    host->detaches = false;
    host->in->module->on_event(&host->in->ctx, record, nfm_record_data(&w->mem, record),
                               nfm_instance_state(host->in, index));
    if (host->detaches) {
        nfm_answer head = {.kind = NFM_ANSWER_DETACH, .position = host->position};
        (void)answer(host, &head);
        host->flows[index].state = FLOW_DETACHED;
    }
    host->record = w->trigger = NULL;
}

/* A question about a flow, with its record if it has one. */
static void on_flow(nfm_module_host *host, const nfm_desc *desc) {
    const nfm_mem *mem = &host->worker.mem;
    if (desc->flow >= mem->n_flows)
        return;
    host_flow *f = &host->flows[desc->flow];
    if (desc->what & NFM_ASK_CLOSE)
        close_flow(host, desc->flow, mem->flows[desc->flow].start_ns);
    if ((desc->what & NFM_ASK_JOIN) && f->state == FLOW_DETACHED)
        f->state = FLOW_NONE;
    if (desc->record >= mem->n_records)
        return;
    nfm_record record = mem->records[desc->record];
    if ((uint32_t)record.flow != desc->flow)
        return;
    uint32_t tag = (uint32_t)(record.flow >> 32);
    if (f->state != FLOW_NONE && f->tag != tag)
        close_flow(host, desc->flow, record.ts_ns); /* its end was not asked about */
    if (f->state == FLOW_NONE)
        open_flow(host, desc->flow, &record);
    host->wanted = (uint32_t)desc->what;
    if ((desc->what & NFM_ASK_EVENT) && f->state == FLOW_OPEN)
        on_event(host, desc->flow, &record);
}

static void take(nfm_module_host *host, const nfm_desc *desc) {
    if (desc->what & NFM_ASK_RESET)
        on_reset(host, desc->what);
    else if (!host->heeds || host->abandoned)
        return;
    else if (desc->what & NFM_ASK_TICK)
        host->in->module->on_tick(&host->in->ctx,
                                  (int64_t)((uint64_t)desc->flow << 32 | desc->record));
    else
        on_flow(host, desc);
}

/* Shows the worker what was answered, and the module's counters. */
static void show(nfm_module_host *host, uint64_t position) {
    nfm_answers_shared *shared = host->answers.shared;
    for (uint32_t i = 0; host->in->counter_names[i][0] != '\0'; i++)
        atomic_store_explicit(&shared->counters[i], host->in->counters[i], memory_order_relaxed);
    if (host->heeds)
        nfm_answers_done(&host->answers, position);
}

int nfm_module_host_run(nfm_module_host *host, int64_t spin_ns, int64_t timeout_ns) {
    const nfm_desc *desc;
    int state = nfm_ring_wait(host->ring, spin_ns, timeout_ns);
    if (state != NFM_RING_READY)
        return state;
    uint64_t first = nfm_ring_position(host->ring);
    uint32_t n = nfm_ring_peek(host->ring, &desc, RUN);
    for (uint32_t i = 0; i < n; i++) {
        nfm_desc question = desc[i];
        host->position = first + i;
        take(host, &question);
    }
    host->stats.asked += n;
    show(host, first + n);
    nfm_ring_advance(host->ring, n);
    return NFM_RING_READY;
}

/* ---- making and unmaking ---- */

/* Slots of the host's own, as many as the worker has, for what the module puts together. */
static int make_pool(nfm_module_host *host, nfm_error *err) {
    const nfm_mem *mem = &host->worker.mem;
    uint64_t sizes[NFM_OBJ_COUNT];
    nfm_header_sizes(mem, sizes);
    int rc = nfm_region_init(&host->slots, "slots", sizes[NFM_OBJ_PACKETS], err);
    if (rc != NFM_OK)
        return rc;
    return nfm_pool_init(&host->worker.pool, host->slots.base, mem->n_small,
                         mem->n_slots - mem->n_small);
}

static int make_graph(nfm_module_host *host, const nfm_module_host_config *config, nfm_error *err) {
    nfm_worker *w = &host->worker;
    int rc = nfm_graph_init(&w->graph);
    if (rc == NFM_OK)
        rc = nfm_graph_add(&w->graph, config->module, config->limits, NULL, err);
    if (rc < 0)
        return rc;
    host->in = &w->graph.instances[rc];
    host->in->ctx.is_hosted = 1;
    nfm_graph_set_wanted(&w->graph, UINT64_MAX);
    nfm_graph_start_args args = {.worker = w, .mem = &w->mem};
    return nfm_graph_start(&w->graph, &args, err);
}

static int make_parts(nfm_module_host *host, const nfm_module_host_config *config, nfm_error *err) {
    nfm_worker *w = &host->worker;
    host->attachment = nfm_attach(config->fds, err);
    host->ring = host->attachment == NULL ? NULL : nfm_ring_attach(config->ring_fd, err);
    if (host->ring == NULL)
        return NFM_E_IO;
    w->host = host;
    w->mem = *nfm_attachment_mem(host->attachment);
    nfm_worker_config_init(&w->config);
    w->wire = (nfm_wire_config){.max_depth = w->config.max_tunnel_depth};
    int rc = nfm_answers_open(&host->answers, config->answers_fd, true, err);
    if (rc == NFM_OK)
        rc = nfm_region_init(&host->flows_region, "flows", sizeof(host_flow) * w->mem.n_flows, err);
    host->flows = (host_flow *)(void *)host->flows_region.base;
    if (rc == NFM_OK)
        rc = make_pool(host, err);
    if (rc == NFM_OK)
        rc = make_graph(host, config, err);
    return rc;
}

nfm_module_host *nfm_module_host_new(const nfm_module_host_config *config, nfm_error *err) {
    nfm_module_host *host = calloc(1, sizeof(*host));
    if (host == NULL || make_parts(host, config, err) != NFM_OK) {
        nfm_module_host_free(host);
        return NULL;
    }
    nfm_answers_shared *shared = host->answers.shared;
    host->beat = config->beat;
    for (uint32_t i = 0; host->in->counter_names[i][0] != '\0'; i++) /* go on counting */
        host->in->counters[i] = atomic_load(&shared->counters[i]);
    host->stats.session = atomic_load(&shared->session) + 1;
    if (host->stats.session == 0) /* 0 means that none has come yet */
        host->stats.session = 1;
    atomic_store(&shared->session, host->stats.session);
    return host;
}

void nfm_module_host_free(nfm_module_host *host) {
    if (host == NULL)
        return;
    if (host->worker.graph.instances != NULL)
        nfm_graph_fini(&host->worker.graph);
    nfm_pool_fini(&host->worker.pool);
    nfm_answers_close(&host->answers);
    nfm_ring_detach(host->ring);
    nfm_attachment_free(host->attachment);
    nfm_region_fini(&host->slots);
    nfm_region_fini(&host->flows_region);
    free(host);
}

void nfm_module_host_stats_get(const nfm_module_host *host, nfm_module_host_stats *out) {
    *out = host->stats;
}
