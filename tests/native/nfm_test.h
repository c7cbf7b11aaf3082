/* SPDX-License-Identifier: Apache-2.0 */
/* The harness: a list of test functions, TAP-like lines, "N passed, N failed" at the end. */
#ifndef NFM_TEST_H
#define NFM_TEST_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int nfm_test_failed; /* of the running test */

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            printf("# %s:%d: %s\n", __FILE__, __LINE__, #cond);                                    \
            nfm_test_failed = 1;                                                                   \
        }                                                                                          \
    } while (0)

#define CHECK_EQ(a, b)                                                                             \
    do {                                                                                           \
        long long va_ = (long long)(a), vb_ = (long long)(b);                                      \
        if (va_ != vb_) {                                                                          \
            printf("# %s:%d: %s = %lld, want %s = %lld\n", __FILE__, __LINE__, #a, va_, #b, vb_);  \
            nfm_test_failed = 1;                                                                   \
        }                                                                                          \
    } while (0)

typedef struct nfm_test {
    const char *name;
    void (*run)(void);
} nfm_test;

#define T(fn)                                                                                      \
    { #fn, fn }

/* Runs all (or those whose name contains argv[1]); returns the exit code. */
static inline int nfm_run_tests(const nfm_test *tests, size_t n, int argc, char **argv) {
    int passed = 0, failed = 0;
    for (size_t i = 0; i < n; i++) {
        if (argc > 1 && strstr(tests[i].name, argv[1]) == NULL)
            continue;
        nfm_test_failed = 0;
        tests[i].run();
        printf("%s %s\n", nfm_test_failed ? "not ok" : "ok", tests[i].name);
        failed += nfm_test_failed;
        passed += !nfm_test_failed;
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0 || passed == 0;
}

/* A copy of |len| bytes that ends at a guard page: one byte over crashes. Never freed (tests). */
static inline uint8_t *nfm_guarded(const void *data, size_t len) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (len + page - 1) / page * page + page;
    uint8_t *m =
        mmap(NULL, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED || mprotect(m + body, page, PROT_NONE) != 0)
        abort();
    if (len > 0)
        memcpy(m + body - len, data, len);
    return m + body - len;
}

#endif
