/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams on their way through the worker, where somebody decides on their bytes.
 *
 * Theory of operation. Inline subscriptions on tcp.data, and on what application modules find in
 * streams, put their flows on NFM_LEVEL_SPLIT. Of such a flow no byte leaves that was not judged,
 * and each place of the stream leaves with one value, whatever is sent there later:
 *
 * Each side has a strand: the runs of bytes that the stack handed out, in order of their numbers,
 * from the first one that the receiver has not acknowledged. A run is asked about, then accepted or
 * dropped, and keeps its bytes (a reference to the slot where they lie) until they are
 * acknowledged. What leaves in a segment is made of the accepted runs that its numbers cover. So a
 * retransmission, however it is cut and whatever it holds, leaves with the bytes that were accepted
 * first; where a run was dropped it is asked about again, with the same bytes. A copy of
 * acknowledged bytes leaves empty, so that its receiver says again what it has.
 *
 * Segments that are ahead of the stream do not enter their flow's line: the stream module holds
 * them, and when it hands their bytes out, they enter as frames of their own.
 *
 * Inquiries. A frame waits for the verdict on its snapshot, like all frames, and for inquiries:
 * questions about one more record each, be it bytes (released ones, or again) or an event that an
 * application module raised from them, or an inline receiver with its verdict.
 *
 * Replaced bytes are kept with their run. From there on numbers differ at both ends: |shift| is
 * what was added to numbers before the first run, and each run knows the number it left with.
 * Acknowledgements of the receiver are translated when they come, before the stack sees them.
 *
 * Memory. Runs hold at most a quarter of the slots; new bytes that find no room are dropped before
 * the stack sees them, as if the link had lost them, or, where the receivers fail open, the flow is
 * judged no longer. Strands and runs lie in arrays that are mapped at their maximum and touched on
 * use.
 *
 * Files: strand.c runs and numbers; inquiry.c who is asked; segment.c arrival of frames;
 * segment_out.c what leaves; remake.c frames made of others.
 */
#ifndef NFM_ENGINE_STRAND_H
#define NFM_ENGINE_STRAND_H

#include "engine/transit.h"

enum nfm_run_state {
    NFM_RUN_ASKED = 0,
    NFM_RUN_ACCEPTED,
    NFM_RUN_DROPPED, /* asked about again when it is sent again */
};

typedef struct nfm_run {
    uint32_t next, prev; /* run + 1, 0 none; next also links free ones */
    uint32_t seq, len;   /* as the sender numbers them */
    uint32_t slot, off;  /* where the bytes are; one reference to the slot */
    uint32_t new_slot;   /* the first one of what leaves instead; NFM_NO_SLOT: themselves */
    uint32_t new_len;
    uint32_t out;   /* the first one's number as the receiver knows it, when |left| */
    uint32_t waits; /* slot + 1 of the frame whose own verdict is this run's; 0: an inquiry's */
    uint64_t stream_off;
    uint8_t state; /* enum nfm_run_state */
    uint8_t left;  /* once at least */
} nfm_run;

typedef struct nfm_strand {
    uint64_t off;        /* place in the stream of |next| */
    uint32_t head, tail; /* run + 1 */
    uint32_t n_runs;
    uint32_t next;  /* behind the last byte that the stack handed out, when |started| */
    uint32_t una;   /* acknowledged up to here, when |acked| */
    uint32_t shift; /* of numbers before the first run: they leave as seq + shift */
    uint8_t started;
    uint8_t acked;
    uint8_t shifted; /* numbers differ, or did */
} nfm_strand;

typedef struct nfm_strands { /* of a flow, by side of the sender */
    nfm_strand side[2];
    uint8_t in_use;
    uint8_t free;   /* judged no longer: what no run covers leaves as it came */
    uint8_t closed; /* the flow has ended; frames are on their way */
} nfm_strands;

/* What is to be known of a frame of such a flow beside its transit, by slot. */
typedef struct nfm_segment {
    uint64_t events;    /* of its snapshot */
    uint32_t seq, len;  /* what of the stream may leave in it */
    uint32_t ack;       /* as the other end knows it */
    uint32_t from, end; /* numbers of its first payload byte, and behind the last */
    uint16_t link_type;
    uint8_t in; /* port */
    uint8_t tcp_flags;
    uint8_t is_head; /* the slot has its headers only */
} nfm_segment;

#define NFM_WHO_INQUIRY 0x80000000u /* in nfm_question.who: the rest is an inquiry's number */

