/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp_track follows TCP connections from the middle: state of both sides, sequence numbers, round
 * trips, anomalies. It fills line 2 of the snapshot, the flow's client and its time-out class.
 *
 * Theory of operation. Each packet passes three parts in this order: what its options and its ACK
 * say about the peer (track_seq.c), what its sequence numbers say about its sender (track_seq.c),
 * and what its flags do to the connection (track_state.c). In an established connection the third
 * is skipped, and segments in order take a short cut through the first two (in_order). The
 * conn_state is computed again only when a side did something for the first time.
 * State is 128 bytes for both sides; nothing is allocated.
 */
#include "track.h"

/* clang-format off */
static const nfm_event_def emits[] = {
    {"tcp.handshake.syn", NFM_EV_TCP_SYN, 0, NULL, "the first SYN of a connection"},
    {"tcp.handshake.established", NFM_EV_TCP_ESTABLISHED, 0, NULL, "the handshake is complete"},
    {"tcp.state", NFM_EV_TCP_STATE, 0, NULL, "the TCP state of a side or the conn_state changed"},
    {"tcp.end.fin", NFM_EV_TCP_FIN, 0, NULL, "both sides closed their streams"},
    {"tcp.end.reset", NFM_EV_TCP_RESET, 0, NULL, "a valid RST ended the connection"},
    {"tcp.end.timeout", NFM_EV_TCP_TIMEOUT, 0, NULL, "the connection fell silent for too long"},
    {"tcp.anomaly.retransmit", NFM_EV_TCP_RETRANSMIT, 0, NULL, "bytes were sent again"},
    {"tcp.anomaly.spurious", NFM_EV_TCP_SPURIOUS, 0, NULL, "acknowledged bytes were sent again"},
    {"tcp.anomaly.out_of_order", NFM_EV_TCP_OUT_OF_ORDER, 0, NULL, "a segment was overtaken"},
    {"tcp.anomaly.zero_window", NFM_EV_TCP_ZERO_WINDOW, 0, NULL, "the sender has no room left"},
    {"tcp.anomaly.window_probe", NFM_EV_TCP_WINDOW_PROBE, 0, NULL, "asks whether a window opened"},
    {"tcp.anomaly.keep_alive", NFM_EV_TCP_KEEP_ALIVE, 0, NULL, "asks whether the peer is there"},
    {"tcp.anomaly.bad_checksum", NFM_EV_TCP_BAD_CHECKSUM, 0, NULL, "the checksum is wrong"},
    {"tcp.anomaly.midstream", NFM_EV_TCP_MIDSTREAM, 0, NULL, "the handshake was not seen"},
    {"tcp.anomaly.unexpected", NFM_EV_TCP_UNEXPECTED, 0, NULL, "not allowed in this state"},
    {"tcp.anomaly.duplicate_ack", NFM_EV_TCP_DUPLICATE_ACK, 0, NULL, "the same ACK again"},
};
/* clang-format on */

static const char *const needs[] = {"packet.tcp", NULL};
/* order: enum track_counter */
static const char *const counters[] = {"reused",        "reused_open", "bad_ack",  "bad_rst",
                                       "rst_in_window", "far_segment", "paws_old", "no_ack_flag",
                                       "bad_option",    NULL};

static void flow_open(nfm_ctx *ctx, nfm_flow *flow, const nfm_packet *packet, void *state) {
    (void)ctx, (void)state;
    flow->idle_class = NFM_IDLE_TCP_SYN;
    flow->conn_state = NFM_CS_OTH;
    if (!(packet->rec.tcp_flags & TH_SYN))
        flow->flags |= NFM_FLOW_MIDSTREAM;
}

/* What this segment makes its sender, in the bits that the conn_state depends on. */
static unsigned shown(const nfm__track_seg *seg) {
    unsigned bits = SIDE_PACKET;
    if (seg->flags & TH_SYN)
        bits |= seg->flags & TH_ACK ? SIDE_SYNACK : SIDE_SYN;
    if ((seg->flags & (TH_SYN | TH_FIN | TH_RST | TH_ACK)) == TH_ACK)
        bits |= SIDE_ACK;
    if (seg->len > 0)
        bits |= SIDE_DATA;
    return bits;
}

/* All that in_order() relies on about a side. */
enum { HEARD = SIDE_PACKET | SIDE_BASE | SIDE_NEXT };

/* Whether the state machine rests whatever the segments that follow show for the first time about
 * their sender, as long as they have no SYN, FIN or RST. (Without an RST, the conn_state does not
 * depend on first ACKs and first data.) */
static bool is_usual(const nfm__track_seg *seg) {
    unsigned conn = seg->track->conn, own = seg->own->flags, peer = seg->peer->flags;
    bool decided = (conn & CONN_ESTABLISHED) || !((own | peer) & (SIDE_SYN | SIDE_SYNACK));
    return (conn & CONN_STEADY) && decided && (own & peer & HEARD) == HEARD;
}

