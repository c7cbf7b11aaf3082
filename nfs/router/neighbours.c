/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Neighbours: whose MAC addresses are known, asked for, or doubted.
 *
 * Theory of operation. Entries lie in one array, found by a hash with a secret. A packet to a
 * neighbour that is not known makes an entry, and what comes first waits with it. Whoever scans a
 * large prefix fills the array with entries that nobody answers for: those that have an answer
 * stay, up to their time.
 */
#include <stdlib.h>
#include <string.h>

#include "router.h"

#define SECOND_NS INT64_C(1000000000)
#define FAILED_NS (3 * SECOND_NS)
#define NOBODY UINT32_MAX

enum { MAX_PROBES = 3, SEARCH = 256 }; /* RFC 4861 section 10 */

bool router_neighbours_init(router *self, uint32_t max) {
    self->n_buckets = 1;
    while (self->n_buckets < max)
        self->n_buckets *= 2;
    self->entries = calloc(max, sizeof(*self->entries));
    self->buckets = malloc(self->n_buckets * sizeof(*self->buckets));
    if (self->entries == NULL || self->buckets == NULL)
        return false;
    memset(self->buckets, 0xff, self->n_buckets * sizeof(*self->buckets));
    for (uint32_t i = 0; i < max; i++)
        self->entries[i].chain = i + 1 < max ? i + 1 : NOBODY;
    return true;
}

void router_neighbours_fini(router *self) {
    free(self->entries);
    free(self->buckets);
    self->entries = NULL;
    self->buckets = NULL;
}

static uint64_t mix(uint64_t h, uint64_t word) {
    h = (h ^ word) * UINT64_C(0x9e3779b97f4a7c15); /* Knuth: golden ratio */
    return h ^ (h >> 29);
}

static uint32_t *bucket_of(const router *self, uint32_t port, const uint8_t *address) {
    uint64_t words[2];
    memcpy(words, address, sizeof(words));
    uint64_t h = mix(mix(mix(self->hash_key, port), words[0]), words[1]);
    return &self->buckets[(uint32_t)(h >> 32) & (self->n_buckets - 1)];
}

router_entry *router_neighbour_find(const router *self, uint32_t port, uint8_t ip_version,
                                    const uint8_t *address) {
    uint32_t at = *bucket_of(self, port, address);
    for (; at != NOBODY; at = self->entries[at].chain) {
        router_entry *e = &self->entries[at];
        if (e->is.port == port && e->is.ip_version == ip_version &&
            memcmp(e->is.address, address, 16) == 0)
            return e;
    }
    return NULL;
}

static void forget(router *self, router_entry *e) {
    uint32_t at = (uint32_t)(e - self->entries);
    uint32_t *link = bucket_of(self, e->is.port, e->is.address);
    while (*link != at)
        link = &self->entries[*link].chain;
    *link = e->chain;
    *e = (router_entry){.chain = self->free_list};
    self->free_list = at;
    self->stats.neighbours--;
}

/* Lets one go that nobody will miss. */
static void make_room(router *self) {
    for (uint32_t i = 0; i < SEARCH && self->free_list == NOBODY; i++) {
        router_entry *e = &self->entries[self->hand];
        self->hand = (self->hand + 1) % self->config.max_neighbours;
        if ((e->is.state == ROUTER_STALE || e->is.state == ROUTER_FAILED) && e->n_kept == 0)
            forget(self, e);
    }
}

/* A new entry; NULL: all are taken by those that are needed. */
static router_entry *add(router *self, uint32_t port, uint8_t ip_version, const uint8_t *address) {
    if (self->free_list == NOBODY)
        make_room(self);
    if (self->free_list == NOBODY) {
        self->stats.neighbours_full++;
        return NULL;
    }
    uint32_t at = self->free_list, *bucket = bucket_of(self, port, address);
    router_entry *e = &self->entries[at];
    self->free_list = e->chain;
    *e = (router_entry){.chain = *bucket, .next_ns = INT64_MAX, .used_ns = self->now_ns};
    memcpy(e->is.address, address, 16);
    e->is.port = (uint8_t)port;
    e->is.ip_version = ip_version;
    *bucket = at;
    self->stats.neighbours++;
    return e;
}

static void enter(router *self, router_entry *e, enum router_state state) {
    e->is.state = (uint8_t)state;
    e->probes = 0;
    e->next_ns = self->now_ns + (state == ROUTER_REACHABLE ? self->config.reachable_ns
                                 : state == ROUTER_STALE   ? self->config.stale_ns
                                 : state == ROUTER_FAILED  ? FAILED_NS
                                                           : SECOND_NS);
}

static void ask(router *self, nfm_ring *ring, router_entry *e) {
    e->probes++;
    e->next_ns = self->now_ns + SECOND_NS;
    router_ask(self, ring, e);
}

static nfm_edit edit_to(const router *self, const router_entry *e) {
    nfm_edit edit = {.fields = NFM_EDIT_DST_MAC | NFM_EDIT_SRC_MAC | NFM_EDIT_HOP | NFM_EDIT_OUT,
                     .out = e->is.port};
    memcpy(edit.dst_mac, e->is.mac, 6);
    memcpy(edit.src_mac, self->config.interfaces[e->is.port].mac, 6);
    return edit;
}

