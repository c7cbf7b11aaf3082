/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue of a DPDK ethdev as a port.
 *
 * Theory of operation
 *
 * Opening finds the device (EAL begins with the first one). The worker's pool is known with the
 * first call of rx, tx or poll: then the queue gets its mbufs, and when all queues of the device
 * have theirs it starts. Until then, and after a failure (see warning), the link is down.
 *
 * Without copies (slot_pool.c) the mempool is the packet pool: a received mbuf is a slot, a slot
 * that is sent goes out by its own mbuf and comes back to the pool when the driver frees it. A
 * slot whose mbuf the driver still has (sent twice: mirrored) is copied. With copies the queue has
 * a mempool of DPDK's own: for devices that hand mbufs on to somebody else's thread, and for those
 * that refuse slots.
 *
 * Frames that a kernel left unfinished are finished in software (io/whole.h).
 */
#include "device.h"
#include "slot_pool.h"

#include "io/fail.h"
#include "io/plugin.h"
#include "io/whole.h"

#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    ETHERNET = 1,     /* LINKTYPE_ETHERNET */
    LINK_EVERY = 256, /* polls between two looks at the clock */
    LINKS_PER_SECOND = 10,
    L2_ROOM = 14 + 2 * 4, /* an Ethernet header with two tags, beyond the MTU */
    DEFAULT_DESC = 1024,
    STOCK = 64,        /* slots besides those of the ring that a device may take when it starts */
    COPY_MBUFS = 4096, /* of a queue that copies, beyond what its rings hold */
    COPY_ROOM = 9216 + 256 + RTE_PKTMBUF_HEADROOM,
};

typedef struct dpdk_port {
    nfm_port port;
    device_user user; /* of |dev| */
    device *dev;
    nfm_dpdk_config config; /* its texts are not kept */
    uint16_t id, queue;
    bool copies, attached, failed, runs;
    slot_pool slots;                  /* without copies */
    struct rte_mempool *mempool;      /* of slots, or of DPDK's own memory */
    struct rte_mbuf *kept[NFM_BURST]; /* received, no slot for them yet */
    uint32_t n_kept;
    uint32_t polls;
    bool cleans; /* the driver can be asked to free what it sent */
    uint64_t next_look;
    uint64_t refused; /* sent frames that the device counted as errors, as of the last look */
} dpdk_port;

static void look_at_link(dpdk_port *self) {
    struct rte_eth_link link = {0};
    struct rte_eth_stats counted;
    nfm_port_stats *stats = &self->port.stats;
    if (rte_eth_link_get_nowait(self->id, &link) == 0) {
        uint32_t up = link.link_status == RTE_ETH_LINK_UP;
        stats->link_changes += up != stats->link_up;
        stats->link_up = up;
    }
    uint16_t mtu = 0;
    if (rte_eth_dev_get_mtu(self->id, &mtu) == 0)
        stats->mtu = mtu;
    /* Counters are the device's: its first queue shows them. */
    if (self->queue == 0 && rte_eth_stats_get(self->id, &counted) == 0) {
        stats->rx_missed = counted.imissed;
        stats->rx_errors = counted.ierrors + counted.rx_nombuf;
        stats->tx_errors += counted.oerrors - self->refused;
        self->refused = counted.oerrors;
    }
}

