/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Subscriptions, and the interned sets of them that flows point to.
 *
 * Theory of operation. A flow's subs[side] is the index of an immutable set: the subscriptions
 * whose filters the flow's key does not rule out for packets of that side, with what is left to
 * check per record. Sets are interned by their member bitmap, so a million flows share a handful.
 * Set 0 has every subscription with its whole filter: it serves records without a flow, and flows
 * when the table of sets is full (counted).
 *
 * Choices. A receiver may begin and end groups of its subscriptions on single flows. Such a flow
 * refers to an interned choice, too: what was added and what was dropped there, by group, so that
 * it outlives a change of the subscriptions themselves.
 */
#ifndef NFM_EVENT_SUBS_H
#define NFM_EVENT_SUBS_H

#include "base/ring.h"
#include "event/filter.h"

#define NFM_NO_SET 0xffffffffu
#define NFM_NO_CHOICE 0u
enum { NFM_MAX_SUBS = 256, NFM_MAX_SETS = 4096, NFM_MAX_MODULES = 16, NFM_MAX_CHOICES = 4096 };

typedef struct nfm_receiver {
    nfm_ring *ring;
    const nfm_filter *filter; /* NULL: nothing left to check */
    uint64_t events;
    uint64_t what; /* handler bits, and type with NFM_DESC_APP for a named user event */
    uint32_t type_first, type_last;
    uint32_t sub;    /* which subscription of the worker */
    uint16_t domain; /* of the ring */
    uint8_t stage;
} nfm_receiver;

typedef struct nfm_subset {
    uint64_t events;  /* union over receivers: what is worth a record */
    uint64_t modules; /* application modules that some receiver needs */
    uint8_t level;    /* enum nfm_level that built-in events need; modules add theirs */
    bool stale;       /* subscriptions have changed since */
    bool in_use;
    uint16_t n, n_app; /* receivers with built-in events; with application types */
    uint16_t n_away;   /* with built-in events, in other domains */
    uint16_t n_inline;
    nfm_receiver *receivers;
    nfm_receiver *app;
    nfm_receiver *away;
    nfm_receiver *in_line;   /* by stage; not among the others */
    uint64_t inline_events;  /* that somebody decides on */
    uint64_t inline_modules; /* application modules whose events somebody decides on */
    uint64_t members[NFM_MAX_SUBS / 64];
    uint32_t refs; /* sides of flows, and 1 for being the catch-all */
} nfm_subset;

static inline bool nfm_subset_has(const nfm_subset *set, uint32_t sub) {
    return set->members[sub / 64] >> (sub % 64) & 1;
}

/* Whether somebody decides on application events of |type|. */
static inline bool nfm_subset_decides(const nfm_subset *set, uint32_t type) {
    for (uint32_t i = 0; set->inline_modules != 0 && i < set->n_inline; i++)
        if (type >= set->in_line[i].type_first && type <= set->in_line[i].type_last)
            return true;
    return false;
}

/* Whether some receiver of |set| wants application events of |type|. */
static inline bool nfm_subset_wants(const nfm_subset *set, uint32_t type) {
    for (uint32_t i = 0; i < set->n_app; i++)
        if (type >= set->app[i].type_first && type <= set->app[i].type_last)
            return true;
    return nfm_subset_decides(set, type);
}

/* What receivers chose on a flow, by place in nfm_subs.groups. */
typedef struct nfm_choice {
    uint64_t add[NFM_MAX_SUBS / 64];
    uint64_t drop[NFM_MAX_SUBS / 64];
    uint32_t refs;
} nfm_choice;

typedef struct nfm_group {
    const nfm_ring *ring; /* NULL: free */
    uint16_t number;      /* the receiver's */
    bool per_flow, in_line;
} nfm_group;

typedef struct nfm_subs {
    nfm_subscription sub[NFM_MAX_SUBS]; /* without a ring: free */
    uint8_t group_of[NFM_MAX_SUBS];
    nfm_group groups[NFM_MAX_SUBS];
    uint32_t n_groups;   /* places ever used */
    nfm_choice *choices; /* NFM_MAX_CHOICES; 0 is "none" and has no content */
    uint32_t n_choices;  /* numbers ever used */
    uint32_t n;          /* numbers ever used */
    bool any_filter;
    nfm_subset *sets; /* NFM_MAX_SETS entries reserved */
    uint32_t n_sets;  /* numbers ever used */
    uint32_t catch_all;
    uint32_t outdated;  /* an empty set that is always stale */
    uint64_t overflows; /* flows that had to take set 0 */
} nfm_subs;

int nfm_subs_init(nfm_subs *subs);
void nfm_subs_fini(nfm_subs *subs);
/* Adds a copy of |sub|. Returns its number, or NFM_E_LIMIT or NFM_E_INVAL. */
int nfm_subs_add(nfm_subs *subs, const nfm_subscription *sub);
int nfm_subs_remove(nfm_subs *subs, uint32_t number);
bool nfm_subs_uses(const nfm_subs *subs, const nfm_ring *ring);
/* Makes additions and removals effective. Returns NFM_OK, NFM_E_NOMEM, or NFM_E_LIMIT: too many
 * sets are still referred to by flows. */
int nfm_subs_changed(nfm_subs *subs);
/* Index of the set for packets that |side| sends on a flow with this key and choice. */
uint32_t nfm_subs_of_flow(nfm_subs *subs, const nfm_flow_info *info, uint8_t side,
                          uint8_t client_side, uint32_t choice);
/* The choice |choice| with groups of |ring| begun or ended: group |number|, NFM_ALL_GROUPS, or
 * NFM_INLINE_GROUPS. The
 * flow's reference moves from |choice| to *found. False, and nothing changes, when there are too
 * many choices. */
bool nfm_subs_choose(nfm_subs *subs, uint32_t choice, const nfm_ring *ring, uint32_t number,
                     bool on, uint32_t *found);
void nfm_subs_unchoose(nfm_subs *subs, uint32_t choice); /* the flow has ended */
/* The ring is going: nobody chose anything of it. */
void nfm_subs_forget(nfm_subs *subs, const nfm_ring *ring);
/* A flow's side refers to set |index| / no longer does. */
void nfm_subs_hold(nfm_subs *subs, uint32_t index);
void nfm_subs_release(nfm_subs *subs, uint32_t index);

#endif
