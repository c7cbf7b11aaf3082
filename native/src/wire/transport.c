/* SPDX-License-Identifier: Apache-2.0 */
/* Transport headers: TCP (RFC 9293) with its options, UDP, UDP-Lite, ICMP, SCTP. */
#include "wire/layers.h"

enum { TCP_LEN = 20, UDP_LEN = 8, ICMP_LEN = 8, SCTP_LEN = 12, MAX_HEADER = 64 };
enum { ICMP_ECHO_REPLY = 0, ICMP_ECHO = 8, ICMPV6_ECHO = 128, ICMPV6_ECHO_REPLY = 129 };
enum {
    TCPOPT_EOL = 0,
    TCPOPT_NOP = 1,
    TCPOPT_MSS = 2,
    TCPOPT_WSCALE = 3,
    TCPOPT_SACK_OK = 4,
    TCPOPT_SACK = 5,
    TCPOPT_TIMESTAMP = 8,
    TCPOPT_MD5 = 19,
    TCPOPT_FASTOPEN = 34,
    TCPOPT_EXPERIMENT = 254 /* with magic 0xf989: Fast Open before RFC 7413 */
};

void nfm__payload_set(nfm__walk *w, uint32_t header) {
    nfm__layer *layer = &w->layer;
    uint32_t behind = w->off + header;
    layer->l4_off = w->off;
    layer->payload_off = behind < w->end ? behind : w->end;
    layer->payload_len = w->end - layer->payload_off;
    layer->l4_len = behind < w->wire_end ? w->wire_end - behind : 0;
    if (w->end < w->wire_end)
        layer->flags |= NFM_F_TRUNCATED;
}

/* One option of |len| bytes, whole. A known option of the wrong length says nothing. */
static void tcp_option(nfm_tcp_opts *opts, const uint8_t *p, uint32_t len) {
    switch (p[0]) {
    case TCPOPT_MSS:
        if (len == 4) {
            opts->mss = nfm_read16(p + 2);
            opts->seen |= NFM_OPT_MSS;
        }
        break;
    case TCPOPT_WSCALE:
        if (len == 3) {
            opts->wscale = p[2] < NFM__WSCALE_MAX ? p[2] : NFM__WSCALE_MAX;
            opts->seen |= NFM_OPT_WSCALE;
        }
        break;
    case TCPOPT_SACK_OK:
        if (len == 2)
            opts->seen |= NFM_OPT_SACK_OK;
        break;
    case TCPOPT_SACK:
        if (len < 10 || (len - 2) % 8 != 0 || len > 34)
            break;
        opts->n_sack = (uint8_t)((len - 2) / 8);
        for (uint32_t i = 0; i < opts->n_sack; i++) {
            opts->sack[i][0] = nfm_read32(p + 2 + i * 8);
            opts->sack[i][1] = nfm_read32(p + 6 + i * 8);
        }
        opts->seen |= NFM_OPT_SACK;
        break;
    case TCPOPT_TIMESTAMP:
        if (len == 10) {
            opts->tsval = nfm_read32(p + 2);
            opts->tsecr = nfm_read32(p + 6);
            opts->seen |= NFM_OPT_TIMESTAMP;
        }
        break;
    case TCPOPT_MD5:
        if (len == 18)
            opts->seen |= NFM_OPT_MD5;
        break;
    case TCPOPT_FASTOPEN:
        opts->seen |= NFM_OPT_FASTOPEN;
        break;
    case TCPOPT_EXPERIMENT:
        if (len >= 4 && nfm_read16(p + 2) == 0xf989)
            opts->seen |= NFM_OPT_FASTOPEN;
        break;
    default:
        break;
    }
}

void nfm__tcp_options(nfm_tcp_opts *opts, const uint8_t *p, uint32_t len, uint32_t header) {
    opts->tsval = opts->tsecr = 0;
    opts->mss = 0;
    opts->wscale = opts->seen = opts->n_sack = 0;
    for (uint32_t i = 0; i < len && p[i] != TCPOPT_EOL;) {
        if (p[i] == TCPOPT_NOP) {
            i++;
            continue;
        }
        if (i + 1 >= header || (i + 1 < len && (p[i + 1] < 2 || i + p[i + 1] > header))) {
            opts->seen |= NFM_OPT_BAD;
            return;
        }
        if (i + 1 >= len || i + p[i + 1] > len) /* cut by the capture, not by the sender */
            return;
        tcp_option(opts, p + i, p[i + 1]);
        i += p[i + 1];
    }
}

/* True when L4 at the walk's position, |len| bytes, is wrong for sure: cut packets and those whose
 * final destination is in a routing header cannot be judged. */
static bool checksum_fails(const nfm__walk *w, uint32_t len) {
    if (!w->config->verify_checksums || w->end < w->wire_end || w->layer.via_routing)
        return false;
    return nfm__l4_checksum(&w->layer.key, w->layer.key.proto, nfm__at(w), len) != 0;
}

static enum nfm__step checksum_bad(nfm__walk *w, enum nfm_parse_drop why) {
    w->layer.flags |= NFM_F_BAD_L4_CSUM;
    return nfm__bad(w, why);
}

