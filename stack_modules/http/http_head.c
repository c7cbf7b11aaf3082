/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Heads of HTTP/1.x messages: the start line and the header section (RFC 9112 sections 2 to 5),
 * and the header fields that decide the framing (RFC 9110 section 8.6, RFC 9112 section 6).
 *
 * Theory of operation
 *   A head is parsed in one pass over contiguous bytes, line ends found by memchr. Everything is a
 *   view into those bytes. A violation sets a bit and parsing goes on wherever a recipient may go
 *   on: an observer wants to see the message that a lenient server would act upon, and to be told.
 */
#include "http_parse.h"

#include <string.h>

#define BIT(kind) (1u << (kind))

enum { METHOD_MAX = 24, VERSION_LEN = 8 };

const char *nfm__http_error_name(int kind) {
    static const char *const names[NFM__HTTP_E_COUNT] = {
        [NFM__HTTP_E_NOT_HTTP] = "not_http",
        [NFM__HTTP_E_START_LINE] = "start_line",
        [NFM__HTTP_E_VERSION] = "version",
        [NFM__HTTP_E_TARGET] = "target",
        [NFM__HTTP_E_HEADER_LINE] = "header_line",
        [NFM__HTTP_E_HEADER_NAME] = "header_name",
        [NFM__HTTP_E_HEADER_SPACE] = "header_space",
        [NFM__HTTP_E_HEADER_VALUE] = "header_value",
        [NFM__HTTP_E_BARE_LF] = "bare_lf",
        [NFM__HTTP_E_BARE_CR] = "bare_cr",
        [NFM__HTTP_E_OBS_FOLD] = "obs_fold",
        [NFM__HTTP_E_CONTENT_LENGTH] = "content_length",
        [NFM__HTTP_E_LENGTH_CONFLICT] = "length_conflict",
        [NFM__HTTP_E_LENGTH_AND_TE] = "length_and_transfer_encoding",
        [NFM__HTTP_E_TRANSFER_ENCODING] = "transfer_encoding",
        [NFM__HTTP_E_CHUNK_SIZE] = "chunk_size",
        [NFM__HTTP_E_CHUNK_EXTENSION] = "chunk_extension",
        [NFM__HTTP_E_CHUNK_END] = "chunk_end",
        [NFM__HTTP_E_AFTER_CLOSE] = "after_close",
        [NFM__HTTP_E_TOO_LONG] = "too_long",
        [NFM__HTTP_E_NO_BUFFER] = "no_buffer",
        [NFM__HTTP_E_GAP] = "gap",
        [NFM__HTTP_E_INCOMPLETE] = "incomplete",
    };
    return kind >= 0 && kind < NFM__HTTP_E_COUNT ? names[kind] : "unknown";
}

static bool is_space(uint8_t c) {
    return c == ' ' || c == '\t';
}

static bool is_digit(uint8_t c) {
    return c >= '0' && c <= '9';
}

static bool is_method_char(uint8_t c) {
    return (c >= 'A' && c <= 'Z') || is_digit(c) || c == '-' || c == '_';
}

static bool is_token_char(uint8_t c) { /* RFC 9110 section 5.6.2 */
    static const uint32_t set[8] = {0, 0x03ff6cfa, 0xc7fffffe, 0x57ffffff, 0, 0, 0, 0};
    return set[c >> 5] >> (c & 31) & 1;
}

static nfm_view trim(nfm_view v) {
    while (v.len > 0 && is_space(v.data[v.len - 1]))
        v.len--;
    while (v.len > 0 && is_space(v.data[0])) {
        v.data++;
        v.len--;
    }
    return v;
}

