/* SPDX-License-Identifier: Apache-2.0 */
/* Hostile input through the whole stack: every capture of a corpus, cut and damaged at random, and
 * floods. Nothing may crash, leak or grow. The corpus is found by NFMESH_CORPUS or in
 * ../shared/corpus; without it those tests run on the project's own captures only. */
#include <dirent.h>
#include <sys/stat.h>

#include "engine/worker.h"
#include "nfm_test.h"
#include "small_pools.h"
#include "wire/emit.h"

enum { RING = 4096, PATHS_MAX = 4096, MAX_FLOWS = 4096, FLOOD_SLOTS = 4096 };

static uint64_t seen;

/* Reads what an NF would read of each record. */
static int consume(void *state, const nfm_batch *batch) {
    uint64_t *sum = state;
    for (uint32_t i = 0; i < batch->n; i++) {
        const nfm_record *record = &batch->mem->records[batch->desc[i].record];
        nfm_view views[2] = {nfm_record_data(batch->mem, record),
                             nfm_record_frame(batch->mem, record)};
        for (int v = 0; v < 2; v++)
            for (uint32_t b = 0; b < views[v].len; b++)
                *sum += views[v].data[b];
        if (record->kind == NFM_REC_APP)
            for (uint32_t b = 0; b < record->app.fields_len; b++)
                *sum += batch->mem->fields[record->app.fields + b];
    }
    *sum += batch->n;
    return NFM_OK;
}

/* A worker with every module and one subscriber to everything. Small pools are made quickly. */
static nfm_worker *make(nfm_port *port, bool verify_checksums, uint32_t slots) {
    nfm_error err = {0};
    nfm_worker_config config;
    nfm_worker_config_init(&config);
    config.max_flows = MAX_FLOWS;
    config.n_small = slots;
    config.n_large = 16;
    config.n_records = 4 * slots;
    config.verify_checksums = verify_checksums;
    nfm_worker *worker = nfm_worker_new(&config, &err);
    CHECK(worker != NULL);
    CHECK_EQ(nfm_worker_add_port(worker, port), NFM_OK);
    uint32_t n, type = 1;
    uint64_t apps = 0;
    const nfm_module *const *modules = nfm_builtin_modules(&n);
    for (uint32_t i = 0; i < n; i++) {
        nfm_module_info info;
        uint32_t types[NFM_MAX_EMITS] = {0};
        CHECK_EQ(nfm_module_describe(modules[i], &info), NFM_OK);
        for (uint32_t e = 0; e < info.n_emits; e++)
            types[e] = info.phase == NFM_PHASE_APP ? type++ : 0;
        small_pools pools = small_pools_of(modules[i]);
        int index = nfm_worker_add_module(worker, modules[i], pools.limits, types, &err);
        CHECK_EQ(index, (int)i);
        apps |= info.phase == NFM_PHASE_APP ? UINT64_C(1) << index : 0;
    }
    nfm_subscription sub = {
        .ring = nfm_worker_add_ring(worker, RING, &err),
        .level = NFM_LEVEL_DATA,
        .events = NFM_BIT(NFM_EV_COUNT) - 1,
        .type_first = 1,
        .type_last = type,
        .modules = apps,
    };
    CHECK_EQ(nfm_worker_attach_native(worker, sub.ring, consume, &seen), NFM_OK);
    CHECK_EQ(nfm_worker_subscribe(worker, &sub), NFM_OK);
    CHECK_EQ(nfm_worker_start(worker, &err), NFM_OK);
    return worker;
}

/* Runs to the end; everything that was taken must have been given back. */
static nfm_worker_stats run(nfm_worker *worker) {
    nfm_worker_stats stats;
    int rc;
    while ((rc = nfm_worker_run(worker, 65536)) != NFM_RUN_EOF && rc > 0)
        continue;
    CHECK_EQ(rc, NFM_RUN_EOF);
    nfm_worker_stats_get(worker, &stats);
    CHECK_EQ(stats.slots_used, 0);
    CHECK_EQ(stats.records_used, 0);
    CHECK_EQ(stats.flows_now, 0);
    CHECK_EQ(stats.flows_opened, stats.flows_closed);
    return stats;
}

