/* SPDX-License-Identifier: Apache-2.0 */
/* What a domain's inbox holds: exactly the bytes that its receivers subscribed to. */
#include "engine/worker.h"
#include "nfm_test.h"

enum { RECEIVERS = 4, ENTRIES = 64, L3 = 142, L4 = 162, PAYLOAD = 182, DATA = 190, FRAME = 300 };
enum { END = NFM_HEADROOM + FRAME, DATA_LEN = END - DATA - 10 };

#define PACKET NFM_BIT(NFM_EV_PACKET_TCP)
#define BYTES NFM_BIT(NFM_EV_TCP_DATA)
#define ACKED NFM_BIT(NFM_EV_TCP_DUPLICATE_ACK)

/* A worker that runs nothing, and receivers that hear what a test says. Receiver 0 is at home, the
 * others are of domain 1. */
typedef struct rig {
    nfm_worker *worker;
    nfm_ring *ring[RECEIVERS];
    nfm_receiver home[RECEIVERS], away[RECEIVERS];
    nfm_subset set;
    nfm_inbox *box;
    uint64_t packet;
} rig;

static rig make_rig(uint32_t n_small, uint32_t n_large) {
    rig r = {0};
    nfm_error err = {0};
    nfm_worker_config config;
    nfm_domain_config domain;
    nfm_worker_config_init(&config);
    nfm_domain_config_init(&domain);
    config.max_flows = 1024;
    config.n_small = 1024;
    config.n_large = 64;
    domain.n_records = 1024;
    domain.n_small = n_small;
    domain.n_large = n_large;
    r.worker = nfm_worker_new(&config, &err);
    CHECK(r.worker != NULL);
    CHECK_EQ(nfm_worker_add_domain(r.worker, "tenant", &domain, &err), 1);
    r.box = r.worker->inboxes[0];
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        r.ring[i] = nfm_worker_add_ring(r.worker, ENTRIES, &err);
        if (i > 0)
            CHECK_EQ(nfm_worker_give_ring(r.worker, r.ring[i], 1), NFM_OK);
    }
    return r;
}

static void end_rig(rig *r) {
    nfm_worker_free(r->worker);
}

/* Receiver |i| hears |events|, or, when 0, application type 7. */
static void hear(rig *r, uint32_t i, uint64_t events) {
    nfm_receiver made = {.ring = r->ring[i],
                         .events = events,
                         .type_first = 7,
                         .type_last = 7,
                         .domain = r->ring[i]->domain};
    r->set.receivers = r->home;
    r->set.away = r->set.app = r->away;
    if (i == 0)
        r->home[r->set.n++] = made;
    else
        r->away[r->set.n_away++] = made;
    r->set.n_app = r->set.n_away;
}

/* A TCP packet of FRAME bytes, none of them zero, with new data at the end. */
static nfm_record make_packet(rig *r, uint32_t len) {
    nfm_record rec = {.kind = NFM_REC_PACKET, .proto = 6, .flow = 5, .frame_len = len};
    rec.slot = nfm_pool_get(&r->worker->pool, len);
    rec.packet = ++r->packet;
    rec.events = PACKET | BYTES | ACKED;
    rec.l3_off = L3;
    rec.l4_off = L4;
    rec.payload_off = PAYLOAD;
    rec.payload_len = END - PAYLOAD;
    rec.tcp.data_off = DATA;
    rec.tcp.data_len = DATA_LEN;
    uint8_t *base = nfm_pool_addr(&r->worker->pool, rec.slot);
    for (uint32_t i = 0; i < NFM_HEADROOM + len; i++)
        base[i] = (uint8_t)(1 + (i + r->packet) % 251);
    return rec;
}

static void deliver(rig *r, const nfm_record *rec) {
    nfm_flow_info info = {.proto = 6, .id = 5, .port = {4000, 80}};
    nfm_deliver(&r->worker->delivery, &r->set, rec, &info);
}

