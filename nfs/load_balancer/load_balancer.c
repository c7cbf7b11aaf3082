/* SPDX-License-Identifier: Apache-2.0 */
/* The balancer's decisions; lb.h has the theory. */
#include "lb.h"

#include <netinet/in.h>

#define PACKETS                                                                                    \
    (NFM_BIT(NFM_EV_PACKET_TCP) | NFM_BIT(NFM_EV_PACKET_UDP) | NFM_BIT(NFM_EV_PACKET_ICMP) |       \
     NFM_BIT(NFM_EV_PACKET_OTHER))

#define FLOW_NEWS                                                                                  \
    (NFM_BIT(NFM_EV_TCP_ESTABLISHED) | NFM_BIT(NFM_EV_TCP_RESET) | NFM_BIT(NFM_EV_FLOW_END))

/* ---- services ------------------------------------------------------------------------------- */

static uint32_t bucket_of(const uint8_t *address, uint16_t port, uint8_t proto) {
    return (uint32_t)(lb__mix(lb__mix_address(proto, address), port) % LB_BUCKETS);
}

/* The service of a destination; NULL: none. */
static const lb_service *find_service(const lb *self, const uint8_t *address, uint16_t port,
                                      uint8_t proto, uint8_t ip_version) {
    uint32_t at = bucket_of(address, port, proto);
    for (; self->buckets[at] != 0; at = (at + 1) % LB_BUCKETS) {
        const lb_service *s = &self->services[self->buckets[at] - 1];
        if (s->port == port && s->proto == proto && s->ip_version == ip_version &&
            memcmp(s->address, address, 16) == 0)
            return s;
    }
    return NULL;
}

static bool add_service(lb *self, uint32_t number) {
    const lb_service *s = &self->services[number];
    if (find_service(self, s->address, s->port, s->proto, s->ip_version) != NULL)
        return false;
    uint32_t at = bucket_of(s->address, s->port, s->proto);
    while (self->buckets[at] != 0)
        at = (at + 1) % LB_BUCKETS;
    self->buckets[at] = (uint16_t)(number + 1);
    return true;
}

/* ---- tables --------------------------------------------------------------------------------- */

static int build(lb *self, uint32_t service) {
    const lb_service *s = &self->services[service];
    uint16_t *table = self->tables + (size_t)service * LB_TABLE;
    for (uint32_t i = 0; i < s->n; i++) {
        self->scratch[i] = self->members[s->first + i].backend;
        self->members[s->first + i].info.entries = 0;
    }
    int rc = lb_table_build(self->scratch, s->n, self->config.seed, table);
    for (uint32_t i = 0; rc >= 0 && i < LB_TABLE && table[i] != LB_NOBODY; i++)
        self->members[s->first + table[i]].info.entries++;
    self->stats.rebuilds++;
    return rc < 0 ? rc : NFM_OK;
}

static int change(lb *self, uint32_t backend, uint32_t state) {
    lb_member *m = &self->members[backend];
    uint32_t before = m->backend.state;
    if (before == state)
        return NFM_OK;
    m->backend.state = state;
    m->info.fails = 0;
    return (before == LB_UP) == (state == LB_UP) ? NFM_OK : build(self, m->info.service);
}

/*
 * lb_set_state says what |backend| is from now on; flows that it has stay with it. Between two
 * batches. Returns NFM_OK, NFM_E_INVAL or NFM_E_NOMEM.
 */
int lb_set_state(lb *self, uint32_t backend, uint32_t state) {
    if (!self->is_ready || backend >= self->config.n_backends || state > LB_FAILED)
        return NFM_E_INVAL;
    return change(self, backend, state);
}

/* Tries failed backends again whose time has come. */
static void retry_failed(lb *self, int64_t now_ns) {
    self->next_retry_ns = INT64_MAX;
    for (uint32_t i = 0; i < self->config.n_backends; i++) {
        const lb_member *m = &self->members[i];
        if (m->backend.state == LB_FAILED && m->retry_ns <= now_ns)
            (void)change(self, i, LB_UP);
        else if (m->backend.state == LB_FAILED && m->retry_ns < self->next_retry_ns)
            self->next_retry_ns = m->retry_ns;
    }
}

/* ---- flows ---------------------------------------------------------------------------------- */

