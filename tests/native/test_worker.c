/* SPDX-License-Identifier: Apache-2.0 */
/* The worker with modules made for the test: a UDP tracker, and an application module that raises
 * one typed event per datagram. */
#include "worker_rig.h"

#define SECOND INT64_C(1000000000)
enum { TYPE_WORD = 100, SEEN_MAX = 4096 };

/* ---- the modules ---- */

static int udp_packet(nfm_ctx *ctx, nfm_packet *p, void *state) {
    (void)ctx, (void)state;
    p->rec.events |= NFM_BIT(NFM_EV_UDP_DATAGRAM);
    return 0;
}

static const nfm_module module_udp = {
    .abi = NFM_MODULE_ABI,
    .phase = NFM_PHASE_TRACK,
    .name = "test_udp",
    .proto = IPPROTO_UDP,
    .on_packet = udp_packet,
};

typedef struct word_state {
    uint32_t opened, words;
} word_state;

static uint32_t closed_words;

static void word_open(nfm_ctx *ctx, nfm_flow *flow, const nfm_packet *p, void *state) {
    (void)ctx, (void)flow, (void)p;
    ((word_state *)state)->opened++;
}

static void word_close(nfm_ctx *ctx, nfm_flow *flow, uint32_t index, int64_t now, void *state) {
    (void)ctx, (void)flow, (void)index, (void)now;
    CHECK_EQ(((word_state *)state)->opened, 1);
    closed_words += ((word_state *)state)->words;
}

/* "!" makes the module lose interest; anything else is raised as a word with its ordinal. */
static void word_event(nfm_ctx *ctx, const nfm_record *record, nfm_view data, void *state) {
    word_state *words = state;
    if (!(record->events & NFM_BIT(NFM_EV_UDP_DATAGRAM)))
        return;
    ctx->counters[0]++;
    if (data.len > 0 && data.data[0] == '!') {
        nfm_detach(ctx);
        return;
    }
    nfm_value values[2] = {{.number = ++words->words}, {.bytes = data}};
    CHECK_EQ(nfm_raise(ctx, 0, values, data), NFM_OK);
}

static const char *const word_needs[] = {"udp.datagram", NULL};
static const char *const word_counters[] = {"datagrams", NULL};
static const nfm_field_def word_fields[] = {
    {"ordinal", NFM_KIND_U32, NFM_FROM_FIELDS, 0, "", "nth word of the flow"},
    {"text", NFM_KIND_STR, NFM_FROM_FIELDS, 8, "", "the word"},
};
static const nfm_event_def word_events[] = {{"word", -1, 2, word_fields, "a word"}};
static const nfm_limit_def word_limits[] = {{"most", 10, 1, 20, "for the test"}};
static const nfm_module module_word = {
    .abi = NFM_MODULE_ABI,
    .phase = NFM_PHASE_APP,
    .name = "test_word",
    .proto = IPPROTO_UDP,
    .needs = word_needs,
    .emits = word_events,
    .n_emits = 1,
    .counters = word_counters,
    .limits = word_limits,
    .n_limits = 1,
    .flow_size = sizeof(word_state),
    .flow_open = word_open,
    .flow_close = word_close,
    .on_event = word_event,
};

/* ---- a bench around a worker ---- */

typedef struct seen {
    nfm_desc desc;
    nfm_record record;
    char text[32];
    uint32_t ordinal; /* first field of an application event */
} seen;

typedef struct rig {
    nfm_port *port;
    nfm_worker *worker;
    nfm_ring *ring;
    seen *all;
    uint32_t n;
} rig;

static rig make(uint32_t max_flows) {
    rig r = {.all = calloc(SEEN_MAX, sizeof(seen))};
    nfm_error err = {0};
    nfm_worker_config config = small_config();
    config.max_flows = max_flows;
    r.port = nfm_port_mem_new(1, &err);
    r.worker = nfm_worker_new(&config, &err);
    CHECK(r.worker != NULL);
    CHECK_EQ(nfm_worker_add_port(r.worker, r.port), NFM_OK);
    r.ring = nfm_worker_add_ring(r.worker, 64, &err);
    CHECK(r.ring != NULL);
    return r;
}

static void add_modules(rig *r) {
    static const uint32_t types[] = {TYPE_WORD};
    CHECK_EQ(nfm_worker_add_module(r->worker, &module_udp, NULL, NULL, NULL), 0);
    CHECK_EQ(nfm_worker_add_module(r->worker, &module_word, NULL, types, NULL), 1);
}

