/* SPDX-License-Identifier: Apache-2.0 */
/* The translator's decisions, flow by flow; nat.h has the theory. */
#include "nat.h"

#include <netinet/in.h>

#define PACKETS                                                                                    \
    (NFM_BIT(NFM_EV_PACKET_TCP) | NFM_BIT(NFM_EV_PACKET_UDP) | NFM_BIT(NFM_EV_PACKET_ICMP) |       \
     NFM_BIT(NFM_EV_PACKET_OTHER) | NFM_BIT(NFM_EV_PACKET_MALFORMED))

typedef struct question { /* a packet that waits */
    nat *self;
    const nfm_mem *mem;
    const nfm_record *record;
    nfm_edit *edit;
    nat_endpoint src, dst; /* IPv4 */
    uint32_t klass;        /* enum nat_class; NAT_CLASSES: none */
} question;

static bool is_inside(const nat *self, uint32_t address) {
    for (uint32_t i = 0; i < self->config.n_inside; i++) {
        uint32_t bits = self->inside[i].bits;
        uint32_t mask = bits == 0 ? 0 : ~UINT32_C(0) << (32 - bits);
        if ((address & mask) == (self->inside[i].address & mask))
            return true;
    }
    return false;
}

static uint32_t class_of(uint8_t proto) {
    switch (proto) {
    case IPPROTO_TCP:
        return NAT_TCP;
    case IPPROTO_UDP:
        return NAT_UDP;
    case IPPROTO_ICMP:
        return NAT_ICMP;
    default:
        return NAT_CLASSES;
    }
}

/* The L4 header in the slot, and its length; NULL: none. */
static const uint8_t *l4_of(const question *q, uint32_t *len) {
    const uint8_t *base = nfm_slot_ptr(q->mem, q->record->slot);
    uint32_t end = NFM_HEADROOM + q->record->frame_len;
    if (base == NULL || q->record->l4_off == 0 || q->record->l4_off + 8u > end)
        return NULL;
    *len = end - q->record->l4_off;
    return base + q->record->l4_off;
}

static bool is_error(const uint8_t *icmp) {
    return icmp[0] == 3 || icmp[0] == 4 || icmp[0] == 11 || icmp[0] == 12;
}

static const uint8_t *ethernet_of(const question *q) {
    const uint8_t *base = nfm_slot_ptr(q->mem, q->record->slot);
    bool has =
        base != NULL && !(q->record->flags & NFM_F_NOT_ETHERNET) && q->record->frame_len > 14;
    return has ? base + NFM_HEADROOM : NULL;
}

/* ---- translation ---------------------------------------------------------------------------- */

static void learn_mac(const question *q, nat_mapping *m) {
    const uint8_t *ethernet = ethernet_of(q);
    if (ethernet == NULL)
        return;
    memcpy(m->mac, ethernet + 6, 6);
    m->has_mac = 1;
}

static void edit_source(nfm_edit *edit, const nat_mapping *m) {
    edit->fields |= NFM_EDIT_SRC | NFM_EDIT_SRC_PORT;
    nat__write32(edit->src, m->external);
    edit->src_port = m->external_port;
}

static void edit_destination(nfm_edit *edit, const nat_mapping *m) {
    edit->fields |= NFM_EDIT_DST | NFM_EDIT_DST_PORT;
    nat__write32(edit->dst, m->internal);
    edit->dst_port = m->internal_port;
}

static uint32_t mapping_for(const question *q) {
    const nat_first first = {q->dst, (uint32_t)(q->record->flow >> 56)};
    uint32_t at = nat__find_internal(q->self, q->klass, q->src);
    if (at == NAT_NONE)
        at = nat__map(q->self, q->klass, q->src, &first, q->record->ts_ns);
    if (at != NAT_NONE)
        learn_mac(q, &q->self->mappings[at]);
    return at;
}

static uint32_t judge_outbound(const question *q) {
    nat *self = q->self;
    const uint32_t used[2] = {mapping_for(q), NAT_NONE};
    bool is_new = nf_session_find(&self->map, q->record->flow) == NF_NO_SESSION;
    if (used[0] == NAT_NONE || !nat__session_begin(self, q->record->flow, used, q->dst, true))
        return NFM_DROP;
    self->stats.outbound += is_new;
    edit_source(q->edit, &self->mappings[used[0]]);
    return NFM_REWRITE | NFM_REST;
}

