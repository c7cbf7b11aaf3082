/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stateful firewall: rules decide on the packet that begins a flow, the flow is the state.
 *
 * Theory of operation. The engine asks about a packet of a flow as long as the flow is not
 * accepted. A packet that the rules accept settles its flow in both directions: the verdict is for
 * the rest of the flow, and the worker does not ask again. What was on its way to us at that time
 * is known by the flow's id (struct known) and passes as well. Drops settle nothing: a packet that
 * is dropped leaves no state, so nobody can close a flow that others are about to open, and new
 * rules apply to its next packet; with hold_drops they settle the flow until the engine forgets it.
 *
 * ICMP errors are packets of flows of their own. They pass when the packet that they quote is of an
 * accepted flow, which is found by a hash of its addresses and ports.
 *
 * Rules of this file.
 * 1. One thread at a time calls in, except firewall_compile, which belongs to any.
 * 2. Memory is taken when a worker's first batch comes, and for tables; never per packet.
 * 3. Flow ids come with the memory they index, from another process: an index is checked.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "classify.h"
#include "nfm/nfm.h"

enum { MAX_WORKERS = 256, NONE = UINT32_MAX };
enum { PROTO_ICMP = 1, PROTO_TCP = 6, PROTO_UDP = 17, PROTO_ICMPV6 = 58 };
enum { PROTO_DCCP = 33, PROTO_SCTP = 132, PROTO_UDPLITE = 136 };
enum { ICMP_ECHO = 8, ICMPV6_ECHO = 128 };
enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

typedef struct known { /* a flow that was accepted, by its index */
    uint64_t id;
    uint32_t bucket;
    uint32_t next; /* of the same bucket */
} known;

typedef struct book { /* what is known of one worker's flows */
    const nfm_flow_info *flows;
    known *flow;
    uint32_t *first; /* by bucket */
    uint32_t n_flows, n_buckets;
} book;

struct firewall {
    firewall_table *table; /* NULL: nothing is accepted */
    firewall_options options;
    firewall_stats stats;
    book *books[MAX_WORKERS];
    uint64_t seed[3]; /* of the hash, so that nobody can aim flows at one bucket */
};

typedef struct packet {
    const uint8_t *l3, *end;
    const uint8_t *l4; /* NULL: has none, or not all of it is there */
    uint8_t proto;
    bool ipv6;
} packet;

/* ---- accepted flows ------------------------------------------------------------------------- */

static book *new_book(const nfm_mem *mem) {
    book *b = calloc(1, sizeof(*b));
    if (b == NULL)
        return NULL;
    b->flows = mem->flows;
    b->n_flows = mem->n_flows;
    b->n_buckets = 1;
    while (b->n_buckets < b->n_flows && b->n_buckets < 1u << 30)
        b->n_buckets *= 2;
    b->flow = calloc(b->n_flows, sizeof(*b->flow));
    b->first = malloc(b->n_buckets * sizeof(*b->first));
    if (b->flow == NULL || b->first == NULL) {
        free(b->flow);
        free(b->first);
        free(b);
        return NULL;
    }
    memset(b->first, 0xff, b->n_buckets * sizeof(*b->first));
    return b;
}

static void free_book(book *b) {
    if (b == NULL)
        return;
    free(b->flow);
    free(b->first);
    free(b);
}

/* The book of the worker that gives out flow |id|; NULL: no memory, or the id is out of range. */
static book *book_of(firewall *fw, const nfm_mem *mem, uint64_t id) {
    book **b = &fw->books[id >> 56];
    if (*b == NULL || (*b)->n_flows != mem->n_flows) {
        free_book(*b);
        *b = new_book(mem);
    }
    if (*b == NULL || (uint32_t)id >= (*b)->n_flows)
        return NULL;
    (*b)->flows = mem->flows;
    return *b;
}

