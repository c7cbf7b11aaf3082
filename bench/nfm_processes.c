/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One worker and its NFs, each a process of its own on shared memory, as `nfmesh run` has them: the
 * worker on one processor, the NFs on the other. A workload in memory goes through as fast as it
 * can, or paced, one packet at a time. Each process prints a JSON line of what it counted and cost;
 * what it cost is processor time from the first entry (the worker: packet) to the last.
 *
 * An NF is a function of this program, or any command (--nf "python -m ..."): it gets the arguments
 * --objects N,N,N,N,N --ring N --begin N --ready N, all of them descriptors. It reads a byte from
 * begin, attaches, writes a byte to ready, and prints its line when the ring has ended.
 */
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measured.h"
#include "paced_port.h"

enum { RING_ENTRIES = 8192, MAX_NFS = 16, MAX_SAMPLES = 1 << 20, WORDS = 16 };
#define IDLE_NS 50000000

typedef struct options {
    const char *workload;
    uint64_t packets, passes;
    const measured_level *level;
    uint32_t nfs;
    int64_t spin_ns, gap_ns;
    char *command; /* of the NFs; NULL: native */
} options;

typedef struct shared { /* what the processes share, as descriptors */
    nfm_worker_config config;
    int32_t read_only[NFM_OBJ_COUNT];
    int rings[MAX_NFS];
    int begin[2], ready[2];
} shared;

typedef struct nf { /* a native NF */
    measured_totals totals;
    int64_t *late_ns; /* of each event, paced runs only */
    uint32_t n_late;
} nf;

static int make_object(const char *name, uint64_t size) {
    nfm_object_info info;
    nfm_error err = {0};
    if (nfm_object_create(name, size, &info, &err) != NFM_OK)
        measured_die(name, err.text);
    return info.fd;
}

static void make_shared(const options *o, shared *s) {
    uint64_t sizes[NFM_OBJ_COUNT];
    nfm_error err = {0};
    nfm_worker_config_init(&s->config);
    if (nfm_worker_object_sizes(&s->config, sizes, &err) != NFM_OK || pipe(s->begin) != 0 ||
        pipe(s->ready) != 0)
        measured_die("objects", err.text);
    for (int i = 0; i < NFM_OBJ_COUNT; i++) {
        s->config.fds[i] = make_object("object", sizes[i]);
        s->read_only[i] = nfm_object_read_only(s->config.fds[i], &err);
    }
    for (uint32_t i = 0; i < o->nfs; i++)
        s->rings[i] = make_object("ring", nfm_ring_object_size(RING_ENTRIES));
}

