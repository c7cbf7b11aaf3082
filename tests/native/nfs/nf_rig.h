/* SPDX-License-Identifier: Apache-2.0 */
/* A native NF in a real worker between two wires: frames go in one by one, and what comes out is
 * looked at. Wires are live ports in memory. */
#ifndef NF_RIG_H
#define NF_RIG_H

#include <netinet/in.h>

#include "engine/transit.h"
#include "nfm_test.h"
#include "wire/emit.h"

extern const nfm_module nfm_module_tcp_track;

enum { WIRE_FRAME = 2048, WIRE_FRAMES = 64, INSIDE = 0, OUTSIDE = 1 };

typedef struct wire_frame {
    uint32_t len;
    uint8_t data[WIRE_FRAME];
} wire_frame;

typedef struct wire_port {
    nfm_port port;
    const int64_t *now_ns;
    wire_frame in[WIRE_FRAMES], out[WIRE_FRAMES];
    uint32_t n_in, n_out, taken;
} wire_port;

static inline int wire_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    wire_port *self = (wire_port *)port;
    uint32_t done = 0;
    for (; done < n && done < self->n_in; done++) {
        const wire_frame *f = &self->in[done];
        uint32_t slot = nfm_pool_get(pool, f->len);
        CHECK(slot != NFM_NO_SLOT);
        memset(nfm_pool_addr(pool, slot), 0, sizeof(nfm_slot_meta));
        memcpy(nfm_pool_addr(pool, slot) + NFM_HEADROOM, f->data, f->len);
        frames[done] = (nfm_frame){slot, f->len, f->len, 1, *self->now_ns};
    }
    memmove(self->in, self->in + done, (self->n_in - done) * sizeof(self->in[0]));
    self->n_in -= done;
    return (int)done;
}

static inline int wire_tx(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    wire_port *self = (wire_port *)port;
    for (uint32_t i = 0; i < n; i++) {
        CHECK(self->n_out < WIRE_FRAMES);
        wire_frame *f = &self->out[self->n_out++ % WIRE_FRAMES];
        f->len = frames[i].len;
        memcpy(f->data, nfm_pool_addr(pool, frames[i].slot) + frames[i].off, frames[i].len);
        nfm_pool_put(pool, frames[i].slot);
    }
    return (int)n;
}

static inline int wire_fd(nfm_port *port) {
    (void)port;
    return -1;
}

static inline void wire_free(nfm_port *port) {
    (void)port;
}

static const nfm_port_ops wire_ops = {
    .name = "wire", .rx = wire_rx, .tx = wire_tx, .wait_fd = wire_fd, .free = wire_free};

typedef struct nf_rig {
    wire_port wire[2];
    int64_t now_ns;
    nfm_worker *w;
    nfm_ring *ring;
} nf_rig;

/* |process| judges all packets and hears flow.end; tracked: also tcp.established and
 * tcp.reset. */
