/* SPDX-License-Identifier: Apache-2.0 */
#include "event/inbox.h"

#include <stdlib.h>
#include <string.h>

#define FRAME_EVENTS                                                                               \
    (NFM_BIT(NFM_EV_PACKET_TCP) | NFM_BIT(NFM_EV_PACKET_UDP) | NFM_BIT(NFM_EV_PACKET_ICMP) |       \
     NFM_BIT(NFM_EV_PACKET_OTHER) | NFM_BIT(NFM_EV_PACKET_MALFORMED))
#define DATA_EVENTS (NFM_BIT(NFM_EV_TCP_DATA) | NFM_BIT(NFM_EV_UDP_DATAGRAM))

typedef struct span { /* of a slot; empty when to <= from */
    uint32_t from, to;
} span;

int nfm_inbox_init(nfm_inbox *box, nfm_pool *home, nfm_delivery *from) {
    uint32_t n = box->mem.n_slots, n_small = box->mem.n_small;
    nfm_worker_config sizes = {.n_records = box->mem.n_records};
    box->home = home;
    box->from = from;
    box->frame = NFM_NO_SLOT;
    box->dirt = malloc(sizeof(nfm_dirt) * (n + 1));
    int rc = nfm_pool_init(&box->pool, box->objects[NFM_OBJ_PACKETS].base, n_small, n - n_small);
    if (rc == NFM_OK)
        rc = nfm_delivery_init(&box->delivery, &sizes, &box->pool, &box->mem);
    box->delivery.rings = box->rings;
    if (rc == NFM_OK && box->dirt == NULL)
        rc = NFM_E_NOMEM;
    for (uint32_t i = 0; rc == NFM_OK && i < n; i++) /* an earlier worker may have used them */
        box->dirt[i] = (nfm_dirt){0, i < n_small ? NFM_SLOT_SMALL : NFM_SLOT_LARGE};
    if (rc != NFM_OK)
        nfm_inbox_fini(box);
    return rc;
}

void nfm_inbox_fini(nfm_inbox *box) {
    nfm_delivery_fini(&box->delivery);
    nfm_pool_fini(&box->pool);
    free(box->dirt);
    box->dirt = NULL;
}

/* The bytes that a record is about: see nfm_record_data. */
static span data_of(const nfm_record *record) {
    uint32_t off = 0, len = 0;
    if (record->kind == NFM_REC_APP) {
        off = record->app.data_off;
        len = record->app.data_len;
    } else if (record->kind == NFM_REC_PACKET && record->events & NFM_BIT(NFM_EV_TCP_DATA)) {
        off = record->tcp.data_off;
        len = record->tcp.data_len;
    } else if (record->kind == NFM_REC_PACKET && record->payload_off != 0) {
        off = record->payload_off;
        len = record->payload_len;
    }
    return (span){off, off + len};
}

/* What a receiver of |bits| may see of the record's slot. */
static span wanted(const nfm_record *record, uint64_t bits) {
    span none = {0, 0}, frame = {NFM_HEADROOM, NFM_HEADROOM + record->frame_len};
    if (record->slot == NFM_NO_SLOT)
        return none;
    if (bits & FRAME_EVENTS)
        return frame;
    if (bits != 0 && !(bits & DATA_EVENTS))
        return none;
    span data = data_of(record);
    return data.from >= frame.from && data.to <= frame.to ? data : none;
}

/* A record without any bytes: no offset names what is not there. */
static void strip(nfm_record *copy) {
    copy->slot = NFM_NO_SLOT;
    copy->l3_off = copy->l4_off = copy->payload_off = 0;
    if (copy->kind == NFM_REC_APP)
        copy->app.data_off = 0;
    else if (copy->kind == NFM_REC_PACKET)
        copy->tcp.data_off = 0;
}

/* Gives the record its data's place, or with |is_whole| all places, as in |record|. */
static void restore(nfm_record *copy, const nfm_record *record, bool is_whole) {
    span data = data_of(record);
    if (record->kind == NFM_REC_APP)
        copy->app.data_off = record->app.data_off;
    else if (record->kind == NFM_REC_PACKET)
        copy->tcp.data_off = record->tcp.data_off;
    if (is_whole) {
        copy->l3_off = record->l3_off;
        copy->l4_off = record->l4_off;
    }
    if (is_whole || (record->payload_off >= data.from &&
                     record->payload_off + (uint64_t)record->payload_len <= data.to))
        copy->payload_off = record->payload_off;
    if (is_whole)
        copy->flags = (uint16_t)(copy->flags & ~NFM_F_PART);
    else
        copy->flags |= NFM_F_PART;
}

/* The copy of a record in the inbox, without bytes of its packet. Returns its number, or
 * NFM_NO_RECORD when there is no room. */
static uint32_t copy_record(nfm_inbox *box, const nfm_letter *letter) {
    nfm_record copy = *letter->record;
    nfm_delivery *d = &box->delivery;
    strip(&copy);
    if (d->n_free == 0)
        return NFM_NO_RECORD;
    if (copy.kind == NFM_REC_APP) {
        if (nfm_fields_get(d, copy.app.fields_len, &copy.app.fields) != NFM_OK)
            return NFM_NO_RECORD;
        memcpy(d->fields + copy.app.fields, box->from->fields + letter->record->app.fields,
               copy.app.fields_len);
    }
    uint32_t id = nfm_record_keep(d, &copy);
    nfm_record_enter(d, id);
    box->copies++;
    if (letter->info != NULL)
        ((nfm_flow_info *)(void *)box->objects[NFM_OBJ_FLOWS].base)[id] = *letter->info;
    return id;
}

