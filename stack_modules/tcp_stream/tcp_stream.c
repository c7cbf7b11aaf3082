/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp_stream hands out the bytes of TCP streams in order, each once, where they lie in their slots.
 *
 * Theory of operation: stream.h. This file takes packets in. The common segment starts at next
 * while nothing is held: it costs a few comparisons and stores. All else goes through slow_path().
 *
 * Where a stream begins. With a SYN, behind it. Without one (midstream) at the first segment, when
 * the peer has acknowledged everything before it; otherwise earlier bytes may still be on their
 * way, so segments are held until the peer acknowledges the lowest of them, or for gap_wait_ms.
 *
 * When a hole is given up. When the receiver acknowledged bytes of it, so that no retransmission
 * will come, and gap_wait_ms passed, because what the capture reordered may still come; in a
 * capture of one direction, when gap_wait_ms passed; at a cap; when the flow ends. A hole is only
 * ever reported in front of bytes that were seen behind it.
 */
#include <stdlib.h>

#include "stream.h"

/* clang-format off */
static const nfm_event_def emits[] = {
    {"tcp.data", NFM_EV_TCP_DATA, 0, NULL, "new bytes of a stream, in order, each once"},
    {"tcp.anomaly.gap", NFM_EV_TCP_GAP, 0, NULL, "bytes of the stream are given up as lost"},
    {"tcp.anomaly.overlap", NFM_EV_TCP_OVERLAP, 0, NULL,
     "a segment covers bytes of another in part"},
    {"tcp.anomaly.inconsistent_overlap", NFM_EV_TCP_INCONSISTENT_OVERLAP, 0, NULL,
     "the same place of the stream was sent with different bytes"},
};
static const nfm_limit_def limits[] = { /* order: enum stream_limit */
    {"flow_slots", 4096, 1, 65535, "out-of-order pieces held for one side of a flow"},
    {"worker_slots", 50, 1, 90, "percent of the packet pool that may be held out of order"},
    {"gap_wait_ms", 1000, 0, 3600000, "event time between an ACK of missing bytes and giving up"},
    {"overlap", OVERLAP_FIRST, 0, OVERLAP_SOLARIS,
     "which copy wins: 0 first, 1 last, 2 bsd, 3 linux, 4 old-linux, 5 windows, 6 solaris"},
    {"urgent", 0, 0, 1, "urgent byte: 0 in line, 1 taken out of the stream (RFC 6093 section 2.1)"},
    {"history_blocks", 1024, 0, 65536,
     "sides whose delivered bytes are remembered (8 KiB each) to notice other bytes later"},
};
/* clang-format on */

static const char *const needs[] = {"tcp.state", NULL};
static const char *const counters[] =
    {/* order: enum stream_counter */
     "held",         "released",     "duplicate_bytes", "flow_cap",  "worker_cap", "far_segment",
     "before_start", "gap_acked",    "gap_end",         "truncated", "rst_data",   "urgent_bytes",
     "overlap",      "inconsistent", "history_stolen",  NULL};

static int start(nfm_ctx *ctx) {
    nfm__stream_self *self = calloc(1, sizeof(*self));
    if (self == NULL)
        return NFM_E_NOMEM;
    ctx->self = self;
    int rc = nfm__held_init(ctx, self);
    if (rc != NFM_OK)
        return rc;
    self->n_blocks = (uint32_t)ctx->limits[LIMIT_HISTORY];
    if (self->n_blocks > 0) {
        self->blocks = calloc(self->n_blocks, sizeof(*self->blocks));
        if (self->blocks == NULL)
            return NFM_E_NOMEM;
    }
    return NFM_OK;
}

static void stop(nfm_ctx *ctx) {
    nfm__stream_self *self = ctx->self;
    if (self == NULL)
        return;
    nfm__held_fini(self);
    free(self->blocks);
    free(self);
    ctx->self = NULL;
}

static void begin_at(nfm__stream_side *s, uint32_t seq) {
    s->next = seq;
    s->off = 0;
    s->acked_ns = 0;
    s->started = 1;
}

/* Starts a midstream side at the lowest byte held. */
static void begin_at_held(nfm__stream_call *call, uint8_t side) {
    nfm__stream_side *s = &call->stream->side[side];
    begin_at(s, nfm__piece_at(call->self, s->head)->seq);
    nfm__deliver_held(call, side);
}

