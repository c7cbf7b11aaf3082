/* SPDX-License-Identifier: Apache-2.0 */
#include <netinet/in.h>
#include <string.h>

#include "engine/hosted.h"
#include "engine/strand.h"

enum {
    EVICTION_SAMPLES = 16,
    LIMBO_KEPT = 8192, /* few enough that their memory is still in the cache when used again */
};

static uint64_t next_random(nfm_worker *w) { /* xorshift64 (Marsaglia 2003) */
    uint64_t x = w->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return w->random = x;
}

/* How dear a flow is: half-open and finished ones go first, then the longest idle. */
static uint64_t worth(const nfm_flow *flow) {
    static const uint8_t rank[8] = {
        [NFM_IDLE_TCP_GONE] = 0, [NFM_IDLE_TCP_SYN] = 1, [NFM_IDLE_TCP_CLOSE] = 2,
        [NFM_IDLE_ICMP] = 2,     [NFM_IDLE_OTHER] = 3,   [NFM_IDLE_UDP] = 3,
        [NFM_IDLE_TCP_EST] = 4,
    };
    return (uint64_t)rank[flow->idle_class & 7] << 60 | ((uint64_t)flow->last_ns >> 4);
}

/* Closes the least worthy of a few flows picked at random: O(1), and a flood of half-open flows
 * pushes out its own kind. */
static bool evict_one(nfm_worker *w) {
    uint32_t victim = NFM_NO_FLOW;
    uint64_t lowest = UINT64_MAX;
    for (unsigned i = 0; i < EVICTION_SAMPLES; i++) {
        uint32_t index = (uint32_t)(next_random(w) % w->table.n_fresh);
        const nfm_flow *flow = nfm_table_flow(&w->table, index);
        if ((flow->flags & NFM_FLOW_OPEN) && worth(flow) < lowest) {
            lowest = worth(flow);
            victim = index;
        }
    }
    if (victim == NFM_NO_FLOW)
        return false;
    w->core_counters[NFM_CC_EVICTED]++;
    nfm__flow_close(w, victim, NFM_END_EVICTED);
    return true;
}

/* Side 0 is the client as far as the first packet tells. */
static uint8_t sender_side(const nfm_packet *p, uint8_t *basis) {
    *basis = 0;
    if (p->rec.proto != IPPROTO_TCP)
        return 0;
    unsigned syn_ack = p->rec.tcp_flags & 0x12;
    if (syn_ack == 0x02)
        *basis = NFM_FLOW_BASIS_SYN;
    else if (syn_ack == 0x12)
        *basis = NFM_FLOW_BASIS_SYNACK;
    return syn_ack == 0x12;
}

static uint8_t idle_class_of(uint8_t proto, bool tracked) {
    switch (proto) {
    case IPPROTO_TCP: /* a tracked flow's class is the tracker's business from its first packet on
                       */
        return tracked ? NFM_IDLE_TCP_SYN : NFM_IDLE_TCP_EST;
    case IPPROTO_UDP:
    case IPPROTO_UDPLITE:
        return NFM_IDLE_UDP;
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        return NFM_IDLE_ICMP;
    default:
        return NFM_IDLE_OTHER;
    }
}

void nfm__flow_set_level(nfm_worker *w, uint32_t index) {
    nfm_flow *flow = nfm_table_flow(&w->table, index);
    const nfm_subset *a = &w->subs.sets[flow->subs[0]], *b = &w->subs.sets[flow->subs[1]];
    uint8_t level = a->level > b->level ? a->level : b->level;
    uint8_t modules = nfm_graph_level(&w->graph, flow->modules);
    if (modules >= NFM_LEVEL_DATA && flow->modules & (a->inline_modules | b->inline_modules))
        modules = NFM_LEVEL_SPLIT; /* what they find is decided on */
    level = level > modules ? level : modules;
    flow->level = nfm_graph_reach(&w->graph, flow->proto, level);
}

void nfm__flow_subscribe(nfm_worker *w, uint32_t index) {
    nfm_flow *flow = nfm_table_flow(&w->table, index);
    const nfm_flow_info *info = &w->table.info[index];
    uint8_t client = flow->flags & NFM_FLOW_CLIENT_IS_1 ? 1 : 0;
    for (uint8_t side = 0; side < 2; side++) {
        uint32_t set = nfm_subs_of_flow(&w->subs, info, side, client, nfm__flow_choice(w, index));
        uint32_t old = flow->subs[side];
        nfm_subs_hold(&w->subs, set);
        flow->subs[side] = set;
        if (old != NFM_NO_SET)
            nfm_subs_release(&w->subs, old);
    }
    uint64_t modules = w->subs.sets[flow->subs[0]].modules | w->subs.sets[flow->subs[1]].modules;
    flow->modules = 0;
    for (uint64_t left = modules & w->graph.app_mask; left != 0; left &= left - 1) {
        const nfm_module *m = w->graph.instances[__builtin_ctzll(left)].module;
        if (m->proto == 0 || m->proto == flow->proto)
            flow->modules |= (uint16_t)(left & -left);
    }
    nfm__flow_set_level(w, index);
}

