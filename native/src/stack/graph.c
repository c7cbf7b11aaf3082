/* SPDX-License-Identifier: Apache-2.0 */
#include "stack/graph.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(nfm_error *err, int code, const char *format, ...) {
    if (err != NULL) {
        va_list args;
        va_start(args, format);
        err->code = code;
        vsnprintf(err->text, sizeof(err->text), format, args);
        va_end(args);
    }
    return code;
}

int nfm_graph_init(nfm_graph *graph) {
    memset(graph, 0, sizeof(*graph));
    graph->instances = calloc(NFM_MAX_MODULES, sizeof(nfm_instance));
    return graph->instances == NULL ? NFM_E_NOMEM : NFM_OK;
}

void nfm_graph_fini(nfm_graph *graph) {
    for (uint32_t i = graph->n; i-- > 0;) {
        nfm_instance *in = &graph->instances[i];
        if (in->started && in->module->stop != NULL)
            in->module->stop(&in->ctx);
        nfm_region_fini(&in->region);
    }
    free(graph->instances);
    memset(graph, 0, sizeof(*graph));
}

/* Bits of the built-in events that a module names in needs, its subtree included for inner nodes.
 */
static uint64_t bits_of_name(const nfm_event_def *defs, uint32_t n, const char *name) {
    uint64_t bits = 0;
    size_t len = strlen(name);
    for (uint32_t i = 0; i < n; i++)
        if (defs[i].bit >= 0 && strncmp(defs[i].name, name, len) == 0 &&
            (defs[i].name[len] == '\0' || defs[i].name[len] == '.'))
            bits |= NFM_BIT(defs[i].bit);
    return bits;
}

static uint64_t needed_bits(const nfm_module *module) {
    uint32_t n;
    const nfm_event_def *defs = nfm_core_events(&n);
    uint64_t bits = 0;
    for (const char *const *name = module->needs; name != NULL && *name != NULL; name++)
        bits |= bits_of_name(defs, n, *name);
    return bits;
}

#define DATA_EVENTS                                                                                \
    (NFM_BIT(NFM_EV_TCP_DATA) | NFM_BIT(NFM_EV_TCP_GAP) | NFM_BIT(NFM_EV_TCP_OVERLAP) |            \
     NFM_BIT(NFM_EV_TCP_INCONSISTENT_OVERLAP))

static uint8_t level_of_bits(uint64_t bits) {
    if (bits & DATA_EVENTS)
        return NFM_LEVEL_DATA;
    return bits >> NFM_EV_FLOW_END != 0 ? NFM_LEVEL_TRACK : NFM_LEVEL_PACKET;
}

static int check_module(const nfm_module *m, nfm_error *err) {
    uint32_t counters = 0;
    if (m->abi != NFM_MODULE_ABI)
        return fail(err, NFM_E_ABI, "module %s: built for module ABI %u, this library has %u",
                    m->name, m->abi, NFM_MODULE_ABI);
    while (m->counters != NULL && m->counters[counters] != NULL)
        counters++;
    if (m->n_emits > NFM_MAX_EMITS || m->n_limits > NFM_MAX_LIMITS || counters > NFM_MAX_COUNTERS)
        return fail(err, NFM_E_LIMIT, "module %s: more than %d events, %d limits or %d counters",
                    m->name, NFM_MAX_EMITS, NFM_MAX_LIMITS, NFM_MAX_COUNTERS);
    return NFM_OK;
}

static int take_limits(nfm_instance *in, const uint64_t *limits, nfm_error *err) {
    for (uint32_t i = 0; i < in->module->n_limits; i++) {
        const nfm_limit_def *def = &in->module->limits[i];
        in->limits[i] = limits == NULL ? def->value : limits[i];
        if (in->limits[i] < def->min || in->limits[i] > def->max)
            return fail(err, NFM_E_INVAL, "module %s: %s is %llu, allowed are %llu to %llu",
                        in->module->name, def->name, (unsigned long long)in->limits[i],
                        (unsigned long long)def->min, (unsigned long long)def->max);
    }
    return NFM_OK;
}

