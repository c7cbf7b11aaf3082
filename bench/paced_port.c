/* SPDX-License-Identifier: Apache-2.0 */
#include "paced_port.h"

#include <stdlib.h>

#include "io/port.h"
#include "measured.h"

typedef struct paced_port {
    nfm_port port;
    nfm_port *inner;
    int64_t gap_ns, next_ns;
    uint32_t sequence;
} paced_port;

/* Half to one and a half gaps, so that packets do not fall in step with a sleeper's timers. */
static int64_t next_gap(paced_port *self) {
    self->sequence = self->sequence * 1664525u + 1013904223u;
    return self->gap_ns / 2 + (int64_t)((uint64_t)self->gap_ns * (self->sequence >> 16) >> 16);
}

static int paced_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    paced_port *self = (paced_port *)port;
    if (n == 0 || measured_monotonic_ns() < self->next_ns)
        return 0;
    int got = self->inner->ops->rx(self->inner, pool, frames, 1);
    if (got <= 0)
        return got;
    frames[0].ts_ns = measured_monotonic_ns();
    self->next_ns = frames[0].ts_ns + next_gap(self);
    return got;
}

static void paced_free(nfm_port *port) {
    paced_port *self = (paced_port *)port;
    nfm_port_free(self->inner);
    free(self);
}

/* A live port, of which only looking tells. */
static int paced_wait_fd(nfm_port *port) {
    (void)port;
    return -1;
}

static const nfm_port_ops paced_ops = {
    .name = "paced", .rx = paced_rx, .wait_fd = paced_wait_fd, .free = paced_free};

nfm_port *paced_port_new(nfm_port *inner, int64_t gap_ns) {
    paced_port *self = calloc(1, sizeof(*self));
    if (self == NULL)
        return NULL;
    self->port.ops = &paced_ops;
    self->inner = inner;
    self->gap_ns = gap_ns;
    return &self->port;
}

typedef struct timing_port {
    nfm_port port;
    measured_times *late;
} timing_port;

static int timing_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    (void)port, (void)pool, (void)frames, (void)n;
    return NFM_E_EOF;
}

static int timing_tx(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    timing_port *self = (timing_port *)port;
    int64_t now = measured_monotonic_ns();
    for (uint32_t i = 0; i < n; i++) {
        measured_time(self->late, now - frames[i].ts_ns);
        nfm_pool_put(pool, frames[i].slot);
    }
    port->stats.tx_packets += n;
    return (int)n;
}

static void timing_free(nfm_port *port) {
    free(port);
}

static const nfm_port_ops timing_ops = {
    .name = "timing", .rx = timing_rx, .tx = timing_tx, .free = timing_free};

nfm_port *timing_port_new(measured_times *late) {
    timing_port *self = calloc(1, sizeof(*self));
    if (self == NULL)
        return NULL;
    self->port.ops = &timing_ops;
    self->late = late;
    return &self->port;
}
