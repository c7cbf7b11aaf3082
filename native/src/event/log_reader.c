/* SPDX-License-Identifier: Apache-2.0 */
/* A reader's side of a log: attaching, copying entries out, waiting. See log.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "event/log.h"

enum { CATCH_UPS = 8 };

typedef enum taking { TAKEN, FULL, OVERRUN, BAD } taking;

/* ---- attaching ------------------------------------------------------------------------------ */

static const char *wrong_with(const nfm__log_shared *shared, uint64_t capacity, int *code) {
    *code = NFM_E_FORMAT;
    if (atomic_load_explicit(&shared->magic, memory_order_acquire) != NFM_LOG_MAGIC)
        return "this is no event log";
    if (shared->capacity != capacity)
        return "its size is damaged";
    *code = NFM_E_ABI;
    if (shared->abi != NFM_ABI_VERSION || shared->entry_min != NFM_LOG_ENTRY_MIN)
        return "its writer has another version of nfmesh: run one version";
    return NULL;
}

static uint64_t head_of(const nfm_log_reader *reader) {
    return atomic_load_explicit(&reader->shared->head, memory_order_acquire);
}

/* Where to begin: see nfm_log_attach. */
static void begin(nfm_log_reader *reader, bool from_now) {
    nfm__log_cursor *cursor = reader->cursor;
    uint64_t head = head_of(reader) & ~UINT64_C(7);
    if (atomic_load_explicit(&cursor->magic, memory_order_acquire) == NFM_LOG_CURSOR_MAGIC) {
        reader->position = atomic_load_explicit(&cursor->position, memory_order_relaxed);
        reader->number = atomic_load_explicit(&cursor->number, memory_order_relaxed);
        if (reader->position % 8 == 0 && reader->position <= head)
            return;
        reader->bad++;
        from_now = true;
    }
    reader->position = from_now ? head : 0;
    reader->number = from_now && head > 0 ? NFM_LOG_NO_NUMBER : 0;
    nfm_log_advance(reader);
    atomic_store_explicit(&cursor->magic, NFM_LOG_CURSOR_MAGIC, memory_order_release);
}

static int refuse(nfm_error *err, int code, const char *text) {
    if (err != NULL) {
        err->code = code;
        snprintf(err->text, sizeof(err->text), "event log: %s", text);
    }
    return code;
}

int nfm__log_reader_init(nfm_log_reader *reader, const void *memory, uint64_t size,
                         nfm__log_cursor *cursor, bool from_now, nfm_error *err) {
    int code = NFM_OK;
    memset(reader, 0, sizeof(*reader));
    reader->shared = memory;
    reader->cursor = cursor;
    reader->capacity = nfm__log_capacity(size);
    if (reader->capacity == 0)
        return refuse(err, NFM_E_INVAL, "the object is too small for a log");
    if (atomic_load_explicit(&reader->shared->magic, memory_order_acquire) != 0) {
        const char *wrong = wrong_with(reader->shared, reader->capacity, &code);
        if (wrong != NULL)
            return refuse(err, code, wrong);
        reader->checked = true;
    }
    reader->mask = reader->capacity / 8 - 1;
    reader->max_entry = nfm__log_max_entry(reader->capacity);
    reader->records = calloc(NFM_LOG_BATCH, sizeof(nfm_record));
    reader->flows = calloc(NFM_LOG_BATCH, sizeof(nfm_flow_info));
    reader->desc = calloc(NFM_LOG_BATCH, sizeof(nfm_desc));
    reader->fields = calloc(1, NFM_LOG_ENTRY_MAX);
    if (!reader->records || !reader->flows || !reader->desc || !reader->fields) {
        nfm__log_reader_fini(reader);
        return refuse(err, NFM_E_NOMEM, nfm_strerror(NFM_E_NOMEM));
    }
    reader->mem = (nfm_mem){.records = reader->records,
                            .fields = reader->fields,
                            .flows = reader->flows,
                            .n_records = NFM_LOG_BATCH,
                            .n_flows = NFM_LOG_BATCH,
                            .fields_size = NFM_LOG_ENTRY_MAX};
    reader->batch = (nfm_batch){.mem = &reader->mem, .desc = reader->desc, .handler = UINT32_MAX};
    begin(reader, from_now);
    return NFM_OK;
}

