/* SPDX-License-Identifier: Apache-2.0 */
/* The capture reader over captures built by hand; input ends at a guard page. */
#include "capture_bytes.h"
#include "io/pcap_file.h"
#include "nfm_test.h"

#define SECOND INT64_C(1000000000)
enum { MICRO = 0xa1b2c3d4, NANO = 0xa1b23c4d, MODIFIED = 0xa1b2cd34 };

static int open_bytes(nfm_pcap_file *file, const uint8_t *data, size_t len) {
    nfm_error err = {0};
    int rc = nfm_pcap_file_borrow(file, nfm_guarded(data, len), len, "hand.pcap", &err);
    CHECK(rc == NFM_OK || (strstr(err.text, "hand.pcap") && strchr(err.text, '\n') == NULL));
    CHECK(rc == NFM_OK || err.code == rc);
    return rc;
}

/* Opens |c| and expects it to be a capture. */
static nfm_pcap_file opened(const capture *c) {
    nfm_pcap_file file;
    CHECK_EQ(open_bytes(&file, c->data, c->len), NFM_OK);
    return file;
}

static void expect(nfm_pcap_file *file, uint32_t len, uint32_t wire, int64_t ts, uint32_t seed) {
    nfm_captured packet = {0};
    CHECK_EQ(nfm_pcap_file_next(file, &packet), 1);
    CHECK_EQ(packet.len, len);
    CHECK_EQ(packet.wire_len, wire);
    CHECK_EQ(packet.ts_ns, ts);
    CHECK(packet.data != NULL && cap_is_frame(packet.data, packet.len, seed));
}

/* Expects the end, with |warning| in the warning or none when NULL, and closes. */
static void expect_end(nfm_pcap_file *file, const char *warning) {
    nfm_captured packet;
    CHECK_EQ(nfm_pcap_file_next(file, &packet), 0);
    CHECK_EQ(nfm_pcap_file_next(file, &packet), 0);
    if (warning == NULL && file->warning[0] != '\0')
        printf("# %s\n", file->warning);
    if (warning == NULL)
        CHECK_EQ(file->warning[0], '\0');
    else
        CHECK(strstr(file->warning, warning) != NULL && strstr(file->warning, file->name) != NULL);
    nfm_pcap_file_close(file);
}

static void pcap_in_both_orders_and_resolutions(void) {
    for (int i = 0; i < 4; i++) {
        capture c = {.big = i & 1};
        bool nano = i & 2;
        cap_pcap_header(&c, nano ? NANO : MICRO, 65535, 113);
        cap_pcap_record(&c, 1700000000, 123456, 60, 1500);
        cap_frame(&c, 60, 1);
        cap_pcap_record(&c, 1700000001, 0, 0, 0);
        nfm_pcap_file file = opened(&c);
        expect(&file, 60, 1500, 1700000000 * SECOND + (nano ? 123456 : 123456000), 1);
        expect(&file, 0, 0, 1700000001 * SECOND, 2);
        CHECK_EQ(file.link_type, 113);
        expect_end(&file, NULL);
    }
}

static void modified_pcap_has_longer_records(void) {
    capture c = {0};
    cap_pcap_header(&c, MODIFIED, 65535, 1);
    for (uint32_t i = 0; i < 2; i++) {
        cap_pcap_record(&c, 10 + i, 5, 20, 20);
        cap_put(&c, "\1\0\0\0\10\0\0\0", 8);
        cap_frame(&c, 20, i);
    }
    nfm_pcap_file file = opened(&c);
    expect(&file, 20, 20, 10 * SECOND + 5000, 0);
    expect(&file, 20, 20, 11 * SECOND + 5000, 1);
    expect_end(&file, NULL);
}

static void old_minor_versions_swap_the_lengths(void) {
    for (uint8_t minor = 2; minor <= 3; minor++) {
        capture c = {0};
        cap_pcap_header(&c, MICRO, 65535, 1);
        c.data[6] = minor;
        cap_pcap_record(&c, 1, 0, 100, 30);
        cap_frame(&c, 30, 1);
        nfm_pcap_file file = opened(&c);
        expect(&file, 30, 100, SECOND, 1);
        expect_end(&file, NULL);
    }
}

