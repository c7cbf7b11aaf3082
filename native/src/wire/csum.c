/* SPDX-License-Identifier: Apache-2.0 */
/* The Internet checksum (RFC 1071). */
#include "wire/layers.h"

/*
 * nfm_csum_add adds |len| bytes, taken as big-endian words (an odd last byte is the high one), to
 * the partial sum |sum|. Sums of pieces may be chained when all pieces but the last have even
 * length. Returns the new partial sum, folded to 16 bits.
 */
uint32_t nfm_csum_add(uint32_t sum, const uint8_t *data, uint32_t len) {
    uint64_t total = sum;
    for (; len >= 8; data += 8, len -= 8)
        total += (uint64_t)nfm_read32(data) + nfm_read32(data + 4);
    for (; len >= 2; data += 2, len -= 2)
        total += nfm_read16(data);
    if (len != 0)
        total += (uint32_t)data[0] << 8;
    total = (total & 0xffffffff) + (total >> 32);
    total = (total & 0xffffffff) + (total >> 32);
    total = (total & 0xffff) + (total >> 16);
    return (uint32_t)((total & 0xffff) + (total >> 16));
}

/* nfm_csum_fold returns the complement of |sum|, as headers store it; 0 over data that include a
 * right checksum. */
uint16_t nfm_csum_fold(uint32_t sum) {
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

uint16_t nfm__l4_checksum(const nfm_key *key, uint8_t proto, const uint8_t *p, uint32_t len) {
    uint32_t sum = 0;
    if (proto != NFM__IP_ICMP) { /* ICMP for IPv4 has no pseudo-header */
        uint32_t size = key->ip_version == 4 ? 4 : 16;
        sum = nfm_csum_add(sum, key->addr[0], size);
        sum = nfm_csum_add(sum, key->addr[1], size);
        sum += proto + (len >> 16) + (len & 0xffff);
    }
    return nfm_csum_fold(nfm_csum_add(sum, p, len));
}
