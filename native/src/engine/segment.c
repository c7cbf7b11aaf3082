/* SPDX-License-Identifier: Apache-2.0 */
/* Segments of judged streams, from their arrival until they are in their line (strand.h). */
#include <netinet/in.h>
#include <string.h>

#include "engine/strand.h"
#include "io/port.h"
#include "wire/layers.h"

enum { TH_FIN = 1, TH_SYN = 2, TH_RST = 4, TH_ACK = 16 };
enum { MOST_RUNS = 8192 }; /* of one strand: 12 MB in segments of 1448 bytes */

static nfm_strand *strand_of(const nfm_worker *w, const nfm_packet *p, int other) {
    return &nfm__strands_of(w, p->flow_index)->side[p->rec.side ^ other];
}

/* Number of the first payload byte. */
static uint32_t first_of(const nfm_record *r) {
    return r->tcp.seq + ((r->tcp_flags & TH_SYN) != 0);
}

/* ---- arrival -------------------------------------------------------------------------------- */

/* Acknowledgements, as the sender of what they are about knows the numbers. */
static void take_ack(nfm_worker *w, nfm_packet *p) {
    nfm_strand *s = strand_of(w, p, 1);
    if (!(p->rec.tcp_flags & TH_ACK))
        return;
    p->ack = nfm__strand_acked(w, s, p->ack);
    for (uint32_t i = 0; s->shifted && i < p->tcp.n_sack; i++)
        for (int edge = 0; edge < 2; edge++)
            p->tcp.sack[i][edge] = nfm__strand_in(w, s, p->tcp.sack[i][edge]);
}

/* A damaged segment is worth nothing to its receiver, and must not be what the stream is. Frames of
 * captures and unfinished ones have no checksum to go by. */
static bool is_damaged(const nfm_worker *w, const nfm_packet *p) {
    const nfm_slot_meta *meta = (const nfm_slot_meta *)(const void *)p->base;
    uint32_t start = p->rec.l4_off, len = p->rec.payload_off - start + p->rec.payload_len;
    bool has_extension = p->rec.flags & NFM_F_IPV6 && start - p->rec.l3_off > 40;
    if (w->ports[w->in_port]->ops->wait_fd == NULL || meta->needs_csum || has_extension ||
        p->rec.payload_len < p->l4_len)
        return false;
    return nfm__l4_checksum(&p->key, IPPROTO_TCP, p->base + start, len) != 0;
}

/* Runs hold a quarter of the slots at most, and leave some to those who receive. */
static bool has_room(const nfm_worker *w, const nfm_packet *p, const nfm_strand *s) {
    const nfm_pool *pool = &w->pool;
    uint32_t n_large = pool->n_slots - pool->n_small, *kept = w->way->stream->kept;
    if (s->n_runs >= MOST_RUNS || kept[0] + kept[1] + NFM_BURST >= w->way->stream->n_runs)
        return false;
    if (p->rec.slot < pool->n_small)
        return kept[0] < pool->n_small / 4 && pool->n_free_small > pool->n_small / 8;
    return kept[1] < n_large / 2 && pool->n_free_large > n_large / 8;
}

/* Whether all who decide rather let pass than drop. Counts. */
static bool fails_open(nfm_worker *w, const nfm_subset *set) {
    bool open = true;
    for (uint32_t i = 0; i < set->n_inline; i++)
        open &= set->in_line[i].ring == NULL || set->in_line[i].ring->in_line->config.fail_open;
    w->core_counters[open ? NFM_CC_INLINE_FAILED_OPEN : NFM_CC_INLINE_NO_ROOM]++;
    return open;
}

bool nfm__segment_is_lost(nfm_worker *w, const nfm_packet *p) {
    const nfm_subset *set = &w->subs.sets[w->subs.catch_all];
    bool is_judged = set->level >= NFM_LEVEL_SPLIT || set->inline_modules != 0;
    return is_judged && p->status == NFM_PARSE_OK && p->rec.proto == IPPROTO_TCP &&
           p->rec.payload_len > 0 && !fails_open(w, set);
}

/* Ends the judging of a flow if its judges fail open. */
static bool release_flow(nfm_worker *w, const nfm_packet *p) {
    const nfm_subset *set = &w->subs.sets[p->flow->subs[p->rec.side]];
    if (!fails_open(w, set))
        return false;
    for (uint32_t i = 0; i < set->n_inline; i++)
        if (set->in_line[i].ring != NULL)
            nfm__flow_choose(w, p->flow_index, set->in_line[i].ring, NFM_INLINE_GROUPS, false);
    return true;
}

