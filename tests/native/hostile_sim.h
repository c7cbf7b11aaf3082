/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker whose inline receivers do what they like with all memory that they may write: words that
 * are no verdicts, edits beyond frames, payloads that are not there, commands of any kind and
 * number, about entries and holds that are not theirs, tails that lie, and bytes anywhere.
 *
 * Held to be true: the worker goes on to the end of its ports, no sanitizer objects, and nothing is
 * kept when all is over.
 */
#ifndef HOSTILE_SIM_H
#define HOSTILE_SIM_H

#include "engine/strand.h"
#include "worker_rig.h"

enum { HOSTILE_RINGS = 3, HOSTILE_TYPE = 7, HOSTILE_FLOWS = 6, HOSTILE_FRAMES = 800 };

extern const nfm_module nfm_module_tcp_track, nfm_module_tcp_stream, nfm_module_udp;

typedef struct hostile_sim {
    const uint8_t *bytes; /* a fuzzer's, first */
    size_t left;
    uint64_t state; /* then drawn */
    nfm_port *port[2];
    nfm_worker *w;
    nfm_ring *ring[HOSTILE_RINGS];
    int subs[HOSTILE_RINGS];
    uint32_t lies; /* of 65536: how often a tail or a number of commands is out of range */
    uint32_t seq[HOSTILE_FLOWS][2];
    uint64_t pushed;
    uint64_t counters[NFM_CC_COUNT]; /* when all is over */
} hostile_sim;

static inline uint64_t hostile_word(hostile_sim *s) {
    s->state ^= s->state << 13;
    s->state ^= s->state >> 7;
    s->state ^= s->state << 17;
    uint64_t word = s->state;
    if (s->left > 0) {
        word = (word & ~UINT64_C(0xff)) | *s->bytes++;
        s->left--;
    }
    return word;
}

static inline uint32_t hostile_draw(hostile_sim *s, uint32_t n) {
    return (uint32_t)(hostile_word(s) % n);
}

/* A number near |good|, or any. */
static inline uint64_t hostile_number(hostile_sim *s, uint64_t good) {
    switch (hostile_draw(s, 8)) {
    case 0:
        return hostile_word(s);
    case 1:
        return UINT64_MAX - hostile_draw(s, 4);
    case 2:
        return good + hostile_draw(s, 4096);
    default:
        return good + hostile_draw(s, 4) - 1;
    }
}

/* ---- traffic ---- */

static inline void hostile_push(hostile_sim *s, uint32_t port, const nfm_emit_buf *buf) {
    CHECK_EQ(nfm_port_mem_push(s->port[port], buf->data, buf->len, buf->len,
                               (int64_t)++s->pushed * 1000000),
             NFM_OK);
}

static inline nfm_key hostile_key(uint32_t flow, uint32_t side, uint8_t proto) {
    nfm_key key = udp_key(flow);
    key.proto = proto;
    if (side == 1)
        nfm_key_turn(&key);
    return key;
}

static inline void hostile_frame(hostile_sim *s) {
    static const uint8_t mac[2][6] = {{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}};
    static const uint8_t payload[1200] = "bytes that somebody would like to change";
    uint8_t frame[1400];
    uint32_t flow = hostile_draw(s, HOSTILE_FLOWS), side = hostile_draw(s, 2);
    uint32_t len = hostile_draw(s, sizeof(payload) / (1 + 10 * hostile_draw(s, 2)));
    nfm_emit_buf buf = {frame, sizeof(frame), 0};
    const nfm_ip_fields ip = {.ttl = (uint8_t)(1 + hostile_draw(s, 64))};
    bool is_tcp = flow % 2 == 0, tagged = hostile_draw(s, 8) == 0;
    nfm_key key = hostile_key(flow, side, is_tcp ? IPPROTO_TCP : IPPROTO_UDP);
    nfm_emit_eth(&buf, mac[!side], mac[side], tagged ? 0x8100 : 0x0800);
    if (tagged)
        nfm_emit_bytes(&buf, (const uint8_t[4]){0, 5, 8, 0}, 4);
    if (!is_tcp) {
        nfm_emit_ipv4(&buf, &key, &ip, 8 + len);
        nfm_emit_udp(&buf, &key, (nfm_view){payload, len});
        hostile_push(s, side, &buf);
        return;
    }
    static const uint8_t flags[8] = {16, 16, 16, 24, 24, 24, 17, 20};
    uint32_t *seq = s->seq[flow], back = hostile_draw(s, 4) == 0 ? hostile_draw(s, 2000) : 0;
    nfm_tcp_fields tcp = {.seq = seq[side] - back, .ack = seq[!side], .window = 8192};
    tcp.flags = seq[side] == 0 ? (uint8_t)(seq[!side] == 0 ? 2 : 18) : flags[hostile_draw(s, 8)];
    if (tcp.flags == 20 && hostile_draw(s, 4) != 0)
        tcp.flags = 16;
    len = tcp.flags & 2 ? 0 : len;
    nfm_emit_ipv4(&buf, &key, &ip, nfm_emit_tcp_len(&tcp.opts) + len);
    nfm_emit_tcp(&buf, &key, &tcp, (nfm_view){payload, len});
    uint32_t end = tcp.seq + len + ((tcp.flags & 3) != 0);
    if ((int32_t)(end - seq[side]) > 0)
        seq[side] = end;
    hostile_push(s, side, &buf);
}

