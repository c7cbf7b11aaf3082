/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a port's packets are spread over workers: a symmetric 32-bit hash of addresses and ports,
 * once in C and once as a classic BPF program that the kernel runs for PACKET_FANOUT_CBPF. The
 * kernel's own hash (PACKET_FANOUT_HASH) is symmetric, too, but keyed with a secret: nobody could
 * say beforehand which worker a rewritten flow will arrive at.
 *
 * Worker of a packet = hash % workers. What hashes without ports (0 on both sides): fragments, the
 * first one included, so that all of a datagram meet; protocols other than TCP, UDP and SCTP; IPv6
 * with extension headers. Frames that are not IP, or shorter than their headers, hash to 0. Up to
 * three VLAN tags are looked through, tunnels are not.
 */
#ifndef NFM_IO_SPREAD_H
#define NFM_IO_SPREAD_H

#include "nfm/nfm.h"

#include <linux/filter.h>

enum { NFM_SPREAD_MAX_OPS = 128 };

/* One side of a conversation. |addr| has 4 or 16 bytes, |port| host order. */
uint32_t nfm_spread_endpoint(const uint8_t *addr, bool ipv6, uint16_t port);
/* The hash of a conversation from its two sides, in any order. */
uint32_t nfm_spread_pair(uint32_t a, uint32_t b);
/* The hash of an Ethernet frame, as the kernel's program computes it. */
uint32_t nfm_spread_frame(const uint8_t *frame, uint32_t len);
/* Writes the program; returns its length, at most NFM_SPREAD_MAX_OPS. It begins at the network
 * header, where fanout programs begin. */
uint16_t nfm_spread_program(struct sock_filter ops[NFM_SPREAD_MAX_OPS]);

#endif
