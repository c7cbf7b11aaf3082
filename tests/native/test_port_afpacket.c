/* SPDX-License-Identifier: Apache-2.0 */
/* The afpacket port on a veth pair: what goes in comes out, whatever the kernel left undone, and
 * the port outlives what happens to its interface. */
#include "io/fail.h"
#include "live_rig.h"

#define TYPE 0x88b5 /* local experimental */
#define BIG 60014u  /* a GSO frame */

static nfm_port *open_port(const char *interface, uint32_t block_ms) {
    nfm_afpacket_config config = {
        .interface = interface, .rx_frames = 1024, .block_ms = block_ms, .promiscuous = 1};
    nfm_error err = {0};
    nfm_port *port = nfm_port_afpacket_open(&config, &err);
    if (port == NULL) {
        printf("# %s\n", err.text);
        abort();
    }
    return port;
}

static const uint32_t LENS[] = {60, 61, 64, 127, 128, 590, 1513, 1514};
enum { N_LENS = sizeof(LENS) / sizeof(LENS[0]) };

static void frames_arrive(uint32_t block_ms) {
    bench b = setup(64, 4);
    make_pair();
    nfm_port *port = open_port("vb", block_ms);
    int peer = peer_open("va");
    uint8_t frame[2048];
    for (uint32_t i = 0; i < N_LENS; i++) {
        fill_frame(frame, LENS[i], TYPE, i);
        CHECK(peer_send(peer, NULL, frame, LENS[i]));
    }
    nfm_frame got[N_LENS];
    CHECK_EQ(receive(port, &b.pool, got, N_LENS), N_LENS);
    int64_t now_ns = (int64_t)time(NULL) * SECOND;
    for (uint32_t i = 0; i < N_LENS; i++) {
        nfm_slot_meta meta = meta_at(&b, &got[i]);
        fill_frame(frame, LENS[i], TYPE, i);
        CHECK_EQ(got[i].len, LENS[i]);
        CHECK_EQ(got[i].wire_len, LENS[i]);
        CHECK_EQ(got[i].link_type, 1);
        CHECK(memcmp(frame_at(&b, &got[i]), frame, LENS[i]) == 0);
        CHECK_EQ(meta.needs_csum | meta.gso_type | meta.gso_size, 0);
        CHECK(got[i].ts_ns > now_ns - 60 * SECOND && got[i].ts_ns < now_ns + 60 * SECOND);
    }
    CHECK_EQ(port->stats.rx_packets, N_LENS);
    close(peer);
    nfm_port_free(port);
    teardown(&b);
}

static void frames_arrive_one_by_one(void) {
    frames_arrive(0);
}

static void frames_arrive_in_blocks(void) {
    frames_arrive(2);
}

static void frames_leave_unchanged(void) {
    bench b = setup(64, 4);
    make_pair();
    nfm_port *port = open_port("vb", 0);
    int peer = peer_open("va");
    uint8_t frame[2048], got[2048];
    struct virtio_net_hdr vnet;
    for (uint32_t i = 0; i < N_LENS; i++) {
        fill_frame(frame, LENS[i], TYPE, i);
        CHECK_EQ(send_through(port, &b.pool, NULL, frame, LENS[i]), 1);
        CHECK_EQ(peer_receive(peer, &vnet, got, sizeof(got)), LENS[i]);
        CHECK(memcmp(got, frame, LENS[i]) == 0 && vnet.flags == 0);
    }
    CHECK_EQ(port->stats.tx_packets, N_LENS);
    CHECK_EQ(b.pool.n_free_small, 64);
    close(peer);
    nfm_port_free(port);
    teardown(&b);
}

/* Sends frames that carry the numbers from |first| on; returns how many were accepted. */
static uint32_t send_burst(nfm_port *port, nfm_pool *pool, uint32_t first, uint32_t n) {
    nfm_tx tx[NFM_BURST];
    for (uint32_t i = 0; i < n; i++) {
        tx[i] = (nfm_tx){.slot = nfm_pool_get(pool, 60), .off = NFM_HEADROOM, .len = 60};
        uint8_t *slot = nfm_pool_addr(pool, tx[i].slot);
        uint32_t number = first + i;
        memset(slot, 0, NFM_HEADROOM);
        fill_frame(slot + NFM_HEADROOM, 60, TYPE, 0);
        memcpy(slot + NFM_HEADROOM + 20, &number, 4);
    }
    int done = port->ops->tx(port, pool, tx, n);
    for (uint32_t i = done < 0 ? 0 : (uint32_t)done; i < n; i++)
        nfm_pool_put(pool, tx[i].slot);
    return done < 0 ? 0 : (uint32_t)done;
}

