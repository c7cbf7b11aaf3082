/* SPDX-License-Identifier: Apache-2.0 */
#include "flow/table.h"
#include "nfm_test.h"

static nfm_table make(uint32_t max_flows) {
    nfm_worker_config config;
    nfm_worker_config_init(&config);
    config.max_flows = max_flows;
    nfm_table table;
    CHECK_EQ(nfm_table_init(&table, &config, NULL, NULL), NFM_OK);
    CHECK_EQ(nfm_table_start(&table, 24, NULL), NFM_OK);
    return table;
}

/* Key number i; v6 for every third. */
static nfm_key key_of(uint32_t i) {
    nfm_key key;
    memset(&key, 0, sizeof(key));
    key.ip_version = i % 3 == 0 ? 6 : 4;
    key.proto = 6;
    memcpy(key.addr[0], &i, 4);
    memcpy(key.addr[1], "\xc0\xa8\x00\x01", 4);
    if (key.ip_version == 6)
        memcpy(key.addr[0] + 12, &i, 4);
    key.port[0] = (uint16_t)(1024 + i % 60000);
    key.port[1] = 443;
    return key;
}

static nfm_key reversed(const nfm_key *key) {
    nfm_key back = *key;
    memcpy(back.addr[0], key->addr[1], 16);
    memcpy(back.addr[1], key->addr[0], 16);
    back.port[0] = key->port[1];
    back.port[1] = key->port[0];
    return back;
}

static void test_both_directions_find_one_flow(void) {
    nfm_table t = make(1024);
    nfm_key key = key_of(7), back = reversed(&key);
    uint64_t hash = nfm_hash_flow(&t.key, &key);
    CHECK_EQ(hash, nfm_hash_flow(&t.key, &back));
    uint32_t index = nfm_table_insert(&t, &key, hash, 0);
    uint8_t side = 9;
    CHECK_EQ(nfm_table_find(&t, &key, hash, &side), index);
    CHECK_EQ(side, 0);
    CHECK_EQ(nfm_table_find(&t, &back, hash, &side), index);
    CHECK_EQ(side, 1);
    nfm_table_fini(&t);
}

static void test_receiver_can_be_side_0(void) {
    nfm_table t = make(1024);
    nfm_key key = key_of(8);
    uint64_t hash = nfm_hash_flow(&t.key, &key);
    uint32_t index = nfm_table_insert(&t, &key, hash, 1);
    uint8_t side;
    CHECK_EQ(nfm_table_find(&t, &key, hash, &side), index);
    CHECK_EQ(side, 1);
    CHECK(memcmp(nfm_table_flow(&t, index)->key.addr[0], key.addr[1], 16) == 0);
    nfm_table_fini(&t);
}

/* Insert, remove and look up at random against an array of what must be there. */
static void test_random_operations_agree_with_a_model(void) {
    enum { N = 40000, STEPS = 400000 };
    nfm_table t = make(65536);
    uint32_t *where = malloc(sizeof(uint32_t) * N);
    memset(where, 0xff, sizeof(uint32_t) * N);
    uint64_t x = 88172645463325252ull;
    uint32_t live = 0;
    for (int step = 0; step < STEPS; step++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        uint32_t i = (uint32_t)(x >> 20) % N;
        nfm_key key = key_of(i);
        uint64_t hash = nfm_hash_flow(&t.key, &key);
        uint8_t side;
        CHECK_EQ(nfm_table_find(&t, &key, hash, &side), where[i]);
        if (where[i] == NFM_NO_FLOW) {
            where[i] = nfm_table_insert(&t, &key, hash, 0);
            CHECK(where[i] != NFM_NO_FLOW);
            live++;
        } else if (x & 1) {
            nfm_table_remove(&t, where[i]);
            nfm_table_recycle(&t, where[i]);
            where[i] = NFM_NO_FLOW;
            live--;
        }
        CHECK_EQ(t.n_flows, live);
        if (nfm_test_failed)
            break;
    }
    CHECK(t.n_buckets > 1024); /* it grew on the way */
    for (uint32_t i = 0; i < N; i++) {
        nfm_key key = key_of(i);
        uint8_t side;
        CHECK_EQ(nfm_table_find(&t, &key, nfm_hash_flow(&t.key, &key), &side), where[i]);
    }
    free(where);
    nfm_table_fini(&t);
}

/* Overflow buckets come back: years of comings and goings do not use them up. */
static void test_churn_does_not_exhaust_overflow_buckets(void) {
    enum { LIVE = 3800 };
    nfm_table t = make(4096);
    uint32_t *ring = malloc(sizeof(uint32_t) * LIVE);
    for (uint32_t i = 0; i < 300000 && !nfm_test_failed; i++) {
        if (i >= LIVE) {
            nfm_table_remove(&t, ring[i % LIVE]);
            nfm_table_recycle(&t, ring[i % LIVE]);
        }
        nfm_key key = key_of(i);
        ring[i % LIVE] = nfm_table_insert(&t, &key, nfm_hash_flow(&t.key, &key), 0);
        CHECK(ring[i % LIVE] != NFM_NO_FLOW);
    }
    free(ring);
    nfm_table_fini(&t);
}

static void test_full_table_refuses(void) {
    nfm_table t = make(1024);
    for (uint32_t i = 0; i < 1024; i++) {
        nfm_key key = key_of(i);
        CHECK(nfm_table_insert(&t, &key, nfm_hash_flow(&t.key, &key), 0) != NFM_NO_FLOW);
    }
    nfm_key key = key_of(5000);
    CHECK_EQ(nfm_table_insert(&t, &key, nfm_hash_flow(&t.key, &key), 0), NFM_NO_FLOW);
    nfm_table_fini(&t);
}

static void test_hash_spreads_sequential_keys(void) {
    nfm_table t = make(1024);
    uint32_t count[256] = {0}, most = 0;
    for (uint32_t i = 0; i < 65536; i++) {
        nfm_key key = key_of(i);
        count[nfm_hash_flow(&t.key, &key) & 255]++;
    }
    for (int i = 0; i < 256; i++)
        most = count[i] > most ? count[i] : most;
    CHECK(most < 256 + 6 * 16); /* mean 256, six standard deviations */
    nfm_table_fini(&t);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(test_both_directions_find_one_flow),           T(test_receiver_can_be_side_0),
        T(test_random_operations_agree_with_a_model),    T(test_full_table_refuses),
        T(test_churn_does_not_exhaust_overflow_buckets), T(test_hash_spreads_sequential_keys),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
