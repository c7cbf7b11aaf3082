/* SPDX-License-Identifier: Apache-2.0 */
/* What inline receivers have decided: verdicts as their tails show them, and the policy of those
 * who are late, absent or lie. transit.h has the theory. */
#include "engine/strand.h"

#include <string.h>
#include <time.h>

enum { AHEAD = 6 }; /* entries whose frames are loaded before their turn */

/* One verdict less is outstanding. */
static void answered(nfm_worker *w, uint32_t slot) {
    nfm_transit *t = nfm__transit_of(w, slot);
    if (--t->q.asked > 0)
        return;
    if (t->q.at < w->subs.sets[t->q.set].n_inline)
        nfm__transit_ask(w, &t->q, slot, &w->mem.records[t->q.record]);
    else
        t->q.answered = 1;
    if (t->q.answered && t->inquiries == 0)
        nfm__transit_decide(w, t);
}

/* Whether the flow is there for which something may be said; of one that has ended only frames are
 * on their way. */
static bool is_open(const nfm_worker *w, uint32_t line) {
    return line != w->table.max_flows && nfm_table_flow(&w->table, line)->flags & NFM_FLOW_OPEN;
}

bool nfm__transit_apply(nfm_worker *w, nfm_ring *ring, uint32_t slot, uint32_t verdict,
                        const nfm_edit *how) {
    nfm_transit *t = nfm__transit_of(w, slot);
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
        nfm_transit *t = nfm__transit_of(w, slot);
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
        __builtin_prefetch(nfm__transit_of(w, who - 1), 1);
}

static void fail(nfm_worker *w, nfm_ring *ring, uint32_t who) {
    if (who & NFM_WHO_INQUIRY) {
        nfm__inquiry_fail(w, ring, who & ~NFM_WHO_INQUIRY);
        return;
    }
    nfm_transit *t = nfm__transit_of(w, who - 1);
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
}