static uint64_t counter(const nfm_worker *worker, const char *name) {
    nfm_counter all[256];
    uint32_t n = nfm_worker_counters(worker, all, 256);
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(all[i].name, name) == 0)
            return all[i].value;
    CHECK(!"no such counter");
    return 0;
}

/* ---- captures ---- */

typedef struct paths {
    char *path[PATHS_MAX];
    uint32_t n;
} paths;

static void collect(paths *p, const char *folder) {
    DIR *dir = opendir(folder);
    struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char path[1024];
        struct stat st;
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        if (entry->d_name[0] == '.' || stat(path, &st) != 0)
            continue;
        if (S_ISDIR(st.st_mode))
            collect(p, path);
        else if (strstr(entry->d_name, ".pcap") != NULL && p->n < PATHS_MAX)
            p->path[p->n++] = strdup(path);
    }
    if (dir != NULL)
        closedir(dir);
}

static paths find_captures(void) {
    paths p = {.n = 0};
    const char *corpus = getenv("NFMESH_CORPUS");
    collect(&p, "tests/captures");
    CHECK(p.n > 0);
    uint32_t own = p.n;
    collect(&p, corpus != NULL ? corpus : "../shared/corpus");
    printf("# %u captures of the project, %u of the corpus\n", own, p.n - own);
    return p;
}

static void forget(paths *p) {
    for (uint32_t i = 0; i < p->n; i++)
        free(p->path[i]);
}

static void test_every_capture_leaves_nothing_behind(void) {
    paths p = find_captures();
    uint64_t packets = 0;
    for (uint32_t i = 0; i < p.n && !nfm_test_failed; i++) {
        nfm_error err = {0};
        nfm_port *port = nfm_port_pcap_open(p.path[i], &err);
        if (port == NULL) {
            CHECK(err.text[0] != '\0'); /* not a capture, and it says so */
            continue;
        }
        nfm_worker *worker = make(port, i % 2, 1024);
        packets += run(worker).packets;
        if (nfm_test_failed)
            printf("# %s\n", p.path[i]);
        nfm_worker_free(worker);
        nfm_port_free(port);
    }
    printf("# %" PRIu64 " packets, %" PRIu64 " bytes and records read\n", packets, seen);
    CHECK(packets > 100);
    forget(&p);
}

static uint64_t rng = 88172645463325252ull;

static uint64_t next_random(void) {
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng;
}

/* Pushes each frame of a capture with bytes changed, cut, repeated or left out, times jumbled. */
static nfm_port *damaged(const char *path) {
    nfm_error err = {0};
    nfm_port *from = nfm_port_pcap_open(path, &err), *to = nfm_port_mem_new(1, &err);
    nfm_pool pool;
    static uint8_t packets[64 * NFM_SLOT_SMALL + 2 * NFM_SLOT_LARGE];
    nfm_frame frames[NFM_BURST];
    int n;
    CHECK_EQ(nfm_pool_init(&pool, packets, 64, 2), NFM_OK);
    while (from != NULL && (n = from->ops->rx(from, &pool, frames, NFM_BURST)) > 0) {
        for (int i = 0; i < n; i++) {
            uint8_t *frame = nfm_pool_addr(&pool, frames[i].slot) + NFM_HEADROOM;
            uint32_t len = frames[i].len;
            for (uint64_t flips = next_random() % 4; flips > 0 && len > 0; flips--)
                frame[next_random() % (len < 90 ? len : 90)] = (uint8_t)next_random();
            if (next_random() % 8 == 0 && len > 0)
                len = (uint32_t)(next_random() % len);
            int64_t ts = frames[i].ts_ns + (int64_t)(next_random() % 3000000000u);
            for (uint64_t copies = next_random() % 16 ? 1 : next_random() % 3; copies > 0; copies--)
                nfm_port_mem_push(to, frame, len, frames[i].wire_len, ts);
            nfm_pool_put(&pool, frames[i].slot);
        }
    }
    nfm_pool_fini(&pool);
    nfm_port_free(from);
    return to;
}