/* When to look at a flow: for updates, or when it may have been idle for too long. Established
 * connections are looked at as often as closing ones, so that a FIN need not move their timers,
 * which would load two other flows. */
static int64_t deadline_of(const nfm_worker *w, const nfm_flow *flow) {
    int64_t idle = flow->last_ns + w->idle_ns[flow->idle_class & 7], look = idle;
    if (w->wants_update)
        look = w->now_ns + w->update_ns;
    else if (flow->idle_class == NFM_IDLE_TCP_EST)
        look = w->now_ns + w->idle_ns[NFM_IDLE_TCP_CLOSE];
    return look < idle ? look : idle;
}

/* What NFs may know of the flow, in shared memory. */
static void fill_info(nfm_worker *w, uint32_t index, const nfm_packet *p) {
    nfm_flow_info *info = &w->table.info[index];
    const nfm_key *key = &nfm_table_flow(&w->table, index)->key;
    memcpy(info->addr, key->addr, sizeof(info->addr));
    memcpy(info->port, key->port, sizeof(info->port));
    info->proto = key->proto;
    info->ip_version = key->ip_version;
    info->vlan[0] = p->vlan[0];
    info->vlan[1] = p->vlan[1];
    info->tunnel_kind = p->tunnel_kind;
    info->flags = 0;
    info->tunnel_id = p->tunnel_id;
    info->start_ns = w->now_ns;
    info->id = nfm__flow_id(w, index);
}

/* The tracking module of a flow on which this work is done; NULL none. */
static nfm_instance *tracker_of(const nfm_worker *w, const nfm_flow *flow, nfm_work work) {
    return work.level >= NFM_LEVEL_TRACK ? w->graph.track[flow->proto] : NULL;
}

/* The stream module of such a flow; NULL none. */
static nfm_instance *stream_of(const nfm_worker *w, const nfm_flow *flow, nfm_work work) {
    nfm_instance *in = work.level >= NFM_LEVEL_DATA ? w->graph.stream : NULL;
    return in != NULL && in->module->proto == flow->proto ? in : NULL;
}

static void open_state(nfm_worker *w, uint32_t index, const nfm_packet *p, nfm_instance *in) {
    if (in->hosted) {
        nfm__host_open(w, index, in, p);
        return;
    }
    void *state = nfm_instance_state(in, index);
    if (in->module->flow_size > 0)
        memset(state, 0, in->module->flow_size);
    if (in->module->flow_open != NULL)
        in->module->flow_open(&in->ctx, nfm_table_flow(&w->table, index), p, state);
}

static void close_state(nfm_worker *w, uint32_t index, nfm_instance *in) {
    if (in != NULL && in->hosted)
        nfm__host_close(w, index, in);
    else if (in != NULL && in->module->flow_close != NULL)
        in->module->flow_close(&in->ctx, nfm_table_flow(&w->table, index), index, w->now_ns,
                               nfm_instance_state(in, index));
}

static void change_module(nfm_worker *w, uint32_t index, const nfm_packet *p, nfm_instance *did,
                          nfm_instance *does) {
    if (did == does)
        return;
    if (does != NULL)
        open_state(w, index, p, does);
    else
        close_state(w, index, did);
}

void nfm__flow_modules_changed(nfm_worker *w, uint32_t index, const nfm_packet *p,
                               nfm_work before) {
    const nfm_flow *flow = nfm_table_flow(&w->table, index);
    nfm_work after = nfm__flow_work(flow);
    change_module(w, index, p, tracker_of(w, flow, before), tracker_of(w, flow, after));
    change_module(w, index, p, stream_of(w, flow, before), stream_of(w, flow, after));
    for (unsigned left = before.modules ^ after.modules; left != 0; left &= left - 1) {
        nfm_instance *in = &w->graph.instances[__builtin_ctz(left)];
        if (after.modules & (left & -left))
            open_state(w, index, p, in);
        else
            close_state(w, index, in);
    }
}

/* The receivers of a record that no packet caused: those of now, not those that have left. Modules
 * that came since the last packet have no state of this flow, and get none without a packet. */
static void refresh_receivers(nfm_worker *w, uint32_t index) {
    nfm_flow *flow = nfm_table_flow(&w->table, index);
    if (!nfm__flow_is_stale(w, flow))
        return;
    nfm_work before = nfm__flow_work(flow);
    nfm__flow_subscribe(w, index);
    flow->modules &= before.modules;
    flow->level = flow->level < before.level ? flow->level : before.level;
    nfm__flow_modules_changed(w, index, NULL, before);
}

