/* SPDX-License-Identifier: Apache-2.0 */
/* The queue of deliveries that wait for hosted modules; hosted.h says how it works. */
#include <string.h>

#include "engine/hosted.h"

enum { DELIVER_RUN = 64 }; /* entries between two looks at the receivers' rings */

#define STREAM_EVENTS                                                                              \
    (NFM_BIT(NFM_EV_TCP_DATA) | NFM_BIT(NFM_EV_TCP_GAP) | NFM_BIT(NFM_EV_TCP_OVERLAP) |            \
     NFM_BIT(NFM_EV_TCP_INCONSISTENT_OVERLAP))
#define UNTRACKED_EVENTS                                                                           \
    (NFM_BIT(NFM_EV_PACKET_TCP) | NFM_BIT(NFM_EV_PACKET_UDP) | NFM_BIT(NFM_EV_PACKET_ICMP) |       \
     NFM_BIT(NFM_EV_PACKET_OTHER) | NFM_BIT(NFM_EV_PACKET_MALFORMED) | NFM_BIT(NFM_EV_FLOW_START))
#define TRACKED_FLAGS                                                                              \
    (NFM_F_CLIENT_IS_1 | NFM_F_AGAIN | NFM_F_BASIS_SYN | NFM_F_BASIS_SYNACK | NFM_F_MIDSTREAM)

static nfm_pending *entry_at(const nfm_hosts *h, uint64_t position) {
    return &h->queue[position & (h->queue_size - 1)];
}

/* ---- what comes in ---- */

/* A full queue ends the patience with all hosts: memory is bounded. */
static void make_room(nfm_worker *w) {
    nfm_hosts *h = w->hosts;
    nfm__pending_deliver(w, true);
    if (h->head - h->tail < h->queue_size)
        return;
    for (unsigned left = h->mask; left != 0; left &= left - 1)
        nfm__host_give_up(h->of[__builtin_ctz(left)]);
    nfm__pending_deliver(w, true);
}

void nfm__pending_add(nfm_worker *w, const nfm_pending *entry) {
    nfm_hosts *h = w->hosts;
    if (h->head - h->tail == h->queue_size)
        make_room(w);
    if (h->head - h->tail == h->queue_size) { /* it is being emptied right now */
        w->delivery.no_record++;
        return;
    }
    nfm_pending *made = entry_at(h, h->head++);
    *made = *entry;
    nfm_subs_hold(&w->subs, made->set[0]);
    nfm_subs_hold(&w->subs, made->set[1]);
    if (made->flow != NFM_NO_FLOW) {
        const nfm_flow *flow = nfm_table_flow(&w->table, made->flow);
        made->modules = flow->modules;
        made->idle_class = flow->idle_class;
        made->end_reason = flow->end_reason;
        h->flows[made->flow].pending++;
        h->flows[made->flow].joins += made->kind == NFM_PENDING_JOIN;
    }
    if (made->record != NFM_NO_RECORD && made->record == h->at_hand)
        h->last_of_it = h->head;
}

void nfm__pending_end_record(nfm_worker *w) {
    nfm_hosts *h = w->hosts;
    if (h->at_hand != NFM_NO_RECORD && h->last_of_it > h->tail)
        entry_at(h, h->last_of_it - 1)->ends_record = 1;
    else if (h->at_hand != NFM_NO_RECORD)
        nfm_record_enter(&w->delivery, h->at_hand); /* nobody needs it */
    h->at_hand = NFM_NO_RECORD;
}

/* Queues a record for its receivers. */
static void add_delivery(nfm_worker *w, uint32_t index, uint8_t kind) {
    const nfm_flow *flow = index == NFM_NO_FLOW ? NULL : nfm_table_flow(&w->table, index);
    uint32_t none = w->subs.catch_all;
    nfm_pending entry = {
        .record = w->hosts->at_hand,
        .flow = index,
        .set = {flow == NULL ? none : flow->subs[0], flow == NULL ? none : flow->subs[1]},
        .kind = kind,
    };
    nfm__pending_add(w, &entry);
}

/* Takes a record of its own for |record|. False when there is none. */
static bool begin_record(nfm_worker *w, const nfm_record *record) {
    w->hosts->at_hand = nfm_record_keep(&w->delivery, record);
    w->hosts->last_of_it = 0;
    return w->hosts->at_hand != NFM_NO_RECORD;
}

/* Shows the record at hand to the flow's modules; hosted ones are asked. */
static void dispatch(nfm_worker *w, uint32_t index, const nfm_record *record) {
    if (index == NFM_NO_FLOW || nfm_table_flow(&w->table, index)->modules == 0)
        return;
    w->hosts->deferring = true;
    nfm__record_dispatch(w, index, record);
    w->hosts->deferring = false;
}

void nfm__pending_record(nfm_worker *w, uint32_t index, const nfm_record *record) {
    bool is_heard = (nfm__set_of(w, index, record->side)->events & record->events) != 0;
    bool has_modules = index != NFM_NO_FLOW && nfm_table_flow(&w->table, index)->modules != 0;
    if (!is_heard && !has_modules)
        return;
    (void)begin_record(w, record); /* without one, in-line modules go on */
    if (is_heard && w->hosts->at_hand != NFM_NO_RECORD)
        add_delivery(w, index, NFM_PENDING_RECORD);
    dispatch(w, index, record);
    nfm__pending_end_record(w);
}

