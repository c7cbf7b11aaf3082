/* SPDX-License-Identifier: Apache-2.0 */
/* The modules that run in one worker, in phase order, with their state per flow. */
#ifndef NFM_STACK_GRAPH_H
#define NFM_STACK_GRAPH_H

#include "base/region.h"
#include "event/subs.h"

enum { NFM_MAX_EMITS = 32, NFM_MAX_LIMITS = 32, NFM_MAX_COUNTERS = 48, NFM_NAME_SIZE = 64 };

typedef struct nfm_instance {
    const nfm_module *module;
    nfm_ctx ctx;
    uint8_t *state; /* of flow 0: in the flow's block, or in an array of the module's own */
    size_t stride;  /* bytes to the next flow's */
    uint64_t needs; /* built-in events it consumes */
    uint8_t level;  /* enum nfm_level those events need */
    bool started;
    bool hosted; /* its state and its calls are another process' */
    uint32_t types[NFM_MAX_EMITS];
    uint8_t n_cells[NFM_MAX_EMITS];      /* fields of an event, inherited ones included */
    uint64_t bytes_cells[NFM_MAX_EMITS]; /* bit per field that is BYTES, STR or ADDR */
    uint64_t limits[NFM_MAX_LIMITS];
    uint64_t counters[NFM_MAX_COUNTERS];
    char counter_names[NFM_MAX_COUNTERS + 1][NFM_NAME_SIZE]; /* "module.counter", empty: end */
    nfm_region region;
} nfm_instance;

typedef struct nfm_graph_start_args {
    struct nfm_worker *worker;
    const nfm_mem *mem;
    uint8_t *blocks; /* first byte behind the nfm_flow of flow 0 */
    size_t stride;
} nfm_graph_start_args;

typedef struct nfm_graph {
    nfm_instance *instances; /* NFM_MAX_MODULES, in order of addition */
    uint32_t n;
    nfm_instance *defrag;      /* phase IP, NULL none */
    nfm_instance *stream;      /* phase STREAM, NULL none */
    nfm_instance *track[256];  /* phase TRACK by IP protocol */
    uint64_t app_mask;         /* bit per application module */
    size_t track_room;         /* bytes per flow for the state of a tracking module */
    size_t stream_room;        /* behind it, of the stream module */
    nfm_graph_start_args args; /* of the start */
} nfm_graph;

int nfm_graph_init(nfm_graph *graph);
void nfm_graph_fini(nfm_graph *graph); /* stops the modules */
/* Adds |module|; see nfm_worker_add_module. Returns its index or a negative status. */
int nfm_graph_add(nfm_graph *graph, const nfm_module *module, const uint64_t *limits,
                  const uint32_t *types, nfm_error *err);
/* Before the start: room per flow for |module|, should it be added later. */
int nfm_graph_reserve(nfm_graph *graph, const nfm_module *module, nfm_error *err);
/* Bytes per flow that tracking and stream modules keep in the flow's block, a multiple of 8. */
size_t nfm_graph_block_size(const nfm_graph *graph);
/* Finds or maps the flow states and calls start(). */
int nfm_graph_start(nfm_graph *graph, const nfm_graph_start_args *args, nfm_error *err);
/* Adds a module while the graph runs and calls its start(). A tracking or stream module needs room
 * in the flows' blocks and its place free, else NFM_E_STATE. Returns its index; when it fails the
 * graph is as before. */
int nfm_graph_join(nfm_graph *graph, const nfm_module *module, const uint64_t *limits,
                   const uint32_t *types, nfm_error *err);
/* Tells the modules which built-in events subscribers want; the modules' own needs are added. */
void nfm_graph_set_wanted(nfm_graph *graph, uint64_t wanted);
/* Tells the modules that event time is |now_ns|; INT64_MAX: it ends. */
void nfm_graph_tick(nfm_graph *graph, int64_t now_ns);
/* The level that the application modules in |modules| need. */
uint8_t nfm_graph_level(const nfm_graph *graph, uint64_t modules);

/* How deep the modules that are there can follow a flow of |proto| that somebody wants at |level|:
 * so a flow's level always says whose state it has, also when further modules come. */
static inline uint8_t nfm_graph_reach(const nfm_graph *graph, uint8_t proto, uint8_t level) {
    if (level >= NFM_LEVEL_DATA && (graph->stream == NULL || graph->stream->module->proto != proto))
        level = NFM_LEVEL_TRACK;
    return level == NFM_LEVEL_TRACK && graph->track[proto] == NULL ? NFM_LEVEL_PACKET : level;
}

/* The module's state of a flow; NULL for modules that keep none. */
static inline void *nfm_instance_state(const nfm_instance *instance, uint32_t flow_index) {
    if (instance->state == NULL)
        return NULL;
    return instance->state + (size_t)flow_index * instance->stride;
}

#endif