bool nfm__flow_open(nfm_worker *w, nfm_packet *p, uint64_t hash) {
    uint8_t basis, sender = sender_side(p, &basis);
    if (w->table.n_flows >= w->flow_limit)
        (void)evict_one(w);
    uint32_t index = nfm_table_insert(&w->table, &p->key, hash, sender);
    if (index == NFM_NO_FLOW) {
        w->core_counters[NFM_CC_FLOW_FULL]++;
        return false;
    }
    nfm_flow *flow = nfm_table_flow(&w->table, index);
    uint32_t generation = (flow->generation + 1) & 0xffffff;
    memset(flow, 0, offsetof(nfm_flow, key));
    flow->generation = generation != 0 ? generation : 1;
    flow->subs[0] = flow->subs[1] = NFM_NO_SET;
    flow->last_ns = w->now_ns;
    flow->proto = p->rec.proto;
    flow->flags = NFM_FLOW_OPEN | basis;
    fill_info(w, index, p);
    p->flow = flow;
    p->flow_index = index;
    p->rec.flow = nfm__flow_id(w, index);
    p->rec.side = sender;
    p->rec.events |= NFM_BIT(NFM_EV_FLOW_START);
    nfm__flow_subscribe(w, index);
    flow->idle_class = idle_class_of(p->rec.proto, flow->level >= NFM_LEVEL_TRACK);
    nfm__flow_modules_changed(w, index, p, (nfm_work){0, 0});
    nfm_wheel_add(&w->wheel, index, deadline_of(w, flow));
    w->flows_opened++;
    return true;
}

/* Whether a record about the whole flow has anybody to go to. */
static bool wants_totals(const nfm_worker *w, const nfm_flow *flow, uint8_t event) {
    uint64_t events = w->subs.sets[flow->subs[0]].events | w->subs.sets[flow->subs[1]].events;
    uint64_t raised = NFM_BIT(event);
    if (event == NFM_EV_FLOW_END)
        raised |= NFM_BIT(NFM_EV_TCP_TIMEOUT);
    return (events & raised) != 0 || flow->modules != 0;
}

static void add_totals(const nfm_flow *flow, uint32_t index, nfm_instance *in, nfm_record *rec) {
    if (in != NULL && in->module->totals != NULL)
        in->module->totals(&in->ctx, flow, nfm_instance_state(in, index), rec);
}

/* A flow.end or flow.update record; both sides' receivers get it once. */
static void emit_totals(nfm_worker *w, uint32_t index, uint8_t event, uint8_t reason) {
    nfm_flow *flow = nfm_table_flow(&w->table, index);
    nfm_work work = nfm__flow_work(flow);
    nfm_record rec;
    if (!wants_totals(w, flow, event))
        return;
    memset(&rec, 0, sizeof(rec));
    rec.ts_ns = w->now_ns;
    rec.flow = nfm__flow_id(w, index);
    rec.events = NFM_BIT(event);
    rec.packet = w->packets;
    rec.slot = NFM_NO_SLOT;
    rec.last_ns = flow->last_ns;
    rec.proto = flow->proto;
    rec.kind = NFM_REC_FLOW;
    rec.conn_state = flow->conn_state;
    rec.reason = reason;
    rec.flags = (uint16_t)((flow->key.ip_version == 6 ? NFM_F_IPV6 : 0) |
                           (flow->flags & NFM_FLOW_CLIENT_IS_1 ? NFM_F_CLIENT_IS_1 : 0) |
                           (flow->flags & NFM_FLOW_BASIS_SYN ? NFM_F_BASIS_SYN : 0) |
                           (flow->flags & NFM_FLOW_BASIS_SYNACK ? NFM_F_BASIS_SYNACK : 0) |
                           (flow->flags & NFM_FLOW_MIDSTREAM ? NFM_F_MIDSTREAM : 0));
    for (int side = 0; side < 2; side++) {
        rec.totals.packets[side] = flow->packets[side];
        rec.totals.payload_bytes[side] = flow->payload_bytes[side];
    }
    add_totals(flow, index, tracker_of(w, flow, work), &rec);
    add_totals(flow, index, stream_of(w, flow, work), &rec);
    for (unsigned left = work.modules; left != 0; left &= left - 1)
        add_totals(flow, index, &w->graph.instances[__builtin_ctz(left)], &rec);
    if (event == NFM_EV_FLOW_END && reason == NFM_END_TIMEOUT && flow->proto == IPPROTO_TCP &&
        flow->end_reason == 0)
        rec.events |= NFM_BIT(NFM_EV_TCP_TIMEOUT);
    if (w->hosts != NULL && nfm__must_defer(w, index, rec.events)) {
        nfm__pending_totals(w, index, &rec);
        return;
    }
    if (event == NFM_EV_FLOW_END)
        nfm__record_dispatch(w, index, &rec); /* children before the flow's last record */
    const nfm_subset *a = nfm__set_of(w, index, 0), *b = nfm__set_of(w, index, 1);
    nfm_deliver(&w->delivery, a, &rec, &w->table.info[index]);
    if (a != b)
        nfm_deliver_rest(&w->delivery, b, a, &rec, &w->table.info[index]);
}

