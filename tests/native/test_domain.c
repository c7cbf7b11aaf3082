/* SPDX-License-Identifier: Apache-2.0 */
/* A receiver of another domain hears what one at home hears, in its own memory; also from a worker
 * that begins again. */
#include "engine/worker.h"
#include "nfm_test.h"
#include "workload.h"

enum { RING = 256, PACKETS = 20000 };

typedef struct mesh { /* what a supervisor holds */
    nfm_worker_config config;
    nfm_domain_config domain;
    int32_t read[NFM_OBJ_COUNT]; /* of the domain */
    int ring;
} mesh;

static const nfm_subscription everything = {
    .handler = 2,
    .level = NFM_LEVEL_DATA,
    .events = NFM_BIT(NFM_EV_TCP_DATA) | NFM_BIT(NFM_EV_FLOW_START) | NFM_BIT(NFM_EV_FLOW_END),
    .type_first = 1,
};

static int object(uint64_t size) {
    nfm_object_info info;
    CHECK_EQ(nfm_object_create("object", size, &info, NULL), NFM_OK);
    return info.fd;
}

static mesh make_mesh(void) {
    mesh m;
    nfm_error err = {0};
    uint64_t sizes[NFM_OBJ_COUNT];
    nfm_worker_config_init(&m.config);
    nfm_domain_config_init(&m.domain);
    m.config.max_flows = 4096;
    CHECK_EQ(nfm_worker_object_sizes(&m.config, sizes, &err), NFM_OK);
    for (int i = 0; i < NFM_OBJ_COUNT; i++)
        m.config.fds[i] = object(sizes[i]);
    m.domain.n_small = 512;
    m.domain.n_records = 1024;
    CHECK_EQ(nfm_domain_object_sizes(&m.domain, sizes, &err), NFM_OK);
    for (int i = 0; i < NFM_OBJ_COUNT; i++) {
        m.domain.fds[i] = object(sizes[i]);
        m.read[i] = nfm_object_read_only(m.domain.fds[i], &err);
    }
    m.ring = object(nfm_ring_object_size(RING));
    return m;
}

static void end_mesh(mesh *m) {
    for (int i = 0; i < NFM_OBJ_COUNT; i++) {
        close(m->config.fds[i]);
        close(m->domain.fds[i]);
        close(m->read[i]);
    }
    close(m->ring);
}

static int into_port(void *to, const uint8_t *frame, uint32_t len, int64_t ts_ns) {
    return nfm_port_mem_push(to, frame, len, len, ts_ns);
}

static nfm_port *make_port(void) {
    nfm_workload_options options = {.packets = PACKETS, .seed = 3};
    nfm_workload_truth truth;
    nfm_error err = {0};
    nfm_port *port = nfm_port_mem_new(1, &err);
    nfm_workload_sink sink = {into_port, port};
    CHECK_EQ(nfm_workload_generate("mix", &options, sink, &truth, &err), NFM_OK);
    return port;
}

static nfm_worker *make_worker(const mesh *m, nfm_port *port, bool is_home, bool is_again) {
    nfm_error err = {0};
    uint32_t n;
    nfm_worker *w = nfm_worker_new(&m->config, &err);
    CHECK(w != NULL);
    CHECK_EQ(nfm_worker_add_port(w, port), NFM_OK);
    const nfm_module *const *modules = nfm_builtin_modules(&n);
    static const uint32_t no_types[64];
    for (uint32_t i = 0; i < n; i++)
        if (strncmp(modules[i]->name, "tcp_", 4) == 0)
            CHECK(nfm_worker_add_module(w, modules[i], NULL, no_types, &err) >= 0);
    nfm_subscription sub = everything;
    sub.ring = nfm_worker_add_shared_ring(w, m->ring, 0, &err);
    if (!is_home) {
        CHECK_EQ(nfm_worker_add_domain(w, "tenant", &m->domain, &err), 1);
        CHECK_EQ(nfm_worker_give_ring(w, sub.ring, 1), NFM_OK);
    }
    CHECK_EQ(nfm_worker_subscribe(w, &sub), 0);
    if (is_again)
        CHECK_EQ(nfm_worker_resume(w), NFM_OK);
    CHECK_EQ(nfm_worker_start(w, &err), NFM_OK);
    return w;
}

typedef struct tally {
    uint64_t sum, n, bytes;
} tally;

static uint64_t mix(uint64_t sum, const void *data, size_t len) {
    for (size_t i = 0; i < len; i++)
        sum = (sum ^ ((const uint8_t *)data)[i]) * UINT64_C(0x100000001b3);
    return sum;
}

