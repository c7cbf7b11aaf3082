/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SDK for stack modules. A module is one nfm_module descriptor and a few functions; it includes
 * this header and nothing else of nfmesh. The worker allocates |flow_size| bytes per flow and
 * zeroes them when the flow opens; a module never owns a table of flows. Modules meet only through
 * events. All calls of one worker come from one thread; time comes in with the packet.
 */
#ifndef NFM_MODULE_H
#define NFM_MODULE_H

#include "nfm/nfm.h"

/*
 * Modules on a core of their own. A user may have an application module run by another process
 * (ctx->is_hosted), which is fed by a ring and whose events the worker delivers in the same order.
 * The code of a module need not know, as long as it keeps to what is said here. What differs there:
 * of an nfm_flow only key, protocol, generation and the flag "open" are known; flow_open sees the
 * flow's first packet, or that of the first record when the process began later; ctx->wanted has
 * all bits; nfm_slot_new gives slots of the process' own, and references to the worker's slots
 * cannot be held. A module with |totals| cannot run there.
 */
#define NFM_MODULE_ABI 1u

/* of one packet, from sender to receiver */
typedef struct nfm_key {
    uint8_t addr[2][16]; /* source, destination; IPv4 in the first four bytes, rest zero */
    uint16_t port[2];
    uint8_t proto;
    uint8_t ip_version;
    uint16_t vlan;  /* 0 unless VLANs are part of the key */
    uint32_t scope; /* tunnel id, 0 unless part of the key */
} nfm_key;          /* 44 bytes, no padding */
static_assert(sizeof(nfm_key) == 44, "keys are compared and hashed as bytes");

/* nfm_tcp_opts.seen */
enum nfm_tcp_opt {
    NFM_OPT_MSS = 1,
    NFM_OPT_WSCALE = 2,
    NFM_OPT_SACK_OK = 4,
    NFM_OPT_TIMESTAMP = 8,
    NFM_OPT_SACK = 16,
    NFM_OPT_FASTOPEN = 32,
    NFM_OPT_MD5 = 64,
    NFM_OPT_BAD = 128 /* a length ran past the header: the rest was skipped */
};

typedef struct nfm_tcp_opts {
    uint32_t tsval, tsecr;
    uint16_t mss;
    uint8_t wscale;
    uint8_t seen;
    uint8_t n_sack; /* 0..4 */
    uint8_t pad[3];
    uint32_t sack[4][2];
} nfm_tcp_opts;

struct nfm_flow;

/* One packet on its way through the worker. Lives until the end of its burst. */
typedef struct nfm_packet {
    nfm_record rec;        /* the snapshot under construction: wire fills line 1, modules line 2 */
    uint8_t *base;         /* the slot's start; rec's offsets count from here */
    struct nfm_flow *flow; /* NULL: none */
    uint32_t flow_index;
    uint32_t hash;
    nfm_key key;
    /* TCP header in host order, valid when rec.proto is TCP and status is NFM_PARSE_OK */
    uint32_t seq, ack;
    uint16_t window, urgent;
    uint32_t l4_len; /* bytes of the payload on the wire; rec.payload_len may be cut by snaplen */
    nfm_tcp_opts tcp;
    /* innermost IP */
    uint32_t frag_id;
    uint16_t frag_off; /* bytes */
    uint8_t frag_more;
    uint8_t ttl;
    uint16_t vlan[2];
    uint8_t tunnel_kind;
    uint8_t status; /* enum nfm_parse_status */
    uint32_t tunnel_id;
    uint16_t malformed; /* enum nfm_parse_drop when status is NFM_PARSE_MALFORMED */
    uint8_t emitted;    /* the snapshot was matched and delivered */
    uint8_t depth;      /* tunnel headers peeled */
    uint16_t link_type;
    uint16_t ext_off; /* IPv6: offset in the slot of the fragment header, 0 none */
} nfm_packet;

enum nfm_parse_status {
    NFM_PARSE_OK = 0,       /* L3 and L4 understood (or an L4 without ports) */
    NFM_PARSE_FRAGMENT = 1, /* innermost IP is a fragment: ip_defrag's business */
    NFM_PARSE_OTHER = 2,    /* not IP (ARP, LLDP, ...): packet.other, no flow */
    NFM_PARSE_MALFORMED = 3 /* packet.malformed, no flow */
};

/* The worker's own state of a flow; the states of the tracking and stream modules follow it in the
 * same block of memory, so that a packet's flow is one place to load. */
