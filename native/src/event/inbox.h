/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inbox of a domain: memory of its own for receivers that may not map the worker's.
 *
 * Theory of operation. An inbox is a second delivery, with its own pool, records, field records,
 * flow facts, rings and epochs; its objects have a header of their own, so its receivers attach as
 * others do. When a receiver of another domain wants a record, the record is copied into the inbox,
 * once for all receivers of the domain, and with it exactly the bytes that they subscribed to:
 * the frame for packet.*, the data for tcp.data, udp.datagram and application events, else none. A
 * slot of the inbox holds those bytes at the offsets that they have in the worker's slot and zeroes
 * elsewhere; records of one frame share it, and what one of them asks for later is added. Offsets
 * in the copy that would name bytes that are not there are 0, and a record that has its data but
 * not its frame says so (NFM_F_PART). The facts of its flow lie under the record's own number, so
 * flows of the worker are recycled whatever a foreign receiver does.
 *
 * A frame's slot of the worker stays referred to until the burst is published: while records may
 * still ask for more of it, its number means the same frame.
 */
#ifndef NFM_EVENT_INBOX_H
#define NFM_EVENT_INBOX_H

#include "event/delivery.h"

enum { NFM_MAX_DOMAINS = 16, NFM_DOMAIN_NAME = 65, NFM_INBOX_COUNTERS = 3 };

/* What of a slot of the inbox may be other than zero. */
typedef struct nfm_dirt {
    uint32_t from, to;
} nfm_dirt;

typedef struct nfm_inbox {
    nfm_delivery delivery;
    nfm_ring *rings[NFM_MAX_RINGS]; /* of this domain, by the worker's numbers */
    nfm_pool pool;
    nfm_mem mem;
    nfm_region objects[NFM_OBJ_COUNT];
    nfm_dirt *dirt;     /* by slot */
    nfm_pool *home;     /* the worker's */
    nfm_delivery *from; /* the worker's: field records are copied from there */
    uint64_t letter;    /* the record that |id| is a copy of */
    uint32_t id;        /* NFM_NO_RECORD: there was no room for it */
    uint32_t frame;     /* slot of the worker that |slot| has bytes of; NFM_NO_SLOT none */
    uint32_t slot;
    uint64_t full;          /* entries that found no room in the inbox */
    uint64_t copies, bytes; /* records, and bytes of frames */
    char names[NFM_INBOX_COUNTERS][NFM_DOMAIN_NAME + 32]; /* of its counters */
} nfm_inbox;

/* A record on its way; copies of one letter are made once per domain. */
typedef struct nfm_letter {
    const nfm_record *record;
    const nfm_flow_info *info; /* NULL: none */
    uint64_t number;           /* another one for each record, from 1 */
} nfm_letter;

/* Lays an inbox over its mapped objects (box->objects, box->mem set). Borrows |home| and |from|.
 * Returns NFM_OK or NFM_E_NOMEM. */
int nfm_inbox_init(nfm_inbox *box, nfm_pool *home, nfm_delivery *from);
/* Frees the lists; the objects stay the caller's. */
void nfm_inbox_fini(nfm_inbox *box);
/* Delivers |record|, which is in the worker's memory |d|, to the receivers of |set| in other
 * domains that want its built-in events and are no members of |except| (may be NULL). An entry that
 * finds no room in its inbox is counted there. */
void nfm_deliver_away(nfm_delivery *d, const nfm_subset *set, const nfm_subset *except,
                      const nfm_record *record, const nfm_flow_info *info);
/* The same for an application event, whose field record is copied, too. */
void nfm_deliver_app_away(nfm_delivery *d, const nfm_subset *set, const nfm_record *record,
                          const nfm_flow_info *info);
/* Closes a burst, as nfm_delivery_publish does. */
void nfm_inbox_publish(nfm_inbox *box);
/* Whether what receivers have not passed leaves less room than a burst may need. */
bool nfm_inbox_is_short(const nfm_inbox *box);

#endif
