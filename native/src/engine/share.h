/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several workers and one stream of packets.
 *
 * Theory of operation. Each flow has one owner, found from the addresses and ports of its innermost
 * headers by the same hash that spreads the packets of an interface (io/spread.h), so that most
 * packets come to their owner by themselves.
 *
 * Who reads a capture reads all of it: what is another worker's only moves event time on and takes
 * its number, so timers fire at the same frames and frames have the same numbers as in a run with
 * one worker. Every reader puts all fragments together, since the owner of a datagram is known only
 * then; as a frame a fragment is of who owns its addresses without ports. Frames without a flow are
 * the first worker's.
 *
 * At other ports a frame that came to the wrong worker is handed over (io/handover.h), and so is
 * what a worker sends by a port that only the first one has. Fragments are put together where they
 * came, for a network spreads all of a datagram alike, and the whole is handed over; where nobody
 * decides they have gone their way already, and the owner only observes. Frames without a flow stay
 * where they came.
 *
 * Where frames are forwarded, an ICMP error is of who owns the packet that it quotes. A flow whose
 * packets are rewritten is known by a second key, which has an owner of its own by its hash: that
 * one is told, and hands over what has this key. It is told before the first frame with that key
 * leaves, and reads what it was told after it has received: so no answer is faster.
 */
#ifndef NFM_ENGINE_SHARE_H
#define NFM_ENGINE_SHARE_H

#include "engine/worker.h"
#include "io/handover.h"

enum { NFM_MAX_WORKERS = 32 };

/* Keys of flows that other workers have, by open addressing. */
typedef struct nfm_elsewhere {
    struct nfm_elsewhere_key {
        nfm_key key;
        uint32_t worker; /* + 1; 0 free */
    } * keys;            /* mapped with the first */
    uint32_t n, mask;
    nfm_region region;
} nfm_elsewhere;

struct nfm_share {
    uint32_t n_workers;
    uint32_t read_by_all; /* bit per port */
    nfm_handover to[NFM_MAX_WORKERS], from[NFM_MAX_WORKERS];
    int bells[NFM_MAX_WORKERS]; /* -1 none */
    uint32_t next;              /* of |from| to look at */
    bool took;                  /* the burst at hand was handed over to this worker */
    uint16_t flags;             /* and is this: enum nfm_handed_flag */
    nfm_elsewhere elsewhere;
};

/* Whether the burst at hand has left already, and is only observed. */
static inline bool nfm__was_sent(const nfm_worker *w) {
    return w->share->took && (w->share->flags & NFM_HANDED_SENT) != 0;
}

/* ---- share.c: what is whose ---- */

/* The worker that packets with |key| are spread to. */
uint32_t nfm__owner_of_key(const nfm_worker *w, const nfm_key *key);
/* Whether |p| is a frame of another worker. */
bool nfm__is_foreign(const nfm_worker *w, const nfm_packet *p);
/* Goes past a frame that is another one's, which gets it unless it reads it itself. Ends its use of
 * the slot. */
void nfm__leave_to_owner(nfm_worker *w, nfm_packet *p);
/* Counts a frame of another worker, before event time goes on with it here. */
void nfm__share_note(nfm_worker *w, const nfm_packet *p);
/* Does the same with a datagram of another one that was put together here. */
void nfm__leave_datagram(nfm_worker *w, nfm_packet *p);
/* Tells receivers how far this worker is. Behind what it has published. */
void nfm__share_tell_time(nfm_worker *w);
void nfm__share_free(nfm_worker *w);

/* ---- takeover.c: what comes from other workers, and goes to them ---- */

/* Gives a frame to |worker|; counted when there is no room. */
void nfm__hand_over(nfm_worker *w, const nfm_packet *p, uint32_t worker, uint16_t flags);
/* Takes up to |max| frames that were handed over, all by one port, as the burst at hand; sends what
 * is to be sent, and notes keys. Returns how many. */
int nfm__take_over(nfm_worker *w, uint32_t max);
/* Notes the keys that other workers have told of: behind receiving, so that the word about a key is
 * always older than an answer that has it. */
void nfm__share_note_keys(nfm_worker *w);
/* Marks what is known of |n| parsed frames that were taken over. */
void nfm__took(nfm_worker *w, uint32_t n);
/* Tells the owner of |key| that packets with it are this worker's, or no longer. */
void nfm__share_key(nfm_worker *w, const nfm_key *key, bool is_known);
/* Shows other workers what was handed over to them. */
void nfm__share_publish(nfm_worker *w);
/* Before this worker sleeps until its bell rings; false: something is there. And after. */
bool nfm__share_sleep(nfm_worker *w);
void nfm__share_awake(nfm_worker *w);

/* ---- elsewhere.c ---- */

/* The worker that has the flow with |key|, in either direction; NFM_MAX_WORKERS: nobody is known.
 */
uint32_t nfm__elsewhere_find(const nfm_worker *w, const nfm_key *key);
/* False: there is no room. */
bool nfm__elsewhere_add(nfm_worker *w, const nfm_key *key, uint32_t worker);
void nfm__elsewhere_remove(nfm_worker *w, const nfm_key *key, uint32_t worker);
/* Forgets all keys of |worker|. */
void nfm__elsewhere_forget(nfm_worker *w, uint32_t worker);

#endif
