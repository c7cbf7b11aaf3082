/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What leaves in a segment of a judged stream: the accepted bytes that its numbers cover
 * (strand.h).
 *
 * Most segments are such, and leave as they came. Others are made anew behind a copy of their
 * headers: in as many frames as the bytes need, or none. Sources: RFC 9293 section 3.1, RFC 2018.
 */
#include <netinet/in.h>
#include <string.h>

#include "engine/strand.h"
#include "io/port.h"

enum { TH_FIN = 1, TH_SYN = 2, TH_RST = 4, TH_PSH = 8, TH_ACK = 16, TH_URG = 32 };
enum { TCP_MIN = 20, TCP_NOP = 1, TCP_SACK = 5 };

typedef struct leaving {
    nfm_worker *w;
    const nfm_transit *t;
    const nfm_segment *seg;
    nfm_strand *own;
    const nfm_strand *peer; /* what it acknowledges */
    uint32_t from;          /* slot of its headers */
    uint32_t limit;         /* payload bytes of a frame */
    uint32_t n_sent;
    bool deletes; /* bytes that leave as none are among them */
    uint32_t to;  /* slot of the frame that is being filled; NFM_NO_SLOT: none */
    uint32_t seq; /* of its payload */
    uint32_t filled, room;
} leaving;

static uint8_t *base_of(const nfm_worker *w, uint32_t slot) {
    return nfm_pool_addr(&w->pool, slot);
}

/* The most payload that one frame can have on its link. */
static uint32_t limit_of(const nfm_worker *w, uint32_t slot, const nfm_transit *t,
                         const nfm_segment *seg) {
    const nfm_slot_meta *meta = (const nfm_slot_meta *)(const void *)base_of(w, slot);
    uint32_t headers = t->payload_off - t->l3_off, mtu = nfm__mtu_of(w, t->out);
    uint32_t own = seg->end - seg->from;
    if (meta->gso_type != 0)
        return UINT16_MAX - headers;
    mtu = mtu > headers + 1 ? mtu - headers : 1;
    return own > mtu ? own : mtu;
}

/* ---- headers -------------------------------------------------------------------------------- */

/* The SACK option at |at|, |len| bytes. What was acknowledged while the frame waited, or before, is
 * known by no number any more: an option that speaks of it is left out. */
static void translate_blocks(const leaving *l, uint8_t *at, uint32_t len) {
    const nfm_strand *s = l->peer;
    uint32_t una = nfm__strand_out(l->w, s, s->una);
    for (uint32_t i = 2; s->acked && i + 8 <= len; i += 8) {
        if (nfm_seq_diff(nfm_read32(at + i), una) < 0) {
            memset(at, TCP_NOP, len);
            return;
        }
    }
    for (uint8_t *edge = at + 2; edge + 8 <= at + len; edge += 8) {
        uint32_t left = nfm_read32(edge), right = nfm_read32(edge + 4);
        nfm_write32(edge, nfm__strand_in(l->w, s, left - 1) + 1);
        nfm_write32(edge + 4, nfm__strand_in(l->w, s, right));
    }
}

static void translate_sack(const leaving *l, uint8_t *at, const uint8_t *end) {
    while (at < end && *at != 0) {
        uint32_t len = *at == TCP_NOP || at + 2 > end ? 1 : at[1];
        if (len == 0 || at + len > end || (len == 1 && *at != TCP_NOP))
            return;
        if (*at == TCP_SACK)
            translate_blocks(l, at, len);
        at += len;
    }
}

/* Sends the frame that is being filled with these flags. */
static void flush(leaving *l, uint8_t flags) {
    nfm_worker *w = l->w;
    const nfm_transit *t = l->t;
    uint8_t *base = base_of(w, l->to), *l4 = base + t->l4_off;
    bool fits = !(t->flags & NFM_F_TUNNEL) || l->filled == l->seg->end - l->seg->from;
    nfm_tx tx = {l->to, NFM_HEADROOM, t->payload_off - NFM_HEADROOM + l->filled, 0, t->ts_ns};
    tx.wire_len = tx.len;
    l->to = NFM_NO_SLOT;
    if (!fits) { /* outer headers have lengths, too */
        w->core_counters[NFM_CC_INLINE_UNEDITED]++;
        nfm_pool_put(&w->pool, tx.slot);
        return;
    }
    nfm_write32(l4 + 4, l->seq - ((flags & TH_SYN) != 0));
    nfm_write32(l4 + 8, flags & TH_ACK ? l->seg->ack : 0);
    l4[13] = flags & (uint8_t)~TH_URG;
    nfm_write16(l4 + 18, 0);
    if (l->peer->shifted)
        translate_sack(l, l4 + TCP_MIN, base + t->payload_off);
    nfm__remake(base, t, l->filled, l->n_sent);
    l->n_sent++;
    nfm__transit_send(w, l->from, t, &tx);
}

