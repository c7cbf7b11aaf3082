/* SPDX-License-Identifier: Apache-2.0 */
/* The memory that a worker shares, or keeps to itself: its objects and its receivers' rings. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/attach.h"
#include "engine/hosted.h"
#include "engine/transit.h"

int nfm__refuse(nfm_error *err, const char *what) {
    if (err != NULL) {
        err->code = NFM_E_INVAL;
        snprintf(err->text, sizeof(err->text), "worker: %s", what);
    }
    return NFM_E_INVAL;
}

/* Free lists hand out the first slots, records and flows first, again and again: these bytes of
 * each shared object are there before the first packet. */
#define POPULATED ((size_t)8 << 20)

static nfm_mem counts_of(const nfm_worker_config *c) {
    return (nfm_mem){
        .n_small = c->n_small,
        .n_slots = c->n_small + c->n_large,
        .n_records = c->n_records,
        .n_flows = c->max_flows,
        .fields_size = c->fields_size,
    };
}

int nfm_worker_object_sizes(const nfm_worker_config *config, uint64_t *sizes, nfm_error *err) {
    int rc = nfm__check_config(config, err);
    nfm_mem mem = counts_of(config);
    nfm_header_sizes(&mem, sizes);
    return rc;
}

/* Maps one object: the configured shared one, or memory of our own. */
static int map_object(nfm_worker *w, int object, size_t size, nfm_error *err) {
    static const char *const names[] = {"header", "packets", "records", "fields", "flows"};
    int fd = w->config.fds[object];
    if (fd < 0)
        return nfm_region_init(&w->objects[object], names[object], size, err);
    int rc = nfm_region_adopt(&w->objects[object], fd, size, true, err);
    if (rc == NFM_OK)
        nfm_region_populate(&w->objects[object], POPULATED);
    return rc;
}

int nfm__objects_map(nfm_worker *w, nfm_error *err) {
    uint64_t sizes[NFM_OBJ_COUNT];
    w->mem = counts_of(&w->config);
    nfm_header_sizes(&w->mem, sizes);
    for (int i = 0; i < NFM_OBJ_COUNT; i++) {
        int rc = map_object(w, i, sizes[i], err);
        if (rc != NFM_OK)
            return rc;
    }
    w->mem.packets = w->objects[NFM_OBJ_PACKETS].base;
    w->mem.records = (const nfm_record *)(const void *)w->objects[NFM_OBJ_RECORDS].base;
    w->mem.fields = w->objects[NFM_OBJ_FIELDS].base;
    w->mem.flows = (const nfm_flow_info *)(const void *)w->objects[NFM_OBJ_FLOWS].base;
    nfm_header_write((nfm_header *)(void *)w->objects[NFM_OBJ_HEADER].base, w->config.id, &w->mem);
    return NFM_OK;
}

void nfm__objects_unmap(nfm_worker *w) {
    for (uint32_t i = 0; i < w->n_rings; i++) {
        if (w->rings[i] != NULL) {
            nfm__inline_free(w->rings[i]);
            nfm_ring_fini(w->rings[i]);
        }
        free(w->rings[i]);
    }
    for (int i = 0; i < NFM_OBJ_COUNT; i++)
        nfm_region_fini(&w->objects[i]);
}

size_t nfm__objects_size(const nfm_worker *w) {
    size_t size = 0;
    for (int i = 0; i < NFM_OBJ_COUNT; i++)
        size += w->objects[i].size;
    for (uint32_t i = 0; i < w->n_rings; i++)
        size += w->rings[i] == NULL ? 0 : w->rings[i]->region.size;
    for (uint32_t i = 0; i < w->n_inboxes * NFM_OBJ_COUNT; i++)
        if (w->inboxes[i / NFM_OBJ_COUNT] != NULL)
            size += w->inboxes[i / NFM_OBJ_COUNT]->objects[i % NFM_OBJ_COUNT].size;
    return size;
}

/* Gives |ring| a number: that of a removed one, or the next. */
static bool enlist(nfm_worker *w, nfm_ring *ring) {
    uint32_t at = 0;
    while (at < w->n_rings && w->rings[at] != NULL)
        at++;
    if (at == NFM_MAX_RINGS)
        return false;
    w->rings[at] = ring;
    w->n_rings = at < w->n_rings ? w->n_rings : at + 1;
    nfm_delivery_enter(&w->delivery, at, ring);
    return true;
}

