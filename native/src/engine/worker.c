/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/hosted.h"
#include "engine/share.h"
#include "engine/transit.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    NATIVE_BATCH = 256, /* entries that make calling a native NF worth it */
    WAKE_BURSTS = 128,  /* full ones between two wake-ups of a sleeping receiver */
    WAIT_SPINS = 200,
    WAIT_LOOKS = 220,
    WAIT_NAP_NS = 50000,
};

/* Parses the burst and starts the loads of the hash buckets that it will look into. */
static void parse_burst(nfm_worker *w, uint32_t n, uint64_t *hash) {
    for (uint32_t i = 0; i < n; i++) {
        nfm_packet *p = &w->burst[i];
        const nfm_frame *frame = &w->frames[i];
        p->base = nfm_pool_addr(&w->pool, frame->slot);
        p->rec.ts_ns = frame->ts_ns;
        p->rec.slot = frame->slot;
        p->rec.frame_len = frame->len;
        p->rec.wire_len = frame->wire_len;
        p->rec.flow = 0;
        p->rec.side = 0;
        p->rec.port = (uint16_t)w->in_port;
        p->rec.conn_state = 0;
        p->rec.reason = 0;
        memset(&p->rec.tcp, 0, sizeof(p->rec.tcp));
        p->flow = NULL;
        p->flow_index = NFM_NO_FLOW;
        p->emitted = 0;
        p->link_type = (uint16_t)frame->link_type;
        nfm_wire_parse(&w->wire, p);
        if (p->status != NFM_PARSE_OK)
            continue;
        hash[i] = nfm_hash_flow(&w->table.key, &p->key);
        __builtin_prefetch(nfm_table_bucket(&w->table, (uint32_t)hash[i]));
    }
}

/* Starts the memory loads of the flows that the packets belong to. Candidates may be wrong: path.c
 * makes sure. Packets without one will open flows, most likely. */
static void prefetch_flows(nfm_worker *w, uint32_t n, const uint64_t *hash) {
    uint32_t n_new = 0;
    for (uint32_t i = 0; i < n; i++) {
        nfm_packet *p = &w->burst[i];
        if (p->status != NFM_PARSE_OK)
            continue;
        uint32_t index = p->flow_index = nfm_table_probe(&w->table, hash[i]);
        if (index == NFM_NO_FLOW) {
            index = nfm_table_next(&w->table, n_new++);
            if (index == NFM_NO_FLOW)
                continue;
            __builtin_prefetch(&w->table.info[index], 1);
        }
        const uint8_t *block = (const uint8_t *)nfm_table_flow(&w->table, index);
        for (size_t line = 0; line < w->table.stride; line += 64)
            __builtin_prefetch(block + line, 1);
        __builtin_prefetch(block + w->table.stride - 1, 1); /* blocks are not aligned to lines */
    }
}

/* A fragment, which is put together for who observes, passes as it is where nobody decides. */
static void forward_fragment(nfm_worker *w, const nfm_packet *p, const nfm_frame *frame) {
    nfm_packet alone = *p;
    alone.rec.slot = frame->slot;
    alone.rec.frame_len = frame->len;
    alone.flow = NULL;
    nfm__transit_begin(w, &alone);
}

/* Whether the packet is a fragment that needs no verdict: its owner sends it on its way. */
static bool passes_alone(nfm_worker *w, const nfm_packet *p, const nfm_frame *frame, bool foreign) {
    if (p->status != NFM_PARSE_FRAGMENT || w->way->has_inline)
        return false;
    if (!foreign)
        forward_fragment(w, p, frame);
    return true;
}

/* A fragment that is put together here, whoever's it will turn out to be. */
static bool is_piece(const nfm_worker *w, const nfm_packet *p) {
    return p->status == NFM_PARSE_FRAGMENT && w->graph.defrag != NULL;
}

static void process_burst(nfm_worker *w, uint32_t n) {
    uint64_t hash[NFM_BURST];
    bool forwards = w->way != NULL, shares = w->n_workers > 1;
    parse_burst(w, n, hash);
    prefetch_flows(w, n, hash);
    if (shares && w->share->took)
        nfm__took(w, n);
    for (uint32_t i = 0; i < n; i++) {
        nfm_packet *p = &w->burst[i];
        bool foreign = shares && nfm__is_foreign(w, p);
        if (foreign && !is_piece(w, p)) {
            nfm__leave_to_owner(w, p);
            continue;
        }
        if (foreign)
            nfm__share_note(w, p);
        bool is_gone = forwards &&
                       (passes_alone(w, p, &w->frames[i], foreign) || (shares && nfm__was_sent(w)));
        nfm__packet_process(w, p, hash[i]);
        if (forwards && !is_gone && !is_piece(w, p))
            nfm__transit_begin(w, p);
        if (p->rec.slot != NFM_NO_SLOT)
            nfm_pool_put(&w->pool, p->rec.slot);
    }
}

