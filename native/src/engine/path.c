/* SPDX-License-Identifier: Apache-2.0 */
#include <netinet/in.h>
#include <string.h>

#include "engine/hosted.h"
#include "engine/share.h"
#include "engine/strand.h"

/* What a packet's way is made of is compiled into both of its kinds: see with_flow. */
#define INLINE static inline __attribute__((always_inline))

enum { TCP_SYN = 2 };

void nfm__record_dispatch(nfm_worker *w, uint32_t index, const nfm_record *record) {
    nfm_flow *flow = nfm_table_flow(&w->table, index);
    for (uint64_t left = flow->modules; left != 0; left &= left - 1) {
        nfm_instance *in = &w->graph.instances[__builtin_ctzll(left)];
        if ((in->needs & record->events) == 0 || !(flow->modules & (left & -left)))
            continue;
        if (in->hosted) {
            nfm__host_ask(w, index, in, NFM_ASK_EVENT);
            continue;
        }
        w->trigger = record;
        w->trigger_flow = index;
        w->trigger_side = record->side;
        w->trigger_ordinal = 0;
        in->module->on_event(&in->ctx, record, nfm_record_data(&w->mem, record),
                             nfm_instance_state(in, index));
        w->trigger = NULL;
    }
}

void nfm__record_emit(nfm_worker *w, uint32_t index, const nfm_record *record) {
    if (__builtin_expect(w->hosts != NULL, 0) && nfm__must_defer(w, index, record->events)) {
        nfm__pending_record(w, index, record);
        return;
    }
    const nfm_subset *set = nfm__set_of(w, index, record->side);
    if (set->events & record->events)
        nfm_deliver(&w->delivery, set, record, index == NFM_NO_FLOW ? NULL : &w->table.info[index]);
    if (index != NFM_NO_FLOW && nfm_table_flow(&w->table, index)->modules != 0)
        nfm__record_dispatch(w, index, record);
}

void nfm_emit_packet(nfm_ctx *ctx, nfm_packet *packet) {
    if (packet->emitted)
        return;
    packet->emitted = 1;
    if (ctx->worker->way != NULL && packet->flow != NULL)
        nfm__segment_data(ctx->worker, packet->flow_index, &packet->rec);
    nfm__record_emit(ctx->worker, packet->flow == NULL ? NFM_NO_FLOW : packet->flow_index,
                     &packet->rec);
}

void nfm_emit_record(nfm_ctx *ctx, nfm_flow *flow, uint32_t flow_index, const nfm_record *record) {
    (void)flow;
    if (ctx->worker->way != NULL)
        nfm__segment_data(ctx->worker, flow_index, record);
    nfm__record_emit(ctx->worker, flow_index, record);
}

static void begin_time(nfm_worker *w, int64_t now_ns) {
    w->time_known = true;
    w->now_ns = now_ns;
    nfm_wheel_init(&w->wheel, w->table.blocks, w->table.stride, w->now_ns);
    w->next_tick_ns = w->now_ns + NFM_TICK_NS;
}

void nfm__advance_time(nfm_worker *w, int64_t now_ns) {
    if (!w->time_known)
        begin_time(w, now_ns);
    w->now_ns = now_ns;
    if (__builtin_expect(w->now_ns < w->next_tick_ns, 1))
        return;
    w->next_tick_ns = w->now_ns + NFM_TICK_NS;
    if (nfm_wheel_due(&w->wheel, w->now_ns))
        nfm__flow_timers(w);
    nfm_graph_tick(&w->graph, w->now_ns);
    if (w->hosts != NULL)
        nfm__hosts_tick(w, w->now_ns);
}

/* Event time never goes back: an older packet gets the time of the one before. */
static inline void advance_time(nfm_worker *w, nfm_packet *p) {
    int64_t ts_ns = p->rec.ts_ns;
    if (__builtin_expect(ts_ns >= w->now_ns && ts_ns < w->next_tick_ns, 1)) {
        w->now_ns = ts_ns;
        return;
    }
    if (!w->time_known || ts_ns >= w->now_ns) {
        nfm__advance_time(w, ts_ns);
        return;
    }
    w->core_counters[NFM_CC_TIME_BACK]++;
    p->rec.ts_ns = w->now_ns;
}

