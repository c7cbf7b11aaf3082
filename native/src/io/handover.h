/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From one worker to another: frames that came to the wrong one, frames to be sent by a port that
 * only the other has, and keys by which flows are known.
 *
 * Theory of operation. A ring of bytes in shared memory: single producer, single consumer,
 * positions that never wrap. An entry lies in one piece; what is left before the end of the ring is
 * skipped. Frames are copied in and out, so no worker waits for another one to release memory. The
 * producer publishes once per burst; when the consumer has said that it sleeps, the producer rings
 * its bell, an eventfd that the consumer polls along with its ports. A full ring takes nothing
 * more: whoever writes counts what is lost, as a full queue of a network card does.
 *
 * Keys. They may be read ahead of what lies before them: a frame with a key can come by a port or
 * by another ring while the word about it is still behind others here.
 *
 * Lives. |life| counts producers: a consumer sees there that what the last one knew is gone.
 */
#ifndef NFM_IO_HANDOVER_H
#define NFM_IO_HANDOVER_H

#include <stdalign.h>
#include <stdatomic.h>

#include "base/region.h"
#include "io/port.h"

#define NFM_HANDOVER_MAGIC UINT64_C(0x7265766f6d666e00)
enum { NFM_HANDOVER_BYTES = 4 << 20 }; /* of entries; a power of two */

enum nfm_handed_kind {
    NFM_HANDED_PAD = 1, /* up to the end of the ring */
    NFM_HANDED_FRAME,   /* came in by |port| */
    NFM_HANDED_SEND,    /* is to leave by |port| */
    NFM_HANDED_KEY,     /* an nfm_key: packets that have it are the producer's */
    NFM_HANDED_NO_KEY,  /* no longer */
};

enum nfm_handed_flag {
    NFM_HANDED_WHOLE = 1, /* was put together from fragments */
    NFM_HANDED_SENT = 2,  /* has left already, and is only to be observed */
    NFM_HANDED_FINAL = 4, /* is the consumer's, whatever its hash says */
};

typedef struct nfm_handed { /* what precedes an entry's bytes */
    uint32_t size;          /* of the entry, a multiple of 16 */
    uint8_t kind, port;
    uint16_t flags; /* enum nfm_handed_flag */
    uint32_t len;   /* bytes that follow */
    uint32_t wire_len;
    uint32_t link_type;
    uint32_t reserved;
    int64_t ts_ns;
    nfm_slot_meta meta;
} nfm_handed;
static_assert(sizeof(nfm_handed) == 48, "heads are whole steps of 16");

typedef struct nfm_handover_shared {
    uint64_t magic;
    uint32_t abi, reserved;
    alignas(64) _Atomic uint64_t head; /* producer: bytes written, ever */
    _Atomic uint64_t keys_end;         /* producer: behind the last key */
    _Atomic uint32_t life;             /* producer */
    alignas(64) _Atomic uint64_t tail; /* consumer: bytes taken, ever */
    _Atomic uint32_t asleep;           /* consumer */
    alignas(64) uint8_t data[NFM_HANDOVER_BYTES];
} nfm_handover_shared;

/* One side of a ring. */
typedef struct nfm_handover {
    nfm_handover_shared *shared; /* NULL: there is none */
    uint64_t at;                 /* producer: head with what is not published; consumer: tail */
    uint64_t published;          /* producer */
    uint64_t keys;               /* producer: behind the last key; consumer: read up to here */
    uint32_t life;               /* consumer: of the producer it knows */
    int bell;                    /* producer: the consumer's eventfd, borrowed */
    nfm_region region;
} nfm_handover;

/* Maps a ring, laid out if nobody has; goes on where the last one of this side stopped. The
 * descriptor stays the caller's. Returns NFM_OK or a negative status with err set. */
int nfm_handover_open(nfm_handover *ring, int fd, bool produces, nfm_error *err);
void nfm_handover_close(nfm_handover *ring);

/* ---- producer ---- */

/* Writes the head of an entry (its size is found here) and returns the place of its bytes, which
 * the caller fills before the next call; NULL when there is no room. */
uint8_t *nfm_handover_write(nfm_handover *ring, const nfm_handed *head);
/* Shows what was written, and rings the bell of a consumer that sleeps. */
void nfm_handover_publish(nfm_handover *ring);

/* ---- consumer ---- */

/* The next entry: its bytes, with a copy of its head; NULL when there is none. */
const uint8_t *nfm_handover_peek(nfm_handover *ring, nfm_handed *out);
/* The next key that was not read yet, ahead of entries that were not taken; NULL: there is none. */
const uint8_t *nfm_handover_next_key(nfm_handover *ring, nfm_handed *out);
/* Passes the entry that was peeked at. */
void nfm_handover_take(nfm_handover *ring, const nfm_handed *head);
/* Says that the consumer sleeps until its bell rings, or is awake. A fence belongs between saying
 * so and looking once more. */
void nfm_handover_sleep(nfm_handover *ring, bool sleeps);

#endif
