/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A port whose link loses, repeats, reorders, delays and damages frames (lane.c says how).
 *
 * Time is the clock's on interfaces; on recordings, read and written, it is that of the frames, so
 * a run over a capture gives the same frames with the same times each time. At the end of a
 * recording everything that is on its way arrives.
 */
#include "io/fail.h"
#include "io/lane.h"
#include "io/wrap.h"

#include <stdlib.h>
#include <time.h>

enum {
    DEFAULT_QUEUE = 1024,
    MAX_QUEUE = 1 << 20,
    DEFAULT_REORDER_NS = 10000000,
    READS = 64, /* of the inner port in one call, when all its frames are dropped */
};
#define MAX_NS (UINT64_C(3600) * 1000000000)

typedef struct impair_port {
    nfm_wrap wrap;
    uint32_t direction;
    int ended;     /* what the inner port said at its end, 0: not yet */
    int tx_status; /* of the last try to send: negative, the link is down */
    nfm_lane rx, tx;
} impair_port;

static int64_t now_of(const impair_port *self, const nfm_lane *lane) {
    struct timespec now;
    if (!nfm_wrap_is_live(&self->wrap))
        return lane->now_ns;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static uint32_t take_frames(nfm_lane *lane, int64_t now, nfm_frame *frames, uint32_t n) {
    nfm_lane_item item;
    uint32_t done = 0;
    while (done < n && nfm_lane_take(lane, now, &item))
        frames[done++] = item.frame;
    return done;
}

static int impair_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    impair_port *self = (impair_port *)port;
    if (!(self->direction & NFM_DIR_RX))
        return nfm_wrap_rx(port, pool, frames, n);
    bool live = nfm_wrap_is_live(&self->wrap);
    int64_t now = now_of(self, &self->rx);
    uint32_t done = take_frames(&self->rx, now, frames, n);
    for (int i = 0; i < READS && done < n && self->ended == 0; i++) {
        nfm_frame read[NFM_BURST];
        uint32_t want = n - done < NFM_BURST ? n - done : NFM_BURST;
        int got = nfm_wrap_rx(port, pool, read, want);
        if (got <= 0) {
            self->ended = got;
            break;
        }
        for (int k = 0; k < got; k++) {
            const nfm_lane_item item = {.frame = read[k], .off = NFM_HEADROOM};
            nfm_lane_offer(&self->rx, pool, &item, live ? now : read[k].ts_ns, true);
        }
        done += take_frames(&self->rx, now_of(self, &self->rx), frames + done, n - done);
    }
    if (self->ended != 0)
        done += take_frames(&self->rx, INT64_MAX, frames + done, n - done);
    return done == 0 && self->ended != 0 && n > 0 ? self->ended : (int)done;
}

/* Hands what is due to the inner port; what it does not take waits. */
static void pump(impair_port *self, nfm_pool *pool, int64_t now) {
    for (;;) {
        nfm_lane_item items[NFM_BURST];
        nfm_tx out[NFM_BURST];
        uint32_t n = 0;
        for (; n < NFM_BURST && nfm_lane_take(&self->tx, now, &items[n]); n++)
            out[n] = (nfm_tx){.slot = items[n].frame.slot,
                              .off = items[n].off,
                              .len = items[n].frame.len,
                              .wire_len = items[n].frame.wire_len,
                              .ts_ns = items[n].frame.ts_ns};
        if (n == 0)
            return;
        self->tx_status = nfm_wrap_tx(&self->wrap.port, pool, out, n);
        uint32_t sent = self->tx_status > 0 ? (uint32_t)self->tx_status : 0;
        for (uint32_t i = sent; i < n; i++)
            nfm_lane_return(&self->tx, &items[i]);
        if (sent < n)
            return;
    }
}

static int impair_tx(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    impair_port *self = (impair_port *)port;
    if (!(self->direction & NFM_DIR_TX))
        return nfm_wrap_tx(port, pool, frames, n);
    bool live = nfm_wrap_is_live(&self->wrap);
    int64_t now = now_of(self, &self->tx);
    if (self->tx_status < 0) {
        self->tx_status = 0;
        pump(self, pool, now);
    }
    if (self->tx_status < 0)
        return NFM_E_IO;
    for (uint32_t i = 0; i < n; i++) {
        const nfm_lane_item item = {.frame = {.slot = frames[i].slot,
                                              .len = frames[i].len,
                                              .wire_len = frames[i].wire_len,
                                              .ts_ns = frames[i].ts_ns},
                                    .off = frames[i].off};
        nfm_lane_offer(&self->tx, pool, &item, live ? now : frames[i].ts_ns, false);
    }
    pump(self, pool, now_of(self, &self->tx));
    return (int)n;
}

static void impair_poll(nfm_port *port, nfm_pool *pool) {
    impair_port *self = (impair_port *)port;
    if (self->direction & NFM_DIR_TX)
        pump(self, pool, now_of(self, &self->tx));
    nfm_wrap_poll(port, pool);
}

