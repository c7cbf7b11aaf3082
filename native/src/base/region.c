/* SPDX-License-Identifier: Apache-2.0 */
#include "base/region.h"

#include <errno.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE_2M ((size_t)2 << 20)
#define PAGE_1G ((size_t)1 << 30)

static size_t round_up(size_t size, size_t page) {
    return (size + page - 1) / page * page;
}

/* One step of the ladder: a memfd of the given page size, mapped and reserved. */
static int map_memfd(nfm_region *region, const char *name, size_t size, unsigned huge_flag) {
    size_t page = huge_flag == MFD_HUGE_1GB ? PAGE_1G : huge_flag == MFD_HUGE_2MB ? PAGE_2M : 4096;
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge_flag ? MFD_HUGETLB | huge_flag : 0);
    int fd = memfd_create(name, flags);
    if (fd < 0)
        return -errno;
    region->size = round_up(size, page);
    void *base = MAP_FAILED;
    /* mmap of a hugetlb file reserves its pages: success here means they are ours. */
    if (ftruncate(fd, (off_t)region->size) == 0)
        base = mmap(NULL, region->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        int saved = errno;
        close(fd);
        return -saved;
    }
    region->base = base;
    region->fd = fd;
    return 0;
}

static int map_shared(nfm_region *region, const char *name, size_t size) {
    int rc = -1;
    if (size >= PAGE_1G && (rc = map_memfd(region, name, size, MFD_HUGE_1GB)) == 0) {
        region->backing = NFM_BACKING_HUGE_1G;
        return 0;
    }
    if (size >= PAGE_2M && (rc = map_memfd(region, name, size, MFD_HUGE_2MB)) == 0) {
        region->backing = NFM_BACKING_HUGE_2M;
        return 0;
    }
    if ((rc = map_memfd(region, name, size, 0)) == 0) {
        region->backing = NFM_BACKING_ORDINARY;
        (void)madvise(region->base, region->size, MADV_HUGEPAGE);
        return 0;
    }
    return rc;
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
    region->fd = -1;
    region->backing = NFM_BACKING_PRIVATE;
    (void)madvise(base, want, MADV_HUGEPAGE);
    return 0;
}

int nfm_region_init(nfm_region *region, const char *name, size_t size, bool shared,
                    nfm_error *err) {
    memset(region, 0, sizeof(*region));
    region->fd = -1;
    int rc = shared ? map_shared(region, name, size) : map_private(region, size);
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

void nfm_region_fini(nfm_region *region) {
    if (region->base != NULL) {
        munmap(region->base, region->size);
        if (region->fd >= 0) /* of a region that was never mapped fd may be 0: not ours */
            close(region->fd);
    }
    memset(region, 0, sizeof(*region));
    region->fd = -1;
}