typedef struct nfm_inquiry {
    uint32_t next; /* free ones: inquiry + 1 */
    uint32_t slot; /* of the frame that waits */
    uint32_t run;  /* run + 1; 0: it is about an application event */
    nfm_question q;
} nfm_inquiry;

typedef struct nfm_stream_way { /* allocated with nfm_way */
    nfm_strands *strands;       /* by flow index */
    nfm_segment *segments;      /* by slot */
    nfm_run *runs;
    nfm_inquiry *inquiries;
    nfm_region regions[4];
    uint32_t n_runs, fresh_runs, free_run; /* run + 1 */
    uint32_t n_inquiries, fresh_inquiries, free_inquiry;
    uint32_t kept[2];         /* runs in small and in large slots */
    const nfm_packet *packet; /* being processed; NULL: none */
    uint32_t at;              /* slot + 1 of the frame that events raised now are about */
    bool refused;             /* the packet being processed goes no further */
    bool is_on;               /* some stream was judged: flows may have strands */
} nfm_stream_way;

static inline nfm_strands *nfm__strands_of(const nfm_worker *w, uint32_t flow) {
    return &w->way->stream->strands[flow];
}
/* Whether flow |flow| has strands. Does not touch them where no stream was ever judged. */
static inline bool nfm__has_strands(const nfm_worker *w, uint32_t flow) {
    return __builtin_expect(w->way->stream->is_on, 0) && nfm__strands_of(w, flow)->in_use;
}
static inline nfm_run *nfm__run_at(const nfm_worker *w, uint32_t link) {
    return &w->way->stream->runs[link - 1];
}

/* Replaced bytes lie in a chain of small slots, of which there are many: from NFM_HEADROOM on as
 * much as fits, and at the very start of a slot the next one's number. */
enum { NFM_LINK_BYTES = NFM_SLOT_SMALL - NFM_HEADROOM };
static inline uint32_t *nfm__next_of(const nfm_worker *w, uint32_t slot) {
    return (uint32_t *)(void *)nfm_pool_addr(&w->pool, slot);
}

/* The payload that an edit names; NULL: it names none that can be. */
static inline const uint8_t *nfm__payload_of(const nfm_ring *ring, const nfm_edit *edit) {
    bool good = edit->fields == NFM_EDIT_PAYLOAD && edit->bytes_len <= NFM_PAYLOAD_BYTES &&
                edit->bytes_off <= NFM_PAYLOAD_BYTES - edit->bytes_len;
    return good ? nfm_ring_payloads_of(ring) + edit->bytes_off : NULL;
}

/* ---- strand.c ---- */

int nfm__stream_way_init(nfm_worker *w, nfm_error *err);
void nfm__stream_way_free(nfm_worker *w);
/* Adds a run of |len| bytes at |off| of |slot|, which gets a reference; ASKED. 0: no room. */
uint32_t nfm__run_add(nfm_worker *w, nfm_strand *s, const nfm_run *what);
/* The first run that ends behind |seq|; 0 none. */
uint32_t nfm__run_find(const nfm_worker *w, const nfm_strand *s, uint32_t seq);
/* Bytes that leave for a run. */
static inline uint32_t nfm__run_out_len(const nfm_run *run) {
    return run->new_slot == NFM_NO_SLOT ? run->len : run->new_len;
}
/* The byte at |i| of a run leaves as those of [i, i + 1) of what replaces it: so runs may be sent
 * again, and acknowledged, in parts, whatever their length. */
static inline uint32_t nfm__run_out_at(const nfm_run *run, uint32_t i) {
    return (uint32_t)((uint64_t)i * nfm__run_out_len(run) / run->len);
}
/* How much of the run has been received when |o| bytes of what leaves for it have. */
static inline uint32_t nfm__run_in_at(const nfm_run *run, uint32_t o) {
    uint32_t out = nfm__run_out_len(run);
    uint64_t i = out == 0 ? run->len : (((uint64_t)o + 1) * run->len - 1) / out;
    return i < run->len ? (uint32_t)i : run->len;
}
/* The number that |seq| has for the receiver; and the other way round, for acknowledgements. */
uint32_t nfm__strand_out(const nfm_worker *w, const nfm_strand *s, uint32_t seq);
uint32_t nfm__strand_in(const nfm_worker *w, const nfm_strand *s, uint32_t out);
/* The receiver has acknowledged |out|: runs before it go. Returns it as the sender knows it. */
uint32_t nfm__strand_acked(nfm_worker *w, nfm_strand *s, uint32_t out);
/* Takes the payload that |how| names in |ring|: it leaves instead of the run's bytes. False: it
 * cannot. */
