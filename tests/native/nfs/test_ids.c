/* SPDX-License-Identifier: Apache-2.0 */
/* The native half of ids on hand-made records: rules by hand, bytes at random, hostile fields. */
#include "nfm_test.h"

#include "ids.h"

enum { TYPE_REQUEST = 70, N_FLOWS = 64, DATA_OFF = 256 };

/* Chains: 0 "needle", 1 "ab", 2 not "zz" within 8 bytes from the begin, 3 "cd" without 'x' in the
 * next 3 bytes; 4 "pay" in packets; 5 "/etc", 6 not "safe", 7 a cookie "k" in requests. */
static const ids_pattern patterns[] = {
    {.expression = "needle", .most = IDS_END, .uses = {0, 1}, .buffer = 0},
    {.expression = "ab", .most = IDS_END, .uses = {1, 1}, .buffer = 0, .once = 1},
    {.expression = "zz", .most = 8, .uses = {2, 1}, .buffer = 0, .from_begin = 1, .once = 1},
    {.expression = "cd", .most = IDS_END, .uses = {3, 1}, .buffer = 0},
    {.expression = "x", .most = IDS_END, .uses = {4, 1}, .buffer = 0},
    {.expression = "pay", .most = IDS_END, .uses = {5, 1}, .buffer = 1, .once = 1},
    {.expression = "\\x2fetc", .most = IDS_END, .uses = {6, 1}, .buffer = 2, .once = 1},
    {.expression = "safe", .most = IDS_END, .uses = {7, 1}, .buffer = 3, .once = 1},
    {.expression = "k", .most = IDS_END, .uses = {8, 1}, .buffer = 4, .once = 1},
};
static const ids_use uses[] = {{0, IDS_HEAD}, {1, IDS_HEAD}, {2, IDS_HEAD}, {3, IDS_HEAD}, {3, 0},
                               {4, IDS_HEAD}, {5, IDS_HEAD}, {6, IDS_HEAD}, {7, IDS_HEAD}};
static const ids_chain chains[] = {
    {.rule = 0},
    {.rule = 1},
    {.rule = 1, .negated = 1, .until = 8, .from_begin = 1},
    {.rule = 2, .follows = {0, 1}, .ring = 0},
    {.rule = 3},
    {.rule = 4},
    {.rule = 4, .negated = 1, .until = IDS_END},
    {.rule = 5},
};
static const ids_follow follows[] = {{0, 3, 1}};
static const ids_bit bits[] = {{3, IDS_SET, 0}, {3, IDS_ISSET, 0}};
static const ids_rule rules[] = {
    {.sid = 1,
     .kind = IDS_STREAM,
     .action = IDS_ALERT,
     .terms = IDS_REPEATS,
     .chains = {0, 1},
     .bits = {0, 1},
     .threshold = IDS_THRESHOLD,
     .count = 2,
     .seconds = 60,
     .track = IDS_BY_SRC},
    {.sid = 2, .kind = IDS_STREAM, .action = IDS_ALERT, .terms = IDS_DEFERRED, .chains = {1, 2}},
    {.sid = 3, .kind = IDS_STREAM, .action = IDS_ALERT, .terms = IDS_DEFERRED, .chains = {3, 1}},
    {.sid = 4,
     .kind = IDS_PACKET,
     .action = IDS_DROP,
     .chains = {4, 1},
     .dsize = {.first = 3, .last = 9, .asked = 1}},
    {.sid = 5, .kind = IDS_REQUEST, .action = IDS_REJECT, .chains = {5, 2}},
    {.sid = 6, .kind = IDS_REQUEST, .action = IDS_ALERT, .chains = {7, 1}, .bits = {1, 1}},
};
static const ids_buffer buffers[] = {
    {.patterns = {0, 5}, .kind = IDS_STREAM},
    {.patterns = {5, 1}, .kind = IDS_PACKET},
    {.patterns = {6, 1}, .kind = IDS_REQUEST, .source = IDS_URI, .cell = 0},
    {.patterns = {7, 1}, .kind = IDS_REQUEST, .source = IDS_HOST, .cell = 1},
    {.patterns = {8, 1}, .kind = IDS_REQUEST, .source = IDS_HEADER, .cell = 2, .header = "cookie"},
};
static const ids_addresses everywhere = {
    .last = {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}};
