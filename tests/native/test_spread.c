/* SPDX-License-Identifier: Apache-2.0 */
/* Spreading packets over workers: both directions alike, evenly, and the kernel's program agrees
 * with the C function on every frame. */
#include "io/spread.h"
#include "live_rig.h"

#define MEMBERS 3u

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* A frame with up to three tags and headers of |kind|; the rest is random. Returns its length: some
 * end inside of the headers, but not where the kernel itself would drop them. */
static uint32_t make_frame(uint8_t *frame, uint64_t *random) {
    static const uint8_t protocols[] = {6, 17, 132, 1, 44, 50, 0, 17, 6, 6};
    uint64_t r = next_random(random);
    uint32_t tags = (uint32_t)(r % 8) < 3 ? (uint32_t)(r % 4) : 0, at = 12;
    for (uint32_t i = 0; i < 240; i += 8) {
        uint64_t bytes = next_random(random);
        memcpy(frame + i, &bytes, 8);
    }
    memcpy(frame, "\2\0\0\0\0\1\2\0\0\0\0\2", 12);
    for (uint32_t i = 0; i < tags; i++, at += 4)
        memcpy(frame + at, (r >> (20 + i)) & 1 ? "\x88\xa8\0\1" : "\x81\0\0\2", 4);
    bool ipv6 = r >> 8 & 1;
    memcpy(frame + at, ipv6 ? "\x86\xdd" : "\x08\x00", 2);
    if ((r >> 9) % 16 == 0)
        frame[at] ^= 0x10; /* no IP */
    uint8_t *ip = frame + at + 2, protocol = protocols[(r >> 13) % sizeof(protocols)];
    ip[ipv6 ? 6 : 9] = protocol;
    ip[0] = ipv6 ? 0x60 : (r >> 17) % 8 == 0 ? (uint8_t)(0x40 | ((r >> 24) & 15)) : 0x45;
    if (!ipv6 && (r >> 28) % 8 != 0)
        ip[6] = ip[7] = 0;
    return (r >> 32) % 8 != 0 ? 200 : at + 6 + (uint32_t)((r >> 36) % 80);
}

/* Exchanges the ends of a conversation. */
static void turn_round(uint8_t *frame) {
    uint32_t at = 12;
    while ((frame[at] == 0x81 && frame[at + 1] == 0) ||
           (frame[at] == 0x88 && frame[at + 1] == 0xa8))
        at += 4;
    bool ipv6 = frame[at] == 0x86;
    uint8_t *ip = frame + at + 2, *src = ip + (ipv6 ? 8 : 12), swap[16];
    uint32_t size = ipv6 ? 16 : 4;
    memcpy(swap, src, size);
    memcpy(src, src + size, size);
    memcpy(src + size, swap, size);
    uint8_t *ports = ip + (ipv6 ? 40 : 4 * (ip[0] & 15));
    memcpy(swap, ports, 2);
    memcpy(ports, ports + 2, 2);
    memcpy(ports + 2, swap, 2);
}

static void both_directions_hash_alike(void) {
    uint64_t random = 1;
    for (uint32_t i = 0; i < 20000; i++) {
        uint8_t frame[256];
        uint32_t len = make_frame(frame, &random), at = 12;
        while (frame[at] == 0x81 || frame[at] == 0x88)
            at += 4;
        if (len < 200 || (frame[at] == 0x08 && (frame[at + 2] & 15) < 5))
            continue; /* the ports would overlap the header */
        uint32_t hash = nfm_spread_frame(frame, len);
        turn_round(frame);
        CHECK_EQ(nfm_spread_frame(frame, len), hash);
    }
}

/* Lockstep addresses and ports, as test beds and address pools have them, on 2 to 8 workers. */
static void neighbours_are_spread_evenly(void) {
    for (uint32_t workers = 2; workers <= 8; workers++) {
        for (int what = 0; what < 4; what++) {
            uint32_t count[8] = {0}, n = 4096;
            for (uint32_t i = 0; i < n; i++) {
                uint8_t a[16] = {10, 0, 0, 1}, b[16] = {10, 0, 1, 1};
                uint16_t ports[2] = {40000, 80};
                if (what == 0)
                    ports[0] = (uint16_t)(40000 + i);
                else if (what == 1)
                    a[2] = (uint8_t)(i >> 8), a[3] = (uint8_t)i;
                else if (what == 2)
                    a[2] = b[2] = (uint8_t)(i >> 8), a[3] = b[3] = (uint8_t)i, b[1] = 7;
                else
                    a[15] = (uint8_t)i, b[14] = (uint8_t)(i >> 8), b[15] = (uint8_t)i;
                count[nfm_spread_pair(nfm_spread_endpoint(a, what == 3, ports[0]),
                                      nfm_spread_endpoint(b, what == 3, ports[1])) %
                      workers]++;
            }
            for (uint32_t w = 0; w < workers; w++)
                CHECK(count[w] > n / workers * 8 / 10 && count[w] < n / workers * 12 / 10);
        }
    }
}

