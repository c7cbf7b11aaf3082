/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The message machine of one side of an HTTP/1.x connection (RFC 9112).
 *
 * Theory of operation
 *   nfm__http_feed takes the next bytes of a side. A head that lies whole in them is parsed in
 *   place. Otherwise its bytes gather in a buffer borrowed from the sink until the empty line is
 *   there; only new bytes are searched, so a head that trickles in costs linear time. Bodies pass
 *   through as views. Chunk-size lines are short and go byte by byte. A trailer section gathers
 *   like a head.
 *
 * Rules of this file
 *   1. The sink hears the same whatever the segmentation, up to how body bytes are cut into views.
 *      So both paths of a head apply one limit, and judge the first bytes and the start line as
 *      soon as they are known. Exceptions are lost bytes and unseen requests: a message is then
 *      looked for at the begin of a view, since only segment borders hint at where one may start.
 *   2. Each message that the sink's head() was told of gets exactly one end().
 *   3. An error kind is told once per message. Given up (DEAD) means that framing is lost.
 */
#include "http_side.h"

#include <string.h>

/* No start line where one must be; |data|: the bytes there. Capitals may be meant as a method. */
static void reject_start(nfm__http_side *side, const nfm__http_sink *sink, nfm_view data) {
    int kind = NFM__HTTP_E_START_LINE;
    for (uint32_t i = 0; i < 3; i++)
        if (i >= data.len || data.data[i] < 'A' || data.data[i] > 'Z')
            kind = NFM__HTTP_E_NOT_HTTP;
    if (side->flags & NFM__HTTP_F_LOOSE) {
        nfm__http_drop_buffer(side, sink);
        side->state = NFM__HTTP_RESYNC;
        side->left = 0;
        return;
    }
    nfm__http_abort_message(side, sink, kind, NFM__HTTP_DEAD);
}

/* What stands between the head and the next message (RFC 9112 section 6.3, in its order). */
static void begin_body(nfm__http_side *side, const nfm__http_sink *sink, const nfm__http_head *head,
                       int follow) {
    static const nfm_view none = {NULL, 0};
    bool response = head->role == NFM__HTTP_RESPONSE;
    uint32_t fatal = NFM__HTTP_BIT(NFM__HTTP_E_TRANSFER_ENCODING);
    if (!head->te_seen)
        fatal |=
            NFM__HTTP_BIT(NFM__HTTP_E_CONTENT_LENGTH) | NFM__HTTP_BIT(NFM__HTTP_E_LENGTH_CONFLICT);
    if (follow == NFM__HTTP_SWITCH) {
        nfm__http_end_message(side, sink, true, none);
        side->state = NFM__HTTP_TUNNEL;
    } else if (!response && head->method.len == 7 && memcmp(head->method.data, "CONNECT", 7) == 0) {
        nfm__http_end_message(side, sink, true, none);
        side->state = NFM__HTTP_WAIT;
    } else if (response && (follow == NFM__HTTP_NO_BODY || head->status / 100 == 1 ||
                            head->status == 204 || head->status == 304)) {
        nfm__http_end_message(side, sink, true, none);
    } else if (head->errors & fatal) {
        nfm__http_end_message(side, sink, false, none);
        side->state = NFM__HTTP_DEAD;
    } else if (head->chunked) {
        side->flags |= NFM__HTTP_F_CHUNKED;
        side->digits = 0;
        side->left = 0;
        side->state = NFM__HTTP_CHUNK_SIZE;
    } else if (head->te_seen || (response && head->content_length < 0)) {
        side->state = NFM__HTTP_BODY_CLOSE;
    } else if (head->content_length > 0) {
        side->left = (uint64_t)head->content_length;
        side->unsure = follow == NFM__HTTP_UNSURE;
        side->state = NFM__HTTP_BODY_LENGTH;
    } else {
        nfm__http_end_message(side, sink, true, none);
    }
}

