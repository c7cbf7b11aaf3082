/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matchers of the sides of TCP flows: one stream of Hyperscan (Vectorscan) each, bounded in number.
 *
 * Theory of operation. A stream keeps the matcher's state between segments, so a word cut anywhere
 * is found, once, and no byte is kept or read twice. Streams are found by (flow id, side) in a
 * chained hash table. They cost memory, so their number is fixed at the start. They are opened as
 * they are first needed and never closed before the end: a flow that ends gives its streams back to
 * a free list, and when none is free the least recently used is taken over (evicted, counted; a
 * match that began in it is lost). Bytes after a hole start a new search: next_off says which
 * offset continues the stream. So tcp.anomaly.gap need not be heard.
 *
 * Nothing is allocated per packet, except when the number of streams in use reaches a new high.
 */
#ifndef NFS_SEARCH_STREAMS_H
#define NFS_SEARCH_STREAMS_H

#include <hs/hs.h>

#include <stdlib.h>
#include <string.h>

#include "nfm/nfm.h"

#define SEARCH_NONE UINT32_MAX
#define SEARCH_ANY_OFFSET UINT64_MAX
#define SEARCH_MAX_STREAMS (1u << 22)

typedef struct search_stream {
    hs_stream_t *matcher; /* NULL until first used */
    uint64_t flow;        /* id; 0: on the free list */
    uint64_t base;        /* stream offset at which the matcher counts 0 */
    uint64_t next_off;    /* offset that continues this search */
    uint32_t side;
    uint32_t chain;        /* next of the same bucket, or of the free list, + 1 */
    uint32_t newer, older; /* by use */
} search_stream;

typedef struct search_streams {
    const hs_database_t *database; /* borrowed, like |scratch| */
    hs_scratch_t *scratch;
    search_stream *at;  /* touched on use */
    uint32_t *buckets;  /* first of each + 1; 0 none */
    uint32_t n_buckets; /* power of two */
    uint32_t max, n;
    uint32_t ever;      /* those that were in use at some time come first */
    uint32_t free_list; /* + 1 */
    uint32_t newest, oldest;
    uint64_t evicted, restarts_after_gap;
} search_streams;

/* How many streams fit |memory| when each costs |each| bytes with what belongs to it: at least one.
 */
static inline uint32_t search_streams_fitting(uint64_t memory, uint64_t each) {
    uint64_t n = memory / each;
    return n < 1 ? 1 : n > SEARCH_MAX_STREAMS ? SEARCH_MAX_STREAMS : (uint32_t)n;
}

static inline bool search_streams_init(search_streams *s, uint32_t max) {
    s->max = max;
    s->n_buckets = 1;
    while (s->n_buckets < max)
        s->n_buckets *= 2;
    s->at = calloc(max, sizeof(*s->at));
    s->buckets = calloc(s->n_buckets, sizeof(*s->buckets));
    s->newest = s->oldest = SEARCH_NONE;
    return s->at != NULL && s->buckets != NULL;
}

/* Closes all streams without reporting matches. */
static inline void search_streams_fini(search_streams *s) {
    for (uint32_t i = 0; i < s->ever; i++)
        if (s->at[i].matcher != NULL)
            hs_close_stream(s->at[i].matcher, NULL, NULL, NULL);
    free(s->at);
    free(s->buckets);
    s->at = NULL;
    s->buckets = NULL;
}

static inline uint32_t *search_streams_bucket(search_streams *s, uint64_t flow, uint32_t side) {
    uint64_t mixed = (flow * 2 + side) * UINT64_C(0x9e3779b97f4a7c15); /* Knuth: golden ratio */
    return &s->buckets[(uint32_t)(mixed >> 32) & (s->n_buckets - 1)];
}

static inline void search_streams_unlink(search_streams *s, uint32_t index) {
    search_stream *e = &s->at[index];
    *(e->newer == SEARCH_NONE ? &s->newest : &s->at[e->newer].older) = e->older;
    *(e->older == SEARCH_NONE ? &s->oldest : &s->at[e->older].newer) = e->newer;
}

