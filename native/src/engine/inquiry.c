/* SPDX-License-Identifier: Apache-2.0 */
/* What frames wait for beside the verdict on their snapshot: see "Inquiries" in strand.h. */
#include "engine/strand.h"

static nfm_inquiry *inquiry_at(const nfm_worker *w, uint32_t number) {
    return &w->way->stream->inquiries[number];
}

/* One for the frame in |slot|; UINT32_MAX when there is none. */
static uint32_t begin(nfm_worker *w, uint32_t slot, uint32_t set) {
    nfm_stream_way *sw = w->way->stream;
    uint32_t number = sw->free_inquiry - 1;
    if (sw->free_inquiry != 0)
        sw->free_inquiry = inquiry_at(w, number)->next;
    else if (sw->fresh_inquiries < sw->n_inquiries)
        number = sw->fresh_inquiries++;
    else
        return UINT32_MAX;
    *inquiry_at(w, number) = (nfm_inquiry){
        .slot = slot,
        .q = {.who = NFM_WHO_INQUIRY | number, .record = NFM_NO_RECORD, .set = set},
    };
    nfm_subs_hold(&w->subs, set);
    w->way->transits[slot].inquiries++;
    return number;
}

/* An event that nobody decided on takes |policy|. Bytes of a stream may come again, the event does
 * not: there a drop is for the flow. */
static void take_policy(nfm_worker *w, uint32_t slot, uint8_t policy) {
    nfm_transit *t = &w->way->transits[slot];
    t->q.verdict = nfm__worse(t->q.verdict, policy);
    if (policy >= NFM_DROP && t->line < w->table.max_flows && nfm__has_strands(w, t->line))
        nfm__rule_drop(w, t);
}

/* All have answered. */
static void conclude(nfm_worker *w, uint32_t number) {
    nfm_stream_way *sw = w->way->stream;
    nfm_inquiry *i = inquiry_at(w, number);
    uint32_t slot = i->slot;
    if (i->run != 0)
        nfm__run_at(w, i->run)->state =
            i->q.verdict >= NFM_DROP ? NFM_RUN_DROPPED : NFM_RUN_ACCEPTED;
    else
        take_policy(w, slot, i->q.verdict); /* what was said about it is the frame's already */
    if (i->q.record != NFM_NO_RECORD)
        nfm_record_enter(&w->delivery, i->q.record);
    nfm_subs_release(&w->subs, i->q.set);
    i->next = sw->free_inquiry;
    sw->free_inquiry = number + 1;
    nfm__transit_close(w, slot);
}

static void ask(nfm_worker *w, uint32_t number, const nfm_record *record) {
    nfm_inquiry *i = inquiry_at(w, number);
    nfm__transit_ask(w, &i->q, record->slot, record);
    if (i->q.answered)
        conclude(w, number);
}

void nfm__inquire(nfm_worker *w, uint32_t slot, uint32_t set, uint32_t run,
                  const nfm_record *record) {
    uint32_t number = begin(w, slot, set);
    if (number == UINT32_MAX) {
        w->core_counters[NFM_CC_INLINE_NO_ROOM]++;
        nfm__run_at(w, run)->state = NFM_RUN_DROPPED;
        return;
    }
    inquiry_at(w, number)->run = run;
    ask(w, number, record);
}

/* Whether |r| decides on application events of |type|. */
static bool decides_on(const nfm_receiver *r, uint32_t type) {
    return r->ring != NULL && type >= r->type_first && type <= r->type_last;
}

/* No record, or no room to ask: the policies of those of |set|'s inline receivers, from number |at|
 * on, who decide on events of |type| hold for the frame in |slot|. */
static void lose(nfm_worker *w, uint32_t slot, uint32_t set, uint32_t at, uint32_t type) {
    const nfm_subset *those = &w->subs.sets[set];
    bool is_lost = false;
    for (uint32_t i = at; i < those->n_inline; i++) {
        if (!decides_on(&those->in_line[i], type))
            continue;
        take_policy(w, slot, nfm__transit_policy(w, those->in_line[i].ring));
        is_lost = true;
    }
    w->core_counters[NFM_CC_INLINE_NO_ROOM] += is_lost;
}

/* The frame that events raised now are about, as it is on its way; NULL: none. */
static nfm_transit *frame_at_hand(nfm_worker *w) {
    nfm_stream_way *sw = w->way->stream;
    const nfm_packet *p = sw->packet;
    if (sw->at == 0 && p != NULL && w->trigger->slot == p->rec.slot && p->rec.slot != NFM_NO_SLOT) {
        nfm__transit_open(w, p);
        sw->at = p->rec.slot + 1;
    }
    return sw->at == 0 ? NULL : &w->way->transits[sw->at - 1];
}

