/* SPDX-License-Identifier: Apache-2.0 */
/* What ports around a port have in common: they own it, show its counters, and can do what it can.
 */
#ifndef NFM_IO_WRAP_H
#define NFM_IO_WRAP_H

#include "io/port.h"

typedef struct nfm_wrap { /* first member of every port around a port */
    nfm_port port;
    nfm_port *inner;
    nfm_port_ops ops; /* of this port: what |inner| lacks is lacking here, too */
} nfm_wrap;

/* Operations that hand everything on; a wrapper lists them for what it leaves alone. */
int nfm_wrap_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n);
int nfm_wrap_tx(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n);
void nfm_wrap_poll(nfm_port *port, nfm_pool *pool);
int nfm_wrap_wait_fd(nfm_port *port);
void nfm_wrap_detach(nfm_port *port, nfm_pool *pool);
int nfm_wrap_flush(nfm_port *port);
void nfm_wrap_free(nfm_port *port); /* |inner| too */

/* Makes |self| a port around |inner| with |ops|, less tx and wait_fd where |inner| has none. */
void nfm_wrap_init(nfm_wrap *self, nfm_port *inner, const nfm_port_ops *ops);

/* Copies counters and warning of |inner|: after every call of it. */
static inline void nfm_wrap_sync(nfm_wrap *self) {
    self->port.stats = self->inner->stats;
}

/* Whether the port is an interface, whose time is the clock's; else it is a recording. */
static inline bool nfm_wrap_is_live(const nfm_wrap *self) {
    return self->inner->ops->wait_fd != NULL;
}

#endif