/* The mapping that a packet to external address |index| is for, if its sender may use it. */
static uint32_t mapping_at(const question *q, uint32_t index, nat_endpoint sender) {
    uint32_t at = nat__find_external(q->self, index, q->klass, q->dst.port);
    if (at == NAT_NONE) {
        q->self->stats.no_mapping++;
        return NAT_NONE;
    }
    if (!nat__may_enter(q->self, at, sender)) {
        q->self->stats.filtered++;
        return NAT_NONE;
    }
    return at;
}

static uint32_t judge_inbound(const question *q, uint32_t index) {
    nat *self = q->self;
    const uint32_t used[2] = {mapping_at(q, index, q->src), NAT_NONE};
    bool is_new = nf_session_find(&self->map, q->record->flow) == NF_NO_SESSION;
    if (used[0] == NAT_NONE || !nat__session_begin(self, q->record->flow, used, q->src, false))
        return NFM_DROP;
    self->stats.inbound += is_new;
    edit_destination(q->edit, &self->mappings[used[0]]);
    return NFM_REWRITE | NFM_REST;
}

/* From one internal host to another by its external endpoint: the packet seems to come from the
 * external endpoint of its sender and goes back where it came from (RFC 4787 REQ-9). */
static uint32_t judge_hairpin(const question *q, uint32_t index) {
    nat *self = q->self;
    bool is_new = nf_session_find(&self->map, q->record->flow) == NF_NO_SESSION;
    if (nat__find_external(self, index, q->klass, q->dst.port) == NAT_NONE) {
        self->stats.no_mapping++;
        return NFM_DROP;
    }
    uint32_t own = mapping_for(q);
    if (own == NAT_NONE)
        return NFM_DROP;
    const nat_mapping *from = &self->mappings[own];
    uint32_t other = mapping_at(q, index, (nat_endpoint){from->external, from->external_port});
    const uint32_t used[2] = {own, other};
    if (other == NAT_NONE || !nat__session_begin(self, q->record->flow, used, q->dst, true))
        return NFM_DROP;
    const nat_mapping *to = &self->mappings[other];
    const uint8_t *ethernet = ethernet_of(q);
    self->stats.hairpin += is_new;
    edit_source(q->edit, from);
    edit_destination(q->edit, to);
    if (q->klass == NAT_ICMP) /* one identifier, by which the answer is found */
        q->edit->dst_port = q->edit->src_port;
    q->edit->fields |= NFM_EDIT_BACK;
    if (to->has_mac && ethernet != NULL) {
        q->edit->fields |= NFM_EDIT_SRC_MAC | NFM_EDIT_DST_MAC;
        memcpy(q->edit->src_mac, ethernet, 6);
        memcpy(q->edit->dst_mac, to->mac, 6);
    }
    return NFM_REWRITE | NFM_REST;
}

/* ---- whose packet it is --------------------------------------------------------------------- */

/* Whether the headers that would be rewritten are a tunnel's inner ones. */
static bool is_in_tunnel(const question *q) {
    if (!(q->record->flags & NFM_F_TUNNEL))
        return false;
    uint32_t kind = q->record->flow == 0 ? NFM_TUNNEL_NONE
                                         : q->mem->flows[(uint32_t)q->record->flow].tunnel_kind;
    return kind != NFM_TUNNEL_MPLS && kind != NFM_TUNNEL_PPPOE;
}

/* What has no ports, or whose ports are not the outermost ones, must not leave untranslated. */
static uint32_t refuse(const question *q) {
    q->self->stats.not_translatable++;
    return NFM_DROP;
}

static uint32_t judge_icmp_error(const question *q, const uint8_t *icmp, uint32_t len,
                                 bool outbound) {
    if (nf_session_find(&q->self->map, q->record->flow) != NF_NO_SESSION)
        return NFM_PASS; /* the worker translates it with its flow */
    return nat__judge_error(q->self, icmp, len, outbound, q->edit);
}

