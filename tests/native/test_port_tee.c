/* SPDX-License-Identifier: Apache-2.0 */
/* Recording what passes a port: by filter and limit, and never at the port's cost. */
#include "fake_port.h"
#include "nfm_test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

enum { SMALL = 512 };

typedef struct rig {
    bench b;
    fake_port fake;
    nfm_port *tee;
} rig;

static rig *begin(void) {
    rig *r = calloc(1, sizeof(*r));
    r->b = setup(SMALL, 1);
    r->fake.port.ops = &fake_live_ops;
    r->fake.room = UINT32_MAX;
    r->tee = nfm_port_tee_new(&r->fake.port, NULL);
    return r;
}

static void end(rig *r) {
    r->tee->ops->detach(r->tee, &r->b.pool);
    CHECK(r->fake.detached);
    CHECK_EQ(r->b.pool.n_free_small, SMALL);
    nfm_port_free(r->tee);
    teardown(&r->b);
    free(r);
}

static void start(rig *r, nfm_tee_config config) {
    nfm_error err = {0};
    config.path = r->b.path;
    CHECK_EQ(nfm_port_tee_start(r->tee, &config, &err), NFM_OK);
}

static nfm_tee_stats stop(rig *r) {
    nfm_error err = {0};
    nfm_tee_stats stats = {0};
    CHECK_EQ(nfm_port_tee_stop(r->tee, &err), NFM_OK);
    CHECK_EQ(nfm_port_tee_stats(r->tee, &stats), NFM_OK);
    CHECK_EQ(stats.written, stats.recorded);
    CHECK_EQ(stats.recording, 0);
    return stats;
}

static void receive(rig *r, uint32_t n) {
    nfm_frame frames[NFM_BURST];
    r->fake.left = n;
    for (int got; (got = r->tee->ops->rx(r->tee, &r->b.pool, frames, NFM_BURST)) > 0;)
        for (int i = 0; i < got; i++)
            nfm_pool_put(&r->b.pool, frames[i].slot);
}

static void transmit(rig *r, uint32_t first, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        nfm_tx tx = fake_frame(&r->b, first + i);
        if (r->tee->ops->tx(r->tee, &r->b.pool, &tx, 1) != 1)
            nfm_pool_put(&r->b.pool, tx.slot);
    }
}

/* Reads the file: the numbers of its frames. Returns how many. */
static uint32_t read_back(rig *r, uint32_t *numbers, uint32_t max) {
    nfm_error err = {0};
    nfm_port *file = nfm_port_pcap_open(r->b.path, &err);
    nfm_frame frames[NFM_BURST];
    uint32_t seen = 0;
    CHECK(file != NULL);
    for (int n; file != NULL && (n = file->ops->rx(file, &r->b.pool, frames, NFM_BURST)) > 0;)
        for (int i = 0; i < n; i++) {
            if (seen < max)
                CHECK(fake_is_whole(frame_at(&r->b, &frames[i]), &numbers[seen++]));
            nfm_pool_put(&r->b.pool, frames[i].slot);
        }
    CHECK(file != NULL && nfm_port_warning(file) == NULL);
    nfm_port_free(file);
    return seen;
}

static void both_ways_are_recorded_in_order(void) {
    rig *r = begin();
    static uint32_t numbers[4096];
    receive(r, 10); /* before: not in the file */
    start(r, (nfm_tee_config){0});
    receive(r, 1000);
    transmit(r, 5000, 500);
    nfm_tee_stats stats = stop(r);
    receive(r, 10);
    CHECK_EQ(stats.recorded, 1500);
    CHECK_EQ(stats.bytes, 1500 * FAKE_LEN);
    CHECK_EQ(read_back(r, numbers, 4096), 1500);
    for (uint32_t i = 0; i < 1500; i++)
        CHECK_EQ(numbers[i], i < 1000 ? 10 + i : 4000 + i);
    CHECK_EQ(r->fake.n_sent, 500);
    CHECK_EQ(r->tee->stats.rx_packets, 1020);
    end(r);
}

static uint32_t count_flags(const char *path, uint32_t way) {
    static uint8_t bytes[1 << 20];
    uint8_t option[8] = {2, 0, 4, 0, (uint8_t)way};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, bytes, sizeof(bytes));
    uint32_t found = 0;
    close(fd);
    for (ssize_t i = 0; i + 8 <= n; i += 4)
        found += memcmp(bytes + i, option, 8) == 0;
    return found;
}

