/* SPDX-License-Identifier: Apache-2.0 */
/* Streams that somebody decides on: nothing unjudged leaves, whatever the segments do. */
#include "stream_sim.h"

enum { SEEDS = 400 };

/* SIM_SEED says which connection to look at alone, SIM_SEEDS how many to have. */
static uint64_t number_of(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text == NULL ? otherwise : strtoull(text, NULL, 10);
}

static void test_what_leaves_is_what_was_accepted(void) {
    static const enum nfm_core_counter met[] = {NFM_CC_INLINE_WITHHELD, NFM_CC_INLINE_AGAIN,
                                                NFM_CC_INLINE_REPLACED, NFM_CC_INLINE_UNEDITED,
                                                NFM_CC_INLINE_DROPPED,  NFM_CC_INLINE_RAISED};
    uint64_t sums[NFM_CC_COUNT] = {0};
    uint64_t first = number_of("SIM_SEED", 1), n = number_of("SIM_SEEDS", SEEDS);
    for (uint64_t seed = first; seed < first + n && !nfm_test_failed; seed++) {
        stream_sim *s = calloc(1, sizeof(*s));
        s->random.state = seed * UINT64_C(0x9e3779b97f4a7c15);
        sim_run(s);
        if (nfm_test_failed)
            printf("# SIM_SEED=%" PRIu64 "\n", seed);
        for (int i = 0; i < NFM_CC_COUNT; i++)
            sums[i] += s->counters[i];
        free(s);
    }
    for (size_t i = 0; i < sizeof(met) / sizeof(met[0]) && n == SEEDS && !nfm_test_failed; i++)
        CHECK(sums[met[i]] > 50); /* all of it has been met */
    CHECK_EQ(sums[NFM_CC_INLINE_NO_ROOM] + sums[NFM_CC_INLINE_BAD], 0);
}

static void test_a_fin_waits_for_what_is_before_it(void) {
    stream_sim *s = sim_quiet(40, 0);
    sim_end *client = &s->end[0], *server = &s->end[1];
    uint32_t before = server->n_frames;
    sim_send(s, client, 40, 0, 17);
    sim_send(s, client, 20, 20, 17);
    sim_flush(s);
    CHECK_EQ(server->n_frames, before);
    CHECK_EQ(sim_counter(s, NFM_CC_INLINE_WITHHELD), 2);
    sim_send(s, client, 0, 20, 24);
    sim_flush(s);
    CHECK_EQ(server->next, 40);
    CHECK(server->fin); /* with the bytes that it came with */
    sim_quiet_end(s);
}

static void test_a_rejected_connection_is_reset_at_both_ends(void) {
    stream_sim *s = sim_quiet(40, 0);
    s->verdict = NFM_REJECT;
    sim_send(s, &s->end[0], 0, 20, 24);
    sim_flush(s);
    CHECK(s->end[0].reset && s->end[1].reset);
    CHECK_EQ(s->end[1].next, 0);
    uint32_t before = s->end[1].n_frames;
    sim_send(s, &s->end[0], 0, 20, 24);
    sim_flush(s);
    CHECK_EQ(s->end[1].n_frames, before);
    sim_quiet_end(s);
}

static void test_urgent_bytes_are_bytes_like_others(void) {
    stream_sim *s = sim_quiet(40, 0);
    sim_send(s, &s->end[0], 0, 20, 16 | 32);
    sim_flush(s);
    CHECK_EQ(s->end[1].next, 20);
    CHECK_EQ(s->end[1].flags, 16);
    sim_quiet_end(s);
}

static void test_bytes_of_a_reset_do_not_leave(void) {
    stream_sim *s = sim_quiet(40, 0);
    sim_send(s, &s->end[0], 0, 20, 20);
    sim_flush(s);
    CHECK(s->end[1].reset && !s->end[1].on_wire[0]);
    sim_quiet_end(s);
}

