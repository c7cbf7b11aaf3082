/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frame around a driver of another stack: it generates a workload into memory, lets the driver
 * process it from there in one or more passes, measures the processor time of that alone, and
 * prints one JSON line with what the driver counted beside what the workload holds. Between passes,
 * untimed, the frames' addresses and times move on as those of a mem port do. The driver defines
 * |rival|.
 */
#ifndef NFM_BENCH_RIVAL_H
#define NFM_BENCH_RIVAL_H

#include "workload.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rival_frame {
    uint8_t *data;
    uint32_t len;
    int64_t ts_ns;
} rival_frame;

typedef struct rival_run {
    nfm_workload_truth truth;
    rival_frame *frames; /* in order of time */
    bool reassemble;     /* else connection events only, where the stack can do without */
    uint64_t flows;      /* to be counted by the driver: connections that became established */
    uint64_t closed;     /* connections that it saw end, 0 if it does not say */
    uint64_t bytes;      /* stream bytes delivered, each once; with |reassemble| only */
} rival_run;

typedef struct rival_driver {
    const char *name;
    int (*start)(rival_run *run); /* 0, or not: says why on standard error */
    void (*feed)(rival_run *run, uint64_t from, uint64_t to); /* frames from..to-1 */
    void (*finish)(rival_run *run);
} rival_driver;

extern const rival_driver rival;

#ifdef __cplusplus
}
#endif
#endif