/* The parts that only the begin, the end or an oddity of a connection needs. */
static void handle_flags(nfm__track_seg *seg) {
    nfm__track *t = seg->track;
    int before = t->side[0].state << 8 | t->side[1].state;
    unsigned old_flags = seg->own->flags, old_conn = t->conn;

    if (!((seg->own->flags | seg->peer->flags) & SIDE_PACKET) &&
        (seg->flow->flags & NFM_FLOW_MIDSTREAM))
        seg->events |= NFM_BIT(NFM_EV_TCP_MIDSTREAM);
    if (seg->flags & TH_SYN) {
        nfm__track_client(seg);
        if (!(seg->flags & TH_ACK) && !((seg->own->flags | seg->peer->flags) & SIDE_SYN))
            seg->events |= NFM_BIT(NFM_EV_TCP_SYN);
    }
    seg->own->flags |= (uint16_t)shown(seg);
    nfm__track_state(seg);
    if (seg->own->flags != old_flags || t->conn != old_conn) {
        uint8_t word = nfm__track_conn_state(t, seg->flow);
        if (word != seg->flow->conn_state)
            seg->events |= NFM_BIT(NFM_EV_TCP_STATE);
        seg->flow->conn_state = word;
    }
    t->conn = (uint8_t)(is_usual(seg) ? t->conn | CONN_USUAL : t->conn & ~CONN_USUAL);
    if ((t->side[0].state << 8 | t->side[1].state) != before)
        seg->events |= NFM_BIT(NFM_EV_TCP_STATE);
}

static void fill_snapshot(const nfm__track *t, nfm_packet *packet) {
    nfm_record *rec = &packet->rec;
    const nfm_flow *flow = packet->flow;
    unsigned side = rec->side;
    const nfm__track_side *own = &t->side[side], *peer = &t->side[side ^ 1];
    nfm_tcp_view *v = &rec->tcp;

    v->stream_off = 0;
    v->data_off = v->data_len = 0;
    v->seq = packet->seq;
    v->ack = packet->ack;
    v->window = own->window;
    v->next = own->next;
    v->una = own->una;
    v->peer_next = peer->flags & SIDE_NEXT ? peer->next : peer->una;
    v->rtt_us = own->rtt_us;
    v->packets = flow->packets[side] + 1; /* the worker counts this one after tracking */
    v->retransmits = own->retransmits;
    v->state[0] = t->side[0].state;
    v->state[1] = t->side[1].state;
    v->mss = own->mss;
    v->payload_bytes = flow->payload_bytes[side] + packet->l4_len;
    rec->conn_state = flow->conn_state;
    static_assert(NFM_F_CLIENT_IS_1 == NFM_FLOW_CLIENT_IS_1 << 6 &&
                      NFM_F_BASIS_SYN == NFM_FLOW_BASIS_SYN << 7 &&
                      NFM_F_BASIS_SYNACK == NFM_FLOW_BASIS_SYNACK << 7 &&
                      NFM_F_MIDSTREAM == NFM_FLOW_MIDSTREAM << 7,
                  "flow flags are shifted into the record's");
    unsigned f = flow->flags;
    rec->flags |=
        (uint16_t)((f & NFM_FLOW_CLIENT_IS_1) << 6 |
                   (f & (NFM_FLOW_BASIS_SYN | NFM_FLOW_BASIS_SYNACK | NFM_FLOW_MIDSTREAM)) << 7);
}

/*
 * The usual segment, in few instructions: both sides are known, it starts at next, its ACK is
 * possible, it is not a duplicate ACK, windows are open. Does what options(), ack() and sequence()
 * of track_seq.c would do; returns false, with nothing changed, when it is another kind.
 */
static inline bool in_order(nfm__track *t, const nfm_packet *p) {
    enum { PSH = 8 };
    unsigned side = p->rec.side, fin = p->rec.tcp_flags & TH_FIN;
    nfm__track_side *own = t->side + side, *peer = t->side + (side ^ 1);
    int32_t acked = nfm_seq_diff(p->ack, peer->una);
    uint32_t sent = p->l4_len + fin;

    static_assert(TH_FIN == 1, "a FIN takes one sequence number");
    if ((p->rec.tcp_flags & ~(PSH | TH_FIN)) != TH_ACK || p->seq != own->next ||
        (own->flags & peer->flags & HEARD) != HEARD || acked < (sent == 0) ||
        nfm_seq_diff(p->ack, peer->next) > 0 || p->window == 0 || peer->window == 0 ||
        (own->flags & SIDE_PROBED) || (p->rec.flags & NFM_F_BAD_L4_CSUM))
        return false;
    if (p->tcp.seen) {
        if (p->tcp.seen != NFM_OPT_TIMESTAMP || !(own->flags & SIDE_TS) ||
            nfm_seq_diff(p->tcp.tsval, own->ts_recent) < 0)
            return false;
        own->ts_recent = p->tcp.tsval;
    }
    uint32_t now_us = (uint32_t)((uint64_t)p->rec.ts_ns / 1000);
    if (acked > 0) {
        peer->una = p->ack;
        own->dup_acks = 0;
        if (peer->flags & SIDE_RTT)
            nfm__track_end_sample(peer, p, now_us);
    }
    own->window = (uint32_t)p->window << own->wscale;
    if (sent > 0) {
        own->next = p->seq + sent;
        own->sent_at = now_us;
        if (!(own->flags & SIDE_RTT))
            nfm__track_begin_sample(own, p, own->next, now_us);
    }
    return true;
}

