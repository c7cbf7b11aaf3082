/* SPDX-License-Identifier: Apache-2.0 */
/* The dpdk port over DPDK's virtual devices, in a network namespace of the test's own. */
#include "nfm_test.h"
#include "port_fixture.h"

#include "io/whole.h"

#include <pthread.h>
#include <sched.h>

#define EAL "--no-huge -m 128 --no-pci --no-shconf --no-telemetry --log-level=error"

enum { SMALL = 4096, LARGE = 8, ROUNDS = 200000 };

static nfm_port *dpdk_open(const char *device, uint8_t copy) {
    nfm_error err = {0};
    nfm_dpdk_config config = {
        .eal = EAL, .device = device, .rx_desc = 256, .tx_desc = 256, .copy = copy};
    nfm_port *port = nfm_port_dpdk_open(&config, &err);
    if (port == NULL)
        printf("# %s\n", err.text);
    return port;
}

/* Frees in the order of a worker: it goes first. */
static void close_port(nfm_port *port, bench *b) {
    port->ops->detach(port, &b->pool);
    nfm_port_free(port);
}

/* Calls rx until a frame comes; the link of some devices comes up by itself after a while. */
static int receive(nfm_port *port, bench *b, nfm_frame *frames, uint32_t n) {
    for (int i = 0; i < ROUNDS; i++) {
        int got = port->ops->rx(port, &b->pool, frames, n);
        if (got != 0)
            return got;
        port->ops->poll(port, &b->pool);
    }
    return 0;
}

static bool wait_up(nfm_port *port, bench *b) {
    for (int i = 0; i < 100 * ROUNDS && !port->stats.link_up; i++) {
        nfm_frame frame;
        int got = port->ops->rx(port, &b->pool, &frame, 1);
        if (got == 1)
            nfm_pool_put(&b->pool, frame.slot);
        port->ops->poll(port, &b->pool);
    }
    return port->stats.link_up == 1;
}

static nfm_tx make_tx(bench *b, uint32_t len, uint32_t seed) {
    nfm_tx tx = {.slot = nfm_pool_get(&b->pool, len), .off = NFM_HEADROOM, .len = len};
    uint8_t *slot = nfm_pool_addr(&b->pool, tx.slot);
    memset(slot, 0, sizeof(nfm_slot_meta));
    for (uint32_t i = 0; i < len; i++)
        slot[NFM_HEADROOM + i] = (uint8_t)(seed * 31 + i * 7);
    memcpy(slot + NFM_HEADROOM + 12, "\x08\x00", 2);
    return tx;
}

static bool is_made(const bench *b, const nfm_frame *frame, uint32_t len, uint32_t seed) {
    const uint8_t *data = frame_at(b, frame);
    bool same = frame->len == len && memcmp(data + 12, "\x08\x00", 2) == 0;
    for (uint32_t i = 0; same && i < len; i++)
        same = i == 12 || i == 13 || data[i] == (uint8_t)(seed * 31 + i * 7);
    return same;
}

static void null_device_fills_slots_without_touching_them(void) {
    bench b = setup(SMALL, LARGE);
    for (uint32_t slot = 0; slot < SMALL; slot++)
        memset(nfm_pool_addr(&b.pool, slot) + NFM_HEADROOM, (int)(slot & 255), 64);
    nfm_port *port = dpdk_open("net_null0,size=64", NFM_COPY_NEVER);
    CHECK(port != NULL);
    nfm_frame frames[32];
    uint64_t total = 0;
    for (int round = 0; round < 1000; round++) {
        int n = port->ops->rx(port, &b.pool, frames, 32);
        CHECK_EQ(n, 32);
        for (int i = 0; i < n; i++) {
            const uint8_t *data = frame_at(&b, &frames[i]);
            CHECK(frames[i].len == 64 && frames[i].link_type == 1 && frames[i].ts_ns > 0);
            CHECK(data[0] == (frames[i].slot & 255) && data[63] == data[0]);
            nfm_pool_put(&b.pool, frames[i].slot);
        }
        total += (uint64_t)n;
    }
    CHECK_EQ(port->stats.rx_packets, total);
    CHECK_EQ(port->stats.rx_bytes, total * 64);
    CHECK_EQ(b.pool.n_free_small, SMALL);
    close_port(port, &b);
    teardown(&b);
}

