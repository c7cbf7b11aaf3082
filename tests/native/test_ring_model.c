/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rings and releases against a model, under random schedules.
 *
 * A schedule is a random order of small steps: the worker delivers records to some of its rings,
 * publishes, collects tails, adds or removes a ring, dies (also half-way through publishing) and
 * begins again over the same memory; receivers look, pass, hold and release records, sleep, die, or
 * lie about their tail. The model knows what each ring must hold, which records and slots are in
 * use, and who sleeps. Nothing may be lost, repeated, reordered or overwritten, but in lossy rings,
 * which say how much and where; what all have passed and nobody holds is free, nothing earlier;
 * nobody sleeps on an entry that was published.
 */
#include "ring_model.h"

/* ---- the worker's life ---------------------------------------------------------------------- */

/* What subscriptions would give: ring i wants event bit i. */
static void wire(world *w) {
    w->set.n = 0;
    w->set.receivers = w->receivers;
    for (uint32_t i = 0; i < RINGS; i++)
        if (w->ring[i].worker != NULL)
            w->receivers[w->set.n++] =
                (nfm_receiver){.ring = w->ring[i].worker, .events = UINT64_C(1) << i};
}

static void open_ring(world *w, uint32_t i) {
    model_ring *r = &w->ring[i];
    r->worker = calloc(1, sizeof(*r->worker));
    CHECK_EQ(nfm_ring_adopt(r->worker, r->fd, r->lossy, NULL), NFM_OK);
    CHECK_EQ(nfm_delivery_allow_holds(&w->delivery, r->worker, HOLDS, NULL), NFM_OK);
    w->rings[i] = r->worker;
}

static void new_ring(world *w, uint32_t i) {
    model_ring *r = &w->ring[i];
    nfm_object_info info;
    nfm_error err;
    memset(r, 0, sizeof(*r));
    CHECK_EQ(nfm_object_create("ring", nfm_ring_object_size(ENTRIES), &info, &err), NFM_OK);
    r->fd = info.fd;
    r->lossy = !w->replays && draw(w, 3) == 0;
    open_ring(w, i);
    r->nf = nfm_ring_attach(r->fd, &err);
    CHECK(r->nf != NULL);
    model_command(r, 0);
    wire(w);
}

static void close_worker_ring(world *w, uint32_t i) {
    nfm_ring_fini(w->ring[i].worker);
    free(w->ring[i].worker);
    w->ring[i].worker = w->rings[i] = NULL;
}

static void remove_ring(world *w, uint32_t i) {
    nfm_delivery_unhold_all(&w->delivery, w->ring[i].worker);
    nfm_delivery_forget(&w->delivery, i);
    for (uint32_t e = w->epoch_begin; e < w->epoch_end; e++)
        w->epochs[e].heads[i] = 0;
    close_worker_ring(w, i);
    nfm_ring_detach(w->ring[i].nf);
    close(w->ring[i].fd);
    memset(&w->ring[i], 0, sizeof(w->ring[i]));
    wire(w);
}

static void open_delivery(world *w) {
    w->config.n_records = RECORDS;
    CHECK_EQ(nfm_pool_init(&w->pool, w->packets, SLOTS, 0), NFM_OK);
    w->mem = (nfm_mem){.packets = w->packets,
                       .records = w->records,
                       .n_small = SLOTS,
                       .n_slots = SLOTS,
                       .n_records = RECORDS,
                       .n_flows = 64};
    CHECK_EQ(nfm_delivery_init(&w->delivery, &w->config, &w->pool, &w->mem), NFM_OK);
    w->delivery.rings = w->rings;
    w->delivery.n_rings = RINGS;
}

/* ---- steps of the worker -------------------------------------------------------------------- */

static void deliver_one(world *w, uint32_t slot) {
    uint32_t serial = w->next++, life = w->lives++;
    w->serial[life] = serial;
    w->slot[life] = slot;
    nfm_record record = {.packet = serial, .slot = slot, .events = w->bits[serial]};
    record.kind = NFM_REC_PACKET;
    bool wanted = false;
    for (uint32_t i = 0; i < RINGS; i++)
        wanted |= w->ring[i].worker != NULL && (w->bits[serial] >> i & 1);
    if (wanted && w->delivery.n_free == 0) {
        w->no_record++;
    } else if (wanted) {
        w->busy[w->busy_end++] = life;
        for (uint32_t i = 0; i < RINGS; i++)
            if (w->ring[i].worker != NULL && (w->bits[serial] >> i & 1))
                model_push(w, i, life);
    }
    nfm_deliver(&w->delivery, &w->set, &record, NULL);
}