static void impair_detach(nfm_port *port, nfm_pool *pool) {
    impair_port *self = (impair_port *)port;
    if (!nfm_wrap_is_live(&self->wrap))
        pump(self, pool, INT64_MAX);
    nfm_lane_clear(&self->rx, pool);
    nfm_lane_clear(&self->tx, pool);
    nfm_wrap_detach(port, pool);
}

static void impair_free(nfm_port *port) {
    impair_port *self = (impair_port *)port;
    nfm_lane_fini(&self->rx);
    nfm_lane_fini(&self->tx);
    nfm_wrap_free(port);
}

/* No descriptor tells when a frame that is kept is due. */
static int impair_wait_fd(nfm_port *port) {
    const impair_port *self = (const impair_port *)port;
    uint32_t kept = self->rx.n_heap + self->rx.n_overtaken + self->tx.n_heap + self->tx.n_overtaken;
    return kept > 0 ? -1 : nfm_wrap_wait_fd(port);
}

static const nfm_port_ops impair_ops = {.name = "impair",
                                        .rx = impair_rx,
                                        .tx = impair_tx,
                                        .poll = impair_poll,
                                        .wait_fd = impair_wait_fd,
                                        .detach = impair_detach,
                                        .flush = nfm_wrap_flush,
                                        .free = impair_free};

static bool is_share(double share) {
    return share >= 0 && share <= 1; /* false for what is no number */
}

/* Checks |config| and fills in the defaults. */
static int complete(nfm_impair_config *c, nfm_error *err) {
    if (!is_share(c->drop) || !is_share(c->duplicate) || !is_share(c->corrupt) ||
        !is_share(c->reorder) || !is_share(c->delay))
        return nfm_io_fail(err, NFM_E_INVAL, "impair: shares of frames are 0 to 1");
    if (c->delay_ns > MAX_NS || c->jitter_ns > MAX_NS || c->reorder_ns > MAX_NS)
        return nfm_io_fail(err, NFM_E_INVAL, "impair: delays are an hour at most");
    if (c->rate_bps > 0 && c->rate_bps < 1000)
        return nfm_io_fail(err, NFM_E_INVAL, "impair: rates are 1000 bits per second at least");
    if (c->queue > MAX_QUEUE || c->direction > NFM_DIR_BOTH)
        return nfm_io_fail(err, NFM_E_INVAL,
                           "impair: queues have %d frames at most; directions "
                           "are 1 rx, 2 tx, 3 both",
                           MAX_QUEUE);
    c->queue = c->queue == 0 ? DEFAULT_QUEUE : c->queue;
    c->direction = c->direction == 0 ? NFM_DIR_BOTH : c->direction;
    c->reorder_gap = c->reorder_gap == 0 ? 1 : c->reorder_gap;
    c->reorder_ns = c->reorder_ns == 0 ? DEFAULT_REORDER_NS : c->reorder_ns;
    return NFM_OK;
}

/*
 * nfm_port_impair_new makes a port around |inner| that treats frames as |config| says, and owns it
 * from then on.
 * Returns NULL with the reason in |err|; |inner| stays the caller's then.
 */
nfm_port *nfm_port_impair_new(nfm_port *inner, const nfm_impair_config *config, nfm_error *err) {
    nfm_impair_config c = *config;
    if (complete(&c, err) != NFM_OK)
        return NULL;
    impair_port *self = calloc(1, sizeof(*self));
    if (self == NULL || nfm_lane_init(&self->rx, &c, c.seed * 2) != NFM_OK ||
        nfm_lane_init(&self->tx, &c, c.seed * 2 + 1) != NFM_OK) {
        nfm_io_fail(err, NFM_E_NOMEM, "impair: no memory for queues of %u frames", c.queue);
        if (self != NULL)
            nfm_lane_fini(&self->rx);
        free(self);
        return NULL;
    }
    self->direction = c.direction;
    nfm_wrap_init(&self->wrap, inner, &impair_ops);
    return &self->wrap.port;
}

/*
 * nfm_port_impair_stats copies the counters of one direction to |out|.
 * Returns NFM_OK, or NFM_E_INVAL: not such a port, or no direction.
 */
int nfm_port_impair_stats(const nfm_port *port, uint32_t direction, nfm_impair_stats *out) {
    const impair_port *self = (const impair_port *)port;
    if (port == NULL || port->ops->rx != impair_rx ||
        (direction != NFM_DIR_RX && direction != NFM_DIR_TX))
        return NFM_E_INVAL;
    const nfm_lane *lane = direction == NFM_DIR_RX ? &self->rx : &self->tx;
    *out = lane->stats;
    out->kept = (uint64_t)lane->n_heap + lane->n_overtaken;
    return NFM_OK;
}
