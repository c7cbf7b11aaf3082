/* SPDX-License-Identifier: Apache-2.0 */
/* The model that test_ring_model.c compares rings and releases with: what each ring must hold, and
 * which records and slots are in use. */
#ifndef NFM_TEST_RING_MODEL_H
#define NFM_TEST_RING_MODEL_H

#include "event/delivery.h"
#include "nfm_test.h"

enum {
    SCHEDULES = 3000,
    STEPS = 300,
    RINGS = 4,
    ENTRIES = 128, /* what an object of one page holds */
    RECORDS = 512,
    SLOTS = 256,
    HOLDS = 8,
    GAP = 1 << 30,  /* in model_ring.life: not a record, but so many missing */
    SERIALS = 4096, /* what is delivered in a schedule, at most */
    LIVES = 32768   /* records made for it: a replay makes new ones */
};

typedef struct model_ring {
    nfm_ring *worker; /* NULL: no such ring now */
    nfm_ring *nf;
    int fd;
    bool lossy, quarantined, asleep;
    uint64_t pushed, in_ring, published, seen, passed; /* positions */
    uint64_t suppressed;                               /* pushes still to be left out */
    uint64_t dropped, missing;
    uint32_t life[SERIALS];        /* by position: the record */
    uint32_t wanted[NFM_COMMANDS]; /* holds and releases on their way: hold + 1 << 24 | life + 1; 0
                                      all */
    uint32_t n_wanted;
    uint32_t held[HOLDS];      /* life + 1 as the worker knows it, 0 none */
    uint32_t nf_life[HOLDS];   /* the same as the receiver knows it */
    uint32_t nf_record[HOLDS]; /* and where it is */
} model_ring;

typedef struct model_epoch {
    uint32_t end; /* of busy[] */
    uint64_t heads[RINGS];
} model_epoch;

typedef struct world {
    uint64_t seed;
    bool replays; /* a worker that begins again delivers everything from the start */
    nfm_mem mem;
    nfm_pool pool;
    nfm_delivery delivery;
    nfm_worker_config config;
    nfm_record *records;
    uint8_t *packets;
    nfm_ring *rings[RINGS];
    model_ring ring[RINGS];
    nfm_receiver receivers[RINGS];
    nfm_subset set;
    uint32_t next;          /* serial of the next record */
    uint8_t bits[SERIALS];  /* rings that it is for */
    uint32_t lives;         /* records made */
    uint32_t serial[LIVES]; /* of a record */
    uint32_t slot[LIVES];   /* its slot */
    uint32_t busy[LIVES];   /* records in use: from busy_begin to busy_end */
    uint32_t busy_begin, busy_end;
    model_epoch epochs[LIVES];
    uint32_t epoch_begin, epoch_end;
    uint64_t no_record, deaths, lies, wakes;
} world;

static inline uint32_t draw(world *w, uint32_t below) {
    w->seed ^= w->seed << 13;
    w->seed ^= w->seed >> 7;
    w->seed ^= w->seed << 17;
    return (uint32_t)(w->seed >> 33) % below;
}

static inline void model_command(model_ring *r, uint32_t wanted) {
    CHECK(r->n_wanted < NFM_COMMANDS);
    r->wanted[r->n_wanted++] = wanted;
}

static inline void model_publish(world *w) {
    uint32_t begin =
        w->epoch_end == w->epoch_begin ? w->busy_begin : w->epochs[w->epoch_end - 1].end;
    for (uint32_t i = 0; i < RINGS; i++) {
        model_ring *r = &w->ring[i];
        if (r->worker == NULL || r->quarantined)
            continue;
        uint64_t room = r->seen + ENTRIES;
        r->in_ring = r->pushed < room ? r->pushed : room;
        r->published = r->in_ring;
    }
    if (w->busy_end == begin)
        return;
    model_epoch *e = &w->epochs[w->epoch_end++];
    e->end = w->busy_end;
    for (uint32_t i = 0; i < RINGS; i++)
        e->heads[i] = w->ring[i].worker == NULL ? 0 : w->ring[i].pushed;
}

