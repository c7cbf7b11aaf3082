/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames on their way through the worker: from the port where they came, past the inline NFs that
 * decide on them, to the port where they leave.
 *
 * Theory of operation. A frame that may pass is a transit, kept by the number of its slot. What
 * nobody decides on, waits before or changes leaves with its burst and is none. Otherwise its
 * snapshot goes to the inline receivers of the first stage, all at once; when each has passed its
 * entry, the most restrictive verdict holds, and a frame that passes goes on to the next stage. A
 * flow is a line: a frame leaves only from its head, so order per flow is that of arrival whoever
 * decided on what. Frames without a flow are one line.
 *
 * A verdict for the rest of a flow becomes the flow's rule: its frames are not asked for again. A
 * rule that rewrites has the way back as well: the flow is found by the rewritten key, too (its
 * alias in the table), and frames of the other side get the inverse.
 *
 * Raising. A receiver may raise events with its verdict on an entry, by commands. They are taken
 * out of the order of its commands, before the verdicts that its tail shows: so each of them still
 * finds its entry waiting. The event is one more question about the frame, to the receivers that
 * the entry's own question has not asked yet, which are those of later stages.
 *
 * Nobody waits for ever. A receiver that passes nothing for its deadline is late: what waits for it
 * takes its fail policy, and so does what comes until it has caught up. Captures have no deadlines.
 *
 * Other NFs may be reading a frame while it leaves: what is edited is edited in a copy. All stages
 * see it as it came; those behind an editor are shown at their entry what it changed.
 */
#ifndef NFM_ENGINE_TRANSIT_H
#define NFM_ENGINE_TRANSIT_H

#include "engine/worker.h"

enum { NFM_OUT_QUEUE = 1024 };

/* What inline receivers are asked: about a frame's snapshot, or an inquiry (strand.h). */
typedef struct nfm_question {
    uint32_t who;     /* slot + 1 of the frame, or an inquiry's number: for nfm_inline.who_of */
    uint32_t record;  /* NFM_NO_RECORD: nobody was asked */
    uint32_t set;     /* subscriptions when it came; NFM_NO_SET: none held */
    uint16_t asked;   /* verdicts that are outstanding */
    uint16_t at;      /* of the set's inline receivers: the next to be asked */
    uint8_t verdict;  /* NFM_PASS, _DROP or _REJECT */
    uint8_t answered; /* by all who want to be asked */
} nfm_question;

typedef struct nfm_transit {
    uint32_t next; /* slot + 1 of the frame behind it in its line; 0 last */
    uint32_t line; /* flow index, or max_flows: without a flow */
    nfm_question q;
    uint32_t len, wire_len;
    int64_t ts_ns;
    uint32_t made, made_len; /* slot + 1 of the frame that leaves instead; 0: none */
    uint16_t inquiries;      /* beside its question, that are not answered */
    uint8_t on_way;          /* it is in its line */
    uint8_t is_segment;      /* strand.h says what leaves of it */
    uint8_t is_asked;        /* its snapshot was asked about */
    uint8_t out;             /* port; NFM_NO_PORT */
    uint8_t mirror;          /* port; NFM_NO_PORT */
    uint8_t has_edit;        /* edits[slot] holds */
    uint8_t side;
    uint8_t decided;
    uint8_t ruled;        /* its flow had a rule when it came, or has one by its verdict */
    uint8_t in;           /* port */
    uint8_t proto, flags; /* enum nfm_flag, the low byte */
    uint16_t link_type;
    uint16_t l3_off, l4_off, payload_off;
} nfm_transit;

/* What a verdict said for the rest of a flow. */
typedef struct nfm_rule {
    uint8_t verdict; /* NFM_PASS or NFM_DROP */
    uint8_t out;     /* by redirection; NFM_NO_PORT: its own */
    uint8_t has_edit;
    uint8_t back; /* leaves by the port where it came from */
    uint8_t reserved[4];
    nfm_edit edit[2]; /* by side of the sender */
} nfm_rule;

/* An inline receiver beside its ring. */
struct nfm_inline {
    nfm_inline_config config;
    uint64_t judged;       /* positions below have been taken into account */
    uint64_t late_until;   /* it is late as long as its tail is below; 0: it is not */
    int64_t progress_ns;   /* monotonic time when its tail moved, or its ring began to fill */
    uint32_t mask;         /* of who_of */
    uint32_t *who_of;      /* by position: nfm_question.who that waits for it; 0 none */
    uint32_t *who_of_hold; /* by hold: the same of what is kept; 0 none */
    uint64_t raised_to;    /* place in the queue of commands: those before it were raised */
    uint32_t n_raisable;
    nfm_raisable raisable[NFM_MAX_RAISABLE];
};

typedef struct nfm_out_queue { /* frames that a port has not accepted yet */
    nfm_tx frame[NFM_OUT_QUEUE];
    uint32_t head, tail;
} nfm_out_queue;

