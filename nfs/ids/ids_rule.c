/* SPDX-License-Identifier: Apache-2.0 */
/* What a rule asks for beside bytes, and what follows when all of it holds. */
#include "ids.h"

enum { PROTO_ICMP = 1, PROTO_TCP = 6, PROTO_ICMPV6 = 58 };

/* ---- header --------------------------------------------------------------------------------- */

static bool in_addresses(const ids_table *table, ids_span span, const uint8_t addr[16]) {
    for (uint32_t i = 0; i < span.n; i++) {
        const ids_addresses *range = &table->r.addresses[span.begin + i];
        if (memcmp(addr, range->first, 16) >= 0 && memcmp(addr, range->last, 16) <= 0)
            return true;
    }
    return false;
}

static bool in_ports(const ids_table *table, ids_span span, uint16_t port) {
    for (uint32_t i = 0; i < span.n; i++) {
        const ids_ports *range = &table->r.ports[span.begin + i];
        if (port >= range->first && port <= range->last)
            return true;
    }
    return false;
}

static bool has_ports(uint8_t proto) {
    return proto == PROTO_TCP || proto == 17 || proto == 132 || proto == 33 || proto == 136;
}

static bool fits_one_way(const ids_table *table, const ids_header *h, const nfm_flow_info *info,
                         uint8_t sender) {
    const ids_span *addr = info->ip_version == 6 ? h->addr6 : h->addr4;
    for (uint8_t end = 0; end < 2; end++) {
        uint8_t side = end == 0 ? sender : sender ^ 1;
        if (!in_addresses(table, addr[end], info->addr[side]))
            return false;
        if (has_ports(info->proto) && !in_ports(table, h->ports[end], info->port[side]))
            return false;
    }
    return true;
}

/*
 * ids_header_fits says whether |header| is about what |sender| sends on this flow.
 */
bool ids_header_fits(const ids_table *table, const ids_header *h, const nfm_flow_info *info,
                     uint8_t sender) {
    bool is_icmp = info->proto == PROTO_ICMP || info->proto == PROTO_ICMPV6;
    if (h->proto != 0 && h->proto != info->proto && !(h->proto == PROTO_ICMP && is_icmp))
        return false;
    return fits_one_way(table, h, info, sender) ||
           (h->both_ways && fits_one_way(table, h, info, sender ^ 1));
}

/*
 * ids_kinds_about returns the kinds of rules that are about a flow, a bit each.
 */
uint16_t ids_kinds_about(const ids_table *table, const nfm_flow_info *info) {
    uint16_t kinds = 0;
    for (uint32_t i = 0; i < table->r.n_headers; i++) {
        const ids_header *h = &table->r.headers[i];
        if ((kinds | h->kinds) != kinds &&
            (ids_header_fits(table, h, info, 0) || ids_header_fits(table, h, info, 1)))
            kinds |= h->kinds;
    }
    return kinds;
}

/* ---- conditions ----------------------------------------------------------------------------- */

static bool fits_number(ids_number range, uint32_t value) {
    return !range.asked || (value >= range.first && value <= range.last) == !range.negated;
}

static bool fits_flags(const ids_rule *rule, uint8_t flags) {
    uint8_t seen = flags & rule->flag_mask;
    switch ((enum ids_flag_mode)rule->flag_mode) {
    case IDS_EXACT:
        return seen == rule->flag_bits;
    case IDS_ALL:
        return (seen & rule->flag_bits) == rule->flag_bits;
    case IDS_SOME:
        return (seen & rule->flag_bits) != 0;
    case IDS_NONE:
        return (seen & rule->flag_bits) == 0;
    case IDS_ANY_FLAGS:
        break;
    }
    return true;
}

static bool fits_icmp(const ids_rule *rule, const ids_occasion *o) {
    const uint8_t *slot = nfm_slot_ptr(o->mem, o->record->slot);
    if (!rule->itype.asked && !rule->icode.asked)
        return true;
    if (slot == NULL || o->record->l4_off == 0 || o->record->flags & NFM_F_PART)
        return false;
    const uint8_t *icmp = slot + o->record->l4_off;
    return fits_number(rule->itype, icmp[0]) && fits_number(rule->icode, icmp[1]);
}

static bool fits_packet(const ids_rule *rule, const ids_occasion *o) {
    if (rule->terms & IDS_NOT_TCP && o->info->proto == PROTO_TCP)
        return false;
    return fits_number(rule->dsize, o->payload_len) && fits_flags(rule, o->record->tcp_flags) &&
           fits_icmp(rule, o);
}

