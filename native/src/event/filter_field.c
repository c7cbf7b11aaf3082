/* SPDX-License-Identifier: Apache-2.0 */
/* Comparisons of a field with a literal. */
#include "event/field.h"
#include "event/filter_leaf.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_LITERAL = 65536 };

static bool is_text(uint32_t kind) {
    return kind == NFM_KIND_BYTES || kind == NFM_KIND_STR;
}

/* Whether |compare| means something for values of |kind|. */
static bool compare_fits(uint32_t kind, uint32_t compare) {
    switch ((enum nfm_compare)compare) {
    case NFM_EQ:
    case NFM_NE:
        return true;
    case NFM_LT:
    case NFM_LE:
    case NFM_GT:
    case NFM_GE:
        return kind != NFM_KIND_BOOL && kind != NFM_KIND_ADDR && !is_text(kind);
    case NFM_CONTAINS:
    case NFM_STARTSWITH:
    case NFM_ENDSWITH:
        return is_text(kind);
    case NFM_IN_NET:
        return kind == NFM_KIND_ADDR;
    }
    return false;
}

static int check_op(const nfm_filter_op *op, nfm_error *err) {
    const nfm_field_def *field = &op->field;
    const char *name = field->name == NULL ? "?" : field->name;
    if (!nfm__field_valid(field))
        return nfm__filter_fail(err, NFM_E_INVAL, "filter: field %s has no valid place", name);
    if (!compare_fits(field->kind, op->compare))
        return nfm__filter_fail(err, NFM_E_INVAL,
                                "filter: comparison %u does not fit the kind %u of field %s",
                                op->compare, field->kind, name);
    if (is_text(field->kind) &&
        (op->bytes_len > MAX_LITERAL || (op->bytes == NULL && op->bytes_len != 0)))
        return nfm__filter_fail(err, NFM_E_INVAL, "filter: the literal for %s is too long", name);
    if (field->kind != NFM_KIND_ADDR)
        return NFM_OK;
    if (op->bytes == NULL || (op->bytes_len != 4 && op->bytes_len != 16))
        return nfm__filter_fail(err, NFM_E_INVAL, "filter: the literal for %s is no address", name);
    if (op->compare == NFM_IN_NET && op->prefix > op->bytes_len * 8)
        return nfm__filter_fail(err, NFM_E_INVAL, "filter: prefix /%u for %s is too long",
                                op->prefix, name);
    return NFM_OK;
}

/*
 * nfm__predicate_init checks the comparison of |op| and copies what it needs; op is not kept.
 * Returns NFM_OK, or a negative status with err naming the field.
 */
int nfm__predicate_init(nfm__predicate *predicate, const nfm_filter_op *op, nfm_error *err) {
    int rc = check_op(op, err);
    if (rc != NFM_OK)
        return rc;
    bool has_bytes = is_text(op->field.kind) || op->field.kind == NFM_KIND_ADDR;
    uint8_t *bytes = malloc(has_bytes && op->bytes_len > 0 ? op->bytes_len : 1);
    if (bytes == NULL)
        return nfm__filter_fail(err, NFM_E_NOMEM, "filter: out of memory");
    if (has_bytes && op->bytes_len > 0)
        memcpy(bytes, op->bytes, op->bytes_len);
    *predicate = (nfm__predicate){.field = op->field,
                                  .compare = op->compare,
                                  .prefix = op->prefix,
                                  .number = op->number,
                                  .integer = op->integer,
                                  .real = op->real,
                                  .bytes = bytes,
                                  .bytes_len = has_bytes ? op->bytes_len : 0};
    predicate->field.name = predicate->field.unit = predicate->field.doc = NULL;
    return NFM_OK;
}

/*
 * nfm__predicate_fini releases what nfm__predicate_init allocated.
 */
void nfm__predicate_fini(nfm__predicate *predicate) {
    free(predicate->bytes);
}

/* |order|: less than, equal to, greater than zero as value is against the literal. */
static bool order_matches(uint32_t compare, int order) {
    switch ((enum nfm_compare)compare) {
    case NFM_EQ:
        return order == 0;
    case NFM_NE:
        return order != 0;
    case NFM_LT:
        return order < 0;
    case NFM_LE:
        return order <= 0;
    case NFM_GT:
        return order > 0;
    case NFM_GE:
        return order >= 0;
    case NFM_CONTAINS:
    case NFM_STARTSWITH:
    case NFM_ENDSWITH:
    case NFM_IN_NET:
        return false;
    }
    return false;
}

static uint64_t load_unsigned(const uint8_t *at, uint32_t kind) {
    uint64_t wide = 0;
    memcpy(&wide, at, nfm__kind_size(kind)); /* little-endian hosts only, as is the ABI */
    return wide;
}

