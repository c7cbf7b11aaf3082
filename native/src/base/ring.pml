/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protocol of ring.h for the model checker spin: entries and records handed over and released
 * by tail, a receiver that falls asleep, and one that is killed at any point and begins again.
 *
 * Memory is that of a machine that delays stores (x86-TSO): a store goes to its core's queue and
 * reaches memory later, in order; a fence and a system call wait until the queue is empty. A process
 * reads its own words from its own variables, as the C code does.
 *
 * Checked: a receiver that stands at position p reads record p, whatever was reused (asserts); the
 * worker never has more than K entries open; nobody sleeps for ever on an entry that was published,
 * and everything is passed and released (spin's search for invalid end states).
 *
 * tools/model.sh runs it as it is, and with each of the BREAK_... below, which must make it fail.
 */
#define K 2 /* entries of the ring, and records */
#define N 4 /* entries in all */
#ifndef DEATHS
#define DEATHS 1
#endif

mtype = { DESC, RECORD, HEAD, WAKE_SEQ, TAIL, ASLEEP };

/* Shared memory. */
byte desc[K];   /* at position % K: which record */
byte record[K]; /* its contents: the position that it was written for */
byte head, wake_seq;
byte tail, asleep;

/* The kernel's: the receiver waits on wake_seq. */
bool sleeping;

/* The scheduler's: the receiver is to die. */
bool killed;

chan worker_stores = [4] of { mtype, byte, byte };
chan receiver_stores = [2] of { mtype, byte, byte };

#define fence(stores) empty(stores)
#define system_call(stores) empty(stores)

inline reach_memory(what, i, value) {
    if
    :: what == DESC -> desc[i] = value
    :: what == RECORD -> record[i] = value
    :: what == HEAD -> head = value
    :: what == WAKE_SEQ -> wake_seq = value
    :: what == TAIL -> tail = value
    :: what == ASLEEP -> asleep = value
    fi
}

active proctype worker_core() {
    mtype what; byte i, value;
end:
    do
    :: atomic { worker_stores ? what, i, value -> reach_memory(what, i, value); i = 0; value = 0 }
    od
}

active proctype receiver_core() {
    mtype what; byte i, value;
end:
    do
    :: atomic { receiver_stores ? what, i, value -> reach_memory(what, i, value); i = 0; value = 0 }
    od
}

/* nfm_ring_push, nfm_ring_flush, nfm_ring_wake, nfm_ring_collect in any order that makes sense. */
active proctype worker() {
    byte pushed, published, looked, seen, seq, r, now;
    byte entry_of[K]; /* at position % K: the record that the entry names */
    bool used[K];

    do
    :: pushed < N && pushed - seen < K ->
        if
        :: !used[0] -> r = 0
        :: !used[1] -> r = 1
        fi;
        used[r] = true;
        entry_of[pushed % K] = r;
#ifdef BREAK_ORDER
        worker_stores ! HEAD, 0, pushed + 1;
#endif
        worker_stores ! RECORD, r, pushed;
        worker_stores ! DESC, pushed % K, r;
        pushed++
    :: published != pushed ->
        worker_stores ! HEAD, 0, pushed;
        published = pushed;
    :: looked != published -> /* at once, or after further bursts */
        looked = published;
#ifndef BREAK_WORKER_FENCE
        fence(worker_stores);
#endif
        if
        :: asleep == seq + 1 ->
            seq++;
            worker_stores ! WAKE_SEQ, 0, seq;
            system_call(worker_stores);
            sleeping = false
        :: else
        fi
#ifdef BREAK_RELEASE
    :: published != seen -> now = published; /* frees what was passed on, not what was passed */
#else
    :: tail != seen -> now = tail;
#endif
        assert(now <= published && published - seen <= K);
        do
        :: seen < now -> used[entry_of[seen % K]] = false; seen++
        :: else -> break
        od
    :: seen == N && looked == published -> break
    od
}

/* doze() of receiver.c. */
inline doze() {
    seq = wake_seq;
    receiver_stores ! ASLEEP, 0, seq + 1;
#ifndef BREAK_RECEIVER_FENCE
    fence(receiver_stores);
#endif
    if
#ifndef BREAK_SECOND_LOOK
    :: head != at
#endif
    :: else ->
        system_call(receiver_stores);
        atomic { if :: wake_seq == seq -> sleeping = true :: else fi };
        !sleeping
    fi;
    receiver_stores ! ASLEEP, 0, 0
}

/* Looks at all entries that are there, and passes some of them. */
inline receive() {
    next = at;
    do
    :: next < until ->
#ifdef BREAK_PASS
        receiver_stores ! TAIL, 0, next + 1;
#endif
        r = desc[next % K];
        assert(record[r] == next);
        next++
    :: next > at -> break
    od;
    at = next;
    receiver_stores ! TAIL, 0, at
}

active proctype receiver() {
    byte at, until, next, seq, r;
begin:
    at = tail;
    {
        do
        :: at == N -> break
        :: else ->
            until = head;
            assert(until - at <= K);
            if
            :: until != at -> receive()
            :: else -> doze()
            fi
        od
    } unless {
        killed -> /* its stores reach memory, and nobody sleeps any more */
        system_call(receiver_stores);
        atomic { sleeping = false; killed = false; until = 0; next = 0; seq = 0; r = 0 };
        goto begin
    }
}

active [DEATHS] proctype killer() {
    if
    :: atomic { !killed -> killed = true }
    :: true
    fi
}
