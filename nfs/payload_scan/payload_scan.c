/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streaming multi-pattern search over tcp.data.
 *
 * Theory of operation. All patterns are one database in streaming mode, and each side of a flow has
 * a stream of its own (search_streams.h). Streams cost memory (hs_stream_size, known after
 * compiling), so their number follows from the memory limit.
 *
 * "To the end" patterns ($, \z) are decided at flow.end, by resetting the stream with a callback.
 */
#include <stdio.h>

#include "search_streams.h"

#pragma GCC visibility push(default)
#include "payload_scan.cdef"
#pragma GCC visibility pop

struct payload_scan {
    hs_database_t *database;
    hs_scratch_t *scratch;
    search_streams streams;
    payload_scan_match *matches; /* ring of max_matches */
    uint32_t max_matches, first_match, n_matches;
    bool ready; /* patterns and tables are there */
    payload_scan_stats stats;
};

typedef struct found { /* what the matcher's callback needs */
    payload_scan *scan;
    const search_stream *at;
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

/* ---- events ------------------------------------------------------------------------------- */

static void scan_data(payload_scan *scan, const nfm_mem *mem, const nfm_record *record) {
    nfm_view data = nfm_record_data(mem, record);
    bool is_new;
    uint32_t index = search_streams_take(&scan->streams, record, data.len, &is_new);
    if (index == SEARCH_NONE) {
        scan->stats.failures++;
        return;
    }
    search_stream *e = &scan->streams.at[index];
    found hit = {scan, e, record->ts_ns};
    scan->stats.bytes += data.len;
    if (hs_scan_stream(e->matcher, (const char *)data.data, data.len, 0, scan->scratch, on_match,
                       &hit) != HS_SUCCESS)
        scan->stats.failures++;
}

static void end_flow(payload_scan *scan, const nfm_record *record) {
    for (uint32_t side = 0; side < 2; side++) {
        uint32_t index = search_streams_find(&scan->streams, record->flow, side);
        if (index == SEARCH_NONE)
            continue;
        found hit = {scan, &scan->streams.at[index], record->ts_ns};
        if (!search_streams_restart(&scan->streams, index, on_match, &hit))
            scan->stats.failures++;
        search_streams_forget(&scan->streams, index);
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
    uint64_t each = stream_bytes + sizeof(search_stream) + 2 * sizeof(uint32_t);
    scan->max_matches = config->max_matches ? config->max_matches : 1;
    scan->stats.stream_bytes = each;
    scan->stats.max_streams = search_streams_fitting(config->stream_memory, each);
    scan->streams.database = scan->database;
    scan->streams.scratch = scan->scratch;
    scan->matches = calloc(scan->max_matches, sizeof *scan->matches);
    return scan->matches && search_streams_init(&scan->streams, (uint32_t)scan->stats.max_streams);
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
    search_streams_fini(&scan->streams);
    hs_free_scratch(scan->scratch);
    hs_free_database(scan->database);
    free(scan->matches);
    free(scan);
}

/*
 * payload_scan_stats_get copies the counters since the start; streams is how many are open now.
 */
void payload_scan_stats_get(const payload_scan *scan, payload_scan_stats *out) {
    *out = scan->stats;
    out->streams = scan->streams.n;
    out->streams_evicted = scan->streams.evicted;
    out->restarts_after_gap = scan->streams.restarts_after_gap;
}