static void sent_slots_come_back_to_the_pool(void) {
    bench b = setup(SMALL, LARGE);
    nfm_port *port = dpdk_open("net_null0", NFM_COPY_NEVER);
    for (uint32_t round = 0; round < 500; round++) {
        nfm_tx tx[40];
        for (uint32_t i = 0; i < 40; i++)
            tx[i] = make_tx(&b, 60 + i, i);
        CHECK_EQ(port->ops->tx(port, &b.pool, tx, 40), 40);
    }
    CHECK_EQ(port->stats.tx_packets, 500 * 40);
    CHECK_EQ(b.pool.n_free_small, SMALL);
    close_port(port, &b);
    teardown(&b);
}

static void a_frame_that_somebody_holds_stays_when_it_was_sent(void) {
    bench b = setup(SMALL, LARGE);
    nfm_port *port = dpdk_open("net_null0", NFM_COPY_NEVER);
    nfm_tx tx = make_tx(&b, 100, 5);
    nfm_pool_hold(&b.pool, tx.slot);
    CHECK_EQ(port->ops->tx(port, &b.pool, &tx, 1), 1);
    CHECK_EQ(b.pool.refs[tx.slot], 1);
    nfm_frame frame = {.slot = tx.slot, .len = 100};
    CHECK(is_made(&b, &frame, 100, 5));
    nfm_pool_put(&b.pool, tx.slot);
    close_port(port, &b);
    teardown(&b);
}

/* Sends frames of many lengths to |out| and expects them at |in|. */
static void pass_frames(nfm_port *out, nfm_port *in, bench *b, uint32_t count) {
    nfm_frame got[32];
    uint32_t sent = 0, seen = 0;
    for (int idle = 0; seen < count && idle < ROUNDS; idle++) {
        nfm_tx tx[16];
        uint32_t n = 0;
        for (; n < 16 && sent + n < count && sent + n - seen < 128; n++)
            tx[n] = make_tx(b, 60 + (sent + n) % 1400, sent + n);
        int taken = n > 0 ? out->ops->tx(out, &b->pool, tx, n) : 0;
        for (uint32_t i = taken < 0 ? 0 : (uint32_t)taken; i < n; i++)
            nfm_pool_put(&b->pool, tx[i].slot);
        sent += taken > 0 ? (uint32_t)taken : 0;
        out->ops->poll(out, &b->pool);
        int rc = in->ops->rx(in, &b->pool, got, 32);
        for (int i = 0; i < rc; i++, seen++) {
            CHECK(is_made(b, &got[i], 60 + seen % 1400, seen));
            nfm_pool_put(&b->pool, got[i].slot);
        }
        idle = rc > 0 ? 0 : idle;
    }
    CHECK_EQ(seen, count);
}

static void ring_returns_what_was_sent(void) {
    for (int copy = NFM_COPY_AUTO; copy <= NFM_COPY_NEVER; copy++) {
        bench b = setup(SMALL, LARGE);
        nfm_port *port = dpdk_open("net_ring0", (uint8_t)copy);
        CHECK(wait_up(port, &b));
        pass_frames(port, port, &b, 5000);
        CHECK_EQ(b.pool.n_free_small, SMALL);
        close_port(port, &b);
        teardown(&b);
    }
}

static void a_slot_can_be_on_its_way_twice(void) {
    bench b = setup(SMALL, LARGE);
    nfm_port *port = dpdk_open("net_ring0", NFM_COPY_NEVER);
    CHECK(wait_up(port, &b));
    nfm_tx tx[2] = {make_tx(&b, 200, 9)};
    tx[1] = tx[0];
    nfm_pool_hold(&b.pool, tx[0].slot);
    CHECK_EQ(port->ops->tx(port, &b.pool, tx, 2), 2);
    nfm_frame got[4];
    CHECK_EQ(receive(port, &b, got, 4), 2);
    CHECK(got[0].slot != got[1].slot);
    for (int i = 0; i < 2; i++) {
        CHECK(is_made(&b, &got[i], 200, 9));
        nfm_pool_put(&b.pool, got[i].slot);
    }
    CHECK_EQ(b.pool.n_free_small, SMALL);
    close_port(port, &b);
    teardown(&b);
}

