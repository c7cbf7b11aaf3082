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

/* A frame to send: |len| bytes at |off| of the slot. */
typedef struct nfm_tx {
    uint32_t slot; /* one reference, passed to the port when it accepts the frame */
    uint32_t off;
    uint32_t len;
    uint32_t wire_len; /* of a frame that was captured shorter; 0: len */
    int64_t ts_ns;     /* event time, for ports that record; 0: not known */
} nfm_tx;

static_assert(sizeof(nfm_slot_meta) == 16, "slot meta lies in the headroom");

typedef struct nfm_port_ops {
    const char *name; /* "pcap", "mem" */
    /* Copies up to n frames into slots of |pool|. Returns how many (0: none now, or no slot),
     * NFM_E_EOF at the end, or another negative status. A frame for which no slot is free is not
     * consumed; a frame larger than NFM_MAX_FRAME is dropped and counted. */
    int (*rx)(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n);
    /* Sends or queues up to |n| frames, in order. Returns how many it accepted: their slot
     * references are the port's now, put back when sent. The others stay the caller's: it tries
     * again or drops and counts them. NFM_E_IO: the link is down or gone (nothing accepted). NULL:
     * the port cannot send. */
    int (*tx)(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n);
    /* Housekeeping, once per turn of the worker's loop also when idle: kicks what is queued, puts
     * back what was sent, looks at the link now and then. NULL: nothing to do. */
    void (*poll)(nfm_port *port, nfm_pool *pool);
    /* A descriptor that is readable when frames may have arrived; -1: only polling tells. NULL: a
     * port that ends (a capture). */
    int (*wait_fd)(nfm_port *port);
    /* Stops and gives back every slot that the port still holds: the worker calls it last, when it
     * is freed; |pool| is gone afterwards. NULL: the port holds none between two calls. */
    void (*detach)(nfm_port *port, nfm_pool *pool);
    /* Writes what is buffered to where it is to stay. Returns NFM_OK, or NFM_E_IO: not all is
     * there, and the warning says why. NULL: nothing is buffered. */
    int (*flush)(nfm_port *port);
    void (*free)(nfm_port *port);
} nfm_port_ops;

struct nfm_port { /* first member of every port */
    const nfm_port_ops *ops;
    nfm_port_stats stats;
    char warning[256]; /* empty: none */
};

#endif
