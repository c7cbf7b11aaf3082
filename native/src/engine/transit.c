/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/transit.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static nfm_transit *transit_of(const nfm_worker *w, uint32_t slot) {
    return &w->way->transits[slot];
}

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
    uint32_t slot = tx->slot;
    tx->slot = own_slot(w, slot, t->len);
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

static void pass(nfm_worker *w, uint32_t slot, nfm_transit *t) {
    nfm_tx tx = {slot, NFM_HEADROOM, t->len, t->wire_len, t->ts_ns};
    const nfm_rule *rule = rule_for(w, t);
    if (t->mirror != NFM_NO_PORT) {
        nfm_pool_hold(&w->pool, slot);
        nfm__output(w, t->mirror, &tx);
        w->core_counters[NFM_CC_INLINE_MIRRORED]++;
    }
    bool is_routed = t->has_edit && w->way->edits[slot].fields & NFM_EDIT_HOP;
    if ((t->has_edit || (rule != NULL && rule->has_edit)) && !edit_all(w, slot, t, &tx))
        return;
    if (is_routed || t->flags & NFM_F_FRAGMENT)
        leave_cut(w, t, &tx);
    else
        nfm__output(w, t->out, &tx);
}

static void leave(nfm_worker *w, uint32_t slot) {
    nfm_transit *t = transit_of(w, slot);
    uint32_t record = t->record, set = t->set;
    w->way->n_transits--;
    if (t->verdict == NFM_REJECT)
        nfm__reject(w, slot, t);
    if (t->verdict >= NFM_DROP) {
        w->core_counters[t->verdict == NFM_DROP ? NFM_CC_INLINE_DROPPED : NFM_CC_INLINE_REJECTED]++;
        nfm_pool_put(&w->pool, slot);
    } else {
        pass(w, slot, t);
    }
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
        if (!transit_of(w, slot)->decided)
            return;
        way->first[line] = transit_of(w, slot)->next;
        leave(w, slot);
    }
    way->last[line] = 0;
}

/* ---- asking --------------------------------------------------------------------------------- */

/* What a receiver that cannot be asked, or does not answer, means for the frame. */
static uint8_t policy(nfm_worker *w, const nfm_ring *ring) {
    bool open = ring->in_line->config.fail_open != 0;
    w->core_counters[open ? NFM_CC_INLINE_FAILED_OPEN : NFM_CC_INLINE_FAILED_CLOSED]++;
    return open ? NFM_PASS : NFM_DROP;
}

static uint8_t worse(uint8_t a, uint8_t b) {
    return a > b ? a : b;
}

static void ask_one(nfm_worker *w, uint32_t slot, const nfm_record *record, const nfm_receiver *r) {
    nfm_transit *t = transit_of(w, slot);
    nfm_ring *ring = r->ring;
    struct nfm_inline *in = ring->in_line;
    if (ring->quarantined || in->late_until != 0) {
        t->verdict = worse(t->verdict, policy(w, ring));
        return;
    }
    if (t->record == NFM_NO_RECORD)
        t->record = nfm_record_keep(&w->delivery, record);
    uint32_t flow = record->flow == 0 ? NFM_NO_FLOW : (uint32_t)record->flow;
    uint64_t at = ring->head, bits = r->events & record->events;
    uint64_t what = r->what & NFM_DESC_APP ? r->what : r->what | bits;
    if (t->record == NFM_NO_RECORD || !nfm_ring_push(ring, t->record, flow, what)) {
        t->verdict = worse(t->verdict, policy(w, ring));
        return;
    }
    if (at == ring->tail_seen)
        in->progress_ns = w->way->mono_ns;
    in->slot_of[at & in->mask] = slot + 1;
    w->delivery.delivered++;
    t->asked++;
}

/* Asks stage after stage until somebody has to answer; then, or when the end is reached, returns.
 */
static void ask(nfm_worker *w, uint32_t slot, const nfm_record *record) {
    nfm_transit *t = transit_of(w, slot);
    const nfm_subset *set = &w->subs.sets[t->set];
    nfm_filter_input input = {
        .mem = &w->mem,
        .record = record,
        .flow = record->flow == 0 ? NULL : &w->table.info[(uint32_t)record->flow],
        .base = nfm_pool_addr(&w->pool, slot),
    };
    while (t->asked == 0 && t->at < set->n_inline && t->verdict < NFM_DROP) {
        uint8_t stage = set->in_line[t->at].stage;
        for (; t->at < set->n_inline && set->in_line[t->at].stage == stage; t->at++) {
            const nfm_receiver *r = &set->in_line[t->at];
            if (r->ring != NULL && (r->events & record->events) != 0 &&
                (r->filter == NULL || nfm_filter_eval(r->filter, &input)))
                ask_one(w, slot, record, r);
        }
    }
    t->decided = t->asked == 0;
}

