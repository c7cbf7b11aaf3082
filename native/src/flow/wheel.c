/* SPDX-License-Identifier: Apache-2.0 */
#include "flow/wheel.h"

#include <string.h>

/* timer_prev of a slot's first flow names the slot: SLOT_MARK | slot. */
#define SLOT_MARK UINT32_C(0x80000000)
#define UNARMED UINT32_C(0xffffffff)

static inline nfm_flow *flow_at(const nfm_wheel *wheel, uint32_t index) {
    return (nfm_flow *)(void *)(wheel->blocks + (size_t)index * wheel->stride);
}

void nfm_wheel_init(nfm_wheel *wheel, void *blocks, size_t stride, int64_t now_ns) {
    memset(wheel, 0, sizeof(*wheel));
    wheel->blocks = blocks;
    wheel->stride = stride;
    wheel->tick = now_ns >> NFM_WHEEL_SHIFT;
}

void nfm_wheel_add(nfm_wheel *wheel, uint32_t index, int64_t deadline_ns) {
    int64_t tick = (deadline_ns >> NFM_WHEEL_SHIFT) + 1;
    if (tick <= wheel->tick)
        tick = wheel->tick + 1;
    if (tick >= wheel->tick + NFM_WHEEL_SLOTS)
        tick = wheel->tick + NFM_WHEEL_SLOTS - 1;
    uint32_t slot = (uint32_t)(tick & (NFM_WHEEL_SLOTS - 1)), first = wheel->head[slot];
    nfm_flow *flow = flow_at(wheel, index);
    flow->timer_next = first;
    flow->timer_prev = SLOT_MARK | slot;
    if (first != 0)
        flow_at(wheel, first - 1)->timer_prev = index;
    wheel->head[slot] = index + 1;
}

void nfm_wheel_remove(nfm_wheel *wheel, uint32_t index) {
    nfm_flow *flow = flow_at(wheel, index);
    if (flow->timer_prev == UNARMED)
        return;
    if (flow->timer_prev & SLOT_MARK)
        wheel->head[flow->timer_prev & ~SLOT_MARK] = flow->timer_next;
    else
        flow_at(wheel, flow->timer_prev)->timer_next = flow->timer_next;
    if (flow->timer_next != 0)
        flow_at(wheel, flow->timer_next - 1)->timer_prev = flow->timer_prev;
    flow->timer_next = 0;
    flow->timer_prev = UNARMED;
}

/* Idle flows are cold: loads the next one while the caller deals with this one. */
static void prefetch_block(const nfm_wheel *wheel, uint32_t index) {
    const uint8_t *block = (const uint8_t *)flow_at(wheel, index);
    for (size_t line = 0; line < wheel->stride; line += 64)
        __builtin_prefetch(block + line, 1);
}

uint32_t nfm_wheel_pop(nfm_wheel *wheel, int64_t now_ns) {
    int64_t until = now_ns >> NFM_WHEEL_SHIFT;
    if (until > wheel->tick + NFM_WHEEL_SLOTS) /* one full turn visits every slot */
        wheel->tick = until - NFM_WHEEL_SLOTS;
    while (wheel->tick < until) {
        uint32_t slot = (uint32_t)((wheel->tick + 1) & (NFM_WHEEL_SLOTS - 1));
        uint32_t first = wheel->head[slot];
        if (first != 0) {
            nfm_wheel_remove(wheel, first - 1);
            if (wheel->head[slot] != 0)
                prefetch_block(wheel, wheel->head[slot] - 1);
            return first - 1;
        }
        wheel->tick++;
    }
    return NFM_NO_FLOW;
}
