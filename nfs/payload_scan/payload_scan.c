/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streaming multi-pattern search over tcp.data.
 *
 * Theory of operation. All patterns are one Hyperscan database in streaming mode: a stream keeps
 * the matcher's state between segments, so a word cut anywhere is found, once, and no byte is kept
 * or read twice. Each side of a flow has a stream of its own, found by (flow id, side) in a chained
 * hash table.
 *
 * Streams cost memory (hs_stream_size, known after compiling), so their number is fixed from the
 * memory limit at the start. They are opened one by one as they are first needed and never closed
 * before the end: a flow that ends gives its streams back to a free list, and when none is free the
 * least recently used is taken over (evicted, counted; a match that began in it is lost).
 *
 * Rules of this file.
 * 1. Bytes after a hole start a new search: next_off says which offset continues the stream, any
 *    other resets it. tcp.gap therefore need not be heard.
 * 2. "To the end" patterns ($, \z) are decided at flow.end, by resetting the stream with a
 * callback.
 * 3. Nothing is allocated per packet, except when the number of streams in use reaches a new high.
 */
#include <hs/hs.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nfm/nfm.h"

#pragma GCC visibility push(default)
#include "payload_scan.cdef"
#pragma GCC visibility pop

#define NONE UINT32_MAX
#define ANY_OFFSET UINT64_MAX
#define MAX_STREAMS (1u << 22)

typedef struct entry {
    hs_stream_t *stream; /* NULL until first used */
    uint64_t flow;       /* id; 0: on the free list */
    uint64_t base;       /* stream offset at which the matcher counts 0 */
    uint64_t next_off;   /* offset that continues this search */
    uint32_t side;
    uint32_t chain;        /* next entry of the same bucket, or of the free list */
    uint32_t newer, older; /* by use */
} entry;

struct payload_scan {
    hs_database_t *database;
    hs_scratch_t *scratch;
    entry *entries;
    uint32_t *buckets;  /* n_buckets first entries */
    uint32_t n_buckets; /* power of two */
    uint32_t free_list;
    uint32_t newest, oldest;
    payload_scan_match *matches; /* ring of max_matches */
    uint32_t max_matches, first_match, n_matches;
    bool ready; /* patterns and tables are there */
    payload_scan_stats stats;
};

typedef struct found { /* what the matcher's callback needs */
    payload_scan *scan;
    const entry *at;
    int64_t ts_ns;
} found;

/* ---- matches ------------------------------------------------------------------------------ */

static int on_match(unsigned int id, unsigned long long from, unsigned long long to,
                    unsigned int flags, void *context) {
    found *hit = context;
    payload_scan *scan = hit->scan;
    (void)from;
    (void)flags;
    scan->stats.matches++;
    if (scan->n_matches == scan->max_matches) {
        scan->stats.matches_dropped++;
        return 0;
    }
    uint32_t slot = (scan->first_match + scan->n_matches++) % scan->max_matches;
    scan->matches[slot] = (payload_scan_match){
        .flow = hit->at->flow,
        .stream_off = hit->at->base + to,
        .ts_ns = hit->ts_ns,
        .flow_index = (uint32_t)hit->at->flow,
        .pattern = id,
        .side = hit->at->side,
    };
    return 0;
}

/*
 * payload_scan_take moves the oldest |max| matches to |out|. Returns how many there were.
 */
uint32_t payload_scan_take(payload_scan *scan, payload_scan_match *out, uint32_t max) {
    uint32_t n = scan->n_matches < max ? scan->n_matches : max;
    for (uint32_t i = 0; i < n; i++)
        out[i] = scan->matches[(scan->first_match + i) % scan->max_matches];
    scan->first_match = (scan->first_match + n) % scan->max_matches;
    scan->n_matches -= n;
    return n;
}

/* ---- streams ------------------------------------------------------------------------------ */

static uint32_t *bucket_of(payload_scan *scan, uint64_t flow, uint32_t side) {
    uint64_t mixed = (flow * 2 + side) * UINT64_C(0x9e3779b97f4a7c15); /* Knuth: golden ratio */
    return &scan->buckets[(uint32_t)(mixed >> 32) & (scan->n_buckets - 1)];
}

static void unlink_use(payload_scan *scan, uint32_t index) {
    entry *e = &scan->entries[index];
    *(e->newer == NONE ? &scan->newest : &scan->entries[e->newer].older) = e->older;
    *(e->older == NONE ? &scan->oldest : &scan->entries[e->older].newer) = e->newer;
}

static void link_newest(payload_scan *scan, uint32_t index) {
    entry *e = &scan->entries[index];
    e->newer = NONE;
    e->older = scan->newest;
    *(scan->newest == NONE ? &scan->oldest : &scan->entries[scan->newest].newer) = index;
    scan->newest = index;
}