static uint32_t judge_ipv4(question *q) {
    nat *self = q->self;
    bool from_inside = is_inside(self, q->src.address);
    uint32_t index = nat__external_index(self, q->dst.address), len = 0;
    bool is_group = q->dst.address >= 0xe0000000;
    if (index == NAT_NONE && (is_group || from_inside == is_inside(self, q->dst.address)))
        return NFM_PASS; /* not across the border */
    if (index == NAT_NONE && !from_inside && q->record->proto != IPPROTO_ICMP) {
        self->stats.to_inside++;
        return NFM_DROP;
    }
    const uint8_t *l4 = l4_of(q, &len);
    if (l4 == NULL || q->klass == NAT_CLASSES)
        return refuse(q);
    if (q->klass == NAT_ICMP && is_error(l4))
        return judge_icmp_error(q, l4, len, from_inside);
    if (q->klass == NAT_ICMP && l4[0] != 8 && l4[0] != 0)
        return refuse(q);
    if (index == NAT_NONE && !from_inside) {
        self->stats.to_inside++;
        return NFM_DROP;
    }
    if (!from_inside)
        return judge_inbound(q, index);
    return index == NAT_NONE ? judge_outbound(q) : judge_hairpin(q, index);
}

static bool has_prefix(const uint8_t *address, const uint8_t *prefix, uint32_t bits) {
    uint32_t whole = bits / 8, rest = bits % 8;
    return memcmp(address, prefix, whole) == 0 &&
           (rest == 0 || ((address[whole] ^ prefix[whole]) >> (8 - rest)) == 0);
}

static uint32_t judge_npt(const question *q, const nat_npt *npt, const uint8_t *src,
                          const uint8_t *dst) {
    bool out =
        has_prefix(src, npt->internal, npt->bits) && !has_prefix(dst, npt->internal, npt->bits);
    bool in = has_prefix(dst, npt->external, npt->bits);
    memcpy(q->edit->src, src, 16);
    memcpy(q->edit->dst, dst, 16);
    if ((out && !nat_npt_translate(npt, 1, q->edit->src)) ||
        (in && !nat_npt_translate(npt, 0, q->edit->dst)))
        return refuse(q);
    q->edit->fields =
        (out ? NFM_EDIT_SRC : 0) | (in ? NFM_EDIT_DST : 0) | (out && in ? NFM_EDIT_BACK : 0);
    if (q->edit->fields == 0)
        return NFM_PASS;
    q->self->stats.npt++;
    return NFM_REWRITE | (q->record->flow != 0 ? NFM_REST : 0);
}

static uint32_t judge_ipv6(const question *q) {
    const uint8_t *base = nfm_slot_ptr(q->mem, q->record->slot);
    uint32_t l3 = q->record->l3_off;
    if (base == NULL || l3 == 0 || l3 + 40u > NFM_HEADROOM + q->record->frame_len)
        return NFM_PASS;
    const uint8_t *src = base + l3 + 8, *dst = base + l3 + 24;
    for (uint32_t i = 0; i < q->self->config.n_npt; i++) {
        uint32_t verdict = judge_npt(q, &q->self->npt[i], src, dst);
        if (verdict != NFM_PASS)
            return verdict;
    }
    return NFM_PASS;
}

static uint32_t judge(question *q) {
    const uint8_t *base = nfm_slot_ptr(q->mem, q->record->slot);
    const uint64_t malformed = NFM_BIT(NFM_EV_PACKET_MALFORMED);
    *q->edit = (nfm_edit){0};
    if (q->record->events & malformed) {
        q->self->stats.malformed++;
        return NFM_DROP;
    }
    if (base == NULL || q->record->l3_off == 0)
        return NFM_PASS; /* ARP and the like */
    if (is_in_tunnel(q))
        return refuse(q);
    if (q->record->flags & NFM_F_IPV6)
        return judge_ipv6(q);
    if (q->record->l3_off + 20u > NFM_HEADROOM + q->record->frame_len)
        return NFM_PASS;
    uint32_t len = 0;
    const uint8_t *l3 = base + q->record->l3_off, *l4 = l4_of(q, &len);
    bool is_query = q->record->proto == IPPROTO_ICMP;
    q->klass = class_of(q->record->proto);
    q->src = (nat_endpoint){nat__read32(l3 + 12), 0};
    q->dst = (nat_endpoint){nat__read32(l3 + 16), 0};
    if (l4 != NULL) {
        q->src.port = nat__read16(l4 + (is_query ? 4 : 0));
        q->dst.port = nat__read16(l4 + (is_query ? 4 : 2));
    }
    if (q->record->flow == 0 && (is_inside(q->self, q->src.address) ||
                                 nat__external_index(q->self, q->dst.address) != NAT_NONE)) {
        q->self->stats.no_flow++;
        return NFM_DROP;
    }
    return judge_ipv4(q);
}

