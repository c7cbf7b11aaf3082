/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One worker: a thread's loop over its ports, and everything that only this thread writes.
 *
 * Theory of operation. A burst goes through the stages of worker.c: receive into slots, parse all,
 * prefetch the flow lookup of all, then each packet in order: event time and timers, flow, modules,
 * delivery (path.c). Flows open and close in flows.c. What modules may call back is services.c.
 * A packet owns one reference to its slot until its turn ends; records own further ones.
 */
#ifndef NFM_ENGINE_WORKER_H
#define NFM_ENGINE_WORKER_H

#include "base/pool.h"
#include "base/region.h"
#include "event/inbox.h"
#include "flow/table.h"
#include "flow/wheel.h"
#include "io/port.h"
#include "stack/graph.h"
#include "wire/wire.h"

enum { NFM_MAX_PORTS = 16, NFM_TICK_NS = 100000000 };
#define NFM_LIMBO_PENDING UINT64_MAX /* the epoch is not known before pending_end is reached */

/* A closed flow waiting until no record names it. */
typedef struct nfm_limbo {
    uint32_t flow;
    uint32_t pending_end; /* place in the queue of pending deliveries (hosted.h), low bits */
    uint64_t epoch;       /* recycled when all epochs below this one are released */
} nfm_limbo;

enum nfm_core_counter {
    NFM_CC_EVICTED = 0,      /* flow closed early: table full */
    NFM_CC_FLOW_FULL,        /* packet without flow: table full of busy flows */
    NFM_CC_FRAGMENT_UNKNOWN, /* fragment while ip_defrag does not run */
    NFM_CC_RAISE_LIMIT,      /* application event dropped: no field space or record */
    NFM_CC_TIME_BACK,        /* packet older than the one before: given its time */
    NFM_CC_COMMAND_BAD,      /* command of a receiver that makes no sense */
    NFM_CC_COMMAND_LATE,     /* command about a flow that has ended */
    NFM_CC_CHOICES_FULL,     /* command about a flow: too many different choices */
    NFM_CC_FORWARDED,        /* frames given to ports */
    NFM_CC_FORWARD_FULL,     /* dropped: a port's queue was full */
    NFM_CC_FORWARD_DOWN,     /* dropped: a port's link was down */
    NFM_CC_INLINE_DROPPED,   /* by verdict or policy */
    NFM_CC_INLINE_REJECTED,
    NFM_CC_INLINE_REWRITTEN,
    NFM_CC_INLINE_UNEDITED, /* dropped: could not be rewritten */
    NFM_CC_INLINE_MIRRORED,
    NFM_CC_INLINE_LATE,          /* times that a receiver did not answer by its deadline */
    NFM_CC_INLINE_FAILED_OPEN,   /* packets that passed without a verdict */
    NFM_CC_INLINE_FAILED_CLOSED, /* packets that were dropped without one */
    NFM_CC_INLINE_BAD,           /* verdicts that make no sense */
    NFM_CC_ALIAS_TAKEN,          /* rewritings that another flow's key forbids */
    NFM_CC_FRAGMENTED,           /* datagrams that left in fragments */
    NFM_CC_INLINE_WITHHELD,      /* segments that came before the bytes in front of them */
    NFM_CC_INLINE_AGAIN,         /* runs of bytes judged again */
    NFM_CC_INLINE_NO_ROOM,       /* segments dropped: too much waits, or is not acknowledged */
    NFM_CC_INLINE_BAD_CHECKSUM,  /* segments dropped: nobody would accept them */
    NFM_CC_INLINE_REPLACED,      /* payloads */
    NFM_CC_INLINE_RAISED,        /* events that receivers raised with their verdicts */
    NFM_CC_INLINE_BAD_RAISE,     /* such events that the worker could not take */
    NFM_CC_INJECTED,             /* frames that receivers sent */
    NFM_CC_INJECT_FULL,          /* such frames for which there was no slot */
    NFM_CC_HANDED_OVER,          /* frames given to the workers that own them */
    NFM_CC_TAKEN_OVER,           /* frames that others have given */
    NFM_CC_HANDOVER_FULL,        /* lost: the other worker was behind, or away */
    NFM_CC_KEYS_FULL,            /* flows of others that cannot be found by their second key */
    NFM_CC_COUNT
};

typedef struct nfm_live_state { /* see live.c */
    nfm_live_config config;
    int64_t end_ns;    /* of this turn */
    int64_t active_ns; /* when something happened last, as far as was seen */
    uint64_t signs;    /* of things that happened, then */
} nfm_live_state;

