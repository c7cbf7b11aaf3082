/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records and their way to the receivers' rings.
 *
 * Theory of operation. A record is taken from a LIFO free list (the next one is still in cache),
 * copied once, named by a descriptor in the ring of each receiver that wants it, and holds a
 * reference to its slot. Records are released by epochs: a burst that delivered anything closes an
 * epoch, which remembers the head of every ring; when all tails have passed those heads, the
 * epoch's records, field records and slots are free again. Nobody counts per descriptor. Epochs
 * retire in order, so "all records before epoch e are released" is one number, which also tells
 * when the index of a closed flow may be used again.
 *
 * Holds. A receiver may keep a record past its tail. What keeps a record is counted in life[]: its
 * epoch, and each hold. Flow indices are counted likewise as long as held records name them.
 */
#ifndef NFM_EVENT_DELIVERY_H
#define NFM_EVENT_DELIVERY_H

#include "base/pool.h"
#include "base/region.h"
#include "event/subs.h"

enum { NFM_MAX_RINGS = 64, NFM_EPOCHS = 4096, NFM_FIELD_CLASSES = 6 };
#define NFM_IN_FLIGHT 0x80000000u /* in life[]: the record's epoch is not released */

typedef struct nfm_epoch {
    uint32_t records_end; /* position in inflight */
    uint64_t heads[NFM_MAX_RINGS];
} nfm_epoch;

typedef struct nfm_delivery {
    nfm_pool *pool;
    nfm_mem *mem;
    nfm_record *records;
    uint32_t *free; /* record ids */
    uint32_t n_free, n_records;
    uint32_t kept;  /* the record that is delivered was made before: its id, else NFM_NO_RECORD */
    uint32_t *life; /* by record: NFM_IN_FLIGHT, and the number of holds; 0 free */
    uint32_t *inflight; /* circular, ids in order of delivery; n_records is a power of two */
    uint32_t inflight_head, inflight_tail;
    /* field records: one free list per size class, carved from the region on demand */
    uint8_t *fields;
    uint64_t fields_size, fields_fresh;
    uint64_t field_free[NFM_FIELD_CLASSES]; /* offset + 1 of the first free block */
    uint64_t fields_used;                   /* bytes of blocks that are not free */
    nfm_ring **rings;                       /* borrowed, by the worker's number; NULL: not here */
    uint32_t n_rings;
    struct nfm_inbox **inboxes; /* of other domains, by their number - 1; borrowed */
    uint64_t letters;           /* records that other domains may have wanted */
    nfm_epoch *epochs;
    uint64_t epoch_open;    /* number of the epoch being filled */
    uint64_t epoch_retired; /* all epochs below are released */
    nfm_region flow_holds;  /* u16 by flow index; mapped when somebody may hold */
    uint32_t max_holds;     /* of all receivers */
    uint64_t no_record, no_fields, delivered;
} nfm_delivery;

/* Borrows everything it points to except its own lists. */
int nfm_delivery_init(nfm_delivery *d, const nfm_worker_config *config, nfm_pool *pool,
                      nfm_mem *mem);
void nfm_delivery_fini(nfm_delivery *d);

/* Delivers a copy of |record| to the receivers of |set| that want its built-in events. |info| may
 * be NULL. The record is skipped when nobody wants it, dropped and counted when none is free. */
void nfm_deliver(nfm_delivery *d, const nfm_subset *set, const nfm_record *record,
                 const nfm_flow_info *info);
/* The same for the receivers of |set| that are not members of |except| (records about a whole flow
 * go to the receivers of either side once). */
void nfm_deliver_rest(nfm_delivery *d, const nfm_subset *set, const nfm_subset *except,
                      const nfm_record *record, const nfm_flow_info *info);
/* The same for an application event; its field record is freed when nobody wants it. */
void nfm_deliver_app(nfm_delivery *d, const nfm_subset *set, const nfm_record *record,
                     const nfm_flow_info *info);

/* A copy of |record| that no epoch knows yet: it stays until nfm_record_enter. With its id in
 * |kept| the functions above deliver it instead of another copy. NFM_NO_RECORD, counted, when none
 * is free. */