static void memif_carries_frames_between_two_ports(void) {
    bench b = setup(SMALL, LARGE);
    char server[200], client[200];
    snprintf(server, sizeof(server), "net_memif0,role=server,id=3,socket=%s/s,socket-abstract=no",
             b.dir);
    snprintf(client, sizeof(client), "net_memif1,role=client,id=3,socket=%s/s,socket-abstract=no",
             b.dir);
    nfm_port *one = dpdk_open(server, NFM_COPY_NEVER), *two = dpdk_open(client, NFM_COPY_NEVER);
    CHECK(one != NULL && two != NULL);
    nfm_frame none;
    CHECK_EQ(one->ops->rx(one, &b.pool, &none, 1), 0); /* starts it */
    CHECK(wait_up(two, &b) && wait_up(one, &b));
    pass_frames(two, one, &b, 3000);
    pass_frames(one, two, &b, 3000);
    close_port(two, &b);
    close_port(one, &b);
    snprintf(server, sizeof(server), "%s/s", b.dir);
    unlink(server);
    teardown(&b);
}

static void pcap_device_reads_and_writes_files(void) {
    bench b = setup(SMALL, LARGE);
    char out[160], words[400];
    nfm_frame got[32];
    snprintf(out, sizeof(out), "%s/out.pcap", b.dir);
    nfm_pcap_writer *writer = nfm_pcap_writer_open(b.path, 0, 1, 0, NULL);
    for (uint32_t i = 0; i < 300; i++) {
        nfm_tx tx = make_tx(&b, 60 + i * 4, i);
        nfm_pcap_writer_write(writer, nfm_pool_addr(&b.pool, tx.slot) + NFM_HEADROOM, tx.len, 0,
                              SECOND);
        nfm_pool_put(&b.pool, tx.slot);
    }
    nfm_pcap_writer_close(writer, NULL);
    snprintf(words, sizeof(words), "net_pcap0,rx_pcap=%s,tx_pcap=%s", b.path, out);
    nfm_port *port = dpdk_open(words, NFM_COPY_NEVER);
    CHECK(port != NULL && wait_up(port, &b) == 1);
    close_port(port, &b); /* a new device begins the file again */
    port = dpdk_open(words, NFM_COPY_NEVER);
    for (uint32_t i = 0; i < 300;) {
        int n = receive(port, &b, got, 32);
        CHECK(n > 0);
        if (n <= 0)
            break;
        for (int k = 0; k < n; k++, i++) {
            CHECK(is_made(&b, &got[k], 60 + i * 4, i));
            nfm_tx tx = {.slot = got[k].slot, .off = NFM_HEADROOM, .len = got[k].len};
            CHECK_EQ(port->ops->tx(port, &b.pool, &tx, 1), 1);
        }
    }
    close_port(port, &b);
    nfm_port *file = nfm_port_pcap_open(out, NULL);
    uint32_t i = 0;
    for (int n; (n = file->ops->rx(file, &b.pool, got, 32)) > 0;)
        for (int k = 0; k < n; k++, i++) {
            CHECK(is_made(&b, &got[k], 60 + i * 4, i));
            nfm_pool_put(&b.pool, got[k].slot);
        }
    CHECK_EQ(i, 300);
    nfm_port_free(file);
    unlink(out);
    teardown(&b);
}

