/* SPDX-License-Identifier: Apache-2.0 */
/* Longest-prefix match against a search through all prefixes. */
#include "lpm.h"
#include "nfm_test.h"

#include <stdlib.h>

enum { MAX_PREFIXES = 4000, PROBES = 20000 };

typedef struct prefix {
    uint8_t bytes[16];
    uint32_t bits, value;
} prefix;

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static bool covers(const prefix *p, const uint8_t *address) {
    uint32_t whole = p->bits / 8, rest = p->bits % 8;
    return memcmp(p->bytes, address, whole) == 0 &&
           (rest == 0 || (p->bytes[whole] ^ address[whole]) >> (8 - rest) == 0);
}

static uint32_t search(const prefix *prefixes, uint32_t n, const uint8_t *address) {
    uint32_t best = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++) /* of equally long ones the last that was added */
        if (covers(&prefixes[i], address) &&
            (best == UINT32_MAX || prefixes[i].bits >= prefixes[best].bits))
            best = i;
    return best == UINT32_MAX ? 0 : prefixes[best].value;
}

static int by_bits(const void *a, const void *b) {
    const prefix *x = a, *y = b;
    return x->bits != y->bits ? (int)x->bits - (int)y->bits : (int)x->value - (int)y->value;
}

/* Addresses that share long prefixes: random ones hardly meet. */
static void fill(uint8_t *bytes, uint32_t size, uint64_t *seed) {
    for (uint32_t i = 0; i < size; i++)
        bytes[i] = next_random(seed) % 4 == 0 ? (uint8_t)next_random(seed) : (uint8_t)(10 + i % 3);
}

static void cut(prefix *p) {
    for (uint32_t bit = p->bits; bit < 128; bit++)
        p->bytes[bit / 8] &= (uint8_t) ~(0x80 >> bit % 8);
}

static void compare(uint32_t size, uint32_t n, uint64_t seed) {
    static prefix prefixes[MAX_PREFIXES];
    lpm table;
    CHECK(lpm_init(&table, UINT64_C(1) << 30));
    memset(prefixes, 0, sizeof(prefixes));
    for (uint32_t i = 0; i < n; i++) {
        fill(prefixes[i].bytes, size, &seed);
        prefixes[i].bits = (uint32_t)(next_random(&seed) % (size * 8 + 1));
        prefixes[i].value = i + 1;
        cut(&prefixes[i]);
    }
    qsort(prefixes, n, sizeof(prefixes[0]), by_bits);
    for (uint32_t i = 0; i < n; i++)
        CHECK_EQ(lpm_add(&table, prefixes[i].bytes, prefixes[i].bits, prefixes[i].value), NFM_OK);
    uint32_t found = 0;
    for (uint32_t i = 0; i < PROBES; i++) {
        uint8_t address[16] = {0};
        if (i % 3 == 0)
            memcpy(address, prefixes[next_random(&seed) % n].bytes, 16);
        else
            fill(address, size, &seed);
        uint32_t expected = search(prefixes, n, address);
        CHECK_EQ(lpm_find(&table, address), expected);
        found += expected != 0;
    }
    CHECK(found > PROBES / 4);
    lpm_fini(&table);
}

static void test_random_prefixes_of_ipv4(void) {
    for (uint32_t n = 1; n <= MAX_PREFIXES; n *= 4)
        compare(4, n == 1 ? 3 : n, 88172645463325252u + n);
}

static void test_random_prefixes_of_ipv6(void) {
    for (uint32_t n = 16; n <= 1024; n *= 8)
        compare(16, n, 362436069u + n);
}

static void test_the_edges(void) {
    static const uint8_t none[16] = {0}, ones[16] = {255, 255, 255, 255}, ten[16] = {10};
    lpm table;
    CHECK(lpm_init(&table, 0));
    CHECK_EQ(lpm_find(&table, ones), 0);
    CHECK_EQ(lpm_add(&table, none, 0, 7), NFM_OK);
    CHECK_EQ(lpm_add(&table, ten, 8, 8), NFM_OK);
    CHECK_EQ(lpm_find(&table, ones), 7);
    CHECK_EQ(lpm_find(&table, ten), 8);
    CHECK_EQ(lpm_add(&table, ones, 32, 9), NFM_OK);
    CHECK_EQ(lpm_find(&table, ones), 9);
    CHECK_EQ(lpm_add(&table, ten, 8, 1), NFM_E_INVAL); /* shorter than one before */
    CHECK_EQ(lpm_add(&table, ones, 129, 1), NFM_E_INVAL);
    CHECK_EQ(lpm_add(&table, ones, 33, 0), NFM_E_INVAL);
    CHECK_EQ(lpm_add(&table, ones, 33, LPM_IS_CHUNK), NFM_E_INVAL);
    lpm_fini(&table);
}

static void test_memory_has_a_bound(void) {
    lpm table;
    CHECK(lpm_init(&table, 1 << 20));
    uint32_t n = 0;
    int rc = NFM_OK;
    for (; rc == NFM_OK && n < 100000; n++) {
        uint8_t address[16] = {(uint8_t)(n >> 8), (uint8_t)n, 1, 1};
        rc = lpm_add(&table, address, 32, n + 1);
    }
    CHECK_EQ(rc, NFM_E_LIMIT);
    CHECK_EQ(table.n_chunks, ((1 << 20) - LPM_ROOT * 4) / (LPM_CHUNK * 4));
    lpm_fini(&table);
}

static const nfm_test tests[] = {
    T(test_random_prefixes_of_ipv4),
    T(test_random_prefixes_of_ipv6),
    T(test_the_edges),
    T(test_memory_has_a_bound),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
