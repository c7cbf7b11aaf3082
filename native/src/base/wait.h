/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting at rings and logs: the receiver's half of the handshake that ring.h calls "Sleeping", at
 * one place or at several at once.
 *
 * At several, the sleeper says at each that it is asleep, fences once, looks at all of them once
 * more and sleeps on all futexes (futex_waitv, Linux 5.16). A kernel without that call, and more
 * places than it takes, leave it to sleep at one place after the other in short turns.
 */
#ifndef NFM_BASE_WAIT_H
#define NFM_BASE_WAIT_H

#include <stdatomic.h>
#include <stdint.h>

enum { NFM_WAIT_PLACES = 128 /* that futex_waitv takes */ };

/* One place to wait at: words that the writer stores, one that the sleeper stores. */
typedef struct nfm__place {
    const _Atomic uint64_t *head;
    const _Atomic uint32_t *wake_seq; /* the futex */
    const _Atomic uint32_t *ended;
    _Atomic uint32_t *asleep;
    uint64_t at; /* the sleeper's position: an entry is there when head is another one */
} nfm__place;

/*
 * nfm__wait waits until one of |n| places has an entry: spins for |spin_ns|, then sleeps at most
 * |timeout_ns| (-1: for ever).  Places that have ended are not waited at; without any other the
 * answer is NFM_RING_ENDED at once.  May return NFM_RING_TIMEOUT late by a turn of 1 ms.
 * Returns enum nfm_ring_state.
 */
int nfm__wait(const nfm__place *places, uint32_t n, int64_t spin_ns, int64_t timeout_ns);

#endif
