/* SPDX-License-Identifier: Apache-2.0 */
#include "measured.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* What a subscriber of each kind hears: a record per flow, per packet, per connection event, or per
 * piece of stream data. */
static const measured_level levels[] = {
    {"header", NFM_LEVEL_PACKET, NFM_BIT(NFM_EV_FLOW_START) | NFM_BIT(NFM_EV_FLOW_END)},
    {"packets", NFM_LEVEL_PACKET, NFM_BIT(NFM_EV_PACKET_TCP)},
    {"track", NFM_LEVEL_TRACK,
     NFM_BIT(NFM_EV_FLOW_START) | NFM_BIT(NFM_EV_FLOW_END) | NFM_BIT(NFM_EV_TCP_ESTABLISHED) |
         NFM_BIT(NFM_EV_TCP_FIN) | NFM_BIT(NFM_EV_TCP_RESET)},
    {"data", NFM_LEVEL_DATA, NFM_BIT(NFM_EV_TCP_DATA) | NFM_BIT(NFM_EV_TCP_GAP)},
};
enum { N_LEVELS = sizeof(levels) / sizeof(levels[0]) };

const measured_level *measured_find_level(const char *name) {
    for (int i = 0; i < N_LEVELS; i++)
        if (strcmp(levels[i].name, name) == 0)
            return &levels[i];
    measured_die(name, "no such level: header, packets, track or data");
}

void measured_add_modules(nfm_worker *worker, uint32_t level) {
    static const char *const wanted[] = {"tcp_track", "udp", "tcp_stream"};
    uint32_t n, take = level == NFM_LEVEL_PACKET ? 0 : level == NFM_LEVEL_TRACK ? 2 : 3;
    const nfm_module *const *modules = nfm_builtin_modules(&n);
    nfm_error err = {0};
    for (uint32_t w = 0; w < take; w++) {
        for (uint32_t i = 0; i < n; i++) {
            nfm_module_info info;
            nfm_module_describe(modules[i], &info);
            if (strcmp(info.name, wanted[w]) == 0 &&
                nfm_worker_add_module(worker, modules[i], NULL, NULL, &err) < 0)
                measured_die(wanted[w], err.text);
        }
    }
}

int measured_count(void *totals, const nfm_batch *batch) {
    measured_totals *t = totals;
    for (uint32_t i = 0; i < batch->n; i++) {
        uint64_t what = batch->desc[i].what;
        t->opened += what >> NFM_EV_FLOW_START & 1;
        t->established += what >> NFM_EV_TCP_ESTABLISHED & 1;
        t->ended += what >> NFM_EV_FLOW_END & 1;
        if (what & (NFM_BIT(NFM_EV_TCP_DATA) | NFM_BIT(NFM_EV_TCP_GAP))) {
            const nfm_record *record = &batch->mem->records[batch->desc[i].record];
            if (record->kind == NFM_REC_GAP)
                t->gap_bytes += record->tcp.data_len;
            else
                t->bytes += nfm_record_data(batch->mem, record).len;
        }
    }
    t->events += batch->n;
    return NFM_OK;
}

uint64_t measured_cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int64_t measured_monotonic_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void measured_times_init(measured_times *times, uint64_t max) {
    *times = (measured_times){.ns = malloc(max * sizeof(*times->ns)), .max = max};
    if (times->ns == NULL)
        measured_die("samples", "no memory");
    memset(times->ns, 0, max * sizeof(*times->ns)); /* faulted in */
}

void measured_times_fini(measured_times *times) {
    free(times->ns);
    *times = (measured_times){0};
}

static int compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int64_t measured_quantile(measured_times *times, uint32_t percent) {
    if (times->n == 0)
        return 0;
    qsort(times->ns, times->n, sizeof(*times->ns), compare);
    return times->ns[(times->n - 1) * percent / 100];
}

void measured_pin(int which) {
    cpu_set_t may, one;
    if (sched_getaffinity(0, sizeof(may), &may) != 0 || CPU_COUNT(&may) < 2)
        return;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &may) || which-- != 0)
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        if (sched_setaffinity(0, sizeof(one), &one) != 0)
            measured_die("processor", "cannot pin");
        return;
    }
}
