/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * An afpacket port is two packet sockets on one interface: one with the receive ring (which also
 * sends long frames), one with the transmit ring. The kernel's own stack sees the packets, too:
 * give the interface no addresses.
 *
 * The port follows its interface by index. Down: nothing arrives, sending says NFM_E_IO; up again:
 * both sockets go on by themselves. Renamed: the port stays with it. Gone: what is in the receive
 * ring is still served; then the port waits until an interface of the configured name exists and
 * opens its sockets anew. The receiving socket's number stays the same over that (dup3), as others
 * wait on it.
 *
 * Several workers read one interface through a fanout group: each opens a port with the same group,
 * and the program of spread.c says whose a packet is. Members are numbered in the order in which
 * they joined; when one leaves, the last one takes its number.
 */
#include "io/afpacket.h"
#include "io/fail.h"
#include "io/spread.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINKTYPE_ETHERNET 1u
#define LINKTYPE_RAW 101u
#define FANOUT_IGNORE_OUTGOING 0x4000 /* PACKET_FANOUT_FLAG_IGNORE_OUTGOING, Linux 5.12 */
#define RX_QUEUE_BYTES (32 << 20)     /* for frames that do not fit the ring's */
#define TX_QUEUE_BYTES (4 << 20)
#define RX_FRAMES 4096u /* 2 ms of the most that a veth pair brings; the caches hold them */
#define TX_FRAMES 512u
#define MIN_FRAMES 64u
#define MAX_FRAMES 65536u
#define MIN_BLOCK_FRAMES 1024u /* nine blocks */
#define MAX_BLOCK_MS 1000u

/* Two sockets while they are being opened. */
typedef struct sockets {
    int fd, tx_fd;
    nfm_afp_ring rx, tx;
    bool joined;
} sockets;

static int set(int fd, int option, int value) {
    return setsockopt(fd, SOL_PACKET, option, &value, sizeof(value));
}

/* Asks for a socket buffer beyond the system's limit, and for what the limit allows if that is
 * forbidden. */
static void set_buffer(int fd, int force, int plain, int bytes) {
    if (setsockopt(fd, SOL_SOCKET, force, &bytes, sizeof(bytes)) != 0)
        (void)setsockopt(fd, SOL_SOCKET, plain, &bytes, sizeof(bytes));
}

static int open_fail(const nfm_port_afpacket *self, const char *what, nfm_error *err) {
    const char *name = self->link.actual;
    int errnum = errno;
    if (errnum == EPERM || errnum == EACCES)
        return nfm_io_fail(
            err, NFM_E_IO,
            "%s: cannot %s: packets of an interface need CAP_NET_RAW; run with sudo, "
            "or try it in a network of your own: unshare -Urn",
            name, what);
    if (errnum == EAFNOSUPPORT)
        return nfm_io_fail(err, NFM_E_IO,
                           "%s: cannot %s: this kernel has no packet sockets; modprobe af_packet",
                           name, what);
    if (errnum == ENOMEM || errnum == ENOBUFS)
        return nfm_io_fail(
            err, NFM_E_NOMEM,
            "%s: cannot %s: the kernel has no memory for it; take fewer rx_frames or "
            "tx_frames",
            name, what);
    return nfm_io_fail(err, NFM_E_IO, "%s: cannot %s: %s; `ip -d link show %s` may say more", name,
                       what, strerror(errnum), name);
}

static bool bind_to(int fd, uint16_t protocol, int index) {
    struct sockaddr_ll address = {
        .sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = index};
    return bind(fd, (const struct sockaddr *)&address, sizeof(address)) == 0;
}

/* Asks for a ring and maps it. */
static bool map_ring(int fd, int option, const struct tpacket_req3 *request, size_t request_len,
                     nfm_afp_ring *ring) {
    size_t size = (size_t)request->tp_block_size * request->tp_block_nr;
    if (setsockopt(fd, SOL_PACKET, option, request, (socklen_t)request_len) != 0)
        return false;
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (base == MAP_FAILED)
        return false;
    *ring = (nfm_afp_ring){.base = base, .size = size};
    return true;
}

/* Whole blocks that hold at least |frames|. */
static struct tpacket_req3 ring_request(uint32_t frames, uint32_t block_ms) {
    uint32_t blocks = (frames + NFM_AFP_PER_BLOCK - 1) / NFM_AFP_PER_BLOCK;
    return (struct tpacket_req3){.tp_block_size = NFM_AFP_BLOCK,
                                 .tp_block_nr = blocks,
                                 .tp_frame_size = NFM_AFP_FRAME,
                                 .tp_frame_nr = blocks * NFM_AFP_PER_BLOCK,
                                 .tp_retire_blk_tov = block_ms};
}

