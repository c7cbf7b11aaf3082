/* SPDX-License-Identifier: Apache-2.0 */
/* Builders of headers, the counterpart of the parser: what they write, nfm_wire_parse reads back.
 * Each appends one header (or header and payload) to a buffer, outermost first, checksums included.
 */
#ifndef NFM_WIRE_EMIT_H
#define NFM_WIRE_EMIT_H

#include "nfm/module.h"

typedef struct nfm_emit_buf { /* borrowed memory */
    uint8_t *data;
    uint32_t cap, len;
} nfm_emit_buf;

typedef struct nfm_ip_fields { /* IP fields that are not in the key */
    uint32_t flow_label;       /* IPv6 */
    uint16_t id;               /* IPv4 */
    uint16_t fragment;         /* IPv4: flags and offset as on the wire (0x4000 don't fragment) */
    uint8_t ttl;
    uint8_t tos; /* traffic class */
} nfm_ip_fields;

typedef struct nfm_tcp_fields {
    uint32_t seq, ack;
    uint16_t window, urgent;
    uint8_t flags;
    nfm_tcp_opts opts; /* MSS, WSCALE, SACK_OK, TIMESTAMP and SACK are written */
} nfm_tcp_fields;

int nfm_emit_bytes(nfm_emit_buf *buf, const void *data, uint32_t len);
int nfm_emit_eth(nfm_emit_buf *buf, const uint8_t *dst, const uint8_t *src, uint16_t type);
int nfm_emit_ipv4(nfm_emit_buf *buf, const nfm_key *key, const nfm_ip_fields *ip, uint32_t len);
int nfm_emit_ipv6(nfm_emit_buf *buf, const nfm_key *key, const nfm_ip_fields *ip, uint32_t len);
int nfm_emit_tcp(nfm_emit_buf *buf, const nfm_key *key, const nfm_tcp_fields *tcp,
                 nfm_view payload);
int nfm_emit_udp(nfm_emit_buf *buf, const nfm_key *key, nfm_view payload);
int nfm_emit_icmp(nfm_emit_buf *buf, const nfm_key *key, uint16_t type_code, uint32_t rest,
                  nfm_view payload);
/* Bytes of the TCP header with |opts|: what IP must be told beside the payload. */
uint32_t nfm_emit_tcp_len(const nfm_tcp_opts *opts);

#endif
