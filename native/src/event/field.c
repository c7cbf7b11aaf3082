/* SPDX-License-Identifier: Apache-2.0 */
#include "event/field.h"

#include <string.h>

/*
 * nfm__kind_size gives the bytes of one value of |kind| in a column. Returns 0 for BYTES and STR,
 * which have no fixed size, and for numbers that are no enum nfm_kind.
 */
uint32_t nfm__kind_size(uint32_t kind) {
    switch ((enum nfm_kind)kind) {
    case NFM_KIND_U8:
    case NFM_KIND_BOOL:
        return 1;
    case NFM_KIND_U16:
        return 2;
    case NFM_KIND_U32:
        return 4;
    case NFM_KIND_U64:
    case NFM_KIND_I64:
    case NFM_KIND_F64:
    case NFM_KIND_TIME:
        return 8;
    case NFM_KIND_ADDR:
        return 16;
    case NFM_KIND_BYTES:
    case NFM_KIND_STR:
        return 0;
    }
    return 0;
}

/*
 * nfm__field_valid checks a field definition against the shared layouts: the value lies inside the
 * structure that its source names, and bytes come only from sources that have bytes.
 */
bool nfm__field_valid(const nfm_field_def *field) {
    uint32_t size = nfm__kind_size(field->kind), end = field->offset + size;
    bool is_bytes = field->kind == NFM_KIND_BYTES || field->kind == NFM_KIND_STR;
    if (size == 0 && !is_bytes)
        return false;
    switch ((enum nfm_source)field->source) {
    case NFM_FROM_RECORD:
        return size != 0 && end <= NFM_RECORD_SIZE;
    case NFM_FROM_FLOW:
        return size != 0 && end <= NFM_FLOW_INFO_SIZE;
    case NFM_FROM_FLOW_SRC:
    case NFM_FROM_FLOW_DST:
    case NFM_FROM_FLOW_CLIENT:
    case NFM_FROM_FLOW_SERVER:
        return size != 0 && end + size <= NFM_FLOW_INFO_SIZE;
    case NFM_FROM_RECORD_CLIENT:
    case NFM_FROM_RECORD_SERVER:
        return size != 0 && end + size <= NFM_RECORD_SIZE;
    case NFM_FROM_FIELDS:
        return field->offset % 8 == 0;
    case NFM_FROM_FLAG:
    case NFM_FROM_SENDER:
        return field->kind == NFM_KIND_BOOL;
    case NFM_FROM_PAYLOAD:
    case NFM_FROM_DATA:
        return is_bytes;
    }
    return false;
}

/* The bytes that cell |offset| of the record's field record names. */
static nfm_view cell_bytes(const nfm__field_from *from, uint32_t offset) {
    uint32_t len, cell[2];
    nfm_view none = {NULL, 0};
    const uint8_t *start = nfm__field_record(from->mem, from->record, &len);
    if (start == NULL || (uint64_t)offset + 8 > len)
        return none;
    memcpy(cell, start + offset, sizeof(cell));
    if ((uint64_t)cell[0] + cell[1] > len)
        return none;
    return (nfm_view){start + cell[0], cell[1]};
}

/* The bytes that a record is about, by its kind. */
static nfm_view data_bytes(const nfm__field_from *from) {
    const nfm_record *record = from->record;
    nfm_view none = {NULL, 0};
    switch ((enum nfm_record_kind)record->kind) {
    case NFM_REC_PACKET:
        if (record->events & NFM_BIT(NFM_EV_TCP_DATA))
            return nfm__slot_view(from, record->tcp.data_off, record->tcp.data_len);
        if (record->proto == 6 || record->payload_off == 0)
            return none;
        return nfm__slot_view(from, record->payload_off, record->payload_len);
    case NFM_REC_APP:
        return nfm__slot_view(from, record->app.data_off, record->app.data_len);
    case NFM_REC_FLOW:
    case NFM_REC_GAP:
        return none;
    }
    return none;
}

/*
 * nfm__field_bytes finds the value of a BYTES or STR field, or of an ADDR in a field record (4 or
 * 16 bytes). Borrows the mapped memory. Returns a view whose data is NULL when the record has no
 * such value, or when a length in it does not fit.
 */
nfm_view nfm__field_bytes(const nfm__field_from *from, const nfm_field_def *field) {
    nfm_view none = {NULL, 0};
    if (from->record == NULL)
        return none;
    if (field->source == NFM_FROM_FIELDS)
        return cell_bytes(from, field->offset);
    if (field->source == NFM_FROM_DATA)
        return data_bytes(from);
    if (field->source != NFM_FROM_PAYLOAD || from->record->kind == NFM_REC_FLOW)
        return none; /* totals have a time where others have the payload's length */
    if (from->record->payload_off != 0)
        return nfm__slot_view(from, from->record->payload_off, from->record->payload_len);
    return none;
}
