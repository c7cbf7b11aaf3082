/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A tap port is the other end of an Ethernet interface of this kernel: what the kernel sends there
 * is received, what the port sends arrives there. The device takes one frame per system call, each
 * with a virtio_net_hdr in front, so GSO frames pass whole.
 *
 * How long the next frame is shows only when it was read. It is read into a small slot, and what
 * does not fit there into |spare|, at the place where it belongs in the whole frame; a long frame
 * is then put together in a large slot. If there is none, the frame waits in |spare| and is the
 * next.
 *
 * Frames that the kernel drops because nobody reads are counted at the interface (TX dropped), not
 * here. When the interface is removed, the port makes it again. When it is moved to another network
 * namespace, the port goes on; state and MTU are then no longer known.
 */
#include "io/fail.h"
#include "io/link.h"
#include "io/vnet.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define LINKTYPE_ETHERNET 1u
#define VNET_LEN sizeof(struct virtio_net_hdr)
#define SMALL (NFM_SLOT_SMALL - NFM_HEADROOM)
#define USO 0x60u /* TUN_F_USO4, TUN_F_USO6: Linux 6.2 */

typedef struct nfm_port_tap {
    nfm_port port;
    nfm_link link;
    nfm_tap_config config;
    int fd;           /* the number never changes */
    uint32_t waiting; /* bytes of the frame that waits in spare, 0 none */
    struct virtio_net_hdr waiting_vnet;
    uint8_t spare[NFM_MAX_FRAME];
} nfm_port_tap;

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void taken(nfm_port_tap *self, nfm_pool *pool, nfm_frame *frame,
                  const struct virtio_net_hdr *vnet) {
    nfm_vnet_to_meta(vnet, 0, (nfm_slot_meta *)(void *)nfm_pool_addr(pool, frame->slot));
    frame->wire_len = frame->len;
    frame->link_type = LINKTYPE_ETHERNET;
    self->port.stats.rx_packets++;
    self->port.stats.rx_bytes += frame->len;
}

/* Serves the frame that waits in |spare|. False: there is no slot for it. */
static bool take_waiting(nfm_port_tap *self, nfm_pool *pool, nfm_frame *frame) {
    uint32_t slot = nfm_pool_get(pool, self->waiting);
    if (slot == NFM_NO_SLOT)
        return false;
    memcpy(nfm_pool_addr(pool, slot) + NFM_HEADROOM, self->spare, self->waiting);
    frame->slot = slot;
    frame->len = self->waiting;
    taken(self, pool, frame, &self->waiting_vnet);
    self->waiting = 0;
    return true;
}

/* Reads one frame. Returns 1 when it is in |frame|, 0 when it was dropped, -1 when there is none or
 * no slot for it. */
static int take(nfm_port_tap *self, nfm_pool *pool, nfm_frame *frame) {
    uint32_t slot = nfm_pool_get(pool, SMALL);
    if (slot == NFM_NO_SLOT)
        return -1;
    uint8_t *to = nfm_pool_addr(pool, slot) + NFM_HEADROOM;
    struct virtio_net_hdr vnet;
    struct iovec parts[] = {
        {&vnet, VNET_LEN}, {to, SMALL}, {self->spare + SMALL, NFM_MAX_FRAME - SMALL}};
    ssize_t got = readv(self->fd, parts, 3);
    if (got <= (ssize_t)VNET_LEN) {
        nfm_pool_put(pool, slot);
        return got < 0 ? -1 : 0;
    }
    uint32_t len = (uint32_t)got - (uint32_t)VNET_LEN;
    if (len <= SMALL) {
        frame->slot = slot;
        frame->len = len;
        taken(self, pool, frame, &vnet);
        return 1;
    }
    memcpy(self->spare, to, SMALL);
    nfm_pool_put(pool, slot);
    self->waiting = len;
    self->waiting_vnet = vnet;
    return take_waiting(self, pool, frame) ? 1 : -1;
}

