/* SPDX-License-Identifier: Apache-2.0 */
#include "workload_frame.h"

#include <string.h>

enum {
    ETHERNET = 14,
    IPV4 = 20,
    TCP = 20,
    UDP = 8,
    SYN_OPTIONS = 20,
    MSS_OPTION = 4,
    TS_OPTIONS = 12
};

static void put16(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v) {
    put16(p, v >> 16);
    put16(p + 2, v);
}

/* RFC 1071 over |len| bytes: eight at a time in machine order, which is the same sum swapped. */
static uint32_t sum_bytes(const uint8_t *p, uint32_t len) {
    uint64_t sum = 0;
    while (len >= 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        sum += (v & 0xffffffff) + (v >> 32);
        p += 8;
        len -= 8;
    }
    uint8_t rest[8] = {0};
    memcpy(rest, p, len);
    uint64_t v;
    memcpy(&v, rest, 8);
    sum += (v & 0xffffffff) + (v >> 32);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    uint8_t order[2];
    uint16_t folded = (uint16_t)sum;
    memcpy(order, &folded, 2);
    return (uint32_t)order[0] << 8 | order[1];
}

static uint32_t finish(uint32_t sum) {
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum & 0xffff;
}

/* Ethernet and IPv4 headers in front of |l4_len| bytes. Returns the pseudo header's sum. */
static uint32_t put_ip(uint8_t *frame, const workload_frame *spec, uint8_t proto, uint32_t l4_len) {
    static const uint8_t macs[2][12] = {{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1},
                                        {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}};
    uint8_t *ip = frame + ETHERNET;
    memcpy(frame, macs[spec->from_server], 12);
    put16(frame + 12, 0x0800);
    put16(ip, 0x4500);
    put16(ip + 2, IPV4 + l4_len);
    put16(ip + 4, spec->ip_id);
    put16(ip + 6, 0x4000);
    ip[8] = 64;
    ip[9] = proto;
    put16(ip + 10, 0);
    put32(ip + 12, spec->src);
    put32(ip + 16, spec->dst);
    put16(ip + 10, finish(sum_bytes(ip, IPV4)));
    return sum_bytes(ip + 12, 8) + proto + l4_len;
}

static uint32_t option_len(const workload_frame *spec) {
    if (spec->flags & TCP_SYN)
        return spec->timestamps ? SYN_OPTIONS : MSS_OPTION;
    return spec->timestamps ? TS_OPTIONS : 0;
}

/*
 * workload_tcp_payload_off returns the offset of the TCP payload in a frame of |spec|.
 */
uint32_t workload_tcp_payload_off(const workload_frame *spec) {
    return ETHERNET + IPV4 + TCP + option_len(spec);
}

/* MSS, SACK permitted, timestamps and window scale 7, as Linux sends them (RFC 9293, 2018, 7323).
 */
static void put_options(uint8_t *p, const workload_frame *spec) {
    static const uint8_t syn[SYN_OPTIONS] = {2, 4, 5, 180, 4, 2, 8, 10, [16] = 1, 3, 3, 7};
    static const uint8_t stamps[TS_OPTIONS] = {1, 1, 8, 10};
    uint32_t len = option_len(spec);
    memcpy(p, spec->flags & TCP_SYN ? syn : stamps, len);
    if (spec->timestamps) {
        uint8_t *values = p + (spec->flags & TCP_SYN ? 8 : 4);
        put32(values, spec->tsval);
        put32(values + 4, spec->tsecr);
    }
}

/*
 * workload_put_tcp writes all headers around the payload at workload_tcp_payload_off. Returns the
 * length of the frame.
 */
uint32_t workload_put_tcp(uint8_t *frame, const workload_frame *spec) {
    uint8_t *tcp = frame + ETHERNET + IPV4;
    uint32_t header = TCP + option_len(spec), len = header + spec->payload_len;
    uint32_t sum = put_ip(frame, spec, 6, len);
    put16(tcp, spec->src_port);
    put16(tcp + 2, spec->dst_port);
    put32(tcp + 4, spec->seq);
    put32(tcp + 8, spec->ack);
    tcp[12] = (uint8_t)(header / 4 << 4);
    tcp[13] = spec->flags;
    put16(tcp + 14, 0xffff);
    put32(tcp + 16, 0); /* checksum, urgent pointer */
    put_options(tcp + TCP, spec);
    put16(tcp + 16, finish(sum + sum_bytes(tcp, len)));
    return ETHERNET + IPV4 + len;
}

/*
 * workload_put_udp writes all headers around the payload at WORKLOAD_UDP_PAYLOAD_OFF. Returns the
 * length of the frame.
 */
uint32_t workload_put_udp(uint8_t *frame, const workload_frame *spec) {
    uint8_t *udp = frame + ETHERNET + IPV4;
    uint32_t len = UDP + spec->payload_len;
    uint32_t sum = put_ip(frame, spec, 17, len);
    put16(udp, spec->src_port);
    put16(udp + 2, spec->dst_port);
    put16(udp + 4, len);
    put16(udp + 6, 0);
    uint32_t checksum = finish(sum + sum_bytes(udp, len));
    put16(udp + 6, checksum != 0 ? checksum : 0xffff); /* RFC 768: 0 means none */
    return ETHERNET + IPV4 + len;
}