/* Control characters of one line: BARE_CR, HEADER_VALUE. */
static uint32_t check_text(nfm_view v) {
    uint8_t bad = 0;
    for (uint32_t i = 0; i < v.len; i++) {
        uint8_t c = v.data[i];
        bad |= (uint8_t)(((c < 0x20) & (c != '\t')) | (c == 0x7f));
    }
    if (!bad)
        return 0;
    uint32_t errors = 0;
    for (uint32_t i = 0; i < v.len; i++) {
        uint8_t c = v.data[i];
        if (c == '\r')
            errors |= BIT(NFM__HTTP_E_BARE_CR);
        else if ((c < 0x20 && c != '\t') || c == 0x7f)
            errors |= BIT(NFM__HTTP_E_HEADER_VALUE);
    }
    return errors;
}

/*
 * nfm__http_is compares text with a lower-case word, ignoring case in ASCII only.
 */
bool nfm__http_is(nfm_view text, const char *lower) {
    for (uint32_t i = 0; i < text.len; i++) {
        uint8_t c = text.data[i];
        if (c >= 'A' && c <= 'Z')
            c |= 0x20;
        if (lower[i] == 0 || c != (uint8_t)lower[i])
            return false;
    }
    return lower[text.len] == 0;
}

/*
 * nfm__http_guess decides from the first bytes of a message what it can be. Methods are upper case,
 * as methods are case-sensitive and all registered ones are (RFC 9110 section 9.1): that tells HTTP
 * from other text protocols in a few bytes.
 * Returns NFM__HTTP_REQUEST, NFM__HTTP_RESPONSE, 0 (needs more bytes) or -1 (no HTTP).
 */
int nfm__http_guess(const uint8_t *p, size_t len) {
    static const char http[] = "HTTP/";
    size_t n = len < 5 ? len : 5;
    if (memcmp(p, http, n) == 0)
        return len < 5 ? 0 : NFM__HTTP_RESPONSE;
    for (size_t i = 0; i < len; i++) {
        if (p[i] == ' ')
            return i > 0 ? NFM__HTTP_REQUEST : -1;
        if (!is_method_char(p[i]) || i == METHOD_MAX)
            return -1;
    }
    return 0;
}

/* "HTTP/d.d" exactly (RFC 9112 section 2.3). */
static bool parse_version(nfm_view v, nfm__http_head *head) {
    if (v.len != VERSION_LEN || memcmp(v.data, "HTTP/", 5) != 0 || !is_digit(v.data[5]) ||
        v.data[6] != '.' || !is_digit(v.data[7]))
        return false;
    head->major = (uint8_t)(v.data[5] - '0');
    head->minor = (uint8_t)(v.data[7] - '0');
    head->version = (nfm_view){v.data + 5, 3};
    int version = head->major * 10 + head->minor;
    if (version != 9 && version != 10 && version != 11 && version != 20)
        head->errors |= BIT(NFM__HTTP_E_VERSION);
    return true;
}

static int check_status(nfm_view line, nfm__http_head *head) {
    const uint8_t *p = line.data;
    head->role = NFM__HTTP_RESPONSE;
    if (line.len < VERSION_LEN + 4 || p[8] != ' ' || !is_digit(p[9]) || !is_digit(p[10]) ||
        !is_digit(p[11]) || (line.len > VERSION_LEN + 4 && p[12] != ' ') ||
        !parse_version((nfm_view){p, VERSION_LEN}, head))
        return -1;
    head->status = (uint16_t)((p[9] - '0') * 100 + (p[10] - '0') * 10 + (p[11] - '0'));
    if (line.len > VERSION_LEN + 5)
        head->reason = (nfm_view){p + 13, line.len - 13};
    return 0;
}

static void check_target(nfm__http_head *head) {
    uint8_t bad = head->target.len == 0;
    for (uint32_t i = 0; i < head->target.len; i++) {
        uint8_t c = head->target.data[i];
        bad |= (uint8_t)((c <= 0x20) | (c >= 0x7f));
    }
    if (bad)
        head->errors |= BIT(NFM__HTTP_E_TARGET);
}