static uint32_t find(payload_scan *scan, uint64_t flow, uint32_t side) {
    uint32_t index = *bucket_of(scan, flow, side);
    while (index != NONE &&
           (scan->entries[index].flow != flow || scan->entries[index].side != side))
        index = scan->entries[index].chain;
    return index;
}

/* Takes the entry out of all lists. Its matcher keeps its state until the next reset. */
static void forget(payload_scan *scan, uint32_t index) {
    entry *e = &scan->entries[index];
    uint32_t *link = bucket_of(scan, e->flow, e->side);
    while (*link != index)
        link = &scan->entries[*link].chain;
    *link = e->chain;
    unlink_use(scan, index);
    e->flow = 0;
    e->chain = scan->free_list;
    scan->free_list = index;
    scan->stats.streams--;
}

/* Restarts the matcher of |e|; matches at the end of what it has seen go to |hit|, if given. */
static bool restart(payload_scan *scan, entry *e, found *hit) {
    hs_error_t rc = e->stream
                        ? hs_reset_stream(e->stream, 0, scan->scratch, hit ? on_match : NULL, hit)
                        : hs_open_stream(scan->database, 0, &e->stream);
    return rc == HS_SUCCESS;
}

/* Returns a fresh entry for (flow, side), or NONE when the matcher has no memory. */
static uint32_t adopt(payload_scan *scan, uint64_t flow, uint32_t side) {
    if (scan->free_list == NONE) {
        forget(scan, scan->oldest);
        scan->stats.streams_evicted++;
    }
    uint32_t index = scan->free_list;
    entry *e = &scan->entries[index];
    if (!restart(scan, e, NULL))
        return NONE;
    scan->free_list = e->chain;
    uint32_t *head = bucket_of(scan, flow, side);
    e->flow = flow;
    e->side = side;
    e->base = 0;
    e->next_off = ANY_OFFSET;
    e->chain = *head;
    *head = index;
    link_newest(scan, index);
    scan->stats.streams++;
    return index;
}

/* ---- events ------------------------------------------------------------------------------- */

static void scan_data(payload_scan *scan, const nfm_mem *mem, const nfm_record *record) {
    nfm_view data = nfm_record_data(mem, record);
    uint32_t side = record->side & 1u;
    uint32_t index = find(scan, record->flow, side);
    if (index == NONE)
        index = adopt(scan, record->flow, side);
    if (index == NONE) {
        scan->stats.failures++;
        return;
    }
    entry *e = &scan->entries[index];
    if (scan->newest != index) {
        unlink_use(scan, index);
        link_newest(scan, index);
    }
    if (e->next_off != record->tcp.stream_off) {
        if (e->next_off != ANY_OFFSET) {
            scan->stats.restarts_after_gap++;
            if (!restart(scan, e, NULL))
                scan->stats.failures++;
        }
        e->base = record->tcp.stream_off;
    }
    e->next_off = record->tcp.stream_off + data.len;
    found hit = {scan, e, record->ts_ns};
    scan->stats.bytes += data.len;
    if (hs_scan_stream(e->stream, (const char *)data.data, data.len, 0, scan->scratch, on_match,
                       &hit) != HS_SUCCESS)
        scan->stats.failures++;
}

static void end_flow(payload_scan *scan, const nfm_record *record) {
    for (uint32_t side = 0; side < 2; side++) {
        uint32_t index = find(scan, record->flow, side);
        if (index == NONE)
            continue;
        found hit = {scan, &scan->entries[index], record->ts_ns};
        if (!restart(scan, &scan->entries[index], &hit))
            scan->stats.failures++;
        forget(scan, index);
    }
}

/*
 * payload_scan_process is the nfm_process_fn of this NF: |batch| is an nfm_batch of tcp.data and
 * flow.end, in order. Matches wait for payload_scan_take. Returns NFM_OK, or NFM_E_STATE before
 * load.
 */
int payload_scan_process(void *state, const void *batch) {
    payload_scan *scan = state;
    const nfm_batch *events = batch;
    if (!scan->ready)
        return NFM_E_STATE;
    for (uint32_t i = 0; i < events->n; i++) {
        const nfm_record *record = &events->mem->records[events->desc[i].record];
        if (events->desc[i].what & NFM_BIT(NFM_EV_TCP_DATA))
            scan_data(scan, events->mem, record);
        if (events->desc[i].what & NFM_BIT(NFM_EV_FLOW_END))
            end_flow(scan, record);
    }
    return NFM_OK;
}

/* ---- life --------------------------------------------------------------------------------- */

static unsigned int matcher_flags(uint32_t flags) {
    return (flags & PAYLOAD_SCAN_CASELESS ? HS_FLAG_CASELESS : 0) |
           (flags & PAYLOAD_SCAN_DOTALL ? HS_FLAG_DOTALL : 0) |
           (flags & PAYLOAD_SCAN_MULTILINE ? HS_FLAG_MULTILINE : 0) |
           (flags & PAYLOAD_SCAN_ONCE ? HS_FLAG_SINGLEMATCH : 0);
}