static int make_memory(dpdk_port *self, nfm_pool *pool, nfm_error *err) {
    char name[RTE_MEMPOOL_NAMESIZE];
    snprintf(name, sizeof(name), "nfm_%u_%u", self->id, self->queue);
    if (self->copies) {
        unsigned n = COPY_MBUFS + self->config.rx_desc + self->config.tx_desc;
        bool jumbo = self->config.mtu > 1500;
        self->mempool = rte_pktmbuf_pool_create(
            name, n, 0, 0, jumbo ? COPY_ROOM : RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
    } else if (slot_pool_init(&self->slots, pool, name) == 0) {
        self->mempool = self->slots.mempool;
    }
    if (self->mempool != NULL)
        return NFM_OK;
    return nfm_io_fail(err, NFM_E_NOMEM,
                       "dpdk: no memory for the mbufs of %u slots: %s; give EAL more (-m 256, or "
                       "huge pages)",
                       pool->n_slots, rte_strerror(rte_errno));
}

static int attach_queue(dpdk_port *self, nfm_pool *pool, nfm_error *err) {
    int rc = make_memory(self, pool, err);
    self->user.memory = self->copies ? (device_memory){0} : device_memory_of(pool);
    /* Another worker's thread may start the device, and with it this queue. */
    if (rc == NFM_OK && self->dev->n_queues > 1 && !self->copies &&
        !slot_pool_stock(&self->slots, self->config.rx_desc + STOCK))
        rc = nfm_io_fail(err, NFM_E_LIMIT,
                         "dpdk: queue %u needs %u free slots to start; give the worker more",
                         self->queue, self->config.rx_desc + STOCK);
    if (rc == NFM_OK)
        rc = device_attach(self->dev, &self->config, self->mempool, &self->user.memory, err);
    if (rc != NFM_OK && self->slots.stock != NULL)
        slot_pool_unstock(&self->slots);
    return rc;
}

/* With the worker's pool in hand: the queue's memory, and perhaps the device's start. */
static void attach(dpdk_port *self, nfm_pool *pool) {
    nfm_error err = {0};
    self->attached = true;
    int rc = attach_queue(self, pool, &err);
    if (rc != NFM_OK && !self->copies && self->config.copy == NFM_COPY_AUTO) {
        slot_pool_fini(&self->slots);
        self->copies = true; /* its buffers cannot be slots: too small for it, or out of reach */
        rc = attach_queue(self, pool, &err);
    }
    self->failed = rc != NFM_OK;
    if (self->failed)
        snprintf(self->port.warning, sizeof(self->port.warning), "%.255s", err.text);
    self->port.stats.link_up = 0;
}

/* The device runs: looks at it for the first time. */
static bool begin(dpdk_port *self) {
    if (self->dev->n_queues > 1 && !self->dev->spreads)
        snprintf(self->port.warning, sizeof(self->port.warning),
                 "dpdk: the device does not spread flows over its queues: a flow's packets may "
                 "reach several workers, or all packets one");
    if (self->slots.stock != NULL)
        slot_pool_unstock(&self->slots);
    look_at_link(self);
    self->runs = true;
    return true;
}

/* Whether frames can move now. */
static inline bool is_ready(dpdk_port *self, nfm_pool *pool) {
    if (likely(self->runs))
        return true;
    if (!self->attached)
        attach(self, pool);
    return !self->failed && self->dev->started && begin(self);
}

/* ---- receiving ---------------------------------------------------------------------------- */

/* Copies an mbuf of any shape into a slot. False: no slot; the mbuf is not freed then. */
static bool copy_in(dpdk_port *self, nfm_pool *pool, struct rte_mbuf *mbuf, nfm_frame *frame) {
    uint32_t len = rte_pktmbuf_pkt_len(mbuf), at = 0;
    frame->slot = nfm_pool_get(pool, len);
    if (frame->slot == NFM_NO_SLOT)
        return false;
    uint8_t *to = nfm_pool_addr(pool, frame->slot) + NFM_HEADROOM;
    for (const struct rte_mbuf *part = mbuf; part != NULL; part = part->next) {
        memcpy(to + at, rte_pktmbuf_mtod(part, const uint8_t *), part->data_len);
        at += part->data_len;
    }
    frame->len = len;
    if (!self->copies && mbuf->pool == self->mempool)
        self->slots.sending[slot_pool_slot(&self->slots, mbuf)] = 0;
    rte_pktmbuf_free(mbuf);
    return true;
}

/* The mbuf's slot itself, where the frame lies as the worker wants it and nobody else reads it. */
static inline bool take_slot(dpdk_port *self, struct rte_mbuf *mbuf, nfm_frame *frame) {
    if (self->copies || mbuf->pool != self->mempool || mbuf->nb_segs != 1 ||
        mbuf->data_off != NFM_HEADROOM)
        return false;
    uint32_t slot = slot_pool_slot(&self->slots, mbuf);
    if (unlikely(self->slots.sending[slot] != 0)) { /* came back by a loop */
        if (self->slots.pool->refs[slot] != 1)
            return false;
        self->slots.sending[slot] = 0;
    }
    frame->slot = slot;
    frame->len = mbuf->data_len;
    return true;
}

/* Turns an mbuf into a frame. 1; 0: it is dropped; -1: no slot now. */
static inline int receive_one(dpdk_port *self, nfm_pool *pool, struct rte_mbuf *mbuf,
                              nfm_frame *frame) {
    if (likely(take_slot(self, mbuf, frame)))
        return 1;
    if (rte_pktmbuf_pkt_len(mbuf) > NFM_MAX_FRAME) {
        self->port.stats.rx_oversize++;
        rte_pktmbuf_free(mbuf);
        return 0;
    }
    return copy_in(self, pool, mbuf, frame) ? 1 : -1;
}

static int64_t wall_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int dpdk_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    dpdk_port *self = (dpdk_port *)port;
    struct rte_mbuf *mbufs[NFM_BURST];
    if (!is_ready(self, pool))
        return 0;
    if (n > NFM_BURST)
        n = NFM_BURST;
    uint32_t got = self->n_kept, done = 0, at = 0;
    memcpy(mbufs, self->kept, got * sizeof(mbufs[0]));
    self->n_kept = 0;
    if (got < n)
        got += rte_eth_rx_burst(self->id, self->queue, mbufs + got, (uint16_t)(n - got));
    if (got == 0)
        return 0;
    int64_t now = wall_clock();
    uint64_t bytes = 0;
    for (; at < got && done < n; at++) {
        nfm_frame *frame = &frames[done];
        int rc = receive_one(self, pool, mbufs[at], frame);
        if (rc < 0)
            break;
        if (rc == 0)
            continue;
        memset(nfm_pool_addr(pool, frame->slot), 0, sizeof(nfm_slot_meta));
        frame->wire_len = frame->len;
        frame->link_type = ETHERNET;
        frame->ts_ns = now;
        bytes += frame->len;
        done++;
    }
    for (; at < got; at++)
        self->kept[self->n_kept++] = mbufs[at];
    port->stats.rx_packets += done;
    port->stats.rx_bytes += bytes;
    return (int)done;
}

