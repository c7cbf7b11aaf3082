/* SPDX-License-Identifier: Apache-2.0 */
/* Frames that were damaged, each in memory of its own: whatever comes, the verdict makes sense,
 * and what the router says itself is whole. */
#include "base/ring.h"
#include "router_rig.h"

enum { ROUNDS = 60000, KINDS = 7 };

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static wire_frame make(uint32_t kind) {
    message m = {.proto = IPPROTO_UDP, .src = NEAR, .dst = PEER, .src_port = 9, .dst_port = 53};
    static const uint8_t nd[24] = {0xfd, 1, [15] = 1, [16] = 1, 1, 2, 0, 0, 0, 0, 0x11};
    m.payload = (nfm_view){(const uint8_t *)"sixteen bytes ok", 16};
    if (kind == 0)
        return arp_of(1, INSIDE, near_mac, NEAR, V4(10, 1, 0, 1));
    if (kind == 1)
        return arp_of(2, INSIDE, near_mac, NEAR, V4(10, 1, 0, 1));
    if (kind >= 4) {
        m.src6 = near6;
        m.dst6 = kind == 4 ? peer6 : own6[0];
    }
    if (kind == 3 || kind == 5) {
        m.proto = kind == 3 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
        m.icmp = kind == 3 ? 8 << 8 : 128 << 8;
        m.dst = V4(10, 1, 0, 1);
    }
    if (kind == 6) {
        m.proto = IPPROTO_ICMPV6;
        m.icmp = 135 << 8;
        m.payload = (nfm_view){nd, sizeof(nd)};
    }
    wire_frame f = to_router(&m, INSIDE, near_mac);
    if (kind == 6)
        f.data[14 + 7] = 255;
    return f;
}

/* A slot that holds |f|, cut to |len| bytes, with nothing behind. */
static uint8_t *slot_of(const wire_frame *f, uint32_t len) {
    uint8_t *slot = calloc(1, NFM_HEADROOM + len);
    memcpy(slot + NFM_HEADROOM, f->data, len);
    return slot;
}

static void check_said(nfm_ring *ring) {
    nfm_command c;
    while (nfm_ring_take_command(ring, &c)) {
        const uint8_t *frame = nfm_ring_command_bytes(ring, &c);
        if (c.kind != NFM_CMD_INJECT)
            continue;
        CHECK(c.number < 2 && c.b >= 42 && frame != NULL);
        wire_frame f = {.len = (uint32_t)c.b};
        memcpy(f.data, frame, c.b);
        if (nfm_read16(f.data + 12) != 0x0806)
            (void)read_frame(&f); /* checks the checksums */
    }
}

static void check_verdict(uint32_t verdict, const nfm_edit *edit) {
    uint32_t action = verdict & 0xff;
    CHECK(action == NFM_DROP || action == NFM_KEEP || action == NFM_REWRITE);
    CHECK(action != NFM_REWRITE || (edit->fields & NFM_EDIT_OUT && edit->out < 2));
}

/* A few bytes turned, most of them in headers; now and then the IPv4 checksum is made right. */
static uint32_t damage(wire_frame *f, uint64_t *seed) {
    for (uint64_t n = next_random(seed) % 4; n > 0; n--)
        f->data[12 + next_random(seed) % (f->len - 12)] = (uint8_t)next_random(seed);
    if (next_random(seed) % 2 == 0 && (f->data[14] & 15) * 4u + 14 <= f->len) {
        nfm_write16(f->data + 24, 0);
        nfm_write16(f->data + 24,
                    nfm_csum_fold(nfm_csum_add(0, f->data + 14, (f->data[14] & 15) * 4u)));
    }
    return next_random(seed) % 3 == 0 ? (uint32_t)(next_random(seed) % (f->len + 1)) : f->len;
}

static void test_damaged_frames_do_no_harm(void) {
    rig r = make_rig(64);
    uint64_t seed = 88172645463325252u;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        wire_frame f = make(i % KINDS);
        uint32_t len = damage(&f, &seed), verdict = NFM_PASS;
        uint8_t *slot = slot_of(&f, len);
        nfm_record record = {.ts_ns = (int64_t)i * 200 * MS, .frame_len = len};
        nfm_mem mem = {
            .packets = slot, .records = &record, .n_small = 1, .n_slots = 1, .n_records = 1};
        nfm_desc desc = {.what = NFM_BIT(NFM_EV_PACKET_OTHER)};
        nfm_edit edit;
        nfm_batch batch = {.mem = &mem, .desc = &desc, .n = 1, .ring = r.nf->ring};
        batch.verdict = &verdict;
        batch.edit = &edit;
        r.nf->ring->n_free_holds = 0; /* records here do not outlive the round */
        CHECK_EQ(router_process(r.router, &batch), NFM_OK);
        check_verdict(verdict, &edit);
        check_said(r.nf->ring);
        free(slot);
    }
    router_stats stats = stats_of(&r);
    CHECK(stats.arp_replies > 100 && stats.nd_replies > 100 && stats.echo_replies > 100);
    CHECK(stats.forwarded > 0 && stats.bad_header > 100 && stats.bad_neighbour > 100);
    CHECK_EQ(stats.waiting, 0);
    r.nf->ring->n_free_holds = r.nf->ring->max_holds;
    end_rig(&r);
}

static const nfm_test tests[] = {T(test_damaged_frames_do_no_harm)};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