static void test_damaged_captures_leave_nothing_behind(void) {
    paths p = find_captures();
    for (uint32_t i = 0; i < p.n && !nfm_test_failed; i++) {
        nfm_port *port = damaged(p.path[i]);
        nfm_worker *worker = make(port, false, 1024);
        run(worker);
        if (nfm_test_failed)
            printf("# %s\n", p.path[i]);
        nfm_worker_free(worker);
        nfm_port_free(port);
    }
    forget(&p);
}

/* ---- floods ---- */

static void push_tcp(nfm_port *port, uint32_t source, uint16_t sport, uint32_t seq, uint8_t flags,
                     uint32_t len, int64_t ts_ns) {
    uint8_t frame[2048];
    static const uint8_t payload[1400];
    nfm_emit_buf buf = {frame, sizeof(frame), 0};
    nfm_ip_fields ip = {.ttl = 64};
    nfm_tcp_fields tcp = {.seq = seq, .ack = flags & 16 ? 1 : 0, .window = 8192, .flags = flags};
    nfm_key key;
    memset(&key, 0, sizeof(key));
    key.ip_version = 4;
    key.proto = 6;
    nfm_write32(key.addr[0], source);
    nfm_write32(key.addr[1], 0x0a000001);
    key.port[0] = sport;
    key.port[1] = 80;
    nfm_emit_eth(&buf, payload, payload, 0x0800);
    nfm_emit_ipv4(&buf, &key, &ip, 20 + len);
    nfm_emit_tcp(&buf, &key, &tcp, (nfm_view){payload, len});
    CHECK_EQ(nfm_port_mem_push(port, frame, buf.len, buf.len, ts_ns), NFM_OK);
}

static void test_syn_flood_is_shed_and_counted(void) {
    nfm_error err = {0};
    nfm_port *port = nfm_port_mem_new(1, &err);
    for (uint32_t i = 0; i < 100000; i++)
        push_tcp(port, 0xc0000000 + i, (uint16_t)i, i, 2, 0, 1000 + i);
    nfm_worker *worker = make(port, false, FLOOD_SLOTS);
    uint64_t most = 0;
    nfm_worker_stats stats;
    while (nfm_worker_run(worker, 1000) != NFM_RUN_EOF) {
        nfm_worker_stats_get(worker, &stats);
        most = stats.flows_now > most ? stats.flows_now : most;
    }
    CHECK(most <= MAX_FLOWS);
    run(worker);
    nfm_worker_stats_get(worker, &stats);
    CHECK_EQ(stats.flows_opened, 100000);
    CHECK(counter(worker, "flow.evicted") >= 100000 - MAX_FLOWS);
    CHECK_EQ(counter(worker, "flow.table_full"), 0);
    nfm_worker_free(worker);
    nfm_port_free(port);
}

static void test_holes_everywhere_stay_within_the_caps(void) {
    nfm_error err = {0};
    nfm_port *port = nfm_port_mem_new(1, &err);
    for (uint32_t flow = 0; flow < 1000; flow++)
        push_tcp(port, 0xc0000000 + flow, 5000, 99, 2, 0, 1000);
    for (uint32_t i = 0; i < 40000; i++) /* every segment leaves a hole in front of it */
        push_tcp(port, 0xc0000000 + i % 1000, 5000, 100 + 3000 * (1 + i / 1000), 16, 1400,
                 2000 + i);
    nfm_worker *worker = make(port, false, FLOOD_SLOTS);
    nfm_worker_stats stats;
    uint64_t most = 0;
    while (nfm_worker_run(worker, 500) != NFM_RUN_EOF) {
        nfm_worker_stats_get(worker, &stats);
        most = stats.slots_used > most ? stats.slots_used : most;
    }
    CHECK(most > 500);         /* it did hold segments, */
    CHECK(most < FLOOD_SLOTS); /* and never all slots */
    run(worker);
    nfm_worker_free(worker);
    nfm_port_free(port);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(test_every_capture_leaves_nothing_behind),
        T(test_damaged_captures_leave_nothing_behind),
        T(test_syn_flood_is_shed_and_counted),
        T(test_holes_everywhere_stay_within_the_caps),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
