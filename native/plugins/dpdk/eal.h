/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NFM_DPDK_EAL_H
#define NFM_DPDK_EAL_H

#include "nfm/nfm.h"

/*
 * eal_begin starts DPDK's environment with the words of |args| (NULL: defaults), unless this
 * process has begun it before: then |args| do not matter any more. The calling thread keeps its
 * affinity. Returns NFM_OK, or a status with the reason and the remedy in |err|.
 */
int eal_begin(const char *args, nfm_error *err);

#endif
