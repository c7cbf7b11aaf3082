/* SPDX-License-Identifier: Apache-2.0 */
#include "event/subs.h"

#include <stdlib.h>
#include <string.h>

int nfm_subs_init(nfm_subs *subs) {
    memset(subs, 0, sizeof(*subs));
    subs->sets = calloc(NFM_MAX_SETS, sizeof(nfm_subset));
    return subs->sets == NULL ? NFM_E_NOMEM : NFM_OK;
}

void nfm_subs_fini(nfm_subs *subs) {
    for (uint32_t i = 0; i < subs->n_sets; i++) {
        free(subs->sets[i].receivers);
        free(subs->sets[i].app);
    }
    free(subs->sets);
    memset(subs, 0, sizeof(*subs));
}

int nfm_subs_add(nfm_subs *subs, const nfm_subscription *sub) {
    if (sub->ring == NULL || sub->handler > 255 || sub->events >> NFM_EV_MAX != 0)
        return NFM_E_INVAL;
    if (subs->n == NFM_MAX_SUBS)
        return NFM_E_LIMIT;
    subs->sub[subs->n++] = *sub;
    subs->any_filter |= sub->filter != NULL;
    return NFM_OK;
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

/* Fills sets[n_sets] from |members|. False without memory. */
static bool build_set(nfm_subs *subs, const uint64_t *members, bool whole_filter) {
    nfm_subset *set = &subs->sets[subs->n_sets];
    set->receivers = calloc(subs->n + 1, sizeof(nfm_receiver));
    set->app = calloc(subs->n + 1, sizeof(nfm_receiver));
    if (set->receivers == NULL || set->app == NULL) {
        free(set->receivers);
        free(set->app);
        memset(set, 0, sizeof(*set));
        return false;
    }
    memcpy(set->members, members, sizeof(set->members));
    for (uint32_t i = 0; i < subs->n; i++)
        if (nfm_subset_has(set, i))
            add_receiver(set, subs, i, whole_filter);
    subs->n_sets++;
    return true;
}

int nfm_subs_start(nfm_subs *subs) {
    uint64_t all[NFM_MAX_SUBS / 64];
    memset(all, 0xff, sizeof(all));
    return build_set(subs, all, true) ? NFM_OK : NFM_E_NOMEM;
}

uint32_t nfm_subs_of_flow(nfm_subs *subs, const nfm_flow_info *info, uint8_t side,
                          uint8_t client_side) {
    if (!subs->any_filter)
        return 0;
    uint64_t members[NFM_MAX_SUBS / 64] = {0};
    for (uint32_t i = 0; i < subs->n; i++) {
        const nfm_filter *filter = subs->sub[i].filter;
        if (filter == NULL || nfm_filter_eval_key(filter, info, side, client_side) != NFM_NO)
            members[i / 64] |= UINT64_C(1) << (i % 64);
    }
    for (uint32_t s = 1; s < subs->n_sets; s++)
        if (memcmp(subs->sets[s].members, members, sizeof(members)) == 0)
            return s;
    if (subs->n_sets < NFM_MAX_SETS && build_set(subs, members, false))
        return subs->n_sets - 1;
    subs->overflows++;
    return 0;
}
