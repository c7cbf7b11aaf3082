/* SPDX-License-Identifier: Apache-2.0 */
/* The balancer: how its table is filled and how little it changes; and in a real worker. */
#include "nf_rig.h"

#include "lb.h"

enum { VIP = 0xc6336450, BACKEND = 0x0a000001, CLIENT = 0xcb007100 };

static lb_backend backend(uint32_t number, uint32_t weight) {
    lb_backend b = {.port = 8080, .mac = {2, 0, 0, 0, 1, (uint8_t)number}, .weight = weight};
    nfm_write32(b.address, BACKEND + number);
    return b;
}

/* ---- the table ------------------------------------------------------------------------------ */

static void build(const lb_backend *backends, uint32_t n, uint16_t *table) {
    uint32_t up = 0;
    for (uint32_t i = 0; i < n; i++)
        up += backends[i].state == LB_UP && backends[i].weight > 0;
    CHECK_EQ(lb_table_build(backends, n, 7, table), up);
}

static void count(const uint16_t *table, uint32_t *entries, uint32_t n) {
    memset(entries, 0, n * sizeof(*entries));
    for (uint32_t i = 0; i < LB_TABLE; i++) {
        CHECK(table[i] < n);
        entries[table[i]]++;
    }
}

static void test_places_follow_weights(void) {
    static uint16_t table[LB_TABLE];
    lb_backend backends[100];
    uint32_t entries[100], weights = 0;
    for (uint32_t n = 1; n <= 100; n += 9) {
        weights = 0;
        for (uint32_t i = 0; i < n; i++) {
            backends[i] = backend(i, 1 + i % 5);
            weights += 1 + i % 5;
        }
        build(backends, n, table);
        count(table, entries, n);
        for (uint32_t i = 0; i < n; i++) {
            double want = (double)LB_TABLE * backends[i].weight / weights;
            CHECK(entries[i] > want - 6 && entries[i] < want + 6);
        }
    }
}

static void test_the_order_of_the_list_does_not_matter(void) {
    static uint16_t table[LB_TABLE], turned[LB_TABLE];
    lb_backend backends[20], back[20];
    for (uint32_t i = 0; i < 20; i++)
        backends[i] = back[19 - i] = backend(i, 1 + i % 3);
    build(backends, 20, table);
    build(back, 20, turned);
    for (uint32_t i = 0; i < LB_TABLE; i++)
        CHECK_EQ(table[i], 19 - turned[i]);
}

/* One of n goes: its places move, of the others' only a few percent do. It comes back: as before.
 */
static void test_little_moves_when_a_backend_goes_and_comes(void) {
    static uint16_t before[LB_TABLE], after[LB_TABLE], again[LB_TABLE];
    for (uint32_t n = 2; n <= 50; n += 8) {
        for (uint32_t weighted = 0; weighted < 2; weighted++) {
            lb_backend backends[50];
            for (uint32_t i = 0; i < n; i++)
                backends[i] = backend(i, weighted ? 1 + i % 4 : 1);
            build(backends, n, before);
            uint32_t gone = n / 2, moved = 0, kept = 0;
            backends[gone].state = LB_DRAIN;
            build(backends, n, after);
            for (uint32_t i = 0; i < LB_TABLE; i++) {
                CHECK(after[i] != gone);
                if (before[i] == gone)
                    continue;
                moved += before[i] != after[i];
                kept += before[i] == after[i];
            }
            CHECK(moved * 100 < (moved + kept) * 10);
            backends[gone].state = LB_UP;
            build(backends, n, again);
            CHECK(memcmp(before, again, sizeof(before)) == 0);
        }
    }
}

static void test_nobody_up_leaves_the_table_empty(void) {
    static uint16_t table[LB_TABLE];
    lb_backend backends[2] = {backend(0, 0), backend(1, 1)};
    backends[1].state = LB_DOWN;
    build(backends, 2, table);
    for (uint32_t i = 0; i < LB_TABLE; i++)
        CHECK_EQ(table[i], LB_NOBODY);
    build(backends, 0, table);
    CHECK_EQ(table[0], LB_NOBODY);
}

