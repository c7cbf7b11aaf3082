/* SPDX-License-Identifier: Apache-2.0 */
/* The mem port: frames in order, passes that are new traffic with valid checksums. */
#include "nfm_test.h"
#include "port_fixture.h"

#define ETHERNET 1u
#define RAW 101u

/* RFC 1071, written for clarity: the sum of 16-bit words, folded. 0xffff over a valid header. */
static uint32_t ones_sum(uint32_t sum, const uint8_t *p, size_t len) {
    for (size_t i = 0; i < len; i++)
        sum += i % 2 ? p[i] : (uint32_t)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static void put16(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static bool ip_valid(const uint8_t *ip) {
    return ones_sum(0, ip, 20) == 0xffff;
}

static uint32_t pseudo(const uint8_t *ip, uint32_t l4_len) {
    return ones_sum(ip[9] + l4_len, ip + 12, 8);
}

static bool l4_valid(const uint8_t *ip, uint32_t l4_len) {
    return ones_sum(pseudo(ip, l4_len), ip + 20, l4_len) == 0xffff;
}

/* An IPv4 header and |l4_len| bytes of TCP with valid checksums. */
static void make_ip(uint8_t *ip, const uint8_t addr[8], uint32_t l4_len) {
    memset(ip, 0, 20 + l4_len);
    ip[0] = 0x45;
    put16(ip + 2, 20 + l4_len);
    ip[8] = 64;
    ip[9] = 6;
    memcpy(ip + 12, addr, 8);
    put16(ip + 10, ~ones_sum(0, ip, 20) & 0xffff);
    for (uint32_t i = 0; i < l4_len; i++)
        ip[20 + i] = (uint8_t)(i * 13 + addr[3]);
    put16(ip + 36, 0);
    put16(ip + 36, ~ones_sum(pseudo(ip, l4_len), ip + 20, l4_len) & 0xffff);
}

static const uint8_t CLIENT[4] = {10, 1, 2, 3}, SERVER[4] = {192, 168, 7, 9};

/* An Ethernet frame of |tags| VLAN tags around a TCP segment; returns its length. */
static uint32_t make_frame(uint8_t *frame, bool from_client, unsigned tags, uint32_t l4_len) {
    uint8_t addr[8];
    memcpy(addr, from_client ? CLIENT : SERVER, 4);
    memcpy(addr + 4, from_client ? SERVER : CLIENT, 4);
    memset(frame, 2, 12);
    for (unsigned i = 0; i < tags; i++)
        memcpy(frame + 12 + 4 * i, i == 0 && tags > 1 ? "\x88\xa8\0\1" : "\x81\0\0\2", 4);
    put16(frame + 12 + 4 * tags, 0x0800);
    make_ip(frame + 14 + 4 * tags, addr, l4_len);
    return 14 + 4 * tags + 20 + l4_len;
}

static void frames_come_in_order_and_unchanged(void) {
    bench b = setup(64, 2);
    nfm_port *port = nfm_port_mem_new(ETHERNET, NULL);
    static const uint32_t lens[] = {0, 1, 63, 64, 65, 511, 512, 513, 1920, 1921, NFM_MAX_FRAME, 60};
    enum { N = 12 };
    for (uint32_t i = 0; i < N; i++) {
        capture c = {0};
        cap_frame(&c, lens[i] + 1, i);
        CHECK_EQ(nfm_port_mem_push(port, c.data, lens[i], i == 3 ? 5000 : 0, (int64_t)i * 10), 0);
        munmap(c.data, CAPTURE_ROOM);
    }
    nfm_frame frames[N + 1];
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 5), 5);
    CHECK_EQ(port->ops->rx(port, &b.pool, frames + 5, N), N - 5);
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, N), NFM_E_EOF);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < N; i++) {
        CHECK_EQ(frames[i].len, lens[i]);
        CHECK_EQ(frames[i].wire_len, i == 3 ? 5000 : lens[i]);
        CHECK_EQ(frames[i].ts_ns, i * 10);
        CHECK_EQ(frames[i].link_type, ETHERNET);
        CHECK(cap_is_frame(frame_at(&b, &frames[i]), lens[i], i));
        bytes += lens[i];
    }
    nfm_port_stats stats;
    nfm_port_stats_get(port, &stats);
    CHECK_EQ(stats.rx_packets, N);
    CHECK_EQ(stats.rx_bytes, bytes);
    CHECK_EQ(stats.rx_truncated, 1);
    nfm_port_free(port);
    teardown(&b);
}