/* Lets nothing in: a socket that is bound must not see what belongs to others before it is a member
 * of its group. */
static bool shut(int fd) {
    struct sock_filter nothing = {.code = BPF_RET | BPF_K};
    struct sock_fprog program = {.len = 1, .filter = &nothing};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) == 0;
}

static int open_receiver(const nfm_port_afpacket *self, sockets *s, nfm_error *err) {
    uint32_t block_ms = self->config.block_ms;
    struct tpacket_req3 request = ring_request(self->config.rx_frames, block_ms);
    struct packet_mreq all = {.mr_ifindex = self->link.index, .mr_type = PACKET_MR_PROMISC};
    s->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->fd < 0)
        return open_fail(self, "open a packet socket", err);
    set_buffer(s->fd, SO_RCVBUFFORCE, SO_RCVBUF, RX_QUEUE_BYTES);
    set_buffer(s->fd, SO_SNDBUFFORCE, SO_SNDBUF, TX_QUEUE_BYTES);
    if (set(s->fd, PACKET_VERSION, block_ms == 0 ? TPACKET_V2 : TPACKET_V3) != 0 ||
        set(s->fd, PACKET_VNET_HDR, 1) != 0 || set(s->fd, PACKET_AUXDATA, 1) != 0 ||
        set(s->fd, PACKET_IGNORE_OUTGOING, 1) != 0 || set(s->fd, PACKET_COPY_THRESH, 1) != 0)
        return open_fail(self, "set up its packet socket (Linux 4.20 or later)", err);
    if (!map_ring(s->fd, PACKET_RX_RING, &request,
                  block_ms == 0 ? sizeof(struct tpacket_req) : sizeof(request), &s->rx))
        return open_fail(self, "make a receive ring", err);
    s->rx.n = block_ms == 0 ? request.tp_frame_nr : request.tp_block_nr;
    bool is_shut = self->config.fanout_group != 0 || self->config.send_only;
    if ((is_shut && !shut(s->fd)) || !bind_to(s->fd, ETH_P_ALL, self->link.index))
        return open_fail(self, "receive from it", err);
    if (self->config.promiscuous &&
        setsockopt(s->fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof(all)) != 0)
        return open_fail(self, "make it promiscuous", err);
    return NFM_OK;
}

static int open_sender(const nfm_port_afpacket *self, sockets *s, nfm_error *err) {
    struct tpacket_req3 request = ring_request(self->config.tx_frames, 0);
    s->tx_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->tx_fd < 0)
        return open_fail(self, "open a packet socket", err);
    set_buffer(s->tx_fd, SO_SNDBUFFORCE, SO_SNDBUF, TX_QUEUE_BYTES);
    if (set(s->tx_fd, PACKET_VERSION, TPACKET_V2) != 0 || set(s->tx_fd, PACKET_VNET_HDR, 1) != 0 ||
        set(s->tx_fd, PACKET_LOSS, 1) != 0 ||
        (self->config.qdisc_bypass && set(s->tx_fd, PACKET_QDISC_BYPASS, 1) != 0))
        return open_fail(self, "set up its packet socket", err);
    if (!map_ring(s->tx_fd, PACKET_TX_RING, &request, sizeof(struct tpacket_req), &s->tx))
        return open_fail(self, "make a transmit ring", err);
    s->tx.n = request.tp_frame_nr;
    return bind_to(s->tx_fd, 0, self->link.index) ? NFM_OK : open_fail(self, "send on it", err);
}

/* Joins the fanout group and lets packets in; possible only while the link is up. */
static int join(const nfm_port_afpacket *self, int fd, nfm_error *err) {
    struct sock_filter ops[NFM_SPREAD_MAX_OPS];
    struct sock_fprog program = {.len = nfm_spread_program(ops), .filter = ops};
    uint32_t how = PACKET_FANOUT_CBPF | FANOUT_IGNORE_OUTGOING;
    int unused = 0;
    if (set(fd, PACKET_FANOUT, (int)(self->config.fanout_group | how << 16)) == 0 &&
        setsockopt(fd, SOL_PACKET, PACKET_FANOUT_DATA, &program, sizeof(program)) == 0 &&
        setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &unused, sizeof(unused)) == 0)
        return NFM_OK;
    if (errno == EINVAL || errno == EALREADY)
        return nfm_io_fail(err, NFM_E_IO,
                           "%s: fanout group %u is in use for something else; choose another one",
                           self->link.actual, self->config.fanout_group);
    return open_fail(self, "join its fanout group", err);
}