static void on_syn(nfm__stream_call *call, uint8_t side) {
    nfm__stream_side *s = &call->stream->side[side];
    uint32_t first = call->packet->seq + 1;
    if (!s->started) {
        begin_at(s, first);
        nfm__held_drop_before(call, s, first);
    } else if (s->off == 0 && s->head == 0) {
        s->next = first; /* another attempt, before anything was delivered */
    }
}

/* Time zero means "not": an acknowledgement at time zero is noted a nanosecond later. */
static int64_t stamp(const nfm__stream_call *call) {
    return call->now_ns ? call->now_ns : 1;
}

/* Called when |run| may not be held: makes room by giving up the oldest hole. */
static void shed(nfm__stream_call *call, uint8_t side, const nfm__run *run, uint8_t reason) {
    nfm__stream_side *s = &call->stream->side[side];
    call->ctx->counters[reason == NFM_GAP_FLOW_CAP ? COUNT_FLOW_CAP : COUNT_WORKER_CAP]++;
    if (!s->started && s->head != 0)
        begin_at_held(call, side);
    else if (!s->started)
        begin_at(s, run->seq);
    else if (s->head != 0)
        nfm__deliver_past_hole(call, side, nfm__piece_at(call->self, s->head)->seq, reason);
    else
        nfm__deliver_gap(call, side, run->seq, reason, &call->packet->rec);
}

static void drop_front(nfm__run *run, uint32_t n) {
    run->seq += n;
    run->off += n;
    run->len -= n;
}

/* What of |run| can go out at once, ahead of what is held: everything or the part up to the head.
 */
static uint32_t deliverable(const nfm__stream_call *call, const nfm__stream_side *s,
                            const nfm__run *run) {
    if (!s->started || run->seq != s->next)
        return 0;
    if (s->head == 0)
        return run->len;
    uint32_t room = nfm__piece_at(call->self, s->head)->seq - run->seq;
    return room < run->len ? room : run->len;
}

/* Delivers |run|, or holds it, or both in parts. When slots run low, one hole is given up for what
 * is newly held: more would not help at once, since receivers still have the slots. A flow whose
 * bytes are decided on gives no hole up: what cannot be held is as if it had not come. */
static void place(nfm__stream_call *call, uint8_t side, nfm__run run) {
    nfm__stream_side *s = &call->stream->side[side];
    bool low = nfm_slots_free(call->ctx) <= call->self->keep_free;
    while (run.len > 0) {
        int32_t old = s->started ? nfm_seq_diff(s->next, run.seq) : 0;
        if (old > 0) {
            if ((uint32_t)old >= run.len)
                return;
            drop_front(&run, (uint32_t)old);
        }
        uint32_t now = deliverable(call, s, &run);
        bool in_order = s->started && run.seq == s->next;
        if (now < run.len && (in_order || !low) && nfm__held_insert(call, side, run)) {
            nfm__deliver_held(call, side);
            return;
        }
        if (now > 0) {
            nfm__run part = run;
            part.len = now;
            nfm__deliver_run(call, side, &part);
            nfm__deliver_held(call, side);
            drop_front(&run, now);
            continue;
        }
        bool worker = low || call->self->n_used >= call->self->n_pieces;
        if (call->flow->level >= NFM_LEVEL_SPLIT) {
            call->ctx->counters[worker ? COUNT_WORKER_CAP : COUNT_FLOW_CAP]++;
            return;
        }
        low = low && s->head == 0;
        shed(call, side, &run, worker ? NFM_GAP_WORKER_CAP : NFM_GAP_FLOW_CAP);
    }
}

/* The part of |run| before next was delivered (or given up) earlier: compares and drops it. */
static void drop_old(nfm__stream_call *call, uint8_t side, nfm__run *run) {
    nfm__stream_side *s = &call->stream->side[side];
    nfm_packet *p = call->packet;
    int32_t below = nfm_seq_diff(s->next, run->seq);
    if (below <= 0)
        return;
    uint32_t old = (uint32_t)below < run->len ? (uint32_t)below : run->len;
    uint32_t before = (uint64_t)below > s->off ? (uint32_t)((uint64_t)below - s->off) : 0;
    before = before < old ? before : old;
    call->ctx->counters[COUNT_BEFORE_START] += before;
    call->ctx->counters[COUNT_DUPLICATE_BYTES] += old - before;
    if (old < run->len && before < old) {
        call->ctx->counters[COUNT_OVERLAP]++;
        p->rec.events |= NFM_BIT(NFM_EV_TCP_OVERLAP);
    }
    bool asks =
        (p->rec.events & (NFM_BIT(NFM_EV_TCP_KEEP_ALIVE) | NFM_BIT(NFM_EV_TCP_WINDOW_PROBE))) != 0;
    if (before < old && !asks && nfm__history_is_wanted(call->ctx) &&
        nfm__history_differs(call, s, s->off - (uint32_t)below + before,
                             p->base + run->off + before, old - before)) {
        call->ctx->counters[COUNT_INCONSISTENT]++;
        p->rec.events |= NFM_BIT(NFM_EV_TCP_INCONSISTENT_OVERLAP);
    }
    drop_front(run, old);
}