/* "GET target" alone, HTTP/0.9 (RFC 1945 section 5.1): still spoken by scanners. */
static int check_simple_request(nfm_view rest, nfm__http_head *head) {
    if (head->method.len != 3 || memcmp(head->method.data, "GET", 3) != 0 || rest.len == 0 ||
        memchr(rest.data, ' ', rest.len) != NULL)
        return -1;
    head->minor = 9;
    head->version = (nfm_view){(const uint8_t *)"0.9", 3};
    head->target = rest;
    check_target(head);
    return 0;
}

static int check_request(nfm_view line, nfm__http_head *head) {
    head->role = NFM__HTTP_REQUEST;
    if (nfm__http_guess(line.data, line.len) != NFM__HTTP_REQUEST)
        return -1;
    const uint8_t *space = memchr(line.data, ' ', line.len);
    head->method = (nfm_view){line.data, (uint32_t)(space - line.data)};
    nfm_view rest = {space + 1, line.len - head->method.len - 1};
    uint32_t len = rest.len;
    while (rest.len > 0 && is_space(rest.data[rest.len - 1]))
        rest.len--;
    if (rest.len < VERSION_LEN + 2 || rest.data[rest.len - VERSION_LEN - 1] != ' ' ||
        !parse_version((nfm_view){rest.data + rest.len - VERSION_LEN, VERSION_LEN}, head))
        return check_simple_request(rest, head);
    if (rest.len < len)
        head->errors |= BIT(NFM__HTTP_E_VERSION);
    head->target = (nfm_view){rest.data, rest.len - VERSION_LEN - 1};
    check_target(head);
    return 0;
}

/*
 * nfm__http_check_start parses a start line without its line end into |head| (which is not
 * cleared). Tolerated with an error bit: spaces in the target, spaces after the version, unknown
 * versions. Source: RFC 9112 sections 3 and 4. Returns 0, or -1: no HTTP/1.x start line.
 */
int nfm__http_check_start(nfm_view line, nfm__http_head *head) {
    int result = line.len >= 5 && memcmp(line.data, "HTTP/", 5) == 0 ? check_status(line, head)
                                                                     : check_request(line, head);
    if (memchr(line.data, '\r', line.len) != NULL)
        head->errors |= BIT(NFM__HTTP_E_BARE_CR);
    if (result < 0)
        head->errors |= BIT(NFM__HTTP_E_START_LINE);
    return result;
}

/* Takes one line off |rest|; false: its end is not there yet. */
static bool next_line(nfm_view *rest, nfm_view *line, uint32_t *errors) {
    const uint8_t *lf = rest->len > 0 ? memchr(rest->data, '\n', rest->len) : NULL;
    if (lf == NULL)
        return false;
    uint32_t len = (uint32_t)(lf - rest->data);
    *line = (nfm_view){rest->data, len};
    if (len > 0 && lf[-1] == '\r')
        line->len--;
    else
        *errors |= BIT(NFM__HTTP_E_BARE_LF);
    rest->data += len + 1;
    rest->len -= len + 1;
    return true;
}

/* Splits a header line; the errors say what is wrong with it. */
static void split_header(nfm_view line, nfm__http_header *header) {
    const uint8_t *colon = line.len > 0 ? memchr(line.data, ':', line.len) : NULL;
    if (colon == NULL || is_space(line.data[0])) {
        header->errors |= BIT(NFM__HTTP_E_HEADER_LINE);
        header->name = (nfm_view){line.data, 0};
        header->value = line;
        return;
    }
    header->name = (nfm_view){line.data, (uint32_t)(colon - line.data)};
    header->value = trim((nfm_view){colon + 1, line.len - header->name.len - 1});
    header->errors |= check_text(header->value);
    while (header->name.len > 0 && is_space(header->name.data[header->name.len - 1])) {
        header->name.len--;
        header->errors |= BIT(NFM__HTTP_E_HEADER_SPACE);
    }
    bool token = header->name.len > 0;
    for (uint32_t i = 0; i < header->name.len; i++)
        token &= is_token_char(header->name.data[i]);
    if (!token)
        header->errors |= BIT(NFM__HTTP_E_HEADER_NAME);
}

