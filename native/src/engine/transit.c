/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/strand.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

/* ---- leaving -------------------------------------------------------------------------------- */

/* A slot of the frame's own, to be edited: its own when nobody else reads it, or a copy. The
 * caller's reference moves. NFM_NO_SLOT when there is none, and the reference is given back. */
static uint32_t own_slot(nfm_worker *w, uint32_t slot, uint32_t len) {
    if (w->pool.refs[slot] == 1)
        return slot;
    uint32_t copy = nfm_pool_get(&w->pool, len);
    if (copy != NFM_NO_SLOT)
        memcpy(nfm_pool_addr(&w->pool, copy), nfm_pool_addr(&w->pool, slot), NFM_HEADROOM + len);
    nfm_pool_put(&w->pool, slot);
    return copy;
}

/* The rule of the frame's flow, also when that has ended while the frame waited; NULL: none. */
static const nfm_rule *rule_for(const nfm_worker *w, const nfm_transit *t) {
    return t->ruled ? &w->way->rules[t->line] : nfm__rule_of(w, t->line);
}

static bool edit(nfm_worker *w, const nfm_transit *t, const nfm_edit *what, nfm_tx *tx) {
    tx->slot = own_slot(w, tx->slot, tx->off + tx->len - NFM_HEADROOM);
    if (tx->slot == NFM_NO_SLOT)
        return false;
    return nfm__edit_apply(nfm_pool_addr(&w->pool, tx->slot), t, what, tx);
}

/* The rule's and the verdict's edits, in that order: what was agreed for the flow comes first. */
static bool edit_all(nfm_worker *w, uint32_t slot, const nfm_transit *t, nfm_tx *tx) {
    const nfm_rule *rule = rule_for(w, t);
    bool fits = true;
    if (rule != NULL && rule->has_edit)
        fits = edit(w, t, &rule->edit[t->side], tx);
    if (fits && t->has_edit)
        fits = edit(w, t, &w->way->edits[slot], tx);
    if (!fits && tx->slot != NFM_NO_SLOT)
        nfm_pool_put(&w->pool, tx->slot);
    w->core_counters[fits ? NFM_CC_INLINE_REWRITTEN : NFM_CC_INLINE_UNEDITED]++;
    return fits;
}

/* A datagram that may be too long for the link: other readers of its slot must not see it change.
 */
static void leave_cut(nfm_worker *w, const nfm_transit *t, nfm_tx *tx) {
    nfm_slot_meta *meta = (nfm_slot_meta *)(void *)nfm_pool_addr(&w->pool, tx->slot);
    if (meta->needs_csum && w->pool.refs[tx->slot] != 1) {
        nfm__output(w, t->out, tx);
        return;
    }
    bool was_cut = (t->flags & NFM_F_FRAGMENT) != 0;
    if (t->link_type != 1 || !nfm__output_cut(w, t->out, tx, was_cut))
        nfm__output(w, t->out, tx);
}

void nfm__transit_send(nfm_worker *w, uint32_t slot, const nfm_transit *t, nfm_tx *tx) {
    const nfm_rule *rule = rule_for(w, t);
    bool is_routed = t->has_edit && w->way->edits[slot].fields & NFM_EDIT_HOP;
    if ((t->has_edit || (rule != NULL && rule->has_edit)) && !edit_all(w, slot, t, tx))
        return;
    if (is_routed || t->made != 0 || t->flags & NFM_F_FRAGMENT)
        leave_cut(w, t, tx);
    else
        nfm__output(w, t->out, tx);
}

static void pass(nfm_worker *w, uint32_t slot, nfm_transit *t) {
    nfm_tx tx = {slot, NFM_HEADROOM, t->len, t->wire_len, t->ts_ns};
    if (t->mirror != NFM_NO_PORT) {
        nfm_pool_hold(&w->pool, slot);
        nfm__output(w, t->mirror, &tx);
        w->core_counters[NFM_CC_INLINE_MIRRORED]++;
    }
    if (t->made != 0) {
        nfm_pool_put(&w->pool, slot);
        tx = (nfm_tx){t->made - 1, NFM_HEADROOM, t->made_len, t->made_len, t->ts_ns};
    }
    if (!t->is_segment) {
        nfm__transit_send(w, slot, t, &tx);
        return;
    }
    nfm__segment_send(w, slot, t);
    nfm_pool_put(&w->pool, slot);
}

