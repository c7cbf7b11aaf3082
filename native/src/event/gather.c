/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Columns for NFs: one field of many descriptors, copied side by side.
 *
 * Theory of operation. A descriptor names a record and a flow by index. A column is one pass over
 * the descriptors: find the value, copy it. What differs between fields (source and size) is fixed
 * before the loop starts, so that each pair has a loop of its own in which both are constants. The
 * memory behind a descriptor is seldom in the cache: each loop asks for the line that it needs
 * AHEAD entries later. Indices are checked against the sizes of the mapped objects; a value that
 * is not there is zero, so a column always has |n| entries.
 */
#include "event/field.h"

#include <string.h>

enum { AHEAD = 12 };

typedef struct column {
    const nfm_mem *mem;
    const nfm_desc *desc;
    uint32_t n;
    uint32_t offset;
    uint8_t *out;
} column;

static inline const nfm_record *record_of(const nfm_mem *mem, const nfm_desc *desc) {
    return desc->record < mem->n_records ? &mem->records[desc->record] : NULL;
}

static inline const nfm_flow_info *flow_of(const nfm_mem *mem, const nfm_desc *desc) {
    return desc->flow < mem->n_flows ? &mem->flows[desc->flow] : NULL;
}

static inline bool needs_flow(uint32_t source) {
    return source == NFM_FROM_FLOW || source == NFM_FROM_FLOW_SRC || source == NFM_FROM_FLOW_DST ||
           source == NFM_FROM_FLOW_CLIENT || source == NFM_FROM_FLOW_SERVER;
}

static inline void prefetch(const nfm_mem *mem, const nfm_desc *desc, uint32_t source,
                            uint32_t offset) {
    if (source != NFM_FROM_FLOW && desc->record < mem->n_records)
        __builtin_prefetch((const uint8_t *)&mem->records[desc->record] +
                           (source == NFM_FROM_RECORD ? offset : 0));
    if (needs_flow(source) && desc->flow < mem->n_flows)
        __builtin_prefetch(&mem->flows[desc->flow]);
}

/* The loop; |source| and |size| are constants in every place that it is expanded. */
static inline __attribute__((always_inline)) void copy_column(const column *job, uint32_t source,
                                                              uint32_t size) {
    static const uint8_t zeros[16];
    const nfm_mem *mem = job->mem;
    const nfm_desc *desc = job->desc;
    uint32_t n = job->n, offset = job->offset;
    uint8_t *out = job->out;
    for (uint32_t i = 0; i < n; i++, out += size) {
        if (i + AHEAD < n)
            prefetch(mem, &desc[i + AHEAD], source, offset);
        nfm__field_from from = {mem, source == NFM_FROM_FLOW ? NULL : record_of(mem, &desc[i]),
                                needs_flow(source) ? flow_of(mem, &desc[i]) : NULL, NULL, 0};
        const uint8_t *value = nfm__field_at(&from, source, offset, size);
        memcpy(out, value == NULL ? zeros : value, size);
    }
}

static inline __attribute__((always_inline)) void copy_sized(const column *job, uint32_t source,
                                                             uint32_t size) {
    if (size == 1)
        copy_column(job, source, 1);
    else if (size == 2)
        copy_column(job, source, 2);
    else if (size == 4)
        copy_column(job, source, 4);
    else if (size == 8)
        copy_column(job, source, 8);
    else
        copy_column(job, source, 16);
}

static int copy_source(const column *job, uint32_t source, uint32_t size) {
    switch ((enum nfm_source)source) {
    case NFM_FROM_RECORD:
        copy_sized(job, NFM_FROM_RECORD, size);
        return NFM_OK;
    case NFM_FROM_FLOW:
        copy_sized(job, NFM_FROM_FLOW, size);
        return NFM_OK;
    case NFM_FROM_FIELDS:
        copy_sized(job, NFM_FROM_FIELDS, size);
        return NFM_OK;
    case NFM_FROM_FLOW_SRC:
    case NFM_FROM_FLOW_DST:
    case NFM_FROM_FLOW_CLIENT:
    case NFM_FROM_FLOW_SERVER:
        copy_sized(job, source, size);
        return NFM_OK;
    case NFM_FROM_RECORD_CLIENT:
    case NFM_FROM_RECORD_SERVER:
        copy_sized(job, source, size);
        return NFM_OK;
    case NFM_FROM_FLAG:
    case NFM_FROM_SENDER:
        copy_column(job, source, 1);
        return NFM_OK;
    case NFM_FROM_PAYLOAD:
    case NFM_FROM_DATA:
        break;
    }
    return NFM_E_INVAL;
}

