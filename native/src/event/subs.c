/* SPDX-License-Identifier: Apache-2.0 */
#include "event/subs.h"

#include <stdlib.h>
#include <string.h>

int nfm_subs_init(nfm_subs *subs) {
    memset(subs, 0, sizeof(*subs));
    subs->sets = calloc(NFM_MAX_SETS, sizeof(nfm_subset));
    subs->choices = calloc(NFM_MAX_CHOICES, sizeof(nfm_choice));
    subs->n_choices = 1;
    return subs->sets == NULL || subs->choices == NULL ? NFM_E_NOMEM : NFM_OK;
}

static void free_set(nfm_subset *set) {
    free(set->receivers);
    free(set->app);
    free(set->in_line);
    free(set->away);
    memset(set, 0, sizeof(*set));
}

void nfm_subs_fini(nfm_subs *subs) {
    for (uint32_t i = 0; i < subs->n_sets; i++)
        free_set(&subs->sets[i]);
    free(subs->sets);
    free(subs->choices);
    memset(subs, 0, sizeof(*subs));
}

static bool is_live(const nfm_subs *subs, uint32_t number) {
    return number < subs->n && subs->sub[number].ring != NULL;
}

static void forget_group(nfm_subs *subs, uint32_t place) {
    uint64_t bit = UINT64_C(1) << (place % 64);
    for (uint32_t i = 1; i < subs->n_choices; i++) {
        subs->choices[i].add[place / 64] &= ~bit;
        subs->choices[i].drop[place / 64] &= ~bit;
    }
    subs->groups[place].ring = NULL;
}

static bool group_in_use(const nfm_subs *subs, uint32_t place) {
    for (uint32_t i = 0; i < subs->n; i++)
        if (is_live(subs, i) && subs->group_of[i] == place)
            return true;
    return false;
}

/* The place of a receiver's group: as long as the ring is there it stays the same. There are as
 * many as subscriptions, so one is free, or has lost all of its. */
static uint32_t place_of_group(nfm_subs *subs, const nfm_subscription *sub) {
    uint32_t at = NFM_MAX_SUBS;
    for (uint32_t i = 0; i < NFM_MAX_SUBS; i++) {
        const nfm_group *group = &subs->groups[i];
        if (group->ring == sub->ring && group->number == sub->group)
            return i;
        if (group->ring == NULL && at == NFM_MAX_SUBS)
            at = i;
    }
    for (uint32_t i = 0; i < NFM_MAX_SUBS && at == NFM_MAX_SUBS; i++)
        if (!group_in_use(subs, i))
            forget_group(subs, at = i);
    subs->groups[at] = (nfm_group){sub->ring, sub->group, sub->per_flow != 0, sub->in_line != 0};
    subs->n_groups = at < subs->n_groups ? subs->n_groups : at + 1;
    return at;
}

int nfm_subs_add(nfm_subs *subs, const nfm_subscription *sub) {
    uint32_t number = 0;
    if (sub->ring == NULL || sub->handler > 255 || sub->events >> NFM_EV_MAX != 0)
        return NFM_E_INVAL;
    while (is_live(subs, number))
        number++;
    if (number == NFM_MAX_SUBS)
        return NFM_E_LIMIT;
    uint32_t place = place_of_group(subs, sub);
    subs->groups[place].per_flow = sub->per_flow != 0;
    subs->group_of[number] = (uint8_t)place;
    subs->sub[number] = *sub;
    subs->n = number >= subs->n ? number + 1 : subs->n;
    return (int)number;
}

int nfm_subs_remove(nfm_subs *subs, uint32_t number) {
    if (!is_live(subs, number))
        return NFM_E_INVAL;
    subs->sub[number].ring = NULL;
    return NFM_OK;
}

bool nfm_subs_uses(const nfm_subs *subs, const nfm_ring *ring) {
    for (uint32_t i = 0; i < subs->n; i++)
        if (is_live(subs, i) && subs->sub[i].ring == ring)
            return true;
    return false;
}

/* Enters an inline receiver behind those of its stage. */
static void add_inline(nfm_subset *set, const nfm_receiver *r, const nfm_subscription *sub) {
    uint32_t at = set->n_inline++;
    for (; at > 0 && set->in_line[at - 1].stage > r->stage; at--)
        set->in_line[at] = set->in_line[at - 1];
    set->in_line[at] = *r;
    set->inline_events |= sub->events;
    if (sub->type_first <= sub->type_last && sub->type_last != 0)
        set->inline_modules |= sub->modules;
    set->level = set->level > sub->level ? set->level : (uint8_t)sub->level;
}