/* ---- an NF ---------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t quantile(const nf *self, uint32_t percent) {
    return self->n_late == 0 ? 0 : self->late_ns[(uint64_t)(self->n_late - 1) * percent / 100];
}

static void print_nf(nf *self, uint64_t cpu_ns) {
    qsort(self->late_ns, self->n_late, sizeof(*self->late_ns), compare);
    printf("{\"name\":\"nf\",\"events\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"gap_bytes\":%" PRIu64
           ",\"cpu_ns\":%" PRIu64 ",\"p50_ns\":%" PRId64 ",\"p99_ns\":%" PRId64 "}\n",
           self->totals.events, self->totals.bytes, self->totals.gap_bytes, cpu_ns,
           quantile(self, 50), quantile(self, 99));
}

static void handle(nf *self, const nfm_batch *batch) {
    if (self->late_ns != NULL) {
        int64_t now = measured_monotonic_ns();
        for (uint32_t i = 0; i < batch->n && self->n_late < MAX_SAMPLES; i++)
            self->late_ns[self->n_late++] = now - batch->mem->records[batch->desc[i].record].ts_ns;
    }
    measured_count(&self->totals, batch);
}

static void run_native(const options *o, const shared *s, uint32_t number) {
    nfm_error err = {0};
    nf self = {.late_ns = o->gap_ns > 0 ? malloc(sizeof(int64_t) * MAX_SAMPLES) : NULL};
    nfm_attachment *attachment = nfm_attach(s->read_only, &err);
    nfm_ring *ring = attachment == NULL ? NULL : nfm_ring_attach(s->rings[number], &err);
    if (ring == NULL || write(s->ready[1], "", 1) != 1)
        measured_die("NF", err.text);
    nfm_batch batch = {.mem = nfm_attachment_mem(attachment), .handler = UINT32_MAX};
    while (nfm_ring_wait(ring, 0, IDLE_NS) == NFM_RING_TIMEOUT)
        continue;
    uint64_t begin = measured_cpu_ns();
    while (nfm_ring_wait(ring, o->spin_ns, IDLE_NS) != NFM_RING_ENDED) {
        while ((batch.n = nfm_ring_peek(ring, &batch.desc, UINT32_MAX)) > 0) {
            handle(&self, &batch);
            nfm_ring_advance(ring, batch.n);
        }
    }
    print_nf(&self, measured_cpu_ns() - begin);
    nfm_ring_detach(ring);
    nfm_attachment_free(attachment);
    free(self.late_ns);
}

static void keep_on_exec(int fd) {
    if (fcntl(fd, F_SETFD, 0) != 0)
        measured_die("descriptor", "cannot be kept");
}

static void run_command(const options *o, const shared *s, uint32_t number) {
    char objects[96], ring[16], begin[16], ready[16], *words[WORDS + 10];
    int n = 0;
    const int32_t *fds = s->read_only;
    for (char *word = strtok(o->command, " "); word != NULL && n < WORDS; word = strtok(NULL, " "))
        words[n++] = word;
    snprintf(objects, sizeof(objects), "%d,%d,%d,%d,%d", fds[0], fds[1], fds[2], fds[3], fds[4]);
    snprintf(ring, sizeof(ring), "%d", s->rings[number]);
    snprintf(begin, sizeof(begin), "%d", s->begin[0]);
    snprintf(ready, sizeof(ready), "%d", s->ready[1]);
    char *const more[] = {"--objects", objects, "--ring", ring, "--begin", begin, "--ready", ready};
    memcpy(words + n, more, sizeof(more));
    words[n + 8] = NULL;
    for (int i = 0; i < NFM_OBJ_COUNT; i++)
        keep_on_exec(fds[i]);
    keep_on_exec(s->rings[number]);
    execvp(words[0], words);
    measured_die(words[0], "cannot be run");
}

static void start_nfs(const options *o, const shared *s, pid_t *pids) {
    for (uint32_t i = 0; i < o->nfs; i++) {
        pids[i] = fork();
        if (pids[i] != 0)
            continue;
        char byte;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        measured_pin(1);
        if (o->command != NULL)
            run_command(o, s, i);
        if (read(s->begin[0], &byte, 1) == 1)
            run_native(o, s, i);
        exit(0);
    }
}

/* ---- the worker ----------------------------------------------------------------------------- */

static nfm_port *make_port(const options *o, nfm_workload_truth *truth) {
    nfm_error err = {0};
    nfm_workload_options wanted = {o->packets, 1};
    nfm_port *port = nfm_port_mem_new(1, &err);
    if (port == NULL || nfm_workload_fill(port, o->workload, &wanted, truth, &err) != NFM_OK ||
        nfm_port_mem_loop(port, o->passes, truth->span_ns) != NFM_OK)
        measured_die(o->workload, err.text);
    return o->gap_ns > 0 ? paced_port_new(port, o->gap_ns) : port;
}

static nfm_worker *make_worker(const options *o, const shared *s, nfm_port *port) {
    nfm_error err = {0};
    nfm_worker *worker = nfm_worker_new(&s->config, &err);
    if (worker == NULL || nfm_worker_add_port(worker, port) != NFM_OK)
        measured_die("worker", err.text);
    measured_add_modules(worker, o->level->level);
    for (uint32_t i = 0; i < o->nfs; i++) {
        nfm_subscription sub = {
            .ring = nfm_worker_add_shared_ring(worker, s->rings[i], 0, &err),
            .level = o->level->level,
            .events = o->level->events,
            .type_first = 1,
        };
        if (sub.ring == NULL || nfm_worker_subscribe(worker, &sub) < 0)
            measured_die("subscribe", err.text);
    }
    if (nfm_worker_start(worker, &err) != NFM_OK)
        measured_die("start", err.text);
    return worker;
}

