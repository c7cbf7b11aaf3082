/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pieces held for a side: a doubly linked list sorted by sequence number, without overlaps.
 *
 * Theory of operation. Most segments belong at the end, next to it, or right at the front, so the
 * place of a new one is searched from whichever end is nearer. Where it overlaps what is held, the
 * policy says for each pair of old and new which one keeps the common bytes:
 *   first      the old one
 *   last       the new one
 *   bsd        the old one, unless the new one begins before it (also IRIX, HP-UX 10, Windows)
 *   linux      like bsd; also the new one when both begin together and the new one ends later
 *   old-linux  like bsd; also the new one when both begin together and it does not end earlier
 *   solaris    the old one, unless the new one ends later, or begins no later and ends no earlier
 *              (also HP-UX 11)
 * These are the classes that Novak and Sturges measured ("Target-Based TCP Stream Reassembly",
 * 2007). Bytes that nobody has (a cut tail) lose against bytes that somebody has.
 *
 * The loser is cut; a new segment in the middle of an old one, or the reverse, leaves two parts of
 * one slot, each with a reference of its own.
 */
#include <stdlib.h>
#include <string.h>

#include "stream.h"

/*
 * nfm__held_init sizes the slab: worker_slots percent of the small slots, one piece for each. The
 * pages are touched on use only. Returns NFM_OK or NFM_E_NOMEM.
 */
int nfm__held_init(nfm_ctx *ctx, nfm__stream_self *self) {
    uint64_t n = ctx->mem->n_small * ctx->limits[LIMIT_WORKER_SLOTS] / 100;
    self->n_pieces = n < 16 ? 16 : (uint32_t)n;
    self->keep_free = ctx->mem->n_small / 8;
    self->pieces = calloc(self->n_pieces, sizeof(*self->pieces));
    return self->pieces == NULL ? NFM_E_NOMEM : NFM_OK;
}

void nfm__held_fini(nfm__stream_self *self) {
    free(self->pieces);
    self->pieces = NULL;
}

static uint32_t slab_take(nfm__stream_self *self) {
    uint32_t link = self->free;
    if (link != 0)
        self->free = self->pieces[link - 1].next;
    else if (self->fresh < self->n_pieces)
        link = ++self->fresh;
    else
        return 0;
    self->n_used++;
    return link;
}

static void slab_put(nfm__stream_call *call, uint32_t link) {
    nfm__piece *piece = nfm__piece_at(call->self, link);
    if (piece->kind == PIECE_DATA)
        nfm_slot_release(call->ctx, piece->rec.slot);
    piece->next = call->self->free;
    call->self->free = link;
    call->self->n_used--;
}

static void link_before(nfm__stream_self *self, nfm__stream_side *s, uint32_t link,
                        uint32_t after) {
    nfm__piece *piece = nfm__piece_at(self, link);
    piece->next = after;
    piece->prev = after ? nfm__piece_at(self, after)->prev : s->tail;
    if (piece->prev)
        nfm__piece_at(self, piece->prev)->next = link;
    else
        s->head = link;
    if (after)
        nfm__piece_at(self, after)->prev = link;
    else
        s->tail = link;
    s->n_held++;
}

static void unlink_piece(nfm__stream_call *call, nfm__stream_side *s, uint32_t link) {
    nfm__stream_self *self = call->self;
    nfm__piece *piece = nfm__piece_at(self, link);
    if (piece->prev)
        nfm__piece_at(self, piece->prev)->next = piece->next;
    else
        s->head = piece->next;
    if (piece->next)
        nfm__piece_at(self, piece->next)->prev = piece->prev;
    else
        s->tail = piece->prev;
    s->n_held--;
    slab_put(call, link);
}

/*
 * nfm__held_pop drops the head of the list.
 */
void nfm__held_pop(nfm__stream_call *call, nfm__stream_side *s) {
    unlink_piece(call, s, s->head);
}

static void cut_front(nfm__piece *piece, uint32_t n) {
    piece->seq += n;
    piece->off += n;
    piece->len -= n;
}

/*
 * nfm__held_drop_before drops held bytes below |seq|.
 */
