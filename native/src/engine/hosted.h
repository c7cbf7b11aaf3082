/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker's side of application modules that run in processes of their own.
 *
 * Theory of operation. A hosted module is in the graph like any other, but its state and its calls
 * are in its host (module_host.c). A record that it needs is put into a ring for it, and what would
 * follow at once if the module ran in-line goes into one queue of pending deliveries, in the order
 * in which it would happen in-line: the record to its receivers, then per application module in
 * order what it raises, then the flow's next record. An entry ASK stands for what a hosted module
 * has to say; the queue goes on behind it when the host has answered, and the answers become
 * deliveries there. So receivers see per flow what they see in-line. Records of flows that nothing
 * is pending for pass the queue by, unless all must be in order: a worker that reads a capture
 * again counts on every ring having the same entries.
 *
 * What a host says takes effect when the queue gets there. A detach lowers the flow's level then;
 * snapshots and totals that were made in between are cut down to the level that they would have
 * in-line, before anybody sees them (cut_down in pending.c).
 *
 * Nothing here waits. The worker polls no port while a module's ring is nearly full, and goes on
 * delivering as long as receivers have room. A host that is gone, lies or is silent too long has
 * its questions given up: what waited for it is delivered without its events, and counted.
 *
 * An inline subscriber of an application event has the module as an earlier stage: a packet's fate
 * is known behind its last ASK, which is where its record enters an epoch (ends_record).
 */
#ifndef NFM_ENGINE_HOSTED_H
#define NFM_ENGINE_HOSTED_H

#include "base/answers.h"
#include "engine/worker.h"

enum nfm_pending_kind {
    NFM_PENDING_RECORD = 1, /* to the receivers of its side */
    NFM_PENDING_TOTALS,     /* to those of either side, once */
    NFM_PENDING_APP,        /* an application event of an in-line module */
    NFM_PENDING_ASK,        /* what a hosted module raises */
    NFM_PENDING_JOIN,       /* the module is concerned with the flow again */
};

typedef struct nfm_pending {
    uint32_t record;   /* NFM_NO_RECORD: none */
    uint32_t flow;     /* index, NFM_NO_FLOW */
    uint32_t set[2];   /* by side, held */
    uint64_t position; /* ASK, JOIN: in the module's ring */
    uint16_t modules;  /* of the flow when this was made */
    uint8_t kind;      /* enum nfm_pending_kind */
    uint8_t module;
    uint8_t ends_record;            /* nothing behind it refers to the record */
    uint8_t idle_class, end_reason; /* of the flow when this was made */
    uint8_t reserved;
} nfm_pending;

typedef struct nfm_hosted_flow {
    uint32_t pending;  /* entries of the queue */
    uint16_t detached; /* modules, as of the queue's first entry */
    uint16_t joins;    /* JOIN entries of the queue */
} nfm_hosted_flow;

enum nfm_host_state {
    NFM_HOST_ABSENT = 0, /* has not come yet */
    NFM_HOST_ANSWERS,
    NFM_HOST_GIVEN_UP, /* until it catches up, or another comes */
};

typedef struct nfm_hosted { /* one module */
    nfm_instance *in;
    nfm_ring ring;
    nfm_answers answers;
    uint8_t state; /* enum nfm_host_state */
    bool lied;     /* only another process is heard again */
    bool was_reset;
    uint32_t session;
    uint64_t done;     /* questions before it are answered */
    uint64_t given_up; /* questions before it are not waited for */
    int64_t deadline_ns, waits_since_ns;
    uint32_t looks;
    uint32_t *wanted; /* by subscription set: bit 31 known, below it the module's events */
    uint64_t lost;    /* records that it has not seen, or not answered for */
    uint64_t bad_answers;
    char names[3][NFM_NAME_SIZE]; /* of its counters here */
} nfm_hosted;

