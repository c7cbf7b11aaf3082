/* SPDX-License-Identifier: Apache-2.0 */
/* A module that uses all of the SDK sees in its host what it sees in-line. */
#include "hosted_rig.h"

#define SECOND INT64_C(1000000000)
enum { FIELDS = 8, DETACH_AFTER = 9 };
enum { C_OPENED, C_CLOSED, C_TICKS, C_LAST, C_REFUSED, N_COUNTERS };

typedef struct probe {
    uint64_t opened_by; /* packet */
    uint32_t seq, hops, events, slot;
    uint16_t port[2];
} probe;

static void probe_open(nfm_ctx *ctx, nfm_flow *flow, const nfm_packet *p, void *state) {
    probe *own = state;
    CHECK_EQ(own->events, 0);
    own->opened_by = p->rec.packet;
    own->seq = p->rec.proto == 6 ? p->seq : 0;
    own->hops = p->ttl;
    own->port[0] = p->key.port[0];
    own->port[1] = flow->key.port[1];
    own->slot = nfm_slot_new(ctx, 100);
    CHECK(own->slot != NFM_NO_SLOT);
    memcpy(nfm_slot_base(ctx, own->slot), &own->opened_by, 8);
    ctx->counters[C_OPENED]++;
}

static void probe_close(nfm_ctx *ctx, nfm_flow *flow, uint32_t index, int64_t now, void *state) {
    probe *own = state;
    (void)now;
    CHECK_EQ(flow->proto, ctx->mem->flows[index].proto);
    nfm_slot_release(ctx, own->slot);
    ctx->counters[C_CLOSED] += own->events;
}

static void probe_tick(nfm_ctx *ctx, int64_t now_ns) {
    ctx->counters[C_TICKS]++;
    ctx->counters[C_LAST] = now_ns == INT64_MAX;
}

/* Raises on either side, with bytes of the packet and of a slot of its own; leaves at some time. */
static void probe_event(nfm_ctx *ctx, const nfm_record *record, nfm_view data, void *state) {
    probe *own = state;
    uint64_t kept;
    memcpy(&kept, nfm_slot_base(ctx, own->slot), 8);
    nfm_value v[FIELDS] = {
        nfm_number(own->opened_by), nfm_number(own->seq),
        nfm_number(own->hops),      nfm_number(own->port[0]),
        nfm_number(own->port[1]),   nfm_number(kept),
        nfm_number(++own->events),  nfm_text((nfm_view){data.data, data.len < 9 ? data.len : 9}),
    };
    CHECK(nfm_wanted(ctx, (uint32_t)record->flow, 0));
    CHECK_EQ(nfm_raise(ctx, 0, v, data), NFM_OK);
    nfm_raise_side(ctx, record->side ^ 1);
    CHECK_EQ(nfm_raise(ctx, 1, v, (nfm_view){data.data, data.len / 2}), NFM_OK);
    if (own->events == DETACH_AFTER && record->kind != NFM_REC_FLOW) {
        nfm_slot_release(ctx, own->slot);
        nfm_detach(ctx);
    }
}

static const char *const needs[] = {"tcp.data", "udp.datagram", "flow.end", NULL};
static const char *const counters[] = {"opened", "closed", "ticks", "last", "refused", NULL};
static const nfm_field_def fields[FIELDS] = {
    NFM_FIELD(0, "opened_by", U64, "", "packet"), NFM_FIELD(1, "seq", U32, "", "of that"),
    NFM_FIELD(2, "hops", U8, "", "of that"),      NFM_FIELD(3, "port", U16, "", "sender"),
    NFM_FIELD(4, "other", U16, "", "receiver"),   NFM_FIELD(5, "kept", U64, "", "in a slot"),
    NFM_FIELD(6, "n", U32, "", "events"),         NFM_FIELD(7, "head", BYTES, "", "first bytes"),
};
static const nfm_event_def emits[] = {NFM_EVENT("probe", fields, "about the record"),
                                      NFM_EVENT("probed", fields, "about the other side")};
static const nfm_module module_probe = {
    .abi = NFM_MODULE_ABI,
    .phase = NFM_PHASE_APP,
    .name = "probe",
    .needs = needs,
    .emits = emits,
    .n_emits = 2,
    .counters = counters,
    .flow_size = sizeof(probe),
    .flow_open = probe_open,
    .flow_close = probe_close,
    .on_event = probe_event,
    .on_tick = probe_tick,
};

