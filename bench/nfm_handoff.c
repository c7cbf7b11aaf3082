/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Worker to NF process: entries per second through a ring, two processes on two cores, in turns:
 *
 *   raw8, raw16   the least that a single-producer single-consumer ring can do with entries of 8
 *                 and 16 bytes: write a burst, publish an index, read the other's index when full
 *   ring          descriptors through the worker's ring, as the worker and an NF use it: push,
 *                 flush, look whether the receiver sleeps, collect its tail; wait, peek, pass
 *   records       the same through the worker's delivery: each descriptor names a record of 128
 *                 bytes that is copied, read, and released by tail
 *
 * The receiver adds up what it gets, and the sum must be right. Prints a JSON line.
 */
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "event/delivery.h"
#include "measured_options.h"

/* WAKE_BURSTS: as the worker does while bursts are full. */
enum { RING = 4096, RECORDS = 8192, SPIN_NS = 1000000000, WAKE_BURSTS = 128 };

typedef struct raw_ring {
    alignas(64) _Atomic uint64_t head;
    alignas(64) _Atomic uint64_t tail;
    alignas(64) uint64_t small[RING];
    nfm_desc large[RING];
} raw_ring;

typedef struct arena {                  /* shared by the two processes */
    alignas(64) _Atomic uint32_t ready; /* the receiver has begun */
    alignas(64) uint64_t sum;           /* what it added up; valid when it has ended */
    raw_ring raw;
    alignas(64) nfm_record records[RECORDS];
} arena;

typedef struct run {
    arena *arena;
    uint64_t entries;
    uint32_t burst;
    int ring_fd;
    int processor[2];
} run;

typedef struct contest { /* one way to hand over: both halves */
    const char *name;
    void (*send)(const run *run);
    uint64_t (*receive)(const run *run);
} contest;

_Noreturn static void die(const char *what) {
    measured_die("nfm-handoff", what);
}