/* Several times round the transmit ring, some bursts without a turn of the loop between them. */
static void many_frames_leave_in_order(void) {
    enum { N = 4800 };
    bench b = setup(NFM_BURST, 2);
    make_pair();
    nfm_port *port = open_port("vb", 0);
    int peer = peer_open("va");
    uint32_t next = 0, at = 0;
    while (at < N && next == at) {
        for (uint32_t bursts = 0; bursts < 1 + at / 20 % 5; bursts++)
            at += send_burst(port, &b.pool, at, 20);
        port->ops->poll(port, &b.pool);
        for (uint8_t got[128]; next < at; next++) {
            struct virtio_net_hdr vnet;
            uint32_t number = ~0u;
            if (peer_receive(peer, &vnet, got, sizeof(got)) == 60)
                memcpy(&number, got + 20, 4);
            if (number != next)
                break;
        }
    }
    CHECK(at >= N);
    CHECK_EQ(next, at);
    CHECK_EQ(port->stats.tx_packets, at);
    CHECK_EQ(b.pool.n_free_small, NFM_BURST);
    close(peer);
    nfm_port_free(port);
    teardown(&b);
}

/* A tag in the bytes is taken out by the kernel and put back by the port: on both sizes of frame
 * and in both kinds of ring. */
static void tags_are_put_back(void) {
    bench b = setup(64, 4);
    make_pair();
    CHECK(shell("ip link set va mtu 9000 && ip link set vb mtu 9000"));
    static const uint32_t lens[] = {64, 1518, 8000};
    for (uint32_t block_ms = 0; block_ms < 2; block_ms++) {
        nfm_port *port = open_port("vb", block_ms);
        int peer = peer_open("va");
        for (uint32_t i = 0; i < 6; i++) {
            uint8_t frame[8192];
            uint32_t len = lens[i / 2];
            fill_frame(frame, len, i % 2 ? ETH_P_8021AD : ETH_P_8021Q, i);
            memcpy(frame + 14, "\x60\x2a\x81\x00\x00\x07\x88\xb5", 8);
            CHECK(peer_send(peer, NULL, frame, len));
            nfm_frame got;
            CHECK_EQ(receive(port, &b.pool, &got, 1), 1);
            CHECK_EQ(got.len, len);
            CHECK(memcmp(frame_at(&b, &got), frame, len) == 0);
            nfm_pool_put(&b.pool, got.slot);
        }
        CHECK_EQ(port->stats.rx_packets, 6);
        close(peer);
        nfm_port_free(port);
    }
    teardown(&b);
}

static const struct virtio_net_hdr GSO = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                          .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                          .hdr_len = 54,
                                          .gso_size = 1448,
                                          .csum_start = 34,
                                          .csum_offset = 16};

