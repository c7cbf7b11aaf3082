/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state machine of a connection watched from the middle, who the client is, and the word that
 * sums the connection up.
 *
 * Theory of operation. RFC 9293 section 3.3.2 describes one end; here both are followed at once
 * from the segments that pass. A segment moves its sender when it is sent and its receiver as if
 * it arrived at once. The handshake is complete when each side was seen to acknowledge the other's
 * SYN, in whatever order the SYNs crossed: that covers the three-way handshake, simultaneous open
 * and a handshake split into SYN, ACK, SYN, ACK. Where a capture shows one direction only, the
 * client's first ACK is taken as proof of the SYN-ACK that it answers.
 *
 * The conn_state follows Zeek's vocabulary and depends on nothing but what each side has sent so
 * far (track_side_flag), so it is computed again only when one of those bits changes.
 *
 * Rules of this file:
 *  1. A RST closes only when it is exact: its sequence number lies between what its receiver
 *     acknowledged and what its sender sent (RFC 5961 section 3.2); in SYN-SENT it must acknowledge
 *     the SYN. A RST elsewhere in the window is answered by a challenge ACK and ends nothing.
 *  2. A SYN without ACK whose sequence number differs from the side's ISN opens a new connection.
 */
#include "track.h"

static inline bool has(const nfm__track_side *side, unsigned flag) {
    return (side->flags & flag) != 0;
}

/*
 * nfm__track_is_new is asked for segments with SYN. True: the segment opens another connection on
 * this 5-tuple and must not be tracked here.
 */
bool nfm__track_is_new(const nfm__track_seg *seg) {
    const nfm__track_side *own = seg->own, *peer = seg->peer;
    if (!has(own, SIDE_BASE) || seg->packet->seq == own->isn)
        return false;
    if (!(seg->flags & TH_ACK)) /* a handshake split into ACK and SYN is still the same one */
        return has(own, SIDE_SYN | SIDE_SYNACK) || peer->state != NFM_TCP_SYN_SENT;
    /* a SYN-ACK whose SYN was missed, after the old connection ended */
    bool ended = own->state == NFM_TCP_CLOSED || peer->state == NFM_TCP_CLOSED;
    return ended && has(peer, SIDE_BASE) && seg->packet->ack != peer->isn + 1;
}

/*
 * nfm__track_client decides who opened the connection: whoever sent a SYN, else whoever a SYN-ACK
 * answers, else (as the worker chose at the first packet) side 0. For segments with SYN.
 */
void nfm__track_client(nfm__track_seg *seg) {
    nfm_flow *flow = seg->flow;
    uint8_t client;
    if (flow->flags & NFM_FLOW_BASIS_SYN)
        return;
    if (seg->flags & TH_ACK) {
        if (flow->flags & NFM_FLOW_BASIS_SYNACK)
            return;
        client = seg->side ^ 1;
        flow->flags |= NFM_FLOW_BASIS_SYNACK;
    } else {
        client = seg->side;
        flow->flags = (uint8_t)((flow->flags & ~NFM_FLOW_BASIS_SYNACK) | NFM_FLOW_BASIS_SYN);
    }
    if (client == 1)
        flow->flags |= NFM_FLOW_CLIENT_IS_1;
    else
        flow->flags &= (uint8_t)~NFM_FLOW_CLIENT_IS_1;
}

static void establish(nfm__track_seg *seg) {
    nfm__track *t = seg->track;
    seg->own->state = seg->peer->state = NFM_TCP_ESTABLISHED;
    t->conn |= CONN_ESTABLISHED | CONN_STEADY;
    seg->flow->idle_class = NFM_IDLE_TCP_EST;
    seg->events |= NFM_BIT(NFM_EV_TCP_ESTABLISHED);
    t->handshake_us = has(seg->own, SIDE_SYN) ? seg->now_us - t->handshake_us : 0;
}

static void on_syn(nfm__track_seg *seg) {
    nfm__track_side *own = seg->own, *peer = seg->peer;
    if (own->state == NFM_TCP_NONE || own->state == NFM_TCP_SYN_SENT) {
        bool crossed = !(seg->flags & TH_ACK) && peer->state == NFM_TCP_SYN_SENT;
        own->state = seg->flags & TH_ACK || crossed ? NFM_TCP_SYN_RECEIVED : NFM_TCP_SYN_SENT;
        if (crossed)
            peer->state = NFM_TCP_SYN_RECEIVED;
        else if (peer->state == NFM_TCP_NONE && (seg->flags & TH_ACK))
            peer->state = NFM_TCP_SYN_SENT; /* its SYN was missed */
    } else if (own->state >= NFM_TCP_ESTABLISHED && !(seg->events & NFM_BIT(NFM_EV_TCP_RETRANSMIT)))
        seg->events |= NFM_BIT(NFM_EV_TCP_UNEXPECTED);
}

