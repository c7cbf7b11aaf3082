/* SPDX-License-Identifier: Apache-2.0 */
/* The two ends of stream_sim.h: how they send and receive, and what must hold at each frame. */
#ifndef STREAM_ENDS_H
#define STREAM_ENDS_H

#include "engine/strand.h"
#include "wire/layers.h"
#include "worker_rig.h"

enum { SIM_TYPE = 7, SIM_STAGES = 3 }; /* events about runs, and about such events one more */
enum { SIM_BYTES = 1500, SIM_OUT = 16 * SIM_BYTES, SIM_QUEUE = 64, SIM_FRAME = 2048 };

extern const nfm_module nfm_module_tcp_track, nfm_module_tcp_stream;

typedef struct sim_random { /* of a seed, or a fuzzer's bytes first */
    const uint8_t *bytes;
    size_t left;
    uint64_t state;
} sim_random;

typedef struct sim_entry { /* what was decided on the run that begins at a place of the stream */
    uint32_t len, out_len;
    bool seen, accepted;
    uint8_t bytes[SIM_FRAME], out[SIM_FRAME * 2];
} sim_entry;

struct stream_sim;

typedef struct sim_end {
    nfm_port port;
    struct stream_sim *sim;
    unsigned number;
    uint8_t frames[SIM_QUEUE][SIM_FRAME]; /* on their way to the worker */
    uint32_t len[SIM_QUEUE], head, tail;
    /* as a sender */
    uint32_t isn, una, max, n; /* una, max: offsets in the stream */
    uint8_t stream[SIM_BYTES];
    uint32_t judged;    /* place of the next run that is judged for the first time */
    sim_entry *entries; /* by place */
    /* as a receiver */
    uint8_t wire[SIM_OUT]; /* what came, lost later or not */
    bool on_wire[SIM_OUT], got[SIM_OUT];
    uint32_t next, n_frames;
    bool fin, reset;
    uint8_t flags; /* of the last frame */
} sim_end;

typedef struct stream_sim {
    sim_random random;
    sim_end end[2];
    nfm_worker *worker;
    nfm_ring *ring, *later[SIM_STAGES]; /* later[n] decides on events of stage n; [0] is none */
    uint32_t drop, loss, garbage, replace, ahead, raise; /* of 256 */
    uint32_t raised[SIM_STAGES], heard[SIM_STAGES];
    uint32_t verdict_later[SIM_STAGES];
    uint32_t mss;
    uint32_t verdict; /* NFM_PASS: drawn; else on all */
    bool fail_open, ipv6, drops;
    bool resizes;
    int64_t now_ns;
    void (*extend)(struct stream_sim *); /* before the worker starts; NULL: nothing */
    uint64_t counters[NFM_CC_COUNT];     /* of the worker, when all is over */
} stream_sim;

static inline uint32_t sim_draw(stream_sim *s, uint32_t below) {
    sim_random *r = &s->random;
    r->state ^= r->state << 13;
    r->state ^= r->state >> 7;
    r->state ^= r->state << 17;
    uint32_t value = (uint32_t)(r->state >> 33);
    if (r->left >= 2) {
        value = (uint32_t)(r->bytes[0] << 8 | r->bytes[1]);
        r->bytes += 2;
        r->left -= 2;
    }
    return below == 0 ? 0 : value % below;
}

static inline bool sim_chance(stream_sim *s, uint32_t of_256) {
    return sim_draw(s, 256) < of_256;
}

/* ---- the wires ---- */

static inline int sim_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    sim_end *e = (sim_end *)port;
    uint32_t done = 0;
    for (; done < n && e->head != e->tail; done++, e->head++) {
        uint32_t at = e->head % SIM_QUEUE, slot = nfm_pool_get(pool, e->len[at]);
        if (slot == NFM_NO_SLOT)
            break;
        memset(nfm_pool_addr(pool, slot), 0, sizeof(nfm_slot_meta));
        memcpy(nfm_pool_addr(pool, slot) + NFM_HEADROOM, e->frames[at], e->len[at]);
        frames[done] = (nfm_frame){slot, e->len[at], e->len[at], 1, e->sim->now_ns += 1000};
    }
    return (int)done;
}