static void add_receiver(nfm_subset *set, const nfm_subs *subs, uint32_t i, bool whole_filter) {
    const nfm_subscription *sub = &subs->sub[i];
    nfm_receiver r = {
        .ring = sub->ring,
        .filter = sub->filter,
        .events = sub->events,
        .what = (uint64_t)sub->handler << 48,
        .type_first = sub->type_first,
        .type_last = sub->type_last,
        .sub = i,
        .stage = sub->stage,
        .domain = sub->ring->domain,
    };
    if (!whole_filter && r.filter != NULL && nfm_filter_is_key_only(r.filter))
        r.filter = NULL; /* the key said yes already */
    if (sub->as_type != 0)
        r.what |= NFM_DESC_APP | sub->as_type;
    set->modules |= sub->modules;
    if (sub->in_line) {
        add_inline(set, &r, sub);
        return;
    }
    if (sub->events != 0) {
        set->events |= sub->events;
        set->level = set->level > sub->level ? set->level : (uint8_t)sub->level;
        if (r.domain == 0)
            set->receivers[set->n++] = r;
        else
            set->away[set->n_away++] = r;
    }
    if (sub->type_first <= sub->type_last && sub->type_last != 0)
        set->app[set->n_app++] = r;
}

/* A free place for a set; NFM_MAX_SETS when there is none. */
static uint32_t free_place(nfm_subs *subs) {
    if (subs->n_sets < NFM_MAX_SETS)
        return subs->n_sets;
    uint32_t at = 0;
    while (at < NFM_MAX_SETS && subs->sets[at].in_use)
        at++;
    return at;
}

/* Builds the set of |members|; returns its index, or NFM_MAX_SETS without place or memory. */
static uint32_t build_set(nfm_subs *subs, const uint64_t *members, bool whole_filter) {
    uint32_t at = free_place(subs);
    if (at == NFM_MAX_SETS)
        return at;
    nfm_subset *set = &subs->sets[at];
    set->receivers = calloc(subs->n + 1, sizeof(nfm_receiver));
    set->app = calloc(subs->n + 1, sizeof(nfm_receiver));
    set->in_line = calloc(subs->n + 1, sizeof(nfm_receiver));
    set->away = calloc(subs->n + 1, sizeof(nfm_receiver));
    if (set->receivers == NULL || set->app == NULL || set->in_line == NULL || set->away == NULL) {
        free_set(set);
        return NFM_MAX_SETS;
    }
    set->in_use = true;
    memcpy(set->members, members, sizeof(set->members));
    for (uint32_t i = 0; i < subs->n; i++)
        if (is_live(subs, i) && nfm_subset_has(set, i))
            add_receiver(set, subs, i, whole_filter);
    subs->n_sets = at == subs->n_sets ? at + 1 : subs->n_sets;
    return at;
}

void nfm_subs_hold(nfm_subs *subs, uint32_t index) {
    subs->sets[index].refs++;
}

void nfm_subs_release(nfm_subs *subs, uint32_t index) {
    nfm_subset *set = &subs->sets[index];
    if (--set->refs == 0 && set->stale && index != subs->outdated)
        free_set(set);
}

int nfm_subs_changed(nfm_subs *subs) {
    uint64_t all[NFM_MAX_SUBS / 64] = {0};
    bool had = subs->n_sets > 0;
    if (!had && (subs->outdated = build_set(subs, all, true)) == NFM_MAX_SETS)
        return NFM_E_NOMEM;
    uint32_t old = subs->catch_all;
    for (uint32_t i = 0; i < subs->n; i++)
        if (is_live(subs, i) && !subs->sub[i].per_flow)
            all[i / 64] |= UINT64_C(1) << (i % 64);
    uint32_t at = build_set(subs, all, true);
    if (at == NFM_MAX_SETS)
        return had ? NFM_E_LIMIT : NFM_E_NOMEM;
    nfm_subs_hold(subs, at);
    subs->catch_all = at;
    subs->any_filter = false;
    for (uint32_t i = 0; i < subs->n; i++)
        subs->any_filter |= is_live(subs, i) && subs->sub[i].filter != NULL;
    for (uint32_t i = 0; i < subs->n_sets; i++) {
        nfm_subset *set = &subs->sets[i];
        if (i == at || !set->in_use)
            continue;
        set->stale = true;
        if (set->refs == 0 && i != subs->outdated)
            free_set(set);
    }
    if (had)
        nfm_subs_release(subs, old);
    return NFM_OK;
}

static uint32_t find_set(const nfm_subs *subs, const uint64_t *members) {
    for (uint32_t i = 0; i < subs->n_sets; i++) {
        const nfm_subset *set = &subs->sets[i];
        if (set->in_use && !set->stale && i != subs->catch_all &&
            memcmp(set->members, members, sizeof(set->members)) == 0)
            return i;
    }
    return NFM_MAX_SETS;
}

