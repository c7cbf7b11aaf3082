/* SPDX-License-Identifier: Apache-2.0 */
/* Where the value of a field lies: the one place that gathering and filters share. All offsets come
 * from shared memory or from a caller's table, so each is checked before it is followed. */
#ifndef NFM_EVENT_FIELD_H
#define NFM_EVENT_FIELD_H

#include "nfm/nfm.h"

/* What a field is read from: a record, its flow and its slot. */
typedef struct nfm__field_from {
    const nfm_mem *mem;        /* for the fields region */
    const nfm_record *record;  /* NULL: none */
    const nfm_flow_info *flow; /* NULL: none */
    const uint8_t *base;       /* slot start, NULL: none */
    uint32_t room;             /* bytes of the slot */
} nfm__field_from;

/* Bytes of a value of |kind| in a column; 0 for BYTES, STR and numbers that are no kind. */
uint32_t nfm__kind_size(uint32_t kind);
/* True when |field| names memory inside the layouts and its kind fits its source. */
bool nfm__field_valid(const nfm_field_def *field);
/* The value of a BYTES, STR or (in a field record) ADDR field; data is NULL when there is none. */
nfm_view nfm__field_bytes(const nfm__field_from *from, const nfm_field_def *field);

/* Part of a slot; empty unless it lies within the record's frame and the slot. */
static inline nfm_view nfm__slot_view(const nfm__field_from *from, uint32_t off, uint32_t len) {
    uint64_t end = (uint64_t)NFM_HEADROOM + from->record->frame_len;
    nfm_view none = {NULL, 0};
    if (from->base == NULL || end > from->room || (uint64_t)off + len > end)
        return none;
    return (nfm_view){from->base + off, len};
}

/* The field record of an application record, or NULL; *len receives its length. */
static inline const uint8_t *nfm__field_record(const nfm_mem *mem, const nfm_record *record,
                                               uint32_t *len) {
    if (record->kind != NFM_REC_APP)
        return NULL;
    uint64_t off = record->app.fields;
    *len = record->app.fields_len;
    if (mem == NULL || off > mem->fields_size || *len > mem->fields_size - off)
        return NULL;
    return mem->fields + off;
}

static inline uint32_t nfm__client_side(const nfm_record *record) {
    return (record->flags & NFM_F_CLIENT_IS_1) != 0;
}

/* Which element of an array of two a source means, for a packet of |side|. */
static inline uint32_t nfm__field_side(uint32_t source, uint32_t side, uint32_t client) {
    if (source == NFM_FROM_FLOW_SRC)
        return side & 1;
    if (source == NFM_FROM_FLOW_DST)
        return (side & 1) ^ 1;
    if (source == NFM_FROM_FLOW_CLIENT || source == NFM_FROM_RECORD_CLIENT)
        return client;
    return client ^ 1;
}

/*
 * nfm__field_at finds the |size| bytes of a fixed-size value that is no ADDR of a field record.
 * The field was found valid. Returns NULL when the record or flow has no such value.
 */
static inline const uint8_t *nfm__field_at(const nfm__field_from *from, uint32_t source,
                                           uint32_t offset, uint32_t size) {
    static const uint8_t boolean[2] = {0, 1};
    const nfm_record *record = from->record;
    uint32_t len;
    if (source == NFM_FROM_FLOW)
        return from->flow == NULL ? NULL : (const uint8_t *)from->flow + offset;
    if (record == NULL)
        return NULL;
    switch (source) {
    case NFM_FROM_RECORD:
        return (const uint8_t *)record + offset;
    case NFM_FROM_FLOW_SRC:
    case NFM_FROM_FLOW_DST:
    case NFM_FROM_FLOW_CLIENT:
    case NFM_FROM_FLOW_SERVER:
        if (from->flow == NULL)
            return NULL;
        return (const uint8_t *)from->flow + offset +
               size * nfm__field_side(source, record->side, nfm__client_side(record));
    case NFM_FROM_RECORD_CLIENT:
    case NFM_FROM_RECORD_SERVER:
        return (const uint8_t *)record + offset +
               size * nfm__field_side(source, record->side, nfm__client_side(record));
    case NFM_FROM_FLAG:
        return &boolean[(record->flags & offset) != 0];
    case NFM_FROM_SENDER:
        return &boolean[(uint32_t)(record->side & 1) == nfm__client_side(record)];
    case NFM_FROM_FIELDS: {
        const uint8_t *cells = nfm__field_record(from->mem, record, &len);
        return cells == NULL || (uint64_t)offset + 8 > len ? NULL : cells + offset;
    }
    default:
        return NULL;
    }
}

#endif
