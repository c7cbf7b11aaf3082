/* SPDX-License-Identifier: Apache-2.0 */
/* Frames that leave: queues in front of the ports. */
#include <string.h>

#include "engine/share.h"
#include "engine/transit.h"

static void discard(nfm_worker *w, nfm_out_queue *q, uint32_t counter) {
    for (; q->head != q->tail; q->head++) {
        nfm_pool_put(&w->pool, q->frame[q->head % NFM_OUT_QUEUE].slot);
        w->core_counters[counter]++;
    }
}

static void flush_port(nfm_worker *w, uint32_t port) {
    nfm_out_queue *q = &w->way->queue[port];
    if (w->share != NULL)
        nfm__share_publish(w); /* keys of rewritten flows, before what has them leaves */
    while (q->head != q->tail) {
        uint32_t at = q->head % NFM_OUT_QUEUE, n = q->tail - q->head;
        n = n < NFM_OUT_QUEUE - at ? n : NFM_OUT_QUEUE - at;
        int sent = w->ports[port]->ops->tx(w->ports[port], &w->pool, &q->frame[at], n);
        if (sent < 0)
            discard(w, q, NFM_CC_FORWARD_DOWN);
        if (sent <= 0)
            return;
        q->head += (uint32_t)sent;
        if ((uint32_t)sent < n)
            return;
    }
}

void nfm__output(nfm_worker *w, uint32_t port, const nfm_tx *frame) {
    nfm_out_queue *q = &w->way->queue[port];
    if (q->tail - q->head == NFM_OUT_QUEUE)
        flush_port(w, port);
    if (q->tail - q->head == NFM_OUT_QUEUE) {
        nfm_pool_put(&w->pool, frame->slot);
        w->core_counters[NFM_CC_FORWARD_FULL]++;
        return;
    }
    q->frame[q->tail++ % NFM_OUT_QUEUE] = *frame;
    w->core_counters[NFM_CC_FORWARDED]++;
}

bool nfm__inject(nfm_worker *w, const nfm_ring *ring, const nfm_command *command) {
    const uint8_t *bytes = nfm_ring_command_bytes(ring, command);
    if (ring->in_line == NULL || bytes == NULL || command->b > NFM_MAX_FRAME ||
        !nfm__is_port(w, command->number))
        return false;
    uint32_t len = (uint32_t)command->b, slot = nfm_pool_get(&w->pool, len);
    if (slot == NFM_NO_SLOT) {
        w->core_counters[NFM_CC_INJECT_FULL]++;
        return true;
    }
    uint8_t *base = nfm_pool_addr(&w->pool, slot);
    memset(base, 0, sizeof(nfm_slot_meta));
    memcpy(base + NFM_HEADROOM, bytes, len);
    nfm_tx tx = {slot, NFM_HEADROOM, len, len, w->now_ns};
    if (!nfm__output_cut(w, command->number, &tx, true))
        nfm__output(w, command->number, &tx);
    w->core_counters[NFM_CC_INJECTED]++;
    return true;
}

void nfm__output_flush(nfm_worker *w) {
    for (uint32_t i = 0; i < w->n_ports; i++) {
        nfm_port *port = w->ports[i];
        if (w->way->queue[i].head != w->way->queue[i].tail)
            flush_port(w, i);
        if (port->ops->poll != NULL)
            port->ops->poll(port, &w->pool);
    }
}

void nfm__output_discard(nfm_worker *w) {
    for (uint32_t i = 0; w->way->queue != NULL && i < w->n_ports; i++)
        discard(w, &w->way->queue[i], NFM_CC_FORWARD_DOWN);
}

bool nfm__output_is_idle(const nfm_worker *w) {
    for (uint32_t i = 0; w->way != NULL && i < w->n_ports; i++)
        if (w->way->queue[i].head != w->way->queue[i].tail)
            return false;
    return true;
}