typedef struct outcome {
    rig_seen seen;
    uint64_t counters[N_COUNTERS];
} outcome;

static outcome see(const rig_plan *plan, const char *path, uint32_t burst) {
    static rig r;
    outcome found;
    int rc, turns = 0;
    rig_begin(&r);
    rig_start_worker(&r, plan, path);
    for (uint32_t i = 0; i < r.n_hosts; i++)
        rig_start_host(&r, i);
    do {
        rc = nfm_worker_run(r.worker, burst);
        for (uint32_t i = 0; i < r.n_hosts; i++)
            (void)nfm_module_host_run(r.host[i].host, 0, 0);
    } while (rc != NFM_RUN_EOF && rc > 0 && turns++ < 1000000);
    CHECK_EQ(rc, NFM_RUN_EOF);
    rig_check_empty(&r);
    for (int c = 0; c < N_COUNTERS; c++) {
        char name[64];
        snprintf(name, sizeof(name), "probe.%s", counters[c]);
        found.counters[c] = rig_counter(r.worker, name);
    }
    if (r.n_hosts > 0) {
        nfm_module_host_stats stats;
        nfm_module_host_stats_get(r.host[0].host, &stats);
        CHECK(stats.raised > 0);
        CHECK_EQ(stats.refused, 0);
    }
    found.seen = r.seen;
    rig_stop_worker(&r);
    rig_end(&r);
    return found;
}

static void test_all_of_the_sdk_works_in_a_host(void) {
    static const char *const paths[] = {"tests/captures/office.pcap",
                                        "tests/captures/impaired.pcap"};
    rig_plan in_line = {.events = NFM_BIT(NFM_EV_PACKET_TCP) | NFM_BIT(NFM_EV_FLOW_END),
                        .level = NFM_LEVEL_TRACK,
                        .deadline_ns = 20 * SECOND,
                        .extra = &module_probe};
    for (int i = 0; i < 2 && !nfm_test_failed; i++) {
        outcome want = see(&in_line, paths[i], 64);
        CHECK(want.counters[C_OPENED] > 0);
        CHECK(want.counters[C_CLOSED] > 0);
        CHECK(want.counters[C_TICKS] > 0);
        CHECK_EQ(want.counters[C_LAST], 1);
        for (uint32_t burst = 1; burst < 300 && !nfm_test_failed; burst = burst * 3 + 2) {
            rig_plan plan = in_line;
            plan.hosted[0] = "probe";
            plan.hosted[1] = burst % 2 ? "http" : NULL;
            plan.ordered = burst % 4 < 2;
            outcome got = see(&plan, paths[i], burst);
            CHECK_EQ(got.seen.entries, want.seen.entries);
            CHECK(memcmp(got.seen.of_flow, want.seen.of_flow, sizeof(want.seen.of_flow)) == 0);
            CHECK(got.counters[C_TICKS] > 0); /* in-line, each run at the end is one more */
            got.counters[C_TICKS] = want.counters[C_TICKS];
            for (int c = 0; c < N_COUNTERS; c++)
                CHECK_EQ(got.counters[c], want.counters[c]);
        }
    }
}

/* What a host cannot do, or cannot do alike, is refused when it is asked for. */
static void test_modules_that_must_run_in_line_are_refused(void) {
    static rig r;
    nfm_error err = {0};
    nfm_module totals = module_probe, early = module_probe;
    totals.totals = (void (*)(nfm_ctx *, const nfm_flow *, const void *, nfm_record *))(
        void (*)(void))probe_tick;
    early.phase = NFM_PHASE_STREAM;
    rig_begin(&r);
    r.worker = nfm_worker_new(&r.config, &err);
    nfm_hosting hosting = {.module = &totals};
    CHECK_EQ(nfm_worker_add_hosted_module(r.worker, &hosting, &err), NFM_E_INVAL);
    CHECK(strstr(err.text, "totals") != NULL);
    hosting.module = &early;
    CHECK_EQ(nfm_worker_add_hosted_module(r.worker, &hosting, &err), NFM_E_INVAL);
    CHECK(strstr(err.text, "only application modules") != NULL);
    nfm_worker_free(r.worker);
    rig_end(&r);
}

static const nfm_test tests[] = {
    T(test_all_of_the_sdk_works_in_a_host),
    T(test_modules_that_must_run_in_line_are_refused),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
