/* SPDX-License-Identifier: Apache-2.0 */
/* Builders of headers (emit.h). All of them append to a caller's buffer and return NFM_OK, or
 * NFM_E_LIMIT with the buffer as it was when the room or a 16-bit length does not suffice. */
#include <string.h>

#include "wire/emit.h"
#include "wire/layers.h"

enum { ETH_LEN = 14, IPV4_LEN = 20, IPV6_LEN = 40, TCP_LEN = 20, TCP_MAX = 60, UDP_LEN = 8 };

/* Room for |len| more bytes, counted as used; NULL when there is none. */
static uint8_t *take(nfm_emit_buf *buf, uint32_t len) {
    if (len > buf->cap - buf->len)
        return NULL;
    uint8_t *p = buf->data + buf->len;
    buf->len += len;
    return p;
}

/* nfm_emit_bytes appends |len| bytes as they are. Returns NFM_OK or NFM_E_LIMIT. */
int nfm_emit_bytes(nfm_emit_buf *buf, const void *data, uint32_t len) {
    uint8_t *p = take(buf, len);
    if (p == NULL)
        return NFM_E_LIMIT;
    if (len > 0)
        memcpy(p, data, len);
    return NFM_OK;
}

/* nfm_emit_eth appends an Ethernet header; |dst| and |src| are 6 bytes. NFM_OK or NFM_E_LIMIT. */
int nfm_emit_eth(nfm_emit_buf *buf, const uint8_t *dst, const uint8_t *src, uint16_t type) {
    uint8_t *p = take(buf, ETH_LEN);
    if (p == NULL)
        return NFM_E_LIMIT;
    memcpy(p, dst, 6);
    memcpy(p + 6, src, 6);
    nfm_write16(p + 12, type);
    return NFM_OK;
}

/* nfm_emit_ipv4 appends an IPv4 header without options for |len| bytes behind it, from the key's
 * sender to its receiver. Source: RFC 791. Returns NFM_OK or NFM_E_LIMIT. */
int nfm_emit_ipv4(nfm_emit_buf *buf, const nfm_key *key, const nfm_ip_fields *ip, uint32_t len) {
    uint8_t *p = len <= UINT16_MAX - IPV4_LEN ? take(buf, IPV4_LEN) : NULL;
    if (p == NULL)
        return NFM_E_LIMIT;
    p[0] = 0x45;
    p[1] = ip->tos;
    nfm_write16(p + 2, (uint16_t)(IPV4_LEN + len));
    nfm_write16(p + 4, ip->id);
    nfm_write16(p + 6, ip->fragment);
    p[8] = ip->ttl;
    p[9] = key->proto;
    nfm_write16(p + 10, 0);
    memcpy(p + 12, key->addr[0], 4);
    memcpy(p + 16, key->addr[1], 4);
    nfm_write16(p + 10, nfm_csum_fold(nfm_csum_add(0, p, IPV4_LEN)));
    return NFM_OK;
}

/* nfm_emit_ipv6 appends an IPv6 header for |len| bytes behind it; the key's protocol is its next
 * header. Source: RFC 8200 section 3. Returns NFM_OK or NFM_E_LIMIT. */
int nfm_emit_ipv6(nfm_emit_buf *buf, const nfm_key *key, const nfm_ip_fields *ip, uint32_t len) {
    uint8_t *p = len <= UINT16_MAX ? take(buf, IPV6_LEN) : NULL;
    if (p == NULL)
        return NFM_E_LIMIT;
    nfm_write32(p, 6u << 28 | (uint32_t)ip->tos << 20 | (ip->flow_label & 0xfffff));
    nfm_write16(p + 4, (uint16_t)len);
    p[6] = key->proto;
    p[7] = ip->ttl;
    memcpy(p + 8, key->addr[0], 16);
    memcpy(p + 24, key->addr[1], 16);
    return NFM_OK;
}

/* Writes two bytes that fill up to a multiple of four, and an option's kind and length. */
static uint8_t *option_begin(uint8_t *p, uint8_t kind, uint8_t len) {
    p[0] = p[1] = 1; /* no operation */
    p[2] = kind;
    p[3] = len;
    return p + 4;
}

/* Writes |opts| at |p| (room for 40 bytes), each padded to four; SACK blocks as many as still fit.
 * Returns their length. */
