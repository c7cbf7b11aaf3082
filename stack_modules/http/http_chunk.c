/* SPDX-License-Identifier: Apache-2.0 */
/* The chunked transfer coding: size lines, extensions, trailers (RFC 9112 section 7.1). */
#include "http_side.h"

static int hex_digit(uint8_t c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void chunk_line_done(nfm__http_side *side) {
    side->digits = 0;
    if (side->left > 0) {
        side->state = NFM__HTTP_CHUNK_DATA;
        return;
    }
    side->state = NFM__HTTP_TRAILER;
    side->newline = 1;
}

static void on_size_byte(nfm__http_side *side, const nfm__http_sink *sink, uint8_t c) {
    int digit = hex_digit(c);
    if (digit >= 0 && side->left >> 59 == 0) {
        side->left = side->left << 4 | (uint64_t)digit;
        side->digits = 1;
    } else if (digit >= 0 || side->digits == 0) {
        nfm__http_abort_message(side, sink, NFM__HTTP_E_CHUNK_SIZE, NFM__HTTP_DEAD);
    } else if (c == ';') {
        side->flags &= (uint8_t)~NFM__HTTP_F_EXT_NAME;
        side->state = NFM__HTTP_CHUNK_EXT;
    } else if (c == '\r') {
        side->state = NFM__HTTP_CHUNK_LF;
    } else if (c == '\n') {
        nfm__http_report(side, sink, NFM__HTTP_E_BARE_LF);
        chunk_line_done(side);
    } else if (c == ' ' || c == '\t') {
        /* Not in the grammar, accepted by many: told, and skipped to the line's end. */
        nfm__http_report(side, sink, NFM__HTTP_E_CHUNK_EXTENSION);
        side->flags |= NFM__HTTP_F_EXT_NAME;
        side->state = NFM__HTTP_CHUNK_EXT;
    } else {
        nfm__http_abort_message(side, sink, NFM__HTTP_E_CHUNK_SIZE, NFM__HTTP_DEAD);
    }
}

/* Extensions are skipped (RFC 9112 section 7.1.1); only their shape is judged. */
static void on_extension_byte(nfm__http_side *side, const nfm__http_sink *sink, uint8_t c) {
    bool quoted = side->state != NFM__HTTP_CHUNK_EXT;
    bool named = (side->flags & NFM__HTTP_F_EXT_NAME) != 0;
    if (c == '\r' || c == '\n') {
        if (quoted || !named)
            nfm__http_report(side, sink, NFM__HTTP_E_CHUNK_EXTENSION);
        side->state = NFM__HTTP_CHUNK_LF;
        if (c == '\n') {
            nfm__http_report(side, sink, NFM__HTTP_E_BARE_LF);
            chunk_line_done(side);
        }
    } else if (side->state == NFM__HTTP_CHUNK_ESCAPE) {
        side->state = NFM__HTTP_CHUNK_QUOTED;
    } else if (quoted) {
        if (c == '"')
            side->state = NFM__HTTP_CHUNK_EXT;
        else if (c == '\\')
            side->state = NFM__HTTP_CHUNK_ESCAPE;
    } else if (c == ';') {
        if (!named)
            nfm__http_report(side, sink, NFM__HTTP_E_CHUNK_EXTENSION);
        side->flags &= (uint8_t)~NFM__HTTP_F_EXT_NAME;
    } else {
        if (c < 0x20 && c != '\t')
            nfm__http_report(side, sink, NFM__HTTP_E_CHUNK_EXTENSION);
        side->flags |= NFM__HTTP_F_EXT_NAME;
        if (c == '"')
            side->state = NFM__HTTP_CHUNK_QUOTED;
    }
}

static void on_chunk_end_byte(nfm__http_side *side, const nfm__http_sink *sink, uint8_t c) {
    if (c == '\r' && side->state == NFM__HTTP_CHUNK_END_CR) {
        side->state = NFM__HTTP_CHUNK_END_LF;
    } else if (c == '\n') {
        if (side->state == NFM__HTTP_CHUNK_END_CR)
            nfm__http_report(side, sink, NFM__HTTP_E_BARE_LF);
        side->state = NFM__HTTP_CHUNK_SIZE;
    } else {
        nfm__http_abort_message(side, sink, NFM__HTTP_E_CHUNK_END, NFM__HTTP_DEAD);
    }
}

static void on_chunk_lf(nfm__http_side *side, const nfm__http_sink *sink, uint8_t c) {
    if (c == '\n')
        chunk_line_done(side);
    else
        nfm__http_abort_message(side, sink, NFM__HTTP_E_CHUNK_SIZE, NFM__HTTP_DEAD);
}

static void deliver_trailer(nfm__http_side *side, const nfm__http_sink *sink, nfm_view data) {
    nfm_view rest = data;
    nfm__http_header header;
    uint32_t errors = 0;
    while (nfm__http_header_next(&rest, &header))
        errors |= header.errors;
    if (rest.len == 1)
        errors |= NFM__HTTP_BIT(NFM__HTTP_E_BARE_LF);
    nfm__http_report_all(side, sink, errors);
    nfm__http_end_message(side, sink, true,
                          (nfm_view){data.data, (uint32_t)(rest.data - data.data)});
    nfm__http_drop_buffer(side, sink);
}

/*
 * nfm__http_trailer_step takes bytes of a trailer section, in place when it lies whole in |data|.
 * Returns the bytes used.
 */
uint32_t nfm__http_trailer_step(nfm__http_side *side, const nfm__http_sink *sink, nfm_view data) {
    uint32_t room = sink->head_limit - side->head_len;
    nfm_view limited = {data.data, data.len < room ? data.len : room};
    uint32_t used = nfm__http_find_end(limited, &side->newline);
    if (used > 0 && side->head_len == 0) {
        deliver_trailer(side, sink, (nfm_view){data.data, used});
        return used;
    }
    if (used == 0 && limited.len == room) {
        nfm__http_abort_message(side, sink, NFM__HTTP_E_TOO_LONG, NFM__HTTP_DEAD);
        return data.len;
    }
    if (used > 0)
        limited.len = used;
    uint8_t *buffer = nfm__http_append(side, sink, limited, &limited.len);
    if (buffer == NULL) {
        nfm__http_abort_message(side, sink, NFM__HTTP_E_NO_BUFFER, NFM__HTTP_DEAD);
        return data.len;
    }
    side->head_len += limited.len;
    if (used > 0)
        deliver_trailer(side, sink, (nfm_view){buffer, side->head_len});
    return limited.len;
}

/*
 * nfm__http_chunk_step takes one byte of what stands between the data of chunks. Returns 1.
 */
uint32_t nfm__http_chunk_step(nfm__http_side *side, const nfm__http_sink *sink, nfm_view data) {
    uint8_t c = data.data[0];
    if (side->state == NFM__HTTP_CHUNK_SIZE)
        on_size_byte(side, sink, c);
    else if (side->state == NFM__HTTP_CHUNK_LF)
        on_chunk_lf(side, sink, c);
    else if (side->state == NFM__HTTP_CHUNK_END_CR || side->state == NFM__HTTP_CHUNK_END_LF)
        on_chunk_end_byte(side, sink, c);
    else
        on_extension_byte(side, sink, c);
    return 1;
}
