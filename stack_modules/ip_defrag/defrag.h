/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What ip_defrag keeps, and the parts of it.
 *
 * Theory of operation. Fragments of one datagram share a key; a hash table of fixed size finds the
 * datagram. Its bytes are a list of pieces, sorted and free of overlaps: a piece names a run of
 * bytes in the slot of the packet that brought them, and owns one reference to that slot. When the
 * pieces cover everything up to the end that the last fragment told, the datagram is copied once,
 * behind the headers of the fragment at offset 0, into a slot of its own. That slot takes the place
 * of the packet's, and the packet goes on as if it had come in one piece.
 *
 * Datagrams stand in two lists by age, one per IP version, because the time-outs differ. The oldest
 * one goes when a table is full, when slots get scarce, or when its time is over.
 *
 * Files: ip_defrag.c judges fragments; table.c keeps datagrams and their ages; pieces.c keeps the
 * bytes and applies the overlap policy; build.c writes the datagram.
 *
 * Rules:
 *  1. A slot reference per piece, and one for the fragment at offset 0. The packet's own reference
 * is the worker's; only build.c exchanges it.
 *  2. Nothing is allocated after the start. Every table has a bound, and reaching it is counted.
 *  3. A datagram that a policy condemned stays, without bytes, until its time is over: its late
 *     fragments must not begin it anew (RFC 5722).
 */
#ifndef NFM_IP_DEFRAG_H
#define NFM_IP_DEFRAG_H

#include "nfm/module.h"

#define DEFRAG_NONE UINT32_MAX

enum defrag_limit {
    LIMIT_DATAGRAMS,
    LIMIT_FRAGMENTS,
    LIMIT_SLOTS,
    LIMIT_TIMEOUT_V4,
    LIMIT_TIMEOUT_V6,
    LIMIT_OVERLAP
};

enum defrag_overlap {                /* values of the limit "overlap" */
                      OVERLAP_FIRST, /* bytes that are there stay */
                      OVERLAP_LAST,  /* new bytes replace them */
                      OVERLAP_BSD, /* the fragment that starts first wins, of two with one start the
                                      older */
                      OVERLAP_LINUX, /* the same, but the newer */
                      OVERLAP_DROP   /* condemns the datagram; what IPv6 does in any case */
};

enum defrag_counter {
    COUNT_FRAGMENTS,
    COUNT_REASSEMBLED,
    COUNT_DUPLICATE,
    COUNT_OVERLAP,
    COUNT_TIMEOUT,
    COUNT_TOO_MANY,
    COUNT_EVICTED,
    COUNT_NO_SLOT,
    COUNT_BAD_LENGTH,
    COUNT_TRUNCATED,
    COUNT_TINY,
    COUNT_CONDEMNED
};

typedef struct defrag_key { /* compared as bytes */
    uint8_t addr[2][16];
    uint32_t id;
    uint32_t tunnel_id;
    uint16_t vlan[2];
    uint8_t proto; /* IPv4 only: RFC 8200 section 4.5 leaves it out */
    uint8_t ip_version;
    uint8_t tunnel_kind;
    uint8_t depth;
} defrag_key;
static_assert(sizeof(defrag_key) == 48, "no padding");

typedef struct defrag_piece {
    uint32_t slot;
    uint32_t start, end; /* in the datagram's payload */
    uint32_t data;       /* of byte |start|, from the slot's start */
    uint32_t next;
} defrag_piece;

typedef struct defrag_datagram {
    defrag_key key;
    int64_t expires_ns;
    uint32_t hash_next; /* also links the free ones */
    uint32_t older, newer;
    uint32_t pieces;  /* the first one */
    uint32_t covered; /* bytes in pieces */
    uint32_t total;   /* length of the payload, 0 unknown */
    uint32_t n_fragments;
    uint32_t first_slot; /* of the fragment at offset 0; its headers are the datagram's */
    uint16_t l3_off, payload_off, ext_off; /* in that slot */
    uint8_t condemned;
} defrag_datagram;

typedef struct defrag_table {
    defrag_datagram *datagrams;
    defrag_piece *pieces;
    uint32_t *buckets;
    uint64_t secret;    /* of the hash: senders choose all of the key */
    uint32_t n_buckets; /* power of two */
    uint32_t free_datagram, free_piece;
    uint32_t n_free_pieces;
    uint32_t n_large;              /* references to large slots held */
    uint32_t oldest[2], newest[2]; /* by IP version: 4, 6 */
} defrag_table;

/* Allocates the tables; |secret| keys the hash. Returns NFM_OK or NFM_E_NOMEM. */
int defrag_table_init(defrag_table *table, uint32_t n_datagrams, uint32_t n_pieces,
                      uint64_t secret);
void defrag_table_fini(defrag_table *table);
/* The datagram of |key|, or DEFRAG_NONE. */
uint32_t defrag_find(const defrag_table *table, const defrag_key *key);
/* A new datagram that ends at |expires_ns|, or DEFRAG_NONE when all are taken. */
uint32_t defrag_open(defrag_table *table, const defrag_key *key, int64_t expires_ns);
/* Forgets datagram |index| and releases its slots. */
void defrag_close(nfm_ctx *ctx, uint32_t index);
/* Releases its slots, but remembers it until it expires. */
void defrag_condemn(nfm_ctx *ctx, uint32_t index);
/* The oldest of all datagrams, or DEFRAG_NONE. */
uint32_t defrag_oldest(const defrag_table *table);

/* True when bytes of [start, end) are there already. */
bool defrag_overlaps(const defrag_table *table, const defrag_datagram *datagram, uint32_t start,
                     uint32_t end);
/* True when the very same bytes are there as one piece. */
bool defrag_is_duplicate(nfm_ctx *ctx, const defrag_datagram *datagram, const defrag_piece *piece);
/* Takes |piece| (start, end, data, slot) in as |overlap| says, with references of its own.
 * False when there are no pieces left; the datagram is incomplete then and must be closed. */
bool defrag_insert(nfm_ctx *ctx, defrag_datagram *datagram, const defrag_piece *piece,
                   enum defrag_overlap overlap);

enum defrag_result { DEFRAG_BUILT, DEFRAG_BUILD_LENGTH, DEFRAG_BUILD_SLOT };
/* Puts the complete |datagram| in the place of |packet|'s frame and parses it. */
enum defrag_result defrag_build(nfm_ctx *ctx, const defrag_datagram *datagram, nfm_packet *packet);

#endif
