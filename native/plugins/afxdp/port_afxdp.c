/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue of an interface through AF_XDP as a port.
 *
 * Theory of operation
 *
 * Opening finds the interface and hangs the program on it, so that missing rights are told then.
 * The socket is made with the first call that brings the worker's pool (session.c), and again
 * whenever the interface was gone and came back under its name; meanwhile the link is down. In
 * driver mode, without the driver's zero-copy, and in generic mode the kernel copies a frame once,
 * into the slot. Frames that are unfinished are finished in software (io/whole.h): a socket sends
 * bytes as they are. What comes in has no word about its checksum: where a sender leaves it
 * unfinished (veth with checksum offload), it looks wrong, and so do we when we pass it on;
 * `ethtool -K PEER tx off` ends that.
 */
#include "session.h"

#include "io/fail.h"
#include "io/link.h"
#include "io/plugin.h"
#include "io/whole.h"

#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    ETHERNET = 1, /* LINKTYPE_ETHERNET */
    DEFAULT_RING = 2048,
    MAX_RING = 1 << 20,
    L2_ROOM = 14 + 2 * 4, /* an Ethernet header with two tags, beyond the MTU */
};

typedef struct afxdp_port {
    nfm_port port;
    nfm_link link;
    nfm_afxdp_config config;
    redirect program;
    session session;
    int listener; /* keeps the interface promiscuous; -1: it is not asked for */
    bool detached;
    uint64_t missed_before; /* by earlier sockets */
} afxdp_port;

static void set_link(afxdp_port *self, bool up) {
    nfm_port_stats *stats = &self->port.stats;
    stats->link_changes += stats->link_up != up;
    stats->link_up = up;
    stats->mtu = self->link.mtu;
}

static void go_promiscuous(afxdp_port *self) {
    struct packet_mreq request = {.mr_ifindex = self->link.index, .mr_type = PACKET_MR_PROMISC};
    if (!self->config.promiscuous)
        return;
    if (self->listener < 0) /* protocol 0: it hears nothing */
        self->listener = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (self->listener < 0 || setsockopt(self->listener, SOL_PACKET, PACKET_ADD_MEMBERSHIP,
                                         &request, sizeof(request)) != 0)
        snprintf(self->port.warning, sizeof(self->port.warning),
                 "afxdp: %s cannot be made promiscuous; it takes CAP_NET_RAW", self->link.actual);
}

static void count_missed(afxdp_port *self) {
    struct xdp_statistics counted;
    socklen_t size = sizeof(counted);
    if (getsockopt(self->session.fd, SOL_XDP, XDP_STATISTICS, &counted, &size) != 0)
        return;
    self->port.stats.rx_missed = self->missed_before + counted.rx_dropped + counted.rx_ring_full;
}

static void begin(afxdp_port *self, nfm_pool *pool) {
    nfm_error err = {0};
    int rc = self->program.link >= 0 ? NFM_OK : nfm_link_find(&self->link, &err);
    if (rc == NFM_OK && self->program.link < 0)
        rc = redirect_open(&self->program, self->link.index, self->config.generic, &err);
    if (rc == NFM_OK)
        rc = session_start(&self->session, pool, self->link.actual, &self->config, &err);
    if (rc == NFM_OK)
        rc = redirect_queue(&self->program, self->config.queue, self->session.fd) == 0
                 ? NFM_OK
                 : nfm_io_fail(&err, NFM_E_IO, "afxdp: %s: there is no queue %u (at most 256)",
                               self->link.actual, self->config.queue);
    if (rc == NFM_OK) {
        self->port.warning[0] = '\0';
        go_promiscuous(self);
        set_link(self, self->link.up);
        return;
    }
    snprintf(self->port.warning, sizeof(self->port.warning), "%.255s", err.text);
    if (self->session.socket != NULL)
        session_stop(&self->session);
}

static void end(afxdp_port *self) {
    if (self->session.socket != NULL) {
        count_missed(self);
        self->missed_before = self->port.stats.rx_missed;
        session_stop(&self->session);
    }
    redirect_close(&self->program);
    set_link(self, false);
}

/* Looks after the interface now and then; at once when there is no socket yet. */
static void look(afxdp_port *self, nfm_pool *pool) {
    if (self->detached || !nfm_link_due(&self->link))
        return;
    if (self->session.socket == NULL) {
        begin(self, pool);
        return;
    }
    switch (nfm_link_look(&self->link)) {
    case NFM_LINK_GONE:
        end(self);
        snprintf(self->port.warning, sizeof(self->port.warning),
                 "afxdp: %s is gone; the port waits for it", self->link.name);
        return;
    case NFM_LINK_CHANGED:
        set_link(self, self->link.up);
        break;
    default:
        break;
    }
    count_missed(self);
}

static inline bool is_ready(afxdp_port *self, nfm_pool *pool) {
    if (self->session.socket == NULL)
        look(self, pool);
    return self->session.socket != NULL;
}

