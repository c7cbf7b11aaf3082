/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pure HTTP/1.x parser: bytes of one side of a connection in, messages out through a sink. It
 * knows no worker and no flow, reads no clock and allocates nothing.
 */
#ifndef NFM_HTTP_PARSE_H
#define NFM_HTTP_PARSE_H

#include "nfm/module.h"

/* What was wrong, in nfm__http_head.errors as bits and in the sink's error() as a number. */
enum nfm__http_error {
    NFM__HTTP_E_NOT_HTTP = 0, /* bytes that begin no message at all: this side is given up */
    NFM__HTTP_E_START_LINE,   /* begins with capitals, but is no request or status line: given up */
    NFM__HTTP_E_VERSION,
    NFM__HTTP_E_TARGET,
    NFM__HTTP_E_HEADER_LINE,  /* no colon, or a line that begins with space after the start line */
    NFM__HTTP_E_HEADER_NAME,  /* no token */
    NFM__HTTP_E_HEADER_SPACE, /* whitespace before the colon */
    NFM__HTTP_E_HEADER_VALUE, /* control character */
    NFM__HTTP_E_BARE_LF,
    NFM__HTTP_E_BARE_CR,
    NFM__HTTP_E_OBS_FOLD,
    NFM__HTTP_E_CONTENT_LENGTH,    /* no number, or too large: framing unknown, given up */
    NFM__HTTP_E_LENGTH_CONFLICT,   /* several that differ: given up */
    NFM__HTTP_E_LENGTH_AND_TE,     /* Transfer-Encoding wins */
    NFM__HTTP_E_TRANSFER_ENCODING, /* chunked is not last; in a request: given up */
    NFM__HTTP_E_CHUNK_SIZE,        /* given up */
    NFM__HTTP_E_CHUNK_EXTENSION,
    NFM__HTTP_E_CHUNK_END,   /* given up */
    NFM__HTTP_E_AFTER_CLOSE, /* a message after one that said it was the last */
    NFM__HTTP_E_TOO_LONG,    /* head or trailer over the limit: given up */
    NFM__HTTP_E_NO_BUFFER,   /* given up */
    NFM__HTTP_E_GAP,         /* missing bytes end this message */
    NFM__HTTP_E_INCOMPLETE,  /* the flow ended inside a message */
    NFM__HTTP_E_COUNT
};

enum nfm__http_role { NFM__HTTP_UNKNOWN = 0, NFM__HTTP_REQUEST, NFM__HTTP_RESPONSE };

enum nfm__http_state {
    NFM__HTTP_START = 0,   /* before a message; empty lines are skipped */
    NFM__HTTP_HEAD,        /* a head has begun; what is known of it lies in the buffer */
    NFM__HTTP_BODY_LENGTH, /* left: bytes to come */
    NFM__HTTP_BODY_CLOSE,  /* until the connection ends */
    NFM__HTTP_CHUNK_SIZE,
    NFM__HTTP_CHUNK_EXT,
    NFM__HTTP_CHUNK_QUOTED,
    NFM__HTTP_CHUNK_ESCAPE,
    NFM__HTTP_CHUNK_LF,
    NFM__HTTP_CHUNK_DATA,
    NFM__HTTP_CHUNK_END_CR,
    NFM__HTTP_CHUNK_END_LF,
    NFM__HTTP_TRAILER,
    NFM__HTTP_WAIT,   /* after CONNECT: the response decides what the bytes are */
    NFM__HTTP_RESYNC, /* after missing bytes: looks for a message at the begin of a view */
    NFM__HTTP_DEAD,   /* given up */
    NFM__HTTP_TUNNEL  /* another protocol now */
};

/* What the sink says about a head: what follows it. */
enum nfm__http_follow {
    NFM__HTTP_BY_HEAD = 0, /* as the head itself says */
    NFM__HTTP_NO_BODY,     /* response to HEAD */
    NFM__HTTP_SWITCH,      /* the connection is a tunnel from here on */
    NFM__HTTP_UNSURE       /* by head, unless another response stands where the body should begin:
                            * the request was not seen, it may have been HEAD */
};

enum nfm__http_known { /* header fields that events carry */
                       NFM__HTTP_HOST = 0,
                       NFM__HTTP_USER_AGENT,
                       NFM__HTTP_CONTENT_TYPE,
                       NFM__HTTP_SERVER,
                       NFM__HTTP_UPGRADE,
                       NFM__HTTP_N_KNOWN
};

