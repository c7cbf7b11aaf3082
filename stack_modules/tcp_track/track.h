/* SPDX-License-Identifier: Apache-2.0 */
/* What tcp_track keeps of a connection, and the parts of the tracker that work on it. */
#ifndef NFM_TCP_TRACK_H
#define NFM_TCP_TRACK_H

#include "nfm/module.h"

/* RFC 9293 section 3.1, as in nfm_record.tcp_flags */
enum { TH_FIN = 1, TH_SYN = 2, TH_RST = 4, TH_ACK = 16 };

/* nfm__track_side.flags; the first seven decide the conn_state */
enum track_side_flag {
    SIDE_SYN = 1, /* sent a SYN without ACK */
    SIDE_SYNACK = 2,
    SIDE_FIN = 4,
    SIDE_RST = 8, /* sent a valid RST */
    SIDE_DATA = 16,
    SIDE_ACK = 32,     /* sent a segment with ACK and none of SYN, FIN, RST */
    SIDE_PACKET = 64,  /* sent anything */
    SIDE_BASE = 128,   /* isn and una are known, maybe from the peer's ACK alone */
    SIDE_NEXT = 256,   /* next is known: a segment of this side was seen */
    SIDE_WSCALE = 512, /* offered window scaling */
    SIDE_TS = 1024,    /* sends timestamps: ts_recent is valid */
    SIDE_SACK = 2048,  /* offered or used SACK */
    SIDE_FIN_ACKED = 4096,
    SIDE_RTT = 8192,        /* a sample is under way: rtt_seq, rtt_at, rtt_ts */
    SIDE_RTT_AGAIN = 16384, /* ... of a segment sent more than once */
    SIDE_PROBED = 32768     /* the last segment was a keep-alive or a window probe */
};

/* nfm__track.conn */
enum track_conn_flag {
    CONN_RST = 1,        /* a valid RST was seen ... */
    CONN_RST_SIDE_1 = 2, /* ... and the first came from side 1 */
    CONN_FINS_FIRST = 4, /* both FINs came before any RST */
    CONN_ESTABLISHED = 8,
    CONN_STEADY = 16, /* established, no FIN, no RST: the state machine rests */
    CONN_USUAL = 32   /* and it rests whatever sides do for the first time: see is_usual() */
};

typedef struct nfm__track_side {
    uint32_t isn;
    uint32_t next;      /* highest sequence number sent + 1 */
    uint32_t una;       /* lowest not acknowledged by the peer */
    uint32_t window;    /* own receive window, bytes */
    uint32_t fin_end;   /* sequence number after the FIN */
    uint32_t sent_at;   /* us: when next last advanced */
    uint32_t rtt_seq;   /* the sample ends when this is acknowledged */
    uint32_t rtt_at;    /* us: when that was sent */
    uint32_t rtt_ts;    /* TSval it carried, 0 none */
    uint32_t rtt_us;    /* last sample */
    uint32_t ts_recent; /* highest TSval sent */
    uint32_t retransmits;
    uint32_t out_of_order;
    uint16_t flags;
    uint16_t mss;
    uint8_t wscale; /* in force: 0 until both sides offered it */
    uint8_t state;  /* enum nfm_tcp_state */
    uint8_t dup_acks;
    uint8_t offered; /* wscale of the own SYN */
} nfm__track_side;

typedef struct nfm__track {
    nfm__track_side side[2];
    uint32_t handshake_us; /* when the last SYN was sent; once established, how long it all took */
    uint8_t conn;
    uint8_t pad[3];
} nfm__track;
static_assert(sizeof(nfm__track) == 128, "two cache lines per connection");

enum track_counter {
    COUNT_REUSED,
    COUNT_REUSED_OPEN,
    COUNT_BAD_ACK,
    COUNT_BAD_RST,
    COUNT_RST_IN_WINDOW,
    COUNT_FAR_SEGMENT,
    COUNT_PAWS_OLD,
    COUNT_NO_ACK_FLAG,
    COUNT_BAD_OPTION
};

/* No path keeps more than this in flight (RFC 7323 allows 1 GiB; segments further away than this
 * are noise or forged). */
enum { TRACK_FAR = 1 << 24 };

/* One packet as the parts of the tracker see it. */
typedef struct nfm__track_seg {
    nfm__track *track;
    nfm__track_side *own, *peer;
    const nfm_packet *packet;
    nfm_flow *flow;
    uint64_t *counters;
    uint64_t events; /* raised so far */
    uint32_t now_us;
    uint32_t len; /* payload on the wire */
    uint32_t end; /* sequence number after payload, SYN and FIN */
    uint8_t side, flags;
} nfm__track_seg;

/* track_seq.c: sequence and acknowledgement numbers. */
void nfm__track_options(nfm__track_seg *seg);
void nfm__track_ack(nfm__track_seg *seg);
void nfm__track_sequence(nfm__track_seg *seg);
void nfm__track_end_sample(nfm__track_side *sender, const nfm_packet *p, uint32_t now_us);
void nfm__track_begin_sample(nfm__track_side *own, const nfm_packet *p, uint32_t end,
                             uint32_t now_us);

/* track_state.c: the state machine, the client, Zeek's word for the connection. */
bool nfm__track_is_new(const nfm__track_seg *seg);
void nfm__track_client(nfm__track_seg *seg);
void nfm__track_state(nfm__track_seg *seg);
uint8_t nfm__track_conn_state(const nfm__track *track, const nfm_flow *flow);

#endif