static void deliver_head(nfm__http_side *side, const nfm__http_sink *sink,
                         const nfm__http_head *head) {
    side->role = head->role;
    side->flags |= NFM__HTTP_F_SEEN | NFM__HTTP_F_IN_MESSAGE;
    side->flags &= (uint8_t)~NFM__HTTP_F_LOOSE;
    int follow = sink->head(sink->arg, side, head);
    uint32_t errors = head->errors;
    if (side->flags & NFM__HTTP_F_CLOSED)
        errors |= NFM__HTTP_BIT(NFM__HTTP_E_AFTER_CLOSE);
    nfm__http_report_all(side, sink, errors);
    if (head->keep_alive || head->status / 100 == 1)
        side->flags &= (uint8_t)~NFM__HTTP_F_CLOSED;
    else
        side->flags |= NFM__HTTP_F_CLOSED;
    if (!head->partial)
        begin_body(side, sink, head, follow);
}

/* A head that will not be whole: what is there of it, then the error. */
static void cut_head(nfm__http_side *side, const nfm__http_sink *sink, nfm_view data, int kind) {
    nfm__http_head head;
    if (nfm__http_parse_head(data, true, &head) > 0) {
        if (head.errors & NFM__HTTP_BIT(NFM__HTTP_E_START_LINE)) {
            reject_start(side, sink, data);
            return;
        }
        deliver_head(side, sink, &head);
    }
    nfm__http_abort_message(side, sink, kind, NFM__HTTP_DEAD);
}

/* False: these first bytes cannot begin a message of this side. */
static bool plausible(const nfm__http_side *side, nfm_view data) {
    int guess = nfm__http_guess(data.data, data.len);
    return guess == 0 || (guess > 0 && (side->role == NFM__HTTP_UNKNOWN || side->role == guess));
}

/* The start line in a growing buffer is judged when it is there. */
static bool start_is_bad(nfm__http_side *side, const uint8_t *buffer, uint32_t from) {
    nfm__http_head scratch = {0};
    if (side->flags & NFM__HTTP_F_LINE_OK)
        return false;
    if (!plausible(side, (nfm_view){buffer, side->head_len}))
        return true;
    const uint8_t *lf = memchr(buffer + from, '\n', side->head_len - from);
    if (lf == NULL)
        return false;
    uint32_t len = (uint32_t)(lf - buffer);
    if (len > 0 && buffer[len - 1] == '\r')
        len--;
    if (nfm__http_check_start((nfm_view){buffer, len}, &scratch) < 0)
        return true;
    side->flags |= NFM__HTTP_F_LINE_OK;
    return false;
}

static uint32_t gather_head(nfm__http_side *side, const nfm__http_sink *sink, nfm_view data) {
    uint32_t used, from = side->head_len;
    uint8_t *buffer = nfm__http_append(side, sink, data, &used);
    if (buffer == NULL) {
        nfm__http_abort_message(side, sink, NFM__HTTP_E_NO_BUFFER, NFM__HTTP_DEAD);
        return data.len;
    }
    side->state = NFM__HTTP_HEAD;
    uint32_t end = nfm__http_find_end((nfm_view){data.data, used}, &side->newline);
    if (end > 0)
        used = end;
    side->head_len += used;
    if (start_is_bad(side, buffer, from)) {
        reject_start(side, sink, (nfm_view){buffer, side->head_len});
    } else if (end > 0) {
        nfm__http_head head;
        nfm__http_parse_head((nfm_view){buffer, side->head_len}, false, &head);
        deliver_head(side, sink, &head);
        nfm__http_drop_buffer(side, sink);
    } else if (side->head_len == sink->head_limit) {
        cut_head(side, sink, (nfm_view){buffer, side->head_len}, NFM__HTTP_E_TOO_LONG);
    }
    return used;
}

static uint32_t on_start(nfm__http_side *side, const nfm__http_sink *sink, nfm_view data) {
    nfm__http_head head;
    if (data.data[0] == '\r' || data.data[0] == '\n')
        return 1;
    if (!plausible(side, data)) {
        reject_start(side, sink, data);
        return data.len;
    }
    nfm_view limited = {data.data, data.len < sink->head_limit ? data.len : sink->head_limit};
    uint32_t used = nfm__http_parse_head(limited, false, &head);
    if (used == 0 && data.len < sink->head_limit)
        return gather_head(side, sink, data);
    if (used == 0)
        cut_head(side, sink, limited, NFM__HTTP_E_TOO_LONG);
    else if (head.errors & NFM__HTTP_BIT(NFM__HTTP_E_START_LINE))
        reject_start(side, sink, data);
    else
        deliver_head(side, sink, &head);
    return used > 0 ? used : limited.len;
}