/* Lossy receivers together keep at most a quarter of slots and records. */
static void share_quotas(nfm_worker *w) {
    uint32_t n = 0, all = w->config.n_small < w->config.n_records ? w->config.n_small
                                                                  : w->config.n_records;
    for (uint32_t i = 0; i < w->n_rings; i++)
        n += w->home_rings[i] != NULL && w->home_rings[i]->lossy;
    for (uint32_t i = 0; i < w->n_rings; i++)
        if (w->home_rings[i] != NULL && w->home_rings[i]->lossy)
            nfm_ring_set_quota(w->home_rings[i], all / 4 / n);
}

static nfm_ring *enlist_or_free(nfm_worker *w, nfm_ring *ring, nfm_error *err) {
    if (enlist(w, ring)) {
        share_quotas(w);
        return ring;
    }
    (void)nfm__refuse(err, "at most 64 rings");
    nfm_ring_fini(ring);
    free(ring);
    return NULL;
}

nfm_ring *nfm_worker_add_ring(nfm_worker *w, uint32_t entries, nfm_error *err) {
    size_t size = nfm_ring_object_size(entries);
    if (size == 0) {
        (void)nfm__refuse(err, "ring entries must be a power of two, 64 to 2^24");
        return NULL;
    }
    nfm_region region;
    if (nfm_region_init(&region, "ring", size, err) != NFM_OK)
        return NULL;
    nfm_ring *ring = calloc(1, sizeof(*ring));
    if (ring == NULL || nfm_ring_init(ring, region.base, entries, false) != NFM_OK) {
        free(ring);
        nfm_region_fini(&region);
        return NULL;
    }
    ring->region = region;
    return enlist_or_free(w, ring, err);
}

nfm_ring *nfm_worker_add_shared_ring(nfm_worker *w, int fd, int lossy, nfm_error *err) {
    nfm_ring *ring = calloc(1, sizeof(*ring));
    if (ring == NULL || nfm_ring_adopt(ring, fd, lossy != 0, err) != NFM_OK) {
        free(ring);
        return NULL;
    }
    if (w->started && ring->adopted) { /* entries of another life: their records are not ours */
        ring->head = ring->tail_seen;
        nfm_ring_publish(ring);
    }
    return enlist_or_free(w, ring, err);
}

int nfm_worker_allow_holds(nfm_worker *w, nfm_ring *ring, uint32_t holds, nfm_error *err) {
    if (ring->head != ring->tail_seen && !ring->adopted)
        return nfm__refuse(err, "holds are allowed before the first entry");
    return nfm_delivery_allow_holds(nfm__delivery_of(w, ring), ring, holds, err);
}

int nfm_worker_remove_ring(nfm_worker *w, nfm_ring *ring) {
    for (uint32_t i = 0; i < w->n_rings; i++) {
        if (w->rings[i] != ring || ring == NULL)
            continue;
        if (nfm_subs_uses(&w->subs, ring))
            return NFM_E_STATE;
        if (ring->is_shared)
            nfm_ring_end(ring);
        if (ring->in_line != NULL) {
            nfm__transit_give_up(w, ring);
            nfm__transit_give_up_kept(w, ring);
        }
        nfm_delivery_unhold_all(nfm__delivery_of(w, ring), ring);
        nfm_delivery_leave(nfm__delivery_of(w, ring), i);
        nfm_subs_forget(&w->subs, ring);
        w->rings[i] = NULL;
        nfm__inline_free(ring);
        nfm_ring_fini(ring);
        free(ring);
        share_quotas(w);
        return NFM_OK;
    }
    return NFM_E_INVAL;
}

void nfm_worker_end_rings(nfm_worker *w) {
    for (uint32_t i = 0; i < w->n_rings; i++)
        if (w->rings[i] != NULL && w->rings[i]->is_shared)
            nfm_ring_end(w->rings[i]);
    if (w->hosts != NULL)
        nfm__hosts_end(w);
}

int nfm_worker_resume(nfm_worker *w) {
    if (w->started)
        return NFM_E_STATE;
    for (uint32_t i = 0; i < w->n_rings; i++)
        if (w->rings[i] != NULL && w->rings[i]->is_shared)
            nfm_ring_suppress(w->rings[i], w->rings[i]->head);
    return NFM_OK;
}
