/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: a reassembled datagram has exactly the bytes that its overlap policy chooses from the
 * fragments taken in (checked for first and last), no slot is referenced after all is closed, and
 * bounds hold. */
#include <stdlib.h>
#include <string.h>

#include "../../stack_modules/ip_defrag/defrag.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

extern const nfm_module nfm_module_ip_defrag;

enum { N_SLOTS = 300, N_SMALL = 280, UNITS = 32, HEADER = 20, DEFRAG_MAX_HELD = N_SMALL / 2 + 16 };

struct nfm_worker { /* what the module may ask of a worker */
    uint32_t refs[N_SLOTS];
    uint8_t *bytes[N_SLOTS];
    bool reparsed;
};

static void require(bool ok) {
    if (!ok)
        abort();
}

void nfm_slot_hold(nfm_ctx *ctx, uint32_t slot) {
    require(slot < N_SLOTS && ctx->worker->refs[slot] > 0);
    ctx->worker->refs[slot]++;
}

void nfm_slot_release(nfm_ctx *ctx, uint32_t slot) {
    require(slot < N_SLOTS && ctx->worker->refs[slot] > 0);
    if (--ctx->worker->refs[slot] == 0) {
        free(ctx->worker->bytes[slot]);
        ctx->worker->bytes[slot] = NULL;
    }
}

uint32_t nfm_slot_new(nfm_ctx *ctx, uint32_t len) {
    for (uint32_t i = 0; i < N_SLOTS; i++) {
        if (ctx->worker->refs[i] != 0)
            continue;
        ctx->worker->refs[i] = 1;
        ctx->worker->bytes[i] = malloc(NFM_HEADROOM + len); /* exact: the sanitizer sees one over */
        return i;
    }
    return NFM_NO_SLOT;
}

uint8_t *nfm_slot_base(nfm_ctx *ctx, uint32_t slot) {
    return ctx->worker->bytes[slot];
}

uint32_t nfm_slots_free(const nfm_ctx *ctx) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < N_SMALL; i++)
        n += ctx->worker->refs[i] == 0;
    return n;
}

uint64_t nfm_secret(const nfm_ctx *ctx) {
    (void)ctx;
    return UINT64_C(0x0123456789abcdef);
}

void nfm_reparse(nfm_ctx *ctx, nfm_packet *packet) {
    packet->status = NFM_PARSE_OK;
    ctx->worker->reparsed = true;
}

/* One datagram as it should come out. */
typedef struct model {
    uint8_t bytes[UNITS];
    bool lost; /* its datagram was dropped, or goes beyond the model: not compared until all expired
                */
} model;

/* Makes a fragment of |n| units from unit |first|, full of |letter|, in a slot of its own. */
static void fragment_make(nfm_ctx *ctx, nfm_packet *p, const uint8_t *op, uint8_t letter) {
    uint32_t first = op[1] % UNITS, n = 1 + (op[2] & 7u), len = n * 8;
    memset(p, 0, sizeof(*p));
    p->rec.slot = nfm_slot_new(ctx, HEADER + len);
    p->base = nfm_slot_base(ctx, p->rec.slot);
    memset(p->base, 0, NFM_HEADROOM + HEADER);
    p->base[NFM_HEADROOM] = 0x45;
    memset(p->base + NFM_HEADROOM + HEADER, letter, len);
    p->rec.frame_len = p->rec.wire_len = HEADER + len;
    p->rec.l3_off = NFM_HEADROOM;
    p->rec.payload_off = p->rec.l4_off = NFM_HEADROOM + HEADER;
    p->rec.payload_len = p->l4_len = len;
    p->key.ip_version = 4;
    p->key.proto = 253;
    p->frag_id = op[0] & 3;
    p->frag_off = (uint16_t)(first * 8);
    p->frag_more = (op[2] & 0x80) == 0;
    p->status = NFM_PARSE_FRAGMENT;
}