/* Order, facts, flow and data all count. */
static void take(nfm_ring *ring, const nfm_mem *mem, uint32_t most, tally *t) {
    const nfm_desc *desc;
    uint32_t n = nfm_ring_peek(ring, &desc, most);
    for (uint32_t i = 0; i < n; i++) {
        const nfm_record *r = &mem->records[desc[i].record];
        nfm_view data = {NULL, 0};
        if (desc[i].what & NFM_BIT(NFM_EV_TCP_DATA))
            data = nfm_record_data(mem, r);
        uint64_t words[] = {desc[i].what,    r->packet,        r->flow,  r->events,
                            r->payload_len,  r->conn_state,    data.len, (uint64_t)r->ts_ns,
                            r->tcp.data_len, r->tcp.stream_off};
        t->sum = mix(t->sum, words, sizeof(words));
        t->sum = mix(t->sum, &mem->flows[desc[i].flow], sizeof(nfm_flow_info));
        t->sum = mix(t->sum, data.data, data.len);
        t->bytes += data.len;
    }
    t->n += n;
    nfm_ring_advance(ring, n);
}

static void run_through(nfm_worker *w, nfm_ring *ring, const nfm_mem *mem, tally *t) {
    int rc;
    while ((rc = nfm_worker_run(w, 512)) != NFM_RUN_EOF && rc > 0)
        take(ring, mem, 64, t);
    CHECK_EQ(rc, NFM_RUN_EOF);
}

static tally at_home(void) {
    mesh m = make_mesh();
    nfm_error err = {0};
    nfm_port *port = make_port();
    nfm_worker *w = make_worker(&m, port, true, false);
    nfm_ring *ring = nfm_ring_attach(m.ring, &err);
    tally t = {1, 0, 0};
    run_through(w, ring, nfm_worker_mem(w), &t);
    nfm_ring_detach(ring);
    nfm_worker_free(w);
    nfm_port_free(port);
    end_mesh(&m);
    return t;
}

static void check_same(tally got, tally want) {
    CHECK_EQ(got.n, want.n);
    CHECK_EQ(got.bytes, want.bytes);
    CHECK(got.sum == want.sum);
}

static uint64_t counter(const nfm_worker *w, const char *name) {
    nfm_counter list[256];
    uint32_t n = nfm_worker_counters(w, list, 256);
    for (uint32_t i = 0; i < n && i < 256; i++)
        if (strcmp(list[i].name, name) == 0)
            return list[i].value;
    CHECK(!"no such counter");
    return 0;
}

static void check_all_is_free(const nfm_worker *w) {
    const nfm_inbox *box = w->inboxes[0];
    CHECK_EQ(box->delivery.n_free, box->delivery.n_records);
    CHECK_EQ(box->pool.n_free_small, box->pool.n_small);
    CHECK_EQ(w->pool.n_free_small, w->pool.n_small);
    CHECK_EQ(w->delivery.n_free, w->delivery.n_records);
}

static void test_a_domain_hears_what_home_hears(void) {
    tally want = at_home(), got = {1, 0, 0};
    mesh m = make_mesh();
    nfm_error err = {0};
    nfm_port *port = make_port();
    nfm_worker *w = make_worker(&m, port, false, false);
    nfm_attachment *a = nfm_attach(m.read, &err);
    nfm_ring *ring = nfm_ring_attach(m.ring, &err);
    CHECK(a != NULL && ring != NULL);
    run_through(w, ring, nfm_attachment_mem(a), &got);
    CHECK(want.n > PACKETS / 4 && want.bytes > PACKETS);
    check_same(got, want);
    CHECK_EQ(counter(w, "domain.tenant.inbox_full"), 0);
    CHECK_EQ(counter(w, "domain.tenant.bytes"), want.bytes); /* and no other */
    CHECK_EQ(counter(w, "delivery.delivered"), want.n);
    check_all_is_free(w);
    nfm_ring_detach(ring);
    nfm_attachment_free(a);
    nfm_worker_free(w);
    nfm_port_free(port);
    end_mesh(&m);
}

static void test_a_worker_that_begins_again_takes_over_the_inbox(void) {
    tally want = at_home();
    for (uint64_t cut = 500; cut < PACKETS; cut += 6007) {
        mesh m = make_mesh();
        nfm_error err = {0};
        nfm_port *port = make_port();
        nfm_worker *w = make_worker(&m, port, false, false);
        nfm_attachment *a = nfm_attach(m.read, &err);
        nfm_ring *ring = nfm_ring_attach(m.ring, &err);
        nfm_worker_stats stats = {0};
        tally got = {1, 0, 0};
        while (stats.packets < cut) {
            CHECK(nfm_worker_run(w, 64) > 0);
            take(ring, nfm_attachment_mem(a), 17, &got);
            nfm_worker_stats_get(w, &stats);
        }
        nfm_worker_free(w); /* with entries that nobody has passed */
        nfm_port_free(port);
        port = make_port();
        w = make_worker(&m, port, false, true);
        run_through(w, ring, nfm_attachment_mem(a), &got);
        check_same(got, want);
        check_all_is_free(w);
        nfm_ring_detach(ring);
        nfm_attachment_free(a);
        nfm_worker_free(w);
        nfm_port_free(port);
        end_mesh(&m);
    }
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(test_a_domain_hears_what_home_hears),
        T(test_a_worker_that_begins_again_takes_over_the_inbox),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