struct nfm_way {            /* allocated when a worker forwards */
    nfm_transit *transits;  /* by slot */
    nfm_edit *edits;        /* by slot */
    nfm_rule *rules;        /* by flow index */
    uint32_t *first, *last; /* by line: slot + 1; 0 empty */
    nfm_region transit_region, edit_region, rule_region, line_region;
    uint32_t n_transits;
    uint8_t out_of[NFM_MAX_PORTS];
    uint32_t next_fragment;        /* identification of an IPv6 datagram that is cut */
    nfm_out_queue *queue;          /* by port */
    struct nfm_stream_way *stream; /* strand.h */
    bool has_inline;
    bool is_live;    /* some port does not end: there are deadlines */
    int64_t mono_ns; /* monotonic time of the last settling, 0 when nobody needs it */
};

/* ---- way.c ---- */

int nfm__way_start(nfm_worker *w, nfm_error *err);
void nfm__way_free(nfm_worker *w);
void nfm__inline_free(nfm_ring *ring);
/* Makes |verdict| hold for the rest of the flow of |t|. False: it makes no sense, or another flow
 * has the key that it would get. */
bool nfm__rule_set(nfm_worker *w, nfm_ring *ring, nfm_transit *t, uint32_t verdict,
                   const nfm_edit *how);
/* No further packet of the frame's flow passes. */
void nfm__rule_drop(nfm_worker *w, const nfm_transit *t);
/* A flow is ending: its rule goes. */
void nfm__transit_forget_flow(nfm_worker *w, uint32_t index);
bool nfm__rule_edit(nfm_worker *w, nfm_rule *rule, const nfm_transit *t, const nfm_edit *how);
/* What is to be edited of a frame, as far as it is decided: its flow's rule, then verdicts. */
bool nfm__edits_so_far(const nfm_worker *w, uint32_t slot, nfm_edit *out);
/* The rule of a line; NULL: none. */
static inline const nfm_rule *nfm__rule_of(const nfm_worker *w, uint32_t line) {
    if (line >= w->table.max_flows || !(nfm_table_flow(&w->table, line)->flags & NFM_FLOW_RULED))
        return NULL;
    return &w->way->rules[line];
}

/* Whether an inline receiver did not answer in time, and has not caught up. */
static inline bool nfm__is_late(const nfm_ring *ring) {
    return ring->in_line != NULL && ring->in_line->late_until != 0;
}

/* The frame on its way in a slot. */
static inline nfm_transit *nfm__transit_of(const nfm_worker *w, uint32_t slot) {
    return &w->way->transits[slot];
}

static inline uint8_t nfm__worse(uint8_t a, uint8_t b) {
    return a > b ? a : b;
}

/* ---- transit.c ---- */

/* |p| has gone through the stack: it leaves, waits or is dropped. Takes slot references of its own.
 */
void nfm__transit_begin(nfm_worker *w, nfm_packet *p);
/* What is left to do for a frame that was opened before: its snapshot is asked about. */
void nfm__transit_finish(nfm_worker *w, const nfm_packet *p);
/* For strand.h. The frame of |p| enters its line before all is done with it; one inquiry is
 * outstanding until nfm__transit_close. */
void nfm__transit_open(nfm_worker *w, const nfm_packet *p);
/* The same for a frame in |slot| whose packet has gone, with |record| saying where its headers are;
 * |link_type| and |in| are as it came. */
void nfm__transit_open_late(nfm_worker *w, uint32_t slot, const nfm_record *record,
                            uint16_t link_type, uint8_t in);
/* Asks about the snapshot of |p|, unless that was done before. */
void nfm__transit_ask_frame(nfm_worker *w, const nfm_packet *p);
/* One inquiry less is outstanding. */
void nfm__transit_close(nfm_worker *w, uint32_t slot);
/* All is said of it: it leaves as soon as it is the first of its line. */
void nfm__transit_decide(nfm_worker *w, nfm_transit *t);
/* Asks stage after stage until somebody has to answer, or nobody has. */
void nfm__transit_ask(nfm_worker *w, nfm_question *q, uint32_t slot, const nfm_record *record);
/* What a receiver that cannot be asked, or does not answer, means. Counts. */
uint8_t nfm__transit_policy(nfm_worker *w, const nfm_ring *ring);
/* Sends |tx|, a frame made of that in |slot|, with its edits; the slot reference moves. */
void nfm__transit_send(nfm_worker *w, uint32_t slot, const nfm_transit *t, nfm_tx *tx);
static inline bool nfm__transit_has_line(const nfm_worker *w, uint32_t index) {
    return w->way != NULL && w->way->first[index] != 0;
}

/* ---- verdict.c ---- */

/* Takes the verdicts of the entries that |ring|'s receiver has passed. */
void nfm__transit_judge(nfm_worker *w, nfm_ring *ring);
/* All verdicts that are there, and who is late. Between bursts. */
void nfm__transit_settle(nfm_worker *w);
/* Enters what a verdict says of the frame in |slot|. False: it makes no sense. */
bool nfm__transit_apply(nfm_worker *w, nfm_ring *ring, uint32_t slot, uint32_t verdict,
                        const nfm_edit *how);