/* ---- packets that wait ---------------------------------------------------------------------- */

/* Tells the sender of a packet whose next hop does not answer. */
static void tell_unresolved(router *self, const router_kept *kept) {
    router_packet p;
    self->stats.unresolved++;
    if (router_view(kept->ring, kept->mem, kept->record, &p) && router_read_ip(&p))
        router_tell(self, &p, ROUTER_E_HOST, 0);
}

/* Sends on what waits for |e|, or drops it where nobody answered; what the worker does not take yet
 * waits until the next tick. */
static void let_go(router *self, router_entry *e) {
    nfm_edit edit = edit_to(self, e);
    uint32_t left = 0;
    for (uint32_t i = 0; i < e->n_kept; i++) {
        router_kept kept = e->kept[i];
        bool failed = e->is.state == ROUTER_FAILED;
        int rc = failed ? nfm_ring_judge(kept.ring, kept.hold, NFM_DROP)
                        : nfm_ring_rewrite(kept.ring, kept.hold, &edit);
        if (rc == NFM_E_AGAIN) {
            e->kept[left++] = kept;
            continue;
        }
        if (failed)
            tell_unresolved(self, &kept);
        self->stats.forwarded += !failed;
    }
    self->stats.waiting -= e->n_kept - left;
    e->n_kept = left;
}

static uint32_t keep(router *self, const router_packet *p, router_entry *e) {
    int hold = e->n_kept < ROUTER_WAITING ? nfm_ring_hold(p->ring, p->number) : NFM_E_LIMIT;
    if (hold < 0) {
        self->stats.queue_full++;
        return NFM_DROP;
    }
    e->kept[e->n_kept++] = (router_kept){p->ring, p->mem, (uint32_t)hold, p->number};
    self->stats.waiting++;
    self->stats.waited++;
    return NFM_KEEP | (uint32_t)hold << NFM_ARG_SHIFT;
}

/* ---- states --------------------------------------------------------------------------------- */

uint32_t router_resolve(router *self, const router_packet *p, const router_hop *to,
                        nfm_edit *edit) {
    const uint8_t *address = to->kind == ROUTER_LINK ? p->to : to->gateway;
    router_entry *e = router_neighbour_find(self, to->port, p->ip_version, address);
    if (e == NULL) {
        e = add(self, to->port, p->ip_version, address);
        if (e == NULL)
            return NFM_DROP;
        enter(self, e, ROUTER_INCOMPLETE);
        ask(self, p->ring, e);
    }
    e->used_ns = self->now_ns;
    if (e->is.state == ROUTER_INCOMPLETE)
        return keep(self, p, e);
    if (e->is.state == ROUTER_FAILED) {
        self->stats.unresolved++;
        router_tell(self, p, ROUTER_E_HOST, 0);
        return NFM_DROP;
    }
    if (e->is.state == ROUTER_STALE) {
        enter(self, e, ROUTER_PROBE);
        ask(self, p->ring, e);
    }
    *edit = edit_to(self, e);
    self->stats.forwarded++;
    return NFM_REWRITE;
}

void router_hear(router *self, const router_word *word) {
    router_entry *e = router_neighbour_find(self, word->port, word->ip_version, word->address);
    if (e == NULL && word->may_add)
        e = add(self, word->port, word->ip_version, word->address);
    if (e == NULL)
        return;
    bool is_new = e->is.state == ROUTER_FREE || e->is.state == ROUTER_INCOMPLETE ||
                  e->is.state == ROUTER_FAILED;
    bool is_same = !is_new && memcmp(e->is.mac, word->mac, 6) == 0;
    if (!is_new && !is_same && !word->may_change) { /* RFC 4861 section 7.2.5 */
        if (e->is.state == ROUTER_REACHABLE)
            enter(self, e, ROUTER_STALE);
        return;
    }
    memcpy(e->is.mac, word->mac, 6);
    if (word->is_answer)
        enter(self, e, ROUTER_REACHABLE);
    else if (!is_same)
        enter(self, e, ROUTER_STALE);
    let_go(self, e);
}

static void due(router *self, router_entry *e) {
    switch ((enum router_state)e->is.state) {
    case ROUTER_INCOMPLETE:
        if (e->probes < MAX_PROBES) {
            ask(self, self->ring, e);
            return;
        }
        enter(self, e, ROUTER_FAILED);
        let_go(self, e);
        return;
    case ROUTER_PROBE:
        if (e->probes < MAX_PROBES)
            ask(self, self->ring, e);
        else
            forget(self, e);
        return;
    case ROUTER_REACHABLE:
        enter(self, e, ROUTER_STALE);
        return;
    case ROUTER_STALE:
        forget(self, e);
        return;
    case ROUTER_FAILED:
        if (e->n_kept == 0)
            forget(self, e);
        return;
    case ROUTER_FREE:
        return;
    }
}

void router_tick(router *self) {
    for (uint32_t i = 0; i < self->config.max_neighbours; i++) {
        router_entry *e = &self->entries[i];
        if (e->is.state == ROUTER_FREE)
            continue;
        if (e->n_kept > 0 && e->is.state != ROUTER_INCOMPLETE)
            let_go(self, e);
        if (e->next_ns <= self->now_ns)
            due(self, e);
    }
}