/* Splits the urgent byte out of |run|: the one before the urgent pointer, as BSD and its heirs take
 * it (RFC 6093 section 2.1). */
static void place_around_urgent(nfm__stream_call *call, uint8_t side, nfm__run run) {
    const nfm_packet *p = call->packet;
    uint32_t at = p->seq + ((p->rec.tcp_flags & TH_SYN) != 0) + p->urgent - 1 - run.seq;
    if (at >= run.len) {
        place(call, side, run);
        return;
    }
    nfm__run before = run, urgent = run;
    before.len = at;
    place(call, side, before);
    drop_front(&urgent, at);
    run = urgent;
    urgent.len = 1;
    urgent.kind = PIECE_URGENT;
    place(call, side, urgent);
    drop_front(&run, 1);
    place(call, side, run);
}

/* A side whose SYN was not seen begins at its first segment, or waits: see above. */
static void begin_midstream(nfm__stream_call *call, uint8_t side, uint32_t seq) {
    nfm__stream_side *s = &call->stream->side[side];
    if (s->head == 0 && nfm_seq_diff(seq, call->packet->rec.tcp.una) <= 0)
        begin_at(s, seq);
    else if (s->acked_ns == 0)
        s->acked_ns = stamp(call);
}

static void take_payload(nfm__stream_call *call, uint8_t side) {
    nfm__stream_side *s = &call->stream->side[side];
    const nfm_packet *p = call->packet;
    uint32_t seq = p->seq + ((p->rec.tcp_flags & TH_SYN) != 0);

    if (p->rec.tcp_flags & TH_RST) { /* RFC 9293 section 3.5.3: says why, no stream data */
        call->ctx->counters[COUNT_RST_DATA] += p->rec.payload_len;
        return;
    }
    if (!s->started)
        begin_midstream(call, side, seq);
    if (s->started || s->head != 0) {
        uint32_t at = s->started ? s->next : nfm__piece_at(call->self, s->head)->seq;
        int32_t ahead = nfm_seq_diff(seq, at);
        if (ahead > STREAM_FAR || ahead < -STREAM_FAR) {
            call->ctx->counters[COUNT_FAR_SEGMENT]++;
            return;
        }
    }
    nfm__run run = {seq, p->rec.payload_len, p->rec.payload_off, PIECE_DATA};
    if (s->started)
        drop_old(call, side, &run);
    if ((p->rec.tcp_flags & TH_URG) && call->ctx->limits[LIMIT_URGENT] == 1)
        place_around_urgent(call, side, run);
    else
        place(call, side, run);
    if (p->l4_len > p->rec.payload_len) {
        nfm__run cut = {seq + p->rec.payload_len, p->l4_len - p->rec.payload_len, 0, PIECE_CUT};
        place(call, side, cut);
    }
}

/* The packet's ACK may cover a hole of the other side. */
static void take_ack(nfm__stream_call *call, uint8_t receiver) {
    nfm__stream_side *s = &call->stream->side[receiver ^ 1];
    const nfm_packet *p = call->packet;
    if (s->head == 0 || !(p->rec.tcp_flags & TH_ACK) ||
        (p->rec.events & NFM_BIT(NFM_EV_TCP_UNEXPECTED)))
        return;
    if (!s->started) {
        if (nfm_seq_diff(p->ack, nfm__piece_at(call->self, s->head)->seq) >= 0)
            begin_at_held(call, receiver ^ 1);
        return;
    }
    if (nfm_seq_diff(p->ack, s->next) <= 0)
        return;
    if (s->acked_ns == 0) {
        s->acked_ns = stamp(call);
        s->acked = p->ack;
    } else if (nfm_seq_diff(p->ack, s->acked) > 0)
        s->acked = p->ack;
}

