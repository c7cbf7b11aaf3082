/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Deterministic traffic for benchmarks and tests: named workloads that fill a mem port, a capture
 * or any other sink, and say exactly what they hold. The same name, seed and number of packets give
 * the same bytes on every machine. All checksums are valid.
 *
 * A pass over a workload may be repeated by nfm_port_mem_loop(port, passes, truth.span_ns): servers
 * share one upper address half, so the shifted addresses of one pass never meet another's, and all
 * connections (but those of lookup-*) end within their pass. Truth then counts for each pass.
 */
#ifndef NFM_BENCH_WORKLOAD_H
#define NFM_BENCH_WORKLOAD_H

#include "nfm/nfm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nfm_workload_options {
    uint64_t packets; /* at least so many, rounded up to whole connections; 0: the default */
    uint64_t seed;
} nfm_workload_options;

/* What a workload holds; arrays are by side: 0 client, 1 server. */
typedef struct nfm_workload_truth {
    uint64_t packets, frame_bytes;
    uint64_t flows;      /* TCP connections or UDP conversations */
    uint64_t peak_flows; /* most that were open at once */
    uint64_t side_packets[2];
    uint64_t payload_bytes[2]; /* as seen, copies counted again */
    uint64_t stream_bytes[2];  /* each byte of a stream once */
    uint64_t flows_fin, flows_reset;
    uint64_t retransmits;      /* segments seen twice, the same bytes */
    uint64_t reordered;        /* segments that came after their successor */
    uint64_t late;             /* first copy never seen: a hole for a round trip, then filled */
    uint64_t overlaps;         /* copies that span halves of two segments already seen */
    uint64_t opening_packets;  /* lookup-*: the first so many open the flows; else 0 */
    int64_t start_ns, span_ns; /* of a pass, with a pause at its end */
} nfm_workload_truth;

/* Takes one frame, in order of time. Returns NFM_OK or a negative status, which ends the run. */
typedef int (*nfm_workload_sink_fn)(void *to, const uint8_t *frame, uint32_t len, int64_t ts_ns);

typedef struct nfm_workload_sink {
    nfm_workload_sink_fn put;
    void *to;
} nfm_workload_sink;

/* Names in the order of the documentation; the list ends with NULL. */
const char *const *nfm_workload_names(void);

/*
 * nfm_workload_generate sends the frames (LINKTYPE_ETHERNET) of workload |name| to |sink| and fills
 * |truth|. |options| may be NULL. Memory is in proportion to the connections open at once.
 * Returns NFM_OK, the sink's status, NFM_E_INVAL for an unknown name, or NFM_E_NOMEM; |err| may be
 * NULL.
 */
int nfm_workload_generate(const char *name, const nfm_workload_options *options,
                          nfm_workload_sink sink, nfm_workload_truth *truth, nfm_error *err);

/* The same into a mem port of LINKTYPE_ETHERNET. */
int nfm_workload_fill(nfm_port *port, const char *name, const nfm_workload_options *options,
                      nfm_workload_truth *truth, nfm_error *err);

#ifdef __cplusplus
}
#endif
#endif
