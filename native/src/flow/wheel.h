/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The timer wheel of a worker's flows.
 *
 * Theory of operation. One level of 4096 slots of 2^28 ns (268 ms), a horizon of 18 minutes. A flow
 * is in at most one slot, linked through nfm_flow.timer_next/prev by index. Deadlines are lazy:
 * packets only move nfm_flow.last_ns; when a slot comes up the owner looks again and re-arms, so a
 * busy flow costs one look per deadline, not one per packet. Deadlines beyond the horizon wait in
 * its last slot. Advancing visits each slot at most once, however far time jumps.
 */
#ifndef NFM_FLOW_WHEEL_H
#define NFM_FLOW_WHEEL_H

#include "nfm/module.h"

enum { NFM_WHEEL_SLOTS = 4096, NFM_WHEEL_SHIFT = 28 };

typedef struct nfm_wheel {
    uint8_t *blocks; /* borrowed: the flow table's blocks, each begins with an nfm_flow */
    size_t stride;
    int64_t tick;                   /* ticks done; slots up to this one are empty */
    uint32_t head[NFM_WHEEL_SLOTS]; /* flow index + 1, 0 empty */
} nfm_wheel;

/* Starts the wheel at |now_ns|: nothing is armed before it. */
void nfm_wheel_init(nfm_wheel *wheel, void *blocks, size_t stride, int64_t now_ns);
/* Arms flow |index|, which must not be armed, to come up at or shortly after |deadline_ns|. */
void nfm_wheel_add(nfm_wheel *wheel, uint32_t index, int64_t deadline_ns);
/* Disarms flow |index|; harmless when it is not armed. */
void nfm_wheel_remove(nfm_wheel *wheel, uint32_t index);
/* Takes one flow whose slot lies at or before |now_ns|, disarmed; NFM_NO_FLOW when none is left. */
uint32_t nfm_wheel_pop(nfm_wheel *wheel, int64_t now_ns);

/* Whether nfm_wheel_pop would have work to do: one compare, for the packet path. */
static inline bool nfm_wheel_due(const nfm_wheel *wheel, int64_t now_ns) {
    return (now_ns >> NFM_WHEEL_SHIFT) > wheel->tick;
}

#endif