/* Takes in the numbers of any other segment. Returns 1 when it opens another connection. */
static int take_numbers(nfm__track_seg *seg) {
    const nfm_packet *packet = seg->packet;
    const nfm__track *t = seg->track;
    if ((seg->flags & TH_SYN) && nfm__track_is_new(seg)) {
        seg->counters[t->conn & CONN_STEADY ? COUNT_REUSED_OPEN : COUNT_REUSED]++;
        return 1;
    }
    if (packet->rec.flags & NFM_F_BAD_L4_CSUM)
        seg->events |= NFM_BIT(NFM_EV_TCP_BAD_CHECKSUM);
    if (packet->tcp.seen || (seg->flags & TH_SYN))
        nfm__track_options(seg);
    if (seg->flags & TH_RST)
        return 0;
    if (seg->flags & TH_ACK)
        nfm__track_ack(seg);
    else if (seg->flags & TH_SYN)
        seg->own->window = packet->window;
    else { /* RFC 9293 section 3.10.7.4, fifth: dropped by any receiver */
        seg->counters[COUNT_NO_ACK_FLAG]++;
        seg->events |= NFM_BIT(NFM_EV_TCP_UNEXPECTED);
    }
    nfm__track_sequence(seg);
    return 0;
}

/* What a segment needs beyond in_order(). Returns 1 when it opens another connection. */
__attribute__((noinline)) static int track_rest(nfm_ctx *ctx, nfm__track *t, nfm_packet *packet,
                                                bool was_in_order) {
    uint8_t side = packet->rec.side, flags = packet->rec.tcp_flags;
    nfm__track_seg seg = {
        .track = t,
        .own = &t->side[side],
        .peer = &t->side[side ^ 1],
        .packet = packet,
        .flow = packet->flow,
        .counters = ctx->counters,
        .now_us = (uint32_t)((uint64_t)packet->rec.ts_ns / 1000),
        .len = packet->l4_len,
        .end = packet->seq + packet->l4_len + ((flags & TH_SYN) != 0) + ((flags & TH_FIN) != 0),
        .side = side,
        .flags = flags,
    };
    if (!was_in_order && take_numbers(&seg) == 1)
        return 1;
    if (!(t->conn & CONN_STEADY) || (flags & (TH_SYN | TH_FIN | TH_RST)) ||
        (shown(&seg) & ~seg.own->flags))
        handle_flags(&seg);
    packet->rec.events |= seg.events;
    return 0;
}

static int on_packet(nfm_ctx *ctx, nfm_packet *packet, void *state) {
    nfm__track *t = state;
    bool is_in_order = in_order(t, packet);
    if (is_in_order && (t->conn & CONN_USUAL) && !(packet->rec.tcp_flags & TH_FIN))
        t->side[packet->rec.side].flags |= packet->l4_len > 0 ? SIDE_ACK | SIDE_DATA : SIDE_ACK;
    else if (track_rest(ctx, t, packet, is_in_order) == 1)
        return 1;
    if (packet->flow->level > NFM_LEVEL_TRACK || nfm_snapshot_wanted(ctx, packet))
        fill_snapshot(t, packet);
    return 0;
}

static void totals(nfm_ctx *ctx, const nfm_flow *flow, const void *state, nfm_record *record) {
    (void)ctx, (void)flow;
    const nfm__track *t = state;
    for (unsigned i = 0; i < 2; i++) {
        record->totals.retransmits[i] = t->side[i].retransmits;
        record->totals.out_of_order[i] = t->side[i].out_of_order;
    }
}

extern const nfm_module nfm_module_tcp_track;
const nfm_module nfm_module_tcp_track = {
    .abi = NFM_MODULE_ABI,
    .phase = NFM_PHASE_TRACK,
    .name = "tcp_track",
    .summary = "follows TCP connections: state, sequence numbers, round trips, anomalies",
    .needs = needs,
    .emits = emits,
    .counters = counters,
    .n_emits = sizeof(emits) / sizeof(emits[0]),
    .flow_size = sizeof(nfm__track),
    .proto = 6,
    .flow_open = flow_open,
    .on_packet = on_packet,
    .totals = totals,
};
