/* SPDX-License-Identifier: Apache-2.0 */
/* What inline receivers send themselves, where they let packets leave, and kept packets rewritten.
 */
#include "nfs/nf_rig.h"

enum { HOST = 0x0a000001, PEER = 0xc6336401 };

static const uint8_t next_hop[6] = {2, 0, 0, 0, 0, 0x99};

typedef struct judge { /* an NF: says the same of all packets */
    uint32_t verdict;
    nfm_edit edit;
    int hold;
    bool keeps;
    nfm_ring *ring;
} judge;

static int judge_process(void *state, const nfm_batch *b) {
    judge *self = state;
    self->ring = b->ring;
    for (uint32_t i = 0; i < b->n; i++) {
        if (!(b->desc[i].what & 0x1f))
            continue;
        b->verdict[i] = self->verdict;
        b->edit[i] = self->edit;
        if (self->keeps) {
            self->hold = nfm_ring_hold(b->ring, b->desc[i].record);
            CHECK(self->hold >= 0);
            b->verdict[i] = NFM_KEEP | (uint32_t)self->hold << NFM_ARG_SHIFT;
        }
    }
    return NFM_OK;
}

static nf_rig *begin(judge *self) {
    nf_rig *r = nf_rig_new(judge_process, self, false);
    nfm_error err = {0};
    CHECK_EQ(nfm_worker_allow_holds(r->w, r->ring, 8, &err), NFM_OK);
    nf_rig_start(r);
    return r;
}

static wire_frame datagram(void) {
    message m = {.proto = IPPROTO_UDP, .src = HOST, .dst = PEER, .src_port = 9, .dst_port = 53};
    m.payload = (nfm_view){(const uint8_t *)"question", 8};
    return frame_of(&m);
}

static nfm_edit routed(uint8_t out) {
    nfm_edit edit = {.fields = NFM_EDIT_DST_MAC | NFM_EDIT_HOP | NFM_EDIT_OUT, .out = out};
    memcpy(edit.dst_mac, next_hop, 6);
    return edit;
}

static void check_routed(nf_rig *r, int wire) {
    const wire_frame *f = nf_rig_take(r, wire);
    message m = read_frame(f);
    CHECK_EQ(m.dst, PEER);
    CHECK(f != NULL && memcmp(f->data, next_hop, 6) == 0 && f->data[14 + 8] == 63);
    CHECK(nf_rig_take(r, INSIDE) == NULL && nf_rig_take(r, OUTSIDE) == NULL);
}

static void test_a_frame_of_its_own_leaves_by_the_port_it_names(void) {
    judge self = {.verdict = NFM_DROP};
    nf_rig *r = begin(&self);
    wire_frame sent = datagram();
    nf_rig_send(r, INSIDE, &sent);
    CHECK(nf_rig_take(r, INSIDE) == NULL && nf_rig_take(r, OUTSIDE) == NULL);
    for (int wire = 0; wire < 2; wire++) {
        CHECK_EQ(nfm_ring_inject(self.ring, (uint32_t)wire, sent.data, sent.len), NFM_OK);
        nfm_worker_take_commands(r->w);
        const wire_frame *f = nf_rig_take(r, wire);
        CHECK(f != NULL && f->len == sent.len && memcmp(f->data, sent.data, sent.len) == 0);
    }
    CHECK_EQ(nf_rig_counter(r, NFM_CC_INJECTED), 2);
    nf_rig_free(r);
}

static int swallow(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    (void)port;
    for (uint32_t i = 0; i < n; i++)
        nfm_pool_put(pool, frames[i].slot);
    return (int)n;
}

static void test_room_for_frames_comes_back(void) {
    static const nfm_port_ops sink = {
        .name = "sink", .rx = wire_rx, .tx = swallow, .wait_fd = wire_fd, .free = wire_free};
    judge self = {.verdict = NFM_DROP};
    nf_rig *r = begin(&self);
    wire_frame sent = datagram();
    nf_rig_send(r, INSIDE, &sent);
    r->wire[OUTSIDE].port.ops = &sink;
    uint8_t *frame = calloc(1, NFM_MAX_FRAME + 1);
    uint32_t all = 0;
    for (uint32_t round = 0; round < 40; round++) {
        uint32_t n = 0, len = 1500 + 11 * round;
        while (nfm_ring_inject(self.ring, OUTSIDE, frame, len) == NFM_OK)
            n++;
        CHECK(n >= NFM_OUT_BYTES / len - 1);
        nfm_worker_take_commands(r->w);
        all += n;
    }
    CHECK_EQ(nfm_ring_inject(self.ring, OUTSIDE, frame, NFM_MAX_FRAME + 1), NFM_E_INVAL);
    CHECK_EQ(nfm_ring_inject(self.ring, OUTSIDE, frame, 0), NFM_E_INVAL);
    CHECK_EQ(nf_rig_counter(r, NFM_CC_INJECTED), all);
    free(frame);
    nf_rig_free(r);
}

