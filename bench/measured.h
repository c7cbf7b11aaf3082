/* SPDX-License-Identifier: Apache-2.0 */
/* What the measured programs share: levels, the modules that a level needs, the NF that counts, and
 * the processors that they run on. */
#ifndef NFM_BENCH_MEASURED_H
#define NFM_BENCH_MEASURED_H

#include "workload.h"

typedef struct measured_level {
    const char *name;
    uint32_t level;
    uint64_t events;
} measured_level;

typedef struct measured_totals { /* what one native subscriber counted */
    uint64_t events, opened, established, ended, bytes, gap_bytes;
} measured_totals;

/* Ends the program with a line on standard error. */
_Noreturn void measured_die(const char *what, const char *why);
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
/* Runs this process on number |which| (0 or 1) of the processors that it may use, when it has two.
 */
void measured_pin(int which);

#endif
