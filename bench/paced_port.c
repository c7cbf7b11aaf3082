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

static const nfm_port_ops paced_ops = {.name = "paced", .rx = paced_rx, .free = paced_free};

nfm_port *paced_port_new(nfm_port *inner, int64_t gap_ns) {
    paced_port *self = calloc(1, sizeof(*self));
    if (self == NULL)
        return NULL;
    self->port.ops = &paced_ops;
    self->inner = inner;
    self->gap_ns = gap_ns;
    return &self->port;
}