static inline void relax(void) {
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

static inline uint64_t load(const _Atomic uint64_t *index) {
    return atomic_load_explicit(index, memory_order_acquire);
}

static inline void store(_Atomic uint64_t *index, uint64_t value) {
    atomic_store_explicit(index, value, memory_order_release);
}

/* ---- raw rings ------------------------------------------------------------------------------ */

/* Waits until a burst fits behind |at|; *limit is the first position that does not. */
static inline void raw_room(raw_ring *raw, uint64_t at, uint32_t burst, uint64_t *limit) {
    while (at + burst > *limit) {
        *limit = load(&raw->tail) + RING;
        if (at + burst > *limit)
            relax();
    }
}

/* Waits for entries behind |at|; returns the end of a run of at most |burst|. */
static inline uint64_t raw_more(raw_ring *raw, uint64_t at, uint32_t burst, uint64_t *head) {
    while (*head == at)
        if ((*head = load(&raw->head)) == at)
            relax();
    return *head - at < burst ? *head : at + burst;
}

static void send_raw8(const run *r) {
    raw_ring *raw = &r->arena->raw;
    uint64_t limit = RING;
    for (uint64_t at = 0; at < r->entries;) {
        raw_room(raw, at, r->burst, &limit);
        for (uint32_t i = 0; i < r->burst; i++, at++)
            raw->small[at % RING] = at;
        store(&raw->head, at);
    }
}

static uint64_t receive_raw8(const run *r) {
    raw_ring *raw = &r->arena->raw;
    uint64_t sum = 0, head = 0;
    for (uint64_t at = 0; at < r->entries;) {
        uint64_t end = raw_more(raw, at, r->burst, &head);
        for (; at < end; at++)
            sum += raw->small[at % RING];
        store(&raw->tail, at);
    }
    return sum;
}

static void send_raw16(const run *r) {
    raw_ring *raw = &r->arena->raw;
    uint64_t limit = RING;
    for (uint64_t at = 0; at < r->entries;) {
        raw_room(raw, at, r->burst, &limit);
        for (uint32_t i = 0; i < r->burst; i++, at++)
            raw->large[at % RING] = (nfm_desc){(uint32_t)at, 0, at};
        store(&raw->head, at);
    }
}

static uint64_t receive_raw16(const run *r) {
    raw_ring *raw = &r->arena->raw;
    uint64_t sum = 0, head = 0;
    for (uint64_t at = 0; at < r->entries;) {
        uint64_t end = raw_more(raw, at, r->burst, &head);
        for (; at < end; at++)
            sum += raw->large[at % RING].what;
        store(&raw->tail, at);
    }
    return sum;
}

/* ---- the worker's ring ---------------------------------------------------------------------- */

static nfm_ring *open_ring(const run *r, nfm_ring *ring) {
    nfm_error err = {0};
    if (nfm_ring_adopt(ring, r->ring_fd, false, &err) != NFM_OK)
        die(err.text);
    return ring;
}

static void send_ring(const run *r) {
    nfm_ring ring;
    uint64_t bursts = 0;
    open_ring(r, &ring);
    for (uint64_t at = 0; at < r->entries;) {
        while (nfm_ring_used(&ring) + r->burst > RING) {
            nfm_ring_collect(&ring);
            if (nfm_ring_used(&ring) + r->burst > RING)
                relax();
        }
        for (uint32_t i = 0; i < r->burst; i++, at++)
            nfm_ring_push(&ring, (uint32_t)at, 0, at);
        nfm_ring_flush(&ring);
        if (ring.head >= ring.look_at || ++bursts % WAKE_BURSTS == 0)
            nfm_ring_wake(&ring);
    }
    nfm_ring_wake(&ring);
    while (nfm_ring_used(&ring) > 0)
        nfm_ring_collect(&ring);
    nfm_ring_fini(&ring);
}

static nfm_ring *attach_ring(const run *r) {
    nfm_error err = {0};
    nfm_ring *ring;
    while ((ring = nfm_ring_attach(r->ring_fd, &err)) == NULL) /* not laid out yet */
        relax();
    return ring;
}

typedef uint64_t (*add_fn)(const run *r, const nfm_desc *desc, uint32_t n);

/* Takes all entries of the ring; |add| says what a run of them adds up to. */
static inline uint64_t receive(const run *r, add_fn add) {
    nfm_ring *ring = attach_ring(r);
    const nfm_desc *desc;
    uint64_t sum = 0;
    for (uint64_t at = 0; at < r->entries;) {
        uint32_t n = nfm_ring_peek(ring, &desc, r->burst);
        if (n == 0) {
            nfm_ring_wait(ring, SPIN_NS, SPIN_NS);
            continue;
        }
        sum += add(r, desc, n);
        nfm_ring_advance(ring, n);
        at += n;
    }
    nfm_ring_detach(ring);
    return sum;
}

static inline uint64_t add_entries(const run *r, const nfm_desc *desc, uint32_t n) {
    uint64_t sum = 0;
    (void)r;
    for (uint32_t i = 0; i < n; i++)
        sum += desc[i].what;
    return sum;
}

static uint64_t receive_ring(const run *r) {
    return receive(r, add_entries);
}

/* ---- the worker's delivery ------------------------------------------------------------------ */

static void send_records(const run *r) {
    nfm_ring ring;
    nfm_ring *rings[1] = {open_ring(r, &ring)};
    nfm_receiver receiver = {.ring = &ring, .events = 1};
    nfm_subset set = {.n = 1, .receivers = &receiver};
    nfm_worker_config config = {.n_records = RECORDS};
    nfm_mem mem = {.records = r->arena->records, .n_records = RECORDS};
    nfm_pool pool = {0};
    nfm_delivery delivery;
    if (nfm_delivery_init(&delivery, &config, &pool, &mem) != NFM_OK)
        die("no memory");
    delivery.rings = rings;
    delivery.n_rings = 1;
    nfm_record record = {.kind = NFM_REC_PACKET, .slot = NFM_NO_SLOT, .events = 1};
    uint64_t bursts = 0;
    for (uint64_t at = 0; at < r->entries;) {
        while (delivery.n_free < r->burst || nfm_ring_used(&ring) + r->burst > RING) {
            relax();
            nfm_delivery_collect(&delivery);
            nfm_delivery_retire(&delivery);
        }
        for (uint32_t i = 0; i < r->burst; i++) {
            record.packet = at++;
            nfm_deliver(&delivery, &set, &record, NULL);
        }
        nfm_delivery_publish(&delivery);
        nfm_delivery_wake(&delivery, ++bursts % WAKE_BURSTS == 0);
        nfm_delivery_collect(&delivery);
        nfm_delivery_retire(&delivery);
    }
    nfm_delivery_wake(&delivery, true);
    while (!nfm_delivery_is_idle(&delivery)) {
        nfm_delivery_collect(&delivery);
        nfm_delivery_retire(&delivery);
    }
    nfm_delivery_fini(&delivery);
    nfm_ring_fini(&ring);
}

static inline uint64_t add_records(const run *r, const nfm_desc *desc, uint32_t n) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += r->arena->records[desc[i].record].packet;
    return sum;
}