static bool eval_number(const nfm__predicate *p, const uint8_t *at) {
    if (p->field.kind == NFM_KIND_F64) {
        double value;
        memcpy(&value, at, sizeof(value));
        if (value != value) /* not a number differs from all */
            return p->compare == NFM_NE;
        return order_matches(p->compare, (value > p->real) - (value < p->real));
    }
    if (p->field.kind == NFM_KIND_I64 || p->field.kind == NFM_KIND_TIME) {
        int64_t value;
        memcpy(&value, at, sizeof(value));
        return order_matches(p->compare, (value > p->integer) - (value < p->integer));
    }
    uint64_t value = load_unsigned(at, p->field.kind), number = p->number;
    if (p->field.kind == NFM_KIND_BOOL) {
        value = value != 0;
        number = number != 0;
    }
    return order_matches(p->compare, (value > number) - (value < number));
}

static bool eval_text(const nfm__predicate *p, nfm_view value) {
    uint32_t n = p->bytes_len;
    if (value.data == NULL)
        return false;
    switch ((enum nfm_compare)p->compare) {
    case NFM_EQ:
        return value.len == n && memcmp(value.data, p->bytes, n) == 0;
    case NFM_NE:
        return value.len != n || memcmp(value.data, p->bytes, n) != 0;
    case NFM_CONTAINS:
        return n == 0 || memmem(value.data, value.len, p->bytes, n) != NULL;
    case NFM_STARTSWITH:
        return value.len >= n && memcmp(value.data, p->bytes, n) == 0;
    case NFM_ENDSWITH:
        return value.len >= n && memcmp(value.data + value.len - n, p->bytes, n) == 0;
    case NFM_LT:
    case NFM_LE:
    case NFM_GT:
    case NFM_GE:
    case NFM_IN_NET:
        return false;
    }
    return false;
}

static bool prefix_equal(const uint8_t *a, const uint8_t *b, uint32_t bits) {
    uint32_t whole = bits / 8, rest = bits % 8;
    if (memcmp(a, b, whole) != 0)
        return false;
    return rest == 0 || ((a[whole] ^ b[whole]) >> (8 - rest)) == 0;
}

/* An address of |len| bytes (4 or 16) against the literal; other families differ. */
static bool eval_address(const nfm__predicate *p, const uint8_t *at, uint32_t len) {
    if (p->compare == NFM_IN_NET)
        return len == p->bytes_len && prefix_equal(at, p->bytes, p->prefix);
    bool equal = len == p->bytes_len && memcmp(at, p->bytes, len) == 0;
    return equal == (p->compare == NFM_EQ);
}

static bool eval_from(const nfm__predicate *p, const nfm__field_from *from) {
    const nfm_field_def *field = &p->field;
    uint32_t size = nfm__kind_size(field->kind);
    if (is_text(field->kind))
        return eval_text(p, nfm__field_bytes(from, field));
    if (field->kind != NFM_KIND_ADDR) {
        const uint8_t *at = nfm__field_at(from, field->source, field->offset, size);
        return at != NULL && eval_number(p, at);
    }
    if (field->source == NFM_FROM_FIELDS) {
        nfm_view value = nfm__field_bytes(from, field);
        return (value.len == 4 || value.len == 16) && eval_address(p, value.data, value.len);
    }
    const uint8_t *at = nfm__field_at(from, field->source, field->offset, size);
    if (at == NULL || from->flow == NULL)
        return false;
    return eval_address(p, at, from->flow->ip_version == 4 ? 4 : 16);
}

/*
 * nfm__predicate_eval compares the field's value of one record. Borrows the input. A value that is
 * not there compares as no, also for "differs". Returns bool.
 */
bool nfm__predicate_eval(const nfm__predicate *predicate, const nfm_filter_input *input) {
    nfm__field_from from = {input->mem, input->record, input->flow, input->base,
                            NFM_HEADROOM + NFM_MAX_FRAME};
    return eval_from(predicate, &from);
}

/*
 * nfm__predicate_is_key_only tells whether the flow's key and the roles of its sides decide the
 * comparison. Returns bool.
 */
bool nfm__predicate_is_key_only(const nfm__predicate *predicate) {
    switch ((enum nfm_source)predicate->field.source) {
    case NFM_FROM_FLOW:
    case NFM_FROM_FLOW_SRC:
    case NFM_FROM_FLOW_DST:
    case NFM_FROM_FLOW_CLIENT:
    case NFM_FROM_FLOW_SERVER:
    case NFM_FROM_SENDER:
        return true;
    case NFM_FROM_RECORD:
    case NFM_FROM_FIELDS:
    case NFM_FROM_RECORD_CLIENT:
    case NFM_FROM_RECORD_SERVER:
    case NFM_FROM_FLAG:
    case NFM_FROM_PAYLOAD:
    case NFM_FROM_DATA:
        return false;
    }
    return false;
}

/*
 * nfm__predicate_eval_key compares what the flow's key holds for a packet of |side|. Returns
 * NFM_NOT_YET for fields of records.
 */
int nfm__predicate_eval_key(const nfm__predicate *predicate, const nfm_flow_info *flow,
                            uint8_t side, uint8_t client_side) {
    nfm_record sender = {.side = side, .flags = client_side ? NFM_F_CLIENT_IS_1 : 0};
    nfm__field_from from = {NULL, &sender, flow, NULL, 0};
    if (!nfm__predicate_is_key_only(predicate))
        return NFM_NOT_YET;
    return eval_from(predicate, &from) ? NFM_YES : NFM_NO;
}
