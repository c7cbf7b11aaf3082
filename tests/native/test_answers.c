/* SPDX-License-Identifier: Apache-2.0 */
/* The answer ring: against a plain queue on random schedules, with writers that die and lie, and
 * with writer and reader as threads for a thread sanitizer. */
#include <pthread.h>
#include <sched.h>

#include "base/answers.h"
#include "nfm_test.h"

enum { SCHEDULES = 3000, STEPS = 400, MODEL = 8192, THREADED = 200000 };

typedef struct model { /* what must come out, in order */
    nfm_answer answer[MODEL];
    uint64_t head, shown, tail;
} model;

static uint32_t random_next(uint64_t *state) { /* xorshift64 (Marsaglia 2003) */
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)(*state >> 16);
}

static int ring_object(void) {
    nfm_object_info info;
    uint64_t size = nfm_answers_object_size(NFM_ANSWERS_MIN);
    CHECK_EQ(nfm_object_create("answers", size, &info, NULL), NFM_OK);
    return info.fd;
}

static uint8_t stamp(uint64_t position, uint32_t i) {
    return (uint8_t)(position * 31 + i);
}

/* Writes one answer of a random size, when there is room. */
static bool write_one(nfm_answers *host, nfm_answer *answer) {
    uint8_t *fields = nfm_answers_write(host, answer);
    if (fields == NULL)
        return false;
    for (uint32_t i = 0; i < answer->fields_len; i++)
        fields[i] = stamp(answer->position, i);
    return true;
}

static nfm_answer random_answer(uint64_t *state, uint64_t position) {
    uint32_t kind = random_next(state) % 3, len = 0;
    if (kind == 0)
        len = random_next(state) % (random_next(state) % 8 == 0 ? NFM_ANSWER_FIELDS : 500);
    return (nfm_answer){.kind = kind == 0 ? NFM_ANSWER_RAISED : NFM_ANSWER_DETACH,
                        .event = (uint16_t)(random_next(state) % 9),
                        .position = position,
                        .fields_len = len};
}

static void read_one(nfm_answers *worker, model *m) {
    nfm_answer got;
    const uint8_t *fields = NULL;
    int found = nfm_answers_peek(worker, &got, &fields);
    CHECK_EQ(found, m->shown != m->tail);
    if (found != 1)
        return;
    const nfm_answer *want = &m->answer[m->tail++ % MODEL];
    CHECK_EQ(got.position, want->position);
    CHECK_EQ(got.kind, want->kind);
    CHECK_EQ(got.event, want->event);
    CHECK_EQ(got.fields_len, want->fields_len);
    for (uint32_t i = 0; i < got.fields_len && !nfm_test_failed; i += 97)
        CHECK_EQ(fields[i], stamp(got.position, i));
    nfm_answers_take(worker, &got);
}

/* One schedule; either side may be closed and opened again, where it goes on. What a writer had not
 * published when it died was never said. */
static void run_schedule(uint64_t seed, model *m) {
    nfm_answers host, worker;
    nfm_error err = {0};
    uint64_t state = seed * 2 + 1, position = 0;
    int fd = ring_object();
    memset(m, 0, sizeof(*m));
    CHECK_EQ(nfm_answers_open(&host, fd, true, &err), NFM_OK);
    CHECK_EQ(nfm_answers_open(&worker, fd, false, &err), NFM_OK);
    for (int step = 0; step < STEPS && !nfm_test_failed; step++) {
        uint32_t what = random_next(&state) % 100;
        if (what < 50 && m->head - m->tail < MODEL) {
            nfm_answer answer = random_answer(&state, position++);
            if (write_one(&host, &answer))
                m->answer[m->head++ % MODEL] = answer;
            else
                CHECK(m->head != m->tail); /* an empty ring has room */
        } else if (what < 65) {
            nfm_answers_done(&host, position);
            m->shown = m->head;
        } else if (what < 97) {
            read_one(&worker, m);
        } else if (what < 99) {
            nfm_answers_close(&host);
            CHECK_EQ(nfm_answers_open(&host, fd, true, &err), NFM_OK);
            m->head = m->shown;
        } else {
            nfm_answers_close(&worker);
            CHECK_EQ(nfm_answers_open(&worker, fd, false, &err), NFM_OK);
        }
    }
    nfm_answers_publish(&host);
    m->shown = m->head;
    while (m->tail != m->shown && !nfm_test_failed)
        read_one(&worker, m);
    nfm_answers_close(&host);
    nfm_answers_close(&worker);
    close(fd);
    if (nfm_test_failed)
        printf("# schedule %llu\n", (unsigned long long)seed);
}