static int tap_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    nfm_port_tap *self = (nfm_port_tap *)port;
    uint32_t done = 0;
    int result = 1;
    if (self->waiting != 0 && n > 0) {
        if (!take_waiting(self, pool, &frames[0]))
            return 0;
        done = 1;
    }
    while (done < n && (result = take(self, pool, &frames[done])) >= 0)
        done += (uint32_t)result;
    int64_t ts_ns = done > 0 ? now_ns() : 0;
    for (uint32_t i = 0; i < done; i++)
        frames[i].ts_ns = ts_ns;
    return (int)done;
}

/* What became of a frame that the device refused: 1 dropped, 0 try again, -1 the link is down. */
static int refused(nfm_port_tap *self, int errnum) {
    if (errnum == EAGAIN || errnum == ENOBUFS || errnum == ENOMEM || errnum == EINTR)
        return 0;
    if (errnum == EIO || errnum == EBADFD) {
        self->link.next_look_ns = 0;
        return -1;
    }
    self->port.stats.tx_errors++;
    return 1;
}

/* Sends or drops one frame. Returns as refused() does. */
static int send_frame(nfm_port_tap *self, nfm_pool *pool, const nfm_tx *tx) {
    uint8_t *slot = nfm_pool_addr(pool, tx->slot), *frame = slot + tx->off;
    nfm_port_stats *stats = &self->port.stats;
    struct virtio_net_hdr vnet;
    uint32_t wire_len = nfm_vnet_from_meta((const void *)slot, frame, tx->len, &vnet);
    if (wire_len == 0 || tx->len < ETH_HLEN) {
        stats->tx_errors++;
        return 1;
    }
    if (!nfm_vnet_fits(frame, wire_len, ETH_HLEN, self->link.mtu)) {
        stats->tx_oversize++;
        return 1;
    }
    struct iovec parts[] = {{&vnet, VNET_LEN}, {frame, tx->len}};
    if (writev(self->fd, parts, 2) < 0)
        return refused(self, errno);
    stats->tx_packets++;
    stats->tx_bytes += tx->len;
    return 1;
}

static int tap_tx(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    nfm_port_tap *self = (nfm_port_tap *)port;
    int result = 1;
    uint32_t done = 0;
    while (done < n && (result = send_frame(self, pool, &frames[done])) > 0)
        nfm_pool_put(pool, frames[done++].slot);
    if (result == 0)
        port->stats.tx_full += n - done;
    return result < 0 && done == 0 ? NFM_E_IO : (int)done;
}

static int open_fail(const char *name, const char *what, nfm_error *err) {
    int errnum = errno;
    switch (errnum) {
    case EPERM:
    case EACCES:
        return nfm_io_fail(
            err, NFM_E_IO,
            "%s: cannot %s: it takes CAP_NET_ADMIN; run with sudo, let root make the "
            "interface for you (ip tuntap add %s mode tap user USER vnet_hdr), or try "
            "it in a network of your own: unshare -Urn",
            name, what, name);
    case ENOENT:
    case ENODEV:
    case ENXIO:
        return nfm_io_fail(err, NFM_E_IO,
                           "%s: cannot %s: there is no /dev/net/tun; modprobe tun, or give the "
                           "container that device",
                           name, what);
    case EBUSY:
        return nfm_io_fail(
            err, NFM_E_IO,
            "%s: cannot %s: another process has it; end that one, take another name, "
            "or let both say multi_queue",
            name, what);
    case EINVAL:
        return nfm_io_fail(
            err, NFM_E_IO,
            "%s: cannot %s: it exists and is no tap interface, or multi_queue differs "
            "from how it was made",
            name, what);
    default:
        return nfm_io_fail_errno(err, name, what, errnum);
    }
}

/* Tells the kernel what it may leave undone. Kernels before 6.2 do not know USO. */
static bool set_offload(int fd, bool on) {
    unsigned flags = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    if (!on)
        return ioctl(fd, TUNSETOFFLOAD, 0) == 0;
    return ioctl(fd, TUNSETOFFLOAD, flags | USO) == 0 || ioctl(fd, TUNSETOFFLOAD, flags) == 0;
}

/* Makes the interface, or takes the one that exists. Returns its descriptor or a status. |name|
 * receives what the kernel calls it. */
