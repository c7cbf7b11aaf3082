/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/share.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/transit.h"
#include "io/remote.h"
#include "io/spread.h"

static uint32_t hash_of(const nfm_key *key, bool ports) {
    bool ipv6 = key->ip_version == 6;
    uint32_t a = nfm_spread_endpoint(key->addr[0], ipv6, ports ? key->port[0] : 0);
    uint32_t b = nfm_spread_endpoint(key->addr[1], ipv6, ports ? key->port[1] : 0);
    return nfm_spread_pair(a, b);
}

static bool has_ports(uint8_t proto) {
    return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

uint32_t nfm__owner_of_key(const nfm_worker *w, const nfm_key *key) {
    return hash_of(key, has_ports(key->proto)) % w->n_workers;
}

/* nfm_owner tells which of |n_workers| workers has a flow with |flow|'s addresses, ports and
 * protocol. */
uint32_t nfm_owner(const nfm_flow_info *flow, uint32_t n_workers) {
    nfm_key key = {.ip_version = flow->ip_version};
    memcpy(key.addr, flow->addr, sizeof(key.addr));
    memcpy(key.port, flow->port, sizeof(key.port));
    return n_workers == 0 ? 0 : hash_of(&key, has_ports(flow->proto)) % n_workers;
}

static bool is_read_by_all(const nfm_worker *w) {
    return (w->share->read_by_all >> w->in_port & 1) != 0;
}

/* Whose frame it is. NFM_MAX_WORKERS and more: known only by what another worker said; that much
 * less is its number. */
static uint32_t owner_of(const nfm_worker *w, const nfm_packet *p) {
    const struct nfm_share *share = w->share;
    nfm_key quoted;
    const nfm_key *key = &p->key;
    if (p->status == NFM_PARSE_FRAGMENT && is_read_by_all(w))
        return hash_of(key, false) % w->n_workers;
    if (p->status != NFM_PARSE_OK)
        return is_read_by_all(w) ? 0 : w->config.id;
    if (share->took && (share->flags & NFM_HANDED_FINAL))
        return w->config.id;
    if (w->way != NULL && nfm__quoted_key(p, &quoted))
        key = &quoted;
    uint32_t owner = share->took ? w->config.id : nfm__owner_of_key(w, key);
    if (owner != w->config.id)
        return owner;
    uint32_t told = nfm__elsewhere_find(w, key);
    return told == NFM_MAX_WORKERS ? owner : NFM_MAX_WORKERS + told;
}

bool nfm__is_foreign(const nfm_worker *w, const nfm_packet *p) {
    return owner_of(w, p) != w->config.id;
}

void nfm__share_note(nfm_worker *w, const nfm_packet *p) {
    w->foreign++;
    w->foreign_bytes += p->rec.wire_len;
    if (w->time_known && p->rec.ts_ns < w->now_ns)
        w->core_counters[NFM_CC_TIME_BACK]--; /* that its owner counts */
}

static void hand_over(nfm_worker *w, const nfm_packet *p, uint16_t flags) {
    uint32_t owner = owner_of(w, p);
    if (owner >= NFM_MAX_WORKERS)
        flags |= NFM_HANDED_FINAL;
    nfm__hand_over(w, p, owner % NFM_MAX_WORKERS, flags);
}

void nfm__leave_to_owner(nfm_worker *w, nfm_packet *p) {
    if (is_read_by_all(w)) {
        nfm__share_note(w, p);
        nfm__packet_seen(w, p);
    } else {
        hand_over(w, p, w->share->took ? w->share->flags : 0);
    }
    nfm_pool_put(&w->pool, p->rec.slot);
}

void nfm__leave_datagram(nfm_worker *w, nfm_packet *p) {
    bool is_sent = w->way != NULL && !w->way->has_inline;
    if (!is_read_by_all(w))
        hand_over(w, p, NFM_HANDED_WHOLE | (is_sent ? NFM_HANDED_SENT : 0));
    p->status = NFM_PARSE_FRAGMENT; /* all that it is here */
}

void nfm__share_tell_time(nfm_worker *w) {
    for (uint32_t i = 0; i < w->n_rings; i++)
        if (w->rings[i] != NULL && w->rings[i]->is_shared)
            nfm_ring_tell_time(w->rings[i], w->now_ns, w->packets);
}

/* ---- life ----------------------------------------------------------------------------------- */

static int open_rings(struct nfm_share *share, const nfm_sharing *sharing, nfm_error *err) {
    int rc = NFM_OK;
    for (uint32_t i = 0; i < share->n_workers && rc == NFM_OK; i++) {
        if (sharing->to != NULL && sharing->to[i] >= 0)
            rc = nfm_handover_open(&share->to[i], sharing->to[i], true, err);
        if (rc == NFM_OK && sharing->taken != NULL && sharing->taken[i] >= 0)
            rc = nfm_handover_open(&share->from[i], sharing->taken[i], false, err);
        if (rc != NFM_OK || sharing->bells == NULL || sharing->bells[i] < 0)
            continue;
        share->to[i].bell = share->bells[i] = fcntl(sharing->bells[i], F_DUPFD_CLOEXEC, 0);
        if (share->bells[i] < 0) {
            snprintf(err->text, sizeof(err->text), "bell of a worker: %s", strerror(errno));
            rc = err->code = NFM_E_IO;
        }
    }
    return rc;
}

void nfm__share_free(nfm_worker *w) {
    struct nfm_share *share = w->share;
    if (share == NULL)
        return;
    for (uint32_t i = 0; i < share->n_workers; i++) {
        nfm_handover_close(&share->to[i]);
        nfm_handover_close(&share->from[i]);
        if (share->bells[i] >= 0)
            close(share->bells[i]);
    }
    nfm_region_fini(&share->elsewhere.region);
    free(share);
    w->share = NULL;
}

/*
 * nfm_worker_share makes |w|, whose id is less than |sharing|'s n_workers, one of so many; after
 * its ports were added. Descriptors stay the caller's.
 * Returns NFM_OK, NFM_E_INVAL, NFM_E_STATE: it has started, or shares already; NFM_E_NOMEM, or what
 * is wrong with a handover object, with a line in |err|.
 */
int nfm_worker_share(nfm_worker *w, const nfm_sharing *sharing, nfm_error *err) {
    if (w->started || w->share != NULL)
        return NFM_E_STATE;
    if (sharing->n_workers == 0 || sharing->n_workers > NFM_MAX_WORKERS ||
        w->config.id >= sharing->n_workers)
        return NFM_E_INVAL;
    struct nfm_share *share = w->share = calloc(1, sizeof(*share));
    if (share == NULL)
        return NFM_E_NOMEM;
    w->n_workers = share->n_workers = sharing->n_workers;
    share->read_by_all = sharing->read_by_all;
    memset(share->bells, 0xff, sizeof(share->bells));
    int rc = open_rings(share, sharing, err);
    for (uint32_t i = 0; i < w->n_ports && rc == NFM_OK; i++)
        if (nfm_port_is_remote(w->ports[i]) && share->to[0].shared != NULL)
            nfm_port_remote_bind(w->ports[i], &share->to[0], i, share->bells[w->config.id]);
    return rc;
}