static void close_sockets(sockets *s) {
    if (s->rx.base != NULL)
        munmap(s->rx.base, s->rx.size);
    if (s->tx.base != NULL)
        munmap(s->tx.base, s->tx.size);
    if (s->fd >= 0)
        close(s->fd);
    if (s->tx_fd >= 0)
        close(s->tx_fd);
}

/* What the interface's hardware means for frames. */
static int learn_link_type(nfm_port_afpacket *self, nfm_error *err) {
    switch (self->link.hardware) {
    case ARPHRD_ETHER:
    case ARPHRD_LOOPBACK:
        self->link_type = LINKTYPE_ETHERNET;
        self->l2_len = ETH_HLEN;
        return NFM_OK;
    case ARPHRD_NONE:
    case ARPHRD_RAWIP:
    case ARPHRD_PPP:
        self->link_type = LINKTYPE_RAW;
        self->l2_len = 0;
        return NFM_OK;
    default:
        return nfm_io_fail(err, NFM_E_INVAL,
                           "%s: frames of hardware type %u are not understood; ports are Ethernet "
                           "or plain IP",
                           self->link.name, self->link.hardware);
    }
}

/* Opens the sockets on the interface that self->link has found. */
static int open_sockets(nfm_port_afpacket *self, sockets *s, nfm_error *err) {
    *s = (sockets){.fd = -1, .tx_fd = -1};
    int rc = learn_link_type(self, err);
    if (rc == NFM_OK)
        rc = open_receiver(self, s, err);
    if (rc == NFM_OK)
        rc = open_sender(self, s, err);
    if (rc == NFM_OK && self->config.fanout_group != 0 && self->link.enabled) {
        rc = join(self, s->fd, err);
        s->joined = rc == NFM_OK;
    }
    if (rc != NFM_OK)
        close_sockets(s);
    return rc;
}

static void adopt(nfm_port_afpacket *self, const sockets *s) {
    self->fd = s->fd;
    self->tx_fd = s->tx_fd;
    self->rx = s->rx;
    self->tx = s->tx;
    self->joined = s->joined;
    self->packet = NULL;
    self->packets_left = 0;
    self->pending = 0;
}

/* Puts what is known of the link where others read it. */
static void publish(nfm_port_afpacket *self) {
    nfm_port_stats *stats = &self->port.stats;
    stats->link_changes += stats->link_up != self->link.up;
    stats->link_up = self->link.up;
    if (self->link.index != 0)
        stats->mtu = self->link.mtu;
}

/* The interface went away and one of its name is there: begins with that one. */
static void reopen(nfm_port_afpacket *self) {
    sockets s, old = {.fd = -1, .tx_fd = self->tx_fd, .rx = self->rx, .tx = self->tx};
    nfm_error err;
    if (!nfm_afp_rx_empty(self) || nfm_link_find(&self->link, NULL) != NFM_OK)
        return;
    if (open_sockets(self, &s, &err) != NFM_OK) {
        memcpy(self->port.warning, err.text, sizeof(self->port.warning) - 1);
        self->link.index = 0; /* tries again */
        self->link.enabled = self->link.up = false;
        return;
    }
    close_sockets(&old);
    (void)dup3(s.fd, self->fd, O_CLOEXEC);
    close(s.fd);
    s.fd = self->fd;
    adopt(self, &s);
    self->port.warning[0] = '\0';
}

/* Asks for what the kernel dropped, and clears errors that would keep wait_fd readable. */
static void read_counters(nfm_port_afpacket *self) {
    struct tpacket_stats_v3 stats = {0};
    socklen_t len = sizeof(stats), error_len = sizeof(int);
    int error;
    if (getsockopt(self->fd, SOL_PACKET, PACKET_STATISTICS, &stats, &len) == 0)
        self->port.stats.rx_missed += stats.tp_drops;
    (void)getsockopt(self->fd, SOL_SOCKET, SO_ERROR, &error, &error_len);
    error_len = sizeof(int);
    (void)getsockopt(self->tx_fd, SOL_SOCKET, SO_ERROR, &error, &error_len);
}