void nfm__pending_totals(nfm_worker *w, uint32_t index, const nfm_record *record) {
    (void)begin_record(w, record);
    if (record->events & NFM_BIT(NFM_EV_FLOW_END))
        dispatch(w, index, record); /* children before the flow's last record */
    if (w->hosts->at_hand != NFM_NO_RECORD)
        add_delivery(w, index, NFM_PENDING_TOTALS);
    nfm__pending_end_record(w);
}

void nfm__pending_app(nfm_worker *w, const nfm_record *record) {
    nfm_hosts *h = w->hosts;
    uint32_t trigger = h->at_hand;
    uint64_t last = h->last_of_it;
    if (begin_record(w, record)) {
        add_delivery(w, (uint32_t)record->flow, NFM_PENDING_APP);
        nfm__pending_end_record(w);
    } else {
        nfm_fields_put(&w->delivery, record->app.fields, record->app.fields_len);
    }
    h->at_hand = trigger;
    h->last_of_it = last;
}

/* ---- what goes out ---- */

/* The level that the flow would have by now if its modules ran in-line. */
static uint8_t level_of(const nfm_worker *w, const nfm_pending *e) {
    const nfm_subset *a = &w->subs.sets[e->set[0]], *b = &w->subs.sets[e->set[1]];
    uint16_t left = e->modules & (uint16_t)~w->hosts->flows[e->flow].detached;
    uint8_t level = nfm_graph_level(&w->graph, left);
    level = level > a->level ? level : a->level;
    return level > b->level ? level : b->level;
}

/* Takes from a record, which nobody has seen, what the stack found out for a module that had left
 * the flow when its packet came. */
static void cut_down(const nfm_worker *w, const nfm_pending *e) {
    if (e->flow == NFM_NO_FLOW || (e->modules & w->hosts->flows[e->flow].detached) == 0)
        return;
    uint8_t level = level_of(w, e);
    nfm_record *r = &w->delivery.records[e->record];
    if (level >= NFM_LEVEL_DATA || r->proto != 6)
        return;
    r->events &= ~STREAM_EVENTS;
    if (r->kind == NFM_REC_FLOW) {
        memset(r->totals.stream_bytes, 0, sizeof(r->totals.stream_bytes));
        memset(r->totals.gap_bytes, 0, sizeof(r->totals.gap_bytes));
        return;
    }
    r->tcp.stream_off = 0;
    r->tcp.data_off = r->tcp.data_len = 0;
    if (level >= NFM_LEVEL_TRACK)
        return;
    r->events &= UNTRACKED_EVENTS;
    r->flags &= (uint16_t)~TRACKED_FLAGS;
    r->conn_state = 0;
    memset(&r->tcp, 0, sizeof(r->tcp));
}

static void deliver_record(nfm_worker *w, const nfm_pending *e) {
    nfm_delivery *d = &w->delivery;
    const nfm_flow_info *info = e->flow == NFM_NO_FLOW ? NULL : &w->table.info[e->flow];
    const nfm_record *record = &d->records[e->record];
    const nfm_subset *a = &w->subs.sets[e->set[0]], *b = &w->subs.sets[e->set[1]];
    const nfm_subset *own = record->side ? b : a;
    cut_down(w, e);
    d->kept = e->record;
    if (e->kind == NFM_PENDING_APP) {
        nfm_deliver_app(d, own, record, info);
    } else if (e->kind == NFM_PENDING_RECORD) {
        nfm_deliver(d, own, record, info);
    } else {
        nfm_deliver(d, a, record, info);
        if (a != b)
            nfm_deliver_rest(d, b, a, record, info);
    }
    d->kept = NFM_NO_RECORD;
}

/* Whether what |answer| says of |record| can be. */
static bool is_sound(const nfm_hosted *host, const nfm_record *record, const nfm_answer *answer) {
    uint64_t end = (uint64_t)NFM_HEADROOM + record->frame_len;
    return answer->event < host->in->module->n_emits && answer->side < 2 &&
           answer->fields_len >= host->in->n_cells[answer->event] * 8u &&
           (uint64_t)answer->data_off + answer->data_len <= end;
}

/* An event of a hosted module becomes a record. */
static void raise(nfm_worker *w, const nfm_pending *e, const nfm_hosted *host,
                  const nfm_answer *answer, const uint8_t *fields) {
    nfm_hosts *h = w->hosts;
    const nfm_subset *set = &w->subs.sets[e->set[answer->side]];
    nfm_raised raised = {
        .type = host->in->types[answer->event],
        .side = answer->side,
        .data_off = answer->data_off,
        .data_len = answer->data_len,
        .fields_len = answer->fields_len,
    };
    if (!nfm_subset_wants(set, raised.type))
        return;
    if (answer->kind == NFM_ANSWER_TOO_LARGE ||
        nfm_fields_get(&w->delivery, raised.fields_len, &raised.fields) != NFM_OK) {
        w->core_counters[NFM_CC_RAISE_LIMIT]++;
        return;
    }
    memcpy(w->delivery.fields + raised.fields, fields, raised.fields_len);
    raised.ordinal = h->ordinal++;
    nfm_record rec = nfm__raised_record(&w->delivery.records[e->record], &raised);
    nfm_deliver_app(&w->delivery, set, &rec, &w->table.info[e->flow]);
}

