/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Frames lie one behind the other in one arena, an array beside it says where each begins; both
 * are read strictly forwards, so that the processor's own prefetching and ours hide the memory.
 * The arena has SLACK bytes more than frames, and a slot's room is a multiple of COPY_STEP: short
 * frames are copied in whole steps, which may carry a few bytes of the next frame along.
 *
 * In loop mode pass k adds k * span to the times and shifts IPv4 addresses (io/again.h).
 */
#include "io/again.h"
#include "io/fail.h"
#include "io/pcap_file.h"
#include "io/port.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define COPY_STEP 64u
#define SLACK 64u
#define SHORT_COPY 512u /* longer frames are left to memcpy */
#define ARENA_MIN ((size_t)1 << 21)
/* Bytes ahead of the frame at hand that are pulled into the second-level cache: about the latency
 * of memory at the speed of this loop. Past the arena's end it has no effect. */
#define PREFETCH_AHEAD 4096u

static_assert((NFM_SLOT_SMALL - NFM_HEADROOM) % COPY_STEP == 0, "whole steps stay in the slot");
static_assert(SHORT_COPY <= NFM_SLOT_SMALL - NFM_HEADROOM, "short frames lie in small slots");

typedef struct frame_ref {
    uint64_t offset; /* in the arena */
    int64_t ts_ns;
    uint32_t len, wire_len;
    uint32_t addr_off; /* of the IPv4 addresses in the frame, 0 none */
    uint32_t pad;
} frame_ref;

typedef struct nfm_port_mem {
    nfm_port port;
    uint32_t link_type;
    uint8_t *arena;
    size_t used, size;
    frame_ref *refs;
    size_t n_refs, max_refs;
    size_t next; /* of this pass */
    uint64_t pass, passes;
    int64_t span_ns, shift_ns;
    uint64_t shift; /* d, ~d in the lanes of nfm_again_move; 0: this pass shifts nothing */
    uint8_t *kept;  /* what was sent: a u32 length before each frame; NULL: it is counted only */
    size_t n_kept, max_kept; /* bytes */
} nfm_port_mem;

static void begin_pass(nfm_port_mem *self, uint64_t pass) {
    self->pass = pass;
    self->next = 0;
    self->shift = nfm_again_shift(pass);
    __int128 ns = (__int128)self->span_ns * pass;
    self->shift_ns = ns > NFM_TIME_MAX ? NFM_TIME_MAX : (int64_t)ns;
}

static inline void copy_frame(uint8_t *to, const uint8_t *from, uint32_t len) {
    if (len > SHORT_COPY) {
        memcpy(to, from, len);
        return;
    }
    for (uint32_t i = 0; i < len; i += COPY_STEP)
        memcpy(to + i, from + i, COPY_STEP);
}

/* Copies frames of the running pass. Returns how many; less than n at its end or without slots. */
static uint32_t serve(nfm_port_mem *self, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    const frame_ref *ref = self->refs + self->next;
    size_t left = self->n_refs - self->next;
    uint64_t bytes = 0, truncated = 0, shift = self->shift;
    uint32_t done = 0;
    if (left < n)
        n = (uint32_t)left;
    for (; done < n; done++, ref++) {
        uint32_t slot = nfm_pool_get(pool, ref->len);
        if (slot == NFM_NO_SLOT)
            break;
        const uint8_t *from = self->arena + ref->offset;
        uint8_t *to = nfm_pool_addr(pool, slot) + NFM_HEADROOM;
        for (uint32_t i = 0; i < ref->len; i += COPY_STEP)
            __builtin_prefetch(from + PREFETCH_AHEAD + i, 0, 2);
        copy_frame(to, from, ref->len);
        if (shift != 0 && ref->addr_off != 0)
            nfm_again_move(to + ref->addr_off, from + ref->addr_off, shift);
        frames[done] = (nfm_frame){.slot = slot,
                                   .len = ref->len,
                                   .wire_len = ref->wire_len,
                                   .link_type = self->link_type,
                                   .ts_ns = ref->ts_ns + self->shift_ns};
        bytes += ref->len;
        truncated += ref->len < ref->wire_len;
    }
    self->next += done;
    self->port.stats.rx_packets += done;
    self->port.stats.rx_bytes += bytes;
    self->port.stats.rx_truncated += truncated;
    return done;
}

static int mem_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    nfm_port_mem *self = (nfm_port_mem *)port;
    uint32_t done = 0;
    while (done < n) {
        if (self->next == self->n_refs) {
            if (self->n_refs == 0 || self->pass + 1 >= self->passes)
                return done > 0 ? (int)done : NFM_E_EOF;
            begin_pass(self, self->pass + 1);
        }
        uint32_t more = serve(self, pool, frames + done, n - done);
        done += more;
        if (more == 0)
            break;
    }
    return (int)done;
}

static int mem_tx(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    nfm_port_mem *self = (nfm_port_mem *)port;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t len = frames[i].len;
        if (self->kept != NULL && self->n_kept + sizeof(len) + len <= self->max_kept) {
            memcpy(self->kept + self->n_kept, &len, sizeof(len));
            memcpy(self->kept + self->n_kept + sizeof(len),
                   nfm_pool_addr(pool, frames[i].slot) + frames[i].off, len);
            self->n_kept += sizeof(len) + len;
        }
        self->port.stats.tx_bytes += len;
        nfm_pool_put(pool, frames[i].slot);
    }
    self->port.stats.tx_packets += n;
    return (int)n;
}

