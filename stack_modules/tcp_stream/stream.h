/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tcp_stream keeps, and the parts of it.
 *
 * Theory of operation. A stream is a run of sequence numbers of one side. |next| is the first one
 * not delivered, |off| its distance from the begin of the stream in 64 bits, holes included. A
 * segment that starts at next is delivered where it lies, in its packet's own snapshot. One that
 * starts later is held: its slot gets a reference, and a piece (where its bytes are, and the
 * snapshot of its packet) is linked into the side's list, which is sorted and free of overlaps.
 * When next reaches the head of the list, pieces leave it as records of their own.
 *
 * Pieces come from a slab of the worker. They are also used for two kinds of bytes that nobody can
 * have: the tail that a snapped capture cut off, and an urgent byte taken out of line.
 *
 * Files: tcp_stream.c takes packets in; held.c keeps the sorted list and applies the overlap
 * policy; deliver.c hands bytes and gaps out; history.c remembers delivered bytes as fingerprints.
 *
 * Rules:
 *  1. Delivered bytes are final. Policies choose among bytes that nobody has seen yet.
 *  2. Records leave in the order of the stream, each byte in at most one.
 *  3. A piece with a slot owns one reference to it.
 */
#ifndef NFM_TCP_STREAM_H
#define NFM_TCP_STREAM_H

#include "nfm/module.h"

enum { TH_SYN = 2, TH_RST = 4, TH_ACK = 16, TH_URG = 32 };

enum stream_limit {
    LIMIT_FLOW_SLOTS,
    LIMIT_WORKER_SLOTS,
    LIMIT_GAP_WAIT,
    LIMIT_OVERLAP,
    LIMIT_URGENT,
    LIMIT_HISTORY
};

/* values of the limit "overlap" */
enum stream_overlap {
    OVERLAP_FIRST,
    OVERLAP_LAST,
    OVERLAP_BSD,
    OVERLAP_LINUX,
    OVERLAP_OLD_LINUX,
    OVERLAP_WINDOWS,
    OVERLAP_SOLARIS
};

enum stream_counter {
    COUNT_HELD,
    COUNT_RELEASED,
    COUNT_DUPLICATE_BYTES,
    COUNT_FLOW_CAP,
    COUNT_WORKER_CAP,
    COUNT_FAR_SEGMENT,
    COUNT_BEFORE_START,
    COUNT_GAP_ACKED,
    COUNT_GAP_END,
    COUNT_TRUNCATED,
    COUNT_RST_DATA,
    COUNT_URGENT_BYTES,
    COUNT_OVERLAP,
    COUNT_INCONSISTENT,
    COUNT_HISTORY_STOLEN
};

/* No path keeps more in flight: segments further from next are noise or forged. */
enum { STREAM_FAR = 1 << 24 };

enum piece_kind { PIECE_DATA, PIECE_CUT, PIECE_URGENT };

typedef struct nfm__piece {
    uint32_t next, prev; /* index + 1, 0 none */
    uint32_t seq, len;
    uint32_t off; /* of its bytes, from the slot's start */
    uint32_t kind;
    nfm_record rec; /* of the packet that brought it; rec.slot is its slot */
} nfm__piece;

typedef struct nfm__stream_side {
    uint64_t off;        /* stream offset of next */
    uint64_t delivered;  /* bytes handed out */
    int64_t acked_ns;    /* when the head hole was first seen acknowledged, 0 not yet */
    uint32_t next;       /* sequence number of the first byte not delivered */
    uint32_t acked;      /* how far, valid when acked_ns is */
    uint32_t head, tail; /* held pieces, index + 1, 0 none */
    uint32_t n_held;
    uint32_t gap_bytes; /* saturates */
    uint32_t history;   /* block of fingerprints, index + 1, 0 none */
    uint32_t ticket;    /* ours while the block still carries it */
    uint32_t cut;       /* bytes before next that the snap length cut, not reported yet */
    uint8_t started;    /* next is known */
    uint8_t pad[3];
} nfm__stream_side;

/* per flow */
typedef struct nfm__stream {
    nfm__stream_side side[2];
} nfm__stream;
static_assert(sizeof(nfm__stream) == 128, "two cache lines per flow");

/* Fingerprints of the last HISTORY_BYTES delivered bytes of one side, 4 bits each. */
enum { HISTORY_BYTES = 16384 };
typedef struct nfm__history {
    uint64_t begin, end; /* stream offsets covered: end - begin <= HISTORY_BYTES */
    uint32_t ticket;     /* of its owner */
    uint32_t key;
    uint8_t nibbles[HISTORY_BYTES / 2];
} nfm__history;

/* per worker */
typedef struct nfm__stream_self {
    nfm__piece *pieces;
    uint32_t n_pieces, n_used, fresh, free; /* free: index + 1 of the first free piece */
    uint32_t keep_free;                     /* slots that the worker needs for going on */
    nfm__history *blocks;
    uint32_t n_blocks, next_block, last_ticket;
} nfm__stream_self;

/* One call of the worker: whom it is about, and the packet that is being processed, if any. */
typedef struct nfm__stream_call {
    nfm_ctx *ctx;
    nfm__stream_self *self;
    nfm__stream *stream;
    nfm_flow *flow;
    nfm_packet *packet; /* NULL: the flow closes */
    uint32_t flow_index;
    int64_t now_ns;
} nfm__stream_call;

/* A run of bytes of the packet being processed. */
typedef struct nfm__run {
    uint32_t seq, len;
    uint32_t off; /* from the slot's start */
    uint32_t kind;
} nfm__run;

static inline nfm__piece *nfm__piece_at(const nfm__stream_self *self, uint32_t link) {
    return &self->pieces[link - 1];
}

static inline bool nfm__history_is_wanted(const nfm_ctx *ctx) {
    return (ctx->wanted & NFM_BIT(NFM_EV_TCP_INCONSISTENT_OVERLAP)) != 0;
}

/* held.c */
int nfm__held_init(nfm_ctx *ctx, nfm__stream_self *self);
void nfm__held_fini(nfm__stream_self *self);
bool nfm__held_insert(nfm__stream_call *call, uint8_t side, nfm__run run);
void nfm__held_pop(nfm__stream_call *call, nfm__stream_side *s);
void nfm__held_drop_before(nfm__stream_call *call, nfm__stream_side *s, uint32_t seq);

/* deliver.c */
void nfm__deliver_run(nfm__stream_call *call, uint8_t side, const nfm__run *run);
void nfm__deliver_held(nfm__stream_call *call, uint8_t side);
void nfm__deliver_gap(nfm__stream_call *call, uint8_t side, uint32_t upto, uint8_t reason,
                      const nfm_record *like);
void nfm__deliver_past_hole(nfm__stream_call *call, uint8_t side, uint32_t upto, uint8_t reason);

/* history.c */
void nfm__history_add(nfm__stream_call *call, nfm__stream_side *s, const uint8_t *data,
                      uint32_t len);
bool nfm__history_differs(nfm__stream_call *call, const nfm__stream_side *s, uint64_t off,
                          const uint8_t *data, uint32_t len);

#endif
