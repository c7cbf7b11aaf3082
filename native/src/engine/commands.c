/* SPDX-License-Identifier: Apache-2.0 */
/* What receivers ask for by their queues of commands: holds, subscriptions on single flows, frames
 * and events of their own. */
#include "engine/transit.h"

uint32_t nfm__flow_choice(const nfm_worker *w, uint32_t index) {
    if (!(nfm_table_flow(&w->table, index)->flags & NFM_FLOW_CHOSEN))
        return NFM_NO_CHOICE;
    return ((const uint32_t *)(void *)w->choices.base)[index];
}

static void set_choice(nfm_worker *w, uint32_t index, uint32_t choice) {
    nfm_flow *flow = nfm_table_flow(&w->table, index);
    ((uint32_t *)(void *)w->choices.base)[index] = choice;
    flow->flags = (uint8_t)((flow->flags & ~NFM_FLOW_CHOSEN) |
                            (choice == NFM_NO_CHOICE ? 0 : NFM_FLOW_CHOSEN));
}

void nfm__flow_forget_choice(nfm_worker *w, uint32_t index) {
    uint32_t choice = nfm__flow_choice(w, index);
    if (choice == NFM_NO_CHOICE)
        return;
    nfm_subs_unchoose(&w->subs, choice);
    set_choice(w, index, NFM_NO_CHOICE);
}

/* The open flow with this id; NFM_NO_FLOW when it has ended. */
static uint32_t open_flow(const nfm_worker *w, uint64_t id) {
    uint32_t index = (uint32_t)id;
    if (index >= w->table.n_fresh || !(nfm_table_flow(&w->table, index)->flags & NFM_FLOW_OPEN) ||
        nfm__flow_id(w, index) != id)
        return NFM_NO_FLOW;
    return index;
}

/* The flow finds its sets anew at its next packet, as after a change of all subscriptions. */
void nfm__flow_choose(nfm_worker *w, uint32_t index, const nfm_ring *ring, uint32_t group,
                      bool on) {
    nfm_error err;
    uint32_t choice, before = nfm__flow_choice(w, index);
    if ((w->choices.base == NULL &&
         nfm_region_init(&w->choices, "choices", w->table.max_flows * sizeof(uint32_t), &err) !=
             NFM_OK) ||
        !nfm_subs_choose(&w->subs, before, ring, group, on, &choice)) {
        w->core_counters[NFM_CC_CHOICES_FULL]++;
        return;
    }
    if (choice == before)
        return; /* packets that came before the verdict on the first say it again */
    set_choice(w, index, choice);
    nfm_flow *flow = nfm_table_flow(&w->table, index);
    for (uint8_t side = 0; side < 2; side++) {
        nfm_subs_hold(&w->subs, w->subs.outdated);
        nfm_subs_release(&w->subs, flow->subs[side]);
        flow->subs[side] = w->subs.outdated;
    }
}

static void choose(nfm_worker *w, const nfm_ring *ring, const nfm_command *command, bool on) {
    uint32_t index = open_flow(w, command->a);
    if (index == NFM_NO_FLOW)
        w->core_counters[NFM_CC_COMMAND_LATE]++;
    else
        nfm__flow_choose(w, index, ring, command->number, on);
}

static void end_holds(nfm_worker *w, nfm_ring *ring) {
    if (ring->in_line != NULL)
        nfm__transit_give_up_kept(w, ring);
    nfm_delivery_unhold_all(nfm__delivery_of(w, ring), ring);
}

/* A kept packet is judged, and held no longer. */
static bool judge(nfm_worker *w, nfm_ring *ring, const nfm_command *command) {
    bool kept = nfm__transit_judge_kept(w, ring, command);
    return nfm_delivery_unhold(nfm__delivery_of(w, ring), ring, command->number) && kept;
}

static void take(nfm_worker *w, nfm_ring *ring, const nfm_command *command) {
    nfm_delivery *d = nfm__delivery_of(w, ring);
    bool good = true;
    switch (command->kind) {
    case NFM_CMD_HOLD:
        good = nfm_delivery_hold(d, ring, command->number, command->a);
        break;
    case NFM_CMD_RELEASE:
        good = nfm_delivery_unhold(d, ring, command->number);
        break;
    case NFM_CMD_SUBSCRIBE:
    case NFM_CMD_UNSUBSCRIBE:
        choose(w, ring, command, command->kind == NFM_CMD_SUBSCRIBE);
        break;
    case NFM_CMD_BEGIN:
        end_holds(w, ring);
        break;
    case NFM_CMD_JUDGE:
        good = judge(w, ring, command);
        break;
    case NFM_CMD_INJECT:
        good = nfm__inject(w, ring, command);
        break;
    case NFM_CMD_RAISE:
        nfm__raise(w, ring, command);
        break;
    default:
        good = false;
    }
    w->core_counters[NFM_CC_COMMAND_BAD] += !good;
}

void nfm_worker_take_commands(nfm_worker *w) {
    uint64_t injected = w->core_counters[NFM_CC_INJECTED];
    for (uint32_t i = 0; i < w->n_rings; i++) {
        nfm_ring *ring = w->rings[i];
        nfm_command command;
        if (ring == NULL || (!nfm_ring_has_command(ring) && !ring->quarantined))
            continue;
        if (ring->in_line != NULL) { /* what was judged before a command comes before it */
            nfm_ring_collect(ring);
            nfm__transit_judge(w, ring);
        }
        for (int n = 0; n < NFM_COMMANDS && nfm_ring_take_command(ring, &command); n++)
            take(w, ring, &command);
        if (ring->quarantined)
            end_holds(w, ring);
    }
    if (w->core_counters[NFM_CC_INJECTED] != injected)
        nfm__output_flush(w);
}