/* Calls native NFs on what their rings hold. */
static void serve_native(nfm_worker *w, uint64_t at_least) {
    for (uint32_t i = 0; i < w->n_rings; i++) {
        nfm_ring *ring = w->rings[i];
        if (ring == NULL)
            continue;
        uint64_t enough = at_least < ring->mask / 2 ? at_least : ring->mask / 2;
        if (ring->process == NULL || nfm_ring_used(ring) < enough)
            continue;
        nfm_batch batch = {.mem = &w->mem, .handler = NFM_NO_FLOW, .ring = ring};
        while ((batch.n = nfm_ring_peek(ring, &batch.desc, 4096)) > 0) {
            if (ring->in_line != NULL) {
                batch.verdict = nfm_ring_verdicts(ring, batch.n);
                batch.edit = nfm_ring_edits(ring);
            }
            if (ring->process(ring->process_state, &batch) != NFM_OK)
                ring->process_errors++;
            nfm_ring_advance(ring, batch.n);
            nfm_ring_collect(ring);
            if (ring->in_line != NULL)
                nfm__transit_judge(w, ring);
            nfm_ring_flush(ring);
        }
    }
}

static bool anything_pending(const nfm_worker *w) {
    for (uint32_t i = 0; i < w->n_rings; i++)
        if (w->rings[i] != NULL && nfm_ring_used(w->rings[i]) > 0)
            return true;
    return w->hosts != NULL && nfm__hosts_are_busy(w);
}

/* Whether receivers must pass entries before more packets may come. */
static bool must_drain(nfm_worker *w) {
    for (uint32_t i = 0; i < w->n_rings; i++) {
        const nfm_ring *ring = w->rings[i];
        if (ring != NULL && !ring->lossy && !nfm__is_late(ring) &&
            nfm_ring_used(ring) > ring->mask - ring->mask / 4)
            return true;
    }
    if (w->hosts != NULL && nfm__hosts_must_wait(w))
        return true;
    if (nfm__flow_must_wait(w) || w->delivery.n_free < w->delivery.n_records / 4 ||
        nfm__domains_must_drain(w))
        return true;
    /* Bursts are whole as long as there are slots: with the same packets, the same bursts. */
    return anything_pending(w) &&
           (w->pool.n_free_small < NFM_BURST ||
            (w->pool.n_slots > w->pool.n_small + NFM_BURST && w->pool.n_free_large < NFM_BURST));
}

/* Takes the next burst from a port, round robin. 0: nothing now; NFM_E_EOF: all at their end. */
static int receive_from_ports(nfm_worker *w, uint32_t max) {
    uint32_t done = 0;
    for (uint32_t i = 0; i < w->n_ports; i++) {
        uint32_t at = (w->next_port + i) % w->n_ports;
        if (w->port_done[at]) {
            done++;
            continue;
        }
        nfm_port *port = w->ports[at];
        if (w->way != NULL && port->ops->wait_fd == NULL && nfm__output_is_behind(w, at))
            continue; /* a capture can wait */
        int n = port->ops->rx(port, &w->pool, w->frames, max);
        if (n > 0) {
            w->next_port = (at + 1) % w->n_ports;
            w->in_port = at;
            return n;
        }
        if (n < 0) {
            w->port_done[at] = true;
            done++;
            if (n != NFM_E_EOF && w->port_error == 0)
                w->port_error = n;
        }
    }
    return done == w->n_ports ? NFM_E_EOF : 0;
}

/* The same from other workers and ports, in turns. */
static int receive(nfm_worker *w, uint32_t max) {
    if (w->share == NULL)
        return receive_from_ports(w, max);
    bool ports_first = w->share->took;
    w->share->took = false;
    int n = ports_first ? 0 : nfm__take_over(w, max);
    if (n == 0)
        n = receive_from_ports(w, max);
    if (n == 0 && ports_first)
        n = nfm__take_over(w, max);
    if (n > 0)
        nfm__share_note_keys(w);
    return n;
}

/* At the end of the ports: ends flows in order of their index, as far as memory allows. */
static bool finish_some(nfm_worker *w) {
    while (w->finish_index < w->table.n_fresh) {
        if (must_drain(w))
            return false;
        uint32_t index = w->finish_index++;
        if (nfm_table_flow(&w->table, index)->flags & NFM_FLOW_OPEN) {
            uint8_t reason = nfm_table_flow(&w->table, index)->end_reason;
            nfm__flow_close(w, index, reason != NFM_END_NONE ? reason : NFM_END_EOF);
        }
    }
    return true;
}

