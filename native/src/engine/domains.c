/* SPDX-License-Identifier: Apache-2.0 */
/* Domains of a worker: making and unmaking their inboxes, and their part of a burst. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/attach.h"
#include "engine/worker.h"

void nfm_domain_config_init(nfm_domain_config *config) {
    memset(config, 0, sizeof(*config));
    config->size = sizeof(*config);
    config->n_small = 16384;
    config->n_large = 128;
    config->n_records = 32768;
    config->fields_size = UINT64_C(16) << 20;
    for (int i = 0; i < NFM_OBJ_COUNT; i++)
        config->fds[i] = -1;
}

static int check(const nfm_domain_config *c, nfm_error *err) {
    if (c->size != sizeof(*c))
        return nfm__refuse(err, "domain: size differs: use nfm_domain_config_init of this library");
    if (c->n_small < 256 || c->n_small > 1u << 26 || c->n_large > 1u << 20)
        return nfm__refuse(err, "domain: n_small must be 256 to 2^26, n_large at most 2^20");
    if (!nfm__is_power_of_two(c->n_records) || c->n_records < 1024 || c->n_records > 1u << 26)
        return nfm__refuse(err, "domain: n_records must be a power of two, 1024 to 2^26");
    if (c->fields_size < 1u << 20)
        return nfm__refuse(err, "domain: fields_size must be at least 1 MiB");
    return NFM_OK;
}

static nfm_mem counts_of(const nfm_domain_config *c) {
    return (nfm_mem){
        .n_small = c->n_small,
        .n_slots = c->n_small + c->n_large,
        .n_records = c->n_records,
        .n_flows = c->n_records,
        .fields_size = c->fields_size,
    };
}

int nfm_domain_object_sizes(const nfm_domain_config *config, uint64_t *sizes, nfm_error *err) {
    int rc = check(config, err);
    nfm_mem mem = counts_of(config);
    nfm_header_sizes(&mem, sizes);
    return rc;
}

static int map_objects(nfm_inbox *box, const nfm_domain_config *config, nfm_error *err) {
    uint64_t sizes[NFM_OBJ_COUNT];
    int rc = NFM_OK;
    box->mem = counts_of(config);
    nfm_header_sizes(&box->mem, sizes);
    for (int i = 0; rc == NFM_OK && i < NFM_OBJ_COUNT; i++)
        rc = config->fds[i] >= 0
                 ? nfm_region_adopt(&box->objects[i], config->fds[i], sizes[i], true, err)
                 : nfm_region_init(&box->objects[i], "inbox", sizes[i], err);
    box->mem.packets = box->objects[NFM_OBJ_PACKETS].base;
    box->mem.records = (const nfm_record *)(const void *)box->objects[NFM_OBJ_RECORDS].base;
    box->mem.fields = box->objects[NFM_OBJ_FIELDS].base;
    box->mem.flows = (const nfm_flow_info *)(const void *)box->objects[NFM_OBJ_FLOWS].base;
    return rc;
}

static void free_inbox(nfm_inbox *box) {
    if (box == NULL)
        return;
    nfm_inbox_fini(box);
    for (int i = 0; i < NFM_OBJ_COUNT; i++)
        nfm_region_fini(&box->objects[i]);
    free(box);
}

static nfm_inbox *make_inbox(nfm_worker *w, const char *name, const nfm_domain_config *config,
                             nfm_error *err) {
    static const char *const what[NFM_INBOX_COUNTERS] = {"inbox_full", "records", "bytes"};
    nfm_inbox *box = calloc(1, sizeof(*box));
    if (box == NULL)
        return NULL;
    if (map_objects(box, config, err) != NFM_OK ||
        nfm_inbox_init(box, &w->pool, &w->delivery) != NFM_OK) {
        free_inbox(box);
        return NULL;
    }
    nfm_header_write((nfm_header *)(void *)box->objects[NFM_OBJ_HEADER].base, w->config.id,
                     &box->mem);
    for (int i = 0; i < NFM_INBOX_COUNTERS; i++)
        snprintf(box->names[i], sizeof(box->names[i]), "domain.%s.%s", name, what[i]);
    return box;
}

int nfm_worker_add_domain(nfm_worker *w, const char *name, const nfm_domain_config *config,
                          nfm_error *err) {
    uint32_t at = 0;
    int rc = check(config, err);
    if (rc != NFM_OK)
        return rc;
    if (name == NULL || strlen(name) >= NFM_DOMAIN_NAME)
        return nfm__refuse(err, "domain: a name has at most 64 characters");
    while (at < w->n_inboxes && w->inboxes[at] != NULL)
        at++;
    if (at == NFM_MAX_DOMAINS) {
        (void)nfm__refuse(err, "at most 16 domains");
        return NFM_E_LIMIT;
    }
    w->inboxes[at] = make_inbox(w, name, config, err);
    if (w->inboxes[at] == NULL)
        return NFM_E_NOMEM;
    w->n_inboxes = at == w->n_inboxes ? at + 1 : w->n_inboxes;
    return (int)at + 1;
}

nfm_delivery *nfm__delivery_of(nfm_worker *w, const nfm_ring *ring) {
    return ring->domain == 0 ? &w->delivery : &w->inboxes[ring->domain - 1]->delivery;
}

int nfm_worker_remove_domain(nfm_worker *w, uint32_t domain) {
    if (domain == 0 || domain > w->n_inboxes || w->inboxes[domain - 1] == NULL)
        return NFM_E_INVAL;
    for (uint32_t i = 0; i < w->n_rings; i++)
        if (w->rings[i] != NULL && w->rings[i]->domain == domain)
            return NFM_E_STATE;
    free_inbox(w->inboxes[domain - 1]);
    w->inboxes[domain - 1] = NULL;
    return NFM_OK;
}

int nfm_worker_give_ring(nfm_worker *w, nfm_ring *ring, uint32_t domain) {
    uint32_t at = 0;
    if (domain == 0 || domain > w->n_inboxes || w->inboxes[domain - 1] == NULL)
        return NFM_E_INVAL;
    while (at < w->n_rings && w->rings[at] != ring)
        at++;
    if (ring == NULL || at == w->n_rings)
        return NFM_E_INVAL;
    if (ring->domain != 0 || ring->process != NULL || ring->max_holds > 0 ||
        nfm_subs_uses(&w->subs, ring))
        return NFM_E_STATE;
    nfm_delivery_leave(&w->delivery, at);
    ring->domain = domain;
    nfm_delivery_enter(nfm__delivery_of(w, ring), at, ring);
    return NFM_OK;
}

int nfm__domains_adopt(nfm_worker *w) {
    int rc = NFM_OK;
    for (uint32_t i = 0; rc == NFM_OK && i < w->n_inboxes; i++)
        if (w->inboxes[i] != NULL)
            rc = nfm_delivery_adopt(&w->inboxes[i]->delivery);
    return rc;
}

void nfm__domains_publish(nfm_worker *w, bool wake_all) {
    for (uint32_t i = 0; i < w->n_inboxes; i++) {
        if (w->inboxes[i] == NULL)
            continue;
        nfm_inbox_publish(w->inboxes[i]);
        nfm_delivery_wake(&w->inboxes[i]->delivery, wake_all);
        nfm_delivery_collect(&w->inboxes[i]->delivery);
    }
}

void nfm__domains_retire(nfm_worker *w) {
    for (uint32_t i = 0; i < w->n_inboxes; i++)
        if (w->inboxes[i] != NULL)
            (void)nfm_delivery_retire(&w->inboxes[i]->delivery);
}

/* Whether somebody in the domain must not miss anything. */
static bool has_blocking(const nfm_delivery *d) {
    for (uint32_t i = 0; i < d->n_rings; i++)
        if (d->rings[i] != NULL && !d->rings[i]->lossy)
            return true;
    return false;
}

bool nfm__domains_must_drain(const nfm_worker *w) {
    for (uint32_t i = 0; i < w->n_inboxes; i++) {
        const nfm_inbox *box = w->inboxes[i];
        if (box != NULL && nfm_inbox_is_short(box) && has_blocking(&box->delivery))
            return true;
    }
    return false;
}

void nfm__domains_free(nfm_worker *w) {
    for (uint32_t i = 0; i < w->n_inboxes; i++)
        free_inbox(w->inboxes[i]);
    w->n_inboxes = 0;
}