/* ---- what they do ---- */

static inline uint32_t hostile_verdict(hostile_sim *s) {
    uint32_t action = hostile_draw(s, 9), argument = hostile_draw(s, 4);
    if (hostile_draw(s, 8) == 0)
        return (uint32_t)hostile_word(s);
    if (hostile_draw(s, 16) == 0)
        argument = hostile_draw(s, 256);
    return action | argument << NFM_ARG_SHIFT | (hostile_draw(s, 8) == 0 ? NFM_REST : 0);
}

static inline nfm_edit hostile_edit(hostile_sim *s) {
    nfm_edit edit;
    for (size_t i = 0; i < sizeof(edit); i++)
        ((uint8_t *)&edit)[i] = (uint8_t)hostile_word(s);
    if (hostile_draw(s, 4) != 0)
        edit.fields = 1u << hostile_draw(s, 16);
    if (hostile_draw(s, 2) == 0)
        edit.out = (uint8_t)hostile_draw(s, 3);
    if (edit.fields & NFM_EDIT_PAYLOAD && hostile_draw(s, 4) != 0) {
        edit.fields = NFM_EDIT_PAYLOAD;
        edit.bytes_off = (uint32_t)hostile_number(s, hostile_draw(s, NFM_PAYLOAD_BYTES));
        edit.bytes_len = (uint32_t)hostile_number(s, hostile_draw(s, 3000));
    }
    return edit;
}

/* An event as it should be, about one of the entries that are there. */
static inline nfm_command hostile_event(hostile_sim *s, const nfm_ring *ring) {
    return (nfm_command){.kind = NFM_CMD_RAISE,
                         .number = HOSTILE_TYPE,
                         .a = ring->tail_seen + hostile_draw(s, 4),
                         .b = 24,
                         .out_end = 24};
}

static inline nfm_command hostile_any(hostile_sim *s, const nfm_ring *ring) {
    nfm_command c = {.kind = hostile_draw(s, 10)};
    c.number = (uint32_t)hostile_number(s, hostile_draw(s, 2) ? HOSTILE_TYPE : 0);
    c.a = hostile_draw(s, 2) ? hostile_verdict(s) : hostile_number(s, ring->tail_seen);
    c.b = hostile_draw(s, 4) ? hostile_draw(s, 200) : hostile_number(s, NFM_MAX_FRAME);
    if (c.kind == NFM_CMD_JUDGE && hostile_draw(s, 2))
        c.b = sizeof(nfm_edit);
    c.out_end = hostile_number(s, c.b + hostile_draw(s, NFM_OUT_BYTES));
    return c;
}

static inline void hostile_command(hostile_sim *s, nfm_ring *ring) {
    static const uint32_t fields[6] = {1, 0, 16, 8, 0, 0};
    nfm_ring_shared *shared = ring->shared;
    uint64_t head = atomic_load(&shared->cmd_head);
    bool lies = hostile_draw(s, 65536) < s->lies, raises = hostile_draw(s, 8) == 0;
    const nfm_command c = raises ? hostile_event(s, ring) : hostile_any(s, ring);
    const nfm_edit edit = hostile_edit(s);
    uint8_t *bytes = shared->out + (c.out_end - c.b) % (NFM_OUT_BYTES - sizeof(edit));
    if (raises)
        memcpy(bytes, fields, sizeof(fields));
    else
        memcpy(bytes, &edit, sizeof(edit));
    shared->command[head % NFM_COMMANDS] = c;
    atomic_store(&shared->cmd_head, lies ? hostile_word(s) : head + 1);
}

/* Bytes anywhere in what it may write; the tail and the number of commands are lied about apart. */
static inline void hostile_scribble(hostile_sim *s, nfm_ring *ring) {
    nfm_ring_shared *shared = ring->shared;
    uint64_t tail = atomic_load(&shared->tail), commands = atomic_load(&shared->cmd_head);
    size_t size = nfm_ring_shared_size(ring->mask + 1);
    for (uint32_t n = hostile_draw(s, 32); n > 0; n--) {
        size_t at = (size_t)(hostile_word(s) % size);
        if (hostile_draw(s, 4) == 0) /* where the entries are */
            at = offsetof(nfm_ring_shared, desc) + at % ((ring->mask + 1) * sizeof(nfm_desc));
        ((uint8_t *)shared)[at] = (uint8_t)hostile_word(s);
    }
    atomic_store(&shared->tail, tail);
    atomic_store(&shared->cmd_head, commands);
}

