/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An NF's event log: one writer, many readers, each with a place of its own.
 *
 * Theory of operation. The log object has a header and a ring of 8-byte words; it is written by one
 * process. Positions are u64 bytes and never wrap; the word of a position is words[(position / 8) &
 * mask], so an entry may continue at the ring's begin. Entries in [tail, head) are whole.
 *
 * Writing. To make room the writer first moves tail past the entries that it is going to overwrite,
 * then stores the new entry's words, then publishes it by storing head. Words and tail are stored
 * with release and loaded with acquire: a reader that has seen one overwritten word also sees the
 * tail that was moved before it. So a reader copies an entry, looks at tail, and drops the copy
 * when its position lies behind: no lock, nothing written by readers, no torn entry.
 *
 * Readers. A reader writes only its cursor page, which the writer maps read-only. The writer waits
 * for the cursors of lossless readers before it moves tail past them. A reader that lets the
 * deadline pass is not waited for again until it has read up to where the log stood then: a dead
 * one costs one deadline, and its gap is seen in the entries' numbers. A cursor that goes back or
 * past the head is counted and ignored: whoever lies about his place loses entries, nobody else.
 *
 * A writer's death. Nothing of an unpublished entry is visible: head was not stored. What must
 * agree with head (how many entries, the last event of each source) is stored after head; the
 * intent, stored before head and naming the head that it will lead to, says on the next start
 * whether that last step is still to be done.
 *
 * Distrust. A reader takes capacity and sizes from the header once, checks them against the size of
 * the object, and copies each length before it looks at it. Whatever the log's words are, it stays
 * inside the ring and inside its own arrays, and each call ends. What it hands out is its own copy,
 * with the offsets that it computed itself.
 */
#ifndef NFM_EVENT_LOG_H
#define NFM_EVENT_LOG_H

#include <stdalign.h>
#include <stdatomic.h>

#include "base/region.h"
#include "base/wait.h"

#define NFM_LOG_MAGIC UINT64_C(0x0067676f6c6d666e)
#define NFM_LOG_CURSOR_MAGIC UINT64_C(0x0072756372636d66)
#define NFM_LOG_NO_HEAD UINT64_MAX
#define NFM_LOG_NO_NUMBER UINT64_MAX

enum {
    NFM_LOG_ENTRY_MIN = 40 + NFM_RECORD_SIZE,
    NFM_LOG_ENTRY_MAX = 262144, /* of any log; an entry is at most a quarter of its log */
    NFM_LOG_HAS_FLOW = 1        /* nfm__log_entry.flags */
};

/* An entry's first words; behind them the record, the flow's facts if flags say so, and the field
 * record, up to a multiple of 8. */
typedef struct nfm__log_entry {
    uint32_t len; /* of the whole entry, a multiple of 8 */
    uint32_t type;
    uint64_t number;   /* of entries ever, from 0 */
    uint64_t sequence; /* first position of the run that raised it */
    uint32_t ordinal;  /* in that run, from 0 */
    uint32_t source;
    uint32_t fields_len;
    uint32_t flags;
} nfm__log_entry;

/* What is known of one source. Entries (s, o) with s < sequence, or s == sequence and o < ordinals,
 * are in the log. */
typedef struct nfm__log_source {
    _Atomic uint64_t sequence;
    _Atomic uint64_t run_first; /* of the run begun last */
    _Atomic uint32_t ordinals;
    _Atomic uint32_t run_n; /* 0: none */
} nfm__log_source;

/* The step that a writer is about to make. */
typedef struct nfm__log_intent {
    _Atomic uint64_t head; /* after the step; NFM_LOG_NO_HEAD: none */
    _Atomic uint64_t sequence;
    _Atomic uint64_t number;
    _Atomic uint32_t source, ordinal;
} nfm__log_intent;

typedef struct nfm__log_shared { /* written by the writer alone */
    _Atomic uint64_t magic;
    uint32_t abi;
    uint32_t entry_min; /* NFM_LOG_ENTRY_MIN: layouts agree */
    uint64_t capacity;
    alignas(64) _Atomic uint64_t head;
    _Atomic uint64_t tail;     /* the oldest entry */
    _Atomic uint32_t wake_seq; /* the futex of all readers */
    _Atomic uint32_t ended;
    alignas(64) nfm__log_intent intent;
    _Atomic uint64_t written;
    alignas(64) nfm__log_source sources[NFM_LOG_SOURCES];
    alignas(64) _Atomic uint64_t words[];
} nfm__log_shared;

typedef struct nfm__log_cursor { /* written by its reader alone */
    _Atomic uint64_t magic;
    _Atomic uint64_t position; /* everything before it is passed */
    _Atomic uint64_t number;   /* that the entry at position should have */
    _Atomic uint32_t asleep;   /* wake_seq + 1 that it waits on, 0 awake */
} nfm__log_cursor;