static void checksum_bits_are_no_link_type(void) {
    capture c = {0};
    cap_pcap_header(&c, MICRO, 65535, 0x54000001);
    nfm_pcap_file file = opened(&c);
    CHECK_EQ(file.link_type, 1);
    expect_end(&file, NULL);
}

/* Ends of the records 0..n of a capture, the first being the header's. */
typedef struct layout {
    size_t end[16];
    unsigned n;
} layout;

static void cut_everywhere(const capture *c, const layout *l) {
    for (size_t len = 0; len <= c->len; len++) {
        nfm_pcap_file file;
        unsigned want = 0;
        bool boundary = false;
        for (unsigned i = 0; i <= l->n; i++) {
            want += i > 0 && l->end[i] <= len;
            boundary |= l->end[i] == len;
        }
        int rc = open_bytes(&file, c->data, len);
        CHECK_EQ(rc == NFM_OK, len >= l->end[0]);
        if (rc != NFM_OK)
            continue;
        for (unsigned i = 0; i < want; i++)
            expect(&file, 10 + i, 40, (int64_t)i * SECOND, i);
        char offset[32];
        snprintf(offset, sizeof(offset), "at byte %zu", l->end[want]);
        expect_end(&file, boundary ? NULL : offset);
        if (nfm_test_failed) {
            printf("# cut at %zu\n", len);
            return;
        }
    }
}

static void cut_pcap_delivers_whole_packets(void) {
    for (int big = 0; big < 2; big++) {
        capture c = {.big = big};
        layout l = {.n = 5};
        cap_pcap_header(&c, MICRO, 65535, 1);
        l.end[0] = c.len;
        for (uint32_t i = 0; i < l.n; i++) {
            cap_pcap_record(&c, i, 0, 10 + i, 40);
            cap_frame(&c, 10 + i, i);
            l.end[i + 1] = c.len;
        }
        cut_everywhere(&c, &l);
    }
}

static void cut_pcapng_delivers_whole_packets(void) {
    for (int big = 0; big < 2; big++) {
        capture c = {.big = big};
        layout l = {.n = 5};
        cap_section(&c);
        l.end[0] = c.len;
        cap_interface(&c, 1, 0, 9, 0);
        size_t described = c.len;
        for (uint32_t i = 0; i < l.n; i++) {
            cap_enhanced(&c, 0, (uint64_t)i * SECOND, 10 + i, 40, i);
            l.end[i + 1] = c.len;
        }
        cut_everywhere(&(capture){.data = c.data, .len = l.end[0]}, &(layout){{l.end[0]}, 0});
        l.end[0] = described;
        for (size_t len = described; len <= c.len; len++) {
            nfm_pcap_file file;
            nfm_captured packet;
            unsigned want = 0, got = 0;
            for (unsigned i = 1; i <= l.n; i++)
                want += l.end[i] <= len;
            CHECK_EQ(open_bytes(&file, c.data, len), NFM_OK);
            while (nfm_pcap_file_next(&file, &packet) == 1)
                got++;
            CHECK_EQ(got, want);
            CHECK_EQ(file.warning[0] == '\0', len == l.end[want]);
            nfm_pcap_file_close(&file);
        }
    }
}

static void cut_gzip_delivers_a_prefix_and_warns(void) {
    capture plain = {0}, c = {0};
    cap_pcap_header(&plain, MICRO, 65535, 1);
    for (uint32_t i = 0; i < 20; i++) {
        cap_pcap_record(&plain, i, 0, 10 + i, 40);
        cap_frame(&plain, 10 + i, i);
    }
    cap_gzip(&c, plain.data, plain.len);
    unsigned before = 0;
    for (size_t len = 1; len <= c.len; len++) {
        nfm_pcap_file file;
        nfm_captured packet;
        unsigned n = 0;
        if (open_bytes(&file, c.data, len) != NFM_OK)
            continue;
        for (; nfm_pcap_file_next(&file, &packet) == 1; n++)
            CHECK(packet.len == 10 + n && cap_is_frame(packet.data, packet.len, n));
        CHECK(n >= before && n <= 20);
        CHECK_EQ(file.warning[0] == '\0', len == c.len);
        before = n;
        nfm_pcap_file_close(&file);
    }
    CHECK_EQ(before, 20);
}

