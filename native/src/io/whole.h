/* SPDX-License-Identifier: Apache-2.0 */
/* Frames that a kernel left unfinished (nfm_slot_meta: checksum, segmentation), finished in
 * software for ports whose link cannot do it. */
#ifndef NFM_IO_WHOLE_H
#define NFM_IO_WHOLE_H

#include "io/port.h"

enum { NFM_WHOLE_MAX = 128 }; /* frames that one unfinished frame becomes, at most */

static inline nfm_slot_meta *nfm_slot_meta_at(uint8_t *slot) {
    return (nfm_slot_meta *)(void *)slot;
}

static inline bool nfm_is_whole(const nfm_pool *pool, uint32_t slot) {
    const nfm_slot_meta *meta = nfm_slot_meta_at(nfm_pool_addr(pool, slot));
    return !meta->needs_csum && meta->gso_type == 0;
}

/*
 * nfm_whole_make builds the frames that |frame| stands for: one with its checksum, or its segments
 * (TCP over IPv4 and IPv6, UDP segments), each in a slot of its own with one reference of the
 * caller's. |frame| keeps its reference and is not written.
 * Returns how many are in |out| (room for NFM_WHOLE_MAX); NFM_E_LIMIT: not enough slots now, and
 * none is taken; NFM_E_FORMAT: the frame is not what its slot's meta says, or too many.
 */
int nfm_whole_make(nfm_pool *pool, const nfm_tx *frame, nfm_tx *out);

typedef struct nfm_sender { /* a link that takes whole frames only */
    /* Sends up to |n| <= NFM_BURST frames; returns how many it took, with their references. */
    uint32_t (*send)(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n);
    uint32_t max_len; /* of a frame */
} nfm_sender;

/*
 * nfm_whole_send is tx for such a link: finishes what is unfinished, drops and counts what is too
 * long (tx_oversize) or makes no sense (tx_errors), and counts what found no room (tx_full); a
 * frame some of whose segments found room is taken. Returns how many frames it took.
 */
int nfm_whole_send(nfm_port *port, nfm_pool *pool, const nfm_sender *sender, const nfm_tx *frames,
                   uint32_t n);

#endif
