/* SPDX-License-Identifier: Apache-2.0 */
/* Shared objects: sealed memfds that only their owner may open for writing. */
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "nfm/nfm.h"

#define PAGE_2M ((uint64_t)2 << 20)
#define PAGE_1G ((uint64_t)1 << 30)

typedef struct step { /* of the ladder of page sizes */
    uint64_t page;
    unsigned flags;
    uint32_t backing;
} step;

static const step ladder[] = {
    {PAGE_1G, MFD_HUGETLB | MFD_HUGE_1GB, NFM_BACKING_HUGE_1G},
    {PAGE_2M, MFD_HUGETLB | MFD_HUGE_2MB, NFM_BACKING_HUGE_2M},
    {4096, 0, NFM_BACKING_ORDINARY},
};

/* Mapping a file of huge pages reserves them: an object that maps once will not fault to death. */
static bool can_map(int fd, uint64_t size) {
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return base != MAP_FAILED && munmap(base, size) == 0;
}

/* One step: 0, or the errno of what refused. */
static int try_step(const step *s, const char *name, uint64_t size, nfm_object_info *out) {
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | s->flags);
    if (fd < 0)
        return errno;
    uint64_t rounded = (size + s->page - 1) / s->page * s->page;
    if (fchmod(fd, 0600) != 0 || ftruncate(fd, (off_t)rounded) != 0 ||
        fcntl(fd, F_ADD_SEALS, seals) != 0 || !can_map(fd, rounded)) {
        int why = errno;
        close(fd);
        return why;
    }
    *out = (nfm_object_info){.fd = fd, .backing = s->backing, .size = rounded};
    return 0;
}

int nfm_object_create(const char *name, uint64_t size, nfm_object_info *out, nfm_error *err) {
    int why = EINVAL;
    for (size_t i = 0; size > 0 && i < sizeof(ladder) / sizeof(ladder[0]); i++) {
        if (size < ladder[i].page / 2 && ladder[i].page > 4096)
            continue; /* most of the page would lie idle */
        if ((why = try_step(&ladder[i], name, size, out)) == 0)
            return NFM_OK;
    }
    if (err != NULL) {
        err->code = why == ENOMEM ? NFM_E_NOMEM : NFM_E_IO;
        snprintf(err->text, sizeof(err->text),
                 "%s: cannot create %llu bytes of shared memory: %s; lower the worker's sizes",
                 name, (unsigned long long)size, strerror(why));
    }
    return why == ENOMEM ? NFM_E_NOMEM : NFM_E_IO;
}

int nfm_object_read_only(int fd, nfm_error *err) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int copy = open(path, O_RDONLY | O_CLOEXEC);
    if (copy < 0 && err != NULL) {
        err->code = NFM_E_IO;
        snprintf(err->text, sizeof(err->text), "%s: cannot open read-only: %s; is /proc mounted?",
                 path, strerror(errno));
    }
    return copy;
}
