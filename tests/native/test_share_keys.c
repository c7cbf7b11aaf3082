/* SPDX-License-Identifier: Apache-2.0 */
/* Second keys of rewritten flows: what has them finds the worker that has the flow. */
#include "share_rig.h"

/* Hides the sender behind one address, as a translator does. */
static uint32_t hide(const nfm_mem *mem, const nfm_desc *desc, nfm_edit *edit) {
    const nfm_flow_info *flow = &mem->flows[desc->flow];
    *edit = (nfm_edit){.fields = NFM_EDIT_SRC | NFM_EDIT_SRC_PORT,
                       .src_port = (uint16_t)(flow->port[0] + 30000)};
    nfm_write32(edit->src, 0xc6336401);
    return NFM_REWRITE | NFM_REST;
}

static nfm_key hidden_of(uint32_t flow) {
    nfm_key key = udp_key(flow);
    nfm_write32(key.addr[0], 0xc6336401);
    key.port[0] = (uint16_t)(key.port[0] + 30000);
    return key;
}

/* What comes back is of the worker that has the flow, whoever its new key hashes to. */
static void answers_to_rewritten_flows_find_their_worker(void) {
    rig r = make_rig();
    uint32_t elsewhere = 0;
    add_judges(&r);
    start(&r);
    for (uint32_t flow = 0; flow < FLOWS; flow++) {
        nfm_key key = udp_key(flow), hidden = hidden_of(flow);
        elsewhere += owner_of(&key) != owner_of(&hidden);
        put_datagram(&r, &key, flow, 0);
    }
    CHECK(elsewhere > FLOWS / 3);
    run(&r, hide);
    uint32_t told = 0;
    for (uint32_t i = 0; i < WORKERS; i++)
        told += r.w[i]->share->elsewhere.n;
    CHECK_EQ(told, elsewhere);
    for (uint32_t flow = 0; flow < FLOWS; flow++) {
        nfm_key answer = hidden_of(flow);
        nfm_key_turn(&answer);
        put_datagram(&r, &answer, flow, 1);
    }
    run(&r, hide);
    check_order(&r, 2);
    uint64_t at = 0, opened = 0;
    nfm_view frame;
    for (uint32_t i = 0; (frame = nfm_port_mem_sent(r.port[0][OUT], &at)).data != NULL; i++)
        if (i >= FLOWS) /* answers go to the hidden host */
            CHECK_EQ(nfm_read32(frame.data + 14 + 16) & 0xffffff00, 0x0a000000);
    for (uint32_t i = 0; i < WORKERS; i++)
        opened += r.w[i]->flows_opened;
    CHECK_EQ(opened, FLOWS);
    for (uint32_t i = 0; i < WORKERS; i++)
        while (r.w[i]->flows_closed < r.w[i]->flows_opened)
            nfm__flow_close(r.w[i], (uint32_t)r.w[i]->flows_closed, NFM_END_TIMEOUT);
    run(&r, hide);
    for (uint32_t i = 0; i < WORKERS; i++)
        CHECK_EQ(r.w[i]->share->elsewhere.n, 0); /* an ended flow's key is nobody's */
    end_rig(&r);
}

/* Word about a key is behind what another worker has handed over, and the answer comes by the port:
 * it is not taken for a flow of its own. */
static void no_answer_is_faster_than_the_word_about_its_key(void) {
    rig r = make_rig();
    uint32_t flow = 0, mine = 0;
    nfm_key key = udp_key(0), hidden = hidden_of(0), own = udp_key(0);
    while (owner_of(&key) != 1 || owner_of(&hidden) != 0) {
        key = udp_key(++flow);
        hidden = hidden_of(flow);
    }
    while (owner_of(&own) != 0)
        own = udp_key(++mine);
    add_judges(&r);
    start(&r);
    put_datagram(&r, &key, flow, 0);
    (void)nfm_worker_run(r.w[0], 64); /* hands it over */
    (void)nfm_worker_run(r.w[1], 64);
    serve(&r, 1, hide);
    (void)nfm_worker_run(r.w[1], 64); /* tells of the key, and sends */
    put_datagram(&r, &own, mine, 0);
    const line_port *line = r.in;
    const nfm_handed head = {.kind = NFM_HANDED_FRAME, .len = line->len[1], .link_type = 1};
    memcpy(nfm_handover_write(&r.w[2]->share->to[0], &head), line->frame[1], head.len);
    nfm_handover_publish(&r.w[2]->share->to[0]);
    r.in->n--; /* it came to that one */
    nfm_key_turn(&hidden);
    put_datagram(&r, &hidden, flow, 1);
    r.w[0]->share->next = 2;
    (void)nfm_worker_run(r.w[0], 64);
    CHECK_EQ(r.w[0]->flows_opened, 1);
    CHECK_EQ(r.w[0]->core_counters[NFM_CC_HANDED_OVER], 2); /* the datagram and its answer */
    run(&r, hide);
    CHECK_EQ(r.w[1]->flows_opened, 1);
    CHECK_EQ(r.w[1]->packets, 2);
    end_rig(&r);
}