/* Enters the instance where its phase is looked up. */
static int place(nfm_graph *graph, nfm_instance *in, nfm_error *err) {
    const nfm_module *m = in->module;
    switch ((enum nfm_phase)m->phase) {
    case NFM_PHASE_IP:
        graph->defrag = in;
        return NFM_OK;
    case NFM_PHASE_TRACK:
        graph->track[m->proto] = in;
        return NFM_OK;
    case NFM_PHASE_STREAM:
        graph->stream = in;
        return NFM_OK;
    case NFM_PHASE_APP:
        graph->app_mask |= UINT64_C(1) << in->ctx.index;
        return NFM_OK;
    }
    return fail(err, NFM_E_INVAL, "module %s: unknown phase %u", m->name, m->phase);
}

/* Layout of the field records of event |event|: its ancestors' fields in the module, then its own.
 */
static void lay_out(nfm_instance *in, uint32_t event) {
    const nfm_module *m = in->module;
    const char *name = m->emits[event].name;
    for (uint32_t i = 0; i < m->n_emits; i++) {
        size_t len = strlen(m->emits[i].name);
        if (strncmp(m->emits[i].name, name, len) != 0 || (name[len] != '.' && name[len] != '\0'))
            continue;
        for (uint32_t f = 0; f < m->emits[i].n_fields && in->n_cells[event] < 64; f++) {
            uint8_t kind = m->emits[i].fields[f].kind;
            if (kind == NFM_KIND_BYTES || kind == NFM_KIND_STR || kind == NFM_KIND_ADDR)
                in->bytes_cells[event] |= UINT64_C(1) << in->n_cells[event];
            in->n_cells[event]++;
        }
    }
}

static size_t padded_size(const nfm_module *m) {
    return ((size_t)m->flow_size + 7) / 8 * 8;
}

/* Tracking modules of different protocols never work on one flow: they share their room. The stream
 * module's comes behind it. */
static size_t *room_of(nfm_graph *graph, const nfm_module *m) {
    if (m->phase == NFM_PHASE_TRACK)
        return &graph->track_room;
    return m->phase == NFM_PHASE_STREAM ? &graph->stream_room : NULL;
}

static void make_room(nfm_graph *graph, const nfm_module *m) {
    size_t *room = room_of(graph, m);
    if (room != NULL && *room < padded_size(m))
        *room = padded_size(m);
}

int nfm_graph_add(nfm_graph *graph, const nfm_module *module, const uint64_t *limits,
                  const uint32_t *types, nfm_error *err) {
    int rc = check_module(module, err);
    if (rc != NFM_OK)
        return rc;
    if (graph->n == NFM_MAX_MODULES)
        return fail(err, NFM_E_LIMIT, "module %s: a worker runs at most %d modules", module->name,
                    NFM_MAX_MODULES);
    nfm_instance *in = &graph->instances[graph->n];
    memset(in, 0, sizeof(*in));
    in->module = module;
    in->ctx.index = graph->n;
    in->ctx.limits = in->limits;
    in->ctx.counters = in->counters;
    in->needs = needed_bits(module);
    in->level = level_of_bits(in->needs);
    for (uint32_t i = 0; i < module->n_emits; i++) {
        in->types[i] = types == NULL ? 0 : types[i];
        lay_out(in, i);
    }
    for (uint32_t i = 0; module->counters != NULL && module->counters[i] != NULL; i++)
        snprintf(in->counter_names[i], NFM_NAME_SIZE, "%s.%s", module->name, module->counters[i]);
    if ((rc = take_limits(in, limits, err)) != NFM_OK || (rc = place(graph, in, err)) != NFM_OK)
        return rc;
    make_room(graph, module);
    return (int)graph->n++;
}

int nfm_graph_reserve(nfm_graph *graph, const nfm_module *module, nfm_error *err) {
    int rc = check_module(module, err);
    if (rc == NFM_OK)
        make_room(graph, module);
    return rc;
}

size_t nfm_graph_block_size(const nfm_graph *graph) {
    return graph->track_room + graph->stream_room;
}

static int find_state(nfm_graph *graph, nfm_instance *in, const nfm_graph_start_args *args,
                      nfm_error *err) {
    const nfm_module *m = in->module;
    if (m->flow_size == 0)
        return NFM_OK;
    if (m->phase == NFM_PHASE_TRACK || m->phase == NFM_PHASE_STREAM) {
        in->state = args->blocks + (m->phase == NFM_PHASE_STREAM ? graph->track_room : 0);
        in->stride = args->stride;
        return NFM_OK;
    }
    in->stride = m->flow_size;
    int rc = nfm_region_init(&in->region, m->name, in->stride * args->mem->n_flows, err);
    in->state = in->region.base;
    return rc;
}

