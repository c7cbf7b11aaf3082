/* SPDX-License-Identifier: Apache-2.0 */
/* Hosts of application modules as the worker sees them: rings, answers, lives. */
#include "engine/hosted.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    QUEUE_PER_RECORD = 4,
    LOOKS_PER_CLOCK = 64, /* fruitless looks at a host between two at the clock */
    DRAIN_NAP_NS = 20000,
    DRAIN_NS = 1000000000, /* what a change of subscriptions may cost */
};
#define WANTED_KNOWN (UINT32_C(1) << 31)
#define WANTED_EVENTS 31 /* own events of a hosted module at most */

static int64_t monotonic_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- making and unmaking ---- */

static uint32_t queue_size(const nfm_worker *w) {
    return w->config.n_records * QUEUE_PER_RECORD;
}

static int make_hosts(nfm_worker *w, nfm_error *err) {
    if (w->hosts != NULL)
        return NFM_OK;
    nfm_hosts *h = w->hosts = calloc(1, sizeof(*h));
    if (h == NULL)
        return NFM_E_NOMEM;
    h->queue_size = queue_size(w);
    h->queue = calloc(h->queue_size, sizeof(nfm_pending));
    h->at_hand = NFM_NO_RECORD;
    int rc = h->queue == NULL ? NFM_E_NOMEM
                              : nfm_region_init(&h->flows_region, "hosted flows",
                                                sizeof(nfm_hosted_flow) * w->config.max_flows, err);
    h->flows = (nfm_hosted_flow *)(void *)h->flows_region.base;
    return rc;
}

static void free_host(nfm_hosted *host) {
    if (host->ring.shared != NULL)
        nfm_ring_fini(&host->ring);
    nfm_answers_close(&host->answers);
    free(host->wanted);
    free(host);
}

void nfm__hosts_free(nfm_worker *w) {
    if (w->hosts == NULL)
        return;
    for (uint32_t i = 0; i < NFM_MAX_MODULES; i++)
        if (w->hosts->of[i] != NULL)
            free_host(w->hosts->of[i]);
    nfm_region_fini(&w->hosts->flows_region);
    free(w->hosts->queue);
    free(w->hosts);
    w->hosts = NULL;
}

static void name_counters(nfm_hosted *host) {
    static const char *const words[] = {"lost", "bad_answers", "host_wakeups"};
    for (int i = 0; i < 3; i++)
        snprintf(host->names[i], sizeof(host->names[i]), "module.%s.%s", host->in->module->name,
                 words[i]);
}

/* Opens both rings. What is in them is another life's: questions stay where they are, since a host
 * may be reading them, and are not waited for. */
static int open_rings(nfm_hosted *host, const nfm_hosting *hosting, nfm_error *err) {
    int rc = nfm_ring_adopt(&host->ring, hosting->ring_fd, false, err);
    if (rc == NFM_OK)
        rc = nfm_answers_open(&host->answers, hosting->answers_fd, false, err);
    if (rc != NFM_OK)
        return rc;
    host->given_up = host->ring.head;
    host->done = atomic_load(&host->answers.shared->done);
    nfm_answers_skip(&host->answers);
    uint32_t life = atomic_load(&host->answers.shared->life);
    atomic_store(&host->answers.shared->life, life + 1);
    return NFM_OK;
}

static int fit_for_a_host(const nfm_module *m, nfm_error *err) {
    const char *why = NULL;
    if (m->phase != NFM_PHASE_APP)
        why = "only application modules can run on a core of their own";
    else if (m->totals != NULL)
        why = "it has a part in the totals of flows, so it must run in-line";
    else if (m->n_emits > WANTED_EVENTS)
        why = "more than 31 events: it must run in-line";
    if (why == NULL)
        return NFM_OK;
    if (err != NULL)
        snprintf(err->text, sizeof(err->text), "module %s: %s", m->name, why);
    return err != NULL ? (err->code = NFM_E_INVAL) : NFM_E_INVAL;
}

/* Fills |host| for module |index|. */
static int enlist(nfm_worker *w, nfm_hosted *host, const nfm_hosting *hosting, nfm_error *err) {
    host->wanted = calloc(NFM_MAX_SETS, sizeof(uint32_t));
    if (host->wanted == NULL)
        return NFM_E_NOMEM;
    int rc = open_rings(host, hosting, err);
    if (rc != NFM_OK)
        return rc;
    int index = nfm_graph_add(&w->graph, hosting->module, hosting->limits, hosting->types, err);
    if (index < 0)
        return index;
    host->in = &w->graph.instances[index];
    host->in->hosted = true;
    host->deadline_ns = hosting->deadline_ns;
    name_counters(host);
    nfm_hosts *h = w->hosts;
    h->of[index] = host;
    h->mask |= (uint16_t)(1u << index);
    h->needs |= host->in->needs;
    h->ordered |= hosting->ordered != 0;
    return index;
}