static void test_what_makes_no_sense_is_counted(void) {
    judge self = {.verdict = NFM_DROP};
    nf_rig *r = begin(&self);
    wire_frame sent = datagram();
    nf_rig_send(r, INSIDE, &sent);
    CHECK_EQ(nfm_ring_inject(self.ring, 2, sent.data, sent.len), NFM_OK); /* no such port */
    nfm_ring_shared *shared = r->ring->shared;
    for (int lie = 0; lie < 2; lie++) { /* bytes that are not all in out */
        CHECK_EQ(nfm_ring_inject(self.ring, OUTSIDE, sent.data, sent.len), NFM_OK);
        nfm_command *c = &shared->command[(r->ring->cmd_head - 1) % NFM_COMMANDS];
        c->b = lie == 0 ? UINT64_MAX : NFM_OUT_BYTES;
        c->out_end = 77;
    }
    nfm_worker_take_commands(r->w);
    CHECK_EQ(nf_rig_counter(r, NFM_CC_COMMAND_BAD), 3);
    CHECK(nf_rig_take(r, OUTSIDE) == NULL);
    nf_rig_free(r);
}

static void test_who_only_observes_sends_nothing(void) {
    judge self = {.verdict = NFM_PASS};
    nf_rig *r = begin(&self);
    nfm_error err = {0};
    nfm_ring *observer = nfm_worker_add_ring(r->w, 64, &err);
    wire_frame sent = datagram();
    CHECK_EQ(nfm_ring_inject(observer, OUTSIDE, sent.data, sent.len), NFM_OK);
    nfm_worker_take_commands(r->w);
    CHECK_EQ(nf_rig_counter(r, NFM_CC_COMMAND_BAD), 1);
    CHECK_EQ(nf_rig_counter(r, NFM_CC_INJECTED), 0);
    nf_rig_free(r);
}

static void test_an_edit_chooses_the_port(void) {
    for (uint8_t out = 0; out < 2; out++) {
        judge self = {.verdict = NFM_REWRITE, .edit = routed(out)};
        nf_rig *r = begin(&self);
        wire_frame sent = datagram();
        nf_rig_send(r, INSIDE, &sent);
        check_routed(r, out);
        nf_rig_free(r);
    }
}

static void test_an_edit_to_no_port_is_a_bad_verdict(void) {
    judge self = {.verdict = NFM_REWRITE, .edit = routed(7)};
    nf_rig *r = begin(&self);
    wire_frame sent = datagram();
    nf_rig_send(r, INSIDE, &sent);
    CHECK(nf_rig_take(r, OUTSIDE) == NULL);
    CHECK_EQ(nf_rig_counter(r, NFM_CC_INLINE_BAD), 1);
    nf_rig_free(r);
}

static void test_a_rule_sends_a_flow_there_and_its_answers_back(void) {
    judge self = {.verdict = NFM_REWRITE | NFM_REST, .edit = routed(INSIDE)};
    nf_rig *r = begin(&self);
    wire_frame sent = datagram();
    for (int i = 0; i < 2; i++) {
        nf_rig_send(r, INSIDE, &sent);
        check_routed(r, INSIDE);
    }
    message answer = {
        .proto = IPPROTO_UDP, .src = PEER, .dst = HOST, .src_port = 53, .dst_port = 9};
    wire_frame back = frame_of(&answer);
    nf_rig_send(r, OUTSIDE, &back);
    CHECK_EQ(read_frame(nf_rig_take(r, INSIDE)).dst, HOST);
    nf_rig_free(r);
}

static void test_a_kept_packet_is_rewritten(void) {
    judge self = {.keeps = true};
    nf_rig *r = begin(&self);
    wire_frame sent = datagram();
    nf_rig_send(r, INSIDE, &sent);
    CHECK(nf_rig_take(r, OUTSIDE) == NULL);
    nfm_edit edit = routed(OUTSIDE);
    CHECK_EQ(nfm_ring_rewrite(self.ring, (uint32_t)self.hold, &edit), NFM_OK);
    nf_rig_run(r);
    check_routed(r, OUTSIDE);
    nf_rig_free(r);
}

static void test_a_hop_that_is_the_last_goes_no_further(void) {
    judge self = {.verdict = NFM_REWRITE, .edit = routed(OUTSIDE)};
    nf_rig *r = begin(&self);
    wire_frame sent = datagram();
    sent.data[14 + 8] = 1;
    nf_rig_send(r, INSIDE, &sent);
    CHECK(nf_rig_take(r, OUTSIDE) == NULL);
    CHECK_EQ(nf_rig_counter(r, NFM_CC_INLINE_UNEDITED), 1);
    nf_rig_free(r);
}

static const nfm_test tests[] = {
    T(test_a_frame_of_its_own_leaves_by_the_port_it_names),
    T(test_room_for_frames_comes_back),
    T(test_what_makes_no_sense_is_counted),
    T(test_who_only_observes_sends_nothing),
    T(test_an_edit_chooses_the_port),
    T(test_an_edit_to_no_port_is_a_bad_verdict),
    T(test_a_rule_sends_a_flow_there_and_its_answers_back),
    T(test_a_kept_packet_is_rewritten),
    T(test_a_hop_that_is_the_last_goes_no_further),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