struct nfm_worker {
    nfm_worker_config config;
    nfm_wire_config wire;
    nfm_pool pool;
    nfm_mem mem;
    nfm_table table;
    nfm_wheel wheel;
    nfm_subs subs;
    nfm_delivery delivery;
    nfm_inbox *inboxes[NFM_MAX_DOMAINS]; /* NULL: removed */
    uint32_t n_inboxes;
    nfm_graph graph;
    nfm_region objects[NFM_OBJ_COUNT];

    nfm_port *ports[NFM_MAX_PORTS];
    bool port_done[NFM_MAX_PORTS];
    uint32_t n_ports, next_port;
    uint32_t in_port; /* of the burst at hand */
    nfm_live_state live;
    struct nfm_way *way;                 /* forwarding; NULL: frames only come */
    nfm_ring *rings[NFM_MAX_RINGS];      /* NULL: removed */
    nfm_ring *home_rings[NFM_MAX_RINGS]; /* those of no other domain */
    uint32_t n_rings;
    int port_error; /* first failure of a port, reported by run */

    bool started, finishing, time_known;
    uint32_t full_bursts;  /* since receivers that sleep were woken */
    uint32_t finish_index; /* flows below are closed */
    int64_t now_ns, next_tick_ns;
    int64_t idle_ns[8], update_ns;
    bool wants_update;
    uint64_t packets, bytes, flows_opened, flows_closed;
    uint64_t foreign, foreign_bytes; /* of these, frames left to other workers */
    uint32_t n_workers;              /* that share the packets; 1: all are this one's */
    struct nfm_share *share;         /* how; NULL: alone */
    uint32_t flow_limit; /* flows tracked at once; spare indices let closed ones wait for release */
    uint64_t random;     /* xorshift state: eviction sampling */

    /* what nfm_raise and nfm_detach refer to */
    const nfm_record *trigger;
    uint32_t trigger_flow, trigger_ordinal;
    uint8_t trigger_side;

    struct nfm_hosts *hosts;      /* modules on cores of their own; NULL: none */
    struct nfm_module_host *host; /* this is no worker, but what a hosted module sees of one */

    nfm_region choices; /* u32 by flow index: what receivers chose there; mapped on first use */
    nfm_limbo *limbo;   /* circular, max_flows entries */
    uint32_t limbo_head, limbo_tail;

    uint64_t core_counters[NFM_CC_COUNT];
    uint64_t malformed[NFM_PD_COUNT];
    char malformed_names[NFM_PD_COUNT][40]; /* "malformed.tcp_short" */

    nfm_frame frames[NFM_BURST];
    nfm_packet *burst; /* NFM_BURST packets, aligned */
};

/* What the stack does for a flow: its level and its application modules. */
typedef struct nfm_work {
    uint8_t level;
    uint16_t modules;
} nfm_work;

static inline nfm_work nfm__flow_work(const nfm_flow *flow) {
    return (nfm_work){flow->level, flow->modules};
}

/* Whether subscriptions have changed since the flow's sets were found. */
static inline bool nfm__flow_is_stale(const nfm_worker *w, const nfm_flow *flow) {
    return w->subs.sets[flow->subs[0]].stale; /* both sides are found, and go stale, together */
}

static inline uint64_t nfm__flow_id(const nfm_worker *w, uint32_t index) {
    return (uint64_t)w->config.id << 56 |
           (uint64_t)nfm_table_flow(&w->table, index)->generation << 32 | index;
}

/* ---- objects.c, setup.c ---- */

int nfm__objects_map(nfm_worker *w, nfm_error *err);
void nfm__objects_unmap(nfm_worker *w);
size_t nfm__objects_size(const nfm_worker *w);
int nfm__check_config(const nfm_worker_config *config, nfm_error *err);
int nfm__refuse(nfm_error *err, const char *what); /* NFM_E_INVAL */

static inline bool nfm__is_power_of_two(uint64_t n) {
    return n != 0 && (n & (n - 1)) == 0;
}

/* Tells the modules what subscribers want now. */
void nfm__tell_wanted(nfm_worker *w);
/* Makes changed subscriptions effective; what is pending must be delivered before. */
int nfm__change_subscriptions(nfm_worker *w);

/* ---- services.c ---- */

typedef struct nfm_raised { /* an application event, before it is a record */
    uint64_t fields;        /* offset of its field record */
    uint32_t fields_len;
    uint32_t type, ordinal;
    uint32_t data_off, data_len; /* of the trigger's slot */
    uint8_t side;
} nfm_raised;

