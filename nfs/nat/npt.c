/* SPDX-License-Identifier: Apache-2.0 */
/* NPTv6: one prefix for another, without state and without touching transport checksums. */
#include "nat.h"

static uint32_t add(uint32_t a, uint32_t b) {
    uint32_t sum = a + b;
    return (sum & 0xffff) + (sum >> 16);
}

static uint32_t word_of(const uint8_t *address, uint32_t i) {
    return nat__read16(address + 2 * i);
}

/* The one's complement sum of the first 64 bits of |address| under a mask of |bits|. */
static uint32_t prefix_sum(const uint8_t *address, uint32_t bits) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t left = bits > 16 * i ? bits - 16 * i : 0;
        uint32_t mask = left >= 16 ? 0xffff : 0xffffu << (16 - left) & 0xffffu;
        sum = add(sum, word_of(address, i) & mask);
    }
    return sum;
}

static void set_prefix(uint8_t *address, const uint8_t *prefix, uint32_t bits) {
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t left = bits > 8 * i ? bits - 8 * i : 0;
        uint32_t mask = left >= 8 ? 0xff : 0xffu << (8 - left) & 0xffu;
        address[i] = (uint8_t)((prefix[i] & mask) | (address[i] & ~mask));
    }
}

/* The word that makes up for the prefix: the subnet's for prefixes up to /48 (RFC 6296
 * section 3.4), else the first of the interface identifier that is not 0xffff (section 3.5). 8:
 * there is none. */
static uint32_t adjusted_word(const uint8_t *address, uint32_t bits) {
    if (bits <= 48)
        return word_of(address, 3) == 0xffff ? 8 : 3;
    uint32_t i = 4;
    while (i < 8 && word_of(address, i) == 0xffff)
        i++;
    return i;
}

/*
 * nat_npt_translate maps |address| from the internal prefix to the external one, or back.
 * Source: RFC 6296 sections 3.1 to 3.5.
 * Returns 1, or 0: an address that has no counterpart (its packet is to be dropped).
 */
int nat_npt_translate(const nat_npt *npt, int outbound, uint8_t *address) {
    const uint8_t *from = outbound ? npt->internal : npt->external;
    const uint8_t *to = outbound ? npt->external : npt->internal;
    uint32_t word = adjusted_word(address, npt->bits);
    if (word == 8)
        return 0;
    uint32_t add_to = add(prefix_sum(from, npt->bits), ~prefix_sum(to, npt->bits) & 0xffff);
    uint32_t value = add(word_of(address, word), add_to);
    value = value == 0xffff ? 0 : value;
    set_prefix(address, to, npt->bits);
    address[2 * word] = (uint8_t)(value >> 8);
    address[2 * word + 1] = (uint8_t)value;
    return 1;
}
