/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A plain file is mapped once and served from the map: |at| walks through it and nothing is copied.
 * A gzip file is mapped too, and inflated piece by piece into a window of twice NFM_INPUT_WINDOW:
 * bytes not yet taken move to the window's start, the rest is filled again. The whole file is never
 * inflated at once. Several gzip members follow each other as one stream; what follows the last
 * member and is no member is padding and ignored.
 *
 * Touching a page of a map beyond the end of a file that somebody has truncated raises SIGBUS. The
 * map is therefore trusted in steps of TRUST_STEP only: before each step the file's size is asked
 * again and a file that shrank ends there with a problem, like any truncated file. A file that is
 * truncated within the step under the reader's hands can still kill the process; nothing but a
 * private copy could prevent that, and captures being rewritten in place are not worth one.
 */
#include "io/input.h"

#include "io/fail.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define TRUST_STEP ((size_t)4 << 20)
#define WINDOW_SIZE (2 * (size_t)NFM_INPUT_WINDOW)
#define GZIP_WINDOW_BITS (15 + 16) /* zlib.h: 32 KiB history, gzip header and trailer only */

static int start(nfm_input *input);

int nfm_input_open(nfm_input *input, const char *path, nfm_error *err) {
    *input = (nfm_input){.fd = -1};
    /* O_NONBLOCK: a FIFO without a writer is refused below instead of waited for. */
    input->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (input->fd < 0)
        return nfm_io_fail_errno(err, path, "open", errno);
    struct stat st;
    if (fstat(input->fd, &st) != 0)
        return nfm_io_fail_errno(err, path, "read its size", errno);
    if (S_ISDIR(st.st_mode))
        return nfm_io_fail_errno(err, path, "read", EISDIR);
    if (!S_ISREG(st.st_mode))
        return nfm_io_fail(err, NFM_E_IO,
                           "%.300s: not a regular file; copy its bytes into a file first", path);
    if (st.st_size == 0)
        return nfm_io_fail(err, NFM_E_FORMAT, "%.300s: the file is empty; record the capture again",
                           path);
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, input->fd, 0);
    if (map == MAP_FAILED)
        return nfm_io_fail_errno(err, path, "map", errno);
    (void)madvise(map, (size_t)st.st_size, MADV_SEQUENTIAL);
    input->map = map;
    input->map_len = (size_t)st.st_size;
    if (start(input) != NFM_OK)
        return nfm_io_fail(err, NFM_E_NOMEM, "%.300s: no memory to inflate it; free some", path);
    return NFM_OK;
}

int nfm_input_borrow(nfm_input *input, const uint8_t *data, size_t len) {
    *input = (nfm_input){.fd = -1, .map = data, .map_len = len};
    return start(input);
}

void nfm_input_close(nfm_input *input) {
    if (input->inflater != NULL)
        inflateEnd(input->inflater);
    free(input->inflater);
    free(input->window);
    if (input->fd >= 0) {
        if (input->map != NULL)
            munmap((void *)(uintptr_t)input->map, input->map_len);
        close(input->fd);
    }
    *input = (nfm_input){.fd = -1};
}

/* Extends the trusted part of the map by at least n bytes as far as the file has them. */
static void trust(nfm_input *input, size_t n) {
    size_t end = input->map_len;
    if (input->fd >= 0) {
        struct stat st;
        if (fstat(input->fd, &st) == 0 && (uint64_t)st.st_size < end) {
            end = st.st_size < 0 ? 0 : (size_t)st.st_size;
            input->problem = "the file shrank while it was read";
        }
    }
    size_t step = n > TRUST_STEP ? n : TRUST_STEP;
    size_t left = end > input->trusted ? end - input->trusted : 0;
    input->trusted += left < step ? left : step;
}

static bool is_gzip(const uint8_t *p, size_t len) {
    return len >= 2 && p[0] == 0x1f && p[1] == 0x8b; /* RFC 1952 section 2.3.1 */
}

/* Chooses plain or gzip by the first bytes. */
static int start(nfm_input *input) {
    trust(input, 1);
    if (!is_gzip(input->map, input->trusted)) {
        input->at = input->map;
        input->avail = input->trusted;
        return NFM_OK;
    }
    z_stream *z = calloc(1, sizeof(*z));
    input->inflater = z;
    input->window = malloc(WINDOW_SIZE);
    if (z == NULL || input->window == NULL || inflateInit2(z, GZIP_WINDOW_BITS) != Z_OK) {
        free(z);
        input->inflater = NULL;
        return NFM_E_NOMEM;
    }
    z->next_in = (z_const Bytef *)(uintptr_t)input->map;
    input->at = input->window;
    return NFM_OK;
}

/* Gives the inflater more of the map. Returns false at its end. */
static bool feed(nfm_input *input, z_stream *z) {
    size_t used = (size_t)(z->next_in - input->map);
    if (used == input->trusted)
        trust(input, 1);
    size_t left = input->trusted - used;
    z->avail_in = (uInt)(left < TRUST_STEP ? left : TRUST_STEP);
    return left > 0;
}

/* After a member's end: the next member, or the end of the stream. */
static bool next_member(nfm_input *input, z_stream *z) {
    size_t used = (size_t)(z->next_in - input->map);
    if (input->trusted - used < 2)
        trust(input, 2);
    if (!is_gzip(z->next_in, input->trusted - used))
        return false;
    return inflateReset(z) == Z_OK;
}

/* One step of inflating to |out|. Returns false when nothing more will come. */
static bool inflate_some(nfm_input *input, z_stream *z, uint8_t *out, size_t room) {
    if (z->avail_in == 0 && !feed(input, z)) {
        if (input->problem == NULL)
            input->problem = "the gzip stream is cut short";
        return false;
    }
    z->next_out = out;
    z->avail_out = (uInt)room;
    int rc = inflate(z, Z_NO_FLUSH);
    input->avail += room - z->avail_out;
    if (rc == Z_STREAM_END)
        return next_member(input, z);
    if (rc == Z_OK || rc == Z_BUF_ERROR)
        return true;
    input->problem = "the gzip data is corrupt";
    return false;
}

static bool fill_inflated(nfm_input *input, size_t n) {
    z_stream *z = input->inflater;
    if (input->avail > 0)
        memmove(input->window, input->at, input->avail);
    input->at = input->window;
    while (input->avail < n && !input->inflated)
        input->inflated =
            !inflate_some(input, z, input->window + input->avail, WINDOW_SIZE - input->avail);
    return input->avail >= n;
}

bool nfm_input_fill(nfm_input *input, size_t n) {
    if (input->window != NULL)
        return n <= NFM_INPUT_WINDOW && fill_inflated(input, n);
    if (input->problem == NULL) {
        trust(input, n - input->avail);
        input->avail = input->trusted - (size_t)(input->at - input->map);
    }
    return input->avail >= n;
}

bool nfm_input_skip(nfm_input *input, uint64_t n) {
    while (n > input->avail) {
        n -= input->avail;
        nfm_input_take(input, input->avail);
        if (!nfm_input_need(input, 1))
            return false;
    }
    nfm_input_take(input, (size_t)n);
    return true;
}

uint64_t nfm_input_consumed(const nfm_input *input) {
    const z_stream *z = input->inflater;
    return (uint64_t)((z != NULL ? z->next_in : input->at) - input->map);
}