/* Tells inline receivers of an event that no frame waits for: those of a flow that ends. */
static void tell(nfm_worker *w, const nfm_subset *set, uint32_t id) {
    const nfm_record *record = &w->mem.records[id];
    for (uint32_t i = 0; i < set->n_inline; i++) {
        const nfm_receiver *r = &set->in_line[i];
        uint64_t type = record->app.type;
        if (r->ring == NULL || type < r->type_first || type > r->type_last ||
            (r->filter != NULL &&
             !nfm__passes(&w->delivery, r->filter, record, &w->table.info[(uint32_t)record->flow])))
            continue;
        uint64_t what = r->what & NFM_DESC_APP ? r->what : r->what | NFM_DESC_APP | type;
        (void)nfm_ring_push(r->ring, id, (uint32_t)record->flow, what);
    }
    nfm_record_enter(&w->delivery, id);
}

void nfm__inquire_app_lost(nfm_worker *w, uint32_t set, uint32_t type) {
    if (frame_at_hand(w) != NULL)
        lose(w, w->way->stream->at - 1, set, 0, type);
}

void nfm__inquire_app(nfm_worker *w, uint32_t set, uint32_t id) {
    if (frame_at_hand(w) == NULL) {
        tell(w, &w->subs.sets[set], id);
        return;
    }
    uint32_t slot = w->way->stream->at - 1, number = begin(w, slot, set);
    if (number == UINT32_MAX) {
        lose(w, slot, set, 0, w->mem.records[id].app.type);
        nfm_record_enter(&w->delivery, id);
        return;
    }
    inquiry_at(w, number)->q.record = id;
    ask(w, number, &w->mem.records[id]);
}

/* Whether somebody whom |about| has not asked yet decides on application events of |type|. */
static bool decides_later(const nfm_worker *w, const nfm_question *about, uint32_t type) {
    const nfm_subset *set = &w->subs.sets[about->set];
    for (uint32_t i = about->at; i < set->n_inline; i++)
        if (decides_on(&set->in_line[i], type))
            return true;
    return false;
}

void nfm__inquire_lost(nfm_worker *w, const nfm_question *about, uint32_t slot, uint32_t type) {
    lose(w, slot, about->set, about->at, type);
}

void nfm__inquire_raised(nfm_worker *w, const nfm_question *about, uint32_t slot,
                         const nfm_record *record) {
    nfm_delivery *d = &w->delivery;
    const nfm_subset *set = &w->subs.sets[about->set];
    const nfm_flow_info *info = record->flow == 0 ? NULL : &w->table.info[(uint32_t)record->flow];
    if (!decides_later(w, about, record->app.type)) {
        nfm_deliver_app(d, set, record, info);
        return;
    }
    uint32_t id = nfm_record_keep(d, record);
    if (id == NFM_NO_RECORD) {
        nfm_fields_put(d, record->app.fields, record->app.fields_len);
        lose(w, slot, about->set, about->at, record->app.type);
        return;
    }
    d->kept = id;
    nfm_deliver_app(d, set, record, info);
    d->kept = NFM_NO_RECORD;
    uint32_t number = begin(w, slot, about->set);
    if (number == UINT32_MAX) {
        nfm_record_enter(d, id);
        lose(w, slot, about->set, about->at, record->app.type);
        return;
    }
    inquiry_at(w, number)->q.record = id;
    inquiry_at(w, number)->q.at = about->at;
    ask(w, number, &w->mem.records[id]);
}

/* One verdict less is outstanding. */
static void answered(nfm_worker *w, uint32_t number) {
    nfm_inquiry *i = inquiry_at(w, number);
    if (--i->q.asked == 0)
        ask(w, number, &w->mem.records[i->q.record]);
}

void nfm__inquiry_judge(nfm_worker *w, nfm_ring *ring, uint32_t number, uint32_t verdict,
                        const nfm_edit *how) {
    nfm_inquiry *i = inquiry_at(w, number);
    uint32_t action = verdict & 0xff;
    bool good = true;
    if (i->run != 0 && verdict == NFM_DROP)
        i->q.verdict = nfm__worse(i->q.verdict, NFM_DROP);
    else if (i->run != 0 && action == NFM_REWRITE && how != NULL && how->fields & NFM_EDIT_PAYLOAD)
        good = nfm__run_replace(w, ring, i->run, how);
    else if (i->run == 0 && action == NFM_DROP) /* an event is about its flow */
        good = nfm__transit_apply(w, ring, i->slot, verdict | NFM_REST, how);
    else
        good = nfm__transit_apply(w, ring, i->slot, verdict, how);
    if (!good) {
        w->core_counters[NFM_CC_INLINE_BAD]++;
        i->q.verdict = nfm__worse(i->q.verdict, nfm__transit_policy(w, ring));
    }
    answered(w, number);
}

void nfm__inquiry_fail(nfm_worker *w, nfm_ring *ring, uint32_t number) {
    nfm_inquiry *i = inquiry_at(w, number);
    i->q.verdict = nfm__worse(i->q.verdict, nfm__transit_policy(w, ring));
    answered(w, number);
}
