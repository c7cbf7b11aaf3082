/* SPDX-License-Identifier: Apache-2.0 */
/* Mappings and the ports that they have. */
#include <netinet/in.h>

#include "nat.h"

/* ---- lists ---------------------------------------------------------------------------------- */

static uint32_t *internal_bucket(const nat *self, uint32_t klass, nat_endpoint at) {
    uint64_t word = ((uint64_t)at.address << 16 | at.port) * 4 + klass;
    word = (word ^ self->config.seed) * UINT64_C(0x9e3779b97f4a7c15); /* Knuth: golden ratio */
    return &self->by_internal[(uint32_t)(word >> 32) & (self->n_buckets - 1)];
}

static nat_endpoint internal_of(const nat_mapping *m) {
    return (nat_endpoint){m->internal, m->internal_port};
}

static void list_remove(nat *self, uint32_t at) {
    nat_mapping *m = &self->mappings[at];
    *(m->newer == NAT_NONE ? &self->newest[m->klass] : &self->mappings[m->newer].older) = m->older;
    *(m->older == NAT_NONE ? &self->oldest[m->klass] : &self->mappings[m->older].newer) = m->newer;
}

static void list_append(nat *self, uint32_t at) {
    nat_mapping *m = &self->mappings[at];
    uint32_t before = self->newest[m->klass];
    m->newer = NAT_NONE;
    m->older = before;
    *(before == NAT_NONE ? &self->oldest[m->klass] : &self->mappings[before].newer) = at;
    self->newest[m->klass] = at;
}

uint32_t nat__find_internal(const nat *self, uint32_t klass, nat_endpoint want) {
    uint32_t at = *internal_bucket(self, klass, want);
    for (; at != NAT_NONE; at = self->mappings[at].chain) {
        const nat_mapping *m = &self->mappings[at];
        if (m->internal == want.address && m->internal_port == want.port && m->klass == klass)
            return at;
    }
    return NAT_NONE;
}

uint32_t nat__find_external(const nat *self, uint32_t index, uint32_t klass, uint16_t port) {
    uint32_t at = self->ports[index][klass]->mapping[port];
    return at == 0 ? NAT_NONE : at - 1;
}

uint32_t nat__external_index(const nat *self, uint32_t address) {
    for (uint32_t i = 0; i < self->config.n_external; i++)
        if (self->external[i] == address)
            return i;
    return NAT_NONE;
}

/* ---- ports ---------------------------------------------------------------------------------- */

enum { TRIES = 64 }; /* with two workers every other port brings answers to the right one */

typedef struct wish { /* for a port */
    uint32_t low, high;
    uint64_t parity;      /* ports of a bitmap word that will do */
    nfm_flow_info answer; /* of the first flow, without the port */
    uint32_t worker;      /* that is to get it */
    uint32_t workers;     /* 1: any will do */
} wish;

static bool is_free(const nat_ports *ports, uint32_t port, const wish *of) {
    return port >= of->low && port <= of->high && !(ports->in_use[port / 64] >> port % 64 & 1);
}

/* Whether answers to |port| come to the flow's worker; others are handed over. */
static bool comes_back(const wish *of, uint32_t port) {
    nfm_flow_info answer = of->answer;
    answer.port[1] = (uint16_t)port;
    return of->workers < 2 || nfm_owner(&answer, of->workers) == of->worker;
}

/* The first free port in low..high; NAT_NONE: none. */
static uint32_t scan(const nat_ports *ports, uint32_t low, uint32_t high, uint64_t parity) {
    for (uint32_t word = low / 64; low <= high && word <= high / 64; word++) {
        uint64_t open = ~ports->in_use[word] & parity;
        if (word == low / 64)
            open &= ~UINT64_C(0) << low % 64;
        if (word == high / 64)
            open &= ~UINT64_C(0) >> (63 - high % 64);
        if (open != 0)
            return word * 64 + (uint32_t)__builtin_ctzll(open);
    }
    return NAT_NONE;
}

/* A free port, searched from a place that nobody can guess (RFC 6056 section 3.3.1). */
static uint32_t choose(nat *self, const nat_ports *ports, const wish *of) {
    self->random ^= self->random << 13; /* xorshift64 */
    self->random ^= self->random >> 7;
    self->random ^= self->random << 17;
    uint32_t start = of->low + (uint32_t)(self->random >> 32) % (of->high - of->low + 1);
    uint32_t port = NAT_NONE;
    for (int i = 0; i < TRIES; i++) {
        port = scan(ports, start, of->high, of->parity);
        if (port == NAT_NONE && start > of->low)
            port = scan(ports, of->low, start - 1, of->parity);
        if (port == NAT_NONE || comes_back(of, port))
            break;
        start = port < of->high ? port + 1 : of->low;
    }
    return port;
}

