/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP parser: framing by RFC 9112 section 6.3, errors by kind, limits, every truncation. */
#include "../../stack_modules/http/http_parse.h"
#include "nfm_test.h"

enum { HEAD_LIMIT = 400, LOG = 1 << 14 };

typedef struct journal { /* what the sink heard, one line per event, body bytes joined */
    char log[LOG];
    uint32_t len;
    int follow;
    bool in_body, no_buffer;
    uint8_t buffer[HEAD_LIMIT];
} journal;

static journal j;
static nfm__http_side side;

static void put(const char *format, uint32_t len, const uint8_t *text) {
    j.len += (uint32_t)snprintf(j.log + j.len, LOG - j.len, format, (int)len, (const char *)text);
}

static void put_line(void) {
    if (j.in_body)
        put("%.*s\n", 0, NULL);
    j.in_body = false;
}

static int on_head(void *arg, nfm__http_side *s, const nfm__http_head *head) {
    (void)arg;
    (void)s;
    put_line();
    put("%.*s ", head->method.len, head->method.data);
    put("%.*s ", head->target.len, head->target.data);
    j.len +=
        (uint32_t)snprintf(j.log + j.len, LOG - j.len, "%d n=%d", head->status, head->n_headers);
    put(head->partial ? " cut\n%.*s" : "\n%.*s", 0, NULL);
    return j.follow;
}

static void on_body(void *arg, nfm__http_side *s, nfm_view data) {
    (void)arg;
    (void)s;
    put(j.in_body ? "%.*s" : "body %.*s", data.len, data.data);
    j.in_body = true;
}

static void on_end(void *arg, nfm__http_side *s, const nfm__http_end *end) {
    (void)arg;
    (void)s;
    put_line();
    put(end->complete ? "end %.*s\n" : "broken %.*s\n", end->trailers.len, end->trailers.data);
}

static void on_error(void *arg, nfm__http_side *s, int kind) {
    const char *name = nfm__http_error_name(kind);
    (void)arg;
    (void)s;
    put_line();
    put("error %.*s\n", (uint32_t)strlen(name), (const uint8_t *)name);
}

static uint8_t *on_buffer(void *arg, nfm__http_side *s) {
    (void)arg;
    (void)s;
    return j.no_buffer ? NULL : j.buffer;
}

static void on_release(void *arg, nfm__http_side *s) {
    (void)arg;
    (void)s;
}

static const nfm__http_sink sink = {.head_limit = HEAD_LIMIT,
                                    .resync_limit = 1000,
                                    .head = on_head,
                                    .body = on_body,
                                    .end = on_end,
                                    .error = on_error,
                                    .buffer = on_buffer,
                                    .release = on_release};

static void begin(int role, int follow) {
    j.len = 0;
    j.log[0] = 0;
    j.in_body = j.no_buffer = false;
    j.follow = follow;
    side = (nfm__http_side){.role = (uint8_t)role};
}

static void feed(const void *data, size_t len) {
    uint8_t *copy = nfm_guarded(data, len);
    nfm__http_feed(&side, &sink, (nfm_view){copy, (uint32_t)len});
    /* One of the many mappings of this file: it ends with a guard page, and begins with a spare
     * one. */
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *map = (uint8_t *)((uintptr_t)copy / page * page) - page;
    CHECK(len <= page && munmap(map, page * (len > 0 ? 3 : 2)) == 0);
}

static void say(const char *text) {
    feed(text, strlen(text));
}

/* What the input gives, whole and cut in two at every place. */
static void check(int role, int follow, const char *input, const char *want) {
    size_t len = strlen(input);
    for (size_t cut = 0; cut <= len; cut++) {
        begin(role, follow);
        feed(input, cut);
        feed(input + cut, len - cut);
        nfm__http_finish(&side, &sink, true);
        put_line();
        if (strcmp(j.log, want) == 0)
            continue;
        printf("# %s\n# cut at %zu gives\n%s# want\n%s", input, cut, j.log, want);
        nfm_test_failed = 1;
        return;
    }
}

static void requests(const char *input, const char *want) {
    check(NFM__HTTP_REQUEST, NFM__HTTP_BY_HEAD, input, want);
}

static void responses(const char *input, const char *want) {
    check(NFM__HTTP_RESPONSE, NFM__HTTP_BY_HEAD, input, want);
}

