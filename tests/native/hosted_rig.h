/* SPDX-License-Identifier: Apache-2.0 */
/* A worker with all modules, in-line or hosted in this very process, and one subscriber that takes
 * a fingerprint of everything it is handed: of all in order, and per flow in order. */
#ifndef HOSTED_RIG_H
#define HOSTED_RIG_H

#include "engine/hosted.h"
#include "nfm_test.h"
#include "small_pools.h"

enum { RIG_FLOWS = 4096, RIG_HOSTS = 2, RIG_RING = 512 };

typedef struct rig_plan { /* who hears what */
    uint64_t events;
    uint32_t level;
    const char *hosted[RIG_HOSTS + 1]; /* names of modules; none: all in-line */
    uint32_t ordered;
    int64_t deadline_ns;
    const nfm_module *extra; /* beside the built-in ones, or NULL */
} rig_plan;

typedef struct rig_seen {
    uint64_t entries, all;
    uint64_t stack; /* all but application events */
    uint64_t of_flow[RIG_FLOWS];
    uint64_t by_type[256];
} rig_seen;

typedef struct rig_host {
    const nfm_module *module;
    int ring_fd, answers_fd;
    nfm_module_host *host;
} rig_host;

typedef struct rig {
    nfm_worker_config config;
    int32_t read[NFM_OBJ_COUNT];
    rig_host host[RIG_HOSTS];
    uint32_t n_hosts;
    nfm_worker *worker;
    nfm_port *port;
    nfm_subscription sub;
    uint32_t sub_number;
    rig_seen seen;
} rig;