/* Lets the NFs attach, and waits until all of them have. */
static void let_attach(const options *o, const shared *s) {
    char bytes[MAX_NFS] = {0};
    if (write(s->begin[1], bytes, o->nfs) != (ssize_t)o->nfs)
        measured_die("NFs", "cannot be told to begin");
    close(s->ready[1]);
    for (uint32_t i = 0; i < o->nfs; i++)
        if (read(s->ready[0], bytes, 1) != 1)
            measured_die("NFs", "one did not attach");
}

static void run_worker(const options *o, const shared *s) {
    nfm_workload_truth truth;
    nfm_worker_stats stats;
    nfm_port *port = make_port(o, &truth);
    nfm_worker *worker = make_worker(o, s, port);
    let_attach(o, s);
    uint64_t begin = measured_cpu_ns();
    int rc;
    do {
        rc = nfm_worker_run(worker, UINT64_MAX);
    } while (rc == NFM_RUN_BUDGET || rc == NFM_RUN_DRAIN);
    uint64_t end = measured_cpu_ns();
    if (rc != NFM_RUN_EOF)
        measured_die("run", nfm_strerror(rc));
    nfm_worker_end_rings(worker);
    nfm_worker_stats_get(worker, &stats);
    printf("{\"name\":\"worker\",\"level\":\"%s\",\"packets\":%" PRIu64 ",\"flows\":%" PRIu64
           ",\"cpu_ns\":%" PRIu64 ",\"want_packets\":%" PRIu64 ",\"want_bytes\":%" PRIu64
           ",\"want_flows\":%" PRIu64 "}\n",
           o->level->name, stats.packets, stats.flows_opened, end - begin,
           truth.packets * o->passes, (truth.stream_bytes[0] + truth.stream_bytes[1]) * o->passes,
           truth.flows * o->passes);
    nfm_worker_free(worker);
    nfm_port_free(port);
}

static void parse(int argc, char **argv, options *o) {
    static const struct option longs[] = {
        {"workload", required_argument, NULL, 'w'},
        {"level", required_argument, NULL, 'l'},
        {"packets", required_argument, NULL, 'n'},
        {"passes", required_argument, NULL, 'p'},
        {"nfs", required_argument, NULL, 's'},
        {"spin-ns", required_argument, NULL, 'i'},
        {"gap-ns", required_argument, NULL, 'g'},
        {"nf", required_argument, NULL, 'c'},
        {NULL, 0, NULL, 0},
    };
    int c;
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 'w':
            o->workload = optarg;
            break;
        case 'l':
            o->level = measured_find_level(optarg);
            break;
        case 'n':
            o->packets = strtoull(optarg, NULL, 10);
            break;
        case 'p':
            o->passes = strtoull(optarg, NULL, 10);
            break;
        case 's':
            o->nfs = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'i':
            o->spin_ns = strtoll(optarg, NULL, 10);
            break;
        case 'g':
            o->gap_ns = strtoll(optarg, NULL, 10);
            break;
        case 'c':
            o->command = optarg;
            break;
        default:
            measured_die("usage", "see parse() in bench/nfm_processes.c");
        }
    }
    if (o->nfs < 1 || o->nfs > MAX_NFS || o->passes == 0)
        measured_die("arguments", "1 to 16 NFs, at least one pass");
}

int main(int argc, char **argv) {
    options o = {.workload = "http", .passes = 1, .level = measured_find_level("data"), .nfs = 1};
    shared s;
    pid_t pids[MAX_NFS];
    int failed = 0;
    parse(argc, argv, &o);
    make_shared(&o, &s);
    start_nfs(&o, &s, pids);
    measured_pin(0);
    run_worker(&o, &s);
    fflush(stdout);
    for (uint32_t i = 0; i < o.nfs; i++) {
        int status;
        failed |= waitpid(pids[i], &status, 0) != pids[i] || status != 0;
    }
    if (failed)
        measured_die("NFs", "one ended badly");
    return 0;
}
