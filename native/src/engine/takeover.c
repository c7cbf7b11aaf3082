/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <unistd.h>

#include "engine/share.h"
#include "engine/transit.h"

void nfm__hand_over(nfm_worker *w, const nfm_packet *p, uint32_t worker, uint16_t flags) {
    nfm_handover *ring = &w->share->to[worker];
    bool is_live = w->ports[w->in_port]->ops->wait_fd != NULL;
    nfm_handed head = {.kind = NFM_HANDED_FRAME,
                       .port = (uint8_t)w->in_port,
                       .flags = flags,
                       .len = p->rec.frame_len,
                       .wire_len = p->rec.wire_len,
                       .link_type = p->link_type,
                       .ts_ns = p->rec.ts_ns};
    if (is_live && !(flags & NFM_HANDED_WHOLE)) /* of a capture's frame nothing was left undone */
        memcpy(&head.meta, p->base, sizeof(head.meta));
    uint8_t *to = ring->shared == NULL ? NULL : nfm_handover_write(ring, &head);
    if (to == NULL) {
        w->core_counters[NFM_CC_HANDOVER_FULL]++;
        return;
    }
    memcpy(to, p->base + NFM_HEADROOM, p->rec.frame_len);
    w->core_counters[NFM_CC_HANDED_OVER]++;
}

void nfm__share_key(nfm_worker *w, const nfm_key *key, bool is_known) {
    uint32_t owner = nfm__owner_of_key(w, key);
    nfm_handover *ring = &w->share->to[owner];
    nfm_handed head = {.kind = is_known ? NFM_HANDED_KEY : NFM_HANDED_NO_KEY, .len = sizeof(*key)};
    if (owner == w->config.id || ring->shared == NULL)
        return;
    uint8_t *to = nfm_handover_write(ring, &head);
    if (to != NULL)
        memcpy(to, key, sizeof(*key));
    else
        w->core_counters[NFM_CC_HANDOVER_FULL]++;
}

void nfm__share_publish(nfm_worker *w) {
    for (uint32_t i = 0; i < w->share->n_workers; i++)
        if (w->share->to[i].shared != NULL)
            nfm_handover_publish(&w->share->to[i]);
}

/* ---- taking --------------------------------------------------------------------------------- */

/* Copies an entry's frame into a slot; NFM_NO_SLOT: there is none now. */
static uint32_t slot_of(nfm_worker *w, const nfm_handed *head, const uint8_t *bytes) {
    uint32_t slot = nfm_pool_get(&w->pool, head->len);
    if (slot == NFM_NO_SLOT)
        return slot;
    uint8_t *to = nfm_pool_addr(&w->pool, slot);
    memcpy(to, &head->meta, sizeof(head->meta));
    memcpy(to + NFM_HEADROOM, bytes, head->len);
    return slot;
}

/* Sends a frame for another worker, who has counted it. False: there is no slot now. */
static bool send_frame(nfm_worker *w, const nfm_handed *head, const uint8_t *bytes) {
    if (w->way == NULL || head->port >= w->n_ports)
        return true;
    uint32_t slot = slot_of(w, head, bytes);
    if (slot == NFM_NO_SLOT)
        return false;
    uint64_t forwarded = w->core_counters[NFM_CC_FORWARDED];
    nfm_tx tx = {slot, NFM_HEADROOM, head->len, head->wire_len, head->ts_ns};
    nfm__output(w, head->port, &tx);
    w->core_counters[NFM_CC_FORWARDED] = forwarded;
    w->core_counters[NFM_CC_TAKEN_OVER]++;
    return true;
}

static void note_key(nfm_worker *w, const nfm_handed *head, const uint8_t *bytes, uint32_t from) {
    nfm_key key;
    if (head->len != sizeof(key))
        return;
    memcpy(&key, bytes, sizeof(key));
    if (head->kind == NFM_HANDED_NO_KEY)
        nfm__elsewhere_remove(w, &key, from);
    else if (!nfm__elsewhere_add(w, &key, from))
        w->core_counters[NFM_CC_KEYS_FULL]++;
}

/* Adds an entry to the burst at hand, which has |n| frames. False: it does not belong to it, or
 * there is no slot now. */
