/* SPDX-License-Identifier: Apache-2.0 */
/* ip_defrag reassembles fragmented IPv4 (RFC 791, RFC 815) and IPv6 (RFC 8200, RFC 5722) datagrams;
 * the design is in defrag.h. */
#include <stdlib.h>
#include <string.h>

#include "defrag.h"

enum { SECOND_NS = 1000000000, IPV6_LEN = 40, MAX_NESTING = 8 };
enum { SLOT_RESERVE = 2 * NFM_BURST }; /* small slots that ports need to go on */

static const char *const counters[] = {
    "fragments", "reassembled", "duplicate", "overlap", "timeout",   "too_many", "evicted",
    "no_slot",   "bad_length",  "truncated", "tiny",    "condemned", NULL};

static const nfm_limit_def limits[] = {
    {"datagrams", 1024, 1, 65536, "datagrams under reassembly; the oldest makes room"},
    {"fragments", 1024, 2, 8192, "fragments of one datagram"},
    {"slots", 4096, 2, 1 << 20, "pieces of packets held; at most half of the pool is used"},
    {"timeout_v4_s", 30, 1, 3600, "time for an IPv4 datagram to complete, in seconds"},
    {"timeout_v6_s", 60, 1, 3600, "time for an IPv6 datagram to complete (RFC 8200), in seconds"},
    {"overlap", OVERLAP_FIRST, OVERLAP_FIRST, OVERLAP_DROP,
     "IPv4 overlaps: 0 first, 1 last, 2 bsd, 3 linux, 4 drop the datagram (IPv6 always)"},
};

static void stop(nfm_ctx *ctx) {
    if (ctx->self != NULL)
        defrag_table_fini(ctx->self);
    free(ctx->self);
    ctx->self = NULL;
}

static int start(nfm_ctx *ctx) {
    uint32_t pieces = (uint32_t)ctx->limits[LIMIT_SLOTS];
    if (pieces > ctx->mem->n_small / 2)
        pieces = ctx->mem->n_small / 2;
    defrag_table *table = ctx->self = malloc(sizeof(defrag_table));
    if (table == NULL)
        return NFM_E_NOMEM;
    uint32_t datagrams = (uint32_t)ctx->limits[LIMIT_DATAGRAMS];
    int rc = defrag_table_init(table, datagrams, pieces, nfm_secret(ctx));
    if (rc != NFM_OK)
        stop(ctx);
    return rc;
}

static void key_set(defrag_key *key, const nfm_packet *packet) {
    memset(key, 0, sizeof(*key));
    memcpy(key->addr, packet->key.addr, sizeof(key->addr));
    key->id = packet->frag_id;
    key->ip_version = packet->key.ip_version;
    if (key->ip_version == 4)
        key->proto = packet->key.proto;
    memcpy(key->vlan, packet->vlan, sizeof(key->vlan));
    key->tunnel_kind = packet->tunnel_kind;
    key->tunnel_id = packet->tunnel_id;
    key->depth = packet->depth;
}

static void expire(nfm_ctx *ctx, int64_t now_ns) {
    const defrag_table *table = ctx->self;
    for (int side = 0; side < 2; side++) {
        while (table->oldest[side] != DEFRAG_NONE &&
               table->datagrams[table->oldest[side]].expires_ns <= now_ns) {
            if (!table->datagrams[table->oldest[side]].condemned)
                ctx->counters[COUNT_TIMEOUT]++;
            defrag_close(ctx, table->oldest[side]);
        }
    }
}

static bool is_scarce(const nfm_ctx *ctx) {
    const defrag_table *table = ctx->self;
    uint32_t n_large = ctx->mem->n_slots - ctx->mem->n_small;
    return table->n_free_pieces < 2 || table->n_large > n_large / 2 ||
           nfm_slots_free(ctx) < SLOT_RESERVE;
}

/* Drops old datagrams until there is room for one more fragment of |keep|. */
static void make_room(nfm_ctx *ctx, uint32_t keep) {
    const defrag_table *table = ctx->self;
    while (is_scarce(ctx)) {
        uint32_t oldest = defrag_oldest(table);
        if (oldest == keep || oldest == DEFRAG_NONE)
            return;
        defrag_close(ctx, oldest);
        ctx->counters[COUNT_EVICTED]++;
    }
}

/* The packet's datagram, new or known. */
static uint32_t datagram_of(nfm_ctx *ctx, const nfm_packet *packet) {
    defrag_table *table = ctx->self;
    defrag_key key;
    key_set(&key, packet);
    uint32_t index = defrag_find(table, &key);
    if (index != DEFRAG_NONE)
        return index;
    uint64_t timeout_s = ctx->limits[key.ip_version == 4 ? LIMIT_TIMEOUT_V4 : LIMIT_TIMEOUT_V6];
    int64_t expires_ns = packet->rec.ts_ns + (int64_t)timeout_s * SECOND_NS;
    index = defrag_open(table, &key, expires_ns);
    if (index == DEFRAG_NONE) {
        defrag_close(ctx, defrag_oldest(table));
        ctx->counters[COUNT_EVICTED]++;
        index = defrag_open(table, &key, expires_ns);
    }
    return index;
}

/* True when a fragment that ends at |end| fits the others: all but the last are multiples of eight,
 * there is one end, and the datagram is not longer than a length field can say. */