/* The port next to that of the endpoint's neighbour, so that pairs like RTP's stay pairs. */
static uint32_t beside_neighbour(const nat *self, uint32_t klass, nat_endpoint internal,
                                 uint32_t external_index) {
    nat_endpoint neighbour = {internal.address, internal.port ^ 1};
    uint32_t at = nat__find_internal(self, klass, neighbour);
    if (at == NAT_NONE || self->mappings[at].external_index != external_index)
        return NAT_NONE;
    return self->mappings[at].external_port ^ 1u;
}

/* What the port of a new mapping of |internal| is to be. */
static wish wish_for(const nat *self, uint32_t klass, nat_endpoint internal, uint32_t index,
                     const nat_first *first) {
    const uint64_t even = UINT64_C(0x5555555555555555);
    wish of = {.low = self->config.port_low,
               .high = self->config.port_high,
               .parity = internal.port & 1 ? ~even : even,
               .worker = first->worker,
               .workers = self->config.workers};
    if (klass == NAT_ICMP) /* whose identifier does not matter to who gets it */
        return (wish){.low = 0, .high = NAT_PORTS - 1, .parity = ~UINT64_C(0)};
    if (internal.port < NAT_WELL_KNOWN) {
        of.low = 1;
        of.high = NAT_WELL_KNOWN - 1;
    }
    of.answer.ip_version = 4;
    of.answer.proto = klass == NAT_TCP ? IPPROTO_TCP : IPPROTO_UDP;
    of.answer.port[0] = first->remote.port;
    nat__write32(of.answer.addr[0], first->remote.address);
    nat__write32(of.answer.addr[1], self->external[index]);
    return of;
}

static uint32_t take_port(nat *self, uint32_t klass, nat_endpoint internal, uint32_t index,
                          const nat_first *first) {
    const nat_ports *ports = self->ports[index][klass];
    const uint64_t any = ~UINT64_C(0);
    wish of = wish_for(self, klass, internal, index, first);
    bool is_low = internal.port < NAT_WELL_KNOWN && klass != NAT_ICMP;
    if (self->config.preserve && is_free(ports, internal.port, &of) &&
        comes_back(&of, internal.port))
        return internal.port;
    uint32_t port = beside_neighbour(self, klass, internal, index);
    if (port != NAT_NONE && klass != NAT_ICMP && is_free(ports, port, &of) && comes_back(&of, port))
        return port;
    port = choose(self, ports, &of);
    if (port == NAT_NONE && is_low) {
        of.low = self->config.port_low;
        of.high = self->config.port_high;
        port = choose(self, ports, &of);
        self->stats.range_lost += port != NAT_NONE;
    }
    if (port == NAT_NONE && of.parity != any) {
        of.parity = any;
        port = choose(self, ports, &of);
        self->stats.parity_lost += port != NAT_NONE;
    }
    return port;
}

/* ---- making and ending ---------------------------------------------------------------------- */

static uint32_t enter(nat *self, uint32_t klass, nat_endpoint internal, nat_endpoint external,
                      uint32_t index) {
    uint32_t at = self->free_mapping, *bucket = internal_bucket(self, klass, internal);
    nat_ports *ports = self->ports[index][klass];
    nat_mapping *m = &self->mappings[at];
    self->free_mapping = m->chain;
    *m = (nat_mapping){
        .internal = internal.address,
        .external = external.address,
        .internal_port = internal.port,
        .external_port = external.port,
        .klass = (uint8_t)klass,
        .external_index = (uint8_t)index,
        .is_used = 1,
        .chain = *bucket,
        .newer = NAT_NONE,
        .older = NAT_NONE,
    };
    *bucket = at;
    ports->in_use[external.port / 64] |= UINT64_C(1) << external.port % 64;
    ports->mapping[external.port] = at + 1;
    self->stats.mappings++;
    self->stats.mappings_made++;
    return at;
}

static void forget(nat *self, uint32_t at) {
    nat_mapping *m = &self->mappings[at];
    nat_ports *ports = self->ports[m->external_index][m->klass];
    uint32_t *link = internal_bucket(self, m->klass, internal_of(m));
    while (*link != at)
        link = &self->mappings[*link].chain;
    *link = m->chain;
    list_remove(self, at);
    ports->in_use[m->external_port / 64] &= ~(UINT64_C(1) << m->external_port % 64);
    ports->mapping[m->external_port] = 0;
    *m = (nat_mapping){.chain = self->free_mapping};
    self->free_mapping = at;
    self->stats.mappings--;
}

void nat__expire(nat *self, int64_t now_ns) {
    for (uint32_t klass = 0; klass < NAT_CLASSES; klass++)
        while (self->oldest[klass] != NAT_NONE &&
               self->mappings[self->oldest[klass]].expires_ns <= now_ns)
            forget(self, self->oldest[klass]);
}

