/* SPDX-License-Identifier: Apache-2.0 */
/* Application modules on a core of their own: what a subscriber sees is what it sees when they run
 * in-line, whoever is quick, slow, gone or lies. The corpus is found by NFMESH_CORPUS. */
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>

#include "hosted_rig.h"

#define SECOND INT64_C(1000000000)
#define ALL_EVENTS (NFM_BIT(NFM_EV_COUNT) - 1)
#define TRACK_EVENTS                                                                               \
    (NFM_BIT(NFM_EV_PACKET_TCP) | NFM_BIT(NFM_EV_FLOW_START) | NFM_BIT(NFM_EV_FLOW_END) |          \
     NFM_BIT(NFM_EV_TCP_STATE))
#define PACKET_EVENTS (NFM_BIT(NFM_EV_PACKET_TCP) | NFM_BIT(NFM_EV_FLOW_START))

static const char office[] = "tests/captures/office.pcap";
static const char impaired[] = "tests/captures/impaired.pcap";

/* What subscribers hear decides what the stack does without the modules. */
static const rig_plan plans[] = {
    {.events = ALL_EVENTS, .level = NFM_LEVEL_DATA, .deadline_ns = 20 * SECOND},
    {.events = TRACK_EVENTS, .level = NFM_LEVEL_TRACK, .deadline_ns = 20 * SECOND},
    {.events = PACKET_EVENTS, .level = NFM_LEVEL_PACKET, .deadline_ns = 20 * SECOND},
};
enum { N_PLANS = sizeof(plans) / sizeof(plans[0]) };

static uint32_t random_next(uint64_t *state) { /* xorshift64 (Marsaglia 2003) */
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)(*state >> 16);
}

/* Runs worker and hosts by turns of random length until the capture is over. */
static void play(rig *r, uint64_t seed) {
    int rc = NFM_RUN_BUDGET;
    uint64_t state = seed * 2 + 1, turns = 0;
    while (rc != NFM_RUN_EOF && rc > 0 && turns++ < 2000000) {
        rc = nfm_worker_run(r->worker, 1 + random_next(&state) % 200);
        for (uint32_t i = 0; i < r->n_hosts; i++)
            for (uint32_t n = random_next(&state) % 6; n > 0 && r->host[i].host != NULL; n--)
                (void)nfm_module_host_run(r->host[i].host, 0, 0);
    }
    CHECK_EQ(rc, NFM_RUN_EOF);
}

static rig_seen see(const rig_plan *plan, const char *path, uint64_t seed) {
    static rig r;
    rig_begin(&r);
    rig_start_worker(&r, plan, path);
    for (uint32_t i = 0; i < r.n_hosts; i++)
        rig_start_host(&r, i);
    play(&r, seed);
    rig_check_empty(&r);
    for (uint32_t i = 0; i < r.n_hosts; i++) {
        char name[64];
        snprintf(name, sizeof(name), "module.%s.lost", r.host[i].module->name);
        CHECK_EQ(rig_counter(r.worker, name), 0);
        snprintf(name, sizeof(name), "module.%s.bad_answers", r.host[i].module->name);
        CHECK_EQ(rig_counter(r.worker, name), 0);
    }
    rig_stop_worker(&r);
    rig_end(&r);
    return r.seen;
}

static void check_same(const rig_seen *in_line, const rig_seen *hosted, bool ordered) {
    CHECK_EQ(hosted->entries, in_line->entries);
    if (ordered)
        CHECK_EQ(hosted->all, in_line->all);
    CHECK(memcmp(hosted->of_flow, in_line->of_flow, sizeof(in_line->of_flow)) == 0);
    CHECK(memcmp(hosted->by_type, in_line->by_type, sizeof(in_line->by_type)) == 0);
}

static void compare(const char *path, uint32_t schedules) {
    static const char *const hosted[][RIG_HOSTS + 1] = {
        {"http", "dns", NULL}, {"http", NULL, NULL}, {"dns", NULL, NULL}};
    for (uint32_t p = 0; p < N_PLANS && !nfm_test_failed; p++) {
        rig_seen in_line = see(&plans[p], path, 1);
        for (uint32_t i = 0; i < schedules && !nfm_test_failed; i++) {
            rig_plan plan = plans[p];
            memcpy(plan.hosted, hosted[i % 3], sizeof(plan.hosted));
            plan.ordered = i / 3 % 2;
            rig_seen seen = see(&plan, path, i + 1);
            check_same(&in_line, &seen, plan.ordered);
            if (nfm_test_failed)
                printf("# %s, plan %u, schedule %u\n", path, p, i);
        }
    }
}

static void test_random_turns_change_nothing(void) {
    compare(office, 24);
    compare(impaired, 24);
}

static void compare_all(const char *folder, uint32_t *n) {
    DIR *dir = opendir(folder);
    struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL && !nfm_test_failed) {
        char path[1024];
        struct stat st;
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        if (entry->d_name[0] == '.' || stat(path, &st) != 0)
            continue;
        if (S_ISDIR(st.st_mode)) {
            compare_all(path, n);
        } else if (strstr(entry->d_name, ".pcap") != NULL && st.st_size < 1 << 20) {
            nfm_port *port = nfm_port_pcap_open(path, NULL);
            if (port == NULL)
                continue;
            nfm_port_free(port);
            compare(path, 2);
            ++*n;
        }
    }
    if (dir != NULL)
        closedir(dir);
}

static void test_corpus(void) {
    const char *corpus = getenv("NFMESH_CORPUS");
    uint32_t n = 0;
    compare_all(corpus != NULL ? corpus : "../shared/corpus", &n);
    printf("# %u captures of the corpus\n", n);
}

static const nfm_test tests[] = {
    T(test_random_turns_change_nothing),
    T(test_corpus),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
