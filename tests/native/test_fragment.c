/* SPDX-License-Identifier: Apache-2.0 */
/* Datagrams that are cut where they leave, because the link takes no longer ones. */
#include "nfs/nf_rig.h"

enum { HOST = 0x0a000001, PEER = 0xc6336401, PAYLOAD = 1800, IP = 14, MOST = 4096 };

typedef struct whole { /* what fragments make together */
    uint8_t data[MOST];
    uint32_t len, n;
    bool is_complete;
} whole;

static int route_process(void *state, const nfm_batch *b) {
    *(nfm_ring **)state = b->ring;
    for (uint32_t i = 0; i < b->n; i++) {
        if (!(b->desc[i].what & 0x1f))
            continue;
        b->verdict[i] = NFM_REWRITE;
        b->edit[i] = (nfm_edit){.fields = NFM_EDIT_HOP};
    }
    return NFM_OK;
}

static nf_rig *begin(nfm_ring **ring, uint32_t mtu) {
    nf_rig *r = nf_rig_new(route_process, ring, false);
    for (int i = 0; i < 2; i++)
        r->wire[i].port.stats.mtu = mtu;
    nf_rig_start(r);
    return r;
}

static wire_frame long_datagram(uint16_t flags) {
    static uint8_t payload[PAYLOAD];
    for (uint32_t i = 0; i < PAYLOAD; i++)
        payload[i] = (uint8_t)(i * 7 + i / 256);
    message m = {.proto = IPPROTO_UDP, .src = HOST, .dst = PEER, .src_port = 9, .dst_port = 53};
    m.payload = (nfm_view){payload, PAYLOAD};
    wire_frame f = frame_of(&m);
    nfm_write16(f.data + IP + 6, flags);
    nfm_write16(f.data + IP + 10, 0);
    nfm_write16(f.data + IP + 10, nfm_csum_fold(nfm_csum_add(0, f.data + IP, 20)));
    return f;
}

/* Puts the fragments at the wire together, each of them checked; they come in order. */
static whole gather(nf_rig *r, int wire, uint32_t mtu) {
    whole w = {0};
    const wire_frame *f;
    while ((f = nf_rig_take(r, wire)) != NULL) {
        const uint8_t *ip = f->data + IP;
        uint32_t header = (ip[0] & 15u) * 4, len = nfm_read16(ip + 2), field = nfm_read16(ip + 6);
        CHECK(len <= mtu && IP + len == f->len && !w.is_complete);
        CHECK_EQ(nfm_csum_fold(nfm_csum_add(0, ip, header)), 0);
        CHECK_EQ((field & 0x1fff) * 8, w.len);
        CHECK(w.len + len - header <= MOST && (f->data[11] == 0 || w.n == 0 || f->data[5] == 0xfe));
        memcpy(w.data + w.len, ip + header, len - header);
        w.len += len - header;
        w.is_complete = !(field & 0x2000);
        CHECK(w.is_complete || (len - header) % 8 == 0);
        w.n++;
    }
    return w;
}

static void test_what_may_be_cut_is_cut(void) {
    static const uint32_t mtus[] = {68, 576, 577, 1280, 1500, 1827};
    for (uint32_t i = 0; i < sizeof(mtus) / sizeof(mtus[0]); i++) {
        nfm_ring *ring;
        nf_rig *r = begin(&ring, mtus[i]);
        wire_frame sent = long_datagram(0);
        nf_rig_send(r, INSIDE, &sent);
        whole w = gather(r, OUTSIDE, mtus[i]);
        CHECK(w.is_complete && w.n > 1 && w.len == PAYLOAD + 8);
        CHECK_EQ(memcmp(w.data, sent.data + IP + 20, w.len), 0);
        CHECK_EQ(nf_rig_counter(r, NFM_CC_FRAGMENTED), 1);
        nf_rig_free(r);
    }
}

static void test_what_fits_or_may_not_be_cut_is_left_alone(void) {
    for (int flags = 0; flags < 2; flags++) {
        nfm_ring *ring;
        nf_rig *r = begin(&ring, flags == 0 ? PAYLOAD + 28 : 576);
        wire_frame sent = long_datagram(flags == 0 ? 0 : 0x4000);
        nf_rig_send(r, INSIDE, &sent);
        const wire_frame *f = nf_rig_take(r, OUTSIDE);
        CHECK(f != NULL && f->len == sent.len);
        CHECK_EQ(nf_rig_counter(r, NFM_CC_FRAGMENTED), 0);
        nf_rig_free(r);
    }
}

