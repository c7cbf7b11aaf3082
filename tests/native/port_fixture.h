/* SPDX-License-Identifier: Apache-2.0 */
/* A pool and a directory for tests of ports. */
#ifndef PORT_FIXTURE_H
#define PORT_FIXTURE_H

#include "capture_bytes.h"
#include "io/port.h"

#include <stdio.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)

typedef struct bench {
    nfm_pool pool;
    uint8_t *packets;
    char dir[64];
    char path[128];
} bench;

static inline bench setup(uint32_t n_small, uint32_t n_large) {
    bench b = {.dir = "/tmp/nfm_test_XXXXXX"};
    b.packets = malloc((size_t)n_small * NFM_SLOT_SMALL + (size_t)n_large * NFM_SLOT_LARGE);
    if (b.packets == NULL || mkdtemp(b.dir) == NULL ||
        nfm_pool_init(&b.pool, b.packets, n_small, n_large) != NFM_OK)
        abort();
    snprintf(b.path, sizeof(b.path), "%s/a.pcap", b.dir);
    return b;
}

static inline void teardown(bench *b) {
    unlink(b->path);
    rmdir(b->dir);
    nfm_pool_fini(&b->pool);
    free(b->packets);
}

static inline void save(const char *path, const capture *c) {
    FILE *f = fopen(path, "wb");
    if (f == NULL || (c->len > 0 && fwrite(c->data, 1, c->len, f) != c->len) || fclose(f) != 0)
        abort();
}

static inline const uint8_t *frame_at(const bench *b, const nfm_frame *frame) {
    return nfm_pool_addr(&b->pool, frame->slot) + NFM_HEADROOM;
}

#endif