static const ids_ports all_ports = {0, 65535};
static const ids_header header = {.addr4 = {{0, 1}, {0, 1}},
                                  .addr6 = {{0, 1}, {0, 1}},
                                  .ports = {{0, 1}, {0, 1}},
                                  .kinds = 0xffff};

typedef struct rig {
    ids *nf;
    uint8_t slot[NFM_SLOT_SMALL];
    uint8_t fields[1024];
    nfm_record record;
    nfm_flow_info flows[N_FLOWS];
} rig;

static ids_table *table_of(uint64_t memory) {
    char text[200];
    const ids_rules config = {.buffers = buffers,
                              .patterns = patterns,
                              .uses = uses,
                              .rules = rules,
                              .chains = chains,
                              .follows = follows,
                              .bits = bits,
                              .headers = &header,
                              .addresses = &everywhere,
                              .ports = &all_ports,
                              .n_buffers = 5,
                              .n_patterns = 9,
                              .n_uses = 9,
                              .n_rules = 6,
                              .n_chains = 8,
                              .n_follows = 1,
                              .n_bits = 2,
                              .n_headers = 1,
                              .n_addresses = 1,
                              .n_ports = 1,
                              .n_stream_rules = 3,
                              .n_stream_chains = 4,
                              .n_stream_rings = 1,
                              .n_rings = 1,
                              .stream_memory = memory};
    ids_table *table = ids_compile(&config, text, sizeof(text));
    CHECK(table != NULL);
    return table;
}

static rig *rig_new(uint64_t memory, uint32_t max_flows) {
    rig *r = calloc(1, sizeof(*r));
    const ids_options options = {.max_flows = max_flows,
                                 .max_alerts = 64,
                                 .max_counters = 8,
                                 .types = {[IDS_REQUEST] = TYPE_REQUEST}};
    r->nf = ids_open("{}");
    CHECK_EQ(ids_set(r->nf, &(ids_options){.max_flows = max_flows}), NFM_E_INVAL);
    CHECK_EQ(ids_set(r->nf, &options), NFM_OK);
    CHECK_EQ(ids_set(r->nf, &options), NFM_E_STATE);
    for (uint32_t i = 0; i < N_FLOWS; i++)
        r->flows[i] = (nfm_flow_info){.ip_version = 4,
                                      .proto = 6,
                                      .port = {1000, 80},
                                      .addr = {{10, 0, 0, (uint8_t)i}, {10, 0, 1, 1}}};
    ids_swap(r->nf, table_of(memory));
    return r;
}

static void rig_free(rig *r) {
    ids_close(r->nf);
    free(r);
}

/* One entry; returns the verdict. */
static uint32_t give(rig *r, uint64_t what) {
    const nfm_mem mem = {.packets = r->slot,
                         .records = &r->record,
                         .fields = r->fields,
                         .flows = r->flows,
                         .n_small = 1,
                         .n_slots = 1,
                         .n_records = 1,
                         .n_flows = N_FLOWS,
                         .fields_size = sizeof(r->fields)};
    const nfm_desc desc = {.record = 0, .flow = (uint32_t)r->record.flow, .what = what};
    uint32_t verdict = NFM_PASS;
    const nfm_batch batch = {.mem = &mem, .desc = &desc, .n = 1, .verdict = &verdict};
    CHECK_EQ(ids_process(r->nf, &batch), NFM_OK);
    return verdict;
}

static uint64_t id_of(uint32_t flow) {
    return UINT64_C(1) << 32 | flow;
}

static void say(rig *r, uint32_t flow, uint8_t side, uint64_t off, const void *data, size_t len) {
    memcpy(r->slot + DATA_OFF, data, len);
    r->record = (nfm_record){.flow = id_of(flow),
                             .side = side,
                             .kind = NFM_REC_PACKET,
                             .proto = 6,
                             .frame_len = DATA_OFF - NFM_HEADROOM + (uint32_t)len,
                             .payload_off = DATA_OFF,
                             .payload_len = (uint32_t)len,
                             .packet = 1};
    r->record.events = NFM_BIT(NFM_EV_TCP_DATA);
    r->record.tcp.stream_off = off;
    r->record.tcp.data_off = DATA_OFF;
    r->record.tcp.data_len = (uint32_t)len;
    give(r, NFM_BIT(NFM_EV_TCP_DATA));
}