/* A packet in a slot, with one to three records that refer to it. */
static void deliver(world *w) {
    uint32_t records = 1 + draw(w, 3);
    if (w->pool.n_free_small == 0 || w->next + records >= SERIALS || w->lives + records >= LIVES)
        return;
    if (w->replays && w->delivery.n_free < records)
        return; /* files wait: a replay must be the same */
    uint32_t slot = nfm_pool_get(&w->pool, 64);
    memcpy(nfm_pool_addr(&w->pool, slot), &w->next, 4);
    for (uint32_t i = 0; i < records; i++)
        deliver_one(w, slot);
    nfm_pool_put(&w->pool, slot);
}

/* Nobody sleeps while there is something for him. */
static void check_awake(world *w) {
    for (uint32_t i = 0; i < RINGS; i++) {
        model_ring *r = &w->ring[i];
        if (r->worker == NULL || !r->asleep || r->quarantined || r->published == r->passed)
            continue;
        const nfm_ring_shared *shared = r->worker->shared;
        CHECK(shared->asleep != shared->wake_seq + 1);
        w->wakes++;
    }
}

static void publish(world *w) {
    model_publish(w);
    nfm_delivery_publish(&w->delivery);
    nfm_delivery_wake(&w->delivery, true);
    for (uint32_t i = 0; i < RINGS; i++) {
        model_ring *r = &w->ring[i];
        if (r->worker == NULL || r->quarantined)
            continue;
        CHECK_EQ(r->worker->head, r->pushed);
        CHECK_EQ(r->worker->shared->head, r->published);
        CHECK_EQ(r->worker->dropped, r->dropped);
    }
    check_awake(w);
}

/* As the engine does for holds. */
static void take_commands(world *w) {
    nfm_delivery *d = &w->delivery;
    for (uint32_t i = 0; i < RINGS; i++) {
        nfm_ring *ring = w->rings[i];
        nfm_command c;
        while (ring != NULL && nfm_ring_take_command(ring, &c)) {
            if (c.kind == NFM_CMD_HOLD)
                CHECK(nfm_delivery_hold(d, ring, c.number, c.a));
            else if (c.kind == NFM_CMD_RELEASE)
                CHECK(nfm_delivery_unhold(d, ring, c.number));
            else
                nfm_delivery_unhold_all(d, ring);
        }
        if (ring != NULL && ring->quarantined)
            nfm_delivery_unhold_all(d, ring);
    }
}

static void collect(world *w) {
    uint32_t before = w->busy_begin;
    model_collect(w);
    nfm_delivery_collect(&w->delivery);
    take_commands(w);
    CHECK_EQ(nfm_delivery_retire(&w->delivery), w->busy_begin - before);
    check_memory(w);
}

/* The worker's process ends, perhaps after it published some rings and before it woke anybody. */
static void die(world *w) {
    for (uint32_t i = draw(w, RINGS + 1); i < RINGS; i++) {
        model_ring *r = &w->ring[i];
        if (r->worker == NULL || r->quarantined)
            continue;
        nfm_ring_flush(r->worker);
        uint64_t room = r->seen + ENTRIES;
        r->published = r->pushed < room ? r->pushed : room;
    }
    for (uint32_t i = 0; i < RINGS; i++) {
        bool spoilt = w->ring[i].quarantined;
        if (spoilt)
            remove_ring(w, i);
        else if (w->ring[i].worker != NULL)
            close_worker_ring(w, i);
    }
    nfm_delivery_fini(&w->delivery);
    nfm_pool_fini(&w->pool);
    w->deaths++;
}