typedef struct nfm_hosts {
    nfm_hosted *of[NFM_MAX_MODULES]; /* by module index, NULL in-line */
    uint16_t mask;
    bool ordered;
    bool is_over; /* hosts know that event time has ended */
    bool delivering;
    bool deferring; /* what in-line modules raise is pending, too */
    uint64_t needs; /* events of all hosted modules */
    nfm_hosted_flow *flows;
    nfm_region flows_region;
    nfm_pending *queue;
    uint32_t queue_size; /* a power of two */
    uint64_t head, tail; /* positions in the queue */
    uint32_t at_hand;    /* the record that modules are asked about */
    uint64_t last_of_it; /* position + 1 of the queue's last entry about it */
    uint32_t ordinal;    /* of the next event of the queue's first entry */
} nfm_hosts;

/* ---- hosted.c: rings, answers, lives ---- */

void nfm__hosts_free(nfm_worker *w);
/* Asks the host of |in| about flow |index| (|what|: NFM_ASK_ bits; the record is hosts->at_hand),
 * and notes in the queue that an answer is due. */
void nfm__host_ask(nfm_worker *w, uint32_t index, nfm_instance *in, uint64_t what);
/* A module begins (|packet|) or ceases to work on a flow. */
void nfm__host_open(nfm_worker *w, uint32_t index, nfm_instance *in, const nfm_packet *packet);
void nfm__host_close(nfm_worker *w, uint32_t index, nfm_instance *in);
/* The flow's modules were found anew: those that may have left it meanwhile are back. */
void nfm__hosts_rejoin(nfm_worker *w, uint32_t index, uint16_t modules, const nfm_packet *packet);
void nfm__hosts_tick(nfm_worker *w, int64_t now_ns);
/* Sees what hosts have answered, delivers what is due, shows them what is asked. */
void nfm__hosts_settle(nfm_worker *w);
/* Delivers all that is pending, before subscriptions change. */
void nfm__hosts_drain(nfm_worker *w);
/* Whether packets must wait for hosts. */
bool nfm__hosts_must_wait(nfm_worker *w);
/* Whether hosts have still to answer or to see something. */
bool nfm__hosts_are_busy(const nfm_worker *w);
/* Forgets what is known about subscription sets. */
void nfm__hosts_subs_changed(nfm_worker *w);
void nfm__hosts_end(nfm_worker *w);
/* Whether |host| need not be waited for any longer: call it when it is waited for. */
bool nfm__host_is_overdue(nfm_hosted *host);
void nfm__host_give_up(nfm_hosted *host);

/* ---- pending.c: the queue ---- */

/* Does what nfm__record_emit and the end of emit_totals do, in its turn. */
void nfm__pending_record(nfm_worker *w, uint32_t index, const nfm_record *record);
void nfm__pending_totals(nfm_worker *w, uint32_t index, const nfm_record *record);
/* Queues an application event that an in-line module has raised. */
void nfm__pending_app(nfm_worker *w, const nfm_record *record);
void nfm__pending_add(nfm_worker *w, const nfm_pending *entry);
/* All that refers to the record at hand is in the queue. */
void nfm__pending_end_record(nfm_worker *w);
/* Delivers from the queue what is due; |always|: also when receivers have no room. */
void nfm__pending_deliver(nfm_worker *w, bool always);

/* Whether a record with |events| waits for its turn. */
static inline bool nfm__must_defer(const nfm_worker *w, uint32_t index, uint64_t events) {
    const nfm_hosts *h = w->hosts;
    if (h->ordered && h->head != h->tail)
        return true;
    if (index == NFM_NO_FLOW)
        return false;
    bool asks = (nfm_table_flow(&w->table, index)->modules & h->mask) && (events & h->needs);
    return asks || h->flows[index].pending > 0;
}

/* Whether the queue has passed what was in it at |position| (low bits). */
static inline bool nfm__pending_passed(const nfm_worker *w, uint32_t position) {
    return w->hosts == NULL || (int32_t)((uint32_t)w->hosts->tail - position) >= 0;
}

#endif
