/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes of a capture in order: a mapped file, a gzip stream behind a bounded window, or borrowed
 * memory. Readers ask for n contiguous bytes and move on; they never see where the bytes are from.
 */
#ifndef NFM_IO_INPUT_H
#define NFM_IO_INPUT_H

#include "nfm/nfm.h"

/* The most that nfm_input_need can deliver contiguously on every kind of input. */
#define NFM_INPUT_WINDOW (256u * 1024u)

typedef struct nfm_input {
    const uint8_t *at;   /* the next byte */
    size_t avail;        /* bytes that are there at |at|; more may come */
    uint64_t offset;     /* of |at| in the (inflated) capture */
    const char *problem; /* NULL, or why the bytes ended early */
    const uint8_t *map;  /* the file, or the borrowed memory */
    size_t map_len;
    size_t trusted;  /* bytes of the map that the file was last seen to have */
    int fd;          /* -1: borrowed memory */
    uint8_t *window; /* inflated bytes, NULL: not gzip */
    void *inflater;  /* z_stream */
    bool inflated;   /* the gzip stream ended */
} nfm_input;

/*
 * nfm_input_open maps |path| and recognises gzip by its first bytes. The descriptor stays open
 * until nfm_input_close. Returns NFM_OK, or a negative status with a line in |err| that names
 * the file, what is wrong and what to do.
 */
int nfm_input_open(nfm_input *input, const char *path, nfm_error *err);
/*
 * nfm_input_borrow reads from |len| bytes of the caller, which must outlive the input; gzip is
 * recognised as in a file. Returns NFM_OK or NFM_E_NOMEM.
 */
int nfm_input_borrow(nfm_input *input, const uint8_t *data, size_t len);
/* Unmaps, closes, frees. Allowed on a input whose open failed. */
void nfm_input_close(nfm_input *input);

/* Slow path of nfm_input_need: makes more bytes available. Returns input->avail >= n. */
bool nfm_input_fill(nfm_input *input, size_t n);
/* Moves on by n bytes, which need not fit the window. Returns false when the input ended first. */
bool nfm_input_skip(nfm_input *input, uint64_t n);
/* Bytes of the file consumed: compressed bytes for gzip. */
uint64_t nfm_input_consumed(const nfm_input *input);

/* n <= NFM_INPUT_WINDOW contiguous bytes at input->at? They stay valid until the next call. */
static inline bool nfm_input_need(nfm_input *input, size_t n) {
    return input->avail >= n || nfm_input_fill(input, n);
}

/* Moves on by n <= input->avail bytes. */
static inline void nfm_input_take(nfm_input *input, size_t n) {
    input->at += n;
    input->avail -= n;
    input->offset += n;
}

#endif