static int64_t wall_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int afxdp_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    afxdp_port *self = (afxdp_port *)port;
    session *s = &self->session;
    uint32_t at = 0, done = 0;
    if (!is_ready(self, pool))
        return 0;
    uint32_t got = xsk_ring_cons__peek(&s->rx, n, &at);
    int64_t now = got > 0 ? wall_clock() : 0;
    for (uint32_t i = 0; i < got; i++) {
        const struct xdp_desc *desc = xsk_ring_cons__rx_desc(&s->rx, at + i);
        uint64_t address = xsk_umem__add_offset_to_addr(desc->addr);
        uint32_t slot = session_slot(s, address);
        if (slot >= pool->n_slots || s->lent[slot] == 0)
            continue;
        s->lent[slot]--;
        s->n_fill--;
        if (address != session_address(s, slot) + NFM_HEADROOM ||
            desc->len > nfm_pool_room(pool, slot)) {
            port->stats.rx_errors++;
            nfm_pool_put(pool, slot);
            continue;
        }
        memset(nfm_pool_addr(pool, slot), 0, sizeof(nfm_slot_meta));
        frames[done++] = (nfm_frame){.slot = slot,
                                     .len = desc->len,
                                     .wire_len = desc->len,
                                     .link_type = ETHERNET,
                                     .ts_ns = now};
        port->stats.rx_bytes += desc->len;
    }
    if (got > 0)
        xsk_ring_cons__release(&s->rx, got);
    session_refill(s);
    port->stats.rx_packets += done;
    return (int)done;
}

/* Queues up to |n| whole frames; nfm_sender. */
static uint32_t send_run(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    afxdp_port *self = (afxdp_port *)port;
    session *s = &self->session;
    uint32_t at = 0, room = xsk_prod_nb_free(&s->tx, n);
    (void)pool;
    n = n < room ? n : room;
    if (n == 0 || xsk_ring_prod__reserve(&s->tx, n, &at) != n)
        return 0;
    for (uint32_t i = 0; i < n; i++) {
        *xsk_ring_prod__tx_desc(&s->tx, at + i) = (struct xdp_desc){
            .addr = session_address(s, frames[i].slot) + frames[i].off, .len = frames[i].len};
        s->lent[frames[i].slot]++;
        port->stats.tx_bytes += frames[i].len;
    }
    xsk_ring_prod__submit(&s->tx, n);
    s->unsent += n;
    port->stats.tx_packets += n;
    return n;
}

static int afxdp_tx(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    afxdp_port *self = (afxdp_port *)port;
    if (!is_ready(self, pool) || !port->stats.link_up)
        return NFM_E_IO;
    const nfm_sender sender = {.send = send_run, .max_len = port->stats.mtu + L2_ROOM};
    session_collect(&self->session);
    int done = nfm_whole_send(port, pool, &sender, frames, n);
    session_kick(&self->session);
    return done;
}

static void afxdp_poll(nfm_port *port, nfm_pool *pool) {
    afxdp_port *self = (afxdp_port *)port;
    look(self, pool);
    if (self->session.socket == NULL)
        return;
    session_collect(&self->session);
    session_refill(&self->session);
    session_kick(&self->session);
}

static int afxdp_wait_fd(nfm_port *port) {
    const afxdp_port *self = (const afxdp_port *)port;
    return self->session.socket != NULL ? self->session.fd : -1;
}

static void afxdp_detach(nfm_port *port, nfm_pool *pool) {
    afxdp_port *self = (afxdp_port *)port;
    (void)pool;
    end(self);
    self->detached = true;
}

static void afxdp_free(nfm_port *port) {
    afxdp_port *self = (afxdp_port *)port;
    redirect_close(&self->program);
    if (self->listener >= 0)
        close(self->listener);
    nfm_link_fini(&self->link);
    free(self);
}

static const nfm_port_ops afxdp_ops = {.name = "afxdp",
                                       .rx = afxdp_rx,
                                       .tx = afxdp_tx,
                                       .poll = afxdp_poll,
                                       .wait_fd = afxdp_wait_fd,
                                       .detach = afxdp_detach,
                                       .free = afxdp_free};

static bool is_ring_size(uint32_t n) {
    return n >= 64 && n <= MAX_RING && (n & (n - 1)) == 0;
}

static int set_up(afxdp_port *self, const nfm_afxdp_config *asked, nfm_error *err) {
    self->config = *asked;
    self->config.interface = NULL; /* link.name is a copy */
    if (asked->rx_size == 0)
        self->config.rx_size = DEFAULT_RING;
    if (asked->tx_size == 0)
        self->config.tx_size = DEFAULT_RING;
    int rc = nfm_link_init(&self->link, asked->interface, err);
    if (rc == NFM_OK &&
        (!is_ring_size(self->config.rx_size) || !is_ring_size(self->config.tx_size)))
        rc = nfm_io_fail(err, NFM_E_INVAL, "afxdp: %s: rings have 64 to %d entries, powers of two",
                         self->link.name, MAX_RING);
    if (rc == NFM_OK)
        rc = nfm_link_find(&self->link, err);
    if (rc == NFM_OK && self->link.hardware != ARPHRD_ETHER &&
        self->link.hardware != ARPHRD_LOOPBACK)
        rc = nfm_io_fail(err, NFM_E_INVAL, "afxdp: %s is no Ethernet interface; use afpacket",
                         self->link.name);
    if (rc == NFM_OK)
        rc = redirect_open(&self->program, self->link.index, asked->generic, err);
    return rc;
}

static nfm_port *open_port(const void *config, nfm_error *err) {
    afxdp_port *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        nfm_io_fail(err, NFM_E_NOMEM, "afxdp: no memory for a port; free some");
        return NULL;
    }
    self->port.ops = &afxdp_ops;
    self->program = (redirect){.link = -1, .map = -1};
    self->session.fd = self->listener = self->link.control = -1;
    if (set_up(self, config, err) != NFM_OK) {
        afxdp_free(&self->port);
        return NULL;
    }
    return &self->port;
}

__attribute__((visibility("default"))) extern const nfm_port_plugin_info nfm_port_plugin;
const nfm_port_plugin_info nfm_port_plugin = NFM_PORT_PLUGIN(nfm_afxdp_config, open_port);
