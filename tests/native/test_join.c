/* SPDX-License-Identifier: Apache-2.0 */
/* Stack modules that come while packets flow: what they need, what flows under way then say. */
#include "worker_rig.h"

extern const nfm_module nfm_module_tcp_track, nfm_module_tcp_stream, nfm_module_udp,
    nfm_module_ip_defrag;

enum { FIN = 1, SYN = 2, ACK = 16, SEEN_MAX = 64, ISN = 1000 };

typedef struct seen {
    nfm_record record;
    char text[8];
} seen;

typedef struct rig {
    nfm_port *port;
    nfm_worker *worker;
    nfm_ring *ring;
    uint32_t n;
    seen all[SEEN_MAX];
    uint32_t sent[2][2]; /* by connection and side */
} rig;

/* A worker whose flows have room for |reserved|, NULL-terminated. */
static rig *make(const nfm_module *const *reserved) {
    rig *r = calloc(1, sizeof(*r));
    nfm_error err = {0};
    const nfm_worker_config config = small_config();
    r->port = nfm_port_mem_new(1, &err);
    r->worker = nfm_worker_new(&config, &err);
    CHECK(r->worker != NULL);
    CHECK_EQ(nfm_worker_add_port(r->worker, r->port), NFM_OK);
    r->ring = nfm_worker_add_ring(r->worker, 64, &err);
    for (; *reserved != NULL; reserved++)
        CHECK_EQ(nfm_worker_reserve_module(r->worker, *reserved, &err), NFM_OK);
    return r;
}

static void subscribe(rig *r, uint64_t events, uint32_t level) {
    nfm_subscription sub = {.ring = r->ring, .level = level, .events = events, .type_first = 1};
    CHECK(nfm_worker_subscribe(r->worker, &sub) >= 0);
}

static int add(rig *r, const nfm_module *module) {
    nfm_error err = {0};
    return nfm_worker_add_module(r->worker, module, NULL, NULL, &err);
}

static nfm_key key_of(uint32_t connection, uint32_t side, uint8_t proto) {
    nfm_key key;
    memset(&key, 0, sizeof(key));
    key.ip_version = 4;
    key.proto = proto;
    memcpy(key.addr[side], "\x0a\x00\x00\x01", 4);
    memcpy(key.addr[!side], "\x0a\x00\x00\x02", 4);
    key.port[side] = (uint16_t)(4000 + connection);
    key.port[!side] = 80;
    return key;
}

static void push(rig *r, const uint8_t *frame, uint32_t len) {
    CHECK_EQ(nfm_port_mem_push(r->port, frame, len, len, 1), NFM_OK);
}

static void tcp(rig *r, uint32_t connection, uint32_t side, uint8_t flags, const char *text) {
    uint8_t frame[256];
    nfm_emit_buf buf = {frame, sizeof(frame), 0};
    nfm_ip_fields ip = {.ttl = 64};
    nfm_key key = key_of(connection, side, IPPROTO_TCP);
    uint32_t *sent = r->sent[connection], len = (uint32_t)strlen(text);
    nfm_tcp_fields fields = {.seq = ISN + sent[side],
                             .ack = flags & ACK ? ISN + sent[!side] : 0,
                             .window = 8000,
                             .flags = flags};
    nfm_emit_eth(&buf, (const uint8_t *)"\2\0\0\0\0\1", (const uint8_t *)"\2\0\0\0\0\2", 0x0800);
    nfm_emit_ipv4(&buf, &key, &ip, nfm_emit_tcp_len(&fields.opts) + len);
    nfm_emit_tcp(&buf, &key, &fields, (nfm_view){(const uint8_t *)text, len});
    sent[side] += len + ((flags & (SYN | FIN)) != 0);
    push(r, frame, buf.len);
}

static void udp(rig *r, uint32_t side) {
    uint8_t frame[FRAME_ROOM];
    const nfm_key key = key_of(0, side, IPPROTO_UDP);
    push(r, frame, udp_frame(frame, &key, "hi", 2));
}

static void handshake(rig *r, uint32_t connection) {
    tcp(r, connection, 0, SYN, "");
    tcp(r, connection, 1, SYN | ACK, "");
    tcp(r, connection, 0, ACK, "");
}

static void talk(rig *r, uint32_t connection, const char *question, const char *answer) {
    tcp(r, connection, 0, ACK, question);
    tcp(r, connection, 1, ACK, answer);
    tcp(r, connection, 0, ACK, "");
}

static void drain(rig *r) {
    const nfm_desc *desc;
    uint32_t n;
    while ((n = nfm_ring_peek(r->ring, &desc, 64)) > 0) {
        for (uint32_t i = 0; i < n && r->n < SEEN_MAX; i++, r->n++) {
            seen *s = &r->all[r->n];
            s->record = r->worker->mem.records[desc[i].record];
            nfm_view data = nfm_record_data(&r->worker->mem, &s->record);
            if (s->record.events & NFM_BIT(NFM_EV_TCP_DATA))
                snprintf(s->text, sizeof(s->text), "%.*s", (int)data.len, (const char *)data.data);
        }
        nfm_ring_advance(r->ring, n);
    }
}

/* Works through |packets| packets. */
static void run(rig *r, uint64_t packets) {
    CHECK(nfm_worker_run(r->worker, packets) > 0);
    drain(r);
}

static void end(rig *r) {
    nfm_worker_finish(r->worker);
    int rc;
    while ((rc = nfm_worker_run(r->worker, 100)) != NFM_RUN_EOF && rc > 0)
        drain(r);
    drain(r);
    (void)nfm_worker_run(r->worker, 0);
    nfm_worker_stats stats;
    nfm_worker_stats_get(r->worker, &stats);
    CHECK_EQ(stats.slots_used, 0);
    CHECK_EQ(stats.records_used, 0);
    nfm_worker_free(r->worker);
    nfm_port_free(r->port);
    free(r);
}

