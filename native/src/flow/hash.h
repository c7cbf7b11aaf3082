/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keyed, symmetric flow hash: both directions of a conversation hash alike, and without the key
 * nobody can aim flows at one bucket. Each endpoint (address, port) goes through a keyed 64x64->128
 * bit multiply-fold; the two results are combined with + and ^, which commute, and folded again.
 */
#ifndef NFM_FLOW_HASH_H
#define NFM_FLOW_HASH_H

#include <string.h>

#include "nfm/module.h"

typedef struct nfm_hash_key {
    uint64_t k[4];
} nfm_hash_key;

static inline uint64_t nfm_fold_mul(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t nfm_hash_endpoint(const nfm_hash_key *key, const uint8_t *addr,
                                         uint16_t port) {
    uint64_t low, high;
    memcpy(&low, addr, 8);
    memcpy(&high, addr + 8, 8);
    /* IPv4 leaves bits 32..63 of low zero, so its port does not collide with address bits. */
    return nfm_fold_mul(low ^ key->k[0] ^ ((uint64_t)port << 40), high ^ key->k[1]);
}

static inline uint64_t nfm_hash_flow(const nfm_hash_key *key, const nfm_key *flow) {
    uint64_t a = nfm_hash_endpoint(key, flow->addr[0], flow->port[0]);
    uint64_t b = nfm_hash_endpoint(key, flow->addr[1], flow->port[1]);
    uint64_t extra =
        (uint64_t)flow->proto | (uint64_t)flow->vlan << 16 | (uint64_t)flow->scope << 32;
    return nfm_fold_mul((a + b) ^ key->k[2], (a ^ b) ^ key->k[3] ^ extra);
}

/* Expands the configured 128-bit key (0,0: a fixed one) into the four multiplier words. */
static inline nfm_hash_key nfm_hash_key_make(const uint64_t seed[2]) {
    nfm_hash_key key;
    uint64_t x = seed[0] ^ UINT64_C(0x9e3779b97f4a7c15), y = seed[1] ^ UINT64_C(0xd1b54a32d192ed03);
    for (int i = 0; i < 4; i++) { /* splitmix64 steps (Steele, Lea, Flood 2014) */
        x += UINT64_C(0x9e3779b97f4a7c15) ^ y;
        uint64_t z = x;
        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        key.k[i] = z ^ (z >> 31);
        y = (y << 23 | y >> 41) ^ z;
    }
    return key;
}

#endif
