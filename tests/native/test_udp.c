/* SPDX-License-Identifier: Apache-2.0 */
/* udp through a worker: one event per datagram, with its bytes. */
#include "worker_rig.h"

extern const nfm_module nfm_module_udp;

typedef struct seen {
    char text[64];
    uint32_t datagrams, others;
} seen;

static int take(void *state, const nfm_batch *batch) {
    seen *s = state;
    for (uint32_t i = 0; i < batch->n; i++) {
        const nfm_record *rec = &batch->mem->records[batch->desc[i].record];
        if (!(rec->events & NFM_BIT(NFM_EV_UDP_DATAGRAM))) {
            s->others++;
            continue;
        }
        nfm_view data = nfm_record_data(batch->mem, rec);
        snprintf(s->text + strlen(s->text), sizeof(s->text) - strlen(s->text), "%.*s;",
                 (int)data.len, (const char *)data.data);
        s->datagrams++;
    }
    return NFM_OK;
}

static void push(nfm_port *port, uint8_t proto, const char *text, uint32_t cut) {
    uint8_t frame[FRAME_ROOM];
    nfm_key key = udp_key(0);
    key.proto = proto;
    uint32_t len = udp_frame(frame, &key, text, (uint32_t)strlen(text));
    CHECK_EQ(nfm_port_mem_push(port, frame, len - cut, len, 1000000000), NFM_OK);
}

static uint64_t counter(const nfm_worker *worker, const char *name) {
    nfm_counter counters[256];
    uint32_t n = nfm_worker_counters(worker, counters, 256);
    for (uint32_t i = 0; i < n && i < 256; i++)
        if (strcmp(counters[i].name, name) == 0)
            return counters[i].value;
    CHECK(!"no such counter");
    return 0;
}

static void test_datagrams_are_events_with_their_bytes(void) {
    seen s = {0};
    nfm_error err = {0};
    nfm_worker_config config;
    nfm_worker_config_init(&config);
    nfm_port *port = nfm_port_mem_new(1, &err);
    nfm_worker *worker = nfm_worker_new(&config, &err);
    nfm_ring *ring = nfm_worker_add_ring(worker, 64, &err);
    nfm_subscription sub = {.ring = ring,
                            .level = NFM_LEVEL_TRACK,
                            .events = NFM_BIT(NFM_EV_UDP_DATAGRAM) | NFM_BIT(NFM_EV_PACKET_OTHER),
                            .type_first = 1};
    push(port, 17, "ask", 0);
    push(port, 17, "", 0);
    push(port, 17, "truncated", 5);
    push(port, 99, "no UDP", 0);
    CHECK_EQ(nfm_worker_add_port(worker, port), NFM_OK);
    CHECK(nfm_worker_add_module(worker, &nfm_module_udp, NULL, NULL, &err) >= 0);
    CHECK_EQ(nfm_worker_attach_native(worker, ring, take, &s), NFM_OK);
    CHECK_EQ(nfm_worker_subscribe(worker, &sub), NFM_OK);
    CHECK_EQ(nfm_worker_start(worker, &err), NFM_OK);
    while (nfm_worker_run(worker, 100) != NFM_RUN_EOF)
        ;
    CHECK(strcmp(s.text, "ask;;trun;") == 0);
    CHECK_EQ(s.datagrams, 3);
    CHECK_EQ(s.others, 1);
    CHECK_EQ(counter(worker, "udp.datagrams"), 3);
    CHECK_EQ(counter(worker, "udp.cut"), 1);
    nfm_worker_free(worker);
    nfm_port_free(port);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {T(test_datagrams_are_events_with_their_bytes)};
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
