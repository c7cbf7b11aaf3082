/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: whatever the words of a log and of cursors are, and however they change between two
 * reads, reader and writer stay inside the log, every call ends, and what a batch refers to lies in
 * the reader's own arrays. */
#include <stdlib.h>

#include "log_rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { EVENTS = 24, PIECE = 11 };

static void require(int ok) {
    if (!ok)
        abort();
}

/* A piece says where, which operation and its argument: a log is spoilt here and there. */
static void spoil(uint8_t *memory, uint64_t size, nfm__log_cursor *cursor, const uint8_t *piece) {
    nfm__log_shared *shared = (nfm__log_shared *)(void *)memory;
    uint64_t value;
    uint32_t where;
    memcpy(&where, piece, 2);
    where &= 0xffff;
    memcpy(&value, piece + 3, 8);
    switch (piece[2] % 8) {
    case 0:
        shared->head = value % 3 == 0 ? value : value % (2 * NFM_LOG_MIN);
        break;
    case 1:
        shared->tail = value % 3 == 0 ? value : value % (2 * NFM_LOG_MIN);
        break;
    case 2:
        cursor->position = value;
        break;
    case 3: /* the length of the first entry, nearly right */
        shared->words[0] = (shared->words[0] & ~UINT64_C(0xffff)) | (value & 0xffff);
        break;
    case 4: /* its fields_len and flags */
        shared->words[4] = value & UINT64_C(0x3ffffffff);
        break;
    default:
        memcpy(memory + where % (size - 8), &value, 8);
    }
}

static void check(const nfm_log_reader *reader, const nfm_batch *batch, uint32_t max) {
    require(batch->n <= max && batch->mem == &reader->mem && batch->desc == reader->desc);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < batch->n; i++) {
        const nfm_desc *desc = &batch->desc[i];
        const nfm_record *record = &reader->records[desc->record];
        require(desc->record == i && (desc->flow == i || desc->flow == NFM_NO_FLOW));
        require(record->slot == NFM_NO_SLOT && record->kind == NFM_REC_APP);
        require(record->app.fields + record->app.fields_len <= NFM_LOG_ENTRY_MAX);
        for (uint32_t k = 0; k < record->app.fields_len; k++)
            sum += reader->fields[record->app.fields + k];
    }
    require(sum < UINT64_MAX);
}

static void read_spoilt(uint8_t *memory, uint64_t size, nfm__log_cursor *cursor, const uint8_t **at,
                        const uint8_t *end) {
    nfm_log_reader reader;
    nfm_error err;
    if (nfm__log_reader_init(&reader, memory, size, cursor, **at & 1, &err) != NFM_OK)
        return;
    for (int turn = 0; turn < 12; turn++) {
        uint32_t max = turn % 3 == 0 ? UINT32_MAX : 3;
        check(&reader, nfm_log_read(&reader, max), max < NFM_LOG_BATCH ? max : NFM_LOG_BATCH);
        if (turn % 2 == 0)
            nfm_log_advance(&reader);
        if (end - *at >= PIECE) {
            spoil(memory, size, cursor, *at);
            *at += PIECE;
        }
        require(nfm_log_wait(&reader, 0, 0) >= NFM_RING_READY);
    }
    nfm__log_reader_fini(&reader);
}

static void write_on(uint8_t *memory, uint64_t size, nfm__log_cursor *cursor, log_rig *rig) {
    static const uint32_t runs = 3;
    nfm_log *log = malloc(sizeof(*log));
    nfm_error err;
    require(log != NULL);
    if (nfm__log_init(log, memory, size, 0, &err) == NFM_OK) {
        nfm__log_follow(log, cursor, true);
        for (uint32_t i = 0; i < runs; i++) {
            nfm_log_begin(log, i, i, 1);
            require(nfm_log_write(log, rig_batch(rig, i, RIG_BATCH)) == RIG_BATCH);
        }
    }
    free(log);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t log_size;
    uint8_t *memory = rig_memory(NFM_LOG_MIN, &log_size);
    log_rig *rig = malloc(sizeof(*rig));
    nfm_log *log = malloc(sizeof(*log));
    nfm__log_cursor cursor = {0};
    const uint8_t *at = data, *end = data + size;
    require(memory != NULL && rig != NULL && log != NULL);
    require(nfm__log_init(log, memory, log_size, 0, NULL) == NFM_OK);
    for (uint32_t n = 0; n < EVENTS; n += RIG_BATCH) {
        nfm_log_begin(log, 0, n, 1);
        require(nfm_log_write(log, rig_batch(rig, n, RIG_BATCH)) == RIG_BATCH);
    }
    for (int i = 0; i < 4 && end - at >= PIECE; i++, at += PIECE)
        spoil(memory, log_size, &cursor, at);
    if (at < end)
        read_spoilt(memory, log_size, &cursor, &at, end);
    write_on(memory, log_size, &cursor, rig);
    free(log);
    free(rig);
    free(memory);
    return 0;
}
