/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Each side becomes e = fold(address) * ADDR + port * PORT; the two are combined by + and ^, which
 * commute, so both directions agree; multiplications and shifts then spread the bits downwards,
 * because the kernel takes the remainder. All arithmetic is modulo 2^32, as in BPF.
 *
 * The program's memory: SRC and DST hold first the folded addresses, then e; SPORT and DPORT the
 * multiplied ports, 0 unless found; L3 the offset of the IP header. Jumps go forwards only, as
 * classic BPF has it. A load beyond the packet ends the program with 0.
 */
#include "io/spread.h"

#include <linux/if_ether.h>

#define FOLD UINT32_C(0x01000193) /* odd constants without structure */
#define ADDR UINT32_C(0x9e3779b1)
#define PORT UINT32_C(0x85ebca77)
#define JOIN UINT32_C(0xc2b2ae3d)
#define LAST UINT32_C(0x27d4eb2f)
#define IPV4_FRAGMENT 0x3fffu /* more fragments, or an offset */

enum { SRC, DST, SPORT, DPORT, L3, JOINED };
enum { PROTO_TCP = 6, PROTO_UDP = 17, PROTO_SCTP = 132 };

static uint32_t load16(const uint8_t *p) {
    return (uint32_t)p[0] << 8 | p[1];
}

static uint32_t load32(const uint8_t *p) {
    return load16(p) << 16 | load16(p + 2);
}

uint32_t nfm_spread_endpoint(const uint8_t *addr, bool ipv6, uint16_t port) {
    uint32_t fold = load32(addr);
    for (unsigned i = 4; ipv6 && i < 16; i += 4)
        fold = fold * FOLD + load32(addr + i);
    return fold * ADDR + port * PORT;
}

uint32_t nfm_spread_pair(uint32_t a, uint32_t b) {
    uint32_t h = ((a + b) * JOIN) ^ (a ^ b);
    h = (h ^ h >> 16) * LAST;
    return h ^ h >> 13;
}

static bool has_ports(uint32_t proto) {
    return proto == PROTO_TCP || proto == PROTO_UDP || proto == PROTO_SCTP;
}

/* The hash of an IP packet. */
static uint32_t spread_ip(const uint8_t *ip, uint32_t len, bool ipv6) {
    uint32_t addresses = ipv6 ? 8 : 12, size = ipv6 ? 16 : 4;
    if (len < (ipv6 ? 40u : 20u))
        return 0;
    uint16_t sport = 0, dport = 0;
    if (has_ports(ip[ipv6 ? 6 : 9]) && (ipv6 || (load16(ip + 6) & IPV4_FRAGMENT) == 0)) {
        uint32_t l4 = ipv6 ? 40 : 4u * (ip[0] & 15);
        if (l4 + 4 > len)
            return 0;
        sport = (uint16_t)load16(ip + l4);
        dport = (uint16_t)load16(ip + l4 + 2);
    }
    return nfm_spread_pair(nfm_spread_endpoint(ip + addresses, ipv6, sport),
                           nfm_spread_endpoint(ip + addresses + size, ipv6, dport));
}

uint32_t nfm_spread_frame(const uint8_t *frame, uint32_t len) {
    uint32_t at = ETH_HLEN;
    for (unsigned tags = 0; tags < 3 && len >= at; tags++) {
        uint32_t type = load16(frame + at - 2);
        if ((type != ETH_P_8021Q && type != ETH_P_8021AD) || len < at + 4)
            break;
        at += 4;
    }
    if (len < at)
        return 0;
    uint32_t type = load16(frame + at - 2);
    if (type != ETH_P_IP && type != ETH_P_IPV6)
        return 0;
    return spread_ip(frame + at, len - at, type == ETH_P_IPV6);
}

typedef struct program {
    struct sock_filter *ops;
    uint16_t n;
} program;

static uint16_t emit(program *p, uint16_t code, uint32_t k) {
    p->ops[p->n] = (struct sock_filter){.code = code, .k = k};
    return p->n++;
}

/* Emits a jump whose target is to be named with one of the three below. */
static uint16_t jump(program *p, uint16_t how, uint32_t k) {
    return emit(p, BPF_JMP | how | BPF_K, k);
}

static void if_true(program *p, uint16_t at) {
    p->ops[at].jt = (uint8_t)(p->n - at - 1);
}

static void if_false(program *p, uint16_t at) {
    p->ops[at].jf = (uint8_t)(p->n - at - 1);
}

static void always(program *p, uint16_t at) {
    p->ops[at].k = p->n - at - 1u;
}

/* A = ethertype and L3 = X = offset of the IP header, behind up to two tags; the kernel has taken
 * off the outermost one already. */
static void emit_link(program *p) {
    uint16_t done[2];
    emit(p, BPF_LDX | BPF_IMM, 0);
    emit(p, BPF_LD | BPF_W | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_PROTOCOL));
    for (uint32_t i = 0; i < 2; i++) {
        uint16_t tagged = jump(p, BPF_JEQ, ETH_P_8021Q);
        done[i] = jump(p, BPF_JEQ, ETH_P_8021AD);
        if_true(p, tagged);
        if_true(p, done[i]);
        emit(p, BPF_LDX | BPF_IMM, 4 * (i + 1));
        emit(p, BPF_LD | BPF_H | BPF_ABS, 4 * i + 2);
    }
    if_false(p, done[0]);
    if_false(p, done[1]);
    emit(p, BPF_STX, L3);
}

