/* SPDX-License-Identifier: Apache-2.0 */
/* Frames that pass a worker: forwarded, judged, edited, answered; late and lying judges. */
#include "worker_rig.h"

enum { FLOWS = 20, PER_FLOW = 50, FRAMES = FLOWS * PER_FLOW };

typedef struct rig {
    nfm_port *in, *out;
    nfm_worker *w;
    nfm_ring *ring[4];
    uint32_t n_rings;
} rig;

static rig make_rig(void) {
    nfm_error err = {0};
    rig r = {.in = nfm_port_mem_new(1, &err), .out = keeping_port()};
    const nfm_worker_config config = small_config();
    r.w = worker_between(&config, r.in, r.out);
    push_numbered(r.in, FLOWS, PER_FLOW);
    return r;
}

/* An inline receiver of every UDP packet. */
static void add_judge(rig *r, uint8_t stage, bool open) {
    nfm_error err = {0};
    const nfm_inline_config config = {.fail_open = open};
    nfm_ring *ring = add_inline(
        r->w, config,
        (nfm_subscription){.events = NFM_BIT(NFM_EV_PACKET_UDP), .type_first = 1, .stage = stage});
    CHECK_EQ(nfm_worker_allow_holds(r->w, ring, 8, &err), NFM_OK);
    r->ring[r->n_rings++] = ring;
}

static void end_rig(rig *r) {
    check_idle(r->w);
    nfm_worker_free(r->w);
    nfm_port_free(r->in);
    nfm_port_free(r->out);
}

typedef uint32_t (*judge_fn)(const nfm_mem *mem, const nfm_desc *desc, nfm_edit *edit);

/* Judges what is there; returns how much that was. */
static uint32_t serve(rig *r, uint32_t which, judge_fn judge) {
    const nfm_desc *desc;
    nfm_ring *ring = r->ring[which];
    uint32_t n = nfm_ring_peek(ring, &desc, 37), *verdict = nfm_ring_verdicts(ring, n);
    nfm_edit *edit = nfm_ring_edits(ring);
    for (uint32_t i = 0; i < n; i++)
        verdict[i] = judge(nfm_worker_mem(r->w), &desc[i], &edit[i]);
    nfm_ring_advance(ring, n);
    return n;
}

static void run(rig *r, const judge_fn *judges) {
    nfm_error err = {0};
    CHECK_EQ(nfm_worker_start(r->w, &err), NFM_OK);
    for (int turn = 0; turn < 10000; turn++) {
        if (nfm_worker_run(r->w, 64) == NFM_RUN_EOF)
            return;
        for (uint32_t i = 0; i < r->n_rings; i++)
            serve(r, (uint32_t)(turn + (int)i) % r->n_rings,
                  judges[(uint32_t)(turn + (int)i) % r->n_rings]);
    }
    CHECK(!"the run ends");
}

/* Each flow's frames came out in order; returns how many there are, by flow in |n|. */
static uint32_t check_order(const rig *r, uint32_t *n, const uint8_t *skipped) {
    uint32_t next[FLOWS] = {0}, all = 0;
    uint64_t at = 0;
    nfm_view frame;
    memset(n, 0, FLOWS * sizeof(*n));
    while ((frame = nfm_port_mem_sent(r->out, &at)).data != NULL) {
        uint32_t words[2];
        memcpy(words, frame.data + frame.len - 8, 8);
        CHECK(words[0] < FLOWS && words[1] >= next[words[0]]);
        CHECK(skipped != NULL || words[1] == next[words[0]]);
        next[words[0]] = words[1] + 1;
        n[words[0]]++;
        all++;
    }
    return all;
}

static uint64_t counter(const rig *r, enum nfm_core_counter which) {
    return r->w->core_counters[which];
}

static void test_frames_pass_byte_for_byte_when_nobody_decides(void) {
    rig r = make_rig();
    uint32_t n[FLOWS];
    run(&r, NULL);
    CHECK_EQ(check_order(&r, n, NULL), FRAMES);
    uint64_t at = 0;
    for (uint32_t serial = 0; serial < PER_FLOW; serial++) {
        for (uint32_t flow = 0; flow < FLOWS; flow++) {
            uint8_t want[256];
            uint32_t len = numbered_frame(want, flow, serial);
            nfm_view frame = nfm_port_mem_sent(r.out, &at);
            CHECK_EQ(frame.len, len);
            CHECK(memcmp(frame.data, want, len) == 0);
        }
    }
    end_rig(&r);
}

