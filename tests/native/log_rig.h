/* SPDX-License-Identifier: Apache-2.0 */
/* Events for tests of logs: event |n| has a field record of a length and bytes that follow from n,
 * so that a reader can tell whether it got the whole of it. */
#ifndef LOG_RIG_H
#define LOG_RIG_H

#include <stdlib.h>
#include <string.h>

#include "event/log.h"

enum { RIG_FIELDS = 1200, RIG_BATCH = 8 };

typedef struct log_rig { /* a batch of up to RIG_BATCH events, as a publisher has it */
    nfm_record records[RIG_BATCH];
    nfm_flow_info flows[RIG_BATCH];
    nfm_desc desc[RIG_BATCH];
    uint8_t fields[RIG_BATCH * RIG_FIELDS];
    nfm_mem mem;
    nfm_batch batch;
} log_rig;

static inline uint32_t rig_len(uint32_t n) {
    return 8 + n * 37 % (RIG_FIELDS - 8);
}

static inline uint8_t rig_byte(uint32_t n, uint32_t i) {
    return (uint8_t)(n * 131 + i * 7 + 1);
}

/* Every third event is about no flow. */
static inline bool rig_has_flow(uint32_t n) {
    return n % 3 != 0;
}

/* The batch of events first, first + 1, ... */
static inline const nfm_batch *rig_batch(log_rig *rig, uint32_t first, uint32_t count) {
    memset(rig->records, 0, sizeof(rig->records));
    for (uint32_t i = 0; i < count; i++) {
        uint32_t n = first + i, len = rig_len(n);
        nfm_record *record = &rig->records[i];
        record->kind = NFM_REC_APP;
        record->ts_ns = n;
        record->slot = NFM_NO_SLOT;
        record->app.fields = (uint64_t)i * RIG_FIELDS;
        record->app.fields_len = len;
        for (uint32_t k = 0; k < len; k++)
            rig->fields[i * RIG_FIELDS + k] = rig_byte(n, k);
        memset(&rig->flows[i], 0, sizeof(rig->flows[i]));
        rig->flows[i].id = UINT64_C(7000000000) + n;
        rig->desc[i] =
            (nfm_desc){i, rig_has_flow(n) ? i : NFM_NO_FLOW, NFM_DESC_APP | (100 + n % 5)};
    }
    rig->mem = (nfm_mem){.records = rig->records,
                         .fields = rig->fields,
                         .flows = rig->flows,
                         .n_records = RIG_BATCH,
                         .n_flows = RIG_BATCH,
                         .fields_size = sizeof(rig->fields)};
    rig->batch =
        (nfm_batch){.mem = &rig->mem, .desc = rig->desc, .n = count, .handler = UINT32_MAX};
    return &rig->batch;
}

/* Number of the event at |i| of a read batch when it is whole and as published, else UINT32_MAX. */
static inline uint32_t rig_event(const nfm_batch *batch, uint32_t i) {
    const nfm_record *record = &batch->mem->records[batch->desc[i].record];
    uint32_t n = (uint32_t)record->ts_ns, len = rig_len(n);
    const uint8_t *fields = batch->mem->fields + record->app.fields;
    bool ok = record->app.fields_len == len && record->app.fields + len <= batch->mem->fields_size;
    ok = ok && batch->desc[i].what == (NFM_DESC_APP | (100 + n % 5));
    ok = ok && record->slot == NFM_NO_SLOT && record->kind == NFM_REC_APP;
    ok = ok && (batch->desc[i].flow != NFM_NO_FLOW) == rig_has_flow(n);
    if (ok && rig_has_flow(n))
        ok = batch->mem->flows[batch->desc[i].flow].id == UINT64_C(7000000000) + n;
    for (uint32_t k = 0; ok && k < len; k++)
        ok = fields[k] == rig_byte(n, k);
    return ok ? n : UINT32_MAX;
}

/* Zeroed memory of a log of |capacity| bytes, aligned; the caller frees it. */
static inline void *rig_memory(uint64_t capacity, uint64_t *size) {
    *size = (nfm_log_object_size(capacity) + 63) / 64 * 64;
    void *memory = aligned_alloc(64, *size);
    if (memory != NULL)
        memset(memory, 0, *size);
    return memory;
}

#endif