static void begin(nfm_worker *w, const nfm_packet *p, uint32_t set_index) {
    uint32_t slot = p->rec.slot;
    const nfm_rule *rule = p->flow == NULL ? NULL : nfm__rule_of(w, p->flow_index);
    nfm_transit *t = transit_of(w, slot);
    *t = (nfm_transit){
        .line = p->flow == NULL ? w->table.max_flows : p->flow_index,
        .record = NFM_NO_RECORD,
        .set = NFM_NO_SET,
        .len = p->rec.frame_len,
        .wire_len = p->rec.wire_len,
        .ts_ns = p->rec.ts_ns,
        .out = w->way->out_of[w->in_port],
        .mirror = NFM_NO_PORT,
        .side = p->rec.side,
        .in = (uint8_t)w->in_port,
        .proto = p->rec.proto,
        .flags = (uint8_t)p->rec.flags,
        .link_type = p->link_type,
        .l3_off = p->rec.l3_off,
        .l4_off = p->rec.l4_off,
    };
    nfm_pool_hold(&w->pool, slot);
    w->way->n_transits++;
    if (w->ports[w->in_port]->ops->wait_fd == NULL) /* a capture says nothing of offloading */
        memset(nfm_pool_addr(&w->pool, slot), 0, sizeof(nfm_slot_meta));
    if (rule != NULL) {
        t->ruled = 1;
        t->verdict = rule->verdict;
        t->out = rule->out != NFM_NO_PORT ? rule->out : rule->back ? t->in : t->out;
        if (rule->edit[t->side].fields & NFM_EDIT_OUT)
            t->out = rule->edit[t->side].out;
    }
    t->decided = 1;
    if (w->subs.sets[set_index].inline_events & p->rec.events) {
        t->set = set_index;
        nfm_subs_hold(&w->subs, set_index);
        ask(w, slot, &p->rec);
    }
}

void nfm__transit_begin(nfm_worker *w, const nfm_packet *p) {
    struct nfm_way *way = w->way;
    if (way->out_of[w->in_port] == NFM_NO_PORT || p->rec.slot == NFM_NO_SLOT)
        return;
    uint32_t set = p->flow == NULL ? w->subs.catch_all : p->flow->subs[p->rec.side];
    bool alone = way->n_transits == 0; /* no line needs to be looked at */
    begin(w, p, set);
    const nfm_transit *t = transit_of(w, p->rec.slot);
    if (t->decided && (alone || way->first[t->line] == 0)) {
        leave(w, p->rec.slot);
        return;
    }
    uint32_t *last = &way->last[t->line];
    if (way->first[t->line] == 0)
        way->first[t->line] = p->rec.slot + 1;
    else
        transit_of(w, *last - 1)->next = p->rec.slot + 1;
    *last = p->rec.slot + 1;
}

/* ---- verdicts ------------------------------------------------------------------------------- */

/* One verdict less is outstanding. */
static void answered(nfm_worker *w, uint32_t slot) {
    nfm_transit *t = transit_of(w, slot);
    if (--t->asked > 0)
        return;
    ask(w, slot, &w->mem.records[t->record]);
    if (t->decided)
        move_line(w, t->line);
}

/* Enters what a verdict says beside passing. False: it makes no sense. */
static bool apply(nfm_worker *w, nfm_ring *ring, uint32_t slot, uint32_t verdict,
                  const nfm_edit *how) {
    nfm_transit *t = transit_of(w, slot);
    uint32_t action = verdict & 0xff, argument = verdict >> NFM_ARG_SHIFT & NFM_ARG_MASK;
    bool takes_port = action == NFM_MIRROR || action == NFM_REDIRECT;
    if (action > NFM_REJECT || action == NFM_KEEP || (takes_port && !nfm__is_port(w, argument)) ||
        (action == NFM_REWRITE && how == NULL))
        return false;
    if (action == NFM_MIRROR)
        t->mirror = (uint8_t)argument;
    if (action == NFM_REDIRECT)
        t->out = (uint8_t)argument;
    if (action >= NFM_DROP)
        t->verdict = worse(t->verdict, (uint8_t)action);
    if (action == NFM_REWRITE && how->fields & (NFM_EDIT_BACK | NFM_EDIT_OUT)) {
        uint8_t out = how->fields & NFM_EDIT_OUT ? how->out : t->in;
        if (!nfm__is_port(w, out))
            return false;
        t->out = out;
    }
    if (verdict & NFM_REST && t->line != w->table.max_flows)
        return nfm__rule_set(w, ring, t, verdict, how);
    if (action == NFM_REWRITE) {
        w->way->edits[slot] = *how; /* copied: its writer may change it any time */
        t->has_edit = 1;
    }
    return true;
}

