/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker with tcp_track and tcp_stream, fed with segments written in a small language, and what
 * came out of it.
 *
 * A script has one segment per line: direction, flags, sequence number, then any of
 *   > client to server, < server to client; flags out of S A F R P U, or - for none
 *   a N  acknowledgement      w N  window (8192)        + N   milliseconds since the last one (1)
 *   'x'  payload              * N  N bytes of payload made from their sequence numbers
 *   cut N  the last N payload bytes were not captured   u N   urgent pointer
 *   mss N, ws N, sackok, ts V E                         options
 * Streams are read back as text by direction, 0 what > sent: bytes as they are, holes as [length
 * reason], the reason being one of a(cked) f(low cap) w(orker cap) e(nd) t(runcated).
 */
#ifndef TCP_RIG_H
#define TCP_RIG_H

#include "nfm_test.h"
#include "wire/emit.h"

enum { RIG_PACKETS = 4096, RIG_TEXT = 1 << 20, RIG_PAYLOAD = 9000 };
enum { RIG_LIMITS = 6 };

extern const nfm_module nfm_module_tcp_track, nfm_module_tcp_stream;

typedef struct rig_seg {
    uint32_t seq, ack;
    uint16_t window, urgent;
    uint8_t flags;
    bool from_server;
    const uint8_t *data;
    uint32_t len, cut;
    nfm_tcp_opts opts;
} rig_seg;

typedef struct tcp_rig {
    nfm_port *port;
    nfm_worker *worker;
    uint64_t
        limits[RIG_LIMITS]; /* of tcp_stream: flow_slots worker_slots gap_wait_ms overlap ... */
    uint64_t events;        /* subscribed */
    uint32_t n_small;
    int64_t now_ns;
    uint32_t n_pushed;
    /* what came out */
    nfm_record *snap; /* by ordinal of the packet, from 1: its snapshot */
    nfm_record ends[64];
    uint32_t n_ends;
    uint8_t *text[2]; /* from here on by direction: 0 client to server */
    uint32_t text_len[2], n_gaps;
    uint64_t next_off[2], bytes[2], gaps[2];
    bool is_swapped; /* side 0 of the last flow is direction 1 */
    bool is_ordered; /* each record began where the one before ended */
} tcp_rig;

/* Who sent it: 0 the host at 10.0.0.1, which > stands for. */
static inline unsigned rig_direction(const nfm_mem *mem, const nfm_record *rec, unsigned side) {
    return mem->flows[(uint32_t)rec->flow].addr[side][3] - 1u;
}

static inline void rig_append(tcp_rig *r, unsigned dir, const void *data, size_t len) {
    if (r->text_len[dir] + len >= RIG_TEXT)
        abort();
    memcpy(r->text[dir] + r->text_len[dir], data, len);
    r->text_len[dir] += (uint32_t)len;
    r->text[dir][r->text_len[dir]] = 0;
}

/* Nothing may be left out unsaid, but for urgent bytes taken out of line. */
static inline void rig_place(tcp_rig *r, unsigned dir, const nfm_record *rec) {
    bool skips = r->limits[4] != 0 && rec->tcp.stream_off > r->next_off[dir];
    r->is_ordered &= skips || rec->tcp.stream_off == r->next_off[dir];
    r->next_off[dir] = rec->tcp.stream_off + rec->tcp.data_len;
}

static inline void rig_take_data(tcp_rig *r, const nfm_mem *mem, const nfm_record *rec) {
    unsigned dir = rig_direction(mem, rec, rec->side);
    nfm_view data = nfm_record_data(mem, rec);
    rig_place(r, dir, rec);
    r->is_ordered &= data.len == rec->tcp.data_len && data.len > 0;
    r->bytes[dir] += data.len;
    rig_append(r, dir, data.data, data.len);
}

