/* SPDX-License-Identifier: Apache-2.0 */
#include "event/subs.h"

#include <stdlib.h>
#include <string.h>

int nfm_subs_init(nfm_subs *subs) {
    memset(subs, 0, sizeof(*subs));
    subs->sets = calloc(NFM_MAX_SETS, sizeof(nfm_subset));
    return subs->sets == NULL ? NFM_E_NOMEM : NFM_OK;
}

static void free_set(nfm_subset *set) {
    free(set->receivers);
    free(set->app);
    memset(set, 0, sizeof(*set));
}

void nfm_subs_fini(nfm_subs *subs) {
    for (uint32_t i = 0; i < subs->n_sets; i++)
        free_set(&subs->sets[i]);
    free(subs->sets);
    memset(subs, 0, sizeof(*subs));
}

static bool is_live(const nfm_subs *subs, uint32_t number) {
    return number < subs->n && subs->sub[number].ring != NULL;
}

int nfm_subs_add(nfm_subs *subs, const nfm_subscription *sub) {
    uint32_t number = 0;
    if (sub->ring == NULL || sub->handler > 255 || sub->events >> NFM_EV_MAX != 0)
        return NFM_E_INVAL;
    while (is_live(subs, number))
        number++;
    if (number == NFM_MAX_SUBS)
        return NFM_E_LIMIT;
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
        .domain = sub->ring->domain,
    };
    if (!whole_filter && r.filter != NULL && nfm_filter_is_key_only(r.filter))
        r.filter = NULL; /* the key said yes already */
    if (sub->as_type != 0)
        r.what |= NFM_DESC_APP | sub->as_type;
    set->modules |= sub->modules;
    if (sub->events != 0) {
        set->events |= sub->events;
        set->level = set->level > sub->level ? set->level : (uint8_t)sub->level;
        set->receivers[set->n++] = r;
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
    if (set->receivers == NULL || set->app == NULL) {
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
    if (--set->refs == 0 && set->stale)
        free_set(set);
}

int nfm_subs_changed(nfm_subs *subs) {
    uint64_t all[NFM_MAX_SUBS / 64];
    bool had = subs->n_sets > 0;
    uint32_t old = subs->catch_all;
    memset(all, 0xff, sizeof(all));
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
        if (set->refs == 0)
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

uint32_t nfm_subs_of_flow(nfm_subs *subs, const nfm_flow_info *info, uint8_t side,
                          uint8_t client_side) {
    if (!subs->any_filter)
        return subs->catch_all;
    uint64_t members[NFM_MAX_SUBS / 64] = {0};
    for (uint32_t i = 0; i < subs->n; i++) {
        const nfm_filter *filter = subs->sub[i].filter;
        if (is_live(subs, i) &&
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