static void raise(rig *r, nfm_record rec, uint32_t data_len, const char *text) {
    uint32_t len = (uint32_t)strlen(text);
    CHECK_EQ(nfm_fields_get(&r->worker->delivery, len, &rec.app.fields), NFM_OK);
    memcpy(r->worker->delivery.fields + rec.app.fields, text, len);
    uint64_t at = rec.app.fields;
    memset(&rec.app, 0, sizeof(rec.app));
    rec.app.fields = at;
    rec.app.fields_len = len;
    rec.app.type = 7;
    rec.app.data_off = data_len > 0 ? DATA : 0;
    rec.app.data_len = data_len;
    rec.kind = NFM_REC_APP;
    rec.events = 0;
    nfm_deliver_app(&r->worker->delivery, &r->set, &rec, NULL);
}

static void settle(rig *r) {
    nfm_delivery_publish(&r->worker->delivery);
    nfm_delivery_collect(&r->worker->delivery);
    nfm__domains_publish(r->worker, true);
    nfm_worker_take_commands(r->worker);
    nfm_delivery_retire(&r->worker->delivery);
    nfm__domains_retire(r->worker);
}

/* What receiver |i| has next; NULL: nothing. */
static const nfm_record *next(rig *r, uint32_t i, const nfm_desc **desc) {
    const nfm_mem *mem = i == 0 ? &r->worker->mem : &r->box->mem;
    if (nfm_ring_peek(r->ring[i], desc, 1) == 0)
        return NULL;
    nfm_ring_advance(r->ring[i], 1);
    return &mem->records[(*desc)->record];
}

/* Bytes of the inbox's packets that are not zero. */
static uint64_t bytes_seen(const rig *r) {
    uint64_t n = 0;
    for (size_t i = 0; i < r->box->objects[NFM_OBJ_PACKETS].size; i++)
        n += r->box->mem.packets[i] != 0;
    return n;
}

/* Whether [from, to) of the record's slot is as in |home|, and all else of it zero. */
static bool holds_exactly(const rig *r, const nfm_record *rec, uint32_t home, uint32_t from,
                          uint32_t to) {
    const uint8_t *there = nfm_slot_ptr(&r->box->mem, rec->slot);
    const uint8_t *here = nfm_slot_ptr(&r->worker->mem, home);
    uint32_t size = rec->slot < r->box->mem.n_small ? NFM_SLOT_SMALL : NFM_SLOT_LARGE;
    for (uint32_t i = 0; i < size; i++)
        if (there[i] != (i >= from && i < to ? here[i] : 0))
            return false;
    return true;
}

static void test_data_comes_without_its_packet(void) {
    rig r = make_rig(256, 4);
    const nfm_desc *desc;
    hear(&r, 1, BYTES);
    nfm_record rec = make_packet(&r, FRAME);
    deliver(&r, &rec);
    settle(&r);
    const nfm_record *got = next(&r, 1, &desc);
    CHECK(got != NULL && got->slot != NFM_NO_SLOT);
    CHECK(holds_exactly(&r, got, rec.slot, DATA, DATA + DATA_LEN));
    CHECK_EQ(bytes_seen(&r), DATA_LEN);
    nfm_view data = nfm_record_data(&r.box->mem, got);
    CHECK_EQ(data.len, DATA_LEN);
    CHECK_EQ(nfm_record_frame(&r.box->mem, got).len, 0);
    CHECK_EQ(got->l3_off + got->l4_off + got->payload_off, 0);
    CHECK_EQ(got->payload_len, END - PAYLOAD); /* a fact of the header, not a byte of it */
    CHECK_EQ(got->flow, 5);
    CHECK_EQ(desc->flow, desc->record);
    CHECK_EQ(r.box->mem.flows[desc->flow].port[0], 4000);
    end_rig(&r);
}

static void test_other_events_come_without_bytes(void) {
    rig r = make_rig(256, 4);
    const nfm_desc *desc;
    hear(&r, 1, ACKED);
    nfm_record rec = make_packet(&r, FRAME);
    deliver(&r, &rec);
    settle(&r);
    const nfm_record *got = next(&r, 1, &desc);
    CHECK(got != NULL);
    CHECK_EQ(got->slot, NFM_NO_SLOT);
    CHECK_EQ(got->tcp.data_off + got->l3_off + got->payload_off, 0);
    CHECK_EQ(nfm_record_data(&r.box->mem, got).len, 0);
    CHECK_EQ(bytes_seen(&r), 0);
    end_rig(&r);
}

