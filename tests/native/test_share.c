/* SPDX-License-Identifier: Apache-2.0 */
/* Several workers behind one port: frames go to their owners and come out once, in order. */
#include <sys/eventfd.h>

#include "engine/share.h"
#include "worker_rig.h"

enum { WORKERS = 3, FLOWS = 30, PER_FLOW = 20, QUEUE = 1024, IN = 0, OUT = 1 };

typedef struct line_port { /* an interface that gives what was put into it */
    nfm_port port;
    uint8_t frame[QUEUE][FRAME_ROOM];
    uint32_t len[QUEUE], n, next;
} line_port;

static int line_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
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

static int line_wait_fd(nfm_port *port) {
    (void)port;
    return -1;
}

static void line_free(nfm_port *port) {
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

static void put(rig *r, const uint8_t *frame, uint32_t len) {
    CHECK(r->in->n < QUEUE && len <= FRAME_ROOM);
    memcpy(r->in->frame[r->in->n], frame, len);
    r->in->len[r->in->n++] = len;
}

static uint32_t owner_of(const nfm_key *key) {
    nfm_flow_info info = {.proto = key->proto, .ip_version = key->ip_version};
    memcpy(info.addr, key->addr, sizeof(info.addr));
    memcpy(info.port, key->port, sizeof(info.port));
    return nfm_owner(&info, WORKERS);
}

static void put_datagram(rig *r, const nfm_key *key, uint32_t flow, uint32_t serial) {
    uint8_t frame[FRAME_ROOM];
    const uint32_t words[2] = {flow, serial};
    put(r, frame, udp_frame(frame, key, words, sizeof(words)));
}

static nfm_worker *make_worker(uint32_t id) {
    nfm_error err = {0};
    nfm_worker_config config = small_config();
    config.id = id;
    return nfm_worker_new(&config, &err);
}

static void join(rig *r, uint32_t id) {
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

static rig make_rig(void) {
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

static void start(rig *r) {
    nfm_error err = {0};
    for (uint32_t i = 0; i < WORKERS; i++)
        CHECK_EQ(nfm_worker_start(r->w[i], &err), NFM_OK);
}

typedef uint32_t (*judge_fn)(const nfm_mem *mem, const nfm_desc *desc, nfm_edit *edit);

static void serve(rig *r, uint32_t id, judge_fn judge) {
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
static void run(rig *r, judge_fn judge) {
    for (int turn = 0; turn < 200; turn++) {
        for (uint32_t i = 0; i < WORKERS; i++) {
            (void)nfm_worker_run(r->w[i], 64);
            serve(r, i, judge);
        }
    }
}

static void add_judges(rig *r) {
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

static uint64_t total(const rig *r, enum nfm_core_counter which) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < WORKERS; i++)
        sum += r->w[i]->core_counters[which];
    return sum;
}

static void end_rig(rig *r) {
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
static void check_order(const rig *r, uint32_t per_flow) {
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

static void put_all(rig *r) {
    for (uint32_t serial = 0; serial < PER_FLOW; serial++) {
        for (uint32_t flow = 0; flow < FLOWS; flow++) {
            nfm_key key = udp_key(flow);
            put_datagram(r, &key, flow, serial);
        }
    }
}

static void check_flows(const rig *r) {
    uint32_t want[WORKERS] = {0};
    for (uint32_t flow = 0; flow < FLOWS; flow++) {
        nfm_key key = udp_key(flow);
        want[owner_of(&key)]++;
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        CHECK(want[i] > 0);
        CHECK_EQ(r->w[i]->flows_opened, want[i]);
        CHECK_EQ(r->w[i]->packets, want[i] * PER_FLOW);
    }
}

static void frames_come_out_once_and_in_order(void) {
    rig r = make_rig();
    put_all(&r);
    start(&r);
    run(&r, NULL);
    check_order(&r, PER_FLOW);
    check_flows(&r);
    uint64_t away = (uint64_t)FLOWS * PER_FLOW - r.w[0]->packets;
    CHECK_EQ(r.w[0]->core_counters[NFM_CC_HANDED_OVER], away);
    CHECK_EQ(total(&r, NFM_CC_TAKEN_OVER), 2 * away); /* there, and back to be sent */
    CHECK_EQ(total(&r, NFM_CC_FORWARDED), FLOWS * PER_FLOW);
    CHECK_EQ(total(&r, NFM_CC_HANDOVER_FULL), 0);
    end_rig(&r);
}

static uint32_t drop_odd(const nfm_mem *mem, const nfm_desc *desc, nfm_edit *edit) {
    const nfm_record *record = &mem->records[desc->record];
    uint32_t words[2];
    (void)edit;
    memcpy(words, nfm_slot_ptr(mem, record->slot) + record->payload_off, 8);
    return words[1] % 2 ? NFM_DROP : NFM_PASS;
}

static uint32_t pass_all(const nfm_mem *mem, const nfm_desc *desc, nfm_edit *edit) {
    (void)edit;
    CHECK_EQ(nfm_slot_ptr(mem, mem->records[desc->record].slot)[0], 7); /* what the kernel left */
    return NFM_PASS;
}

static void every_worker_asks_about_its_own(void) {
    rig r = make_rig();
    put_all(&r);
    add_judges(&r);
    start(&r);
    run(&r, pass_all);
    check_order(&r, PER_FLOW);
    check_flows(&r);
    end_rig(&r);
    r = make_rig();
    put_all(&r);
    add_judges(&r);
    start(&r);
    run(&r, drop_odd);
    CHECK_EQ(total(&r, NFM_CC_INLINE_DROPPED), FLOWS * PER_FLOW / 2);
    end_rig(&r);
}

/* ---- second keys ---------------------------------------------------------------------------- */

/* Hides the sender behind one address, as a translator does. */
static uint32_t hide(const nfm_mem *mem, const nfm_desc *desc, nfm_edit *edit) {
    const nfm_flow_info *flow = &mem->flows[desc->flow];
    *edit = (nfm_edit){.fields = NFM_EDIT_SRC | NFM_EDIT_SRC_PORT,
                       .src_port = (uint16_t)(flow->port[0] + 30000)};
    nfm_write32(edit->src, 0xc6336401);
    return NFM_REWRITE | NFM_REST;
}

static nfm_key hidden_of(uint32_t flow) {
    nfm_key key = udp_key(flow);
    nfm_write32(key.addr[0], 0xc6336401);
    key.port[0] = (uint16_t)(key.port[0] + 30000);
    return key;
}

/* What comes back is of the worker that has the flow, whoever its new key hashes to. */
static void answers_to_rewritten_flows_find_their_worker(void) {
    rig r = make_rig();
    uint32_t elsewhere = 0;
    add_judges(&r);
    start(&r);
    for (uint32_t flow = 0; flow < FLOWS; flow++) {
        nfm_key key = udp_key(flow), hidden = hidden_of(flow);
        elsewhere += owner_of(&key) != owner_of(&hidden);
        put_datagram(&r, &key, flow, 0);
    }
    CHECK(elsewhere > FLOWS / 3);
    run(&r, hide);
    uint32_t told = 0;
    for (uint32_t i = 0; i < WORKERS; i++)
        told += r.w[i]->share->elsewhere.n;
    CHECK_EQ(told, elsewhere);
    for (uint32_t flow = 0; flow < FLOWS; flow++) {
        nfm_key answer = hidden_of(flow);
        nfm_key_turn(&answer);
        put_datagram(&r, &answer, flow, 1);
    }
    run(&r, hide);
    check_order(&r, 2);
    uint64_t at = 0, opened = 0;
    nfm_view frame;
    for (uint32_t i = 0; (frame = nfm_port_mem_sent(r.port[0][OUT], &at)).data != NULL; i++)
        if (i >= FLOWS) /* answers go to the hidden host */
            CHECK_EQ(nfm_read32(frame.data + 14 + 16) & 0xffffff00, 0x0a000000);
    for (uint32_t i = 0; i < WORKERS; i++)
        opened += r.w[i]->flows_opened;
    CHECK_EQ(opened, FLOWS);
    for (uint32_t i = 0; i < WORKERS; i++)
        while (r.w[i]->flows_closed < r.w[i]->flows_opened)
            nfm__flow_close(r.w[i], (uint32_t)r.w[i]->flows_closed, NFM_END_TIMEOUT);
    run(&r, hide);
    for (uint32_t i = 0; i < WORKERS; i++)
        CHECK_EQ(r.w[i]->share->elsewhere.n, 0); /* an ended flow's key is nobody's */
    end_rig(&r);
}

/* A router's error about what a hidden host has sent. */
static void put_error(rig *r, uint32_t flow) {
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
    nfm_key hidden = hidden_of(flow), key = {.ip_version = 4, .proto = IPPROTO_ICMP};
    uint8_t quoted[64], frame[FRAME_ROOM];
    nfm_emit_buf inner = {quoted, sizeof(quoted), 0}, buf = {frame, sizeof(frame), 0};
    nfm_ip_fields ip = {.ttl = 64};
    nfm_emit_ipv4(&inner, &hidden, &ip, 8 + 8);
    nfm_emit_udp(&inner, &hidden, (nfm_view){(const uint8_t *)"quoted!", 8});
    nfm_write32(key.addr[0], 0x0b000001);
    memcpy(key.addr[1], hidden.addr[0], 16);
    nfm_emit_eth(&buf, mac, mac, 0x0800);
    nfm_emit_ipv4(&buf, &key, &ip, 8 + inner.len);
    nfm_emit_icmp(&buf, &key, 3 << 8 | 3, 0, (nfm_view){quoted, inner.len});
    put(r, frame, buf.len);
}

static void errors_about_rewritten_flows_find_their_worker(void) {
    rig r = make_rig();
    uint64_t at = 0, opened = 0;
    uint32_t errors = 0;
    nfm_view frame;
    add_judges(&r);
    start(&r);
    for (uint32_t flow = 0; flow < FLOWS; flow++) {
        nfm_key key = udp_key(flow);
        put_datagram(&r, &key, flow, 0);
    }
    run(&r, hide);
    for (uint32_t flow = 0; flow < FLOWS; flow++)
        put_error(&r, flow);
    run(&r, hide);
    for (uint32_t i = 0; i < WORKERS; i++)
        opened += r.w[i]->flows_opened;
    while ((frame = nfm_port_mem_sent(r.port[0][OUT], &at)).data != NULL) {
        if (frame.data[14 + 9] != IPPROTO_ICMP)
            continue;
        errors++;
        CHECK_EQ(nfm_read32(frame.data + 14 + 16) & 0xffffff00, 0x0a000000);
        CHECK_EQ(nfm_read32(frame.data + 14 + 20 + 8 + 12), nfm_read32(frame.data + 14 + 16));
    }
    CHECK_EQ(errors, FLOWS);
    CHECK_EQ(opened, FLOWS); /* an error is its flow's */
    end_rig(&r);
}

static void keys_are_found_and_forgotten(void) {
    rig r = make_rig();
    nfm_worker *w = r.w[0];
    enum { N = 700 };
    for (uint32_t i = 0; i < N; i++) {
        nfm_key key = udp_key(i);
        CHECK(nfm__elsewhere_add(w, &key, 1 + i % 2));
    }
    uint32_t full = N;
    for (nfm_key key = udp_key(full); nfm__elsewhere_add(w, &key, 2); key = udp_key(full))
        full++;
    CHECK(full < 1024 && w->share->elsewhere.n == full); /* bounded by the flows there can be */
    for (uint32_t i = 0; i < N; i += 3) {
        nfm_key key = udp_key(i);
        nfm_key_turn(&key); /* either direction names the flow */
        nfm__elsewhere_remove(w, &key, 1 + i % 2);
    }
    for (uint32_t i = 0; i < N; i++) {
        nfm_key key = udp_key(i);
        CHECK_EQ(nfm__elsewhere_find(w, &key), i % 3 == 0 ? NFM_MAX_WORKERS : 1 + i % 2);
    }
    nfm__elsewhere_forget(w, 2);
    for (uint32_t i = 0; i < N; i++) {
        nfm_key key = udp_key(i);
        bool left = i % 3 != 0 && i % 2 == 0;
        CHECK_EQ(nfm__elsewhere_find(w, &key), left ? 1 : NFM_MAX_WORKERS);
    }
    start(&r);
    end_rig(&r);
}

/* ---- fragments ------------------------------------------------------------------------------ */

static void add_defrag(rig *r) {
    uint32_t n;
    nfm_error err = {0};
    const nfm_module *const *modules = nfm_builtin_modules(&n);
    for (uint32_t i = 0; i < WORKERS; i++)
        for (uint32_t k = 0; k < n; k++)
            if (strcmp(modules[k]->name, "ip_defrag") == 0)
                CHECK(nfm_worker_add_module(r->w[i], modules[k], NULL, NULL, &err) >= 0);
}

static void put_fragments(rig *r, uint32_t flow) {
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
    nfm_key key = udp_key(flow);
    uint8_t datagram[40] = {0};
    nfm_write16(datagram, key.port[0]);
    nfm_write16(datagram + 2, key.port[1]);
    nfm_write16(datagram + 4, sizeof(datagram));
    for (uint32_t at = 0; at < 40; at += 24) {
        uint8_t frame[FRAME_ROOM];
        nfm_emit_buf buf = {frame, sizeof(frame), 0};
        uint32_t len = at == 0 ? 24 : 16;
        nfm_ip_fields ip = {
            .ttl = 64, .id = (uint16_t)flow, .fragment = (uint16_t)(at / 8 | (at == 0) << 13)};
        nfm_emit_eth(&buf, mac, mac, 0x0800);
        nfm_emit_ipv4(&buf, &key, &ip, len);
        nfm_emit_bytes(&buf, datagram + at, len);
        put(r, frame, buf.len);
    }
}

/* Where nobody decides, fragments pass as they are, and their owner hears of the whole. */
static void owners_hear_of_datagrams_that_passed_in_fragments(void) {
    rig r = make_rig();
    nfm_error err = {0};
    add_defrag(&r);
    nfm_ring *heard[WORKERS];
    for (uint32_t i = 0; i < WORKERS; i++) {
        heard[i] = nfm_worker_add_ring(r.w[i], 256, &err);
        nfm_subscription sub = {
            .ring = heard[i], .events = NFM_BIT(NFM_EV_PACKET_UDP), .type_first = 1};
        CHECK(nfm_worker_subscribe(r.w[i], &sub) >= 0);
    }
    start(&r);
    for (uint32_t flow = 0; flow < FLOWS; flow++)
        put_fragments(&r, flow);
    run(&r, NULL);
    uint32_t wholes = 0, passed = 0;
    for (uint32_t i = 0; i < WORKERS; i++) {
        const nfm_desc *desc;
        uint32_t n = nfm_ring_peek(heard[i], &desc, 256);
        for (uint32_t k = 0; k < n; k++) {
            const nfm_record *record = &nfm_worker_mem(r.w[i])->records[desc[k].record];
            const nfm_flow_info *flow = &nfm_worker_mem(r.w[i])->flows[desc[k].flow];
            CHECK(record->flags & NFM_F_FRAGMENT);
            CHECK_EQ(nfm_owner(flow, WORKERS), i);
            wholes++;
        }
        nfm_ring_advance(heard[i], n);
    }
    CHECK_EQ(wholes, FLOWS);
    uint64_t at = 0;
    while (nfm_port_mem_sent(r.port[0][OUT], &at).data != NULL)
        passed++;
    CHECK_EQ(passed, 2 * FLOWS);
    end_rig(&r);
}

static void what_is_judged_passes_whole(void) {
    rig r = make_rig();
    uint32_t passed = 0;
    uint64_t at = 0;
    nfm_view frame;
    add_defrag(&r);
    add_judges(&r);
    start(&r);
    for (uint32_t flow = 0; flow < FLOWS; flow++)
        put_fragments(&r, flow);
    run(&r, drop_odd); /* the second word is 0: they pass */
    for (; (frame = nfm_port_mem_sent(r.port[0][OUT], &at)).data != NULL; passed++)
        CHECK_EQ(frame.len, 14 + 20 + 40);
    CHECK_EQ(passed, FLOWS);
    end_rig(&r);
}

/* ---- the ring ------------------------------------------------------------------------------- */

static void a_full_ring_loses_and_counts(void) {
    rig r = make_rig();
    nfm_key key = udp_key(0);
    uint32_t flow = 0;
    while (owner_of(&key) != 1)
        key = udp_key(++flow);
    start(&r);
    enum { MANY = 40000 };
    for (uint32_t i = 0; i < MANY; i++) {
        if (r.in->n == QUEUE)
            r.in->n = r.in->next = 0;
        put_datagram(&r, &key, 0, i);
        if (r.in->n == QUEUE)
            while (r.in->next < r.in->n)
                (void)nfm_worker_run(r.w[0], 64);
    }
    (void)nfm_worker_run(r.w[0], 64);
    uint64_t handed = r.w[0]->core_counters[NFM_CC_HANDED_OVER];
    CHECK(handed > 30000 && r.w[0]->core_counters[NFM_CC_HANDOVER_FULL] > 0);
    for (int i = 0; i < 2000; i++) {
        (void)nfm_worker_run(r.w[1], 64);
        (void)nfm_worker_run(r.w[0], 64);
    }
    CHECK_EQ(r.w[1]->packets, handed);
    end_rig(&r);
}

static void sleepers_hear_their_bell_and_new_lives(void) {
    rig r = make_rig();
    uint64_t rings = 0;
    nfm_error err = {0};
    nfm_key key = udp_key(0), other = udp_key(1);
    uint32_t flow = 0;
    while (owner_of(&key) != 1)
        key = udp_key(++flow);
    start(&r);
    CHECK(nfm__share_sleep(r.w[1]));
    put_datagram(&r, &key, 0, 0);
    (void)nfm_worker_run(r.w[0], 64);
    CHECK_EQ(read(r.bells[1], &rings, sizeof(rings)), sizeof(rings));
    CHECK(!nfm__share_sleep(r.w[1])); /* something is there */
    nfm__share_awake(r.w[1]);
    (void)nfm_worker_run(r.w[1], 64);
    CHECK_EQ(r.w[1]->packets, 1);
    put_datagram(&r, &key, 0, 1);
    (void)nfm_worker_run(r.w[0], 64);
    CHECK(read(r.bells[1], &rings, sizeof(rings)) < 0); /* awake: no system call */
    CHECK(nfm__elsewhere_add(r.w[1], &other, 0));
    nfm_handover again; /* the first worker begins anew: what it said of its flows is void */
    CHECK_EQ(nfm_handover_open(&again, r.fds[0][1], true, &err), NFM_OK);
    nfm_handover_close(&again);
    (void)nfm_worker_run(r.w[1], 64);
    CHECK_EQ(r.w[1]->packets, 2);
    CHECK_EQ(r.w[1]->share->elsewhere.n, 0);
    end_rig(&r);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(frames_come_out_once_and_in_order),
        T(every_worker_asks_about_its_own),
        T(answers_to_rewritten_flows_find_their_worker),
        T(errors_about_rewritten_flows_find_their_worker),
        T(keys_are_found_and_forgotten),
        T(owners_hear_of_datagrams_that_passed_in_fragments),
        T(what_is_judged_passes_whole),
        T(a_full_ring_loses_and_counts),
        T(sleepers_hear_their_bell_and_new_lives),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