/* Ends what records of the same frame share. */
static void let_go(nfm_inbox *box) {
    if (box->frame == NFM_NO_SLOT)
        return;
    nfm_pool_put(box->home, box->frame);
    nfm_pool_put(&box->pool, box->slot);
    box->frame = NFM_NO_SLOT;
}

/* Makes |box->slot| the one for the record's frame. False when no slot is free. */
static bool open_slot(nfm_inbox *box, const nfm_record *record) {
    if (box->frame == record->slot)
        return true;
    let_go(box);
    uint32_t slot = nfm_pool_get(&box->pool, record->frame_len);
    if (slot == NFM_NO_SLOT)
        return false;
    nfm_dirt *dirt = &box->dirt[slot];
    memset(nfm_pool_addr(&box->pool, slot) + dirt->from, 0, dirt->to - dirt->from);
    *dirt = (nfm_dirt){0, 0};
    nfm_pool_hold(box->home, record->slot);
    box->frame = record->slot;
    box->slot = slot;
    return true;
}

static void copy_bytes(nfm_inbox *box, span bytes) {
    nfm_dirt *dirt = &box->dirt[box->slot];
    bool is_clean = dirt->to == 0;
    memcpy(nfm_pool_addr(&box->pool, box->slot) + bytes.from,
           nfm_pool_addr(box->home, box->frame) + bytes.from, bytes.to - bytes.from);
    box->bytes += bytes.to - bytes.from;
    dirt->from = is_clean || bytes.from < dirt->from ? bytes.from : dirt->from;
    dirt->to = bytes.to > dirt->to ? bytes.to : dirt->to;
}

/* Adds to the copy what a receiver of |bits| may see. False when there is no room. */
static bool add_bytes(nfm_inbox *box, const nfm_record *record, uint64_t bits) {
    nfm_record *copy = &box->delivery.records[box->id];
    span bytes = wanted(record, bits);
    bool is_whole = (bits & FRAME_EVENTS) != 0;
    bool has_all = copy->slot != NFM_NO_SLOT && (!is_whole || !(copy->flags & NFM_F_PART));
    if (bytes.to <= bytes.from || has_all)
        return true;
    if (!open_slot(box, record))
        return false;
    copy_bytes(box, bytes);
    if (copy->slot == NFM_NO_SLOT)
        nfm_pool_hold(&box->pool, box->slot);
    copy->slot = box->slot;
    restore(copy, record, is_whole);
    return true;
}

/* Delivers to one receiver, which heard built-in events |bits| (0: an application event). */
static void push(nfm_inbox *box, const nfm_letter *letter, nfm_ring *ring, uint64_t what,
                 uint64_t bits) {
    if (box->letter != letter->number) {
        box->letter = letter->number;
        box->id = copy_record(box, letter);
    }
    if (box->id == NFM_NO_RECORD || !add_bytes(box, letter->record, bits)) {
        box->full++;
        nfm_ring_miss(ring);
        return;
    }
    uint32_t flow = letter->info == NULL ? NFM_NO_FLOW : box->id;
    if (nfm_ring_push(ring, box->id, flow, what))
        box->delivery.delivered++;
}

void nfm_deliver_away(nfm_delivery *d, const nfm_subset *set, const nfm_subset *except,
                      const nfm_record *record, const nfm_flow_info *info) {
    nfm_letter letter = {record, info, ++d->letters};
    for (uint32_t i = 0; i < set->n_away; i++) {
        const nfm_receiver *r = &set->away[i];
        uint64_t bits = r->events & record->events;
        if (bits == 0 || (except != NULL && nfm_subset_has(except, r->sub)) ||
            (r->filter != NULL && !nfm__passes(d, r->filter, record, info)))
            continue;
        uint64_t what = r->what & NFM_DESC_APP ? r->what : r->what | bits;
        push(d->inboxes[r->domain - 1], &letter, r->ring, what, bits);
    }
}

void nfm_deliver_app_away(nfm_delivery *d, const nfm_subset *set, const nfm_record *record,
                          const nfm_flow_info *info) {
    nfm_letter letter = {record, info, ++d->letters};
    uint32_t type = record->app.type;
    for (uint32_t i = 0; i < set->n_app; i++) {
        const nfm_receiver *r = &set->app[i];
        if (r->domain == 0 || type < r->type_first || type > r->type_last ||
            (r->filter != NULL && !nfm__passes(d, r->filter, record, info)))
            continue;
        uint64_t what = r->what & NFM_DESC_APP ? r->what : r->what | NFM_DESC_APP | type;
        push(d->inboxes[r->domain - 1], &letter, r->ring, what, 0);
    }
}

void nfm_inbox_publish(nfm_inbox *box) {
    let_go(box);
    nfm_delivery_publish(&box->delivery);
}

bool nfm_inbox_is_short(const nfm_inbox *box) {
    const nfm_delivery *d = &box->delivery;
    uint32_t n_large = box->pool.n_slots - box->pool.n_small;
    if (nfm_delivery_is_idle(d))
        return false; /* nobody could make room */
    return d->n_free < d->n_records / 2 || box->pool.n_free_small < box->pool.n_small / 2 ||
           box->pool.n_free_large < (n_large + 1) / 2 || d->fields_used > d->fields_size / 2;
}