int nfm_worker_add_hosted_module(nfm_worker *w, const nfm_hosting *hosting, nfm_error *err) {
    int rc = fit_for_a_host(hosting->module, err);
    if (rc == NFM_OK)
        rc = make_hosts(w, err);
    if (rc != NFM_OK)
        return rc;
    nfm_hosted *host = calloc(1, sizeof(*host));
    rc = host == NULL ? NFM_E_NOMEM : enlist(w, host, hosting, err);
    if (rc < 0 && host != NULL)
        free_host(host);
    if (rc >= 0 && w->started) { /* flows look anew what is done for them */
        nfm__hosts_drain(w);
        (void)nfm__change_subscriptions(w);
    }
    return rc;
}

/* ---- asking ---- */

static uint32_t wanted_of_set(nfm_worker *w, nfm_hosted *host, uint32_t set) {
    if (host->wanted[set] & WANTED_KNOWN)
        return host->wanted[set];
    uint32_t wanted = WANTED_KNOWN;
    for (uint32_t i = 0; i < host->in->module->n_emits; i++)
        if (nfm_subset_wants(&w->subs.sets[set], host->in->types[i]))
            wanted |= UINT32_C(1) << i;
    if (!w->subs.sets[set].stale) /* its place may be another set's soon */
        host->wanted[set] = wanted;
    return wanted;
}

void nfm__hosts_subs_changed(nfm_worker *w) {
    for (uint32_t i = 0; w->hosts != NULL && i < NFM_MAX_MODULES; i++)
        if (w->hosts->of[i] != NULL)
            memset(w->hosts->of[i]->wanted, 0, NFM_MAX_SETS * sizeof(uint32_t));
}

void nfm__host_ask(nfm_worker *w, uint32_t index, nfm_instance *in, uint64_t what) {
    nfm_hosts *h = w->hosts;
    nfm_hosted *host = h->of[in->ctx.index];
    const nfm_flow *flow = nfm_table_flow(&w->table, index);
    uint64_t position = host->ring.head;
    if (what & NFM_ASK_EVENT)
        what |= (wanted_of_set(w, host, flow->subs[0]) | wanted_of_set(w, host, flow->subs[1])) &
                ~WANTED_KNOWN;
    bool is_event = (what & NFM_ASK_EVENT) != 0;
    if (host->state != NFM_HOST_ANSWERS || (is_event && h->at_hand == NFM_NO_RECORD) ||
        !nfm_ring_push(&host->ring, h->at_hand, index, what)) {
        host->lost += is_event;
        return;
    }
    nfm_pending entry = {
        .record = h->at_hand,
        .flow = index,
        .set = {flow->subs[0], flow->subs[1]},
        .position = position,
        .kind = what & NFM_ASK_JOIN ? NFM_PENDING_JOIN : NFM_PENDING_ASK,
        .module = (uint8_t)in->ctx.index,
    };
    nfm__pending_add(w, &entry);
}

/* The host is told of a flow by its first record, unless the module wants to see its first packet,
 * or may know the flow already. */
void nfm__host_open(nfm_worker *w, uint32_t index, nfm_instance *in, const nfm_packet *packet) {
    nfm_hosts *h = w->hosts;
    const nfm_flow *flow = nfm_table_flow(&w->table, index);
    bool is_new = flow->packets[0] + flow->packets[1] == 0;
    if (is_new)
        h->flows[index].detached &= (uint16_t) ~(1u << in->ctx.index);
    if (is_new && in->module->flow_open == NULL)
        return;
    h->at_hand = NFM_NO_RECORD;
    if (in->module->flow_open != NULL && packet != NULL)
        h->at_hand = nfm_record_keep(&w->delivery, &packet->rec);
    h->last_of_it = 0;
    nfm__host_ask(w, index, in, NFM_ASK_JOIN);
    nfm__pending_end_record(w);
}

void nfm__host_close(nfm_worker *w, uint32_t index, nfm_instance *in) {
    w->hosts->at_hand = NFM_NO_RECORD;
    nfm__host_ask(w, index, in, NFM_ASK_CLOSE);
}

void nfm__hosts_rejoin(nfm_worker *w, uint32_t index, uint16_t modules, const nfm_packet *packet) {
    if (w->hosts->flows[index].pending == 0)
        return;
    for (unsigned left = modules & w->hosts->mask; left != 0; left &= left - 1)
        nfm__host_open(w, index, &w->graph.instances[__builtin_ctz(left)], packet);
}

void nfm__hosts_tick(nfm_worker *w, int64_t now_ns) {
    if (w->hosts->is_over)
        return; /* a worker that is ending says so at each run */
    w->hosts->is_over = now_ns == INT64_MAX;
    for (unsigned left = w->hosts->mask; left != 0; left &= left - 1) {
        nfm_hosted *host = w->hosts->of[__builtin_ctz(left)];
        uint64_t at = (uint64_t)now_ns;
        if (host->in->module->on_tick != NULL && host->state == NFM_HOST_ANSWERS)
            (void)nfm_ring_push(&host->ring, (uint32_t)at, (uint32_t)(at >> 32), NFM_ASK_TICK);
    }
}

/* ---- lives of hosts ---- */