static void look_after(nfm_port_afpacket *self) {
    nfm_link *link = &self->link;
    char *warning = self->port.warning;
    size_t room = sizeof(self->port.warning);
    read_counters(self);
    if (link->index == 0) {
        reopen(self);
        publish(self);
        return;
    }
    int news = nfm_link_look(link);
    if (news == NFM_LINK_GONE)
        nfm_io_say(warning, room, "%s went away; waiting for it to come back", link->name);
    else if (strcmp(link->name, link->actual) != 0)
        nfm_io_say(warning, room, "%s is called %s now; the port stays with it", link->name,
                   link->actual);
    else
        warning[0] = '\0';
    if (!link->enabled)
        nfm_afp_abandon(self);
    else if (self->config.fanout_group != 0 && !self->joined)
        self->joined = join(self, self->fd, NULL) == NFM_OK;
    publish(self);
}

static void afp_poll(nfm_port *port, nfm_pool *pool) {
    nfm_port_afpacket *self = (nfm_port_afpacket *)port;
    (void)pool;
    (void)nfm_afp_kick(self);
    if (nfm_link_due(&self->link))
        look_after(self);
}

static int afp_wait_fd(nfm_port *port) {
    return ((nfm_port_afpacket *)port)->fd;
}

static void afp_free(nfm_port *port) {
    nfm_port_afpacket *self = (nfm_port_afpacket *)port;
    sockets s = {.fd = self->fd, .tx_fd = self->tx_fd, .rx = self->rx, .tx = self->tx};
    (void)nfm_afp_kick(self);
    close_sockets(&s);
    nfm_link_fini(&self->link);
    free(self);
}

static const nfm_port_ops afp_ops = {.name = "afpacket",
                                     .rx = nfm_afp_rx,
                                     .tx = nfm_afp_tx,
                                     .poll = afp_poll,
                                     .wait_fd = afp_wait_fd,
                                     .free = afp_free};

static bool is_size(uint32_t n) {
    return n >= MIN_FRAMES && n <= MAX_FRAMES;
}

static int check_config(const nfm_afpacket_config *config, nfm_error *err) {
    if (!is_size(config->rx_frames) || !is_size(config->tx_frames))
        return nfm_io_fail(err, NFM_E_INVAL,
                           "rx_frames %u, tx_frames %u: each must be from %u to %u",
                           config->rx_frames, config->tx_frames, MIN_FRAMES, MAX_FRAMES);
    if (config->block_ms != 0 && config->rx_frames < MIN_BLOCK_FRAMES)
        return nfm_io_fail(err, NFM_E_INVAL, "rx_frames %u: blocks (block_ms) need at least %u",
                           config->rx_frames, MIN_BLOCK_FRAMES);
    if (config->block_ms > MAX_BLOCK_MS || config->fanout_group > UINT16_MAX)
        return nfm_io_fail(err, NFM_E_INVAL, "block_ms %u, fanout_group %u: at most %u and %u",
                           config->block_ms, config->fanout_group, MAX_BLOCK_MS, UINT16_MAX);
    return NFM_OK;
}

/*
 * nfm_port_afpacket_open opens the interface that |config| names, which may be down. The strings of
 * |config| are not needed afterwards. The caller frees the port with nfm_port_free.
 * Returns NULL with a line in |err|: no such interface, no privilege, no memory, a value out of
 * range.
 */
nfm_port *nfm_port_afpacket_open(const nfm_afpacket_config *config, nfm_error *err) {
    sockets s;
    nfm_port_afpacket *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        nfm_io_fail(err, NFM_E_NOMEM, "no memory for a port; free some");
        return NULL;
    }
    self->port.ops = &afp_ops;
    self->link.control = -1;
    self->config = *config;
    self->config.interface = NULL;
    self->config.rx_frames = config->rx_frames ? config->rx_frames : RX_FRAMES;
    self->config.tx_frames = config->tx_frames ? config->tx_frames : TX_FRAMES;
    if (check_config(&self->config, err) != NFM_OK ||
        nfm_link_init(&self->link, config->interface, err) != NFM_OK ||
        nfm_link_find(&self->link, err) != NFM_OK || open_sockets(self, &s, err) != NFM_OK) {
        nfm_link_fini(&self->link);
        free(self);
        return NULL;
    }
    adopt(self, &s);
    publish(self);
    self->port.stats.link_changes = 0;
    return &self->port;
}