static void the_file_says_which_way_frames_went(void) {
    rig *r = begin();
    start(r, (nfm_tee_config){0});
    receive(r, 30);
    transmit(r, 100, 20);
    (void)stop(r);
    CHECK_EQ(count_flags(r->b.path, 1), 30);
    CHECK_EQ(count_flags(r->b.path, 2), 20);
    end(r);
}

static void one_way_and_short_when_asked(void) {
    rig *r = begin();
    start(r, (nfm_tee_config){.direction = NFM_DIR_TX, .snaplen = 16});
    receive(r, 30);
    transmit(r, 100, 20);
    nfm_tee_stats stats = stop(r);
    CHECK_EQ(stats.recorded, 20);
    CHECK_EQ(stats.bytes, 20 * 16);
    nfm_port *file = nfm_port_pcap_open(r->b.path, NULL);
    nfm_frame frame;
    CHECK_EQ(file->ops->rx(file, &r->b.pool, &frame, 1), 1);
    CHECK(frame.len == 16 && frame.wire_len == FAKE_LEN);
    nfm_pool_put(&r->b.pool, frame.slot);
    nfm_port_free(file);
    end(r);
}

static void limits_end_the_recording_and_not_the_port(void) {
    rig *r = begin();
    start(r, (nfm_tee_config){.max_frames = 7});
    receive(r, 100);
    nfm_tee_stats stats;
    CHECK_EQ(nfm_port_tee_stats(r->tee, &stats), NFM_OK);
    CHECK_EQ(stats.recording, 0);
    CHECK_EQ(stop(r).recorded, 7);
    start(r, (nfm_tee_config){.max_bytes = 10 * FAKE_LEN});
    receive(r, 100);
    CHECK_EQ(stop(r).recorded, 10);
    CHECK_EQ(r->tee->stats.rx_packets, 200);
    end(r);
}

static void the_filter_chooses(void) {
    rig *r = begin();
    const nfm_filter_op op = {.kind = NFM_OP_BPF_L2, .text = "ether[0] & 1 = 1"};
    nfm_error err = {0};
    nfm_filter *filter = nfm_filter_new(&op, 1, &err);
    static uint32_t numbers[4096];
    CHECK(filter != NULL);
    start(r, (nfm_tee_config){.filter = filter});
    receive(r, 200);
    transmit(r, 1000, 100);
    nfm_tee_stats stats = stop(r);
    CHECK(stats.seen == 300 && stats.recorded == 150 && stats.not_matched == 150);
    CHECK_EQ(read_back(r, numbers, 4096), 150);
    for (uint32_t i = 0; i < 150; i++)
        CHECK_EQ(numbers[i], i < 100 ? 2 * i + 1 : 1000 + 2 * (i - 100) + 1);
    nfm_filter_free(filter);
    start(r, (nfm_tee_config){.link_type = 101}); /* raw IP: these are Ethernet's */
    receive(r, 20);
    CHECK_EQ(stop(r).not_matched, 20);
    end(r);
}

static void what_is_not_sent_is_not_recorded(void) {
    rig *r = begin();
    static uint32_t numbers[64];
    start(r, (nfm_tee_config){0});
    r->fake.room = 3;
    transmit(r, 0, 10);
    r->fake.down = true;
    transmit(r, 10, 10);
    CHECK_EQ(stop(r).recorded, 3);
    CHECK_EQ(read_back(r, numbers, 64), 3);
    end(r);
}

static void a_full_disk_ends_the_recording_and_not_the_port(void) {
    rig *r = begin();
    nfm_error err = {0};
    nfm_tee_config config = {.path = "/dev/full", .buffer = 1 << 18};
    CHECK_EQ(nfm_port_tee_start(r->tee, &config, &err), NFM_OK);
    nfm_tee_stats stats = {.recording = 1};
    uint32_t rounds = 0;
    for (; stats.recording && rounds < 100000; rounds++) {
        receive(r, 100);
        CHECK_EQ(nfm_port_tee_stats(r->tee, &stats), NFM_OK);
    }
    CHECK(stats.failed == 1 && rounds < 100000);
    uint64_t before = r->tee->stats.rx_packets;
    receive(r, 100);
    CHECK_EQ(r->tee->stats.rx_packets, before + 100);
    CHECK_EQ(nfm_port_tee_stop(r->tee, &err), NFM_E_IO);
    CHECK(strstr(err.text, "free some space") != NULL);
    CHECK(nfm_port_tee_stats(r->tee, &stats) == NFM_OK && stats.failed == 1);
    end(r);
}

