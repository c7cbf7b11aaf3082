/* SPDX-License-Identifier: Apache-2.0 */
/* Making a worker one that forwards; its inline receivers; what verdicts say for whole flows. */
#include <stdlib.h>
#include <string.h>

#include "engine/share.h"
#include "engine/strand.h"

static int map(nfm_region *region, const char *name, size_t size, nfm_error *err) {
    return region->base != NULL ? NFM_OK : nfm_region_init(region, name, size, err);
}

/* The state of forwarding, without the memory that its start maps. */
static struct nfm_way *way_of(nfm_worker *w) {
    if (w->way == NULL) {
        w->way = calloc(1, sizeof(*w->way));
        for (int i = 0; w->way != NULL && i < NFM_MAX_PORTS; i++)
            w->way->out_of[i] = NFM_NO_PORT;
    }
    return w->way;
}

int nfm_worker_forward(nfm_worker *w, uint32_t in, uint32_t out) {
    if (w->started)
        return NFM_E_STATE;
    if (in >= w->n_ports ||
        (out != NFM_NO_PORT && (out >= w->n_ports || w->ports[out]->ops->tx == NULL)))
        return NFM_E_INVAL;
    if (way_of(w) == NULL)
        return NFM_E_NOMEM;
    w->way->out_of[in] = (uint8_t)out;
    return NFM_OK;
}

int nfm_worker_send_only(nfm_worker *w, uint32_t port) {
    if (w->started)
        return NFM_E_STATE;
    if (port >= w->n_ports || w->ports[port]->ops->tx == NULL)
        return NFM_E_INVAL;
    w->port_done[port] = true;
    return NFM_OK;
}

int nfm__way_start(nfm_worker *w, nfm_error *err) {
    struct nfm_way *way = w->way;
    size_t lines = (size_t)w->table.max_flows + 1, slots = w->pool.n_slots;
    int rc = map(&way->transit_region, "transits", slots * sizeof(nfm_transit), err);
    if (rc == NFM_OK)
        rc = map(&way->edit_region, "edits", slots * sizeof(nfm_edit), err);
    if (rc == NFM_OK)
        rc = map(&way->rule_region, "rules", lines * sizeof(nfm_rule), err);
    if (rc == NFM_OK)
        rc = map(&way->line_region, "lines", lines * 2 * sizeof(uint32_t), err);
    if (rc != NFM_OK)
        return rc;
    way->transits = (nfm_transit *)(void *)way->transit_region.base;
    way->edits = (nfm_edit *)(void *)way->edit_region.base;
    way->rules = (nfm_rule *)(void *)way->rule_region.base;
    way->next_fragment = (uint32_t)(w->random >> 16);
    way->first = (uint32_t *)(void *)way->line_region.base;
    way->last = way->first + lines;
    way->queue = calloc(NFM_MAX_PORTS, sizeof(*way->queue));
    for (uint32_t i = 0; i < w->n_ports; i++)
        way->is_live |= w->ports[i]->ops->wait_fd != NULL;
    return way->queue == NULL ? NFM_E_NOMEM : nfm__stream_way_init(w, err);
}

void nfm__way_free(nfm_worker *w) {
    struct nfm_way *way = w->way;
    if (way == NULL)
        return;
    nfm__stream_way_free(w);
    nfm_region_fini(&way->transit_region);
    nfm_region_fini(&way->edit_region);
    nfm_region_fini(&way->rule_region);
    nfm_region_fini(&way->line_region);
    free(way->queue);
    free(way);
    w->way = NULL;
}

void nfm__inline_free(nfm_ring *ring) {
    if (ring->in_line == NULL)
        return;
    free(ring->in_line->who_of);
    free(ring->in_line->who_of_hold);
    free(ring->in_line);
    ring->in_line = NULL;
}

int nfm_worker_make_inline(nfm_worker *w, nfm_ring *ring, const nfm_inline_config *config) {
    if (ring->lossy || ring->in_line != NULL || ring->domain != 0)
        return NFM_E_INVAL;
    if (w->way == NULL)
        return NFM_E_STATE;
    uint64_t places = ring->mask + 1;
    while (places < (uint64_t)ring->mask + 1 + ring->n_spill)
        places *= 2;
    struct nfm_inline *in = ring->in_line = calloc(1, sizeof(*in));
    if (in == NULL)
        return NFM_E_NOMEM;
    in->config = *config;
    in->judged = ring->head;
    atomic_store_explicit(&ring->shared->judged, in->judged, memory_order_release);
    in->mask = (uint32_t)places - 1;
    in->who_of = calloc(places, sizeof(uint32_t));
    in->who_of_hold = calloc(NFM_MAX_HOLDS, sizeof(uint32_t));
    if (in->who_of == NULL || in->who_of_hold == NULL) {
        nfm__inline_free(ring);
        return NFM_E_NOMEM;
    }
    w->way->has_inline = true;
    return NFM_OK;
}

/* ---- rules ---------------------------------------------------------------------------------- */

