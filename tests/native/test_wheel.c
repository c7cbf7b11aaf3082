/* SPDX-License-Identifier: Apache-2.0 */
#include "flow/wheel.h"
#include "nfm_test.h"

#define SECOND INT64_C(1000000000)
enum { N = 512 };

static nfm_wheel wheel;
static nfm_flow flows[N];

static void begin(int64_t now) {
    memset(flows, 0, sizeof(flows));
    nfm_wheel_init(&wheel, flows, sizeof(flows[0]), now);
}

static void test_comes_up_after_its_deadline_and_not_before(void) {
    begin(1000 * SECOND);
    nfm_wheel_add(&wheel, 3, 1010 * SECOND);
    CHECK_EQ(nfm_wheel_pop(&wheel, 1009 * SECOND), NFM_NO_FLOW);
    CHECK_EQ(nfm_wheel_pop(&wheel, 1011 * SECOND), 3);
    CHECK_EQ(nfm_wheel_pop(&wheel, 1011 * SECOND), NFM_NO_FLOW);
}

static void test_removed_timer_never_comes_up(void) {
    begin(0);
    for (uint32_t i = 0; i < 5; i++)
        nfm_wheel_add(&wheel, i, SECOND);
    nfm_wheel_remove(&wheel, 2);
    nfm_wheel_remove(&wheel, 4);
    nfm_wheel_remove(&wheel, 4); /* harmless */
    unsigned seen = 0;
    for (uint32_t i; (i = nfm_wheel_pop(&wheel, 3 * SECOND)) != NFM_NO_FLOW;)
        seen |= 1u << i;
    CHECK_EQ(seen, 0x0b);
}

static void test_far_deadline_comes_up_at_the_horizon(void) {
    begin(0);
    nfm_wheel_add(&wheel, 1, 100000 * SECOND);
    CHECK_EQ(nfm_wheel_pop(&wheel, 1000 * SECOND), NFM_NO_FLOW);
    CHECK_EQ(nfm_wheel_pop(&wheel, 1200 * SECOND), 1); /* owner re-arms */
}

static void test_jump_of_years_visits_everything_once(void) {
    begin(0);
    for (uint32_t i = 0; i < N; i++)
        nfm_wheel_add(&wheel, i, (int64_t)i * 3 * SECOND);
    uint32_t count = 0;
    while (nfm_wheel_pop(&wheel, INT64_C(100000000) * SECOND) != NFM_NO_FLOW)
        count++;
    CHECK_EQ(count, N);
    nfm_wheel_add(&wheel, 0, INT64_C(100000001) * SECOND);
    CHECK_EQ(nfm_wheel_pop(&wheel, INT64_C(100000002) * SECOND), 0);
}

static void test_random_deadlines_within_one_tick(void) {
    begin(0);
    static int64_t deadline[N];
    uint64_t x = 1234567;
    for (uint32_t i = 0; i < N; i++) {
        x = x * 6364136223846793005ull + 1;
        deadline[i] = (int64_t)(x >> 33) % (900 * SECOND);
        nfm_wheel_add(&wheel, i, deadline[i]);
    }
    for (int64_t now = 0; now < 1000 * SECOND; now += SECOND / 10) {
        for (uint32_t i; (i = nfm_wheel_pop(&wheel, now)) != NFM_NO_FLOW;) {
            CHECK(deadline[i] <= now);
            CHECK(deadline[i] > now - SECOND);
            deadline[i] = INT64_MAX;
        }
    }
    for (uint32_t i = 0; i < N; i++)
        CHECK_EQ(deadline[i], INT64_MAX);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(test_comes_up_after_its_deadline_and_not_before),
        T(test_removed_timer_never_comes_up),
        T(test_far_deadline_comes_up_at_the_horizon),
        T(test_jump_of_years_visits_everything_once),
        T(test_random_deadlines_within_one_tick),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