/* The module has nothing to do with the flow any more; unless it was called back since. */
static void detach(nfm_worker *w, const nfm_pending *e) {
    nfm_hosted_flow *hosted = &w->hosts->flows[e->flow];
    nfm_flow *flow = nfm_table_flow(&w->table, e->flow);
    uint16_t bit = (uint16_t)(1u << e->module);
    hosted->detached |= bit;
    if (hosted->joins > 0 || !(flow->flags & NFM_FLOW_OPEN) ||
        nfm__flow_id(w, e->flow) != w->delivery.records[e->record].flow)
        return;
    flow->modules &= (uint16_t)~bit;
    if (nfm__flow_is_stale(w, flow))
        return; /* its next packet finds modules and level anew */
    uint8_t level = flow->level;
    nfm__flow_set_level(w, e->flow);
    if (flow->level == level)
        return;
    if (flow->level < NFM_LEVEL_TRACK) { /* in-line, nobody would have followed it since */
        flow->idle_class = e->idle_class;
        flow->end_reason = e->end_reason;
    }
    nfm__flow_modules_changed(w, e->flow, NULL, (nfm_work){level, flow->modules});
}

/* Takes the answers to the question of |e| that are there. False: the host has lied. */
static bool take_answers(nfm_worker *w, const nfm_pending *e, nfm_hosted *host) {
    nfm_answer answer;
    const uint8_t *fields;
    int found;
    while ((found = nfm_answers_peek(&host->answers, &answer, &fields)) > 0) {
        if (answer.position > e->position)
            break; /* of a later one, or a lie that no question will match */
        host->waits_since_ns = 0;
        bool is_ours = answer.position == e->position;
        if (is_ours && e->record == NFM_NO_RECORD)
            return false;
        if (is_ours && answer.kind == NFM_ANSWER_DETACH) {
            detach(w, e);
        } else if (is_ours) {
            if (!is_sound(host, &w->delivery.records[e->record], &answer))
                return false;
            raise(w, e, host, &answer, fields);
        }
        nfm_answers_take(&host->answers, &answer);
    }
    return found >= 0;
}

/* Whether nothing more is to be waited for at a question. */
static bool is_answered(nfm_worker *w, const nfm_pending *e) {
    nfm_hosted *host = w->hosts->of[e->module];
    if (!host->lied && !take_answers(w, e, host)) {
        host->bad_answers++;
        host->lied = true;
        nfm__host_give_up(host);
    }
    if (host->done > e->position && !host->lied)
        return true;
    if (host->given_up <= e->position && nfm__host_is_overdue(host))
        nfm__host_give_up(host);
    if (host->given_up <= e->position)
        return false;
    host->lost += e->kind == NFM_PENDING_ASK && e->record != NFM_NO_RECORD;
    return true;
}

static bool finish(nfm_worker *w, const nfm_pending *e) {
    if (e->kind != NFM_PENDING_ASK && e->kind != NFM_PENDING_JOIN) {
        deliver_record(w, e);
        return true;
    }
    if (!is_answered(w, e))
        return false;
    w->hosts->ordinal = 0;
    if (e->kind == NFM_PENDING_JOIN) {
        w->hosts->flows[e->flow].detached &= (uint16_t) ~(1u << e->module);
        w->hosts->flows[e->flow].joins--;
    }
    return true;
}

/* Whether receivers have room for what a run of the queue may bring. */
static bool has_room(const nfm_worker *w) {
    const nfm_delivery *d = &w->delivery;
    for (uint32_t i = 0; i < w->n_rings; i++) {
        const nfm_ring *ring = w->rings[i];
        if (ring != NULL && !ring->lossy && nfm_ring_used(ring) > ring->mask - ring->mask / 4)
            return false;
    }
    if (nfm__domains_must_drain(w))
        return false;
    return d->n_free > d->n_records / 16 || nfm_delivery_is_idle(d);
}

void nfm__pending_deliver(nfm_worker *w, bool always) {
    nfm_hosts *h = w->hosts;
    if (h->delivering)
        return; /* a detach made the stack emit what it held: its turn comes */
    h->delivering = true;
    for (uint32_t n = 0; h->head != h->tail; n++) {
        if (n % DELIVER_RUN == 0 && !always && !has_room(w))
            break;
        const nfm_pending *e = entry_at(h, h->tail);
        if (!finish(w, e))
            break;
        if (e->ends_record)
            nfm_record_enter(&w->delivery, e->record);
        nfm_subs_release(&w->subs, e->set[0]);
        nfm_subs_release(&w->subs, e->set[1]);
        if (e->flow != NFM_NO_FLOW)
            h->flows[e->flow].pending--;
        h->tail++;
    }
    h->delivering = false;
}
