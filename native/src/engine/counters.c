/* SPDX-License-Identifier: Apache-2.0 */
/* Every drop has a name: the worker's own, the parser's, the modules' counters as one list. */
#include <stdio.h>
#include <string.h>

#include "engine/hosted.h"

typedef struct nfm_counter_list {
    nfm_counter *out;
    uint32_t n, max;
} nfm_counter_list;

static void add(nfm_counter_list *list, const char *name, uint64_t value) {
    if (list->n < list->max)
        list->out[list->n] = (nfm_counter){name, value};
    list->n++;
}

static const char *const core_names[NFM_CC_COUNT] = {
    [NFM_CC_EVICTED] = "flow.evicted",
    [NFM_CC_FLOW_FULL] = "flow.table_full",
    [NFM_CC_FRAGMENT_UNKNOWN] = "ip.fragment_not_reassembled",
    [NFM_CC_RAISE_LIMIT] = "delivery.event_dropped",
    [NFM_CC_TIME_BACK] = "time.went_back",
    [NFM_CC_COMMAND_BAD] = "command.bad",
    [NFM_CC_COMMAND_LATE] = "command.flow_ended",
    [NFM_CC_CHOICES_FULL] = "command.too_many_choices",
    [NFM_CC_FORWARDED] = "forward.packets",
    [NFM_CC_FORWARD_FULL] = "forward.queue_full",
    [NFM_CC_FORWARD_DOWN] = "forward.link_down",
    [NFM_CC_INLINE_DROPPED] = "inline.dropped",
    [NFM_CC_INLINE_REJECTED] = "inline.rejected",
    [NFM_CC_INLINE_REWRITTEN] = "inline.rewritten",
    [NFM_CC_INLINE_UNEDITED] = "inline.not_rewritten",
    [NFM_CC_INLINE_MIRRORED] = "inline.mirrored",
    [NFM_CC_INLINE_LATE] = "inline.late",
    [NFM_CC_INLINE_FAILED_OPEN] = "inline.failed_open",
    [NFM_CC_INLINE_FAILED_CLOSED] = "inline.failed_closed",
    [NFM_CC_INLINE_BAD] = "inline.bad_verdict",
    [NFM_CC_ALIAS_TAKEN] = "inline.address_taken",
    [NFM_CC_FRAGMENTED] = "forward.fragmented",
    [NFM_CC_INLINE_WITHHELD] = "inline.withheld",
    [NFM_CC_INLINE_AGAIN] = "inline.judged_again",
    [NFM_CC_INLINE_NO_ROOM] = "inline.no_room",
    [NFM_CC_INLINE_BAD_CHECKSUM] = "inline.bad_checksum",
    [NFM_CC_INLINE_REPLACED] = "inline.replaced",
    [NFM_CC_INLINE_RAISED] = "inline.raised",
    [NFM_CC_INLINE_BAD_RAISE] = "inline.bad_raise",
    [NFM_CC_INJECTED] = "inline.injected",
    [NFM_CC_INJECT_FULL] = "inline.inject_no_slot",
    [NFM_CC_HANDED_OVER] = "share.handed_over",
    [NFM_CC_TAKEN_OVER] = "share.taken_over",
    [NFM_CC_HANDOVER_FULL] = "share.full",
    [NFM_CC_KEYS_FULL] = "share.keys_full",
};

static uint64_t add_domains(const nfm_worker *w, nfm_counter_list *list) {
    uint64_t delivered = 0;
    for (uint32_t i = 0; i < w->n_inboxes; i++) {
        const nfm_inbox *box = w->inboxes[i];
        if (box == NULL)
            continue;
        delivered += box->delivery.delivered;
        add(list, box->names[0], box->full);
        add(list, box->names[1], box->copies);
        add(list, box->names[2], box->bytes);
    }
    return delivered;
}

static void add_delivery(const nfm_worker *w, nfm_counter_list *list) {
    uint64_t delivered = w->delivery.delivered + add_domains(w, list);
    uint64_t dropped = 0, bad_tails = 0, errors = 0;
    for (uint32_t i = 0; i < w->n_rings; i++) {
        if (w->rings[i] == NULL)
            continue;
        dropped += w->rings[i]->dropped;
        bad_tails += w->rings[i]->bad_tails;
        errors += w->rings[i]->process_errors;
    }
    add(list, "delivery.delivered", delivered);
    add(list, "delivery.no_record", w->delivery.no_record);
    add(list, "delivery.no_field_space", w->delivery.no_fields);
    add(list, "delivery.ring_full", dropped);
    add(list, "delivery.bad_tail", bad_tails);
    add(list, "delivery.native_errors", errors);
    add(list, "subscription.sets", w->subs.n_sets - (w->started ? 1 : 0)); /* not the outdated */
    add(list, "subscription.set_table_full", w->subs.overflows);
}

/* A module's own counter: a hosted one's host writes it. */
static uint64_t counter_of(const nfm_worker *w, const nfm_instance *in, uint32_t counter) {
    if (!in->hosted)
        return in->counters[counter];
    const nfm_hosted *host = w->hosts->of[in->ctx.index];
    return atomic_load_explicit(&host->answers.shared->counters[counter], memory_order_relaxed);
}

static void add_hosts(const nfm_worker *w, nfm_counter_list *list) {
    for (uint32_t i = 0; w->hosts != NULL && i < w->graph.n; i++) {
        const nfm_hosted *host = w->hosts->of[i];
        if (host == NULL)
            continue;
        add(list, host->names[0], host->lost);
        add(list, host->names[1], host->bad_answers);
        add(list, host->names[2], host->ring.wakeups);
    }
}

uint32_t nfm_worker_counters(const nfm_worker *w, nfm_counter *out, uint32_t max) {
    nfm_counter_list list = {out, 0, max};
    for (int i = 0; i < NFM_CC_COUNT; i++)
        add(&list, core_names[i], w->core_counters[i]);
    add_delivery(w, &list);
    for (int i = 1; i < NFM_PD_COUNT; i++)
        add(&list, w->malformed_names[i], w->malformed[i]);
    for (uint32_t i = 0; i < w->graph.n; i++) {
        const nfm_instance *in = &w->graph.instances[i];
        for (uint32_t c = 0; in->counter_names[c][0] != '\0'; c++)
            add(&list, in->counter_names[c], counter_of(w, in, c));
    }
    add_hosts(w, &list);
    return list.n;
}