/* The flow of a packet: most often the candidate that parsing the burst found and prefetched. */
INLINE bool find_flow(nfm_worker *w, nfm_packet *p, uint64_t hash) {
    uint32_t index = p->flow_index;
    int side = -1;
    if (index != NFM_NO_FLOW && (nfm_table_flow(&w->table, index)->flags & NFM_FLOW_OPEN))
        side = nfm_table_match(&w->table, &p->key, index);
    if (side < 0) {
        uint8_t found = 0;
        index = nfm_table_find(&w->table, &p->key, hash, &found);
        if (index == NFM_NO_FLOW)
            return nfm__flow_open(w, p, hash);
        side = found;
    }
    nfm_flow *flow = nfm_table_flow(&w->table, index);
    uint64_t id = nfm__flow_id(w, index);
    p->flow = flow;
    p->flow_index = index;
    p->rec.flow = id;
    p->rec.side = (uint8_t)side;
    return true;
}

/* The flow's subscriptions have changed since its last packet. What follows it from here on has not
 * seen its begin, and says so; others keep what they know of it. */
static void subscribe_again(nfm_worker *w, nfm_packet *p) {
    nfm_work before = nfm__flow_work(p->flow);
    nfm__flow_subscribe(w, p->flow_index);
    nfm_work after = nfm__flow_work(p->flow);
    bool joins = after.level > before.level || (after.modules & ~before.modules) != 0;
    if (joins && p->rec.proto == IPPROTO_TCP && !(p->rec.tcp_flags & TCP_SYN)) {
        p->flow->flags |= NFM_FLOW_MIDSTREAM;
        p->rec.events |= NFM_BIT(NFM_EV_TCP_MIDSTREAM);
    }
    nfm__flow_modules_changed(w, p->flow_index, p, before);
    if (w->hosts != NULL)
        nfm__hosts_rejoin(w, p->flow_index, before.modules & p->flow->modules, p);
}

/* Whether the time-out must be armed again when the idle class changes: a deadline that moves out
 * is found when the old one comes up, one that comes near is not. */
static bool comes_near(const nfm_worker *w, uint8_t before, uint8_t after) {
    if (before == NFM_IDLE_TCP_EST && after == NFM_IDLE_TCP_CLOSE && !w->wants_update)
        return false; /* armed for that already */
    return w->idle_ns[after & 7] < w->idle_ns[before & 7] / 2;
}

/* Runs the tracking module; a new connection on an old 5-tuple gets a flow of its own. */
INLINE bool track(nfm_worker *w, nfm_packet *p, uint64_t hash) {
    nfm_instance *in = w->graph.track[p->rec.proto];
    if (in == NULL || p->flow->level < NFM_LEVEL_TRACK)
        return true;
    uint8_t flags = p->flow->flags, idle_class = p->flow->idle_class;
    if (in->module->on_packet(&in->ctx, p, nfm_instance_state(in, p->flow_index)) == 1) {
        nfm__flow_close(w, p->flow_index, NFM_END_REUSED);
        p->flow = NULL;
        p->rec.flow = 0;
        if (!nfm__flow_open(w, p, hash))
            return false;
        idle_class = p->flow->idle_class;
        flags = p->flow->flags;
        (void)in->module->on_packet(&in->ctx, p, nfm_instance_state(in, p->flow_index));
    }
    if (__builtin_expect(p->flow->idle_class != idle_class, 0) &&
        comes_near(w, idle_class, p->flow->idle_class))
        nfm__flow_rearm(w, p->flow_index);
    if ((p->flow->flags ^ flags) & NFM_FLOW_CLIENT_IS_1 && w->subs.any_filter)
        subscribe_again(w, p); /* "client" terms judge anew */
    return true;
}

/* The sets of a flow whose subscriptions have changed, for an ICMP error about it. Modules that
 * join do so at a packet of the flow's own: until that comes the flow stays marked. */
static void find_sets(nfm_worker *w, uint32_t index) {
    nfm_flow *flow = nfm_table_flow(&w->table, index);
    nfm_work before = nfm__flow_work(flow);
    nfm__flow_subscribe(w, index);
    nfm_work after = nfm__flow_work(flow);
    if (after.level == before.level && after.modules == before.modules)
        return;
    flow->level = before.level;
    flow->modules = before.modules;
    for (uint8_t side = 0; side < 2; side++) {
        nfm_subs_hold(&w->subs, w->subs.outdated);
        nfm_subs_release(&w->subs, flow->subs[side]);
        flow->subs[side] = w->subs.outdated;
    }
}

