/* SPDX-License-Identifier: Apache-2.0 */
/* Recordings at a pace, and the sink that records. */
#include "fake_port.h"
#include "nfm_test.h"

#include <poll.h>
#include <time.h>

#define MS INT64_C(1000000)

static int64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

static nfm_port *recording(uint32_t n, int64_t gap_ns) {
    nfm_port *port = nfm_port_mem_new(1, NULL);
    uint8_t data[FAKE_LEN];
    for (uint32_t i = 0; i < n; i++) {
        fake_bytes(data, i);
        nfm_port_mem_push(port, data, sizeof(data), sizeof(data), SECOND + i * gap_ns);
    }
    return port;
}

/* Reads all |n| frames, which keep their order; returns how long it took. |ts| gets the times. */
static int64_t play(nfm_port *port, bench *b, uint32_t n, int64_t *ts, uint32_t *calls) {
    nfm_frame frames[NFM_BURST];
    int64_t begun = clock_ns(CLOCK_MONOTONIC);
    uint32_t seen = 0;
    for (int got; (got = port->ops->rx(port, &b->pool, frames, NFM_BURST)) != NFM_E_EOF;) {
        (*calls)++;
        for (int i = 0; i < got; i++, seen++) {
            uint32_t number;
            CHECK(fake_is_whole(frame_at(b, &frames[i]), &number) && number == seen);
            ts[seen] = frames[i].ts_ns;
            nfm_pool_put(&b->pool, frames[i].slot);
        }
    }
    CHECK_EQ(seen, n);
    return clock_ns(CLOCK_MONOTONIC) - begun;
}

static void frames_come_at_the_pace_of_the_recording(void) {
    bench b = setup(256, 0);
    nfm_replay_config config = {.speed = 10, .wait_us = 100000};
    nfm_port *port = nfm_port_replay_new(recording(50, 10 * MS), &config, NULL);
    int64_t ts[50];
    uint32_t calls = 0;
    CHECK(port->ops->wait_fd == NULL);                /* still a recording */
    CHECK(play(port, &b, 50, ts, &calls) >= 49 * MS); /* 490 ms at ten times the speed */
    for (uint32_t i = 0; i < 50; i++)
        CHECK_EQ(ts[i], SECOND + i * 10 * MS); /* event time is that of the recording */
    CHECK(calls <= 100);                       /* it slept instead of asking again */
    CHECK_EQ(port->stats.rx_packets, 50);
    port->ops->detach(port, &b.pool);
    nfm_port_free(port);
    teardown(&b);
}

static void speed_zero_is_as_fast_as_it_goes(void) {
    bench b = setup(256, 0);
    nfm_replay_config config = {0};
    nfm_port *port = nfm_port_replay_new(recording(100, 3600 * SECOND), &config, NULL);
    int64_t ts[100];
    uint32_t calls = 0;
    (void)play(port, &b, 100, ts, &calls);
    CHECK_EQ(calls, 4); /* bursts, none empty */
    CHECK_EQ(ts[99], SECOND + 99 * 3600 * SECOND);
    nfm_port_free(port);
    teardown(&b);
}

static void a_live_replay_has_the_clocks_time_and_wakes_sleepers(void) {
    bench b = setup(256, 0);
    nfm_replay_config config = {.speed = 1, .live = 1};
    nfm_port *port = nfm_port_replay_new(recording(2, 30 * MS), &config, NULL);
    nfm_frame frames[4];
    struct pollfd wait = {.fd = port->ops->wait_fd(port), .events = POLLIN};
    int64_t before = clock_ns(CLOCK_REALTIME);
    CHECK_EQ(poll(&wait, 1, 5000), 1);
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 4), 1);
    CHECK(frames[0].ts_ns >= before);
    int asked = 0;
    while (port->ops->rx(port, &b.pool, frames + 1, 1) == 0 && asked++ < 100)
        CHECK_EQ(poll(&wait, 1, 5000), 1);
    CHECK(asked < 100 && frames[1].ts_ns - frames[0].ts_ns >= 29 * MS);
    CHECK_EQ(port->ops->rx(port, &b.pool, frames + 2, 1), NFM_E_EOF);
    nfm_port_free(port);
    teardown(&b);
}

static void frames_read_ahead_go_back(void) {
    bench b = setup(256, 0);
    nfm_replay_config config = {.speed = 1};
    nfm_port *port = nfm_port_replay_new(recording(40, SECOND), &config, NULL);
    nfm_frame frames[40];
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 40), 1);
    CHECK_EQ(port->ops->rx(port, &b.pool, frames + 1, 40), 0);
    CHECK_EQ(b.pool.n_free_small, 256 - 32);
    port->ops->detach(port, &b.pool);
    nfm_pool_put(&b.pool, frames[0].slot);
    CHECK_EQ(b.pool.n_free_small, 256);
    nfm_port_free(port);
    teardown(&b);
}