/* Compiles the patterns; on failure says why, and which one. */
static bool compile(payload_scan *scan, const payload_scan_config *config, char *text,
                    uint32_t text_size, int32_t *pattern) {
    unsigned int *numbers = calloc(2 * (size_t)config->n_patterns, sizeof *numbers);
    if (!numbers)
        return false;
    for (uint32_t i = 0; i < config->n_patterns; i++) {
        numbers[i] = i;
        numbers[config->n_patterns + i] = matcher_flags(config->flags[i]);
    }
    hs_compile_error_t *error = NULL;
    hs_error_t rc =
        hs_compile_multi(config->expressions, numbers + config->n_patterns, numbers,
                         config->n_patterns, HS_MODE_STREAM, NULL, &scan->database, &error);
    free(numbers);
    if (rc != HS_SUCCESS && error) {
        snprintf(text, text_size, "%s", error->message);
        *pattern = error->expression;
        hs_free_compile_error(error);
    }
    return rc == HS_SUCCESS && hs_alloc_scratch(scan->database, &scan->scratch) == HS_SUCCESS;
}

/* Sizes the tables from the memory limit: at least one stream. */
static bool make_tables(payload_scan *scan, const payload_scan_config *config) {
    size_t stream_bytes = 0;
    if (hs_stream_size(scan->database, &stream_bytes) != HS_SUCCESS)
        return false;
    uint64_t each = stream_bytes + sizeof(entry) + 2 * sizeof(uint32_t);
    uint64_t streams = config->stream_memory / each;
    streams = streams < 1 ? 1 : streams > MAX_STREAMS ? MAX_STREAMS : streams;
    scan->n_buckets = 1;
    while (scan->n_buckets < streams)
        scan->n_buckets *= 2;
    scan->max_matches = config->max_matches ? config->max_matches : 1;
    scan->stats.stream_bytes = each;
    scan->stats.max_streams = streams;
    scan->entries = calloc(streams, sizeof *scan->entries);
    scan->buckets = malloc(scan->n_buckets * sizeof *scan->buckets);
    scan->matches = calloc(scan->max_matches, sizeof *scan->matches);
    if (!scan->entries || !scan->buckets || !scan->matches)
        return false;
    memset(scan->buckets, 0xff, scan->n_buckets * sizeof *scan->buckets);
    for (uint32_t i = 0; i < streams; i++)
        scan->entries[i].chain = i + 1 < streams ? i + 1 : NONE;
    scan->free_list = 0;
    scan->newest = scan->oldest = NONE;
    return true;
}

/*
 * payload_scan_open makes a scanner without patterns; payload_scan_load gives it some. The
 * configuration is not read: nf.py checks it first. Returns NULL without memory.
 */
void *payload_scan_open(const char *config_json) {
    (void)config_json;
    return calloc(1, sizeof(payload_scan));
}

/*
 * payload_scan_load compiles the patterns, once per scanner; |config| is borrowed until return.
 * Streams: as many as fit config->stream_memory, at least one.
 * Returns NFM_OK, or NFM_E_STATE, NFM_E_INVAL, NFM_E_NOMEM with one line in |text| and, when a
 * pattern is to blame, its index in *pattern (else -1); the scanner then can only be closed.
 */
int payload_scan_load(payload_scan *scan, const payload_scan_config *config, char *text,
                      uint32_t text_size, int32_t *pattern) {
    *pattern = -1;
    if (scan->database) {
        snprintf(text, text_size, "patterns are loaded already");
        return NFM_E_STATE;
    }
    snprintf(text, text_size, "out of memory");
    if (!compile(scan, config, text, text_size, pattern))
        return *pattern < 0 ? NFM_E_NOMEM : NFM_E_INVAL;
    if (!make_tables(scan, config))
        return NFM_E_NOMEM;
    text[0] = '\0';
    scan->ready = true;
    return NFM_OK;
}

/*
 * payload_scan_close closes all streams without reporting matches and frees |state|; NULL is fine.
 */
void payload_scan_close(void *state) {
    payload_scan *scan = state;
    if (!scan)
        return;
    for (uint64_t i = 0; scan->entries && i < scan->stats.max_streams; i++)
        if (scan->entries[i].stream)
            hs_close_stream(scan->entries[i].stream, NULL, NULL, NULL);
    hs_free_scratch(scan->scratch);
    hs_free_database(scan->database);
    free(scan->entries);
    free(scan->buckets);
    free(scan->matches);
    free(scan);
}

/*
 * payload_scan_stats_get copies the counters since the start; streams is how many are open now.
 */
void payload_scan_stats_get(const payload_scan *scan, payload_scan_stats *out) {
    *out = scan->stats;
}
