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
 *   - events that it raises, and those that are raised about them in turn, are heard once each;
 *   - both streams get through once nothing is lost and dropped any more;
 *   - nothing is kept when all is over.
 */
#ifndef STREAM_SIM_H
#define STREAM_SIM_H

#include "stream_ends.h"

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

/* Raises an event about an entry of |ring|, perhaps. */
static inline void sim_raise(stream_sim *s, nfm_ring *ring, uint32_t entry, uint32_t stage) {
    if (stage >= SIM_STAGES || s->later[stage] == NULL || !sim_chance(s, s->raise))
        return;
    const uint64_t serial = s->raised[stage];
    const uint8_t *fields = (const uint8_t *)&serial;
    s->raised[stage] += nfm_ring_raise(ring, entry, SIM_TYPE + stage, fields, 8) == NFM_OK;
}

/* Who decides on bytes takes |most| entries; returns how many there were. */
static inline uint32_t sim_serve(stream_sim *s, uint32_t most) {
    const nfm_desc *desc;
    uint32_t n = nfm_ring_peek(s->ring, &desc, most), *verdict = nfm_ring_verdicts(s->ring, n);
    nfm_edit *edit = nfm_ring_edits(s->ring);
    const nfm_mem *mem = nfm_worker_mem(s->worker);
    for (uint32_t i = 0; i < n; i++) {
        verdict[i] = sim_judge(s, mem, &mem->records[desc[i].record], &edit[i]);
        sim_raise(s, s->ring, i, 1);
    }
    nfm_ring_advance(s->ring, n);
    return n;
}

/* The same for who decides on what was raised before. */
static inline uint32_t sim_serve_later(stream_sim *s, uint32_t stage, uint32_t most) {
    const nfm_mem *mem = nfm_worker_mem(s->worker);
    nfm_ring *ring = s->later[stage];
    const nfm_desc *desc;
    if (ring == NULL)
        return 0;
    uint32_t n = nfm_ring_peek(ring, &desc, most), *verdict = nfm_ring_verdicts(ring, n);
    for (uint32_t i = 0; i < n; i++) {
        const nfm_record *record = &mem->records[desc[i].record];
        CHECK_EQ(desc[i].what & 0xffffffff, SIM_TYPE + stage);
        CHECK_EQ(record->kind, NFM_REC_APP);
        CHECK_EQ(record->app.fields_len, 8);
        CHECK_EQ(*(const uint64_t *)(const void *)(mem->fields + record->app.fields),
                 s->heard[stage]++);
        sim_raise(s, ring, i, stage + 1);
        verdict[i] = s->verdict_later[stage];
    }
    nfm_ring_advance(ring, n);
    return n;
}

static inline uint32_t sim_serve_all(stream_sim *s) {
    uint32_t n = sim_serve(s, 1024);
    for (uint32_t stage = 1; stage < SIM_STAGES; stage++)
        n += sim_serve_later(s, stage, 1024);
    return n;
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

/* Receivers of raised events, each a stage behind who raises them. */
static inline void sim_begin_later(stream_sim *s) {
    nfm_inline_config how = {.fail_open = s->fail_open};
    nfm_error err = {0};
    for (uint8_t stage = 1; stage < SIM_STAGES; stage++) {
        const uint32_t type = SIM_TYPE + stage;
        const nfm_raisable what = {.type = type, .n_cells = 1};
        nfm_ring *ring = s->later[stage] = nfm_worker_add_ring(s->worker, 1024, &err);
        CHECK_EQ(nfm_worker_make_inline(s->worker, ring, &how), NFM_OK);
        nfm_subscription sub = {
            .ring = ring, .type_first = type, .type_last = type, .in_line = 1, .stage = stage};
        CHECK(nfm_worker_subscribe(s->worker, &sub) >= 0);
        nfm_ring *raiser = stage == 1 ? s->ring : s->later[stage - 1];
        CHECK_EQ(nfm_worker_allow_raise(s->worker, raiser, &what), NFM_OK);
    }
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
    if (s->raise > 0)
        sim_begin_later(s);
    if (s->extend != NULL)
        s->extend(s);
    CHECK_EQ(nfm_worker_start(s->worker, &err), NFM_OK);
}

static inline void sim_turn(stream_sim *s) {
    (void)nfm_worker_run(s->worker, 256);
}

/* All that is on its way gets where it goes. */
static inline void sim_flush(stream_sim *s) {
    for (int quiet = 0; quiet < 2;) {
        sim_turn(s);
        quiet = sim_serve_all(s) > 0 ? 0 : quiet + 1;
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
        sim_serve_all(s);
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

/* One whose client has |n| bytes to say, and of whose runs |raise| of 256 raise events; all pass.
 */
static inline stream_sim *sim_quiet_with(uint32_t n, uint32_t raise, void (*extend)(stream_sim *)) {
    stream_sim *s = calloc(1, sizeof(*s));
    s->extend = extend;
    s->random.state = 99;
    s->mss = 700;
    s->raise = raise;
    sim_begin(s);
    s->end[0].n = n;
    return s;
}

static inline stream_sim *sim_quiet(uint32_t n, uint32_t raise) {
    return sim_quiet_with(n, raise, NULL);
}

static inline void sim_quiet_end(stream_sim *s) {
    sim_end_all(s);
    free(s);
}

static inline uint64_t sim_counter(const stream_sim *s, enum nfm_core_counter which) {
    return s->worker->core_counters[which];
}

/* One life of a connection. */
static inline void sim_run(stream_sim *s) {
    static const uint32_t rates[] = {0, 8, 40, 100};
    s->drop = rates[sim_draw(s, 4)];
    s->loss = rates[sim_draw(s, 4)];
    s->garbage = rates[sim_draw(s, 4)];
    s->replace = rates[sim_draw(s, 4)];
    s->ahead = 2 * rates[sim_draw(s, 4)];
    s->raise = rates[sim_draw(s, 4)];
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
        uint32_t stage = 1 + sim_draw(s, 2);
        if (sim_draw(s, 4) == 0)
            sim_serve_later(s, stage, 1 + sim_draw(s, 8));
    }
    sim_flush(s);
    sim_finish(s);
    CHECK_EQ(s->raised[1], s->heard[1]);
    CHECK_EQ(s->raised[2], s->heard[2]);
    CHECK_EQ(s->worker->core_counters[NFM_CC_INLINE_RAISED], s->raised[1] + s->raised[2]);
    sim_compare(s, &s->end[0]);
    sim_compare(s, &s->end[1]);
    sim_end_all(s);
}

#endif
