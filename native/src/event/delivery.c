/* SPDX-License-Identifier: Apache-2.0 */
#include "event/delivery.h"

#include <stdlib.h>
#include <string.h>

#include "event/inbox.h"

/* Bytes of a field record's block by class; 64 KiB holds the largest header block or datagram. */
const uint32_t nfm__field_class_size[NFM_FIELD_CLASSES] = {128, 512, 2048, 8192, 32768, 131072};

int nfm_delivery_init(nfm_delivery *d, const nfm_worker_config *config, nfm_pool *pool,
                      nfm_mem *mem) {
    memset(d, 0, sizeof(*d));
    d->pool = pool;
    d->mem = mem;
    d->n_records = config->n_records;
    d->records = (nfm_record *)(uintptr_t)mem->records;
    d->fields = (uint8_t *)(uintptr_t)mem->fields;
    d->fields_size = mem->fields_size;
    d->kept = NFM_NO_RECORD;
    d->free = malloc(sizeof(uint32_t) * d->n_records);
    d->inflight = malloc(sizeof(uint32_t) * d->n_records);
    d->epochs = malloc(sizeof(nfm_epoch) * NFM_EPOCHS);
    d->life = calloc(d->n_records, sizeof(uint32_t));
    if (d->life == NULL || d->free == NULL || d->inflight == NULL || d->epochs == NULL) {
        nfm_delivery_fini(d);
        return NFM_E_NOMEM;
    }
    for (uint32_t i = d->n_records; i-- > 0;)
        d->free[d->n_free++] = i;
    return NFM_OK;
}

void nfm_delivery_fini(nfm_delivery *d) {
    free(d->free);
    free(d->inflight);
    free(d->epochs);
    free(d->life);
    nfm_region_fini(&d->flow_holds);
    memset(d, 0, sizeof(*d));
}

unsigned nfm__field_class(uint32_t len) {
    unsigned c = 0;
    while (c < NFM_FIELD_CLASSES && nfm__field_class_size[c] < len)
        c++;
    return c;
}

int nfm_fields_get(nfm_delivery *d, uint32_t len, uint64_t *offset) {
    unsigned c = nfm__field_class(len);
    if (c < NFM_FIELD_CLASSES && d->field_free[c] != 0) {
        *offset = d->field_free[c] - 1;
        memcpy(&d->field_free[c], d->fields + *offset, 8);
        d->fields_used += nfm__field_class_size[c];
        return NFM_OK;
    }
    if (c == NFM_FIELD_CLASSES || d->fields_size - d->fields_fresh < nfm__field_class_size[c]) {
        d->no_fields++;
        return NFM_E_LIMIT;
    }
    *offset = d->fields_fresh;
    d->fields_fresh += nfm__field_class_size[c];
    d->fields_used += nfm__field_class_size[c];
    return NFM_OK;
}

void nfm_fields_put(nfm_delivery *d, uint64_t offset, uint32_t len) {
    unsigned c = nfm__field_class(len);
    memcpy(d->fields + offset, &d->field_free[c], 8);
    d->field_free[c] = offset + 1;
    d->fields_used -= nfm__field_class_size[c];
}

/* Copies |record| into a record of its own. */
static inline uint32_t record_copy(nfm_delivery *d, const nfm_record *record) {
    if (d->n_free == 0) {
        d->no_record++;
        return NFM_NO_RECORD;
    }
    uint32_t id = d->free[--d->n_free];
    d->records[id] = *record;
    d->life[id] = NFM_IN_FLIGHT;
    if (record->slot != NFM_NO_SLOT)
        nfm_pool_hold(d->pool, record->slot);
    return id;
}

uint32_t nfm_record_keep(nfm_delivery *d, const nfm_record *record) {
    return record_copy(d, record);
}

void nfm_record_enter(nfm_delivery *d, uint32_t id) {
    d->inflight[d->inflight_head++ & (d->n_records - 1)] = id;
}

/* The same, entered in the open epoch. */
static uint32_t record_new(nfm_delivery *d, const nfm_record *record) {
    uint32_t id = record_copy(d, record);
    if (id != NFM_NO_RECORD)
        nfm_record_enter(d, id);
    return id;
}

