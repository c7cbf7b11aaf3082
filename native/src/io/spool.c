/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A ring of bytes with one writer, the worker, and one reader, the thread. Entries are a head and
 * the frame's bytes, a multiple of 32 bytes, never split: an entry that does not fit before the
 * end of the ring leaves a filler there. The worker publishes by storing head, the thread frees by
 * storing tail. The thread looks every millisecond, so nobody makes a system call to wake it; when
 * it finds nothing it flushes, and the file can be followed while it grows. After a failed write it
 * goes on emptying the ring, and what it throws away is not counted as written. A file that has
 * grown to its limit is closed, those before it get other names, and the thread begins another.
 */
#include "io/spool.h"

#include "io/fail.h"
#include "io/rotate.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ALIGN = 32, NAP_NS = 1000000 };
enum { BLOCK = 44 }; /* what a frame takes beside its bytes, padding apart */

typedef struct entry {
    uint32_t size; /* of the whole entry */
    uint32_t keep; /* bytes that follow */
    uint32_t len, wire_len;
    int64_t ts_ns;
    uint32_t way;
    uint32_t filler; /* 1: nothing here, the ring begins again */
} entry;
static_assert(sizeof(entry) <= ALIGN, "a filler fits wherever the ring's end is near");

struct nfm_spool {
    _Alignas(64) _Atomic uint64_t head; /* written by the worker */
    uint64_t seen_tail;
    _Alignas(64) _Atomic uint64_t tail; /* written by the thread */
    _Atomic uint64_t written;
    _Atomic uint32_t files;
    _Atomic bool failed;
    _Atomic bool has_ended;
    _Alignas(64) _Atomic bool end;
    uint64_t received, lost; /* of the worker, valid with |end| */
    uint8_t *ring;
    uint64_t size;
    nfm_pcap_writer *writer;
    nfm_spool_config config; /* |path| is the spool's */
    uint64_t file_bytes;
    nfm_error error; /* the thread's, to be read when it has ended */
    int rc;
    pthread_t thread;
    bool is_over; /* the thread was waited for */
};

static void fail(nfm_spool *self) {
    self->rc = nfm_pcap_writer_close(self->writer, &self->error);
    self->writer = NULL;
    atomic_store_explicit(&self->failed, true, memory_order_relaxed);
}

/* Opens the file: one that may be there is put aside where several are kept. */
static bool begin_file(nfm_spool *self, nfm_error *err) {
    const nfm_spool_config *c = &self->config;
    if (c->max_file > 0 && nfm_rotate(c->path, c->max_files, err) != NFM_OK)
        return false;
    self->writer = nfm_pcap_writer_open(c->path, 2, c->link_type, 0, err);
    self->file_bytes = 0;
    atomic_fetch_add_explicit(&self->files, 1, memory_order_relaxed);
    return self->writer != NULL;
}

/* The file is as long as it may be: another one. */
static void begin_next(nfm_spool *self) {
    self->rc = nfm_pcap_writer_close(self->writer, &self->error);
    self->writer = NULL;
    if (self->rc == NFM_OK && !begin_file(self, &self->error))
        self->rc = NFM_E_IO;
    if (self->rc != NFM_OK)
        atomic_store_explicit(&self->failed, true, memory_order_relaxed);
}

static void write_entry(nfm_spool *self, const entry *e) {
    const nfm_captured_frame frame = {.data = (const uint8_t *)(e + 1),
                                      .len = e->keep,
                                      .wire_len = e->wire_len > e->len ? e->wire_len : e->len,
                                      .ts_ns = e->ts_ns,
                                      .way = e->way};
    if (self->writer == NULL)
        return;
    if (nfm_pcap_writer_write_way(self->writer, &frame) != NFM_OK) {
        fail(self);
        return;
    }
    atomic_fetch_add_explicit(&self->written, 1, memory_order_relaxed);
    self->file_bytes += BLOCK + e->keep;
    if (self->config.max_file > 0 && self->file_bytes >= self->config.max_file)
        begin_next(self);
}

/* Writes what is in the ring. False: there was nothing. */
static bool drain(nfm_spool *self) {
    uint64_t tail = atomic_load_explicit(&self->tail, memory_order_relaxed);
    uint64_t head = atomic_load_explicit(&self->head, memory_order_acquire);
    if (tail == head)
        return false;
    while (tail != head) {
        const entry *e = (const entry *)(const void *)(self->ring + (tail & (self->size - 1)));
        if (!e->filler)
            write_entry(self, e);
        tail += e->size;
        atomic_store_explicit(&self->tail, tail, memory_order_release);
    }
    return true;
}