/* Gives up what has been waited for long enough. */
static void check_wait(nfm__stream_call *call, uint8_t side) {
    nfm__stream_side *s = &call->stream->side[side];
    if (s->head == 0)
        return;
    if (s->acked_ns == 0 && call->flow->packets[side ^ 1] == 0 &&
        call->flow->level < NFM_LEVEL_SPLIT) { /* one direction captured */
        s->acked_ns = stamp(call);
        s->acked = nfm__piece_at(call->self, s->head)->seq;
    }
    int64_t wait_ns = (int64_t)call->ctx->limits[LIMIT_GAP_WAIT] * 1000000;
    if (s->acked_ns == 0 || call->now_ns - s->acked_ns < wait_ns)
        return;
    if (!s->started) {
        begin_at_held(call, side);
        return;
    }
    call->ctx->counters[COUNT_GAP_ACKED]++;
    nfm__deliver_past_hole(call, side, s->acked, NFM_GAP_ACKED);
}

static void slow_path(nfm_ctx *ctx, nfm_packet *packet, nfm__stream *stream) {
    uint8_t side = packet->rec.side;
    nfm__stream_call call = {
        .ctx = ctx,
        .self = ctx->self,
        .stream = stream,
        .flow = packet->flow,
        .packet = packet,
        .flow_index = packet->flow_index,
        .now_ns = packet->rec.ts_ns,
    };
    if (packet->rec.tcp_flags & TH_SYN) {
        on_syn(&call, side);
        nfm__deliver_held(&call, side);
    }
    if (packet->l4_len > 0)
        take_payload(&call, side);
    take_ack(&call, side);
    check_wait(&call, side);
    check_wait(&call, side ^ 1);
}

static int on_packet(nfm_ctx *ctx, nfm_packet *packet, void *state) {
    nfm__stream *stream = state;
    nfm_record *rec = &packet->rec;
    nfm__stream_side *own = &stream->side[rec->side];
    uint32_t len = rec->payload_len;
    bool is_held = (stream->side[0].head | stream->side[1].head) != 0;
    bool is_odd = (rec->tcp_flags & (TH_SYN | TH_RST | TH_URG)) != 0 || is_held;

    if (packet->l4_len == 0 && !is_odd)
        return 0;
    if (is_odd || !own->started || packet->seq != own->next || packet->l4_len != len ||
        own->cut != 0 || nfm__history_is_wanted(ctx)) {
        slow_path(ctx, packet, stream);
        return 0;
    }
    rec->tcp.stream_off = own->off;
    rec->tcp.data_off = rec->payload_off;
    rec->tcp.data_len = len;
    rec->events |= NFM_BIT(NFM_EV_TCP_DATA);
    own->next += len;
    own->off += len;
    own->delivered += len;
    return 0;
}

/* Hands out what is still held, holes as gaps, and gives all slots back. */
static void flow_close(nfm_ctx *ctx, nfm_flow *flow, uint32_t flow_index, int64_t now_ns,
                       void *state) {
    nfm__stream *stream = state;
    nfm__stream_call call = {
        .ctx = ctx,
        .self = ctx->self,
        .stream = stream,
        .flow = flow,
        .flow_index = flow_index,
        .now_ns = now_ns,
    };
    for (uint8_t side = 0; side < 2; side++) {
        nfm__stream_side *s = &stream->side[side];
        if (s->head != 0 && !s->started)
            begin_at_held(&call, side);
        while (s->head != 0) {
            ctx->counters[COUNT_GAP_END]++;
            nfm__deliver_past_hole(&call, side, nfm__piece_at(call.self, s->head)->seq,
                                   NFM_GAP_END);
        }
    }
}

static void totals(nfm_ctx *ctx, const nfm_flow *flow, const void *state, nfm_record *record) {
    (void)ctx, (void)flow;
    const nfm__stream *stream = state;
    for (unsigned i = 0; i < 2; i++) {
        record->totals.stream_bytes[i] = stream->side[i].delivered;
        record->totals.gap_bytes[i] = stream->side[i].gap_bytes;
    }
}

extern const nfm_module nfm_module_tcp_stream;
const nfm_module nfm_module_tcp_stream = {
    .abi = NFM_MODULE_ABI,
    .phase = NFM_PHASE_STREAM,
    .name = "tcp_stream",
    .summary = "hands out the bytes of TCP streams in order, without copying",
    .needs = needs,
    .emits = emits,
    .limits = limits,
    .counters = counters,
    .n_emits = sizeof(emits) / sizeof(emits[0]),
    .n_limits = sizeof(limits) / sizeof(limits[0]),
    .flow_size = sizeof(nfm__stream),
    .proto = 6,
    .start = start,
    .stop = stop,
    .flow_close = flow_close,
    .on_packet = on_packet,
    .totals = totals,
};
