/* SPDX-License-Identifier: Apache-2.0 */
/* Reassembly in a worker: random fragmentations give the exact datagram, overlap policies give what
 * the systems they are named after give, and every abuse is counted and forgotten in time. */
#include "ip_defrag_rig.h"

/* ---- whole datagrams ---- */

/* Cuts |len| bytes into random fragments, some twice, in random order. */
static void push_random(rig *r, uint8_t version, uint32_t id, const uint8_t *data, uint32_t len) {
    part parts[256];
    uint32_t n = 0;
    for (uint32_t off = 0; off < len; n++) {
        uint32_t size = len / 60 + (uint32_t)rand() % (len / 6 + 8);
        size = size / 8 * 8 + 8;
        bool more = off + size < len;
        parts[n] = (part){.version = version,
                          .proto = 17,
                          .id = id,
                          .off = off,
                          .len = more ? size : len - off,
                          .more = more,
                          .data = data + off};
        off += parts[n].len;
    }
    for (uint32_t i = n - 1; i > 0; i--) {
        uint32_t k = (uint32_t)rand() % (i + 1);
        part swap = parts[i];
        parts[i] = parts[k];
        parts[k] = swap;
    }
    for (uint32_t i = 0; i < n; i++) {
        push_part(r, &parts[i]);
        if (i + 1 < n && rand() % 4 == 0)
            push_part(r, &parts[rand() % (i + 1)]);
    }
}

/* The record is the datagram |data|, and its headers are those of a whole packet. */
static void check_whole(const seen *s, uint8_t version, const uint8_t *data, uint32_t len) {
    static const nfm_wire_config config = {.max_depth = 4, .verify_checksums = 1};
    const nfm_record *rec = &s->record;
    CHECK_EQ(rec->l4_off, 128 + 14 + (version == 4 ? 20 : 48));
    CHECK_EQ(rec->frame_len, rec->l4_off - 128 + len);
    if (rec->frame_len != rec->l4_off - 128 + len)
        return;
    CHECK(memcmp(s->frame + rec->l4_off - 128, data, len) == 0);
    CHECK_EQ(rec->payload_len, len - 8);
    CHECK_EQ(rec->events & NFM_BIT(NFM_EV_PACKET_UDP), NFM_BIT(NFM_EV_PACKET_UDP));
    CHECK(rec->flags & NFM_F_FRAGMENT);
    nfm_packet again = parse_at(&config, s->frame, rec->frame_len, rec->frame_len, ETHERNET, false);
    CHECK_EQ(again.status, NFM_PARSE_OK); /* checksums of both layers are right */
    CHECK_EQ(again.rec.payload_len, len - 8);
}

static void random_fragmentations(void) {
    enum { ROUNDS = 200 };
    static uint8_t datagram[ROUNDS][4000];
    static uint32_t len[ROUNDS];
    rig r;
    make(&r, NULL);
    srand(17);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint8_t version = i % 2 ? 6 : 4;
        static uint8_t payload[4000];
        nfm_key key = key_of(version, 17);
        nfm_emit_buf buf = {.data = datagram[i], .cap = sizeof(datagram[i])};
        for (size_t k = 0; k < sizeof(payload); k++)
            payload[k] = (uint8_t)rand();
        nfm_emit_udp(&buf, &key, (nfm_view){payload, 100 + (uint32_t)rand() % 3800});
        len[i] = buf.len;
        push_random(&r, version, i, datagram[i], len[i]);
    }
    run(&r);
    CHECK_EQ(r.n, ROUNDS);
    for (uint32_t i = 0; i < r.n; i++)
        check_whole(&r.all[i], i % 2 ? 6 : 4, datagram[i], len[i]);
    CHECK_EQ(counter(&r, "reassembled"), ROUNDS);
    CHECK(counter(&r, "duplicate") > 100);
    CHECK_EQ(counter(&r, "overlap"), 0);
    end(&r);
}

/* Several datagrams at once, their fragments in turn. */
static void interleaved(void) {
    rig r;
    make(&r, NULL);
    uint8_t data[64];
    for (uint32_t k = 0; k < 4; k++) {
        for (uint32_t id = 0; id < 50; id++) {
            memset(data, 'A' + (int)(id % 26), sizeof(data));
            part p = {.version = 4,
                      .proto = (uint8_t)(PROTO_TEST + id % 2),
                      .id = id / 2,
                      .off = k * 8,
                      .len = 8,
                      .more = k < 3,
                      .data = data};
            push_part(&r, &p);
        }
    }
    run(&r);
    CHECK_EQ(r.n, 50);
    for (uint32_t i = 0; i < r.n; i++) {
        char want[5];
        memset(want, 'A' + (int)(i % 26), 4);
        want[4] = '\0';
        CHECK(strcmp(letters(&r, i), want) == 0);
    }
    end(&r);
}

