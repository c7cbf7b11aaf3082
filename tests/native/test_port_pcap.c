/* SPDX-License-Identifier: Apache-2.0 */
/* A capture file as a port: slots are respected, files that end early are delivered and said. */
#include "nfm_test.h"
#include "port_fixture.h"

#include <sys/stat.h>

static void a_frame_without_a_slot_is_not_consumed(void) {
    bench b = setup(2, 1);
    capture c = {0};
    cap_pcap_header(&c, 0xa1b2c3d4, 262144, 1);
    static const uint32_t lens[] = {100, 3000, 3001, 101, 102};
    for (uint32_t i = 0; i < 5; i++) {
        cap_pcap_record(&c, i, 0, lens[i], lens[i]);
        cap_frame(&c, lens[i], i);
    }
    save(b.path, &c);
    nfm_port *port = nfm_port_pcap_open(b.path, NULL);
    nfm_frame frames[8];
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 8), 2); /* one large slot */
    CHECK_EQ(port->ops->rx(port, &b.pool, frames + 2, 6), 0);
    nfm_pool_put(&b.pool, frames[1].slot);
    CHECK_EQ(port->ops->rx(port, &b.pool, frames + 2, 1), 1);
    CHECK_EQ(port->ops->rx(port, &b.pool, frames + 3, 5), 1); /* two small slots */
    CHECK_EQ(port->ops->rx(port, &b.pool, frames + 4, 4), 0);
    nfm_pool_put(&b.pool, frames[0].slot);
    CHECK_EQ(port->ops->rx(port, &b.pool, frames + 4, 4), 1);
    CHECK_EQ(port->ops->rx(port, &b.pool, frames + 4, 4), NFM_E_EOF);
    for (uint32_t i = 2; i < 5; i++) {
        CHECK_EQ(frames[i].len, lens[i]);
        CHECK(cap_is_frame(frame_at(&b, &frames[i]), lens[i], i));
    }
    nfm_port_free(port);
    teardown(&b);
}

static void a_cut_file_ends_with_a_warning(void) {
    bench b = setup(8, 1);
    capture c = {0};
    cap_pcap_header(&c, 0xa1b2c3d4, 65535, 1);
    cap_pcap_record(&c, 0, 0, 100, 100);
    cap_frame(&c, 100, 0);
    cap_pcap_record(&c, 0, 0, 100, 100);
    cap_frame(&c, 50, 0);
    save(b.path, &c);
    nfm_port *port = nfm_port_pcap_open(b.path, NULL);
    nfm_frame frames[8];
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 8), 1);
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 8), NFM_E_EOF);
    const char *warning = nfm_port_warning(port);
    CHECK(warning != NULL && strstr(warning, b.path) != NULL &&
          strstr(warning, "byte 140") != NULL);
    nfm_port_free(port);
    teardown(&b);
}

static void a_file_that_shrinks_ends_early(void) {
    bench b = setup(64, 1);
    capture c = {0};
    cap_pcap_header(&c, 0xa1b2c3d4, 65535, 1);
    while (c.len < (size_t)12 << 20) {
        cap_pcap_record(&c, 0, 0, 1500, 1500);
        cap_frame(&c, 1500, 0);
    }
    save(b.path, &c);
    nfm_port *port = nfm_port_pcap_open(b.path, NULL);
    nfm_frame frames[32];
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 1), 1);
    CHECK_EQ(truncate(b.path, 5 << 20), 0);
    uint64_t packets = 1;
    for (int n = 1; n > 0; packets += n > 0 ? (uint64_t)n : 0) {
        for (int i = 0; i < n; i++)
            nfm_pool_put(&b.pool, frames[i].slot);
        n = port->ops->rx(port, &b.pool, frames, 32);
    }
    CHECK_EQ(packets, ((5 << 20) - 24) / 1516);
    const char *warning = nfm_port_warning(port);
    CHECK(warning != NULL && strstr(warning, "shrank") != NULL);
    nfm_port_free(port);
    teardown(&b);
}