/* A router's error about what a hidden host has sent. */
static void put_error(rig *r, uint32_t flow) {
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
    nfm_key hidden = hidden_of(flow), key = {.ip_version = 4, .proto = IPPROTO_ICMP};
    uint8_t quoted[64], frame[FRAME_ROOM];
    nfm_emit_buf inner = {quoted, sizeof(quoted), 0}, buf = {frame, sizeof(frame), 0};
    nfm_ip_fields ip = {.ttl = 64};
    nfm_emit_ipv4(&inner, &hidden, &ip, 8 + 8);
    nfm_emit_udp(&inner, &hidden, (nfm_view){(const uint8_t *)"quoted!", 8});
    nfm_write32(key.addr[0], 0x0b000001);
    memcpy(key.addr[1], hidden.addr[0], 16);
    nfm_emit_eth(&buf, mac, mac, 0x0800);
    nfm_emit_ipv4(&buf, &key, &ip, 8 + inner.len);
    nfm_emit_icmp(&buf, &key, 3 << 8 | 3, 0, (nfm_view){quoted, inner.len});
    put(r, frame, buf.len);
}

static void errors_about_rewritten_flows_find_their_worker(void) {
    rig r = make_rig();
    uint64_t at = 0, opened = 0;
    uint32_t errors = 0;
    nfm_view frame;
    add_judges(&r);
    start(&r);
    for (uint32_t flow = 0; flow < FLOWS; flow++) {
        nfm_key key = udp_key(flow);
        put_datagram(&r, &key, flow, 0);
    }
    run(&r, hide);
    for (uint32_t flow = 0; flow < FLOWS; flow++)
        put_error(&r, flow);
    run(&r, hide);
    for (uint32_t i = 0; i < WORKERS; i++)
        opened += r.w[i]->flows_opened;
    while ((frame = nfm_port_mem_sent(r.port[0][OUT], &at)).data != NULL) {
        if (frame.data[14 + 9] != IPPROTO_ICMP)
            continue;
        errors++;
        CHECK_EQ(nfm_read32(frame.data + 14 + 16) & 0xffffff00, 0x0a000000);
        CHECK_EQ(nfm_read32(frame.data + 14 + 20 + 8 + 12), nfm_read32(frame.data + 14 + 16));
    }
    CHECK_EQ(errors, FLOWS);
    CHECK_EQ(opened, FLOWS); /* an error is its flow's */
    end_rig(&r);
}

static void keys_are_found_and_forgotten(void) {
    rig r = make_rig();
    nfm_worker *w = r.w[0];
    enum { N = 700 };
    for (uint32_t i = 0; i < N; i++) {
        nfm_key key = udp_key(i);
        CHECK(nfm__elsewhere_add(w, &key, 1 + i % 2));
    }
    uint32_t full = N;
    for (nfm_key key = udp_key(full); nfm__elsewhere_add(w, &key, 2); key = udp_key(full))
        full++;
    CHECK(full < 1024 && w->share->elsewhere.n == full); /* bounded by the flows there can be */
    for (uint32_t i = 0; i < N; i += 3) {
        nfm_key key = udp_key(i);
        nfm_key_turn(&key); /* either direction names the flow */
        nfm__elsewhere_remove(w, &key, 1 + i % 2);
    }
    for (uint32_t i = 0; i < N; i++) {
        nfm_key key = udp_key(i);
        CHECK_EQ(nfm__elsewhere_find(w, &key), i % 3 == 0 ? NFM_MAX_WORKERS : 1 + i % 2);
    }
    nfm__elsewhere_forget(w, 2);
    for (uint32_t i = 0; i < N; i++) {
        nfm_key key = udp_key(i);
        bool left = i % 3 != 0 && i % 2 == 0;
        CHECK_EQ(nfm__elsewhere_find(w, &key), left ? 1 : NFM_MAX_WORKERS);
    }
    start(&r);
    end_rig(&r);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(answers_to_rewritten_flows_find_their_worker),
        T(no_answer_is_faster_than_the_word_about_its_key),
        T(errors_about_rewritten_flows_find_their_worker),
        T(keys_are_found_and_forgotten),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
