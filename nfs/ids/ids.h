/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules over streams, packets and application events.
 *
 * Theory of operation. Python has turned each rule into conditions on bytes ("chains", one
 * expression each) and the rest: header, flags, flow bits, thresholds (ids.cdef). The expressions
 * of a buffer are one database. For streams it works in streaming mode, and what a stream has met
 * lies in bits beside its matcher (ids_stream.c); packets and events are buffers whose end is
 * known, so their bits are cleared behind them (ids_block.c). When the last chain of a rule is met,
 * the rest is asked (ids_rule.c), last the threshold (ids_counter.c).
 *
 * Order. The matcher reports in no order within a segment, so hits are sorted by where they end,
 * then by rule (pass, drop, reject, alert; then as in the file). So what is found depends on the
 * bytes and not on how they were cut. "X does not follow" is decided when its range has passed or
 * at the end; each stream knows the next offset at which something is decided.
 *
 * Memory. All is bounded and made before the packets: streams by a quota, sessions, counters,
 * alerts by number; a counter says of each what did not fit.
 */
#ifndef NFS_IDS_H
#define NFS_IDS_H

#include "search_streams.h"
#include "session_map.h"

#pragma GCC visibility push(default)
#include "ids.cdef"
#pragma GCC visibility pop

#define IDS_END UINT64_MAX
enum { IDS_RING = 4, IDS_MAX_HITS = 65536, IDS_TEXT = 32768, IDS_GROUPS = 4 };

typedef struct ids_ring { /* ends of a chain that something must not follow: undecided yet */
    uint64_t end[IDS_RING];
    uint32_t n, reserved;
} ids_ring;

typedef struct ids_hit {
    uint64_t end;
    uint32_t rule, use;
} ids_hit;

typedef struct ids_progress { /* what is met of chains; of a stream, or of a packet or event */
    uint64_t *met;            /* bit per chain; of a negated one: it was found */
    ids_ring *rings;
} ids_progress;

struct ids_table {
    ids_rules r;  /* its arrays are the table's own */
    char **texts; /* of expressions and header names: n_texts */
    uint32_t n_texts;
    hs_database_t **databases; /* by buffer; NULL: without patterns */
    hs_scratch_t *scratch;
    uint32_t *always; /* rules without a chain that must be found, by kind */
    ids_span always_of[IDS_KINDS];
    uint32_t *deferred; /* rules of streams that something absent decides */
    uint32_t n_deferred;
    /* streams */
    search_streams streams;
    uint64_t bytes_per_stream;
    uint32_t met_words, done_words;
    uint64_t *met, *done; /* by stream: its words */
    ids_ring *rings;      /* by stream: n_stream_rings */
    uint64_t *next;       /* by stream: offset at which something is decided */
    /* packets and events */
    ids_progress block;
    uint64_t *seen; /* bit per chain that is among |touched| */
    uint32_t *touched, n_touched;
    uint32_t *asked;   /* rules: room for one per rule and chain */
    uint32_t *negated; /* chains that an absent buffer does not meet, by buffer */
    ids_span *negated_of;
    ids_hit *hits;
    uint32_t n_hits;
    bool hits_overflow;
    uint8_t *text; /* IDS_TEXT bytes for buffers that are made */
};

typedef struct ids_flow { /* session of a flow */
    uint64_t bits[IDS_MAX_BITS / 64];
    uint32_t load;  /* table that |kinds| is of */
    uint16_t kinds; /* that some rule about it has */
    uint8_t sides;  /* bit per side that has sent */
    bool established, passed, dropped;
} ids_flow;

typedef struct ids_counter ids_counter;

struct ids {
    ids_options options;
    ids_table *table;
    bool decides; /* packets wait for its verdicts */
    nf_session_map map;
    uint32_t hand;   /* place that is evicted next */
    uint32_t swept;  /* place that ids_resume looks at next */
    ids_flow *flows; /* by place in the map */
    ids_counter *counters;
    uint64_t seed;         /* of their hash; random */
    uint32_t counter_sets; /* power of two */
    ids_alert *alerts;     /* ring of max_alerts */
    uint32_t first_alert, n_alerts;
    ids_stats stats;
};

typedef struct ids_occasion { /* at which rules are asked */
    const nfm_mem *mem;
    const nfm_record *record;
    const nfm_flow_info *info;
    ids_flow *flow; /* NULL: the flow ends, and had none */
    uint64_t position;
    uint32_t payload_len;
    uint32_t verdict; /* the greatest nfm_action that rules ask for, with NFM_REST */
    uint8_t kind, sender;
    bool passed;
} ids_occasion;

enum ids_answer {
    IDS_NOT_NOW, /* what may change is not so */
    IDS_NEVER,   /* the rule is not about this flow's side */
    IDS_MATCHED
};

static inline bool ids_bit_is(const uint64_t *bits, uint32_t n) {
    return bits[n / 64] >> (n % 64) & 1;
}

static inline void ids_bit_set(uint64_t *bits, uint32_t n) {
    bits[n / 64] |= UINT64_C(1) << (n % 64);
}

/* ids_match.c */
void ids_sort_hits(ids *nf);
int ids_on_hit(unsigned int id, unsigned long long from, unsigned long long to, unsigned int flags,
               void *context);
typedef struct ids_search { /* context of ids_on_hit */
    ids_table *table;
    uint64_t base;    /* added to where matches end */
    uint32_t pattern; /* the first of the database */
} ids_search;
void ids_apply(ids *nf, ids_progress *progress, const ids_hit *hit);
/* Decides candidates whose ranges end by |now|; *next becomes the least end of the others'. */
void ids_resolve(const ids_table *table, ids_progress *progress, const ids_chain *chain,
                 uint64_t now, uint64_t *next);
bool ids_is_met(const ids_table *table, const ids_progress *progress, const ids_rule *rule,
                bool whole);

/* ids_stream.c, ids_block.c */
void ids_stream_data(ids *nf, ids_occasion *occasion);
void ids_stream_end(ids *nf, ids_occasion *occasion);
void ids_ask_packet(ids *nf, ids_occasion *occasion);
void ids_ask_event(ids *nf, ids_occasion *occasion);

/* ids_buffer.c */
nfm_view ids_buffer_of(const ids_table *table, const ids_buffer *buffer,
                       const ids_occasion *occasion);

/* ids_rule.c */
bool ids_header_fits(const ids_table *table, const ids_header *header, const nfm_flow_info *info,
                     uint8_t sender);
uint16_t ids_kinds_about(const ids_table *table, const nfm_flow_info *info);
enum ids_answer ids_ask(ids *nf, ids_occasion *occasion, const ids_rule *rule);

/* ids_counter.c */
enum ids_count { IDS_SILENT, IDS_ACT, IDS_TELL }; /* nothing; the action; the action and an alert */
enum ids_count ids_counted(ids *nf, const ids_rule *rule, const ids_occasion *occasion);
bool ids_counters_init(ids *nf, uint32_t max);

#endif