static inline nf_rig *nf_rig_new(nfm_process_fn process, void *state, bool tracked) {
    nf_rig *r = calloc(1, sizeof(*r));
    nfm_error err = {0};
    nfm_worker_config config;
    static const uint32_t types[32] = {0};
    nfm_worker_config_init(&config);
    config.max_flows = 4096;
    config.n_small = 512;
    config.n_large = 16;
    config.n_records = 1024;
    config.fields_size = 1 << 20;
    r->now_ns = 1000000000;
    r->w = nfm_worker_new(&config, &err);
    for (int i = 0; i < 2; i++) {
        r->wire[i].port.ops = &wire_ops;
        r->wire[i].now_ns = &r->now_ns;
        CHECK_EQ(nfm_worker_add_port(r->w, &r->wire[i].port), NFM_OK);
    }
    if (tracked)
        CHECK(nfm_worker_add_module(r->w, &nfm_module_tcp_track, NULL, types, &err) >= 0);
    CHECK_EQ(nfm_worker_forward(r->w, INSIDE, OUTSIDE), NFM_OK);
    CHECK_EQ(nfm_worker_forward(r->w, OUTSIDE, INSIDE), NFM_OK);
    r->ring = nfm_worker_add_ring(r->w, 256, &err);
    nfm_inline_config judge = {0};
    CHECK_EQ(nfm_worker_make_inline(r->w, r->ring, &judge), NFM_OK);
    CHECK_EQ(nfm_worker_attach_native(r->w, r->ring, process, state), NFM_OK);
    nfm_subscription packets = {.ring = r->ring, .events = 0x1f, .type_first = 1, .in_line = 1};
    nfm_subscription ends = {
        .ring = r->ring,
        .events = NFM_BIT(NFM_EV_FLOW_END) |
                  (tracked ? NFM_BIT(NFM_EV_TCP_ESTABLISHED) | NFM_BIT(NFM_EV_TCP_RESET) : 0),
        .level = tracked ? NFM_LEVEL_TRACK : NFM_LEVEL_PACKET,
        .type_first = 1,
        .group = 1};
    CHECK(nfm_worker_subscribe(r->w, &packets) >= 0);
    CHECK(nfm_worker_subscribe(r->w, &ends) >= 0);
    return r;
}

static inline void nf_rig_run(nf_rig *r) {
    for (int i = 0; i < 4; i++)
        CHECK(nfm_worker_run(r->w, 256) >= 0);
}

static inline void nf_rig_start(nf_rig *r) {
    nfm_error err = {0};
    CHECK_EQ(nfm_worker_start(r->w, &err), NFM_OK);
}

static inline void nf_rig_free(nf_rig *r) {
    nfm_worker_stats stats;
    nfm_worker_finish(r->w);
    for (int i = 0; i < 100 && nfm_worker_run(r->w, 256) != NFM_RUN_EOF; i++)
        ;
    nfm_worker_stats_get(r->w, &stats);
    CHECK_EQ(stats.slots_used, 0);
    CHECK_EQ(stats.records_used, 0);
    CHECK_EQ(stats.flows_now, 0);
    nfm_worker_free(r->w);
    free(r);
}

static inline uint64_t nf_rig_counter(const nf_rig *r, enum nfm_core_counter which) {
    return r->w->core_counters[which];
}

static inline void nf_rig_put(nf_rig *r, int wire, const wire_frame *frame) {
    CHECK(r->wire[wire].n_in < WIRE_FRAMES);
    r->wire[wire].in[r->wire[wire].n_in++] = *frame;
}

/* The next frame that came out at |wire|; NULL: none. Valid until the next nf_rig_send. */
static inline const wire_frame *nf_rig_take(nf_rig *r, int wire) {
    wire_port *port = &r->wire[wire];
    return port->taken < port->n_out ? &port->out[port->taken++] : NULL;
}

/* Puts one frame in; what has come out before is forgotten. */
static inline void nf_rig_send(nf_rig *r, int wire, const wire_frame *frame) {
    for (int i = 0; i < 2; i++)
        r->wire[i].n_out = r->wire[i].taken = 0;
    nf_rig_put(r, wire, frame);
    r->now_ns += 1000;
    nf_rig_run(r);
}

/* ---- frames --------------------------------------------------------------------------------- */

typedef struct message { /* host order; IPv4 addresses as numbers */
    uint8_t proto, tcp_flags;
    uint16_t icmp; /* type << 8 | code */
    uint32_t src, dst;
    uint16_t src_port, dst_port; /* ICMP echo: dst_port is the identifier */
    uint32_t seq;
    const uint8_t *src6, *dst6; /* not NULL: IPv6 */
    uint8_t mac;                /* last byte of the sender's */
    nfm_view payload;
} message;

