/* SPDX-License-Identifier: Apache-2.0 */
/* Columns and bytes from hand-made shared memory, hostile offsets included. */
#include "nfm/module.h"
#include "nfm_test.h"

enum { N = 40, SMALL = 2, SLOTS = 3 };

typedef struct shared {
    nfm_mem mem;
    nfm_record *records;
    nfm_flow_info *flows;
    uint8_t *fields, *packets;
    nfm_desc desc[N];
} shared;

/* Everything ends at a guard page: one byte over crashes. */
static void make(shared *s) {
    static const uint8_t zeros[SMALL * NFM_SLOT_SMALL + NFM_SLOT_LARGE];
    memset(s, 0, sizeof(*s));
    s->records = (nfm_record *)nfm_guarded(zeros, N * sizeof(nfm_record));
    s->flows = (nfm_flow_info *)nfm_guarded(zeros, N * sizeof(nfm_flow_info));
    s->fields = nfm_guarded(zeros, 64);
    s->packets = nfm_guarded(zeros, sizeof(zeros));
    s->mem = (nfm_mem){s->packets, s->records, s->fields, s->flows, SMALL, SLOTS, N, N, 64};
    for (uint32_t i = 0; i < N; i++) {
        s->desc[i] = (nfm_desc){N - 1 - i, i, 0};
        s->records[i].ts_ns = -(int64_t)i;
        s->records[i].wire_len = 1000 + i;
        s->records[i].port = (uint16_t)(i * 3);
        s->records[i].side = i & 1;
        s->records[i].slot = NFM_NO_SLOT;
        s->records[i].flags = i % 3 == 0 ? NFM_F_CLIENT_IS_1 : 0;
        s->records[i].totals.payload_bytes[0] = i;
        s->records[i].totals.payload_bytes[1] = 100 + i;
        s->flows[i].port[0] = (uint16_t)i;
        s->flows[i].port[1] = (uint16_t)(500 + i);
        memset(s->flows[i].addr[0], (int)i, 16);
        memset(s->flows[i].addr[1], (int)(100 + i), 16);
    }
    s->desc[5].flow = NFM_NO_FLOW;
    s->desc[6].record = N;
}

static nfm_field_def field(uint8_t kind, uint8_t source, size_t offset) {
    return (nfm_field_def){"f", kind, source, (uint16_t)offset, "", ""};
}

static void test_record_columns(void) {
    shared s;
    make(&s);
    int64_t ts[N];
    uint32_t len[N];
    uint16_t tag[N];
    nfm_field_def ts_def = field(NFM_KIND_TIME, NFM_FROM_RECORD, offsetof(nfm_record, ts_ns));
    nfm_field_def len_def = field(NFM_KIND_U32, NFM_FROM_RECORD, offsetof(nfm_record, wire_len));
    nfm_field_def tag_def = field(NFM_KIND_U16, NFM_FROM_RECORD, offsetof(nfm_record, port));
    CHECK_EQ(nfm_gather(&s.mem, s.desc, N, &ts_def, ts), NFM_OK);
    CHECK_EQ(nfm_gather(&s.mem, s.desc, N, &len_def, len), NFM_OK);
    CHECK_EQ(nfm_gather(&s.mem, s.desc, N, &tag_def, tag), NFM_OK);
    for (uint32_t i = 0; i < N; i++) {
        uint32_t r = N - 1 - i;
        CHECK_EQ(ts[i], i == 6 ? 0 : -(int64_t)r);
        CHECK_EQ(len[i], i == 6 ? 0 : 1000 + r);
        CHECK_EQ(tag[i], i == 6 ? 0 : r * 3);
    }
}

