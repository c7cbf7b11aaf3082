/* SPDX-License-Identifier: Apache-2.0 */
/* The workload generator against an observer that shares none of its code: checksums, order of
 * time, sequence and acknowledgement numbers, and every figure of the truth. */
#include "nfm_test.h"
#include "port_fixture.h"
#include "workload.h"

enum { BUCKETS = 1 << 18, MIX_STREAM = 70000 };

typedef struct half {   /* one direction */
    uint32_t isn, next; /* next: highest sent + 1, relative to isn */
    uint64_t packets;
    uint8_t *seen; /* a bit per stream byte, only where anomalies are planted */
} half;

typedef struct flow {
    struct flow *chain;
    uint32_t addr[2];
    uint16_t port[2];
    half side[2]; /* 0: sent the first packet */
    bool fin[2], reset;
} flow;

typedef struct observer {
    flow **buckets;
    bool anomalies; /* sequence numbers may go back */
    nfm_workload_truth count;
    int64_t last_ns;
    uint64_t bad_checksums, bad_order, bad_numbers, hash;
} observer;

static uint32_t get16(const uint8_t *p) {
    return (uint32_t)p[0] << 8 | p[1];
}
static uint32_t get32(const uint8_t *p) {
    return get16(p) << 16 | get16(p + 2);
}

static bool sum_is_whole(uint32_t sum, const uint8_t *p, uint32_t len) {
    for (uint32_t i = 0; i < len; i++)
        sum += i % 2 ? p[i] : (uint32_t)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum == 0xffff;
}

static flow *find(observer *o, const uint8_t *ip, const uint8_t *l4, int *side) {
    uint32_t src = get32(ip + 12), dst = get32(ip + 16);
    uint16_t sport = (uint16_t)get16(l4), dport = (uint16_t)get16(l4 + 2);
    uint32_t h = ((src ^ dst) * 2654435761u ^ (uint32_t)(sport ^ dport) * 40503u) % BUCKETS;
    for (flow *f = o->buckets[h]; f != NULL; f = f->chain) {
        for (*side = 0; *side < 2; (*side)++)
            if (f->addr[*side] == src && f->addr[!*side] == dst && f->port[*side] == sport &&
                f->port[!*side] == dport)
                return f;
    }
    flow *f = calloc(1, sizeof(*f));
    *f = (flow){.chain = o->buckets[h], .addr = {src, dst}, .port = {sport, dport}};
    o->buckets[h] = f;
    o->count.flows++;
    *side = 0;
    return f;
}

/* Counts bytes [from, from + len) of a stream that were not there before. */
static uint64_t mark(half *h, uint32_t from, uint32_t len) {
    uint64_t fresh = 0;
    if (h->seen == NULL)
        h->seen = calloc(1, MIX_STREAM / 8 + 1);
    for (uint32_t i = from; i < from + len && i < MIX_STREAM; i++) {
        fresh += !(h->seen[i / 8] >> i % 8 & 1);
        h->seen[i / 8] |= (uint8_t)(1 << i % 8);
    }
    return fresh;
}

static void watch_tcp(observer *o, flow *f, int side, const uint8_t *tcp, uint32_t len) {
    half *own = &f->side[side], *peer = &f->side[!side];
    uint8_t flags = tcp[13];
    uint32_t header = tcp[12] >> 4 << 2, payload = len - header;
    bool syn = flags & 2, fin = flags & 1;
    if (syn)
        own->isn = get32(tcp + 4);
    uint32_t seq = get32(tcp + 4) - own->isn, end = seq + payload + syn + fin;
    bool ack_good = !(flags & 16) || get32(tcp + 8) - peer->isn <= peer->next;
    bool opened = syn || own->next > 0;
    o->bad_numbers += !ack_good || !opened || (!o->anomalies && seq != own->next);
    if (o->anomalies)
        o->count.stream_bytes[side] += mark(own, seq - 1, payload);
    else
        o->count.stream_bytes[side] += payload;
    if (end > own->next)
        own->next = end;
    o->count.payload_bytes[side] += payload;
    f->fin[side] |= fin;
    f->reset |= (flags & 4) != 0;
}

