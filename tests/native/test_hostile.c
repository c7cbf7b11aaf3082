/* SPDX-License-Identifier: Apache-2.0 */
/* Inline receivers that mean harm: see hostile_sim.h. */
#include "hostile_sim.h"

enum { SEEDS = 60 };

/* HOSTILE_SEED says which run to look at alone, HOSTILE_SEEDS how many to have. */
static uint64_t number_of(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text == NULL ? otherwise : strtoull(text, NULL, 10);
}

static void test_whatever_they_write_the_worker_goes_on(void) {
    static const enum nfm_core_counter met[] = {
        NFM_CC_COMMAND_BAD,         NFM_CC_INLINE_DROPPED,  NFM_CC_INLINE_REJECTED,
        NFM_CC_INLINE_REWRITTEN,    NFM_CC_INLINE_UNEDITED, NFM_CC_INLINE_BAD,
        NFM_CC_INLINE_MIRRORED,     NFM_CC_INLINE_REPLACED, NFM_CC_INLINE_RAISED,
        NFM_CC_INLINE_BAD_RAISE,    NFM_CC_INJECTED,        NFM_CC_INLINE_FAILED_OPEN,
        NFM_CC_INLINE_FAILED_CLOSED};
    uint64_t sums[NFM_CC_COUNT] = {0};
    uint64_t first = number_of("HOSTILE_SEED", 1), n = number_of("HOSTILE_SEEDS", SEEDS);
    for (uint64_t seed = first; seed < first + n && !nfm_test_failed; seed++) {
        hostile_sim s = {.state = seed * UINT64_C(0x9e3779b97f4a7c15)};
        hostile_run(&s);
        if (nfm_test_failed)
            printf("# HOSTILE_SEED=%" PRIu64 "\n", seed);
        for (int i = 0; i < NFM_CC_COUNT; i++)
            sums[i] += s.counters[i];
    }
    for (size_t i = 0; i < sizeof(met) / sizeof(met[0]) && n == SEEDS && !nfm_test_failed; i++) {
        if (sums[met[i]] <= 20)
            printf("# counter %d: %" PRIu64 "\n", (int)met[i], sums[met[i]]);
        CHECK(sums[met[i]] > 20); /* all of it has been met */
    }
}

static const nfm_test tests[] = {T(test_whatever_they_write_the_worker_goes_on)};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
