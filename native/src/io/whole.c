/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segments as a NIC would make them (what Linux calls GSO): each repeats the headers; the first
 * keeps CWR, the last PSH and FIN (RFC 3168 section 6.1.2, RFC 9293 section 3.10); IPv4
 * identifications count up; lengths and checksums are their own. Every offset is checked against
 * the frame: meta and bytes may contradict each other.
 */
#include "io/whole.h"

#include <string.h>

enum {
    GSO_TCPV4 = 1, /* VIRTIO_NET_HDR_GSO_* */
    GSO_TCPV6 = 4,
    GSO_UDP_L4 = 5,
    GSO_ECN = 0x80,
    PROTO_TCP = 6,
    PROTO_UDP = 17,
    TCP_FIN = 1,
    TCP_PSH = 8,
    TCP_CWR = 128,
};

typedef struct layout { /* of an unfinished frame */
    const uint8_t *frame;
    uint32_t len;
    uint32_t l3, l4, payload; /* offsets */
    uint32_t step;            /* payload bytes of a segment */
    uint8_t proto;
    bool ipv6;
} layout;

static uint16_t get16(const uint8_t *p) {
    return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v) {
    put16(p, v >> 16);
    put16(p + 2, v);
}

static uint32_t get32(const uint8_t *p) {
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

/* RFC 1071: 16-bit words in one's complement, in wide steps. */
static uint64_t sum_bytes(uint64_t sum, const uint8_t *p, uint32_t len) {
    for (; len >= 4; len -= 4, p += 4)
        sum += get32(p);
    if (len >= 2)
        sum += get16(p);
    if (len & 1)
        sum += (uint32_t)p[len - 1] << 8;
    return sum;
}

static uint16_t fold(uint64_t sum) {
    sum = (sum & 0xffffffff) + (sum >> 32);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* Where L3 begins, behind Ethernet and VLAN tags; *ipv6 says what it is. 0: neither IP. */
static uint32_t find_l3(const uint8_t *frame, uint32_t len, bool *ipv6) {
    uint32_t at = 12;
    while (at + 6 <= len && (get16(frame + at) == 0x8100 || get16(frame + at) == 0x88a8))
        at += 4;
    if (at + 2 + 20 > len)
        return 0;
    *ipv6 = get16(frame + at) == 0x86dd;
    return *ipv6 || get16(frame + at) == 0x0800 ? at + 2 : 0;
}

static int lay_out(layout *l, const nfm_slot_meta *meta) {
    uint8_t kind = meta->gso_type & (uint8_t)~GSO_ECN;
    l->l3 = find_l3(l->frame, l->len, &l->ipv6);
    l->l4 = meta->csum_start;
    if (l->l3 == 0 || l->l4 < l->l3 + (l->ipv6 ? 40u : 20u) || meta->gso_size == 0)
        return NFM_E_FORMAT;
    if ((kind == GSO_TCPV4 && l->ipv6) || (kind == GSO_TCPV6 && !l->ipv6))
        return NFM_E_FORMAT;
    if (kind != GSO_TCPV4 && kind != GSO_TCPV6 && kind != GSO_UDP_L4)
        return NFM_E_FORMAT;
    l->proto = kind == GSO_UDP_L4 ? PROTO_UDP : PROTO_TCP;
    l->payload = l->l4 + 8;
    if (l->proto == PROTO_TCP) {
        if (l->l4 + 20 > l->len || l->frame[l->l4 + 12] >> 4 < 5)
            return NFM_E_FORMAT;
        l->payload = l->l4 + (l->frame[l->l4 + 12] >> 4) * 4u;
    }
    if (l->payload >= l->len || (!l->ipv6 && l->l3 + (l->frame[l->l3] & 15) * 4u != l->l4))
        return NFM_E_FORMAT;
    l->step = meta->gso_size;
    return NFM_OK;
}

/* The L4 checksum over |l4_len| bytes at |l4|, with the pseudo header of the addresses at |l3|. */
static uint16_t l4_checksum(const layout *l, const uint8_t *l3, const uint8_t *l4,
                            uint32_t l4_len) {
    uint64_t sum = (uint64_t)l->proto + l4_len;
    sum = l->ipv6 ? sum_bytes(sum, l3 + 8, 32) : sum_bytes(sum, l3 + 12, 8);
    return fold(sum_bytes(sum, l4, l4_len));
}

/* Writes segment |i| of |count|, |bytes| of payload, to |to|. */
static void build_segment(const layout *l, uint8_t *to, uint32_t i, uint32_t count,
                          uint32_t bytes) {
    uint32_t l4_len = l->payload - l->l4 + bytes;
    uint8_t *l3 = to + l->l3, *l4 = to + l->l4;
    memcpy(to, l->frame, l->payload);
    memcpy(to + l->payload, l->frame + l->payload + (size_t)i * l->step, bytes);
    if (l->ipv6) {
        put16(l3 + 4, l->l4 - l->l3 - 40 + l4_len);
    } else {
        put16(l3 + 2, l->l4 - l->l3 + l4_len);
        put16(l3 + 4, get16(l3 + 4) + i);
        put16(l3 + 10, 0);
        put16(l3 + 10, fold(sum_bytes(0, l3, l->l4 - l->l3)));
    }
    uint8_t *check = l4 + (l->proto == PROTO_TCP ? 16 : 6);
    if (l->proto == PROTO_TCP) {
        put32(l4 + 4, get32(l4 + 4) + i * l->step);
        if (i > 0)
            l4[13] &= (uint8_t)~TCP_CWR;
        if (i + 1 < count)
            l4[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
    } else {
        put16(l4 + 4, l4_len);
    }
    put16(check, 0);
    uint16_t sum = l4_checksum(l, l3, l4, l4_len);
    put16(check, sum == 0 && l->proto == PROTO_UDP ? 0xffff : sum); /* RFC 768: 0 is none */
}

static nfm_tx new_frame(nfm_pool *pool, const nfm_tx *like, uint32_t len) {
    nfm_tx made = {
        .slot = nfm_pool_get(pool, len), .off = NFM_HEADROOM, .len = len, .ts_ns = like->ts_ns};
    if (made.slot != NFM_NO_SLOT)
        memset(nfm_pool_addr(pool, made.slot), 0, sizeof(nfm_slot_meta));
    return made;
}

static int make_segments(nfm_pool *pool, const nfm_tx *frame, const layout *l, nfm_tx *out) {
    uint32_t left = l->len - l->payload, count = (left + l->step - 1) / l->step;
    if (count > NFM_WHOLE_MAX)
        return NFM_E_FORMAT;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bytes = left < l->step ? left : l->step;
        out[i] = new_frame(pool, frame, l->payload + bytes);
        if (out[i].slot == NFM_NO_SLOT) {
            while (i-- > 0)
                nfm_pool_put(pool, out[i].slot);
            return NFM_E_LIMIT;
        }
        build_segment(l, nfm_pool_addr(pool, out[i].slot) + NFM_HEADROOM, i, count, bytes);
        left -= bytes;
    }
    return (int)count;
}

/* A copy whose checksum is complete: the field holds the pseudo header's sum, as the kernel
 * leaves it. */
static int make_checked(nfm_pool *pool, const nfm_tx *frame, const uint8_t *bytes, nfm_tx *out) {
    const nfm_slot_meta *meta = nfm_slot_meta_at(nfm_pool_addr(pool, frame->slot));
    uint32_t start = meta->csum_start, field = start + meta->csum_offset;
    if (start >= frame->len || field + 2 > frame->len)
        return NFM_E_FORMAT;
    *out = new_frame(pool, frame, frame->len);
    if (out->slot == NFM_NO_SLOT)
        return NFM_E_LIMIT;
    uint8_t *to = nfm_pool_addr(pool, out->slot) + NFM_HEADROOM;
    memcpy(to, bytes, frame->len);
    uint16_t sum = fold(sum_bytes(0, to + start, frame->len - start));
    put16(to + field, sum == 0 && meta->csum_offset == 6 ? 0xffff : sum);
    return 1;
}

int nfm_whole_make(nfm_pool *pool, const nfm_tx *frame, nfm_tx *out) {
    uint8_t *slot = nfm_pool_addr(pool, frame->slot);
    const nfm_slot_meta *meta = nfm_slot_meta_at(slot);
    if (meta->gso_type == 0)
        return make_checked(pool, frame, slot + frame->off, out);
    layout l = {.frame = slot + frame->off, .len = frame->len};
    int rc = lay_out(&l, meta);
    return rc == NFM_OK ? make_segments(pool, frame, &l, out) : rc;
}

/* Sends the frames that an unfinished one stands for. False: there is no room for them now. */
static bool send_unfinished(nfm_port *port, nfm_pool *pool, const nfm_sender *sender,
                            const nfm_tx *frame) {
    nfm_tx parts[NFM_WHOLE_MAX];
    int made = nfm_whole_make(pool, frame, parts);
    if (made == NFM_E_LIMIT)
        return false;
    uint32_t done = 0, count = made > 0 ? (uint32_t)made : 0;
    port->stats.tx_errors += made < 0;
    bool too_long = count > 0 && parts[0].len > sender->max_len;
    port->stats.tx_oversize += too_long;
    while (done < count && !too_long) {
        uint32_t run = count - done < NFM_BURST ? count - done : NFM_BURST;
        uint32_t sent = sender->send(port, pool, parts + done, run);
        done += sent;
        if (sent < run)
            break;
    }
    for (uint32_t i = done; i < count; i++)
        nfm_pool_put(pool, parts[i].slot);
    if (done == 0 && count > 0 && !too_long) /* nothing went: the caller may try again */
        return false;
    port->stats.tx_full += too_long ? 0 : count - done;
    nfm_pool_put(pool, frame->slot);
    return true;
}

/* How many of the frames can go as they are, in one run. */
static uint32_t run_length(const nfm_pool *pool, const nfm_sender *sender, const nfm_tx *frames,
                           uint32_t n) {
    uint32_t run = 0;
    while (run < NFM_BURST && run < n && frames[run].len <= sender->max_len &&
           nfm_is_whole(pool, frames[run].slot))
        run++;
    return run;
}

int nfm_whole_send(nfm_port *port, nfm_pool *pool, const nfm_sender *sender, const nfm_tx *frames,
                   uint32_t n) {
    uint32_t done = 0;
    while (done < n) {
        uint32_t run = run_length(pool, sender, frames + done, n - done);
        if (run > 0) {
            uint32_t sent = sender->send(port, pool, frames + done, run);
            done += sent;
            if (sent < run)
                break;
        } else if (!nfm_is_whole(pool, frames[done].slot)) {
            if (!send_unfinished(port, pool, sender, &frames[done]))
                break;
            done++;
        } else {
            port->stats.tx_oversize++;
            nfm_pool_put(pool, frames[done++].slot);
        }
    }
    port->stats.tx_full += n - done;
    return (int)done;
}
