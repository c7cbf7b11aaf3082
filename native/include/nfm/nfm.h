/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NFM_NFM_H
#define NFM_NFM_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)
#include "nfm/nfm_abi.h"
#pragma GCC visibility pop

#define NFM_ABI_VERSION 4u
#define NFM_NO_SLOT 0xffffffffu
#define NFM_NO_FLOW 0xffffffffu
#define NFM_NO_RECORD 0xffffffffu
#define NFM_BIT(ev) (UINT64_C(1) << (ev))
#define NFM_DESC_APP (UINT64_C(1) << 63)
#define NFM_REST (UINT32_C(1) << NFM_REST_SHIFT)
#define NFM_DESC_GAP (UINT64_C(1) << 62)
#define NFM_DESC_EDITED (UINT64_C(1) << 61)

static_assert(sizeof(nfm_record) == NFM_RECORD_SIZE, "record is two cache lines");
static_assert(offsetof(nfm_record, tcp) == 64, "line 2 starts at 64");
static_assert(sizeof(nfm_flow_info) == NFM_FLOW_INFO_SIZE, "flow info is one cache line");
static_assert(sizeof(nfm_desc) == NFM_DESC_SIZE, "descriptor layout");
static_assert(sizeof(nfm_command) == 64, "a command is one cache line");
static_assert(sizeof(nfm_edit) == 64, "an edit is one cache line");
static_assert((int)NFM_EV_COUNT <= (int)NFM_EV_MAX, "event bits fit a descriptor");

/* The record's bytes in its slot; NULL without a slot. */
static inline const uint8_t *nfm_slot_ptr(const nfm_mem *mem, uint32_t slot) {
    if (slot >= mem->n_slots)
        return NULL;
    if (slot < mem->n_small)
        return mem->packets + (size_t)slot * NFM_SLOT_SMALL;
    return mem->packets + (size_t)mem->n_small * NFM_SLOT_SMALL +
           (size_t)(slot - mem->n_small) * NFM_SLOT_LARGE;
}

#ifdef __cplusplus
}
#endif
#endif