/* Frames of a file beside the rig's; 0: there is none. */
static uint64_t frames_in(const rig *r, uint32_t number) {
    char path[sizeof(r->b.path) + 16] = {0};
    if (number == 0)
        snprintf(path, sizeof(path), "%s", r->b.path);
    else
        snprintf(path, sizeof(path), "%s/a.%u.pcap", r->b.dir, number);
    nfm_port *file = nfm_port_pcap_open(path, NULL);
    nfm_frame frames[NFM_BURST];
    uint64_t n = 0;
    if (file == NULL)
        return 0;
    for (int got; (got = file->ops->rx(file, (nfm_pool *)&r->b.pool, frames, NFM_BURST)) > 0;) {
        n += (uint64_t)got;
        for (int i = 0; i < got; i++)
            nfm_pool_put((nfm_pool *)&r->b.pool, frames[i].slot);
    }
    nfm_port_free(file);
    unlink(path);
    return n;
}

static void a_file_at_its_limit_is_followed_by_another(void) {
    enum { EACH = 10, FILES = 3 };
    rig *r = begin();
    const nfm_tee_config config = {.max_file = (44 + FAKE_LEN) * EACH, .max_files = FILES};
    start(r, config);
    receive(r, 6 * EACH + 4); /* six files, and four frames in one more */
    nfm_tee_stats stats = stop(r);
    CHECK_EQ(stats.recorded, 6 * EACH + 4);
    CHECK_EQ(stats.files, 7);
    start(r, config); /* again: what is there is put aside */
    receive(r, 2);
    CHECK_EQ(stop(r).files, 1);
    CHECK_EQ(frames_in(r, 0), 2);
    CHECK_EQ(frames_in(r, 1), 4);
    CHECK_EQ(frames_in(r, 2), EACH);
    CHECK_EQ(frames_in(r, 3), 0);
    end(r);
}

/* A disk that is full, and which file system says so. */
static void frames_behind_a_full_disk_are_lost_and_counted(void) {
    rig *r = begin();
    struct rlimit before, small = {.rlim_cur = 1 << 19};
    nfm_error err = {0};
    signal(SIGXFSZ, SIG_IGN);
    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    start(r, (nfm_tee_config){.max_file = 1 << 30, .max_files = 2, .buffer = 1 << 18});
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    nfm_tee_stats stats = {.recording = 1};
    for (uint32_t rounds = 0; stats.recording && rounds < 100000; rounds++) {
        receive(r, 100);
        CHECK_EQ(nfm_port_tee_stats(r->tee, &stats), NFM_OK);
    }
    CHECK_EQ(stats.failed, 1);
    receive(r, 1); /* who hands over has seen it */
    CHECK_EQ(nfm_port_tee_stats(r->tee, &stats), NFM_OK);
    uint64_t lost = stats.lost;
    receive(r, 100);
    CHECK_EQ(nfm_port_tee_stop(r->tee, &err), NFM_E_IO);
    CHECK(strstr(err.text, r->b.path) != NULL);
    transmit(r, 0, 10);
    CHECK_EQ(nfm_port_tee_stats(r->tee, &stats), NFM_OK);
    CHECK_EQ(stats.lost, lost + 110);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    CHECK(frames_in(r, 0) > 0); /* what was written before can be read */
    end(r);
}