static int observe(void *to, const uint8_t *frame, uint32_t len, int64_t ts_ns) {
    observer *o = to;
    const uint8_t *ip = frame + 14, *l4 = ip + 20;
    uint32_t l4_len = len - 34, pseudo = ip[9] + l4_len + get16(ip + 12) + get16(ip + 14) +
                                         get16(ip + 16) + get16(ip + 18);
    int side;
    o->bad_checksums += !sum_is_whole(0, ip, 20) || !sum_is_whole(pseudo, l4, l4_len);
    o->bad_order += ts_ns < o->last_ns || get16(ip + 2) != len - 14 || len > 1514;
    o->last_ns = ts_ns;
    flow *f = find(o, ip, l4, &side);
    f->side[side].packets++;
    if (ip[9] == 6) {
        watch_tcp(o, f, side, l4, l4_len);
    } else {
        o->count.payload_bytes[side] += l4_len - 8;
        o->count.stream_bytes[side] += l4_len - 8;
    }
    o->count.packets++;
    o->count.frame_bytes += len;
    o->count.side_packets[side]++;
    for (uint32_t i = 0; i < len; i++)
        o->hash = (o->hash ^ frame[i]) * UINT64_C(0x100000001b3);
    return NFM_OK;
}

static void observer_fini(observer *o) {
    for (uint32_t i = 0; i < BUCKETS; i++) {
        for (flow *f = o->buckets[i], *next; f != NULL; f = next) {
            next = f->chain;
            o->count.flows_reset += f->reset;
            o->count.flows_fin += f->fin[0] && f->fin[1];
            free(f->side[0].seen);
            free(f->side[1].seen);
            free(f);
        }
    }
    free(o->buckets);
}

static observer watch(const char *name, uint64_t packets, uint64_t seed,
                      nfm_workload_truth *truth) {
    observer o = {.buckets = calloc(BUCKETS, sizeof(*o.buckets)),
                  .anomalies = strcmp(name, "mix") == 0};
    nfm_workload_options options = {packets, seed};
    nfm_error err = {0};
    CHECK_EQ(nfm_workload_generate(name, &options, (nfm_workload_sink){observe, &o}, truth, &err),
             NFM_OK);
    observer_fini(&o);
    return o;
}

static void check_truth(const observer *o, const nfm_workload_truth *t) {
    const nfm_workload_truth *seen = &o->count;
    CHECK_EQ(o->bad_checksums, 0);
    CHECK_EQ(o->bad_order, 0);
    CHECK_EQ(o->bad_numbers, 0);
    CHECK_EQ(seen->packets, t->packets);
    CHECK_EQ(seen->frame_bytes, t->frame_bytes);
    CHECK_EQ(seen->flows, t->flows);
    CHECK_EQ(seen->flows_fin, t->flows_fin);
    CHECK_EQ(seen->flows_reset, t->flows_reset);
    for (int side = 0; side < 2; side++) {
        CHECK_EQ(seen->side_packets[side], t->side_packets[side]);
        CHECK_EQ(seen->payload_bytes[side], t->payload_bytes[side]);
        CHECK_EQ(seen->stream_bytes[side], t->stream_bytes[side]);
    }
    CHECK(t->peak_flows > 0 && t->peak_flows <= t->flows);
    CHECK(t->start_ns + t->span_ns > o->last_ns);
}

static void truth_is_what_an_observer_counts(void) {
    for (const char *const *name = nfm_workload_names(); *name != NULL; name++) {
        if (strcmp(*name, "lookup-1m") == 0 || strcmp(*name, "lookup-100k") == 0)
            continue; /* the same code as lookup-1k */
        for (uint64_t seed = 0; seed < 2; seed++) {
            nfm_workload_truth truth;
            observer o = watch(*name, 30000, seed, &truth);
            check_truth(&o, &truth);
            CHECK(truth.packets >= 30000 && truth.packets < 33500);
            if (nfm_test_failed) {
                printf("# in %s\n", *name);
                return;
            }
        }
    }
}

static void sizes_are_as_promised(void) {
    nfm_workload_truth t;
    watch("http", 22000, 0, &t);
    CHECK_EQ(t.packets, 22 * t.flows);
    CHECK_EQ(t.frame_bytes, 727 * t.packets);
    watch("short", 70000, 0, &t);
    CHECK_EQ(t.packets, 7 * t.flows);
    CHECK_EQ(t.frame_bytes, 83 * t.packets);
    CHECK(t.peak_flows > 4000);
    watch("bulk", 20000, 0, &t);
    CHECK(t.stream_bytes[1] > 65536 * t.flows);
    watch("c100k", 10000, 0, &t);
    CHECK_EQ(t.packets, 10 * t.flows);
    watch("dns", 10000, 0, &t);
    CHECK_EQ(t.packets, 2 * t.flows);
    watch("lookup-1k", 5000, 0, &t);
    CHECK_EQ(t.opening_packets, 3000);
    CHECK_EQ(t.packets, 8000);
    CHECK_EQ(t.stream_bytes[0] + t.stream_bytes[1], 10 * 5000);
}

