/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All connections are opened first, then rounds follow: in each round every connection sends one
 * segment of PAYLOAD bytes in an order that a stride coprime to their number makes, so that
 * neighbouring packets lie far apart in any table. Client and server take turns from round to
 * round; every segment acknowledges all there is. Nothing is ever closed.
 */
#include "workload_emit.h"

#include <string.h>

#define PAYLOAD 10u /* 64-byte frames */
#define STEP_NS 1000

static uint32_t coprime_stride(uint32_t n) {
    for (uint32_t stride = (uint32_t)(n * 0.618) | 1;; stride += 2) {
        uint32_t a = stride, b = n;
        while (b != 0) {
            uint32_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1)
            return stride % n ? stride % n : 1;
    }
}

static int open_flow(workload_emitter *emitter, const workload_flow *flow, int64_t *now) {
    static const uint8_t flags[3] = {TCP_SYN, TCP_SYN | TCP_ACK, TCP_ACK};
    for (int i = 0; i < 3; i++, *now += STEP_NS) {
        uint8_t side = i == 1;
        workload_frame spec = {.src = flow->addr[side],
                               .dst = flow->addr[!side],
                               .src_port = flow->port[side],
                               .dst_port = flow->port[!side],
                               .seq = flow->isn[side] + (i == 2),
                               .ack = i > 0 ? flow->isn[!side] + 1 : 0,
                               .flags = flags[i],
                               .from_server = side};
        int rc = workload_emit(emitter, &spec, side, *now, false);
        if (rc != NFM_OK)
            return rc;
    }
    workload_opened(emitter);
    return NFM_OK;
}

static int send_segment(workload_emitter *emitter, const workload_flow *flow, uint64_t round,
                        int64_t now) {
    uint8_t side = round & 1;
    uint32_t sent[2] = {(uint32_t)((round + 1) / 2) * PAYLOAD, (uint32_t)(round / 2) * PAYLOAD};
    workload_frame spec = {.src = flow->addr[side],
                           .dst = flow->addr[!side],
                           .src_port = flow->port[side],
                           .dst_port = flow->port[!side],
                           .seq = flow->isn[side] + 1 + sent[side],
                           .ack = flow->isn[!side] + 1 + sent[!side],
                           .flags = TCP_PSH | TCP_ACK,
                           .payload_len = PAYLOAD,
                           .from_server = side};
    memcpy(emitter->frame + workload_tcp_payload_off(&spec), "0123456789", PAYLOAD);
    emitter->truth->stream_bytes[side] += PAYLOAD;
    return workload_emit(emitter, &spec, side, now, false);
}

/*
 * workload_lookup opens kind->lookup_flows connections and sends |packets| segments over them.
 * Returns NFM_OK or the sink's status.
 */
int workload_lookup(workload_emitter *emitter, const workload_kind *kind, uint64_t packets) {
    uint32_t n = kind->lookup_flows, stride = coprime_stride(n), id = 0;
    int64_t now = WORKLOAD_EPOCH_NS;
    int rc = NFM_OK;
    for (uint32_t i = 0; i < n && rc == NFM_OK; i++) {
        workload_flow flow = workload_flow_of(emitter, i, 80);
        rc = open_flow(emitter, &flow, &now);
    }
    emitter->truth->opening_packets = emitter->truth->packets;
    for (uint64_t i = 0; i < packets && rc == NFM_OK; i++, now += STEP_NS) {
        workload_flow flow = workload_flow_of(emitter, id, 80);
        rc = send_segment(emitter, &flow, i / n, now);
        id = (uint32_t)(((uint64_t)id + stride) % n);
    }
    return rc;
}
