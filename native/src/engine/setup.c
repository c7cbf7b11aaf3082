/* SPDX-License-Identifier: Apache-2.0 */
/* Making and unmaking a worker, its counters and its statistics. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/hosted.h"
#include "engine/share.h"
#include "engine/transit.h"

static const uint32_t default_idle_s[8] = {
    [NFM_IDLE_TCP_SYN] = 240,   [NFM_IDLE_TCP_EST] = 7440, /* RFC 5382 REQ-5 */
    [NFM_IDLE_TCP_CLOSE] = 240, [NFM_IDLE_TCP_GONE] = 10,  /* stragglers and retransmitted FINs */
    [NFM_IDLE_UDP] = 300,                                  /* RFC 4787 REQ-5 */
    [NFM_IDLE_ICMP] = 60,                                  /* RFC 5508 REQ-2 */
    [NFM_IDLE_OTHER] = 600,     [7] = 600,
};

uint32_t nfm_abi_version(void) {
    return NFM_ABI_VERSION;
}

void nfm_worker_config_init(nfm_worker_config *config) {
    memset(config, 0, sizeof(*config));
    config->size = sizeof(*config);
    config->n_small = 16384;
    config->n_large = 256;
    config->n_records = 65536;
    config->max_flows = 1u << 20;
    config->fields_size = UINT64_C(64) << 20;
    config->max_tunnel_depth = 4;
    config->update_s = 60;
    memcpy(config->idle_s, default_idle_s, sizeof(default_idle_s));
    for (int i = 0; i < NFM_OBJ_COUNT; i++)
        config->fds[i] = -1;
}

int nfm__check_config(const nfm_worker_config *c, nfm_error *err) {
    if (c->size != sizeof(*c))
        return nfm__refuse(err, "config size differs: use nfm_worker_config_init of this library");
    if (c->id > 255)
        return nfm__refuse(err, "id must be 0 to 255");
    if (c->n_small < 256 || c->n_small > 1u << 26 || c->n_large > 1u << 20)
        return nfm__refuse(err, "n_small must be 256 to 2^26, n_large at most 2^20");
    if (!nfm__is_power_of_two(c->n_records) || c->n_records < 1024 || c->n_records > 1u << 26)
        return nfm__refuse(err, "n_records must be a power of two, 1024 to 2^26");
    if (!nfm__is_power_of_two(c->max_flows) || c->max_flows < 1024 || c->max_flows > 1u << 28)
        return nfm__refuse(err, "max_flows must be a power of two, 1024 to 2^28");
    if (c->fields_size < 1u << 20)
        return nfm__refuse(err, "fields_size must be at least 1 MiB");
    return NFM_OK;
}

static int make_parts(nfm_worker *w, nfm_error *err) {
    int rc = nfm__objects_map(w, err);
    if (rc == NFM_OK)
        rc = nfm_table_init(&w->table, &w->config,
                            (nfm_flow_info *)(void *)w->objects[NFM_OBJ_FLOWS].base, err);
    if (rc == NFM_OK)
        rc = nfm_pool_init(&w->pool, w->objects[NFM_OBJ_PACKETS].base, w->config.n_small,
                           w->config.n_large);
    if (rc == NFM_OK)
        rc = nfm_subs_init(&w->subs);
    if (rc == NFM_OK)
        rc = nfm_delivery_init(&w->delivery, &w->config, &w->pool, &w->mem);
    w->delivery.rings = w->home_rings;
    w->delivery.inboxes = w->inboxes;
    if (rc == NFM_OK)
        rc = nfm_graph_init(&w->graph);
    w->limbo = malloc(sizeof(nfm_limbo) * w->config.max_flows);
    w->burst = aligned_alloc(64, (sizeof(nfm_packet) * NFM_BURST + 63) / 64 * 64);
    if (rc == NFM_OK && (w->limbo == NULL || w->burst == NULL))
        rc = NFM_E_NOMEM;
    return rc;
}

