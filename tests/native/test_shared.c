/* SPDX-License-Identifier: Apache-2.0 */
/* Shared objects and receivers in other processes; subscriptions that change on the way. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "worker_rig.h"

enum { PACKETS = 20000, RING = 256 };

typedef struct mesh { /* what a supervisor holds */
    nfm_worker_config config;
    int32_t write[NFM_OBJ_COUNT], read[NFM_OBJ_COUNT];
    int ring;
} mesh;

static int ring_object(void) {
    nfm_object_info info;
    CHECK_EQ(nfm_object_create("ring", nfm_ring_object_size(RING), &info, NULL), NFM_OK);
    return info.fd;
}

static mesh make_mesh(void) {
    mesh m;
    nfm_error err = {0};
    uint64_t sizes[NFM_OBJ_COUNT];
    m.config = small_config();
    CHECK_EQ(nfm_worker_object_sizes(&m.config, sizes, &err), NFM_OK);
    for (int i = 0; i < NFM_OBJ_COUNT; i++) {
        nfm_object_info info;
        CHECK_EQ(nfm_object_create("object", sizes[i], &info, &err), NFM_OK);
        CHECK(info.size >= sizes[i]);
        m.write[i] = m.config.fds[i] = info.fd;
        m.read[i] = nfm_object_read_only(info.fd, &err);
        CHECK(m.read[i] >= 0);
    }
    m.ring = ring_object();
    return m;
}

static void end_mesh(mesh *m) {
    for (int i = 0; i < NFM_OBJ_COUNT; i++) {
        close(m->write[i]);
        close(m->read[i]);
    }
    close(m->ring);
}

/* UDP packets of many short conversations, so that flows come and go. */
static nfm_port *make_port(void) {
    nfm_error err = {0};
    nfm_port *port = nfm_port_mem_new(1, &err);
    for (uint32_t i = 0; i < PACKETS; i++) {
        uint8_t frame[FRAME_ROOM];
        nfm_key key = udp_key(i / 7);
        key.port[0] = (uint16_t)(i / 3);
        uint32_t len = udp_frame(frame, &key, &i, sizeof(i));
        nfm_port_mem_push(port, frame, len, len, (int64_t)i * 50000000);
    }
    return port;
}

static const nfm_subscription every_packet = {
    .handler = 3,
    .events = NFM_BIT(NFM_EV_PACKET_UDP) | NFM_BIT(NFM_EV_FLOW_END),
    .type_first = 1,
};

static nfm_worker *make_worker(const mesh *m, nfm_port *port, bool again) {
    nfm_error err = {0};
    nfm_worker *w = nfm_worker_new(&m->config, &err);
    CHECK(w != NULL);
    CHECK_EQ(nfm_worker_add_port(w, port), NFM_OK);
    nfm_subscription sub = every_packet;
    sub.ring = nfm_worker_add_shared_ring(w, m->ring, 0, &err);
    CHECK(sub.ring != NULL);
    CHECK_EQ(nfm_worker_subscribe(w, &sub), 0);
    if (again)
        CHECK_EQ(nfm_worker_resume(w), NFM_OK);
    CHECK_EQ(nfm_worker_start(w, &err), NFM_OK);
    return w;
}

/* A digest of what a receiver saw: order, packets, flows and payload bytes all count. */
static uint64_t digest(uint64_t sum, const nfm_mem *mem, const nfm_desc *desc) {
    const nfm_record *r = &mem->records[desc->record];
    nfm_view data = nfm_record_data(mem, r);
    uint64_t words[] = {desc->what, r->packet, r->flow, r->events, (uint64_t)r->ts_ns, data.len};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        sum = (sum ^ words[i]) * UINT64_C(0x100000001b3);
    for (uint32_t i = 0; i < data.len; i++)
        sum = (sum ^ data.data[i]) * UINT64_C(0x100000001b3);
    return sum;
}

/* Takes at most |most| entries. Returns how many. */
static uint32_t take(nfm_ring *ring, const nfm_mem *mem, uint32_t most, uint64_t *sum) {
    const nfm_desc *desc;
    uint32_t n = nfm_ring_peek(ring, &desc, most);
    for (uint32_t i = 0; i < n; i++)
        *sum = digest(*sum, mem, &desc[i]);
    nfm_ring_advance(ring, n);
    return n;
}

/* The receiver as a process: reads to the end and writes its digest to |out|. */
static void receive_all(const mesh *m, int out) {
    nfm_error err = {0};
    nfm_attachment *a = nfm_attach(m->read, &err);
    nfm_ring *ring = nfm_ring_attach(m->ring, &err);
    uint64_t sum[2] = {1, 0};
    if (a == NULL || ring == NULL)
        _exit(2);
    while (nfm_ring_wait(ring, 20000, -1) != NFM_RING_ENDED)
        sum[1] += take(ring, nfm_attachment_mem(a), 64, &sum[0]);
    _exit(write(out, sum, sizeof(sum)) == sizeof(sum) ? 0 : 3);
}