static inline void rig_take_gap(tcp_rig *r, const nfm_mem *mem, const nfm_record *rec) {
    static const char reasons[] = "-afwet";
    char text[32];
    unsigned dir = rig_direction(mem, rec, rec->side);
    snprintf(text, sizeof(text), "[%u%c]", rec->tcp.data_len, reasons[rec->reason]);
    rig_place(r, dir, rec);
    r->is_ordered &= rec->tcp.data_len > 0;
    r->gaps[dir] += rec->tcp.data_len;
    r->n_gaps++;
    rig_append(r, dir, text, strlen(text));
}

static inline int rig_process(void *state, const nfm_batch *batch) {
    tcp_rig *r = state;
    for (uint32_t i = 0; i < batch->n; i++) {
        const nfm_record *rec = &batch->mem->records[batch->desc[i].record];
        if (rec->kind == NFM_REC_FLOW) {
            r->is_swapped = rig_direction(batch->mem, rec, 0) == 1;
            if (r->n_ends < 64)
                r->ends[r->n_ends++] = *rec;
            memset(r->next_off, 0, sizeof(r->next_off));
            continue;
        }
        if (rec->kind == NFM_REC_GAP) {
            rig_take_gap(r, batch->mem, rec);
            continue;
        }
        if (rec->packet < RIG_PACKETS && r->snap[rec->packet].packet == 0)
            r->snap[rec->packet] = *rec;
        if (rec->events & NFM_BIT(NFM_EV_TCP_DATA))
            rig_take_data(r, batch->mem, rec);
    }
    return NFM_OK;
}

static inline tcp_rig *rig_new(void) {
    static const uint64_t limits[RIG_LIMITS] = {4096, 50, 1000, 0, 0, 16};
    nfm_error err;
    tcp_rig *r = calloc(1, sizeof(*r));
    if (r == NULL)
        abort();
    memcpy(r->limits, limits, sizeof(limits));
    r->events = (NFM_BIT(NFM_EV_COUNT) - 1) & ~NFM_BIT(NFM_EV_FLOW_UPDATE) &
                ~NFM_BIT(NFM_EV_TCP_INCONSISTENT_OVERLAP); /* has a price: asked for by tests */
    r->n_small = 4096;
    r->now_ns = INT64_C(1000000000000);
    r->is_ordered = true;
    r->snap = calloc(RIG_PACKETS, sizeof(*r->snap));
    r->text[0] = calloc(1, RIG_TEXT);
    r->text[1] = calloc(1, RIG_TEXT);
    r->port = nfm_port_mem_new(1, &err);
    if (r->snap == NULL || r->text[0] == NULL || r->text[1] == NULL || r->port == NULL)
        abort();
    return r;
}

static inline void rig_free(tcp_rig *r) {
    nfm_worker_free(r->worker);
    nfm_port_free(r->port);
    free(r->snap);
    free(r->text[0]);
    free(r->text[1]);
    free(r);
}

/* Appends one segment, |r->now_ns| its time. */
static inline void rig_push(tcp_rig *r, const rig_seg *seg) {
    static uint8_t frame[RIG_PAYLOAD + 256];
    nfm_emit_buf buf = {frame, sizeof(frame), 0};
    nfm_ip_fields ip = {.ttl = 64};
    nfm_tcp_fields tcp = {seg->seq, seg->ack, seg->window, seg->urgent, seg->flags, seg->opts};
    nfm_key key;
    unsigned from = seg->from_server;
    memset(&key, 0, sizeof(key));
    key.ip_version = 4;
    key.proto = 6;
    memcpy(key.addr[from], "\x0a\x00\x00\x01", 4);
    memcpy(key.addr[from ^ 1], "\x0a\x00\x00\x02", 4);
    key.port[from] = 40000;
    key.port[from ^ 1] = 80;
    nfm_emit_eth(&buf, (const uint8_t *)"\2\0\0\0\0\1", (const uint8_t *)"\2\0\0\0\0\2", 0x0800);
    nfm_emit_ipv4(&buf, &key, &ip, nfm_emit_tcp_len(&seg->opts) + seg->len);
    nfm_emit_tcp(&buf, &key, &tcp, (nfm_view){seg->data, seg->len});
    if (nfm_port_mem_push(r->port, frame, buf.len - seg->cut, buf.len, r->now_ns) != NFM_OK)
        abort();
    r->n_pushed++;
}

