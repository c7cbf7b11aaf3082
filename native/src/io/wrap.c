/* SPDX-License-Identifier: Apache-2.0 */
#include "io/wrap.h"

#include <stdlib.h>
#include <string.h>

/* Warnings are rare: looked at where calls are rare. */
static void sync_warning(nfm_wrap *self) {
    if (self->inner->warning[0] != '\0')
        memcpy(self->port.warning, self->inner->warning, sizeof(self->port.warning));
}

/*
 * nfm_wrap_rx is rx of the inner port; at its end the warning is taken over, too.
 */
int nfm_wrap_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    nfm_wrap *self = (nfm_wrap *)port;
    int got = self->inner->ops->rx(self->inner, pool, frames, n);
    nfm_wrap_sync(self);
    if (got <= 0)
        sync_warning(self);
    return got;
}

/*
 * nfm_wrap_tx is tx of the inner port, which must have one.
 */
int nfm_wrap_tx(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    nfm_wrap *self = (nfm_wrap *)port;
    int sent = self->inner->ops->tx(self->inner, pool, frames, n);
    nfm_wrap_sync(self);
    if (sent < 0)
        sync_warning(self);
    return sent;
}

/*
 * nfm_wrap_poll is poll of the inner port when it has one.
 */
void nfm_wrap_poll(nfm_port *port, nfm_pool *pool) {
    nfm_wrap *self = (nfm_wrap *)port;
    if (self->inner->ops->poll != NULL)
        self->inner->ops->poll(self->inner, pool);
    nfm_wrap_sync(self);
}

/*
 * nfm_wrap_wait_fd is wait_fd of the inner port, which must have one.
 */
int nfm_wrap_wait_fd(nfm_port *port) {
    const nfm_wrap *self = (const nfm_wrap *)port;
    return self->inner->ops->wait_fd(self->inner);
}

/*
 * nfm_wrap_detach is detach of the inner port when it has one.
 */
void nfm_wrap_detach(nfm_port *port, nfm_pool *pool) {
    const nfm_wrap *self = (const nfm_wrap *)port;
    if (self->inner->ops->detach != NULL)
        self->inner->ops->detach(self->inner, pool);
}

/*
 * nfm_wrap_flush is flush of the inner port when it has one.
 */
int nfm_wrap_flush(nfm_port *port) {
    nfm_wrap *self = (nfm_wrap *)port;
    int rc = nfm_port_flush(self->inner);
    nfm_wrap_sync(self);
    sync_warning(self);
    return rc;
}

/*
 * nfm_wrap_free frees the inner port and |port| itself, which was malloc'd.
 */
void nfm_wrap_free(nfm_port *port) {
    nfm_wrap *self = (nfm_wrap *)port;
    nfm_port_free(self->inner);
    free(self);
}

/*
 * nfm_wrap_init fills |self|, which owns |inner| from now on. |ops| is copied.
 */
void nfm_wrap_init(nfm_wrap *self, nfm_port *inner, const nfm_port_ops *ops) {
    self->inner = inner;
    self->ops = *ops;
    if (inner->ops->tx == NULL)
        self->ops.tx = NULL;
    if (inner->ops->wait_fd == NULL)
        self->ops.wait_fd = NULL;
    self->port.ops = &self->ops;
    nfm_wrap_sync(self);
    sync_warning(self);
}