static void many_frames_outgrow_the_first_arena(void) {
    bench b = setup(64, 1);
    nfm_port *port = nfm_port_mem_new(ETHERNET, NULL);
    enum { N = 5000, LEN = 1400 };
    for (uint32_t i = 0; i < N; i++) {
        uint8_t frame[LEN];
        memset(frame, (int)(i % 251), LEN);
        CHECK_EQ(nfm_port_mem_push(port, frame, LEN, LEN, i), NFM_OK);
    }
    uint32_t seen = 0;
    nfm_frame frames[32];
    for (int n; (n = port->ops->rx(port, &b.pool, frames, 32)) > 0;) {
        for (int i = 0; i < n; i++, seen++) {
            const uint8_t *p = frame_at(&b, &frames[i]);
            CHECK(frames[i].ts_ns == seen && p[0] == seen % 251 && p[LEN - 1] == seen % 251);
            nfm_pool_put(&b.pool, frames[i].slot);
        }
    }
    CHECK_EQ(seen, N);
    nfm_port_free(port);
    teardown(&b);
}

static void a_frame_without_a_slot_waits(void) {
    bench b = setup(3, 1);
    nfm_port *port = nfm_port_mem_new(ETHERNET, NULL);
    uint8_t frame[100] = {0};
    for (int i = 0; i < 5; i++)
        CHECK_EQ(nfm_port_mem_push(port, frame, 100, 100, i), NFM_OK);
    nfm_frame frames[8];
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 8), 3);
    CHECK_EQ(port->ops->rx(port, &b.pool, frames + 3, 5), 0);
    nfm_pool_put(&b.pool, frames[1].slot);
    CHECK_EQ(port->ops->rx(port, &b.pool, frames + 3, 5), 1);
    CHECK_EQ(frames[3].ts_ns, 3);
    nfm_port_free(port);
    teardown(&b);
}

/* Serves two directions of one flow in |passes| passes and checks what makes a pass new traffic. */
static void check_passes(unsigned tags, uint32_t l4_len) {
    bench b = setup(8, 1);
    nfm_port *port = nfm_port_mem_new(ETHERNET, NULL);
    uint8_t frame[2][2000];
    uint32_t len = 0, l3 = 14 + 4 * tags;
    for (int i = 0; i < 2; i++) {
        len = make_frame(frame[i], i == 0, tags, l4_len);
        CHECK(ip_valid(frame[i] + l3) && l4_valid(frame[i] + l3, l4_len));
        CHECK_EQ(nfm_port_mem_push(port, frame[i], len, len, i), NFM_OK);
    }
    const uint32_t passes = 65535;
    CHECK_EQ(nfm_port_mem_loop(port, passes, 1000), NFM_OK);
    uint8_t *upper_seen = calloc(1, 65536);
    nfm_frame f[2];
    for (uint32_t pass = 0; pass < passes && !nfm_test_failed; pass++) {
        CHECK_EQ(port->ops->rx(port, &b.pool, f, 2), 2);
        const uint8_t *c = frame_at(&b, &f[0]), *s = frame_at(&b, &f[1]);
        CHECK_EQ(f[0].ts_ns, (int64_t)pass * 1000);
        CHECK_EQ(f[1].ts_ns, (int64_t)pass * 1000 + 1);
        CHECK(ip_valid(c + l3) && l4_valid(c + l3, l4_len));
        CHECK(ip_valid(s + l3) && l4_valid(s + l3, l4_len));
        CHECK(memcmp(c + l3 + 12, s + l3 + 16, 4) == 0); /* both directions are one flow */
        CHECK(memcmp(c + l3 + 16, s + l3 + 12, 4) == 0);
        CHECK(memcmp(c, frame[0], l3 + 12) == 0 &&
              memcmp(c + l3 + 20, frame[0] + l3 + 20, l4_len) == 0);
        uint32_t upper = (uint32_t)c[l3 + 12] << 8 | c[l3 + 13];
        CHECK(upper_seen[upper]++ == 0); /* no pass meets another */
        CHECK(pass > 0 || memcmp(c, frame[0], len) == 0);
        nfm_pool_put(&b.pool, f[0].slot);
        nfm_pool_put(&b.pool, f[1].slot);
    }
    CHECK_EQ(port->ops->rx(port, &b.pool, f, 2), NFM_E_EOF);
    free(upper_seen);
    nfm_port_free(port);
    teardown(&b);
}

static void passes_are_new_flows_with_valid_checksums(void) {
    check_passes(0, 20);
    check_passes(1, 25);
    check_passes(2, 1400);
}