static void test_random_schedules_follow_the_model(void) {
    model *m = malloc(sizeof(*m));
    for (uint64_t seed = 0; seed < SCHEDULES && !nfm_test_failed; seed++)
        run_schedule(seed, m);
    free(m);
}

/* Whatever lies in the ring, the reader stays in it and comes to an end. */
static void test_garbage_is_refused_or_passed(void) {
    uint64_t state = 77, refused = 0;
    int fd = ring_object();
    nfm_answers host, worker;
    nfm_error err = {0};
    CHECK_EQ(nfm_answers_open(&host, fd, true, &err), NFM_OK);
    for (int round = 0; round < 2000; round++) {
        CHECK_EQ(nfm_answers_open(&worker, fd, false, &err), NFM_OK);
        uint64_t n = random_next(&state) % 4096 * 8 + 64, from = worker.at;
        for (uint64_t i = 0; i < n; i += 8) {
            uint64_t word =
                random_next(&state) % 4 == 0 ? random_next(&state) : random_next(&state) % 96 & ~7u;
            memcpy(host.shared->data + ((from + i) & (host.capacity - 1)), &word, 8);
        }
        bool lies = random_next(&state) % 4 == 0;
        atomic_store(&host.shared->head, from + (lies ? (uint64_t)random_next(&state) << 9 : n));
        nfm_answer answer;
        const uint8_t *fields;
        int found, looks = 0;
        while ((found = nfm_answers_peek(&worker, &answer, &fields)) == 1 && looks++ < 100000) {
            CHECK(fields + answer.fields_len <= worker.shared->data + worker.capacity);
            nfm_answers_take(&worker, &answer);
        }
        CHECK(looks < 100000);
        refused += found == NFM_E_FORMAT;
        nfm_answers_skip(&worker);
        nfm_answers_close(&worker);
    }
    CHECK(refused > 1000);
    nfm_answers_close(&host);
    close(fd);
}

static void test_an_object_of_another_abi_is_refused(void) {
    int fd = ring_object();
    nfm_answers a;
    nfm_error err = {0};
    CHECK_EQ(nfm_answers_open(&a, fd, true, &err), NFM_OK);
    a.shared->abi = NFM_ABI_VERSION + 1;
    nfm_answers_close(&a);
    CHECK_EQ(nfm_answers_open(&a, fd, false, &err), NFM_E_ABI);
    CHECK(strstr(err.text, "ABI") != NULL);
    CHECK_EQ(nfm_answers_object_size(NFM_ANSWERS_MIN + 8), 0);
    CHECK_EQ(nfm_answers_object_size(NFM_ANSWERS_MIN / 2), 0);
    close(fd);
}

/* ---- threads ---- */

static void *say_all(void *arg) {
    nfm_answers *host = arg;
    uint64_t state = 5;
    for (uint64_t position = 0; position < THREADED;) {
        nfm_answer answer = random_answer(&state, position);
        while (!write_one(host, &answer)) {
            nfm_answers_publish(host);
            sched_yield();
        }
        if (++position % 32 == 0 || position == THREADED)
            nfm_answers_done(host, position);
    }
    return NULL;
}

static void test_threads_hand_over_answers(void) {
    int fd = ring_object();
    nfm_answers host, worker;
    nfm_error err = {0};
    pthread_t thread;
    CHECK_EQ(nfm_answers_open(&host, fd, true, &err), NFM_OK);
    CHECK_EQ(nfm_answers_open(&worker, fd, false, &err), NFM_OK);
    worker.shared = host.shared; /* one mapping, so that a sanitizer sees who touches what */
    CHECK_EQ(pthread_create(&thread, NULL, say_all, &host), 0);
    uint64_t next = 0, wrong = 0;
    while (next < THREADED) {
        nfm_answer answer;
        const uint8_t *fields;
        uint64_t done = atomic_load_explicit(&host.shared->done, memory_order_acquire);
        int found = nfm_answers_peek(&worker, &answer, &fields);
        wrong += found < 0 || (found == 0 && next < done); /* what is done is there */
        if (found <= 0 || wrong > 0) {
            if (wrong > 0)
                break;
            sched_yield();
            continue;
        }
        wrong += answer.position != next++;
        for (uint32_t i = 0; i < answer.fields_len; i += 61)
            wrong += fields[i] != stamp(answer.position, i);
        nfm_answers_take(&worker, &answer);
    }
    CHECK_EQ(wrong, 0);
    pthread_join(thread, NULL);
    nfm_answers_close(&host);
    nfm_answers_close(&worker);
    close(fd);
}

static const nfm_test tests[] = {
    T(test_random_schedules_follow_the_model),
    T(test_garbage_is_refused_or_passed),
    T(test_an_object_of_another_abi_is_refused),
    T(test_threads_hand_over_answers),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
