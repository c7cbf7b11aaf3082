/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NFM_BENCH_PACED_PORT_H
#define NFM_BENCH_PACED_PORT_H

#include "measured.h"

/*
 * A live port as far as the worker can see: hands over the frames of |inner|, one at a time, and no
 * sooner than |gap_ns| on average after the one before (half to one and a half gaps, by a fixed
 * sequence). A frame's time is the monotonic clock at the moment when the worker gets it.
 * Owns |inner|. NULL when there is no memory.
 */
nfm_port *paced_port_new(nfm_port *inner, int64_t gap_ns);
/* A port that only sends: it takes how late each frame is after its own time, to |late|, which is
 * borrowed. NULL when there is no memory. */
nfm_port *timing_port_new(measured_times *late);

#endif