static void refuse(nfm_worker *w, uint32_t slot, nfm_transit *t) {
    bool drop = t->q.verdict == NFM_DROP;
    w->core_counters[drop ? NFM_CC_INLINE_DROPPED : NFM_CC_INLINE_REJECTED]++;
    if (!drop)
        nfm__reject(w, slot, t);
    if (!drop && t->is_segment)
        nfm__segment_reset(w, slot, t);
    if (t->made != 0)
        nfm_pool_put(&w->pool, t->made - 1);
    nfm_pool_put(&w->pool, slot);
}

static void leave(nfm_worker *w, uint32_t slot) {
    nfm_transit *t = nfm__transit_of(w, slot);
    uint32_t record = t->q.record, set = t->q.set;
    w->way->n_transits--;
    t->on_way = 0;
    if (t->is_segment)
        nfm__segment_settle(w, slot, t);
    if (t->q.verdict >= NFM_DROP)
        refuse(w, slot, t);
    else
        pass(w, slot, t);
    if (record != NFM_NO_RECORD)
        nfm_record_enter(&w->delivery, record); /* until the late have passed it, too */
    if (set != NFM_NO_SET)
        nfm_subs_release(&w->subs, set);
}

/* What stands decided at the head of a line leaves. */
static void move_line(nfm_worker *w, uint32_t line) {
    struct nfm_way *way = w->way;
    while (way->first[line] != 0) {
        uint32_t slot = way->first[line] - 1;
        if (!nfm__transit_of(w, slot)->decided)
            return;
        way->first[line] = nfm__transit_of(w, slot)->next;
        leave(w, slot);
    }
    way->last[line] = 0;
    if (line < w->table.max_flows)
        nfm__strands_rest(w, line);
}

void nfm__transit_decide(nfm_worker *w, nfm_transit *t) {
    t->decided = 1;
    move_line(w, t->line);
}

/* The frame joins its line. */
static void enter(nfm_worker *w, uint32_t slot) {
    struct nfm_way *way = w->way;
    nfm_transit *t = nfm__transit_of(w, slot);
    uint32_t *last = &way->last[t->line];
    t->on_way = 1;
    if (way->first[t->line] == 0)
        way->first[t->line] = slot + 1;
    else
        nfm__transit_of(w, *last - 1)->next = slot + 1;
    *last = slot + 1;
}

/* ---- asking --------------------------------------------------------------------------------- */

uint8_t nfm__transit_policy(nfm_worker *w, const nfm_ring *ring) {
    bool open = ring->in_line->config.fail_open != 0;
    w->core_counters[open ? NFM_CC_INLINE_FAILED_OPEN : NFM_CC_INLINE_FAILED_CLOSED]++;
    return open ? NFM_PASS : NFM_DROP;
}

/* What of |record| a receiver is to hear, as in a descriptor; 0: it does not want it. */
static uint64_t wanted_of(const nfm_receiver *r, const nfm_record *record) {
    uint64_t bits = r->events & record->events, type = record->app.type;
    bool is_app = record->kind == NFM_REC_APP;
    if (is_app ? type < r->type_first || type > r->type_last : bits == 0)
        return 0;
    if (r->what & NFM_DESC_APP)
        return r->what;
    return r->what | (is_app ? NFM_DESC_APP | type : bits);
}

/* Lets a receiver see at its entry what stages before have changed. False: there is no room. */
static bool show_edits(const nfm_worker *w, const nfm_question *q, nfm_ring *ring, uint64_t *what) {
    uint32_t slot = q->who - 1;
    nfm_edit edit;
    if (slot >= w->pool.n_slots || q != &nfm__transit_of(w, slot)->q ||
        !nfm__edits_so_far(w, slot, &edit))
        return true;
    if (ring->head >= ring->limit)
        return false;
    *nfm_ring_edit_of(ring, ring->head) = edit;
    *what |= NFM_DESC_EDITED;
    return true;
}

