/* SPDX-License-Identifier: Apache-2.0 */
/* Finds the rules of packets in a table of so many random rules: nfm-firewall --rules N --passes N.
 * Each rule leaves out the source or the destination in one case of five; half of the packets aim
 * at a rule. Under callgrind the difference of two numbers of passes is what classifying costs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "classify.h"
#include "measured_options.h"

enum { NETS = 64, PACKETS = 1024, MAX_BOUNDS = 4 };

typedef struct load {
    uint64_t random;
    uint32_t net[NETS]; /* that rules and packets prefer */
    uint8_t *action, *bounded;
    uint32_t *before;
    firewall_range *ranges;
    firewall_rules rules;
} load;

static uint32_t below(load *l, uint32_t n) { /* xorshift64 (Marsaglia 2003) */
    l->random ^= l->random << 13;
    l->random ^= l->random >> 7;
    l->random ^= l->random << 17;
    return (uint32_t)(l->random >> 11) % n;
}

static uint32_t any_port(load *l) {
    static const uint32_t known[] = {22, 25, 53, 80, 110, 143, 443, 3306, 8080, 5432};
    return below(l, 3) ? known[below(l, 10)] : 1024 + below(l, 60000);
}

static uint32_t any_address(load *l) {
    return below(l, 2) ? l->net[below(l, NETS)] | below(l, 256) : below(l, UINT32_MAX);
}

static void bound(load *l, uint32_t rule, uint32_t dim, uint32_t first, uint32_t last) {
    l->bounded[rule] |= (uint8_t)(1u << dim);
    l->ranges[l->rules.n_ranges++] =
        (firewall_range){.first = {0, first}, .last = {0, last}, .rule = rule, .dim = dim};
}

static void make_rule(load *l, uint32_t rule) {
    for (uint32_t dim = FIREWALL_SRC4; dim <= FIREWALL_DST4; dim++) {
        uint32_t width = below(l, 10), len = 32;
        if (dim == (rule & 1 ? FIREWALL_DST4 : FIREWALL_SRC4) && width < 2)
            continue;
        if (width < 3)
            len = 8 + below(l, 8);
        else if (width < 8)
            len = width < 6 ? 24 : 24 + below(l, 8);
        uint32_t mask = len == 32 ? 0 : UINT32_MAX >> len, first = any_address(l) & ~mask;
        bound(l, rule, dim, first, first | mask);
    }
    uint32_t proto = below(l, 4) ? 6 : 17, port = any_port(l);
    bound(l, rule, FIREWALL_KIND, proto, proto);
    bound(l, rule, FIREWALL_DPORT, port, below(l, 5) ? port : port + below(l, 200));
}

static firewall_table *make_table(load *l, uint32_t n) {
    char text[200];
    l->random = UINT64_C(88172645463325252);
    l->action = calloc(n, 1);
    l->bounded = calloc(n, 1);
    l->before = calloc(n, sizeof(*l->before));
    l->ranges = calloc((size_t)n * MAX_BOUNDS, sizeof(*l->ranges));
    if (!l->action || !l->bounded || !l->before || !l->ranges)
        return NULL;
    l->rules = (firewall_rules){.action = l->action,
                                .bounded = l->bounded,
                                .before = l->before,
                                .ranges = l->ranges,
                                .max_bytes = UINT64_C(1) << 30,
                                .n_rules = n};
    for (int i = 0; i < NETS; i++)
        l->net[i] = 10u << 24 | (below(l, 1 << 16) << 8);
    for (uint32_t rule = 0; rule < n; rule++)
        make_rule(l, rule);
    return firewall_compile(&l->rules, text, sizeof(text));
}

static void aim(const load *l, uint32_t rule, firewall_key *key) {
    for (uint32_t i = 0; i < l->rules.n_ranges; i++) {
        const firewall_range *range = &l->ranges[i];
        if (range->rule != rule)
            continue;
        if (range->dim == FIREWALL_SRC4)
            key->src = range->first;
        else if (range->dim == FIREWALL_DST4)
            key->dst = range->first;
        else if (range->dim == FIREWALL_DPORT)
            key->dport = (uint32_t)range->first.low;
        else
            key->kind = (uint32_t)range->first.low;
    }
}

int main(int argc, char **argv) {
    load l = {0};
    uint32_t n = 10, passes = 1, sum = 0;
    const measured_option known[] = {
        {"rules", MEASURED_U32, &n, "in the table"},
        {"passes", MEASURED_U32, &passes, "over 1024 packets"},
        {0},
    };
    measured_parse(argc, argv, known, "Finds the rules of packets in a table of random rules.");
    firewall_table *table = n > 0 ? make_table(&l, n) : NULL;
    firewall_key *key = calloc(PACKETS, sizeof(*key));
    if (table == NULL || key == NULL)
        measured_die("rules", "none, or no memory");
    for (uint32_t i = 0; i < PACKETS; i++) {
        key[i] = (firewall_key){.src = {0, l.net[below(&l, NETS)] | below(&l, 256)},
                                .dst = {0, l.net[below(&l, NETS)] | below(&l, 256)},
                                .kind = below(&l, 4) ? 6 : 17,
                                .sport = 1024 + below(&l, 60000),
                                .dport = any_port(&l)};
        if (i & 1)
            aim(&l, below(&l, n), &key[i]);
    }
    clock_t begin = clock();
    for (uint32_t pass = 0; pass < passes; pass++)
        for (uint32_t i = 0; i < PACKETS; i++)
            sum += firewall_match(table, &key[i]) != FIREWALL_NO_RULE;
    double ns = (double)(clock() - begin) * 1e9 / CLOCKS_PER_SEC;
    printf("{\"packets\": %d, \"matched\": %u, \"ns\": %.1f, \"bytes\": %llu}\n", PACKETS, sum,
           ns / PACKETS / passes, (unsigned long long)table->bytes);
    return 0;
}
