/* SPDX-License-Identifier: Apache-2.0 */
/* Unfinished frames become what a NIC would have made of them. */
#include "nfm_test.h"
#include "port_fixture.h"

#include "io/whole.h"

enum { GSO_TCPV4 = 1, GSO_TCPV6 = 4, GSO_UDP = 5 };

typedef struct shape {
    uint32_t tags;
    bool ipv6, udp;
    uint32_t payload;
} shape;

static uint32_t get16(const uint8_t *p) {
    return (uint32_t)p[0] << 8 | p[1];
}

static void put16(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static uint32_t ones(uint32_t sum, const uint8_t *p, size_t len) {
    for (size_t i = 0; i < len; i++)
        sum += i % 2 ? p[i] : (uint32_t)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static uint32_t l3_of(const shape *s) {
    return 14 + 4 * s->tags;
}

static uint32_t l4_of(const shape *s) {
    return l3_of(s) + (s->ipv6 ? 40 : 20);
}

static uint32_t payload_of(const shape *s) {
    return l4_of(s) + (s->udp ? 8 : 32);
}

static uint32_t pseudo(const uint8_t *frame, const shape *s, uint32_t l4_len) {
    const uint8_t *l3 = frame + l3_of(s);
    return ones((s->udp ? 17 : 6) + l4_len, l3 + (s->ipv6 ? 8 : 12), s->ipv6 ? 32 : 8);
}

/* A frame as the kernel hands it on: lengths of the whole, the pseudo header's sum as checksum. */
static nfm_tx make(bench *b, const shape *s, uint16_t gso_size) {
    uint32_t len = payload_of(s) + s->payload, l4_len = len - l4_of(s);
    nfm_tx tx = {.slot = nfm_pool_get(&b->pool, len), .off = NFM_HEADROOM, .len = len, .ts_ns = 7};
    uint8_t *slot = nfm_pool_addr(&b->pool, tx.slot), *frame = slot + NFM_HEADROOM;
    memset(slot, 0, NFM_HEADROOM + len);
    for (uint32_t i = 0; i < s->tags; i++)
        put16(frame + 12 + 4 * i, 0x8100);
    uint8_t *l3 = frame + l3_of(s), *l4 = frame + l4_of(s);
    put16(l3 - 2, s->ipv6 ? 0x86dd : 0x0800);
    l3[0] = s->ipv6 ? 0x60 : 0x45;
    put16(l3 + (s->ipv6 ? 4 : 2), s->ipv6 ? l4_len : 20 + l4_len);
    l3[s->ipv6 ? 6 : 9] = s->udp ? 17 : 6;
    memset(l3 + (s->ipv6 ? 8 : 12), 0x5b, s->ipv6 ? 32 : 8);
    if (!s->ipv6) {
        put16(l3 + 4, 0xfffe);
        put16(l3 + 10, ~ones(0, l3, 20) & 0xffff);
    }
    if (s->udp) {
        put16(l4 + 4, l4_len);
    } else {
        memcpy(l4 + 4, "\xff\xff\xfe\x00", 4);
        l4[12] = 8 << 4;
        l4[13] = 0x99; /* CWR ACK PSH FIN */
    }
    put16(l4 + (s->udp ? 6 : 16), pseudo(frame, s, l4_len));
    for (uint32_t i = 0; i < s->payload; i++)
        frame[payload_of(s) + i] = (uint8_t)(i * 5 + (i >> 8));
    *nfm_slot_meta_at(slot) = (nfm_slot_meta){.needs_csum = 1,
                                              .gso_type = gso_size == 0 ? 0
                                                          : s->udp      ? GSO_UDP
                                                          : s->ipv6     ? GSO_TCPV6
                                                                        : 0x81,
                                              .gso_size = gso_size,
                                              .csum_start = (uint16_t)l4_of(s),
                                              .csum_offset = s->udp ? 6 : 16};
    return tx;
}

/* Everything about segment |i| of |count| that starts at payload byte |at|. */
static void check_segment(const bench *b, const nfm_tx *part, const shape *s, uint32_t i,
                          uint32_t count, uint32_t at) {
    const uint8_t *slot = nfm_pool_addr(&b->pool, part->slot), *frame = slot + part->off;
    const uint8_t *l3 = frame + l3_of(s), *l4 = frame + l4_of(s);
    uint32_t l4_len = part->len - l4_of(s), bytes = part->len - payload_of(s);
    CHECK(nfm_is_whole(&b->pool, part->slot));
    CHECK_EQ(part->ts_ns, 7);
    CHECK_EQ(get16(l3 + (s->ipv6 ? 4 : 2)), s->ipv6 ? l4_len : 20 + l4_len);
    if (!s->ipv6) {
        CHECK_EQ(get16(l3 + 4), (0xfffe + i) & 0xffff);
        CHECK_EQ(ones(0, l3, 20), 0xffff);
    }
    CHECK_EQ(ones(pseudo(frame, s, l4_len), l4, l4_len), 0xffff);
    if (s->udp) {
        CHECK_EQ(get16(l4 + 4), l4_len);
    } else {
        CHECK_EQ(get16(l4 + 4) << 16 | get16(l4 + 6), (uint32_t)(0xfffffe00u + at));
        CHECK_EQ(l4[13], 0x10 | (i == 0 ? 0x80 : 0) | (i + 1 == count ? 0x09 : 0));
    }
    bool same = true;
    for (uint32_t k = 0; k < bytes; k++)
        same &= frame[payload_of(s) + k] == (uint8_t)((at + k) * 5 + ((at + k) >> 8));
    CHECK(same);
}

static void segments_are_whole_frames(void) {
    static const shape shapes[] = {
        {0, false, false, 5000}, {1, false, false, 60001}, {2, true, false, 4344},
        {0, true, true, 2897},   {1, false, true, 1449},   {0, false, false, 3},
    };
    bench b = setup(256, 4);
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        nfm_tx parts[NFM_WHOLE_MAX], tx = make(&b, &shapes[i], 1448);
        int n = nfm_whole_make(&b.pool, &tx, parts);
        CHECK_EQ(n, (shapes[i].payload + 1447) / 1448);
        uint32_t at = 0;
        for (int k = 0; k < n; k++) {
            check_segment(&b, &parts[k], &shapes[i], (uint32_t)k, (uint32_t)n, at);
            at += parts[k].len - payload_of(&shapes[i]);
            nfm_pool_put(&b.pool, parts[k].slot);
        }
        CHECK_EQ(at, shapes[i].payload);
        nfm_pool_put(&b.pool, tx.slot);
    }
    CHECK_EQ(b.pool.n_free_small + b.pool.n_free_large, 260);
    teardown(&b);
}

static void a_checksum_is_completed_in_a_copy(void) {
    static const shape shapes[] = {{0, false, false, 101}, {1, true, true, 64}};
    bench b = setup(64, 1);
    for (size_t i = 0; i < 2; i++) {
        nfm_tx out[NFM_WHOLE_MAX], tx = make(&b, &shapes[i], 0);
        CHECK_EQ(nfm_whole_make(&b.pool, &tx, out), 1);
        const uint8_t *frame = nfm_pool_addr(&b.pool, out[0].slot) + out[0].off;
        uint32_t l4_len = tx.len - l4_of(&shapes[i]);
        CHECK(out[0].slot != tx.slot && out[0].len == tx.len);
        CHECK_EQ(ones(pseudo(frame, &shapes[i], l4_len), frame + l4_of(&shapes[i]), l4_len),
                 0xffff);
        nfm_pool_put(&b.pool, out[0].slot);
        nfm_pool_put(&b.pool, tx.slot);
    }
    teardown(&b);
}

static void contradictions_and_short_pools_take_nothing(void) {
    const shape s = {0, false, false, 5000};
    bench b = setup(3, 2);
    nfm_tx out[NFM_WHOLE_MAX], tx = make(&b, &s, 1448);
    nfm_slot_meta *meta = nfm_slot_meta_at(nfm_pool_addr(&b.pool, tx.slot)), good = *meta;
    CHECK_EQ(nfm_whole_make(&b.pool, &tx, out), NFM_E_LIMIT);
    meta->gso_size = 10; /* 500 segments */
    CHECK_EQ(nfm_whole_make(&b.pool, &tx, out), NFM_E_FORMAT);
    *meta = good;
    meta->gso_type = 3; /* IP fragments: nobody sends them any more */
    CHECK_EQ(nfm_whole_make(&b.pool, &tx, out), NFM_E_FORMAT);
    *meta = good;
    meta->csum_start = 60000;
    CHECK_EQ(nfm_whole_make(&b.pool, &tx, out), NFM_E_FORMAT);
    meta->gso_type = 0;
    CHECK_EQ(nfm_whole_make(&b.pool, &tx, out), NFM_E_FORMAT);
    *meta = good;
    for (uint32_t len = 0; len < payload_of(&s); len++) {
        nfm_tx cut = {.slot = tx.slot, .off = tx.off, .len = len};
        CHECK_EQ(nfm_whole_make(&b.pool, &cut, out), NFM_E_FORMAT);
    }
    CHECK_EQ(b.pool.n_free_small, 3);
    nfm_pool_put(&b.pool, tx.slot);
    teardown(&b);
}

static const nfm_test tests[] = {
    T(segments_are_whole_frames),
    T(a_checksum_is_completed_in_a_copy),
    T(contradictions_and_short_pools_take_nothing),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
