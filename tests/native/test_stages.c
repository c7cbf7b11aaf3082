/* SPDX-License-Identifier: Apache-2.0 */
/* An editor behind another one: what it is shown, and that both hold. */
#include "nfs/nf_rig.h"

enum { HOST = 0x0a000001, PEER = 0xc6336401, OUTER = 0xc6336402 };

typedef struct second { /* the NF of the later stage */
    nfm_ring *ring;
    uint32_t asked, shown;
    nfm_edit first; /* what it was shown last */
} second;

static int translate(void *state, const nfm_batch *b) {
    const uint32_t *rest = state;
    for (uint32_t i = 0; i < b->n; i++) {
        if (!(b->desc[i].what & 0x1f))
            continue;
        b->verdict[i] = NFM_REWRITE | *rest;
        b->edit[i] = (nfm_edit){.fields = NFM_EDIT_SRC};
        nfm_write32(b->edit[i].src, OUTER);
    }
    return NFM_OK;
}

static int route(void *state, const nfm_batch *b) {
    second *self = state;
    for (uint32_t i = 0; i < b->n; i++) {
        if (!(b->desc[i].what & 0x1f))
            continue;
        self->asked++;
        if (b->desc[i].what & NFM_DESC_EDITED) {
            self->shown++;
            self->first = b->edit[i];
        }
        b->verdict[i] = NFM_REWRITE;
        b->edit[i] = (nfm_edit){.fields = NFM_EDIT_DST_MAC | NFM_EDIT_HOP, .dst_mac = {2, 7}};
    }
    return NFM_OK;
}

static void add_second(nf_rig *r, second *self) {
    nfm_error err = {0};
    nfm_inline_config judge = {0};
    self->ring = nfm_worker_add_ring(r->w, 64, &err);
    CHECK_EQ(nfm_worker_make_inline(r->w, self->ring, &judge), NFM_OK);
    CHECK_EQ(nfm_worker_attach_native(r->w, self->ring, route, self), NFM_OK);
    nfm_subscription sub = {
        .ring = self->ring, .events = 0x1f, .type_first = 1, .in_line = 1, .stage = 9};
    CHECK(nfm_worker_subscribe(r->w, &sub) >= 0);
}

static wire_frame datagram(uint32_t src, uint32_t dst) {
    message m = {.proto = IPPROTO_UDP, .src = src, .dst = dst, .src_port = 9, .dst_port = 9};
    m.payload = (nfm_view){(const uint8_t *)"question", 8};
    return frame_of(&m);
}

static void check_both(const wire_frame *f) {
    CHECK_EQ(read_frame(f).src, OUTER);
    CHECK(f != NULL && f->data[1] == 7 && f->data[14 + 8] == 63);
}

static void run(uint32_t rest) {
    second self = {0};
    nf_rig *r = nf_rig_new(translate, &rest, false);
    add_second(r, &self);
    nf_rig_start(r);
    for (uint32_t i = 0; i < 3; i++) {
        wire_frame sent = datagram(HOST, PEER);
        nf_rig_send(r, INSIDE, &sent);
        nf_rig_run(r);
        check_both(nf_rig_take(r, OUTSIDE));
        CHECK_EQ(self.shown, i + 1);
        CHECK_EQ(self.first.fields & (NFM_EDIT_SRC | NFM_EDIT_DST), NFM_EDIT_SRC);
        CHECK_EQ(nfm_read32(self.first.src), OUTER);
    }
    if (rest != 0) { /* the way back */
        wire_frame sent = datagram(PEER, OUTER);
        nf_rig_send(r, OUTSIDE, &sent);
        nf_rig_run(r);
        CHECK_EQ(read_frame(nf_rig_take(r, INSIDE)).dst, HOST);
        CHECK_EQ(nfm_read32(self.first.dst), HOST);
    }
    CHECK_EQ(nf_rig_counter(r, NFM_CC_INLINE_BAD), 0);
    nf_rig_free(r);
}

static void test_edits_of_two_stages_hold_together(void) {
    run(0);
}

static void test_a_rule_is_shown_to_later_stages(void) {
    run(NFM_REST);
}

/* The error is the first packet after the verdict that ended the translator's subscription. */
static void test_an_error_about_the_flow_is_asked_about_too(void) {
    uint32_t rest = NFM_REST;
    second self = {0};
    nf_rig *r = nf_rig_new(translate, &rest, false);
    add_second(r, &self);
    nf_rig_start(r);
    wire_frame sent = datagram(HOST, PEER), seen;
    nf_rig_send(r, INSIDE, &sent);
    nf_rig_run(r);
    const wire_frame *out = nf_rig_take(r, OUTSIDE);
    check_both(out);
    seen = *out;
    wire_frame error = error_about(&seen, 3 << 8 | 3, PEER, 28);
    nf_rig_send(r, OUTSIDE, &error);
    nf_rig_run(r);
    CHECK_EQ(self.asked, 2);
    out = nf_rig_take(r, INSIDE);
    CHECK_EQ(read_frame(out).dst, HOST);
    CHECK(out != NULL && out->data[1] == 7 && out->data[14 + 8] == 63);
    nf_rig_free(r);
}

static void test_who_is_first_is_shown_nothing(void) {
    second self = {0};
    nf_rig *r = nf_rig_new(route, &self, false);
    nf_rig_start(r);
    wire_frame sent = datagram(HOST, PEER);
    nf_rig_send(r, INSIDE, &sent);
    CHECK_EQ(self.asked, 1);
    CHECK_EQ(self.shown, 0);
    nf_rig_free(r);
}

static const nfm_test tests[] = {
    T(test_edits_of_two_stages_hold_together),
    T(test_a_rule_is_shown_to_later_stages),
    T(test_an_error_about_the_flow_is_asked_about_too),
    T(test_who_is_first_is_shown_nothing),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