static void mem_free(nfm_port *port) {
    nfm_port_mem *self = (nfm_port_mem *)port;
    free(self->kept);
    free(self->arena);
    free(self->refs);
    free(self);
}

static const nfm_port_ops mem_ops = {.name = "mem", .rx = mem_rx, .tx = mem_tx, .free = mem_free};

/*
 * nfm_port_mem_new makes an empty port whose frames are of |link_type| (a LINKTYPE_ number). The
 * caller frees it with nfm_port_free. Returns NULL with a line in |err| when there is no memory.
 */
nfm_port *nfm_port_mem_new(uint32_t link_type, nfm_error *err) {
    nfm_port_mem *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        nfm_io_fail(err, NFM_E_NOMEM, "no memory for a mem port; free some");
        return NULL;
    }
    self->port.ops = &mem_ops;
    self->link_type = link_type;
    self->passes = 1;
    return &self->port;
}

/* Room for one more frame of |len| bytes. Doubling makes pushing linear in time. */
static bool reserve(nfm_port_mem *self, uint32_t len) {
    if (self->n_refs == self->max_refs) {
        size_t max = self->max_refs ? 2 * self->max_refs : 1024;
        frame_ref *refs = realloc(self->refs, max * sizeof(*refs));
        if (refs == NULL)
            return false;
        self->refs = refs;
        self->max_refs = max;
    }
    if (self->size - self->used >= len + SLACK)
        return true;
    size_t size = self->size ? 2 * self->size : ARENA_MIN;
    uint8_t *arena = aligned_alloc(ARENA_MIN, size);
    if (arena == NULL)
        return false;
    (void)madvise(arena, size, MADV_HUGEPAGE);
    if (self->used > 0)
        memcpy(arena, self->arena, self->used);
    free(self->arena);
    self->arena = arena;
    self->size = size;
    return true;
}

/*
 * nfm_port_mem_push copies |frame| behind the frames already there; it is served in that order. A
 * |wire_len| below |len| counts as |len|, times are clamped as a capture's are. A frame larger
 * than NFM_MAX_FRAME is dropped and counted in rx_oversize.
 * Returns NFM_OK, NFM_E_NOMEM, or NFM_E_INVAL when |port| is no mem port.
 */
int nfm_port_mem_push(nfm_port *port, const uint8_t *frame, uint32_t len, uint32_t wire_len,
                      int64_t ts_ns) {
    nfm_port_mem *self = (nfm_port_mem *)port;
    if (port->ops != &mem_ops)
        return NFM_E_INVAL;
    if (len > NFM_MAX_FRAME) {
        port->stats.rx_oversize++;
        return NFM_OK;
    }
    if (!reserve(self, len))
        return NFM_E_NOMEM;
    if (len > 0)
        memcpy(self->arena + self->used, frame, len);
    self->refs[self->n_refs++] =
        (frame_ref){.offset = self->used,
                    .len = len,
                    .wire_len = wire_len > len ? wire_len : len,
                    .ts_ns = ts_ns < 0 ? 0 : (ts_ns > NFM_TIME_MAX ? NFM_TIME_MAX : ts_ns),
                    .addr_off = nfm_again_addresses(self->link_type, frame, len)};
    self->used += len;
    return NFM_OK;
}

/*
 * nfm_port_mem_loop serves the frames |passes| times from their first one on. Pass k adds
 * k * |span_ns| to the times and shifts IPv4 addresses as the theory of operation says; pass 0
 * serves the frames as they were pushed. 65535 passes differ from each other in their addresses.
 * Returns NFM_OK, or NFM_E_INVAL: no mem port, no pass, or a negative span.
 */
int nfm_port_mem_loop(nfm_port *port, uint64_t passes, int64_t span_ns) {
    nfm_port_mem *self = (nfm_port_mem *)port;
    if (port->ops != &mem_ops || passes == 0 || span_ns < 0)
        return NFM_E_INVAL;
    self->passes = passes;
    self->span_ns = span_ns;
    begin_pass(self, 0);
    return NFM_OK;
}

/*
 * nfm_port_mem_keep makes the port keep what is sent through it, up to |bytes| with a length before
 * each frame; frames beyond are counted only. Returns NFM_OK, NFM_E_NOMEM, or NFM_E_INVAL: no mem
 * port.
 */
int nfm_port_mem_keep(nfm_port *port, uint64_t bytes) {
    nfm_port_mem *self = (nfm_port_mem *)port;
    if (port->ops != &mem_ops)
        return NFM_E_INVAL;
    self->kept = malloc(bytes);
    self->max_kept = bytes;
    return self->kept == NULL ? NFM_E_NOMEM : NFM_OK;
}

/*
 * nfm_port_mem_sent returns the frame that stands at |*at| (0: the first) of those that were kept,
 * and moves |*at| behind it; data is NULL at the end. Valid until the next frame is sent.
 */
nfm_view nfm_port_mem_sent(const nfm_port *port, uint64_t *at) {
    const nfm_port_mem *self = (const nfm_port_mem *)port;
    nfm_view frame = {NULL, 0};
    if (port->ops != &mem_ops || *at + sizeof(frame.len) > self->n_kept)
        return frame;
    memcpy(&frame.len, self->kept + *at, sizeof(frame.len));
    frame.data = self->kept + *at + sizeof(frame.len);
    *at += sizeof(frame.len) + frame.len;
    return frame;
}
