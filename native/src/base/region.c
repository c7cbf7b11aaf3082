/* SPDX-License-Identifier: Apache-2.0 */
#include "base/region.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PAGE_2M ((size_t)2 << 20)

static size_t round_up(size_t size, size_t page) {
    return (size + page - 1) / page * page;
}

/* Over-reserves by one huge page and trims, so that transparent huge pages can back all of it. */
static int map_private(nfm_region *region, size_t size) {
    size_t want = round_up(size, size >= PAGE_2M ? PAGE_2M : 4096);
    size_t total = want + PAGE_2M;
    uint8_t *raw = mmap(NULL, total, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED)
        return -errno;
    uint8_t *base = (uint8_t *)round_up((size_t)raw, PAGE_2M);
    if (base > raw)
        munmap(raw, (size_t)(base - raw));
    munmap(base + want, (size_t)(raw + total - (base + want)));
    region->base = base;
    region->size = want;
    (void)madvise(base, want, MADV_HUGEPAGE);
    return 0;
}

int nfm_region_init(nfm_region *region, const char *name, size_t size, nfm_error *err) {
    memset(region, 0, sizeof(*region));
    int rc = map_private(region, size);
    if (rc == 0)
        return NFM_OK;
    int code = rc == -ENOMEM ? NFM_E_NOMEM : NFM_E_IO;
    if (err != NULL) {
        err->code = code;
        snprintf(err->text, sizeof(err->text),
                 "%s: cannot map %zu bytes: %s; lower the worker's sizes or free memory", name,
                 size, strerror(-rc));
    }
    return code;
}

int nfm_region_adopt(nfm_region *region, int fd, size_t size, bool writable, nfm_error *err) {
    struct stat st;
    memset(region, 0, sizeof(*region));
    const char *why = NULL;
    void *base = MAP_FAILED;
    if (fstat(fd, &st) != 0)
        why = strerror(errno);
    else if ((size_t)st.st_size < size || st.st_size == 0)
        why = "it is smaller than its contents must be";
    else if ((base = mmap(NULL, (size_t)st.st_size, PROT_READ | (writable ? PROT_WRITE : 0),
                          MAP_SHARED, fd, 0)) == MAP_FAILED)
        why = strerror(errno);
    if (why != NULL) {
        if (err != NULL) {
            err->code = NFM_E_IO;
            snprintf(err->text, sizeof(err->text), "cannot map shared object (descriptor %d): %s",
                     fd, why);
        }
        return NFM_E_IO;
    }
    region->base = base;
    region->size = (size_t)st.st_size;
    return NFM_OK;
}

void nfm_region_populate(nfm_region *region, size_t size) {
#ifndef MADV_POPULATE_WRITE /* Linux 5.14; libc's headers may be older */
#define MADV_POPULATE_WRITE 23
#endif
    size = size < region->size ? size : region->size;
    (void)madvise(region->base, size, MADV_POPULATE_WRITE); /* else pages come when touched */
}

void nfm_region_fini(nfm_region *region) {
    if (region->base != NULL)
        munmap(region->base, region->size);
    memset(region, 0, sizeof(*region));
}
