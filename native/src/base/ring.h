/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One receiver's ring: single producer (worker), single consumer (NF).
 *
 * Theory of operation. The shared part holds head (worker), tail (NF) and the entries. Positions
 * are u64 and never wrap; an entry lives at position & mask. The worker keeps shadows of both
 * indices and publishes head once per burst (release); the NF publishes tail when it passes entries
 * (release), which frees them: it writes nothing else. Entries that do not fit go to the worker's
 * own bounded spill queue (blocking rings) or are counted (lossy rings); while a spill is not empty
 * the worker polls no port.
 *
 * Sleeping. A receiver that finds nothing writes asleep = wake_seq + 1, fences, looks once more and
 * waits on the futex wake_seq. The worker publishes and some time later fences and reads asleep; if
 * it names the current wake_seq, it counts that up and wakes. Each word has one writer, and one of
 * the two always sees the other's store (ring.pml is this handshake for a model checker). Looking
 * costs the worker a fence, waking costs both sides microseconds: under load it looks once in many
 * bursts, or when half of the ring has come together since it looked last.
 *
 * Commands go the other way, by a queue of the same kind (NF: cmd_head, worker: cmd_tail): what the
 * NF keeps past its tail (holds), and on which flows it wants to hear what. A command written
 * before a tail is taken before what that tail releases. Bytes that go with a command (a frame to
 * be sent, an edit) lie in |out|, which is used round and round: a command says where its bytes
 * end, none are split at out's end, and they are free when it was taken.
 *
 * Verdicts of inline receivers lie beside the entries, one for each, with what is to be edited. The
 * NF writes them before it passes the entries; the worker reads those of entries that were passed.
 * Behind them is the NF's out: bytes to be put in place of payloads. It has two halves, of which
 * one is filled while the worker may still take verdicts that refer to the other.
 *
 * Absence. A receiver that is gone may leave others to pass its entries, who judge nothing: those
 * from left_at to came_at, where the next receiver began. The worker looks when it gets to it, so
 * that also what was judged just before a receiver left is taken, and what was passed in between is
 * known for what it is when the next one is there already. Absences that follow each other faster
 * than the worker looks are one.
 *
 * Gaps. A lossy ring that had no room pushes, before the next entry that fits, one entry that says
 * how many are missing there.
 *
 * Distrust. The receiver can write all of the shared part. The worker reads only tail, asleep,
 * left_at, came_at, cmd_head and commands from it; a tail outside (seen, published] quarantines the
 * ring: it gets nothing more and holds nothing back. A command is copied, then checked.
 */
#ifndef NFM_BASE_RING_H
#define NFM_BASE_RING_H

#include <stdalign.h>
#include <stdatomic.h>
#include <string.h>

#include "base/region.h"
#include "base/wait.h"

typedef struct nfm_ring_shared {
    uint64_t magic;
    uint32_t abi;
    uint32_t entries;
    _Atomic uint32_t holds;              /* worker: how many the receiver may have */
    _Atomic uint64_t gaps;               /* worker: gap entries pushed, ever; hardly written */
    alignas(64) _Atomic uint64_t head;   /* worker */
    _Atomic uint64_t cmd_tail;           /* worker: commands taken */
    _Atomic uint64_t judged;             /* worker: verdicts before it are taken, with payloads */
    _Atomic uint32_t wake_seq;           /* worker; the futex */
    _Atomic uint32_t ended;              /* worker: nothing follows */
    _Atomic int64_t now_ns;              /* worker, of several: no earlier entry follows */
    _Atomic uint64_t packet;             /* its last packet up to then */
    alignas(64) _Atomic uint64_t tail;   /* NF */
    _Atomic uint64_t cmd_head;           /* NF: commands written */
    _Atomic uint64_t gaps_seen;          /* NF: gap entries passed, ever */
    alignas(64) _Atomic uint32_t asleep; /* NF: wake_seq + 1 that it waits on, 0 awake; hardly
                                          * written: a line of its own */
    _Atomic uint64_t left_at;            /* NF, or who keeps its ring: see "Absence" */
    _Atomic uint64_t came_at;            /* the same; NFM_NOBODY while there is no receiver */
    alignas(64) nfm_command command[NFM_COMMANDS];
    uint32_t held[NFM_MAX_HOLDS]; /* worker, for the next one: by hold, record + 1; 0 free */
    uint8_t out[NFM_OUT_BYTES];   /* NF: the bytes of commands */
    alignas(64) nfm_desc desc[];  /* a burst must not share lines with its neighbours */
} nfm_ring_shared;

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "nfm_ring_push packs two halves");

#define NFM_RING_MAGIC UINT64_C(0x676e69726d666e00)
#define NFM_NOBODY UINT64_MAX /* no receiver has come */

