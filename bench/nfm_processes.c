/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One worker and its NFs, each a process of its own on shared memory, as `nfmesh run` has them: the
 * worker on one processor, the NFs on the other. A workload in memory goes through as fast as it
 * can, or paced, one packet at a time. Each process prints a JSON line of what it counted and cost;
 * what it cost is processor time from the first entry (the worker: packet) to the last.
 *
 * With --inline packets wait for all NFs and leave by a port that counts them; paced, it takes the
 * time from a packet's arrival until then.
 *
 * An NF is a function of this program, or any command (--nf "python -m ..."): it gets the arguments
 * --objects N,N,N,N,N --ring N --begin N --ready N, all of them descriptors. It reads a byte from
 * begin, attaches, writes a byte to ready, and prints its line when the ring has ended.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "paced_port.h"
#include "processes.h"

enum { RING_ENTRIES = 8192, TURN_NS = 10000000 };

typedef struct ports {
    nfm_port *in, *out; /* out: NULL where nothing leaves */
    measured_times late;
} ports;

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

static void start_nfs(const options *o, const shared *s, pid_t *pids) {
    for (uint32_t i = 0; i < o->nfs; i++) {
        pids[i] = fork();
        if (pids[i] != 0)
            continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        measured_pin(1);
        processes_run_nf(o, s, i);
        exit(0);
    }
}

/* ---- the worker ----------------------------------------------------------------------------- */

static void make_ports(const options *o, ports *p, nfm_workload_truth *truth) {
    nfm_error err = {0};
    nfm_workload_options wanted = {o->packets, 1};
    p->in = nfm_port_mem_new(1, &err);
    if (p->in == NULL || nfm_workload_fill(p->in, o->workload, &wanted, truth, &err) != NFM_OK ||
        nfm_port_mem_loop(p->in, o->passes, truth->span_ns) != NFM_OK)
        measured_die(o->workload, err.text);
    if (o->gap_ns > 0) {
        measured_times_init(&p->late, truth->packets * o->passes);
        p->in = paced_port_new(p->in, o->gap_ns);
    }
    if (o->in_line)
        p->out = o->gap_ns > 0 ? timing_port_new(&p->late) : nfm_port_mem_new(1, &err);
}

static void add_nf(const options *o, nfm_worker *worker, int fd) {
    static const nfm_inline_config waits = {.deadline_ns = 0, .fail_open = 0};
    nfm_error err = {0};
    nfm_subscription sub = {
        .ring = nfm_worker_add_shared_ring(worker, fd, 0, &err),
        .level = o->level->level,
        .events = o->level->events,
        .type_first = 1,
        .in_line = o->in_line,
    };
    if (sub.ring == NULL ||
        (o->in_line && nfm_worker_make_inline(worker, sub.ring, &waits) != NFM_OK) ||
        nfm_worker_subscribe(worker, &sub) < 0)
        measured_die("subscribe", err.text);
}