static inline void hostile_serve(hostile_sim *s, nfm_ring *ring) {
    nfm_ring_shared *shared = ring->shared;
    uint64_t tail = atomic_load(&shared->tail), head = ring->published;
    uint32_t n = head > tail ? hostile_draw(s, (uint32_t)(head - tail) + 1) : 0;
    for (uint32_t i = 0; i < n; i++) {
        *nfm_ring_verdict_of(ring, tail + i) = hostile_draw(s, 3) ? hostile_verdict(s) : NFM_PASS;
        *nfm_ring_edit_of(ring, tail + i) = hostile_edit(s);
    }
    for (uint32_t commands = hostile_draw(s, 8); commands > 0; commands--)
        hostile_command(s, ring);
    if (hostile_draw(s, 3) == 0)
        hostile_scribble(s, ring);
    bool lies = hostile_draw(s, 65536) < s->lies;
    atomic_store(&shared->tail, lies ? hostile_number(s, head + 2) : tail + n);
}

/* ---- the whole ---- */

static inline void hostile_add(hostile_sim *s, uint32_t which, nfm_subscription sub) {
    nfm_error err = {0};
    const nfm_inline_config how = {.fail_open = which == 1};
    const nfm_raisable what = {.type = HOSTILE_TYPE, .n_cells = 2, .bytes_cells = 2};
    nfm_ring *ring = s->ring[which] = nfm_worker_add_ring(s->w, 64, &err);
    CHECK_EQ(nfm_worker_make_inline(s->w, ring, &how), NFM_OK);
    CHECK_EQ(nfm_worker_allow_holds(s->w, ring, 8, &err), NFM_OK);
    CHECK_EQ(nfm_worker_allow_raise(s->w, ring, &what), NFM_OK);
    sub.ring = ring;
    sub.in_line = 1;
    sub.stage = (uint8_t)which;
    s->subs[which] = nfm_worker_subscribe(s->w, &sub);
    CHECK(s->subs[which] >= 0);
}

static inline void hostile_begin(hostile_sim *s) {
    nfm_error err = {0};
    const nfm_worker_config config = small_config();
    s->port[0] = keeping_port();
    s->port[1] = keeping_port();
    s->w = worker_between(&config, s->port[0], s->port[1]);
    CHECK_EQ(nfm_worker_forward(s->w, 1, 0), NFM_OK);
    CHECK(nfm_worker_add_module(s->w, &nfm_module_tcp_track, NULL, NULL, &err) >= 0);
    CHECK(nfm_worker_add_module(s->w, &nfm_module_tcp_stream, NULL, NULL, &err) >= 0);
    CHECK(nfm_worker_add_module(s->w, &nfm_module_udp, NULL, NULL, &err) >= 0);
    const uint64_t packets =
        NFM_BIT(NFM_EV_PACKET_UDP) | NFM_BIT(NFM_EV_PACKET_TCP) | NFM_BIT(NFM_EV_PACKET_OTHER);
    hostile_add(s, 0, (nfm_subscription){.events = packets, .type_first = 1});
    hostile_add(
        s, 1,
        (nfm_subscription){.events = NFM_BIT(NFM_EV_TCP_DATA) | NFM_BIT(NFM_EV_UDP_DATAGRAM),
                           .type_first = 1,
                           .level = NFM_LEVEL_SPLIT});
    hostile_add(s, 2, (nfm_subscription){.type_first = HOSTILE_TYPE, .type_last = HOSTILE_TYPE});
    CHECK_EQ(nfm_worker_start(s->w, &err), NFM_OK);
}

/* Takes all receivers away, runs to the end, and looks what is left. */
static inline void hostile_end(hostile_sim *s) {
    for (int i = 0; i < HOSTILE_RINGS; i++) {
        CHECK_EQ(nfm_worker_unsubscribe(s->w, s->subs[i]), NFM_OK);
        CHECK_EQ(nfm_worker_remove_ring(s->w, s->ring[i]), NFM_OK);
    }
    int turn = 0;
    while (turn++ < 1000 && nfm_worker_run(s->w, 1024) != NFM_RUN_EOF)
        ;
    CHECK(turn < 1000);
    check_idle(s->w);
    CHECK_EQ(s->w->delivery.fields_used, 0);
    CHECK_EQ(s->w->way->stream->kept[0] + s->w->way->stream->kept[1], 0);
    memcpy(s->counters, s->w->core_counters, sizeof(s->counters));
    nfm_worker_free(s->w);
    nfm_port_free(s->port[0]);
    nfm_port_free(s->port[1]);
}

static inline void hostile_run(hostile_sim *s) {
    s->lies = hostile_draw(s, 4) == 0 ? 300 : 0;
    hostile_begin(s);
    for (uint32_t i = 0; i < HOSTILE_FRAMES; i++)
        hostile_frame(s);
    for (int turn = 0; turn < 2000; turn++) {
        if (nfm_worker_run(s->w, 32) == NFM_RUN_EOF)
            break;
        for (uint32_t i = 0; i < HOSTILE_RINGS; i++)
            hostile_serve(s, s->ring[hostile_draw(s, HOSTILE_RINGS)]);
    }
    hostile_end(s);
}

#endif
