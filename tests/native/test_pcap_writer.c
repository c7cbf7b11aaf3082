/* SPDX-License-Identifier: Apache-2.0 */
/* The capture writer: what is written is read again; failures are one line. */
#include "nfm_test.h"
#include "port_fixture.h"

static void write_read(int format, uint32_t snaplen) {
    bench b = setup(64, 4);
    nfm_error err = {0};
    nfm_pcap_writer *w = nfm_pcap_writer_open(b.path, format, 113, snaplen, &err);
    CHECK(w != NULL);
    static const uint32_t lens[] = {0, 1, 2, 3, 60, 1514, NFM_MAX_FRAME, 61};
    static const int64_t times[] = {0,  1,         999, SECOND - 1, 1700000000 * SECOND + 123456789,
                                    -5, INT64_MAX, 7};
    enum { N = 8 };
    for (int i = 0; i < N; i++) {
        capture c = {0};
        cap_frame(&c, lens[i] + 1, (uint32_t)i); /* never empty: memory exists */
        CHECK_EQ(nfm_pcap_writer_write(w, c.data, lens[i], i == 4 ? 9000 : 0, times[i]), NFM_OK);
        munmap(c.data, CAPTURE_ROOM);
    }
    CHECK_EQ(nfm_pcap_writer_close(w, &err), NFM_OK);

    nfm_port *port = nfm_port_pcap_open(b.path, &err);
    CHECK(port != NULL);
    nfm_frame frames[N + 1];
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, N + 1), N);
    for (int i = 0; i < N; i++) {
        uint32_t len = snaplen != 0 && lens[i] > snaplen ? snaplen : lens[i];
        int64_t last = format == 2 ? INT64_MAX / 2 : UINT32_MAX * SECOND;
        int64_t ts = times[i] < 0 ? 0 : (times[i] > last ? last : times[i]);
        CHECK_EQ(frames[i].len, len);
        CHECK_EQ(frames[i].wire_len, i == 4 ? 9000 : lens[i]);
        CHECK_EQ(frames[i].link_type, 113);
        CHECK_EQ(frames[i].ts_ns, format == 0 ? ts / 1000 * 1000 : ts);
        CHECK(cap_is_frame(frame_at(&b, &frames[i]), len, (uint32_t)i));
        CHECK_EQ(frames[i].slot >= b.pool.n_small, len > NFM_SLOT_SMALL - NFM_HEADROOM);
        nfm_pool_put(&b.pool, frames[i].slot);
    }
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, N), NFM_E_EOF);
    CHECK(nfm_port_warning(port) == NULL);
    nfm_port_stats stats;
    nfm_port_stats_get(port, &stats);
    CHECK_EQ(stats.rx_packets, N);
    CHECK_EQ(stats.rx_truncated, snaplen == 0 ? 1 : 4);
    CHECK(stats.file_offset == stats.file_size && stats.file_size > 0);
    nfm_port_free(port);
    teardown(&b);
}

static void written_captures_are_read_again(void) {
    for (int format = 0; format < 3; format++) {
        write_read(format, 0);
        write_read(format, 50);
    }
}

static void a_writer_that_cannot_open_is_one_line(void) {
    nfm_error err = {0};
    CHECK(nfm_pcap_writer_open("/nonexistent/x.pcap", 0, 1, 0, &err) == NULL);
    CHECK(err.code == NFM_E_IO && strstr(err.text, "/nonexistent/x.pcap: cannot write") != NULL);
    CHECK(nfm_pcap_writer_open("/tmp", 0, 1, 0, &err) == NULL);
    CHECK(strstr(err.text, "Is a directory") != NULL);
    CHECK(nfm_pcap_writer_open("/tmp/x", 3, 1, 0, &err) == NULL);
    CHECK_EQ(err.code, NFM_E_INVAL);
    CHECK(nfm_pcap_writer_open("/tmp/x", 0, 65536, 0, &err) == NULL);
    CHECK_EQ(err.code, NFM_E_INVAL);
    CHECK_EQ(nfm_pcap_writer_close(NULL, &err), NFM_OK);
}