static uint32_t pass_all(const nfm_mem *mem, const nfm_desc *desc, nfm_edit *edit) {
    (void)mem, (void)desc, (void)edit;
    return NFM_PASS;
}

static uint32_t drop_odd(const nfm_mem *mem, const nfm_desc *desc, nfm_edit *edit) {
    uint32_t words[2];
    (void)edit;
    words_of(mem, desc->record, words);
    return words[1] % 2 ? NFM_DROP : NFM_PASS;
}

static uint32_t drop_thirds(const nfm_mem *mem, const nfm_desc *desc, nfm_edit *edit) {
    uint32_t words[2];
    (void)edit;
    words_of(mem, desc->record, words);
    return words[1] % 3 == 0 ? NFM_DROP : NFM_PASS;
}

static void test_the_most_restrictive_verdict_of_all_stages_holds(void) {
    rig r = make_rig();
    uint32_t n[FLOWS];
    const judge_fn judges[] = {drop_odd, pass_all, drop_thirds};
    add_judge(&r, 0, false);
    add_judge(&r, 0, false);
    add_judge(&r, 1, false);
    run(&r, judges);
    uint32_t want = 0;
    for (uint32_t serial = 0; serial < PER_FLOW; serial++)
        want += serial % 2 == 0 && serial % 3 != 0;
    CHECK_EQ(check_order(&r, n, (const uint8_t *)""), want * FLOWS);
    for (uint32_t flow = 0; flow < FLOWS; flow++)
        CHECK_EQ(n[flow], want);
    CHECK_EQ(counter(&r, NFM_CC_INLINE_DROPPED), FRAMES - want * FLOWS);
    end_rig(&r);
}

static uint32_t drop_rest_of_odd_flows(const nfm_mem *mem, const nfm_desc *desc, nfm_edit *edit) {
    uint32_t words[2];
    (void)edit;
    words_of(mem, desc->record, words);
    return words[0] % 2 ? NFM_DROP | NFM_REST : NFM_PASS | NFM_REST;
}

static void test_a_verdict_for_the_rest_is_not_asked_for_again(void) {
    rig r = make_rig();
    uint32_t n[FLOWS];
    const judge_fn judges[] = {drop_rest_of_odd_flows};
    add_judge(&r, 0, false);
    run(&r, judges);
    CHECK_EQ(check_order(&r, n, NULL), FRAMES / 2);
    CHECK(r.ring[0]->head < FRAMES / 2);
    CHECK_EQ(counter(&r, NFM_CC_INLINE_DROPPED), FRAMES / 2);
    end_rig(&r);
}

static uint32_t rewrite(const nfm_mem *mem, const nfm_desc *desc, nfm_edit *edit) {
    (void)mem, (void)desc;
    *edit = (nfm_edit){.fields = NFM_EDIT_SRC | NFM_EDIT_SRC_PORT | NFM_EDIT_TTL_DOWN |
                                 NFM_EDIT_VLAN_PUSH | NFM_EDIT_DST_MAC,
                       .src_port = 7777,
                       .vlan = 5,
                       .ttl = 1,
                       .dst_mac = {2, 9, 9, 9, 9, 9}};
    nfm_write32(edit->src, 0xc0a80001);
    return NFM_REWRITE;
}

static void test_edited_frames_are_right_again(void) {
    rig r = make_rig();
    const judge_fn judges[] = {rewrite};
    add_judge(&r, 0, false);
    run(&r, judges);
    uint64_t at = 0;
    uint32_t all = 0;
    nfm_view frame;
    while ((frame = nfm_port_mem_sent(r.out, &at)).data != NULL) {
        nfm_record record;
        nfm_flow_info info;
        uint8_t copy[256];
        memcpy(copy, frame.data, frame.len);
        CHECK_EQ(nfm_parse_frame(copy, frame.len, frame.len, 1, 0, &record, &info), 0);
        CHECK_EQ(record.flags & (NFM_F_BAD_L3_CSUM | NFM_F_BAD_L4_CSUM), 0);
        CHECK_EQ(nfm_read32(info.addr[0]), 0xc0a80001);
        CHECK_EQ(info.port[0], 7777);
        CHECK_EQ(info.vlan[0], 5);
        CHECK_EQ(copy[14 + 4 + 8], 63);
        CHECK_EQ(copy[1], 9);
        uint32_t l4 = 14 + 4 + 20;
        uint32_t sum = nfm_csum_add(0, copy + 14 + 4 + 12, 8) + IPPROTO_UDP + (frame.len - l4);
        CHECK_EQ(nfm_csum_fold(nfm_csum_add(sum, copy + l4, frame.len - l4)), 0);
        CHECK_EQ(nfm_csum_fold(nfm_csum_add(0, copy + 18, 20)), 0);
        all++;
    }
    CHECK_EQ(all, FRAMES);
    CHECK_EQ(counter(&r, NFM_CC_INLINE_REWRITTEN), FRAMES);
    end_rig(&r);
}

