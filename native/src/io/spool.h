/* SPDX-License-Identifier: Apache-2.0 */
/* A pcapng file written by a thread of its own: who hands frames over never waits for the disk. */
#ifndef NFM_IO_SPOOL_H
#define NFM_IO_SPOOL_H

#include "nfm/nfm.h"

typedef struct nfm_spool nfm_spool;

typedef struct nfm_spool_config {
    const char *path;
    uint32_t link_type;
    uint32_t bytes;     /* a power of two, between who hands over and the file */
    uint64_t max_file;  /* bytes, about: then another file is begun; 0: one file */
    uint32_t max_files; /* that are kept: see rotate.h */
} nfm_spool_config;

typedef struct nfm_spool_frame {
    nfm_captured_frame captured;
    uint32_t keep; /* bytes of it to keep: 0..len */
} nfm_spool_frame;

/*
 * nfm_spool_open creates or empties the file, or puts the one that is there aside, and starts the
 * thread. Returns NULL with the reason in |err|. nfm_spool_close ends it.
 */
nfm_spool *nfm_spool_open(const nfm_spool_config *config, nfm_error *err);
/* Hands a frame over, copied. False: there is no room, it is lost. */
bool nfm_spool_put(nfm_spool *spool, const nfm_spool_frame *frame);
/* Nothing follows: the thread writes what it has, and last how many frames were |received| and how
 * many of these |lost|, and closes the file. Does not wait. */
void nfm_spool_end(nfm_spool *spool, uint64_t received, uint64_t lost);
/* Whether the thread has closed the file: nfm_spool_close does not wait. */
bool nfm_spool_has_ended(const nfm_spool *spool);
/* Whether a write has failed: nothing is kept any more. */
bool nfm_spool_failed(const nfm_spool *spool);
/* Frames that the thread has written, and files that it has begun. */
uint64_t nfm_spool_written(const nfm_spool *spool);
uint32_t nfm_spool_files(const nfm_spool *spool);
/* Waits until the thread has ended, after nfm_spool_end: its numbers are the last ones. */
void nfm_spool_wait(nfm_spool *spool);
/* Waits for the thread and frees. NFM_OK, or NFM_E_IO with the reason in |err|: frames that were
 * handed over are not in the file. */
int nfm_spool_close(nfm_spool *spool, nfm_error *err);

#endif