/* Positions [from, to) were passed without being judged; to: NFM_NOBODY while nobody receives. */
typedef struct nfm_absence {
    uint64_t from, to;
} nfm_absence;

struct nfm_ring {
    nfm_ring_shared *shared;
    nfm_desc *desc; /* shared->desc */
    uint32_t mask;
    uint32_t lossy;
    /* worker's side */
    uint64_t head;    /* next position, spilled entries included */
    uint64_t spilled; /* entries before head that are not in the ring yet */
    uint64_t published;
    uint64_t limit; /* tail seen + entries: positions below fit */
    uint64_t tail_seen;
    uint64_t dropped;   /* lossy ring full, or spill full */
    uint64_t bad_tails; /* tail moved back or past head */
    uint64_t wakeups;
    uint64_t look_at;  /* position of head from which on it is worth looking for a sleeper */
    uint64_t suppress; /* entries that were pushed before the worker began again */
    uint64_t missing;  /* lossy: entries dropped since the last one that fitted */
    uint64_t gaps;
    uint64_t cmd_tail; /* commands taken */
    uint32_t *held;    /* by hold: record + 1, 0 free; NULL without a quota */
    uint32_t max_holds, n_held;
    struct nfm_inline *in_line; /* the engine's; NULL: observes only */
    uint32_t quota;             /* lossy: entries that may wait at most; the others: all that fit */
    uint32_t
        *parked; /* by position & mask: record + 1 that outlives its epoch; NULL until needed */
    uint64_t parked_from, parked_to;
    bool quarantined;
    bool is_shared;  /* another process receives */
    bool adopted;    /* entries of an earlier worker were in it */
    uint32_t domain; /* whose memory its entries name: 0 the worker's, else an inbox's number */
    nfm_desc *spill; /* circular, n_spill entries, NULL for lossy rings */
    uint32_t n_spill;
    /* receiver's side */
    uint64_t tail;
    uint64_t head_seen; /* entries below are there; read anew when fewer are known than asked for */
    uint64_t cmd_head;
    uint64_t out_head; /* position behind the last command's bytes */
    uint64_t gaps_seen;
    uint16_t *free_holds; /* a stack; NULL without a quota */
    uint32_t n_free_holds;
    uint32_t payload_half, payload_used; /* where the next one goes */
    uint64_t payload_left; /* tail when the other half was left; UINT64_MAX: it was not used */
    uint64_t payload_end;  /* verdicts before it refer to that half; 0: not known yet */
    /* native NF that is called by the worker itself */
    nfm_process_fn process;
    void *process_state;
    uint64_t process_errors;
    nfm_region region; /* that |shared| lies in, when the ring mapped it itself */
};

size_t nfm_ring_shared_size(uint32_t entries);
/* By position & mask, behind the entries. */
static inline uint32_t *nfm_ring_verdict_of(const nfm_ring *ring, uint64_t position) {
    return (uint32_t *)(void *)(ring->desc + ring->mask + 1) + (position & ring->mask);
}
static inline nfm_edit *nfm_ring_edit_of(const nfm_ring *ring, uint64_t position) {
    uint32_t *end = nfm_ring_verdict_of(ring, 0) + ring->mask + 1;
    return (nfm_edit *)(void *)end + (position & ring->mask);
}
/* Behind the edits: NFM_PAYLOAD_BYTES bytes. */
static inline uint8_t *nfm_ring_payloads_of(const nfm_ring *ring) {
    return (uint8_t *)(nfm_ring_edit_of(ring, 0) + ring->mask + 1);
}
/* Lays a ring of |entries| (power of two) over |memory| (nfm_ring_shared_size bytes, zeroed,
 * aligned to 64, borrowed). Returns NFM_OK, NFM_E_INVAL or NFM_E_NOMEM. */
