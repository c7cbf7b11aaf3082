/* SPDX-License-Identifier: Apache-2.0 */
/* A network namespace of the test's own with the veth pair va - vb, and a raw socket as a peer.
 * Tests on it are skipped, saying why, where the kernel or the user's rights do not allow it. */
#ifndef LIVE_RIG_H
#define LIVE_RIG_H

#include "io/vnet.h"
#include "nfm_test.h"
#include "port_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#define PATIENCE_MS 20000

static inline void write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    if (fd >= 0) {
        ssize_t done = write(fd, text, strlen(text));
        (void)done;
        close(fd);
    }
}

static inline bool shell(const char *command) {
    return system(command) == 0;
}

/* Enters a new network namespace, as root of it. Returns NULL, or why that was not possible. */
static inline const char *enter_namespace(void) {
    char map[32];
    snprintf(map, sizeof(map), "0 %u 1", (unsigned)getuid());
    if (!shell("ip link show lo >/dev/null 2>&1"))
        return "no ip command (Debian: iproute2)";
    if (getuid() == 0) {
        if (unshare(CLONE_NEWNET) != 0)
            return "root without CAP_SYS_ADMIN";
    } else {
        if (unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
            return "user namespaces are switched off; run as root";
        write_file("/proc/self/setgroups", "deny");
        write_file("/proc/self/uid_map", map);
        snprintf(map, sizeof(map), "0 %u 1", (unsigned)getgid());
        write_file("/proc/self/gid_map", map);
    }
    write_file("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"); /* nothing but our frames */
    write_file("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    if (!shell("ip link add va type veth peer name vb && ip link del va"))
        return "no veth interfaces here";
    return NULL;
}

/* A packet socket with a virtio_net_hdr before each frame. */
static inline int peer_open(const char *interface) {
    int one = 1, fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    at.sll_ifindex = (int)if_nametoindex(interface);
    if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)) != 0 ||
        setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one)) != 0 ||
        bind(fd, (struct sockaddr *)&at, sizeof(at)) != 0)
        abort();
    return fd;
}

static inline bool peer_send(int fd, const struct virtio_net_hdr *vnet, const uint8_t *frame,
                             uint32_t len) {
    struct virtio_net_hdr none = {0};
    struct iovec parts[] = {{(void *)(uintptr_t)(vnet ? vnet : &none), sizeof(none)},
                            {(void *)(uintptr_t)frame, len}};
    return writev(fd, parts, 2) == (ssize_t)(sizeof(none) + len);
}

static inline int64_t clock_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Waits until the kernel has noticed that both ends of the pair are up. */
static inline void wait_for_carriers(void) {
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    int64_t end = clock_ms() + PATIENCE_MS;
    for (int running = 0; running < 2 && clock_ms() < end; usleep(1000)) {
        running = 0;
        for (int i = 0; i < 2; i++) {
            struct ifreq request = {.ifr_name = "va"};
            request.ifr_name[1] = (char)('a' + i);
            if (ioctl(fd, SIOCGIFFLAGS, &request) == 0)
                running += (request.ifr_flags & IFF_RUNNING) != 0;
        }
    }
    close(fd);
}

/* Makes the pair anew; both ends are up and the kernel has noticed. */
static inline void make_pair(void) {
    (void)shell("ip link del va 2>/dev/null");
    CHECK(shell("ip link add va type veth peer name vb && ip link set va up && ip link set vb up"));
    wait_for_carriers();
}

/* Receives one frame, waiting for it. Returns its length, 0 when none came. */
static inline uint32_t peer_receive(int fd, struct virtio_net_hdr *vnet, uint8_t *frame,
                                    uint32_t room) {
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    struct iovec parts[] = {{vnet, sizeof(*vnet)}, {frame, room}};
    if (poll(&wait, 1, PATIENCE_MS) != 1)
        return 0;
    ssize_t got = readv(fd, parts, 2);
    return got > (ssize_t)sizeof(*vnet) ? (uint32_t)got - (uint32_t)sizeof(*vnet) : 0;
}

/* Turns of a worker's loop until |n| frames are there; returns how many came. */
static inline uint32_t receive(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    int64_t end = clock_ms() + PATIENCE_MS;
    uint32_t done = 0;
    while (done < n && clock_ms() < end) {
        int got = port->ops->rx(port, pool, frames + done, n - done);
        if (got < 0)
            break;
        done += (uint32_t)got;
        port->ops->poll(port, pool);
        struct pollfd wait = {.fd = port->ops->wait_fd(port), .events = POLLIN};
        if (got == 0)
            poll(&wait, 1, 10);
    }
    return done;
}