/* Is the handshake complete with this segment? */
static bool is_complete(const nfm__track_seg *seg) {
    const nfm__track_side *own = seg->own, *peer = seg->peer;
    if (!(seg->flags & TH_ACK) || (seg->flags & TH_RST))
        return false;
    bool own_syn = has(own, SIDE_SYN | SIDE_SYNACK), peer_syn = has(peer, SIDE_SYN | SIDE_SYNACK);
    if (own_syn && peer_syn)
        return nfm_seq_diff(own->una, own->isn) > 0 && nfm_seq_diff(peer->una, peer->isn) > 0;
    if (own_syn) /* the peer's SYN-ACK was missed: a later ACK proves it */
        return has(own, SIDE_SYN) && !(seg->flags & TH_SYN);
    return false;
}

/* A flow that began in the middle counts as established when both sides were heard. */
static void join_midstream(nfm__track_seg *seg) {
    if (seg->own->state == NFM_TCP_NONE)
        seg->own->state = NFM_TCP_ESTABLISHED;
    if (seg->peer->state == NFM_TCP_ESTABLISHED) {
        seg->flow->idle_class = NFM_IDLE_TCP_EST;
        seg->track->conn |= CONN_STEADY;
    }
}

static void on_fin(nfm__track_seg *seg) {
    nfm__track_side *own = seg->own, *peer = seg->peer;
    bool again = has(own, SIDE_FIN);
    if (again)
        return;
    own->flags |= SIDE_FIN;
    own->fin_end = seg->end;
    seg->flow->idle_class = NFM_IDLE_TCP_CLOSE;
    seg->track->conn &= (uint8_t)~CONN_STEADY;
    if (!has(peer, SIDE_FIN)) {
        own->state = NFM_TCP_FIN_WAIT_1;
        if (peer->state == NFM_TCP_ESTABLISHED)
            peer->state = NFM_TCP_CLOSE_WAIT;
        return;
    }
    seg->events |= NFM_BIT(NFM_EV_TCP_FIN);
    if (!(seg->track->conn & CONN_RST))
        seg->track->conn |= CONN_FINS_FIRST;
    if (has(peer, SIDE_FIN_ACKED)) {
        own->state = NFM_TCP_LAST_ACK;
        peer->state = NFM_TCP_TIME_WAIT;
    } else /* the FINs crossed (RFC 9293 section 3.6, case 3) */
        own->state = peer->state = NFM_TCP_CLOSING;
}

/* The segment's ACK may cover the peer's FIN. */
static void on_fin_acked(nfm__track_seg *seg) {
    nfm__track_side *own = seg->own, *peer = seg->peer;
    if (!has(peer, SIDE_FIN) || has(peer, SIDE_FIN_ACKED) ||
        nfm_seq_diff(peer->una, peer->fin_end) < 0)
        return;
    peer->flags |= SIDE_FIN_ACKED;
    if (peer->state == NFM_TCP_FIN_WAIT_1)
        peer->state = NFM_TCP_FIN_WAIT_2;
    else if (peer->state == NFM_TCP_CLOSING)
        peer->state = NFM_TCP_TIME_WAIT;
    else if (peer->state == NFM_TCP_LAST_ACK)
        peer->state = NFM_TCP_CLOSED;
    if (has(own, SIDE_FIN_ACKED)) {
        seg->flow->idle_class = NFM_IDLE_TCP_GONE;
        if (seg->flow->end_reason == NFM_END_NONE)
            seg->flow->end_reason = NFM_END_FIN;
    }
}

enum rst_verdict { RST_EXACT, RST_IN_WINDOW, RST_OUTSIDE };

/* RFC 5961 section 3.2, RFC 9293 section 3.10.7.3 (SYN-SENT) and 3.10.7.4. */
static enum rst_verdict judge_rst(const nfm__track_seg *seg) {
    const nfm__track_side *own = seg->own, *peer = seg->peer;
    const nfm_packet *p = seg->packet;

    if (!has(own, SIDE_NEXT) && has(peer, SIDE_SYN) && !has(peer, SIDE_ACK)) {
        if (!(seg->flags & TH_ACK))
            return p->seq == 0 || !has(own, SIDE_BASE) ? RST_EXACT : RST_OUTSIDE;
        return nfm_seq_diff(p->ack, peer->isn) > 0 && nfm_seq_diff(p->ack, peer->next) <= 0
                   ? RST_EXACT
                   : RST_OUTSIDE;
    }
    if (!has(own, SIDE_BASE))
        return RST_EXACT;
    uint32_t low = own->una, high = has(own, SIDE_NEXT) ? own->next : own->una;
    if (nfm_seq_diff(high, low) < 0)
        high = low;
    if (nfm_seq_diff(p->seq, low) >= 0 && nfm_seq_diff(p->seq, high) <= 0)
        return RST_EXACT;
    if (has(own, SIDE_FIN) && p->seq + 1 == own->fin_end)
        return RST_EXACT; /* stacks that do not count their FIN */
    uint32_t offset = p->seq - low;
    return offset < peer->window ? RST_IN_WINDOW : RST_OUTSIDE;
}