static void ask_one(nfm_worker *w, nfm_question *q, const nfm_record *record, nfm_ring *ring,
                    uint64_t what) {
    struct nfm_inline *in = ring->in_line;
    if (ring->quarantined || in->late_until != 0) {
        q->verdict = nfm__worse(q->verdict, nfm__transit_policy(w, ring));
        return;
    }
    if (q->record == NFM_NO_RECORD)
        q->record = nfm_record_keep(&w->delivery, record);
    uint32_t flow = record->flow == 0 ? NFM_NO_FLOW : (uint32_t)record->flow;
    uint64_t at = ring->head;
    if (q->record == NFM_NO_RECORD || !show_edits(w, q, ring, &what) ||
        !nfm_ring_push(ring, q->record, flow, what)) {
        q->verdict = nfm__worse(q->verdict, nfm__transit_policy(w, ring));
        return;
    }
    if (at == ring->tail_seen)
        in->progress_ns = w->way->mono_ns;
    in->who_of[at & in->mask] = q->who;
    w->delivery.delivered++;
    q->asked++;
}

static bool matches(const nfm_worker *w, const nfm_filter *filter, uint32_t slot,
                    const nfm_record *record) {
    const nfm_filter_input input = {
        .mem = &w->mem,
        .record = record,
        .flow = record->flow == 0 ? NULL : &w->table.info[(uint32_t)record->flow],
        .base = nfm_pool_addr(&w->pool, slot),
    };
    return nfm_filter_eval(filter, &input);
}

void nfm__transit_ask(nfm_worker *w, nfm_question *q, uint32_t slot, const nfm_record *record) {
    const nfm_subset *set = &w->subs.sets[q->set];
    while (q->asked == 0 && q->at < set->n_inline && q->verdict < NFM_DROP) {
        uint8_t stage = set->in_line[q->at].stage;
        for (; q->at < set->n_inline && set->in_line[q->at].stage == stage; q->at++) {
            const nfm_receiver *r = &set->in_line[q->at];
            uint64_t what = wanted_of(r, record);
            if (r->ring != NULL && what != 0 &&
                (r->filter == NULL || matches(w, r->filter, slot, record)))
                ask_one(w, q, record, r->ring, what);
        }
    }
    q->answered = q->asked == 0;
}

/* A capture says nothing of offloading. */
static inline void clear_meta(const nfm_worker *w, uint32_t slot, uint32_t in) {
    if (w->ports[in]->ops->wait_fd == NULL)
        memset(nfm_pool_addr(&w->pool, slot), 0, sizeof(nfm_slot_meta));
}

/* Makes the frame of |record| in |slot| one on its way, with a reference of its own. */
static nfm_transit *begin(nfm_worker *w, uint32_t slot, const nfm_record *record, uint8_t in) {
    uint32_t line = record->flow == 0 ? w->table.max_flows : (uint32_t)record->flow;
    const nfm_rule *rule = nfm__rule_of(w, line);
    nfm_transit *t = nfm__transit_of(w, slot);
    *t = (nfm_transit){
        .line = line,
        .q = {.who = slot + 1, .record = NFM_NO_RECORD, .set = NFM_NO_SET, .answered = 1},
        .len = record->frame_len,
        .wire_len = record->wire_len,
        .ts_ns = record->ts_ns,
        .out = w->way->out_of[in],
        .mirror = NFM_NO_PORT,
        .side = record->side,
        .in = in,
        .proto = record->proto,
        .flags = (uint8_t)record->flags,
        .l3_off = record->l3_off,
        .l4_off = record->l4_off,
        .payload_off = record->payload_off,
    };
    nfm_pool_hold(&w->pool, slot);
    w->way->n_transits++;
    clear_meta(w, slot, in);
    if (rule != NULL) {
        t->ruled = 1;
        t->q.verdict = rule->verdict;
        t->out = rule->out != NFM_NO_PORT ? rule->out : rule->back ? t->in : t->out;
        if (rule->edit[t->side].fields & NFM_EDIT_OUT)
            t->out = rule->edit[t->side].out;
    }
    return t;
}