static enum nfm__step tcp(nfm__walk *w) {
    if (!nfm__has(w, TCP_LEN))
        return nfm__bad(w, NFM_PD_TCP_SHORT);
    const uint8_t *p = nfm__at(w);
    nfm_packet *packet = w->packet;
    uint32_t header = (p[12] >> 4) * 4u, captured = w->end - w->off;
    if (header < TCP_LEN || header > w->wire_end - w->off)
        return nfm__bad(w, NFM_PD_TCP_OFFSET);
    w->layer.key.port[0] = nfm_read16(p);
    w->layer.key.port[1] = nfm_read16(p + 2);
    w->layer.tcp_flags = p[13];
    packet->seq = nfm_read32(p + 4);
    packet->ack = nfm_read32(p + 8);
    packet->window = nfm_read16(p + 14);
    packet->urgent = nfm_read16(p + 18);
    nfm__tcp_options(&packet->tcp, p + TCP_LEN, (header < captured ? header : captured) - TCP_LEN,
                     header - TCP_LEN);
    nfm__payload_set(w, header);
    if (checksum_fails(w, captured))
        return checksum_bad(w, NFM_PD_TCP_CHECKSUM);
    return NFM__DONE;
}

/* UDP's length may be shorter than what IP carries (the rest is not UDP's), never longer. 0 stands
 * for a datagram beyond 65535 bytes (RFC 2675 section 4). */
static enum nfm__step udp(nfm__walk *w) {
    if (!nfm__has(w, UDP_LEN))
        return nfm__bad(w, NFM_PD_UDP_SHORT);
    const uint8_t *p = nfm__at(w);
    uint32_t len = nfm_read16(p + 4), room = w->wire_end - w->off;
    if (len == 0 && room > UINT16_MAX)
        len = room;
    if (len < UDP_LEN || len > room)
        return nfm__bad(w, NFM_PD_UDP_LENGTH);
    nfm__narrow(w, len);
    nfm_key *key = &w->layer.key;
    key->port[0] = nfm_read16(p);
    key->port[1] = nfm_read16(p + 2);
    nfm__payload_set(w, UDP_LEN);
    bool unchecked =
        nfm_read16(p + 6) == 0 && (key->ip_version == 4 || nfm__tunnel_is_port(key->port[1]));
    if (!unchecked && checksum_fails(w, len))
        return checksum_bad(w, NFM_PD_UDP_CHECKSUM);
    return nfm__tunnel_udp(w);
}

/* UDP-Lite (RFC 3828): where UDP has the length stands how much the checksum covers. */
static enum nfm__step udp_lite(nfm__walk *w) {
    if (!nfm__has(w, UDP_LEN))
        return nfm__bad(w, NFM_PD_UDP_SHORT);
    w->layer.key.port[0] = nfm_read16(nfm__at(w));
    w->layer.key.port[1] = nfm_read16(nfm__at(w) + 2);
    nfm__payload_set(w, UDP_LEN);
    return NFM__DONE;
}

static enum nfm__step icmp(nfm__walk *w) {
    if (!nfm__has(w, ICMP_LEN))
        return nfm__bad(w, NFM_PD_ICMP_SHORT);
    const uint8_t *p = nfm__at(w);
    nfm_key *key = &w->layer.key;
    bool echo = key->proto == NFM__IP_ICMP ? p[0] == ICMP_ECHO || p[0] == ICMP_ECHO_REPLY
                                           : p[0] == ICMPV6_ECHO || p[0] == ICMPV6_ECHO_REPLY;
    key->port[0] = key->port[1] = echo ? nfm_read16(p + 4) : nfm_read16(p);
    nfm__payload_set(w, ICMP_LEN);
    if (checksum_fails(w, w->end - w->off))
        return checksum_bad(w, NFM_PD_ICMP_CHECKSUM);
    return NFM__DONE;
}

static enum nfm__step sctp(nfm__walk *w) {
    if (!nfm__has(w, SCTP_LEN))
        return nfm__bad(w, NFM_PD_SCTP_SHORT);
    w->layer.key.port[0] = nfm_read16(nfm__at(w));
    w->layer.key.port[1] = nfm_read16(nfm__at(w) + 2);
    nfm__payload_set(w, SCTP_LEN);
    return NFM__DONE;
}

enum nfm__step nfm__transport(nfm__walk *w) {
    if (w->off > UINT16_MAX - MAX_HEADER) /* offsets in records are 16 bits wide */
        return nfm__bad(w, NFM_PD_IPV6_EXTENSION);
    bool v4 = w->layer.key.ip_version == 4;
    switch (w->layer.key.proto) {
    case NFM__IP_TCP:
        return tcp(w);
    case NFM__IP_UDP:
        return udp(w);
    case NFM__IP_UDPLITE:
        return udp_lite(w);
    case NFM__IP_SCTP:
        return sctp(w);
    case NFM__IP_IPV4:
        return nfm__tunnel_ipip(w, NFM__IPV4);
    case NFM__IP_IPV6:
        return nfm__tunnel_ipip(w, NFM__IPV6);
    case NFM__IP_GRE:
        return nfm__tunnel_gre(w);
    case NFM__IP_AH:
        return nfm__ip_v4_auth(w);
    case NFM__IP_ICMP:
        if (v4)
            return icmp(w);
        break;
    case NFM__IP_ICMPV6:
        if (!v4)
            return icmp(w);
        break;
    default:
        break;
    }
    nfm__payload_set(w, 0);
    return NFM__DONE;
}
