/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handing out bytes and gaps, in the order of the stream.
 *
 * The first bytes that the packet being processed brings go out in its own snapshot; when more
 * records follow (pieces that it released, or more of its own), the snapshot is delivered first.
 */
#include <string.h>

#include "stream.h"

static void advance(nfm__stream_side *s, uint32_t len) {
    s->next += len;
    s->off += len;
    s->acked_ns = 0;
}

static void fill_data(const nfm__stream_side *s, nfm_record *rec, uint32_t off, uint32_t len) {
    rec->tcp.stream_off = s->off;
    rec->tcp.data_off = off;
    rec->tcp.data_len = len;
    rec->events |= NFM_BIT(NFM_EV_TCP_DATA);
}

static void account(nfm__stream_call *call, nfm__stream_side *s, const uint8_t *data,
                    uint32_t len) {
    if (nfm__history_is_wanted(call->ctx))
        nfm__history_add(call, s, data, len);
    s->delivered += len;
    advance(s, len);
}

/* Emits a record that is not the packet's snapshot; the snapshot goes first once it has data. */
static void emit(nfm__stream_call *call, const nfm_record *rec) {
    nfm_packet *p = call->packet;
    if (p != NULL && !p->emitted && (p->rec.events & NFM_BIT(NFM_EV_TCP_DATA)))
        nfm_emit_packet(call->ctx, p);
    nfm_emit_record(call->ctx, call->flow, call->flow_index, rec);
}

static void emit_gap(nfm__stream_call *call, uint8_t side, uint64_t stream_off, uint32_t missing,
                     uint8_t reason, const nfm_record *like) {
    nfm__stream_side *s = &call->stream->side[side];
    nfm_record rec = *like;
    rec.ts_ns = call->now_ns;
    rec.events = NFM_BIT(NFM_EV_TCP_GAP);
    rec.kind = NFM_REC_GAP;
    rec.reason = reason;
    rec.side = side;
    rec.slot = NFM_NO_SLOT;
    rec.frame_len = rec.wire_len = rec.payload_len = 0;
    rec.tcp.stream_off = stream_off;
    rec.tcp.data_off = 0;
    rec.tcp.data_len = missing;
    s->gap_bytes = s->gap_bytes > UINT32_MAX - missing ? UINT32_MAX : s->gap_bytes + missing;
    emit(call, &rec);
}

static void report_cut(nfm__stream_call *call, uint8_t side, const nfm_record *like) {
    nfm__stream_side *s = &call->stream->side[side];
    uint32_t cut = s->cut;
    s->cut = 0;
    if (cut > 0)
        emit_gap(call, side, s->off - cut, cut, NFM_GAP_TRUNCATED, like);
}

/* Bytes that a snap length cut off are known to be missing at once, but like any hole they are
 * reported in front of bytes that were seen behind them, and not at the end of a stream. */
static void skip_cut(nfm__stream_call *call, uint8_t side, uint32_t len, const nfm_record *like) {
    nfm__stream_side *s = &call->stream->side[side];
    s->cut += len;
    advance(s, len);
    if (s->cut > UINT32_MAX / 2)
        report_cut(call, side, like);
}

/* Bytes of the packet being processed: in its snapshot, or in a record of their own when that is
 * taken. */
static void deliver_own(nfm__stream_call *call, uint8_t side, const nfm__run *run) {
    nfm__stream_side *s = &call->stream->side[side];
    nfm_packet *p = call->packet;
    report_cut(call, side, &p->rec);
    if (!p->emitted && !(p->rec.events & NFM_BIT(NFM_EV_TCP_DATA))) {
        fill_data(s, &p->rec, run->off, run->len);
    } else {
        nfm_record rec = p->rec;
        rec.events = 0;
        fill_data(s, &rec, run->off, run->len);
        emit(call, &rec);
    }
    account(call, s, p->base + run->off, run->len);
}

