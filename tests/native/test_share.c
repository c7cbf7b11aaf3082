/* SPDX-License-Identifier: Apache-2.0 */
/* Several workers behind one port: frames go to their owners and come out once, in order. */
#include "share_rig.h"

static void put_all(rig *r) {
    for (uint32_t serial = 0; serial < PER_FLOW; serial++) {
        for (uint32_t flow = 0; flow < FLOWS; flow++) {
            nfm_key key = udp_key(flow);
            put_datagram(r, &key, flow, serial);
        }
    }
}

static void check_flows(const rig *r) {
    uint32_t want[WORKERS] = {0};
    for (uint32_t flow = 0; flow < FLOWS; flow++) {
        nfm_key key = udp_key(flow);
        want[owner_of(&key)]++;
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        CHECK(want[i] > 0);
        CHECK_EQ(r->w[i]->flows_opened, want[i]);
        CHECK_EQ(r->w[i]->packets, want[i] * PER_FLOW);
    }
}

static void frames_come_out_once_and_in_order(void) {
    rig r = make_rig();
    put_all(&r);
    start(&r);
    run(&r, NULL);
    check_order(&r, PER_FLOW);
    check_flows(&r);
    uint64_t away = (uint64_t)FLOWS * PER_FLOW - r.w[0]->packets;
    CHECK_EQ(r.w[0]->core_counters[NFM_CC_HANDED_OVER], away);
    CHECK_EQ(total(&r, NFM_CC_TAKEN_OVER), 2 * away); /* there, and back to be sent */
    CHECK_EQ(total(&r, NFM_CC_FORWARDED), FLOWS * PER_FLOW);
    CHECK_EQ(total(&r, NFM_CC_HANDOVER_FULL), 0);
    end_rig(&r);
}

static uint32_t drop_odd(const nfm_mem *mem, const nfm_desc *desc, nfm_edit *edit) {
    const nfm_record *record = &mem->records[desc->record];
    uint32_t words[2];
    (void)edit;
    memcpy(words, nfm_slot_ptr(mem, record->slot) + record->payload_off, 8);
    return words[1] % 2 ? NFM_DROP : NFM_PASS;
}

static uint32_t pass_all(const nfm_mem *mem, const nfm_desc *desc, nfm_edit *edit) {
    (void)edit;
    CHECK_EQ(nfm_slot_ptr(mem, mem->records[desc->record].slot)[0], 7); /* what the kernel left */
    return NFM_PASS;
}

static void every_worker_asks_about_its_own(void) {
    rig r = make_rig();
    put_all(&r);
    add_judges(&r);
    start(&r);
    run(&r, pass_all);
    check_order(&r, PER_FLOW);
    check_flows(&r);
    end_rig(&r);
    r = make_rig();
    put_all(&r);
    add_judges(&r);
    start(&r);
    run(&r, drop_odd);
    CHECK_EQ(total(&r, NFM_CC_INLINE_DROPPED), FLOWS * PER_FLOW / 2);
    end_rig(&r);
}

/* ---- fragments ------------------------------------------------------------------------------ */

static void add_defrag(rig *r) {
    uint32_t n;
    nfm_error err = {0};
    const nfm_module *const *modules = nfm_builtin_modules(&n);
    for (uint32_t i = 0; i < WORKERS; i++)
        for (uint32_t k = 0; k < n; k++)
            if (strcmp(modules[k]->name, "ip_defrag") == 0)
                CHECK(nfm_worker_add_module(r->w[i], modules[k], NULL, NULL, &err) >= 0);
}

static void put_fragments(rig *r, uint32_t flow) {
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
    nfm_key key = udp_key(flow);
    uint8_t datagram[40] = {0};
    nfm_write16(datagram, key.port[0]);
    nfm_write16(datagram + 2, key.port[1]);
    nfm_write16(datagram + 4, sizeof(datagram));
    for (uint32_t at = 0; at < 40; at += 24) {
        uint8_t frame[FRAME_ROOM];
        nfm_emit_buf buf = {frame, sizeof(frame), 0};
        uint32_t len = at == 0 ? 24 : 16;
        nfm_ip_fields ip = {
            .ttl = 64, .id = (uint16_t)flow, .fragment = (uint16_t)(at / 8 | (at == 0) << 13)};
        nfm_emit_eth(&buf, mac, mac, 0x0800);
        nfm_emit_ipv4(&buf, &key, &ip, len);
        nfm_emit_bytes(&buf, datagram + at, len);
        put(r, frame, buf.len);
    }
}

