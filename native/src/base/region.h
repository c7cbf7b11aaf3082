/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that a worker writes and others may map: reserved at its maximum size, faulted on use. */
#ifndef NFM_BASE_REGION_H
#define NFM_BASE_REGION_H

#include "nfm/nfm.h"

enum nfm_backing {
    NFM_BACKING_NONE = 0,
    NFM_BACKING_PRIVATE,  /* anonymous, transparent huge pages where the kernel has them */
    NFM_BACKING_HUGE_1G,  /* memfd of 1 GiB pages */
    NFM_BACKING_HUGE_2M,  /* memfd of 2 MiB pages */
    NFM_BACKING_ORDINARY, /* memfd of ordinary pages */
};

typedef struct nfm_region {
    uint8_t *base;
    size_t size; /* bytes mapped, a multiple of the page size */
    int fd;      /* memfd, or -1 */
    enum nfm_backing backing;
} nfm_region;

/* Maps |size| zeroed bytes, aligned to 2 MiB. |shared|: a memfd, huge pages first; else anonymous.
 * Returns NFM_OK, NFM_E_NOMEM or NFM_E_IO with the reason in err. */
int nfm_region_init(nfm_region *region, const char *name, size_t size, bool shared, nfm_error *err);
void nfm_region_fini(nfm_region *region);

#endif