typedef struct nfm__log_follower { /* a reader as the writer sees it */
    const nfm__log_cursor *cursor; /* NULL: free */
    uint64_t seen;                 /* last position that made sense */
    uint64_t lost_until;           /* missed a deadline: not waited for before it has come here */
    uint64_t refused;              /* last position that made no sense */
    bool lossless;
    nfm_region region;
} nfm__log_follower;

struct nfm_log {
    nfm__log_shared *shared;
    uint64_t mask; /* words - 1 */
    uint64_t capacity, head, tail, written;
    uint64_t safe; /* tail may move up to here without a look at the cursors */
    int64_t deadline_ns;
    uint32_t max_entry;
    bool in_run;
    uint32_t source, ordinal; /* of the run: its source, the next event's ordinal */
    uint64_t first;
    uint32_t n_followers; /* highest number + 1 */
    nfm__log_follower followers[NFM_LOG_READERS];
    uint64_t repeated, too_large, waits, missed_deadlines, bad_cursors, wakeups;
    nfm_region region;
};

struct nfm_log_reader {
    const nfm__log_shared *shared;
    nfm__log_cursor *cursor;
    uint64_t mask, capacity;
    uint64_t position; /* of the next entry to read */
    uint64_t number;   /* that it should have, or NFM_LOG_NO_NUMBER */
    uint64_t read, lost, gaps, bad;
    uint32_t max_entry;
    uint32_t fields_used; /* by the batch */
    bool checked;         /* the header: a log may be attached before its writer lays it out */
    nfm_batch batch;
    nfm_mem mem;
    nfm_record *records; /* NFM_LOG_BATCH of each */
    nfm_flow_info *flows;
    nfm_desc *desc;
    uint8_t *fields; /* NFM_LOG_ENTRY_MAX */
    nfm_region log_region, cursor_region;
};

/* The largest power of two of bytes that an object of |size| bytes has room for; 0 when it is too
 * small for a log. */
uint64_t nfm__log_capacity(uint64_t size);
/* The same as nfm_log_open and nfm_log_add_reader over memory of the caller, zeroed when new. */
int nfm__log_init(nfm_log *log, void *memory, uint64_t size, int64_t deadline_ns, nfm_error *err);
int nfm__log_follow(nfm_log *log, const nfm__log_cursor *cursor, bool lossless);
/* Length of the entry at |position|, as its word says. */
uint32_t nfm__log_entry_len_at(const nfm_log *log, uint64_t position);
/* Moves tail so that |need| bytes fit, waiting for lossless readers as the deadline allows. */
void nfm__log_make_room(nfm_log *log, uint64_t need);
/* Wakes readers that sleep. */
void nfm__log_wake(nfm_log *log);
/* The same as nfm_log_attach over memory of the caller; nfm__log_reader_fini frees the arrays. */
int nfm__log_reader_init(nfm_log_reader *reader, const void *memory, uint64_t size,
                         nfm__log_cursor *cursor, bool from_now, nfm_error *err);
void nfm__log_reader_fini(nfm_log_reader *reader);

/* Bytes of an entry. */
static inline uint64_t nfm__log_entry_len(bool has_flow, uint64_t fields_len) {
    uint64_t len = NFM_LOG_ENTRY_MIN + (has_flow ? NFM_FLOW_INFO_SIZE : 0) + fields_len;
    return (len + 7) & ~UINT64_C(7);
}

static inline uint32_t nfm__log_max_entry(uint64_t capacity) {
    return capacity / 4 < NFM_LOG_ENTRY_MAX ? (uint32_t)(capacity / 4) : NFM_LOG_ENTRY_MAX;
}

static inline uint64_t nfm__log_word(const nfm__log_shared *shared, uint64_t mask,
                                     uint64_t position) {
    return atomic_load_explicit(&shared->words[position / 8 & mask], memory_order_acquire);
}

/* Where a reader waits, until it reads. */
static inline nfm__place nfm__log_place(const nfm_log_reader *reader) {
    const nfm__log_shared *shared = reader->shared;
    return (nfm__place){&shared->head, &shared->wake_seq, &shared->ended, &reader->cursor->asleep,
                        reader->position};
}

static_assert(sizeof(nfm__log_entry) == 40, "entry layout");
static_assert(offsetof(nfm__log_shared, words) % 64 == 0, "words are aligned");
static_assert((int)NFM_LOG_MIN / 4 > (int)NFM_LOG_ENTRY_MIN + (int)NFM_FLOW_INFO_SIZE,
              "the smallest log holds events");

#endif