static void end(rig *r, uint32_t flow) {
    r->record = (nfm_record){.flow = id_of(flow), .kind = NFM_REC_FLOW, .slot = NFM_NO_SLOT};
    give(r, NFM_BIT(NFM_EV_FLOW_END));
}

/* The alerts so far as text: "sid@position ". */
static void told(rig *r, char *text, size_t size) {
    ids_alert all[64];
    uint32_t n = ids_take(r->nf, all, 64);
    text[0] = '\0';
    for (uint32_t i = 0; i < n; i++)
        snprintf(text + strlen(text), size - strlen(text), "%u@%llu ", all[i].sid,
                 (unsigned long long)all[i].position);
}

static void cut_at_any_two_places(void) {
    const char *text = "..ab..cd.x.cdyyy.needle.needle..";
    const char *want = "2@8 3@16 1@30 ";
    size_t n = strlen(text);
    char got[256];
    rig *r = rig_new(1 << 20, 16);
    for (size_t i = 0; i <= n; i++)
        for (size_t j = i; j <= n; j++) {
            say(r, 1, 0, 0, text, i);
            say(r, 1, 0, i, text + i, j - i);
            say(r, 1, 0, j, text + j, n - j);
            end(r, 1);
            told(r, got, sizeof(got));
            if (strcmp(got, want) != 0)
                printf("# cut at %zu and %zu: %s\n", i, j, got);
            CHECK(strcmp(got, want) == 0);
        }
    rig_free(r);
}

static void what_must_not_be_there_is_there(void) {
    rig *r = rig_new(1 << 20, 16);
    char got[256];
    say(r, 1, 0, 0, "zz..ab..cdx...", 14);
    end(r, 1);
    told(r, got, sizeof(got));
    CHECK(strcmp(got, "") == 0);
    say(r, 2, 0, 0, "ab....zz..", 10);
    say(r, 3, 0, 0, "ab.....zz.cd", 12);
    end(r, 2);
    end(r, 3);
    told(r, got, sizeof(got));
    CHECK(strcmp(got, "2@8 3@12 ") == 0);
    rig_free(r);
}

static void packet_is(rig *r, uint32_t flow, const char *data) {
    size_t len = strlen(data);
    say(r, flow, 0, 0, data, len);
}

static void packets_are_dropped_one_by_one(void) {
    rig *r = rig_new(1 << 20, 16);
    packet_is(r, 1, "payload");
    CHECK_EQ(give(r, NFM_BIT(NFM_EV_PACKET_TCP)), NFM_DROP);
    packet_is(r, 1, "pay, but too long");
    CHECK_EQ(give(r, NFM_BIT(NFM_EV_PACKET_TCP)), NFM_PASS);
    packet_is(r, 1, "others");
    CHECK_EQ(give(r, NFM_BIT(NFM_EV_PACKET_TCP)), NFM_PASS);
    rig_free(r);
}

/* A field of a request: its cell, and its bytes behind the cells. */
static void field(rig *r, uint32_t cell, const char *text, uint32_t at) {
    uint64_t value = at | (uint64_t)strlen(text) << 32;
    memcpy(r->fields + (size_t)cell * 8, &value, 8);
    memcpy(r->fields + at, text, strlen(text));
}

static void request(rig *r, uint32_t flow) {
    r->record = (nfm_record){.flow = id_of(flow), .kind = NFM_REC_APP, .slot = NFM_NO_SLOT};
    r->record.app.type = TYPE_REQUEST;
    r->record.app.fields_len = 512;
    memset(r->fields, 0, sizeof(r->fields));
}