static void test_sides_and_roles(void) {
    shared s;
    make(&s);
    uint16_t src[N], dst[N], client[N], server[N];
    uint64_t c2s[N], s2c[N];
    uint8_t sender[N], addr[N][16];
    size_t port = offsetof(nfm_flow_info, port), bytes = offsetof(nfm_record, totals.payload_bytes);
    const nfm_field_def defs[] = {
        field(NFM_KIND_U16, NFM_FROM_FLOW_SRC, port),
        field(NFM_KIND_U16, NFM_FROM_FLOW_DST, port),
        field(NFM_KIND_U16, NFM_FROM_FLOW_CLIENT, port),
        field(NFM_KIND_U16, NFM_FROM_FLOW_SERVER, port),
        field(NFM_KIND_U64, NFM_FROM_RECORD_CLIENT, bytes),
        field(NFM_KIND_U64, NFM_FROM_RECORD_SERVER, bytes),
        field(NFM_KIND_BOOL, NFM_FROM_SENDER, 0),
        field(NFM_KIND_ADDR, NFM_FROM_FLOW_DST, 0),
    };
    void *const out[] = {src, dst, client, server, c2s, s2c, sender, addr};
    for (int i = 0; i < 8; i++)
        CHECK_EQ(nfm_gather(&s.mem, s.desc, N, &defs[i], out[i]), NFM_OK);
    for (uint32_t i = 0; i < N; i++) {
        uint32_t r = N - 1 - i, side = r & 1, role = r % 3 == 0;
        if (i == 5 || i == 6) { /* no flow, no record */
            CHECK_EQ(src[i] + dst[i] + client[i] + server[i] + addr[i][15], 0);
            continue;
        }
        CHECK_EQ(src[i], side * 500 + i);
        CHECK_EQ(dst[i], !side * 500 + i);
        CHECK_EQ(client[i], role * 500 + i);
        CHECK_EQ(server[i], !role * 500 + i);
        CHECK_EQ(c2s[i], role * 100 + r);
        CHECK_EQ(s2c[i], !role * 100 + r);
        CHECK_EQ(sender[i], side == role);
        CHECK_EQ(addr[i][15], !side * 100 + i);
    }
}

static void test_field_records(void) {
    shared s;
    make(&s);
    uint64_t cells[4] = {42, 0, 0, 0}, numbers[N];
    uint8_t addr[N][16];
    const uint8_t *data[N];
    uint32_t text[2] = {32, 5}, four[2] = {37, 4}, len[N];
    memcpy(&cells[1], text, 8);
    memcpy(&cells[2], four, 8);
    memcpy(s.fields + 16, cells, sizeof(cells));
    memcpy(s.fields + 48, "hello\x0a\x00\x00\x01", 9);
    nfm_record *r = &s.records[N - 1];
    r->kind = NFM_REC_APP;
    r->app = (nfm_app_view){.fields = 16, .fields_len = 48};
    nfm_field_def number = field(NFM_KIND_U64, NFM_FROM_FIELDS, 0);
    nfm_field_def str = field(NFM_KIND_STR, NFM_FROM_FIELDS, 8);
    nfm_field_def ip = field(NFM_KIND_ADDR, NFM_FROM_FIELDS, 16);
    CHECK_EQ(nfm_gather(&s.mem, s.desc, N, &number, numbers), NFM_OK);
    CHECK_EQ(nfm_gather(&s.mem, s.desc, N, &ip, addr), NFM_OK);
    CHECK_EQ(nfm_gather_bytes(&s.mem, s.desc, N, &str, data, len), NFM_OK);
    CHECK_EQ(numbers[0], 42);
    CHECK_EQ(numbers[1], 0);
    CHECK_EQ(addr[0][0], 10);
    CHECK_EQ(addr[0][3], 1);
    CHECK(len[0] == 5 && memcmp(data[0], "hello", 5) == 0);
    CHECK(len[1] == 0 && data[1] == NULL);
    r->app.fields_len = 44; /* the second cell's bytes end at 37, the third's at 41 */
    CHECK_EQ(nfm_gather_bytes(&s.mem, s.desc, 1, &str, data, len), NFM_OK);
    CHECK_EQ(len[0], 5);
    r->app.fields_len = 36;
    CHECK_EQ(nfm_gather_bytes(&s.mem, s.desc, 1, &str, data, len), NFM_OK);
    CHECK_EQ(len[0], 0);
    r->app.fields = 60; /* the field record would leave the region */
    CHECK_EQ(nfm_gather(&s.mem, s.desc, 1, &number, numbers), NFM_OK);
    CHECK_EQ(numbers[0], 0);
    r->app.fields = UINT64_MAX - 4;
    CHECK_EQ(nfm_gather(&s.mem, s.desc, 1, &number, numbers), NFM_OK);
    CHECK_EQ(numbers[0], 0);
}

