/* SPDX-License-Identifier: Apache-2.0 */
/* The writer's side of a log: laying out, recovery, runs, appending. See log.h. */
#include "event/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "event/field.h"

#define CAPACITY_MAX (UINT64_C(1) << 40)

uint64_t nfm_log_object_size(uint64_t capacity) {
    bool ok = capacity >= NFM_LOG_MIN && capacity <= CAPACITY_MAX;
    return ok && (capacity & (capacity - 1)) == 0 ? sizeof(nfm__log_shared) + capacity : 0;
}

uint64_t nfm_log_cursor_size(void) {
    return sizeof(nfm__log_cursor);
}

uint64_t nfm__log_capacity(uint64_t size) {
    if (size < sizeof(nfm__log_shared) + NFM_LOG_MIN)
        return 0;
    uint64_t capacity = NFM_LOG_MIN;
    while (capacity < CAPACITY_MAX && sizeof(nfm__log_shared) + capacity * 2 <= size)
        capacity *= 2;
    return capacity;
}

/* ---- laying out and recovery ---------------------------------------------------------------- */

static void lay_out(nfm__log_shared *shared, uint64_t capacity) {
    shared->abi = NFM_ABI_VERSION;
    shared->entry_min = NFM_LOG_ENTRY_MIN;
    shared->capacity = capacity;
    atomic_store_explicit(&shared->intent.head, NFM_LOG_NO_HEAD, memory_order_relaxed);
    atomic_store_explicit(&shared->magic, NFM_LOG_MAGIC, memory_order_release);
}

/* The last step after head: how many entries there are, and the last event of the source. */
static void settle(nfm__log_shared *shared, uint32_t source, uint64_t sequence, uint32_t ordinal,
                   uint64_t number) {
    nfm__log_source *s = &shared->sources[source];
    atomic_store_explicit(&s->sequence, sequence, memory_order_release);
    atomic_store_explicit(&s->ordinals, ordinal + 1, memory_order_release);
    atomic_store_explicit(&shared->written, number + 1, memory_order_release);
}

uint32_t nfm__log_entry_len_at(const nfm_log *log, uint64_t position) {
    uint64_t word = nfm__log_word(log->shared, log->mask, position);
    uint32_t len;
    memcpy(&len, &word, sizeof(len));
    return len;
}

/* True when the entries from tail on end exactly at head. */
static bool is_whole(const nfm_log *log) {
    uint64_t at = log->tail;
    if (at > log->head || log->head - at > log->capacity || (at | log->head) % 8 != 0)
        return false;
    while (at < log->head) {
        uint32_t len = nfm__log_entry_len_at(log, at);
        if (len < NFM_LOG_ENTRY_MIN || len % 8 != 0 || len > log->head - at)
            return false;
        at += len;
    }
    return true;
}

/* Goes on with what a dead writer left. */
static void recover(nfm_log *log) {
    nfm__log_shared *shared = log->shared;
    nfm__log_intent *intent = &shared->intent;
    log->head = atomic_load(&shared->head);
    log->tail = atomic_load(&shared->tail);
    uint32_t source = atomic_load(&intent->source);
    if (atomic_load(&intent->head) == log->head && source < NFM_LOG_SOURCES)
        settle(shared, source, atomic_load(&intent->sequence), atomic_load(&intent->ordinal),
               atomic_load(&intent->number));
    log->written = atomic_load(&shared->written);
    if (!is_whole(log)) { /* its own process wrote over it: readers see a gap */
        log->head = (log->head + 7) & ~UINT64_C(7);
        log->tail = log->head;
        atomic_store(&shared->tail, log->tail);
        atomic_store(&shared->head, log->head);
    }
    atomic_store(&shared->ended, 0);
}

static int refuse(nfm_error *err, int code, const char *text) {
    if (err != NULL) {
        err->code = code;
        snprintf(err->text, sizeof(err->text), "event log: %s", text);
    }
    return code;
}