static int attach(const nfm_tap_config *config, char name[IFNAMSIZ], nfm_error *err) {
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int vnet_len = VNET_LEN;
    if (config->multi_queue)
        request.ifr_flags |= IFF_MULTI_QUEUE;
    memcpy(request.ifr_name, name, IFNAMSIZ);
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return open_fail(name, "open /dev/net/tun", err);
    if (ioctl(fd, TUNSETIFF, &request) != 0 || ioctl(fd, TUNSETVNETHDRSZ, &vnet_len) != 0 ||
        !set_offload(fd, config->offload) ||
        (config->persist && ioctl(fd, TUNSETPERSIST, 1) != 0)) {
        int rc = open_fail(name, "make the tap interface", err);
        close(fd);
        return rc;
    }
    memcpy(name, request.ifr_name, IFNAMSIZ);
    return fd;
}

static int configure(nfm_port_tap *self, nfm_error *err) {
    int rc = nfm_link_find(&self->link, err);
    if (rc == NFM_OK)
        rc = nfm_link_configure(&self->link, self->config.mtu, self->config.up, err);
    if (rc == NFM_OK)
        (void)nfm_link_look(&self->link);
    return rc;
}

static void publish(nfm_port_tap *self) {
    nfm_port_stats *stats = &self->port.stats;
    stats->link_changes += stats->link_up != self->link.up;
    stats->link_up = self->link.up;
    stats->mtu = self->link.mtu;
}

/* The interface is not in this namespace: moved, or removed. Then it is made again. */
static void look_for_it(nfm_port_tap *self) {
    struct ifreq request = {0};
    nfm_error err;
    if (ioctl(self->fd, TUNGETIFF, &request) == 0) {
        self->link.up = true;
        self->link.mtu = 0;
        return;
    }
    char name[IFNAMSIZ];
    memcpy(name, self->link.name, sizeof(name));
    int fd = attach(&self->config, name, &err);
    if (fd >= 0) {
        (void)dup3(fd, self->fd, O_CLOEXEC);
        close(fd);
    }
    if (fd < 0 || configure(self, &err) != NFM_OK)
        nfm_io_say(self->port.warning, sizeof(self->port.warning), "%s", err.text);
    else
        self->port.warning[0] = '\0';
}

static void tap_poll(nfm_port *port, nfm_pool *pool) {
    nfm_port_tap *self = (nfm_port_tap *)port;
    (void)pool;
    if (!nfm_link_due(&self->link))
        return;
    if (nfm_link_look(&self->link) == NFM_LINK_GONE)
        look_for_it(self);
    publish(self);
}

static int tap_wait_fd(nfm_port *port) {
    return ((nfm_port_tap *)port)->fd;
}

static void tap_free(nfm_port *port) {
    nfm_port_tap *self = (nfm_port_tap *)port;
    if (self->fd >= 0)
        close(self->fd);
    nfm_link_fini(&self->link);
    free(self);
}

static const nfm_port_ops tap_ops = {.name = "tap",
                                     .rx = tap_rx,
                                     .tx = tap_tx,
                                     .poll = tap_poll,
                                     .wait_fd = tap_wait_fd,
                                     .free = tap_free};

/*
 * nfm_port_tap_open makes the tap interface that |config| names, or takes the one that exists. A
 * name with %d lets the kernel choose the number. The strings of |config| are not needed
 * afterwards. The caller frees the port with nfm_port_free, and the interface goes with it unless
 * it is persistent.
 * Returns NULL with a line in |err|: no privilege, no /dev/net/tun, in use, no interface of that
 * kind.
 */
nfm_port *nfm_port_tap_open(const nfm_tap_config *config, nfm_error *err) {
    nfm_port_tap *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        nfm_io_fail(err, NFM_E_NOMEM, "no memory for a port; free some");
        return NULL;
    }
    self->port.ops = &tap_ops;
    self->config = *config;
    self->config.interface = NULL;
    self->fd = -1;
    if (nfm_link_init(&self->link, config->interface, err) == NFM_OK)
        self->fd = attach(&self->config, self->link.name, err);
    if (self->fd < 0 || configure(self, err) != NFM_OK) {
        tap_free(&self->port);
        return NULL;
    }
    publish(self);
    self->port.stats.link_changes = 0;
    return &self->port;
}