static void gzip_members_are_one_stream_and_larger_than_the_window(void) {
    capture plain = {0}, c = {0};
    const uint32_t n = 3000;
    cap_pcap_header(&plain, NANO, 262144, 1);
    for (uint32_t i = 0; i < n; i++) {
        cap_pcap_record(&plain, i, 7, 900 + i % 600, 2000);
        cap_frame(&plain, 900 + i % 600, i);
    }
    size_t third = plain.len / 3;
    cap_gzip(&c, plain.data, third);
    cap_gzip(&c, plain.data + third, 0);
    cap_gzip(&c, plain.data + third, third);
    cap_gzip(&c, plain.data + 2 * third, plain.len - 2 * third);
    cap_put(&c, "\0\0\0\0\0", 5); /* padding as tapes leave it */
    CHECK(plain.len > 5 * NFM_INPUT_WINDOW);
    nfm_pcap_file file = opened(&c);
    for (uint32_t i = 0; i < n; i++)
        expect(&file, 900 + i % 600, 2000, (int64_t)i * SECOND + 7, i);
    CHECK_EQ(nfm_input_consumed(&file.input), c.len - 5);
    expect_end(&file, NULL);
}

static void corrupt_gzip_ends_with_a_warning(void) {
    capture plain = {0}, c = {0};
    cap_pcap_header(&plain, MICRO, 65535, 1);
    for (uint32_t i = 0; i < 2000; i++) {
        cap_pcap_record(&plain, i, 0, 50, 50);
        cap_frame(&plain, 50, i * i);
    }
    cap_gzip(&c, plain.data, plain.len);
    c.data[c.len - 8] ^= 1; /* of the checksum */
    nfm_pcap_file file = opened(&c);
    for (uint32_t i = 0; i < 2000; i++)
        expect(&file, 50, 50, i * SECOND, i * i);
    expect_end(&file, "gzip data is corrupt");
    memset(c.data + c.len / 2, 0xff, 64); /* of the data */
    file = opened(&c);
    nfm_captured packet;
    while (nfm_pcap_file_next(&file, &packet) == 1)
        continue;
    CHECK(file.packets > 0 && file.packets < 2000);
    expect_end(&file, "at byte");
}

static void pcapng_sections_change_order_and_interfaces(void) {
    capture c = {0};
    cap_section(&c);
    cap_interface(&c, 1, 0, 255, 0);
    cap_interface(&c, 101, 64, 9, 1000);
    cap_block(&c, 0x0bad, "unknown", 7);
    cap_enhanced(&c, 1, 5, 30, 90, 1);
    cap_enhanced(&c, 0, 5, 31, 31, 2);
    c.big = true;
    cap_section(&c);
    cap_interface(&c, 113, 0, 0x80 | 10, 0);
    cap_enhanced(&c, 0, 1024 * 3 + 512, 32, 32, 3);
    cap_enhanced(&c, 1, 0, 10, 10, 4); /* interface 1 was the first section's */
    nfm_pcap_file file = opened(&c);
    nfm_captured packet;
    static const uint32_t link[] = {101, 1, 113};
    static const int64_t ts[] = {1000 * SECOND + 5, 5000, 3 * SECOND + SECOND / 2};
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQ(nfm_pcap_file_next(&file, &packet), 1);
        CHECK_EQ(packet.link_type, link[i]);
        CHECK_EQ(packet.ts_ns, ts[i]);
        CHECK(packet.len == 30 + i && cap_is_frame(packet.data, packet.len, i + 1));
    }
    CHECK_EQ(nfm_pcap_file_next(&file, &packet), 0);
    CHECK_EQ(file.bad_records, 1);
    expect_end(&file, NULL);
}