static uint32_t on_body(nfm__http_side *side, const nfm__http_sink *sink, nfm_view data) {
    if (side->unsure && nfm__http_may_start(data, NFM__HTTP_RESPONSE)) {
        nfm__http_end_message(side, sink, true, (nfm_view){NULL, 0});
        return 0;
    }
    side->unsure = 0;
    if (side->state != NFM__HTTP_BODY_CLOSE && side->left < data.len)
        data.len = (uint32_t)side->left;
    sink->body(sink->arg, side, data);
    side->body_len += data.len;
    if (side->state == NFM__HTTP_BODY_CLOSE)
        return data.len;
    side->left -= data.len;
    if (side->left == 0 && side->state == NFM__HTTP_CHUNK_DATA)
        side->state = NFM__HTTP_CHUNK_END_CR;
    else if (side->left == 0)
        nfm__http_end_message(side, sink, true, (nfm_view){NULL, 0});
    return data.len;
}

static uint32_t on_resync(nfm__http_side *side, const nfm__http_sink *sink, nfm_view data) {
    if (nfm__http_may_start(data, side->role)) {
        side->state = NFM__HTTP_START;
        side->left = 0;
        return 0;
    }
    side->left += data.len;
    if (!(side->flags & NFM__HTTP_F_SEEN) && side->left > sink->resync_limit)
        side->state = NFM__HTTP_DEAD;
    return data.len;
}

static uint32_t step(nfm__http_side *side, const nfm__http_sink *sink, nfm_view data) {
    switch ((enum nfm__http_state)side->state) {
    case NFM__HTTP_START:
        return on_start(side, sink, data);
    case NFM__HTTP_HEAD:
        return gather_head(side, sink, data);
    case NFM__HTTP_BODY_LENGTH:
    case NFM__HTTP_BODY_CLOSE:
    case NFM__HTTP_CHUNK_DATA:
        return on_body(side, sink, data);
    case NFM__HTTP_CHUNK_SIZE:
    case NFM__HTTP_CHUNK_EXT:
    case NFM__HTTP_CHUNK_QUOTED:
    case NFM__HTTP_CHUNK_ESCAPE:
    case NFM__HTTP_CHUNK_LF:
    case NFM__HTTP_CHUNK_END_CR:
    case NFM__HTTP_CHUNK_END_LF:
        return nfm__http_chunk_step(side, sink, data);
    case NFM__HTTP_TRAILER:
        return nfm__http_trailer_step(side, sink, data);
    case NFM__HTTP_RESYNC:
        return on_resync(side, sink, data);
    case NFM__HTTP_WAIT:
        side->flags |= NFM__HTTP_F_SKIPPED;
        return data.len;
    case NFM__HTTP_DEAD:
    case NFM__HTTP_TUNNEL:
        return data.len;
    }
    return data.len;
}

/*
 * nfm__http_feed takes the next in-order bytes of a side. Borrows |data| until return.
 */
void nfm__http_feed(nfm__http_side *side, const nfm__http_sink *sink, nfm_view data) {
    while (data.len > 0) {
        uint32_t used = step(side, sink, data);
        data.data += used;
        data.len -= used;
    }
}

static void add_gap(nfm__http_side *side, uint64_t len) {
    side->body_len += len;
    side->gap_len = len > UINT32_MAX - side->gap_len ? UINT32_MAX : side->gap_len + (uint32_t)len;
}

/*
 * nfm__http_gap tells that |len| bytes of a side will never come. A hole inside a body or chunk of
 * known length, or in a body that ends with the connection, is counted and parsing goes on behind
 * it; any other ends the message and makes the side look for the next one.
 */