static bool add_frame(nfm_worker *w, const nfm_handed *head, const uint8_t *bytes, uint32_t n) {
    if (head->port >= w->n_ports || head->len > NFM_MAX_FRAME)
        return false;
    if (n > 0 && (head->port != w->in_port || head->flags != w->share->flags))
        return false;
    uint32_t slot = slot_of(w, head, bytes);
    if (slot == NFM_NO_SLOT)
        return false;
    w->in_port = head->port;
    w->share->flags = head->flags;
    w->frames[n] = (nfm_frame){slot, head->len, head->wire_len, head->link_type, head->ts_ns};
    w->core_counters[NFM_CC_TAKEN_OVER]++;
    return true;
}

/* Notes what a worker has said of keys. */
static void note_keys(nfm_worker *w, uint32_t from) {
    nfm_handover *ring = &w->share->from[from];
    uint32_t life = atomic_load_explicit(&ring->shared->life, memory_order_relaxed);
    nfm_handed head;
    if (life != ring->life) {
        nfm__elsewhere_forget(w, from);
        ring->life = life;
    }
    for (const uint8_t *bytes; (bytes = nfm_handover_next_key(ring, &head)) != NULL;)
        note_key(w, &head, bytes, from);
}

void nfm__share_note_keys(nfm_worker *w) {
    for (uint32_t i = 0; i < w->share->n_workers; i++)
        if (w->share->from[i].shared != NULL)
            note_keys(w, i);
}

static uint32_t take_from(nfm_worker *w, uint32_t from, uint32_t max) {
    nfm_handover *ring = &w->share->from[from];
    uint32_t n = 0;
    nfm_handed head;
    const uint8_t *bytes;
    note_keys(w, from);
    while (n < max && (bytes = nfm_handover_peek(ring, &head)) != NULL) {
        if (head.kind == NFM_HANDED_FRAME && !add_frame(w, &head, bytes, n))
            break;
        if (head.kind == NFM_HANDED_SEND && !send_frame(w, &head, bytes))
            break;
        if (head.kind == NFM_HANDED_KEY || head.kind == NFM_HANDED_NO_KEY)
            note_keys(w, from); /* unless it was read ahead */
        n += head.kind == NFM_HANDED_FRAME;
        nfm_handover_take(ring, &head);
    }
    return n;
}

int nfm__take_over(nfm_worker *w, uint32_t max) {
    struct nfm_share *share = w->share;
    for (uint32_t i = 0; i < share->n_workers; i++) {
        uint32_t at = (share->next + i) % share->n_workers;
        uint32_t n = share->from[at].shared == NULL ? 0 : take_from(w, at, max);
        if (n == 0)
            continue;
        share->next = at + 1;
        share->took = true;
        return (int)n;
    }
    return 0;
}

void nfm__took(nfm_worker *w, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        nfm_packet *p = &w->burst[i];
        if (w->share->flags & NFM_HANDED_WHOLE)
            p->rec.flags |= NFM_F_FRAGMENT;
        if (w->time_known && p->rec.ts_ns < w->now_ns)
            p->rec.ts_ns = w->now_ns; /* it was on its way here */
    }
}

/* ---- sleeping ------------------------------------------------------------------------------- */

static bool sleep_all(nfm_worker *w, bool sleeps) {
    bool any = false;
    for (uint32_t i = 0; i < w->share->n_workers; i++)
        if (w->share->from[i].shared != NULL)
            nfm_handover_sleep(&w->share->from[i], sleeps);
    atomic_thread_fence(memory_order_seq_cst);
    for (uint32_t i = 0; sleeps && i < w->share->n_workers; i++) {
        nfm_handover *ring = &w->share->from[i];
        nfm_handed head;
        any |= ring->shared != NULL && nfm_handover_peek(ring, &head) != NULL;
    }
    return any;
}

bool nfm__share_sleep(nfm_worker *w) {
    if (!sleep_all(w, true))
        return true;
    (void)sleep_all(w, false);
    return false;
}

void nfm__share_awake(nfm_worker *w) {
    uint64_t rings;
    (void)sleep_all(w, false);
    int bell = w->share->bells[w->config.id];
    ssize_t heard = bell < 0 ? 0 : read(bell, &rings, sizeof(rings)); /* it does not block */
    (void)heard;
}