/* A kept packet's verdict; false: no such packet. */
bool nfm__transit_judge_kept(nfm_worker *w, nfm_ring *ring, const nfm_command *judgement);
/* The receiver will not answer: what waits for it takes its policy. */
void nfm__transit_give_up(nfm_worker *w, nfm_ring *ring);
void nfm__transit_give_up_kept(nfm_worker *w, nfm_ring *ring);

/* ---- raise.c ---- */

/* Raises what |ring|'s receiver has asked for and was not raised yet. */
void nfm__raise_pending(nfm_worker *w, nfm_ring *ring);
/* Raises the event of the command that was taken last, unless that was done before. */
void nfm__raise(nfm_worker *w, nfm_ring *ring, const nfm_command *command);

/* ---- output.c ---- */

/* Whether frames can leave by that port. */
static inline bool nfm__is_port(const nfm_worker *w, uint32_t port) {
    return port < w->n_ports && w->ports[port]->ops->tx != NULL;
}
/* Sends the frame that lies in |ring|'s out. False: it makes no sense. */
bool nfm__inject(nfm_worker *w, const nfm_ring *ring, const nfm_command *command);
/* Queues a frame; the slot reference is the queue's. A full queue drops it and counts. */
void nfm__output(nfm_worker *w, uint32_t port, const nfm_tx *frame);
/* Gives the ports what is queued. */
void nfm__output_flush(nfm_worker *w);
/* Whether frames of port |in| leave by an interface that could not take those that are on their
 * way.
 */
static inline bool nfm__output_is_behind(const nfm_worker *w, uint32_t in) {
    uint32_t out = w->way->out_of[in];
    if (out == NFM_NO_PORT || w->ports[out]->ops->wait_fd == NULL)
        return false;
    const nfm_out_queue *q = &w->way->queue[out];
    return q->tail - q->head + w->way->n_transits > NFM_OUT_QUEUE / 2;
}
bool nfm__output_is_idle(const nfm_worker *w);
/* Drops what is queued: the ports go. */
void nfm__output_discard(nfm_worker *w);

/* ---- fragment.c ---- */

/* Queues |tx| in fragments when it is an IP packet that is longer than the port's MTU, and may be
 * cut: was_cut, it came in fragments; else an IPv4 packet whose sender allows it. True: it is
 * queued and the slot reference taken. It may write to the slot. */
bool nfm__output_cut(nfm_worker *w, uint32_t port, const nfm_tx *tx, bool was_cut);
/* The outermost IP header of an Ethernet frame, at least its fixed part; NULL: there is none. */
uint8_t *nfm__outer_ip(uint8_t *base, const nfm_tx *tx, bool *ipv6);

/* ---- edit.c ---- */

/* Edits the frame of |tx|, which lies at |base|, in place; |t| says where its headers are. False:
 * it has not what is to be edited, or its TTL is used up. Sources: RFC 1624, RFC 768, RFC 2018. */
bool nfm__edit_apply(uint8_t *base, const nfm_transit *t, const nfm_edit *edit, nfm_tx *tx);
/* Adds |more| to what is to be edited: where both say something |more| holds, numbers add up. */
void nfm__edit_merge(nfm_edit *edit, const nfm_edit *more);
/* What undoes |edit| for the other direction; |key| as it was before, from the edited sender. macs:
 * the frame's destination and source before, so that these are undone as well; NULL: it has none.
 */
nfm_edit nfm__edit_inverse(const nfm_edit *edit, const nfm_key *key, const uint8_t *macs);
/* The key that packets have after |edit|, from the same sender. */
nfm_key nfm__edit_key(const nfm_edit *edit, const nfm_key *key);

/* Adapts the checksum at |at| to |n| bytes (even) that changed from |old| to |now|; partial: it is
 * a plain sum. Source: RFC 1624. */
void nfm__edit_adapt(uint8_t *at, const uint8_t *old, const uint8_t *now, uint32_t n, bool partial);

/* ---- quoted.c ---- */

/* Whether the ICMP message at |icmp| quotes a packet. */
bool nfm__is_icmp_error(const uint8_t *icmp, bool ipv6);
/* The key of the packet that |p| quotes; false: it is no ICMP error that quotes one. */
bool nfm__quoted_key(const nfm_packet *p, nfm_key *key);
/* Makes the ICMP error |p| one of the flow that it quotes; its side is that of the flow's other
 * end. False: it is no error, or that flow is not there. */
bool nfm__quoted_find(nfm_worker *w, nfm_packet *p);
/* Undoes in the packet that the error at |icmp| quotes what |edit| undoes in packets of the error's
 * own direction. False: the quoted IPv4 header is damaged. Source: RFC 5508 REQ-3 to REQ-5. */
bool nfm__quoted_edit(uint8_t *icmp, const uint8_t *end, bool ipv6, const nfm_edit *edit);

/* ---- reject.c ---- */

/* Answers the sender of a frame that was rejected, by the port that it came from: RST (RFC 9293
 * section 3.10.7.1) or ICMP administratively prohibited (RFC 1812 section 5.2.7.1, RFC 4443 section
 * 3.1). What must not be answered is not. */
void nfm__reject(nfm_worker *w, uint32_t slot, const nfm_transit *t);

#endif