static inline uint64_t rig_mix(uint64_t hash, const void *data, size_t len) {
    const uint8_t *bytes = data;
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/* All that an NF can see of one entry; not where it lies. */
static inline uint64_t rig_print(const nfm_mem *mem, const nfm_desc *desc) {
    nfm_record record = mem->records[desc->record];
    nfm_view data = nfm_record_data(mem, &record), frame = nfm_record_frame(mem, &record);
    uint64_t hash = rig_mix(0, &desc->what, sizeof(desc->what));
    if (record.kind == NFM_REC_APP)
        hash = rig_mix(hash, mem->fields + record.app.fields, record.app.fields_len);
    hash = rig_mix(rig_mix(hash, data.data, data.len), frame.data, frame.len);
    if (record.flow != 0)
        hash = rig_mix(hash, &mem->flows[(uint32_t)record.flow], sizeof(nfm_flow_info));
    record.slot = record.slot != NFM_NO_SLOT;
    if (record.kind == NFM_REC_APP)
        record.app.fields = 0;
    return rig_mix(hash, &record, sizeof(record));
}

static inline int rig_consume(void *state, const nfm_batch *batch) {
    rig_seen *seen = state;
    for (uint32_t i = 0; i < batch->n; i++) {
        uint64_t print = rig_print(batch->mem, &batch->desc[i]);
        uint32_t flow = batch->desc[i].flow;
        seen->entries++;
        seen->all = rig_mix(seen->all, &print, sizeof(print));
        if (flow < RIG_FLOWS)
            seen->of_flow[flow] = rig_mix(seen->of_flow[flow], &print, sizeof(print));
        if (!(batch->desc[i].what & NFM_DESC_APP))
            seen->stack = rig_mix(seen->stack, &print, sizeof(print));
        else
            seen->by_type[batch->desc[i].what & 255]++;
    }
    return NFM_OK;
}

static inline int rig_object(uint64_t size) {
    nfm_object_info info;
    CHECK_EQ(nfm_object_create("rig", size, &info, NULL), NFM_OK);
    return info.fd;
}

static inline void rig_begin(rig *r) {
    uint64_t sizes[NFM_OBJ_COUNT];
    memset(r, 0, sizeof(*r));
    nfm_worker_config_init(&r->config);
    r->config.max_flows = RIG_FLOWS;
    r->config.n_small = 1024;
    r->config.n_large = 16;
    r->config.n_records = 8192;
    CHECK_EQ(nfm_worker_object_sizes(&r->config, sizes, NULL), NFM_OK);
    for (int i = 0; i < NFM_OBJ_COUNT; i++) {
        r->config.fds[i] = rig_object(sizes[i]);
        r->read[i] = nfm_object_read_only(r->config.fds[i], NULL);
    }
}

static inline bool rig_is_hosted(const rig_plan *plan, const char *name) {
    for (int i = 0; plan->hosted[i] != NULL; i++)
        if (strcmp(plan->hosted[i], name) == 0)
            return true;
    return false;
}

static inline int rig_host_module(rig *r, const rig_plan *plan, const nfm_module *module,
                                  const uint32_t *types) {
    nfm_error err = {0};
    rig_host *host = &r->host[r->n_hosts++];
    if (host->module == NULL) {
        host->module = module;
        host->ring_fd = rig_object(nfm_ring_object_size(RIG_RING));
        host->answers_fd = rig_object(nfm_answers_object_size(NFM_ANSWERS_MIN));
    }
    small_pools pools = small_pools_of(module);
    nfm_hosting hosting = {.module = module,
                           .limits = pools.limits,
                           .types = types,
                           .ring_fd = host->ring_fd,
                           .answers_fd = host->answers_fd,
                           .deadline_ns = plan->deadline_ns,
                           .ordered = plan->ordered};
    return nfm_worker_add_hosted_module(r->worker, &hosting, &err);
}

/* Adds the built-in modules; application events get the types from 1 on. Returns a bit per
 * application module. */
static inline uint64_t rig_add_modules(rig *r, const rig_plan *plan) {
    uint32_t n, type = 1;
    uint64_t apps = 0;
    nfm_error err = {0};
    const nfm_module *const *modules = nfm_builtin_modules(&n);
    for (uint32_t i = 0; i < n + (plan->extra != NULL); i++) {
        const nfm_module *module = i < n ? modules[i] : plan->extra;
        uint32_t types[NFM_MAX_EMITS] = {0};
        bool is_app = module->phase == NFM_PHASE_APP;
        small_pools pools = small_pools_of(module);
        for (uint32_t e = 0; is_app && e < module->n_emits; e++)
            types[e] = type++;
        int index = rig_is_hosted(plan, module->name)
                        ? rig_host_module(r, plan, module, types)
                        : nfm_worker_add_module(r->worker, module, pools.limits, types, &err);
        CHECK_EQ(index, (int)i);
        apps |= is_app ? UINT64_C(1) << index : 0;
    }
    return apps;
}

/* A worker over the rig's objects, the second time as one that was started again. */
static inline void rig_start_worker(rig *r, const rig_plan *plan, const char *path) {
    nfm_error err = {0};
    r->n_hosts = 0;
    r->worker = nfm_worker_new(&r->config, &err);
    CHECK(r->worker != NULL);
    r->port = nfm_port_pcap_open(path, &err);
    CHECK_EQ(nfm_worker_add_port(r->worker, r->port), NFM_OK);
    r->sub = (nfm_subscription){
        .ring = nfm_worker_add_ring(r->worker, RIG_RING, &err),
        .level = plan->level,
        .events = plan->events,
        .type_first = 1,
        .type_last = 255,
        .modules = rig_add_modules(r, plan),
    };
    CHECK_EQ(nfm_worker_attach_native(r->worker, r->sub.ring, rig_consume, &r->seen), NFM_OK);
    r->sub_number = (uint32_t)nfm_worker_subscribe(r->worker, &r->sub);
    CHECK_EQ(r->sub_number, 0);
    CHECK_EQ(nfm_worker_start(r->worker, &err), NFM_OK);
}

static inline void rig_start_host(rig *r, uint32_t i) {
    nfm_error err = {0};
    small_pools pools = small_pools_of(r->host[i].module);
    nfm_module_host_config config = {.module = r->host[i].module,
                                     .limits = pools.limits,
                                     .fds = r->read,
                                     .ring_fd = r->host[i].ring_fd,
                                     .answers_fd = r->host[i].answers_fd};
    r->host[i].host = nfm_module_host_new(&config, &err);
    if (r->host[i].host == NULL)
        printf("# %s\n", err.text);
    CHECK(r->host[i].host != NULL);
}

static inline void rig_stop_worker(rig *r) {
    nfm_worker_free(r->worker);
    nfm_port_free(r->port);
    r->worker = NULL;
}

static inline void rig_stop_host(rig *r, uint32_t i) {
    nfm_module_host_free(r->host[i].host);
    r->host[i].host = NULL;
}

static inline void rig_end(rig *r) {
    for (uint32_t i = 0; i < RIG_HOSTS; i++) {
        if (r->host[i].host != NULL)
            rig_stop_host(r, i);
        if (r->host[i].module != NULL) {
            close(r->host[i].ring_fd);
            close(r->host[i].answers_fd);
        }
    }
    for (int i = 0; i < NFM_OBJ_COUNT; i++) {
        close(r->read[i]);
        close(r->config.fds[i]);
    }
}

static inline uint64_t rig_counter(const nfm_worker *worker, const char *name) {
    nfm_counter all[256];
    uint32_t n = nfm_worker_counters(worker, all, 256);
    for (uint32_t i = 0; i < n && i < 256; i++)
        if (strcmp(all[i].name, name) == 0)
            return all[i].value;
    CHECK(!"no such counter");
    return 0;
}

/* Everything that was taken has been given back. */
static inline void rig_check_empty(const rig *r) {
    nfm_worker_stats stats;
    nfm_worker_stats_get(r->worker, &stats);
    CHECK_EQ(stats.slots_used, 0);
    CHECK_EQ(stats.records_used, 0);
    CHECK_EQ(stats.flows_now, 0);
    CHECK_EQ(stats.flows_opened, stats.flows_closed);
}

#endif