/* ---- sending ------------------------------------------------------------------------------ */

/* A frame of DPDK's own memory. NULL: none left, or too long for one. */
static struct rte_mbuf *copy_out(dpdk_port *self, const uint8_t *data, uint32_t len) {
    struct rte_mbuf *mbuf = rte_pktmbuf_alloc(self->mempool);
    char *to = mbuf != NULL ? rte_pktmbuf_append(mbuf, (uint16_t)len) : NULL;
    if (to != NULL)
        memcpy(to, data, len);
    else
        rte_pktmbuf_free(mbuf);
    return to != NULL ? mbuf : NULL;
}

/* The slot's mbuf around the frame. */
static inline struct rte_mbuf *wrap_slot(dpdk_port *self, const nfm_tx *frame) {
    struct rte_mbuf *mbuf = self->slots.mbufs[frame->slot];
    rte_pktmbuf_reset(mbuf);
    mbuf->data_off = (uint16_t)frame->off;
    mbuf->data_len = (uint16_t)frame->len;
    mbuf->pkt_len = frame->len;
    self->slots.sending[frame->slot] = 1;
    return mbuf;
}

/* An mbuf for a frame: by its slot, or a copy when the driver still has the slot's mbuf. */
static inline struct rte_mbuf *prepare(dpdk_port *self, nfm_pool *pool, const nfm_tx *frame) {
    const uint8_t *data = nfm_pool_addr(pool, frame->slot) + frame->off;
    if (likely(!self->copies && self->slots.sending[frame->slot] == 0))
        return wrap_slot(self, frame);
    return copy_out(self, data, frame->len);
}

/* Sends up to NFM_BURST whole frames of the right length. Returns how many were taken; the rest is
 * as before. */
static uint32_t send_run(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    dpdk_port *self = (dpdk_port *)port;
    struct rte_mbuf *mbufs[NFM_BURST];
    uint32_t ready = 0;
    uint64_t bytes = 0;
    while (ready < n && (mbufs[ready] = prepare(self, pool, &frames[ready])) != NULL)
        ready++;
    /* An mbuf that was sent may be in use again: whose it is must be known before. */
    uint32_t by_copy = 0;
    for (uint32_t i = 0; i < ready; i++)
        if (self->copies || mbufs[i] != self->slots.mbufs[frames[i].slot])
            by_copy |= 1u << i;
    uint32_t sent = rte_eth_tx_burst(self->id, self->queue, mbufs, (uint16_t)ready);
    for (uint32_t i = 0; i < sent; i++) {
        bytes += frames[i].len;
        if (by_copy & 1u << i)
            nfm_pool_put(pool, frames[i].slot);
    }
    for (uint32_t i = sent; i < ready; i++) {
        if (by_copy & 1u << i)
            rte_pktmbuf_free(mbufs[i]);
        else
            self->slots.sending[frames[i].slot] = 0;
    }
    self->port.stats.tx_packets += sent;
    self->port.stats.tx_bytes += bytes;
    return sent;
}