static inline wire_frame frame_of(const message *m) {
    wire_frame f = {0};
    nfm_emit_buf buf = {f.data, WIRE_FRAME, 0};
    nfm_ip_fields ip = {.ttl = 64};
    const uint8_t src[6] = {2, 0, 0, 0, 0, m->mac}, dst[6] = {2, 0, 0, 0, 0, 0xfe};
    bool is_icmp = m->proto == IPPROTO_ICMP || m->proto == IPPROTO_ICMPV6;
    nfm_key key;
    memset(&key, 0, sizeof(key));
    key.ip_version = m->src6 != NULL ? 6 : 4;
    key.proto = m->proto;
    key.port[0] = m->src_port;
    key.port[1] = m->dst_port;
    uint32_t len = m->payload.len + (m->proto == IPPROTO_TCP ? 20 : 8);
    nfm_emit_eth(&buf, dst, src, m->src6 != NULL ? 0x86dd : 0x0800);
    if (m->src6 != NULL) {
        memcpy(key.addr[0], m->src6, 16);
        memcpy(key.addr[1], m->dst6, 16);
        nfm_emit_ipv6(&buf, &key, &ip, len);
    } else {
        nfm_write32(key.addr[0], m->src);
        nfm_write32(key.addr[1], m->dst);
        nfm_emit_ipv4(&buf, &key, &ip, len);
    }
    nfm_tcp_fields tcp = {.seq = m->seq, .flags = m->tcp_flags, .window = 1000};
    if (m->proto == IPPROTO_TCP)
        nfm_emit_tcp(&buf, &key, &tcp, m->payload);
    else if (is_icmp)
        nfm_emit_icmp(&buf, &key, m->icmp, (uint32_t)m->dst_port << 16 | 1, m->payload);
    else
        nfm_emit_udp(&buf, &key, m->payload);
    f.len = buf.len;
    return f;
}

/* What |f| says, its checksums checked. Borrows its payload. */
static inline message read_frame(const wire_frame *f) {
    message m = {0};
    if (f == NULL || f->len < 14 + 20 + 8) {
        CHECK(!"a frame came out");
        return m;
    }
    const uint8_t *ip = f->data + 14;
    bool ipv6 = ip[0] >> 4 == 6;
    const uint8_t *l4 = ip + (ipv6 ? 40 : 20);
    uint32_t len = (uint32_t)(f->data + f->len - l4);
    m.proto = ipv6 ? ip[6] : ip[9];
    uint32_t sum = nfm_csum_add(m.proto + len, ip + (ipv6 ? 8 : 12), ipv6 ? 32 : 8);
    sum = m.proto == IPPROTO_ICMP ? 0 : sum;
    if (!ipv6)
        CHECK_EQ(nfm_csum_fold(nfm_csum_add(0, ip, 20)), 0);
    CHECK_EQ(nfm_csum_fold(nfm_csum_add(sum, l4, len)), 0);
    m.mac = f->data[11];
    if (ipv6) {
        m.src6 = ip + 8;
        m.dst6 = ip + 24;
    } else {
        m.src = nfm_read32(ip + 12);
        m.dst = nfm_read32(ip + 16);
    }
    uint32_t header = m.proto == IPPROTO_TCP ? 20 : 8;
    if (m.proto == IPPROTO_ICMP || m.proto == IPPROTO_ICMPV6) {
        m.icmp = nfm_read16(l4);
        m.dst_port = nfm_read16(l4 + 4);
    } else {
        m.src_port = nfm_read16(l4);
        m.dst_port = nfm_read16(l4 + 2);
    }
    m.payload = (nfm_view){l4 + header, len - header};
    return m;
}

/* An ICMP error from |from| about the frame |about|, of which it quotes |quoted| bytes from the IP
 * header on, to its sender. */
static inline wire_frame error_about(const wire_frame *about, uint16_t icmp, uint32_t from,
                                     uint32_t quoted) {
    message m = {.proto = IPPROTO_ICMP,
                 .icmp = icmp,
                 .src = from,
                 .dst = nfm_read32(about->data + 14 + 12),
                 .mac = 0x77};
    uint32_t there = about->len - 14;
    m.payload = (nfm_view){about->data + 14, quoted < there ? quoted : there};
    return frame_of(&m);
}

#endif