static void write_numbered(const char *path, bench *b, uint32_t first, uint32_t n) {
    nfm_pcap_writer *writer = nfm_pcap_writer_open(path, 0, 1, 0, NULL);
    for (uint32_t i = first; i < first + n; i++) {
        nfm_tx tx = make_tx(b, 100, i);
        nfm_pcap_writer_write(writer, nfm_pool_addr(&b->pool, tx.slot) + NFM_HEADROOM, tx.len, 0,
                              SECOND);
        nfm_pool_put(&b->pool, tx.slot);
    }
    nfm_pcap_writer_close(writer, NULL);
}

static void a_device_that_spreads_nothing_is_told_of(void) {
    bench b = setup(SMALL, LARGE);
    char words[600], second[160];
    nfm_port *ports[2];
    nfm_frame got[32];
    snprintf(second, sizeof(second), "%s/b.pcap", b.dir);
    write_numbered(b.path, &b, 0, 20);
    write_numbered(second, &b, 100, 20);
    snprintf(words, sizeof(words), "net_pcap5,rx_pcap=%s,rx_pcap=%s,tx_pcap=%s/x,tx_pcap=%s/y",
             b.path, second, b.dir, b.dir);
    for (uint16_t i = 0; i < 2; i++) {
        nfm_dpdk_config config = {
            .eal = EAL, .device = words, .queue = i, .n_queues = 2, .rx_desc = 128};
        ports[i] = nfm_port_dpdk_open(&config, NULL);
        CHECK(ports[i] != NULL);
    }
    CHECK_EQ(ports[0]->ops->rx(ports[0], &b.pool, got, 32), 0);
    for (uint32_t i = 2; i-- > 0;) { /* a file for each queue */
        CHECK_EQ(receive(ports[i], &b, got, 32), 20);
        for (uint32_t k = 0; k < 20; k++) {
            CHECK(is_made(&b, &got[k], 100, i * 100 + k));
            nfm_pool_put(&b.pool, got[k].slot);
        }
        CHECK(strstr(nfm_port_warning(ports[i]), "does not spread") != NULL);
    }
    close_port(ports[0], &b);
    close_port(ports[1], &b);
    CHECK_EQ(b.pool.n_free_small, SMALL);
    for (const char *name = "bxy"; *name != '\0'; name++) {
        snprintf(second, sizeof(second), "%s/%c%s", b.dir, *name, *name == 'b' ? ".pcap" : "");
        unlink(second);
    }
    teardown(&b);
}

static void af_packet_device_on_veth(void) {
    if (system("ip link add nfm0 type veth peer name nfm1 2>/dev/null && ip link set nfm0 up && "
               "ip link set nfm1 up") != 0) {
        printf("# skip: no right to make veth\n");
        return;
    }
    bench b = setup(SMALL, LARGE);
    nfm_port *one = dpdk_open("net_af_packet0,iface=nfm0", NFM_COPY_AUTO);
    nfm_port *two = dpdk_open("net_af_packet1,iface=nfm1", NFM_COPY_AUTO);
    CHECK(one != NULL && two != NULL);
    if (one == NULL || two == NULL)
        return;
    nfm_frame frame;
    CHECK_EQ(one->ops->rx(one, &b.pool, &frame, 0), 0);
    CHECK(wait_up(one, &b) && wait_up(two, &b));
    nfm_tx tx = make_tx(&b, 777, 42);
    CHECK_EQ(one->ops->tx(one, &b.pool, &tx, 1), 1);
    bool found = false; /* among what the kernel says on its own */
    for (int i = 0; i < 50 && !found && receive(two, &b, &frame, 1) == 1; i++) {
        found = is_made(&b, &frame, 777, 42);
        nfm_pool_put(&b.pool, frame.slot);
    }
    CHECK(found);
    close_port(one, &b);
    close_port(two, &b);
    teardown(&b);
}

