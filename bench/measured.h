/* SPDX-License-Identifier: Apache-2.0 */
/* What the measured programs share: levels, the modules that a level needs, the NF that counts, and
 * the processors that they run on. */
#ifndef NFM_BENCH_MEASURED_H
#define NFM_BENCH_MEASURED_H

#include "measured_options.h"
#include "workload.h"

typedef struct measured_level {
    const char *name;
    uint32_t level;
    uint64_t events;
} measured_level;

typedef struct measured_totals { /* what one native subscriber counted */
    uint64_t events, opened, established, ended, bytes, gap_bytes;
} measured_totals;

typedef struct measured_times { /* samples of how long something took */
    int64_t *ns;
    uint64_t n, max;
} measured_times;

/* One of header, packets, track, data; ends the program for another name. */
const measured_level *measured_find_level(const char *name);
/* Adds the built-in modules that |level| needs. */
void measured_add_modules(nfm_worker *worker, uint32_t level);
/* The NF, an nfm_process_fn on measured_totals: counts connection events, or every byte of the data
 * it is shown. */
int measured_count(void *totals, const nfm_batch *batch);
/* Processor time of this process, user and system. */
uint64_t measured_cpu_ns(void);
int64_t measured_monotonic_ns(void);
/* Room for |max| samples. */
void measured_times_init(measured_times *times, uint64_t max);
void measured_times_fini(measured_times *times);
static inline void measured_time(measured_times *times, int64_t ns) {
    if (times->n < times->max)
        times->ns[times->n++] = ns;
}
/* The value that |percent| of the samples do not exceed; 0 without any. Sorts them. */
int64_t measured_quantile(measured_times *times, uint32_t percent);
/* Runs this process on number |which| (0 or 1) of the processors that it may use, when it has two.
 */
void measured_pin(int which);

#endif