static inline void search_streams_link(search_streams *s, uint32_t index) {
    search_stream *e = &s->at[index];
    e->newer = SEARCH_NONE;
    e->older = s->newest;
    *(s->newest == SEARCH_NONE ? &s->oldest : &s->at[s->newest].newer) = index;
    s->newest = index;
}

static inline uint32_t search_streams_find(search_streams *s, uint64_t flow, uint32_t side) {
    uint32_t link = *search_streams_bucket(s, flow, side);
    while (link != 0 && (s->at[link - 1].flow != flow || s->at[link - 1].side != side))
        link = s->at[link - 1].chain;
    return link == 0 ? SEARCH_NONE : link - 1;
}

/* Takes the stream out of all lists. Its matcher keeps its state until the next restart. */
static inline void search_streams_forget(search_streams *s, uint32_t index) {
    search_stream *e = &s->at[index];
    uint32_t *link = search_streams_bucket(s, e->flow, e->side);
    while (*link != index + 1)
        link = &s->at[*link - 1].chain;
    *link = e->chain;
    search_streams_unlink(s, index);
    e->flow = 0;
    e->chain = s->free_list;
    s->free_list = index + 1;
    s->n--;
}

/* Restarts a matcher; matches at the end of what it has seen go to |on_match|, if given. */
static inline bool search_streams_restart(search_streams *s, uint32_t index,
                                          match_event_handler on_match, void *context) {
    search_stream *e = &s->at[index];
    hs_error_t rc = e->matcher != NULL
                        ? hs_reset_stream(e->matcher, 0, s->scratch, on_match, context)
                        : hs_open_stream(s->database, 0, &e->matcher);
    return rc == HS_SUCCESS;
}

/* A fresh stream for (flow, side), or SEARCH_NONE when the matcher has no memory. */
static inline uint32_t search_streams_adopt(search_streams *s, uint64_t flow, uint32_t side) {
    if (s->free_list == 0 && s->ever == s->max) {
        search_streams_forget(s, s->oldest);
        s->evicted++;
    }
    uint32_t index = s->free_list != 0 ? s->free_list - 1 : s->ever;
    search_stream *e = &s->at[index];
    if (!search_streams_restart(s, index, NULL, NULL))
        return SEARCH_NONE;
    if (index == s->ever)
        s->ever++;
    else
        s->free_list = e->chain;
    uint32_t *head = search_streams_bucket(s, flow, side);
    e->flow = flow;
    e->side = side;
    e->base = 0;
    e->next_off = SEARCH_ANY_OFFSET;
    e->chain = *head;
    *head = index + 1;
    search_streams_link(s, index);
    s->n++;
    return index;
}

/* The stream that bytes [offset, offset + len) of (flow, side) belong to, as the one used last;
 * *is_new: its search begins with them. SEARCH_NONE: the matcher has no memory. */
static inline uint32_t search_streams_take(search_streams *s, const nfm_record *record,
                                           uint32_t len, bool *is_new) {
    uint32_t side = record->side & 1u;
    uint64_t offset = record->tcp.stream_off;
    uint32_t index = search_streams_find(s, record->flow, side);
    if (index == SEARCH_NONE)
        index = search_streams_adopt(s, record->flow, side);
    if (index == SEARCH_NONE)
        return SEARCH_NONE;
    search_stream *e = &s->at[index];
    if (s->newest != index) {
        search_streams_unlink(s, index);
        search_streams_link(s, index);
    }
    *is_new = e->next_off != offset;
    if (*is_new) {
        if (e->next_off != SEARCH_ANY_OFFSET) {
            s->restarts_after_gap++;
            if (!search_streams_restart(s, index, NULL, NULL))
                return SEARCH_NONE;
        }
        e->base = offset;
    }
    e->next_off = offset + len;
    return index;
}

#endif
