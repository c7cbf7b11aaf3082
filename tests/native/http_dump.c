/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints what the HTTP parser makes of inputs, for tests in other languages. Standard input holds
 * cases: a line "role skip step len" and len bytes. role 1: requests, 2: responses, 0: unknown;
 * skip 1: responses answer HEAD; step: bytes fed at a time, 0 all at once. One line per event,
 * "eof" where the input ends, "done" after each case; text is in hexadecimal.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../stack_modules/http/http_parse.h"

enum { HEAD_LIMIT = 16384 };

typedef struct dump {
    uint8_t buffer[HEAD_LIMIT];
    int skip;
} dump;

static void put_hex(const char *label, nfm_view v) {
    printf(" %s=", label);
    for (uint32_t i = 0; i < v.len; i++)
        printf("%02x", v.data[i]);
}

static void put_headers(nfm_view rest) {
    nfm__http_header h;
    while (nfm__http_header_next(&rest, &h)) {
        printf("header");
        put_hex("name", h.name);
        put_hex("value", h.value);
        printf("\n");
    }
}

static int on_head(void *arg, nfm__http_side *side, const nfm__http_head *head) {
    const dump *d = arg;
    (void)side;
    printf("head role=%d status=%d major=%d minor=%d upgrade=%d", head->role, head->status,
           head->major, head->minor, head->upgrade);
    put_hex("method", head->method);
    put_hex("target", head->target);
    put_hex("reason", head->reason);
    printf("\n");
    put_headers(head->headers);
    if (!head->partial)
        printf("headers\n");
    if (head->status == 101)
        return NFM__HTTP_SWITCH;
    return d->skip ? NFM__HTTP_NO_BODY : NFM__HTTP_BY_HEAD;
}

static void on_body(void *arg, nfm__http_side *side, nfm_view data) {
    (void)arg;
    (void)side;
    printf("body");
    put_hex("data", data);
    printf("\n");
}

static void on_end(void *arg, nfm__http_side *side, const nfm__http_end *end) {
    (void)arg;
    (void)side;
    put_headers(end->trailers);
    printf("end complete=%d\n", end->complete);
}

static void on_error(void *arg, nfm__http_side *side, int kind) {
    (void)arg;
    (void)side;
    printf("error kind=%s\n", nfm__http_error_name(kind));
}

static uint8_t *on_buffer(void *arg, nfm__http_side *side) {
    dump *d = arg;
    (void)side;
    return d->buffer;
}

static void on_release(void *arg, nfm__http_side *side) {
    (void)arg;
    (void)side;
}

static void run_case(dump *d, int role, uint32_t step, const uint8_t *data, uint32_t len) {
    nfm__http_side side = {.role = (uint8_t)role};
    nfm__http_sink sink = {.arg = d,
                           .head_limit = HEAD_LIMIT,
                           .resync_limit = 65536,
                           .head = on_head,
                           .body = on_body,
                           .end = on_end,
                           .error = on_error,
                           .buffer = on_buffer,
                           .release = on_release};
    for (uint32_t at = 0; at < len;) {
        uint32_t n = step == 0 || step > len - at ? len - at : step;
        nfm__http_feed(&side, &sink, (nfm_view){data + at, n});
        at += n;
    }
    printf("eof\n");
    nfm__http_finish(&side, &sink, true);
    printf("done\n");
}

int main(void) {
    static dump d;
    int role;
    unsigned step, len;
    while (scanf("%d %d %u %u", &role, &d.skip, &step, &len) == 4) {
        uint8_t *data = malloc(len + 1);
        if (data == NULL || getchar() != '\n' || fread(data, 1, len, stdin) != len)
            return 1;
        run_case(&d, role, step, data, len);
        free(data);
    }
    return 0;
}