bool nfm__rule_set(nfm_worker *w, nfm_ring *ring, nfm_transit *t, uint32_t verdict,
                   const nfm_edit *how) {
    nfm_rule *rule = &w->way->rules[t->line];
    nfm_flow *flow = nfm_table_flow(&w->table, t->line);
    uint32_t action = verdict & 0xff;
    if (action == NFM_MIRROR || action == NFM_REJECT)
        return false;
    if (!(flow->flags & NFM_FLOW_RULED))
        *rule = (nfm_rule){.out = NFM_NO_PORT};
    if (action == NFM_REDIRECT)
        rule->out = (uint8_t)(verdict >> NFM_ARG_SHIFT);
    if (action == NFM_DROP)
        rule->verdict = NFM_DROP;
    if (action == NFM_REWRITE && !nfm__rule_edit(w, rule, t, how))
        return false;
    if (action != NFM_PASS) {
        flow->flags |= NFM_FLOW_RULED;
        t->ruled = 1;
    }
    nfm__flow_choose(w, t->line, ring, NFM_INLINE_GROUPS, false);
    return true;
}

void nfm__rule_drop(nfm_worker *w, const nfm_transit *t) {
    nfm_rule *rule = &w->way->rules[t->line];
    nfm_flow *flow = nfm_table_flow(&w->table, t->line);
    if (!(flow->flags & NFM_FLOW_OPEN))
        return;
    if (!(flow->flags & NFM_FLOW_RULED))
        *rule = (nfm_rule){.out = NFM_NO_PORT};
    rule->verdict = NFM_DROP;
    flow->flags |= NFM_FLOW_RULED;
}

bool nfm__edits_so_far(const nfm_worker *w, uint32_t slot, nfm_edit *out) {
    const nfm_transit *t = &w->way->transits[slot];
    const nfm_rule *rule = t->ruled ? &w->way->rules[t->line] : nfm__rule_of(w, t->line);
    bool is_ruled = rule != NULL && rule->has_edit;
    if (!is_ruled && !t->has_edit)
        return false;
    *out = is_ruled ? rule->edit[t->side] : (nfm_edit){0};
    if (t->has_edit)
        nfm__edit_merge(out, &w->way->edits[slot]);
    return true;
}

void nfm__transit_forget_flow(nfm_worker *w, uint32_t index) {
    nfm_flow *flow = nfm_table_flow(&w->table, index);
    if (flow->flags & NFM_FLOW_ALIASED) {
        if (w->share != NULL)
            nfm__share_key(w, &w->table.alias[index], false);
        nfm_table_remove_alias(&w->table, index);
    }
    flow->flags &= (uint8_t) ~(NFM_FLOW_RULED | NFM_FLOW_ALIASED);
}

/* Makes the flow of |t| be found by |key|. A flow that has the key, and that no verdict has
 * settled, yields: what came for an address before anybody sent from it (RFC 5382 REQ-2:
 * connections may be opened from both sides at once). */
static bool take_alias(nfm_worker *w, const nfm_transit *t, const nfm_key *key) {
    if (nfm_table_add_alias(&w->table, t->line, key, t->side))
        return true;
    uint8_t side;
    uint64_t hash = nfm_hash_flow(&w->table.key, key);
    uint32_t other = nfm_table_find(&w->table, key, hash, &side);
    if (other == NFM_NO_FLOW || other == t->line || nfm__transit_has_line(w, other) ||
        nfm_table_flow(&w->table, other)->flags & (NFM_FLOW_RULED | NFM_FLOW_ALIASED))
        return false;
    nfm__flow_close(w, other, NFM_END_REUSED);
    return nfm_table_add_alias(&w->table, t->line, key, t->side);
}

bool nfm__rule_edit(nfm_worker *w, nfm_rule *rule, const nfm_transit *t, const nfm_edit *how) {
    nfm_flow *flow = nfm_table_flow(&w->table, t->line);
    nfm_edit edit = *how; /* whole, as it is kept and compared */
    nfm_key key = flow->key;
    if (t->side == 1)
        nfm_key_turn(&key);
    nfm_key after = nfm__edit_key(&edit, &key);
    const uint8_t *frame = nfm_pool_addr(&w->pool, (uint32_t)(t - w->way->transits)) + NFM_HEADROOM;
    const uint8_t *macs = t->link_type == 1 && t->len >= 12 ? frame : NULL;
    if (edit.fields & NFM_EDIT_OUT && !nfm__is_port(w, edit.out))
        return false;
    if (rule->has_edit) /* packets that came before the verdict on the first may say it again */
        return memcmp(&rule->edit[t->side], &edit, sizeof(edit)) == 0;
    if (flow->flags & NFM_FLOW_ALIASED)
        return false; /* one rewriting of the key per flow */
    if (memcmp(&after, &key, sizeof(key)) != 0) {
        if (!take_alias(w, t, &after)) {
            w->core_counters[NFM_CC_ALIAS_TAKEN]++;
            return false;
        }
        flow->flags |= NFM_FLOW_ALIASED;
        if (w->share != NULL)
            nfm__share_key(w, &after, true);
    }
    rule->edit[t->side] = edit;
    rule->edit[!t->side] = nfm__edit_inverse(&edit, &key, macs);
    rule->back |= (edit.fields & NFM_EDIT_BACK) != 0;
    if (edit.fields & NFM_EDIT_OUT) {
        rule->edit[!t->side].fields |= NFM_EDIT_OUT;
        rule->edit[!t->side].out = t->in;
    }
    rule->has_edit = 1;
    return true;
}