static inline uint8_t rig_flags(const char *word) {
    static const char letters[] = "FSRPAU";
    uint8_t flags = 0;
    for (; *word != 0; word++)
        if (*word != '-')
            flags |= (uint8_t)(1u << (strchr(letters, *word) - letters));
    return flags;
}

static inline uint32_t rig_number(char **next) {
    char *word = strtok_r(NULL, " ", next);
    return word == NULL ? 0 : (uint32_t)strtoul(word, NULL, 0);
}

/* The byte that stands at |seq| in streams made by "*". */
static inline uint8_t rig_byte(uint32_t seq) {
    return (uint8_t)('a' + seq % 23);
}

static inline void rig_payload(rig_seg *seg, const char *word, uint8_t *room, char **next) {
    if (word[0] == '*') {
        seg->len = word[1] ? (uint32_t)strtoul(word + 1, NULL, 0) : rig_number(next);
        for (uint32_t i = 0; i < seg->len; i++)
            room[i] = rig_byte(seg->seq + i + ((seg->flags & 2) != 0));
    } else {
        seg->len = (uint32_t)strlen(word) - 2;
        memcpy(room, word + 1, seg->len);
    }
    seg->data = room;
}

static inline void rig_option(tcp_rig *r, rig_seg *seg, const char *word, char **next) {
    if (strcmp(word, "a") == 0) {
        seg->ack = rig_number(next);
    } else if (strcmp(word, "w") == 0) {
        seg->window = (uint16_t)rig_number(next);
    } else if (strcmp(word, "+") == 0) {
        r->now_ns += (int64_t)rig_number(next) * 1000000 - 1000000;
    } else if (strcmp(word, "cut") == 0) {
        seg->cut = rig_number(next);
    } else if (strcmp(word, "u") == 0) {
        seg->urgent = (uint16_t)rig_number(next);
    } else if (strcmp(word, "mss") == 0) {
        seg->opts.seen |= NFM_OPT_MSS;
        seg->opts.mss = (uint16_t)rig_number(next);
    } else if (strcmp(word, "ws") == 0) {
        seg->opts.seen |= NFM_OPT_WSCALE;
        seg->opts.wscale = (uint8_t)rig_number(next);
    } else if (strcmp(word, "sackok") == 0) {
        seg->opts.seen |= NFM_OPT_SACK_OK;
    } else if (strcmp(word, "ts") == 0) {
        seg->opts.seen |= NFM_OPT_TIMESTAMP;
        seg->opts.tsval = rig_number(next);
        seg->opts.tsecr = rig_number(next);
    } else {
        abort();
    }
}

/* Appends the segments of |script|. */
static inline void rig_say(tcp_rig *r, const char *script) {
    static uint8_t room[RIG_PAYLOAD];
    char *copy = strdup(script), *lines = NULL;
    for (char *line = strtok_r(copy, "\n", &lines); line; line = strtok_r(NULL, "\n", &lines)) {
        char *next = NULL, *word = strtok_r(line, " ", &next);
        if (word == NULL)
            continue;
        rig_seg seg = {.from_server = word[0] == '<', .window = 8192};
        word = strtok_r(NULL, " ", &next);
        seg.flags = rig_flags(word);
        seg.seq = rig_number(&next);
        r->now_ns += 1000000;
        while ((word = strtok_r(NULL, " ", &next)) != NULL)
            if (word[0] == '\'' || word[0] == '*')
                rig_payload(&seg, word, room, &next);
            else
                rig_option(r, &seg, word, &next);
        rig_push(r, &seg);
    }
    free(copy);
}

