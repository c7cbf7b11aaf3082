/* SPDX-License-Identifier: Apache-2.0 */
/* What keeps records beside their epoch: holds of receivers, and what an earlier worker delivered.
 */
#include <stdio.h>
#include <stdlib.h>

#include "event/delivery.h"

/* Marks |id| as kept. The record lay where its receivers could name anything: what it says is
 * checked, and the worst that a lie can do is to keep its own records busy. False: it makes no
 * sense. */
static bool adopt_record(nfm_delivery *d, uint64_t id) {
    if (id >= d->n_records)
        return false;
    if (d->life[id] != 0)
        return true;
    const nfm_record *record = &d->records[id];
    unsigned class = nfm__field_class(record->app.fields_len);
    bool is_app = record->kind == NFM_REC_APP;
    if (is_app && (record->app.fields >= d->fields_size || class == NFM_FIELD_CLASSES))
        return false;
    if (record->slot != NFM_NO_SLOT && record->slot < d->pool->n_slots)
        d->pool->refs[record->slot]++;
    uint64_t end = is_app ? record->app.fields + nfm__field_class_size[class] : 0;
    d->fields_fresh = end > d->fields_fresh ? end : d->fields_fresh;
    d->fields_used += is_app ? nfm__field_class_size[class] : 0;
    return true;
}

static void adopt_entry(nfm_delivery *d, const nfm_desc *desc) {
    if (!adopt_record(d, desc->record) || d->life[desc->record] & NFM_IN_FLIGHT)
        return;
    d->life[desc->record] |= NFM_IN_FLIGHT;
    d->inflight[d->inflight_head++ & (d->n_records - 1)] = desc->record;
}

/* A hold of a record that nothing else may keep: counted before it is looked at. */
static void adopt_hold(nfm_delivery *d, nfm_ring *ring, uint32_t hold, uint64_t record) {
    if (!adopt_record(d, record))
        return;
    d->life[record]++;
    (void)nfm_delivery_hold(d, ring, hold, record);
    d->life[record]--;
}

/* What an earlier worker's receiver has passed, and holds, or asked to hold. */
static void adopt_holds(nfm_delivery *d, nfm_ring *ring) {
    nfm_command command;
    for (uint32_t hold = 0; hold < ring->max_holds; hold++)
        if (ring->shared->held[hold] != 0)
            adopt_hold(d, ring, hold, ring->shared->held[hold] - 1);
    while (nfm_ring_take_command(ring, &command)) {
        if (command.kind == NFM_CMD_HOLD)
            adopt_hold(d, ring, command.number, command.a);
        else if (command.kind == NFM_CMD_RELEASE)
            (void)nfm_delivery_unhold(d, ring, command.number);
        else if (command.kind == NFM_CMD_BEGIN)
            nfm_delivery_unhold_all(d, ring);
    }
}

static void adopt_ring(nfm_delivery *d, nfm_ring *ring) {
    for (uint64_t at = ring->tail_seen; at < ring->head; at++)
        adopt_entry(d, &ring->desc[at & ring->mask]);
    if (ring->max_holds > 0)
        adopt_holds(d, ring);
}

int nfm_delivery_adopt(nfm_delivery *d) {
    bool any = false;
    for (uint32_t i = 0; i < d->n_rings; i++)
        any |= d->rings[i] != NULL && (d->rings[i]->adopted || d->rings[i]->max_holds > 0);
    if (!any)
        return NFM_OK;
    d->n_free = d->pool->n_free_small = d->pool->n_free_large = 0; /* all are found below */
    for (uint32_t i = 0; i < d->n_rings; i++)
        if (d->rings[i] != NULL && d->rings[i]->is_shared)
            adopt_ring(d, d->rings[i]);
    d->n_free = 0;
    for (uint32_t i = d->n_records; i-- > 0;)
        if (d->life[i] == 0)
            d->free[d->n_free++] = i;
    nfm_pool_rebuild(d->pool);
    nfm_delivery_publish(d);
    nfm_delivery_wake(d, true);
    return NFM_OK;
}

int nfm_delivery_allow_holds(nfm_delivery *d, nfm_ring *ring, uint32_t holds, nfm_error *err) {
    uint32_t all = d->max_holds + holds, n_large = d->pool->n_slots - d->pool->n_small;
    if (holds > NFM_MAX_HOLDS || all > d->n_records / 4 || all > d->pool->n_small / 2 ||
        (n_large > 0 && all > n_large / 2)) {
        if (err == NULL)
            return NFM_E_LIMIT;
        err->code = NFM_E_LIMIT;
        snprintf(err->text, sizeof(err->text),
                 "holds: %u of all NFs are too many for %u records, %u slots and %u large slots (a "
                 "quarter, half and half of them at most; %u for one NF): hold fewer, or give the "
                 "worker more",
                 all, d->n_records, d->pool->n_small, n_large, NFM_MAX_HOLDS);
        return NFM_E_LIMIT;
    }
    int rc = NFM_OK;
    if (d->flow_holds.base == NULL)
        rc = nfm_region_init(&d->flow_holds, "holds", d->mem->n_flows * sizeof(uint16_t), err);
    if (rc == NFM_OK)
        rc = nfm_ring_allow_holds(ring, holds);
    if (rc == NFM_OK)
        d->max_holds = all;
    return rc;
}

static uint16_t *flow_holds(nfm_delivery *d, uint32_t record) {
    uint64_t flow = d->records[record].flow;
    uint16_t *counts = (uint16_t *)(void *)d->flow_holds.base;
    return counts == NULL || flow == 0 || (uint32_t)flow >= d->mem->n_flows
               ? NULL
               : &counts[(uint32_t)flow];
}

bool nfm__record_hold(nfm_delivery *d, uint32_t record) {
    uint16_t *of_flow = flow_holds(d, record);
    if (of_flow != NULL && *of_flow == UINT16_MAX)
        return false;
    if (of_flow != NULL)
        (*of_flow)++;
    d->life[record]++;
    return true;
}

void nfm__record_unhold(nfm_delivery *d, uint32_t record) {
    uint16_t *of_flow = flow_holds(d, record);
    if (of_flow != NULL)
        (*of_flow)--;
    if (--d->life[record] == 0)
        nfm__record_free(d, record);
}

bool nfm_delivery_hold(nfm_delivery *d, nfm_ring *ring, uint32_t hold, uint64_t record) {
    if (hold >= ring->max_holds || ring->held[hold] != 0 || record >= d->n_records ||
        d->life[record] == 0 || !nfm__record_hold(d, (uint32_t)record))
        return false;
    ring->held[hold] = ring->shared->held[hold] = (uint32_t)record + 1;
    ring->n_held++;
    return true;
}

bool nfm_delivery_unhold(nfm_delivery *d, nfm_ring *ring, uint32_t hold) {
    if (hold >= ring->max_holds || ring->held[hold] == 0)
        return false;
    uint32_t record = ring->held[hold] - 1;
    ring->held[hold] = ring->shared->held[hold] = 0;
    ring->n_held--;
    nfm__record_unhold(d, record);
    return true;
}

void nfm_delivery_unhold_all(nfm_delivery *d, nfm_ring *ring) {
    for (uint32_t hold = 0; ring->n_held > 0 && hold < ring->max_holds; hold++)
        (void)nfm_delivery_unhold(d, ring, hold);
}