void nfm__held_drop_before(nfm__stream_call *call, nfm__stream_side *s, uint32_t seq) {
    while (s->head != 0) {
        nfm__piece *piece = nfm__piece_at(call->self, s->head);
        int32_t below = nfm_seq_diff(seq, piece->seq);
        if (below <= 0)
            return;
        if ((uint32_t)below < piece->len) {
            cut_front(piece, (uint32_t)below);
            return;
        }
        nfm__held_pop(call, s);
    }
}

/* The first piece that ends after |seq|, 0 none. */
static uint32_t find(const nfm__stream_self *self, const nfm__stream_side *s, uint32_t seq) {
    if (s->tail == 0)
        return 0;
    const nfm__piece *head = nfm__piece_at(self, s->head), *tail = nfm__piece_at(self, s->tail);
    uint32_t link;
    if (nfm_seq_diff(seq, head->seq) < nfm_seq_diff(tail->seq, seq)) {
        link = s->head;
        for (const nfm__piece *p = head; nfm_seq_diff(p->seq + p->len, seq) <= 0;
             p = nfm__piece_at(self, link))
            if ((link = p->next) == 0)
                return 0;
        return link;
    }
    uint32_t found = 0;
    for (link = s->tail; link != 0; link = nfm__piece_at(self, link)->prev) {
        const nfm__piece *p = nfm__piece_at(self, link);
        if (nfm_seq_diff(p->seq + p->len, seq) <= 0)
            break;
        found = link;
    }
    return found;
}

/* Whether |run| keeps the bytes that it shares with |old|. */
static bool new_wins(uint64_t policy, const nfm__piece *old, const nfm__run *run) {
    int32_t begins = nfm_seq_diff(run->seq, old->seq); /* < 0: before the old one */
    int32_t ends = nfm_seq_diff(run->seq + run->len, old->seq + old->len);
    if (old->kind == PIECE_CUT || run->kind == PIECE_CUT)
        return run->kind != PIECE_CUT;
    switch ((enum stream_overlap)policy) {
    case OVERLAP_FIRST:
        return false;
    case OVERLAP_LAST:
        return true;
    case OVERLAP_BSD:
    case OVERLAP_WINDOWS:
        return begins < 0;
    case OVERLAP_LINUX:
        return begins < 0 || (begins == 0 && ends > 0);
    case OVERLAP_OLD_LINUX:
        return begins < 0 || (begins == 0 && ends >= 0);
    case OVERLAP_SOLARIS:
        return ends > 0 || (begins <= 0 && ends >= 0);
    }
    return false;
}

/* Compares the bytes that |run| shares with |old|. */
static bool differs(nfm__stream_call *call, const nfm__piece *old, const nfm__run *run) {
    if (old->kind != PIECE_DATA || run->kind != PIECE_DATA)
        return false;
    int32_t begins = nfm_seq_diff(run->seq, old->seq);
    uint32_t skip_old = begins > 0 ? (uint32_t)begins : 0;
    uint32_t skip_new = begins < 0 ? (uint32_t)-begins : 0;
    uint32_t left_old = old->len - skip_old, left_new = run->len - skip_new;
    const uint8_t *a = nfm_slot_base(call->ctx, old->rec.slot) + old->off + skip_old;
    const uint8_t *b = call->packet->base + run->off + skip_new;
    return memcmp(a, b, left_old < left_new ? left_old : left_new) != 0;
}

static void note_overlap(nfm__stream_call *call, const nfm__piece *old, const nfm__run *run) {
    if (old->kind == PIECE_DATA && run->kind == PIECE_DATA &&
        (old->seq != run->seq || old->len != run->len)) {
        call->ctx->counters[COUNT_OVERLAP]++;
        call->packet->rec.events |= NFM_BIT(NFM_EV_TCP_OVERLAP);
    }
    if (differs(call, old, run)) {
        call->ctx->counters[COUNT_INCONSISTENT]++;
        call->packet->rec.events |= NFM_BIT(NFM_EV_TCP_INCONSISTENT_OVERLAP);
    }
}