static uint32_t rewrite_flow(const nfm_mem *mem, const nfm_desc *desc, nfm_edit *edit) {
    uint32_t words[2];
    words_of(mem, desc->record, words);
    *edit = (nfm_edit){.fields = NFM_EDIT_SRC_PORT, .src_port = (uint16_t)(40000 + words[0])};
    return NFM_REWRITE | NFM_REST;
}

/* Many packets of a flow are asked about before the first verdict is known. */
static void test_a_flow_is_rewritten_from_its_first_packet_to_its_last(void) {
    rig r = make_rig();
    uint32_t n[FLOWS], all = 0;
    const judge_fn judges[] = {rewrite_flow};
    add_judge(&r, 0, false);
    run(&r, judges);
    CHECK_EQ(check_order(&r, n, NULL), FRAMES);
    uint64_t at = 0;
    nfm_view frame;
    while ((frame = nfm_port_mem_sent(r.out, &at)).data != NULL) {
        uint32_t words[2];
        memcpy(words, frame.data + frame.len - 8, 8);
        CHECK_EQ(nfm_read16(frame.data + 34), 40000 + words[0]);
        all++;
    }
    CHECK_EQ(counter(&r, NFM_CC_INLINE_BAD), 0);
    CHECK_EQ(counter(&r, NFM_CC_INLINE_REWRITTEN), all);
    end_rig(&r);
}

static rig *keeping;
static int kept[64];
static uint32_t n_kept;

static uint32_t keep_some(const nfm_mem *mem, const nfm_desc *desc, nfm_edit *edit) {
    uint32_t words[2];
    (void)edit;
    words_of(mem, desc->record, words);
    if (words[0] != 3 || words[1] % 10 != 0)
        return NFM_PASS;
    int hold = nfm_ring_hold(keeping->ring[0], desc->record);
    CHECK(hold >= 0);
    kept[n_kept++] = hold;
    return NFM_KEEP | (uint32_t)hold << NFM_ARG_SHIFT;
}

static void test_kept_frames_hold_their_flow_back_until_they_are_judged(void) {
    rig r = make_rig();
    nfm_error err = {0};
    uint32_t n[FLOWS];
    keeping = &r;
    n_kept = 0;
    add_judge(&r, 0, false);
    CHECK_EQ(nfm_worker_start(r.w, &err), NFM_OK);
    for (int turn = 0; turn < 10000; turn++) {
        int why = nfm_worker_run(r.w, 64);
        if (why == NFM_RUN_EOF)
            break;
        bool idle = serve(&r, 0, keep_some) == 0;
        if (turn == 5)
            CHECK(check_order(&r, n, NULL) > 0 && n[3] == 0 && n[4] > 0);
        if ((idle || n_kept == 4) && n_kept > 0) {
            CHECK_EQ(nfm_ring_judge(r.ring[0], (uint32_t)kept[0], NFM_PASS), NFM_OK);
            memmove(kept, kept + 1, --n_kept * sizeof(*kept));
        }
    }
    while (n_kept > 0) {
        CHECK_EQ(nfm_ring_judge(r.ring[0], (uint32_t)kept[--n_kept], NFM_PASS), NFM_OK);
    }
    while (nfm_worker_run(r.w, 64) != NFM_RUN_EOF)
        serve(&r, 0, keep_some);
    CHECK_EQ(check_order(&r, n, NULL), FRAMES);
    CHECK_EQ(counter(&r, NFM_CC_COMMAND_BAD), 0);
    end_rig(&r);
}

static uint32_t nonsense(const nfm_mem *mem, const nfm_desc *desc, nfm_edit *edit) {
    (void)mem, (void)edit;
    static const uint32_t words[] = {0x77, NFM_MIRROR | 99u << NFM_ARG_SHIFT,
                                     NFM_REDIRECT | 50u << NFM_ARG_SHIFT,
                                     NFM_KEEP | 0x7fffffu << NFM_ARG_SHIFT, 0xffffffff};
    return words[desc->record % 5];
}