typedef struct nfm_flow {
    uint32_t subs[2];                /* interned subscription set by side of the sender */
    int64_t last_ns;                 /* event time of the last packet */
    uint32_t timer_next, timer_prev; /* wheel links, flow indices */
    uint32_t packets[2];
    uint64_t payload_bytes[2];
    uint16_t modules;   /* application modules still interested, bit per module */
    uint8_t idle_class; /* enum nfm_idle_class, set by the tracking module */
    uint8_t conn_state; /* enum nfm_conn_state */
    uint8_t flags;      /* enum nfm_flow_flag */
    uint8_t level;      /* max over both sides */
    uint8_t end_reason; /* enum nfm_end_reason, set when the protocol closed */
    uint8_t proto;
    uint32_t generation; /* of this index: part of the flow id */
    nfm_key key;         /* from side 0 to side 1 */
} nfm_flow;
static_assert(sizeof(nfm_flow) == 104, "flow state and two TCP sides share a block of 232 bytes");

enum nfm_flow_flag {
    NFM_FLOW_CLIENT_IS_1 = 1,
    NFM_FLOW_BASIS_SYN = 2,
    NFM_FLOW_BASIS_SYNACK = 4,
    NFM_FLOW_MIDSTREAM = 8,
    NFM_FLOW_OPEN = 16,
    NFM_FLOW_CHOSEN = 32,  /* receivers began or ended subscriptions on this flow */
    NFM_FLOW_RULED = 64,   /* a verdict holds for the rest of it */
    NFM_FLOW_ALIASED = 128 /* the table knows it by the key of its rewritten packets, too */
};

/* What a module may ask the worker. Passed to each of its functions. */
typedef struct nfm_ctx {
    void *self;             /* the module's own memory, set by start() */
    const uint64_t *limits; /* in the order of the descriptor */
    uint64_t *counters;     /* in the order of the descriptor */
    struct nfm_worker *worker;
    const nfm_mem *mem;
    uint64_t wanted;    /* built-in event bits that some subscriber or module wants */
    uint32_t index;     /* of this module in the worker */
    uint32_t is_hosted; /* see "Modules on a core of their own" */
} nfm_ctx;

/* one field of a raised event */
typedef struct nfm_value {
    uint64_t number; /* integers, BOOL, bit pattern of F64, low 64 bits of I64 */
    nfm_view bytes;  /* BYTES, STR, ADDR (16 bytes) */
} nfm_value;

struct nfm_module {
    uint32_t abi;   /* NFM_MODULE_ABI */
    uint32_t phase; /* enum nfm_phase */
    const char *name;
    const char *summary;
    const char *const *needs; /* event names, NULL-terminated */
    const nfm_event_def *emits;
    const nfm_limit_def *limits;
    const char *const *counters; /* NULL-terminated */
    uint32_t n_emits, n_limits;
    uint32_t flow_size;
    uint8_t proto; /* flows it works on: IPPROTO number, 0 any */
    uint8_t pad[3];

    /* Allocates self; returns NFM_OK or a negative status. May be NULL when there is none. */
    int (*start)(nfm_ctx *ctx);
    void (*stop)(nfm_ctx *ctx);
    /* A flow opened by |packet| / is about to be recycled. state: flow_size zeroed bytes. */
    void (*flow_open)(nfm_ctx *ctx, nfm_flow *flow, const nfm_packet *packet, void *state);
    void (*flow_close)(nfm_ctx *ctx, nfm_flow *flow, uint32_t flow_index, int64_t now_ns,
                       void *state);
    /* Phase IP: returns 1 when |packet| is complete (rewritten to a reassembled datagram in a slot
     * of its own), 0 when the module keeps or drops it (counted). */
    int (*on_fragment)(nfm_ctx *ctx, nfm_packet *packet);
    /* Phases TRACK and STREAM. Returns 1 when this packet begins a new connection on an old
     * 5-tuple: the worker closes the flow (NFM_END_REUSED), opens a new one, and calls again. */
    int (*on_packet)(nfm_ctx *ctx, nfm_packet *packet, void *state);
    /* Phase APP: one of the needed events, in order. data: its bytes (see nfm_record_data). */
    void (*on_event)(nfm_ctx *ctx, const nfm_record *record, nfm_view data, void *state);
    /* Fills the module's part of a flow.end / flow.update record. */
    void (*totals)(nfm_ctx *ctx, const nfm_flow *flow, const void *state, nfm_record *record);
    /* Called as event time advances, at most once per 100 ms of it; at the end of all ports with
     * INT64_MAX: release what is held. */
    void (*on_tick)(nfm_ctx *ctx, int64_t now_ns);
};

/* ---- services of the worker --------------------------------------------------------------- */