static nfm_worker *make_worker(const options *o, const shared *s, const ports *p) {
    nfm_error err = {0};
    nfm_worker *worker = nfm_worker_new(&s->config, &err);
    if (worker == NULL || nfm_worker_add_port(worker, p->in) != NFM_OK)
        measured_die("worker", err.text);
    if (p->out != NULL && (nfm_worker_add_port(worker, p->out) != NFM_OK ||
                           nfm_worker_forward(worker, 0, 1) != NFM_OK))
        measured_die("worker", "cannot forward");
    measured_add_modules(worker, o->level->level);
    for (uint32_t i = 0; i < o->nfs; i++)
        add_nf(o, worker, s->rings[i]);
    if (nfm_worker_start(worker, &err) != NFM_OK)
        measured_die("start", err.text);
    nfm_live_config live = {.turn_ns = TURN_NS, .spin_ns = o->worker_spin_ns};
    if (o->gap_ns > 0 && nfm_worker_live(worker, &live) != NFM_OK)
        measured_die("start", "not as a live one");
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

static void print(const options *o, const ports *p, const nfm_worker_stats *stats,
                  const nfm_workload_truth *truth) {
    nfm_port_stats sent = {0};
    if (p->out != NULL)
        nfm_port_stats_get(p->out, &sent);
    printf("\"level\":\"%s\",\"packets\":%" PRIu64 ",\"flows\":%" PRIu64 ",\"sent\":%" PRIu64
           ",\"want_packets\":%" PRIu64 ",\"want_bytes\":%" PRIu64 ",\"want_flows\":%" PRIu64 "}\n",
           o->level->name, stats->packets, stats->flows_opened, sent.tx_packets,
           truth->packets * o->passes,
           (truth->stream_bytes[0] + truth->stream_bytes[1]) * o->passes, truth->flows * o->passes);
}

static void run_worker(const options *o, const shared *s) {
    nfm_workload_truth truth;
    nfm_worker_stats stats;
    ports p = {0};
    make_ports(o, &p, &truth);
    nfm_worker *worker = make_worker(o, s, &p);
    let_attach(o, s);
    uint64_t begin = measured_cpu_ns();
    int64_t from = measured_monotonic_ns();
    int rc;
    do {
        rc = nfm_worker_run(worker, UINT64_MAX);
    } while (rc == NFM_RUN_BUDGET || rc == NFM_RUN_DRAIN);
    int64_t wall_ns = measured_monotonic_ns() - from;
    uint64_t cpu_ns = measured_cpu_ns() - begin;
    if (rc != NFM_RUN_EOF)
        measured_die("run", nfm_strerror(rc));
    nfm_worker_end_rings(worker);
    nfm_worker_stats_get(worker, &stats);
    printf("{\"name\":\"worker\",\"cpu_ns\":%" PRIu64 ",\"wall_ns\":%" PRId64 ",\"p50_ns\":%" PRId64
           ",\"p99_ns\":%" PRId64 ",",
           cpu_ns, wall_ns, measured_quantile(&p.late, 50), measured_quantile(&p.late, 99));
    print(o, &p, &stats, &truth);
    nfm_worker_free(worker);
    nfm_port_free(p.in);
    nfm_port_free(p.out);
    measured_times_fini(&p.late);
}

static void parse(int argc, char **argv, options *o) {
    char *level = NULL;
    const measured_option known[] = {
        {"workload", MEASURED_TEXT, &o->workload, "of workload.h"},
        {"level", MEASURED_TEXT, &level, "header, packets, track or data"},
        {"packets", MEASURED_U64, &o->packets, "of a pass"},
        {"passes", MEASURED_U64, &o->passes, "over the workload"},
        {"nfs", MEASURED_U32, &o->nfs, "processes that subscribe"},
        {"spin-ns", MEASURED_I64, &o->spin_ns, "how long NFs wait awake"},
        {"gap-ns", MEASURED_I64, &o->gap_ns, "between two packets; 0: as fast as it goes"},
        {"worker-spin-ns", MEASURED_I64, &o->worker_spin_ns, "how long a paced worker waits awake"},
        {"inline", MEASURED_FLAG, &o->in_line, "packets wait for the NFs"},
        {"offload", MEASURED_U32, &o->offload, "percent of flows settled by their first packet"},
        {"nf", MEASURED_TEXT, &o->command, "command of the NFs instead of native ones"},
        {0},
    };
    measured_parse(argc, argv, known, "One worker and its NFs as processes.");
    if (level != NULL)
        o->level = measured_find_level(level);
    if (o->nfs < 1 || o->nfs > MAX_NFS || o->passes == 0 || o->offload > BLIND)
        measured_die("arguments", "1 to 16 NFs, at least one pass, at most 100 percent");
}

int main(int argc, char **argv) {
    options o = {.workload = "http",
                 .passes = 1,
                 .level = measured_find_level("data"),
                 .nfs = 1,
                 .offload = BLIND,
                 .worker_spin_ns = 200000}; /* as in a mesh of live ports */
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