/* Whether the stack may see the packet. */
static bool is_admitted(nfm_worker *w, const nfm_packet *p) {
    const nfm_strand *s = strand_of(w, p, 0);
    if (p->l4_len == 0)
        return true;
    if (is_damaged(w, p)) {
        w->core_counters[NFM_CC_INLINE_BAD_CHECKSUM]++;
        return false;
    }
    bool is_old = s->started && nfm_seq_diff(p->seq + p->l4_len, s->next) <= 0;
    return is_old || has_room(w, p, s) || release_flow(w, p);
}

bool nfm__segment_arrive(nfm_worker *w, nfm_packet *p) {
    nfm_stream_way *sw = w->way->stream;
    bool goes_on = w->way->out_of[w->in_port] != NFM_NO_PORT;
    sw->packet = goes_on ? p : NULL;
    sw->at = 0;
    sw->refused = false;
    if (!goes_on || p->rec.proto != IPPROTO_TCP)
        return true;
    if (nfm__has_strands(w, p->flow_index))
        take_ack(w, p);
    sw->refused = p->flow->level >= NFM_LEVEL_SPLIT && !is_admitted(w, p);
    return !sw->refused;
}

void nfm__segment_begin(nfm_worker *w, nfm_packet *p) {
    nfm_stream_way *sw = w->way->stream;
    bool is_judged = p->flow->level >= NFM_LEVEL_SPLIT;
    if (p->rec.proto != IPPROTO_TCP || sw->packet == NULL ||
        (!is_judged && !nfm__has_strands(w, p->flow_index)))
        return;
    nfm_strands *both = nfm__strands_of(w, p->flow_index);
    sw->is_on = true;
    if (both->free && is_judged) /* again: the stack does not go on where it was */
        both->side[0].started = both->side[1].started = 0;
    both->in_use = 1;
    both->free = !is_judged;
    nfm_strand *s = &both->side[p->rec.side];
    if (p->rec.tcp_flags & TH_SYN && s->off == 0 && s->head == 0) { /* or another attempt */
        s->next = p->seq + 1;
        s->started = 1;
    }
}

/* ---- bytes ---------------------------------------------------------------------------------- */

/* The frame that was entered for released bytes is complete. */
static void end_released(nfm_worker *w) {
    nfm_stream_way *sw = w->way->stream;
    uint32_t at = sw->at;
    sw->at = 0;
    if (at != 0 && sw->packet != NULL && at - 1 != sw->packet->rec.slot)
        nfm__transit_close(w, at - 1);
}

static void describe(nfm_segment *seg, const nfm_record *record) {
    seg->from = first_of(record);
    seg->end = seg->from + record->payload_len;
    seg->ack = record->tcp.ack;
    seg->tcp_flags = record->tcp_flags;
}

/* Bytes of the packet being processed: its snapshot's wait for the verdict on that, others are
 * inquired about. */
static void take_own(nfm_worker *w, uint32_t index, uint32_t run, const nfm_record *record) {
    const nfm_packet *p = w->way->stream->packet;
    uint32_t slot = record->slot;
    if (!w->way->transits[slot].on_way)
        nfm__transit_open(w, p);
    w->way->transits[slot].is_segment = 1;
    w->way->stream->at = slot + 1;
    if (run == 0)
        return;
    if (record == &p->rec) {
        nfm__run_at(w, run)->waits = slot + 1;
        nfm__transit_ask_frame(w, p); /* before what it sets free, and what modules find in it */
    } else {
        nfm__inquire(w, slot, nfm_table_flow(&w->table, index)->subs[record->side], run, record);
    }
}

/* A frame with the headers of |record|'s, whose own is on its way; NFM_NO_SLOT: no room. */
static uint32_t copy_head(nfm_worker *w, const nfm_record *record) {
    uint32_t slot = nfm_pool_get(&w->pool, record->payload_off - NFM_HEADROOM);
    if (slot != NFM_NO_SLOT)
        memcpy(nfm_pool_addr(&w->pool, slot), nfm_pool_addr(&w->pool, record->slot),
               record->payload_off);
    return slot;
}