static nfm__field_from from_desc(const nfm_mem *mem, const nfm_desc *desc) {
    nfm__field_from from = {mem, record_of(mem, desc), flow_of(mem, desc), NULL, 0};
    if (from.record != NULL) {
        from.base = nfm_slot_ptr(mem, from.record->slot);
        from.room = from.record->slot < mem->n_small ? NFM_SLOT_SMALL : NFM_SLOT_LARGE;
    }
    return from;
}

/* Addresses in field records are bytes: 4 or 16 of them, the rest of the entry is zero. */
static void copy_addresses(const column *job, const nfm_field_def *field) {
    memset(job->out, 0, (size_t)job->n * 16);
    for (uint32_t i = 0; i < job->n; i++) {
        nfm__field_from from = from_desc(job->mem, &job->desc[i]);
        nfm_view address = nfm__field_bytes(&from, field);
        if (address.len == 4 || address.len == 16)
            memcpy(job->out + (size_t)i * 16, address.data, address.len);
    }
}

/*
 * nfm_gather copies the values of |field| for |n| descriptors into |out|, which has room for n
 * values of the kind's size (ADDR 16). Borrows everything. A descriptor without such a value (no
 * flow, an index out of range, another kind of record) gets zero.
 * Returns NFM_OK, or NFM_E_INVAL for a field outside the layouts and for BYTES and STR.
 */
int nfm_gather(const nfm_mem *mem, const nfm_desc *desc, uint32_t n, const nfm_field_def *field,
               void *out) {
    uint32_t size = nfm__kind_size(field->kind);
    column job = {mem, desc, n, field->offset, out};
    if (size == 0 || !nfm__field_valid(field))
        return NFM_E_INVAL;
    if (field->source == NFM_FROM_FIELDS && field->kind == NFM_KIND_ADDR) {
        copy_addresses(&job, field);
        return NFM_OK;
    }
    return copy_source(&job, field->source, size);
}

/*
 * nfm_gather_bytes finds the values of the BYTES or STR field |field| for |n| descriptors: data[i]
 * points into the mapped memory and is valid as long as the descriptors are; without a value it is
 * NULL and len[i] is 0. Returns NFM_OK, or NFM_E_INVAL for a field of another kind.
 */
int nfm_gather_bytes(const nfm_mem *mem, const nfm_desc *desc, uint32_t n,
                     const nfm_field_def *field, const uint8_t **data, uint32_t *len) {
    if ((field->kind != NFM_KIND_BYTES && field->kind != NFM_KIND_STR) || !nfm__field_valid(field))
        return NFM_E_INVAL;
    for (uint32_t i = 0; i < n; i++) {
        if (i + AHEAD < n)
            prefetch(mem, &desc[i + AHEAD], field->source, 0);
        nfm__field_from from = from_desc(mem, &desc[i]);
        nfm_view value = nfm__field_bytes(&from, field);
        data[i] = value.data;
        len[i] = value.len;
    }
    return NFM_OK;
}

/*
 * nfm_record_data returns the bytes that |record| is about: the new bytes of tcp.data, the payload
 * of a datagram, the data of an application event. Borrows the slot; empty when there are none or
 * when the record's offsets do not fit its frame.
 */
nfm_view nfm_record_data(const nfm_mem *mem, const nfm_record *record) {
    static const nfm_field_def data = {"data", NFM_KIND_BYTES, NFM_FROM_DATA, 0, "", ""};
    nfm__field_from from = {mem, record, NULL, nfm_slot_ptr(mem, record->slot),
                            record->slot < mem->n_small ? NFM_SLOT_SMALL : NFM_SLOT_LARGE};
    return nfm__field_bytes(&from, &data);
}

/*
 * nfm_record_frame returns the frame of |record| from its link layer on, as captured. Borrows the
 * slot; empty without one, and in the inbox of a domain whose receivers get the data alone.
 */
nfm_view nfm_record_frame(const nfm_mem *mem, const nfm_record *record) {
    nfm__field_from from = {mem, record, NULL, nfm_slot_ptr(mem, record->slot),
                            record->slot < mem->n_small ? NFM_SLOT_SMALL : NFM_SLOT_LARGE};
    if (record->flags & NFM_F_PART)
        return (nfm_view){NULL, 0};
    return nfm__slot_view(&from, NFM_HEADROOM, record->frame_len);
}