uint32_t nfm_record_keep(nfm_delivery *d, const nfm_record *record);
/* Enters a kept record in the open epoch: it is released when all receivers have passed it. */
void nfm_record_enter(nfm_delivery *d, uint32_t id);

/* Space for a field record of |len| bytes; *offset in the fields region. NFM_E_LIMIT when full. */
int nfm_fields_get(nfm_delivery *d, uint32_t len, uint64_t *offset);
void nfm_fields_put(nfm_delivery *d, uint64_t offset, uint32_t len);

/* Whether the record, which lies in |d|'s memory, passes |filter|. */
bool nfm__passes(const nfm_delivery *d, const nfm_filter *filter, const nfm_record *record,
                 const nfm_flow_info *info);
/* Parking. A receiver that may be slow (lossy, or an inline one that is late) must not keep what
 * others have passed: its entries' records are taken out of their epochs, to be released by its
 * tail alone. Costs a look at each of its entries, and nothing while it keeps up. */
void nfm_delivery_park(nfm_delivery *d, uint32_t ring);
/* Releases what parked receivers have passed, or all of |ring|'s when it goes. */
void nfm_delivery_unpark(nfm_delivery *d, nfm_ring *ring, bool all);
/* Whether ring number |ring| is what the oldest epoch waits for. */
bool nfm_delivery_waits_for(const nfm_delivery *d, uint32_t ring);

/* For holds.c and park.c: one reason more, or less, to keep a record. False: too many. */
bool nfm__record_hold(nfm_delivery *d, uint32_t record);
void nfm__record_unhold(nfm_delivery *d, uint32_t record);
/* For holds.c: frees a record that nothing keeps; the class of a field record's block. */
void nfm__record_free(nfm_delivery *d, uint32_t id);
unsigned nfm__field_class(uint32_t len);
extern const uint32_t nfm__field_class_size[NFM_FIELD_CLASSES];

/* Takes what adopted rings still hold as the first epoch: their records and slots are in use until
 * their receivers have passed them. Before the first record. */
int nfm_delivery_adopt(nfm_delivery *d);
/* Ring number |ring| holds nothing back any more. */
void nfm_delivery_forget(nfm_delivery *d, uint32_t ring);
/* Receiver |ring|, number |at| of the worker's, takes part from now on / no longer does. */
void nfm_delivery_enter(nfm_delivery *d, uint32_t at, nfm_ring *ring);
void nfm_delivery_leave(nfm_delivery *d, uint32_t at);

/* Closes the epoch of a burst and publishes the rings. */
void nfm_delivery_publish(nfm_delivery *d);
/* Wakes receivers in other processes that sleep though entries are published for them: all of them,
 * or those whose ring is filling up. */
void nfm_delivery_wake(nfm_delivery *d, bool all);
/* Reads tails, and takes the commands that were written before them out of the way of what they
 * release: nfm_delivery_retire comes after those. */
void nfm_delivery_collect(nfm_delivery *d);
/* Releases what all receivers have passed. Returns how many records that were. */
uint32_t nfm_delivery_retire(nfm_delivery *d);

/* Gives ring |ring| a quota of holds; what an earlier worker's receiver held goes on. Checks what
 * all quotas leave of the pool. */
int nfm_delivery_allow_holds(nfm_delivery *d, nfm_ring *ring, uint32_t holds, nfm_error *err);
/* Hold number |hold| of |ring| begins on |record|, or ends. False: it cannot, the command was bad.
 */
bool nfm_delivery_hold(nfm_delivery *d, nfm_ring *ring, uint32_t hold, uint64_t record);
bool nfm_delivery_unhold(nfm_delivery *d, nfm_ring *ring, uint32_t hold);
void nfm_delivery_unhold_all(nfm_delivery *d, nfm_ring *ring);

static inline bool nfm_delivery_flow_is_held(const nfm_delivery *d, uint32_t flow) {
    return d->flow_holds.base != NULL && ((const uint16_t *)(void *)d->flow_holds.base)[flow] > 0;
}

static inline bool nfm_delivery_is_idle(const nfm_delivery *d) {
    return d->epoch_retired == d->epoch_open && d->inflight_head == d->inflight_tail;
}

#endif