static uint64_t fold_product(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* The same for both directions; senders choose all but the seed. */
static uint64_t hash_of(const firewall *fw, const nfm_flow_info *flow) {
    uint64_t sum = flow->proto, part[2];
    for (int side = 0; side < 2; side++) {
        memcpy(part, flow->addr[side], sizeof(part));
        uint64_t h = fold_product(part[0] ^ fw->seed[0], part[1] ^ fw->seed[1]);
        sum += fold_product(h ^ (uint64_t)flow->port[side] << 40, fw->seed[2]);
    }
    return sum ^ sum >> 32;
}

static void forget(book *b, uint32_t index) {
    known *old = &b->flow[index];
    uint32_t *link = &b->first[old->bucket];
    while (*link != index)
        link = &b->flow[*link].next;
    *link = old->next;
    old->id = 0;
}

static void remember(firewall *fw, const nfm_mem *mem, uint64_t id) {
    book *b = book_of(fw, mem, id);
    if (b == NULL)
        return;
    uint32_t index = (uint32_t)id;
    known *flow = &b->flow[index];
    if (flow->id != 0)
        forget(b, index);
    flow->id = id;
    flow->bucket = (uint32_t)hash_of(fw, &mem->flows[index]) & (b->n_buckets - 1);
    flow->next = b->first[flow->bucket];
    b->first[flow->bucket] = index;
    fw->stats.flows++;
}

static bool is_accepted(firewall *fw, const nfm_mem *mem, uint64_t id) {
    const book *b = id == 0 ? NULL : book_of(fw, mem, id);
    return b != NULL && b->flow[(uint32_t)id].id == id;
}

static bool is_same(const nfm_flow_info *a, const nfm_flow_info *b, int turned) {
    return a->proto == b->proto && a->ip_version == b->ip_version &&
           memcmp(a->addr[0], b->addr[turned], 16) == 0 &&
           memcmp(a->addr[1], b->addr[!turned], 16) == 0 && a->port[0] == b->port[turned] &&
           a->port[1] == b->port[!turned];
}

static bool has_accepted(const firewall *fw, const nfm_flow_info *key) {
    uint64_t hash = hash_of(fw, key);
    for (uint32_t w = 0; w < MAX_WORKERS; w++) {
        const book *b = fw->books[w];
        if (b == NULL)
            continue;
        uint32_t index = b->first[(uint32_t)hash & (b->n_buckets - 1)];
        for (; index != NONE; index = b->flow[index].next) {
            const nfm_flow_info *flow = &b->flows[index];
            if (flow->id == b->flow[index].id && (is_same(key, flow, 0) || is_same(key, flow, 1)))
                return true;
        }
    }
    return false;
}

/* ---- packets -------------------------------------------------------------------------------- */

static uint16_t read16(const uint8_t *p) {
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint64_t read_n(const uint8_t *p, unsigned n) {
    uint64_t value = 0;
    for (unsigned i = 0; i < n; i++)
        value = value << 8 | p[i];
    return value;
}

static firewall_number address(const uint8_t *p, bool ipv6) {
    if (ipv6)
        return (firewall_number){read_n(p, 8), read_n(p + 8, 8)};
    return (firewall_number){0, read_n(p, 4)};
}

static bool has_ports(uint8_t proto) {
    return proto == PROTO_TCP || proto == PROTO_UDP || proto == PROTO_DCCP || proto == PROTO_SCTP ||
           proto == PROTO_UDPLITE;
}

/* False: not all of the IP header is there. */
static bool packet_of(const nfm_mem *mem, const nfm_record *record, packet *p) {
    const uint8_t *slot = nfm_slot_ptr(mem, record->slot);
    uint32_t room = record->slot < mem->n_small ? NFM_SLOT_SMALL : NFM_SLOT_LARGE;
    uint32_t end = NFM_HEADROOM + record->frame_len;
    p->ipv6 = record->flags & NFM_F_IPV6;
    if (slot == NULL || end > room || record->l3_off + (p->ipv6 ? 40u : 20u) > end)
        return false;
    p->l3 = slot + record->l3_off;
    p->end = slot + end;
    p->l4 = record->l4_off > record->l3_off && record->l4_off + 8u <= end ? slot + record->l4_off
                                                                          : NULL;
    p->proto = record->proto;
    return true;
}

static firewall_key key_of(const packet *p, bool midstream) {
    firewall_key key = {
        .src = address(p->l3 + (p->ipv6 ? 8 : 12), p->ipv6),
        .dst = address(p->l3 + (p->ipv6 ? 24 : 16), p->ipv6),
        .kind = p->proto | (midstream ? FIREWALL_MIDSTREAM : 0u) | (p->ipv6 ? FIREWALL_IPV6 : 0u),
        .sport = FIREWALL_NO_PORT,
        .dport = FIREWALL_NO_PORT,
    };
    if (p->l4 != NULL && has_ports(p->proto)) {
        key.sport = read16(p->l4);
        key.dport = read16(p->l4 + 2);
    } else if (p->l4 != NULL && (p->proto == PROTO_ICMP || p->proto == PROTO_ICMPV6)) {
        key.dport = read16(p->l4);
    }
    return key;
}

/* RFC 792 and RFC 1122 section 3.2.2: unreachable, source quench, redirect, time exceeded,
 * parameter problem; a redirect is about a host's routes and not for us to let in. RFC 4443
 * section 2.1: errors are below 128. */
static bool is_error(const packet *p) {
    if (p->l4 == NULL)
        return false;
    uint8_t type = p->l4[0];
    if (p->proto == PROTO_ICMP && !p->ipv6)
        return type == 3 || type == 4 || type == 11 || type == 12;
    return p->proto == PROTO_ICMPV6 && p->ipv6 && type < 128;
}

/* The flow of the packet that an ICMP error quotes. Quoted extension headers are not walked. */
static bool quoted_flow(const packet *p, nfm_flow_info *flow) {
    const uint8_t *l3 = p->l4 + 8, *l4;
    *flow = (nfm_flow_info){.ip_version = p->ipv6 ? 6 : 4};
    if (p->end - l3 < (p->ipv6 ? 40 : 20) || l3[0] >> 4 != flow->ip_version)
        return false;
    l4 = l3 + (p->ipv6 ? 40 : (l3[0] & 15) * 4);
    if (p->end - l4 < 8 || (!p->ipv6 && (read16(l3 + 6) & 0x1fff) != 0))
        return false;
    flow->proto = p->ipv6 ? l3[6] : l3[9];
    unsigned len = p->ipv6 ? 16 : 4, at = p->ipv6 ? 8 : 12;
    memcpy(flow->addr[0], l3 + at, len);
    memcpy(flow->addr[1], l3 + at + len, len);
    if (has_ports(flow->proto)) {
        flow->port[0] = read16(l4);
        flow->port[1] = read16(l4 + 2);
    } else if (flow->proto == PROTO_ICMP || flow->proto == PROTO_ICMPV6) {
        flow->port[0] = flow->port[1] = read16(l4 + 4); /* echo: the identifier */
    }
    return true;
}

/* ---- verdicts ------------------------------------------------------------------------------- */

static uint32_t verdict_of(firewall *fw, uint8_t action) {
    switch ((enum firewall_action)action) {
    case FIREWALL_ACCEPT:
        fw->stats.accepted++;
        return NFM_PASS;
    case FIREWALL_REJECT:
        fw->stats.rejected++;
        return NFM_REJECT;
    case FIREWALL_DROP:
        break;
    }
    fw->stats.dropped++;
    return NFM_DROP;
}

/* Other messages than echo requests ask for nothing that comes back as the same flow. */
static bool begins_flow(const packet *p) {
    if (p->proto == PROTO_ICMP && !p->ipv6)
        return p->l4 != NULL && p->l4[0] == ICMP_ECHO;
    if (p->proto == PROTO_ICMPV6 && p->ipv6)
        return p->l4 != NULL && p->l4[0] == ICMPV6_ECHO;
    return true;
}

/* The verdict on a packet of a flow that is not accepted yet. */
static uint32_t settle(firewall *fw, const nfm_mem *mem, const nfm_record *record, const packet *p,
                       uint8_t action) {
    uint32_t verdict = verdict_of(fw, action);
    if (record->flow == 0 || !begins_flow(p))
        return verdict;
    if (verdict == NFM_PASS) {
        remember(fw, mem, record->flow);
        return NFM_PASS | NFM_REST;
    }
    return verdict == NFM_DROP && fw->options.hold_drops ? verdict | NFM_REST : verdict;
}

static uint8_t action_of(firewall *fw, const packet *p, bool midstream) {
    firewall_table *table = fw->table;
    if (table == NULL)
        return FIREWALL_DROP;
    firewall_key key = key_of(p, midstream);
    uint32_t rule = firewall_match(table, &key);
    if (rule == FIREWALL_NO_RULE) {
        table->default_hits++;
        return table->policy;
    }
    table->hits[rule]++;
    return table->action[rule];
}

static uint32_t judge(firewall *fw, const nfm_mem *mem, const nfm_record *record) {
    packet p;
    if (record->l3_off == 0 && !(record->events & NFM_BIT(NFM_EV_PACKET_MALFORMED))) {
        fw->stats.non_ip++;
        return verdict_of(fw, fw->options.non_ip);
    }
    if (record->events & NFM_BIT(NFM_EV_PACKET_MALFORMED) || !packet_of(mem, record, &p)) {
        fw->stats.malformed++;
        return verdict_of(fw, fw->options.malformed);
    }
    if (is_accepted(fw, mem, record->flow)) {
        fw->stats.accepted++;
        return NFM_PASS | NFM_REST;
    }
    uint8_t begins = record->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN);
    bool midstream = p.proto == PROTO_TCP && begins != TCP_SYN;
    if (midstream && fw->options.midstream != FIREWALL_MID_JUDGE) {
        fw->stats.midstream++;
        if (fw->options.midstream == FIREWALL_MID_ACCEPT)
            return settle(fw, mem, record, &p, FIREWALL_ACCEPT);
        return verdict_of(fw, FIREWALL_DROP); /* a SYN may follow */
    }
    nfm_flow_info quoted;
    if (is_error(&p) && quoted_flow(&p, &quoted) && has_accepted(fw, &quoted)) {
        fw->stats.related++;
        return verdict_of(fw, FIREWALL_ACCEPT);
    }
    return settle(fw, mem, record, &p, action_of(fw, &p, midstream));
}

/*
 * firewall_process is the nfm_process_fn of this NF: |batch| is an nfm_batch of packets that wait
 * for a verdict, and of tcp.handshake.established, which is counted. Returns NFM_OK.
 */
int firewall_process(void *state, const void *batch) {
    firewall *fw = state;
    const nfm_batch *events = batch;
    const uint64_t packets = NFM_BIT(NFM_EV_PACKET_TCP) | NFM_BIT(NFM_EV_PACKET_UDP) |
                             NFM_BIT(NFM_EV_PACKET_ICMP) | NFM_BIT(NFM_EV_PACKET_OTHER) |
                             NFM_BIT(NFM_EV_PACKET_MALFORMED);
    for (uint32_t i = 0; i < events->n; i++) {
        const nfm_desc *desc = &events->desc[i];
        if (desc->what & (NFM_DESC_APP | NFM_DESC_GAP) || desc->record >= events->mem->n_records)
            continue;
        const nfm_record *record = &events->mem->records[desc->record];
        if (desc->what & NFM_BIT(NFM_EV_TCP_ESTABLISHED))
            fw->stats.established += is_accepted(fw, events->mem, record->flow);
        if (!(desc->what & packets))
            continue;
        uint32_t verdict = judge(fw, events->mem, record);
        if (events->verdict != NULL)
            events->verdict[i] = verdict;
    }
    return NFM_OK;
}

/* ---- life ----------------------------------------------------------------------------------- */

/*
 * firewall_open makes a firewall that drops everything until firewall_swap gives it rules. The
 * configuration is not read: nf.py does. Returns NULL without memory or randomness.
 */
void *firewall_open(const char *config_json) {
    (void)config_json;
    firewall *fw = calloc(1, sizeof(*fw));
    if (fw == NULL || getrandom(fw->seed, sizeof(fw->seed), 0) != sizeof(fw->seed)) {
        free(fw);
        return NULL;
    }
    fw->seed[2] |= 1;
    fw->options = (firewall_options){.malformed = FIREWALL_DROP, .non_ip = FIREWALL_DROP};
    return fw;
}

/*
 * firewall_close frees |state| and its table; NULL is fine.
 */
void firewall_close(void *state) {
    firewall *fw = state;
    if (fw == NULL)
        return;
    for (uint32_t w = 0; w < MAX_WORKERS; w++)
        free_book(fw->books[w]);
    firewall_table_free(fw->table);
    free(fw);
}

/*
 * firewall_set changes what is judged without rules; |options| are copied.
 */
void firewall_set(firewall *fw, const firewall_options *options) {
    fw->options = *options;
}

/*
 * firewall_swap puts |table| in force, which it owns from now on, and frees the one before.
 * Accepted flows stay accepted. Hits of rules that were there before go on, and those by default.
 */
void firewall_swap(firewall *fw, firewall_table *table) {
    const firewall_table *old = fw->table;
    for (uint32_t i = 0; old != NULL && i < table->n_rules; i++)
        if (table->before[i] < old->n_rules)
            table->hits[i] = old->hits[table->before[i]];
    table->default_hits = old == NULL ? 0 : old->default_hits;
    firewall_table_free(fw->table);
    fw->table = table;
    fw->stats.loads++;
}

/*
 * firewall_hits copies the hits of at most |max| rules, in their order. Returns how many rules
 * there are.
 */
uint32_t firewall_hits(const firewall *fw, uint64_t *hits, uint32_t max) {
    uint32_t n = fw->table == NULL ? 0 : fw->table->n_rules;
    if (n > 0 && max > 0)
        memcpy(hits, fw->table->hits, (n < max ? n : max) * sizeof(*hits));
    return n;
}

/*
 * firewall_stats_get copies the counters since the start.
 */
void firewall_stats_get(const firewall *fw, firewall_stats *out) {
    *out = fw->stats;
    if (fw->table != NULL) {
        out->default_hits = fw->table->default_hits;
        out->table_bytes = fw->table->bytes;
    }
}
