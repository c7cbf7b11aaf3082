/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of nfm_processes.c share: the worker's process and those of its NFs. */
#ifndef NFM_BENCH_PROCESSES_H
#define NFM_BENCH_PROCESSES_H

#include <stdbool.h>

#include "measured.h"

enum { MAX_NFS = 16, BLIND = 101 };
#define IDLE_NS 50000000

typedef struct options {
    const char *workload;
    uint64_t packets, passes;
    const measured_level *level;
    uint32_t nfs;
    int64_t spin_ns, gap_ns, worker_spin_ns;
    bool in_line;     /* packets wait for the NFs and leave by another port */
    uint32_t offload; /* inline: percent of the flows that the NFs want to see one packet of; BLIND:
                       * they let all pass without looking at entries */
    char *command;    /* of the NFs; NULL: native */
} options;

typedef struct shared { /* what the processes share, as descriptors */
    nfm_worker_config config;
    int32_t read_only[NFM_OBJ_COUNT];
    int rings[MAX_NFS];
    int begin[2], ready[2];
} shared;

/* The NF of this process: native, or the command of |o|. */
void processes_run_nf(const options *o, const shared *s, uint32_t number);

#endif
