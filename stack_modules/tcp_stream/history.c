/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fingerprints of delivered bytes, so that a retransmission with other bytes is noticed after the
 * first copy is gone.
 *
 * Theory of operation. Each delivered byte leaves four bits, a function of the byte, of its place
 * and of a key, in a ring of the last HISTORY_BYTES bytes of its side. A later copy is compared
 * nibble by nibble, so it does not matter how it is cut into segments. A single changed byte is
 * missed with probability 1/16, n changed bytes with 16^-n; the key is the worker's keyed flow hash
 * so that nobody outside can choose bytes that collide.
 *
 * Rings are blocks of the worker, made only when somebody wants tcp.anomaly.inconsistent_overlap.
 * A block goes to the side that delivers; when all are taken, the one given out longest ago is
 * taken away (counted). Its old owner notices by the ticket and starts anew at its next delivery.
 */
#include <string.h>

#include "stream.h"

/* An odd multiplier spreads the byte over the upper bits; the place chooses another one of 16. */
static inline uint8_t fingerprint(uint8_t byte, uint64_t off, uint32_t key) {
    uint32_t mixed = (byte + (key >> (off & 15))) * 0x9e3779b1u;
    return (uint8_t)(mixed >> 28);
}

static inline void put(nfm__history *h, uint64_t off, uint8_t nibble) {
    uint8_t *cell = &h->nibbles[(off % HISTORY_BYTES) / 2];
    unsigned shift = (off & 1) * 4;
    *cell = (uint8_t)((*cell & ~(15u << shift)) | (unsigned)nibble << shift);
}

static inline uint8_t get(const nfm__history *h, uint64_t off) {
    return h->nibbles[(off % HISTORY_BYTES) / 2] >> ((off & 1) * 4) & 15;
}

static nfm__history *owned(const nfm__stream_self *self, const nfm__stream_side *s) {
    if (s->history == 0)
        return NULL;
    nfm__history *h = &self->blocks[s->history - 1];
    return h->ticket == s->ticket ? h : NULL;
}

static nfm__history *take(nfm__stream_call *call, nfm__stream_side *s) {
    nfm__stream_self *self = call->self;
    if (self->n_blocks == 0)
        return NULL;
    nfm__history *h = &self->blocks[self->next_block];
    if (h->ticket != 0)
        call->ctx->counters[COUNT_HISTORY_STOLEN]++;
    s->history = ++self->next_block;
    self->next_block %= self->n_blocks;
    if (++self->last_ticket == 0)
        self->last_ticket = 1;
    s->ticket = h->ticket = self->last_ticket;
    h->key = (call->flow_index ^ call->flow->generation << 20) * 2654435761u | 1u;
    h->begin = h->end = s->off;
    return h;
}

/*
 * nfm__history_add remembers |len| bytes delivered at s->off. Does nothing when no block is left.
 */
void nfm__history_add(nfm__stream_call *call, nfm__stream_side *s, const uint8_t *data,
                      uint32_t len) {
    nfm__history *h = owned(call->self, s);
    if (h == NULL && (h = take(call, s)) == NULL)
        return;
    if (h->end != s->off) /* a hole was skipped: what lies before it stays comparable no longer */
        h->begin = h->end = s->off;
    uint32_t skip = len > HISTORY_BYTES ? len - HISTORY_BYTES : 0;
    for (uint32_t i = skip; i < len; i++)
        put(h, s->off + i, fingerprint(data[i], s->off + i, h->key));
    h->end = s->off + len;
    if (h->end - h->begin > HISTORY_BYTES)
        h->begin = h->end - HISTORY_BYTES;
}

/*
 * nfm__history_differs compares another copy of the |len| bytes at stream offset |off| with what
 * was delivered there, as far as it is remembered. Returns true when a byte differs.
 */
bool nfm__history_differs(nfm__stream_call *call, const nfm__stream_side *s, uint64_t off,
                          const uint8_t *data, uint32_t len) {
    const nfm__history *h = owned(call->self, s);
    if (h == NULL)
        return false;
    uint64_t from = off < h->begin ? h->begin : off;
    uint64_t to = off + len > h->end ? h->end : off + len;
    for (uint64_t at = from; at < to; at++)
        if (get(h, at) != fingerprint(data[at - off], at, h->key))
            return true;
    return false;
}