/* The record of an event that |trigger| gave rise to. */
nfm_record nfm__raised_record(const nfm_record *trigger, const nfm_raised *raised);
/* Bytes of the field record of own event |event| with |values|, and how it is written. */
uint64_t nfm__fields_len(const nfm_instance *in, uint32_t event, const nfm_value *values);
void nfm__fields_write(const nfm_instance *in, uint32_t event, const nfm_value *values,
                       uint8_t *out);

/* ---- domains.c: receivers with memory of their own ---- */

/* The delivery whose memory the entries of |ring| name. */
nfm_delivery *nfm__delivery_of(nfm_worker *w, const nfm_ring *ring);
/* The inboxes' part of nfm_delivery_adopt; of the end of a burst, tails read; of releasing what was
 * passed, commands taken; and of waiting for receivers. */
int nfm__domains_adopt(nfm_worker *w);
void nfm__domains_publish(nfm_worker *w, bool wake_all);
void nfm__domains_retire(nfm_worker *w);
bool nfm__domains_must_drain(const nfm_worker *w);
void nfm__domains_free(nfm_worker *w);

/* ---- flows.c: the life of flows ---- */

/* Opens a flow for |packet| (whose hash is known); sets packet->flow, flow_index, rec.flow, side.
 * False when the table is full even after eviction. */
bool nfm__flow_open(nfm_worker *w, nfm_packet *packet, uint64_t hash);
/* Ends a flow: remaining data, flow.end, modules' state. Its index goes to limbo. */
void nfm__flow_close(nfm_worker *w, uint32_t index, uint8_t reason);
/* Re-arms the time-out after a packet changed the flow's idle class. */
void nfm__flow_rearm(nfm_worker *w, uint32_t index);
/* Fires what is due at w->now_ns. */
void nfm__flow_timers(nfm_worker *w);
/* Gives indices of closed flows back when their records are released. Between bursts. */
void nfm__flow_recycle(nfm_worker *w);
/* Whether recycling waits for receivers: no more packets until they have passed. */
bool nfm__flow_must_wait(const nfm_worker *w);
/* Computes both sides' subscription sets, modules and level. */
void nfm__flow_subscribe(nfm_worker *w, uint32_t index);
void nfm__flow_set_level(nfm_worker *w, uint32_t index);
/* Opens (at |packet|) and closes the states of the modules that began or ceased to work on a flow.
 */
void nfm__flow_modules_changed(nfm_worker *w, uint32_t index, const nfm_packet *packet,
                               nfm_work before);

/* ---- live.c: ports that do not end ---- */

/* A turn begins. */
void nfm__live_begin(nfm_worker *w);
/* Nothing came: spins or sleeps a little. False: the turn is over, or there are none. */
bool nfm__live_wait(nfm_worker *w);
/* Housekeeping of ports that nothing is sent to. */
void nfm__live_poll(nfm_worker *w);
/* Event time goes on to |now_ns|, which is not before; timers that are due fire. */
void nfm__advance_time(nfm_worker *w, int64_t now_ns);

/* ---- commands.c: what receivers ask for ---- */

/* Begins or ends groups of a receiver's subscriptions on a flow, from its next packet on. */
void nfm__flow_choose(nfm_worker *w, uint32_t index, const nfm_ring *ring, uint32_t group, bool on);
uint32_t nfm__flow_choice(const nfm_worker *w, uint32_t index);
void nfm__flow_forget_choice(nfm_worker *w, uint32_t index);

/* ---- path.c: the way of one packet ---- */

void nfm__packet_process(nfm_worker *w, nfm_packet *packet, uint64_t hash);
/* Event time goes on with |p|, and its frame is counted. */
void nfm__packet_seen(nfm_worker *w, nfm_packet *p);
/* Delivers |record| of flow |index| (NFM_NO_FLOW: none) and shows it to application modules. */
void nfm__record_emit(nfm_worker *w, uint32_t index, const nfm_record *record);
/* Shows |record| to the flow's application modules that need its events. */
void nfm__record_dispatch(nfm_worker *w, uint32_t index, const nfm_record *record);

static inline const nfm_subset *nfm__set_of(const nfm_worker *w, uint32_t index, uint8_t side) {
    return &w->subs.sets[index == NFM_NO_FLOW ? w->subs.catch_all
                                              : nfm_table_flow(&w->table, index)->subs[side]];
}

#endif