/* Jumps when A is a protocol without ports; returns the jump. */
static uint16_t emit_ports_test(program *p) {
    uint16_t tcp = jump(p, BPF_JEQ, PROTO_TCP);
    uint16_t udp = jump(p, BPF_JEQ, PROTO_UDP);
    uint16_t sctp = jump(p, BPF_JEQ, PROTO_SCTP);
    if_true(p, tcp);
    if_true(p, udp);
    if_true(p, sctp);
    return sctp;
}

/* M[to] = the folded IPv6 address at |from| of the IP header. */
static void emit_fold(program *p, uint32_t from, uint32_t to) {
    emit(p, BPF_LD | BPF_W | BPF_IND, from);
    for (uint32_t i = 4; i < 16; i += 4) {
        emit(p, BPF_ALU | BPF_MUL | BPF_K, FOLD);
        emit(p, BPF_ST, to);
        emit(p, BPF_LD | BPF_W | BPF_IND, from + i);
        emit(p, BPF_LDX | BPF_MEM, to);
        emit(p, BPF_ALU | BPF_ADD | BPF_X, 0);
        emit(p, BPF_LDX | BPF_MEM, L3);
    }
    emit(p, BPF_ST, to);
}

/* M[to] = M[to] * ADDR + M[port]. */
static void emit_endpoint(program *p, uint32_t to, uint32_t port) {
    emit(p, BPF_LD | BPF_MEM, to);
    emit(p, BPF_ALU | BPF_MUL | BPF_K, ADDR);
    emit(p, BPF_LDX | BPF_MEM, port);
    emit(p, BPF_ALU | BPF_ADD | BPF_X, 0);
    emit(p, BPF_ST, to);
}

/* A ^= A >> bits. */
static void emit_shift(program *p, uint32_t bits) {
    emit(p, BPF_MISC | BPF_TAX, 0);
    emit(p, BPF_ALU | BPF_RSH | BPF_K, bits);
    emit(p, BPF_ALU | BPF_XOR | BPF_X, 0);
}

static void emit_pair(program *p) {
    emit_endpoint(p, SRC, SPORT);
    emit_endpoint(p, DST, DPORT);
    emit(p, BPF_LDX | BPF_MEM, SRC);
    emit(p, BPF_ALU | BPF_ADD | BPF_X, 0); /* A is still that of DST */
    emit(p, BPF_ALU | BPF_MUL | BPF_K, JOIN);
    emit(p, BPF_ST, JOINED);
    emit(p, BPF_LD | BPF_MEM, DST);
    emit(p, BPF_ALU | BPF_XOR | BPF_X, 0);
    emit(p, BPF_LDX | BPF_MEM, JOINED);
    emit(p, BPF_ALU | BPF_XOR | BPF_X, 0);
    emit_shift(p, 16);
    emit(p, BPF_ALU | BPF_MUL | BPF_K, LAST);
    emit_shift(p, 13);
    emit(p, BPF_RET | BPF_A, 0);
}

/* X = offset of the ports of an IPv4 packet; returns the two jumps of packets without ports. */
static void emit_ipv4(program *p, uint16_t without[2]) {
    emit(p, BPF_LD | BPF_W | BPF_IND, 12);
    emit(p, BPF_ST, SRC);
    emit(p, BPF_LD | BPF_W | BPF_IND, 16);
    emit(p, BPF_ST, DST);
    emit(p, BPF_LD | BPF_H | BPF_IND, 6);
    without[0] = jump(p, BPF_JSET, IPV4_FRAGMENT);
    emit(p, BPF_LD | BPF_B | BPF_IND, 9);
    without[1] = emit_ports_test(p);
    emit(p, BPF_LD | BPF_B | BPF_IND, 0);
    emit(p, BPF_ALU | BPF_AND | BPF_K, 15);
    emit(p, BPF_ALU | BPF_LSH | BPF_K, 2);
    emit(p, BPF_ALU | BPF_ADD | BPF_X, 0);
    emit(p, BPF_MISC | BPF_TAX, 0);
}

uint16_t nfm_spread_program(struct sock_filter ops[NFM_SPREAD_MAX_OPS]) {
    program p = {.ops = ops};
    uint16_t without[3];
    emit(&p, BPF_LD | BPF_IMM, 0);
    emit(&p, BPF_ST, SPORT);
    emit(&p, BPF_ST, DPORT);
    emit_link(&p);
    uint16_t not_ipv4 = jump(&p, BPF_JEQ, ETH_P_IP);
    emit_ipv4(&p, without);
    uint16_t ports = jump(&p, BPF_JA, 0);
    if_false(&p, not_ipv4);
    uint16_t ipv6 = jump(&p, BPF_JEQ, ETH_P_IPV6);
    emit(&p, BPF_RET | BPF_K, 0);
    if_true(&p, ipv6);
    emit_fold(&p, 8, SRC);
    emit_fold(&p, 24, DST);
    emit(&p, BPF_LD | BPF_B | BPF_IND, 6);
    without[2] = emit_ports_test(&p);
    emit(&p, BPF_MISC | BPF_TXA, 0);
    emit(&p, BPF_ALU | BPF_ADD | BPF_K, 40);
    emit(&p, BPF_MISC | BPF_TAX, 0);
    always(&p, ports);
    emit(&p, BPF_LD | BPF_H | BPF_IND, 0);
    emit(&p, BPF_ALU | BPF_MUL | BPF_K, PORT);
    emit(&p, BPF_ST, SPORT);
    emit(&p, BPF_LD | BPF_H | BPF_IND, 2);
    emit(&p, BPF_ALU | BPF_MUL | BPF_K, PORT);
    emit(&p, BPF_ST, DPORT);
    if_true(&p, without[0]);
    if_false(&p, without[1]);
    if_false(&p, without[2]);
    emit_pair(&p);
    return p.n;
}
