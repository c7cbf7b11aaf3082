/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of a datagram as a sorted list of pieces without overlaps (defrag.h). */
#include <string.h>

#include "defrag.h"

static defrag_piece *next_of(const defrag_table *table, uint32_t index) {
    return index == DEFRAG_NONE ? NULL : &table->pieces[index];
}

/* defrag_overlaps tells whether some byte of [start, end) is there already. */
bool defrag_overlaps(const defrag_table *table, const defrag_datagram *datagram, uint32_t start,
                     uint32_t end) {
    const defrag_piece *p = next_of(table, datagram->pieces);
    while (p != NULL && p->end <= start)
        p = next_of(table, p->next);
    return p != NULL && p->start < end;
}

/* defrag_is_duplicate tells whether |piece| has the extent and the bytes of one that is there: a
 * retransmission or a copy made on the way, which no policy needs to judge. */
bool defrag_is_duplicate(nfm_ctx *ctx, const defrag_datagram *datagram, const defrag_piece *piece) {
    const defrag_table *table = ctx->self;
    const defrag_piece *p = next_of(table, datagram->pieces);
    while (p != NULL && p->start < piece->start)
        p = next_of(table, p->next);
    return p != NULL && p->start == piece->start && p->end == piece->end &&
           memcmp(nfm_slot_base(ctx, p->slot) + p->data,
                  nfm_slot_base(ctx, piece->slot) + piece->data, p->end - p->start) == 0;
}

/* Links bytes [start, end) of |from| in behind |link|, as a piece with a reference of its own. */
static bool add(nfm_ctx *ctx, defrag_datagram *datagram, uint32_t *link, const defrag_piece *from,
                uint32_t start, uint32_t end) {
    defrag_table *table = ctx->self;
    uint32_t index = table->free_piece;
    if (index == DEFRAG_NONE)
        return false;
    defrag_piece *piece = &table->pieces[index];
    table->free_piece = piece->next;
    table->n_free_pieces--;
    *piece = (defrag_piece){.slot = from->slot,
                            .start = start,
                            .end = end,
                            .data = from->data + (start - from->start),
                            .next = *link};
    *link = index;
    datagram->covered += end - start;
    table->n_large += piece->slot >= ctx->mem->n_small;
    nfm_slot_hold(ctx, piece->slot);
    return true;
}

static void remove_piece(nfm_ctx *ctx, uint32_t *link) {
    defrag_table *table = ctx->self;
    uint32_t index = *link;
    defrag_piece *piece = &table->pieces[index];
    *link = piece->next;
    table->n_large -= piece->slot >= ctx->mem->n_small;
    nfm_slot_release(ctx, piece->slot);
    piece->next = table->free_piece;
    table->free_piece = index;
    table->n_free_pieces++;
}

/* Takes [start, end) out of the list, splitting a piece that goes beyond on both sides. */
static bool cut(nfm_ctx *ctx, defrag_datagram *datagram, uint32_t start, uint32_t end) {
    defrag_table *table = ctx->self;
    for (uint32_t *link = &datagram->pieces; *link != DEFRAG_NONE;) {
        defrag_piece *p = &table->pieces[*link];
        if (p->start >= end)
            break;
        if (p->end <= start) {
            link = &p->next;
            continue;
        }
        uint32_t from = p->start > start ? p->start : start, to = p->end < end ? p->end : end;
        if (p->end > to && p->start < from && !add(ctx, datagram, &p->next, p, to, p->end))
            return false;
        if (p->start < from) { /* keeps its head */
            datagram->covered -= p->end - from;
            p->end = from;
            link = &p->next;
        } else if (p->end > to) { /* keeps its tail */
            datagram->covered -= to - p->start;
            p->data += to - p->start;
            p->start = to;
            link = &p->next;
        } else {
            datagram->covered -= p->end - p->start;
            remove_piece(ctx, link);
        }
    }
    return true;
}

/* Puts [start, end) of |piece| where nothing is. */
static bool place(nfm_ctx *ctx, defrag_datagram *datagram, const defrag_piece *piece,
                  uint32_t start, uint32_t end) {
    defrag_table *table = ctx->self;
    uint32_t *link = &datagram->pieces;
    while (*link != DEFRAG_NONE && table->pieces[*link].start < start)
        link = &table->pieces[*link].next;
    return add(ctx, datagram, link, piece, start, end);
}

/* First copy wins: fills the holes that [start, end) of |piece| covers. */
static bool fill(nfm_ctx *ctx, defrag_datagram *datagram, const defrag_piece *piece) {
    defrag_table *table = ctx->self;
    uint32_t at = piece->start;
    for (uint32_t *link = &datagram->pieces; at < piece->end;) {
        defrag_piece *p = next_of(table, *link);
        uint32_t hole_end = p == NULL || p->start > piece->end ? piece->end : p->start;
        if (at < hole_end) {
            if (!add(ctx, datagram, link, piece, at, hole_end))
                return false;
            link = &table->pieces[*link].next; /* the new one; p follows it */
        }
        if (p == NULL)
            break;
        at = p->end > at ? p->end : at;
        link = &p->next;
    }
    return true;
}

/*
 * defrag_insert takes the bytes of |piece| in. Overlaps: as |overlap| says; OVERLAP_BSD and
 * OVERLAP_LINUX do what those systems' queues do: the piece before the new one takes away its head
 * (a piece with the same start counts as before for BSD only), and the new one takes away what
 * follows. Holds the slot once per piece kept. Returns false when pieces ran out.
 */
bool defrag_insert(nfm_ctx *ctx, defrag_datagram *datagram, const defrag_piece *piece,
                   enum defrag_overlap overlap) {
    uint32_t start = piece->start;
    if (overlap == OVERLAP_FIRST || overlap == OVERLAP_DROP)
        return fill(ctx, datagram, piece);
    if (overlap == OVERLAP_BSD || overlap == OVERLAP_LINUX) {
        const defrag_table *table = ctx->self;
        uint32_t before = piece->start + (overlap == OVERLAP_BSD);
        const defrag_piece *p = next_of(table, datagram->pieces);
        for (; p != NULL && p->start < before; p = next_of(table, p->next))
            start = p->end > start ? p->end : start;
        if (start >= piece->end)
            return true;
    }
    return cut(ctx, datagram, start, piece->end) && place(ctx, datagram, piece, start, piece->end);
}