/* Links |run| before |after|. */
static void add(nfm__stream_call *call, nfm__stream_side *s, nfm__run run, uint32_t after) {
    uint32_t link = slab_take(call->self);
    nfm__piece *piece = nfm__piece_at(call->self, link);
    piece->seq = run.seq;
    piece->len = run.len;
    piece->off = run.off;
    piece->kind = run.kind;
    piece->rec = call->packet->rec;
    piece->rec.events = NFM_BIT(NFM_EV_TCP_DATA);
    if (run.kind == PIECE_DATA)
        nfm_slot_hold(call->ctx, piece->rec.slot);
    else
        piece->rec.slot = NFM_NO_SLOT;
    link_before(call->self, s, link, after);
    call->ctx->counters[COUNT_HELD]++;
}

/* The new bytes [seq, end) win against |link|: what remains of it goes before and behind. Returns
 * the piece behind, or the next one. */
static uint32_t cut_out(nfm__stream_call *call, nfm__stream_side *s, uint32_t link, uint32_t seq,
                        uint32_t end) {
    nfm__piece *old = nfm__piece_at(call->self, link);
    uint32_t next = old->next, old_end = old->seq + old->len;
    int32_t before = nfm_seq_diff(seq, old->seq), behind = nfm_seq_diff(old_end, end);

    if (before > 0 && behind > 0) {
        uint32_t rest_link = slab_take(call->self);
        nfm__piece *rest = nfm__piece_at(call->self, rest_link);
        *rest = *old;
        if (rest->kind == PIECE_DATA)
            nfm_slot_hold(call->ctx, rest->rec.slot);
        cut_front(rest, end - old->seq);
        link_before(call->self, s, rest_link, next);
        old->len = (uint32_t)before;
        return rest_link;
    }
    if (before > 0) {
        old->len = (uint32_t)before;
        return next;
    }
    if (behind > 0) {
        cut_front(old, end - old->seq);
        return link;
    }
    unlink_piece(call, s, link);
    return next;
}

/* Each overlapped piece may split the new run once more, or be split once. */
static bool has_room(const nfm__stream_call *call, const nfm__stream_side *s, uint32_t link,
                     uint32_t end) {
    const nfm__stream_self *self = call->self;
    uint32_t need = 1;
    for (; link != 0 && nfm_seq_diff(nfm__piece_at(self, link)->seq, end) < 0;
         link = nfm__piece_at(self, link)->next)
        need++;
    return self->n_used + need <= self->n_pieces &&
           s->n_held + need <= call->ctx->limits[LIMIT_FLOW_SLOTS];
}

/*
 * nfm__held_insert holds those bytes of |run| that the policy does not give to older pieces, and
 * notes overlaps in the packet's events. run->seq is not below next. Takes slot references.
 * Returns false, with nothing changed, when the flow's or the worker's cap does not allow it.
 */
bool nfm__held_insert(nfm__stream_call *call, uint8_t side, nfm__run run) {
    nfm__stream_side *s = &call->stream->side[side];
    uint32_t end = run.seq + run.len, link = find(call->self, s, run.seq);
    uint64_t policy = call->ctx->limits[LIMIT_OVERLAP];
    if (!has_room(call, s, link, end))
        return false;
    const nfm__run whole = run;
    while (run.len > 0 && link != 0) {
        nfm__piece *old = nfm__piece_at(call->self, link);
        uint32_t old_end = old->seq + old->len;
        if (nfm_seq_diff(old->seq, end) >= 0)
            break;
        note_overlap(call, old, &whole);
        if (new_wins(policy, old, &whole)) {
            link = cut_out(call, s, link, run.seq, end);
            continue;
        }
        int32_t before = nfm_seq_diff(old->seq, run.seq);
        if (before > 0) {
            nfm__run part = run;
            part.len = (uint32_t)before;
            add(call, s, part, link);
        }
        uint32_t used = old_end - run.seq;
        link = old->next;
        used = used > run.len ? run.len : used;
        run.seq += used;
        run.off += used;
        run.len -= used;
    }
    if (run.len > 0)
        add(call, s, run, link);
    return true;
}
