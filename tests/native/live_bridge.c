/* SPDX-License-Identifier: Apache-2.0 */
/* A bump in the wire without a stack: forwards between two ports until its input is closed, then
 * prints what both counted as JSON. Usage: live_bridge PORT PORT [BLOCK_MS]; a PORT is the name of
 * an interface, or tap:NAME, afxdp:NAME, dpdk:DEVICE; impair:PORT is a bad link of PORT. "ready"
 * says that both are open. */
#include "io/port.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_SMALL 4096u
#define N_LARGE 512u
#define EAL "--no-huge -m 256 --no-pci --no-shconf --no-telemetry --log-level=error"
#define SPIN 200u /* idle turns before it sleeps */

/* Loses, repeats, turns round and delays some of what passes. */
static nfm_port *impair(nfm_port *port, nfm_error *err) {
    const nfm_impair_config config = {.seed = 1,
                                      .drop = 0.02,
                                      .duplicate = 0.005,
                                      .corrupt = 0.005,
                                      .reorder = 0.02,
                                      .reorder_gap = 3,
                                      .delay = 0.1,
                                      .delay_ns = 1000000,
                                      .jitter_ns = 1000000};
    return nfm_port_impair_new(port, &config, err);
}

static nfm_port *open_port(const char *name, uint32_t block_ms) {
    nfm_error err = {0};
    nfm_port *port;
    if (strncmp(name, "impair:", 7) == 0) {
        port = impair(open_port(name + 7, block_ms), &err);
    } else if (strncmp(name, "afxdp:", 6) == 0) {
        nfm_afxdp_config config = {.interface = name + 6, .rx_size = 512, .promiscuous = 1};
        port = nfm_port_afxdp_open(&config, &err);
    } else if (strncmp(name, "dpdk:", 5) == 0) {
        nfm_dpdk_config config = {.eal = EAL, .device = name + 5, .promiscuous = 1};
        port = nfm_port_dpdk_open(&config, &err);
    } else if (strncmp(name, "tap:", 4) == 0) {
        nfm_tap_config config = {.interface = name + 4, .up = 1, .offload = 1};
        port = nfm_port_tap_open(&config, &err);
    } else {
        nfm_afpacket_config config = {.interface = name, .block_ms = block_ms, .promiscuous = 1};
        port = nfm_port_afpacket_open(&config, &err);
    }
    if (port == NULL) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    return port;
}

/* Moves a burst; returns how many frames came. What the other side does not take is dropped. */
static int forward(nfm_port *from, nfm_port *to, nfm_pool *pool, uint64_t *dropped) {
    nfm_frame frames[NFM_BURST];
    nfm_tx tx[NFM_BURST];
    int n = from->ops->rx(from, pool, frames, NFM_BURST);
    for (int i = 0; i < n; i++)
        tx[i] = (nfm_tx){.slot = frames[i].slot, .off = NFM_HEADROOM, .len = frames[i].len};
    int sent = n > 0 ? to->ops->tx(to, pool, tx, (uint32_t)n) : 0;
    for (int i = sent < 0 ? 0 : sent; i < n; i++) {
        nfm_pool_put(pool, tx[i].slot);
        ++*dropped;
    }
    return n;
}

static bool input_closed(void) {
    struct pollfd input = {.fd = 0, .events = POLLIN};
    return poll(&input, 1, 0) == 1;
}

static void sleep_until_frames(nfm_port *const ports[2]) {
    struct pollfd wait[] = {{.fd = ports[0]->ops->wait_fd(ports[0]), .events = POLLIN},
                            {.fd = ports[1]->ops->wait_fd(ports[1]), .events = POLLIN},
                            {.fd = 0, .events = POLLIN}};
    poll(wait, 3, 20);
}

static void print_stats(const nfm_port *port, const char *end) {
    nfm_port_stats s;
    nfm_port_stats_get(port, &s);
    printf("{\"rx_packets\":%lu,\"rx_bytes\":%lu,\"rx_oversize\":%lu,\"rx_missed\":%lu,"
           "\"rx_errors\":%lu,\"tx_packets\":%lu,\"tx_bytes\":%lu,\"tx_full\":%lu,"
           "\"tx_oversize\":%lu,\"tx_errors\":%lu,\"link_changes\":%lu,\"link_up\":%u}%s",
           s.rx_packets, s.rx_bytes, s.rx_oversize, s.rx_missed, s.rx_errors, s.tx_packets,
           s.tx_bytes, s.tx_full, s.tx_oversize, s.tx_errors, s.link_changes, s.link_up, end);
}

int main(int argc, char **argv) {
    nfm_pool pool;
    uint64_t dropped = 0;
    uint32_t idle = 0, block_ms = argc > 3 ? (uint32_t)atoi(argv[3]) : 0;
    if (argc < 3)
        return 2;
    size_t size = N_SMALL * NFM_SLOT_SMALL + (size_t)N_LARGE * NFM_SLOT_LARGE;
    uint8_t *packets = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    if (packets == NULL || nfm_pool_init(&pool, packets, N_SMALL, N_LARGE) != NFM_OK)
        return 1;
    nfm_port *const ports[2] = {open_port(argv[1], block_ms), open_port(argv[2], block_ms)};
    puts("ready");
    fflush(stdout);
    for (uint32_t turn = 1; turn % 1024 != 0 || !input_closed(); turn++) {
        int n = forward(ports[0], ports[1], &pool, &dropped);
        n += forward(ports[1], ports[0], &pool, &dropped);
        for (int i = 0; i < 2; i++)
            ports[i]->ops->poll(ports[i], &pool);
        idle = n > 0 ? 0 : idle + 1;
        if (idle > SPIN) {
            sleep_until_frames(ports);
            turn |= 1023; /* looks at its input next */
        }
    }
    for (int i = 0; i < 2; i++)
        if (ports[i]->ops->detach != NULL)
            ports[i]->ops->detach(ports[i], &pool);
    bool whole = pool.n_free_small == N_SMALL && pool.n_free_large == N_LARGE;
    printf("{\"dropped\":%lu,\"pool_whole\":%s,\"ports\":[", dropped, whole ? "true" : "false");
    print_stats(ports[0], ",");
    print_stats(ports[1], "]}\n");
    nfm_port_free(ports[0]);
    nfm_port_free(ports[1]);
    nfm_pool_fini(&pool);
    free(packets);
    return 0;
}
