/* SPDX-License-Identifier: Apache-2.0 */
#include "ids.h"

enum { SWEEP = 4096 }; /* sessions that ids_resume looks at */

#define PACKET_BITS                                                                                \
    (NFM_BIT(NFM_EV_PACKET_TCP) | NFM_BIT(NFM_EV_PACKET_ICMP) | NFM_BIT(NFM_EV_PACKET_OTHER) |     \
     NFM_BIT(NFM_EV_UDP_DATAGRAM))

/* ---- sessions ------------------------------------------------------------------------------- */

/* A handshake that is not complete: RFC 9293 section 3.3.2. */
static bool is_opening(uint8_t state) {
    return state == NFM_TCP_NONE || state == NFM_TCP_SYN_SENT || state == NFM_TCP_SYN_RECEIVED;
}

static void note_state(ids_flow *flow, const nfm_record *record) {
    flow->sides |= (uint8_t)(1u << (record->side & 1u));
    if (flow->established || record->kind != NFM_REC_PACKET)
        return;
    if (record->proto != 6)
        flow->established = flow->sides == 3;
    else
        flow->established =
            (!is_opening(record->tcp.state[0]) && !is_opening(record->tcp.state[1])) ||
            record->flags & NFM_F_MIDSTREAM;
}

/* The kinds that a group of subscriptions is for: nf.py names them in this order. */
static uint16_t group_kinds(uint32_t group) {
    static const uint16_t kinds[IDS_GROUPS] = {1u << IDS_STREAM, 1u << IDS_PACKET,
                                               1u << IDS_REQUEST | 1u << IDS_RESPONSE,
                                               1u << IDS_QUERY};
    return kinds[group];
}

/* Hears on a flow what rules are about. False: the queue has no room for all that is to be said. */
static bool choose(nfm_ring *ring, uint64_t id, uint16_t before, uint16_t now) {
    bool ok = true;
    for (uint32_t group = 0; ring != NULL && group < IDS_GROUPS; group++) {
        bool was = before & group_kinds(group), is = now & group_kinds(group);
        if (was && !is)
            ok &= nfm_ring_unsubscribe(ring, id, group) != NFM_E_AGAIN;
        else if (!was && is)
            ok &= nfm_ring_subscribe(ring, id, group) != NFM_E_AGAIN;
    }
    return ok;
}

static bool is_stale(const ids *nf, const ids_flow *flow) {
    return flow->load != (uint32_t)nf->stats.loads;
}

/* Finds out which rules are about a flow whose session is stale. It stays so when the queue is
 * full: the same is said again at its next event. */
static void judge_flow(ids *nf, nfm_ring *ring, const nfm_flow_info *info, ids_flow *flow,
                       uint64_t id) {
    uint16_t kinds = ids_kinds_about(nf->table, info);
    if (!choose(ring, id, flow->kinds, kinds))
        return;
    flow->kinds = kinds;
    flow->load = (uint32_t)nf->stats.loads;
}

/*
 * ids_resume names flows of which not all is heard that may concern new rules: the caller
 * subscribes to all on them, and their next event says what of it is needed. *more: call again. To
 * be called after ids_swap, not at once with all flows there are.
 */
uint32_t ids_resume(ids *nf, uint64_t *flows, uint32_t max, int *more) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < SWEEP && nf->swept < nf->map.max && n < max; i++) {
        ids_flow *flow = &nf->flows[nf->swept];
        uint64_t id = nf->map.places[nf->swept++].flow;
        if (id == 0 || !is_stale(nf, flow) || flow->kinds == UINT16_MAX)
            continue;
        flow->kinds = UINT16_MAX;
        flows[n++] = id;
    }
    *more = nf->swept < nf->map.max;
    return n;
}

/* Makes room: the places take turns, so that flows whose end was not heard do not stay. */
static void evict_one(ids *nf) {
    nf_session_remove(&nf->map, nf->hand);
    nf->hand = (nf->hand + 1) % nf->map.max;
    nf->stats.flows_evicted++;
}

