/* SPDX-License-Identifier: Apache-2.0 */
/* Keys that flows of other workers have after rewriting: linear probing, removal by moving up. */
#include "engine/share.h"

enum { KEYS_MOST = 1 << 18 };

static uint32_t home_of(const nfm_worker *w, const nfm_key *key) {
    return (uint32_t)nfm_hash_flow(&w->table.key, key) & w->share->elsewhere.mask;
}

/* The place of |key|, or the free one where it would be. */
static uint32_t place_of(const nfm_worker *w, const nfm_key *key) {
    const nfm_elsewhere *e = &w->share->elsewhere;
    uint32_t at = home_of(w, key);
    while (e->keys[at].worker != 0 && nfm_key_match(key, &e->keys[at].key) < 0)
        at = (at + 1) & e->mask;
    return at;
}

uint32_t nfm__elsewhere_find(const nfm_worker *w, const nfm_key *key) {
    const nfm_elsewhere *e = &w->share->elsewhere;
    uint32_t worker = e->n == 0 ? 0 : e->keys[place_of(w, key)].worker;
    return worker == 0 ? NFM_MAX_WORKERS : worker - 1;
}

static bool map_keys(nfm_worker *w) {
    nfm_elsewhere *e = &w->share->elsewhere;
    uint32_t n = w->config.max_flows < KEYS_MOST ? w->config.max_flows : KEYS_MOST;
    if (e->keys != NULL)
        return true;
    if (nfm_region_init(&e->region, "keys", n * sizeof(*e->keys), NULL) != NFM_OK)
        return false;
    e->keys = (struct nfm_elsewhere_key *)(void *)e->region.base;
    e->mask = n - 1;
    return true;
}

bool nfm__elsewhere_add(nfm_worker *w, const nfm_key *key, uint32_t worker) {
    nfm_elsewhere *e = &w->share->elsewhere;
    if (!map_keys(w) || e->n >= e->mask - e->mask / 4)
        return false;
    uint32_t at = place_of(w, key);
    e->n += e->keys[at].worker == 0;
    e->keys[at] = (struct nfm_elsewhere_key){*key, worker + 1};
    return true;
}

static void remove_at(nfm_worker *w, uint32_t at) {
    nfm_elsewhere *e = &w->share->elsewhere;
    uint32_t hole = at;
    for (uint32_t i = (hole + 1) & e->mask; e->keys[i].worker != 0; i = (i + 1) & e->mask) {
        uint32_t home = home_of(w, &e->keys[i].key);
        if (((i - home) & e->mask) < ((i - hole) & e->mask))
            continue; /* it would be found no more */
        e->keys[hole] = e->keys[i];
        hole = i;
    }
    e->keys[hole].worker = 0;
    e->n--;
}

void nfm__elsewhere_remove(nfm_worker *w, const nfm_key *key, uint32_t worker) {
    nfm_elsewhere *e = &w->share->elsewhere;
    if (e->n == 0)
        return;
    uint32_t at = place_of(w, key);
    if (e->keys[at].worker == worker + 1)
        remove_at(w, at);
}

void nfm__elsewhere_forget(nfm_worker *w, uint32_t worker) {
    nfm_elsewhere *e = &w->share->elsewhere;
    for (uint32_t at = 0; e->n > 0 && at <= e->mask;)
        if (e->keys[at].worker == worker + 1)
            remove_at(w, at); /* another one may be there now */
        else
            at++;
}