static void requests_are_made_into_buffers(void) {
    rig *r = rig_new(1 << 20, 16);
    request(r, 1);
    field(r, 0, "http://Host/%2E%2e//etc", 64);
    field(r, 1, "EVIL.example:80", 128);
    CHECK_EQ(give(r, NFM_DESC_APP | TYPE_REQUEST), NFM_REJECT);
    request(r, 2);
    field(r, 0, "/%2", 64);
    field(r, 1, "SAFE", 128);
    field(r, 2, "X: k\r\nCOOKIE:  k \r\n", 200);
    CHECK_EQ(give(r, NFM_DESC_APP | TYPE_REQUEST), NFM_PASS);
    request(r, 3);
    field(r, 0, "/etc", 64); /* without a host nothing is said of it */
    CHECK_EQ(give(r, NFM_DESC_APP | TYPE_REQUEST), NFM_PASS);
    rig_free(r);
}

static uint64_t dice(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

static void hostile_fields_are_absent(void) {
    rig *r = rig_new(1 << 20, 16);
    uint64_t state = 7;
    for (int round = 0; round < 20000; round++) {
        request(r, (uint32_t)(round % N_FLOWS));
        for (size_t i = 0; i < sizeof(r->fields); i++)
            r->fields[i] = (uint8_t)dice(&state);
        for (int cell = 0; cell < 3; cell++) {
            uint64_t value = dice(&state) % 1200 | dice(&state) % 1200 << 32;
            if (round % 3 != 0)
                memcpy(r->fields + (size_t)cell * 8, &value, 8);
        }
        r->record.app.fields = dice(&state) % 1100;
        r->record.app.fields_len = (uint32_t)(dice(&state) % 1200);
        give(r, NFM_DESC_APP | TYPE_REQUEST);
    }
    rig_free(r);
}

/* Any bytes, with holes, on more flows than there is room for, while rules are replaced. */
static void all_at_random(void) {
    static const char letters[] = "abcdxzneedle.";
    rig *r = rig_new(2000, 8);
    uint64_t state = 11, off[N_FLOWS][2] = {{0}};
    char data[200];
    ids_stats stats;
    for (int round = 0; round < 20000; round++) {
        uint32_t flow = (uint32_t)(dice(&state) % N_FLOWS);
        uint8_t side = (uint8_t)(dice(&state) & 1);
        size_t len = 1 + dice(&state) % sizeof(data);
        for (size_t i = 0; i < len; i++)
            data[i] = letters[dice(&state) % (sizeof(letters) - 1)];
        off[flow][side] += dice(&state) % 50 == 0 ? dice(&state) % 1000 : 0;
        say(r, flow, side, off[flow][side], data, len);
        off[flow][side] += len;
        if (dice(&state) % 40 == 0) {
            end(r, flow);
            off[flow][0] = off[flow][1] = 0;
        }
        if (round % 5000 == 4999)
            ids_swap(r->nf, table_of(2000));
    }
    for (uint32_t flow = 0; flow < N_FLOWS; flow++)
        end(r, flow);
    ids_stats_get(r->nf, &stats);
    CHECK_EQ(stats.streams, 0);
    CHECK_EQ(stats.failures, 0);
    CHECK(stats.streams_evicted > 0);
    CHECK(stats.restarts_after_gap > 0);
    CHECK(stats.flows_evicted > 0);
    CHECK(stats.counters_evicted > 0);
    CHECK(stats.alerts_dropped > 0);
    CHECK_EQ(stats.loads, 5);
    rig_free(r);
}

static void wrong_expressions_are_named(void) {
    char text[200];
    const ids_pattern good = {.expression = "a.{2,5}b", .least = 4, .most = 90, .once = 1};
    const ids_pattern bad = {.expression = "(a)\\1", .most = IDS_END};
    CHECK_EQ(ids_check(&good, 1, text, sizeof(text)), NFM_OK);
    CHECK_EQ(ids_check(&bad, 1, text, sizeof(text)), NFM_E_INVAL);
    CHECK(strstr(text, "reference") != NULL);
}

int main(int argc, char **argv) {
    const nfm_test tests[] = {
        T(cut_at_any_two_places),          T(what_must_not_be_there_is_there),
        T(packets_are_dropped_one_by_one), T(requests_are_made_into_buffers),
        T(hostile_fields_are_absent),      T(all_at_random),
        T(wrong_expressions_are_named),
    };
    return nfm_run_tests(tests, sizeof tests / sizeof *tests, argc, argv);
}