/* Bytes of a packet that was processed before. */
static void deliver_other(nfm__stream_call *call, uint8_t side, nfm__piece *piece) {
    nfm__stream_side *s = &call->stream->side[side];
    report_cut(call, side, &piece->rec);
    call->ctx->counters[COUNT_RELEASED]++;
    piece->rec.ts_ns = call->now_ns;
    piece->rec.events = 0;
    fill_data(s, &piece->rec, piece->off, piece->len);
    emit(call, &piece->rec);
    account(call, s, nfm_slot_base(call->ctx, piece->rec.slot) + piece->off, piece->len);
}

/* Takes |len| bytes that nobody will see out of the stream. */
static void deliver_nothing(nfm__stream_call *call, uint8_t side, uint32_t kind, uint32_t len,
                            const nfm_record *like) {
    if (kind == PIECE_CUT) {
        call->ctx->counters[COUNT_TRUNCATED] += len;
        skip_cut(call, side, len, like);
    } else {
        call->ctx->counters[COUNT_URGENT_BYTES] += len;
        report_cut(call, side, like);
        advance(&call->stream->side[side], len);
    }
}

/*
 * nfm__deliver_run hands out a run of the packet being processed that starts at next.
 */
void nfm__deliver_run(nfm__stream_call *call, uint8_t side, const nfm__run *run) {
    if (run->kind == PIECE_DATA)
        deliver_own(call, side, run);
    else
        deliver_nothing(call, side, run->kind, run->len, &call->packet->rec);
}

/* Hands out the head of the list, which starts at next. */
static void deliver_piece(nfm__stream_call *call, uint8_t side) {
    nfm__stream_side *s = &call->stream->side[side];
    nfm__piece *piece = nfm__piece_at(call->self, s->head);
    nfm__run run = {piece->seq, piece->len, piece->off, piece->kind};

    if (piece->kind != PIECE_DATA)
        deliver_nothing(call, side, piece->kind, piece->len, &piece->rec);
    else if (call->packet != NULL && call->packet->rec.packet == piece->rec.packet)
        deliver_own(call, side, &run);
    else
        deliver_other(call, side, piece);
    nfm__held_pop(call, s);
}

/*
 * nfm__deliver_gap hands out the hole from next up to |upto| with |reason|. |like|: a record of the
 * same side whose flow, headers' facts and TCP view the gap takes over.
 */
void nfm__deliver_gap(nfm__stream_call *call, uint8_t side, uint32_t upto, uint8_t reason,
                      const nfm_record *like) {
    nfm__stream_side *s = &call->stream->side[side];
    uint32_t missing = upto - s->next;
    report_cut(call, side, like);
    emit_gap(call, side, s->off, missing, reason, like);
    advance(s, missing);
}

/*
 * nfm__deliver_held hands out held pieces as long as they follow on next without a hole. Nothing
 * while the begin of the stream is not known.
 */
void nfm__deliver_held(nfm__stream_call *call, uint8_t side) {
    nfm__stream_side *s = &call->stream->side[side];
    while (s->started && s->head != 0 && nfm__piece_at(call->self, s->head)->seq == s->next)
        deliver_piece(call, side);
}

/*
 * nfm__deliver_past_hole gives up the hole before the head of the list, as far as |upto| but not
 * beyond the head, and hands out what follows on it.
 */
void nfm__deliver_past_hole(nfm__stream_call *call, uint8_t side, uint32_t upto, uint8_t reason) {
    nfm__stream_side *s = &call->stream->side[side];
    const nfm__piece *head = nfm__piece_at(call->self, s->head);
    if (nfm_seq_diff(upto, head->seq) > 0)
        upto = head->seq;
    if (head->kind == PIECE_CUT)
        skip_cut(call, side, upto - s->next, &head->rec);
    else
        nfm__deliver_gap(call, side, upto, reason, &head->rec);
    nfm__deliver_held(call, side);
}
