/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between a worker and the process that hosts one of its application modules: what the worker asks
 * through a ring of descriptors, and the answer ring that the host writes.
 *
 * Theory of operation. Questions are entries of an ordinary ring (ring.h). Their position is their
 * name. Answers are entries of variable size in a ring of bytes: single producer (host), single
 * consumer (worker), positions that never wrap. An entry lies in one piece; what is left before the
 * end of the ring is skipped. |done| says that everything asked before that position is answered:
 * the host stores head, then done; the worker loads done, then head. The host waits when there is
 * no room; the worker takes answers whatever else it waits for, so that wait ends.
 *
 * Lives. |session| is the host's: a new process counts it up, and heeds nothing in its ring before
 * the worker's NFM_ASK_RESET that names that session. |life| is the worker's: a host that waits for
 * room sees there that whoever asked is gone.
 *
 * Distrust. Each word has one writer, but the host could write anywhere in the object: the worker
 * copies an entry's head before it looks at it, and checks every length against what is published.
 */
#ifndef NFM_BASE_ANSWERS_H
#define NFM_BASE_ANSWERS_H

#include <stdalign.h>
#include <stdatomic.h>

#include "base/region.h"

#define NFM_ANSWERS_MAGIC UINT64_C(0x7372776e616d666e)

enum {
    NFM_ANSWER_COUNTERS = 48,
    NFM_ANSWER_FIELDS = 131072, /* the longest field record of an event */
};

/* Bits of a question's |what|; below them, of an event: which of the module's own events somebody
 * wants, of a reset: the host's session. A tick has its time in the entry's first eight bytes. */
#define NFM_ASK_EVENT (UINT64_C(1) << 32) /* the record, for on_event */
#define NFM_ASK_JOIN (UINT64_C(1) << 33)  /* a flow that the module left is its business again */
#define NFM_ASK_CLOSE (UINT64_C(1) << 34) /* the flow is over */
#define NFM_ASK_TICK (UINT64_C(1) << 35)
#define NFM_ASK_RESET (UINT64_C(1) << 36) /* forget all flows */
#define NFM_ASK_FRESH (UINT64_C(1) << 37) /* with a reset: counters too, the worker is new */

enum nfm_answer_kind {
    NFM_ANSWER_PAD = 1, /* up to the end of the ring */
    NFM_ANSWER_RAISED,
    NFM_ANSWER_TOO_LARGE, /* an event whose fields no record has room for */
    NFM_ANSWER_DETACH,    /* the flow is not for the module */
};

typedef struct nfm_answer {
    uint32_t size; /* bytes, this head included, a multiple of 8 */
    uint8_t kind;  /* enum nfm_answer_kind */
    uint8_t side;
    uint16_t event;              /* own event number of the module */
    uint64_t position;           /* of the question */
    uint32_t data_off, data_len; /* of the record's slot */
    uint32_t fields_len;         /* bytes of the field record behind the head */
    uint32_t reserved;
} nfm_answer;
static_assert(sizeof(nfm_answer) == 32, "heads keep fields aligned");

typedef struct nfm_answers_shared {
    uint64_t magic;
    uint32_t abi, reserved;
    alignas(64) _Atomic uint64_t head; /* host: bytes written, ever */
    _Atomic uint64_t done;             /* host: questions before it are answered */
    _Atomic uint32_t session;          /* host: 0 none yet */
    alignas(64) _Atomic uint64_t tail; /* worker: bytes taken, ever */
    _Atomic uint32_t life;             /* worker */
    alignas(64) _Atomic uint64_t counters[NFM_ANSWER_COUNTERS]; /* host: the module's */
    alignas(64) uint8_t data[];
} nfm_answers_shared;

/* One side of an answer ring. */
typedef struct nfm_answers {
    nfm_answers_shared *shared;
    uint64_t capacity; /* bytes of data, a power of two */
    uint64_t at;       /* host: head with what is not published; worker: tail */
    nfm_region region;
} nfm_answers;

/* Maps an answer ring and lays it out if nobody has; goes on where the last one of this side
 * stopped. The descriptor stays the caller's. Returns NFM_OK or a negative status with err set. */
int nfm_answers_open(nfm_answers *answers, int fd, bool is_host, nfm_error *err);
void nfm_answers_close(nfm_answers *answers);

/* ---- host ---- */

/* Writes the head of an answer (its size is found here) and returns the place of its fields, which
 * the caller fills before the next call; NULL when there is no room now. */
uint8_t *nfm_answers_write(nfm_answers *answers, const nfm_answer *answer);
/* Shows the worker what was written. */
void nfm_answers_publish(nfm_answers *answers);
/* The same, and says that all questions before |position| are answered. */
void nfm_answers_done(nfm_answers *answers, uint64_t position);

/* ---- worker ---- */

/* The next answer: 1 with a copy of its head and the place of its fields, 0 when there is none, or
 * NFM_E_FORMAT when what is there makes no sense. */
int nfm_answers_peek(nfm_answers *answers, nfm_answer *out, const uint8_t **fields);
/* Passes the answer that was peeked at. */
void nfm_answers_take(nfm_answers *answers, const nfm_answer *answer);
/* Passes all that is published. */
void nfm_answers_skip(nfm_answers *answers);

#endif
