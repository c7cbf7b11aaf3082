/* SPDX-License-Identifier: Apache-2.0 */
/* One measured run of the stack over a workload in memory: prints a JSON line. The table of figures
 * is made of such runs by bench/__main__.py. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __x86_64__
#include <x86intrin.h>
#endif

#include "measured.h"

enum { RING_ENTRIES = 4096, MAX_SUBSCRIBERS = 64, STEP = RING_ENTRIES / 2 };

typedef struct options {
    const char *workload;
    uint64_t packets, passes, seed;
    const measured_level *level;
    uint32_t subscribers;
    uint32_t max_flows;
    bool shared;  /* rings are shared objects, which receivers of their own drain */
    bool in_line; /* packets wait for all subscribers, and leave by another port */
} options;

typedef struct subject { /* what is measured */
    nfm_worker *worker;
    nfm_port *sink;                       /* NULL: nothing leaves */
    nfm_ring *receivers[MAX_SUBSCRIBERS]; /* of shared rings, as in other processes; else NULL */
    measured_totals totals[MAX_SUBSCRIBERS];
} subject;

typedef struct clocks {
    uint64_t cpu_ns, cycles;
    long rss_kib;
} clocks;

/* A ring whose receiver the worker calls, or a shared one with a receiver of its own. */
static nfm_ring *make_ring(const options *o, subject *s, uint32_t i) {
    nfm_error err = {0};
    nfm_object_info object;
    nfm_ring *ring;
    if (!o->shared) {
        ring = nfm_worker_add_ring(s->worker, RING_ENTRIES, &err);
        if (ring == NULL ||
            nfm_worker_attach_native(s->worker, ring, measured_count, &s->totals[i]) != NFM_OK)
            measured_die("ring", err.text);
        static const nfm_inline_config waits = {.deadline_ns = 0, .fail_open = 0};
        if (o->in_line && nfm_worker_make_inline(s->worker, ring, &waits) != NFM_OK)
            measured_die("ring", "cannot be in line");
        return ring;
    }
    if (nfm_object_create("ring", nfm_ring_object_size(RING_ENTRIES), &object, &err) != NFM_OK)
        measured_die("ring", err.text);
    ring = nfm_worker_add_shared_ring(s->worker, object.fd, 0, &err);
    s->receivers[i] = ring == NULL ? NULL : nfm_ring_attach(object.fd, &err);
    if (s->receivers[i] == NULL)
        measured_die("ring", err.text);
    close(object.fd);
    return ring;
}

static void drain(const options *o, subject *s) {
    nfm_batch batch = {.mem = nfm_worker_mem(s->worker), .handler = UINT32_MAX};
    for (uint32_t i = 0; o->shared && i < o->subscribers; i++) {
        while ((batch.n = nfm_ring_peek(s->receivers[i], &batch.desc, UINT32_MAX)) > 0) {
            measured_count(&s->totals[i], &batch);
            nfm_ring_advance(s->receivers[i], batch.n);
        }
    }
}

static void make_worker(const options *o, nfm_port *port, subject *s) {
    nfm_error err = {0};
    nfm_worker_config config;
    nfm_worker_config_init(&config);
    config.max_flows = o->max_flows;
    nfm_worker *worker = s->worker = nfm_worker_new(&config, &err);
    if (worker == NULL || nfm_worker_add_port(worker, port) != NFM_OK)
        measured_die("worker", err.text);
    if (s->sink != NULL && (nfm_worker_add_port(worker, s->sink) != NFM_OK ||
                            nfm_worker_forward(worker, 0, 1) != NFM_OK))
        measured_die("worker", "cannot forward");
    measured_add_modules(worker, o->level->level);
    for (uint32_t i = 0; i < o->subscribers; i++) {
        nfm_subscription sub = {
            .ring = make_ring(o, s, i),
            .level = o->level->level,
            .events = o->level->events,
            .type_first = 1,
            .in_line = o->in_line,
        };
        if (nfm_worker_subscribe(worker, &sub) < 0)
            measured_die("subscribe", err.text);
    }
    if (nfm_worker_start(worker, &err) != NFM_OK)
        measured_die("start", err.text);
}

static clocks now(void) {
    clocks c = {measured_cpu_ns(), 0, 0};
#ifdef __x86_64__
    c.cycles = __rdtsc();
#endif
    FILE *statm = fopen("/proc/self/statm", "r");
    long size;
    if (statm != NULL && fscanf(statm, "%ld %ld", &size, &c.rss_kib) == 2)
        c.rss_kib *= sysconf(_SC_PAGESIZE) / 1024;
    if (statm != NULL)
        fclose(statm);
    return c;
}

/* Runs until |packets| have been processed in all, not further: the end of the port closes flows.
 */
