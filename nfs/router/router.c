/* SPDX-License-Identifier: Apache-2.0 */
/* The router's life and its batches; router.h has the theory. */
#include "router.h"

#include <stdlib.h>
#include <string.h>

#define PACKETS                                                                                    \
    (NFM_BIT(NFM_EV_PACKET_TCP) | NFM_BIT(NFM_EV_PACKET_UDP) | NFM_BIT(NFM_EV_PACKET_ICMP) |       \
     NFM_BIT(NFM_EV_PACKET_OTHER) | NFM_BIT(NFM_EV_PACKET_MALFORMED))
#define TICK_NS INT64_C(100000000)
#define LIVE_NS INT64_C(60000000000) /* packets of a live port are not older */

/* router_open makes a router without configuration: see router_load. NULL: no memory. */
void *router_open(const char *config_json) {
    (void)config_json;
    return calloc(1, sizeof(router));
}

/* router_close frees |state|; NULL is fine. What waits is judged by the NF's policy. */
void router_close(void *state) {
    router *self = state;
    if (self == NULL)
        return;
    router_neighbours_fini(self);
    router_table_free(self->table);
    free(self->scratch);
    free(self);
}

static bool makes_sense(const router_config *c) {
    if (c->n_addresses > ROUTER_MAX_ADDRESSES || c->max_neighbours == 0 ||
        c->max_neighbours > 1u << 20 || c->reachable_ns <= 0 || c->stale_ns <= 0 ||
        c->error_burst > 1u << 20 || c->errors_per_s > 1u << 20)
        return false;
    for (uint32_t i = 0; i < c->n_addresses; i++) {
        const router_address *a = &c->addresses[i];
        if ((a->ip_version != 4 && a->ip_version != 6) || a->port >= ROUTER_MAX_PORTS ||
            a->bits > (a->ip_version == 4 ? 32 : 128) || c->interfaces[a->port].mtu == 0)
            return false;
    }
    return true;
}

/*
 * router_load takes |config|, borrowed until return, once. About 200 bytes per neighbour.
 * Returns NFM_OK, NFM_E_STATE, NFM_E_NOMEM, or NFM_E_INVAL: numbers out of range. After an error it
 * can only be closed.
 */
int router_load(router *self, const router_config *config) {
    if (self->has_config || self->entries != NULL)
        return NFM_E_STATE;
    if (!makes_sense(config))
        return NFM_E_INVAL;
    self->config = *config;
    memcpy(self->addresses, config->addresses, config->n_addresses * sizeof(self->addresses[0]));
    self->config.addresses = NULL;
    self->hash_key = config->hash_key;
    self->tokens = (int64_t)config->error_burst * 1000;
    self->scratch = malloc(NFM_MAX_FRAME);
    if (self->scratch == NULL || !router_neighbours_init(self, config->max_neighbours))
        return NFM_E_NOMEM;
    self->has_config = true;
    return NFM_OK;
}

/* router_swap puts |table| in force, between two batches, and frees the one before. */
void router_swap(router *self, router_table *table) {
    router_table_free(self->table);
    self->table = table;
}

static void go_on_to(router *self, int64_t now_ns) {
    self->now_ns = now_ns > self->now_ns ? now_ns : self->now_ns;
    if (self->now_ns < self->next_tick_ns)
        return;
    self->next_tick_ns = self->now_ns + TICK_NS;
    router_tick(self);
}

/*
 * router_process is the nfm_process_fn of this NF: |batch| is an nfm_batch of packets to be judged,
 * in order. Without configuration and routes everything passes. Returns NFM_OK.
 */
int router_process(void *state, const void *batch) {
    const nfm_batch *b = batch;
    router *self = state;
    self->ring = b->ring;
    for (uint32_t i = 0; self->table != NULL && b->verdict != NULL && i < b->n; i++) {
        router_packet p;
        if (!(b->desc[i].what & PACKETS) || b->desc[i].what & (NFM_DESC_GAP | NFM_DESC_APP))
            continue;
        const nfm_record *record = &b->mem->records[b->desc[i].record];
        if (!router_is_port(self, record->port))
            continue;
        go_on_to(self, record->ts_ns);
        if (router_view(b->ring, b->mem, b->desc[i].record, &p)) {
            bool is_edited = (b->desc[i].what & NFM_DESC_EDITED) != 0;
            b->verdict[i] = router_judge(self, &p, is_edited, &b->edit[i]);
            continue;
        }
        self->stats.other_protocol++;
        b->verdict[i] = NFM_DROP;
    }
    return NFM_OK;
}

/* router_poll goes on to |now_ns|, the clock's time, where packets are of now: live ports. */
void router_poll(router *self, int64_t now_ns) {
    if (self->ring != NULL && self->table != NULL && now_ns > self->now_ns &&
        now_ns - self->now_ns < LIVE_NS)
        go_on_to(self, now_ns);
}

/* router_stats_get copies the counters. */
void router_stats_get(const router *self, router_stats *out) {
    *out = self->stats;
}

/* router_neighbours_get copies up to |max| neighbours; returns how many. */
uint32_t router_neighbours_get(const router *self, router_neighbour *out, uint32_t max) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < self->config.max_neighbours && n < max; i++)
        if (self->entries[i].is.state != ROUTER_FREE)
            out[n++] = self->entries[i].is;
    return n;
}