static void subscribe(rig *r, uint64_t events, bool words) {
    nfm_subscription sub = {
        .ring = r->ring,
        .handler = 5,
        .level = NFM_LEVEL_TRACK,
        .events = events,
        .type_first = words ? TYPE_WORD : 1,
        .type_last = words ? TYPE_WORD + 5 : 0,
        .modules = words ? 2 : 0,
    };
    CHECK_EQ(nfm_worker_subscribe(r->worker, &sub), NFM_OK);
}

static void push_udp(rig *r, uint16_t port, bool reply, const char *text, int64_t ts_ns) {
    uint8_t frame[FRAME_ROOM];
    nfm_key key = {.ip_version = 4, .proto = IPPROTO_UDP};
    memcpy(key.addr[reply], "\x0a\x00\x00\x01", 4);
    memcpy(key.addr[!reply], "\x0a\x00\x00\x02", 4);
    key.port[reply] = port;
    key.port[!reply] = 9;
    uint32_t len = udp_frame(frame, &key, text, (uint32_t)strlen(text));
    CHECK_EQ(nfm_port_mem_push(r->port, frame, len, len, ts_ns), NFM_OK);
}

static void drain(rig *r) {
    const nfm_desc *desc;
    uint32_t n;
    while ((n = nfm_ring_peek(r->ring, &desc, 64)) > 0) {
        for (uint32_t i = 0; i < n && r->n < SEEN_MAX; i++, r->n++) {
            seen *s = &r->all[r->n];
            s->desc = desc[i];
            s->record = r->worker->mem.records[desc[i].record];
            if (s->record.kind == NFM_REC_APP)
                memcpy(&s->ordinal, r->worker->mem.fields + s->record.app.fields, 4);
            nfm_view data = nfm_record_data(&r->worker->mem, &s->record);
            snprintf(s->text, sizeof(s->text), "%.*s", (int)data.len, (const char *)data.data);
        }
        nfm_ring_advance(r->ring, n);
    }
}

static void run(rig *r) {
    nfm_error err = {0};
    CHECK_EQ(nfm_worker_start(r->worker, &err), NFM_OK);
    int rc;
    while ((rc = nfm_worker_run(r->worker, 1000)) != NFM_RUN_EOF) {
        CHECK(rc > 0);
        drain(r);
        if (rc <= 0)
            break;
    }
    drain(r);
    nfm_worker_stats stats;
    nfm_worker_run(r->worker, 0);
    nfm_worker_stats_get(r->worker, &stats);
    CHECK_EQ(stats.slots_used, 0); /* nothing leaks */
    CHECK_EQ(stats.records_used, 0);
    CHECK_EQ(stats.flows_now, 0);
    CHECK_EQ(stats.flows_opened, stats.flows_closed);
}

static void end(rig *r) {
    nfm_worker_free(r->worker);
    nfm_port_free(r->port);
    free(r->all);
}

static uint64_t counter(const rig *r, const char *name) {
    nfm_counter counters[256];
    uint32_t n = nfm_worker_counters(r->worker, counters, 256);
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(counters[i].name, name) == 0)
            return counters[i].value;
    CHECK(!"no such counter");
    return 0;
}

/* ---- tests ---- */

static void test_snapshots_tell_flow_side_and_order(void) {
    rig r = make(1024);
    subscribe(&r,
              NFM_BIT(NFM_EV_PACKET_UDP) | NFM_BIT(NFM_EV_FLOW_START) | NFM_BIT(NFM_EV_FLOW_END),
              false);
    push_udp(&r, 1000, false, "ask", SECOND);
    push_udp(&r, 1000, true, "tell", 2 * SECOND);
    push_udp(&r, 1001, false, "other", 3 * SECOND);
    run(&r);
    CHECK_EQ(r.n, 5);
    CHECK_EQ(r.all[0].desc.what,
             (UINT64_C(5) << 48) | NFM_BIT(NFM_EV_PACKET_UDP) | NFM_BIT(NFM_EV_FLOW_START));
    CHECK_EQ(r.all[1].desc.what, (UINT64_C(5) << 48) | NFM_BIT(NFM_EV_PACKET_UDP));
    CHECK_EQ(r.all[0].record.side, 0);
    CHECK_EQ(r.all[1].record.side, 1);
    CHECK(r.all[0].record.flow == r.all[1].record.flow && r.all[0].record.flow != 0);
    CHECK(r.all[2].record.flow != r.all[0].record.flow);
    CHECK_EQ(r.all[2].record.packet, 3);
    CHECK(strcmp(r.all[1].text, "tell") == 0);
    CHECK_EQ(r.all[3].record.kind, NFM_REC_FLOW);
    CHECK_EQ(r.all[3].record.totals.packets[0], 1);
    CHECK_EQ(r.all[3].record.totals.payload_bytes[1], 4);
    CHECK_EQ(r.all[3].record.reason, NFM_END_EOF);
    end(&r);
}

