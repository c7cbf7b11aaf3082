/* SPDX-License-Identifier: Apache-2.0 */
/* Several workers behind one port, which is the first one's. */
#ifndef SHARE_RIG_H
#define SHARE_RIG_H

#include <sys/eventfd.h>

#include "engine/share.h"
#include "worker_rig.h"

enum { WORKERS = 3, FLOWS = 30, PER_FLOW = 20, QUEUE = 1024, IN = 0, OUT = 1 };

typedef struct line_port { /* an interface that gives what was put into it */
    nfm_port port;
    uint8_t frame[QUEUE][FRAME_ROOM];
    uint32_t len[QUEUE], n, next;
} line_port;

static inline int line_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    line_port *self = (line_port *)port;
    uint32_t done = 0;
    for (; done < n && self->next < self->n; done++, self->next++) {
        uint32_t len = self->len[self->next], slot = nfm_pool_get(pool, len);
        CHECK(slot != NFM_NO_SLOT);
        uint8_t *to = nfm_pool_addr(pool, slot);
        memset(to, 0, sizeof(nfm_slot_meta));
        ((nfm_slot_meta *)(void *)to)->needs_csum = 7; /* to be found where it leaves */
        memcpy(to + NFM_HEADROOM, self->frame[self->next], len);
        frames[done] = (nfm_frame){slot, len, len, 1, (int64_t)self->next * 1000};
    }
    return (int)done;
}

static inline int line_wait_fd(nfm_port *port) {
    (void)port;
    return -1;
}

static inline void line_free(nfm_port *port) {
    free(port);
}

static const nfm_port_ops line_ops = {
    .name = "line", .rx = line_rx, .wait_fd = line_wait_fd, .free = line_free};

typedef struct rig {
    line_port *in;
    nfm_port *port[WORKERS][2];
    nfm_worker *w[WORKERS];
    nfm_ring *ring[WORKERS]; /* of an inline receiver; NULL */
    int32_t fds[WORKERS][WORKERS], bells[WORKERS];
} rig;

static inline void put(rig *r, const uint8_t *frame, uint32_t len) {
    CHECK(r->in->n < QUEUE && len <= FRAME_ROOM);
    memcpy(r->in->frame[r->in->n], frame, len);
    r->in->len[r->in->n++] = len;
}

static inline uint32_t owner_of(const nfm_key *key) {
    nfm_flow_info info = {.proto = key->proto, .ip_version = key->ip_version};
    memcpy(info.addr, key->addr, sizeof(info.addr));
    memcpy(info.port, key->port, sizeof(info.port));
    return nfm_owner(&info, WORKERS);
}

static inline void put_datagram(rig *r, const nfm_key *key, uint32_t flow, uint32_t serial) {
    uint8_t frame[FRAME_ROOM];
    const uint32_t words[2] = {flow, serial};
    put(r, frame, udp_frame(frame, key, words, sizeof(words)));
}

static inline nfm_worker *make_worker(uint32_t id) {
    nfm_error err = {0};
    nfm_worker_config config = small_config();
    config.id = id;
    return nfm_worker_new(&config, &err);
}

static inline void join(rig *r, uint32_t id) {
    nfm_error err = {0};
    int32_t to[WORKERS], from[WORKERS];
    for (uint32_t i = 0; i < WORKERS; i++) {
        to[i] = i == id ? -1 : r->fds[id][i];
        from[i] = i == id ? -1 : r->fds[i][id];
    }
    const nfm_sharing sharing = {.n_workers = WORKERS, .to = to, .taken = from, .bells = r->bells};
    for (uint32_t i = 0; i < 2; i++)
        CHECK_EQ(nfm_worker_add_port(r->w[id], r->port[id][i]), NFM_OK);
    CHECK_EQ(nfm_worker_forward(r->w[id], IN, OUT), NFM_OK);
    CHECK_EQ(nfm_worker_share(r->w[id], &sharing, &err), NFM_OK);
    CHECK_EQ(nfm_worker_share(r->w[id], &sharing, &err), NFM_E_STATE);
}

