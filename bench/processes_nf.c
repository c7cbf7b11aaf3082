/* SPDX-License-Identifier: Apache-2.0 */
/* The NFs of nfm_processes.c: one that counts or passes, served by the loop of native NFs, or any
 * command. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "processes.h"

enum { WORDS = 16, MAX_SAMPLES = 1 << 20 };
#define TURN_NS 20000000

typedef struct nf { /* a native NF */
    measured_totals totals;
    measured_times late; /* of each event, paced runs only */
    uint32_t offload;
} nf;

static int count(void *state, const nfm_batch *batch) {
    nf *self = state;
    if (self->late.ns != NULL) {
        int64_t now = measured_monotonic_ns();
        for (uint32_t i = 0; i < batch->n; i++)
            measured_time(&self->late, now - batch->mem->records[batch->desc[i].record].ts_ns);
    }
    return measured_count(&self->totals, batch);
}

/* Passes all, and settles the share of flows that is to be offloaded. */
static int pass(void *state, const nfm_batch *batch) {
    nf *self = state;
    for (uint32_t i = 0; self->offload != BLIND && i < batch->n; i++)
        if (batch->desc[i].flow % 100 < self->offload)
            batch->verdict[i] = NFM_PASS | UINT32_C(1) << NFM_REST_SHIFT;
    self->totals.events += batch->n;
    return NFM_OK;
}

static void print(nf *self, uint64_t cpu_ns) {
    printf("{\"name\":\"nf\",\"events\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"gap_bytes\":%" PRIu64
           ",\"cpu_ns\":%" PRIu64 ",\"p50_ns\":%" PRId64 ",\"p99_ns\":%" PRId64 "}\n",
           self->totals.events, self->totals.bytes, self->totals.gap_bytes, cpu_ns,
           measured_quantile(&self->late, 50), measured_quantile(&self->late, 99));
}

static void run_native(const options *o, const shared *s, uint32_t number) {
    nfm_error err = {0};
    nfm_served served;
    nf self = {.offload = o->offload};
    if (o->gap_ns > 0 && !o->in_line)
        measured_times_init(&self.late, MAX_SAMPLES);
    nfm_attachment *attachment = nfm_attach(s->read_only, &err);
    nfm_ring *ring = attachment == NULL ? NULL : nfm_ring_attach(s->rings[number], &err);
    if (ring == NULL || write(s->ready[1], "", 1) != 1)
        measured_die("NF", err.text);
    nfm_served_ring from = {.ring = ring, .mem = nfm_attachment_mem(attachment)};
    nfm_serve_config config = {
        .process = o->in_line ? pass : count,
        .state = &self,
        .rings = &from,
        .n_rings = 1,
        .in_line = o->in_line,
        .spin_ns = o->spin_ns,
        .idle_ns = IDLE_NS,
        .turn_ns = TURN_NS,
    };
    while (nfm_ring_wait(ring, 0, IDLE_NS) == NFM_RING_TIMEOUT)
        continue;
    uint64_t begin = measured_cpu_ns();
    while (nfm_serve(&config, &served) != NFM_RING_ENDED)
        continue;
    print(&self, measured_cpu_ns() - begin);
    nfm_ring_detach(ring);
    nfm_attachment_free(attachment);
    measured_times_fini(&self.late);
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

void processes_run_nf(const options *o, const shared *s, uint32_t number) {
    char byte;
    if (o->command != NULL)
        run_command(o, s, number);
    if (read(s->begin[0], &byte, 1) == 1)
        run_native(o, s, number);
}