static ids_flow *begin_session(ids *nf, uint64_t id) {
    if (nf->map.n == nf->map.max)
        evict_one(nf);
    uint32_t at = nf_session_add(&nf->map, id, 0);
    nf->stats.flows++;
    nf->flows[at] = (ids_flow){.kinds = UINT16_MAX, /* all is heard at first */
                               .load = (uint32_t)nf->stats.loads - 1};
    return &nf->flows[at];
}

/* The session of the flow at hand; NULL: it ends without one. */
static ids_flow *session_of(ids *nf, const nfm_batch *batch, const ids_occasion *o) {
    uint64_t id = o->record->flow;
    uint32_t at = nf_session_find(&nf->map, id);
    if (at == NF_NO_SESSION && o->record->kind == NFM_REC_FLOW)
        return NULL;
    bool is_new = at == NF_NO_SESSION;
    ids_flow *flow = is_new ? begin_session(nf, id) : &nf->flows[at];
    if (is_stale(nf, flow))
        judge_flow(nf, batch->ring, o->info, flow, id);
    nf->stats.flows_left += is_new && flow->kinds == 0;
    return flow;
}

static void end_session(ids *nf, uint64_t id) {
    uint32_t at = nf_session_find(&nf->map, id);
    if (at != NF_NO_SESSION)
        nf_session_remove(&nf->map, at);
}

/* ---- events --------------------------------------------------------------------------------- */

static bool concerns(const ids_occasion *o, uint8_t kind) {
    return o->flow == NULL || (o->flow->kinds >> kind & 1);
}

static void on_packet(ids *nf, ids_occasion *o, uint64_t what) {
    if (what & PACKET_BITS && concerns(o, IDS_PACKET)) {
        o->kind = IDS_PACKET;
        ids_ask_packet(nf, o);
        o->passed = false;
    }
    if (what & NFM_BIT(NFM_EV_TCP_DATA) && concerns(o, IDS_STREAM) &&
        !(o->record->flags & NFM_F_AGAIN)) { /* judged before, and let pass */
        o->kind = IDS_STREAM;
        ids_stream_data(nf, o);
    }
    if (what & NFM_BIT(NFM_EV_FLOW_END)) {
        o->kind = IDS_STREAM;
        ids_stream_end(nf, o);
        end_session(nf, o->record->flow);
    }
}

static void on_event(ids *nf, ids_occasion *o, uint32_t type) {
    for (uint8_t kind = IDS_REQUEST; kind < IDS_KINDS; kind++) {
        if (nf->options.types[kind] != type || type == 0 || !concerns(o, kind))
            continue;
        o->kind = kind;
        o->position = o->record->app.stream_off;
        ids_ask_event(nf, o);
    }
}

static void give_verdict(ids *nf, const nfm_batch *batch, uint32_t i, uint32_t verdict) {
    if (batch->verdict == NULL)
        return;
    nf->stats.dropped += (verdict & 0xff) == NFM_DROP;
    nf->stats.rejected += (verdict & 0xff) == NFM_REJECT;
    batch->verdict[i] = verdict;
}

/* Whether nothing is to be asked on a flow any more; gives its verdict. */
static bool is_settled(const ids *nf, const nfm_batch *batch, uint32_t i, const ids_flow *flow) {
    if (!flow->passed && !(flow->dropped && nf->decides))
        return false;
    if (batch->verdict != NULL)
        batch->verdict[i] = (flow->passed ? NFM_PASS : (uint32_t)NFM_DROP) | NFM_REST;
    return true;
}

static void handle(ids *nf, const nfm_batch *batch, uint32_t i) {
    const nfm_desc *desc = &batch->desc[i];
    if (desc->what & NFM_DESC_GAP && !(desc->what & NFM_DESC_APP))
        return;
    if (desc->record >= batch->mem->n_records || desc->flow >= batch->mem->n_flows)
        return;
    const nfm_record *record = &batch->mem->records[desc->record];
    ids_occasion o = {.mem = batch->mem,
                      .record = record,
                      .info = &batch->mem->flows[desc->flow],
                      .sender = record->side & 1u};
    if (record->flow == 0 || o.info->ip_version == 0)
        return;
    o.flow = session_of(nf, batch, &o);
    if (o.flow != NULL) {
        note_state(o.flow, record);
        if (is_settled(nf, batch, i, o.flow) && record->kind != NFM_REC_FLOW)
            return;
    }
    if (desc->what & NFM_DESC_APP)
        on_event(nf, &o, (uint32_t)desc->what);
    else
        on_packet(nf, &o, desc->what);
    give_verdict(nf, batch, i, o.verdict);
}