static void test_verdicts_without_sense_take_the_policy(void) {
    for (int open = 0; open < 2; open++) {
        rig r = make_rig();
        uint32_t n[FLOWS];
        const judge_fn judges[] = {nonsense};
        add_judge(&r, 0, open);
        run(&r, judges);
        CHECK_EQ(check_order(&r, n, (const uint8_t *)""), open ? FRAMES : 0);
        CHECK_EQ(counter(&r, NFM_CC_INLINE_BAD), FRAMES);
        end_rig(&r);
    }
}

static void test_a_judge_that_is_removed_or_lies_takes_the_policy(void) {
    for (int lies = 0; lies < 2; lies++) {
        rig r = make_rig();
        nfm_error err = {0};
        uint32_t n[FLOWS];
        add_judge(&r, 0, true);
        CHECK_EQ(nfm_worker_start(r.w, &err), NFM_OK);
        CHECK(nfm_worker_run(r.w, 96) != NFM_RUN_EOF);
        CHECK_EQ(check_order(&r, n, NULL), 0);
        if (lies) {
            r.ring[0]->shared->tail = 1000000;
        } else {
            CHECK_EQ(nfm_worker_unsubscribe(r.w, 0), NFM_OK);
            CHECK_EQ(nfm_worker_remove_ring(r.w, r.ring[0]), NFM_OK);
        }
        for (int turn = 0; turn < 1000 && nfm_worker_run(r.w, 1 << 20) != NFM_RUN_EOF; turn++)
            ;
        CHECK_EQ(check_order(&r, n, NULL), FRAMES);
        CHECK(counter(&r, NFM_CC_INLINE_FAILED_OPEN) > 0);
        end_rig(&r);
    }
}

static void test_a_judge_that_is_late_takes_the_policy_and_holds_nobody_up(void) {
    for (int open = 0; open < 2; open++) {
        rig r = make_rig();
        nfm_error err = {0};
        uint32_t n[FLOWS];
        const judge_fn judge = pass_all;
        add_judge(&r, 0, open);
        r.ring[0]->in_line->config.deadline_ns = 1000;
        CHECK_EQ(nfm_worker_start(r.w, &err), NFM_OK);
        r.w->way->is_live = true; /* there are deadlines where packets do not wait by themselves */
        for (int turn = 0; turn < 1000 && !r.w->finishing; turn++)
            (void)nfm_worker_run(r.w, 64);
        CHECK(r.w->finishing);
        CHECK_EQ(check_order(&r, n, NULL), open ? FRAMES : 0);
        CHECK(counter(&r, NFM_CC_INLINE_LATE) > 0);
        while (nfm_worker_run(r.w, 64) != NFM_RUN_EOF)
            serve(&r, 0, judge);
        CHECK_EQ(check_order(&r, n, NULL), open ? FRAMES : 0);
        end_rig(&r);
    }
}

/* Passes what is there without judging it, as who keeps the rings of one that is gone does. */
static void pass_unjudged(nfm_ring *ring) {
    const nfm_desc *desc;
    uint32_t n = nfm_ring_peek(ring, &desc, UINT32_MAX);
    memset(nfm_ring_verdicts(ring, n), 0xff, n * sizeof(uint32_t)); /* left there by an older lap */
    nfm_ring_advance(ring, n);
}

static void test_what_a_judge_decided_before_it_left_holds_and_no_more(void) {
    for (int mode = 0; mode < 4; mode++) { /* open, closed; the next one there at once, or never */
        bool open = mode & 1, comes = mode & 2;
        rig r = make_rig();
        nfm_error err = {0};
        uint32_t n[FLOWS], judged = 0;
        const judge_fn judge = open ? drop_odd : pass_all;
        add_judge(&r, 0, open);
        CHECK_EQ(nfm_worker_start(r.w, &err), NFM_OK);
        CHECK(nfm_worker_run(r.w, 96) != NFM_RUN_EOF);
        judged = serve(&r, 0, judge); /* of serial 0 and 1: both kinds */
        nfm_ring_leave(r.ring[0]);
        pass_unjudged(r.ring[0]);
        if (comes)
            nfm_ring_come(r.ring[0]);
        for (int turn = 0; turn < 1000 && nfm_worker_run(r.w, 64) != NFM_RUN_EOF; turn++) {
            if (comes)
                serve(&r, 0, pass_all);
            else
                pass_unjudged(r.ring[0]);
        }
        uint32_t dropped = judged > FLOWS ? judged - FLOWS : 0, unjudged = 96 - judged;
        CHECK(dropped > 0 && unjudged > 0);
        uint32_t left = open ? FRAMES - dropped : comes ? FRAMES - unjudged : judged;
        CHECK_EQ(check_order(&r, n, (const uint8_t *)""), left);
        CHECK_EQ(counter(&r, open ? NFM_CC_INLINE_FAILED_OPEN : NFM_CC_INLINE_FAILED_CLOSED),
                 comes ? unjudged : FRAMES - judged);
        CHECK_EQ(counter(&r, NFM_CC_INLINE_BAD), 0);
        end_rig(&r);
    }
}