static void run_to_end(nfm_worker *w) {
    int rc;
    while ((rc = nfm_worker_run(w, 1024)) != NFM_RUN_EOF && rc > 0)
        continue;
    CHECK_EQ(rc, NFM_RUN_EOF);
    nfm_worker_end_rings(w);
}

/* The digest of an undisturbed run with the receiver in a process of its own. */
static void undisturbed(uint64_t sum[2]) {
    mesh m = make_mesh();
    nfm_port *port = make_port();
    nfm_worker *w = make_worker(&m, port, false);
    int pipes[2], status;
    CHECK_EQ(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0)
        receive_all(&m, pipes[1]);
    run_to_end(w);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_EQ(read(pipes[0], sum, 16), 16);
    close(pipes[0]);
    close(pipes[1]);
    nfm_worker_free(w);
    nfm_port_free(port);
    end_mesh(&m);
}

static void test_receiver_in_another_process_sees_every_record(void) {
    uint64_t a[2] = {0}, b[2] = {0};
    undisturbed(a);
    undisturbed(b);
    CHECK(a[1] > PACKETS);
    CHECK_EQ(a[1], b[1]);
    CHECK(a[0] == b[0]);
}

static void test_worker_that_begins_again_pushes_each_entry_once(void) {
    uint64_t want[2];
    undisturbed(want);
    for (uint64_t cut = 1000; cut < PACKETS; cut += 4711) {
        mesh m = make_mesh();
        nfm_error err = {0};
        nfm_port *port = make_port();
        nfm_worker *w = make_worker(&m, port, false);
        nfm_attachment *a = nfm_attach(m.read, &err);
        nfm_ring *ring = nfm_ring_attach(m.ring, &err);
        CHECK(a != NULL && ring != NULL);
        uint64_t sum[2] = {1, 0};
        nfm_worker_stats stats = {0};
        while (stats.packets < cut) {
            CHECK(nfm_worker_run(w, 64) > 0);
            sum[1] += take(ring, nfm_attachment_mem(a), 37, &sum[0]);
            nfm_worker_stats_get(w, &stats);
        }
        nfm_worker_free(w); /* with entries that nobody has passed */
        nfm_port_free(port);
        port = make_port();
        w = make_worker(&m, port, true);
        int rc;
        while ((rc = nfm_worker_run(w, 64)) != NFM_RUN_EOF && rc > 0)
            sum[1] += take(ring, nfm_attachment_mem(a), 64, &sum[0]);
        CHECK_EQ(rc, NFM_RUN_EOF);
        CHECK_EQ(sum[1], want[1]);
        CHECK(sum[0] == want[0]);
        nfm_worker_stats_get(w, &stats);
        CHECK_EQ(stats.slots_used, 0);
        CHECK_EQ(stats.records_used, 0);
        nfm_ring_detach(ring);
        nfm_attachment_free(a);
        nfm_worker_free(w);
        nfm_port_free(port);
        end_mesh(&m);
    }
}

static void test_objects_refuse_what_is_not_allowed(void) {
    nfm_object_info info;
    nfm_error err = {0};
    struct stat st;
    CHECK_EQ(nfm_object_create("object", 10000, &info, &err), NFM_OK);
    CHECK_EQ(fstat(info.fd, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0600);
    CHECK(ftruncate(info.fd, 4096) != 0 && errno == EPERM);
    CHECK(ftruncate(info.fd, 1 << 20) != 0 && errno == EPERM);
    int copy = nfm_object_read_only(info.fd, &err);
    CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, copy, 0) == MAP_FAILED);
    CHECK_EQ(errno, EACCES);
    CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, copy, 0) != MAP_FAILED);
    CHECK(write(copy, "x", 1) < 0);
    CHECK(nfm_object_create("object", 0, &info, &err) != NFM_OK);
    CHECK(strstr(err.text, "object") != NULL);
    close(copy);
}

static void test_other_layouts_are_refused_with_both_versions(void) {
    mesh m = make_mesh();
    nfm_error err = {0};
    CHECK(nfm_attach(m.read, &err) == NULL); /* no worker yet */
    CHECK(strstr(err.text, "no worker") != NULL);
    CHECK(nfm_ring_attach(m.ring, &err) == NULL);
    nfm_port *port = make_port();
    nfm_worker *w = make_worker(&m, port, false);
    nfm_attachment *a = nfm_attach(m.read, &err);
    CHECK(a != NULL);
    nfm_attachment_free(a);
    ((uint32_t *)(void *)w->objects[NFM_OBJ_HEADER].base)[2] = 77; /* the ABI word */
    char own[16];
    snprintf(own, sizeof(own), "ABI %u", NFM_ABI_VERSION);
    CHECK(nfm_attach(m.read, &err) == NULL);
    CHECK_EQ(err.code, NFM_E_ABI);
    CHECK(strstr(err.text, "77") != NULL && strstr(err.text, own) != NULL);
    nfm_worker_free(w);
    nfm_port_free(port);
    end_mesh(&m);
}

