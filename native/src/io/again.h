/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames that are served again, as traffic that was not there before.
 *
 * Theory of operation. Pass k shifts IPv4 addresses by d(k): both addresses
 * of the first IP header get d added to the upper 16-bit half and taken from the lower half, in
 * one's complement arithmetic. That leaves the sum over each address as it was, hence also every
 * checksum that covers it (IP header, and the pseudo headers of TCP and UDP), and it is one mapping
 * of addresses to addresses, the same in both directions of a flow. d(k) is a multiple of an odd
 * constant modulo 65535 and takes each value once, so 65535 passes differ in the upper half of
 * every address; d(0) is 0. Two passes meet only where the frames themselves hold pairs of
 * addresses that differ by such a shift in both endpoints. Upper or lower halves 0 and 65535 are
 * the same number in one's complement and may be merged. IPv6 and inner headers are not shifted.
 */
#ifndef NFM_IO_AGAIN_H
#define NFM_IO_AGAIN_H

#include <stdint.h>
#include <string.h>

#define NFM_AGAIN_STEP 25879u /* coprime to 65535; spreads neighbouring passes */

enum { NFM_AGAIN_ETHERNET = 1, NFM_AGAIN_RAW = 101, NFM_AGAIN_IPV4 = 228 }; /* LINKTYPE_* */

/* Adds the 16-bit lanes of two words that have their even lanes free, in one's complement. */
static inline uint64_t nfm_again_add(uint64_t a, uint64_t b) {
    const uint64_t lanes = UINT64_C(0x0000ffff0000ffff);
    uint64_t sum = a + b;
    return (sum & lanes) + (sum >> 16 & lanes);
}

/* Shifts source and destination address at |from| by (d, -d) and stores them at |to|. One's
 * complement sums do not depend on byte order (RFC 1071 section 2 (B)), so neither does this. */
static inline void nfm_again_move(uint8_t *to, const uint8_t *from, uint64_t shift) {
    const uint64_t lanes = UINT64_C(0x0000ffff0000ffff);
    uint64_t pair;
    memcpy(&pair, from, sizeof(pair));
    uint64_t even = nfm_again_add(pair & lanes, shift & lanes);
    uint64_t odd = nfm_again_add(pair >> 16 & lanes, shift >> 16 & lanes);
    pair = even | odd << 16;
    memcpy(to, &pair, sizeof(pair));
}

/* The shift of pass |pass| for nfm_again_move: lanes d, ~d, d, ~d. */
static inline uint64_t nfm_again_shift(uint64_t pass) {
    uint64_t d = pass % 65535 * NFM_AGAIN_STEP % 65535;
    uint64_t pair = d | (65535 - d) << 16;
    return d == 0 ? 0 : pair | pair << 32;
}

/* Offset of the addresses of the frame's first IPv4 header; 0 without one. */
static inline uint32_t nfm_again_addresses(uint32_t link_type, const uint8_t *frame, uint32_t len) {
    uint32_t l3 = 0;
    if (link_type == NFM_AGAIN_ETHERNET) {
        l3 = 12;
        while (len >= l3 + 4 && ((frame[l3] == 0x81 && frame[l3 + 1] == 0x00) ||
                                 (frame[l3] == 0x88 && frame[l3 + 1] == 0xa8)))
            l3 += 4; /* 802.1Q and 802.1ad tags */
        if (len < l3 + 2 || frame[l3] != 0x08 || frame[l3 + 1] != 0x00)
            return 0;
        l3 += 2;
    } else if (link_type != NFM_AGAIN_RAW && link_type != NFM_AGAIN_IPV4) {
        return 0;
    }
    return len >= l3 + 20 && frame[l3] >> 4 == 4 ? l3 + 12 : 0;
}

#endif