/* ---- in a worker ---------------------------------------------------------------------------- */

typedef struct rig {
    nf_rig *nf;
    lb *lb;
} rig;

enum { N = 4 };

static int process(void *state, const nfm_batch *batch) {
    return lb_process(state, batch);
}

static rig make_rig(uint8_t mode, uint8_t affinity, uint32_t max_fails) {
    lb_backend backends[N];
    lb_service service = {.port = 80,
                          .proto = IPPROTO_TCP,
                          .ip_version = 4,
                          .mode = mode,
                          .affinity = affinity,
                          .reject = 1,
                          .n = N};
    nfm_write32(service.address, VIP);
    for (uint32_t i = 0; i < N; i++)
        backends[i] = backend(i, 1);
    lb_config config = {.services = &service,
                        .backends = backends,
                        .n_services = 1,
                        .n_backends = N,
                        .max_sessions = 1024,
                        .max_fails = max_fails,
                        .retry_ns = 10000000000,
                        .seed = 3};
    rig r = {.lb = lb_open(NULL)};
    CHECK_EQ(lb_load(r.lb, &config), NFM_OK);
    r.nf = nf_rig_new(process, r.lb, true);
    nf_rig_start(r.nf);
    return r;
}

static void end_rig(rig *r) {
    lb_stats stats;
    lb_backend_info info;
    nf_rig_free(r->nf);
    lb_stats_get(r->lb, &stats);
    CHECK_EQ(stats.sessions, 0);
    for (uint32_t i = 0; i < N; i++) {
        lb_backend_get(r->lb, i, &info);
        CHECK_EQ(info.active, 0);
    }
    lb_close(r->lb);
}

static message tcp(uint32_t src, uint16_t src_port, uint32_t dst, uint16_t dst_port,
                   uint8_t flags) {
    return (message){.proto = IPPROTO_TCP,
                     .src = src,
                     .dst = dst,
                     .src_port = src_port,
                     .dst_port = dst_port,
                     .tcp_flags = flags,
                     .mac = 9};
}

static message across(rig *r, int wire, message m) {
    wire_frame f = frame_of(&m);
    nf_rig_send(r->nf, wire, &f);
    const wire_frame *out = nf_rig_take(r->nf, !wire);
    return out == NULL ? (message){0} : read_frame(out);
}

static void test_a_flow_goes_to_one_backend_and_its_answers_come_from_the_service(void) {
    rig r = make_rig(LB_DNAT, LB_BY_FLOW, 0);
    uint32_t flows[N] = {0};
    for (uint16_t port = 1000; port < 1200; port++) {
        message syn = across(&r, OUTSIDE, tcp(CLIENT, port, VIP, 80, 2));
        CHECK(syn.dst >= BACKEND && syn.dst < BACKEND + N);
        CHECK_EQ(syn.dst_port, 8080);
        CHECK_EQ(syn.src, CLIENT);
        flows[(syn.dst - BACKEND) % N]++;
        message reply = across(&r, INSIDE, tcp(syn.dst, 8080, CLIENT, port, 0x12));
        CHECK_EQ(reply.src, VIP);
        CHECK_EQ(reply.src_port, 80);
        CHECK_EQ(across(&r, OUTSIDE, tcp(CLIENT, port, VIP, 80, 0x10)).dst, syn.dst);
    }
    for (int i = 0; i < N; i++) {
        lb_backend_info info;
        lb_backend_get(r.lb, (uint32_t)i, &info);
        CHECK_EQ(info.flows, flows[i]);
        CHECK_EQ(info.active, flows[i]);
        CHECK(flows[i] > 25);
    }
    CHECK_EQ(r.nf->w->flows_opened, 200);
    end_rig(&r);
}

