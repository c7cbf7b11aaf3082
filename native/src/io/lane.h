/* SPDX-License-Identifier: Apache-2.0 */
/* One direction of an impaired link: what becomes of each frame, and those that are on their way.
 */
#ifndef NFM_IO_LANE_H
#define NFM_IO_LANE_H

#include "io/port.h"

typedef struct nfm_lane_item {
    nfm_frame frame; /* with one reference */
    uint32_t off;    /* of its bytes in the slot */
    int64_t due_ns;
    uint64_t order; /* among those due at the same time */
} nfm_lane_item;

typedef struct nfm_lane {
    nfm_impair_config config; /* no zeroes where there are defaults */
    uint64_t seed;            /* of this direction */
    uint64_t count;           /* frames offered */
    uint64_t serial;          /* last order given */
    int64_t now_ns;           /* never goes back */
    int64_t busy_ns;          /* the link sends until then */
    nfm_lane_item *heap;      /* by (due_ns, order) */
    uint32_t n_heap;
    nfm_lane_item *overtaken; /* circular: reordered frames, until order are counted */
    uint32_t first, n_overtaken;
    nfm_impair_stats stats;
} nfm_lane;

/* Allocates for config->queue frames. NFM_OK or NFM_E_NOMEM. */
int nfm_lane_init(nfm_lane *lane, const nfm_impair_config *config, uint64_t seed);
/* The slots must have been given back. */
void nfm_lane_fini(nfm_lane *lane);
/* Takes the frame and its reference at time |now_ns|. |may_write|: nobody else reads its bytes. */
void nfm_lane_offer(nfm_lane *lane, nfm_pool *pool, const nfm_lane_item *item, int64_t now_ns,
                    bool may_write);
/* Takes out the next frame that is due at |now_ns| (INT64_MAX: all are). */
bool nfm_lane_take(nfm_lane *lane, int64_t now_ns, nfm_lane_item *out);
/* Puts back what nfm_lane_take gave last: it comes first again. */
void nfm_lane_return(nfm_lane *lane, const nfm_lane_item *item);
/* Gives back the slots of all frames that are on their way. */
void nfm_lane_clear(nfm_lane *lane, nfm_pool *pool);

#endif