static void largest_datagram(void) {
    for (uint8_t version = 4; version <= 6; version += 2) {
        rig r;
        make(&r, NULL);
        static uint8_t data[BYTES_MAX];
        uint32_t most = 65535 - (version == 4 ? 20 : 8);
        for (uint32_t off = 0; off < most; off += 1480) {
            part p = {.version = version,
                      .proto = PROTO_TEST,
                      .id = 1,
                      .off = off,
                      .len = 1480,
                      .more = true,
                      .data = data};
            if (off + 1480 >= most) {
                p.len = most - off;
                p.more = false;
            }
            push_part(&r, &p);
        }
        run(&r);
        CHECK_EQ(r.n, 1);
        CHECK_EQ(r.all[0].record.payload_len, most);
        end(&r);
    }
}

/* ---- overlaps ---- */

/* The pattern with which Novak ("Target-Based Fragmentation Reassembly", 2005) tells systems apart.
 */
static void overlap_policies(void) {
    static const struct {
        uint64_t policy;
        const char *want;
    } cases[] = {
        {0, "111422333666"}, {1, "144442555666"}, {2, "111442333666"}, {3, "111442555666"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        rig r;
        uint64_t limits[6] = {0, 0, 0, 0, 0, cases[i].policy};
        make(&r, limits);
        push_letters(&r, 4, 0, 2, '1', true);
        push_letters(&r, 4, 4, 5, '2', true);
        push_letters(&r, 4, 6, 8, '3', true);
        push_letters(&r, 4, 1, 4, '4', true);
        push_letters(&r, 4, 6, 8, '5', true);
        push_letters(&r, 4, 9, 11, '6', false);
        run(&r);
        CHECK_EQ(r.n, 1);
        if (r.n == 1 && strcmp(letters(&r, 0), cases[i].want) != 0) {
            printf("# policy %d: %s, want %s\n", (int)cases[i].policy, letters(&r, 0),
                   cases[i].want);
            CHECK(false);
        }
        CHECK_EQ(counter(&r, "overlap"), 2);
        end(&r);
    }
}

/* Random overlaps under first and last against an array that is painted. */
static void overlaps_against_model(void) {
    srand(23);
    for (int round = 0; round < 120; round++) {
        rig r;
        uint64_t policy = (uint64_t)rand() % 2, limits[6] = {0, 0, 0, 0, 0, policy};
        char want[17] = {0};
        make(&r, limits);
        for (int i = 0; i < 40 && memchr(want, 0, 15) != NULL; i++) {
            uint32_t first = (uint32_t)rand() % 15, last = first + (uint32_t)rand() % 5;
            last = last < 15 ? last : 14;
            char letter = (char)('A' + i);
            for (uint32_t k = first; k <= last; k++)
                if (want[k] == 0 || policy == 1)
                    want[k] = letter;
            push_letters(&r, 4, first, last, letter, true);
        }
        for (int k = 0; k < 15; k++) {
            if (want[k] == 0) {
                want[k] = 'z';
                push_letters(&r, 4, (uint32_t)k, (uint32_t)k, 'z', true);
            }
        }
        want[15] = '#';
        push_letters(&r, 4, 15, 15, '#', false);
        run(&r);
        CHECK_EQ(r.n, 1);
        if (r.n == 1)
            CHECK(strcmp(letters(&r, 0), want) == 0);
        end(&r);
    }
}

/* IPv6, and IPv4 when told: an overlap condemns the datagram, and what comes later does not save
 * it. */
static void overlap_condemns(void) {
    for (uint8_t version = 4; version <= 6; version += 2) {
        rig r;
        uint64_t limits[6] = {0, 0, 0, 0, 0, version == 4 ? 4 : 0};
        make(&r, limits);
        push_letters(&r, version, 0, 1, 'a', true);
        push_letters(&r, version, 0, 1, 'a', true); /* an exact duplicate harms nobody */
        push_letters(&r, version, 1, 2, 'b', true);
        push_letters(&r, version, 0, 2, 'c', true);
        push_letters(&r, version, 3, 3, 'd', false);
        run(&r);
        CHECK_EQ(r.n, 0);
        CHECK_EQ(counter(&r, "duplicate"), 1);
        CHECK_EQ(counter(&r, "overlap"), 1);
        CHECK_EQ(counter(&r, "condemned"), 2);
        end(&r);
    }
}

/* ---- abuse ---- */

static void lengths_that_cannot_be(void) {
    rig r;
    make(&r, NULL);
    push_letters(&r, 4, 0, 4, 'a', true);
    push_letters(&r, 4, 3, 3, 'b', false); /* teardrop: ends inside what is there */
    uint8_t data[64] = {0};
    part death = {.version = 4, .proto = 1, .id = 9, .off = 65528, .len = 16, .data = data};
    push_part(&r, &death); /* beyond 65535 */
    part odd = {.version = 4, .proto = 1, .id = 10, .len = 13, .more = true, .data = data};
    push_part(&r, &odd);
    push_letters(&r, 4, 5, 5, 'c', false); /* the true end */
    run(&r);
    CHECK_EQ(counter(&r, "bad_length"), 3);
    CHECK_EQ(r.n, 1);
    CHECK(strcmp(letters(&r, 0), "aaaaac") == 0);
    end(&r);
}

static void two_ends(void) {
    rig r;
    make(&r, NULL);
    push_letters(&r, 4, 3, 3, 'd', false);
    push_letters(&r, 4, 5, 5, 'x', false); /* another end */
    push_letters(&r, 4, 4, 4, 'x', true);  /* bytes behind the end */
    push_letters(&r, 4, 3, 3, 'x', true);  /* the end, but not the last */
    push_letters(&r, 4, 0, 2, 'a', true);
    run(&r);
    CHECK_EQ(counter(&r, "bad_length"), 3);
    CHECK_EQ(r.n, 1);
    CHECK(strcmp(letters(&r, 0), "aaad") == 0);
    end(&r);
}

static void cut_by_capture(void) {
    rig r;
    make(&r, NULL);
    frame_init(&f);
    eth(&f, 0x0800);
    uint8_t data[64] = {0};
    part p = {.version = 4, .proto = 17, .id = 1, .len = 64, .more = true, .data = data};
    emit_part(&f, &p);
    CHECK_EQ(nfm_port_mem_push(r.port, f.bytes, 60, f.buf.len, SECOND), NFM_OK);
    run(&r);
    CHECK_EQ(counter(&r, "truncated"), 1);
    end(&r);
}

static void tiny_first_fragment(void) {
    rig r;
    make(&r, NULL);
    frame_init(&f);
    ip_tcp(&f, 4, 8);
    part p = {.version = 4, .proto = 6, .id = 1, .len = 8, .more = true, .data = f.bytes + 20};
    static frame g;
    for (; p.off < 28; p.off += 8) { /* the TCP header comes in pieces of eight */
        p.data = f.bytes + 20 + p.off;
        p.more = p.off < 24;
        p.len = p.more ? 8 : 4;
        frame_init(&g);
        eth(&g, 0x0800);
        emit_part(&g, &p);
        push(&r, &g);
    }
    run(&r);
    CHECK_EQ(counter(&r, "tiny"), 1);
    CHECK_EQ(r.n, 1);
    CHECK(r.all[0].record.events & NFM_BIT(NFM_EV_PACKET_TCP));
    CHECK_EQ(r.all[0].record.payload_len, 8);
    end(&r);
}

static void time_runs_out(void) {
    for (uint8_t version = 4; version <= 6; version += 2) {
        rig r;
        make(&r, NULL);
        push_letters(&r, version, 0, 1, 'a', true);
        r.now_ns += (version == 4 ? 29 : 59) * SECOND;
        push_letters(&r, version, 2, 2, 'b', true);
        r.now_ns += 2 * SECOND;
        push_letters(&r, version, 3, 3, 'c', false); /* too late */
        run(&r);
        CHECK_EQ(r.n, 0);
        CHECK_EQ(counter(&r, "timeout"), 2); /* the late one began a datagram of its own */
        end(&r);
    }
}

/* A flood of first fragments: the tables stay within their bounds, the oldest make room, and a
 * datagram that comes in one go still gets through. */
static void floods(void) {
    static const uint64_t bounds[][6] = {{8, 0, 0, 0, 0, 0}, {0, 0, 16, 0, 0, 0}, {0}};
    for (size_t i = 0; i < 3; i++) {
        rig r;
        uint8_t data[64] = {0};
        make(&r, bounds[i]);
        for (uint32_t id = 100; id < 5000; id++) {
            part p = {.version = 4, .proto = 17, .id = id, .len = 8, .more = true, .data = data};
            push_part(&r, &p);
        }
        push_letters(&r, 4, 0, 1, 'a', true);
        push_letters(&r, 4, 2, 2, 'b', false);
        run(&r);
        CHECK_EQ(r.n, 1);
        CHECK(counter(&r, "evicted") > 4000);
        CHECK(r.peak_slots <= 256 + 8);
        CHECK_EQ(counter(&r, "fragments"), 4902);
        end(&r);
    }
}

static void too_many_fragments(void) {
    rig r;
    uint64_t limits[6] = {0, 10, 0, 0, 0, 0};
    make(&r, limits);
    for (uint32_t i = 0; i < 20; i++)
        push_letters(&r, 4, i, i, 'a', i < 19);
    run(&r);
    CHECK_EQ(r.n, 0);
    CHECK_EQ(counter(&r, "too_many"), 1);
    CHECK_EQ(counter(&r, "condemned"), 9);
    end(&r);
}

/* Fragments in large slots leave half of those to others. */
static void large_slots(void) {
    rig r;
    static uint8_t data[4000];
    make(&r, NULL);
    for (uint32_t id = 0; id < 100; id++) {
        part p = {.version = 4, .proto = 17, .id = id, .len = 4000, .more = true, .data = data};
        push_part(&r, &p);
    }
    run(&r);
    CHECK(counter(&r, "evicted") > 90);
    CHECK(r.peak_slots <= 8 + 8);
    end(&r);
}

/* ---- tunnels ---- */

/* TCP in IP fragments in GRE in IP fragments: the outer datagrams first, then the inner one. */
static void fragments_in_fragments(void) {
    rig r;
    static frame inner, outer;
    make(&r, NULL);
    frame_init(&inner);
    ip_tcp(&inner, 4, 1000);
    uint32_t len = inner.buf.len - 20;
    for (uint32_t k = 0; k < 2; k++) {
        part in = {.version = 4,
                   .proto = 6,
                   .id = 5,
                   .off = k * 512,
                   .len = k ? len - 512 : 512,
                   .more = k == 0,
                   .data = inner.bytes + 20 + k * 512};
        frame_init(&outer);
        hex(&outer, "20000800 0000002a");
        emit_part(&outer, &in);
        for (uint32_t off = 0; off < outer.buf.len; off += 256) {
            part out = {.version = 6,
                        .proto = 47,
                        .id = 70 + k,
                        .off = off,
                        .len = 256,
                        .more = true,
                        .data = outer.bytes + off};
            if (off + 256 >= outer.buf.len) {
                out.len = outer.buf.len - off;
                out.more = false;
            }
            push_part(&r, &out);
        }
    }
    run(&r);
    CHECK_EQ(r.n, 1);
    const nfm_record *rec = &r.all[0].record;
    CHECK(rec->events & NFM_BIT(NFM_EV_PACKET_TCP));
    CHECK_EQ(rec->payload_len, 1000);
    CHECK_EQ(rec->flags, NFM_F_TUNNEL | NFM_F_FRAGMENT);
    CHECK(memcmp(r.all[0].frame + rec->l4_off - 128, inner.bytes + 20, len) == 0);
    CHECK_EQ(counter(&r, "reassembled"), 3);
    end(&r);
}

/* Equal addresses and ids in two virtual networks are two datagrams. */
static void tunnels_apart(void) {
    rig r;
    uint8_t data[16];
    make(&r, NULL);
    for (uint32_t k = 0; k < 4; k++) {
        part p = {.version = 4,
                  .proto = PROTO_TEST,
                  .id = 5,
                  .off = k / 2 * 8,
                  .len = 8,
                  .more = k < 2,
                  .data = data};
        memset(data, k % 2 ? 'b' : 'a', sizeof(data));
        frame_init(&f);
        eth(&f, 0x0800);
        ip(&f, 4, 17, 8 + 8 + 14 + 28);
        udp(&f, 1, 4789, 8 + 14 + 28);
        hex(&f, k % 2 ? "08000000 00000200" : "08000000 00000100");
        eth(&f, 0x0800);
        emit_part(&f, &p);
        push(&r, &f);
    }
    run(&r);
    CHECK_EQ(r.n, 2);
    CHECK(strcmp(letters(&r, 0), "aa") == 0);
    CHECK(strcmp(letters(&r, 1), "bb") == 0);
    CHECK_EQ(counter(&r, "overlap"), 0);
    end(&r);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(random_fragmentations),  T(interleaved),
        T(largest_datagram),       T(overlap_policies),
        T(overlaps_against_model), T(overlap_condemns),
        T(lengths_that_cannot_be), T(two_ends),
        T(cut_by_capture),         T(tiny_first_fragment),
        T(time_runs_out),          T(floods),
        T(too_many_fragments),     T(large_slots),
        T(fragments_in_fragments), T(tunnels_apart),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