static void a_burst_crosses_passes(void) {
    bench b = setup(64, 1);
    nfm_port *port = nfm_port_mem_new(RAW, NULL);
    uint8_t ip[3][40];
    for (int i = 0; i < 3; i++) {
        make_ip(ip[i], (const uint8_t[]){10, 0, 0, (uint8_t)i, 10, 0, 1, 1}, 20);
        CHECK_EQ(nfm_port_mem_push(port, ip[i], 40, 40, i), NFM_OK);
    }
    CHECK_EQ(nfm_port_mem_loop(port, 5, 100), NFM_OK);
    nfm_frame frames[32];
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 7), 7);
    CHECK_EQ(port->ops->rx(port, &b.pool, frames + 7, 25), 8);
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 1), NFM_E_EOF);
    for (int i = 0; i < 15; i++) {
        CHECK_EQ(frames[i].ts_ns, i / 3 * 100 + i % 3);
        CHECK(ip_valid(frame_at(&b, &frames[i])));
        CHECK_EQ(memcmp(frame_at(&b, &frames[i]), ip[i % 3], 40) == 0, i < 3);
    }
    nfm_port_free(port);
    teardown(&b);
}

static void what_is_not_ipv4_is_left_alone(void) {
    bench b = setup(16, 1);
    nfm_port *port = nfm_port_mem_new(ETHERNET, NULL);
    uint8_t arp[42] = {[12] = 0x08, [13] = 0x06}, v6[54] = {[12] = 0x86, [13] = 0xdd, [14] = 0x60};
    uint8_t cut[33] = {[12] = 0x08, [13] = 0x00, [14] = 0x45},
            tags[20] = {[12] = 0x81, [16] = 0x81};
    const struct {
        const uint8_t *data;
        uint32_t len;
    } all[] = {{arp, 42}, {v6, 54}, {cut, 33}, {tags, 20}, {arp, 12}, {arp, 0}};
    for (int i = 0; i < 6; i++)
        CHECK_EQ(nfm_port_mem_push(port, nfm_guarded(all[i].data, all[i].len), all[i].len, 0, 0),
                 0);
    CHECK_EQ(nfm_port_mem_loop(port, 2, 0), NFM_OK);
    nfm_frame frames[12];
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 12), 12);
    for (int i = 0; i < 12; i++)
        CHECK(memcmp(frame_at(&b, &frames[i]), all[i % 6].data, all[i % 6].len) == 0);
    nfm_port_free(port);
    teardown(&b);
}

static void misuse_is_refused_and_oversize_counted(void) {
    bench b = setup(4, 1);
    nfm_port *port = nfm_port_mem_new(ETHERNET, NULL);
    uint8_t *big = calloc(1, NFM_MAX_FRAME + 1);
    nfm_frame frame;
    CHECK_EQ(port->ops->rx(port, &b.pool, &frame, 1), NFM_E_EOF);
    CHECK_EQ(nfm_port_mem_loop(port, 0, 1), NFM_E_INVAL);
    CHECK_EQ(nfm_port_mem_loop(port, 1, -1), NFM_E_INVAL);
    CHECK_EQ(nfm_port_mem_loop(port, 1000, INT64_MAX), NFM_OK);
    CHECK_EQ(port->ops->rx(port, &b.pool, &frame, 1), NFM_E_EOF); /* passes over nothing end */
    CHECK_EQ(nfm_port_mem_push(port, big, NFM_MAX_FRAME + 1, 0, 0), NFM_OK);
    CHECK_EQ(port->ops->rx(port, &b.pool, &frame, 1), NFM_E_EOF);
    nfm_port_stats stats;
    nfm_port_stats_get(port, &stats);
    CHECK_EQ(stats.rx_oversize, 1);
    CHECK_EQ(nfm_port_mem_push(port, big, 60, 0, INT64_MAX), NFM_OK);
    for (int i = 0; i < 3; i++) { /* times saturate */
        CHECK_EQ(port->ops->rx(port, &b.pool, &frame, 1), 1);
        CHECK(frame.ts_ns >= INT64_MAX / 2);
    }
    nfm_port_free(port);

    capture c = {0};
    cap_pcap_header(&c, 0xa1b2c3d4, 65535, 1);
    save(b.path, &c);
    nfm_port *file = nfm_port_pcap_open(b.path, NULL);
    CHECK_EQ(nfm_port_mem_push(file, big, 60, 0, 0), NFM_E_INVAL);
    CHECK_EQ(nfm_port_mem_loop(file, 1, 0), NFM_E_INVAL);
    nfm_port_free(file);
    free(big);
    teardown(&b);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(frames_come_in_order_and_unchanged),
        T(many_frames_outgrow_the_first_arena),
        T(a_frame_without_a_slot_waits),
        T(passes_are_new_flows_with_valid_checksums),
        T(a_burst_crosses_passes),
        T(what_is_not_ipv4_is_left_alone),
        T(misuse_is_refused_and_oversize_counted),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