static void a_full_disk_is_reported_by_write_and_close(void) {
    nfm_error err = {0};
    uint8_t frame[60000] = {0};
    nfm_pcap_writer *w = nfm_pcap_writer_open("/dev/full", 0, 1, 0, &err);
    CHECK(w != NULL);
    int failed_at = 0;
    for (int i = 1; i < 20 && failed_at == 0; i++)
        if (nfm_pcap_writer_write(w, frame, sizeof(frame), 0, 0) == NFM_E_IO)
            failed_at = i;
    CHECK(failed_at > 1); /* buffered before */
    CHECK_EQ(nfm_pcap_writer_write(w, frame, 1, 0, 0), NFM_E_IO);
    CHECK_EQ(nfm_pcap_writer_close(w, &err), NFM_E_IO);
    CHECK(strstr(err.text, "/dev/full: cannot write: No space left") != NULL);

    w = nfm_pcap_writer_open("/dev/full", 2, 1, 0, &err);
    CHECK_EQ(nfm_pcap_writer_write(w, frame, 10, 0, 0), NFM_OK);
    CHECK_EQ(nfm_pcap_writer_close(w, &err), NFM_E_IO); /* what was buffered is lost: said */
}

static void write_part(const char *path, const int64_t *times, uint8_t first, uint32_t n) {
    nfm_error err = {0};
    nfm_pcap_writer *w = nfm_pcap_writer_open(path, 2, 113, 0, &err);
    for (uint32_t i = 0; i < n; i++) {
        uint8_t byte = (uint8_t)(first + i);
        CHECK_EQ(nfm_pcap_writer_write(w, &byte, 1, 60, times[i]), NFM_OK);
    }
    CHECK_EQ(nfm_pcap_writer_close(w, &err), NFM_OK);
}

static void parts_become_one_in_the_order_of_time(void) {
    bench b = setup(64, 4);
    char paths[3][300];
    nfm_error err = {0};
    for (int i = 0; i < 3; i++)
        snprintf(paths[i], sizeof(paths[i]), "%s.w%d", b.path, i);
    static const int64_t first[] = {1, 5, 5, 9}, last[] = {2, 5, 10};
    write_part(paths[0], first, 0, 4);
    write_part(paths[2], last, 10, 3); /* the second worker has written nothing */
    const char *const parts[] = {paths[0], paths[1], paths[2]};
    CHECK_EQ(nfm_pcap_merge(parts, 3, b.path, 1, &err), NFM_OK);
    static const uint8_t want[] = {0, 10, 1, 2, 11, 3, 12};
    nfm_port *port = nfm_port_pcap_open(b.path, &err);
    nfm_frame frames[8];
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 8), 7);
    for (int i = 0; i < 7; i++) {
        CHECK_EQ(*frame_at(&b, &frames[i]), want[i]);
        CHECK_EQ(frames[i].wire_len, 60);
        CHECK_EQ(frames[i].link_type, 113);
        nfm_pool_put(&b.pool, frames[i].slot);
    }
    nfm_port_free(port);
    CHECK_EQ(nfm_pcap_merge(parts, 3, "/nonexistent/x.pcap", 1, &err), NFM_E_IO);
    CHECK(strstr(err.text, "/nonexistent/x.pcap: cannot write") != NULL);
    CHECK_EQ(truncate(paths[2], 3), 0);
    CHECK(nfm_pcap_merge(parts, 3, b.path, 1, &err) < 0 && strstr(err.text, paths[2]) != NULL);
    unlink(paths[0]);
    unlink(paths[2]);
    teardown(&b);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(written_captures_are_read_again),
        T(a_writer_that_cannot_open_is_one_line),
        T(a_full_disk_is_reported_by_write_and_close),
        T(parts_become_one_in_the_order_of_time),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
