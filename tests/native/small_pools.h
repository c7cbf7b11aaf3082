/* SPDX-License-Identifier: Apache-2.0 */
/* Limits of modules for tests that make workers by the hundred: a sanitizer goes over the memory of
 * each pool, whether it is used or not. */
#ifndef SMALL_POOLS_H
#define SMALL_POOLS_H

#include <string.h>

#include "stack/graph.h"

enum { SMALL_POOL = 256 };

/* The limits of a module: those of pools small, the others as they are. */
typedef struct small_pools {
    uint64_t limits[NFM_MAX_LIMITS];
} small_pools;

static inline small_pools small_pools_of(const nfm_module *module) {
    small_pools found = {{0}};
    nfm_module_info info;
    if (nfm_module_describe(module, &info) != NFM_OK)
        return found;
    for (uint32_t i = 0; i < info.n_limits; i++) {
        const char *name = info.limits[i].name;
        bool is_pool = strcmp(name, "head_buffers") == 0 || strcmp(name, "request_blocks") == 0;
        found.limits[i] = is_pool ? SMALL_POOL : info.limits[i].value;
    }
    return found;
}

#endif
