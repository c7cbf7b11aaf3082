/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The balancer's tables.
 *
 * Theory of operation. A service is a virtual address, protocol and port. Its table has LB_TABLE
 * places, filled by Maglev hashing from the backends that are up: each gets places in proportion to
 * its weight, and when one goes nearly all places of the others stay. A flow's hash picks a place
 * at its first packet; the worker does the rest of the flow by itself, so a change of the table
 * never moves a flow that is under way. A backend's own number of active flows comes from flow.end.
 *
 * A backend that refuses or leaves unanswered |max_fails| TCP connections in a row gets none for
 * retry_ns. The tables are built again between two packets, in memory taken at load.
 * Source: Eisenbud et al., "Maglev", NSDI 2016, section 3.4.
 */
#ifndef NFS_LOAD_BALANCER_LB_H
#define NFS_LOAD_BALANCER_LB_H

#include "nfm/nfm.h"

#include "session_map.h"

#pragma GCC visibility push(default)
#include "load_balancer.cdef"
#pragma GCC visibility pop

enum { LB_NOBODY = 0xffff, LB_BUCKETS = 4 * LB_MAX_SERVICES, LB_MAX_WEIGHT = 1000 };

typedef struct lb_member { /* a backend and what became of it */
    lb_backend backend;
    lb_backend_info info;
    int64_t retry_ns; /* event time when a failed one is tried again */
} lb_member;

struct lb {
    bool is_ready;
    lb_config config; /* its pointers are not valid */
    lb_service services[LB_MAX_SERVICES];
    uint16_t buckets[LB_BUCKETS]; /* service + 1 by hash, open addressing; 0 none */
    lb_member *members;
    lb_backend *scratch;
    uint16_t *tables;      /* LB_TABLE places per service: backend of the service, or LB_NOBODY */
    int64_t next_retry_ns; /* of the failed backends, the earliest */
    nf_session_map map;    /* value: backend */
    lb_stats stats;
};

static inline uint64_t lb__mix(uint64_t a, uint64_t b) { /* MurmurHash3's finalizer */
    uint64_t h = a ^ (b + UINT64_C(0x9e3779b97f4a7c15));
    h = (h ^ h >> 33) * UINT64_C(0xff51afd7ed558ccd);
    h = (h ^ h >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    return h ^ h >> 33;
}

static inline uint64_t lb__mix_address(uint64_t seed, const uint8_t *address) {
    uint64_t words[2];
    memcpy(words, address, 16);
    return lb__mix(lb__mix(seed, words[0]), words[1]);
}

#endif
