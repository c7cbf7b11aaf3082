/* SPDX-License-Identifier: Apache-2.0 */
/* All routes as one table, built beside the packets. */
#include <stdlib.h>
#include <string.h>

#include "router.h"

static bool are_hops(const router *self, const router_table_config *c) {
    for (uint32_t i = 0; i < c->n_hops; i++) {
        const router_hop *hop = &c->hops[i];
        bool leaves = hop->kind == ROUTER_LINK || hop->kind == ROUTER_VIA;
        if (hop->kind > ROUTER_BROADCAST || (leaves && !router_is_port(self, hop->port)))
            return false;
    }
    return c->n_hops < ROUTER_MAX_HOPS && c->n_routes <= ROUTER_MAX_ROUTES;
}

static int fill(router_table *table, const router_table_config *c) {
    for (uint32_t i = 0; i < c->n_routes; i++) {
        const router_route *route = &c->routes[i];
        if (route->hop >= c->n_hops || (route->ip_version != 4 && route->ip_version != 6) ||
            route->bits > (route->ip_version == 4 ? 32 : 128))
            return NFM_E_INVAL;
        lpm *routes = &table->routes[route->ip_version == 6];
        int rc = lpm_add(routes, route->prefix, route->bits, route->hop + 1);
        if (rc != NFM_OK)
            return rc;
        if ((uint64_t)table->routes[0].n_chunks + table->routes[1].n_chunks > routes->max_chunks)
            return NFM_E_LIMIT;
    }
    return NFM_OK;
}

static int build(const router *self, const router_table_config *config, router_table *table) {
    if (!self->has_config || !are_hops(self, config))
        return NFM_E_INVAL;
    table->hops = calloc((size_t)config->n_hops + 1, sizeof(*table->hops));
    if (table->hops == NULL || !lpm_init(&table->routes[0], config->max_bytes) ||
        !lpm_init(&table->routes[1], config->max_bytes))
        return NFM_E_NOMEM;
    memcpy(table->hops + 1, config->hops, config->n_hops * sizeof(*table->hops));
    return fill(table, config);
}

/*
 * router_table_new builds what |config|, borrowed until return, says; on any thread, once |self|
 * has its configuration. NULL with *status: NFM_E_INVAL: numbers out of range, or not in order;
 * NFM_E_LIMIT: more than max_bytes; NFM_E_NOMEM.
 */
router_table *router_table_new(const router *self, const router_table_config *config, int *status) {
    router_table *table = calloc(1, sizeof(*table));
    *status = table == NULL ? NFM_E_NOMEM : build(self, config, table);
    if (*status == NFM_OK)
        return table;
    router_table_free(table);
    return NULL;
}

/* router_table_free frees |table|, which is not in force; NULL is fine. */
void router_table_free(router_table *table) {
    if (table == NULL)
        return;
    lpm_fini(&table->routes[0]);
    lpm_fini(&table->routes[1]);
    free(table->hops);
    free(table);
}