/* Begins a frame for up to |room| bytes that the receiver knows as |seq| on. */
static bool begin(leaving *l, uint32_t seq, uint32_t room) {
    nfm_worker *w = l->w;
    l->room = room < l->limit ? room : l->limit;
    l->to = nfm_pool_get(&w->pool, l->t->payload_off - NFM_HEADROOM + l->room);
    l->seq = seq;
    l->filled = 0;
    if (l->to == NFM_NO_SLOT) {
        w->core_counters[NFM_CC_INLINE_NO_ROOM]++;
        return false;
    }
    memcpy(base_of(w, l->to), base_of(w, l->from), l->t->payload_off);
    return true;
}

/* Flags of a frame that is not the last one of its segment. */
static uint8_t flags_inside(const leaving *l) {
    bool is_first = l->n_sent == 0 && l->seg->seq == l->seg->from;
    return l->seg->tcp_flags & (uint8_t) ~(TH_FIN | TH_PSH | (is_first ? 0 : TH_SYN));
}

/* ---- payload -------------------------------------------------------------------------------- */

static void put(leaving *l, uint32_t out, const uint8_t *bytes, uint32_t len) {
    while (len > 0) {
        if (l->to != NFM_NO_SLOT && (l->seq + l->filled != out || l->filled == l->room))
            flush(l, flags_inside(l));
        if (l->to == NFM_NO_SLOT && !begin(l, out, len > l->seg->len ? len : l->seg->len))
            return;
        uint32_t n = l->room - l->filled < len ? l->room - l->filled : len;
        memcpy(base_of(l->w, l->to) + l->t->payload_off + l->filled, bytes, n);
        l->filled += n;
        bytes += n;
        out += n;
        len -= n;
    }
}

/* The run's number at its receiver, when it leaves for the first time. False: another length than
 * it had is not possible any more, since what follows has left. */
static bool number(const leaving *l, nfm_run *run) {
    if (run->left)
        return true;
    bool differs = nfm__run_out_len(run) != run->len;
    for (uint32_t link = run->next; differs && link != 0; link = nfm__run_at(l->w, link)->next) {
        if (!nfm__run_at(l->w, link)->left)
            continue;
        l->w->core_counters[NFM_CC_INLINE_UNEDITED]++;
        run->state = NFM_RUN_DROPPED;
        return false;
    }
    run->out = nfm__strand_out(l->w, l->own, run->seq);
    run->left = 1;
    l->own->shifted |= differs;
    return true;
}

/* Bytes [from, to) of those that leave instead of the run's. */
static void put_replaced(leaving *l, const nfm_run *run, uint32_t from, uint32_t to) {
    uint32_t slot = run->new_slot;
    for (uint32_t begin = 0; slot != NFM_NO_SLOT && begin < to; begin += NFM_LINK_BYTES) {
        uint32_t end = begin + NFM_LINK_BYTES < to ? begin + NFM_LINK_BYTES : to;
        uint32_t at = begin < from ? from : begin;
        if (at < end)
            put(l, run->out + at, base_of(l->w, slot) + NFM_HEADROOM + (at - begin), end - at);
        slot = *nfm__next_of(l->w, slot);
    }
}

/* Bytes [at, end) of |run|, or what leaves for them. */
static void put_run(leaving *l, nfm_run *run, uint32_t at, uint32_t end) {
    if (run->state != NFM_RUN_ACCEPTED || !number(l, run))
        return;
    uint32_t from = nfm__run_out_at(run, at - run->seq), to = nfm__run_out_at(run, end - run->seq);
    l->deletes |= from == to;
    if (run->new_slot == NFM_NO_SLOT)
        put(l, run->out + from, base_of(l->w, run->slot) + run->off + from, to - from);
    else
        put_replaced(l, run, from, to);
}

/* Bytes of the segment itself: where nobody judges any longer. */
static void put_own(leaving *l, uint32_t at, uint32_t end) {
    const uint8_t *payload = base_of(l->w, l->from) + l->t->payload_off;
    put(l, nfm__strand_out(l->w, l->own, at), payload + (at - l->seg->from), end - at);
}

/* Puts what of the segment's range may leave. Returns where that ends without a hole to the end. */
static bool put_all(leaving *l, bool free) {
    uint32_t at = l->seg->seq, end = at + l->seg->len;
    bool complete = true;
    uint32_t link = nfm__run_find(l->w, l->own, at);
    for (; link != 0; link = nfm__run_at(l->w, link)->next) {
        nfm_run *run = nfm__run_at(l->w, link);
        if (nfm_seq_diff(run->seq, end) >= 0)
            break;
        uint32_t run_end = run->seq + run->len;
        if (nfm_seq_diff(run->seq, at) > 0) {
            if (free)
                put_own(l, at, run->seq);
            at = run->seq;
        }
        put_run(l, run, at, nfm_seq_diff(run_end, end) < 0 ? run_end : end);
        complete = run->state == NFM_RUN_ACCEPTED;
        at = run_end;
    }
    if (nfm_seq_diff(end, at) <= 0)
        return complete;
    if (free)
        put_own(l, at, end);
    return free || (l->own->acked && nfm_seq_diff(l->own->una, end) >= 0);
}

