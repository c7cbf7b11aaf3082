/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two TCP endpoints with a worker between them whose inline receiver decides on tcp.data, and what
 * must hold of everything that leaves.
 *
 * The endpoints send their streams in segments that are cut, reordered, repeated, overlapped, lost
 * and filled with other bytes at random (or as a fuzzer's input says). The receiver drops runs of
 * bytes and replaces them, by as many or by more or fewer. An endpoint reassembles by itself, from
 * nothing but the frames that reach it. Held to be true, at each frame or at the end:
 *   - a place of a stream leaves with one value only: first copies and last copies make the same;
 *   - what has left is what was accepted, as it was accepted, in order and without a hole;
 *   - bytes are judged in order, each once, and again only as they were;
 *   - nobody is acknowledged what he has not sent; checksums and lengths are right;
 *   - both streams get through once nothing is lost and dropped any more;
 *   - nothing is kept when all is over.
 */
#ifndef STREAM_SIM_H
#define STREAM_SIM_H

#include "engine/strand.h"
#include "wire/layers.h"
#include "worker_rig.h"

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
    nfm_ring *ring;
    uint32_t drop, loss, garbage, replace, ahead; /* of 256 */
    uint32_t mss;
    uint32_t verdict; /* NFM_PASS: drawn; else on all */
    bool fail_open, ipv6, drops;
    bool resizes;
    int64_t now_ns;
    uint64_t counters[NFM_CC_COUNT]; /* of the worker, when all is over */
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

/* ---- deciding ---- */

static inline void sim_check_judged(sim_end *from, const nfm_record *r, nfm_view data) {
    uint64_t at = r->tcp.stream_off;
    CHECK(at + data.len <= SIM_BYTES && data.len > 0);
    if (at + data.len > SIM_BYTES)
        return;
    sim_entry *entry = &from->entries[at];
    if (r->flags & NFM_F_AGAIN) {
        CHECK(entry->seen && entry->len == data.len);
        CHECK(memcmp(entry->bytes, data.data, data.len) == 0);
    } else {
        CHECK_EQ(at, from->judged);
        from->judged = (uint32_t)at + data.len;
    }
    entry->seen = true;
    entry->len = data.len;
    memcpy(entry->bytes, data.data, data.len);
}

/* Draws the verdict on a run. */
static inline uint32_t sim_judge(stream_sim *s, const nfm_mem *mem, const nfm_record *r,
                                 nfm_edit *edit) {
    nfm_view data = nfm_record_data(mem, r);
    sim_end *from = &s->end[mem->flows[(uint32_t)r->flow].addr[r->side][3] - 1u];
    sim_check_judged(from, r, data);
    sim_entry *entry = &from->entries[r->tcp.stream_off];
    entry->accepted = false;
    if (s->verdict != NFM_PASS)
        return s->verdict;
    if (sim_chance(s, s->drop))
        return NFM_DROP;
    entry->accepted = true;
    entry->out_len = data.len;
    memcpy(entry->out, data.data, data.len);
    if (!sim_chance(s, s->replace))
        return NFM_PASS;
    entry->out_len = s->resizes ? sim_draw(s, data.len * 2 + 2) : data.len;
    uint32_t off;
    uint8_t *out = nfm_ring_payload(s->ring, entry->out_len, &off);
    if (out == NULL) {
        entry->accepted = false;
        return NFM_DROP;
    }
    for (uint32_t i = 0; i < entry->out_len; i++)
        entry->out[i] = (uint8_t)('0' + sim_draw(s, 10));
    memcpy(out, entry->out, entry->out_len);
    *edit = (nfm_edit){.fields = NFM_EDIT_PAYLOAD, .bytes_off = off, .bytes_len = entry->out_len};
    return NFM_REWRITE;
}

static inline void sim_serve(stream_sim *s, uint32_t most) {
    const nfm_desc *desc;
    uint32_t n = nfm_ring_peek(s->ring, &desc, most), *verdict = nfm_ring_verdicts(s->ring, n);
    nfm_edit *edit = nfm_ring_edits(s->ring);
    const nfm_mem *mem = nfm_worker_mem(s->worker);
    for (uint32_t i = 0; i < n; i++)
        verdict[i] = sim_judge(s, mem, &mem->records[desc[i].record], &edit[i]);
    nfm_ring_advance(s->ring, n);
}

/* ---- the whole ---- */

static inline void sim_begin_end(stream_sim *s, unsigned number) {
    sim_end *e = &s->end[number];
    e->port = (nfm_port){.ops = &sim_ops};
    e->port.stats.mtu = s->mss < 300 ? 300 : 1500 * sim_draw(s, 2);
    e->port.stats.link_up = 1;
    e->sim = s;
    e->number = number;
    e->isn = sim_draw(s, 2) ? 0xfffffe00u + sim_draw(s, 1024) : sim_draw(s, 1u << 16);
    e->n = number == 0 ? 1 + sim_draw(s, SIM_BYTES - 1) : sim_draw(s, 300);
    e->entries = calloc(SIM_BYTES + 1, sizeof(*e->entries));
    for (uint32_t i = 0; i < e->n; i++)
        e->stream[i] = (uint8_t)('a' + sim_draw(s, 26));
}

static inline void sim_begin_worker(stream_sim *s) {
    nfm_error err = {0};
    nfm_worker_config config = small_config();
    config.n_records = 4096;
    s->worker = nfm_worker_new(&config, &err);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(nfm_worker_add_port(s->worker, &s->end[i].port), NFM_OK);
    }
    CHECK_EQ(nfm_worker_forward(s->worker, 0, 1), NFM_OK);
    CHECK_EQ(nfm_worker_forward(s->worker, 1, 0), NFM_OK);
    CHECK(nfm_worker_add_module(s->worker, &nfm_module_tcp_track, NULL, NULL, &err) >= 0);
    CHECK(nfm_worker_add_module(s->worker, &nfm_module_tcp_stream, NULL, NULL, &err) >= 0);
    nfm_inline_config how = {.fail_open = s->fail_open};
    s->ring = nfm_worker_add_ring(s->worker, 1024, &err);
    CHECK_EQ(nfm_worker_make_inline(s->worker, s->ring, &how), NFM_OK);
    nfm_subscription sub = {.ring = s->ring,
                            .level = NFM_LEVEL_SPLIT,
                            .events = NFM_BIT(NFM_EV_TCP_DATA),
                            .type_first = 1,
                            .in_line = 1};
    CHECK(nfm_worker_subscribe(s->worker, &sub) >= 0);
    CHECK_EQ(nfm_worker_start(s->worker, &err), NFM_OK);
}