static void queues_of_one_device_have_pools_of_their_own(void) {
    bench a = setup(SMALL, LARGE), b = setup(SMALL, LARGE);
    nfm_error err = {0};
    nfm_dpdk_config config = {.eal = EAL, .device = "net_null3", .n_queues = 2};
    nfm_port *one = nfm_port_dpdk_open(&config, &err);
    config.queue = 1;
    nfm_port *two = nfm_port_dpdk_open(&config, &err);
    CHECK(one != NULL && two != NULL);
    CHECK(nfm_port_dpdk_open(&config, &err) == NULL && strstr(err.text, "taken") != NULL);
    nfm_frame got[8];
    CHECK_EQ(one->ops->rx(one, &a.pool, got, 8), 0); /* the device waits for its other queue */
    CHECK(a.pool.n_free_small < SMALL);              /* its slots lie ready for that one */
    CHECK_EQ(two->ops->rx(two, &b.pool, got, 8), 8);
    CHECK_EQ(b.pool.n_free_small, SMALL - 8);
    CHECK_EQ(one->ops->rx(one, &a.pool, got, 8), 8);
    CHECK_EQ(a.pool.n_free_small, SMALL - 8);
    close_port(one, &a);
    teardown(&a); /* its worker is gone, the other one goes on */
    CHECK_EQ(two->ops->rx(two, &b.pool, got, 8), 8);
    close_port(two, &b);
    CHECK_EQ(b.pool.n_free_small, SMALL - 16); /* 16 are ours */
    teardown(&b);
}

typedef struct queue_worker {
    nfm_port *port;
    bench b;
    uint64_t received;
    uint32_t lost; /* slots */
} queue_worker;

static void *run_queue(void *worker) {
    queue_worker *self = worker;
    nfm_pool *pool = &self->b.pool;
    nfm_frame got[32];
    nfm_tx tx[32];
    while (self->received < 100000) {
        int n = self->port->ops->rx(self->port, pool, got, 32);
        for (int i = 0; i < n; i++)
            tx[i] = (nfm_tx){.slot = got[i].slot, .off = NFM_HEADROOM, .len = got[i].len};
        int sent = n > 0 ? self->port->ops->tx(self->port, pool, tx, (uint32_t)n) : 0;
        for (int i = sent < 0 ? 0 : sent; i < n; i++)
            nfm_pool_put(pool, tx[i].slot);
        self->port->ops->poll(self->port, pool);
        self->received += (uint64_t)n;
        /* Others use the pool while a device is started by another thread. */
        uint32_t own = nfm_pool_get(pool, 0);
        nfm_pool_put(pool, own);
    }
    self->lost = SMALL - pool->n_free_small;
    self->port->ops->detach(self->port, pool);
    return NULL;
}

static void workers_are_threads_with_a_queue_each(void) {
    enum { N = 3 };
    queue_worker workers[N] = {0};
    pthread_t threads[N];
    for (uint16_t i = 0; i < N; i++) {
        nfm_dpdk_config config = {
            .eal = EAL, .device = "net_null6", .queue = i, .n_queues = N, .rx_desc = 128};
        workers[i].b = setup(SMALL, LARGE);
        workers[i].port = nfm_port_dpdk_open(&config, NULL);
        CHECK(workers[i].port != NULL);
    }
    for (int i = 0; i < N; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, run_queue, &workers[i]), 0);
    for (int i = 0; i < N; i++) {
        pthread_join(threads[i], NULL);
        CHECK(workers[i].received >= 100000);
        CHECK_EQ(workers[i].lost, 0);
        CHECK_EQ(workers[i].port->stats.rx_packets, workers[i].received);
        nfm_port_free(workers[i].port);
        teardown(&workers[i].b);
    }
}

static void a_queue_that_ends_before_the_device_began(void) {
    bench a = setup(SMALL, LARGE);
    nfm_error err = {0};
    nfm_dpdk_config config = {.eal = EAL, .device = "net_null4", .n_queues = 2};
    nfm_port *one = nfm_port_dpdk_open(&config, &err);
    nfm_frame got[8];
    CHECK_EQ(one->ops->rx(one, &a.pool, got, 8), 0);
    close_port(one, &a);
    CHECK_EQ(a.pool.n_free_small, SMALL);
    config.device = "net_null5"; /* and one that never saw its worker */
    one = nfm_port_dpdk_open(&config, &err);
    CHECK(one != NULL);
    nfm_port_free(one);
    teardown(&a);
}