static void test_a_fragment_is_cut_once_more(void) {
    nfm_ring *ring;
    nf_rig *r = begin(&ring, 576);
    wire_frame sent = long_datagram(0x2000 | 185);
    nf_rig_send(r, INSIDE, &sent);
    uint32_t at = 185, last = 0;
    const wire_frame *f;
    while ((f = nf_rig_take(r, OUTSIDE)) != NULL) {
        uint32_t field = nfm_read16(f->data + IP + 6);
        CHECK_EQ(field, 0x2000 | at); /* more follow, also behind the last */
        at += (f->len - IP - 20) / 8;
        last = f->len;
    }
    CHECK(last != 0 && at == 185 + (PAYLOAD + 8) / 8);
    nf_rig_free(r);
}

static void test_options_are_copied_where_they_say_so(void) {
    nfm_ring *ring;
    nf_rig *r = begin(&ring, 576);
    wire_frame plain = long_datagram(0), sent = plain;
    static const uint8_t options[12] = {7, 3, 4, 148, 4, 0, 0, 1, 1, 0x88, 2, 0};
    memcpy(sent.data + IP + 20, options, 12);
    memcpy(sent.data + IP + 32, plain.data + IP + 20, PAYLOAD + 8);
    sent.len += 12;
    sent.data[IP] = 0x48;
    nfm_write16(sent.data + IP + 2, (uint16_t)(sent.len - IP));
    nfm_write16(sent.data + IP + 10, 0);
    nfm_write16(sent.data + IP + 10, nfm_csum_fold(nfm_csum_add(0, sent.data + IP, 32)));
    nf_rig_send(r, INSIDE, &sent);
    CHECK_EQ(nfm_read16(r->wire[OUTSIDE].out[0].data + IP) >> 8, 0x48);
    CHECK_EQ(r->wire[OUTSIDE].out[1].data[IP], 0x47); /* router alert and stream, not the route */
    CHECK_EQ(memcmp(r->wire[OUTSIDE].out[1].data + IP + 20, options + 3, 4), 0);
    whole w = gather(r, OUTSIDE, 576);
    CHECK(w.is_complete && w.len == PAYLOAD + 8);
    CHECK_EQ(memcmp(w.data, plain.data + IP + 20, w.len), 0);
    nf_rig_free(r);
}

static void test_a_frame_of_its_own_is_cut_in_ipv6_too(void) {
    nfm_ring *ring;
    nf_rig *r = begin(&ring, 1280);
    wire_frame first = long_datagram(0);
    nf_rig_send(r, INSIDE, &first);
    while (nf_rig_take(r, OUTSIDE) != NULL)
        ;
    static const uint8_t src[16] = {0xfd, 1}, dst[16] = {0xfd, 2};
    message m = {.proto = IPPROTO_UDP, .src6 = src, .dst6 = dst, .src_port = 9, .dst_port = 53};
    m.payload = (nfm_view){first.data, PAYLOAD};
    wire_frame sent = frame_of(&m);
    CHECK_EQ(nfm_ring_inject(ring, OUTSIDE, sent.data, sent.len), NFM_OK);
    nfm_worker_take_commands(r->w);
    uint8_t data[MOST];
    uint32_t at = 0, id = 0;
    const wire_frame *f;
    for (int n = 0; (f = nf_rig_take(r, OUTSIDE)) != NULL; n++) {
        const uint8_t *ip = f->data + IP, *part = ip + 40;
        uint32_t len = f->len - IP - 48, field = nfm_read16(part + 2);
        CHECK(f->len - IP <= 1280 && ip[6] == 44 && part[0] == IPPROTO_UDP);
        CHECK_EQ(nfm_read16(ip + 4), len + 8);
        CHECK_EQ(field, at | (n == 0));
        CHECK(n == 0 || id == nfm_read32(part + 4));
        id = nfm_read32(part + 4);
        memcpy(data + at, part + 8, len);
        at += len;
    }
    CHECK_EQ(at, PAYLOAD + 8);
    CHECK_EQ(memcmp(data, sent.data + IP + 40, at), 0);
    nf_rig_free(r);
}

static const nfm_test tests[] = {
    T(test_what_may_be_cut_is_cut),
    T(test_what_fits_or_may_not_be_cut_is_left_alone),
    T(test_a_fragment_is_cut_once_more),
    T(test_options_are_copied_where_they_say_so),
    T(test_a_frame_of_its_own_is_cut_in_ipv6_too),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