static inline rig make_rig(void) {
    rig r = {0};
    nfm_error err = {0};
    for (uint32_t i = 0; i < WORKERS; i++) {
        r.bells[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        for (uint32_t k = 0; k < WORKERS; k++) {
            nfm_object_info made;
            CHECK_EQ(nfm_object_create("hand", nfm_handover_object_size(), &made, &err), NFM_OK);
            r.fds[i][k] = made.fd;
        }
    }
    r.in = calloc(1, sizeof(*r.in));
    r.in->port.ops = &line_ops;
    r.port[0][IN] = &r.in->port;
    r.port[0][OUT] = nfm_port_mem_new(1, &err);
    CHECK_EQ(nfm_port_mem_keep(r.port[0][OUT], 1 << 20), NFM_OK);
    for (uint32_t i = 0; i < WORKERS; i++) {
        for (uint32_t k = 0; i > 0 && k < 2; k++)
            r.port[i][k] = nfm_port_remote_open(&err);
        r.w[i] = make_worker(i);
        join(&r, i);
    }
    return r;
}

static inline void start(rig *r) {
    nfm_error err = {0};
    for (uint32_t i = 0; i < WORKERS; i++)
        CHECK_EQ(nfm_worker_start(r->w[i], &err), NFM_OK);
}

typedef uint32_t (*judge_fn)(const nfm_mem *mem, const nfm_desc *desc, nfm_edit *edit);

static inline void serve(rig *r, uint32_t id, judge_fn judge) {
    const nfm_desc *desc;
    nfm_ring *ring = r->ring[id];
    if (ring == NULL)
        return;
    uint32_t n = nfm_ring_peek(ring, &desc, 64), *verdict = nfm_ring_verdicts(ring, n);
    nfm_edit *edit = nfm_ring_edits(ring);
    for (uint32_t i = 0; i < n; i++)
        verdict[i] = judge(nfm_worker_mem(r->w[id]), &desc[i], &edit[i]);
    nfm_ring_advance(ring, n);
}

/* Runs all workers in turn until none has anything to do. */
static inline void run(rig *r, judge_fn judge) {
    for (int turn = 0; turn < 200; turn++) {
        for (uint32_t i = 0; i < WORKERS; i++) {
            (void)nfm_worker_run(r->w[i], 64);
            serve(r, i, judge);
        }
    }
}

static inline void add_judges(rig *r) {
    nfm_error err = {0};
    nfm_inline_config config = {0};
    for (uint32_t i = 0; i < WORKERS; i++) {
        r->ring[i] = nfm_worker_add_ring(r->w[i], 256, &err);
        CHECK_EQ(nfm_worker_make_inline(r->w[i], r->ring[i], &config), NFM_OK);
        nfm_subscription sub = {.ring = r->ring[i],
                                .events = NFM_BIT(NFM_EV_PACKET_UDP),
                                .type_first = 1,
                                .in_line = 1};
        CHECK(nfm_worker_subscribe(r->w[i], &sub) >= 0);
    }
}

static inline uint64_t total(const rig *r, enum nfm_core_counter which) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < WORKERS; i++)
        sum += r->w[i]->core_counters[which];
    return sum;
}

static inline void end_rig(rig *r) {
    for (uint32_t i = 0; i < WORKERS; i++) {
        nfm_worker_stats stats;
        nfm_worker_finish(r->w[i]);
        for (int turn = 0; turn < 10 && nfm_worker_run(r->w[i], 64) != NFM_RUN_EOF; turn++)
            serve(r, i, NULL);
        nfm_worker_stats_get(r->w[i], &stats);
        CHECK_EQ(stats.slots_used, 0);
        CHECK_EQ(stats.records_used, 0);
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        nfm_worker_free(r->w[i]);
        for (uint32_t k = 0; k < 2; k++)
            nfm_port_free(r->port[i][k]);
        for (uint32_t k = 0; k < WORKERS; k++)
            close(r->fds[i][k]);
        close(r->bells[i]);
    }
}

/* Each flow's frames came out, all of them and in order. */
static inline void check_order(const rig *r, uint32_t per_flow) {
    uint32_t next[FLOWS] = {0}, all = 0;
    uint64_t at = 0;
    nfm_view frame;
    while ((frame = nfm_port_mem_sent(r->port[0][OUT], &at)).data != NULL) {
        uint32_t words[2];
        memcpy(words, frame.data + frame.len - 8, 8);
        CHECK(words[0] < FLOWS);
        CHECK_EQ(words[1], next[words[0] % FLOWS]);
        next[words[0] % FLOWS]++;
        all++;
    }
    CHECK_EQ(all, per_flow * FLOWS);
}

#endif