static void test_bytes_of_slots(void) {
    shared s;
    make(&s);
    uint8_t *slot = s.packets + (size_t)SMALL * NFM_SLOT_SMALL;
    memcpy(slot + NFM_HEADROOM, "frame-payload", 13);
    nfm_record *r = &s.records[0];
    *r = (nfm_record){.kind = NFM_REC_PACKET,
                      .slot = 2,
                      .frame_len = 13,
                      .proto = 17,
                      .payload_off = NFM_HEADROOM + 6,
                      .payload_len = 7};
    nfm_view frame = nfm_record_frame(&s.mem, r), data = nfm_record_data(&s.mem, r);
    CHECK(frame.len == 13 && memcmp(frame.data, "frame-payload", 13) == 0);
    CHECK(data.len == 7 && memcmp(data.data, "payload", 7) == 0);
    r->proto = 6;
    CHECK_EQ(nfm_record_data(&s.mem, r).len, 0);
    r->events = NFM_BIT(NFM_EV_TCP_DATA);
    r->tcp.data_off = NFM_HEADROOM + 9;
    r->tcp.data_len = 4;
    data = nfm_record_data(&s.mem, r);
    CHECK(data.len == 4 && memcmp(data.data, "load", 4) == 0);
    r->tcp.data_len = 5; /* past the frame */
    CHECK_EQ(nfm_record_data(&s.mem, r).len, 0);
    r->tcp.data_off = 0xffffffffu;
    CHECK_EQ(nfm_record_data(&s.mem, r).len, 0);
    r->slot = 1;
    r->frame_len = NFM_SLOT_SMALL; /* longer than a small slot holds */
    CHECK_EQ(nfm_record_frame(&s.mem, r).len, 0);
    r->slot = SLOTS;
    CHECK_EQ(nfm_record_frame(&s.mem, r).len, 0);
    r->slot = 2;
    r->frame_len = 13;
    r->kind = NFM_REC_GAP; /* data_len counts bytes that were never seen */
    CHECK_EQ(nfm_record_data(&s.mem, r).len, 0);
    const nfm_field_def payload = field(NFM_KIND_BYTES, NFM_FROM_PAYLOAD, 0);
    const nfm_desc desc = {0, NFM_NO_FLOW, 0};
    const uint8_t *bytes;
    uint32_t len;
    CHECK_EQ(nfm_gather_bytes(&s.mem, &desc, 1, &payload, &bytes, &len), NFM_OK);
    CHECK(len == 7 && memcmp(bytes, "payload", 7) == 0);
    r->kind = NFM_REC_FLOW; /* totals are of no packet */
    CHECK_EQ(nfm_gather_bytes(&s.mem, &desc, 1, &payload, &bytes, &len), NFM_OK);
    CHECK_EQ(len, 0);
    CHECK_EQ(nfm_record_data(&s.mem, r).len, 0);
    r->kind = NFM_REC_APP;
    r->app.data_off = NFM_HEADROOM;
    r->app.data_len = 5;
    CHECK_EQ(nfm_record_data(&s.mem, r).len, 5);
}