typedef struct nfm__http_header {
    nfm_view name;
    nfm_view value;  /* without surrounding whitespace; a folded value keeps its line ends */
    uint32_t errors; /* bit per enum nfm__http_error */
} nfm__http_header;

typedef struct nfm__http_head {
    uint8_t role; /* REQUEST or RESPONSE */
    uint8_t major, minor;
    uint8_t chunked;
    uint8_t te_seen;    /* a Transfer-Encoding field is there */
    uint8_t keep_alive; /* the connection goes on after this message */
    uint8_t upgrade;    /* Connection: upgrade */
    uint8_t partial;    /* cut: the flow ended or the head was too long */
    uint16_t status;
    uint16_t n_headers;
    uint32_t errors;        /* bit per enum nfm__http_error */
    int64_t content_length; /* -1 none */
    nfm_view method, target, version, reason;
    nfm_view headers; /* raw, from the line after the start line to the empty line, excluded */
    nfm_view known[NFM__HTTP_N_KNOWN];
} nfm__http_head;

/* Flags of nfm__http_side. */
enum nfm__http_side_flag {
    NFM__HTTP_F_CLOSED = 1,     /* the last message said that it was the last */
    NFM__HTTP_F_IN_MESSAGE = 2, /* head was given to the sink, end was not */
    NFM__HTTP_F_CHUNKED = 4,
    NFM__HTTP_F_LOOSE = 8,     /* midstream: a begin that is no HTTP means resynchronise */
    NFM__HTTP_F_SKIPPED = 16,  /* bytes passed in state WAIT */
    NFM__HTTP_F_LINE_OK = 32,  /* the start line under assembly was checked */
    NFM__HTTP_F_SEEN = 64,     /* a message was seen on this side */
    NFM__HTTP_F_EXT_NAME = 128 /* a chunk extension's name has begun */
};

typedef struct nfm__http_side { /* zeroed: at the start of a connection */
    uint64_t left;              /* of a body or chunk; budget in RESYNC */
    uint64_t body_len;          /* of this message so far, missing bytes included */
    uint32_t gap_len;           /* missing bytes of this message, saturated */
    uint32_t head_len;          /* bytes in the buffer */
    uint32_t message;           /* ordinal of this message, from 0 */
    uint32_t reported;          /* errors told of this message */
    uint8_t state, role, flags;
    uint8_t digits;  /* of the chunk size */
    uint8_t newline; /* the buffer ends with: 0 other, 1 LF, 2 LF CR */
    uint8_t unsure;  /* the body may be absent */
    uint8_t pad[2];
} nfm__http_side;

typedef struct nfm__http_end {
    nfm_view trailers;
    uint8_t complete;
} nfm__http_end;

/* Receives what a side holds. Views are valid until the callback returns. */
typedef struct nfm__http_sink {
    void *arg;
    uint32_t head_limit;   /* bytes of a head, trailer; the size of buffers */
    uint64_t resync_limit; /* bytes skipped on a side that never showed HTTP */
    /* Returns enum nfm__http_follow. */
    int (*head)(void *arg, nfm__http_side *side, const nfm__http_head *head);
    void (*body)(void *arg, nfm__http_side *side, nfm_view data);
    void (*end)(void *arg, nfm__http_side *side, const nfm__http_end *end);
    void (*error)(void *arg, nfm__http_side *side, int kind);
    /* The side's assembly buffer of head_limit bytes, taken when it has none; NULL: none left. */
    uint8_t *(*buffer)(void *arg, nfm__http_side *side);
    void (*release)(void *arg, nfm__http_side *side);
} nfm__http_sink;

/* http_head.c */
const char *nfm__http_error_name(int kind);
int nfm__http_guess(const uint8_t *p, size_t len);
uint32_t nfm__http_parse_head(nfm_view data, bool partial, nfm__http_head *head);
int nfm__http_check_start(nfm_view line, nfm__http_head *head);
bool nfm__http_header_next(nfm_view *rest, nfm__http_header *header);
bool nfm__http_is(nfm_view text, const char *lower);
bool nfm__http_may_start(nfm_view data, int role);

/* http_parse.c */
void nfm__http_feed(nfm__http_side *side, const nfm__http_sink *sink, nfm_view data);
void nfm__http_gap(nfm__http_side *side, const nfm__http_sink *sink, uint64_t len);
void nfm__http_finish(nfm__http_side *side, const nfm__http_sink *sink, bool clean);
void nfm__http_tunnel(nfm__http_side *side, const nfm__http_sink *sink);
void nfm__http_resume(nfm__http_side *side);

#endif