static int dpdk_tx(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    dpdk_port *self = (dpdk_port *)port;
    if (!is_ready(self, pool) || !port->stats.link_up)
        return NFM_E_IO;
    const nfm_sender sender = {.send = send_run, .max_len = port->stats.mtu + L2_ROOM};
    return nfm_whole_send(port, pool, &sender, frames, n);
}

/* ---- the rest ----------------------------------------------------------------------------- */

static void dpdk_poll(nfm_port *port, nfm_pool *pool) {
    dpdk_port *self = (dpdk_port *)port;
    if (!is_ready(self, pool) || ++self->polls % LINK_EVERY != 0)
        return;
    if (self->cleans)
        self->cleans = rte_eth_tx_done_cleanup(self->id, self->queue, 0) >= 0;
    uint64_t now = rte_rdtsc();
    if (now < self->next_look)
        return;
    self->next_look = now + rte_get_tsc_hz() / LINKS_PER_SECOND;
    look_at_link(self);
}

static int dpdk_wait_fd(nfm_port *port) {
    (void)port;
    return -1;
}

/* The worker's pool ends now: what the driver keeps until the device is closed stays out of it. */
static void dpdk_detach(nfm_port *port, nfm_pool *pool) {
    dpdk_port *self = (dpdk_port *)port;
    (void)pool;
    if (self->attached && !self->failed)
        device_detach(self->dev);
    for (uint32_t i = 0; i < self->n_kept; i++)
        rte_pktmbuf_free(self->kept[i]);
    self->n_kept = 0;
    if (self->slots.stock != NULL)
        slot_pool_unstock(&self->slots);
    self->slots.pool = NULL;
    self->attached = self->failed = true;
    self->runs = false;
}

static void free_port(dpdk_port *self) {
    if (self->copies)
        rte_mempool_free(self->mempool);
    else
        slot_pool_fini(&self->slots);
    free(self);
}

static void dpdk_free(nfm_port *port) {
    dpdk_port *self = (dpdk_port *)port;
    dpdk_detach(port, NULL);
    device_user *user = device_close(self->dev, &self->user);
    while (user != NULL) {
        device_user *next = user->next;
        free_port((dpdk_port *)(void *)((uint8_t *)user - offsetof(dpdk_port, user)));
        user = next;
    }
}

static const nfm_port_ops dpdk_ops = {.name = "dpdk",
                                      .rx = dpdk_rx,
                                      .tx = dpdk_tx,
                                      .poll = dpdk_poll,
                                      .wait_fd = dpdk_wait_fd,
                                      .detach = dpdk_detach,
                                      .free = dpdk_free};

static nfm_port *open_port(const void *config, nfm_error *err) {
    const nfm_dpdk_config *asked = config;
    dpdk_port *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        nfm_io_fail(err, NFM_E_NOMEM, "dpdk: no memory for a port; free some");
        return NULL;
    }
    self->dev = device_open(asked, err);
    if (self->dev == NULL) {
        free(self);
        return NULL;
    }
    self->port.ops = &dpdk_ops;
    self->config = *asked;
    self->config.eal = self->config.device = NULL;
    if (asked->rx_desc == 0)
        self->config.rx_desc = DEFAULT_DESC;
    if (asked->tx_desc == 0)
        self->config.tx_desc = DEFAULT_DESC;
    self->id = self->dev->id;
    self->queue = asked->queue;
    self->copies =
        asked->copy == NFM_COPY_ALWAYS || (asked->copy == NFM_COPY_AUTO && self->dev->hands_on);
    self->cleans = true;
    return &self->port;
}

__attribute__((visibility("default"))) extern const nfm_port_plugin_info nfm_port_plugin;
const nfm_port_plugin_info nfm_port_plugin = NFM_PORT_PLUGIN(nfm_dpdk_config, open_port);