/* Each receiver's entries: how many, and the first and last packet they were about. */
typedef struct span {
    uint64_t n, first, last;
} span;

static int note_span(void *state, const nfm_batch *batch) {
    span *s = state;
    for (uint32_t i = 0; i < batch->n; i++) {
        const nfm_record *r = &batch->mem->records[batch->desc[i].record];
        if (!(r->events & NFM_BIT(NFM_EV_PACKET_UDP)))
            continue;
        s->first = s->n++ == 0 ? r->packet : s->first;
        s->last = r->packet;
    }
    return NFM_OK;
}

static void test_subscriptions_change_between_two_packets(void) {
    nfm_error err = {0};
    nfm_worker_config config;
    nfm_worker_config_init(&config);
    config.max_flows = 1024;
    nfm_port *port = make_port();
    nfm_worker *w = nfm_worker_new(&config, &err);
    CHECK_EQ(nfm_worker_add_port(w, port), NFM_OK);
    span spans[2] = {{0, 0, 0}, {0, 0, 0}};
    nfm_subscription sub = every_packet;
    sub.ring = nfm_worker_add_ring(w, RING, &err);
    CHECK_EQ(nfm_worker_attach_native(w, sub.ring, note_span, &spans[0]), NFM_OK);
    CHECK_EQ(nfm_worker_subscribe(w, &sub), 0);
    CHECK_EQ(nfm_worker_start(w, &err), NFM_OK);
    CHECK_EQ(nfm_worker_run(w, 5000), NFM_RUN_BUDGET);

    nfm_subscription late = every_packet;
    late.ring = nfm_worker_add_ring(w, RING, &err);
    CHECK_EQ(nfm_worker_attach_native(w, late.ring, note_span, &spans[1]), NFM_OK);
    CHECK_EQ(nfm_worker_subscribe(w, &late), 1);
    CHECK_EQ(nfm_worker_run(w, 5000), NFM_RUN_BUDGET);
    CHECK_EQ(nfm_worker_remove_ring(w, late.ring), NFM_E_STATE); /* still subscribed */
    CHECK_EQ(nfm_worker_unsubscribe(w, 1), NFM_OK);
    CHECK_EQ(nfm_worker_remove_ring(w, late.ring), NFM_OK);
    CHECK_EQ(nfm_worker_unsubscribe(w, 1), NFM_E_INVAL);
    int rc;
    while ((rc = nfm_worker_run(w, 5000)) != NFM_RUN_EOF && rc > 0)
        continue;
    CHECK_EQ(spans[0].n, PACKETS);
    CHECK_EQ(spans[1].first, 5001);
    CHECK_EQ(spans[1].last, 10000);
    CHECK_EQ(spans[1].n, 5000);
    nfm_worker_stats stats;
    nfm_worker_stats_get(w, &stats);
    CHECK_EQ(stats.records_used, 0);
    nfm_worker_free(w);
    nfm_port_free(port);
}

static void test_many_changes_leave_no_sets_behind(void) {
    nfm_error err = {0};
    nfm_worker_config config;
    nfm_worker_config_init(&config);
    config.max_flows = 1024;
    nfm_port *port = make_port();
    nfm_worker *w = nfm_worker_new(&config, &err);
    CHECK_EQ(nfm_worker_add_port(w, port), NFM_OK);
    span seen = {0, 0, 0};
    nfm_subscription sub = every_packet;
    sub.ring = nfm_worker_add_ring(w, RING, &err);
    CHECK_EQ(nfm_worker_attach_native(w, sub.ring, note_span, &seen), NFM_OK);
    CHECK_EQ(nfm_worker_start(w, &err), NFM_OK);
    for (int i = 0; i < 9000; i++) { /* more changes than there are places for sets */
        CHECK_EQ(nfm_worker_subscribe(w, &sub), 0);
        if (i % 9 == 0)
            CHECK(nfm_worker_run(w, 1) > 0);
        CHECK_EQ(nfm_worker_unsubscribe(w, 0), NFM_OK);
    }
    CHECK_EQ(seen.n, 1000);
    nfm_worker_free(w);
    nfm_port_free(port);
}

