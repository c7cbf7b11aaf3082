/* SPDX-License-Identifier: Apache-2.0 */
/* Receivers that are behind, and do not hold the others back: see "Parking" in delivery.h. */
#include <stdlib.h>

#include "event/delivery.h"

bool nfm_delivery_waits_for(const nfm_delivery *d, uint32_t ring) {
    const nfm_epoch *oldest = &d->epochs[d->epoch_retired % NFM_EPOCHS];
    return d->epoch_retired < d->epoch_open && d->rings[ring] != NULL &&
           d->rings[ring]->tail_seen < oldest->heads[ring];
}

/* The record of an entry as it stands in the ring, where its receiver could write: whatever it
 * names is kept, if it is in use at all. What it does not name, the receiver gave up itself. */
static uint32_t park_one(nfm_delivery *d, const nfm_ring *ring, uint64_t at) {
    uint32_t record = ring->desc[at & ring->mask].record;
    if (record >= d->n_records || !(d->life[record] & NFM_IN_FLIGHT) ||
        !nfm__record_hold(d, record))
        return 0;
    return record + 1;
}

void nfm_delivery_park(nfm_delivery *d, uint32_t number) {
    nfm_ring *ring = d->rings[number];
    size_t flows = d->mem->n_flows * sizeof(uint16_t);
    if (d->flow_holds.base == NULL &&
        nfm_region_init(&d->flow_holds, "holds", flows, NULL) != NFM_OK)
        return;
    if (ring->parked == NULL)
        ring->parked = calloc((size_t)ring->mask + 1, sizeof(*ring->parked));
    if (ring->parked == NULL)
        return; /* then the others wait for it */
    if (ring->parked_from == ring->parked_to)
        ring->parked_from = ring->parked_to = ring->tail_seen;
    for (; ring->parked_to < nfm_ring_in(ring); ring->parked_to++)
        ring->parked[ring->parked_to & ring->mask] = park_one(d, ring, ring->parked_to);
    nfm_delivery_forget(d, number);
}

void nfm_delivery_unpark(nfm_delivery *d, nfm_ring *ring, bool all) {
    uint64_t end = all || ring->tail_seen > ring->parked_to ? ring->parked_to : ring->tail_seen;
    for (; ring->parked_from < end; ring->parked_from++) {
        uint32_t record = ring->parked[ring->parked_from & ring->mask];
        if (record != 0)
            nfm__record_unhold(d, record - 1);
    }
}
