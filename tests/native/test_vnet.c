/* SPDX-License-Identifier: Apache-2.0 */
/* Offload facts between the kernel's header and a slot's headroom. */
#include "io/vnet.h"
#include "nfm_test.h"

static const struct virtio_net_hdr TSO = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                          .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                          .hdr_len = 66,
                                          .gso_size = 1448,
                                          .csum_start = 34,
                                          .csum_offset = 16};

/* A frame whose TCP header at 34 has |words| words. */
static uint8_t *tcp_frame(uint32_t len, uint8_t words) {
    uint8_t frame[4096] = {0};
    frame[46] = (uint8_t)(words << 4);
    return nfm_guarded(frame, len);
}

static void what_is_received_can_be_sent(void) {
    nfm_slot_meta meta;
    struct virtio_net_hdr vnet;
    nfm_vnet_to_meta(&TSO, 0, &meta);
    CHECK_EQ(nfm_vnet_from_meta(&meta, tcp_frame(4000, 8), 4000, &vnet), 66 + 1448);
    CHECK(memcmp(&vnet, &TSO, sizeof(vnet)) == 0);
    CHECK_EQ(nfm_vnet_from_meta(&meta, tcp_frame(1000, 8), 1000, &vnet), 1000);
}

static void a_tag_moves_what_lies_behind_it(void) {
    nfm_slot_meta meta;
    nfm_vnet_to_meta(&TSO, NFM_VLAN_LEN, &meta);
    CHECK_EQ(meta.csum_start, 38);
    CHECK_EQ(meta.csum_offset, 16);
    struct virtio_net_hdr whole = {.flags = VIRTIO_NET_HDR_F_DATA_VALID, .hdr_len = 60};
    nfm_vnet_to_meta(&whole, NFM_VLAN_LEN, &meta);
    CHECK_EQ(meta.csum_start | meta.hdr_len | meta.needs_csum, 0);
}

static void the_length_of_headers_is_read_from_the_frame(void) {
    nfm_slot_meta meta;
    struct virtio_net_hdr vnet;
    nfm_vnet_to_meta(&TSO, 0, &meta);
    meta.hdr_len = 4000; /* a hint may be anything */
    CHECK_EQ(nfm_vnet_from_meta(&meta, tcp_frame(4000, 15), 4000, &vnet), 94 + 1448);
    CHECK_EQ(vnet.hdr_len, 94);
    meta.gso_type = 5; /* UDP segmentation */
    CHECK_EQ(nfm_vnet_from_meta(&meta, tcp_frame(4000, 0), 4000, &vnet), 42 + 1448);
}

static void facts_that_do_not_fit_are_refused(void) {
    struct virtio_net_hdr vnet;
    nfm_slot_meta good, meta;
    nfm_vnet_to_meta(&TSO, 0, &good);
    CHECK_EQ(nfm_vnet_from_meta(&good, tcp_frame(51, 8), 51, &vnet), 0);   /* checksum field */
    CHECK_EQ(nfm_vnet_from_meta(&good, tcp_frame(53, 8), 53, &vnet), 0);   /* TCP header */
    CHECK_EQ(nfm_vnet_from_meta(&good, tcp_frame(60, 8), 60, &vnet), 0);   /* its options */
    CHECK_EQ(nfm_vnet_from_meta(&good, tcp_frame(900, 4), 900, &vnet), 0); /* shorter than TCP's */
    meta = good;
    meta.gso_size = 0;
    CHECK_EQ(nfm_vnet_from_meta(&meta, tcp_frame(900, 8), 900, &vnet), 0);
    meta = good;
    meta.gso_type = 3;
    CHECK_EQ(nfm_vnet_from_meta(&meta, tcp_frame(900, 8), 900, &vnet), 0);
    meta = good;
    meta.needs_csum = 0;
    meta.hdr_len = 901;
    CHECK_EQ(nfm_vnet_from_meta(&meta, tcp_frame(900, 8), 900, &vnet), 0);
    meta.hdr_len = 54;
    CHECK_EQ(nfm_vnet_from_meta(&meta, tcp_frame(900, 8), 900, &vnet), 900);
}

static void tags_do_not_count_against_the_mtu(void) {
    uint8_t frame[64] = {0};
    CHECK(nfm_vnet_fits(frame, 1514, 14, 1500));
    CHECK(!nfm_vnet_fits(frame, 1515, 14, 1500));
    CHECK(nfm_vnet_fits(frame, 65000, 14, 0));
    memcpy(frame + 12, "\x81\0\0\1\x81\0\0\1\x81\0\0\1", 12);
    CHECK(nfm_vnet_fits(frame, 1522, 14, 1500));
    CHECK(!nfm_vnet_fits(frame, 1523, 14, 1500));
    memcpy(frame + 12, "\x88\xa8\0\1\x08\0", 6);
    CHECK(nfm_vnet_fits(frame, 1518, 14, 1500));
    CHECK(!nfm_vnet_fits(frame, 1519, 14, 1500));
    CHECK(!nfm_vnet_fits(frame, 1501, 0, 1500)); /* no link header */
    CHECK(!nfm_vnet_fits(nfm_guarded(frame, 13), 13, 1, 1));
}

static const nfm_test tests[] = {
    T(what_is_received_can_be_sent),
    T(a_tag_moves_what_lies_behind_it),
    T(the_length_of_headers_is_read_from_the_frame),
    T(facts_that_do_not_fit_are_refused),
    T(tags_do_not_count_against_the_mtu),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
