/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: whatever segments come, records of a side are in the order of its stream and leave no
 * byte out unsaid, totals equal what was delivered, and no slot is held when the flows are over. */
#include "tcp_rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok) {
    if (!ok)
        abort();
}

/* Eight bytes make one segment: sequence numbers near each other so that they meet. */
static void push(tcp_rig *r, const uint8_t *p, const uint32_t *isn) {
    static const uint8_t flags[16] = {16, 16, 16, 24, 2, 18, 17, 4, 20, 48, 1, 0, 18, 16, 2, 63};
    static uint8_t room[256];
    bool from_server = p[0] & 1;
    rig_seg seg = {
        .seq = isn[from_server] + 1 + (uint32_t)(p[1] | (p[2] & 3) << 8),
        .ack = isn[!from_server] + 1 + (uint32_t)(p[3] | (p[2] & 12) << 6),
        .window = (uint16_t)(p[4] & 1 ? 0 : p[4] << 4),
        .urgent = p[5],
        .flags = flags[p[0] >> 1 & 15],
        .from_server = from_server,
        .len = p[6] & 127,
        .data = room,
    };
    if (p[0] & 32 && seg.len > 0)
        seg.cut = p[5] % (seg.len + 1);
    if (p[2] & 64)
        seg.seq = isn[from_server]; /* where a SYN belongs */
    if (p[2] & 128)
        seg.seq += (uint32_t)p[5] << 19; /* up to 128 MiB ahead */
    if (p[2] & 16)
        seg.opts = (nfm_tcp_opts){.seen = NFM_OPT_WSCALE | NFM_OPT_TIMESTAMP | NFM_OPT_MSS,
                                  .wscale = p[5] & 15,
                                  .tsval = p[7],
                                  .tsecr = p[6],
                                  .mss = 1400};
    for (uint32_t i = 0; i < seg.len; i++)
        room[i] = p[2] & 32 ? (uint8_t)(p[7] + i) : rig_byte(seg.seq + i);
    r->now_ns += (int64_t)p[7] << (p[0] >> 4);
    rig_push(r, &seg);
}

/* The first two bytes choose limits, the number of slots, and sequence numbers that wrap. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2 + 8 || size > 2 + 8 * 600)
        return 0;
    tcp_rig *r = rig_new();
    uint32_t isn[2] = {data[0] & 1 ? 0xffffff80u : 1000, data[0] & 2 ? 0xfffffff0u : 5000};
    bool inconsistent = (data[0] & 4) != 0, urgent = (data[0] & 8) != 0;
    r->limits[0] = data[0] & 16 ? 3 : 4096;
    r->limits[1] = data[0] & 32 ? 1 : 50;
    r->limits[2] = data[0] & 64 ? 0 : 1000;
    r->limits[3] = data[1] % 7;
    r->limits[4] = urgent;
    r->limits[5] = data[1] >> 3 & 3;
    r->n_small = 256;
    if (inconsistent)
        r->events |= NFM_BIT(NFM_EV_TCP_INCONSISTENT_OVERLAP);
    for (size_t at = 2; at + 8 <= size; at += 8)
        push(r, data + at, isn);
    rig_start(r);
    while (nfm_worker_run(r->worker, 100000) != NFM_RUN_EOF)
        ;
    nfm_worker_run(r->worker, 0);
    nfm_worker_stats stats;
    nfm_worker_stats_get(r->worker, &stats);
    require(stats.slots_used == 0 && stats.flows_now == 0);
    require(r->is_ordered);
    uint64_t bytes = 0, gaps = 0;
    for (uint32_t i = 0; i < r->n_ends; i++) {
        bytes += r->ends[i].totals.stream_bytes[0] + r->ends[i].totals.stream_bytes[1];
        gaps += r->ends[i].totals.gap_bytes[0] + r->ends[i].totals.gap_bytes[1];
    }
    if (r->n_ends < 64) {
        require(bytes == r->bytes[0] + r->bytes[1]);
        require(gaps == r->gaps[0] + r->gaps[1]);
    }
    rig_free(r);
    return 0;
}
