/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ordered rules compiled into a table that finds the first match in a time that hardly depends on
 * their number.
 *
 * Theory of operation. In each dimension the ends of all rules' ranges cut the numbers into
 * intervals; all numbers of an interval are matched by the same rules, a set that is computed when
 * the table is made. A packet's first match is the least of the rules that its intervals' sets (one
 * per dimension) have in common.
 *
 * A set is a string of bits, one per rule, in words of 64. Most sets are nearly empty, so only
 * words that are not zero are kept, and a summary word says for 64 words which those are: 4096
 * rules are excluded by one AND of summaries. Rules that a dimension does not bound at all are kept
 * once per dimension, beside the intervals, so that they cost nothing in each of them.
 *
 * Summaries exclude much only if the rules of a word are alike. So bits are not in the order of the
 * rules: those that ask for few sources, few destinations or few ports (struct place) stand beside
 * others that ask for near ones, and never in a word with those that do not ask. What a packet has
 * in common with a word then is compared by the rules' numbers, unless the word's least is behind
 * what was found already.
 *
 * The interval is found by a table over the leading bits that the interval's begins do not have in
 * common, and binary search among the few that share these.
 *
 * Sources: T. V. Lakshman and D. Stiliadis, "High-speed policy-based packet forwarding using
 * efficient multi-dimensional range matching", SIGCOMM 1998; F. Baboescu and G. Varghese, "Scalable
 * packet classification", SIGCOMM 2001.
 */
#ifndef FIREWALL_CLASSIFY_H
#define FIREWALL_CLASSIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(default)
#include "firewall.cdef"
#pragma GCC visibility pop

typedef unsigned __int128 fw_number;

typedef struct fw_group { /* of a set: 64 words, those that are not zero */
    uint64_t present;
    uint32_t first; /* index of the first of them in words */
    uint32_t reserved;
} fw_group;

typedef struct fw_dim {
    fw_number *begin; /* of interval i; begin[0] is 0 */
    fw_group *set;    /* n_groups per interval */
    uint64_t *word;
    uint64_t *any;         /* rules that are not bounded here: n_groups * 64 words */
    uint64_t *any_present; /* n_groups */
    uint32_t *root;        /* by leading bits: the interval of the least such number */
    uint32_t n;
    uint32_t n_words, max_words;
    uint8_t skip; /* leading bits that begin[1..n-1] have in common */
    uint8_t bits; /* of root's index */
} fw_dim;

enum { FW_GROUP = 64, FW_WORD = 64 }; /* words, bits */

struct firewall_table {
    fw_dim dim[FIREWALL_DIMS];
    uint8_t *action;
    uint64_t *hits;
    uint32_t *before;     /* firewall_rules.before */
    uint32_t *number;     /* of the rule, by bit */
    uint32_t *word_first; /* by word: the least of its rules */
    uint64_t bytes, max_bytes;
    uint32_t n_rules, n_bits, n_groups;
    uint64_t default_hits;
    uint8_t policy;
};

/* ---- order.c ---- */

/* Gives every rule its bit: fills bit_of[n_rules] and, with memory of its own, table->number and
 * table->word_first. False: no memory. */
bool fw__order(firewall_table *table, const firewall_rules *rules, uint32_t *bit_of);
/* Memory of the table, counted; NULL: none, or the table would be larger than it may. */
void *fw__take(firewall_table *table, size_t n, size_t size);

static inline fw_number fw__number(firewall_number n) {
    return (fw_number)n.high << 64 | n.low;
}

#endif
