/* SPDX-License-Identifier: Apache-2.0 */
/* A worker with ip_defrag alone, fragments to feed it, and the packets that came out. */
#ifndef NFM_IP_DEFRAG_RIG_H
#define NFM_IP_DEFRAG_RIG_H

#include "wire_frames.h"

#define SECOND INT64_C(1000000000)

extern const nfm_module nfm_module_ip_defrag;

enum { SEEN_MAX = 512, BYTES_MAX = 66000, PROTO_TEST = 253 };

typedef struct seen {
    nfm_record record;
    uint8_t *frame;
} seen;

typedef struct rig {
    nfm_port *port;
    nfm_worker *worker;
    nfm_ring *ring;
    int64_t now_ns;
    uint32_t n;
    uint64_t peak_slots; /* in use between bursts */
    seen all[SEEN_MAX];
} rig;

static frame f;

/* limits: datagrams, fragments, slots, time-outs, overlap; 0 for the default. */
static inline void make(rig *r, const uint64_t *changes) {
    uint64_t limits[6];
    nfm_error err;
    nfm_worker_config config;
    memset(r, 0, sizeof(*r));
    for (int i = 0; i < 6; i++)
        limits[i] =
            changes != NULL && changes[i] != 0 ? changes[i] : nfm_module_ip_defrag.limits[i].value;
    nfm_worker_config_init(&config);
    config.max_flows = 1024;
    config.n_small = 512;
    config.n_large = 16;
    config.n_records = 2048;
    config.fields_size = 1 << 20;
    r->now_ns = SECOND;
    r->port = nfm_port_mem_new(ETHERNET, &err);
    r->worker = nfm_worker_new(&config, &err);
    CHECK(r->worker != NULL);
    CHECK_EQ(nfm_worker_add_port(r->worker, r->port), NFM_OK);
    CHECK_EQ(nfm_worker_add_module(r->worker, &nfm_module_ip_defrag, limits, NULL, &err), 0);
    r->ring = nfm_worker_add_ring(r->worker, 256, &err);
    nfm_subscription all = {.ring = r->ring,
                            .events = NFM_BIT(NFM_EV_PACKET_TCP) | NFM_BIT(NFM_EV_PACKET_UDP) |
                                      NFM_BIT(NFM_EV_PACKET_OTHER) |
                                      NFM_BIT(NFM_EV_PACKET_MALFORMED),
                            .type_first = 1};
    CHECK_EQ(nfm_worker_subscribe(r->worker, &all), NFM_OK);
}

static inline void push(rig *r, const frame *g) {
    r->now_ns += 1000;
    CHECK_EQ(nfm_port_mem_push(r->port, g->bytes, g->buf.len, g->buf.len, r->now_ns), NFM_OK);
}

static inline void drain(rig *r) {
    const nfm_mem *mem = nfm_worker_mem(r->worker);
    const nfm_desc *desc;
    uint32_t n;
    while ((n = nfm_ring_peek(r->ring, &desc, 256)) > 0) {
        for (uint32_t i = 0; i < n && r->n < SEEN_MAX; i++, r->n++) {
            const nfm_record *record = &mem->records[desc[i].record];
            nfm_view view = nfm_record_frame(mem, record);
            r->all[r->n].record = *record;
            r->all[r->n].frame = malloc(view.len);
            memcpy(r->all[r->n].frame, view.data, view.len);
        }
        nfm_ring_advance(r->ring, n);
    }
}

static inline uint64_t slots_used(const rig *r) {
    nfm_worker_stats stats;
    nfm_worker_stats_get(r->worker, &stats);
    return stats.slots_used;
}

static inline void run(rig *r) {
    nfm_error err;
    CHECK_EQ(nfm_worker_start(r->worker, &err), NFM_OK);
    int rc = 0;
    for (int i = 0; rc != NFM_RUN_EOF && rc >= 0 && i < 100000; i++) {
        rc = nfm_worker_run(r->worker, 8);
        drain(r);
        r->peak_slots = slots_used(r) > r->peak_slots ? slots_used(r) : r->peak_slots;
    }
    CHECK_EQ(rc, NFM_RUN_EOF);
    nfm_worker_run(r->worker, 0);
    CHECK_EQ(slots_used(r), 0); /* the end of the port releases what waits in vain */
}

static inline uint64_t counter(const rig *r, const char *name) {
    nfm_counter counters[256];
    char text[64];
    snprintf(text, sizeof(text), "ip_defrag.%s", name);
    uint32_t n = nfm_worker_counters(r->worker, counters, 256);
    for (uint32_t i = 0; i < n && i < 256; i++)
        if (strcmp(counters[i].name, text) == 0)
            return counters[i].value;
    CHECK(!"no such counter");
    return 0;
}

static inline void end(rig *r) {
    for (uint32_t i = 0; i < r->n; i++)
        free(r->all[i].frame);
    nfm_worker_free(r->worker);
    nfm_port_free(r->port);
}

/* ---- fragments ---- */

typedef struct part {
    uint8_t version, proto;
    uint32_t id;
    uint32_t off, len;
    bool more;
    const uint8_t *data;
} part;

/* Appends the IP packet of one fragment to |g|. */
static inline void emit_part(frame *g, const part *p) {
    nfm_key key = key_of(p->version, p->proto);
    if (p->version == 4) {
        nfm_ip_fields fields = {.ttl = 64, .id = (uint16_t)p->id};
        fields.fragment = (uint16_t)(p->off / 8 | (p->more ? 0x2000 : 0));
        nfm_emit_ipv4(&g->buf, &key, &fields, p->len);
    } else {
        uint8_t header[16] = {44, 0, 1, 4, 0, 0, 0, 0, p->proto};
        nfm_write16(header + 10, (uint16_t)(p->off | p->more));
        nfm_write32(header + 12, p->id);
        key.proto = 60; /* a destination options header in front */
        nfm_emit_ipv6(&g->buf, &key, &IP, 16 + p->len);
        nfm_emit_bytes(&g->buf, header, 16);
    }
    nfm_emit_bytes(&g->buf, p->data, p->len);
}

static inline void push_part(rig *r, const part *p) {
    frame_init(&f);
    eth(&f, p->version == 4 ? 0x0800 : 0x86dd);
    emit_part(&f, p);
    push(r, &f);
}

/* Pushes fragment "3-5" (in units of eight bytes) full of one letter. */
static inline void push_letters(rig *r, uint8_t version, uint32_t first, uint32_t last, char letter,
                                bool more) {
    uint8_t data[512];
    memset(data, letter, sizeof(data));
    part p = {.version = version,
              .proto = PROTO_TEST,
              .id = 7,
              .off = first * 8,
              .len = (last - first + 1) * 8,
              .more = more,
              .data = data};
    push_part(r, &p);
}

/* The payload of a record, a letter for eight bytes. */
static inline const char *letters(const rig *r, uint32_t i) {
    static char text[128];
    const nfm_record *rec = &r->all[i].record;
    const uint8_t *p = r->all[i].frame + rec->payload_off - NFM_HEADROOM;
    uint32_t n = rec->payload_len / 8;
    for (uint32_t k = 0; k < n && k < sizeof(text) - 1; k++) {
        text[k] = (char)p[k * 8];
        for (int b = 1; b < 8; b++)
            CHECK_EQ(p[k * 8], p[k * 8 + b]);
    }
    text[n] = '\0';
    return text;
}

#endif