/*
 * nat_process is the nfm_process_fn of this NF: |batch| is an nfm_batch of packets to be judged and
 * of flow.end, in order. Without load everything is dropped. Returns NFM_OK.
 */
int nat_process(void *state, const void *batch) {
    const nfm_batch *b = batch;
    nat *self = state;
    for (uint32_t i = 0; i < b->n; i++) {
        if (b->desc[i].what & NFM_DESC_GAP)
            continue;
        const nfm_record *record = &b->mem->records[b->desc[i].record];
        question q = {.self = self, .mem = b->mem, .record = record};
        if (!self->is_ready) {
            if (b->verdict != NULL)
                b->verdict[i] = NFM_DROP;
            continue;
        }
        nat__expire(self, record->ts_ns);
        if (b->desc[i].what & NFM_BIT(NFM_EV_FLOW_END)) {
            nat__session_end(self, record->flow, record->ts_ns);
        } else if (b->verdict != NULL && b->desc[i].what & PACKETS) {
            q.edit = &b->edit[i];
            b->verdict[i] = judge(&q);
        }
    }
    return NFM_OK;
}

/* ---- life ----------------------------------------------------------------------------------- */

/* nat_open makes a translator without configuration, which nat_load gives it. NULL: no memory. */
void *nat_open(const char *config_json) {
    (void)config_json;
    return calloc(1, sizeof(nat));
}

/*
 * nat_load takes |config|, borrowed until return, once. Memory: about 64 bytes per mapping, 64 per
 * session and 800 KiB per external address.
 * Returns NFM_OK, NFM_E_STATE, NFM_E_NOMEM, or NFM_E_INVAL: too many prefixes or addresses, a range
 * of ports that is none, a forward whose external address is not ours or whose endpoints are used
 * twice. After an error it can only be closed.
 */
int nat_load(nat *self, const nat_config *config) {
    if (self->is_ready || self->mappings != NULL)
        return NFM_E_STATE;
    if (config->n_inside > NAT_MAX_PREFIXES || config->n_external > NAT_MAX_EXTERNAL ||
        config->n_npt > NAT_MAX_NPT || config->max_mappings == 0 || config->max_sessions == 0 ||
        config->max_mappings > 1u << 24 || config->max_sessions > 1u << 26 ||
        config->port_low > config->port_high || config->filtering > NAT_FILTER_ADDRESS_PORT)
        return NFM_E_INVAL;
    self->config = *config;
    for (uint32_t i = 0; i < config->n_inside; i++)
        self->inside[i] = config->inside[i];
    for (uint32_t i = 0; i < config->n_external; i++)
        self->external[i] = config->external[i];
    for (uint32_t i = 0; i < config->n_npt; i++)
        self->npt[i] = config->npt[i];
    int rc = nat__table_init(self, config);
    self->is_ready = rc == NFM_OK;
    return rc;
}

/* nat_close frees |state|; NULL is fine. */
void nat_close(void *state) {
    nat *self = state;
    if (self == NULL)
        return;
    nat__table_fini(self);
    free(self);
}

/* nat_stats_get copies the counters; mappings and sessions are how many there are now. */
void nat_stats_get(const nat *self, nat_stats *out) {
    *out = self->stats;
    out->sessions = self->map.n;
}

/* nat_mappings_get copies up to |max| mappings to |out|. Returns how many it copied. */
uint32_t nat_mappings_get(const nat *self, nat_mapping_info *out, uint32_t max) {
    uint32_t n = 0;
    for (uint32_t i = 0; self->is_ready && i < self->config.max_mappings && n < max; i++) {
        const nat_mapping *m = &self->mappings[i];
        if (!m->is_used)
            continue;
        out[n++] = (nat_mapping_info){
            .internal = m->internal,
            .external = m->external,
            .internal_port = m->internal_port,
            .external_port = m->external_port,
            .klass = m->klass,
            .flows = m->flows,
            .fixed = m->fixed,
        };
    }
    return n;
}
