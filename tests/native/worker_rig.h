/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of a worker begin with: a small one, two ports, UDP frames, a judge. */
#ifndef NFM_WORKER_RIG_H
#define NFM_WORKER_RIG_H

#include <netinet/in.h>

#include "engine/transit.h"
#include "nfm_test.h"
#include "wire/emit.h"

enum { FRAME_ROOM = 256 };

/* A configuration that takes little memory. */
static inline nfm_worker_config small_config(void) {
    nfm_worker_config config;
    nfm_worker_config_init(&config);
    config.max_flows = 1024;
    config.n_small = 1024;
    config.n_large = 64;
    config.n_records = 2048;
    config.fields_size = 1 << 20;
    return config;
}

/* A worker that sends by |out| what comes by |in|. */
static inline nfm_worker *worker_between(const nfm_worker_config *config, nfm_port *in,
                                         nfm_port *out) {
    nfm_error err = {0};
    nfm_worker *w = nfm_worker_new(config, &err);
    CHECK(w != NULL && in != NULL && out != NULL);
    CHECK_EQ(nfm_worker_add_port(w, in), NFM_OK);
    CHECK_EQ(nfm_worker_add_port(w, out), NFM_OK);
    CHECK_EQ(nfm_worker_forward(w, 0, 1), NFM_OK);
    return w;
}

/* A memory port that keeps what is sent by it. */
static inline nfm_port *keeping_port(void) {
    nfm_error err = {0};
    nfm_port *port = nfm_port_mem_new(1, &err);
    CHECK_EQ(nfm_port_mem_keep(port, 1 << 20), NFM_OK);
    return port;
}

/* A ring whose receiver decides on what |sub| says. */
static inline nfm_ring *add_inline(nfm_worker *w, nfm_inline_config config, nfm_subscription sub) {
    nfm_error err = {0};
    nfm_ring *ring = nfm_worker_add_ring(w, 256, &err);
    CHECK_EQ(nfm_worker_make_inline(w, ring, &config), NFM_OK);
    sub.ring = ring;
    sub.in_line = 1;
    CHECK(nfm_worker_subscribe(w, &sub) >= 0);
    return ring;
}

/* What a worker holds when all is over: nothing. */
static inline void check_idle(const nfm_worker *w) {
    nfm_worker_stats stats;
    nfm_worker_stats_get(w, &stats);
    CHECK_EQ(stats.slots_used, 0);
    CHECK_EQ(stats.records_used, 0);
    CHECK_EQ(w->way->n_transits, 0);
}

/* 10.0.0.1 + |flow|, port 1000 + |flow|, asks 10.128.0.1, port 53. */
static inline nfm_key udp_key(uint32_t flow) {
    nfm_key key;
    memset(&key, 0, sizeof(key));
    key.ip_version = 4;
    key.proto = IPPROTO_UDP;
    nfm_write32(key.addr[0], 0x0a000001 + flow);
    nfm_write32(key.addr[1], 0x0a800001);
    key.port[0] = (uint16_t)(1000 + flow);
    key.port[1] = 53;
    return key;
}

/* Writes a UDP frame of at most FRAME_ROOM bytes; returns its length. */
static inline uint32_t udp_frame(uint8_t *frame, const nfm_key *key, const void *data,
                                 uint32_t len) {
    static const uint8_t src[6] = {2, 0, 0, 0, 0, 1}, dst[6] = {2, 0, 0, 0, 0, 2};
    nfm_emit_buf buf = {frame, FRAME_ROOM, 0};
    const nfm_ip_fields ip = {.ttl = 64};
    nfm_emit_eth(&buf, dst, src, 0x0800);
    nfm_emit_ipv4(&buf, key, &ip, 8 + len);
    nfm_emit_udp(&buf, key, (nfm_view){data, len});
    return buf.len;
}

/* A frame of a flow that says which one it is, in two words: flow and serial number. */
static inline uint32_t numbered_frame(uint8_t *frame, uint32_t flow, uint32_t serial) {
    const nfm_key key = udp_key(flow);
    const uint32_t words[2] = {flow, serial};
    return udp_frame(frame, &key, words, sizeof(words));
}

/* Puts |per_flow| rounds of numbered frames of |flows| flows into a memory port. */
static inline void push_numbered(nfm_port *port, uint32_t flows, uint32_t per_flow) {
    for (uint32_t i = 0; i < flows * per_flow; i++) {
        uint8_t frame[FRAME_ROOM];
        uint32_t flow = i % flows, serial = i / flows, len = numbered_frame(frame, flow, serial);
        CHECK_EQ(nfm_port_mem_push(port, frame, len, len, (int64_t)serial * 1000), NFM_OK);
    }
}

/* Reads a record's two words. */
static inline void words_of(const nfm_mem *mem, uint32_t record, uint32_t *words) {
    const nfm_record *r = &mem->records[record];
    memcpy(words, nfm_slot_ptr(mem, r->slot) + r->payload_off, 8);
}

#endif