static bool fits_side(const ids_rule *rule, const ids_occasion *o) {
    uint8_t client = o->record->flags & NFM_F_CLIENT_IS_1 ? 1 : 0;
    if (rule->terms & IDS_TO_SERVER && o->sender != client)
        return false;
    return !(rule->terms & IDS_TO_CLIENT && o->sender == client);
}

static bool fits_state(const ids_rule *rule, const ids_occasion *o) {
    bool established = o->flow == NULL || o->flow->established;
    if (rule->terms & IDS_ESTABLISHED && !established)
        return false;
    return !(rule->terms & IDS_NOT_ESTABLISHED && established);
}

/* ---- flow bits ------------------------------------------------------------------------------ */

static bool fits_bits(const ids_table *table, const ids_rule *rule, const ids_flow *flow) {
    bool any = false;
    for (uint32_t i = 0; i < rule->bits.n; i++) {
        const ids_bit *bit = &table->r.bits[rule->bits.begin + i];
        if (bit->op != IDS_ISSET && bit->op != IDS_ISNOTSET)
            continue;
        bool is_set = flow != NULL && ids_bit_is(flow->bits, bit->bit);
        any |= is_set == (bit->op == IDS_ISSET);
        if (bit->or_next)
            continue;
        if (!any)
            return false;
        any = false;
    }
    return true;
}

static void change_bits(const ids_table *table, const ids_rule *rule, ids_flow *flow) {
    for (uint32_t i = 0; flow != NULL && i < rule->bits.n; i++) {
        const ids_bit *bit = &table->r.bits[rule->bits.begin + i];
        uint64_t *word = &flow->bits[bit->bit / 64], one = UINT64_C(1) << (bit->bit % 64);
        if (bit->op == IDS_SET)
            *word |= one;
        else if (bit->op == IDS_UNSET)
            *word &= ~one;
        else if (bit->op == IDS_TOGGLE)
            *word ^= one;
    }
}

/* ---- what follows --------------------------------------------------------------------------- */

static void alert(ids *nf, const ids_occasion *o, const ids_rule *rule, uint32_t verdict) {
    if (nf->n_alerts == nf->options.max_alerts) {
        nf->stats.alerts_dropped++;
        return;
    }
    ids_alert *a = &nf->alerts[(nf->first_alert + nf->n_alerts++) % nf->options.max_alerts];
    nfm_record record = *o->record;
    record.side = o->sender;
    memcpy(a->record, &record, sizeof(record));
    memcpy(a->flow, o->info, sizeof(*o->info));
    a->position = o->position;
    a->sid = rule->sid;
    a->gid = rule->gid;
    a->verdict = verdict;
    a->kind = rule->kind;
    nf->stats.alerts++;
}

/* Datagrams and single packets are dropped by themselves; all else with its flow. */
static uint32_t verdict_of(const ids_rule *rule, const ids_occasion *o) {
    if (rule->action == IDS_REJECT)
        return NFM_REJECT;
    return rule->action != IDS_DROP ? NFM_PASS
           : o->kind == IDS_PACKET  ? (uint32_t)NFM_DROP
                                    : NFM_DROP | NFM_REST;
}

static void act(ids_occasion *o, const ids_rule *rule) {
    uint32_t verdict = verdict_of(rule, o);
    if (rule->action == IDS_PASS) {
        o->passed = true;
        if (o->flow != NULL && o->kind != IDS_PACKET)
            o->flow->passed = true;
    }
    if (verdict != NFM_PASS && o->kind != IDS_PACKET && o->flow != NULL)
        o->flow->dropped = true;
    if ((verdict & 0xff) > (o->verdict & 0xff))
        o->verdict = verdict;
}

/*
 * ids_ask asks a rule whose bytes are met for the rest, and acts when all holds.
 */
enum ids_answer ids_ask(ids *nf, ids_occasion *o, const ids_rule *rule) {
    const ids_table *table = nf->table;
    if (!ids_header_fits(table, &table->r.headers[rule->header], o->info, o->sender) ||
        !fits_side(rule, o))
        return IDS_NEVER;
    if (o->kind == IDS_PACKET && !fits_packet(rule, o))
        return IDS_NOT_NOW;
    if (!fits_state(rule, o) || !fits_bits(table, rule, o->flow))
        return IDS_NOT_NOW;
    nf->stats.matches++;
    change_bits(table, rule, o->flow);
    enum ids_count count = ids_counted(nf, rule, o);
    nf->stats.suppressed += count != IDS_TELL;
    if (count == IDS_SILENT)
        return IDS_MATCHED;
    act(o, rule);
    if (count == IDS_TELL && rule->action != IDS_PASS && !(rule->terms & IDS_NOALERT))
        alert(nf, o, rule, nf->decides ? verdict_of(rule, o) : (uint32_t)NFM_PASS);
    return IDS_MATCHED;
}