/* When memory or flows run low: who may be behind keeps back nobody but himself. */
static void park_slow(nfm_worker *w) {
    nfm_delivery *d = &w->delivery;
    if (d->n_free >= d->n_records / 2 && w->pool.n_free_small >= w->pool.n_small / 2 &&
        !nfm__flow_must_wait(w))
        return;
    bool any = false;
    for (uint32_t i = 0; i < d->n_rings; i++) {
        const nfm_ring *ring = d->rings[i];
        if (ring == NULL || !(ring->lossy || nfm__is_late(ring)) || !nfm_delivery_waits_for(d, i))
            continue;
        nfm_delivery_park(d, i);
        any = true;
    }
    if (any)
        nfm_delivery_retire(d);
}

/* Takes from receivers what they have passed, and publishes what was delivered, in that order: what
 * a verdict passes on to the next stage is there at once, and a receiver that gets more does not
 * write to the lines of verdicts that are being read. A wake-up costs both sides some microseconds,
 * so while bursts are full (the port has more) sleepers are woken now and then, otherwise
 * |at_once|. */
static void settle(nfm_worker *w, bool at_once) {
    if (w->hosts != NULL)
        nfm__hosts_settle(w);
    nfm_delivery_collect(&w->delivery);
    if (w->way != NULL)
        nfm__transit_settle(w);
    nfm_delivery_publish(&w->delivery);
    w->full_bursts = at_once ? 0 : (w->full_bursts + 1) % WAKE_BURSTS;
    nfm_delivery_wake(&w->delivery, w->full_bursts == 0);
    serve_native(w, at_once ? 1 : NATIVE_BATCH);
    nfm__domains_publish(w, w->full_bursts == 0);
    if (w->n_workers > 1)
        nfm__share_tell_time(w);
    if (w->way != NULL)
        nfm__output_flush(w);
    else
        nfm__live_poll(w);
    if (w->share != NULL)
        nfm__share_publish(w);
    nfm_worker_take_commands(w); /* before what their receivers passed is released */
    nfm_delivery_retire(&w->delivery);
    park_slow(w);
    nfm__domains_retire(w);
    nfm__flow_recycle(w);
}

static int run_end(nfm_worker *w) {
    nfm_graph_tick(&w->graph, INT64_MAX); /* nothing will complete what they still hold */
    if (w->hosts != NULL)
        nfm__hosts_tick(w, INT64_MAX);
    for (;;) {
        bool all = finish_some(w);
        settle(w, true);
        if (all)
            break;
        if (must_drain(w))
            return NFM_RUN_DRAIN;
    }
    if (anything_pending(w) || !nfm__output_is_idle(w))
        return NFM_RUN_DRAIN;
    return w->port_error != 0 ? w->port_error : NFM_RUN_EOF;
}

static bool has_shared_rings(const nfm_worker *w) {
    for (uint32_t i = 0; i < w->n_rings; i++)
        if (w->rings[i] != NULL && w->rings[i]->is_shared)
            return true;
    return false;
}

/* Gives receivers in other processes a moment: first the core's, then the scheduler's. Returns
 * whether it slept. */
static bool wait_for_receivers(nfm_worker *w) {
    if (!has_shared_rings(w) && w->hosts == NULL)
        return false;
    int look;
    for (look = 0; look < WAIT_LOOKS && must_drain(w); look++) {
        if (look >= WAIT_SPINS) {
            struct timespec nap = {.tv_nsec = WAIT_NAP_NS};
            nanosleep(&nap, NULL);
        }
        settle(w, true);
    }
    return look > WAIT_SPINS;
}

int nfm_worker_run(nfm_worker *w, uint64_t max_packets) {
    if (!w->started)
        return NFM_E_STATE;
    nfm__live_begin(w);
    settle(w, true);
    (void)wait_for_receivers(w);
    uint64_t left = max_packets;
    while (!w->finishing) {
        if (left == 0 || must_drain(w))
            settle(w, true); /* native receivers may be all it takes */
        if (must_drain(w) && (wait_for_receivers(w) || must_drain(w)))
            return NFM_RUN_DRAIN; /* also after a sleep: a budget of naps could last for ever */
        if (left == 0)
            return NFM_RUN_BUDGET;
        int n = receive(w, left < NFM_BURST ? (uint32_t)left : NFM_BURST);
        if (n == NFM_E_EOF) {
            w->finishing = true;
            break;
        }
        if (n == 0) { /* no slot, or a live port is quiet */
            settle(w, true);
            if (nfm__live_wait(w))
                continue;
            return anything_pending(w) ? NFM_RUN_DRAIN : NFM_RUN_BUDGET;
        }
        left -= (uint32_t)n;
        process_burst(w, (uint32_t)n);
        settle(w, n < NFM_BURST);
    }
    return run_end(w);
}

void nfm_worker_finish(nfm_worker *w) {
    w->finishing = true;
}
