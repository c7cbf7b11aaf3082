/* SPDX-License-Identifier: Apache-2.0 */
/* The way from a step to a frame in the sink, shared by all workloads. */
#ifndef NFM_BENCH_WORKLOAD_EMIT_H
#define NFM_BENCH_WORKLOAD_EMIT_H

#include "workload_frame.h"
#include "workload_script.h"

#define WORKLOAD_EPOCH_NS INT64_C(1700000000000000000)

typedef struct workload_flow { /* one conversation's addresses and numbers */
    uint32_t addr[2];          /* client, server; host order */
    uint16_t port[2];
    uint32_t isn[2];
    uint32_t clock[2]; /* of the timestamp options, at the conversation's start */
} workload_flow;

typedef struct workload_emitter {
    nfm_workload_sink sink;
    nfm_workload_truth *truth;
    uint64_t seed;
    uint64_t open; /* conversations now */
    workload_text text;
    uint8_t frame[WORKLOAD_FRAME_MAX];
} workload_emitter;

/* Addresses that no other id has: clients 10.0.1.., servers 192.168.0..15.x, as DNS port 53. */
workload_flow workload_flow_of(const workload_emitter *emitter, uint32_t id, uint16_t server_port);

/* Sends the frame of |spec|, whose payload is in emitter->frame, and counts it for |side|. Returns
 * NFM_OK or the sink's status. */
int workload_emit(workload_emitter *emitter, workload_frame *spec, uint8_t side, int64_t at_ns,
                  bool udp);

/* A conversation opened or ended: keeps the most that were open. */
void workload_opened(workload_emitter *emitter);
void workload_ended(workload_emitter *emitter);

/* 64-byte packets over kind->lookup_flows established connections, after their handshakes. */
int workload_lookup(workload_emitter *emitter, const workload_kind *kind, uint64_t packets);

#endif