static void two_frames(bench *b) {
    capture c = {0};
    cap_pcap_header(&c, 0xa1b2c3d4, 65535, 1);
    for (uint32_t i = 0; i < 2; i++) {
        cap_pcap_record(&c, 7 + i, 0, 100 + i, 100 + i);
        cap_frame(&c, 100 + i, i);
    }
    save(b->path, &c);
}

static void a_loop_goes_on_in_time(void) {
    bench b = setup(8, 1);
    two_frames(&b);
    nfm_port *port = nfm_port_pcap_loop_open(b.path, NULL);
    nfm_frame frames[8];
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 5), 5);
    for (uint32_t i = 0; i < 5; i++) {
        CHECK_EQ(frames[i].len, 100 + i % 2);
        CHECK_EQ(frames[i].ts_ns, 7 * SECOND + i % 2 * SECOND + i / 2 * (11 * SECOND / 10));
        CHECK(cap_is_frame(frame_at(&b, &frames[i]), 100 + i % 2, i % 2));
        nfm_pool_put(&b.pool, frames[i].slot);
    }
    CHECK_EQ(unlink(b.path), 0);
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 8), 1); /* the rest of this pass */
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 8), NFM_E_EOF);
    const char *warning = nfm_port_warning(port);
    CHECK(warning != NULL && strstr(warning, b.path) != NULL);
    nfm_port_free(port);
    teardown(&b);
}

static void a_loop_over_nothing_ends(void) {
    bench b = setup(8, 1);
    capture c = {0};
    cap_pcap_header(&c, 0xa1b2c3d4, 65535, 1);
    save(b.path, &c);
    nfm_port *port = nfm_port_pcap_loop_open(b.path, NULL);
    nfm_frame frames[8];
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 8), NFM_E_EOF);
    nfm_port_free(port);
    two_frames(&b);
    port = nfm_port_pcap_loop_open(b.path, NULL);
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 2), 2);
    save(b.path, &c);
    CHECK_EQ(port->ops->rx(port, &b.pool, frames + 2, 2), NFM_E_EOF);
    CHECK_EQ(port->ops->rx(port, &b.pool, frames + 2, 2), NFM_E_EOF);
    nfm_port_free(port);
    teardown(&b);
}

static void expect_refusal(const char *path, int code, const char *text) {
    nfm_error err = {0};
    CHECK(nfm_port_pcap_open(path, &err) == NULL);
    CHECK_EQ(err.code, code);
    if (strstr(err.text, text) == NULL)
        printf("# %s\n", err.text);
    CHECK(strstr(err.text, text) != NULL && strchr(err.text, '\n') == NULL);
}

static void what_cannot_be_opened_is_one_line(void) {
    bench b = setup(1, 1);
    char line[200];
    expect_refusal("/nonexistent/x.pcap", NFM_E_IO,
                   "/nonexistent/x.pcap: cannot open: No such file");
    expect_refusal(b.dir, NFM_E_IO, "Is a directory");
    expect_refusal("/dev/null", NFM_E_IO, "not a regular file");
    save(b.path, &(capture){0});
    expect_refusal(b.path, NFM_E_FORMAT, "empty");
    snprintf(line, sizeof(line), "%s/two\nlines", b.dir);
    expect_refusal(line, NFM_E_IO, "two?lines");
    if (geteuid() != 0) {
        CHECK_EQ(chmod(b.path, 0), 0);
        expect_refusal(b.path, NFM_E_IO, "Permission denied");
    }
    CHECK(nfm_port_pcap_open("/nonexistent", NULL) == NULL);
    nfm_port_free(NULL);
    teardown(&b);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(a_frame_without_a_slot_is_not_consumed),
        T(a_cut_file_ends_with_a_warning),
        T(a_file_that_shrinks_ends_early),
        T(a_loop_goes_on_in_time),
        T(a_loop_over_nothing_ends),
        T(what_cannot_be_opened_is_one_line),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