static void take_verdict(nfm_worker *w, nfm_ring *ring, uint32_t slot, uint32_t verdict,
                         const nfm_edit *how) {
    struct nfm_inline *in = ring->in_line;
    uint32_t hold = verdict >> NFM_ARG_SHIFT & NFM_ARG_MASK;
    if ((verdict & 0xff) == NFM_KEEP && hold < ring->max_holds && in->slot_of_hold[hold] == 0) {
        in->slot_of_hold[hold] = slot + 1;
        return;
    }
    if (!apply(w, ring, slot, verdict, how)) {
        w->core_counters[NFM_CC_INLINE_BAD]++;
        transit_of(w, slot)->verdict = worse(transit_of(w, slot)->verdict, policy(w, ring));
    }
    answered(w, slot);
}

void nfm__transit_judge(nfm_worker *w, nfm_ring *ring) {
    struct nfm_inline *in = ring->in_line;
    for (; in->judged < ring->tail_seen; in->judged++) {
        uint32_t *place = &in->slot_of[in->judged & in->mask], slot = *place;
        if (slot == 0)
            continue; /* not an entry that anybody waits for */
        *place = 0;
        uint32_t verdict = *(volatile uint32_t *)nfm_ring_verdict_of(ring, in->judged);
        take_verdict(w, ring, slot - 1, verdict, nfm_ring_edit_of(ring, in->judged));
    }
}

bool nfm__transit_judge_kept(nfm_worker *w, nfm_ring *ring, const nfm_command *judgement) {
    struct nfm_inline *in = ring->in_line;
    uint32_t hold = judgement->number, verdict = (uint32_t)judgement->a;
    const uint8_t *bytes = nfm_ring_command_bytes(ring, judgement);
    if (in == NULL || hold >= ring->max_holds || in->slot_of_hold[hold] == 0 ||
        (verdict & 0xff) == NFM_KEEP)
        return false;
    nfm_edit edit;
    bool has_edit = bytes != NULL && judgement->b == sizeof(edit);
    if (has_edit)
        memcpy(&edit, bytes, sizeof(edit));
    uint32_t slot = in->slot_of_hold[hold] - 1;
    in->slot_of_hold[hold] = 0;
    take_verdict(w, ring, slot, verdict, has_edit ? &edit : NULL);
    return true;
}

static void fail_frame(nfm_worker *w, nfm_ring *ring, uint32_t slot) {
    nfm_transit *t = transit_of(w, slot);
    t->verdict = worse(t->verdict, policy(w, ring));
    answered(w, slot);
}

void nfm__transit_give_up_kept(nfm_worker *w, nfm_ring *ring) {
    struct nfm_inline *in = ring->in_line;
    for (uint32_t hold = 0; hold < ring->max_holds; hold++) {
        uint32_t slot = in->slot_of_hold[hold];
        in->slot_of_hold[hold] = 0;
        if (slot != 0)
            fail_frame(w, ring, slot - 1);
    }
}

void nfm__transit_give_up(nfm_worker *w, nfm_ring *ring) {
    struct nfm_inline *in = ring->in_line;
    uint64_t end = ring->head, at = in->judged;
    nfm_ring_unspill(ring);
    in->judged = in->late_until = ring->head; /* first: from here on the policy is asked */
    for (; at < end; at++) {
        uint32_t *place = &in->slot_of[at & in->mask], slot = *place;
        *place = 0;
        if (slot != 0)
            fail_frame(w, ring, slot - 1);
    }
}

static void look_after(nfm_worker *w, nfm_ring *ring) {
    struct nfm_inline *in = ring->in_line;
    int64_t now = w->way->mono_ns;
    bool absent = atomic_load_explicit(&ring->shared->absent, memory_order_acquire) != 0;
    if (!absent && in->judged < ring->tail_seen) { /* the supervisor passes entries unjudged */
        in->progress_ns = now;
        nfm__transit_judge(w, ring);
    }
    if (in->late_until != 0 && ring->tail_seen >= in->late_until && !ring->quarantined && !absent)
        in->late_until = 0;
    bool waits = in->judged < ring->head, late = ring->quarantined || absent;
    if (w->way->is_live && in->config.deadline_ns > 0)
        late |= now - in->progress_ns > in->config.deadline_ns;
    if (waits && late) {
        w->core_counters[NFM_CC_INLINE_LATE]++;
        nfm__transit_give_up(w, ring);
    }
}

void nfm__transit_settle(nfm_worker *w) {
    if (w->way->is_live) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        w->way->mono_ns = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    for (uint32_t i = 0; w->way->has_inline && i < w->n_rings; i++)
        if (w->rings[i] != NULL && w->rings[i]->in_line != NULL)
            look_after(w, w->rings[i]);
    nfm__output_flush(w);
}