static void on_rst(nfm__track_seg *seg) {
    enum rst_verdict verdict = judge_rst(seg);
    if (verdict != RST_EXACT) {
        seg->counters[verdict == RST_OUTSIDE ? COUNT_BAD_RST : COUNT_RST_IN_WINDOW]++;
        seg->events |= NFM_BIT(NFM_EV_TCP_UNEXPECTED);
        return;
    }
    nfm__track *t = seg->track;
    if (!(t->conn & CONN_RST)) {
        t->conn |= seg->side ? CONN_RST | CONN_RST_SIDE_1 : CONN_RST;
        seg->events |= NFM_BIT(NFM_EV_TCP_RESET);
    }
    t->conn &= (uint8_t)~CONN_STEADY;
    seg->own->flags |= SIDE_RST;
    seg->own->state = seg->peer->state = NFM_TCP_CLOSED;
    seg->flow->idle_class =
        NFM_IDLE_TCP_CLOSE; /* a reset for one copy of a segment need not be the end */
    if (seg->flow->end_reason == NFM_END_NONE)
        seg->flow->end_reason = NFM_END_RESET;
}

/*
 * nfm__track_state moves both sides' RFC 9293 states by one segment whose numbers were taken in
 * before. Skipped by the caller while CONN_STEADY holds and the segment has no SYN, FIN or RST.
 */
void nfm__track_state(nfm__track_seg *seg) {
    nfm__track *t = seg->track;
    nfm__track_side *own = seg->own;

    if (seg->flags & TH_RST) {
        on_rst(seg);
        return;
    }
    if (seg->flags & TH_SYN)
        on_syn(seg);
    else if (!has(own, SIDE_SYN | SIDE_SYNACK) && !has(seg->peer, SIDE_SYN | SIDE_SYNACK) &&
             !(t->conn & (CONN_RST | CONN_STEADY)) && (seg->flags & TH_ACK))
        join_midstream(seg);
    if (!(t->conn & (CONN_ESTABLISHED | CONN_RST)) && is_complete(seg))
        establish(seg);
    if (seg->flags & TH_ACK)
        on_fin_acked(seg);
    if (seg->flags & TH_FIN)
        on_fin(seg);
}

/* No SYN-ACK of the server was seen. */
static uint8_t attempt_state(const nfm__track_side *o, const nfm__track_side *r) {
    if (has(r, SIDE_RST) && !has(r, SIDE_DATA))
        return NFM_CS_REJ;
    if (has(o, SIDE_RST))
        return NFM_CS_RSTOS0;
    if (has(r, SIDE_PACKET))
        return NFM_CS_OTH;
    return has(o, SIDE_FIN) ? NFM_CS_SH : NFM_CS_S0;
}

/*
 * nfm__track_conn_state sums a connection up in Zeek's words from what both sides have sent.
 * Returns enum nfm_conn_state; OTH for a flow whose handshake was not seen.
 */
uint8_t nfm__track_conn_state(const nfm__track *track, const nfm_flow *flow) {
    unsigned client = flow->flags & NFM_FLOW_CLIENT_IS_1 ? 1 : 0;
    const nfm__track_side *o = &track->side[client], *r = &track->side[client ^ 1];

    if (!has(o, SIDE_SYN) && !has(r, SIDE_SYNACK))
        return NFM_CS_OTH;
    if (!has(o, SIDE_PACKET))
        return has(r, SIDE_RST) ? NFM_CS_RSTRH : has(r, SIDE_FIN) ? NFM_CS_SHR : NFM_CS_OTH;
    if (!has(r, SIDE_SYNACK))
        return attempt_state(o, r);
    if (track->conn & CONN_FINS_FIRST)
        return NFM_CS_SF;
    if (track->conn & CONN_RST) {
        if (((track->conn & CONN_RST_SIDE_1) != 0) == client)
            return NFM_CS_RSTO;
        return has(o, SIDE_DATA | SIDE_ACK) || has(r, SIDE_DATA) ? NFM_CS_RSTR : NFM_CS_REJ;
    }
    if (has(o, SIDE_FIN))
        return has(r, SIDE_FIN) ? NFM_CS_SF : NFM_CS_S2;
    return has(r, SIDE_FIN) ? NFM_CS_S3 : NFM_CS_S1;
}