void nfm__flow_close(nfm_worker *w, uint32_t index, uint8_t reason) {
    nfm_flow *flow = nfm_table_flow(&w->table, index);
    if (flow->end_reason != NFM_END_NONE && reason == NFM_END_TIMEOUT)
        reason = flow->end_reason;
    refresh_receivers(w, index);
    if (w->way != NULL)
        nfm__strands_close(w, index);
    nfm_work work = nfm__flow_work(flow);
    close_state(w, index, stream_of(w, flow, work)); /* what it holds comes before flow.end */
    emit_totals(w, index, NFM_EV_FLOW_END, reason);
    work = nfm__flow_work(flow);
    close_state(w, index, tracker_of(w, flow, work));
    for (unsigned left = work.modules; left != 0; left &= left - 1)
        close_state(w, index, &w->graph.instances[__builtin_ctz(left)]);
    nfm_wheel_remove(&w->wheel, index);
    nfm_table_remove(&w->table, index);
    nfm_subs_release(&w->subs, flow->subs[0]);
    nfm_subs_release(&w->subs, flow->subs[1]);
    flow->subs[0] = flow->subs[1] = NFM_NO_SET;
    nfm__flow_forget_choice(w, index);
    if (flow->flags & NFM_FLOW_RULED)
        nfm__transit_forget_flow(w, index);
    flow->flags = 0;
    w->flows_closed++;
    w->limbo[w->limbo_head++ & (w->table.max_flows - 1)] =
        (nfm_limbo){.flow = index,
                    .pending_end = w->hosts == NULL ? 0 : (uint32_t)w->hosts->head,
                    .epoch = w->hosts == NULL ? w->delivery.epoch_open + 1 : NFM_LIMBO_PENDING};
}

/* Flows that have closed wait in order, and always the same number of them, so that which index a
 * flow gets depends on the packets alone: a capture read again gives the same flow ids. */
static uint32_t limbo_excess(const nfm_worker *w) {
    uint32_t waiting = w->limbo_head - w->limbo_tail, keep = w->table.max_flows / 32;
    keep = keep < LIMBO_KEPT ? keep : LIMBO_KEPT;
    return waiting > keep ? waiting - keep : 0;
}

bool nfm__flow_must_wait(const nfm_worker *w) {
    nfm_limbo *first = &w->limbo[w->limbo_tail & (w->table.max_flows - 1)];
    if (limbo_excess(w) > 0 && first->epoch == NFM_LIMBO_PENDING) {
        if (!nfm__pending_passed(w, first->pending_end))
            return true;
        first->epoch = w->delivery.epoch_open + 1; /* what was pending is in epochs by now */
    }
    return limbo_excess(w) > 0 && first->epoch > w->delivery.epoch_retired &&
           !nfm_delivery_is_idle(&w->delivery);
}

void nfm__flow_recycle(nfm_worker *w) {
    uint32_t mask = w->table.max_flows - 1;
    for (uint32_t n = limbo_excess(w); n > 0 && !nfm__flow_must_wait(w); n--) {
        nfm_limbo first = w->limbo[w->limbo_tail++ & mask];
        if (nfm_delivery_flow_is_held(&w->delivery, first.flow) ||
            nfm__transit_has_line(w, first.flow))
            w->limbo[w->limbo_head++ & mask] = first; /* a held record names it: later */
        else
            nfm_table_recycle(&w->table, first.flow);
    }
}

void nfm__flow_rearm(nfm_worker *w, uint32_t index) {
    nfm_wheel_remove(&w->wheel, index);
    nfm_wheel_add(&w->wheel, index, deadline_of(w, nfm_table_flow(&w->table, index)));
}

void nfm__flow_timers(nfm_worker *w) {
    uint32_t index;
    while ((index = nfm_wheel_pop(&w->wheel, w->now_ns)) != NFM_NO_FLOW) {
        nfm_flow *flow = nfm_table_flow(&w->table, index);
        if (w->now_ns - flow->last_ns >= w->idle_ns[flow->idle_class & 7]) {
            nfm__flow_close(w, index, NFM_END_TIMEOUT);
            continue;
        }
        refresh_receivers(w, index);
        if (w->wants_update)
            emit_totals(w, index, NFM_EV_FLOW_UPDATE, NFM_END_NONE);
        nfm_wheel_add(&w->wheel, index, deadline_of(w, flow));
    }
}