static void check_union(uint64_t first, uint64_t second) {
    rig r = make_rig(256, 4);
    const nfm_desc *desc;
    hear(&r, 1, first);
    hear(&r, 0, BYTES);
    hear(&r, 2, second);
    hear(&r, 3, ACKED);
    nfm_record rec = make_packet(&r, FRAME);
    deliver(&r, &rec);
    settle(&r);
    const nfm_record *a = next(&r, 1, &desc), *b = next(&r, 2, &desc), *c = next(&r, 3, &desc);
    const nfm_record *home = next(&r, 0, &desc);
    CHECK(a != NULL && a == b && b == c);
    CHECK_EQ(r.box->copies, 1);
    CHECK(holds_exactly(&r, a, rec.slot, NFM_HEADROOM, END));
    CHECK_EQ(nfm_record_frame(&r.box->mem, a).len, FRAME);
    nfm_record same = *a; /* but for where it lies, it is the record */
    same.slot = home->slot;
    CHECK(memcmp(&same, home, sizeof(same)) == 0);
    settle(&r);
    CHECK_EQ(r.box->delivery.n_free, 1024);
    CHECK_EQ(r.box->pool.n_free_small, 256);
    end_rig(&r);
}

static void test_receivers_share_a_copy_with_all_their_bytes(void) {
    check_union(PACKET, BYTES);
    check_union(BYTES, PACKET);
}

static void test_application_events_bring_fields_and_data(void) {
    rig r = make_rig(256, 4);
    const nfm_desc *desc;
    hear(&r, 1, 0);
    nfm_record rec = make_packet(&r, FRAME);
    raise(&r, rec, 20, "body");
    raise(&r, rec, 0, "request");
    raise(&r, rec, 30, "more body");
    CHECK_EQ(r.worker->delivery.fields_used, 0); /* nobody at home wants them */
    settle(&r);
    const nfm_record *body = next(&r, 1, &desc), *request = next(&r, 1, &desc);
    CHECK_EQ(desc->flow, NFM_NO_FLOW);
    const nfm_record *more = next(&r, 1, &desc);
    CHECK(body != NULL && request != NULL && more != NULL);
    CHECK(memcmp(r.box->mem.fields + body->app.fields, "body", 4) == 0);
    CHECK(memcmp(r.box->mem.fields + request->app.fields, "request", 7) == 0);
    CHECK_EQ(request->slot, NFM_NO_SLOT);
    CHECK_EQ(body->slot, more->slot); /* of one frame */
    CHECK_EQ(nfm_record_data(&r.box->mem, body).len, 20);
    CHECK_EQ(nfm_record_data(&r.box->mem, more).len, 30);
    CHECK(holds_exactly(&r, body, rec.slot, DATA, DATA + 30));
    settle(&r);
    CHECK_EQ(r.box->delivery.fields_used, 0);
    CHECK_EQ(r.box->pool.n_free_small, 256);
    end_rig(&r);
}

/* A slot that had a frame is zero again where the next record's bytes are not. */
static void test_slots_forget_what_they_held(void) {
    rig r = make_rig(256, 4);
    const nfm_desc *desc;
    hear(&r, 1, PACKET);
    nfm_record frame = make_packet(&r, FRAME);
    deliver(&r, &frame);
    settle(&r);
    uint32_t slot = next(&r, 1, &desc)->slot;
    settle(&r);
    r.set.n_away = 0;
    hear(&r, 1, BYTES);
    nfm_record data = make_packet(&r, FRAME);
    deliver(&r, &data);
    settle(&r);
    const nfm_record *got = next(&r, 1, &desc);
    CHECK_EQ(got->slot, slot);
    CHECK(holds_exactly(&r, got, data.slot, DATA, DATA + DATA_LEN));
    end_rig(&r);
}

