/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The fate of the k-th frame is a function of the seed and k alone: each of its draws is a mix of
 * both, so neither the other shares nor the machine's speed change what a draw says. A surviving
 * frame gets the time at which it is due (the link's rate and delays add up) and waits in a heap,
 * ordered by that time and then by its number. A frame that is to be overtaken waits apart until so
 * many others were offered, or its time is up, and then goes behind what is due. At most
 * config.queue frames wait in either place; what comes beyond is lost and counted, as in a router.
 *
 * Bytes are written only in a slot that nobody else can be reading, else in a copy.
 */
#include "io/lane.h"

#include <stdlib.h>
#include <string.h>

enum draw {
    DRAW_DROP,
    DRAW_DUPLICATE,
    DRAW_CORRUPT,
    DRAW_REORDER,
    DRAW_DELAY,
    DRAW_JITTER,
    DRAW_BIT,
    DRAWS
};

#define NS_PER_S UINT64_C(1000000000)

/* splitmix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014). */
static uint64_t mix(uint64_t x) {
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static uint64_t draw(const nfm_lane *lane, enum draw what) {
    return mix(lane->seed ^ mix(lane->count * DRAWS + what));
}

/* 0 <= share < 1 */
static double draw_share(const nfm_lane *lane, enum draw what) {
    return (double)(draw(lane, what) >> 11) * 0x1p-53;
}

static bool comes_before(const nfm_lane_item *a, const nfm_lane_item *b) {
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->order < b->order;
}

static void push(nfm_lane *lane, const nfm_lane_item *item) {
    uint32_t at = lane->n_heap++;
    for (; at > 0 && comes_before(item, &lane->heap[(at - 1) / 2]); at = (at - 1) / 2)
        lane->heap[at] = lane->heap[(at - 1) / 2];
    lane->heap[at] = *item;
}

static void pop(nfm_lane *lane) {
    const nfm_lane_item *last = &lane->heap[--lane->n_heap];
    uint32_t at = 0, child;
    while ((child = 2 * at + 1) < lane->n_heap) {
        if (child + 1 < lane->n_heap && comes_before(&lane->heap[child + 1], &lane->heap[child]))
            child++;
        if (!comes_before(&lane->heap[child], last))
            break;
        lane->heap[at] = lane->heap[child];
        at = child;
    }
    lane->heap[at] = *last;
}

int nfm_lane_init(nfm_lane *lane, const nfm_impair_config *config, uint64_t seed) {
    *lane = (nfm_lane){.config = *config, .seed = mix(seed)};
    /* A frame that is returned finds room, however full the heap is. */
    lane->heap = calloc((size_t)config->queue + 1, sizeof(nfm_lane_item));
    lane->overtaken = calloc(config->queue, sizeof(nfm_lane_item));
    if (lane->heap != NULL && lane->overtaken != NULL)
        return NFM_OK;
    nfm_lane_fini(lane);
    return NFM_E_NOMEM;
}

void nfm_lane_fini(nfm_lane *lane) {
    free(lane->heap);
    free(lane->overtaken);
    lane->heap = lane->overtaken = NULL;
}

/* A slot of its own with the item's bytes; what the kernel left undone in them, too. */
static bool copy_item(nfm_lane *lane, nfm_pool *pool, const nfm_lane_item *item,
                      nfm_lane_item *copy) {
    uint32_t slot = nfm_pool_get(pool, item->frame.len);
    if (slot == NFM_NO_SLOT) {
        lane->stats.no_slot++;
        return false;
    }
    const uint8_t *from = nfm_pool_addr(pool, item->frame.slot);
    uint8_t *to = nfm_pool_addr(pool, slot);
    memcpy(to, from, sizeof(nfm_slot_meta));
    memcpy(to + NFM_HEADROOM, from + item->off, item->frame.len);
    *copy = *item;
    copy->frame.slot = slot;
    copy->off = NFM_HEADROOM;
    return true;
}

static void corrupt(nfm_lane *lane, nfm_pool *pool, nfm_lane_item *item, bool may_write) {
    uint64_t bit = draw(lane, DRAW_BIT) % ((uint64_t)item->frame.len * 8);
    if (!may_write) {
        nfm_lane_item copy;
        if (!copy_item(lane, pool, item, &copy))
            return;
        nfm_pool_put(pool, item->frame.slot);
        *item = copy;
    }
    nfm_pool_addr(pool, item->frame.slot)[item->off + bit / 8] ^= (uint8_t)(1u << bit % 8);
    lane->stats.corrupted++;
}

/* When the frame has left the link, delays included. */
static int64_t find_due(nfm_lane *lane, uint32_t len) {
    const nfm_impair_config *c = &lane->config;
    int64_t due = lane->now_ns;
    if (c->rate_bps > 0) {
        int64_t start = lane->busy_ns > due ? lane->busy_ns : due;
        due = lane->busy_ns = start + (int64_t)(len * 8 * NS_PER_S / c->rate_bps);
    }
    if (draw_share(lane, DRAW_DELAY) < c->delay) {
        due +=
            (int64_t)c->delay_ns + (int64_t)((double)c->jitter_ns * draw_share(lane, DRAW_JITTER));
        lane->stats.delayed++;
    }
    return due;
}

static bool is_full(nfm_lane *lane) {
    bool full = lane->n_heap + lane->n_overtaken >= lane->config.queue;
    lane->stats.overflow += full;
    return full;
}

/* Whether anything becomes of the frame at all. */
static bool survives(nfm_lane *lane) {
    bool dropped = draw_share(lane, DRAW_DROP) < lane->config.drop;
    lane->stats.dropped += dropped;
    return !dropped && !is_full(lane);
}

static void let_overtake(nfm_lane *lane, const nfm_lane_item *item) {
    uint32_t at = (lane->first + lane->n_overtaken++) % lane->config.queue;
    lane->overtaken[at] = *item;
    lane->overtaken[at].order = lane->count + lane->config.reorder_gap;
    lane->overtaken[at].due_ns += (int64_t)lane->config.reorder_ns;
    lane->stats.reordered++;
}

/* Frames that were overtaken, or waited long enough, follow what is due now. */
static void release_overtaken(nfm_lane *lane) {
    while (lane->n_overtaken > 0) {
        nfm_lane_item *item = &lane->overtaken[lane->first];
        if (item->order > lane->count && item->due_ns > lane->now_ns)
            return;
        item->due_ns = lane->now_ns;
        if (item->frame.ts_ns < lane->now_ns)
            item->frame.ts_ns = lane->now_ns;
        item->order = ++lane->serial;
        push(lane, item);
        lane->first = (lane->first + 1) % lane->config.queue;
        lane->n_overtaken--;
    }
}

/* A frame that survived: damaged, doubled, and when it is due. */
static void admit(nfm_lane *lane, nfm_pool *pool, nfm_lane_item *own, bool may_write) {
    nfm_lane_item twin;
    if (draw_share(lane, DRAW_CORRUPT) < lane->config.corrupt && own->frame.len > 0)
        corrupt(lane, pool, own, may_write);
    own->due_ns = find_due(lane, own->frame.len);
    own->order = ++lane->serial;
    if (own->due_ns > lane->now_ns)
        own->frame.ts_ns = own->due_ns;
    if (draw_share(lane, DRAW_REORDER) < lane->config.reorder)
        let_overtake(lane, own);
    else
        push(lane, own);
    if (draw_share(lane, DRAW_DUPLICATE) < lane->config.duplicate && !is_full(lane) &&
        copy_item(lane, pool, own, &twin)) {
        twin.order = ++lane->serial;
        push(lane, &twin);
        lane->stats.duplicated++;
    }
}

void nfm_lane_offer(nfm_lane *lane, nfm_pool *pool, const nfm_lane_item *item, int64_t now_ns,
                    bool may_write) {
    nfm_lane_item own = *item;
    if (now_ns > lane->now_ns)
        lane->now_ns = now_ns;
    lane->count++;
    lane->stats.seen++;
    if (survives(lane))
        admit(lane, pool, &own, may_write);
    else
        nfm_pool_put(pool, own.frame.slot);
    release_overtaken(lane);
}

bool nfm_lane_take(nfm_lane *lane, int64_t now_ns, nfm_lane_item *out) {
    bool all = now_ns == INT64_MAX;
    if (!all && now_ns > lane->now_ns)
        lane->now_ns = now_ns;
    release_overtaken(lane);
    if (all && lane->n_heap == 0 && lane->n_overtaken > 0) {
        lane->overtaken[lane->first].due_ns = lane->now_ns;
        release_overtaken(lane);
    }
    if (lane->n_heap == 0 || (!all && lane->heap[0].due_ns > lane->now_ns))
        return false;
    *out = lane->heap[0];
    pop(lane);
    return true;
}

void nfm_lane_return(nfm_lane *lane, const nfm_lane_item *item) {
    push(lane, item);
}

void nfm_lane_clear(nfm_lane *lane, nfm_pool *pool) {
    nfm_lane_item item;
    while (nfm_lane_take(lane, INT64_MAX, &item))
        nfm_pool_put(pool, item.frame.slot);
}