bool nfm__passes(const nfm_delivery *d, const nfm_filter *filter, const nfm_record *record,
                 const nfm_flow_info *info) {
    nfm_filter_input input = {
        .mem = d->mem,
        .record = record,
        .flow = info,
        .base = nfm_slot_ptr(d->mem, record->slot),
    };
    return nfm_filter_eval(filter, &input);
}

typedef struct nfm_matching {
    nfm_delivery *d;
    const nfm_record *record;
    const nfm_flow_info *info;
    uint32_t id;   /* the record once somebody wanted it */
    uint32_t flow; /* index */
} nfm_matching;

static inline bool passes(const nfm_matching *m, const nfm_filter *filter) {
    return filter == NULL || nfm__passes(m->d, filter, m->record, m->info);
}

/* Large slots are few: who may be slow gets none when half of them are taken. */
static bool is_scarce(const nfm_matching *m) {
    const nfm_pool *pool = m->d->pool;
    return m->record->slot != NFM_NO_SLOT && m->record->slot >= pool->n_small &&
           pool->n_free_large < (pool->n_slots - pool->n_small) / 2;
}

/* Pushes one descriptor, making the record on first use. False when no record is free. */
static inline bool push(nfm_matching *m, const nfm_receiver *r, uint64_t what) {
    if (m->id == NFM_NO_RECORD && (m->id = record_new(m->d, m->record)) == NFM_NO_RECORD)
        return false;
    if (__builtin_expect(r->ring->lossy, 0) && is_scarce(m))
        nfm_ring_miss(r->ring);
    else if (nfm_ring_push(r->ring, m->id, m->flow, what))
        m->d->delivered++;
    return true;
}

static nfm_matching matching_of(nfm_delivery *d, const nfm_record *record,
                                const nfm_flow_info *info) {
    return (nfm_matching){d, record, info, d->kept,
                          record->flow == 0 ? NFM_NO_FLOW : (uint32_t)record->flow};
}

void nfm_deliver(nfm_delivery *d, const nfm_subset *set, const nfm_record *record,
                 const nfm_flow_info *info) {
    nfm_matching m = matching_of(d, record, info);
    for (uint32_t i = 0; i < set->n; i++) {
        const nfm_receiver *r = &set->receivers[i];
        uint64_t bits = r->events & record->events;
        if (bits == 0 || !passes(&m, r->filter))
            continue;
        if (!push(&m, r, r->what & NFM_DESC_APP ? r->what : r->what | bits))
            break;
    }
    if (__builtin_expect(set->n_away > 0, 0))
        nfm_deliver_away(d, set, NULL, record, info);
}

void nfm_deliver_rest(nfm_delivery *d, const nfm_subset *set, const nfm_subset *except,
                      const nfm_record *record, const nfm_flow_info *info) {
    nfm_matching m = matching_of(d, record, info);
    for (uint32_t i = 0; i < set->n; i++) {
        const nfm_receiver *r = &set->receivers[i];
        uint64_t bits = r->events & record->events;
        if (bits == 0 || nfm_subset_has(except, r->sub) || !passes(&m, r->filter))
            continue;
        if (!push(&m, r, r->what & NFM_DESC_APP ? r->what : r->what | bits))
            break;
    }
    if (__builtin_expect(set->n_away > 0, 0))
        nfm_deliver_away(d, set, except, record, info);
}

void nfm_deliver_app(nfm_delivery *d, const nfm_subset *set, const nfm_record *record,
                     const nfm_flow_info *info) {
    nfm_matching m = matching_of(d, record, info);
    uint32_t type = record->app.type;
    for (uint32_t i = 0; i < set->n_app; i++) {
        const nfm_receiver *r = &set->app[i];
        if (type < r->type_first || type > r->type_last || r->domain != 0 || !passes(&m, r->filter))
            continue;
        if (!push(&m, r, r->what & NFM_DESC_APP ? r->what : r->what | NFM_DESC_APP | type))
            break;
    }
    nfm_deliver_app_away(d, set, record, info);
    if (m.id == NFM_NO_RECORD)
        nfm_fields_put(d, record->app.fields, record->app.fields_len);
}