static void test_a_damaged_segment_is_not_what_the_stream_is(void) {
    stream_sim *s = sim_quiet(40, 0);
    sim_end *client = &s->end[0];
    sim_send(s, client, 0, 20, 24);
    client->frames[(client->tail - 1) % SIM_QUEUE][14 + 20 + 20] ^= 1;
    sim_flush(s);
    CHECK_EQ(s->end[1].next, 0);
    CHECK_EQ(sim_counter(s, NFM_CC_INLINE_BAD_CHECKSUM), 1);
    sim_send(s, client, 0, 20, 24);
    sim_flush(s);
    CHECK_EQ(s->end[1].next, 20);
    CHECK(memcmp(s->end[1].wire, client->stream, 20) == 0);
    sim_quiet_end(s);
}

/* The client sends byte by byte, and its receiver acknowledges nothing. */
static void test_what_is_kept_is_bounded(void) {
    for (int open = 0; open < 2; open++) {
        stream_sim *s = calloc(1, sizeof(*s));
        s->random.state = 99;
        s->mss = 700;
        s->fail_open = open;
        sim_begin(s);
        sim_end *client = &s->end[0];
        client->n = 1000;
        for (uint32_t at = 0; at < 1000; at += 20) {
            for (uint32_t i = at; i < at + 20; i++)
                sim_send(s, client, i, 1, 24);
            sim_flush(s);
            nfm_worker_stats stats;
            nfm_worker_stats_get(s->worker, &stats);
            CHECK(stats.slots_used <= 1024 / 4 + 64);
        }
        CHECK_EQ(s->end[1].next, open ? 1000 : 256);
        CHECK_EQ(sim_counter(s, NFM_CC_INLINE_NO_ROOM) > 0, !open);
        CHECK_EQ(sim_counter(s, NFM_CC_INLINE_FAILED_OPEN) > 0, open);
        sim_send(s, &s->end[1], 0, 0, 16); /* acknowledges */
        sim_flush(s);
        for (uint32_t i = s->end[1].next; i < 1000; i += 20) {
            sim_send(s, client, i, i + 20 < 1000 ? 20 : 1000 - i, 24);
            sim_flush(s);
        }
        CHECK_EQ(s->end[1].next, 1000);
        sim_quiet_end(s);
    }
}

/* Bytes that replaced others keep their numbers when the flow is judged no longer. */
static void test_a_released_flow_goes_on_with_its_numbers(void) {
    for (uint32_t replace = 0; replace < 256; replace += 255) {
        stream_sim *s = sim_quiet(600, 0);
        sim_end *client = &s->end[0], *server = &s->end[1];
        s->replace = replace;
        s->resizes = true;
        sim_send(s, client, 0, 100, 24);
        sim_flush(s);
        uint32_t grown = client->entries[0].out_len;
        s->verdict = NFM_PASS | NFM_REST;
        sim_send(s, client, 100, 100, 24);
        sim_flush(s);
        CHECK_EQ(server->next, grown + 100);
        s->verdict = NFM_DROP; /* nobody is asked */
        for (uint32_t at = 200; at < 600; at += 100) {
            sim_send(s, client, at, 100, 24);
            sim_flush(s);
            sim_send(s, server, 0, 0, 16);
            sim_flush(s);
        }
        sim_send(s, client, 600, 0, 17);
        sim_flush(s);
        CHECK_EQ(server->next, grown + 500);
        CHECK_EQ(client->una, 600);
        CHECK(server->fin);
        CHECK(memcmp(server->wire + grown, client->stream + 100, 500) == 0);
        CHECK_EQ(nfm__strands_of(s->worker, 0)->in_use, grown != 100);
        sim_quiet_end(s);
    }
}

static const nfm_test tests[] = {
    T(test_a_released_flow_goes_on_with_its_numbers),
    T(test_a_fin_waits_for_what_is_before_it),
    T(test_a_rejected_connection_is_reset_at_both_ends),
    T(test_urgent_bytes_are_bytes_like_others),
    T(test_bytes_of_a_reset_do_not_leave),
    T(test_a_damaged_segment_is_not_what_the_stream_is),
    T(test_what_is_kept_is_bounded),
    T(test_what_leaves_is_what_was_accepted),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