/* Where nobody decides, fragments pass as they are, and their owner hears of the whole. */
static void owners_hear_of_datagrams_that_passed_in_fragments(void) {
    rig r = make_rig();
    nfm_error err = {0};
    add_defrag(&r);
    nfm_ring *heard[WORKERS];
    for (uint32_t i = 0; i < WORKERS; i++) {
        heard[i] = nfm_worker_add_ring(r.w[i], 256, &err);
        nfm_subscription sub = {
            .ring = heard[i], .events = NFM_BIT(NFM_EV_PACKET_UDP), .type_first = 1};
        CHECK(nfm_worker_subscribe(r.w[i], &sub) >= 0);
    }
    start(&r);
    for (uint32_t flow = 0; flow < FLOWS; flow++)
        put_fragments(&r, flow);
    run(&r, NULL);
    uint32_t wholes = 0, passed = 0;
    for (uint32_t i = 0; i < WORKERS; i++) {
        const nfm_desc *desc;
        uint32_t n = nfm_ring_peek(heard[i], &desc, 256);
        for (uint32_t k = 0; k < n; k++) {
            const nfm_record *record = &nfm_worker_mem(r.w[i])->records[desc[k].record];
            const nfm_flow_info *flow = &nfm_worker_mem(r.w[i])->flows[desc[k].flow];
            CHECK(record->flags & NFM_F_FRAGMENT);
            CHECK_EQ(nfm_owner(flow, WORKERS), i);
            wholes++;
        }
        nfm_ring_advance(heard[i], n);
    }
    CHECK_EQ(wholes, FLOWS);
    uint64_t at = 0;
    while (nfm_port_mem_sent(r.port[0][OUT], &at).data != NULL)
        passed++;
    CHECK_EQ(passed, 2 * FLOWS);
    end_rig(&r);
}

static void what_is_judged_passes_whole(void) {
    rig r = make_rig();
    uint32_t passed = 0;
    uint64_t at = 0;
    nfm_view frame;
    add_defrag(&r);
    add_judges(&r);
    start(&r);
    for (uint32_t flow = 0; flow < FLOWS; flow++)
        put_fragments(&r, flow);
    run(&r, drop_odd); /* the second word is 0: they pass */
    for (; (frame = nfm_port_mem_sent(r.port[0][OUT], &at)).data != NULL; passed++)
        CHECK_EQ(frame.len, 14 + 20 + 40);
    CHECK_EQ(passed, FLOWS);
    end_rig(&r);
}

/* ---- the ring ------------------------------------------------------------------------------- */

static void a_full_ring_loses_and_counts(void) {
    rig r = make_rig();
    nfm_key key = udp_key(0);
    uint32_t flow = 0;
    while (owner_of(&key) != 1)
        key = udp_key(++flow);
    start(&r);
    enum { MANY = 40000 };
    for (uint32_t i = 0; i < MANY; i++) {
        if (r.in->n == QUEUE)
            r.in->n = r.in->next = 0;
        put_datagram(&r, &key, 0, i);
        if (r.in->n == QUEUE)
            while (r.in->next < r.in->n)
                (void)nfm_worker_run(r.w[0], 64);
    }
    (void)nfm_worker_run(r.w[0], 64);
    uint64_t handed = r.w[0]->core_counters[NFM_CC_HANDED_OVER];
    CHECK(handed > 30000 && r.w[0]->core_counters[NFM_CC_HANDOVER_FULL] > 0);
    for (int i = 0; i < 2000; i++) {
        (void)nfm_worker_run(r.w[1], 64);
        (void)nfm_worker_run(r.w[0], 64);
    }
    CHECK_EQ(r.w[1]->packets, handed);
    end_rig(&r);
}

static void sleepers_hear_their_bell_and_new_lives(void) {
    rig r = make_rig();
    uint64_t rings = 0;
    nfm_error err = {0};
    nfm_key key = udp_key(0), other = udp_key(1);
    uint32_t flow = 0;
    while (owner_of(&key) != 1)
        key = udp_key(++flow);
    start(&r);
    CHECK(nfm__share_sleep(r.w[1]));
    put_datagram(&r, &key, 0, 0);
    (void)nfm_worker_run(r.w[0], 64);
    CHECK_EQ(read(r.bells[1], &rings, sizeof(rings)), sizeof(rings));
    CHECK(!nfm__share_sleep(r.w[1])); /* something is there */
    nfm__share_awake(r.w[1]);
    (void)nfm_worker_run(r.w[1], 64);
    CHECK_EQ(r.w[1]->packets, 1);
    put_datagram(&r, &key, 0, 1);
    (void)nfm_worker_run(r.w[0], 64);
    CHECK(read(r.bells[1], &rings, sizeof(rings)) < 0); /* awake: no system call */
    CHECK(nfm__elsewhere_add(r.w[1], &other, 0));
    nfm_handover again; /* the first worker begins anew: what it said of its flows is void */
    CHECK_EQ(nfm_handover_open(&again, r.fds[0][1], true, &err), NFM_OK);
    nfm_handover_close(&again);
    (void)nfm_worker_run(r.w[1], 64);
    CHECK_EQ(r.w[1]->packets, 2);
    CHECK_EQ(r.w[1]->share->elsewhere.n, 0);
    end_rig(&r);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(frames_come_out_once_and_in_order),
        T(every_worker_asks_about_its_own),
        T(owners_hear_of_datagrams_that_passed_in_fragments),
        T(what_is_judged_passes_whole),
        T(a_full_ring_loses_and_counts),
        T(sleepers_hear_their_bell_and_new_lives),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