/* Received as it was sent, and sent on as it was received. */
static void gso_frames_pass(uint32_t block_ms) {
    bench b = setup(64, 4);
    make_pair();
    nfm_port *port = open_port("vb", block_ms);
    int peer = peer_open("va");
    static uint8_t frame[BIG], got_frame[BIG + 100];
    fill_tcp(frame, BIG);
    CHECK(peer_send(peer, &GSO, frame, BIG));
    nfm_frame got;
    CHECK_EQ(receive(port, &b.pool, &got, 1), 1);
    CHECK_EQ(got.len, BIG);
    CHECK(memcmp(frame_at(&b, &got), frame, BIG) == 0);
    nfm_slot_meta meta = meta_at(&b, &got);
    CHECK_EQ(meta.needs_csum, 1);
    CHECK_EQ(meta.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
    CHECK_EQ(meta.gso_size, 1448);
    CHECK_EQ(meta.csum_start, 34);
    CHECK_EQ(meta.csum_offset, 16);
    nfm_tx tx = {.slot = got.slot, .off = NFM_HEADROOM, .len = got.len};
    CHECK_EQ(port->ops->tx(port, &b.pool, &tx, 1), 1);
    struct virtio_net_hdr vnet = {0};
    CHECK_EQ(peer_receive(peer, &vnet, got_frame, sizeof(got_frame)), BIG);
    CHECK(memcmp(got_frame, frame, BIG) == 0);
    CHECK_EQ(vnet.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
    CHECK_EQ(vnet.gso_size, 1448);
    CHECK_EQ(b.pool.n_free_large, 4);
    close(peer);
    nfm_port_free(port);
    teardown(&b);
}

static void gso_frames_pass_one_by_one(void) {
    gso_frames_pass(0);
}

static void gso_frames_pass_in_blocks(void) {
    gso_frames_pass(1);
}

/* The tag is put back in front of what the kernel's header names, and the whole is sent again. */
static void tagged_gso_frames_pass(void) {
    bench b = setup(64, 4);
    make_pair();
    static uint8_t frame[BIG + 4], got_frame[BIG + 100];
    struct virtio_net_hdr vnet = GSO;
    vnet.hdr_len += 4;
    vnet.csum_start += 4;
    fill_tcp(frame, BIG);
    memmove(frame + 16, frame + 12, BIG - 12);
    memcpy(frame + 12, "\x81\x00\x20\x05", 4);
    for (uint32_t block_ms = 0; block_ms < 2; block_ms++) {
        nfm_port *port = open_port("vb", block_ms);
        int peer = peer_open("va");
        CHECK(peer_send(peer, &vnet, frame, BIG + 4));
        nfm_frame got;
        CHECK_EQ(receive(port, &b.pool, &got, 1), 1);
        CHECK_EQ(got.len, BIG + 4);
        CHECK(memcmp(frame_at(&b, &got), frame, BIG + 4) == 0);
        nfm_slot_meta meta = meta_at(&b, &got);
        CHECK(meta.csum_start == 38 && meta.gso_size == 1448);
        nfm_tx tx = {.slot = got.slot, .off = NFM_HEADROOM, .len = got.len};
        CHECK_EQ(port->ops->tx(port, &b.pool, &tx, 1), 1);
        struct virtio_net_hdr back = {0};
        CHECK_EQ(peer_receive(peer, &back, got_frame, sizeof(got_frame)), BIG); /* untagged */
        CHECK(memcmp(got_frame + 12, frame + 16, BIG - 12) == 0);
        CHECK(back.gso_size == 1448 && back.csum_start == 34);
        close(peer);
        nfm_port_free(port);
    }
    teardown(&b);
}

/* Long and short frames take different ways to the kernel, in both directions. */
static void long_and_short_frames_keep_their_order(void) {
    enum { N = 30 };
    bench b = setup(64, 16);
    make_pair();
    nfm_port *in = open_port("vb", 0), *out = open_port("va", 0);
    static uint8_t frame[BIG];
    nfm_frame got[N];
    for (uint32_t i = 0; i < N; i++) {
        bool is_long = i % 3 == 1 || i % 7 == 0;
        nfm_slot_meta meta;
        nfm_vnet_to_meta(&GSO, 0, &meta);
        fill_tcp(frame, is_long ? BIG - i : 100);
        frame[40] = (uint8_t)i;
        CHECK_EQ(give_to(out, &b.pool, is_long ? &meta : NULL, frame, is_long ? BIG - i : 100), 1);
        if (i % 5 == 4) {
            out->ops->poll(out, &b.pool);
            CHECK_EQ(receive(in, &b.pool, got + i - 4, 5), 5);
            for (uint32_t j = i - 4; j <= i; j++) {
                CHECK_EQ(frame_at(&b, &got[j])[40], j);
                nfm_pool_put(&b.pool, got[j].slot);
            }
        }
    }
    CHECK_EQ(in->stats.rx_packets, N);
    nfm_port_free(in);
    nfm_port_free(out);
    teardown(&b);
}

static void unfinished_checksums_are_told(void) {
    bench b = setup(64, 4);
    make_pair();
    nfm_port *port = open_port("vb", 0);
    int peer = peer_open("va");
    uint8_t frame[200], whole[200];
    struct virtio_net_hdr vnet = {
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16};
    fill_tcp(frame, sizeof(frame));
    CHECK(peer_send(peer, &vnet, frame, sizeof(frame)));
    nfm_frame got;
    CHECK_EQ(receive(port, &b.pool, &got, 1), 1);
    nfm_slot_meta meta = meta_at(&b, &got);
    CHECK(meta.needs_csum == 1 && meta.csum_start == 34 && meta.csum_offset == 16);
    CHECK_EQ(send_through(port, &b.pool, &meta, frame, sizeof(frame)), 1);
    CHECK_EQ(peer_receive(peer, &vnet, whole, sizeof(whole)), sizeof(whole));
    CHECK_EQ(vnet.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
    /* A device without offload: the kernel completes the sum on the way out. */
    if (shell("ethtool -K vb tx off >/dev/null 2>&1")) {
        CHECK_EQ(send_through(port, &b.pool, &meta, frame, sizeof(frame)), 1);
        CHECK_EQ(peer_receive(peer, &vnet, whole, sizeof(whole)), sizeof(whole));
        CHECK(vnet.flags != VIRTIO_NET_HDR_F_NEEDS_CSUM && memcmp(whole, frame, 200) != 0);
    }
    close(peer);
    nfm_port_free(port);
    teardown(&b);
}

static void what_cannot_leave_is_dropped_and_counted(void) {
    bench b = setup(64, 4);
    make_pair();
    nfm_port *port = open_port("vb", 0);
    static uint8_t frame[BIG];
    nfm_slot_meta meta;
    fill_frame(frame, sizeof(frame), TYPE, 1);
    CHECK_EQ(send_through(port, &b.pool, NULL, frame, 1515), 1);
    CHECK_EQ(send_through(port, &b.pool, NULL, frame, 9000), 1);
    CHECK_EQ(port->stats.tx_oversize, 2);
    fill_tcp(frame, BIG);
    nfm_vnet_to_meta(&GSO, 0, &meta);
    meta.gso_size = 1461; /* segments of 1501 bytes */
    CHECK_EQ(send_through(port, &b.pool, &meta, frame, BIG), 1);
    CHECK_EQ(port->stats.tx_oversize, 3);
    CHECK_EQ(send_through(port, &b.pool, NULL, frame, 13), 1);
    CHECK_EQ(send_through(port, &b.pool, &meta, frame, 40), 1);
    meta.csum_start = 60000;
    CHECK_EQ(send_through(port, &b.pool, &meta, frame, 5000), 1);
    CHECK_EQ(port->stats.tx_errors, 3);
    CHECK_EQ(port->stats.tx_packets, 0);
    memcpy(frame + 12, "\x88\xa8\0\1\x81\0\0\2\x88\xb5", 10); /* tags do not count */
    CHECK_EQ(send_through(port, &b.pool, NULL, frame, 1518), 1);
    CHECK_EQ(port->stats.tx_packets, 1);
    CHECK(b.pool.n_free_small == 64 && b.pool.n_free_large == 4);
    nfm_port_free(port);
    teardown(&b);
}

static void without_slots_frames_wait(void) {
    bench b = setup(2, 1);
    make_pair();
    nfm_port *port = open_port("vb", 0);
    int peer = peer_open("va");
    static uint8_t frame[BIG];
    for (uint32_t i = 0; i < 5; i++) {
        fill_frame(frame, 60, TYPE, i);
        CHECK(peer_send(peer, NULL, frame, 60));
    }
    fill_tcp(frame, BIG);
    for (uint32_t i = 0; i < 2; i++)
        CHECK(peer_send(peer, &GSO, frame, BIG));
    nfm_frame got[8];
    CHECK_EQ(receive(port, &b.pool, got, 2), 2);
    CHECK_EQ(port->ops->rx(port, &b.pool, got + 2, 6), 0);
    for (uint32_t i = 2; i < 5; i++) {
        nfm_pool_put(&b.pool, got[i - 2].slot);
        CHECK_EQ(receive(port, &b.pool, got + i, 1), 1);
        fill_frame(frame, 60, TYPE, i);
        CHECK(memcmp(frame_at(&b, &got[i]), frame, 60) == 0);
    }
    CHECK_EQ(receive(port, &b.pool, got + 5, 1), 1);
    CHECK_EQ(port->ops->rx(port, &b.pool, got + 6, 1), 0);
    nfm_pool_put(&b.pool, got[5].slot);
    CHECK_EQ(receive(port, &b.pool, got + 6, 1), 1);
    CHECK_EQ(got[6].len, BIG);
    CHECK_EQ(port->stats.rx_missed + port->stats.rx_errors, 0);
    close(peer);
    nfm_port_free(port);
    teardown(&b);
}

static void what_the_kernel_drops_is_counted(void) {
    enum { N = 3000 };
    bench b = setup(64, 4);
    make_pair();
    nfm_port *port = open_port("vb", 0);
    int peer = peer_open("va");
    uint8_t frame[60];
    fill_frame(frame, 60, TYPE, 0);
    for (uint32_t i = 0; i < N; i++)
        CHECK(peer_send(peer, NULL, frame, 60));
    int64_t end = clock_ms() + PATIENCE_MS;
    while (port->stats.rx_packets + port->stats.rx_missed < N && clock_ms() < end) {
        nfm_frame got[32];
        int n = port->ops->rx(port, &b.pool, got, 32);
        for (int i = 0; i < n; i++)
            nfm_pool_put(&b.pool, got[i].slot);
        port->ops->poll(port, &b.pool);
    }
    CHECK_EQ(port->stats.rx_packets + port->stats.rx_missed, N);
    CHECK(port->stats.rx_packets >= 1024 && port->stats.rx_packets < 1024 + 128);
    close(peer);
    nfm_port_free(port);
    teardown(&b);
}

static void a_link_may_fall_and_rise(void) {
    bench b = setup(64, 4);
    make_pair();
    nfm_port *port = open_port("vb", 0);
    uint8_t frame[60];
    fill_frame(frame, 60, TYPE, 0);
    CHECK_EQ(port->stats.link_up, 1);
    CHECK_EQ(port->stats.mtu, 1500);
    CHECK(shell("ip link set vb down"));
    CHECK(link_becomes(port, &b.pool, 0));
    CHECK_EQ(send_through(port, &b.pool, NULL, frame, 60), NFM_E_IO);
    CHECK(shell("ip link set vb mtu 9000 && ip link set va mtu 9000 && ip link set vb up"));
    CHECK(link_becomes(port, &b.pool, 1));
    CHECK_EQ(port->stats.mtu, 9000);
    CHECK_EQ(port->stats.link_changes, 2);
    int peer = peer_open("va");
    struct virtio_net_hdr vnet;
    CHECK(peer_send(peer, NULL, frame, 60));
    nfm_frame got;
    CHECK_EQ(receive(port, &b.pool, &got, 1), 1);
    CHECK_EQ(send_through(port, &b.pool, NULL, frame, 60), 1);
    CHECK_EQ(peer_receive(peer, &vnet, frame, 60), 60);
    close(peer);
    nfm_port_free(port);
    teardown(&b);
}

/* Sending tells sooner than looking: queued frames are not sent late, but dropped and counted. */
static void frames_for_a_link_that_fell_are_counted(void) {
    bench b = setup(64, 4);
    make_pair();
    nfm_port *port = open_port("vb", 0);
    uint8_t frame[60];
    fill_frame(frame, 60, TYPE, 0);
    port->ops->poll(port, &b.pool);
    CHECK(shell("ip link set vb down"));
    for (int i = 0; i < 3; i++)
        (void)send_through(port, &b.pool, NULL, frame, 60);
    CHECK(link_becomes(port, &b.pool, 0));
    CHECK_EQ(port->stats.tx_packets, 0);
    CHECK_EQ(port->stats.tx_bytes, 0);
    CHECK(shell("ip link set vb up"));
    CHECK(link_becomes(port, &b.pool, 1));
    int peer = peer_open("va");
    struct virtio_net_hdr vnet;
    frame[14] = 0xee;
    CHECK_EQ(send_through(port, &b.pool, NULL, frame, 60), 1);
    CHECK_EQ(peer_receive(peer, &vnet, frame, 60), 60);
    CHECK_EQ(frame[14], 0xee);
    CHECK_EQ(port->stats.tx_packets, 1);
    close(peer);
    nfm_port_free(port);
    teardown(&b);
}

static void a_renamed_interface_is_kept_and_a_removed_one_awaited(void) {
    bench b = setup(64, 4);
    make_pair();
    nfm_port *port = open_port("vb", 0);
    int fd = port->ops->wait_fd(port);
    uint8_t frame[60];
    nfm_frame got;
    fill_frame(frame, 60, TYPE, 0);
    CHECK(shell("ip link set vb down; ip link set vb name other; ip link set other up"));
    int64_t end = clock_ms() + PATIENCE_MS;
    while (nfm_port_warning(port) == NULL && clock_ms() < end)
        port->ops->poll(port, &b.pool);
    CHECK(strstr(port->warning, "vb is called other now") != NULL);
    CHECK(link_becomes(port, &b.pool, 1));
    int peer = peer_open("va");
    CHECK(peer_send(peer, NULL, frame, 60));
    close(peer);
    CHECK(shell("ip link del other"));
    CHECK(link_becomes(port, &b.pool, 0));
    CHECK_EQ(send_through(port, &b.pool, NULL, frame, 60), NFM_E_IO);
    CHECK_EQ(receive(port, &b.pool, &got, 1), 1); /* what had arrived before */
    CHECK(strstr(port->warning, "vb went away") != NULL);
    make_pair();
    CHECK(link_becomes(port, &b.pool, 1));
    CHECK(nfm_port_warning(port) == NULL);
    CHECK_EQ(port->ops->wait_fd(port), fd);
    peer = peer_open("va");
    CHECK(peer_send(peer, NULL, frame, 60));
    CHECK_EQ(receive(port, &b.pool, &got, 1), 1);
    CHECK_EQ(send_through(port, &b.pool, NULL, frame, 60), 1);
    struct virtio_net_hdr vnet;
    CHECK_EQ(peer_receive(peer, &vnet, frame, 60), 60);
    close(peer);
    nfm_port_free(port);
    teardown(&b);
}

static void opening_says_what_is_wrong(void) {
    nfm_afpacket_config config = {0};
    nfm_error err = {0};
    make_pair();
    config.interface = "nosuch0";
    CHECK(nfm_port_afpacket_open(&config, &err) == NULL);
    CHECK(err.code == NFM_E_IO && strstr(err.text, "nosuch0: no such interface") != NULL);
    config.interface = "a-name-that-is-too-long";
    CHECK(nfm_port_afpacket_open(&config, &err) == NULL && err.code == NFM_E_INVAL);
    config.interface = "vb";
    config.rx_frames = 63;
    CHECK(nfm_port_afpacket_open(&config, &err) == NULL && err.code == NFM_E_INVAL);
    CHECK(strstr(err.text, "rx_frames 63") != NULL);
    config.rx_frames = 512;
    config.block_ms = 1;
    CHECK(nfm_port_afpacket_open(&config, &err) == NULL && err.code == NFM_E_INVAL);
    config = (nfm_afpacket_config){.interface = "vb", .fanout_group = 65536};
    CHECK(nfm_port_afpacket_open(&config, &err) == NULL && err.code == NFM_E_INVAL);
    config = (nfm_afpacket_config){.interface = NULL};
    CHECK(nfm_port_afpacket_open(&config, &err) == NULL && err.code == NFM_E_INVAL);
}

static void open_vb(nfm_error *err) {
    nfm_port_free(nfm_port_afpacket_open(&(nfm_afpacket_config){.interface = "vb"}, err));
}

static void a_missing_capability_is_named(void) {
    nfm_error err = {0};
    make_pair();
    without_capabilities(open_vb, &err);
    CHECK_EQ(err.code, NFM_E_IO);
    CHECK(strstr(err.text, "vb: ") == err.text && strstr(err.text, "CAP_NET_RAW") != NULL);
    CHECK(strstr(err.text, "sudo") != NULL);
}

static const nfm_test tests[] = {
    T(frames_arrive_one_by_one),
    T(frames_arrive_in_blocks),
    T(frames_leave_unchanged),
    T(many_frames_leave_in_order),
    T(tags_are_put_back),
    T(gso_frames_pass_one_by_one),
    T(gso_frames_pass_in_blocks),
    T(tagged_gso_frames_pass),
    T(long_and_short_frames_keep_their_order),
    T(unfinished_checksums_are_told),
    T(what_cannot_leave_is_dropped_and_counted),
    T(without_slots_frames_wait),
    T(what_the_kernel_drops_is_counted),
    T(a_link_may_fall_and_rise),
    T(frames_for_a_link_that_fell_are_counted),
    T(a_renamed_interface_is_kept_and_a_removed_one_awaited),
    T(opening_says_what_is_wrong),
    T(a_missing_capability_is_named),
};

int main(int argc, char **argv) {
    return live_main(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