bool nfm__run_replace(nfm_worker *w, nfm_ring *ring, uint32_t link, const nfm_edit *how);
/* Gives such bytes back; the run leaves as it came. */
void nfm__run_restore(nfm_worker *w, nfm_run *run);
/* Gives all runs back. */
void nfm__strands_end(nfm_worker *w, nfm_strands *both);
/* The flow ends: its strands stay as long as frames are on their way. */
void nfm__strands_close(nfm_worker *w, uint32_t flow);
/* Its line is empty: what was closed, or is judged no longer and needs nothing, goes. */
void nfm__strands_rest(nfm_worker *w, uint32_t flow);

/* ---- inquiry.c ---- */

/* Asks the inline receivers of |set| about |record| (bytes when |run| is not 0), while the frame in
 * |slot| waits. Without room for that the run is dropped. */
void nfm__inquire(nfm_worker *w, uint32_t slot, uint32_t set, uint32_t run,
                  const nfm_record *record);
/* |verdict| of |ring|'s receiver on inquiry |number|. */
void nfm__inquiry_judge(nfm_worker *w, nfm_ring *ring, uint32_t number, uint32_t verdict,
                        const nfm_edit *how);
/* There will be none: the policy holds. */
void nfm__inquiry_fail(nfm_worker *w, nfm_ring *ring, uint32_t number);
/* Asks the inline receivers of |set| about the application event in record |id|, which was kept for
 * that, while the frame waits whose bytes raised it. */
void nfm__inquire_app(nfm_worker *w, uint32_t set, uint32_t id);
/* Such an event of |type| found no room: those who would decide on it take their policy. */
void nfm__inquire_app_lost(nfm_worker *w, uint32_t set, uint32_t type);
/* Delivers the application event |record|, which a receiver raised while it was asked |about| the
 * frame in |slot|; the frame waits for those whom that question has not asked yet. */
void nfm__inquire_raised(nfm_worker *w, const nfm_question *about, uint32_t slot,
                         const nfm_record *record);
/* The event could not be made: whoever might have decided on it is not there to do so. */
void nfm__inquire_lost(nfm_worker *w, const nfm_question *about, uint32_t slot, uint32_t type);

/* ---- segment.c ---- */

/* Whether |p|, which got no flow, has bytes that should be judged: they cannot. */
bool nfm__segment_is_lost(nfm_worker *w, const nfm_packet *p);
/* A packet of a flow comes, before it is tracked. False: it goes no further. */
bool nfm__segment_arrive(nfm_worker *w, nfm_packet *p);
/* Its tracking is done, its stream is next. */
void nfm__segment_begin(nfm_worker *w, nfm_packet *p);
/* The stack hands out bytes, or a gap, of flow |index|: before |record| is delivered. */
void nfm__segment_data(nfm_worker *w, uint32_t index, const nfm_record *record);
/* All is done with it: it leaves, waits, or is withheld. */
void nfm__segment_end(nfm_worker *w, nfm_packet *p);

/* Other bytes leave instead of those that the frame's snapshot is about. False: they cannot. */
bool nfm__segment_replace(nfm_worker *w, nfm_ring *ring, uint32_t slot, const nfm_edit *how);

/* ---- remake.c ---- */

/* Bytes of an L3 packet that leaves by |port|. */
uint32_t nfm__mtu_of(const nfm_worker *w, uint32_t port);
/* Lengths and checksums of a frame at |base| that has the headers of |t|'s and |len| payload bytes;
 * it is number |n| of those made of one. */
void nfm__remake(uint8_t *base, const nfm_transit *t, uint32_t len, uint32_t n);
/* Makes the frame that leaves instead of that in |slot|, with another payload. False: it cannot. */
bool nfm__datagram_replace(nfm_worker *w, nfm_ring *ring, uint32_t slot, const nfm_edit *how);

/* ---- segment_out.c ---- */

/* The frame in |slot| is at the head of its line: its runs get its verdict. */
void nfm__segment_settle(nfm_worker *w, uint32_t slot, const nfm_transit *t);
/* Sends what may leave of it. */
void nfm__segment_send(nfm_worker *w, uint32_t slot, const nfm_transit *t);
/* Tells its receiver that the connection is reset. */
void nfm__segment_reset(nfm_worker *w, uint32_t slot, const nfm_transit *t);

#endif
