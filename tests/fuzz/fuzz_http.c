/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: feeding an input whole, byte by byte, or cut anywhere tells the sink the same: heads,
 * body bytes, errors and ends in the same order; each head gets one end; no buffer is kept, also
 * when bytes go missing. */
#include <stdlib.h>
#include <string.h>

#include "../../stack_modules/http/http_parse.h"

enum { HEAD_LIMIT = 300, LOG = 1 << 16 };

typedef struct journal { /* what the sink heard, as a hash and in short */
    uint64_t hash;
    uint32_t heads, ends;
    bool held;
    uint8_t buffer[HEAD_LIMIT];
} journal;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok) {
    if (!ok)
        abort();
}

static void note(journal *j, const void *bytes, size_t len) {
    const uint8_t *p = bytes;
    for (size_t i = 0; i < len; i++)
        j->hash = (j->hash ^ p[i]) * 1099511628211u;
}

static void note_number(journal *j, uint64_t n) {
    note(j, &n, sizeof(n));
}

static void note_view(journal *j, nfm_view v) {
    note_number(j, v.len);
    note(j, v.data, v.len);
}

static int on_head(void *arg, nfm__http_side *side, const nfm__http_head *head) {
    journal *j = arg;
    require(j->heads == j->ends && side->body_len == 0);
    j->heads++;
    note_number(j, 'h');
    note_view(j, head->method);
    note_view(j, head->target);
    note_view(j, head->reason);
    note_view(j, head->headers);
    note_number(j, head->status);
    note_number(j, head->errors);
    note_number(j, (uint64_t)head->content_length);
    note_number(j, head->n_headers);
    for (int i = 0; i < NFM__HTTP_N_KNOWN; i++)
        note_view(j, head->known[i]);
    require(head->headers.len <= HEAD_LIMIT);
    return head->status == 101 ? NFM__HTTP_SWITCH : NFM__HTTP_BY_HEAD;
}

static void on_body(void *arg, nfm__http_side *side, nfm_view data) {
    journal *j = arg;
    require(j->heads == j->ends + 1 && data.len > 0);
    (void)side;
    note(j, data.data, data.len);
}

static void on_end(void *arg, nfm__http_side *side, const nfm__http_end *end) {
    journal *j = arg;
    j->ends++;
    require(j->heads == j->ends);
    note_number(j, 'e');
    note_number(j, side->body_len);
    note_number(j, end->complete);
    note_view(j, end->trailers);
}

static void on_error(void *arg, nfm__http_side *side, int kind) {
    require(kind >= 0 && kind < NFM__HTTP_E_COUNT);
    require(strcmp(nfm__http_error_name(kind), "unknown") != 0);
    note_number(arg, 'x');
    note_number(arg, (uint64_t)kind);
    note_number(arg, side->message);
}

static uint8_t *on_buffer(void *arg, nfm__http_side *side) {
    journal *j = arg;
    (void)side;
    j->held = true;
    return j->buffer;
}

static void on_release(void *arg, nfm__http_side *side) {
    journal *j = arg;
    (void)side;
    j->held = false;
    memset(j->buffer, 0xa5, sizeof(j->buffer)); /* views into it must be dead by now */
}

/* Feeds |step| bytes at a time; 0: cuts that the input itself chooses; then with holes on demand.
 */
static uint64_t run(const uint8_t *data, uint32_t len, uint8_t choice, uint32_t step) {
    journal j = {.hash = 14695981039346656037u};
    nfm__http_side side = {.role = choice % 3};
    bool holes = step == 0 && choice >= 128;
    nfm__http_sink sink = {.arg = &j,
                           .head_limit = HEAD_LIMIT,
                           .resync_limit = 100,
                           .head = on_head,
                           .body = on_body,
                           .end = on_end,
                           .error = on_error,
                           .buffer = on_buffer,
                           .release = on_release};
    for (uint32_t at = 0; at < len;) {
        uint32_t want = step > 0 ? step : 1 + data[at] % 37u;
        uint32_t n = want < len - at ? want : len - at;
        uint8_t *piece = malloc(n); /* so that a read beyond the piece is seen */
        require(piece != NULL);
        memcpy(piece, data + at, n);
        nfm__http_feed(&side, &sink, (nfm_view){piece, n});
        free(piece);
        at += n;
        if (holes && n % 8 == 7)
            nfm__http_gap(&side, &sink, n == 15 ? UINT64_MAX : n);
    }
    nfm__http_finish(&side, &sink, true);
    require(j.heads == j.ends && !j.held);
    return j.hash;
}

/* The first byte chooses the side's role and whether bytes go missing. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2 || size > LOG)
        return 0;
    uint32_t len = (uint32_t)size - 1;
    uint64_t whole = run(data + 1, len, data[0], len);
    require(run(data + 1, len, data[0], 1) == whole);
    uint64_t cut = run(data + 1, len, data[0], 0);
    require(cut == whole || data[0] >= 128);
    return 0;
}