uint32_t nat__map(nat *self, uint32_t klass, nat_endpoint internal, const nat_first *first,
                  int64_t now_ns) {
    uint64_t mixed = (internal.address ^ self->config.seed) * UINT64_C(0x9e3779b97f4a7c15);
    uint32_t n = self->config.n_external, begin = n == 0 ? 0 : (uint32_t)(mixed >> 32) % n;
    if (self->free_mapping == NAT_NONE) {
        self->stats.no_room++;
        return NAT_NONE;
    }
    for (uint32_t i = 0; i < (self->config.paired && n > 0 ? 1 : n); i++) {
        uint32_t index = (begin + i) % n;
        uint32_t port = take_port(self, klass, internal, index, first);
        if (port == NAT_NONE)
            continue;
        nat_endpoint external = {self->external[index], (uint16_t)port};
        uint32_t at = enter(self, klass, internal, external, index);
        self->mappings[at].expires_ns = now_ns + self->config.hold_ns[klass];
        list_append(self, at);
        return at;
    }
    self->stats.no_port++;
    return NAT_NONE;
}

void nat__mapping_use(nat *self, uint32_t at) {
    nat_mapping *m = &self->mappings[at];
    if (m->flows++ == 0 && !m->fixed)
        list_remove(self, at);
}

void nat__mapping_leave(nat *self, uint32_t at, int64_t now_ns) {
    nat_mapping *m = &self->mappings[at];
    if (--m->flows > 0 || m->fixed)
        return;
    m->expires_ns = now_ns + self->config.hold_ns[m->klass];
    list_append(self, at);
}

/* ---- life ----------------------------------------------------------------------------------- */

static int add_forwards(nat *self, const nat_config *config) {
    for (uint32_t i = 0; i < config->n_forwards; i++) {
        const nat_forward *f = &config->forwards[i];
        nat_endpoint internal = {f->internal, f->internal_port};
        nat_endpoint external = {f->external, f->external_port};
        uint32_t index = nat__external_index(self, f->external);
        if (index == NAT_NONE || f->klass >= NAT_CLASSES ||
            nat__find_external(self, index, f->klass, f->external_port) != NAT_NONE ||
            nat__find_internal(self, f->klass, internal) != NAT_NONE)
            return NFM_E_INVAL;
        if (self->free_mapping == NAT_NONE)
            return NFM_E_LIMIT;
        self->mappings[enter(self, f->klass, internal, external, index)].fixed = 1;
    }
    return NFM_OK;
}

static bool allocate(nat *self, const nat_config *config) {
    self->n_buckets = self->n_peer_buckets = 1;
    while (self->n_buckets < config->max_mappings)
        self->n_buckets *= 2;
    while (self->n_peer_buckets < config->max_sessions)
        self->n_peer_buckets *= 2;
    self->mappings = calloc(config->max_mappings, sizeof(*self->mappings));
    self->by_internal = malloc(self->n_buckets * sizeof(uint32_t));
    self->sessions = calloc(config->max_sessions, sizeof(*self->sessions));
    self->by_peer = malloc(self->n_peer_buckets * sizeof(uint32_t));
    bool has_all = self->mappings != NULL && self->by_internal != NULL && self->sessions != NULL &&
                   self->by_peer != NULL && nf_session_map_init(&self->map, config->max_sessions);
    for (uint32_t i = 0; i < config->n_external; i++)
        for (uint32_t klass = 0; klass < NAT_CLASSES; klass++)
            has_all &= (self->ports[i][klass] = calloc(1, sizeof(nat_ports))) != NULL;
    return has_all;
}

int nat__table_init(nat *self, const nat_config *config) {
    if (!allocate(self, config))
        return NFM_E_NOMEM;
    memset(self->by_internal, 0xff, self->n_buckets * sizeof(uint32_t));
    memset(self->by_peer, 0xff, self->n_peer_buckets * sizeof(uint32_t));
    for (uint32_t i = 0; i < config->max_mappings; i++)
        self->mappings[i].chain = i + 1 < config->max_mappings ? i + 1 : NAT_NONE;
    for (uint32_t klass = 0; klass < NAT_CLASSES; klass++)
        self->newest[klass] = self->oldest[klass] = NAT_NONE;
    self->random = config->seed | 1;
    return add_forwards(self, config);
}

void nat__table_fini(nat *self) {
    for (uint32_t i = 0; i < NAT_MAX_EXTERNAL; i++)
        for (uint32_t klass = 0; klass < NAT_CLASSES; klass++)
            free(self->ports[i][klass]);
    nf_session_map_fini(&self->map);
    free(self->mappings);
    free(self->by_internal);
    free(self->sessions);
    free(self->by_peer);
}