/* Tells the host to begin anew, and counts on it from here on. */
static void reset(nfm_hosted *host) {
    host->given_up = host->ring.head;
    uint64_t what = NFM_ASK_RESET | host->session | (host->was_reset ? 0 : NFM_ASK_FRESH);
    if (!nfm_ring_push(&host->ring, NFM_NO_RECORD, NFM_NO_FLOW, what))
        return;
    host->was_reset = true;
    host->state = NFM_HOST_ANSWERS;
    host->waits_since_ns = 0;
}

void nfm__host_give_up(nfm_hosted *host) {
    host->given_up = host->ring.head;
    host->state = NFM_HOST_GIVEN_UP;
    host->waits_since_ns = 0;
}

static void give_up_all(nfm_hosts *h) {
    for (unsigned left = h->mask; left != 0; left &= left - 1)
        nfm__host_give_up(h->of[__builtin_ctz(left)]);
}

bool nfm__host_is_overdue(nfm_hosted *host) {
    if (++host->looks % LOOKS_PER_CLOCK != 0)
        return false;
    int64_t now = monotonic_ns();
    if (host->waits_since_ns == 0)
        host->waits_since_ns = now;
    return now - host->waits_since_ns >= host->deadline_ns;
}

/* Sees how far the host is, and whether it is still the same. */
static void look_at(nfm_hosted *host) {
    nfm_answers_shared *shared = host->answers.shared;
    uint64_t done = atomic_load_explicit(&shared->done, memory_order_acquire);
    uint32_t session = atomic_load_explicit(&shared->session, memory_order_acquire);
    nfm_ring_collect(&host->ring);
    if (done != host->done && (done < host->done || done > host->ring.head || host->lied)) {
        host->bad_answers += !host->lied;
        host->lied = true;
        nfm__host_give_up(host);
    } else if (done != host->done) {
        host->done = done;
        host->waits_since_ns = 0;
    }
    if (host->ring.quarantined && !host->lied) {
        host->lied = true;
        nfm__host_give_up(host);
    }
    if (session != host->session) {
        host->session = session;
        host->lied = host->ring.quarantined;
        if (!host->lied)
            reset(host);
    } else if (host->state == NFM_HOST_GIVEN_UP && session != 0 && !host->lied &&
               host->done >= host->given_up) {
        reset(host); /* it was slow, and is there again */
    }
}

void nfm__hosts_settle(nfm_worker *w) {
    nfm_hosts *h = w->hosts;
    for (unsigned left = h->mask; left != 0; left &= left - 1)
        look_at(h->of[__builtin_ctz(left)]);
    nfm__pending_deliver(w, false);
    for (unsigned left = h->mask; left != 0; left &= left - 1) {
        nfm_hosted *host = h->of[__builtin_ctz(left)];
        (void)nfm_ring_flush(&host->ring);
        nfm_ring_wake(&host->ring);
    }
}

void nfm__hosts_drain(nfm_worker *w) {
    nfm_hosts *h = w->hosts;
    struct timespec nap = {.tv_nsec = DRAIN_NAP_NS};
    if (h == NULL || h->head == h->tail)
        return;
    int64_t until = monotonic_ns() + DRAIN_NS;
    while (h->head != h->tail) {
        if (monotonic_ns() > until)
            give_up_all(h);
        nfm__hosts_settle(w);
        nfm__pending_deliver(w, true);
        nfm_delivery_publish(&w->delivery);
        nfm_delivery_collect(&w->delivery);
        nfm__domains_publish(w, true);
        nfm_worker_take_commands(w);
        nfm_delivery_retire(&w->delivery);
        nfm__domains_retire(w);
        if (h->head != h->tail)
            nanosleep(&nap, NULL);
    }
}

bool nfm__hosts_must_wait(nfm_worker *w) {
    nfm_hosts *h = w->hosts;
    if (h->head - h->tail > h->queue_size / 2)
        return true;
    for (unsigned left = h->mask; left != 0; left &= left - 1) {
        nfm_hosted *host = h->of[__builtin_ctz(left)];
        uint64_t used = nfm_ring_used(&host->ring);
        bool is_full = used > host->ring.mask - host->ring.mask / 4;
        if (!(h->ordered && host->state == NFM_HOST_ABSENT) &&
            !(is_full && host->state == NFM_HOST_ANSWERS))
            continue;
        if (!nfm__host_is_overdue(host))
            return true;
        nfm__host_give_up(host);
    }
    return false;
}

bool nfm__hosts_are_busy(const nfm_worker *w) {
    const nfm_hosts *h = w->hosts;
    for (unsigned left = h->mask; left != 0; left &= left - 1) {
        nfm_hosted *host = h->of[__builtin_ctz(left)];
        if (host->state != NFM_HOST_ANSWERS || host->done >= host->ring.head)
            continue;
        if (!nfm__host_is_overdue(host))
            return true;
        nfm__host_give_up(host);
    }
    return h->head != h->tail;
}

void nfm__hosts_end(nfm_worker *w) {
    for (unsigned left = w->hosts->mask; left != 0; left &= left - 1)
        nfm_ring_end(&w->hosts->of[__builtin_ctz(left)]->ring);
}