void nfm__http_gap(nfm__http_side *side, const nfm__http_sink *sink, uint64_t len) {
    switch ((enum nfm__http_state)side->state) {
    case NFM__HTTP_BODY_CLOSE:
        add_gap(side, len);
        return;
    case NFM__HTTP_CHUNK_DATA:
        if (len > side->left)
            break;
        add_gap(side, len);
        side->left -= len;
        if (side->left == 0)
            side->state = NFM__HTTP_CHUNK_END_CR;
        return;
    case NFM__HTTP_BODY_LENGTH: {
        uint64_t inside = len < side->left ? len : side->left;
        add_gap(side, inside);
        side->left -= inside;
        if (side->left == 0)
            nfm__http_end_message(side, sink, true, (nfm_view){NULL, 0});
        if (len > inside)
            side->state = NFM__HTTP_RESYNC;
        return;
    }
    case NFM__HTTP_WAIT:
        side->flags |= NFM__HTTP_F_SKIPPED;
        return;
    case NFM__HTTP_START:
        side->state = NFM__HTTP_RESYNC;
        side->left = 0;
        return;
    case NFM__HTTP_RESYNC:
    case NFM__HTTP_DEAD:
    case NFM__HTTP_TUNNEL:
        return;
    case NFM__HTTP_HEAD:
    case NFM__HTTP_CHUNK_SIZE:
    case NFM__HTTP_CHUNK_EXT:
    case NFM__HTTP_CHUNK_QUOTED:
    case NFM__HTTP_CHUNK_ESCAPE:
    case NFM__HTTP_CHUNK_LF:
    case NFM__HTTP_CHUNK_END_CR:
    case NFM__HTTP_CHUNK_END_LF:
    case NFM__HTTP_TRAILER:
        break;
    }
    nfm__http_abort_message(side, sink, NFM__HTTP_E_GAP, NFM__HTTP_RESYNC);
}

/*
 * nfm__http_finish tells that the side ends. A head that was cut is told as far as it came.
 * |clean|: the connection was closed in order, so that a body which ends with it is whole.
 */
void nfm__http_finish(nfm__http_side *side, const nfm__http_sink *sink, bool clean) {
    nfm_view none = {NULL, 0};
    switch ((enum nfm__http_state)side->state) {
    case NFM__HTTP_HEAD: {
        const uint8_t *buffer = sink->buffer(sink->arg, side);
        if (side->flags & (NFM__HTTP_F_SEEN | NFM__HTTP_F_LINE_OK))
            cut_head(side, sink, (nfm_view){buffer, side->head_len}, NFM__HTTP_E_INCOMPLETE);
        break;
    }
    case NFM__HTTP_BODY_CLOSE:
        nfm__http_end_message(side, sink, clean, none);
        break;
    case NFM__HTTP_BODY_LENGTH:
    case NFM__HTTP_CHUNK_SIZE:
    case NFM__HTTP_CHUNK_EXT:
    case NFM__HTTP_CHUNK_QUOTED:
    case NFM__HTTP_CHUNK_ESCAPE:
    case NFM__HTTP_CHUNK_LF:
    case NFM__HTTP_CHUNK_DATA:
    case NFM__HTTP_CHUNK_END_CR:
    case NFM__HTTP_CHUNK_END_LF:
    case NFM__HTTP_TRAILER:
        nfm__http_abort_message(side, sink, NFM__HTTP_E_INCOMPLETE, NFM__HTTP_DEAD);
        break;
    case NFM__HTTP_START:
    case NFM__HTTP_WAIT:
    case NFM__HTTP_RESYNC:
    case NFM__HTTP_DEAD:
    case NFM__HTTP_TUNNEL:
        break;
    }
    nfm__http_drop_buffer(side, sink);
    side->state = NFM__HTTP_DEAD;
}

/*
 * nfm__http_tunnel tells that this side carries another protocol from here on.
 */
void nfm__http_tunnel(nfm__http_side *side, const nfm__http_sink *sink) {
    nfm__http_drop_buffer(side, sink);
    if (side->flags & NFM__HTTP_F_IN_MESSAGE)
        nfm__http_end_message(side, sink, false, (nfm_view){NULL, 0});
    side->state = NFM__HTTP_TUNNEL;
}

/*
 * nfm__http_resume tells a side that waits after CONNECT that the server refused.
 */
void nfm__http_resume(nfm__http_side *side) {
    if (side->state != NFM__HTTP_WAIT)
        return;
    side->state = side->flags & NFM__HTTP_F_SKIPPED ? NFM__HTTP_RESYNC : NFM__HTTP_START;
    side->flags &= (uint8_t)~NFM__HTTP_F_SKIPPED;
    side->left = 0;
}