/* The place at the receiver of what is at |at| in the stream; SIM_OUT: it was not accepted. */
static inline uint32_t sim_place(const sim_end *e, uint32_t at) {
    uint32_t from = 0, out = 0;
    while (from < e->n && e->entries[from].seen) {
        const sim_entry *entry = &e->entries[from];
        if (at < from + entry->len)
            return out + (at - from) * entry->out_len / entry->len;
        out += entry->accepted ? entry->out_len : entry->len;
        from += entry->len;
    }
    return at == from ? out : SIM_OUT;
}

/* What |e| is told to have been received was. */
static inline void sim_check_sack(const sim_end *e, const nfm_record *r, const uint8_t *slot) {
    if (e->sim->drops && e->sim->resizes)
        return; /* what was decided last need not be what has left */
    const sim_end *peer = &e->sim->end[e->number ^ 1];
    const uint8_t *at = slot + r->l4_off + 20, *end = slot + r->payload_off;
    while (at + 10 <= end && *at != 5)
        at += *at == 1 ? 1 : at[1];
    for (const uint8_t *edge = at + 2; at + 10 <= end && edge + 8 <= at + at[1]; edge += 8) {
        uint32_t left = nfm_read32(edge) - (e->isn + 1);
        uint32_t right = nfm_read32(edge + 4) - (e->isn + 1);
        CHECK(left <= right && right <= e->max);
        for (uint32_t i = left; i < right && i < SIM_BYTES; i++)
            for (uint32_t o = sim_place(e, i); o < sim_place(e, i + 1) && o < SIM_OUT; o++)
                CHECK(peer->got[o]);
    }
}

static inline void sim_receive(sim_end *e, const nfm_record *r, const uint8_t *slot) {
    sim_end *peer = &e->sim->end[e->number ^ 1];
    const uint8_t *tcp = slot + r->l4_off;
    uint32_t at = nfm_read32(tcp + 4) - (peer->isn + 1), ack = nfm_read32(tcp + 8) - (e->isn + 1);
    e->n_frames++;
    e->flags = r->tcp_flags;
    e->reset |= (r->tcp_flags & 4) && nfm_read32(tcp + 4) == peer->isn + 1 + e->next;
    if (r->tcp_flags & 2)
        return;
    CHECK((int32_t)ack <= (int32_t)e->max + 1);
    sim_check_sack(e, r, slot);
    for (uint32_t i = 0; i < r->payload_len; i++) {
        CHECK(at + i < SIM_OUT);
        if (at + i >= SIM_OUT)
            return;
        uint8_t byte = slot[r->payload_off + i];
        CHECK(!e->on_wire[at + i] || e->wire[at + i] == byte);
        e->wire[at + i] = byte;
        e->on_wire[at + i] = true;
    }
    if (sim_chance(e->sim, e->sim->loss))
        return;
    if ((int32_t)(ack - e->una) > 0)
        e->una = ack;
    for (uint32_t i = 0; i < r->payload_len; i++)
        e->got[at + i] = true;
    while (e->got[e->next])
        e->next++;
    if (r->tcp_flags & 1 && at + r->payload_len == e->next)
        e->fin = true;
}

static inline int sim_tx(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        static uint8_t copy[NFM_SLOT_LARGE];
        nfm_record record;
        nfm_flow_info info;
        memcpy(copy + NFM_HEADROOM, nfm_pool_addr(pool, frames[i].slot) + frames[i].off,
               frames[i].len);
        CHECK_EQ(nfm_parse_frame(copy + NFM_HEADROOM, frames[i].len, frames[i].len, 1, 0, &record,
                                 &info),
                 0);
        bool ipv6 = (record.flags & NFM_F_IPV6) != 0;
        nfm_key key = {.ip_version = ipv6 ? 6 : 4};
        memcpy(key.addr, info.addr, sizeof(key.addr));
        uint32_t len = record.payload_off + record.payload_len - record.l4_off;
        CHECK_EQ(nfm__l4_checksum(&key, 6, copy + record.l4_off, len), 0);
        CHECK(ipv6 || nfm_csum_fold(nfm_csum_add(0, copy + record.l3_off, 20)) == 0);
        CHECK_EQ(record.payload_off + record.payload_len, NFM_HEADROOM + frames[i].len);
        CHECK(port->stats.mtu == 0 ||
              NFM_HEADROOM + frames[i].len - record.l3_off <= port->stats.mtu);
        sim_receive((sim_end *)port, &record, copy);
        nfm_pool_put(pool, frames[i].slot);
    }
    return (int)n;
}