static void framing_of_requests(void) {
    requests("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\n\r\n",
             "GET / 0 n=1\nend \nGET /2 0 n=0\nend \n");
    requests("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.0\r\n\r\n",
             "POST / 0 n=1\nbody abc\nend \nGET /2 0 n=0\nend \n");
    requests("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab",
             "POST / 0 n=1\nbody ab\nerror incomplete\nbroken \n");
    requests("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=\"y\\\"\"\r\nabc\r\n"
             "2\r\nde\r\n0\r\nA: b\r\nC: d\r\n\r\nGET / HTTP/1.1\r\n\r\n",
             "PUT / 0 n=1\nbody abcde\nend A: b\r\nC: d\r\n\nGET / 0 n=0\nend \n");
    requests("GET /old\r\n\r\n", "GET /old 0 n=0\nend \n"); /* HTTP/0.9 */
    requests("CONNECT h:1 HTTP/1.1\r\nContent-Length: 9\r\n\r\nnonsense",
             "CONNECT h:1 0 n=1\nend \n");
}

static void framing_of_responses(void) {
    responses("HTTP/1.1 200 OK\r\n\r\nall", "  200 n=0\nbody all\nend \n");
    responses("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\nHTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n"
              "HTTP/1.1 100 x\r\n\r\nHTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n",
              "  200 n=1\nend \n  304 n=1\nend \n  100 n=0\nend \n  204 n=1\nend \n");
    responses("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nall",
              "  200 n=1\nbody all\nend \n");
    check(NFM__HTTP_RESPONSE, NFM__HTTP_NO_BODY,
          "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
          "  200 n=1\nend \n  200 n=0\nend \n");
    check(NFM__HTTP_RESPONSE, NFM__HTTP_SWITCH, "HTTP/1.1 101 OK\r\n\r\n\x81\x05 frames",
          "  101 n=0\nend \n");
}

static void smuggling_is_told_and_read_by_the_rfc(void) {
    requests("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
             "GET /2 HTTP/1.1\r\n\r\n",
             "POST / 0 n=2\nerror length_and_transfer_encoding\nend \nGET /2 0 n=0\nend \n");
    requests("POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
             "POST / 0 n=2\nerror length_conflict\nbroken \n");
    requests("POST / HTTP/1.1\r\nContent-Length: 3, 3\r\nContent-Length: 3\r\n\r\nabc",
             "POST / 0 n=2\nbody abc\nend \n");
    requests("POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\nabc",
             "POST / 0 n=1\nerror content_length\nbroken \n");
    requests("POST / HTTP/1.1\r\nContent-Length: 9223372036854775808\r\n\r\nabc",
             "POST / 0 n=1\nerror content_length\nbroken \n");
    requests("POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\nabc",
             "POST / 0 n=1\nerror transfer_encoding\nbroken \n");
    requests("POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
             "POST / 0 n=1\nerror header_space\nend \n");
    requests("POST / HTTP/1.1\r\nX: y\r\n Content-Length: 3\r\n\r\n",
             "POST / 0 n=1\nerror obs_fold\nend \n");
}

static void every_error_has_its_kind(void) {
    requests("GET /a b HTTP/1.1\r\n\r\n", "GET /a b 0 n=0\nerror target\nend \n");
    requests("GET / HTTP/3.1\r\n\r\n", "GET / 0 n=0\nerror version\nend \n");
    requests("GET / HTTP/1.1\r\nnothing\r\n\r\n", "GET / 0 n=0\nerror header_line\nend \n");
    requests("GET / HTTP/1.1\r\n Host: a\r\n\r\n", "GET / 0 n=0\nerror header_line\nend \n");
    requests("GET / HTTP/1.1\r\nH(: a\r\n\r\n", "GET / 0 n=1\nerror header_name\nend \n");
    requests("GET / HTTP/1.1\r\nH: a\x01\r\n\r\n", "GET / 0 n=1\nerror header_value\nend \n");
    requests("GET / HTTP/1.1\r\nH: a\rb\r\n\r\n", "GET / 0 n=1\nerror bare_cr\nend \n");
    requests("GET / HTTP/1.1\nH: a\n\n", "GET / 0 n=1\nerror bare_lf\nend \n");
    requests("GET / HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
             "GET / 0 n=0\nend \nGET / 0 n=0\nerror after_close\nend \n");
    requests("GET / HTTP/1.1\r\n\r\nget / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
             "GET / 0 n=0\nend \nerror not_http\n");
    requests("GET\t/ HTTP/1.1\r\n\r\n", "error start_line\n");
    requests("POST /\r\n\r\n", "error start_line\n");
    requests("HTTP/1.1 200 OK\r\n\r\n", "error start_line\n"); /* a response of the client */
}

