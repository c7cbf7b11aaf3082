/* SPDX-License-Identifier: Apache-2.0 */
/* How many bursts a frame waits for NFs that answer within one. */
#include "worker_rig.h"

enum { BURSTS = 12, STAGES = 3 };

typedef struct beat_port { /* gives a burst each time, after everybody has answered */
    nfm_port port;
    nfm_ring *ring[STAGES];
    const nfm_port *out;
    uint32_t stages, bursts;
    uint32_t left_before; /* the burst before which the first frame was out; 0: it is not */
} beat_port;

static void answer(nfm_ring *ring) {
    const nfm_desc *desc;
    uint32_t n = nfm_ring_peek(ring, &desc, UINT32_MAX);
    (void)nfm_ring_verdicts(ring, n); /* all pass */
    nfm_ring_advance(ring, n);
}

static int beat_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    beat_port *self = (beat_port *)port;
    nfm_port_stats sent;
    nfm_port_stats_get(self->out, &sent);
    if (sent.tx_packets > 0 && self->left_before == 0)
        self->left_before = self->bursts + 1;
    for (uint32_t i = 0; i < self->stages; i++)
        answer(self->ring[i]);
    if (self->bursts++ >= BURSTS)
        return NFM_E_EOF;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t frame[FRAME_ROOM];
        uint32_t len = numbered_frame(frame, i, self->bursts), slot = nfm_pool_get(pool, len);
        CHECK(slot != NFM_NO_SLOT);
        memcpy(nfm_pool_addr(pool, slot) + NFM_HEADROOM, frame, len);
        frames[i] = (nfm_frame){slot, len, len, 1, self->bursts};
    }
    return (int)n;
}

static void beat_free(nfm_port *port) {
    (void)port;
}

static const nfm_port_ops beat_ops = {.name = "beat", .rx = beat_rx, .free = beat_free};

/* Its own burst, and one for each stage. */
static void a_stage_costs_one_burst(void) {
    for (uint32_t stages = 1; stages <= STAGES; stages++) {
        nfm_error err = {0};
        nfm_port *out = keeping_port();
        beat_port in = {.port = {.ops = &beat_ops}, .out = out, .stages = stages};
        const nfm_worker_config config = small_config();
        nfm_worker *w = worker_between(&config, &in.port, out);
        for (uint32_t i = 0; i < stages; i++)
            in.ring[i] = add_inline(w, (nfm_inline_config){0},
                                    (nfm_subscription){.events = NFM_BIT(NFM_EV_PACKET_UDP),
                                                       .type_first = 1,
                                                       .stage = (uint8_t)i});
        CHECK_EQ(nfm_worker_start(w, &err), NFM_OK);
        for (int rc = NFM_RUN_BUDGET; rc != NFM_RUN_EOF; rc = nfm_worker_run(w, UINT64_MAX))
            for (uint32_t i = 0; i < stages; i++)
                answer(in.ring[i]);
        CHECK_EQ(in.left_before, stages + 2);
        check_idle(w);
        nfm_worker_free(w);
        nfm_port_free(out);
    }
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {T(a_stage_costs_one_burst)};
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