int nfm__log_init(nfm_log *log, void *memory, uint64_t size, int64_t deadline_ns, nfm_error *err) {
    nfm__log_shared *shared = memory;
    memset(log, 0, sizeof(*log));
    if (deadline_ns < 0)
        return refuse(err, NFM_E_INVAL, "the deadline lies in the past");
    log->shared = shared;
    log->safe = UINT64_MAX;
    log->deadline_ns = deadline_ns;
    log->capacity = nfm__log_capacity(size);
    if (log->capacity == 0)
        return refuse(err, NFM_E_INVAL, "the object is too small for a log");
    log->mask = log->capacity / 8 - 1;
    log->max_entry = nfm__log_max_entry(log->capacity);
    if (atomic_load(&shared->magic) != NFM_LOG_MAGIC)
        lay_out(shared, log->capacity);
    else if (shared->abi != NFM_ABI_VERSION || shared->entry_min != NFM_LOG_ENTRY_MIN)
        return refuse(err, NFM_E_ABI, "its last writer had another version of nfmesh");
    else if (shared->capacity != log->capacity)
        return refuse(err, NFM_E_FORMAT, "its size is damaged");
    recover(log);
    return NFM_OK;
}

nfm_log *nfm_log_open(int fd, int64_t deadline_ns, nfm_error *err) {
    nfm_region region;
    if (nfm_region_adopt(&region, fd, 0, true, err) != NFM_OK)
        return NULL;
    nfm_log *log = malloc(sizeof(*log));
    int rc = log == NULL ? refuse(err, NFM_E_NOMEM, nfm_strerror(NFM_E_NOMEM))
                         : nfm__log_init(log, region.base, region.size, deadline_ns, err);
    if (rc != NFM_OK) {
        nfm_region_fini(&region);
        free(log);
        return NULL;
    }
    log->region = region;
    return log;
}

void nfm_log_close(nfm_log *log) {
    if (log == NULL)
        return;
    for (uint32_t i = 0; i < NFM_LOG_READERS; i++)
        nfm_region_fini(&log->followers[i].region);
    nfm_region_fini(&log->region);
    free(log);
}

/* ---- runs ----------------------------------------------------------------------------------- */

int nfm_log_begin(nfm_log *log, uint32_t source, uint64_t first, uint32_t n) {
    if (source >= NFM_LOG_SOURCES || n == 0)
        return NFM_E_INVAL;
    nfm__log_source *s = &log->shared->sources[source];
    atomic_store_explicit(&s->run_n, 0, memory_order_release);
    atomic_store_explicit(&s->run_first, first, memory_order_release);
    atomic_store_explicit(&s->run_n, n, memory_order_release);
    log->in_run = true;
    log->source = source;
    log->first = first;
    log->ordinal = 0;
    return NFM_OK;
}

int nfm_log_pending(const nfm_log *log, uint32_t source, uint64_t *first, uint32_t *n) {
    if (source >= NFM_LOG_SOURCES)
        return NFM_E_INVAL;
    const nfm__log_source *s = &log->shared->sources[source];
    *n = atomic_load(&s->run_n);
    *first = atomic_load(&s->run_first);
    return *n != 0;
}

static bool is_in_log(const nfm_log *log) {
    const nfm__log_source *s = &log->shared->sources[log->source];
    uint64_t sequence = atomic_load_explicit(&s->sequence, memory_order_relaxed);
    uint32_t ordinals = atomic_load_explicit(&s->ordinals, memory_order_relaxed);
    return log->first < sequence || (log->first == sequence && log->ordinal < ordinals);
}

/* ---- appending ------------------------------------------------------------------------------ */

/* Stores |len| bytes from |position| on; the last word is filled up with zeros. */
static void store(nfm_log *log, uint64_t position, const void *bytes, uint64_t len) {
    const uint8_t *from = bytes;
    for (; len >= 8; len -= 8, from += 8, position += 8) {
        uint64_t word;
        memcpy(&word, from, 8);
        atomic_store_explicit(&log->shared->words[position / 8 & log->mask], word,
                              memory_order_release);
    }
    if (len > 0) {
        uint64_t word = 0;
        memcpy(&word, from, len);
        atomic_store_explicit(&log->shared->words[position / 8 & log->mask], word,
                              memory_order_release);
    }
}

