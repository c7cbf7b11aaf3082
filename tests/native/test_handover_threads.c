/* SPDX-License-Identifier: Apache-2.0 */
/* A handover ring between threads, so that a thread sanitizer sees both sides; nobody oversleeps.
 */
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include "io/handover.h"
#include "nfm_test.h"

enum { FRAMES = 20000, LONGEST = 9000, KEY_EVERY = 11 };

typedef struct sides {
    nfm_handover to, from;
    int bell;
    uint64_t full; /* times that the producer had to wait */
} sides;

static uint32_t len_of(uint32_t n) {
    return n * 2654435761u % LONGEST + 4;
}

static bool is_key(uint32_t n) {
    return n % KEY_EVERY == 0;
}

static void *produce(void *arg) {
    sides *s = arg;
    for (uint32_t n = 0; n < FRAMES;) {
        nfm_handed head = {
            .kind = is_key(n) ? NFM_HANDED_KEY : NFM_HANDED_FRAME, .len = len_of(n), .ts_ns = n};
        uint8_t *to = nfm_handover_write(&s->to, &head);
        if (to != NULL) {
            memset(to, (int)(n & 0xff), head.len);
            memcpy(to, &n, sizeof(n));
            n++;
        }
        s->full += to == NULL;
        if (to == NULL || n % 7 == 0 || n == FRAMES)
            nfm_handover_publish(&s->to);
        if (to == NULL || n % 500 == 0)
            usleep(100);
    }
    return NULL;
}

/* Sleeps as a worker does: says so, fences, looks once more. */
static void sleep_until_bell(sides *s) {
    struct pollfd fd = {.fd = s->bell, .events = POLLIN};
    nfm_handed head;
    uint64_t rings;
    nfm_handover_sleep(&s->from, true);
    atomic_thread_fence(memory_order_seq_cst);
    if (nfm_handover_peek(&s->from, &head) == NULL)
        CHECK(poll(&fd, 1, 20000) == 1); /* who waits in vain has missed the bell */
    nfm_handover_sleep(&s->from, false);
    (void)!read(s->bell, &rings, sizeof(rings));
}

/* Reads keys ahead of what was not taken; returns how many were out of order. */
static uint32_t read_keys(sides *s, uint32_t *next) {
    nfm_handed head;
    uint32_t number, damaged = 0;
    for (const uint8_t *bytes; (bytes = nfm_handover_next_key(&s->from, &head)) != NULL;) {
        memcpy(&number, bytes, sizeof(number));
        damaged += number != *next || head.len != len_of(number);
        *next += KEY_EVERY;
    }
    return damaged;
}

static void what_is_handed_over_comes_whole_and_in_order(void) {
    static sides s;
    nfm_error err = {0};
    nfm_object_info made;
    pthread_t producer;
    CHECK_EQ(nfm_object_create("hand", nfm_handover_object_size(), &made, &err), NFM_OK);
    CHECK_EQ(nfm_handover_open(&s.to, made.fd, true, &err), NFM_OK);
    CHECK_EQ(nfm_handover_open(&s.from, made.fd, false, &err), NFM_OK);
    s.to.bell = s.bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK_EQ(pthread_create(&producer, NULL, produce, &s), 0);
    uint32_t damaged = 0, next_key = 0;
    for (uint32_t n = 0; n < FRAMES && !nfm_test_failed;) {
        nfm_handed head;
        const uint8_t *bytes = nfm_handover_peek(&s.from, &head);
        if (bytes == NULL) {
            sleep_until_bell(&s);
            continue;
        }
        damaged += read_keys(&s, &next_key);
        uint32_t number;
        memcpy(&number, bytes, sizeof(number));
        damaged += (is_key(n) && next_key <= n) || number != n || head.len != len_of(n) ||
                   head.ts_ns != n || (head.len > 4 && bytes[head.len - 1] != (uint8_t)n);
        nfm_handover_take(&s.from, &head);
        n++;
    }
    CHECK_EQ(damaged, 0);
    pthread_join(producer, NULL);
    nfm_handover_close(&s.to);
    nfm_handover_close(&s.from);
    close(made.fd);
    close(s.bell);
}

static void an_object_of_another_version_is_refused(void) {
    nfm_error err = {0};
    nfm_object_info made;
    nfm_handover ring;
    CHECK_EQ(nfm_object_create("hand", nfm_handover_object_size(), &made, &err), NFM_OK);
    CHECK_EQ(nfm_handover_open(&ring, made.fd, true, &err), NFM_OK);
    ring.shared->abi++;
    nfm_handover_close(&ring);
    CHECK_EQ(nfm_handover_open(&ring, made.fd, false, &err), NFM_E_ABI);
    CHECK(strstr(err.text, "run one version of nfmesh") != NULL);
    close(made.fd);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(what_is_handed_over_comes_whole_and_in_order),
        T(an_object_of_another_version_is_refused),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