static void a_slow_file_loses_frames_and_says_how_many(void) {
    rig *r = begin();
    nfm_error err = {0};
    nfm_tee_config config = {.path = r->b.path, .buffer = 1 << 18};
    CHECK_EQ(mkfifo(r->b.path, 0600), 0);
    int reader = open(r->b.path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* that reads nothing yet */
    CHECK_EQ(nfm_port_tee_start(r->tee, &config, &err), NFM_OK);
    nfm_tee_stats stats = {0};
    for (uint32_t i = 0; stats.lost == 0 && i < 100000; i++) {
        receive(r, 100);
        CHECK_EQ(nfm_port_tee_stats(r->tee, &stats), NFM_OK);
    }
    CHECK(stats.lost > 0 && stats.seen == stats.recorded + stats.lost);
    CHECK_EQ(stats.recording, 1);
    close(reader); /* the thread's write fails now, and it ends */
    CHECK_EQ(nfm_port_tee_stop(r->tee, &err), NFM_E_IO);
    end(r);
}

/* Reads a pipe to its end; the last |back| bytes are copied to |last|. */
static void read_all(int pipe, uint8_t *last, size_t back) {
    uint8_t piece[65536];
    ssize_t n;
    while ((n = read(pipe, piece, sizeof(piece))) != 0) {
        if (n < 0)
            continue; /* the thread has not written it yet */
        size_t keep = (size_t)n < back ? (size_t)n : back;
        memmove(last, last + keep, back - keep);
        memcpy(last + back - keep, piece + n - keep, keep);
    }
}

static void the_last_block_says_what_was_lost_and_nobody_waits_for_it(void) {
    rig *r = begin();
    nfm_error err = {0};
    nfm_tee_config config = {.path = r->b.path, .buffer = 1 << 18};
    CHECK_EQ(mkfifo(r->b.path, 0600), 0);
    int reader = open(r->b.path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    CHECK_EQ(nfm_port_tee_start(r->tee, &config, &err), NFM_OK);
    nfm_tee_stats stats = {0};
    while (stats.lost == 0) {
        receive(r, 100);
        CHECK_EQ(nfm_port_tee_stats(r->tee, &stats), NFM_OK);
    }
    CHECK_EQ(nfm_port_tee_end(r->tee), NFM_OK);
    CHECK_EQ(nfm_port_tee_stats(r->tee, &stats), NFM_OK);
    CHECK(!stats.ended && !stats.recording); /* the reader has not come yet */
    uint32_t last[13] = {0};
    read_all(reader, (uint8_t *)last, sizeof(last));
    CHECK_EQ(last[0], 5);          /* interface statistics block */
    CHECK_EQ(last[6], stats.seen); /* isb_ifrecv */
    CHECK_EQ(last[9], stats.lost); /* isb_ifdrop */
    CHECK_EQ(last[12], sizeof(last));
    CHECK_EQ(nfm_port_tee_stop(r->tee, &err), NFM_OK);
    CHECK_EQ(nfm_port_tee_stats(r->tee, &stats), NFM_OK);
    CHECK_EQ(stats.ended, 1);
    close(reader);
    end(r);
}

static void a_pipe_that_nobody_reads_is_an_error_and_no_wait(void) {
    rig *r = begin();
    nfm_error err = {0};
    nfm_tee_config config = {.path = r->b.path};
    CHECK_EQ(mkfifo(r->b.path, 0600), 0);
    CHECK_EQ(nfm_port_tee_start(r->tee, &config, &err), NFM_E_IO);
    CHECK(err.text[0] != '\0');
    end(r);
}

static void wrong_calls_are_refused(void) {
    rig *r = begin();
    nfm_error err = {0};
    nfm_tee_stats stats;
    nfm_tee_config config = {.path = r->b.path, .buffer = 12345};
    CHECK_EQ(nfm_port_tee_start(r->tee, &config, &err), NFM_E_INVAL);
    config = (nfm_tee_config){.path = "/nosuch/dir/file"};
    CHECK_EQ(nfm_port_tee_start(r->tee, &config, &err), NFM_E_IO);
    CHECK_EQ(nfm_port_tee_start(&r->fake.port, &config, &err), NFM_E_INVAL);
    CHECK_EQ(nfm_port_tee_stop(&r->fake.port, &err), NFM_E_INVAL);
    CHECK_EQ(nfm_port_tee_stats(&r->fake.port, &stats), NFM_E_INVAL);
    CHECK_EQ(nfm_port_tee_stop(r->tee, &err), NFM_OK); /* nothing is recorded */
    start(r, (nfm_tee_config){0});
    config = (nfm_tee_config){.path = r->b.path};
    CHECK_EQ(nfm_port_tee_start(r->tee, &config, &err), NFM_E_STATE);
    end(r); /* while it records */
}

static const nfm_test tests[] = {
    T(both_ways_are_recorded_in_order),
    T(the_file_says_which_way_frames_went),
    T(one_way_and_short_when_asked),
    T(limits_end_the_recording_and_not_the_port),
    T(the_filter_chooses),
    T(what_is_not_sent_is_not_recorded),
    T(a_full_disk_ends_the_recording_and_not_the_port),
    T(a_file_at_its_limit_is_followed_by_another),
    T(frames_behind_a_full_disk_are_lost_and_counted),
    T(a_slow_file_loses_frames_and_says_how_many),
    T(the_last_block_says_what_was_lost_and_nobody_waits_for_it),
    T(a_pipe_that_nobody_reads_is_an_error_and_no_wait),
    T(wrong_calls_are_refused),
};

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN); /* of the file that is a pipe */
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