void nfm__log_reader_fini(nfm_log_reader *reader) {
    free(reader->records);
    free(reader->flows);
    free(reader->desc);
    free(reader->fields);
}

nfm_log_reader *nfm_log_attach(int log_fd, int cursor_fd, int from_now, nfm_error *err) {
    nfm_region log, cursor;
    if (nfm_region_adopt(&log, log_fd, 0, false, err) != NFM_OK)
        return NULL;
    if (nfm_region_adopt(&cursor, cursor_fd, sizeof(nfm__log_cursor), true, err) != NFM_OK) {
        nfm_region_fini(&log);
        return NULL;
    }
    nfm_log_reader *reader = malloc(sizeof(*reader));
    nfm__log_cursor *own = (nfm__log_cursor *)(void *)cursor.base;
    int rc = reader == NULL
                 ? refuse(err, NFM_E_NOMEM, nfm_strerror(NFM_E_NOMEM))
                 : nfm__log_reader_init(reader, log.base, log.size, own, from_now != 0, err);
    if (rc != NFM_OK) {
        nfm_region_fini(&log);
        nfm_region_fini(&cursor);
        free(reader);
        return NULL;
    }
    reader->log_region = log;
    reader->cursor_region = cursor;
    return reader;
}

void nfm_log_detach(nfm_log_reader *reader) {
    if (reader == NULL)
        return;
    nfm__log_reader_fini(reader);
    nfm_region_fini(&reader->log_region);
    nfm_region_fini(&reader->cursor_region);
    free(reader);
}

/* ---- reading -------------------------------------------------------------------------------- */

/* Copies |len| bytes (rounded up to 8) from |position| on. */
static void load(const nfm_log_reader *reader, uint64_t position, void *bytes, uint64_t len) {
    uint8_t *to = bytes;
    for (uint64_t i = 0; i < len; i += 8) {
        uint64_t word = nfm__log_word(reader->shared, reader->mask, position + i);
        memcpy(to + i, &word, 8);
    }
}

/* Whether what was loaded from the reader's position may have been overwritten meanwhile. */
static bool is_overrun(const nfm_log_reader *reader) {
    return atomic_load_explicit(&reader->shared->tail, memory_order_acquire) > reader->position;
}

static bool is_sane(const nfm_log_reader *reader, const nfm__log_entry *entry, uint64_t head) {
    bool has_flow = entry->flags == NFM_LOG_HAS_FLOW;
    return entry->flags <= NFM_LOG_HAS_FLOW && entry->len <= reader->max_entry &&
           entry->len <= head - reader->position &&
           entry->len == nfm__log_entry_len(has_flow, entry->fields_len);
}

/* Makes the copied record one of this reader's: what it refers to lies in the reader's arrays. */
static void enter(nfm_log_reader *reader, const nfm__log_entry *entry) {
    uint32_t i = reader->batch.n++;
    nfm_record *record = &reader->records[i];
    record->kind = NFM_REC_APP;
    record->slot = NFM_NO_SLOT;
    record->events = 0;
    record->app = (nfm_app_view){.type = entry->type,
                                 .fields_len = entry->fields_len,
                                 .fields = reader->fields_used,
                                 .ordinal = entry->ordinal};
    reader->desc[i] = (nfm_desc){
        .record = i,
        .flow = entry->flags == NFM_LOG_HAS_FLOW ? i : NFM_NO_FLOW,
        .what = NFM_DESC_APP | entry->type,
    };
    reader->fields_used += (entry->fields_len + 7) & ~7u;
    if (reader->number != NFM_LOG_NO_NUMBER && entry->number > reader->number) {
        reader->lost += entry->number - reader->number;
        reader->gaps++;
    }
    reader->number = entry->number + 1;
    reader->position += entry->len;
    reader->read++;
}