static void test_a_drained_backend_keeps_its_flows_and_gets_no_new_ones(void) {
    rig r = make_rig(LB_DNAT, LB_BY_FLOW, 0);
    uint32_t first = across(&r, OUTSIDE, tcp(CLIENT, 1, VIP, 80, 2)).dst;
    CHECK_EQ(lb_set_state(r.lb, first - BACKEND, LB_DRAIN), NFM_OK);
    for (uint16_t port = 2; port < 100; port++)
        CHECK(across(&r, OUTSIDE, tcp(CLIENT, port, VIP, 80, 2)).dst != first);
    CHECK_EQ(across(&r, OUTSIDE, tcp(CLIENT, 1, VIP, 80, 0x10)).dst, first);
    CHECK_EQ(lb_set_state(r.lb, N, LB_UP), NFM_E_INVAL);
    end_rig(&r);
}

static void test_without_a_backend_clients_are_told(void) {
    rig r = make_rig(LB_DNAT, LB_BY_FLOW, 0);
    for (uint32_t i = 0; i < N; i++)
        CHECK_EQ(lb_set_state(r.lb, i, LB_DOWN), NFM_OK);
    CHECK_EQ(across(&r, OUTSIDE, tcp(CLIENT, 1, VIP, 80, 2)).proto, 0);
    const uint8_t *answer = nf_rig_take(r.nf, OUTSIDE)->data;
    CHECK_EQ(answer[34 + 13] & 4, 4); /* RST */
    CHECK_EQ(lb_set_state(r.lb, 2, LB_UP), NFM_OK);
    CHECK_EQ(across(&r, OUTSIDE, tcp(CLIENT, 2, VIP, 80, 2)).dst, BACKEND + 2);
    end_rig(&r);
}

static void test_a_client_stays_with_its_backend_if_asked_to(void) {
    rig r = make_rig(LB_DNAT, LB_BY_SOURCE, 0);
    uint32_t different = 0, before = 0;
    for (uint32_t client = 0; client < 20; client++) {
        uint32_t first = across(&r, OUTSIDE, tcp(CLIENT + client, 1, VIP, 80, 2)).dst;
        for (uint16_t port = 2; port < 6; port++)
            CHECK_EQ(across(&r, OUTSIDE, tcp(CLIENT + client, port, VIP, 80, 2)).dst, first);
        different += first != before;
        before = first;
    }
    CHECK(different > 5);
    end_rig(&r);
}

static void test_direct_return_changes_the_mac_alone(void) {
    rig r = make_rig(LB_DIRECT, LB_BY_FLOW, 1);
    message m = tcp(CLIENT, 1, VIP, 80, 2);
    wire_frame f = frame_of(&m);
    nf_rig_send(r.nf, OUTSIDE, &f);
    const wire_frame *out = nf_rig_take(r.nf, INSIDE);
    CHECK(memcmp(out->data + 6, f.data + 6, f.len - 6) == 0);
    CHECK_EQ(out->data[4], 1);
    CHECK(out->data[5] < N);
    end_rig(&r);
}

static void test_a_backend_that_refuses_gets_none_for_a_while(void) {
    rig r = make_rig(LB_DNAT, LB_BY_FLOW, 3);
    uint32_t bad = BACKEND + 1, fails = 0;
    lb_stats stats;
    lb_backend_info info;
    for (uint16_t port = 1; port < 200; port++) {
        message first = tcp(CLIENT, port, VIP, 80, 2);
        first.seq = UINT32_MAX; /* answers acknowledge 0 */
        message syn = across(&r, OUTSIDE, first);
        CHECK(syn.dst != bad || fails < 3);
        message reply = tcp(syn.dst, 8080, CLIENT, port, syn.dst == bad ? 0x14 : 0x12);
        reply.seq = 0;
        (void)across(&r, INSIDE, reply);
        fails += syn.dst == bad;
    }
    CHECK_EQ(fails, 3);
    lb_stats_get(r.lb, &stats);
    CHECK_EQ(stats.failures, 1);
    lb_backend_get(r.lb, 1, &info);
    CHECK_EQ(info.state, LB_FAILED);
    r.nf->now_ns += 10000000000;
    (void)across(&r, OUTSIDE, tcp(CLIENT, 5000, VIP, 80, 2));
    lb_backend_get(r.lb, 1, &info);
    CHECK_EQ(info.state, LB_UP);
    end_rig(&r);
}

