/* SPDX-License-Identifier: Apache-2.0 */
/* Application modules on a core of their own: what a subscriber sees is what it sees when they run
 * in-line, whoever is quick, slow, gone or lies. The corpus is found by NFMESH_CORPUS. */
#include <dirent.h>
#include <pthread.h>
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

/* Runs worker and hosts by turns of random length until the capture is over. Whole bursts: which
 * index a flow gets depends on where a burst ends. */
static void play(rig *r, uint64_t seed) {
    int rc = NFM_RUN_BUDGET;
    uint64_t state = seed * 2 + 1, turns = 0;
    while (rc != NFM_RUN_EOF && rc > 0 && turns++ < 2000000) {
        rc = nfm_worker_run(r->worker, NFM_BURST * (1 + random_next(&state) % 6));
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

/* With the first |n_plans|. Where nobody but a module has flows tracked, what a module says late
 * can change when a flow that it left ends (ARCHITECTURE.md): such a plan fits captures without
 * that. */
static void compare(const char *path, uint32_t n_plans, uint32_t schedules) {
    static const char *const hosted[][RIG_HOSTS + 1] = {
        {"http", "dns", NULL}, {"http", NULL, NULL}, {"dns", NULL, NULL}};
    for (uint32_t p = 0; p < n_plans && !nfm_test_failed; p++) {
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
    compare(office, N_PLANS, 24);
    compare(impaired, N_PLANS, 24);
}

/* ---- hosts that are gone, lie, or come back ---- */

static uint64_t lost_and_bad(const rig *r, const char *module, uint64_t *bad) {
    char name[64];
    snprintf(name, sizeof(name), "module.%s.bad_answers", module);
    *bad = rig_counter(r->worker, name);
    snprintf(name, sizeof(name), "module.%s.lost", module);
    return rig_counter(r->worker, name);
}

/* Lets worker and host take turns; now and then the host dies, and sometimes another comes. */
static void play_with_deaths(rig *r, uint64_t seed, uint32_t *deaths) {
    int rc = NFM_RUN_BUDGET;
    uint64_t state = seed * 2 + 1, turns = 0;
    while (rc != NFM_RUN_EOF && rc > 0 && turns++ < 200000) {
        rc = nfm_worker_run(r->worker, NFM_BURST * (1 + random_next(&state) % 2));
        bool is_there = r->host[0].host != NULL;
        if (is_there && random_next(&state) % 8 == 0) {
            rig_stop_host(r, 0);
            ++*deaths;
        } else if (!is_there && random_next(&state) % 2 == 0) {
            rig_start_host(r, 0);
        }
        for (uint32_t n = random_next(&state) % 3; n > 0 && r->host[0].host != NULL; n--)
            (void)nfm_module_host_run(r->host[0].host, 0, 0);
    }
    CHECK_EQ(rc, NFM_RUN_EOF);
}

static void test_a_host_that_dies_takes_its_events_with_it_only(void) {
    static rig r;
    uint64_t lost = 0, bad;
    uint32_t deaths = 0;
    rig_seen in_line = see(&plans[0], impaired, 1);
    for (uint64_t seed = 0; seed < 30 && !nfm_test_failed; seed++) {
        rig_plan plan = plans[0];
        plan.hosted[0] = "http";
        plan.ordered = 1;
        rig_begin(&r);
        rig_start_worker(&r, &plan, impaired);
        rig_start_host(&r, 0);
        play_with_deaths(&r, seed, &deaths);
        rig_check_empty(&r);
        lost += lost_and_bad(&r, "http", &bad);
        CHECK_EQ(bad, 0);
        CHECK_EQ(r.seen.stack, in_line.stack);
        CHECK(r.seen.entries <= in_line.entries);
        rig_stop_worker(&r);
        rig_end(&r);
    }
    CHECK(deaths > 10);
    CHECK(lost > 0);
    printf("# %u deaths, %" PRIu64 " records not answered for\n", deaths, lost);
}

static void test_a_host_that_never_comes_is_not_waited_for(void) {
    static rig r;
    uint64_t bad;
    rig_plan plan = plans[0];
    plan.hosted[0] = "http";
    plan.deadline_ns = SECOND / 50;
    rig_seen in_line = see(&plans[0], impaired, 1);
    for (plan.ordered = 0; plan.ordered < 2; plan.ordered++) {
        rig_begin(&r);
        rig_start_worker(&r, &plan, impaired);
        play(&r, 3);
        CHECK(lost_and_bad(&r, "http", &bad) > 0);
        if (plan.ordered)
            CHECK_EQ(r.seen.stack, in_line.stack);
        rig_check_empty(&r);
        rig_stop_worker(&r);
        rig_end(&r);
    }
}

/* One thing that no host says: an answer, or how far it is. */
static void tell_lies(nfm_answers *host, const nfm_hosted *asked, uint64_t *state) {
    uint64_t near = asked->ring.tail_seen + random_next(state) % 64;
    nfm_answer answer = {
        .kind = (uint8_t)(1 + random_next(state) % 5),
        .side = (uint8_t)(random_next(state) % 3),
        .event = (uint16_t)(random_next(state) % 40),
        .position = random_next(state) % 2 ? near : random_next(state),
        .data_off = random_next(state) % 3000,
        .data_len = random_next(state) % 3000,
        .fields_len = random_next(state) % 300,
    };
    uint8_t *fields = nfm_answers_write(host, &answer);
    for (uint32_t i = 0; fields != NULL && i < answer.fields_len; i++)
        fields[i] = (uint8_t)random_next(state);
    nfm_answers_publish(host);
    if (random_next(state) % 3 == 0)
        atomic_store(&host->shared->done, near + (random_next(state) % 8 == 0) * 100000);
    if (random_next(state) % 16 == 0)
        atomic_store(&asked->ring.shared->tail, near);
    if (random_next(state) % 64 == 0)
        atomic_store(&host->shared->session, random_next(state) % 3);
}

static void test_a_host_that_lies_is_not_heard(void) {
    static rig r;
    uint64_t bad = 0, one;
    rig_seen in_line = see(&plans[0], impaired, 1);
    for (uint64_t seed = 0; seed < 150 && !nfm_test_failed; seed++) {
        rig_plan plan = plans[0];
        plan.hosted[0] = "http";
        plan.deadline_ns = SECOND / 100;
        plan.ordered = 1;
        rig_begin(&r);
        rig_start_worker(&r, &plan, impaired);
        nfm_answers host;
        CHECK_EQ(nfm_answers_open(&host, r.host[0].answers_fd, true, NULL), NFM_OK);
        atomic_store(&host.shared->session, 1);
        uint64_t state = seed * 2 + 1, turns = 0;
        uint32_t http = 0;
        while (r.worker->hosts->of[http] == NULL)
            http++;
        int rc;
        do {
            rc = nfm_worker_run(r.worker, NFM_BURST * (1 + random_next(&state) % 2));
            for (uint32_t n = random_next(&state) % 4; n > 0; n--)
                tell_lies(&host, r.worker->hosts->of[http], &state);
        } while (rc != NFM_RUN_EOF && rc > 0 && turns++ < 200000);
        CHECK_EQ(rc, NFM_RUN_EOF);
        rig_check_empty(&r);
        CHECK_EQ(r.seen.stack, in_line.stack);
        (void)lost_and_bad(&r, "http", &one);
        bad += one;
        nfm_answers_close(&host);
        rig_stop_worker(&r);
        rig_end(&r);
    }
    CHECK(bad > 50);
}

static void test_a_worker_begun_again_finds_hosts_that_begin_anew(void) {
    static rig r;
    rig_seen in_line = see(&plans[1], impaired, 1);
    for (uint64_t seed = 1; seed < 12 && !nfm_test_failed; seed++) {
        rig_plan plan = plans[1];
        uint64_t state = seed;
        plan.hosted[0] = "http";
        plan.hosted[1] = "dns";
        plan.ordered = 1;
        rig_begin(&r);
        rig_start_worker(&r, &plan, impaired);
        for (uint32_t i = 0; i < r.n_hosts; i++)
            rig_start_host(&r, i);
        for (uint64_t turn = 0; turn < seed * 3; turn++) {
            (void)nfm_worker_run(r.worker, NFM_BURST);
            for (uint32_t i = 0; i < r.n_hosts; i++)
                if (random_next(&state) % 2)
                    (void)nfm_module_host_run(r.host[i].host, 0, 0);
        }
        rig_stop_worker(&r); /* as a kill would: nothing is told to the hosts */
        memset(&r.seen, 0, sizeof(r.seen));
        rig_start_worker(&r, &plan, impaired);
        play(&r, seed);
        rig_check_empty(&r);
        check_same(&in_line, &r.seen, true);
        CHECK(rig_counter(r.worker, "http.requests") > 0);
        rig_stop_worker(&r);
        rig_end(&r);
    }
}

/* ---- threads, and subscriptions that change ---- */

static void *serve(void *arg) {
    rig_host *host = arg;
    while (nfm_module_host_run(host->host, 0, SECOND) != NFM_RING_ENDED)
        continue;
    return NULL;
}

static void run_to(rig *r, uint64_t packets) {
    nfm_worker_stats stats;
    int rc = NFM_RUN_BUDGET;
    nfm_worker_stats_get(r->worker, &stats);
    while (rc != NFM_RUN_EOF && rc > 0 && stats.packets < packets) {
        rc = nfm_worker_run(r->worker, packets - stats.packets);
        nfm_worker_stats_get(r->worker, &stats);
    }
}

/* Stops hearing after so many packets, and begins again later. */
static rig_seen see_in_pieces(const rig_plan *plan, const char *path, uint64_t packets) {
    static rig r;
    pthread_t threads[RIG_HOSTS];
    rig_begin(&r);
    rig_start_worker(&r, plan, path);
    for (uint32_t i = 0; i < r.n_hosts; i++) {
        rig_start_host(&r, i);
        CHECK_EQ(pthread_create(&threads[i], NULL, serve, &r.host[i]), 0);
    }
    run_to(&r, packets);
    CHECK_EQ(nfm_worker_unsubscribe(r.worker, r.sub_number), NFM_OK);
    run_to(&r, packets * 2);
    r.sub_number = (uint32_t)nfm_worker_subscribe(r.worker, &r.sub);
    run_to(&r, packets * 3);
    CHECK_EQ(nfm_worker_unsubscribe(r.worker, r.sub_number), NFM_OK);
    r.sub_number = (uint32_t)nfm_worker_subscribe(r.worker, &r.sub);
    run_to(&r, UINT64_MAX);
    rig_check_empty(&r);
    nfm_worker_end_rings(r.worker);
    for (uint32_t i = 0; i < r.n_hosts; i++)
        pthread_join(threads[i], NULL);
    rig_stop_worker(&r);
    rig_end(&r);
    return r.seen;
}

static void test_subscriptions_change_at_the_same_packet(void) {
    for (uint64_t packets = 7; packets < 400 && !nfm_test_failed; packets = packets * 2 + 3) {
        for (uint32_t p = 0; p < N_PLANS; p++) {
            rig_plan plan = plans[p];
            rig_seen in_line = see_in_pieces(&plan, office, packets);
            plan.hosted[0] = "http";
            plan.hosted[1] = "dns";
            for (plan.ordered = 0; plan.ordered < 2; plan.ordered++) {
                rig_seen seen = see_in_pieces(&plan, office, packets);
                check_same(&in_line, &seen, plan.ordered);
                if (nfm_test_failed)
                    printf("# plan %u, %" PRIu64 " packets\n", p, packets);
            }
        }
    }
}

/* Compares on one capture in |every|. */
static void compare_all(const char *folder, uint32_t every, uint32_t *n) {
    DIR *dir = opendir(folder);
    struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL && !nfm_test_failed) {
        char path[1024];
        struct stat st;
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        if (entry->d_name[0] == '.' || stat(path, &st) != 0)
            continue;
        if (S_ISDIR(st.st_mode)) {
            compare_all(path, every, n);
        } else if (strstr(entry->d_name, ".pcap") != NULL && st.st_size < 1 << 20) {
            nfm_port *port = nfm_port_pcap_open(path, NULL);
            if (port == NULL)
                continue;
            nfm_port_free(port);
            if ((*n)++ % every == 0)
                compare(path, 2, 2);
        }
    }
    if (dir != NULL)
        closedir(dir);
}

static void test_corpus(void) {
    const char *corpus = getenv("NFMESH_CORPUS");
    uint32_t n = 0, every = corpus != NULL ? 1 : 16; /* all of them when somebody asks */
    compare_all(corpus != NULL ? corpus : "../shared/corpus", every, &n);
    printf("# %u captures of the corpus, one in %u compared\n", n, every);
}

static const nfm_test tests[] = {
    T(test_random_turns_change_nothing),
    T(test_a_host_that_dies_takes_its_events_with_it_only),
    T(test_a_host_that_never_comes_is_not_waited_for),
    T(test_a_host_that_lies_is_not_heard),
    T(test_a_worker_begun_again_finds_hosts_that_begin_anew),
    T(test_subscriptions_change_at_the_same_packet),
    T(test_corpus),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
