/* SPDX-License-Identifier: Apache-2.0 */
/* A router between two wires: 10.1.0.1/24, fd01::1/64 inside; 10.2.0.1/24, fd02::1/64 outside. */
#ifndef ROUTER_RIG_H
#define ROUTER_RIG_H

#include "nf_rig.h"
#include "router.h"

#define V4(a, b, c, d) ((uint32_t)(a) << 24 | (b) << 16 | (c) << 8 | (d))
#define MS INT64_C(1000000)

enum { NEAR = V4(10, 1, 0, 2), PEER = V4(10, 2, 0, 2), GATEWAY = V4(10, 2, 0, 9), MTU = 1500 };

static const uint8_t near6[16] = {0xfd, 1, [15] = 2}, peer6[16] = {0xfd, 2, [15] = 2};
static const uint8_t own6[2][16] = {{0xfd, 1, [15] = 1}, {0xfd, 2, [15] = 1}};
static const uint8_t near_mac[6] = {2, 0, 0, 0, 0, 0x11}, peer_mac[6] = {2, 0, 0, 0, 0, 0x22};
static const uint8_t own_mac[2][6] = {{2, 0, 0, 0, 0, 0xa0}, {2, 0, 0, 0, 0, 0xa1}};

typedef struct rig {
    nf_rig *nf;
    router *router;
} rig;

static inline router_address address_of(uint32_t ip, const uint8_t *ip6, uint8_t port) {
    router_address a = {.ip_version = ip6 != NULL ? 6 : 4, .bits = ip6 != NULL ? 64 : 24};
    a.port = port;
    if (ip6 != NULL)
        memcpy(a.address, ip6, 16);
    else
        nfm_write32(a.address, ip);
    return a;
}

static inline router_route route_of(uint32_t ip, const uint8_t *ip6, uint8_t bits, uint32_t hop) {
    router_route r = {.hop = hop, .ip_version = ip6 != NULL ? 6 : 4, .bits = bits};
    if (ip6 != NULL)
        memcpy(r.prefix, ip6, 16);
    else
        nfm_write32(r.prefix, ip);
    return r;
}

static inline void set_routes(router *self) {
    static const uint8_t link6[2][16] = {{0xfd, 1}, {0xfd, 2}};
    router_hop hops[] = {
        {.kind = ROUTER_LINK, .port = 0}, {.kind = ROUTER_LINK, .port = 1},
        {.kind = ROUTER_LOCAL},           {.kind = ROUTER_VIA, .port = 1},
        {.kind = ROUTER_PROHIBIT},        {.kind = ROUTER_BLACKHOLE},
    };
    nfm_write32(hops[3].gateway, GATEWAY);
    const router_route routes[] = {
        route_of(V4(10, 66, 0, 0), NULL, 16, 4),
        route_of(V4(10, 67, 0, 0), NULL, 16, 5),
        route_of(V4(203, 0, 113, 0), NULL, 24, 3),
        route_of(V4(10, 1, 0, 0), NULL, 24, 0),
        route_of(V4(10, 2, 0, 0), NULL, 24, 1),
        route_of(V4(10, 1, 0, 1), NULL, 32, 2),
        route_of(V4(10, 2, 0, 1), NULL, 32, 2),
        route_of(0, link6[0], 64, 0),
        route_of(0, link6[1], 64, 1),
        route_of(0, own6[0], 128, 2),
        route_of(0, own6[1], 128, 2),
    };
    router_table_config config = {hops, routes, 6, 11, 1 << 24};
    int status;
    router_table *table = router_table_new(self, &config, &status);
    CHECK(table != NULL && status == NFM_OK);
    router_swap(self, table);
}

static inline rig make_rig(uint32_t max_neighbours) {
    rig r = {.router = router_open("{}")};
    router_address addresses[4];
    router_config config = {.n_addresses = 4,
                            .addresses = addresses,
                            .max_neighbours = max_neighbours,
                            .errors_per_s = 10,
                            .error_burst = 5,
                            .reachable_ns = 30000 * MS,
                            .stale_ns = 60000 * MS};
    for (uint8_t port = 0; port < 2; port++) {
        config.interfaces[port].mtu = MTU;
        memcpy(config.interfaces[port].mac, own_mac[port], 6);
        addresses[2 * port] = address_of(V4(10, 1 + port, 0, 1), NULL, port);
        addresses[2 * port + 1] = address_of(0, own6[port], port);
    }
    CHECK_EQ(router_load(r.router, &config), NFM_OK);
    set_routes(r.router);
    r.nf = nf_rig_new((nfm_process_fn)router_process, r.router, false);
    nfm_error err = {0};
    CHECK_EQ(nfm_worker_allow_holds(r.nf->w, r.nf->ring, 8, &err), NFM_OK);
    nf_rig_start(r.nf);
    return r;
}

static inline void end_rig(rig *r) {
    CHECK_EQ(nf_rig_counter(r->nf, NFM_CC_COMMAND_BAD), 0);
    CHECK_EQ(nf_rig_counter(r->nf, NFM_CC_INLINE_BAD), 0);
    nf_rig_free(r->nf);
    router_close(r->router);
}

static inline router_stats stats_of(const rig *r) {
    router_stats stats;
    router_stats_get(r->router, &stats);
    return stats;
}

/* A frame to the router from inside, or from |mac| at another wire. */
static inline wire_frame to_router(const message *m, int wire, const uint8_t *mac) {
    wire_frame f = frame_of(m);
    memcpy(f.data, own_mac[wire], 6);
    memcpy(f.data + 6, mac, 6);
    return f;
}

static inline wire_frame udp_to(uint32_t dst, uint8_t ttl) {
    message m = {.proto = IPPROTO_UDP, .src = NEAR, .dst = dst, .src_port = 9, .dst_port = 53};
    m.payload = (nfm_view){(const uint8_t *)"question", 8};
    wire_frame f = to_router(&m, INSIDE, near_mac);
    f.data[14 + 8] = ttl;
    nfm_write16(f.data + 14 + 10, 0);
    nfm_write16(f.data + 14 + 10, nfm_csum_fold(nfm_csum_add(0, f.data + 14, 20)));
    return f;
}

static inline wire_frame arp_of(uint16_t op, int wire, const uint8_t *mac, uint32_t from,
                                uint32_t target) {
    wire_frame f = {.len = 60};
    uint8_t *at = f.data + 14;
    memcpy(f.data, op == 1 ? (const uint8_t[6]){255, 255, 255, 255, 255, 255} : own_mac[wire], 6);
    memcpy(f.data + 6, mac, 6);
    nfm_write16(f.data + 12, 0x0806);
    memcpy(at, (const uint8_t[8]){0, 1, 8, 0, 6, 4, 0, (uint8_t)op}, 8);
    memcpy(at + 8, mac, 6);
    nfm_write32(at + 14, from);
    memcpy(at + 18, own_mac[wire], 6);
    nfm_write32(at + 24, target);
    return f;
}

/* Lets time pass, and what is due be done. */
static inline void pass_time(rig *r, int64_t ms) {
    for (int i = 0; i < 2; i++)
        r->nf->wire[i].n_out = r->nf->wire[i].taken = 0;
    r->nf->now_ns += ms * MS;
    router_poll(r->router, r->nf->now_ns);
    nf_rig_run(r->nf);
}

#endif