static uint32_t choose(const lb *self, const lb_service *s, const nfm_flow_info *info,
                       uint32_t client) {
    uint64_t hash = lb__mix_address(self->config.seed, info->addr[client]);
    if (s->affinity == LB_BY_FLOW)
        hash = lb__mix(hash, (uint64_t)info->port[client] << 16 | s->port);
    const uint16_t *table = self->tables + (size_t)(s - self->services) * LB_TABLE;
    uint16_t place = table[hash % LB_TABLE];
    return place == LB_NOBODY ? NF_NO_SESSION : s->first + place;
}

/* The backend of a flow: the one that it has, or a new one's. NF_NO_SESSION: nobody is up. */
static uint32_t backend_for(lb *self, const lb_service *s, const nfm_record *record,
                            const nfm_flow_info *info) {
    uint32_t at = nf_session_find(&self->map, record->flow);
    if (at != NF_NO_SESSION)
        return self->map.places[at].value;
    uint32_t backend = choose(self, s, info, record->side);
    if (backend == NF_NO_SESSION)
        return backend;
    self->stats.flows++;
    self->members[backend].info.flows++;
    if (nf_session_add(&self->map, record->flow, backend) == NF_NO_SESSION)
        self->stats.untracked++;
    else
        self->members[backend].info.active++;
    return backend;
}

static void edit_for(const lb_service *s, const lb_backend *b, nfm_edit *edit) {
    if (s->mode == LB_DIRECT) {
        edit->fields = NFM_EDIT_DST_MAC;
        memcpy(edit->dst_mac, b->mac, 6);
        return;
    }
    edit->fields = NFM_EDIT_DST | NFM_EDIT_DST_PORT;
    memcpy(edit->dst, b->address, 16);
    edit->dst_port = b->port != 0 ? b->port : s->port;
}

static uint32_t judge(lb *self, const nfm_batch *b, const nfm_record *record, nfm_edit *edit) {
    *edit = (nfm_edit){0};
    if (record->flow == 0)
        return NFM_PASS;
    const nfm_flow_info *info = &b->mem->flows[(uint32_t)record->flow];
    uint32_t to = !record->side;
    if (info->proto != record->proto) /* an ICMP error about the flow, translated with it */
        return NFM_PASS;
    const lb_service *s =
        find_service(self, info->addr[to], info->port[to], info->proto, info->ip_version);
    if (s == NULL)
        return NFM_PASS;
    uint32_t backend = backend_for(self, s, record, info);
    if (backend == NF_NO_SESSION) {
        self->stats.no_backend++;
        return s->reject ? NFM_REJECT : NFM_DROP;
    }
    edit_for(s, &self->members[backend].backend, edit);
    return NFM_REWRITE | NFM_REST;
}

/* A connection that was refused or never answered counts against its backend, one that was
 * established for it. */
static void learn_health(lb *self, uint32_t backend, bool failed, int64_t now_ns) {
    lb_member *m = &self->members[backend];
    m->info.fails = failed ? m->info.fails + 1 : 0;
    if (self->config.max_fails == 0 || m->info.fails < self->config.max_fails ||
        m->backend.state != LB_UP || self->services[m->info.service].mode == LB_DIRECT)
        return;
    m->retry_ns = now_ns + self->config.retry_ns;
    if (m->retry_ns < self->next_retry_ns)
        self->next_retry_ns = m->retry_ns;
    self->stats.failures++;
    (void)change(self, backend, LB_FAILED);
}

/* What the stack says of a flow: established, reset, over. */
static void follow(lb *self, const nfm_record *record, uint64_t what) {
    uint32_t at = nf_session_find(&self->map, record->flow);
    if (at == NF_NO_SESSION)
        return;
    uint32_t backend = self->map.places[at].value;
    if (what & NFM_BIT(NFM_EV_TCP_ESTABLISHED))
        learn_health(self, backend, false, record->ts_ns);
    if (what & NFM_BIT(NFM_EV_TCP_RESET) && record->conn_state == NFM_CS_REJ)
        learn_health(self, backend, true, record->ts_ns);
    if (!(what & NFM_BIT(NFM_EV_FLOW_END)))
        return;
    nf_session_remove(&self->map, at);
    self->members[backend].info.active--;
    if (record->conn_state == NFM_CS_S0)
        learn_health(self, backend, true, record->ts_ns);
}