/*
 * ids_process is the nfm_process_fn of this NF: |batch| is an nfm_batch of what nf.py subscribes
 * to. Alerts wait for ids_take. Returns NFM_OK.
 */
int ids_process(void *state, const void *batch) {
    ids *nf = state;
    const nfm_batch *events = batch;
    nf->decides = events->verdict != NULL;
    for (uint32_t i = 0; nf->table != NULL && i < events->n; i++)
        handle(nf, events, i);
    return NFM_OK;
}

/*
 * ids_take moves the oldest |max| alerts to |out|. Returns how many there were.
 */
uint32_t ids_take(ids *nf, ids_alert *out, uint32_t max) {
    uint32_t n = nf->n_alerts < max ? nf->n_alerts : max;
    for (uint32_t i = 0; i < n; i++)
        out[i] = nf->alerts[(nf->first_alert + i) % nf->options.max_alerts];
    nf->first_alert = (nf->first_alert + n) % nf->options.max_alerts;
    nf->n_alerts -= n;
    return n;
}

/* ---- life ----------------------------------------------------------------------------------- */

/*
 * ids_open makes an NF without rules, which lets all pass; ids_set comes next. The configuration is
 * not read: nf.py does. Returns NULL without memory.
 */
void *ids_open(const char *config_json) {
    (void)config_json;
    return calloc(1, sizeof(ids));
}

/*
 * ids_set fixes what is bounded by number, once. Returns NFM_OK, NFM_E_STATE, NFM_E_INVAL or
 * NFM_E_NOMEM.
 */
int ids_set(ids *nf, const ids_options *options) {
    if (nf->flows != NULL)
        return NFM_E_STATE;
    if (options->max_flows == 0 || options->max_alerts == 0)
        return NFM_E_INVAL;
    nf->options = *options;
    nf->flows = calloc(options->max_flows, sizeof(*nf->flows));
    nf->alerts = calloc(options->max_alerts, sizeof(*nf->alerts));
    if (!nf->flows || !nf->alerts || !nf_session_map_init(&nf->map, options->max_flows) ||
        !ids_counters_init(nf, options->max_counters))
        return NFM_E_NOMEM;
    return NFM_OK;
}

/*
 * ids_close frees |state| and its table; NULL is fine.
 */
void ids_close(void *state) {
    ids *nf = state;
    if (nf == NULL)
        return;
    ids_table_free(nf->table);
    nf_session_map_fini(&nf->map);
    free(nf->flows);
    free(nf->alerts);
    free(nf->counters);
    free(nf);
}

/* Takes the counters of the table in force into the NF's. */
static void add_up(const ids_table *table, ids_stats *stats) {
    stats->streams_evicted += table->streams.evicted;
    stats->restarts_after_gap += table->streams.restarts_after_gap;
}

/*
 * ids_swap puts |table| in force, which the NF owns from now on, and frees the one before. Streams
 * under way begin a new search; flow bits and counters stay.
 */
void ids_swap(ids *nf, ids_table *table) {
    if (nf->table != NULL)
        add_up(nf->table, &nf->stats);
    ids_table_free(nf->table);
    nf->table = table;
    nf->stats.loads++;
    nf->swept = 0;
}

/*
 * ids_stats_get copies the counters since the start; streams is how many are open now.
 */
void ids_stats_get(const ids *nf, ids_stats *out) {
    *out = nf->stats;
    if (nf->table == NULL)
        return;
    add_up(nf->table, out);
    out->streams = nf->table->streams.n;
    out->max_streams = nf->table->streams.max;
    out->bytes_per_stream = nf->table->bytes_per_stream;
}