static void simple_packets_take_interface_0_and_the_last_time(void) {
    capture c = {0};
    cap_section(&c);
    cap_simple(&c, 4, 4, 0); /* no interface yet */
    cap_interface(&c, 1, 20, 9, 0);
    cap_enhanced(&c, 0, 77, 5, 5, 1);
    cap_simple(&c, 13, 13, 2);
    cap_simple(&c, 1000, 20, 3); /* cut by the interface's snap length */
    cap_simple(&c, 19, 10, 4);   /* says more than the block holds */
    nfm_pcap_file file = opened(&c);
    expect(&file, 5, 5, 77, 1);
    expect(&file, 13, 13, 77, 2);
    expect(&file, 20, 1000, 77, 3);
    nfm_captured packet;
    CHECK_EQ(nfm_pcap_file_next(&file, &packet), 0);
    CHECK_EQ(file.bad_records, 2);
    expect_end(&file, NULL);
}

static void obsolete_packet_blocks_are_read(void) {
    capture c = {.big = true}, b = {.big = true};
    cap_section(&c);
    cap_interface(&c, 1, 0, 9, 0);
    cap_u16(&b, 0);
    cap_u16(&b, 0xffff); /* drops */
    cap_u32(&b, 1);
    cap_u32(&b, 2);
    cap_u32(&b, 9);
    cap_u32(&b, 50);
    cap_frame(&b, 9, 6);
    cap_block(&c, 2, b.data, b.len);
    nfm_pcap_file file = opened(&c);
    expect(&file, 9, 50, (INT64_C(1) << 32) + 2, 6);
    expect_end(&file, NULL);
}

static void damaged_pcapng_blocks(void) {
    capture c = {0};
    cap_section(&c);
    cap_interface(&c, 1, 0, 9, 0);
    cap_enhanced(&c, 0, 1, 8, 8, 1);
    size_t damaged = c.len;
    cap_enhanced(&c, 0, 2, 8, 8, 2);
    size_t next = c.len;
    cap_enhanced(&c, 0, 3, 8, 8, 3);

    c.data[damaged + 20] = 9; /* captured length past the block: that block alone is lost */
    nfm_pcap_file file = opened(&c);
    expect(&file, 8, 8, 1, 1);
    expect(&file, 8, 8, 3, 3);
    CHECK_EQ(file.bad_records, 1);
    expect_end(&file, NULL);

    c.data[damaged + 20] = 8;
    c.data[next - 4]++; /* the two lengths differ: the rest is lost */
    file = opened(&c);
    expect(&file, 8, 8, 1, 1);
    CHECK_EQ(file.bad_records, 0);
    expect_end(&file, "impossible");

    static const uint8_t lengths[] = {0, 4, 8, 11, 41};
    for (unsigned i = 0; i < sizeof(lengths); i++) {
        c.data[damaged + 4] = lengths[i];
        file = opened(&c);
        expect(&file, 8, 8, 1, 1);
        expect_end(&file, "impossible");
    }
}

static void times_are_scaled_and_clamped(void) {
    CHECK_EQ(nfm_pcap_time(1, 0, 0), SECOND);
    CHECK_EQ(nfm_pcap_time(1500000, 6, 0), SECOND + SECOND / 2);
    CHECK_EQ(nfm_pcap_time(12345678901, 12, 0), 12345678);
    CHECK_EQ(nfm_pcap_time(UINT64_MAX, 127, 0), 0);
    CHECK_EQ(nfm_pcap_time(UINT64_MAX, 0, 0), NFM_TIME_MAX);
    CHECK_EQ(nfm_pcap_time(UINT64_MAX, 0x80, 0), NFM_TIME_MAX);
    CHECK_EQ(nfm_pcap_time(UINT64_MAX, 0xff, 0), 0);
    CHECK_EQ(nfm_pcap_time(UINT64_C(3) << 31, 0x80 | 32, 0), SECOND + SECOND / 2);
    CHECK_EQ(nfm_pcap_time(7, 9, -1), 0);
    CHECK_EQ(nfm_pcap_time(0, 9, INT64_MIN), 0);
    CHECK_EQ(nfm_pcap_time(0, 9, INT64_MAX), NFM_TIME_MAX);
    CHECK_EQ(nfm_pcap_time(0, 9, 1000), 1000 * SECOND);
}