static void begin_again(world *w) {
    open_delivery(w);
    w->no_record = 0;
    for (uint32_t i = 0; i < RINGS; i++) {
        model_ring *r = &w->ring[i];
        if (r->nf == NULL)
            continue;
        open_ring(w, i);
        r->dropped = 0;
        if (w->replays) {
            r->suppressed = r->published;
            nfm_ring_suppress(r->worker, r->published);
        }
    }
    if (w->replays)
        w->next = 0;
    wire(w);
    model_adopt(w);
    CHECK_EQ(nfm_delivery_adopt(&w->delivery), NFM_OK);
    check_memory(w);
    check_awake(w);
}

/* ---- steps of a receiver -------------------------------------------------------------------- */

static void check_record(const world *w, uint32_t id, uint32_t life) {
    const nfm_record *record = &w->records[id];
    uint32_t serial = w->serial[life], first;
    CHECK_EQ(record->packet, serial);
    CHECK_EQ(record->slot, w->slot[life]);
    memcpy(&first, nfm_pool_addr(&w->pool, record->slot), 4);
    CHECK(first <= serial && serial - first < 3);
}

/* Keeps the record of an entry at hand, or lets go of one that was kept and must be intact. */
static void hold_or_release(world *w, model_ring *r, uint32_t pick, const nfm_desc *desc) {
    if (r->n_wanted > NFM_COMMANDS - 4)
        return;
    if (r->nf_life[pick] == 0) {
        int hold = nfm_ring_hold(r->nf, desc->record);
        CHECK(hold >= 0 && hold < HOLDS && r->nf_life[hold] == 0);
        uint32_t at =
            (uint32_t)(r->passed + (uint64_t)(desc - r->nf->desc) - (r->passed & r->nf->mask));
        r->nf_life[hold] = r->life[at] + 1;
        r->nf_record[hold] = desc->record;
        model_command(r, (uint32_t)(hold + 1) << 24 | r->nf_life[hold]);
        return;
    }
    check_record(w, r->nf_record[pick], r->nf_life[pick] - 1);
    CHECK_EQ(nfm_ring_release(r->nf, pick), NFM_OK);
    r->nf_life[pick] = 0;
    model_command(r, (pick + 1) << 24);
}

static void look(world *w, model_ring *r) {
    const nfm_desc *desc;
    uint32_t n = nfm_ring_peek(r->nf, &desc, 1 + draw(w, 40));
    CHECK(r->passed + n <= r->published);
    if (n == 0 && r->passed < r->published) {
        CHECK_EQ(nfm_ring_gap(r->nf) | GAP, r->life[r->passed++]);
        nfm_ring_advance(r->nf, 1);
        return;
    }
    for (uint32_t k = 0; k < n && !nfm_test_failed; k++) {
        check_record(w, desc[k].record, r->life[r->passed + k]);
    }
    if (n > 0 && draw(w, 4) == 0)
        hold_or_release(w, r, draw(w, HOLDS), &desc[draw(w, n)]);
    uint32_t passed = draw(w, n + 1);
    nfm_ring_advance(r->nf, passed);
    r->passed += passed;
    if (n == 0 && draw(w, 2) == 0) { /* as nfm_ring_wait does before its system call */
        r->worker->shared->asleep = r->worker->shared->wake_seq + 1;
        r->asleep = true;
    }
}

static void reattach(model_ring *r) {
    nfm_error err;
    nfm_ring_detach(r->nf);
    r->nf = nfm_ring_attach(r->fd, &err);
    CHECK(r->nf != NULL && nfm_ring_position(r->nf) == r->passed);
    memset(r->nf_life, 0, sizeof(r->nf_life));
    model_command(r, 0);
    r->asleep = false;
}

static void lie(world *w, model_ring *r) {
    uint64_t tails[] = {r->in_ring + 1 + draw(w, 5), UINT64_MAX, UINT64_C(1) << 63};
    r->worker->shared->tail = tails[draw(w, 3)];
    r->quarantined = true;
    w->lies++;
    nfm_delivery_collect(&w->delivery);
    take_commands(w);
    nfm_delivery_retire(&w->delivery);
    CHECK(r->worker->quarantined);
    CHECK_EQ(r->worker->bad_tails, 1);
    model_collect(w);
    check_memory(w);
}