static void test_other_traffic_passes(void) {
    rig r = make_rig(LB_DNAT, LB_BY_FLOW, 0);
    CHECK_EQ(across(&r, OUTSIDE, tcp(CLIENT, 1, VIP, 81, 2)).dst, VIP);
    CHECK_EQ(across(&r, OUTSIDE, tcp(CLIENT, 1, VIP + 1, 80, 2)).dst, VIP + 1);
    message m = tcp(CLIENT, 1, VIP, 80, 0);
    m.proto = IPPROTO_UDP;
    CHECK_EQ(across(&r, OUTSIDE, m).dst, VIP);
    end_rig(&r);
}

static void test_errors_about_a_backend_are_about_the_service(void) {
    rig r = make_rig(LB_DNAT, LB_BY_FLOW, 0);
    message m = tcp(CLIENT, 1, VIP, 80, 2);
    wire_frame f = frame_of(&m);
    nf_rig_send(r.nf, OUTSIDE, &f);
    wire_frame got = *nf_rig_take(r.nf, INSIDE);
    wire_frame error = error_about(&got, 3 << 8 | 4, BACKEND + 200, 28);
    nf_rig_send(r.nf, INSIDE, &error);
    message away = read_frame(nf_rig_take(r.nf, OUTSIDE));
    CHECK_EQ(away.src, VIP);
    CHECK_EQ(away.dst, CLIENT);
    CHECK_EQ(nfm_read32(away.payload.data + 16), VIP);
    CHECK_EQ(nfm_read16(away.payload.data + 20 + 2), 80);
    end_rig(&r);
}

static void test_configurations_without_sense_are_refused(void) {
    lb_service services[2] = {{.ip_version = 4, .port = 80, .proto = 6, .n = 1},
                              {.ip_version = 4, .port = 80, .proto = 6, .first = 1, .n = 1}};
    lb_backend backends[2] = {backend(0, 1), backend(1, 1)};
    lb_config config = {.services = services,
                        .backends = backends,
                        .n_services = 2,
                        .n_backends = 2,
                        .max_sessions = 1};
    lb *self = lb_open(NULL);
    CHECK_EQ(lb_load(self, &config), NFM_E_INVAL); /* the same service twice */
    lb_close(self);
    services[1].port = 81;
    services[1].first = 0; /* shares a backend's place */
    self = lb_open(NULL);
    CHECK_EQ(lb_load(self, &config), NFM_E_INVAL);
    services[1].first = 1;
    backends[0].weight = 1001;
    CHECK_EQ(lb_load(self, &config), NFM_E_INVAL);
    backends[0].weight = 1;
    CHECK_EQ(lb_load(self, &config), NFM_OK);
    CHECK_EQ(lb_load(self, &config), NFM_E_STATE);
    lb_close(self);
    lb_close(NULL);
}

static const nfm_test tests[] = {
    T(test_places_follow_weights),
    T(test_the_order_of_the_list_does_not_matter),
    T(test_little_moves_when_a_backend_goes_and_comes),
    T(test_nobody_up_leaves_the_table_empty),
    T(test_a_flow_goes_to_one_backend_and_its_answers_come_from_the_service),
    T(test_a_drained_backend_keeps_its_flows_and_gets_no_new_ones),
    T(test_without_a_backend_clients_are_told),
    T(test_a_client_stays_with_its_backend_if_asked_to),
    T(test_direct_return_changes_the_mac_alone),
    T(test_a_backend_that_refuses_gets_none_for_a_while),
    T(test_other_traffic_passes),
    T(test_errors_about_a_backend_are_about_the_service),
    T(test_configurations_without_sense_are_refused),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
