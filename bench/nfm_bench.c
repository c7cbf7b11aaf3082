/* SPDX-License-Identifier: Apache-2.0 */
/* One measured run of the stack over a workload in memory: prints a JSON line. The table of figures
 * is made of such runs by bench/__main__.py. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __x86_64__
#include <x86intrin.h>
#endif

#include "measured.h"

enum { RING_ENTRIES = 4096, MAX_SUBSCRIBERS = 64 };

typedef struct options {
    const char *workload;
    uint64_t packets, passes, seed;
    const measured_level *level;
    int subscribers;
    uint32_t max_flows;
} options;

typedef struct clocks {
    uint64_t cpu_ns, cycles;
    long rss_kib;
} clocks;

static nfm_worker *make_worker(const options *o, nfm_port *port, measured_totals *sums) {
    nfm_error err = {0};
    nfm_worker_config config;
    nfm_worker_config_init(&config);
    config.max_flows = o->max_flows;
    nfm_worker *worker = nfm_worker_new(&config, &err);
    if (worker == NULL || nfm_worker_add_port(worker, port) != NFM_OK)
        measured_die("worker", err.text);
    measured_add_modules(worker, o->level->level);
    for (int i = 0; i < o->subscribers; i++) {
        nfm_subscription sub = {
            .ring = nfm_worker_add_ring(worker, RING_ENTRIES, &err),
            .level = o->level->level,
            .events = o->level->events,
            .type_first = 1,
        };
        if (sub.ring == NULL || nfm_worker_subscribe(worker, &sub) < 0 ||
            nfm_worker_attach_native(worker, sub.ring, measured_count, &sums[i]) != NFM_OK)
            measured_die("subscribe", err.text);
    }
    if (nfm_worker_start(worker, &err) != NFM_OK)
        measured_die("start", err.text);
    return worker;
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
static void run(nfm_worker *worker, uint64_t packets) {
    nfm_worker_stats stats;
    nfm_worker_stats_get(worker, &stats);
    int rc = NFM_RUN_BUDGET;
    while (rc != NFM_RUN_EOF && stats.packets < packets) {
        rc = nfm_worker_run(worker, packets - stats.packets);
        if (rc < 0)
            measured_die("run", nfm_strerror(rc));
        nfm_worker_stats_get(worker, &stats);
    }
}

static void print(const options *o, const nfm_workload_truth *truth, const nfm_worker_stats *stats,
                  const measured_totals *sum, const clocks *spent) {
    uint64_t timed = stats->packets - truth->opening_packets;
    printf("{\"name\":\"nfmesh\",\"workload\":\"%s\",\"level\":\"%s\",\"subscribers\":%d,"
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
    measured_totals sums[MAX_SUBSCRIBERS];
    memset(sums, 0, sizeof(sums));
    clocks before = now();
    nfm_worker *worker = make_worker(o, port, sums);
    if (truth.opening_packets > 0)
        run(worker, truth.opening_packets);
    clocks begin = now();
    run(worker, truth.packets * o->passes);
    clocks end = now();
    nfm_worker_stats stats;
    if (truth.opening_packets == 0) /* flows of lookup-* stay open: their end is not the subject */
        run(worker, UINT64_MAX);
    nfm_worker_stats_get(worker, &stats);
    clocks spent = {end.cpu_ns - begin.cpu_ns, end.cycles - begin.cycles,
                    end.rss_kib - before.rss_kib};
    print(o, &truth, &stats, &sums[0], &spent);
    nfm_worker_free(worker);
    nfm_port_free(port);
}

static const char usage[] =
    "usage: nfm-bench [--workload NAME] [--level header|packets|track|data] [--subscribers N]\n"
    "                 [--packets N] [--passes N] [--max-flows N] [--seed N]\n"
    "Runs the stack over a generated workload in memory and prints what it counted and cost.\n";

static void parse(int argc, char **argv, options *o) {
    static const struct option longs[] = {
        {"workload", required_argument, NULL, 'w'},
        {"level", required_argument, NULL, 'l'},
        {"subscribers", required_argument, NULL, 's'},
        {"packets", required_argument, NULL, 'n'},
        {"passes", required_argument, NULL, 'p'},
        {"max-flows", required_argument, NULL, 'f'},
        {"seed", required_argument, NULL, 'r'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int c;
    while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        if (c == 'w')
            o->workload = optarg;
        else if (c == 'l')
            o->level = measured_find_level(optarg);
        else if (c == 's')
            o->subscribers = atoi(optarg);
        else if (c == 'n')
            o->packets = strtoull(optarg, NULL, 10);
        else if (c == 'p')
            o->passes = strtoull(optarg, NULL, 10);
        else if (c == 'f')
            o->max_flows = (uint32_t)strtoul(optarg, NULL, 10);
        else if (c == 'r')
            o->seed = strtoull(optarg, NULL, 10);
        else {
            fputs(usage, c == 'h' ? stdout : stderr);
            exit(c == 'h' ? 0 : 2);
        }
    }
    if (o->subscribers < 0 || o->subscribers > MAX_SUBSCRIBERS || o->passes == 0)
        measured_die("arguments", "0 to 64 subscribers, at least one pass");
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
