/* SPDX-License-Identifier: Apache-2.0 */
/* What the message machine's parts share: telling the sink, ending messages, gathering heads. */
#include "http_side.h"

#include <string.h>

/*
 * nfm__http_report tells the sink of an error, once per kind and message.
 */
void nfm__http_report(nfm__http_side *side, const nfm__http_sink *sink, int kind) {
    if (side->reported & NFM__HTTP_BIT(kind))
        return;
    side->reported |= NFM__HTTP_BIT(kind);
    sink->error(sink->arg, side, kind);
}

/*
 * nfm__http_report_all tells the sink of each error whose bit is set, in the order of the kinds.
 */
void nfm__http_report_all(nfm__http_side *side, const nfm__http_sink *sink, uint32_t errors) {
    for (; errors != 0; errors &= errors - 1)
        nfm__http_report(side, sink, __builtin_ctz(errors));
}

/*
 * nfm__http_drop_buffer gives the assembly buffer back.
 */
void nfm__http_drop_buffer(nfm__http_side *side, const nfm__http_sink *sink) {
    sink->release(sink->arg, side);
    side->head_len = 0;
    side->newline = 0;
    side->flags &= (uint8_t)~NFM__HTTP_F_LINE_OK;
}

/*
 * nfm__http_end_message ends the message at hand, if its head was told, and makes the side ready
 * for the next one. |trailers| is borrowed until return.
 */
void nfm__http_end_message(nfm__http_side *side, const nfm__http_sink *sink, bool complete,
                           nfm_view trailers) {
    if (side->flags & NFM__HTTP_F_IN_MESSAGE) {
        nfm__http_end end = {.trailers = trailers, .complete = complete};
        sink->end(sink->arg, side, &end);
    }
    side->flags &= (uint8_t) ~(NFM__HTTP_F_IN_MESSAGE | NFM__HTTP_F_CHUNKED);
    side->message++;
    side->reported = 0;
    side->body_len = 0;
    side->gap_len = 0;
    side->left = 0;
    side->unsure = 0;
    side->state = NFM__HTTP_START;
}

/*
 * nfm__http_abort_message ends a message that cannot be followed: tells error |kind|, gives the
 * buffer back, and puts the side in |state|.
 */
void nfm__http_abort_message(nfm__http_side *side, const nfm__http_sink *sink, int kind,
                             int state) {
    nfm__http_report(side, sink, kind);
    nfm__http_drop_buffer(side, sink);
    nfm__http_end_message(side, sink, false, (nfm_view){NULL, 0});
    side->state = (uint8_t)state;
}

/*
 * nfm__http_find_end looks for the empty line that ends a head or trailer section. *newline keeps
 * the scan's state across calls. Returns the bytes up to and with that line, or 0.
 */
uint32_t nfm__http_find_end(nfm_view data, uint8_t *newline) {
    uint32_t i = 0;
    while (i < data.len) {
        uint8_t c = data.data[i];
        if (c == '\n') {
            if (*newline != 0)
                return i + 1;
            *newline = 1;
            i++;
        } else if (c == '\r' && *newline == 1) {
            *newline = 2;
            i++;
        } else {
            const uint8_t *lf = memchr(data.data + i, '\n', data.len - i);
            *newline = 0;
            i = lf != NULL ? (uint32_t)(lf - data.data) : data.len;
        }
    }
    return 0;
}

/*
 * nfm__http_append copies bytes to the end of the assembly buffer, at most to the limit; *used is
 * how many. side->head_len is the caller's to advance. Returns the buffer, NULL when there is none.
 */
uint8_t *nfm__http_append(nfm__http_side *side, const nfm__http_sink *sink, nfm_view data,
                          uint32_t *used) {
    uint8_t *buffer = sink->buffer(sink->arg, side);
    uint32_t room = sink->head_limit - side->head_len;
    *used = data.len < room ? data.len : room;
    if (buffer != NULL)
        memcpy(buffer + side->head_len, data.data, *used);
    return buffer;
}