static void chunk_errors(void) {
    static const char head[] = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    static const struct {
        const char *input, *want;
    } rows[] = {
        {"x\r\n", "error chunk_size\nbroken \n"},
        {"\r\n", "error chunk_size\nbroken \n"},
        {"12345678901234567\r\n", "error chunk_size\nbroken \n"},
        {"1\rX\r\n", "error chunk_size\nbroken \n"},
        {"1\r\nab", "body a\nerror chunk_end\nbroken \n"},
        {"1 \r\na\r\n0\r\n\r\n", "error chunk_extension\nbody a\nend \n"},
        {"1;\r\na\r\n0\r\n\r\n", "error chunk_extension\nbody a\nend \n"},
        {"1;x=\"y\r\na\r\n0\r\n\r\n", "error chunk_extension\nbody a\nend \n"},
        {"1\na\n0\n\n", "error bare_lf\nbody a\nend \n"},
        {"0\r\nA b\r\n\r\n", "error header_line\nend A b\r\n\n"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char input[256], want[256];
        snprintf(input, sizeof(input), "%s%s", head, rows[i].input);
        snprintf(want, sizeof(want), "PUT / 0 n=1\n%s", rows[i].want);
        requests(input, want);
    }
}

static void long_heads_are_cut_at_the_limit(void) {
    char input[HEAD_LIMIT + 40], want[64] = "GET / 0 n=1\nend \n";
    for (int extra = 0; extra < 2; extra++) { /* just fits, one byte too long */
        int fill = HEAD_LIMIT - (int)strlen("GET / HTTP/1.1\r\nA: \r\n\r\n") + extra;
        snprintf(input, sizeof(input), "GET / HTTP/1.1\r\nA: %0*d\r\n\r\n", fill, 0);
        requests(input, extra ? "GET / 0 n=1 cut\nerror too_long\nbroken \n" : want);
    }
    memset(input, 'a', sizeof(input) - 1);
    memcpy(input, "GET /", 5);
    input[sizeof(input) - 1] = 0;
    requests(input, "error too_long\n");
    begin(NFM__HTTP_REQUEST, NFM__HTTP_BY_HEAD);
    say("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: ");
    say(input);
    CHECK(strstr(j.log, "error too_long\nbroken") != NULL);
}

static void no_buffer_gives_the_side_up(void) {
    begin(NFM__HTTP_REQUEST, NFM__HTTP_BY_HEAD);
    say("GET / HTTP/1.1\r\n\r\n");
    j.no_buffer = true;
    say("GET / HT");
    say("TP/1.1\r\n\r\n");
    CHECK(strcmp(j.log, "GET / 0 n=0\nend \nerror no_buffer\n") == 0);
    CHECK_EQ(side.state, NFM__HTTP_DEAD);
}

static void gaps(void) {
    begin(NFM__HTTP_RESPONSE, NFM__HTTP_BY_HEAD);
    say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab");
    nfm__http_gap(&side, &sink, 7);
    say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab");
    nfm__http_gap(&side, &sink, 3);
    say("\r\n4\r\ncd");
    nfm__http_gap(&side, &sink, 3); /* beyond the chunk */
    say("x\r\nHTTP/1.1 200 OK\r\n\r\n");
    say("HTTP/1.1 200 OK\r\n\r\nz");
    nfm__http_gap(&side, &sink, UINT64_MAX);
    nfm__http_finish(&side, &sink, false);
    CHECK(strcmp(j.log, "  200 n=1\nbody ab\nend \n  200 n=1\nbody abcd\nerror gap\nbroken \n"
                        "  200 n=0\nbody z\nbroken \n") == 0);
}

static void guesses(void) {
    static const struct {
        const char *text;
        int want;
    } rows[] = {{"", 0},       {"G", 0},          {"GET", 0},
                {"GET ", 1},   {"M-SEARCH *", 1}, {"H", 0},
                {"HTTP", 0},   {"HTTP/", 2},      {"HEAD ", 1},
                {"get ", -1},  {" GET", -1},      {"\x16", -1},
                {"GET\t", -1}, {"SSH-2.0-", -1},  {"ABCDEFGHIJKLMNOPQRSTUVWXYZ", -1}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        CHECK_EQ(nfm__http_guess((const uint8_t *)rows[i].text, strlen(rows[i].text)),
                 rows[i].want);
}

static void every_truncation_is_survived(void) {
    static const char input[] =
        "PUT /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\nX: a\r\n b\r\n\r\n"
        "5;e=\"f\"\r\nhello\r\n0\r\nT: u\r\n\r\n";
    for (size_t len = 0; len < sizeof(input) - 1; len++) {
        begin(NFM__HTTP_REQUEST, NFM__HTTP_BY_HEAD);
        feed(input, len);
        nfm__http_finish(&side, &sink, true);
        CHECK_EQ(strstr(j.log, "error incomplete") != NULL, len > 16);
        CHECK_EQ(strstr(j.log, "broken") != NULL, len > 16);
        CHECK(strstr(j.log, "end ") == NULL);
    }
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {
        T(framing_of_requests),
        T(framing_of_responses),
        T(smuggling_is_told_and_read_by_the_rfc),
        T(every_error_has_its_kind),
        T(chunk_errors),
        T(long_heads_are_cut_at_the_limit),
        T(no_buffer_gives_the_side_up),
        T(gaps),
        T(guesses),
        T(every_truncation_is_survived),
    };
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