/* Copies the next entry out; |head| is not this reader's position. */
static taking take(nfm_log_reader *reader, uint64_t head) {
    nfm__log_entry entry;
    uint64_t at = reader->position;
    if (head < at || head % 8 != 0)
        return BAD;
    load(reader, at, &entry, sizeof(entry));
    if (is_overrun(reader))
        return OVERRUN;
    if (!is_sane(reader, &entry, head))
        return BAD;
    if (entry.fields_len > NFM_LOG_ENTRY_MAX - reader->fields_used)
        return FULL;
    at += sizeof(entry);
    load(reader, at, &reader->records[reader->batch.n], sizeof(nfm_record));
    at += sizeof(nfm_record);
    if (entry.flags == NFM_LOG_HAS_FLOW) {
        load(reader, at, &reader->flows[reader->batch.n], sizeof(nfm_flow_info));
        at += sizeof(nfm_flow_info);
    }
    load(reader, at, reader->fields + reader->fields_used, entry.fields_len);
    if (is_overrun(reader))
        return OVERRUN;
    enter(reader, &entry);
    return TAKEN;
}

/* Goes on behind what was overwritten; at the head when the log makes no sense. */
static void catch_up(nfm_log_reader *reader, taking why, bool again) {
    uint64_t tail = atomic_load_explicit(&reader->shared->tail, memory_order_acquire);
    uint64_t head = head_of(reader);
    bool bad = why == BAD || tail > head || (tail | head) % 8 != 0;
    reader->bad += bad;
    reader->position = bad || !again ? head & ~UINT64_C(7) : tail;
}

static bool is_checked(nfm_log_reader *reader) {
    int code;
    if (!reader->checked && head_of(reader) != 0)
        reader->checked = wrong_with(reader->shared, reader->capacity, &code) == NULL;
    return reader->checked;
}

const nfm_batch *nfm_log_read(nfm_log_reader *reader, uint32_t max) {
    reader->batch.n = reader->fields_used = 0;
    max = max < NFM_LOG_BATCH ? max : NFM_LOG_BATCH;
    if (!is_checked(reader))
        return &reader->batch;
    uint64_t head = head_of(reader);
    for (int left = CATCH_UPS; reader->batch.n < max && left >= 0 && head != reader->position;) {
        taking got = take(reader, head);
        if (got == TAKEN)
            continue;
        if (got == FULL || reader->batch.n > 0)
            break;
        catch_up(reader, got, left-- > 0);
        head = head_of(reader);
    }
    return &reader->batch;
}

void nfm_log_advance(nfm_log_reader *reader) {
    atomic_store_explicit(&reader->cursor->number, reader->number, memory_order_release);
    atomic_store_explicit(&reader->cursor->position, reader->position, memory_order_release);
}

uint64_t nfm_log_position(const nfm_log_reader *reader) {
    return atomic_load_explicit(&reader->cursor->position, memory_order_relaxed);
}

void nfm_log_reader_stats_get(const nfm_log_reader *reader, nfm_log_reader_stats *out) {
    uint64_t head = head_of(reader);
    *out = (nfm_log_reader_stats){
        .position = nfm_log_position(reader),
        .behind = head > reader->position ? head - reader->position : 0,
        .read = reader->read,
        .lost = reader->lost,
        .gaps = reader->gaps,
        .bad = reader->bad,
    };
}

/* ---- waiting -------------------------------------------------------------------------------- */

int nfm_log_wait(nfm_log_reader *reader, int64_t spin_ns, int64_t timeout_ns) {
    nfm__place place = nfm__log_place(reader);
    return nfm__wait(&place, 1, spin_ns, timeout_ns);
}