static void test_lying_receiver_does_not_stop_the_others(void) {
    mesh m = make_mesh();
    nfm_error err = {0};
    nfm_port *port = make_port();
    nfm_worker *w = make_worker(&m, port, false);
    span honest = {0, 0, 0};
    nfm_subscription sub = every_packet;
    sub.ring = nfm_worker_add_ring(w, RING, &err);
    CHECK_EQ(nfm_worker_attach_native(w, sub.ring, note_span, &honest), NFM_OK);
    CHECK_EQ(nfm_worker_subscribe(w, &sub), 1);
    nfm_ring *liar = nfm_ring_attach(m.ring, &err);
    memset(liar->shared->desc, 0xff, RING * sizeof(nfm_desc));
    atomic_store(&liar->shared->head, UINT64_MAX);
    atomic_store(&liar->shared->tail, UINT64_C(1) << 40);
    atomic_store(&liar->shared->asleep, 7);
    run_to_end(w);
    CHECK_EQ(honest.n, PACKETS);
    CHECK(w->rings[0]->quarantined);
    nfm_ring_detach(liar);
    nfm_worker_free(w);
    nfm_port_free(port);
    end_mesh(&m);
}

/* Reads all that a receiver has, gaps too: each packet is as it was sent. Returns packets and
 * gaps. */
static uint64_t read_late(nfm_ring *ring, const nfm_mem *mem) {
    const nfm_desc *desc;
    uint64_t all = 0, before = 0;
    for (;;) {
        uint32_t n = nfm_ring_peek(ring, &desc, 100);
        uint64_t gap = n == 0 ? nfm_ring_gap(ring) : 0;
        if (n == 0 && gap == 0)
            return all;
        for (uint32_t i = 0; i < n; i++) {
            const nfm_record *r = &mem->records[desc[i].record];
            nfm_view data = nfm_record_data(mem, r);
            uint32_t serial;
            if (r->kind != NFM_REC_PACKET)
                continue;
            memcpy(&serial, data.data, 4);
            CHECK_EQ(serial + 1, r->packet);
            CHECK(r->packet > before);
            before = r->packet;
        }
        all += n + gap;
        nfm_ring_advance(ring, n == 0 ? 1 : n);
    }
}

/* A lossy receiver that does nothing for a while costs the others nothing, and finds all that
 * it was given as it was, and how much it was not given. */
static void test_a_stuck_lossy_receiver_keeps_nobody_back(void) {
    mesh m = make_mesh();
    nfm_error err = {0};
    nfm_port *port = make_port();
    int slow_fd = ring_object();
    nfm_worker *w = make_worker(&m, port, false);
    nfm_subscription sub = every_packet;
    sub.ring = nfm_worker_add_shared_ring(w, slow_fd, 1, &err);
    CHECK(sub.ring != NULL && nfm_worker_subscribe(w, &sub) >= 0);
    nfm_ring *quick = nfm_ring_attach(m.ring, &err), *slow = nfm_ring_attach(slow_fd, &err);
    nfm_attachment *a = nfm_attach(m.read, &err);
    const nfm_mem *mem = nfm_attachment_mem(a);
    uint64_t sum = 1, n_quick = 0, n_slow = 0;
    int why = NFM_RUN_BUDGET;
    for (int turn = 0; turn < 100000 && why != NFM_RUN_EOF; turn++) {
        why = nfm_worker_run(w, 256);
        n_quick += take(quick, mem, RING, &sum);
        if (w->finishing) /* at the end everybody is waited for */
            n_slow += read_late(slow, mem);
    }
    CHECK_EQ(why, NFM_RUN_EOF);
    nfm_worker_end_rings(w);
    n_slow += read_late(slow, mem);
    CHECK_EQ(n_slow, n_quick);
    CHECK(sub.ring->dropped > PACKETS / 2);
    CHECK(sub.ring->parked != NULL);
    nfm_worker_stats stats;
    (void)nfm_worker_run(w, 1);
    nfm_worker_stats_get(w, &stats);
    CHECK_EQ(stats.slots_used, 0);
    CHECK_EQ(stats.records_used, 0);
    nfm_attachment_free(a);
    nfm_ring_detach(quick);
    nfm_ring_detach(slow);
    nfm_worker_free(w);
    nfm_port_free(port);
    close(slow_fd);
    end_mesh(&m);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(test_a_stuck_lossy_receiver_keeps_nobody_back),
        T(test_objects_refuse_what_is_not_allowed),
        T(test_other_layouts_are_refused_with_both_versions),
        T(test_receiver_in_another_process_sees_every_record),
        T(test_worker_that_begins_again_pushes_each_entry_once),
        T(test_subscriptions_change_between_two_packets),
        T(test_many_changes_leave_no_sets_behind),
        T(test_lying_receiver_does_not_stop_the_others),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