static uint32_t reject_all(const nfm_mem *mem, const nfm_desc *desc, nfm_edit *edit) {
    (void)mem, (void)desc, (void)edit;
    return NFM_REJECT;
}

static void test_who_is_rejected_is_told(void) {
    rig r = make_rig();
    const judge_fn judges[] = {reject_all};
    CHECK_EQ(nfm_port_mem_keep(r.in, 1 << 20), NFM_OK);
    add_judge(&r, 0, true);
    run(&r, judges);
    uint64_t at = 0;
    uint32_t all = 0;
    nfm_view frame;
    while ((frame = nfm_port_mem_sent(r.in, &at)).data != NULL) {
        CHECK_EQ(frame.data[5], 1); /* to the MAC address that sent it */
        CHECK_EQ(frame.data[23], IPPROTO_ICMP);
        CHECK_EQ(frame.data[34] << 8 | frame.data[35], 3 << 8 | 13);
        CHECK_EQ(nfm_csum_fold(nfm_csum_add(0, frame.data + 14, 20)), 0);
        CHECK_EQ(nfm_csum_fold(nfm_csum_add(0, frame.data + 34, frame.len - 34)), 0);
        all++;
    }
    CHECK_EQ(all, FRAMES);
    CHECK_EQ(counter(&r, NFM_CC_INLINE_REJECTED), FRAMES);
    end_rig(&r);
}

static void test_who_comes_through_a_tunnel_is_not_answered(void) {
    rig r = make_rig();
    const judge_fn judges[] = {reject_all};
    uint8_t inner[256], frame[300] = {0};
    uint32_t len = numbered_frame(inner, 0, 0) - 14;
    const uint8_t outer[24] = {
        0x45, 0, 0, (uint8_t)(24 + len), 0, 1, 0, 0, 64, 47, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0,
        0,    8, 0}; /* GRE, IPv4 inside */
    memcpy(frame, inner, 14);
    memcpy(frame + 14, outer, sizeof(outer));
    memcpy(frame + 14 + sizeof(outer), inner + 14, len);
    len += 14 + (uint32_t)sizeof(outer);
    CHECK_EQ(nfm_port_mem_push(r.in, frame, len, len, INT64_C(1) << 62), NFM_OK);
    CHECK_EQ(nfm_port_mem_keep(r.in, 1 << 20), NFM_OK);
    add_judge(&r, 0, true);
    run(&r, judges);
    uint64_t at = 0;
    uint32_t all = 0;
    while (nfm_port_mem_sent(r.in, &at).data != NULL)
        all++;
    CHECK_EQ(all, FRAMES);
    CHECK_EQ(counter(&r, NFM_CC_INLINE_REJECTED), FRAMES + 1);
    end_rig(&r);
}

static const nfm_test tests[] = {
    T(test_frames_pass_byte_for_byte_when_nobody_decides),
    T(test_the_most_restrictive_verdict_of_all_stages_holds),
    T(test_a_verdict_for_the_rest_is_not_asked_for_again),
    T(test_edited_frames_are_right_again),
    T(test_a_flow_is_rewritten_from_its_first_packet_to_its_last),
    T(test_kept_frames_hold_their_flow_back_until_they_are_judged),
    T(test_verdicts_without_sense_take_the_policy),
    T(test_a_judge_that_is_removed_or_lies_takes_the_policy),
    T(test_a_judge_that_is_late_takes_the_policy_and_holds_nobody_up),
    T(test_what_a_judge_decided_before_it_left_holds_and_no_more),
    T(test_who_is_rejected_is_told),
    T(test_who_comes_through_a_tunnel_is_not_answered),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
