/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a native NF remembers of flows: flow id -> place of a fixed array, chained hashing.
 *
 * Theory of operation. A place is taken at a flow's first packet and given back at its flow.end, so
 * the map is as large as the flow tables that feed it. Nothing is allocated after init; when all
 * places are taken the NF decides what that means. Its own state of a flow lies in arrays of its
 * own under the same place.
 */
#ifndef NFS_SESSION_MAP_H
#define NFS_SESSION_MAP_H

#include <stdlib.h>
#include <string.h>

#include "nfm/nfm.h"

#define NF_NO_SESSION UINT32_MAX

typedef struct nf_session {
    uint64_t flow;  /* id */
    uint32_t chain; /* next of its bucket, or of the free list */
    uint32_t value;
} nf_session;

typedef struct nf_session_map {
    nf_session *places;
    uint32_t *buckets;
    uint32_t n_buckets; /* power of two */
    uint32_t max, n, free_list;
} nf_session_map;

static inline bool nf_session_map_init(nf_session_map *map, uint32_t max) {
    *map = (nf_session_map){.n_buckets = 1, .max = max};
    while (map->n_buckets < max && map->n_buckets < 1u << 30)
        map->n_buckets *= 2;
    map->places = calloc(max, sizeof(*map->places));
    map->buckets = malloc(map->n_buckets * sizeof(*map->buckets));
    if (map->places == NULL || map->buckets == NULL)
        return false;
    memset(map->buckets, 0xff, map->n_buckets * sizeof(*map->buckets));
    for (uint32_t i = 0; i < max; i++)
        map->places[i].chain = i + 1 < max ? i + 1 : NF_NO_SESSION;
    return true;
}

static inline void nf_session_map_fini(nf_session_map *map) {
    free(map->places);
    free(map->buckets);
    *map = (nf_session_map){0};
}

static inline uint32_t *nf_session_bucket(const nf_session_map *map, uint64_t flow) {
    uint64_t mixed = flow * UINT64_C(0x9e3779b97f4a7c15); /* Knuth: golden ratio */
    return &map->buckets[(uint32_t)(mixed >> 32) & (map->n_buckets - 1)];
}

/* The place of a flow; NF_NO_SESSION: none. */
static inline uint32_t nf_session_find(const nf_session_map *map, uint64_t flow) {
    uint32_t at = *nf_session_bucket(map, flow);
    while (at != NF_NO_SESSION && map->places[at].flow != flow)
        at = map->places[at].chain;
    return at;
}

/* Takes a place for a flow that has none. NF_NO_SESSION: all are taken. */
static inline uint32_t nf_session_add(nf_session_map *map, uint64_t flow, uint32_t value) {
    uint32_t at = map->free_list, *bucket = nf_session_bucket(map, flow);
    if (map->n == map->max)
        return NF_NO_SESSION;
    map->free_list = map->places[at].chain;
    map->places[at] = (nf_session){flow, *bucket, value};
    *bucket = at;
    map->n++;
    return at;
}

static inline void nf_session_remove(nf_session_map *map, uint32_t at) {
    uint32_t *link = nf_session_bucket(map, map->places[at].flow);
    while (*link != at)
        link = &map->places[*link].chain;
    *link = map->places[at].chain;
    map->places[at] = (nf_session){0, map->free_list, 0};
    map->free_list = at;
    map->n--;
}

#endif