static inline void sim_turn(stream_sim *s) {
    (void)nfm_worker_run(s->worker, 256);
}

/* All that is on its way gets where it goes. */
static inline void sim_flush(stream_sim *s) {
    for (int i = 0; i < 4; i++) {
        sim_turn(s);
        sim_serve(s, 1024);
    }
    sim_turn(s);
}

static inline void sim_handshake(stream_sim *s) {
    uint32_t loss = s->loss;
    s->loss = 0;
    sim_send(s, &s->end[0], 0, 0, 2);
    sim_flush(s);
    sim_send(s, &s->end[1], 0, 0, 18);
    sim_flush(s);
    sim_send(s, &s->end[0], 0, 0, 16);
    sim_flush(s);
    s->loss = loss;
}

/* One thing that an end may do. */
static inline void sim_act(stream_sim *s) {
    sim_end *e = &s->end[sim_chance(s, 80)];
    uint32_t len = 1 + sim_draw(s, sim_draw(s, 4) ? 60 : s->mss), at = e->max;
    switch (sim_draw(s, 8)) {
    case 0: /* says what it has */
        sim_send(s, e, e->max, 0, 16);
        return;
    case 1: /* a keep-alive */
        if (e->una > 0)
            sim_send(s, e, e->una - 1, sim_draw(s, 2), 16);
        return;
    case 2: /* a copy of something */
    case 3:
        at = e->una > 30 ? e->una - sim_draw(s, 30) : 0;
        at += sim_draw(s, e->max - at + 1);
        break;
    case 4: /* ahead of what was sent */
        at += sim_chance(s, s->ahead) ? sim_draw(s, 400) : 0;
        break;
    }
    if (at >= e->n)
        return;
    len = len < e->n - at ? len : e->n - at;
    sim_send(s, e, at, len, sim_draw(s, 2) ? 24 : 16);
}