/* What the policy makes of a fragment that was taken in. */
static void paint(model *m, const nfm_packet *p, uint8_t letter, bool last_wins) {
    uint32_t first = p->frag_off / 8, end = first + p->rec.payload_len / 8;
    for (uint32_t i = first; i < end && i < UNITS; i++)
        if (m->bytes[i] == 0 || last_wins)
            m->bytes[i] = letter;
}

static void check_whole(const nfm_packet *p, const model *m) {
    uint32_t len = p->rec.frame_len - HEADER;
    require(nfm_read16(p->base + NFM_HEADROOM + 2) == p->rec.frame_len);
    for (uint32_t i = 0; i < len && i < UNITS * 8; i++)
        require(p->base[NFM_HEADROOM + HEADER + i] == m->bytes[i / 8]);
}

static uint64_t count(const nfm_ctx *ctx, const enum defrag_counter *which, size_t n) {
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += ctx->counters[which[i]];
    return sum;
}

/* One fragment, and what the model makes of it. */
static void step(nfm_ctx *ctx, model *models, const uint8_t *op, uint8_t letter, int64_t now_ns) {
    static const enum defrag_counter refusals[] = {COUNT_BAD_LENGTH, COUNT_DUPLICATE};
    static const enum defrag_counter losses[] = {COUNT_EVICTED, COUNT_NO_SLOT, COUNT_TOO_MANY};
    nfm_packet p, sent;
    fragment_make(ctx, &p, op, letter);
    p.rec.ts_ns = now_ns;
    sent = p;
    model *m = &models[p.frag_id];
    uint64_t refused = count(ctx, refusals, 2), lost = count(ctx, losses, 3);
    int whole = nfm_module_ip_defrag.on_fragment(ctx, &p);
    require((whole == 1) == ctx->worker->reparsed);
    ctx->worker->reparsed = false;
    for (int i = 0; lost != count(ctx, losses, 3) && i < 4; i++)
        models[i].lost = true;
    if (refused == count(ctx, refusals, 2)) {
        paint(m, &sent, letter, ctx->limits[LIMIT_OVERLAP] == OVERLAP_LAST);
        m->lost |= sent.frag_off + sent.rec.payload_len > UNITS * 8;
    }
    if (whole && !m->lost && ctx->limits[LIMIT_OVERLAP] <= OVERLAP_LAST)
        check_whole(&p, m);
    if (whole)
        memset(m, 0, sizeof(*m));
    nfm_slot_release(ctx, p.rec.slot);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct nfm_worker worker = {.reparsed = false};
    uint64_t counters[16] = {0}, limits[6] = {8, 24, 64, 30, 60, size > 0 ? data[0] % 5 : 0};
    nfm_mem mem = {.n_small = N_SMALL, .n_slots = N_SLOTS};
    nfm_ctx ctx = {.limits = limits, .counters = counters, .worker = &worker, .mem = &mem};
    model models[4] = {{.lost = false}};
    int64_t now_ns = 0;
    require(nfm_module_ip_defrag.start(&ctx) == NFM_OK);
    for (size_t i = 1; i + 3 <= size && i < 600; i += 3) {
        if (data[i] >= 0xf0) { /* everything expires */
            now_ns += INT64_C(31000000000);
            nfm_module_ip_defrag.on_tick(&ctx, now_ns);
            memset(models, 0, sizeof(models));
        }
        step(&ctx, models, data + i, (uint8_t)(1 + i % 255), now_ns);
        uint32_t held = 0;
        for (uint32_t k = 0; k < N_SLOTS; k++)
            held += worker.refs[k];
        require(held <= DEFRAG_MAX_HELD);
    }
    nfm_module_ip_defrag.on_tick(&ctx, INT64_MAX);
    for (uint32_t k = 0; k < N_SLOTS; k++)
        require(worker.refs[k] == 0);
    nfm_module_ip_defrag.stop(&ctx);
    return 0;
}