int nfm_ring_init(nfm_ring *ring, void *memory, uint32_t entries, bool lossy);
void nfm_ring_fini(nfm_ring *ring);
/* Slow path of nfm_ring_push: spills or drops. Returns whether the entry will be delivered. */
bool nfm_ring_push_full(nfm_ring *ring, uint32_t record, uint32_t flow, uint64_t what);
/* An entry for which there is no memory: the receiver of a lossy ring is told by a gap. */
void nfm_ring_miss(nfm_ring *ring);
/* Moves spilled entries into the ring as far as they fit, and publishes head. */
void nfm_ring_flush(nfm_ring *ring);
/* Lays the worker's side over a shared object; goes on behind the entries that are in it. */
int nfm_ring_adopt(nfm_ring *ring, int fd, bool lossy, nfm_error *err);
/* The next |n| pushes are entries that an earlier worker pushed: they are counted only. */
void nfm_ring_suppress(nfm_ring *ring, uint64_t n);
/* Receiver's side: ends an absence; what is not passed yet is this receiver's. */
void nfm_ring_come(nfm_ring *ring);
/* Worker's side: a lossy ring takes no more than |entries| that wait. */
void nfm_ring_set_quota(nfm_ring *ring, uint32_t entries);
/* Worker's side: takes back what was pushed and did not fit into the ring yet. */
void nfm_ring_unspill(nfm_ring *ring);
/* Worker's side: gives the receiver a quota of holds. NFM_OK or NFM_E_NOMEM. */
int nfm_ring_allow_holds(nfm_ring *ring, uint32_t holds);
/* Worker's side: the next command, copied out; false when there is none. */
bool nfm_ring_take_command(nfm_ring *ring, nfm_command *out);
/* Worker's side: the command at |position| of the queue, copied out and not taken; false when there
 * is none. */
bool nfm_ring_see_command(const nfm_ring *ring, uint64_t position, nfm_command *out);
/* Worker's side: the bytes in out that a command names; NULL: it names none that can be. */
const uint8_t *nfm_ring_command_bytes(const nfm_ring *ring, const nfm_command *command);
/* Receiver's side: goes on where the last receiver stopped, without its holds. */
int nfm_ring_begin_receiver(nfm_ring *ring);
/* Wakes the receiver if it sleeps; some time after nfm_ring_flush, see "Sleeping". */
void nfm_ring_wake(nfm_ring *ring);
/* Says that what follows is not earlier than |now_ns| and |packet|; wakes nobody. */
void nfm_ring_tell_time(nfm_ring *ring, int64_t now_ns, uint64_t packet);
/* Says that nothing follows, and wakes. */
void nfm_ring_end(nfm_ring *ring);

typedef uint64_t nfm__desc_words __attribute__((vector_size(16)));

/* Appends one entry; visible to the receiver after nfm_ring_publish. It stores the entry and head,
 * no more: while stores wait for lines that the receiver has read, every further one takes a place.
 */
static inline bool nfm_ring_push(nfm_ring *ring, uint32_t record, uint32_t flow, uint64_t what) {
    if (__builtin_expect(ring->head >= ring->limit, 0))
        return nfm_ring_push_full(ring, record, flow, what);
    nfm__desc_words words = {(uint64_t)flow << 32 | record, what}; /* one store */
    memcpy(&ring->desc[ring->head & ring->mask], &words, sizeof(words));
    ring->head++;
    return true;
}

/* Next position in the ring itself. */
static inline uint64_t nfm_ring_in(const nfm_ring *ring) {
    return ring->head - ring->spilled;
}

/* Fetches the lines that a burst of entries will be written to: the receiver has read them, so they
 * lie in its core's cache. */
static inline void nfm_ring_prefetch(const nfm_ring *ring) {
    for (uint64_t at = ring->head; at < ring->head + NFM_BURST; at += 4)
        __builtin_prefetch(&ring->desc[at & ring->mask], 1);
}

static inline void nfm_ring_publish(nfm_ring *ring) {
    ring->published = nfm_ring_in(ring);
    atomic_store_explicit(&ring->shared->head, ring->published, memory_order_release);
}

/* Receiver's side: where it waits, until it passes entries. */
static inline nfm__place nfm_ring_place(const nfm_ring *ring) {
    nfm_ring_shared *shared = ring->shared;
    return (nfm__place){&shared->head, &shared->wake_seq, &shared->ended, &shared->asleep,
                        ring->tail};
}

/* Takes the receiver's tail in: see "Distrust". */
void nfm_ring_take_tail(nfm_ring *ring, uint64_t tail);

static inline void nfm_ring_collect(nfm_ring *ring) {
    uint64_t tail = atomic_load_explicit(&ring->shared->tail, memory_order_acquire);
    if (tail != ring->tail_seen && !ring->quarantined)
        nfm_ring_take_tail(ring, tail);
}

/* Worker's side: the last absence of a receiver; none is empty. */
static inline nfm_absence nfm_ring_absence(const nfm_ring *ring) {
    uint64_t to = atomic_load_explicit(&ring->shared->came_at, memory_order_acquire);
    return (nfm_absence){atomic_load_explicit(&ring->shared->left_at, memory_order_relaxed), to};
}

static inline bool nfm_ring_has_command(const nfm_ring *ring) {
    return atomic_load_explicit(&ring->shared->cmd_head, memory_order_acquire) != ring->cmd_tail;
}

/* Entries published or spilled and not yet passed. */
static inline uint64_t nfm_ring_used(const nfm_ring *ring) {
    return ring->head - ring->tail_seen;
}

#endif