static void test_application_events_carry_fields_and_data(void) {
    rig r = make(1024);
    add_modules(&r);
    subscribe(&r, 0, true);
    push_udp(&r, 1000, false, "one", SECOND);
    push_udp(&r, 1000, true, "two", SECOND);
    run(&r);
    CHECK_EQ(r.n, 2);
    CHECK_EQ(r.all[0].desc.what, NFM_DESC_APP | (UINT64_C(5) << 48) | TYPE_WORD);
    CHECK_EQ(r.all[1].record.kind, NFM_REC_APP);
    CHECK_EQ(r.all[1].record.side, 1);
    CHECK_EQ(r.all[1].record.app.fields_len, 16 + 3);
    CHECK_EQ(r.all[1].ordinal, 2);
    CHECK(strcmp(r.all[1].text, "two") == 0);
    CHECK_EQ(counter(&r, "test_word.datagrams"), 2);
    end(&r);
}

static void test_detached_module_hears_no_more_of_the_flow(void) {
    rig r = make(1024);
    add_modules(&r);
    subscribe(&r, 0, true);
    push_udp(&r, 1000, false, "one", SECOND);
    push_udp(&r, 1000, false, "!", SECOND);
    push_udp(&r, 1000, false, "two", SECOND);
    push_udp(&r, 1001, false, "three", SECOND);
    closed_words = 0;
    run(&r);
    CHECK_EQ(r.n, 2);
    CHECK(strcmp(r.all[1].text, "three") == 0);
    CHECK_EQ(counter(&r, "test_word.datagrams"), 3);
    end(&r);
}

static void test_more_events_than_the_ring_holds_all_arrive(void) {
    rig r = make(1024);
    add_modules(&r);
    subscribe(&r, NFM_BIT(NFM_EV_UDP_DATAGRAM), true);
    char text[16];
    for (int i = 0; i < 1500; i++) {
        snprintf(text, sizeof(text), "w%d", i);
        push_udp(&r, (uint16_t)(1000 + i % 7), false, text, SECOND + i);
    }
    run(&r);
    CHECK_EQ(r.n, 3000);
    for (uint32_t i = 0; i < r.n && !nfm_test_failed; i++) {
        snprintf(text, sizeof(text), "w%u", i / 2);
        CHECK(strcmp(r.all[i].text, text) == 0); /* the packet, then its event */
        CHECK_EQ((r.all[i].desc.what & NFM_DESC_APP) != 0, i % 2);
    }
    CHECK_EQ(counter(&r, "delivery.ring_full"), 0);
    end(&r);
}

static void test_idle_flow_times_out_and_its_tuple_opens_a_new_one(void) {
    rig r = make(1024);
    subscribe(&r, NFM_BIT(NFM_EV_FLOW_START) | NFM_BIT(NFM_EV_FLOW_END), false);
    push_udp(&r, 1000, false, "a", SECOND);
    push_udp(&r, 1001, false, "b", 290 * SECOND);
    push_udp(&r, 1000, false, "c", 400 * SECOND); /* UDP idles out after 300 s */
    run(&r);
    CHECK_EQ(r.n, 6);
    CHECK_EQ(r.all[2].record.kind, NFM_REC_FLOW);
    CHECK_EQ(r.all[2].record.reason, NFM_END_TIMEOUT);
    CHECK_EQ(r.all[2].record.flow, r.all[0].record.flow);
    CHECK_EQ(r.all[2].record.last_ns, SECOND);
    CHECK(r.all[3].record.flow != r.all[0].record.flow);
    end(&r);
}

