/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A DPDK device through the worker, with TCP tracked: the null device, which hands over mbufs
 * without touching them. All slots of the packet pool hold segments of so many connections before
 * the device gets them, so what it "receives" are valid packets of these. Prints a JSON line;
 * every packet received must have been counted by some connection's end.
 *
 * The pool's free list is a stack, so the same few slots would come again and again. Between two
 * bursts its top changes places with another part of it, and all connections have their turn.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/worker.h"
#include "measured.h"
#include "workload_frame.h"

enum { RING_ENTRIES = 4096, PAYLOAD = 6, FRAME = 60 };

typedef struct options {
    char *eal, *device;
    uint64_t packets;
    uint32_t flows;
} options;

typedef struct tracked { /* what the ends of connections say */
    uint64_t flows, packets;
} tracked;

static int count(void *state, const nfm_batch *batch) {
    tracked *self = state;
    for (uint32_t i = 0; i < batch->n; i++) {
        const nfm_record *record = &batch->mem->records[batch->desc[i].record];
        if (record->kind != NFM_REC_FLOW || record->proto != 6)
            continue;
        self->flows++;
        self->packets += (uint64_t)record->totals.packets[0] + record->totals.packets[1];
    }
    return NFM_OK;
}

/* Lays a segment of connection |slot| modulo |flows| into each small slot. */
static void fill(const nfm_worker *w, uint32_t flows) {
    for (uint32_t slot = 0; slot < w->pool.n_small; slot++) {
        uint32_t flow = slot % flows;
        uint8_t *frame = nfm_pool_addr(&w->pool, slot) + NFM_HEADROOM;
        const workload_frame spec = {.src = 0x0a000001 + flow,
                                     .dst = 0xc0a80001,
                                     .src_port = (uint16_t)(1024 + flow),
                                     .dst_port = 80,
                                     .seq = 1000,
                                     .ack = 2000,
                                     .flags = TCP_ACK | TCP_PSH,
                                     .payload_len = PAYLOAD};
        memcpy(frame + workload_tcp_payload_off(&spec), "GET /\n", PAYLOAD);
        if (workload_put_tcp(frame, &spec) != FRAME)
            measured_die("frame", "not of 60 bytes");
    }
}

/* Lets the next burst use other slots: see above. */
static void turn(nfm_pool *pool, uint32_t *at) {
    uint32_t *top = pool->free_small + pool->n_free_small - NFM_BURST, kept[NFM_BURST];
    uint32_t *other = pool->free_small + *at;
    memcpy(kept, top, sizeof(kept));
    memcpy(top, other, sizeof(kept));
    memcpy(other, kept, sizeof(kept));
    *at = (*at + NFM_BURST) % (pool->n_free_small / 2 / NFM_BURST * NFM_BURST);
}

static nfm_worker *make_worker(const options *o, nfm_port *port, tracked *found) {
    nfm_error err = {0};
    nfm_worker_config config;
    nfm_worker_config_init(&config);
    nfm_worker *worker = nfm_worker_new(&config, &err);
    if (worker == NULL || nfm_worker_add_port(worker, port) != NFM_OK)
        measured_die("worker", err.text);
    measured_add_modules(worker, NFM_LEVEL_TRACK);
    nfm_subscription sub = {
        .ring = nfm_worker_add_ring(worker, RING_ENTRIES, &err),
        .level = NFM_LEVEL_TRACK,
        .events = NFM_BIT(NFM_EV_FLOW_END),
        .type_first = 1,
    };
    if (sub.ring == NULL || nfm_worker_attach_native(worker, sub.ring, count, found) != NFM_OK ||
        nfm_worker_subscribe(worker, &sub) < 0)
        measured_die("subscribe", err.text);
    fill(worker, o->flows);
    if (nfm_worker_start(worker, &err) != NFM_OK)
        measured_die("start", err.text);
    return worker;
}

static void measure(const options *o) {
    nfm_error err = {0};
    nfm_worker_stats stats;
    tracked found = {0};
    uint32_t at = 0;
    const nfm_dpdk_config config = {.eal = o->eal, .device = o->device, .copy = NFM_COPY_NEVER};
    nfm_port *port = nfm_port_dpdk_open(&config, &err);
    if (port == NULL) {
        fprintf(stderr, "%s\n", err.text);
        exit(3); /* not here: left out */
    }
    nfm_worker *worker = make_worker(o, port, &found);
    measured_pin(0);
    uint64_t begin = measured_cpu_ns();
    for (uint64_t n = 0; n < o->packets; n += NFM_BURST) {
        if (nfm_worker_run(worker, NFM_BURST) < 0)
            measured_die("run", "a port has failed");
        turn(&worker->pool, &at);
    }
    uint64_t cpu_ns = measured_cpu_ns() - begin;
    nfm_worker_finish(worker);
    while (nfm_worker_run(worker, 0) == NFM_RUN_DRAIN)
        continue;
    nfm_worker_stats_get(worker, &stats);
    printf("{\"name\":\"nfmesh\",\"packets\":%" PRIu64 ",\"flows\":%" PRIu64
           ",\"want_packets\":%" PRIu64 ",\"want_flows\":%u,\"cpu_ns\":%" PRIu64 "}\n",
           found.packets, found.flows, stats.packets, o->flows, cpu_ns);
    nfm_worker_free(worker);
    nfm_port_free(port);
}

int main(int argc, char **argv) {
    options o = {.device = "net_null0,size=60", .packets = 20000000, .flows = 1000};
    const measured_option known[] = {
        {"eal", MEASURED_TEXT, &o.eal, "words for DPDK's environment"},
        {"device", MEASURED_TEXT, &o.device, "one that leaves mbufs as they are"},
        {"packets", MEASURED_U64, &o.packets, "in all"},
        {"flows", MEASURED_U32, &o.flows, "connections, 1 to 10000"},
        {0},
    };
    measured_parse(argc, argv, known, "A DPDK device through the worker, tracked.");
    if (o.flows < 1 || o.flows > 10000)
        measured_die("flows", "1 to 10000");
    measure(&o);
    return 0;
}
