/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several workers and one stream of packets.
 *
 * Theory of operation. Each flow has one owner, found from the addresses and ports of its innermost
 * headers by the same hash that spreads the packets of an interface (io/spread.h), so that most
 * packets come to their owner by themselves. Who reads a capture reads all of it: what is another
 * worker's only moves event time on and takes its number, so timers fire at the same frames and
 * frames have the same numbers as in a run with one worker.
 *
 * Every reader of a capture puts all fragments together, since the owner of a datagram is known
 * only then. As a frame a fragment is of who owns its addresses without ports. Frames without a
 * flow are the first worker's. Where frames are forwarded, an ICMP error is of who owns the packet
 * that it quotes.
 */
#include <netinet/in.h>

#include "engine/transit.h"
#include "io/spread.h"

static bool has_ports(uint8_t proto) {
    return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

static uint32_t owner_of_key(const nfm_worker *w, const nfm_key *key, bool ports) {
    bool ipv6 = key->ip_version == 6;
    uint32_t a = nfm_spread_endpoint(key->addr[0], ipv6, ports ? key->port[0] : 0);
    uint32_t b = nfm_spread_endpoint(key->addr[1], ipv6, ports ? key->port[1] : 0);
    return nfm_spread_pair(a, b) % w->n_workers;
}

static uint32_t owner_of(const nfm_worker *w, const nfm_packet *p) {
    nfm_key quoted;
    if (p->status == NFM_PARSE_FRAGMENT)
        return owner_of_key(w, &p->key, false);
    if (p->status != NFM_PARSE_OK)
        return 0;
    if (w->way != NULL && nfm__quoted_key(p, &quoted))
        return owner_of_key(w, &quoted, has_ports(quoted.proto));
    return owner_of_key(w, &p->key, has_ports(p->rec.proto));
}

bool nfm__is_foreign(const nfm_worker *w, const nfm_packet *p) {
    return owner_of(w, p) != w->config.id;
}

void nfm__share_note(nfm_worker *w, const nfm_packet *p) {
    w->foreign++;
    w->foreign_bytes += p->rec.wire_len;
}

void nfm__share_skip(nfm_worker *w, nfm_packet *p) {
    uint64_t back = w->core_counters[NFM_CC_TIME_BACK];
    nfm__packet_seen(w, p);
    w->core_counters[NFM_CC_TIME_BACK] = back; /* its owner counts it */
    nfm__share_note(w, p);
    nfm_pool_put(&w->pool, p->rec.slot);
}

void nfm__share_tell_time(nfm_worker *w) {
    for (uint32_t i = 0; i < w->n_rings; i++)
        if (w->rings[i] != NULL && w->rings[i]->is_shared)
            nfm_ring_tell_time(w->rings[i], w->now_ns);
}

/*
 * nfm_worker_share makes |w|, whose id is less than |sharing|'s n_workers, one of so many.
 * Returns NFM_OK, NFM_E_INVAL, or NFM_E_STATE: it has started.
 */
int nfm_worker_share(nfm_worker *w, const nfm_sharing *sharing) {
    if (w->started)
        return NFM_E_STATE;
    if (sharing->n_workers == 0 || sharing->n_workers > 256 || w->config.id >= sharing->n_workers)
        return NFM_E_INVAL;
    w->n_workers = sharing->n_workers;
    return NFM_OK;
}