static void test_a_full_inbox_costs_its_own_domain_only(void) {
    rig r = make_rig(256, 1);
    const nfm_desc *desc;
    r.ring[1]->lossy = true;
    hear(&r, 1, PACKET);
    hear(&r, 0, PACKET);
    for (int i = 0; i < 3; i++) {
        nfm_record rec = make_packet(&r, 20000); /* large slots: there is one */
        deliver(&r, &rec);
        nfm_pool_put(&r.worker->pool, rec.slot);
    }
    settle(&r);
    CHECK_EQ(r.box->full, 2);
    CHECK(nfm__domains_must_drain(r.worker));
    CHECK(next(&r, 1, &desc) != NULL);
    CHECK(next(&r, 1, &desc) == NULL);
    for (int i = 0; i < 3; i++)
        CHECK(next(&r, 0, &desc) != NULL);
    settle(&r);
    CHECK(!nfm__domains_must_drain(r.worker));
    CHECK_EQ(r.box->pool.n_free_large, 1);
    CHECK_EQ(r.box->delivery.n_free, 1024);
    CHECK_EQ(r.worker->pool.n_free_large, 64);
    nfm_record rec = make_packet(&r, FRAME);
    deliver(&r, &rec);
    settle(&r);
    CHECK_EQ(nfm_ring_gap(r.ring[1]), 2); /* the receiver is told what it missed */
    nfm_ring_advance(r.ring[1], 1);
    CHECK_EQ(next(&r, 1, &desc)->packet, rec.packet);
    end_rig(&r);
}

static void test_records_run_out_and_come_back(void) {
    rig r = make_rig(256, 4);
    const nfm_desc *desc;
    hear(&r, 1, ACKED);
    hear(&r, 2, ACKED);
    nfm_record rec = make_packet(&r, FRAME);
    for (int i = 0; i < 1030; i++)
        deliver(&r, &rec);
    settle(&r);
    CHECK_EQ(r.box->full, 2 * 6); /* each of the two misses them */
    CHECK_EQ(r.ring[2]->spilled, 1024 - ENTRIES);
    uint32_t n = 0;
    for (const nfm_record *got; (got = next(&r, 2, &desc)) != NULL; settle(&r))
        n += got->packet == rec.packet;
    CHECK_EQ(n, 1024);
    while (next(&r, 1, &desc) != NULL)
        settle(&r);
    CHECK_EQ(r.box->delivery.n_free, 1024);
    end_rig(&r);
}

static void test_a_held_record_stays_with_its_bytes(void) {
    rig r = make_rig(256, 4);
    const nfm_desc *desc;
    nfm_error err = {0};
    CHECK_EQ(nfm_worker_allow_holds(r.worker, r.ring[1], 2, &err), NFM_OK);
    hear(&r, 1, BYTES);
    nfm_record rec = make_packet(&r, FRAME);
    deliver(&r, &rec);
    settle(&r);
    CHECK_EQ(nfm_ring_peek(r.ring[1], &desc, 1), 1);
    const nfm_record *held = &r.box->mem.records[desc->record];
    int hold = nfm_ring_hold(r.ring[1], desc->record);
    CHECK(hold >= 0);
    nfm_ring_advance(r.ring[1], 1);
    settle(&r);
    for (int i = 0; i < 600; i++) {
        nfm_record other = make_packet(&r, FRAME);
        deliver(&r, &other);
        nfm_pool_put(&r.worker->pool, other.slot);
        settle(&r);
        CHECK(next(&r, 1, &desc) != NULL);
    }
    settle(&r);
    CHECK_EQ(r.box->full, 0);
    CHECK_EQ(r.box->delivery.n_free, 1023);
    CHECK(holds_exactly(&r, held, rec.slot, DATA, DATA + DATA_LEN));
    CHECK_EQ(nfm_ring_release(r.ring[1], (uint32_t)hold), NFM_OK);
    settle(&r);
    CHECK_EQ(r.box->delivery.n_free, 1024);
    CHECK_EQ(r.box->pool.n_free_small, 256);
    end_rig(&r);
}

