/* SPDX-License-Identifier: Apache-2.0 */
/* What one connection of a workload sends and when. */
#ifndef NFM_BENCH_WORKLOAD_SCRIPT_H
#define NFM_BENCH_WORKLOAD_SCRIPT_H

#include "workload.h"

typedef struct workload_size { /* a body length and how often it is chosen */
    uint32_t bytes, weight;
} workload_size;

/* Chances of an anomaly per segment of a response, in 1/65536. */
typedef struct workload_anomalies {
    uint32_t retransmit, reorder, late, overlap;
    uint32_t reset; /* per connection: ended by the client's RST */
} workload_anomalies;

typedef struct workload_kind {
    const char *name;
    uint64_t packets;     /* default */
    uint32_t concurrency; /* connections open at once, about */
    uint32_t life_ms;     /* of a connection */
    uint32_t ack_every;   /* segments of a response; 0: the client does not acknowledge apart */
    bool compact;         /* the response acknowledges the request and ends the connection */
    bool dns;
    uint32_t lookup_flows; /* not 0: established flows, see workload_lookup.c */
    workload_size sizes[3];
    workload_anomalies anomalies;
} workload_kind;

typedef struct workload_step { /* one packet of a connection */
    int64_t at_ns;             /* since the connection's start */
    uint32_t off;              /* of the payload (or FIN) in the sender's stream */
    uint32_t ack;              /* bytes of the peer's stream acknowledged; FIN counts as one more */
    uint16_t len;              /* of the payload */
    uint8_t flags;
    uint8_t side;   /* of the sender */
    uint32_t order; /* keeps steps of the same time in the order they were written */
} workload_step;

typedef struct workload_script {
    workload_step *steps;
    uint32_t n, max;
    uint32_t id;   /* of the connection */
    uint32_t body; /* of the response */
    bool compact, dns;
    uint32_t stream_len[2];
    bool failed; /* out of memory */
} workload_script;

typedef struct workload_rng {
    uint64_t state;
} workload_rng;

uint64_t workload_random(workload_rng *rng);
/* 0..n-1, n > 0 */
uint32_t workload_below(workload_rng *rng, uint32_t n);

/* Writes the steps of connection |id| of |kind| in order of time; counts anomalies and bytes in
 * |truth|. The caller frees script->steps. Returns NFM_OK or NFM_E_NOMEM. */
int workload_script_make(workload_script *script, const workload_kind *kind, uint32_t id,
                         workload_rng *rng, nfm_workload_truth *truth);

#define WORKLOAD_TEXT 65536u

typedef struct workload_text { /* what bodies are made of; wraps around */
    uint8_t bytes[WORKLOAD_TEXT + 2048];
} workload_text;

void workload_text_init(workload_text *text);
/* Writes the step->len payload bytes of |step| to |out|. */
void workload_content(const workload_text *text, const workload_script *script,
                      const workload_step *step, uint8_t *out);

#endif