static int only_count(void *to, const uint8_t *frame, uint32_t len, int64_t ts_ns) {
    (void)frame;
    (void)ts_ns;
    *(uint64_t *)to += len;
    return NFM_OK;
}

static void c100k_has_100k_connections_open(void) {
    nfm_workload_truth t;
    nfm_workload_options options = {1200000, 0};
    uint64_t bytes = 0;
    nfm_workload_sink sink = {only_count, &bytes};
    CHECK_EQ(nfm_workload_generate("c100k", &options, sink, &t, NULL), NFM_OK);
    CHECK(t.peak_flows >= 100000);
    CHECK_EQ(bytes, t.frame_bytes);
}

static void mix_holds_each_anomaly(void) {
    nfm_workload_truth t;
    watch("mix", 60000, 3, &t);
    CHECK(t.retransmits > 50 && t.reordered > 50 && t.late > 25 && t.overlaps > 25);
    CHECK(t.flows_reset > 10);
    CHECK_EQ(t.flows_reset + t.flows_fin, t.flows);
    CHECK(t.payload_bytes[1] > t.stream_bytes[1]);
    CHECK_EQ(t.payload_bytes[1] - t.stream_bytes[1], 1448 * (t.retransmits + t.overlaps));
}

static void the_seed_decides_every_byte(void) {
    nfm_workload_truth t;
    uint64_t first = watch("mix", 5000, 1, &t).hash;
    CHECK(watch("mix", 5000, 1, &t).hash == first);
    CHECK(watch("mix", 5000, 2, &t).hash != first);
}

/* Serves |passes| passes through a port to one observer: all flows of all passes are others. */
static void check_passes(const char *name, uint32_t passes) {
    bench b = setup(64, 1);
    nfm_workload_truth truth;
    nfm_workload_options options = {8000, 0};
    nfm_port *port = nfm_port_mem_new(1, NULL);
    CHECK_EQ(nfm_workload_fill(port, name, &options, &truth, NULL), NFM_OK);
    CHECK_EQ(nfm_port_mem_loop(port, passes, truth.span_ns), NFM_OK);
    observer o = {.buckets = calloc(BUCKETS, sizeof(*o.buckets)), .anomalies = true};
    nfm_frame frames[32];
    for (int n; (n = port->ops->rx(port, &b.pool, frames, 32)) > 0;) {
        for (int i = 0; i < n; i++) {
            observe(&o, frame_at(&b, &frames[i]), frames[i].len, frames[i].ts_ns);
            nfm_pool_put(&b.pool, frames[i].slot);
        }
    }
    observer_fini(&o);
    CHECK_EQ(o.bad_checksums, 0);
    CHECK_EQ(o.bad_order, 0);
    CHECK_EQ(o.bad_numbers, 0);
    CHECK_EQ(o.count.packets, passes * truth.packets);
    CHECK_EQ(o.count.flows, passes * truth.flows);
    CHECK_EQ(o.count.flows_fin, passes * truth.flows_fin);
    CHECK_EQ(o.count.stream_bytes[1], passes * truth.stream_bytes[1]);
    nfm_port_free(port);
    teardown(&b);
}

static void a_loop_is_new_traffic(void) {
    check_passes("mix", 5);
    check_passes("short", 20);
    check_passes("dns", 20);
}

static int refuse(void *to, const uint8_t *frame, uint32_t len, int64_t ts_ns) {
    (void)frame;
    (void)len;
    (void)ts_ns;
    return --*(int *)to > 0 ? NFM_OK : NFM_E_LIMIT;
}

static void failures_are_returned(void) {
    nfm_workload_truth truth;
    nfm_error err = {0};
    int left = 100;
    nfm_workload_sink sink = {refuse, &left};
    CHECK_EQ(nfm_workload_generate("nosuch", NULL, sink, &truth, &err), NFM_E_INVAL);
    CHECK(strstr(err.text, "nosuch") != NULL);
    CHECK_EQ(nfm_workload_generate("http", NULL, sink, &truth, &err), NFM_E_LIMIT);
    CHECK_EQ(truth.packets, 100);
    left = 100;
    CHECK_EQ(nfm_workload_generate("lookup-1k", NULL, sink, &truth, NULL), NFM_E_LIMIT);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(truth_is_what_an_observer_counts),
        T(sizes_are_as_promised),
        T(c100k_has_100k_connections_open),
        T(mix_holds_each_anomaly),
        T(the_seed_decides_every_byte),
        T(a_loop_is_new_traffic),
        T(failures_are_returned),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