/*
 * nfm__http_header_next takes one header field, with its folded lines, off |rest|, which begins at
 * a header line and may end with the empty line. A line that is no field has an empty name.
 * Source: RFC 9112 sections 5.1, 5.2. Returns false at the empty line, at the end, or when the line
 * is not complete.
 */
bool nfm__http_header_next(nfm_view *rest, nfm__http_header *header) {
    nfm_view line;
    nfm_view before = *rest;
    memset(header, 0, sizeof(*header));
    if (!next_line(rest, &line, &header->errors) || line.len == 0) {
        *rest = before;
        return false;
    }
    split_header(line, header);
    while (rest->len > 0 && is_space(rest->data[0]) && !is_space(before.data[0])) {
        if (!next_line(rest, &line, &header->errors))
            break;
        header->errors |= BIT(NFM__HTTP_E_OBS_FOLD) | check_text(line);
        line = trim(line);
        if (header->value.len == 0)
            header->value = line;
        else if (line.len > 0)
            header->value.len = (uint32_t)(line.data + line.len - header->value.data);
    }
    return true;
}

/* Takes the next element of a comma-separated list; empty elements are skipped. */
static bool next_element(nfm_view *list, nfm_view *element) {
    while (list->len > 0) {
        const uint8_t *comma = memchr(list->data, ',', list->len);
        uint32_t len = comma != NULL ? (uint32_t)(comma - list->data) : list->len;
        nfm_view raw = {list->data, len};
        uint32_t used = len + (comma != NULL);
        list->data += used;
        list->len -= used;
        /* A fold may stand between elements. */
        while (raw.len > 0 &&
               (is_space(raw.data[0]) || raw.data[0] == '\r' || raw.data[0] == '\n')) {
            raw.data++;
            raw.len--;
        }
        *element = trim(raw);
        if (element->len > 0)
            return true;
    }
    return false;
}

static int64_t parse_length(nfm_view digits) {
    int64_t value = 0;
    for (uint32_t i = 0; i < digits.len; i++) {
        if (!is_digit(digits.data[i]) || value > (INT64_MAX - 9) / 10)
            return -1;
        value = value * 10 + (digits.data[i] - '0');
    }
    return digits.len > 0 ? value : -1;
}

static void on_content_length(nfm__http_head *head, nfm_view value) {
    nfm_view element;
    bool any = false;
    while (next_element(&value, &element)) {
        int64_t length = parse_length(element);
        any = true;
        if (length < 0)
            head->errors |= BIT(NFM__HTTP_E_CONTENT_LENGTH);
        else if (head->content_length >= 0 && head->content_length != length)
            head->errors |= BIT(NFM__HTTP_E_LENGTH_CONFLICT);
        else
            head->content_length = length;
    }
    if (!any)
        head->errors |= BIT(NFM__HTTP_E_CONTENT_LENGTH);
}

static void on_transfer_encoding(nfm__http_head *head, nfm_view value) {
    nfm_view element;
    head->te_seen = 1;
    while (next_element(&value, &element))
        head->chunked = nfm__http_is(element, "chunked");
}

static void on_connection(nfm__http_head *head, nfm_view value) {
    nfm_view element;
    while (next_element(&value, &element)) {
        if (nfm__http_is(element, "close"))
            head->keep_alive = 0;
        else if (nfm__http_is(element, "keep-alive") && head->major == 1 && head->minor == 0)
            head->keep_alive = 1;
        else if (nfm__http_is(element, "upgrade"))
            head->upgrade = 1;
    }
}

static void keep_first(nfm__http_head *head, enum nfm__http_known which, nfm_view value) {
    if (head->known[which].data == NULL)
        head->known[which] = value;
}