static void only_recordings_are_replayed(void) {
    fake_port fake = {.port = {.ops = &fake_live_ops}};
    nfm_error err = {0};
    nfm_replay_config config = {.speed = 1};
    CHECK(nfm_port_replay_new(&fake.port, &config, &err) == NULL && err.code == NFM_E_INVAL);
    fake.port.ops = &fake_file_ops;
    config.speed = -1;
    CHECK(nfm_port_replay_new(&fake.port, &config, &err) == NULL && err.code == NFM_E_INVAL);
}

/* ---- record ------------------------------------------------------------------------------- */

static void what_is_sent_is_in_the_file(void) {
    for (int format = 0; format <= 2; format++) {
        bench b = setup(64, 2);
        nfm_error err = {0};
        nfm_port *sink = nfm_port_record_open(b.path, format, 1, &err);
        CHECK(sink != NULL && sink->ops->wait_fd == NULL);
        for (uint32_t i = 0; i < 100; i++) {
            nfm_tx tx = fake_frame(&b, i);
            tx.ts_ns = SECOND + i * MS;
            tx.wire_len = i % 2 == 0 ? 0 : 1500;
            CHECK_EQ(sink->ops->tx(sink, &b.pool, &tx, 1), 1);
        }
        CHECK_EQ(b.pool.n_free_small, 64);
        CHECK_EQ(sink->stats.tx_packets, 100);
        CHECK_EQ(nfm_port_flush(sink), NFM_OK);
        nfm_frame frames[32];
        CHECK_EQ(sink->ops->rx(sink, &b.pool, frames, 32), NFM_E_EOF);
        nfm_port *file = nfm_port_pcap_open(b.path, &err);
        uint32_t seen = 0, number;
        for (int n; (n = file->ops->rx(file, &b.pool, frames, 32)) > 0;)
            for (int k = 0; k < n; k++, seen++) {
                CHECK(fake_is_whole(frame_at(&b, &frames[k]), &number) && number == seen);
                CHECK_EQ(frames[k].ts_ns, SECOND + seen * MS);
                CHECK_EQ(frames[k].wire_len, seen % 2 == 0 ? FAKE_LEN : 1500);
                nfm_pool_put(&b.pool, frames[k].slot);
            }
        CHECK_EQ(seen, 100);
        nfm_port_free(file);
        nfm_port_free(sink);
        teardown(&b);
    }
}

static void a_full_disk_takes_the_link_down(void) {
    bench b = setup(64, 0);
    nfm_error err = {0};
    nfm_port *sink = nfm_port_record_open("/dev/full", 2, 1, &err);
    CHECK(sink != NULL && sink->stats.link_up == 1);
    uint32_t sent = 0;
    int rc = 1;
    for (; rc > 0 && sent < 100000; sent++) {
        nfm_tx tx = fake_frame(&b, sent);
        rc = sink->ops->tx(sink, &b.pool, &tx, 1);
        if (rc != 1)
            nfm_pool_put(&b.pool, tx.slot);
    }
    CHECK_EQ(rc, NFM_E_IO);
    CHECK(sink->stats.link_up == 0 && strstr(nfm_port_warning(sink), "free some space") != NULL);
    CHECK_EQ(sink->stats.tx_packets, sent - 1);
    CHECK_EQ(nfm_port_flush(sink), NFM_E_IO);
    CHECK_EQ(b.pool.n_free_small, 64);
    nfm_port_free(sink);
    sink = nfm_port_record_open("/dev/full", 2, 1, &err); /* fails only when it is flushed */
    sink = nfm_port_tee_new(sink, &err);
    CHECK_EQ(nfm_port_flush(sink), NFM_E_IO);
    CHECK(strstr(nfm_port_warning(sink), "free some space") != NULL);
    nfm_port_free(sink);
    CHECK(nfm_port_record_open("/nosuch/dir/x", 2, 1, &err) == NULL && err.code == NFM_E_IO);
    teardown(&b);
}

static const nfm_test tests[] = {
    T(frames_come_at_the_pace_of_the_recording),
    T(speed_zero_is_as_fast_as_it_goes),
    T(a_live_replay_has_the_clocks_time_and_wakes_sleepers),
    T(frames_read_ahead_go_back),
    T(only_recordings_are_replayed),
    T(what_is_sent_is_in_the_file),
    T(a_full_disk_takes_the_link_down),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