/* Turns of the loop until the link is as asked. */
static inline bool link_becomes(nfm_port *port, nfm_pool *pool, uint32_t up) {
    int64_t end = clock_ms() + PATIENCE_MS;
    while (port->stats.link_up != up && clock_ms() < end)
        port->ops->poll(port, pool);
    return port->stats.link_up == up;
}

/* Gives a frame to the port, with |meta| (NULL: whole). Returns what tx returned. */
static inline int give_to(nfm_port *port, nfm_pool *pool, const nfm_slot_meta *meta,
                          const uint8_t *frame, uint32_t len) {
    uint32_t slot = nfm_pool_get(pool, len);
    if (slot == NFM_NO_SLOT)
        abort();
    uint8_t *to = nfm_pool_addr(pool, slot);
    memset(to, 0, NFM_HEADROOM);
    if (meta != NULL)
        memcpy(to, meta, sizeof(*meta));
    memcpy(to + NFM_HEADROOM, frame, len);
    nfm_tx tx = {.slot = slot, .off = NFM_HEADROOM, .len = len};
    int rc = port->ops->tx(port, pool, &tx, 1);
    if (rc != 1)
        nfm_pool_put(pool, slot);
    return rc;
}

/* The same, and a turn of the loop. */
static inline int send_through(nfm_port *port, nfm_pool *pool, const nfm_slot_meta *meta,
                               const uint8_t *frame, uint32_t len) {
    int rc = give_to(port, pool, meta, frame, len);
    port->ops->poll(port, pool);
    return rc;
}

static inline nfm_slot_meta meta_at(const bench *b, const nfm_frame *frame) {
    nfm_slot_meta meta;
    memcpy(&meta, nfm_pool_addr(&b->pool, frame->slot), sizeof(meta));
    return meta;
}

/* An Ethernet frame of |type| with bytes that depend on |seed|; no protocol of the kernel's. */
static inline void fill_frame(uint8_t *frame, uint32_t len, uint16_t type, uint32_t seed) {
    static const uint8_t macs[12] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2};
    memcpy(frame, macs, 12);
    frame[12] = (uint8_t)(type >> 8);
    frame[13] = (uint8_t)type;
    for (uint32_t i = 14; i < len; i++)
        frame[i] = (uint8_t)((i * 31 + seed * 7) >> (seed % 3));
}

/* Ethernet, IPv4 and TCP headers for a frame to be segmented; checksums are not needed. */
static inline void fill_tcp(uint8_t *frame, uint32_t len) {
    fill_frame(frame, len, ETH_P_IP, 9);
    uint8_t *ip = frame + 14;
    memset(ip, 0, 40);
    ip[0] = 0x45;
    ip[2] = (uint8_t)((len - 14) >> 8);
    ip[3] = (uint8_t)(len - 14);
    ip[8] = 64;
    ip[9] = 6;
    memcpy(ip + 12, "\x0a\x00\x00\x01\x0a\x00\x00\x02", 8);
    ip[32] = 0x50;
}

/* Runs |open_it| in a child without any capability; |err| receives why it failed. */
static inline void without_capabilities(void (*open_it)(nfm_error *), nfm_error *err) {
    int ends[2];
    if (pipe(ends) != 0)
        abort();
    pid_t child = fork();
    if (child == 0) {
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct none[2] = {0};
        if (syscall(SYS_capset, &header, none) == 0)
            open_it(err);
        ssize_t done = write(ends[1], err, sizeof(*err));
        _exit(done == sizeof(*err) ? 0 : 1);
    }
    ssize_t got = read(ends[0], err, sizeof(*err));
    CHECK_EQ(got, sizeof(*err));
    waitpid(child, NULL, 0);
    close(ends[0]);
    close(ends[1]);
}

/* main() of a test that needs a namespace. */
static inline int live_main(const nfm_test *tests, size_t n, int argc, char **argv) {
    const char *why = enter_namespace();
    if (why == NULL)
        return nfm_run_tests(tests, n, argc, argv);
    printf("skipped: %s\n1 passed, 0 failed\n", why);
    return 0;
}

#endif
