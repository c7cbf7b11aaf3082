/* SPDX-License-Identifier: Apache-2.0 */
/* What a port is to the worker: a batch of frames in slots. The real thing, the fake and the
 * wrappers (tee, impairment) all have this shape. */
#ifndef NFM_IO_PORT_H
#define NFM_IO_PORT_H

#include "base/pool.h"
#include "nfm/nfm.h"

typedef struct nfm_frame {
    uint32_t slot; /* one reference, passed to the worker */
    uint32_t len;  /* bytes at slot + NFM_HEADROOM */
    uint32_t wire_len;
    uint32_t link_type; /* LINKTYPE_ number */
    int64_t ts_ns;      /* as recorded; the worker makes it monotonic */
} nfm_frame;

typedef struct nfm_port_ops {
    const char *name; /* "pcap", "mem" */
    /* Copies up to n frames into slots of |pool|. Returns how many (0: none now, or no slot),
     * NFM_E_EOF at the end, or another negative status. A frame for which no slot is free is not
     * consumed; a frame larger than NFM_MAX_FRAME is dropped and counted. */
    int (*rx)(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n);
    void (*free)(nfm_port *port);
} nfm_port_ops;

struct nfm_port { /* first member of every port */
    const nfm_port_ops *ops;
    nfm_port_stats stats;
    char warning[256]; /* empty: none */
};

#endif