static void frames_are_read_within_their_bytes(void) {
    uint64_t random = 5;
    for (uint32_t i = 0; i < 2000; i++) {
        uint8_t frame[256];
        uint32_t len = make_frame(frame, &random) % 70;
        CHECK_EQ(nfm_spread_frame(nfm_guarded(frame, len), len), nfm_spread_frame(frame, len));
    }
}

static nfm_port *open_member(const char *interface, uint32_t group) {
    nfm_afpacket_config config = {.interface = interface, .fanout_group = group, .promiscuous = 1};
    nfm_error err = {0};
    nfm_port *port = nfm_port_afpacket_open(&config, &err);
    if (port == NULL) {
        printf("# %s\n", err.text);
        abort();
    }
    return port;
}

/* Takes what is there of a member's frames; each must be the member's by the C function. */
static uint32_t drain_member(nfm_port *port, bench *b, uint32_t member, uint32_t *strangers) {
    nfm_frame got[32];
    uint32_t total = 0;
    for (int n; (n = port->ops->rx(port, &b->pool, got, 32)) > 0; total += (uint32_t)n) {
        for (int i = 0; i < n; i++) {
            uint32_t hash = nfm_spread_frame(frame_at(b, &got[i]), got[i].len);
            *strangers += hash % MEMBERS != member;
            nfm_pool_put(&b->pool, got[i].slot);
        }
    }
    port->ops->poll(port, &b->pool);
    return total;
}

static void the_kernel_spreads_as_the_function_says(void) {
    enum { N = 20000, BURST = 500 };
    bench b = setup(64, 2);
    nfm_port *members[MEMBERS];
    uint64_t random = 3;
    make_pair();
    for (uint32_t i = 0; i < MEMBERS; i++)
        members[i] = open_member("vb", 77);
    int peer = peer_open("va");
    uint32_t sent = 0, strangers = 0, got[MEMBERS] = {0};
    while (sent < N && got[0] + got[1] + got[2] == sent) {
        for (uint32_t i = 0; i < BURST; i++) {
            uint8_t frame[256];
            uint32_t len = make_frame(frame, &random);
            sent += peer_send(peer, NULL, frame, len);
        }
        int64_t end = clock_ms() + PATIENCE_MS;
        while (got[0] + got[1] + got[2] < sent && clock_ms() < end)
            for (uint32_t i = 0; i < MEMBERS; i++)
                got[i] += drain_member(members[i], &b, i, &strangers);
    }
    CHECK_EQ(got[0] + got[1] + got[2], sent);
    CHECK_EQ(strangers, 0);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        CHECK(got[i] > sent / 6);
        nfm_port_free(members[i]);
    }
    close(peer);
    teardown(&b);
}

/* A member that is opened while the link is down joins later, and sees nothing of others before. */
static void members_join_when_the_link_is_up(void) {
    bench b = setup(64, 2);
    uint64_t random = 4;
    make_pair();
    CHECK(shell("ip link set vb down"));
    nfm_port *members[MEMBERS];
    for (uint32_t i = 0; i < MEMBERS; i++)
        members[i] = open_member("vb", 78);
    CHECK(shell("ip link set vb up"));
    wait_for_carriers();
    int peer = peer_open("va");
    uint8_t early[60];
    nfm_frame got_early;
    fill_frame(early, sizeof(early), ETH_P_IP, 0);
    CHECK(peer_send(peer, NULL, early, sizeof(early)));
    for (uint32_t i = 0; i < MEMBERS; i++)
        CHECK_EQ(members[i]->ops->rx(members[i], &b.pool, &got_early, 1), 0);
    for (uint32_t i = 0; i < MEMBERS; i++)
        CHECK(link_becomes(members[i], &b.pool, 1));
    uint32_t strangers = 0, got = 0;
    for (uint32_t i = 0; i < 300; i++) {
        uint8_t frame[256];
        make_frame(frame, &random);
        CHECK(peer_send(peer, NULL, frame, 200));
    }
    int64_t end = clock_ms() + PATIENCE_MS;
    while (got < 300 && clock_ms() < end)
        for (uint32_t i = 0; i < MEMBERS; i++)
            got += drain_member(members[i], &b, i, &strangers);
    CHECK_EQ(got, 300);
    CHECK_EQ(strangers, 0);
    for (uint32_t i = 0; i < MEMBERS; i++)
        nfm_port_free(members[i]);
    close(peer);
    teardown(&b);
}

static const nfm_test pure[] = {
    T(both_directions_hash_alike),
    T(neighbours_are_spread_evenly),
    T(frames_are_read_within_their_bytes),
};

static const nfm_test live[] = {
    T(the_kernel_spreads_as_the_function_says),
    T(members_join_when_the_link_is_up),
};

int main(int argc, char **argv) {
    int failed = nfm_run_tests(pure, sizeof(pure) / sizeof(pure[0]), argc, argv);
    return live_main(live, sizeof(live) / sizeof(live[0]), argc, argv) | failed;
}
