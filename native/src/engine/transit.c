/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/strand.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { AHEAD = 6 }; /* entries whose frames are loaded before their turn */

static inline nfm_transit *transit_of(const nfm_worker *w, uint32_t slot) {
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
    nfm_transit *t = transit_of(w, slot);
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
        if (!transit_of(w, slot)->decided)
            return;
        way->first[line] = transit_of(w, slot)->next;
        leave(w, slot);
    }
    way->last[line] = 0;
    if (line < w->table.max_flows)
        nfm__strands_rest(w, line);
}

/* The frame joins its line. */
static void enter(nfm_worker *w, uint32_t slot) {
    struct nfm_way *way = w->way;
    nfm_transit *t = transit_of(w, slot);
    uint32_t *last = &way->last[t->line];
    t->on_way = 1;
    if (way->first[t->line] == 0)
        way->first[t->line] = slot + 1;
    else
        transit_of(w, *last - 1)->next = slot + 1;
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
    if (slot >= w->pool.n_slots || q != &transit_of(w, slot)->q ||
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
    nfm_transit *t = transit_of(w, slot);
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
    nfm_transit *t = transit_of(w, slot);
    if (--t->inquiries > 0 || !t->q.answered)
        return;
    t->decided = 1;
    move_line(w, t->line);
}

void nfm__transit_ask_frame(nfm_worker *w, const nfm_packet *p) {
    nfm_transit *t = transit_of(w, p->rec.slot);
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

/* ---- verdicts ------------------------------------------------------------------------------- */

/* One verdict less is outstanding. */
static void answered(nfm_worker *w, uint32_t slot) {
    nfm_transit *t = transit_of(w, slot);
    if (--t->q.asked > 0)
        return;
    if (t->q.at < w->subs.sets[t->q.set].n_inline)
        nfm__transit_ask(w, &t->q, slot, &w->mem.records[t->q.record]);
    else
        t->q.answered = 1;
    t->decided = t->q.answered && t->inquiries == 0;
    if (t->decided)
        move_line(w, t->line);
}

/* Whether the flow is there for which something may be said; of one that has ended only frames are
 * on their way. */
static bool is_open(const nfm_worker *w, uint32_t line) {
    return line != w->table.max_flows && nfm_table_flow(&w->table, line)->flags & NFM_FLOW_OPEN;
}

bool nfm__transit_apply(nfm_worker *w, nfm_ring *ring, uint32_t slot, uint32_t verdict,
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
        t->q.verdict = nfm__worse(t->q.verdict, (uint8_t)action);
    if (action == NFM_REWRITE && how->fields & NFM_EDIT_PAYLOAD)
        return nfm__segment_replace(w, ring, slot, how);
    if (action == NFM_REWRITE && how->fields & (NFM_EDIT_BACK | NFM_EDIT_OUT)) {
        uint8_t out = how->fields & NFM_EDIT_OUT ? how->out : t->in;
        if (!nfm__is_port(w, out))
            return false;
        t->out = out;
    }
    if (verdict & NFM_REST && is_open(w, t->line))
        return nfm__rule_set(w, ring, t, verdict, how);
    if (action == NFM_REWRITE) {
        if (!t->has_edit)
            w->way->edits[slot] = (nfm_edit){0};
        nfm__edit_merge(&w->way->edits[slot], how);
        t->has_edit = 1;
    }
    return true;
}

static void judge_frame(nfm_worker *w, nfm_ring *ring, uint32_t slot, uint32_t verdict,
                        const nfm_edit *how) {
    if (!nfm__transit_apply(w, ring, slot, verdict, how)) {
        nfm_transit *t = transit_of(w, slot);
        w->core_counters[NFM_CC_INLINE_BAD]++;
        t->q.verdict = nfm__worse(t->q.verdict, nfm__transit_policy(w, ring));
    }
    answered(w, slot);
}

static void take_verdict(nfm_worker *w, nfm_ring *ring, uint32_t who, uint32_t verdict,
                         const nfm_edit *how) {
    struct nfm_inline *in = ring->in_line;
    uint32_t hold = verdict >> NFM_ARG_SHIFT & NFM_ARG_MASK;
    nfm_edit edit;
    if ((verdict & 0xff) == NFM_REWRITE && how != NULL) {
        memcpy(&edit, how, sizeof(edit)); /* once: its writer may change it any time */
        how = &edit;
    }
    if ((verdict & 0xff) == NFM_KEEP && hold < ring->max_holds && in->who_of_hold[hold] == 0)
        in->who_of_hold[hold] = who;
    else if (who & NFM_WHO_INQUIRY)
        nfm__inquiry_judge(w, ring, who & ~NFM_WHO_INQUIRY, verdict, how);
    else
        judge_frame(w, ring, who - 1, verdict, how);
}

/* Starts the load of what the entry some places on is about. */
static inline void look_ahead(const nfm_worker *w, const nfm_ring *ring, uint64_t position) {
    uint32_t who = ring->in_line->who_of[(position + AHEAD) & ring->in_line->mask];
    if (position + AHEAD < ring->tail_seen && who != 0 && !(who & NFM_WHO_INQUIRY))
        __builtin_prefetch(transit_of(w, who - 1), 1);
}

static void fail(nfm_worker *w, nfm_ring *ring, uint32_t who) {
    if (who & NFM_WHO_INQUIRY) {
        nfm__inquiry_fail(w, ring, who & ~NFM_WHO_INQUIRY);
        return;
    }
    nfm_transit *t = transit_of(w, who - 1);
    t->q.verdict = nfm__worse(t->q.verdict, nfm__transit_policy(w, ring));
    answered(w, who - 1);
}

/* The verdicts of entries before |end|. */
static void judge_until(nfm_worker *w, nfm_ring *ring, uint64_t end) {
    struct nfm_inline *in = ring->in_line;
    for (; in->judged < end; in->judged++) {
        uint32_t *place = &in->who_of[in->judged & in->mask], who = *place;
        look_ahead(w, ring, in->judged);
        if (who == 0)
            continue; /* not an entry that anybody waits for */
        *place = 0;
        uint32_t verdict = *(volatile uint32_t *)nfm_ring_verdict_of(ring, in->judged);
        if (verdict == NFM_PASS && !(who & NFM_WHO_INQUIRY))
            answered(w, who - 1);
        else
            take_verdict(w, ring, who, verdict, nfm_ring_edit_of(ring, in->judged));
    }
}

/* The policy for entries before |end|. */
static void fail_until(nfm_worker *w, nfm_ring *ring, uint64_t end) {
    struct nfm_inline *in = ring->in_line;
    while (in->judged < end) {
        uint32_t *place = &in->who_of[in->judged++ & in->mask], who = *place;
        *place = 0;
        if (who != 0)
            fail(w, ring, who);
    }
}

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

void nfm__transit_judge(nfm_worker *w, nfm_ring *ring) {
    struct nfm_inline *in = ring->in_line;
    nfm_absence absence = nfm_ring_absence(ring);
    uint64_t end = ring->tail_seen;
    if (in->n_raisable > 0)
        nfm__raise_pending(w, ring);
    judge_until(w, ring, least(end, absence.from < absence.to ? absence.from : end));
    fail_until(w, ring, least(end, absence.to));
    judge_until(w, ring, end);
    atomic_store_explicit(&ring->shared->judged, in->judged, memory_order_release);
}

bool nfm__transit_judge_kept(nfm_worker *w, nfm_ring *ring, const nfm_command *judgement) {
    struct nfm_inline *in = ring->in_line;
    uint32_t hold = judgement->number, verdict = (uint32_t)judgement->a;
    const uint8_t *bytes = nfm_ring_command_bytes(ring, judgement);
    if (in == NULL || hold >= ring->max_holds || in->who_of_hold[hold] == 0 ||
        (verdict & 0xff) == NFM_KEEP)
        return false;
    nfm_edit edit;
    bool has_edit = bytes != NULL && judgement->b == sizeof(edit);
    if (has_edit)
        memcpy(&edit, bytes, sizeof(edit));
    uint32_t who = in->who_of_hold[hold];
    in->who_of_hold[hold] = 0;
    take_verdict(w, ring, who, verdict, has_edit ? &edit : NULL);
    return true;
}

void nfm__transit_give_up_kept(nfm_worker *w, nfm_ring *ring) {
    struct nfm_inline *in = ring->in_line;
    for (uint32_t hold = 0; hold < ring->max_holds; hold++) {
        uint32_t who = in->who_of_hold[hold];
        in->who_of_hold[hold] = 0;
        if (who != 0)
            fail(w, ring, who);
    }
}

void nfm__transit_give_up(nfm_worker *w, nfm_ring *ring) {
    struct nfm_inline *in = ring->in_line;
    uint64_t end = ring->head, at = in->judged;
    nfm_ring_unspill(ring);
    in->judged = in->late_until = ring->head; /* first: from here on the policy is asked */
    for (; at < end; at++) {
        uint32_t *place = &in->who_of[at & in->mask], who = *place;
        *place = 0;
        if (who != 0)
            fail(w, ring, who);
    }
    atomic_store_explicit(&ring->shared->judged, in->judged, memory_order_release);
}

static void look_after(nfm_worker *w, nfm_ring *ring) {
    struct nfm_inline *in = ring->in_line;
    int64_t now = w->way->mono_ns;
    bool absent = nfm_ring_absence(ring).to == NFM_NOBODY;
    if (absent)
        nfm_ring_collect(ring); /* the last that it judged */
    if (in->judged < ring->tail_seen) {
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
