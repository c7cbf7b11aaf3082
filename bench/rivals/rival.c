/* SPDX-License-Identifier: Apache-2.0 */
#include "rival.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct store {
    uint8_t *bytes;
    rival_frame *frames; /* data: an offset until all frames are there */
    size_t used, size, n, max;
} store;

static void die(const char *text) {
    fprintf(stderr, "%s: %s\n", rival.name, text);
    exit(2);
}

static void *grown(void *from, size_t size) {
    void *to = realloc(from, size);
    if (to == NULL)
        die("out of memory");
    return to;
}

static int keep(void *to, const uint8_t *frame, uint32_t len, int64_t ts_ns) {
    store *s = (store *)to;
    if (s->used + len > s->size) {
        s->size = 2 * s->size + ((size_t)1 << 21);
        s->bytes = grown(s->bytes, s->size);
    }
    if (s->n == s->max) {
        s->max = 2 * s->max + 1024;
        s->frames = grown(s->frames, s->max * sizeof(*s->frames));
    }
    memcpy(s->bytes + s->used, frame, len);
    s->frames[s->n++] = (rival_frame){.len = len, .ts_ns = ts_ns};
    s->used += len;
    return NFM_OK;
}

static void place(store *s) {
    uint8_t *at = s->bytes;
    for (size_t i = 0; i < s->n; i++) {
        s->frames[i].data = at;
        at += s->frames[i].len;
    }
}

/* Moves both addresses of each frame on by one step, without a change of any checksum: what is
 * added to the upper half of an address is taken from the lower, in one's complement (RFC 1071). */
static void next_pass(rival_run *run) {
    enum { ADDRESSES = 14 + 12, STEP = 25879 };
    for (uint64_t i = 0; i < run->truth.packets; i++) {
        rival_frame *frame = &run->frames[i];
        frame->ts_ns += run->truth.span_ns;
        for (int half = 0; half < 4; half++) {
            uint16_t v;
            uint8_t *at = frame->data + ADDRESSES + 2 * half;
            memcpy(&v, at, sizeof(v));
            uint32_t sum = v + (half % 2 == 0 ? STEP : 65535u - STEP);
            v = (uint16_t)((sum & 0xffff) + (sum >> 16));
            memcpy(at, &v, sizeof(v));
        }
    }
}

static uint64_t cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

typedef struct request {
    const char *workload;
    nfm_workload_options options;
    uint64_t passes;
    bool reassemble;
} request;

static void print(const request *wanted, const rival_run *run, uint64_t spent) {
    const nfm_workload_truth *truth = &run->truth;
    uint64_t bytes = wanted->reassemble ? truth->stream_bytes[0] + truth->stream_bytes[1] : 0;
    printf("{\"name\":\"%s\",\"workload\":\"%s\",\"level\":\"%s\",\"packets\":%" PRIu64
           ",\"flows\":%" PRIu64 ",\"closed\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"cpu_ns\":%" PRIu64
           ",\"want_flows\":%" PRIu64 ",\"want_bytes\":%" PRIu64 "}\n",
           rival.name, wanted->workload, wanted->reassemble ? "data" : "track",
           (truth->packets - truth->opening_packets) * wanted->passes, run->flows, run->closed,
           run->bytes, spent, truth->flows * wanted->passes, bytes * wanted->passes);
}

static void measure(const request *wanted) {
    nfm_error err = {0};
    store s = {0};
    rival_run run = {.reassemble = wanted->reassemble};
    nfm_workload_sink sink = {keep, &s};
    if (nfm_workload_generate(wanted->workload, &wanted->options, sink, &run.truth, &err) != NFM_OK)
        die(err.text);
    place(&s);
    run.frames = s.frames;
    if (rival.start(&run) != 0)
        exit(2);
    uint64_t spent = 0;
    for (uint64_t pass = 0; pass < wanted->passes; pass++) {
        if (pass > 0)
            next_pass(&run);
        rival.feed(&run, 0, run.truth.opening_packets);
        uint64_t begin = cpu_ns();
        rival.feed(&run, run.truth.opening_packets, run.truth.packets);
        spent += cpu_ns() - begin;
    }
    rival.finish(&run);
    print(wanted, &run, spent);
    free(s.bytes);
    free(s.frames);
}

static const char usage[] =
    "[--workload NAME] [--level track|data] [--packets N] [--passes N] [--seed N]\n"
    "Runs another stack over a generated workload in memory and prints what it counted and cost.\n";

int main(int argc, char **argv) {
    static const struct option longs[] = {
        {"workload", required_argument, NULL, 'w'},
        {"level", required_argument, NULL, 'l'},
        {"packets", required_argument, NULL, 'n'},
        {"passes", required_argument, NULL, 'p'},
        {"seed", required_argument, NULL, 'r'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    request wanted = {.workload = "http", .options = {.seed = 1}, .passes = 1};
    for (int c; (c = getopt_long(argc, argv, "h", longs, NULL)) != -1;) {
        if (c == 'w') {
            wanted.workload = optarg;
        } else if (c == 'l') {
            wanted.reassemble = optarg[0] == 'd';
        } else if (c == 'n') {
            wanted.options.packets = strtoull(optarg, NULL, 10);
        } else if (c == 'p') {
            wanted.passes = strtoull(optarg, NULL, 10);
        } else if (c == 'r') {
            wanted.options.seed = strtoull(optarg, NULL, 10);
        } else {
            fprintf(c == 'h' ? stdout : stderr, "usage: rival-%s %s", rival.name, usage);
            return c == 'h' ? 0 : 2;
        }
    }
    measure(&wanted);
    return 0;
}