static uint64_t receive_records(const run *r) {
    return receive(r, add_records);
}

/* ---- runs ----------------------------------------------------------------------------------- */

/* The first two processors that this process may use. */
static void find_processors(run *r) {
    cpu_set_t may;
    int found = 0;
    if (sched_getaffinity(0, sizeof(may), &may) != 0 || CPU_COUNT(&may) < 2)
        die("two processors are needed");
    for (int cpu = 0; found < 2; cpu++)
        if (CPU_ISSET(cpu, &may))
            r->processor[found++] = cpu;
}

static void pin(int processor) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    if (sched_setaffinity(0, sizeof(one), &one) != 0)
        die("cannot pin");
}

static pid_t begin_receiver(const run *r, const contest *c) {
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    pin(r->processor[1]);
    atomic_store(&r->arena->ready, 1);
    r->arena->sum = c->receive(r);
    _exit(0);
}

/* Nanoseconds from the first entry to the last one received. */
static uint64_t timed(run *r, const contest *c) {
    nfm_object_info info = {.fd = -1};
    nfm_error err = {0};
    struct timespec a, b;
    int status;
    memset(r->arena, 0, sizeof(*r->arena));
    if (nfm_object_create("handoff", nfm_ring_object_size(RING), &info, &err) != NFM_OK)
        die(err.text);
    r->ring_fd = info.fd;
    pid_t pid = begin_receiver(r, c);
    while (atomic_load(&r->arena->ready) == 0)
        relax();
    clock_gettime(CLOCK_MONOTONIC, &a);
    c->send(r);
    waitpid(pid, &status, 0);
    clock_gettime(CLOCK_MONOTONIC, &b);
    close(info.fd);
    if (status != 0 || r->arena->sum != r->entries * (r->entries - 1) / 2)
        die("what arrived is not what was sent");
    return (uint64_t)(b.tv_sec - a.tv_sec) * 1000000000u + (uint64_t)(b.tv_nsec - a.tv_nsec);
}

static const contest contests[] = {
    {"raw8", send_raw8, receive_raw8},
    {"raw16", send_raw16, receive_raw16},
    {"ring", send_ring, receive_ring},
    {"records", send_records, receive_records},
};

int main(int argc, char **argv) {
    run r = {.entries = 50000000, .burst = 32};
    const measured_option known[] = {
        {"burst", MEASURED_U32, &r.burst, "entries, 1 to 2048"},
        {"entries", MEASURED_U64, &r.entries, "in all"},
        {0},
    };
    measured_parse(argc, argv, known, "Entries per second from a worker's ring to a process.");
    if (r.burst == 0 || r.burst > RING / 2)
        die("a burst has 1 to 2048 entries");
    r.entries -= r.entries % r.burst;
    r.arena = mmap(NULL, sizeof(arena), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (r.arena == MAP_FAILED)
        die("no memory");
    find_processors(&r);
    pin(r.processor[0]);
    printf("{\"name\":\"handoff\",\"burst\":%u,\"entries\":%" PRIu64, r.burst, r.entries);
    for (size_t i = 0; i < sizeof(contests) / sizeof(contests[0]); i++)
        printf(",\"%s_ns\":%" PRIu64, contests[i].name, timed(&r, &contests[i]));
    printf("}\n");
    return 0;
}
