/* SPDX-License-Identifier: Apache-2.0 */
#include "base/answers.h"

#include <stdio.h>
#include <string.h>

static uint64_t padded(uint64_t len) {
    return (len + 7) & ~UINT64_C(7);
}

uint64_t nfm_answers_object_size(uint64_t capacity) {
    if (capacity < NFM_ANSWERS_MIN || capacity > UINT64_C(1) << 32 ||
        (capacity & (capacity - 1)) != 0)
        return 0;
    return sizeof(nfm_answers_shared) + capacity;
}

/* The largest power of two of data that an object of |size| bytes has room for. */
static uint64_t capacity_of(size_t size) {
    uint64_t capacity = NFM_ANSWERS_MIN;
    while (capacity < UINT64_C(1) << 32 && nfm_answers_object_size(capacity * 2) <= size)
        capacity *= 2;
    return capacity;
}

int nfm_answers_open(nfm_answers *answers, int fd, bool is_host, nfm_error *err) {
    memset(answers, 0, sizeof(*answers));
    size_t least = nfm_answers_object_size(NFM_ANSWERS_MIN);
    int rc = nfm_region_adopt(&answers->region, fd, least, true, err);
    if (rc != NFM_OK)
        return rc;
    nfm_answers_shared *shared = (nfm_answers_shared *)(void *)answers->region.base;
    if (shared->magic == NFM_ANSWERS_MAGIC && shared->abi != NFM_ABI_VERSION) {
        snprintf(err->text, sizeof(err->text),
                 "answer ring: made for ABI %u, this library has ABI %u: run one version of nfmesh",
                 shared->abi, NFM_ABI_VERSION);
        nfm_answers_close(answers);
        return err->code = NFM_E_ABI;
    }
    shared->abi = NFM_ABI_VERSION;
    shared->magic = NFM_ANSWERS_MAGIC;
    answers->shared = shared;
    answers->capacity = capacity_of(answers->region.size);
    answers->at = atomic_load(is_host ? &shared->head : &shared->tail);
    return NFM_OK;
}

void nfm_answers_close(nfm_answers *answers) {
    nfm_region_fini(&answers->region);
    memset(answers, 0, sizeof(*answers));
}

static nfm_answer *place(const nfm_answers *answers, uint64_t at) {
    return (nfm_answer *)(void *)(answers->shared->data + (at & (answers->capacity - 1)));
}

/* Bytes from |at| to the end of the ring. */
static uint64_t to_end(const nfm_answers *answers, uint64_t at) {
    return answers->capacity - (at & (answers->capacity - 1));
}

uint8_t *nfm_answers_write(nfm_answers *answers, const nfm_answer *answer) {
    uint64_t size = sizeof(*answer) + padded(answer->fields_len), at = answers->at;
    uint64_t end = to_end(answers, at), skipped = end < size ? end : 0;
    uint64_t tail = atomic_load_explicit(&answers->shared->tail, memory_order_acquire);
    if (at + skipped + size - tail > answers->capacity)
        return NULL;
    if (skipped >= sizeof(*answer))
        *place(answers, at) = (nfm_answer){.size = (uint32_t)skipped, .kind = NFM_ANSWER_PAD};
    nfm_answer *entry = place(answers, at + skipped);
    *entry = *answer;
    entry->size = (uint32_t)size;
    answers->at = at + skipped + size;
    return (uint8_t *)(entry + 1);
}

void nfm_answers_publish(nfm_answers *answers) {
    atomic_store_explicit(&answers->shared->head, answers->at, memory_order_release);
}

void nfm_answers_done(nfm_answers *answers, uint64_t position) {
    nfm_answers_publish(answers);
    atomic_store_explicit(&answers->shared->done, position, memory_order_release);
}

/* Whether an entry of which |room| bytes are published can be one. */
static bool makes_sense(const nfm_answer *a, uint64_t room) {
    if (a->size < sizeof(*a) || a->size % 8 != 0 || a->size > room)
        return false;
    return a->kind == NFM_ANSWER_PAD ||
           (a->fields_len <= NFM_ANSWER_FIELDS && a->size == sizeof(*a) + padded(a->fields_len) &&
            a->kind <= NFM_ANSWER_DETACH);
}

int nfm_answers_peek(nfm_answers *answers, nfm_answer *out, const uint8_t **fields) {
    uint64_t head = atomic_load_explicit(&answers->shared->head, memory_order_acquire);
    for (;;) {
        uint64_t left = head - answers->at, end = to_end(answers, answers->at);
        if (left == 0)
            return 0;
        if (left > answers->capacity || left % 8 != 0)
            return NFM_E_FORMAT;
        if (end < sizeof(*out)) { /* no room for a head: nothing was written there */
            if (left < end)
                return NFM_E_FORMAT;
            answers->at += end;
            continue;
        }
        nfm_answer *entry = place(answers, answers->at);
        *out = *(volatile nfm_answer *)entry; /* once: its writer could change it meanwhile */
        if (!makes_sense(out, left < end ? left : end))
            return NFM_E_FORMAT;
        if (out->kind != NFM_ANSWER_PAD) {
            *fields = (const uint8_t *)(entry + 1);
            return 1;
        }
        answers->at += out->size;
    }
}

void nfm_answers_take(nfm_answers *answers, const nfm_answer *answer) {
    answers->at += answer->size;
    atomic_store_explicit(&answers->shared->tail, answers->at, memory_order_release);
}

void nfm_answers_skip(nfm_answers *answers) {
    answers->at = atomic_load_explicit(&answers->shared->head, memory_order_acquire);
    atomic_store_explicit(&answers->shared->tail, answers->at, memory_order_release);
}