static uint32_t options_write(uint8_t *p, const nfm_tcp_opts *opts) {
    uint8_t *start = p;
    if ((opts->seen & NFM_OPT_MSS) != 0) {
        p[0] = 2;
        p[1] = 4;
        nfm_write16(p + 2, opts->mss);
        p += 4;
    }
    if ((opts->seen & NFM_OPT_SACK_OK) != 0)
        p = option_begin(p, 4, 2);
    if ((opts->seen & NFM_OPT_WSCALE) != 0) {
        p[0] = 1;
        p[1] = 3;
        p[2] = 3;
        p[3] = opts->wscale;
        p += 4;
    }
    if ((opts->seen & NFM_OPT_TIMESTAMP) != 0) {
        p = option_begin(p, 8, 10);
        nfm_write32(p, opts->tsval);
        nfm_write32(p + 4, opts->tsecr);
        p += 8;
    }
    uint32_t room = (TCP_MAX - TCP_LEN) - (uint32_t)(p - start);
    uint32_t n = opts->n_sack < 4 ? opts->n_sack : 4;
    if ((opts->seen & NFM_OPT_SACK) != 0 && room >= 12 && n > 0) {
        n = n <= (room - 4) / 8 ? n : (room - 4) / 8;
        p = option_begin(p, 5, (uint8_t)(2 + n * 8));
        for (uint32_t i = 0; i < n; i++, p += 8) {
            nfm_write32(p, opts->sack[i][0]);
            nfm_write32(p + 4, opts->sack[i][1]);
        }
    }
    return (uint32_t)(p - start);
}

/* nfm_emit_tcp_len returns the bytes of a TCP header with |opts|, 20 to 60. */
uint32_t nfm_emit_tcp_len(const nfm_tcp_opts *opts) {
    uint8_t scratch[TCP_MAX - TCP_LEN];
    return TCP_LEN + options_write(scratch, opts);
}

/*
 * nfm_emit_tcp appends a TCP header with options, the payload, and the checksum over both. Borrows
 * |payload|. Source: RFC 9293 section 3.1; options in the order that Linux uses, padded to four
 * bytes. Returns NFM_OK or NFM_E_LIMIT.
 */
int nfm_emit_tcp(nfm_emit_buf *buf, const nfm_key *key, const nfm_tcp_fields *tcp,
                 nfm_view payload) {
    uint8_t options[TCP_MAX - TCP_LEN];
    uint32_t n_options = options_write(options, &tcp->opts);
    uint32_t len = TCP_LEN + n_options + payload.len;
    uint8_t *p = payload.len <= NFM_MAX_FRAME ? take(buf, len) : NULL;
    if (p == NULL)
        return NFM_E_LIMIT;
    nfm_write16(p, key->port[0]);
    nfm_write16(p + 2, key->port[1]);
    nfm_write32(p + 4, tcp->seq);
    nfm_write32(p + 8, tcp->ack);
    p[12] = (uint8_t)((TCP_LEN + n_options) / 4 << 4);
    p[13] = tcp->flags;
    nfm_write16(p + 14, tcp->window);
    nfm_write16(p + 16, 0);
    nfm_write16(p + 18, tcp->urgent);
    memcpy(p + TCP_LEN, options, n_options);
    if (payload.len > 0)
        memcpy(p + TCP_LEN + n_options, payload.data, payload.len);
    nfm_write16(p + 16, nfm__l4_checksum(key, NFM__IP_TCP, p, len));
    return NFM_OK;
}

/* nfm_emit_udp appends a UDP header and the payload; a checksum that comes out as 0 is sent as
 * 0xffff (RFC 768). Borrows |payload|. Returns NFM_OK or NFM_E_LIMIT. */
int nfm_emit_udp(nfm_emit_buf *buf, const nfm_key *key, nfm_view payload) {
    uint32_t len = UDP_LEN + payload.len;
    uint8_t *p = payload.len <= UINT16_MAX - UDP_LEN ? take(buf, len) : NULL;
    if (p == NULL)
        return NFM_E_LIMIT;
    nfm_write16(p, key->port[0]);
    nfm_write16(p + 2, key->port[1]);
    nfm_write16(p + 4, (uint16_t)len);
    nfm_write16(p + 6, 0);
    if (payload.len > 0)
        memcpy(p + UDP_LEN, payload.data, payload.len);
    uint16_t sum = nfm__l4_checksum(key, NFM__IP_UDP, p, len);
    nfm_write16(p + 6, sum != 0 ? sum : 0xffff);
    return NFM_OK;
}

/* nfm_emit_icmp appends an ICMP message of the key's protocol (1 or 58): type << 8 | code, the four
 * bytes behind the checksum (echo: identifier << 16 | sequence), the body. Source: RFC 792, RFC
 * 4443. Borrows |payload|. Returns NFM_OK or NFM_E_LIMIT. */
int nfm_emit_icmp(nfm_emit_buf *buf, const nfm_key *key, uint16_t type_code, uint32_t rest,
                  nfm_view payload) {
    uint32_t len = 8 + payload.len;
    uint8_t *p = payload.len <= NFM_MAX_FRAME ? take(buf, len) : NULL;
    if (p == NULL)
        return NFM_E_LIMIT;
    nfm_write16(p, type_code);
    nfm_write16(p + 2, 0);
    nfm_write32(p + 4, rest);
    if (payload.len > 0)
        memcpy(p + 8, payload.data, payload.len);
    nfm_write16(p + 2, nfm__l4_checksum(key, key->proto, p, len));
    return NFM_OK;
}