nfm_worker *nfm_worker_new(const nfm_worker_config *config, nfm_error *err) {
    if (nfm__check_config(config, err) != NFM_OK)
        return NULL;
    nfm_worker *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return NULL;
    w->config = *config;
    int rc = make_parts(w, err);
    if (rc != NFM_OK) {
        if (err != NULL && err->text[0] == '\0') {
            err->code = rc;
            snprintf(err->text, sizeof(err->text), "worker: %s", nfm_strerror(rc));
        }
        nfm_worker_free(w);
        return NULL;
    }
    memset(w->burst, 0, sizeof(nfm_packet) * NFM_BURST);
    w->wire = (nfm_wire_config){config->max_tunnel_depth, config->verify_checksums,
                                config->key_vlan, config->key_tunnel};
    for (int i = 0; i < 8; i++)
        w->idle_ns[i] =
            (int64_t)(config->idle_s[i] ? config->idle_s[i] : default_idle_s[i]) * 1000000000;
    w->update_ns = (int64_t)(config->update_s ? config->update_s : 60) * 1000000000;
    w->random = UINT64_C(0x2545f4914f6cdd1d) ^ config->hash_key[0];
    for (int i = 0; i < NFM_PD_COUNT; i++)
        snprintf(w->malformed_names[i], sizeof(w->malformed_names[i]), "malformed.%s",
                 nfm_wire_drop_name(i));
    w->n_workers = 1;
    w->flow_limit = config->max_flows - config->max_flows / 16;
    return w;
}

void nfm_worker_free(nfm_worker *w) {
    if (w == NULL)
        return;
    nfm_worker_release_ports(w);
    nfm_graph_fini(&w->graph);
    nfm__domains_free(w);
    nfm__hosts_free(w);
    nfm__way_free(w);
    nfm__share_free(w);
    nfm_delivery_fini(&w->delivery);
    nfm_subs_fini(&w->subs);
    nfm_pool_fini(&w->pool);
    nfm_table_fini(&w->table);
    nfm__objects_unmap(w);
    nfm_region_fini(&w->choices);
    free(w->limbo);
    free(w->burst);
    free(w);
}

void nfm_worker_release_ports(nfm_worker *w) {
    if (w->way != NULL)
        nfm__output_discard(w);
    for (uint32_t i = 0; i < w->n_ports; i++)
        if (w->ports[i]->ops->detach != NULL)
            w->ports[i]->ops->detach(w->ports[i], &w->pool);
    w->n_ports = 0;
}

int nfm_worker_add_port(nfm_worker *w, nfm_port *port) {
    if (port == NULL)
        return NFM_E_INVAL;
    if (w->n_ports == NFM_MAX_PORTS)
        return NFM_E_LIMIT;
    w->ports[w->n_ports++] = port;
    return NFM_OK;
}

/* What modules may rely on being asked for: what subscribers want, and what modules need. */
void nfm__tell_wanted(nfm_worker *w) {
    const nfm_subset *all = nfm__set_of(w, NFM_NO_FLOW, 0);
    uint64_t wanted = all->events | all->inline_events;
    w->wants_update = (wanted & NFM_BIT(NFM_EV_FLOW_UPDATE)) != 0;
    nfm_graph_set_wanted(&w->graph, wanted);
}

/* Makes changed subscriptions effective; what was raised under the old ones is delivered first. */
int nfm__change_subscriptions(nfm_worker *w) {
    int rc = nfm_subs_changed(&w->subs);
    nfm__hosts_subs_changed(w);
    nfm__tell_wanted(w);
    return rc;
}

int nfm_worker_reserve_module(nfm_worker *w, const nfm_module *module, nfm_error *err) {
    return w->started ? NFM_E_STATE : nfm_graph_reserve(&w->graph, module, err);
}