void nfm_delivery_publish(nfm_delivery *d) {
    const nfm_epoch *last = &d->epochs[(d->epoch_open - 1) % NFM_EPOCHS];
    uint32_t begin = d->epoch_open == d->epoch_retired ? d->inflight_tail : last->records_end;
    for (uint32_t i = 0; i < d->n_rings; i++) {
        nfm_ring *ring = d->rings[i];
        if (ring == NULL)
            continue;
        nfm_ring_flush(ring);
        if (ring->is_shared)
            nfm_ring_prefetch(ring);
    }
    if (d->inflight_head == begin || d->epoch_open - d->epoch_retired == NFM_EPOCHS)
        return; /* nothing new, or no epoch free: the next burst's records share this epoch */
    nfm_epoch *epoch = &d->epochs[d->epoch_open % NFM_EPOCHS];
    epoch->records_end = d->inflight_head;
    for (uint32_t i = 0; i < d->n_rings; i++)
        epoch->heads[i] = d->rings[i] == NULL ? 0 : d->rings[i]->head;
    d->epoch_open++;
}

/* Nothing keeps the record any longer. */
void nfm__record_free(nfm_delivery *d, uint32_t id) {
    const nfm_record *record = &d->records[id];
    if (record->slot != NFM_NO_SLOT)
        nfm_pool_put(d->pool, record->slot);
    if (record->kind == NFM_REC_APP)
        nfm_fields_put(d, record->app.fields, record->app.fields_len);
    d->free[d->n_free++] = id;
}

void nfm_delivery_wake(nfm_delivery *d, bool all) {
    for (uint32_t i = 0; i < d->n_rings; i++) {
        nfm_ring *ring = d->rings[i];
        if (ring == NULL || !ring->is_shared)
            continue;
        if (all ? nfm_ring_used(ring) > 0 : ring->head >= ring->look_at)
            nfm_ring_wake(ring);
    }
}

static void release_record(nfm_delivery *d, uint32_t id) {
    if ((d->life[id] &= ~NFM_IN_FLIGHT) == 0)
        nfm__record_free(d, id);
}

static bool all_passed(const nfm_delivery *d, const nfm_epoch *epoch) {
    for (uint32_t i = 0; i < d->n_rings; i++)
        if (d->rings[i] != NULL && d->rings[i]->tail_seen < epoch->heads[i])
            return false;
    return true;
}

void nfm_delivery_collect(nfm_delivery *d) {
    for (uint32_t i = 0; i < d->n_rings; i++)
        if (d->rings[i] != NULL)
            nfm_ring_collect(d->rings[i]);
}

uint32_t nfm_delivery_retire(nfm_delivery *d) {
    uint32_t released = 0;
    for (uint32_t i = 0; i < d->n_rings; i++)
        if (d->rings[i] != NULL && d->rings[i]->parked_from != d->rings[i]->parked_to)
            nfm_delivery_unpark(d, d->rings[i], false);
    while (d->epoch_retired < d->epoch_open) {
        const nfm_epoch *epoch = &d->epochs[d->epoch_retired % NFM_EPOCHS];
        if (!all_passed(d, epoch))
            break;
        while (d->inflight_tail != epoch->records_end) {
            release_record(d, d->inflight[d->inflight_tail++ & (d->n_records - 1)]);
            released++;
        }
        d->epoch_retired++;
    }
    return released;
}

void nfm_delivery_forget(nfm_delivery *d, uint32_t ring) {
    for (uint64_t e = d->epoch_retired; e < d->epoch_open; e++)
        d->epochs[e % NFM_EPOCHS].heads[ring] = 0;
}

void nfm_delivery_enter(nfm_delivery *d, uint32_t at, nfm_ring *ring) {
    nfm_delivery_forget(d, at); /* epochs before it wait for nobody here */
    d->rings[at] = ring;
    d->n_rings = at < d->n_rings ? d->n_rings : at + 1;
}

void nfm_delivery_leave(nfm_delivery *d, uint32_t at) {
    if (d->rings[at] != NULL)
        nfm_delivery_unpark(d, d->rings[at], true);
    nfm_delivery_forget(d, at);
    d->rings[at] = NULL;
}