static void test_fields_outside_the_layouts_are_refused(void) {
    shared s;
    make(&s);
    uint8_t out[N * 16];
    const uint8_t *data[N];
    uint32_t len[N];
    const nfm_field_def bad[] = {
        field(NFM_KIND_U64, NFM_FROM_RECORD, 121),
        field(NFM_KIND_U64, NFM_FROM_FLOW, 60),
        field(NFM_KIND_ADDR, NFM_FROM_FLOW_SRC, 33),
        field(NFM_KIND_U64, NFM_FROM_RECORD_CLIENT, 113),
        field(NFM_KIND_U64, NFM_FROM_FIELDS, 4),
        field(NFM_KIND_U8, NFM_FROM_FLAG, 1),
        field(NFM_KIND_STR, NFM_FROM_FIELDS, 0), /* has no fixed size */
        field(NFM_KIND_U32, NFM_FROM_PAYLOAD, 0),
        field(0, NFM_FROM_RECORD, 0),
        field(NFM_KIND_U8, 0, 0),
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CHECK_EQ(nfm_gather(&s.mem, s.desc, N, &bad[i], out), NFM_E_INVAL);
    CHECK_EQ(nfm_gather_bytes(&s.mem, s.desc, N, &bad[0], data, len), NFM_E_INVAL);
}

/* The catalogue: parents come first, each bit is used once, fields fit their layouts, and a
 * field that takes an inherited one's place has its kind. */
static const nfm_field_def *find_field(const nfm_event_def *event, const char *name) {
    for (uint32_t i = 0; i < event->n_fields; i++)
        if (strcmp(event->fields[i].name, name) == 0)
            return &event->fields[i];
    return NULL;
}

static int parent_of(const nfm_event_def *events, uint32_t at) {
    const char *dot = strrchr(events[at].name, '.');
    size_t len = dot == NULL ? 0 : (size_t)(dot - events[at].name);
    for (uint32_t i = 0; i < at; i++)
        if (strlen(events[i].name) == len && strncmp(events[i].name, events[at].name, len) == 0)
            return (int)i;
    return -1;
}

static void test_catalogue(void) {
    shared s;
    make(&s);
    uint32_t n;
    uint64_t bits = 0;
    uint8_t out[N * 16];
    const uint8_t *data[N];
    uint32_t len[N];
    const nfm_event_def *events = nfm_core_events(&n);
    CHECK(strcmp(events[0].name, "") == 0);
    for (uint32_t i = 0; i < n; i++) {
        CHECK(events[i].doc[0] != '\0');
        if (events[i].bit >= 0) {
            CHECK((bits & NFM_BIT(events[i].bit)) == 0);
            bits |= NFM_BIT(events[i].bit);
        }
        for (uint32_t f = 0; f < events[i].n_fields; f++) {
            const nfm_field_def *def = &events[i].fields[f];
            int rc = def->kind == NFM_KIND_BYTES
                         ? nfm_gather_bytes(&s.mem, s.desc, N, def, data, len)
                         : nfm_gather(&s.mem, s.desc, N, def, out);
            CHECK_EQ(rc, NFM_OK);
            CHECK(def->doc[0] != '\0' && def->unit != NULL);
            for (int p = (int)i; p > 0;) {
                p = parent_of(events, (uint32_t)p);
                const nfm_field_def *hidden = p < 0 ? NULL : find_field(&events[p], def->name);
                CHECK(hidden == NULL || hidden->kind == def->kind);
            }
        }
        CHECK(i == 0 || parent_of(events, i) >= 0);
    }
    CHECK_EQ(bits, NFM_BIT(NFM_EV_COUNT) - 1);
}

static void test_names_of_codes(void) {
    CHECK(strcmp(nfm_conn_state_name(NFM_CS_SF), "SF") == 0);
    CHECK(strcmp(nfm_conn_state_name(99), "?") == 0);
    CHECK(strcmp(nfm_tcp_state_name(NFM_TCP_TIME_WAIT), "TIME-WAIT") == 0);
    CHECK(strcmp(nfm_strerror(NFM_E_ABI), "ABI versions differ") == 0);
    CHECK(strcmp(nfm_strerror(-99), "unknown status") == 0);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(test_record_columns),
        T(test_sides_and_roles),
        T(test_field_records),
        T(test_bytes_of_slots),
        T(test_fields_outside_the_layouts_are_refused),
        T(test_catalogue),
        T(test_names_of_codes),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