int nfm_worker_add_module(nfm_worker *w, const nfm_module *module, const uint64_t *limits,
                          const uint32_t *types, nfm_error *err) {
    if (!w->started)
        return nfm_graph_add(&w->graph, module, limits, types, err);
    nfm__hosts_drain(w);
    int rc = nfm__change_subscriptions(w); /* flows look anew what is done for them */
    if (rc != NFM_OK)
        return rc;
    int index = nfm_graph_join(&w->graph, module, limits, types, err);
    nfm__tell_wanted(w);
    return index;
}

int nfm_worker_attach_native(nfm_worker *w, nfm_ring *ring, nfm_process_fn process, void *state) {
    (void)w;
    if (ring == NULL || process == NULL || ring->domain != 0)
        return NFM_E_INVAL;
    ring->process = process;
    ring->process_state = state;
    return NFM_OK;
}

int nfm_worker_subscribe(nfm_worker *w, const nfm_subscription *subscription) {
    nfm__hosts_drain(w);
    int number = nfm_subs_add(&w->subs, subscription);
    if (number >= 0 && w->started) {
        int rc = nfm__change_subscriptions(w);
        return rc == NFM_OK ? number : rc;
    }
    return number;
}

int nfm_worker_unsubscribe(nfm_worker *w, uint32_t subscription) {
    nfm__hosts_drain(w);
    int rc = nfm_subs_remove(&w->subs, subscription);
    return rc == NFM_OK && w->started ? nfm__change_subscriptions(w) : rc;
}

int nfm_worker_start(nfm_worker *w, nfm_error *err) {
    if (w->started)
        return NFM_E_STATE;
    int rc = nfm_subs_changed(&w->subs);
    if (rc == NFM_OK)
        rc = nfm_delivery_adopt(&w->delivery);
    if (rc == NFM_OK)
        rc = nfm__domains_adopt(w);
    if (rc == NFM_OK)
        rc = nfm_table_start(&w->table, nfm_graph_block_size(&w->graph), err);
    if (rc == NFM_OK && w->way != NULL)
        rc = nfm__way_start(w, err);
    if (rc != NFM_OK)
        return rc;
    nfm__tell_wanted(w);
    nfm_graph_start_args args = {w, &w->mem, w->table.blocks + sizeof(nfm_flow), w->table.stride};
    rc = nfm_graph_start(&w->graph, &args, err);
    w->started = rc == NFM_OK;
    return rc;
}

const nfm_mem *nfm_worker_mem(const nfm_worker *w) {
    return &w->mem;
}

void nfm_worker_stats_get(const nfm_worker *w, nfm_worker_stats *out) {
    size_t mapped = nfm__objects_size(w) + w->table.block_region.size +
                    w->table.bucket_region.size + w->table.free_region.size + w->choices.size +
                    w->delivery.flow_holds.size;
    uint64_t per_flow =
        NFM_FLOW_INFO_SIZE + w->table.stride + sizeof(uint32_t) + sizeof(nfm_limbo) +
        sizeof(nfm_bucket) * 3 / 8; /* a bucket per 4 flows, and its overflow share */
    for (uint32_t i = 0; i < w->graph.n; i++) {
        mapped += w->graph.instances[i].region.size;
        if (w->graph.instances[i].module->phase == NFM_PHASE_APP)
            per_flow += w->graph.instances[i].module->flow_size;
    }
    *out = (nfm_worker_stats){
        .packets = w->packets - w->foreign,
        .bytes = w->bytes - w->foreign_bytes,
        .now_ns = w->now_ns,
        .flows_opened = w->flows_opened,
        .flows_closed = w->flows_closed,
        .flows_now = w->table.n_flows,
        .slots_used = w->pool.n_slots - w->pool.n_free_small - w->pool.n_free_large,
        .records_used = w->delivery.n_records - w->delivery.n_free,
        .flow_bytes = per_flow,
        .mapped_bytes = mapped,
        .foreign = w->foreign,
    };
}