/* Nothing gets lost any more: both ends get everything through, then their FIN. */
static inline void sim_finish(stream_sim *s) {
    s->drop = s->loss = s->garbage = 0;
    for (int round = 0; round < 400; round++) {
        bool done = true;
        for (int i = 0; i < 2; i++) {
            sim_end *e = &s->end[i];
            done &= e->una >= e->n;
            uint32_t len = 1 + sim_draw(s, s->mss), left = e->n - e->una;
            if (e->una < e->n)
                sim_send(s, e, e->una, len < left ? len : left, 24);
            else
                sim_send(s, e, e->n, 0, 16);
        }
        sim_flush(s);
        if (done)
            break;
    }
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(s->end[i].una, s->end[i].n);
        sim_send(s, &s->end[i], s->end[i].n, 0, 17);
        sim_flush(s);
        CHECK(s->end[i ^ 1].fin);
    }
}

/* What |e| has sent is, at its peer, what was accepted of it. */
static inline void sim_compare(stream_sim *s, const sim_end *e) {
    const sim_end *peer = &s->end[e->number ^ 1];
    uint32_t out = 0, at = 0;
    while (at < e->n) {
        const sim_entry *entry = &e->entries[at];
        CHECK(entry->accepted);
        if (!entry->accepted)
            return;
        CHECK(out + entry->out_len <= SIM_OUT);
        CHECK(memcmp(peer->wire + out, entry->out, entry->out_len) == 0);
        out += entry->out_len;
        at += entry->len;
    }
    CHECK_EQ(peer->next, out);
    for (; out < SIM_OUT; out++)
        CHECK(!peer->on_wire[out]);
}

static inline void sim_end_all(stream_sim *s) {
    nfm_worker_stats stats;
    nfm_worker_finish(s->worker);
    while (nfm_worker_run(s->worker, 64) != NFM_RUN_EOF)
        sim_serve(s, 1024);
    nfm_worker_run(s->worker, 0);
    nfm_worker_stats_get(s->worker, &stats);
    CHECK_EQ(stats.slots_used, 0);
    CHECK_EQ(stats.records_used, 0);
    CHECK_EQ(s->worker->way->n_transits, 0);
    CHECK_EQ(s->worker->way->stream->kept[0] + s->worker->way->stream->kept[1], 0);
    memcpy(s->counters, s->worker->core_counters, sizeof(s->counters));
    nfm_worker_free(s->worker);
    free(s->end[0].entries);
    free(s->end[1].entries);
}

/* A connection whose ends have met. */
static inline void sim_begin(stream_sim *s) {
    s->now_ns = 1000000000;
    s->mss = s->mss != 0 ? s->mss : 700;
    sim_begin_end(s, 0);
    sim_begin_end(s, 1);
    sim_begin_worker(s);
    sim_handshake(s);
}

/* One life of a connection. */
static inline void sim_run(stream_sim *s) {
    static const uint32_t rates[] = {0, 8, 40, 100};
    s->drop = rates[sim_draw(s, 4)];
    s->loss = rates[sim_draw(s, 4)];
    s->garbage = rates[sim_draw(s, 4)];
    s->replace = rates[sim_draw(s, 4)];
    s->ahead = 2 * rates[sim_draw(s, 4)];
    s->resizes = sim_draw(s, 2);
    s->mss = sim_draw(s, 2) ? 200 : 700;
    s->ipv6 = sim_draw(s, 4) == 0;
    s->drops = s->drop != 0;
    sim_begin(s);
    for (uint32_t i = 0, n = 40 + sim_draw(s, 200); i < n; i++) {
        sim_act(s);
        if (sim_draw(s, 3) == 0)
            sim_turn(s);
        if (sim_draw(s, 4) == 0)
            sim_serve(s, 1 + sim_draw(s, 8));
    }
    sim_flush(s);
    sim_finish(s);
    sim_compare(s, &s->end[0]);
    sim_compare(s, &s->end[1]);
    sim_end_all(s);
}

#endif
