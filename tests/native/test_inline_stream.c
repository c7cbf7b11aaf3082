/* SPDX-License-Identifier: Apache-2.0 */
/* Streams that somebody decides on: nothing unjudged leaves, whatever the segments do. */
#include "stream_sim.h"

enum { SEEDS = 400 };

/* SIM_SEED says which connection to look at alone, SIM_SEEDS how many to have. */
static uint64_t number_of(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text == NULL ? otherwise : strtoull(text, NULL, 10);
}

static void test_what_leaves_is_what_was_accepted(void) {
    static const enum nfm_core_counter met[] = {NFM_CC_INLINE_WITHHELD, NFM_CC_INLINE_AGAIN,
                                                NFM_CC_INLINE_REPLACED, NFM_CC_INLINE_UNEDITED,
                                                NFM_CC_INLINE_DROPPED};
    uint64_t sums[NFM_CC_COUNT] = {0};
    uint64_t first = number_of("SIM_SEED", 1), n = number_of("SIM_SEEDS", SEEDS);
    for (uint64_t seed = first; seed < first + n && !nfm_test_failed; seed++) {
        stream_sim *s = calloc(1, sizeof(*s));
        s->random.state = seed * UINT64_C(0x9e3779b97f4a7c15);
        sim_run(s);
        if (nfm_test_failed)
            printf("# SIM_SEED=%" PRIu64 "\n", seed);
        for (int i = 0; i < NFM_CC_COUNT; i++)
            sums[i] += s->counters[i];
        free(s);
    }
    for (size_t i = 0; i < sizeof(met) / sizeof(met[0]) && n == SEEDS && !nfm_test_failed; i++)
        CHECK(sums[met[i]] > 50); /* all of it has been met */
    CHECK_EQ(sums[NFM_CC_INLINE_NO_ROOM] + sums[NFM_CC_INLINE_BAD], 0);
}

static const nfm_test tests[] = {
    T(test_what_leaves_is_what_was_accepted),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