void nfm__transit_open_late(nfm_worker *w, uint32_t slot, const nfm_record *record,
                            uint16_t link_type, uint8_t in) {
    nfm_transit *t = begin(w, slot, record, in);
    t->link_type = link_type;
    t->inquiries = 1;
    enter(w, slot);
}

void nfm__transit_open(nfm_worker *w, const nfm_packet *p) {
    nfm__transit_open_late(w, p->rec.slot, &p->rec, p->link_type, (uint8_t)w->in_port);
}

void nfm__transit_close(nfm_worker *w, uint32_t slot) {
    nfm_transit *t = nfm__transit_of(w, slot);
    if (--t->inquiries == 0 && t->q.answered)
        nfm__transit_decide(w, t);
}

void nfm__transit_ask_frame(nfm_worker *w, const nfm_packet *p) {
    nfm_transit *t = nfm__transit_of(w, p->rec.slot);
    uint32_t set = p->flow == NULL ? w->subs.catch_all : p->flow->subs[p->rec.side];
    if (set == w->subs.outdated) /* an ICMP error about a flow whose sets are not found yet */
        set = w->subs.catch_all;
    if (t->is_asked || !(w->subs.sets[set].inline_events & p->rec.events))
        return;
    t->is_asked = 1;
    t->q.set = set;
    nfm_subs_hold(&w->subs, set);
    nfm__transit_ask(w, &t->q, p->rec.slot, &p->rec);
}

void nfm__transit_finish(nfm_worker *w, const nfm_packet *p) {
    nfm__transit_ask_frame(w, p);
    nfm__transit_close(w, p->rec.slot);
}

/* A frame that nobody is asked about, that nothing waits before and nothing changes, leaves without
 * having been on its way. False: it is none. */
static bool leave_at_once(nfm_worker *w, const nfm_packet *p) {
    struct nfm_way *way = w->way;
    uint32_t line = p->flow == NULL ? w->table.max_flows : p->flow_index, slot = p->rec.slot;
    uint32_t set = p->flow == NULL ? w->subs.catch_all : p->flow->subs[p->rec.side];
    if (w->subs.sets[set].inline_events & p->rec.events ||
        (way->n_transits != 0 && way->first[line] != 0) || nfm__rule_of(w, line) != NULL ||
        p->rec.flags & NFM_F_FRAGMENT)
        return false;
    const nfm_tx tx = {slot, NFM_HEADROOM, p->rec.frame_len, p->rec.wire_len, p->rec.ts_ns};
    nfm_pool_hold(&w->pool, slot);
    clear_meta(w, slot, w->in_port);
    nfm__output(w, way->out_of[w->in_port], &tx);
    return true;
}

void nfm__transit_begin(nfm_worker *w, nfm_packet *p) {
    struct nfm_way *way = w->way;
    uint32_t slot = p->rec.slot;
    way->stream->packet = NULL;
    if (way->out_of[w->in_port] == NFM_NO_PORT || slot == NFM_NO_SLOT)
        return;
    if (p->flow != NULL && nfm__has_strands(w, p->flow_index) && p->rec.proto == IPPROTO_TCP) {
        nfm__segment_end(w, p);
        return;
    }
    if (way->transits[slot].on_way) { /* events were raised from it */
        nfm__transit_finish(w, p);
        return;
    }
    if ((p->flow == NULL && nfm__segment_is_lost(w, p)) || leave_at_once(w, p))
        return;
    nfm_transit *t = begin(w, slot, &p->rec, (uint8_t)w->in_port);
    t->link_type = p->link_type;
    nfm__transit_ask_frame(w, p);
    t->decided = t->q.answered;
    if (t->decided && way->first[t->line] == 0)
        leave(w, slot);
    else
        enter(w, slot);
}