static inline uint64_t rig_counter(const tcp_rig *r, const char *name) {
    nfm_counter counters[256];
    uint32_t n = nfm_worker_counters(r->worker, counters, 256);
    for (uint32_t i = 0; i < n && i < 256; i++)
        if (strcmp(counters[i].name, name) == 0)
            return counters[i].value;
    CHECK(!"no such counter");
    return 0;
}

static inline void rig_start(tcp_rig *r) {
    nfm_error err = {0};
    nfm_worker_config config;
    nfm_worker_config_init(&config);
    config.max_flows = 1024;
    config.n_small = r->n_small;
    config.n_large = 8;
    config.n_records = 8192;
    config.fields_size = 1 << 20;
    r->worker = nfm_worker_new(&config, &err);
    nfm_ring *ring = r->worker ? nfm_worker_add_ring(r->worker, 1024, &err) : NULL;
    nfm_subscription sub = {
        .ring = ring, .level = NFM_LEVEL_DATA, .events = r->events, .type_first = 1};
    if (ring == NULL || nfm_worker_add_port(r->worker, r->port) != NFM_OK ||
        nfm_worker_add_module(r->worker, &nfm_module_tcp_track, NULL, NULL, &err) < 0 ||
        nfm_worker_add_module(r->worker, &nfm_module_tcp_stream, r->limits, NULL, &err) < 0 ||
        nfm_worker_attach_native(r->worker, ring, rig_process, r) != NFM_OK ||
        nfm_worker_subscribe(r->worker, &sub) != NFM_OK ||
        nfm_worker_start(r->worker, &err) != NFM_OK) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
}

/* Runs all that was said to the end of the flows. What must hold always is checked here. */
static inline void rig_run(tcp_rig *r) {
    rig_start(r);
    while (nfm_worker_run(r->worker, 100000) != NFM_RUN_EOF)
        ;
    nfm_worker_run(r->worker, 0);
    nfm_worker_stats stats;
    nfm_worker_stats_get(r->worker, &stats);
    CHECK_EQ(stats.slots_used, 0);
    CHECK(r->is_ordered);
    for (unsigned dir = 0; dir < 2 && r->n_ends == 1; dir++) {
        unsigned side = dir ^ r->is_swapped;
        uint64_t gaps = r->gaps[dir] > UINT32_MAX ? UINT32_MAX : r->gaps[dir];
        CHECK_EQ(r->ends[0].totals.stream_bytes[side], r->bytes[dir]);
        CHECK_EQ(r->ends[0].totals.gap_bytes[side], gaps);
    }
}

/* A rig that has run |script|. */
static inline tcp_rig *rig_told(const char *script) {
    tcp_rig *r = rig_new();
    rig_say(r, script);
    rig_run(r);
    return r;
}

static inline bool rig_raised(const tcp_rig *r, uint32_t packet, int event) {
    return (r->snap[packet].events & NFM_BIT(event)) != 0;
}

static inline const char *rig_end_state(const tcp_rig *r, uint32_t flow) {
    return flow < r->n_ends ? nfm_conn_state_name(r->ends[flow].conn_state) : "no such flow";
}

#define CHECK_TEXT(r, dir, want)                                                                   \
    do {                                                                                           \
        if (strcmp((const char *)(r)->text[dir], want) != 0) {                                     \
            printf("# %s:%d: direction %d: \"%s\", want \"%s\"\n", __FILE__, __LINE__, dir,        \
                   (const char *)(r)->text[dir], want);                                            \
            nfm_test_failed = 1;                                                                   \
        }                                                                                          \
    } while (0)

#define CHECK_STR(a, b)                                                                            \
    do {                                                                                           \
        const char *sa_ = (a), *sb_ = (b);                                                         \
        if (strcmp(sa_, sb_) != 0) {                                                               \
            printf("# %s:%d: \"%s\", want \"%s\"\n", __FILE__, __LINE__, sa_, sb_);                \
            nfm_test_failed = 1;                                                                   \
        }                                                                                          \
    } while (0)

#endif
