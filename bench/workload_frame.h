/* SPDX-License-Identifier: Apache-2.0 */
/* Ethernet frames of IPv4 TCP and UDP with valid checksums. */
#ifndef NFM_BENCH_WORKLOAD_FRAME_H
#define NFM_BENCH_WORKLOAD_FRAME_H

#include "nfm/nfm.h"

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_PSH = 8, TCP_ACK = 16 };

#define WORKLOAD_MSS 1448u /* 1500 - 20 - 20 - 12 of timestamps */
#define WORKLOAD_FRAME_MAX 1514u

typedef struct workload_frame { /* what goes into one frame; the payload is in its place */
    uint32_t src, dst;          /* host order */
    uint16_t src_port, dst_port;
    uint32_t seq, ack;
    uint32_t tsval, tsecr;
    uint32_t payload_len;
    uint16_t ip_id;
    uint8_t flags;
    bool timestamps; /* and, on SYN, window scale and SACK */
    bool from_server;
} workload_frame;

/* Where the payload lies in a frame of these flags. */
uint32_t workload_tcp_payload_off(const workload_frame *spec);
#define WORKLOAD_UDP_PAYLOAD_OFF 42u

/* Write the headers around a payload that is already in |frame| (WORKLOAD_FRAME_MAX bytes of room).
 * Return the frame's length. */
uint32_t workload_put_tcp(uint8_t *frame, const workload_frame *spec);
uint32_t workload_put_udp(uint8_t *frame, const workload_frame *spec);

#endif
