/* SPDX-License-Identifier: Apache-2.0 */
/* A live port for tests of ports around ports: serves and takes numbered frames. */
#ifndef FAKE_PORT_H
#define FAKE_PORT_H

#include "port_fixture.h"

enum { FAKE_LEN = 64 };

typedef struct fake_port {
    nfm_port port;
    uint32_t left;       /* frames to serve */
    uint32_t served;     /* their number lies in their first bytes */
    uint32_t room;       /* frames that tx takes */
    bool down, detached; /* tx: the link is down */
    uint32_t sent[4096]; /* numbers, in order */
    uint32_t n_sent;
    uint32_t damaged; /* sent frames whose bytes are not what they were */
} fake_port;

static inline void fake_bytes(uint8_t *data, uint32_t number) {
    for (uint32_t i = 0; i < FAKE_LEN / 4; i++) {
        uint32_t word = number * (i == 0 ? 1 : 2654435761u + 2 * i);
        memcpy(data + 4 * i, &word, sizeof(word));
    }
}

static inline bool fake_is_whole(const uint8_t *data, uint32_t *number) {
    uint8_t want[FAKE_LEN];
    memcpy(number, data, sizeof(*number));
    fake_bytes(want, *number);
    return memcmp(want, data, FAKE_LEN) == 0;
}

static inline int fake_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    fake_port *self = (fake_port *)port;
    uint32_t done = 0;
    for (; done < n && self->left > 0; done++, self->left--) {
        uint32_t slot = nfm_pool_get(pool, FAKE_LEN);
        if (slot == NFM_NO_SLOT)
            break;
        fake_bytes(nfm_pool_addr(pool, slot) + NFM_HEADROOM, self->served++);
        memset(nfm_pool_addr(pool, slot), 0, sizeof(nfm_slot_meta));
        frames[done] = (nfm_frame){
            .slot = slot, .len = FAKE_LEN, .wire_len = FAKE_LEN, .link_type = 1, .ts_ns = 1};
    }
    port->stats.rx_packets += done;
    return (int)done;
}

static inline int fake_tx(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    fake_port *self = (fake_port *)port;
    uint32_t done = 0;
    if (self->down)
        return NFM_E_IO;
    for (; done < n && self->room > 0 && self->n_sent < 4096; done++, self->room--) {
        const uint8_t *data = nfm_pool_addr(pool, frames[done].slot) + frames[done].off;
        self->damaged += !fake_is_whole(data, &self->sent[self->n_sent++]);
        nfm_pool_put(pool, frames[done].slot);
    }
    port->stats.tx_packets += done;
    return (int)done;
}

static inline int fake_wait_fd(nfm_port *port) {
    (void)port;
    return -1;
}

static inline void fake_detach(nfm_port *port, nfm_pool *pool) {
    (void)pool;
    ((fake_port *)port)->detached = true;
}

static inline void fake_free(nfm_port *port) {
    (void)port;
}

/* The same without wait_fd: a recording. */
static const nfm_port_ops fake_live_ops = {.name = "fake",
                                           .rx = fake_rx,
                                           .tx = fake_tx,
                                           .wait_fd = fake_wait_fd,
                                           .detach = fake_detach,
                                           .free = fake_free};
static const nfm_port_ops fake_file_ops = {
    .name = "fake", .rx = fake_rx, .tx = fake_tx, .detach = fake_detach, .free = fake_free};

static inline nfm_tx fake_frame(bench *b, uint32_t number) {
    nfm_tx tx = {.slot = nfm_pool_get(&b->pool, FAKE_LEN),
                 .off = NFM_HEADROOM,
                 .len = FAKE_LEN,
                 .ts_ns = (int64_t)number + 1};
    memset(nfm_pool_addr(&b->pool, tx.slot), 0, sizeof(nfm_slot_meta));
    fake_bytes(nfm_pool_addr(&b->pool, tx.slot) + NFM_HEADROOM, number);
    return tx;
}

#endif