/* An ICMP error belongs to the flow that it quotes and changes nothing of its state (RFC 5508
 * REQ-10). Where nothing is forwarded it is an event of its own. */
static bool is_about_flow(nfm_worker *w, nfm_packet *p) {
    bool is_icmp = p->rec.proto == IPPROTO_ICMP || p->rec.proto == IPPROTO_ICMPV6;
    if (!is_icmp || !nfm__quoted_find(w, p))
        return false;
    if (nfm__flow_is_stale(w, p->flow))
        find_sets(w, p->flow_index);
    nfm__record_emit(w, p->flow_index, &p->rec);
    return true;
}

/* The packet's snapshot, if nobody delivered it before. */
INLINE void emit_snapshot(nfm_worker *w, nfm_packet *p) {
    const nfm_flow *flow = p->flow;
    const nfm_subset *set = &w->subs.sets[flow->subs[p->rec.side]];
    if (!p->emitted && ((set->events & p->rec.events) | flow->modules))
        nfm__record_emit(w, p->flow_index, &p->rec);
}

/* forwards: frames go on from this worker; a constant, so that who only observes pays nothing. */
INLINE void with_flow(nfm_worker *w, nfm_packet *p, uint64_t hash, bool forwards) {
    if (forwards && is_about_flow(w, p))
        return;
    bool found = find_flow(w, p, hash);
    if (found && __builtin_expect(nfm__flow_is_stale(w, p->flow), 0))
        subscribe_again(w, p);
    if (forwards && found && !nfm__segment_arrive(w, p))
        return;
    if (!found || !track(w, p, hash)) {
        nfm__record_emit(w, NFM_NO_FLOW, &p->rec); /* table full: seen, but without a flow */
        return;
    }
    nfm_flow *flow = p->flow;
    flow->last_ns = w->now_ns;
    flow->packets[p->rec.side]++;
    flow->payload_bytes[p->rec.side] += p->l4_len;
    nfm_instance *stream = w->graph.stream;
    uint8_t level = flow->level;
    if (forwards)
        nfm__segment_begin(w, p);
    if (level >= NFM_LEVEL_DATA && stream != NULL && p->rec.proto == stream->module->proto)
        (void)stream->module->on_packet(&stream->ctx, p, nfm_instance_state(stream, p->flow_index));
    if (forwards && !p->emitted)
        nfm__segment_data(w, p->flow_index, &p->rec);
    emit_snapshot(w, p);
    if (__builtin_expect(flow->level != level, 0)) /* a module lost interest: stop its work */
        nfm__flow_modules_changed(w, p->flow_index, p, (nfm_work){level, flow->modules});
}

__attribute__((noinline)) static void with_flow_on_way(nfm_worker *w, nfm_packet *p,
                                                       uint64_t hash) {
    with_flow(w, p, hash, true);
}

void nfm__packet_seen(nfm_worker *w, nfm_packet *p) {
    advance_time(w, p);
    p->rec.packet = ++w->packets;
    w->bytes += p->rec.wire_len;
}

void nfm__packet_process(nfm_worker *w, nfm_packet *p, uint64_t hash) {
    nfm__packet_seen(w, p);
    if (p->status == NFM_PARSE_FRAGMENT) {
        nfm_instance *defrag = w->graph.defrag;
        if (defrag == NULL) {
            w->core_counters[NFM_CC_FRAGMENT_UNKNOWN]++;
            nfm__record_emit(w, NFM_NO_FLOW, &p->rec);
            return;
        }
        if (defrag->module->on_fragment(&defrag->ctx, p) == 0)
            return;
        if (w->n_workers > 1 && nfm__is_foreign(w, p)) {
            nfm__leave_datagram(w, p);
            return;
        }
        hash = nfm_hash_flow(&w->table.key, &p->key);
        p->flow_index = NFM_NO_FLOW;
    }
    if (p->status == NFM_PARSE_OK) {
        if (__builtin_expect(w->way != NULL, 0))
            with_flow_on_way(w, p, hash);
        else
            with_flow(w, p, hash, false);
        return;
    }
    if (p->status == NFM_PARSE_MALFORMED && p->malformed < NFM_PD_COUNT)
        w->malformed[p->malformed]++;
    nfm__record_emit(w, NFM_NO_FLOW, &p->rec);
}