static inline int sim_wait_fd(nfm_port *port) {
    (void)port;
    return -1;
}

static inline void sim_free_port(nfm_port *port) {
    (void)port;
}

static const nfm_port_ops sim_ops = {
    .name = "sim", .rx = sim_rx, .tx = sim_tx, .wait_fd = sim_wait_fd, .free = sim_free_port};

/* ---- sending ---- */

/* Says which bytes behind the next one there are. */
static inline void sim_sack(const sim_end *e, nfm_tcp_fields *tcp) {
    uint32_t first = e->sim->end[e->number ^ 1].isn + 1;
    for (uint32_t i = e->next; i < SIM_OUT && tcp->opts.n_sack < 3; i++) {
        if (!e->got[i] || (i > 0 && e->got[i - 1]))
            continue;
        uint32_t end = i;
        while (end < SIM_OUT && e->got[end])
            end++;
        tcp->opts.seen |= NFM_OPT_SACK;
        tcp->opts.sack[tcp->opts.n_sack][0] = first + i;
        tcp->opts.sack[tcp->opts.n_sack++][1] = first + end;
    }
}

/* Sends bytes [at, at + len) of an end's stream, or others in their place. */
static inline void sim_send(stream_sim *s, sim_end *e, uint32_t at, uint32_t len, uint8_t flags) {
    sim_end *peer = &s->end[e->number ^ 1];
    uint8_t bytes[SIM_FRAME];
    if (e->tail - e->head == SIM_QUEUE)
        return;
    uint32_t slot = e->tail++ % SIM_QUEUE;
    nfm_emit_buf buf = {e->frames[slot], SIM_FRAME, 0};
    nfm_ip_fields ip = {.ttl = 64};
    nfm_tcp_fields tcp = {e->isn + 1 + at, peer->isn + 1 + e->next, 8192, 0, flags, {0}};
    nfm_key key;
    memset(&key, 0, sizeof(key));
    if (flags & 2) {
        tcp.seq--;
        tcp.ack = flags & 16 ? peer->isn + 1 : 0;
    } else if (e->fin) {
        tcp.ack++;
    }
    for (uint32_t i = 0; i < len; i++)
        bytes[i] = at + i < e->n ? e->stream[at + i] : 'K';
    if (sim_chance(s, s->garbage))
        for (uint32_t i = 0; i < len; i++)
            bytes[i] = (uint8_t)('A' + sim_draw(s, 26));
    sim_sack(e, &tcp);
    key.ip_version = s->ipv6 ? 6 : 4;
    key.proto = 6;
    memcpy(key.addr[0], e->number ? "\x0a\0\0\2" : "\x0a\0\0\1", 4);
    memcpy(key.addr[1], e->number ? "\x0a\0\0\1" : "\x0a\0\0\2", 4);
    key.port[0] = e->number ? 80 : 4000;
    key.port[1] = e->number ? 4000 : 80;
    uint32_t l4_len = nfm_emit_tcp_len(&tcp.opts) + len;
    nfm_emit_eth(&buf, (const uint8_t *)"\2\0\0\0\0\1", (const uint8_t *)"\2\0\0\0\0\2",
                 s->ipv6 ? 0x86dd : 0x0800);
    if (s->ipv6)
        nfm_emit_ipv6(&buf, &key, &ip, l4_len);
    else
        nfm_emit_ipv4(&buf, &key, &ip, l4_len);
    nfm_emit_tcp(&buf, &key, &tcp, (nfm_view){bytes, len});
    e->len[slot] = buf.len;
    if (at + len > e->max && at + len <= e->n)
        e->max = at + len;
}

#endif
