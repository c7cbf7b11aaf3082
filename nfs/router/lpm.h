/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Longest-prefix match over addresses of any length.
 *
 * Theory of operation. The first two bytes of an address choose one of 65536 entries, each further
 * byte one of 256 in a chunk that the entry before names. A prefix is written into all entries that
 * it covers where its bits end, so nothing has to be remembered on the way down and a lookup is at
 * most one load per byte from the second on: three for IPv4, whatever the number of routes.
 * Prefixes are added in ascending order of their lengths, so a longer one overwrites what a shorter
 * one left, and a new chunk begins as copies of the entry that it replaces. Tables are built whole,
 * beside the one in use, and never changed.
 */
#ifndef NFS_ROUTER_LPM_H
#define NFS_ROUTER_LPM_H

#include "nfm/nfm.h"

enum { LPM_ROOT = 65536, LPM_CHUNK = 256 };
#define LPM_IS_CHUNK (UINT32_C(1) << 31)

typedef struct lpm {
    uint32_t *root;   /* entries: a value, or LPM_IS_CHUNK and a chunk's number */
    uint32_t *chunks; /* LPM_CHUNK entries each */
    uint32_t n_chunks, max_chunks;
    uint32_t bits_max; /* length of the last prefix */
} lpm;

bool lpm_init(lpm *table, uint64_t max_bytes);
void lpm_fini(lpm *table);
int lpm_add(lpm *table, const uint8_t *prefix, uint32_t bits, uint32_t value);

/* The value of the longest prefix that |address| begins with; 0: none. */
static inline uint32_t lpm_find(const lpm *table, const uint8_t *address) {
    uint32_t entry = table->root[(uint32_t)address[0] << 8 | address[1]];
    for (uint32_t i = 2; entry & LPM_IS_CHUNK; i++)
        entry = table->chunks[(size_t)(entry & ~LPM_IS_CHUNK) * LPM_CHUNK + address[i]];
    return entry;
}

#endif