static void *run(void *spool) {
    nfm_spool *self = spool;
    const struct timespec nap = {.tv_nsec = NAP_NS};
    bool flushed = true;
    for (;;) {
        bool end = atomic_load_explicit(&self->end, memory_order_acquire);
        if (drain(self)) {
            flushed = false;
            continue;
        }
        if (end)
            break;
        if (!flushed && self->writer != NULL && nfm_pcap_writer_flush(self->writer) != NFM_OK)
            fail(self);
        flushed = true;
        nanosleep(&nap, NULL);
    }
    if (self->writer != NULL) {
        (void)nfm_pcap_writer_write_totals(self->writer, self->received, self->lost);
        self->rc = nfm_pcap_writer_close(self->writer, &self->error);
        self->writer = NULL;
        if (self->rc != NFM_OK)
            atomic_store_explicit(&self->failed, true, memory_order_relaxed);
    }
    atomic_store_explicit(&self->has_ended, true, memory_order_release);
    return NULL;
}

/* Signals are for the threads that expect them. */
static int start(nfm_spool *self) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&self->thread, NULL, run, self);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

static void free_spool(nfm_spool *self) {
    if (self == NULL)
        return;
    free((char *)(uintptr_t)self->config.path);
    free(self->ring);
    free(self);
}

nfm_spool *nfm_spool_open(const nfm_spool_config *config, nfm_error *err) {
    nfm_spool *self = aligned_alloc(64, sizeof(*self));
    if (self != NULL) {
        memset(self, 0, sizeof(*self));
        self->config = *config;
        self->config.path = strdup(config->path);
        self->ring = aligned_alloc(64, config->bytes);
        self->size = config->bytes;
    }
    if (self == NULL || self->ring == NULL || self->config.path == NULL) {
        nfm_io_fail(err, NFM_E_NOMEM, "%.300s: no memory to record it; free some", config->path);
        free_spool(self);
        return NULL;
    }
    int rc = begin_file(self, err) ? start(self) : -1;
    if (rc == 0)
        return self;
    if (rc > 0)
        nfm_io_fail_errno(err, config->path, "start a thread to write", rc);
    if (self->writer != NULL)
        nfm_pcap_writer_close(self->writer, NULL);
    free_spool(self);
    return NULL;
}

/* Where an entry of |size| bytes begins, or UINT64_MAX: it does not fit now. */
static uint64_t find_room(nfm_spool *self, uint64_t head, uint64_t size) {
    uint64_t left = self->size - (head & (self->size - 1));
    uint64_t end = size <= left ? head + size : head + left + size;
    if (end - self->seen_tail > self->size)
        self->seen_tail = atomic_load_explicit(&self->tail, memory_order_acquire);
    if (end - self->seen_tail > self->size)
        return UINT64_MAX;
    if (size > left) {
        uint8_t *at = self->ring + (head & (self->size - 1));
        *(entry *)(void *)at = (entry){.size = (uint32_t)left, .filler = 1};
        head += left;
    }
    return head;
}

bool nfm_spool_put(nfm_spool *self, const nfm_spool_frame *frame) {
    uint64_t head = atomic_load_explicit(&self->head, memory_order_relaxed);
    uint64_t size = (sizeof(entry) + frame->keep + ALIGN - 1) / ALIGN * ALIGN;
    uint64_t at = find_room(self, head, size);
    if (at == UINT64_MAX)
        return false;
    entry *e = (entry *)(void *)(self->ring + (at & (self->size - 1)));
    *e = (entry){.size = (uint32_t)size,
                 .keep = frame->keep,
                 .len = frame->captured.len,
                 .wire_len = frame->captured.wire_len,
                 .ts_ns = frame->captured.ts_ns,
                 .way = frame->captured.way};
    memcpy(e + 1, frame->captured.data, frame->keep);
    atomic_store_explicit(&self->head, at + size, memory_order_release);
    return true;
}

void nfm_spool_end(nfm_spool *self, uint64_t received, uint64_t lost) {
    if (atomic_load_explicit(&self->end, memory_order_relaxed))
        return;
    self->received = received;
    self->lost = lost;
    atomic_store_explicit(&self->end, true, memory_order_release);
}

bool nfm_spool_has_ended(const nfm_spool *self) {
    return atomic_load_explicit(&self->has_ended, memory_order_acquire);
}

bool nfm_spool_failed(const nfm_spool *self) {
    return atomic_load_explicit(&self->failed, memory_order_relaxed);
}

uint64_t nfm_spool_written(const nfm_spool *self) {
    return atomic_load_explicit(&self->written, memory_order_relaxed);
}

uint32_t nfm_spool_files(const nfm_spool *self) {
    return atomic_load_explicit(&self->files, memory_order_relaxed);
}

void nfm_spool_wait(nfm_spool *self) {
    nfm_spool_end(self, 0, 0);
    if (!self->is_over)
        pthread_join(self->thread, NULL);
    self->is_over = true;
}

int nfm_spool_close(nfm_spool *self, nfm_error *err) {
    if (self == NULL)
        return NFM_OK;
    nfm_spool_wait(self);
    int rc = self->rc;
    if (rc != NFM_OK && err != NULL)
        *err = self->error;
    free_spool(self);
    return rc;
}