/* Records of inbox and worker have the same numbers: who says something of his must not reach the
 * others'. */
static void test_a_judgement_ends_a_hold_of_the_domain_and_no_other(void) {
    rig r = make_rig(256, 4);
    const nfm_desc *desc;
    nfm_error err = {0};
    nfm_delivery *home = &r.worker->delivery;
    CHECK_EQ(nfm_worker_allow_holds(r.worker, r.ring[1], 2, &err), NFM_OK);
    hear(&r, 0, BYTES);
    hear(&r, 1, BYTES);
    nfm_record rec = make_packet(&r, FRAME);
    deliver(&r, &rec);
    settle(&r);
    CHECK_EQ(nfm_ring_peek(r.ring[1], &desc, 1), 1);
    uint32_t record = desc->record, life = home->life[record];
    CHECK(life != 0);
    int hold = nfm_ring_hold(r.ring[1], record);
    CHECK(hold >= 0);
    nfm_ring_advance(r.ring[1], 1);
    settle(&r);
    CHECK_EQ(nfm_ring_judge(r.ring[1], (uint32_t)hold, NFM_PASS), NFM_OK);
    settle(&r);
    CHECK_EQ(home->life[record], life);
    CHECK_EQ(home->n_free, home->n_records - 1);
    CHECK_EQ(r.box->delivery.n_free, 1024);
    CHECK_EQ(r.worker->core_counters[NFM_CC_COMMAND_BAD], 1);
    CHECK(next(&r, 0, &desc) != NULL);
    settle(&r);
    CHECK_EQ(home->n_free, home->n_records);
    end_rig(&r);
}

static void test_rings_and_domains_are_given_in_order(void) {
    rig r = make_rig(256, 4);
    nfm_error err = {0};
    nfm_domain_config config;
    nfm_domain_config_init(&config);
    CHECK_EQ(nfm_worker_give_ring(r.worker, r.ring[1], 1), NFM_E_STATE);
    CHECK_EQ(nfm_worker_give_ring(r.worker, r.ring[0], 2), NFM_E_INVAL);
    CHECK_EQ(nfm_worker_remove_domain(r.worker, 1), NFM_E_STATE);
    nfm_subscription sub = {.ring = r.ring[0], .events = PACKET};
    CHECK_EQ(nfm_worker_subscribe(r.worker, &sub), 0);
    CHECK_EQ(nfm_worker_give_ring(r.worker, r.ring[0], 1), NFM_E_STATE);
    for (int i = 1; i < RECEIVERS; i++)
        CHECK_EQ(nfm_worker_remove_ring(r.worker, r.ring[i]), NFM_OK);
    CHECK_EQ(nfm_worker_remove_domain(r.worker, 1), NFM_OK);
    CHECK_EQ(nfm_worker_remove_domain(r.worker, 1), NFM_E_INVAL);
    for (int i = 1; i <= NFM_MAX_DOMAINS; i++)
        CHECK_EQ(nfm_worker_add_domain(r.worker, "d", &config, &err), i);
    CHECK_EQ(nfm_worker_add_domain(r.worker, "d", &config, &err), NFM_E_LIMIT);
    CHECK(strstr(err.text, "16 domains") != NULL);
    config.n_records = 1000;
    CHECK_EQ(nfm_worker_add_domain(r.worker, "d", &config, &err), NFM_E_INVAL);
    CHECK(strstr(err.text, "n_records") != NULL);
    end_rig(&r);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(test_data_comes_without_its_packet),
        T(test_other_events_come_without_bytes),
        T(test_receivers_share_a_copy_with_all_their_bytes),
        T(test_application_events_bring_fields_and_data),
        T(test_slots_forget_what_they_held),
        T(test_a_full_inbox_costs_its_own_domain_only),
        T(test_records_run_out_and_come_back),
        T(test_a_held_record_stays_with_its_bytes),
        T(test_a_judgement_ends_a_hold_of_the_domain_and_no_other),
        T(test_rings_and_domains_are_given_in_order),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