/* A frame without payload. */
static void send_bare(leaving *l, uint32_t seq, uint8_t flags) {
    if (begin(l, seq, 0))
        flush(l, flags);
}

static leaving leaving_of(nfm_worker *w, uint32_t slot, const nfm_transit *t) {
    nfm_strands *both = nfm__strands_of(w, t->line);
    const nfm_segment *seg = &w->way->stream->segments[slot];
    return (leaving){
        .w = w,
        .t = t,
        .seg = seg,
        .own = &both->side[t->side],
        .peer = &both->side[t->side ^ 1],
        .from = slot,
        .limit = limit_of(w, slot, t, seg),
        .to = NFM_NO_SLOT,
    };
}

static void rebuild(leaving *l, bool free) {
    const nfm_segment *seg = l->seg;
    uint8_t flags = seg->tcp_flags;
    uint32_t end = seg->seq + seg->len;
    if (seg->end == seg->from || flags & TH_RST) { /* it has no payload that counts */
        send_bare(l, nfm__strand_out(l->w, l->own, seg->from), flags);
        return;
    }
    bool complete = put_all(l, free), is_last = complete && end == seg->end;
    bool is_acked = l->own->acked && nfm_seq_diff(l->own->una, end) >= 0;
    uint8_t last = is_last ? flags & (uint8_t) ~(l->n_sent > 0 ? TH_SYN : 0) : flags_inside(l);
    if (seg->seq != seg->from)
        last &= (uint8_t)~TH_SYN;
    if (l->to != NFM_NO_SLOT)
        flush(l, last);
    else if (l->n_sent > 0 || seg->len == 0)
        return;
    else if (is_last && flags & TH_FIN)
        send_bare(l, nfm__strand_out(l->w, l->own, end), flags & (uint8_t)~TH_SYN);
    else if (is_acked || l->deletes) /* old numbers make the receiver say what it has */
        send_bare(l, nfm__strand_out(l->w, l->own, seg->seq) - 1,
                  flags & (uint8_t) ~(TH_SYN | TH_FIN));
}

/* Whether all of it is accepted, and the same as what was accepted there. */
static bool is_as_accepted(leaving *l, bool free) {
    const nfm_segment *seg = l->seg;
    if (l->own->shifted || l->peer->shifted || seg->tcp_flags & TH_URG || seg->is_head)
        return false;
    if (seg->end == seg->from)
        return true;
    if (seg->seq != seg->from || seg->len != seg->end - seg->from)
        return false;
    uint32_t link = nfm__run_find(l->w, l->own, seg->seq);
    nfm_run *run = link == 0 ? NULL : nfm__run_at(l->w, link);
    if (run == NULL || nfm_seq_diff(run->seq, seg->seq + seg->len) >= 0)
        return free;
    uint32_t skip = seg->seq - run->seq;
    if (run->state != NFM_RUN_ACCEPTED || run->new_slot != NFM_NO_SLOT || skip >= run->len ||
        run->len - skip < seg->len)
        return false;
    const uint8_t *kept = base_of(l->w, run->slot) + run->off + skip;
    const uint8_t *own = base_of(l->w, l->from) + l->t->payload_off;
    return (kept == own || memcmp(kept, own, seg->len) == 0) && number(l, run);
}

void nfm__segment_send(nfm_worker *w, uint32_t slot, const nfm_transit *t) {
    leaving l = leaving_of(w, slot, t);
    bool free = nfm__strands_of(w, t->line)->free;
    if (!is_as_accepted(&l, free)) {
        rebuild(&l, free);
        return;
    }
    nfm_tx tx = {slot, NFM_HEADROOM, t->len, t->wire_len, t->ts_ns};
    nfm_pool_hold(&w->pool, slot);
    nfm__transit_send(w, slot, t, &tx);
}

void nfm__segment_reset(nfm_worker *w, uint32_t slot, const nfm_transit *t) {
    leaving l = leaving_of(w, slot, t);
    if (!(l.seg->tcp_flags & TH_RST))
        send_bare(&l, nfm__strand_out(w, l.own, l.seg->seq), TH_RST | TH_ACK);
    nfm__rule_drop(w, t);
}

void nfm__segment_settle(nfm_worker *w, uint32_t slot, const nfm_transit *t) {
    const nfm_segment *seg = &w->way->stream->segments[slot];
    nfm_strand *s = &nfm__strands_of(w, t->line)->side[t->side];
    bool passes = t->q.verdict < NFM_DROP;
    uint32_t link = seg->len == 0 ? 0 : nfm__run_find(w, s, seg->seq);
    for (; link != 0; link = nfm__run_at(w, link)->next) {
        nfm_run *run = nfm__run_at(w, link);
        if (nfm_seq_diff(run->seq, seg->seq + seg->len) >= 0)
            return;
        if (run->waits == slot + 1 && run->state == NFM_RUN_ASKED)
            run->state = passes ? NFM_RUN_ACCEPTED : NFM_RUN_DROPPED;
        else if (!passes && run->state == NFM_RUN_ACCEPTED && !run->left)
            run->state = NFM_RUN_DROPPED;
    }
}
