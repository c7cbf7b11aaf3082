/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The translator's tables.
 *
 * Theory of operation. A mapping joins an internal endpoint to an external one and is the same for
 * all remote endpoints (RFC 4787 REQ-1). It is found by the internal endpoint (hash) and by the
 * external one (an array by address, class and port, beside a bitmap of the ports in use). It lives
 * as long as the worker knows a flow of it and |hold_ns| longer; then it is on the list of its
 * class, oldest first, and a new flow of the same endpoint takes it off again. What a mapping has
 * sent to is known from its sessions: one per flow, from its first packet to its flow.end, found by
 * flow id and by (mapping, remote address).
 *
 * Rules of these files.
 * 1. A port belongs to one mapping, so two flows never share an external endpoint and a remote one.
 * 2. The mapping of an endpoint never changes while it lives, whatever becomes of others
 *    (RFC 4787 REQ-11).
 * 3. ICMP errors make, prolong and end nothing (RFC 5508 REQ-10).
 * 4. Everything is sized by nat_load; packets allocate nothing.
 */
#ifndef NFS_NAT_NAT_H
#define NFS_NAT_NAT_H

#include "nfm/nfm.h"

#include "session_map.h"

#pragma GCC visibility push(default)
#include "nat.cdef"
#pragma GCC visibility pop

#define NAT_NONE UINT32_MAX
enum { NAT_PORTS = 65536, NAT_WORDS = NAT_PORTS / 64, NAT_WELL_KNOWN = 1024 };

typedef struct nat_endpoint {
    uint32_t address;
    uint16_t port; /* ICMP: identifier */
} nat_endpoint;

typedef struct nat_first { /* flow of a mapping */
    nat_endpoint remote;
    uint32_t worker;
} nat_first;

typedef struct nat_mapping {
    uint32_t internal, external;
    uint16_t internal_port, external_port;
    uint8_t klass, fixed, external_index, is_used;
    uint32_t flows;
    uint32_t chain;        /* next of its bucket, or of the free list */
    uint32_t newer, older; /* on the list of its class, while no flow uses it */
    int64_t expires_ns;
    uint8_t mac[6]; /* of the internal host, as its packets say */
    uint8_t has_mac;
} nat_mapping;

typedef struct nat_session { /* beside the place in the map */
    nat_endpoint remote;
    uint32_t mapping; /* that may send to remote; NAT_NONE: this flow opens no filter */
    uint32_t used[2]; /* mappings that the flow keeps alive */
    uint32_t next;    /* of the same (mapping, remote address) bucket */
} nat_session;

typedef struct nat_ports { /* of an external address and a class */
    uint64_t in_use[NAT_WORDS];
    uint32_t mapping[NAT_PORTS]; /* + 1; 0 none */
} nat_ports;

struct nat {
    bool is_ready;
    nat_config config; /* its pointers are not valid */
    nat_prefix inside[NAT_MAX_PREFIXES];
    uint32_t external[NAT_MAX_EXTERNAL];
    nat_npt npt[NAT_MAX_NPT];
    nat_ports *ports[NAT_MAX_EXTERNAL][NAT_CLASSES];
    nat_mapping *mappings;
    uint32_t *by_internal; /* n_buckets */
    uint32_t n_buckets, free_mapping;
    uint32_t newest[NAT_CLASSES], oldest[NAT_CLASSES];
    nf_session_map map;
    nat_session *sessions; /* by place */
    uint32_t *by_peer;     /* n_peer_buckets first sessions */
    uint32_t n_peer_buckets;
    uint64_t random;
    nat_stats stats;
};

/* ---- nat_table.c ---- */

int nat__table_init(nat *self, const nat_config *config);
void nat__table_fini(nat *self);
/* The mapping of an internal endpoint; NAT_NONE: it has none. */
uint32_t nat__find_internal(const nat *self, uint32_t klass, nat_endpoint internal);
/* The mapping that has external address number |index| and |port|; NAT_NONE: nobody. */
uint32_t nat__find_external(const nat *self, uint32_t index, uint32_t klass, uint16_t port);
/* Number of an external address; NAT_NONE: it is not one of ours. */
uint32_t nat__external_index(const nat *self, uint32_t address);
/* Makes a mapping for a flow of |worker| to |remote|, which is forgotten unless it is used; of
 * several workers the one that gets the answers is to be this one, where there is such a port.
 * NAT_NONE: no port or no room, counted. Sources: RFC 4787 REQ-2 to REQ-4, RFC 5382 REQ-7. */
uint32_t nat__map(nat *self, uint32_t klass, nat_endpoint internal, const nat_first *first,
                  int64_t now_ns);
/* Ends what has been unused for its time. */
void nat__expire(nat *self, int64_t now_ns);

/* ---- nat_sessions.c ---- */

/* Enters a flow that uses |used| (second: NAT_NONE when it is one only). opens: used[0] sends to
 * |remote|, which then may send back. False: no room, counted. */
bool nat__session_begin(nat *self, uint64_t flow, const uint32_t used[2], nat_endpoint remote,
                        bool opens);
void nat__session_end(nat *self, uint64_t flow, int64_t now_ns);
/* Whether |remote| may send to |mapping| (RFC 4787 section 5). */
bool nat__may_enter(const nat *self, uint32_t mapping, nat_endpoint remote);
/* A flow begins to use a mapping, or the last one ends. */
void nat__mapping_use(nat *self, uint32_t mapping);
void nat__mapping_leave(nat *self, uint32_t mapping, int64_t now_ns);

/* ---- nat_errors.c ---- */

/* The verdict on an ICMP error that quotes a packet of a mapping without a flow; edit is filled. */
uint32_t nat__judge_error(nat *self, const uint8_t *icmp, uint32_t len, bool outbound,
                          nfm_edit *edit);

static inline uint32_t nat__read32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void nat__write32(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

static inline uint16_t nat__read16(const uint8_t *p) {
    return (uint16_t)(p[0] << 8 | p[1]);
}

#endif