static inline bool model_passed(const world *w, const model_epoch *e) {
    for (uint32_t i = 0; i < RINGS; i++)
        if (w->ring[i].worker != NULL && !w->ring[i].quarantined && w->ring[i].seen < e->heads[i])
            return false;
    return true;
}

static inline void model_take_commands(model_ring *r) {
    for (uint32_t k = 0; k < r->n_wanted; k++) {
        if (r->wanted[k] == 0)
            memset(r->held, 0, sizeof(r->held));
        else
            r->held[(r->wanted[k] >> 24) - 1] = r->wanted[k] & 0xffffff;
    }
    r->n_wanted = 0;
    if (r->quarantined)
        memset(r->held, 0, sizeof(r->held));
}

static inline void model_collect(world *w) {
    for (uint32_t i = 0; i < RINGS; i++) {
        w->ring[i].seen = w->ring[i].passed;
        model_take_commands(&w->ring[i]);
    }
    while (w->epoch_begin < w->epoch_end && model_passed(w, &w->epochs[w->epoch_begin]))
        w->busy_begin = w->epochs[w->epoch_begin++].end;
}

/* After a death: what the rings hold is in use, as one epoch. */
static inline void model_adopt(world *w) {
    bool named[LIVES] = {false};
    w->busy_begin = w->busy_end = w->epoch_begin = w->epoch_end = 0;
    for (uint32_t i = 0; i < RINGS; i++) {
        model_ring *r = &w->ring[i];
        if (r->worker == NULL)
            continue;
        r->pushed = r->in_ring = r->published;
        r->seen = r->passed;
        r->missing = 0;
        model_take_commands(r);
        for (uint64_t at = r->passed; at < r->published; at++) {
            if (r->life[at] & GAP)
                continue;
            if (!named[r->life[at]])
                w->busy[w->busy_end++] = r->life[at];
            named[r->life[at]] = true;
        }
    }
    model_publish(w);
}

/* Appends to |kept| what is in use: what is not released, and what is held beyond that. */
static inline uint32_t model_kept(const world *w, uint32_t *kept) {
    uint32_t n = 0;
    for (uint32_t i = w->busy_begin; i < w->busy_end; i++)
        kept[n++] = w->busy[i];
    for (uint32_t i = 0; i < RINGS; i++) {
        for (uint32_t hold = 0; hold < HOLDS; hold++) {
            uint32_t life = w->ring[i].held[hold] - 1, k = 0;
            while (k < n && kept[k] != life)
                k++;
            if (w->ring[i].held[hold] != 0 && k == n)
                kept[n++] = life;
        }
    }
    return n;
}

static inline uint32_t model_slots(const world *w, const uint32_t *kept, uint32_t n_kept) {
    bool used[SLOTS] = {false};
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_kept; i++) {
        n += !used[w->slot[kept[i]]];
        used[w->slot[kept[i]]] = true;
    }
    return n;
}

static inline void check_memory(const world *w) {
    uint32_t kept[RECORDS + RINGS * HOLDS], n = model_kept(w, kept);
    CHECK_EQ(w->delivery.n_free, RECORDS - n);
    CHECK_EQ(w->pool.n_free_small, SLOTS - model_slots(w, kept, n));
    CHECK_EQ(w->delivery.no_record, w->no_record);
}

/* Whether the model lets ring |i| have one more entry, and where that stands. */
static inline void model_push(world *w, uint32_t i, uint32_t life) {
    model_ring *r = &w->ring[i];
    if (r->suppressed > 0) {
        r->suppressed--;
        return;
    }
    uint64_t room = r->seen + ENTRIES - r->pushed;
    bool full = !r->lossy && r->pushed >= r->seen + ENTRIES;
    if (r->quarantined || (r->lossy && room < (r->missing > 0 ? ENTRIES / 16 : 1))) {
        r->dropped++;
        r->missing += !r->quarantined;
        return;
    }
    if (r->missing > 0) {
        r->life[r->pushed++] = GAP | (uint32_t)r->missing;
        r->missing = 0;
        r->in_ring = r->pushed;
    }
    r->life[r->pushed++] = life;
    if (r->in_ring + 1 == r->pushed && !full)
        r->in_ring = r->pushed;
}

#endif