/* Makes the entry of |len| bytes that was stored visible. */
static void publish(nfm_log *log, uint64_t len) {
    nfm__log_intent *intent = &log->shared->intent;
    uint64_t head = log->head + len;
    atomic_store_explicit(&intent->head, NFM_LOG_NO_HEAD, memory_order_release);
    atomic_store_explicit(&intent->sequence, log->first, memory_order_release);
    atomic_store_explicit(&intent->number, log->written, memory_order_release);
    atomic_store_explicit(&intent->source, log->source, memory_order_release);
    atomic_store_explicit(&intent->ordinal, log->ordinal, memory_order_release);
    atomic_store_explicit(&intent->head, head, memory_order_release);
    atomic_store_explicit(&log->shared->head, head, memory_order_release);
    settle(log->shared, log->source, log->first, log->ordinal, log->written);
    log->head = head;
    log->written++;
}

/* Appends the event of one descriptor. False when it is larger than an entry may be. */
static bool append(nfm_log *log, const nfm_mem *mem, const nfm_desc *desc) {
    const nfm_record *record = &mem->records[desc->record];
    bool has_flow = desc->flow < mem->n_flows;
    uint32_t fields_len = 0;
    const uint8_t *fields = nfm__field_record(mem, record, &fields_len);
    if (fields == NULL)
        fields_len = 0;
    uint64_t len = nfm__log_entry_len(has_flow, fields_len);
    if (len > log->max_entry)
        return false;
    nfm__log_entry entry = {
        .len = (uint32_t)len,
        .type = (uint32_t)desc->what,
        .number = log->written,
        .sequence = log->first,
        .ordinal = log->ordinal,
        .source = log->source,
        .fields_len = fields_len,
        .flags = has_flow ? NFM_LOG_HAS_FLOW : 0,
    };
    nfm__log_make_room(log, len);
    uint64_t at = log->head;
    store(log, at, &entry, sizeof(entry));
    store(log, at += sizeof(entry), record, sizeof(*record));
    at += sizeof(*record);
    if (has_flow) {
        store(log, at, &mem->flows[desc->flow], sizeof(nfm_flow_info));
        at += sizeof(nfm_flow_info);
    }
    store(log, at, fields, fields_len);
    publish(log, len);
    return true;
}

int nfm_log_write(nfm_log *log, const nfm_batch *batch) {
    uint64_t too_large = 0;
    if (!log->in_run)
        return NFM_E_STATE;
    for (uint32_t i = 0; i < batch->n; i++) {
        const nfm_desc *desc = &batch->desc[i];
        if ((desc->what & NFM_DESC_APP) == 0 || desc->record >= batch->mem->n_records)
            return NFM_E_INVAL;
        if (is_in_log(log))
            log->repeated++;
        else if (!append(log, batch->mem, desc))
            too_large++;
        log->ordinal++;
    }
    log->too_large += too_large;
    nfm__log_wake(log);
    return (int)(batch->n - too_large);
}

void nfm_log_end(nfm_log *log) {
    atomic_store_explicit(&log->shared->ended, 1, memory_order_release);
    nfm__log_wake(log);
}

void nfm_log_stats_get(const nfm_log *log, nfm_log_stats *out) {
    uint32_t readers = 0;
    for (uint32_t i = 0; i < log->n_followers; i++)
        readers += log->followers[i].cursor != NULL;
    *out = (nfm_log_stats){
        .head = log->head,
        .written = log->written,
        .repeated = log->repeated,
        .too_large = log->too_large,
        .waits = log->waits,
        .missed_deadlines = log->missed_deadlines,
        .bad_cursors = log->bad_cursors,
        .wakeups = log->wakeups,
        .capacity = log->capacity,
        .max_entry = log->max_entry,
        .readers = readers,
    };
}