static inline bool has_bit(const uint64_t *bits, uint32_t i) {
    return bits[i / 64] >> (i % 64) & 1;
}

/* Whether subscription |i| is in force where |choice| was made. */
static bool is_chosen(const nfm_subs *subs, uint32_t i, const nfm_choice *choice) {
    uint32_t group = subs->group_of[i];
    return subs->sub[i].per_flow ? has_bit(choice->add, group) : !has_bit(choice->drop, group);
}

uint32_t nfm_subs_of_flow(nfm_subs *subs, const nfm_flow_info *info, uint8_t side,
                          uint8_t client_side, uint32_t choice) {
    if (!subs->any_filter && choice == NFM_NO_CHOICE)
        return subs->catch_all;
    uint64_t members[NFM_MAX_SUBS / 64] = {0};
    for (uint32_t i = 0; i < subs->n; i++) {
        const nfm_filter *filter = subs->sub[i].filter;
        if (is_live(subs, i) && is_chosen(subs, i, &subs->choices[choice]) &&
            (filter == NULL || nfm_filter_eval_key(filter, info, side, client_side) != NFM_NO))
            members[i / 64] |= UINT64_C(1) << (i % 64);
    }
    uint32_t found = find_set(subs, members);
    if (found == NFM_MAX_SETS)
        found = build_set(subs, members, false);
    if (found != NFM_MAX_SETS)
        return found;
    subs->overflows++;
    return subs->catch_all;
}

static void apply(nfm_choice *choice, const nfm_subs *subs, uint32_t place, bool on) {
    uint64_t bit = UINT64_C(1) << (place % 64);
    if (subs->groups[place].per_flow)
        choice->add[place / 64] =
            on ? choice->add[place / 64] | bit : choice->add[place / 64] & ~bit;
    else
        choice->drop[place / 64] =
            on ? choice->drop[place / 64] & ~bit : choice->drop[place / 64] | bit;
}

/* Enters |wanted|: the place of an equal one, or a free one; NFM_MAX_CHOICES when all are taken. */
static uint32_t intern(nfm_subs *subs, const nfm_choice *wanted) {
    uint32_t at = NFM_MAX_CHOICES;
    for (uint32_t i = 0; i < subs->n_choices; i++) {
        const nfm_choice *other = &subs->choices[i];
        if (i > 0 && other->refs == 0)
            at = at == NFM_MAX_CHOICES ? i : at;
        else if (memcmp(other->add, wanted->add, sizeof(wanted->add)) == 0 &&
                 memcmp(other->drop, wanted->drop, sizeof(wanted->drop)) == 0)
            return i;
    }
    if (at == NFM_MAX_CHOICES && subs->n_choices < NFM_MAX_CHOICES)
        at = subs->n_choices++;
    if (at < NFM_MAX_CHOICES) {
        subs->choices[at] = *wanted;
        subs->choices[at].refs = 0;
    }
    return at;
}

bool nfm_subs_choose(nfm_subs *subs, uint32_t choice, const nfm_ring *ring, uint32_t number,
                     bool on, uint32_t *found) {
    nfm_choice wanted = subs->choices[choice];
    for (uint32_t i = 0; i < subs->n_groups; i++) {
        const nfm_group *group = &subs->groups[i];
        if (group->ring == ring && (number == NFM_ALL_GROUPS || number == group->number ||
                                    (number == NFM_INLINE_GROUPS && group->in_line)))
            apply(&wanted, subs, i, on);
    }
    uint32_t at = intern(subs, &wanted);
    if (at == NFM_MAX_CHOICES)
        return false;
    if (at != NFM_NO_CHOICE)
        subs->choices[at].refs++;
    nfm_subs_unchoose(subs, choice);
    *found = at;
    return true;
}

void nfm_subs_unchoose(nfm_subs *subs, uint32_t choice) {
    if (choice != NFM_NO_CHOICE)
        subs->choices[choice].refs--;
}

/* Packets on their way may refer to a set that still names the ring. */
static void forget_ring(nfm_subset *set, const nfm_ring *ring) {
    for (uint32_t i = 0; i < set->n_inline; i++)
        if (set->in_line[i].ring == ring)
            set->in_line[i].ring = NULL;
}

void nfm_subs_forget(nfm_subs *subs, const nfm_ring *ring) {
    for (uint32_t i = 0; i < subs->n_sets; i++)
        forget_ring(&subs->sets[i], ring);
    for (uint32_t i = 0; i < NFM_MAX_SUBS; i++)
        if (subs->groups[i].ring == ring)
            forget_group(subs, i);
}