/* Bytes that came before those in front of them. */
static void take_released(nfm_worker *w, uint32_t index, uint32_t run, const nfm_record *record) {
    nfm_stream_way *sw = w->way->stream;
    nfm_segment memo = sw->segments[record->slot];
    uint32_t slot = record->slot;
    bool is_copy = w->way->transits[slot].on_way;
    if (run != 0 && is_copy)
        slot = copy_head(w, record);
    if (run == 0 || slot == NFM_NO_SLOT) {
        w->core_counters[NFM_CC_INLINE_NO_ROOM]++;
        if (run != 0)
            nfm__run_at(w, run)->state = NFM_RUN_DROPPED;
        return;
    }
    nfm__transit_open_late(w, slot, record, memo.link_type, memo.in);
    if (is_copy)
        nfm_pool_put(&w->pool, slot);
    w->way->transits[slot].is_segment = 1;
    sw->at = slot + 1;
    nfm_segment *seg = &sw->segments[slot];
    *seg = memo;
    describe(seg, record);
    seg->seq = nfm__run_at(w, run)->seq;
    seg->len = nfm__run_at(w, run)->len;
    seg->is_head = is_copy;
    if (is_copy)
        w->way->transits[slot].len = record->payload_off - NFM_HEADROOM;
    nfm_record asked = *record;
    asked.events |= memo.events; /* nobody was asked about its packet yet */
    nfm__inquire(w, slot, nfm_table_flow(&w->table, index)->subs[record->side], run, &asked);
}

void nfm__segment_data(nfm_worker *w, uint32_t index, const nfm_record *record) {
    nfm_stream_way *sw = w->way->stream;
    if (!nfm__has_strands(w, index))
        return;
    nfm_strands *both = nfm__strands_of(w, index);
    nfm_strand *s = &both->side[record->side];
    bool is_data = (record->events & NFM_BIT(NFM_EV_TCP_DATA)) != 0;
    if (both->closed || both->free || sw->packet == NULL ||
        (!is_data && record->kind != NFM_REC_GAP))
        return;
    uint64_t end = record->tcp.stream_off + record->tcp.data_len;
    end_released(w);
    if (!is_data) {
        s->next += (uint32_t)(end - s->off);
        s->off = end;
        return;
    }
    nfm_run what = {
        .seq = first_of(record) + record->tcp.data_off - record->payload_off,
        .len = record->tcp.data_len,
        .slot = record->slot,
        .off = record->tcp.data_off,
        .stream_off = record->tcp.stream_off,
    };
    uint32_t run = nfm__run_add(w, s, &what);
    s->next = what.seq + what.len;
    s->off = end;
    s->started = 1;
    if (sw->packet->rec.slot == record->slot)
        take_own(w, index, run, record);
    else
        take_released(w, index, run, record);
}

/* ---- the end of its processing -------------------------------------------------------------- */

/* Bytes that were dropped, or that nobody has seen, are judged again, or now. */
static void ask_about(nfm_worker *w, const nfm_packet *p, uint32_t link) {
    nfm_run *run = nfm__run_at(w, link);
    nfm_record again = p->rec;
    run->state = NFM_RUN_ASKED;
    run->waits = 0;
    if (!run->left)
        nfm__run_restore(w, run);
    again.kind = NFM_REC_PACKET;
    again.events = NFM_BIT(NFM_EV_TCP_DATA);
    again.flags |= NFM_F_AGAIN;
    again.slot = run->slot;
    again.payload_off = (uint16_t)run->off;
    again.payload_len = again.tcp.data_len = run->len;
    again.frame_len = run->off + run->len - NFM_HEADROOM;
    again.tcp.data_off = run->off;
    again.tcp.stream_off = run->stream_off;
    w->core_counters[NFM_CC_INLINE_AGAIN]++;
    nfm__inquire(w, p->rec.slot, p->flow->subs[p->rec.side], link, &again);
}

/* Bytes before |next| that no run covers. */
static void ask_about_new(nfm_worker *w, const nfm_packet *p, nfm_strand *s, uint32_t seq,
                          uint32_t end) {
    uint64_t behind = s->next - seq;
    nfm_run what = {
        .seq = seq,
        .len = end - seq,
        .slot = p->rec.slot,
        .off = p->rec.payload_off + (seq - first_of(&p->rec)),
        .stream_off = s->off > behind ? s->off - behind : 0,
    };
    uint32_t link = nfm__run_add(w, s, &what);
    if (link != 0)
        ask_about(w, p, link);
}