static void test_full_table_evicts_and_counts(void) {
    rig r = make(1024);
    subscribe(&r, NFM_BIT(NFM_EV_FLOW_END), false);
    for (int i = 0; i < 3000; i++)
        push_udp(&r, (uint16_t)(1000 + i), false, "x", SECOND + i);
    run(&r);
    CHECK_EQ(r.n, 3000);
    uint32_t evicted = 0;
    for (uint32_t i = 0; i < r.n; i++)
        evicted += r.all[i].record.reason == NFM_END_EVICTED;
    CHECK_EQ(evicted, 3000 - 960); /* 1024 less the spare sixteenth stay to the end */
    CHECK_EQ(counter(&r, "flow.evicted"), evicted);
    CHECK_EQ(counter(&r, "flow.table_full"), 0);
    end(&r);
}

static void test_hostile_frames_are_counted_not_fatal(void) {
    rig r = make(1024);
    subscribe(&r, NFM_BIT(NFM_EV_PACKET_MALFORMED) | NFM_BIT(NFM_EV_PACKET_OTHER), false);
    uint8_t frame[64] = {0};
    frame[12] = 8; /* IPv4 with header length 0 */
    frame[14] = 0x40;
    CHECK_EQ(nfm_port_mem_push(r.port, frame, 60, 60, SECOND), NFM_OK);
    CHECK_EQ(nfm_port_mem_push(r.port, frame, 5, 60, SECOND), NFM_OK);
    frame[12] = 0x88;
    frame[13] = 0xcc; /* LLDP */
    CHECK_EQ(nfm_port_mem_push(r.port, frame, 60, 60, SECOND), NFM_OK);
    run(&r);
    CHECK_EQ(r.n, 3);
    CHECK_EQ(counter(&r, "malformed.ipv4_ihl"), 1);
    CHECK_EQ(counter(&r, "malformed.link_short"), 1);
    CHECK_EQ(r.all[2].record.events, NFM_BIT(NFM_EV_PACKET_OTHER));
    CHECK_EQ(r.all[0].desc.flow, NFM_NO_FLOW);
    end(&r);
}

static uint32_t native_seen;

static int native_count(void *state, const nfm_batch *batch) {
    CHECK(state == &native_seen);
    native_seen += batch->n;
    return NFM_OK;
}

static void test_native_receiver_is_served_by_the_worker(void) {
    rig r = make(1024);
    subscribe(&r, NFM_BIT(NFM_EV_PACKET_UDP), false);
    native_seen = 0;
    CHECK_EQ(nfm_worker_attach_native(r.worker, r.ring, native_count, &native_seen), NFM_OK);
    for (int i = 0; i < 1000; i++)
        push_udp(&r, 1000, false, "x", SECOND + i);
    run(&r);
    CHECK_EQ(native_seen, 1000);
    end(&r);
}

static void test_wrong_use_is_refused(void) {
    rig r = make(1024);
    nfm_error err = {0};
    static const uint64_t too_many[] = {21};
    CHECK_EQ(nfm_worker_run(r.worker, 1), NFM_E_STATE);
    CHECK(nfm_worker_add_ring(r.worker, 100, &err) == NULL);
    CHECK(strstr(err.text, "power of two") != NULL);
    CHECK_EQ(nfm_worker_add_module(r.worker, &module_word, too_many, NULL, &err), NFM_E_INVAL);
    CHECK(strstr(err.text, "test_word: most is 21") != NULL);
    nfm_module old = module_word;
    old.abi = 99;
    CHECK_EQ(nfm_worker_add_module(r.worker, &old, NULL, NULL, &err), NFM_E_ABI);
    nfm_worker_config config;
    nfm_worker_config_init(&config);
    config.max_flows = 1000;
    CHECK(nfm_worker_new(&config, &err) == NULL);
    CHECK(strstr(err.text, "max_flows") != NULL);
    end(&r);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(test_snapshots_tell_flow_side_and_order),
        T(test_application_events_carry_fields_and_data),
        T(test_detached_module_hears_no_more_of_the_flow),
        T(test_more_events_than_the_ring_holds_all_arrive),
        T(test_idle_flow_times_out_and_its_tuple_opens_a_new_one),
        T(test_full_table_evicts_and_counts),
        T(test_hostile_frames_are_counted_not_fatal),
        T(test_native_receiver_is_served_by_the_worker),
        T(test_wrong_use_is_refused),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