static void run(const options *o, subject *s, uint64_t packets) {
    nfm_worker_stats stats;
    nfm_worker_stats_get(s->worker, &stats);
    int rc = NFM_RUN_BUDGET;
    while (rc != NFM_RUN_EOF && stats.packets < packets) {
        uint64_t left = packets - stats.packets;
        rc = nfm_worker_run(s->worker, o->shared && left > STEP ? STEP : left);
        if (rc < 0)
            measured_die("run", nfm_strerror(rc));
        drain(o, s);
        nfm_worker_stats_get(s->worker, &stats);
    }
}

static void print(const options *o, const nfm_workload_truth *truth, const nfm_worker_stats *stats,
                  const measured_totals *sum, const clocks *spent) {
    uint64_t timed = stats->packets - truth->opening_packets;
    printf("{\"name\":\"nfmesh\",\"workload\":\"%s\",\"level\":\"%s\",\"subscribers\":%u,"
           "\"packets\":%" PRIu64 ",\"wire_bytes\":%" PRIu64 ",\"flows\":%" PRIu64
           ",\"established\":%" PRIu64 ",\"ended\":%" PRIu64 ",\"events\":%" PRIu64
           ",\"bytes\":%" PRIu64 ",\"gap_bytes\":%" PRIu64 ",\"cpu_ns\":%" PRIu64
           ",\"tsc_cycles\":%" PRIu64 ",\"rss_kib\":%ld,\"flow_bytes\":%" PRIu64
           ",\"want_flows\":%" PRIu64 ",\"want_bytes\":%" PRIu64 "}\n",
           o->workload, o->level->name, o->subscribers, timed, stats->bytes, stats->flows_opened,
           sum->established, sum->ended, sum->events, sum->bytes, sum->gap_bytes, spent->cpu_ns,
           spent->cycles, spent->rss_kib, stats->flow_bytes, truth->flows * o->passes,
           (truth->stream_bytes[0] + truth->stream_bytes[1]) * o->passes);
}

static void measure(const options *o) {
    nfm_error err = {0};
    nfm_workload_truth truth;
    nfm_workload_options wanted = {o->packets, o->seed};
    nfm_port *port = nfm_port_mem_new(1, &err);
    if (port == NULL || nfm_workload_fill(port, o->workload, &wanted, &truth, &err) != NFM_OK)
        measured_die(o->workload, err.text);
    if (nfm_port_mem_loop(port, o->passes, truth.span_ns) != NFM_OK)
        measured_die(o->workload, "cannot loop");
    subject s = {.sink = o->in_line ? nfm_port_mem_new(1, &err) : NULL};
    clocks before = now();
    make_worker(o, port, &s);
    if (truth.opening_packets > 0)
        run(o, &s, truth.opening_packets);
    clocks begin = now();
    run(o, &s, truth.packets * o->passes);
    clocks end = now();
    nfm_worker_stats stats;
    if (truth.opening_packets == 0) /* flows of lookup-* stay open: their end is not the subject */
        run(o, &s, UINT64_MAX);
    nfm_worker_stats_get(s.worker, &stats);
    clocks spent = {end.cpu_ns - begin.cpu_ns, end.cycles - begin.cycles,
                    end.rss_kib - before.rss_kib};
    print(o, &truth, &stats, &s.totals[0], &spent);
    for (uint32_t i = 0; i < o->subscribers; i++)
        nfm_ring_detach(s.receivers[i]);
    nfm_worker_free(s.worker);
    nfm_port_free(s.sink);
    nfm_port_free(port);
}

static void parse(int argc, char **argv, options *o) {
    char *level = NULL;
    const measured_option known[] = {
        {"workload", MEASURED_TEXT, &o->workload, "of workload.h"},
        {"level", MEASURED_TEXT, &level, "header, packets, track or data"},
        {"subscribers", MEASURED_U32, &o->subscribers, "of the same events"},
        {"packets", MEASURED_U64, &o->packets, "of a pass"},
        {"passes", MEASURED_U64, &o->passes, "over the workload"},
        {"max-flows", MEASURED_U32, &o->max_flows, "a power of two"},
        {"seed", MEASURED_U64, &o->seed, "of the workload"},
        {"shared", MEASURED_FLAG, &o->shared, "rings as between processes"},
        {"inline", MEASURED_FLAG, &o->in_line, "packets wait for the subscribers; not shared"},
        {0},
    };
    measured_parse(argc, argv, known,
                   "Runs the stack over a generated workload in memory and prints what it counted "
                   "and cost.");
    if (level != NULL)
        o->level = measured_find_level(level);
    if (o->subscribers > MAX_SUBSCRIBERS || o->passes == 0 || (o->shared && o->in_line))
        measured_die("arguments", "0 to 64 subscribers, at least one pass, shared or inline");
}

int main(int argc, char **argv) {
    options o = {.workload = "http",
                 .passes = 1,
                 .seed = 1,
                 .level = measured_find_level("track"),
                 .subscribers = 1,
                 .max_flows = 1u << 20};
    parse(argc, argv, &o);
    measure(&o);
    return 0;
}
