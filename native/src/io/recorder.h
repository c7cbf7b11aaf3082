/* SPDX-License-Identifier: Apache-2.0 */
/* Records frames that pass a port, or that an NF is handed, into a pcapng file. */
#ifndef NFM_IO_RECORDER_H
#define NFM_IO_RECORDER_H

#include "io/spool.h"

struct nfm_recorder {
    nfm_tee_config config;
    nfm_spool *spool; /* NULL: nothing is, or was, recorded */
    nfm_tee_stats stats;
};

/* Begins a recording; |self| has none, see nfm_port_tee_start. */
int nfm_recorder_begin(nfm_recorder *self, const nfm_tee_config *config, nfm_error *err);
/* Judges a frame by limits and filter, and hands it over. */
void nfm_recorder_put(nfm_recorder *self, const nfm_captured_frame *frame, uint32_t link_type);
/* Ends it, waits for the thread, and keeps the counters: see nfm_port_tee_stop. */
int nfm_recorder_finish(nfm_recorder *self, nfm_error *err);

/* Whether frames that go this way are recorded now. */
bool nfm_recorder_wants(nfm_recorder *self, uint32_t direction);
/* |n| frames went this way that it did not want: where its file has failed, they are lost. */
void nfm_recorder_miss(nfm_recorder *self, uint32_t direction, uint32_t n);

#endif
