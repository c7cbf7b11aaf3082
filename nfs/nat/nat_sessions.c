/* SPDX-License-Identifier: Apache-2.0 */
/* Flows of mappings: what keeps them alive, and who may answer. */
#include "nat.h"

static uint32_t *peer_bucket(const nat *self, uint32_t mapping, uint32_t address) {
    uint64_t word = (uint64_t)mapping << 32 | address;
    word = (word ^ self->config.seed) * UINT64_C(0x9e3779b97f4a7c15); /* Knuth: golden ratio */
    return &self->by_peer[(uint32_t)(word >> 32) & (self->n_peer_buckets - 1)];
}

bool nat__session_begin(nat *self, uint64_t flow, const uint32_t used[2], nat_endpoint remote,
                        bool opens) {
    if (nf_session_find(&self->map, flow) != NF_NO_SESSION)
        return true; /* a packet that came before the first one was judged */
    uint32_t at = nf_session_add(&self->map, flow, 0);
    if (at == NF_NO_SESSION) {
        self->stats.no_room++;
        return false;
    }
    nat_session *s = &self->sessions[at];
    *s = (nat_session){remote, opens ? used[0] : NAT_NONE, {used[0], used[1]}, NAT_NONE};
    for (int i = 0; i < 2; i++)
        if (used[i] != NAT_NONE)
            nat__mapping_use(self, used[i]);
    if (opens) {
        uint32_t *bucket = peer_bucket(self, used[0], remote.address);
        s->next = *bucket;
        *bucket = at;
    }
    return true;
}

void nat__session_end(nat *self, uint64_t flow, int64_t now_ns) {
    uint32_t at = nf_session_find(&self->map, flow);
    if (at == NF_NO_SESSION)
        return;
    nat_session *s = &self->sessions[at];
    if (s->mapping != NAT_NONE) {
        uint32_t *link = peer_bucket(self, s->mapping, s->remote.address);
        while (*link != at)
            link = &self->sessions[*link].next;
        *link = s->next;
    }
    for (int i = 0; i < 2; i++)
        if (s->used[i] != NAT_NONE)
            nat__mapping_leave(self, s->used[i], now_ns);
    nf_session_remove(&self->map, at);
}

bool nat__may_enter(const nat *self, uint32_t mapping, nat_endpoint remote) {
    if (self->config.filtering == NAT_FILTER_ENDPOINT || self->mappings[mapping].fixed)
        return true;
    bool any_port =
        self->config.filtering == NAT_FILTER_ADDRESS || self->mappings[mapping].klass == NAT_ICMP;
    uint32_t at = *peer_bucket(self, mapping, remote.address);
    for (; at != NAT_NONE; at = self->sessions[at].next) {
        const nat_session *s = &self->sessions[at];
        if (s->mapping == mapping && s->remote.address == remote.address &&
            (any_port || s->remote.port == remote.port))
            return true;
    }
    return false;
}
