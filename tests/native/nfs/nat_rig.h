/* SPDX-License-Identifier: Apache-2.0 */
/* The translator in a real worker between two wires. */
#ifndef NAT_RIG_H
#define NAT_RIG_H

#include "nf_rig.h"

#include "nat.h"

enum {
    HOST = 0x0a000001,  /* 10.0.0.1, inside */
    OTHER = 0x0a000002, /* 10.0.0.2, inside */
    SELF = 0xc6336401,  /* 198.51.100.1, external */
    SELF2 = 0xc6336402,
    PEER = 0xcb007101, /* 203.0.113.1, outside */
    PEER2 = 0xcb007102,
    ROUTER = 0xcb0071fe
};

typedef struct setup {
    uint8_t filtering, preserve, paired;
    uint16_t low, high;
    uint32_t n_external, max_mappings, max_sessions;
    const nat_forward *forwards;
    uint32_t n_forwards;
    const nat_npt *npt;
    uint32_t n_npt;
    uint8_t workers;
} setup;

static const setup plain = {
    NAT_FILTER_ADDRESS, 1, 1, 1024, 65535, 1, 4096, 4096, NULL, 0, NULL, 0, 0};

static inline nat *make_nat(const setup *s) {
    static const nat_prefix inside[] = {{0x0a000000, 8}};
    static const uint32_t external[] = {SELF, SELF2};
    nat_config config = {
        .inside = inside,
        .external = external,
        .forwards = s->forwards,
        .npt = s->npt,
        .n_inside = 1,
        .n_external = s->n_external,
        .n_forwards = s->n_forwards,
        .n_npt = s->n_npt,
        .port_low = s->low,
        .port_high = s->high,
        .filtering = s->filtering,
        .paired = s->paired,
        .preserve = s->preserve,
        .workers = s->workers,
        .max_mappings = s->max_mappings,
        .max_sessions = s->max_sessions,
        .hold_ns = {240000000000, 120000000000, 60000000000},
        .seed = 77,
    };
    nat *self = nat_open(NULL);
    CHECK_EQ(nat_load(self, &config), NFM_OK);
    return self;
}

typedef struct rig {
    nf_rig *nf;
    nat *nat;
} rig;

static inline int process(void *state, const nfm_batch *batch) {
    return nat_process(state, batch);
}

static inline rig make_rig(const setup *s) {
    rig r = {.nat = make_nat(s)};
    r.nf = nf_rig_new(process, r.nat, true);
    nf_rig_start(r.nf);
    return r;
}

static inline void end_rig(rig *r) {
    nat_stats stats;
    nf_rig_free(r->nf);
    nat_stats_get(r->nat, &stats);
    CHECK_EQ(stats.sessions, 0);
    nat__expire(r->nat, INT64_MAX);
    nat_stats_get(r->nat, &stats);
    CHECK_EQ(stats.mappings, r->nat->config.n_forwards);
    nat_close(r->nat);
}

static inline nat_stats stats_of(const rig *r) {
    nat_stats stats;
    nat_stats_get(r->nat, &stats);
    return stats;
}

static inline message udp(uint32_t src, uint16_t src_port, uint32_t dst, uint16_t dst_port) {
    return (message){.proto = IPPROTO_UDP,
                     .src = src,
                     .dst = dst,
                     .src_port = src_port,
                     .dst_port = dst_port,
                     .mac = (uint8_t)src,
                     .payload = {(const uint8_t *)"payload!", 8}};
}

/* Sends |m| into |wire|; what comes out at the other one, or nothing (proto 0). */
static inline message across(rig *r, int wire, const message *m) {
    wire_frame f = frame_of(m);
    nf_rig_send(r->nf, wire, &f);
    const wire_frame *out = nf_rig_take(r->nf, !wire);
    CHECK(nf_rig_take(r->nf, !wire) == NULL);
    return out == NULL ? (message){0} : read_frame(out);
}

static inline message out_udp(rig *r, uint32_t src, uint16_t port, uint32_t dst,
                              uint16_t dst_port) {
    message m = udp(src, port, dst, dst_port);
    return across(r, INSIDE, &m);
}

static inline message in_udp(rig *r, uint32_t src, uint16_t port, uint32_t dst, uint16_t dst_port) {
    message m = udp(src, port, dst, dst_port);
    return across(r, OUTSIDE, &m);
}

#endif