static void nothing_is_lost_when_the_pool_is_empty(void) {
    bench b = setup(64, 0);
    nfm_port *port = dpdk_open("net_ring1", NFM_COPY_ALWAYS);
    CHECK(wait_up(port, &b));
    nfm_tx tx[32];
    for (uint32_t i = 0; i < 32; i++)
        tx[i] = make_tx(&b, 80, i);
    CHECK_EQ(port->ops->tx(port, &b.pool, tx, 32), 32);
    uint32_t taken[64], n_taken = 0, seen = 0;
    while (b.pool.n_free_small > 10)
        taken[n_taken++] = nfm_pool_get(&b.pool, 0);
    nfm_frame got[32];
    CHECK_EQ(port->ops->rx(port, &b.pool, got, 32), 10);
    while (n_taken > 0)
        nfm_pool_put(&b.pool, taken[--n_taken]);
    for (int n = 10; n > 0; n = port->ops->rx(port, &b.pool, got, 5))
        for (int k = 0; k < n; k++, seen++) {
            CHECK(is_made(&b, &got[k], 80, seen));
            nfm_pool_put(&b.pool, got[k].slot);
        }
    CHECK_EQ(seen, 32);
    close_port(port, &b);
    teardown(&b);
}

static void frames_too_long_for_the_link_are_counted(void) {
    bench b = setup(SMALL, LARGE);
    nfm_port *port = dpdk_open("net_null0", NFM_COPY_NEVER);
    CHECK(wait_up(port, &b));
    nfm_tx tx[3] = {make_tx(&b, 60, 1), make_tx(&b, 1600, 2), make_tx(&b, 60000, 3)};
    CHECK_EQ(port->ops->tx(port, &b.pool, tx, 3), 3);
    CHECK_EQ(port->stats.tx_packets, 1);
    CHECK_EQ(port->stats.tx_oversize, 2);
    CHECK_EQ(b.pool.n_free_small + b.pool.n_free_large, SMALL + LARGE);
    close_port(port, &b);
    teardown(&b);
}

static void errors_say_what_to_do(void) {
    nfm_error err = {0};
    nfm_dpdk_config config = {.eal = EAL, .device = "net_nosuch0"};
    CHECK(nfm_port_dpdk_open(&config, &err) == NULL);
    CHECK(strstr(err.text, "net_nosuch0") != NULL && strstr(err.text, "vfio-pci") != NULL);
    config = (nfm_dpdk_config){.eal = EAL, .device = "net_null0", .n_queues = 5000};
    CHECK(nfm_port_dpdk_open(&config, &err) == NULL);
    CHECK(strstr(err.text, "5000") != NULL);
}

static const nfm_test tests[] = {
    T(af_packet_device_on_veth),
    T(null_device_fills_slots_without_touching_them),
    T(sent_slots_come_back_to_the_pool),
    T(a_frame_that_somebody_holds_stays_when_it_was_sent),
    T(ring_returns_what_was_sent),
    T(a_slot_can_be_on_its_way_twice),
    T(memif_carries_frames_between_two_ports),
    T(pcap_device_reads_and_writes_files),
    T(queues_of_one_device_have_pools_of_their_own),
    T(workers_are_threads_with_a_queue_each),
    T(a_device_that_spreads_nothing_is_told_of),
    T(a_queue_that_ends_before_the_device_began),
    T(nothing_is_lost_when_the_pool_is_empty),
    T(frames_too_long_for_the_link_are_counted),
    T(errors_say_what_to_do),
};

int main(int argc, char **argv) {
    nfm_error err = {0};
    /* Before EAL makes threads. Without the right there is no veth, and its test says so. */
    if (unshare(CLONE_NEWNET) != 0)
        printf("# no network namespace of its own\n");
    nfm_dpdk_config absent = {.eal = EAL, .device = "net_absent"};
    if (nfm_port_dpdk_open(&absent, &err) == NULL && strstr(err.text, "install") != NULL) {
        printf("ok # skip: %s\n0 passed, 0 failed\n", err.text);
        return 0;
    }
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