/*
 * lb_process is the nfm_process_fn of this NF: |batch| is an nfm_batch of packets to be judged, of
 * tcp.established, tcp.reset and flow.end, in order. Without load everything passes. Returns
 * NFM_OK.
 */
int lb_process(void *state, const void *batch) {
    const nfm_batch *b = batch;
    lb *self = state;
    for (uint32_t i = 0; self->is_ready && i < b->n; i++) {
        if (b->desc[i].what & NFM_DESC_GAP)
            continue;
        const nfm_record *record = &b->mem->records[b->desc[i].record];
        if (record->ts_ns >= self->next_retry_ns)
            retry_failed(self, record->ts_ns);
        if (b->desc[i].what & FLOW_NEWS)
            follow(self, record, b->desc[i].what);
        else if (b->verdict != NULL && b->desc[i].what & PACKETS)
            b->verdict[i] = judge(self, b, record, &b->edit[i]);
    }
    return NFM_OK;
}

/* ---- life ----------------------------------------------------------------------------------- */

/* lb_open makes a balancer without configuration, which lb_load gives it. NULL: no memory. */
void *lb_open(const char *config_json) {
    (void)config_json;
    return calloc(1, sizeof(lb));
}

static bool makes_sense(const lb_config *c) {
    if (c->n_services > LB_MAX_SERVICES || c->n_backends > LB_MAX_BACKENDS ||
        c->max_sessions == 0 || c->max_sessions > 1u << 26)
        return false;
    uint32_t next = 0;
    for (uint32_t i = 0; i < c->n_services; i++) {
        const lb_service *s = &c->services[i];
        if (s->first != next || s->n > c->n_backends - next || s->mode > LB_DIRECT ||
            (s->ip_version != 4 && s->ip_version != 6))
            return false;
        next += s->n;
    }
    for (uint32_t i = 0; i < c->n_backends; i++)
        if (c->backends[i].weight > LB_MAX_WEIGHT || c->backends[i].state > LB_DOWN)
            return false;
    return next == c->n_backends;
}

/*
 * lb_load takes |config|, borrowed until return, once: services in order, each with its run of the
 * backends. Memory: 128 KiB per service, 100 bytes per backend, 24 per session.
 * Returns NFM_OK, NFM_E_STATE, NFM_E_NOMEM, or NFM_E_INVAL: too many, a service twice, or numbers
 * out of range. After an error it can only be closed.
 */
int lb_load(lb *self, const lb_config *config) {
    if (self->is_ready || self->members != NULL)
        return NFM_E_STATE;
    if (!makes_sense(config))
        return NFM_E_INVAL;
    self->config = *config;
    self->next_retry_ns = INT64_MAX;
    self->members = calloc(config->n_backends + 1, sizeof(*self->members));
    self->scratch = calloc(config->n_backends + 1, sizeof(*self->scratch));
    self->tables = calloc((size_t)config->n_services * LB_TABLE + 1, sizeof(*self->tables));
    if (self->members == NULL || self->scratch == NULL || self->tables == NULL ||
        !nf_session_map_init(&self->map, config->max_sessions))
        return NFM_E_NOMEM;
    for (uint32_t i = 0; i < config->n_backends; i++)
        self->members[i].backend = config->backends[i];
    for (uint32_t i = 0; i < config->n_services; i++) {
        self->services[i] = config->services[i];
        if (!add_service(self, i))
            return NFM_E_INVAL;
        for (uint32_t k = 0; k < self->services[i].n; k++)
            self->members[self->services[i].first + k].info.service = i;
        if (build(self, i) != NFM_OK)
            return NFM_E_NOMEM;
    }
    self->stats.rebuilds = 0;
    self->is_ready = true;
    return NFM_OK;
}

/* lb_close frees |state|; NULL is fine. */
void lb_close(void *state) {
    lb *self = state;
    if (self == NULL)
        return;
    nf_session_map_fini(&self->map);
    free(self->members);
    free(self->scratch);
    free(self->tables);
    free(self);
}

/* lb_stats_get copies the counters; sessions is how many flows are active now. */
void lb_stats_get(const lb *self, lb_stats *out) {
    *out = self->stats;
    out->sessions = self->map.n;
}

/* lb_backend_get copies what became of |backend|, a number below that of the configuration. */
void lb_backend_get(const lb *self, uint32_t backend, lb_backend_info *out) {
    *out = self->members[backend].info;
    out->state = self->members[backend].backend.state;
}