#pragma GCC visibility push(default)

/* Matches and delivers the snapshot of |packet| now (once; later calls do nothing). */
void nfm_emit_packet(nfm_ctx *ctx, nfm_packet *packet);
/* Matches and delivers one more record of |flow|: data released from held slots, gaps. The record
 * is copied and takes a slot reference of its own; the caller keeps his. */
void nfm_emit_record(nfm_ctx *ctx, nfm_flow *flow, uint32_t flow_index, const nfm_record *record);
/* Whether a subscriber or application module will read the snapshot of |packet|, whose events are
 * set. If not, and the flow's level is NFM_LEVEL_TRACK, line 2 may stay empty. */
bool nfm_snapshot_wanted(nfm_ctx *ctx, const nfm_packet *packet);
/* State of another module's (or the own) flow by index. NULL when that module does not run. */
void *nfm_flow_state(nfm_ctx *ctx, uint32_t flow_index);
/* True when somebody wants own event number |event| on this flow: build its fields only then. */
bool nfm_wanted(nfm_ctx *ctx, uint32_t flow_index, uint32_t event);
/* Raises own event number |event| (index into emits) from within on_event: values has one entry
 * per field, inherited fields of own parents first; |data| lies in the triggering record's slot or
 * is empty. Returns NFM_OK or NFM_E_LIMIT (no room: dropped and counted by the worker). */
int nfm_raise(nfm_ctx *ctx, uint32_t event, const nfm_value *values, nfm_view data);
/* From within on_event: the side that events raised from now on are about (first: the record's). */
void nfm_raise_side(nfm_ctx *ctx, uint8_t side);
/* From within on_event: this flow is not for this module; it gets no more events of it, and the
 * stack stops the work that only this module needed. */
void nfm_detach(nfm_ctx *ctx);

/* Slots. Counted by the worker; a module that keeps bytes past its call takes a reference. */
void nfm_slot_hold(nfm_ctx *ctx, uint32_t slot);
void nfm_slot_release(nfm_ctx *ctx, uint32_t slot);
/* A new slot with room for |len| frame bytes, one reference; NFM_NO_SLOT when none is free. */
uint32_t nfm_slot_new(nfm_ctx *ctx, uint32_t len);
uint8_t *nfm_slot_base(nfm_ctx *ctx, uint32_t slot);
uint32_t nfm_slots_free(const nfm_ctx *ctx);

/* A number that senders do not know, for hash tables keyed by what they send: of live packets
 * another one in each worker, of captures always the same. */
uint64_t nfm_secret(const nfm_ctx *ctx);

/* Parses L4 of a packet whose L3 was just completed (reassembly): proto at payload [off, off+len)
 * of the slot. Tunnels inside are peeled too. Fills key, offsets, status. */
void nfm_reparse(nfm_ctx *ctx, nfm_packet *packet);

#pragma GCC visibility pop

/* ---- small helpers ------------------------------------------------------------------------ */

/* A row of nfm_event_def.fields: what is in cell |cell_| of the field record; inherited cells come
 * first. kind_ is U32, STR, ... */
#define NFM_FIELD(cell_, name_, kind_, unit_, doc_)                                                \
    {                                                                                              \
        .name = name_, .kind = NFM_KIND_##kind_, .source = NFM_FROM_FIELDS, .offset = (cell_)*8,   \
        .unit = unit_, .doc = doc_                                                                 \
    }
/* A row of nfm_module.emits with the array |fields_|; a type without fields has no such array. */
#define NFM_EVENT(name_, fields_, doc_)                                                            \
    {                                                                                              \
        .name = name_, .bit = -1, .n_fields = sizeof(fields_) / sizeof((fields_)[0]),              \
        .fields = fields_, .doc = doc_                                                             \
    }

static inline nfm_value nfm_number(uint64_t number) {
    nfm_value value = {number, {NULL, 0}};
    return value;
}
static inline nfm_value nfm_text(nfm_view bytes) {
    nfm_value value = {0, {bytes.data, bytes.len}};
    return value;
}

static inline uint16_t nfm_read16(const uint8_t *p) {
    return (uint16_t)(p[0] << 8 | p[1]);
}
static inline uint32_t nfm_read24(const uint8_t *p) {
    return (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
}
static inline uint32_t nfm_read32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
static inline void nfm_write16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static inline void nfm_write32(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}
/* Serial arithmetic of sequence numbers (RFC 1982, RFC 9293 section 3.4): a - b as signed. */
static inline int32_t nfm_seq_diff(uint32_t a, uint32_t b) {
    return (int32_t)(a - b);
}

#endif
