/* SPDX-License-Identifier: Apache-2.0 */
#include "io/remote.h"

#include <stdlib.h>
#include <string.h>

#include "io/fail.h"

typedef struct remote_port {
    nfm_port port;
    nfm_handover *to; /* NULL: not bound */
    uint32_t number;
    int bell;
} remote_port;

/* What comes to the other worker is handed over past the ports. */
static int remote_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    (void)port;
    (void)pool;
    (void)frames;
    (void)n;
    return 0;
}

/* Accepts all: what finds no room is lost, since the other worker may be gone for a while. */
static int remote_tx(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    remote_port *self = (remote_port *)port;
    if (self->to == NULL)
        return NFM_E_IO;
    for (uint32_t i = 0; i < n; i++) {
        const nfm_tx *f = &frames[i];
        const uint8_t *slot = nfm_pool_addr(pool, f->slot);
        nfm_handed head = {.kind = NFM_HANDED_SEND,
                           .port = (uint8_t)self->number,
                           .len = f->len,
                           .wire_len = f->wire_len,
                           .ts_ns = f->ts_ns};
        memcpy(&head.meta, slot, sizeof(head.meta));
        uint8_t *to = nfm_handover_write(self->to, &head);
        if (to != NULL) {
            memcpy(to, slot + f->off, f->len);
            port->stats.tx_packets++;
            port->stats.tx_bytes += f->len;
        } else {
            port->stats.tx_full++;
        }
        nfm_pool_put(pool, f->slot);
    }
    return (int)n;
}

static int remote_wait_fd(nfm_port *port) {
    return ((remote_port *)port)->bell;
}

static void remote_free(nfm_port *port) {
    free(port);
}

static const nfm_port_ops remote_ops = {.name = "remote",
                                        .rx = remote_rx,
                                        .tx = remote_tx,
                                        .wait_fd = remote_wait_fd,
                                        .free = remote_free};

bool nfm_port_is_remote(const nfm_port *port) {
    return port->ops == &remote_ops;
}

void nfm_port_remote_bind(nfm_port *port, nfm_handover *to, uint32_t number, int bell) {
    remote_port *self = (remote_port *)port;
    self->to = to;
    self->number = number;
    self->bell = bell;
}

/*
 * nfm_port_remote_open makes a port that stands for one of the first worker's; nfm_worker_share
 * connects it. The caller frees it with nfm_port_free.
 * Returns NULL when there is no memory.
 */
nfm_port *nfm_port_remote_open(nfm_error *err) {
    remote_port *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        nfm_io_fail(err, NFM_E_NOMEM, "port: no memory; free some");
        return NULL;
    }
    self->port.ops = &remote_ops;
    self->port.stats.link_up = 1;
    self->bell = -1;
    return &self->port;
}