static const nfm_module *const whole[] = {&nfm_module_tcp_track, &nfm_module_tcp_stream,
                                          &nfm_module_udp, NULL};
static const nfm_module *const none[] = {NULL};
#define DATA (NFM_BIT(NFM_EV_TCP_DATA) | NFM_BIT(NFM_EV_TCP_MIDSTREAM))

/* What all records of a connection with data have: their bytes, and whether they are midstream. */
static void check_data(const rig *r, const char *bytes, bool is_midstream, uint32_t connection) {
    char text[64] = "";
    uint32_t said = 0;
    for (uint32_t i = 0; i < r->n; i++) {
        const nfm_record *rec = &r->all[i].record;
        const nfm_flow_info *info = &r->worker->mem.flows[(uint32_t)rec->flow];
        if (info->port[0] != 4000 + connection && info->port[1] != 4000 + connection)
            continue;
        said += (rec->events & NFM_BIT(NFM_EV_TCP_MIDSTREAM)) != 0;
        if (!(rec->events & NFM_BIT(NFM_EV_TCP_DATA)))
            continue;
        strcat(text, r->all[i].text);
        CHECK_EQ((rec->flags & NFM_F_MIDSTREAM) != 0, is_midstream);
    }
    CHECK(strcmp(text, bytes) == 0);
    CHECK_EQ(said, is_midstream);
}

static void two_connections(rig *r) {
    handshake(r, 0);
    talk(r, 0, "aa", "bb");
    talk(r, 0, "cc", "dd");
    handshake(r, 1);
    talk(r, 1, "ee", "ff");
}

static void test_modules_join_between_two_packets(void) {
    rig *r = make(whole);
    subscribe(r, NFM_BIT(NFM_EV_FLOW_START), NFM_LEVEL_PACKET);
    CHECK_EQ(nfm_worker_start(r->worker, NULL), NFM_OK);
    two_connections(r);
    run(r, 6);
    CHECK_EQ(r->n, 1);
    CHECK_EQ(add(r, &nfm_module_tcp_track), 0);
    CHECK_EQ(add(r, &nfm_module_tcp_stream), 1);
    subscribe(r, DATA, NFM_LEVEL_DATA);
    run(r, 100);
    check_data(r, "ccdd", true, 0);
    check_data(r, "eeff", false, 1);
    end(r);
}

static void test_a_stream_joins_a_connection_that_is_tracked(void) {
    rig *r = make(whole);
    CHECK_EQ(add(r, &nfm_module_tcp_track), 0);
    subscribe(r, NFM_BIT(NFM_EV_TCP_ESTABLISHED), NFM_LEVEL_TRACK);
    CHECK_EQ(nfm_worker_start(r->worker, NULL), NFM_OK);
    two_connections(r);
    run(r, 6);
    CHECK_EQ(r->n, 1);
    CHECK_EQ(r->all[0].record.flags & NFM_F_MIDSTREAM, 0);
    CHECK_EQ(add(r, &nfm_module_tcp_stream), 1);
    subscribe(r, DATA, NFM_LEVEL_DATA);
    run(r, 100);
    check_data(r, "ccdd", true, 0);
    check_data(r, "eeff", false, 1);
    end(r);
}

/* Somebody waited for datagrams before there was a module that sees them. */
static void test_flows_of_a_protocol_without_a_module_are_followed_when_it_comes(void) {
    rig *r = make(whole);
    subscribe(r, NFM_BIT(NFM_EV_UDP_DATAGRAM), NFM_LEVEL_TRACK);
    CHECK_EQ(nfm_worker_start(r->worker, NULL), NFM_OK);
    for (uint32_t i = 0; i < 4; i++)
        udp(r, i & 1);
    run(r, 3);
    CHECK_EQ(r->n, 0);
    CHECK_EQ(add(r, &nfm_module_udp), 0);
    run(r, 100);
    CHECK_EQ(r->n, 1);
    CHECK_EQ(r->all[0].record.packet, 4);
    end(r);
}

static int fail_to_start(nfm_ctx *ctx) {
    (void)ctx;
    return NFM_E_NOMEM;
}

static void test_what_cannot_join_leaves_all_as_it_was(void) {
    rig *r = make(none);
    nfm_module broken = nfm_module_ip_defrag;
    broken.start = fail_to_start;
    subscribe(r, NFM_BIT(NFM_EV_PACKET_UDP), NFM_LEVEL_PACKET);
    CHECK_EQ(nfm_worker_start(r->worker, NULL), NFM_OK);
    CHECK_EQ(nfm_worker_reserve_module(r->worker, &nfm_module_udp, NULL), NFM_E_STATE);
    CHECK_EQ(add(r, &nfm_module_tcp_stream), NFM_E_STATE); /* no room */
    CHECK_EQ(add(r, &broken), NFM_E_NOMEM);
    CHECK(r->worker->graph.defrag == NULL);
    CHECK_EQ(add(r, &nfm_module_ip_defrag), 0);
    CHECK_EQ(add(r, &nfm_module_ip_defrag), NFM_E_STATE); /* its place is taken */
    udp(r, 0);
    run(r, 100);
    CHECK_EQ(r->n, 1);
    end(r);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(test_modules_join_between_two_packets),
        T(test_a_stream_joins_a_connection_that_is_tracked),
        T(test_flows_of_a_protocol_without_a_module_are_followed_when_it_comes),
        T(test_what_cannot_join_leaves_all_as_it_was),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