static int start_one(nfm_graph *graph, nfm_instance *in, nfm_error *err) {
    if (in->hosted)
        return NFM_OK;
    int rc = find_state(graph, in, &graph->args, err);
    if (rc != NFM_OK)
        return rc;
    in->ctx.worker = graph->args.worker;
    in->ctx.mem = graph->args.mem;
    rc = in->module->start == NULL ? NFM_OK : in->module->start(&in->ctx);
    if (rc != NFM_OK)
        return fail(err, rc, "module %s: cannot start: %s", in->module->name, nfm_strerror(rc));
    in->started = true;
    return NFM_OK;
}

int nfm_graph_start(nfm_graph *graph, const nfm_graph_start_args *args, nfm_error *err) {
    graph->args = *args;
    for (uint32_t i = 0; i < graph->n; i++) {
        int rc = start_one(graph, &graph->instances[i], err);
        if (rc != NFM_OK)
            return rc;
    }
    return NFM_OK;
}

static bool has_place(const nfm_graph *graph, const nfm_module *m) {
    switch ((enum nfm_phase)m->phase) {
    case NFM_PHASE_IP:
        return graph->defrag == NULL;
    case NFM_PHASE_TRACK:
        return graph->track[m->proto] == NULL;
    case NFM_PHASE_STREAM:
        return graph->stream == NULL;
    case NFM_PHASE_APP:
        return true;
    }
    return false;
}

/* Takes the instance that was added last out again. */
static void remove_last(nfm_graph *graph) {
    nfm_instance *in = &graph->instances[--graph->n];
    if (graph->defrag == in)
        graph->defrag = NULL;
    if (graph->stream == in)
        graph->stream = NULL;
    if (graph->track[in->module->proto] == in)
        graph->track[in->module->proto] = NULL;
    graph->app_mask &= ~(UINT64_C(1) << in->ctx.index);
    nfm_region_fini(&in->region);
}

int nfm_graph_join(nfm_graph *graph, const nfm_module *module, const uint64_t *limits,
                   const uint32_t *types, nfm_error *err) {
    const size_t *room = room_of(graph, module);
    if (!has_place(graph, module))
        return fail(err, NFM_E_STATE, "module %s: another module has its place", module->name);
    if (room != NULL && *room < padded_size(module))
        return fail(err, NFM_E_STATE, "module %s: must be there when the worker starts",
                    module->name);
    int index = nfm_graph_add(graph, module, limits, types, err);
    if (index < 0)
        return index;
    int rc = start_one(graph, &graph->instances[index], err);
    if (rc == NFM_OK)
        return index;
    remove_last(graph);
    return rc;
}

void nfm_graph_set_wanted(nfm_graph *graph, uint64_t wanted) {
    for (uint32_t i = 0; i < graph->n; i++)
        wanted |= graph->instances[i].needs;
    for (uint32_t i = 0; i < graph->n; i++)
        graph->instances[i].ctx.wanted = wanted;
}

void nfm_graph_tick(nfm_graph *graph, int64_t now_ns) {
    for (uint32_t i = 0; i < graph->n; i++) {
        nfm_instance *in = &graph->instances[i];
        if (in->module->on_tick != NULL && !in->hosted)
            in->module->on_tick(&in->ctx, now_ns);
    }
}

uint8_t nfm_graph_level(const nfm_graph *graph, uint64_t modules) {
    uint8_t level = NFM_LEVEL_PACKET;
    for (uint64_t left = modules & graph->app_mask; left != 0; left &= left - 1) {
        uint8_t own = graph->instances[__builtin_ctzll(left)].level;
        level = own > level ? own : level;
    }
    return level;
}

int nfm_module_describe(const nfm_module *module, nfm_module_info *out) {
    if (module == NULL || module->abi != NFM_MODULE_ABI)
        return NFM_E_ABI;
    *out = (nfm_module_info){
        .name = module->name,
        .summary = module->summary,
        .needs = module->needs,
        .emits = module->emits,
        .limits = module->limits,
        .counters = module->counters,
        .n_emits = module->n_emits,
        .n_limits = module->n_limits,
        .flow_size = module->flow_size,
        .phase = module->phase,
    };
    return NFM_OK;
}
