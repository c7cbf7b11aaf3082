/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sequence and acknowledgement numbers of one connection, watched from the middle.
 *
 * Theory of operation. The tracker stands between the ends: it sees what was sent, not what
 * arrived, and the capture itself may miss packets. So |next| follows what a side was seen to send,
 * |una| what its peer was seen to acknowledge, and either may run ahead of the other. A segment
 * that does not advance |next| is one of three things, told apart without remembering which bytes
 * were seen (that is tcp_stream's business):
 *   spurious       all of it was acknowledged before;
 *   out of order   it comes within a round trip of the segment that overtook it, so that no
 *                  sender can have learned of a loss yet (3 ms while the round trip is unknown);
 *   retransmission everything else, and at once when two duplicate ACKs asked for this very byte.
 * These are the definitions by which Wireshark labels segments. Keep-alives and window probes stand
 * one byte before |next| or at it, carry at most one byte, and are neither.
 *
 * An ACK of bytes that were never seen is taken at its word as far as the acknowledging side could
 * have received them (its window): the capture missed them. Beyond that it is counted and ignored.
 *
 * Sources: RFC 9293 section 3.4 and 3.10.7.4, RFC 5681 section 2 (duplicate ACK), RFC 6298 section
 * 3 (Karn), RFC 7323 sections 2, 4 and 5 (scale, RTTM, PAWS).
 */
#include "track.h"

enum {
    OUT_OF_ORDER_US = 3000,  /* Wireshark's bound while no round trip is known */
    MAX_WSCALE = 14,         /* RFC 7323 section 2.3 */
    UNKNOWN_WINDOW = 1 << 20 /* assumed at least while the scale is unknown */
};

static inline bool has(const nfm__track_side *side, unsigned flag) {
    return (side->flags & flag) != 0;
}

/* RFC 7323 section 1.3: scaling is in force when both SYNs offered it. A SYN that the capture
 * missed is taken to agree. */
static void agree_on_scale(nfm__track_seg *seg) {
    nfm__track_side *own = seg->own, *peer = seg->peer;
    bool offers = (seg->packet->tcp.seen & NFM_OPT_WSCALE) != 0;
    bool peer_sent_syn = has(peer, SIDE_SYN | SIDE_SYNACK);

    own->offered = 0;
    own->flags &= (uint16_t)~SIDE_WSCALE;
    if (offers) {
        uint8_t shift = seg->packet->tcp.wscale;
        own->offered = shift > MAX_WSCALE ? MAX_WSCALE : shift;
        own->flags |= SIDE_WSCALE;
    }
    bool both = offers && (!peer_sent_syn || has(peer, SIDE_WSCALE));
    own->wscale = both ? own->offered : 0;
    if (peer_sent_syn)
        peer->wscale = both ? peer->offered : 0;
}

/*
 * nfm__track_options notes what a segment's options and window say: MSS, window scale, SACK, and
 * whether its timestamp is older than what the side sent before (counted, RFC 7323 section 5).
 */
void nfm__track_options(nfm__track_seg *seg) {
    nfm__track_side *own = seg->own;
    const nfm_tcp_opts *opts = &seg->packet->tcp;

    if (opts->seen & NFM_OPT_BAD)
        seg->counters[COUNT_BAD_OPTION]++;
    if (seg->flags & TH_SYN) {
        if (opts->seen & NFM_OPT_MSS)
            own->mss = opts->mss;
        agree_on_scale(seg);
    }
    if (opts->seen & (NFM_OPT_SACK | NFM_OPT_SACK_OK))
        own->flags |= SIDE_SACK;
    if (!(opts->seen & NFM_OPT_TIMESTAMP))
        return;
    if (has(own, SIDE_TS) && nfm_seq_diff(opts->tsval, own->ts_recent) < 0) {
        if (!(seg->flags & TH_RST))
            seg->counters[COUNT_PAWS_OLD]++;
        return;
    }
    own->ts_recent = opts->tsval;
    own->flags |= SIDE_TS;
}

/* How far beyond what was seen an ACK of |side| may reach: what it can have had room for. */
static uint32_t ack_reach(const nfm__track_side *side) {
    uint32_t reach = side->window;
    if (!has(side, SIDE_SYN | SIDE_SYNACK) && reach < UNKNOWN_WINDOW)
        reach = UNKNOWN_WINDOW;
    if (reach < 65536)
        reach = 65536;
    return reach > TRACK_FAR ? TRACK_FAR : reach;
}

/*
 * nfm__track_end_sample ends the round-trip sample of |sender| when |p|, which came at |now_us|,
 * acknowledges it. Karn: a segment that was sent again counts only when the echoed timestamp says
 * which copy was acknowledged.
 */
void nfm__track_end_sample(nfm__track_side *sender, const nfm_packet *p, uint32_t now_us) {
    if (nfm_seq_diff(p->ack, sender->rtt_seq) < 0)
        return;
    bool echoed = (p->tcp.seen & NFM_OPT_TIMESTAMP) && p->tcp.tsecr == sender->rtt_ts;
    if (!has(sender, SIDE_RTT_AGAIN) || echoed) {
        uint32_t sample = now_us - sender->rtt_at;
        sender->rtt_us = sample == 0 ? 1 : sample;
    }
    sender->flags &= (uint16_t) ~(SIDE_RTT | SIDE_RTT_AGAIN);
}

/*
 * nfm__track_begin_sample starts a round-trip sample of |own| with |p|, sent at |now_us|: it ends
 * when |end| is acknowledged.
 */
void nfm__track_begin_sample(nfm__track_side *own, const nfm_packet *p, uint32_t end,
                             uint32_t now_us) {
    own->rtt_seq = end;
    own->rtt_at = now_us;
    own->rtt_ts = p->tcp.seen & NFM_OPT_TIMESTAMP ? p->tcp.tsval : 0;
    own->flags |= SIDE_RTT;
}

/* RFC 5681 section 2, and not the answer to a keep-alive or probe. */
static bool is_duplicate_ack(const nfm__track_seg *seg, uint32_t window) {
    const nfm__track_side *own = seg->own, *peer = seg->peer;
    return seg->len == 0 && window != 0 && window == own->window &&
           (seg->flags & (TH_SYN | TH_FIN | TH_RST)) == 0 && seg->packet->seq == own->next &&
           nfm_seq_diff(peer->next, seg->packet->ack) > 0 && !has(peer, SIDE_PROBED);
}

/*
 * nfm__track_ack takes in the acknowledgement and the window of a segment: advances the peer's una,
 * ends its round-trip sample, notices duplicate ACKs, zero windows and impossible ACKs.
 */
void nfm__track_ack(nfm__track_seg *seg) {
    nfm__track_side *own = seg->own, *peer = seg->peer;
    const nfm_packet *p = seg->packet;
    uint32_t window = seg->flags & TH_SYN ? p->window : (uint32_t)p->window << own->wscale;

    if (!has(peer, SIDE_BASE)) {
        peer->isn = p->ack - 1;
        peer->una = p->ack;
        peer->flags |= SIDE_BASE;
    } else {
        int32_t ahead = nfm_seq_diff(p->ack, peer->una);
        if (ahead > 0) {
            int32_t unseen = has(peer, SIDE_NEXT) ? nfm_seq_diff(p->ack, peer->next) : ahead;
            if (unseen > 0 && (uint32_t)unseen > ack_reach(own)) {
                seg->counters[COUNT_BAD_ACK]++;
                seg->events |= NFM_BIT(NFM_EV_TCP_UNEXPECTED);
            } else {
                peer->una = p->ack;
                own->dup_acks = 0;
                if (has(peer, SIDE_RTT))
                    nfm__track_end_sample(peer, p, seg->now_us);
            }
        } else if (ahead == 0 && is_duplicate_ack(seg, window)) {
            own->dup_acks += own->dup_acks < 255;
            seg->events |= NFM_BIT(NFM_EV_TCP_DUPLICATE_ACK);
        }
    }
    own->window = window;
    if (p->window == 0 && (seg->flags & (TH_SYN | TH_FIN | TH_RST)) == 0)
        seg->events |= NFM_BIT(NFM_EV_TCP_ZERO_WINDOW);
}

static void start_sample(nfm__track_seg *seg) {
    nfm__track_begin_sample(seg->own, seg->packet, seg->end, seg->now_us);
}

/* Counts a segment that was sent before. */
static void sent_again(nfm__track_seg *seg, uint64_t events) {
    nfm__track_side *own = seg->own;
    own->retransmits++;
    seg->events |= events | NFM_BIT(NFM_EV_TCP_RETRANSMIT);
    if (seg->flags & TH_SYN)
        own->sent_at = seg->now_us;
    if (!has(own, SIDE_RTT) || nfm_seq_diff(seg->packet->seq, own->rtt_seq) >= 0)
        return;
    own->flags &= (uint16_t) ~(SIDE_RTT | SIDE_RTT_AGAIN);
    if (seg->packet->tcp.seen & NFM_OPT_TIMESTAMP) {
        start_sample(seg);
        own->flags |= SIDE_RTT_AGAIN;
    }
}

/* A segment with data, SYN or FIN that starts before next: which of the three is it? */
static void classify_late(nfm__track_seg *seg) {
    nfm__track_side *own = seg->own, *peer = seg->peer;
    uint32_t seq = seg->packet->seq;
    const nfm__track *t = seg->track;
    uint32_t bound = t->conn & CONN_ESTABLISHED ? t->handshake_us : 0;
    if (bound == 0)
        bound = OUT_OF_ORDER_US;

    if (seg->len > 0 && has(peer, SIDE_PACKET) && nfm_seq_diff(seg->end, own->una) <= 0)
        sent_again(seg, NFM_BIT(NFM_EV_TCP_SPURIOUS));
    else if (seg->len > 1 && seq == own->next - 1)
        return; /* new data behind the byte of an earlier probe */
    else if (peer->dup_acks >= 2 && seq == own->una)
        sent_again(seg, 0);
    else if (seg->now_us - own->sent_at < bound && seg->end != own->next) {
        own->out_of_order++;
        seg->events |= NFM_BIT(NFM_EV_TCP_OUT_OF_ORDER);
    } else
        sent_again(seg, 0);
}

/* The first segment of a side, or a SYN with another ISN before the handshake was complete. */
static void begin_side(nfm__track_seg *seg) {
    nfm__track_side *own = seg->own;
    uint32_t seq = seg->packet->seq;
    bool syn = (seg->flags & TH_SYN) != 0;
    if (!has(own, SIDE_BASE) || syn) {
        own->isn = syn ? seq : seq - 1;
        own->una = seq;
    }
    own->next = seg->end;
    own->sent_at = seg->now_us;
    own->flags |= SIDE_BASE | SIDE_NEXT;
    if (seg->end != seq)
        start_sample(seg);
}

/* A segment of at most one byte that asks rather than sends. True when it was one. */
static bool is_question(nfm__track_seg *seg) {
    const nfm__track_side *own = seg->own, *peer = seg->peer;
    if (seg->len > 1 || (seg->flags & (TH_SYN | TH_FIN | TH_RST)))
        return false;
    bool closed = peer->window == 0 && has(peer, SIDE_ACK);
    if (seg->packet->seq == own->next - 1) {
        seg->events |= NFM_BIT(closed ? NFM_EV_TCP_WINDOW_PROBE : NFM_EV_TCP_KEEP_ALIVE);
        return true;
    }
    if (seg->len == 1 && closed && seg->packet->seq == own->next) {
        seg->events |= NFM_BIT(NFM_EV_TCP_WINDOW_PROBE);
        return true;
    }
    return false;
}

/*
 * nfm__track_sequence takes in the sequence numbers of a segment: advances next and starts a
 * round-trip sample, or says what kind of segment came late. RSTs are not for this function.
 */
void nfm__track_sequence(nfm__track_seg *seg) {
    nfm__track_side *own = seg->own;
    uint32_t seq = seg->packet->seq;

    if ((seg->flags & (TH_SYN | TH_ACK)) == TH_SYN && !(seg->track->conn & CONN_ESTABLISHED))
        seg->track->handshake_us = seg->now_us;
    if (!has(own, SIDE_NEXT)) {
        begin_side(seg);
        return;
    }
    if ((seg->flags & TH_SYN) && seq != own->isn && !(seg->track->conn & CONN_ESTABLISHED)) {
        if (has(own, SIDE_SYN | SIDE_SYNACK))
            sent_again(seg, 0); /* a server that forgot its first answer */
        begin_side(seg);
        return;
    }
    int32_t ahead = nfm_seq_diff(seg->end, own->next);
    if (ahead > TRACK_FAR || ahead < -TRACK_FAR) {
        seg->counters[COUNT_FAR_SEGMENT]++;
        seg->events |= NFM_BIT(NFM_EV_TCP_UNEXPECTED);
        return;
    }
    if (is_question(seg)) {
        own->flags |= SIDE_PROBED;
        return;
    }
    own->flags &= (uint16_t)~SIDE_PROBED;
    if (seg->end != seq && nfm_seq_diff(seq, own->next) < 0)
        classify_late(seg);
    if (ahead > 0) { /* an empty segment beyond next tells of others that the capture missed */
        own->next = seg->end;
        own->sent_at = seg->now_us;
        if (!has(own, SIDE_RTT) && seg->end != seq)
            start_sample(seg);
    }
}