static void ask_again(nfm_worker *w, const nfm_packet *p, nfm_strand *s, uint32_t at,
                      uint32_t end) {
    if (s->acked && nfm_seq_diff(s->una, at) > 0)
        at = s->una;
    uint32_t link = nfm__run_find(w, s, at);
    while (nfm_seq_diff(end, at) > 0) {
        nfm_run *run = link == 0 ? NULL : nfm__run_at(w, link);
        if (run == NULL || nfm_seq_diff(run->seq, end) >= 0) {
            ask_about_new(w, p, s, at, end);
            return;
        }
        if (nfm_seq_diff(run->seq, at) > 0)
            ask_about_new(w, p, s, at, run->seq);
        if (run->state == NFM_RUN_DROPPED)
            ask_about(w, p, link);
        at = run->seq + run->len;
        link = run->next;
    }
}

/* Whether nothing of the segment may leave yet: its bytes, or its FIN, are ahead of the stream. */
static bool is_ahead(const nfm_strands *both, const nfm_strand *s, const nfm_packet *p) {
    bool counts = p->rec.payload_len > 0 || p->rec.tcp_flags & TH_FIN;
    if (both->free || !counts || p->rec.tcp_flags & TH_RST)
        return false;
    if (p->rec.payload_len > 0)
        return !s->started || nfm_seq_diff(first_of(&p->rec), s->next) >= 0;
    return s->started && nfm_seq_diff(p->seq, s->next) > 0;
}

/* Says which of the packet's bytes may leave, and asks about those of before that were dropped. */
static void close_segment(nfm_worker *w, nfm_packet *p, nfm_strands *both) {
    nfm_strand *s = &both->side[p->rec.side];
    nfm_segment *seg = &w->way->stream->segments[p->rec.slot];
    nfm_transit *t = &w->way->transits[p->rec.slot];
    t->is_segment = 1;
    seg->seq = seg->from;
    seg->len = p->rec.tcp_flags & TH_RST ? 0 : p->rec.payload_len;
    if (!both->free && seg->len > 0 && nfm_seq_diff(seg->end, s->next) > 0)
        seg->len = nfm_seq_diff(s->next, seg->seq) > 0 ? s->next - seg->seq : 0;
    if (!both->free && seg->len > 0 && t->q.verdict < NFM_DROP)
        ask_again(w, p, s, seg->seq, seg->seq + seg->len);
}

void nfm__segment_end(nfm_worker *w, nfm_packet *p) {
    nfm_stream_way *sw = w->way->stream;
    nfm_strands *both = nfm__strands_of(w, p->flow_index);
    nfm_segment *seg = &sw->segments[p->rec.slot];
    bool is_open = w->way->transits[p->rec.slot].on_way;
    sw->packet = p;
    end_released(w);
    sw->packet = NULL;
    sw->at = 0;
    if (sw->refused)
        return;
    p->rec.tcp.seq = p->seq; /* also where nobody tracks any more */
    p->rec.tcp.ack = p->ack;
    *seg = (nfm_segment){
        .events = p->rec.events, .link_type = p->link_type, .in = (uint8_t)w->in_port};
    describe(seg, &p->rec);
    if (!is_open && is_ahead(both, &both->side[p->rec.side], p)) {
        w->core_counters[NFM_CC_INLINE_WITHHELD]++;
        return;
    }
    if (!is_open)
        nfm__transit_open(w, p);
    close_segment(w, p, both);
    nfm__transit_finish(w, p);
}

bool nfm__segment_replace(nfm_worker *w, nfm_ring *ring, uint32_t slot, const nfm_edit *how) {
    const nfm_transit *t = &w->way->transits[slot];
    const nfm_segment *seg = &w->way->stream->segments[slot];
    if (!t->is_segment)
        return nfm__datagram_replace(w, ring, slot, how);
    uint32_t link = nfm__run_find(w, &nfm__strands_of(w, t->line)->side[t->side], seg->seq);
    while (link != 0 && nfm__run_at(w, link)->waits != slot + 1)
        link = nfm__run_at(w, link)->next;
    return link != 0 && nfm__run_replace(w, ring, link, how);
}
