/* SPDX-License-Identifier: Apache-2.0 */
/* Sends 64-byte UDP datagrams of so many flows out of an interface as fast as a packet socket takes
 * them, for so many seconds: nfm-blast --interface l0. Prints how many as a JSON line. They are for
 * a MAC address that nobody has, so that whoever receives them drops them first thing. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "measured.h"
#include "workload_frame.h"

enum { FRAME = 60, PAYLOAD = 18, BATCH = 64, MAX_FLOWS = 4096 };

typedef struct blaster {
    int fd;
    uint32_t flows;
    struct mmsghdr message[MAX_FLOWS];
    struct iovec piece[MAX_FLOWS];
    uint8_t frame[MAX_FLOWS][WORKLOAD_FRAME_MAX];
} blaster;

static int open_socket(const char *interface) {
    static const int on = 1;
    struct sockaddr_ll at = {.sll_family = AF_PACKET,
                             .sll_ifindex = (int)if_nametoindex(interface)};
    int fd = socket(AF_PACKET, SOCK_RAW, 0);
    if (fd < 0 || at.sll_ifindex == 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) != 0 ||
        setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)) != 0)
        measured_die(interface, "cannot be sent to");
    return fd;
}

static void make_frames(blaster *b) {
    for (uint32_t i = 0; i < b->flows; i++) {
        const workload_frame spec = {.src = 0x0a090001,
                                     .dst = 0x0a090002,
                                     .src_port = (uint16_t)(1024 + i),
                                     .dst_port = 9,
                                     .payload_len = PAYLOAD};
        uint32_t len = workload_put_udp(b->frame[i], &spec);
        memcpy(b->frame[i], "\2\0\0\0\0\x99\2\0\0\0\0\1", 12);
        b->piece[i] = (struct iovec){b->frame[i], len};
        b->message[i].msg_hdr = (struct msghdr){.msg_iov = &b->piece[i], .msg_iovlen = 1};
        if (len != FRAME)
            measured_die("frame", "not of 60 bytes");
    }
}

/* Sends the next of the frames; returns how many. */
static uint32_t send_some(blaster *b, uint32_t at) {
    uint32_t n = b->flows - at < BATCH ? b->flows - at : BATCH;
    int sent = sendmmsg(b->fd, &b->message[at], n, 0);
    if (sent < 0 && errno != ENOBUFS && errno != EAGAIN && errno != EINTR)
        measured_die("send", strerror(errno));
    return sent < 0 ? 0 : (uint32_t)sent;
}

int main(int argc, char **argv) {
    char *interface = NULL;
    uint32_t seconds = 3, at = 0;
    uint64_t sent = 0;
    blaster *b = calloc(1, sizeof(*b));
    if (b == NULL)
        measured_die("frames", "no memory");
    b->flows = 64;
    const measured_option known[] = {
        {"interface", MEASURED_TEXT, &interface, "to send from"},
        {"seconds", MEASURED_U32, &seconds, "how long"},
        {"flows", MEASURED_U32, &b->flows, "1 to 4096"},
        {0},
    };
    measured_parse(argc, argv, known, "Sends 64-byte datagrams as fast as it goes.");
    if (interface == NULL || b->flows < 1 || b->flows > MAX_FLOWS)
        measured_die("arguments", "an interface, 1 to 4096 flows");
    b->fd = open_socket(interface);
    make_frames(b);
    int64_t begin = measured_monotonic_ns(), end = begin + (int64_t)seconds * 1000000000;
    while (measured_monotonic_ns() < end) {
        uint32_t n = send_some(b, at);
        sent += n;
        at = (at + n) % b->flows;
    }
    printf("{\"packets\":%" PRIu64 ",\"wall_ns\":%" PRId64 "}\n", sent,
           measured_monotonic_ns() - begin);
    close(b->fd);
    free(b);
    return 0;
}