static void receive(world *w) {
    model_ring *r = &w->ring[draw(w, RINGS)];
    if (r->worker == NULL || r->quarantined)
        return;
    if (r->asleep && r->worker->shared->asleep == r->worker->shared->wake_seq + 1)
        return; /* in its system call */
    r->asleep = false;
    uint32_t what = draw(w, 200);
    if (what == 0)
        lie(w, r);
    else if (what < 6)
        reattach(r);
    else
        look(w, r);
}

/* ---- schedules ------------------------------------------------------------------------------ */

static void step(world *w) {
    uint32_t what = draw(w, 1000), i = draw(w, RINGS);
    if (what < 400) {
        receive(w);
    } else if (what < 750) {
        for (uint32_t n = draw(w, 16); n > 0; n--)
            deliver(w);
    } else if (what < 880) {
        publish(w);
    } else if (what < 985) {
        collect(w);
    } else if (what < 990) {
        publish(w);
        die(w);
        begin_again(w);
    } else if (what < 994) {
        die(w);
        begin_again(w);
    } else if (!w->replays && w->ring[i].worker == NULL) {
        new_ring(w, i);
    } else if (!w->replays && what < 997) {
        remove_ring(w, i);
    }
}

/* Everything arrives and is released when receivers go on reading. */
static void drain(world *w) {
    for (int turn = 0; turn < 4000 && !nfm_test_failed; turn++) {
        if (w->replays && turn % 7 == 0)
            while (w->next < SERIALS / 4 && w->bits[w->next] != 0 && w->pool.n_free_small > 0 &&
                   w->delivery.n_free > 3)
                deliver(w);
        publish(w);
        receive(w);
        collect(w);
        bool idle = w->busy_begin == w->busy_end;
        if (idle && (!w->replays || w->next >= SERIALS / 4))
            break;
    }
    CHECK_EQ(w->busy_end, w->busy_begin);
    CHECK(nfm_delivery_is_idle(&w->delivery));
    for (uint32_t i = 0; i < RINGS; i++)
        if (w->ring[i].worker != NULL && !w->ring[i].quarantined)
            CHECK_EQ(w->ring[i].passed, w->ring[i].pushed);
}

static void run_schedule(world *w, uint32_t number) {
    uint8_t *packets = w->packets;
    nfm_record *records = w->records;
    uint64_t deaths = w->deaths, lies = w->lies, wakes = w->wakes;
    memset(w, 0, sizeof(*w));
    w->packets = packets;
    w->records = records;
    w->deaths = deaths;
    w->lies = lies;
    w->wakes = wakes;
    w->seed = number * UINT64_C(0x9e3779b97f4a7c15) + 1;
    w->replays = number % 2 == 1;
    for (uint32_t i = 0; i < SERIALS; i++)
        w->bits[i] = (uint8_t)(1 + draw(w, (1 << RINGS) - 1));
    open_delivery(w);
    for (uint32_t i = 0; i < 3; i++)
        new_ring(w, i);
    for (int i = 0; i < STEPS && !nfm_test_failed; i++)
        step(w);
    drain(w);
    for (uint32_t i = 0; i < RINGS; i++)
        if (w->ring[i].worker != NULL)
            remove_ring(w, i);
    nfm_delivery_fini(&w->delivery);
    nfm_pool_fini(&w->pool);
}

static void test_random_schedules_agree_with_the_model(void) {
    world *w = calloc(1, sizeof(*w));
    w->packets = calloc(SLOTS, NFM_SLOT_SMALL);
    w->records = calloc(RECORDS, sizeof(nfm_record));
    uint32_t number = 0;
    const char *only = getenv("NFM_SCHEDULE"); /* to look at one that failed */
    for (number = only ? (uint32_t)atoi(only) : 0; number < SCHEDULES && !nfm_test_failed;
         number++) {
        run_schedule(w, number);
        if (nfm_test_failed)
            printf("# schedule %u\n", number);
        if (only != NULL)
            break;
    }
    printf("# %u schedules, %" PRIu64 " deaths of the worker, %" PRIu64 " lies, %" PRIu64
           " wakes\n",
           number, w->deaths, w->lies, w->wakes);
    free(w->packets);
    free(w->records);
    free(w);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {T(test_random_schedules_agree_with_the_model)};
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