static bool length_fits(const defrag_table *table, const defrag_datagram *datagram,
                        const nfm_packet *packet, uint32_t end) {
    uint32_t header = packet->key.ip_version == 4
                          ? (uint32_t)(packet->rec.payload_off - packet->rec.l3_off)
                          : (uint32_t)(packet->ext_off - packet->rec.l3_off - IPV6_LEN);
    if (end > UINT16_MAX - header || (datagram->total != 0 && end > datagram->total))
        return false;
    if (packet->frag_more)
        return packet->rec.payload_len % 8 == 0 && end != datagram->total;
    return (datagram->total == 0 || end == datagram->total) &&
           !defrag_overlaps(table, datagram, end, UINT32_MAX);
}

/* Judges a fragment before its bytes are taken in. Returns the counter of the reason to drop it, or
 * -1; overlaps are the caller's. */
static int refuse(nfm_ctx *ctx, uint32_t index, const nfm_packet *packet) {
    const defrag_table *table = ctx->self;
    const defrag_datagram *datagram = &table->datagrams[index];
    if (datagram->condemned)
        return COUNT_CONDEMNED;
    if (packet->rec.payload_len < packet->l4_len)
        return COUNT_TRUNCATED;
    if (!length_fits(table, datagram, packet, packet->frag_off + packet->rec.payload_len))
        return COUNT_BAD_LENGTH;
    if (datagram->n_fragments >= ctx->limits[LIMIT_FRAGMENTS]) {
        defrag_condemn(ctx, index);
        return COUNT_TOO_MANY;
    }
    return -1;
}

/* Remembers the headers of the fragment at offset 0, of several the first. */
static void note_first(nfm_ctx *ctx, defrag_datagram *datagram, const nfm_packet *packet) {
    defrag_table *table = ctx->self;
    if (packet->frag_off != 0 || datagram->first_slot != NFM_NO_SLOT)
        return;
    datagram->first_slot = packet->rec.slot;
    datagram->l3_off = packet->rec.l3_off;
    datagram->payload_off = packet->rec.payload_off;
    datagram->ext_off = packet->ext_off;
    table->n_large += packet->rec.slot >= ctx->mem->n_small;
    nfm_slot_hold(ctx, packet->rec.slot);
    if (packet->frag_more && packet->rec.payload_len < (packet->rec.proto == 6 ? 20 : 8))
        ctx->counters[COUNT_TINY]++; /* hides its transport header from filters (RFC 1858) */
}

/* Takes the bytes in. Returns false when the datagram is gone or waits for no more. */
static bool take(nfm_ctx *ctx, uint32_t index, const nfm_packet *packet) {
    defrag_table *table = ctx->self;
    defrag_datagram *datagram = &table->datagrams[index];
    defrag_piece piece = {.slot = packet->rec.slot,
                          .start = packet->frag_off,
                          .end = packet->frag_off + packet->rec.payload_len,
                          .data = packet->rec.payload_off};
    enum defrag_overlap overlap = packet->key.ip_version == 6
                                      ? OVERLAP_DROP
                                      : (enum defrag_overlap)ctx->limits[LIMIT_OVERLAP];
    if (defrag_overlaps(table, datagram, piece.start, piece.end)) {
        if (defrag_is_duplicate(ctx, datagram, &piece)) {
            ctx->counters[COUNT_DUPLICATE]++;
            return false;
        }
        ctx->counters[COUNT_OVERLAP]++;
        if (overlap == OVERLAP_DROP) {
            defrag_condemn(ctx, index);
            return false;
        }
    }
    make_room(ctx, index);
    if (is_scarce(ctx) || !defrag_insert(ctx, datagram, &piece, overlap)) {
        ctx->counters[COUNT_NO_SLOT]++;
        defrag_close(ctx, index);
        return false;
    }
    note_first(ctx, datagram, packet);
    datagram->n_fragments++;
    if (!packet->frag_more)
        datagram->total = piece.end;
    return datagram->total != 0 && datagram->covered == datagram->total &&
           datagram->first_slot != NFM_NO_SLOT;
}

/* Takes one fragment. Returns true when its datagram is whole and stands in |packet|. */
static bool fragment(nfm_ctx *ctx, nfm_packet *packet) {
    const defrag_table *table = ctx->self;
    ctx->counters[COUNT_FRAGMENTS]++;
    expire(ctx, packet->rec.ts_ns);
    uint32_t index = datagram_of(ctx, packet);
    int refused = refuse(ctx, index, packet);
    if (refused >= 0) {
        ctx->counters[refused]++;
        return false;
    }
    if (!take(ctx, index, packet))
        return false;
    enum defrag_result result = defrag_build(ctx, &table->datagrams[index], packet);
    defrag_close(ctx, index);
    if (result == DEFRAG_BUILT)
        ctx->counters[COUNT_REASSEMBLED]++;
    else
        ctx->counters[result == DEFRAG_BUILD_SLOT ? COUNT_NO_SLOT : COUNT_BAD_LENGTH]++;
    return result == DEFRAG_BUILT;
}

/* What comes out may be a fragment again: of a tunnel's inner packet, whose outer one was
 * fragmented. */
static int on_fragment(nfm_ctx *ctx, nfm_packet *packet) {
    for (int i = 0; i < MAX_NESTING && fragment(ctx, packet); i++)
        if (packet->status != NFM_PARSE_FRAGMENT)
            return 1;
    return 0;
}

extern const nfm_module nfm_module_ip_defrag;
const nfm_module nfm_module_ip_defrag = {
    .abi = NFM_MODULE_ABI,
    .phase = NFM_PHASE_IP,
    .name = "ip_defrag",
    .summary = "reassembles IPv4 and IPv6 fragments before flows are looked up",
    .limits = limits,
    .counters = counters,
    .n_limits = sizeof(limits) / sizeof(limits[0]),
    .start = start,
    .stop = stop,
    .on_fragment = on_fragment,
    .on_tick = expire,
};