static void oversize_packets_are_counted_and_skipped(void) {
    capture c = {0};
    cap_pcap_header(&c, MICRO, 262144, 1);
    static const uint32_t lens[] = {NFM_MAX_FRAME, NFM_MAX_FRAME + 1, 262144, 5};
    for (uint32_t i = 0; i < 4; i++) {
        cap_pcap_record(&c, i, 0, lens[i], lens[i]);
        cap_frame(&c, lens[i], i);
    }
    nfm_pcap_file file = opened(&c);
    expect(&file, NFM_MAX_FRAME, NFM_MAX_FRAME, 0, 0);
    expect(&file, 5, 5, 3 * SECOND, 3);
    CHECK_EQ(file.oversize, 2);
    expect_end(&file, NULL);

    capture ng = {0}, zipped = {0};
    cap_section(&ng);
    cap_interface(&ng, 1, 0, 9, 0);
    for (uint32_t i = 0; i < 4; i++)
        cap_enhanced(&ng, 0, i, lens[i], lens[i], i);
    cap_gzip(&zipped, ng.data, ng.len);
    for (int gz = 0; gz < 2; gz++) {
        file = opened(gz ? &zipped : &ng);
        expect(&file, NFM_MAX_FRAME, NFM_MAX_FRAME, 0, 0);
        expect(&file, 5, 5, 3, 3);
        CHECK_EQ(file.oversize, 2);
        expect_end(&file, NULL);
    }
}

static void impossible_record_length_stops(void) {
    capture c = {0};
    cap_pcap_header(&c, MICRO, 65535, 1);
    cap_pcap_record(&c, 0, 0, 5, 5);
    cap_frame(&c, 5, 1);
    cap_pcap_record(&c, 0, 0, 0x7fffffff, 5);
    cap_frame(&c, 300, 1);
    nfm_pcap_file file = opened(&c);
    expect(&file, 5, 5, 0, 1);
    expect_end(&file, "impossible at byte 45");
    CHECK_EQ(file.bad_records, 1);
}

static void what_is_no_capture_is_refused(void) {
    static const struct {
        const char *bytes;
        size_t len;
        const char *text;
    } cases[] = {
        {"", 0, "not a capture"},
        {"abc", 3, "not a capture"},
        {"%PDF-1.4 something long enough to be a header", 44, "not a capture"},
        {"\x28\xb5\x2f\xfd and so on", 13, "zstd"},
        {"\x1f\x8b", 2, "gzip"},
        {"\xd4\xc3\xb2\xa1\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24, "version 3.0"},
        {"\x0a\x0d\x0d\x0a\x1c\0\0\0\xaa\xbb\xcc\xdd\1\0\0\0********\x1c\0\0\0", 28, "damaged"},
        {"\x0a\x0d\x0d\x0a\x1c\0\0\0\x4d\x3c\x2b\x1a\2\0\0\0********\x1c\0\0\0", 28, "version 2.0"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        nfm_pcap_file file;
        nfm_error err = {0};
        const uint8_t *data = nfm_guarded(cases[i].bytes, cases[i].len);
        int rc = nfm_pcap_file_borrow(&file, data, cases[i].len, "hand.pcap", &err);
        CHECK_EQ(rc, NFM_E_FORMAT);
        if (strstr(err.text, cases[i].text) == NULL)
            printf("# %zu: %s\n", i, err.text);
        CHECK(strstr(err.text, cases[i].text) != NULL && strstr(err.text, "hand.pcap") != NULL);
    }
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(pcap_in_both_orders_and_resolutions),
        T(modified_pcap_has_longer_records),
        T(old_minor_versions_swap_the_lengths),
        T(checksum_bits_are_no_link_type),
        T(cut_pcap_delivers_whole_packets),
        T(cut_pcapng_delivers_whole_packets),
        T(cut_gzip_delivers_a_prefix_and_warns),
        T(gzip_members_are_one_stream_and_larger_than_the_window),
        T(corrupt_gzip_ends_with_a_warning),
        T(pcapng_sections_change_order_and_interfaces),
        T(simple_packets_take_interface_0_and_the_last_time),
        T(obsolete_packet_blocks_are_read),
        T(damaged_pcapng_blocks),
        T(times_are_scaled_and_clamped),
        T(oversize_packets_are_counted_and_skipped),
        T(impossible_record_length_stops),
        T(what_is_no_capture_is_refused),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