static void on_header(nfm__http_head *head, const nfm__http_header *header) {
    nfm_view name = header->name, value = header->value;
    if (name.len == 0)
        return;
    if (head->n_headers < UINT16_MAX)
        head->n_headers++;
    switch (name.len) {
    case 4:
        if (nfm__http_is(name, "host"))
            keep_first(head, NFM__HTTP_HOST, value);
        break;
    case 6:
        if (nfm__http_is(name, "server"))
            keep_first(head, NFM__HTTP_SERVER, value);
        break;
    case 7:
        if (nfm__http_is(name, "upgrade"))
            keep_first(head, NFM__HTTP_UPGRADE, value);
        break;
    case 10:
        if (nfm__http_is(name, "user-agent"))
            keep_first(head, NFM__HTTP_USER_AGENT, value);
        else if (nfm__http_is(name, "connection"))
            on_connection(head, value);
        break;
    case 12:
        if (nfm__http_is(name, "content-type"))
            keep_first(head, NFM__HTTP_CONTENT_TYPE, value);
        break;
    case 14:
        if (nfm__http_is(name, "content-length"))
            on_content_length(head, value);
        break;
    case 17:
        if (nfm__http_is(name, "transfer-encoding"))
            on_transfer_encoding(head, value);
        break;
    default:
        break;
    }
}

/* Conflicts between framing fields (RFC 9112 section 6.3). */
static void check_framing(nfm__http_head *head) {
    if (!head->te_seen)
        return;
    if (head->content_length >= 0)
        head->errors |= BIT(NFM__HTTP_E_LENGTH_AND_TE);
    if (!head->chunked && head->role == NFM__HTTP_REQUEST)
        head->errors |= BIT(NFM__HTTP_E_TRANSFER_ENCODING);
}

/*
 * nfm__http_parse_head parses the head at the begin of |data|: start line, header section, empty
 * line. Fills |head| with views into |data|. With |partial| the complete lines of a cut head are
 * taken. A bad start line sets NFM__HTTP_E_START_LINE and ends there.
 * Source: RFC 9112 section 2.2. Returns the bytes of the head, 0: not complete yet.
 */
uint32_t nfm__http_parse_head(nfm_view data, bool partial, nfm__http_head *head) {
    nfm_view rest = data, line;
    nfm__http_header header;
    memset(head, 0, sizeof(*head));
    head->content_length = -1;
    head->partial = partial;
    if (!next_line(&rest, &line, &head->errors))
        return 0;
    if (nfm__http_check_start(line, head) < 0)
        return data.len - rest.len;
    head->keep_alive = head->major == 1 && head->minor >= 1;
    head->headers.data = rest.data;
    while (nfm__http_header_next(&rest, &header)) {
        head->errors |= header.errors;
        on_header(head, &header);
    }
    head->headers.len = (uint32_t)(rest.data - head->headers.data);
    check_framing(head);
    if (!next_line(&rest, &line, &head->errors) || line.len > 0)
        return partial ? data.len : 0;
    return data.len - rest.len;
}

/*
 * nfm__http_may_start says whether |data| plausibly begins with a message of |role| (UNKNOWN: any):
 * the test after missing bytes, stricter than nfm__http_guess since bodies are anything.
 */
bool nfm__http_may_start(nfm_view data, int role) {
    static const char *const methods[] = {"GET ",     "POST ",    "HEAD ",  "PUT ",  "DELETE ",
                                          "OPTIONS ", "CONNECT ", "TRACE ", "PATCH "};
    nfm__http_head head = {0};
    nfm_view rest = data, line;
    uint32_t errors = 0;
    bool whole = next_line(&rest, &line, &errors);
    if (!whole)
        line = data;
    if (role != NFM__HTTP_REQUEST && line.len >= VERSION_LEN + 4 && check_status(line, &head) == 0)
        return head.major == 1;
    if (role == NFM__HTTP_RESPONSE)
        return false;
    for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
        size_t len = strlen(methods[i]);
        if (line.len > len && memcmp(line.data, methods[i], len) == 0)
            return !whole || check_request(line, &head) == 0;
    }
    return false;
}
