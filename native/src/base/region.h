/* SPDX-License-Identifier: Apache-2.0 */
/* Memory reserved at its maximum size and faulted on use: a worker's own, or a shared object. */
#ifndef NFM_BASE_REGION_H
#define NFM_BASE_REGION_H

#include "nfm/nfm.h"

typedef struct nfm_region {
    uint8_t *base;
    size_t size; /* bytes mapped, a multiple of the page size */
} nfm_region;

/* Maps |size| zeroed bytes of this process' own, aligned to 2 MiB, on transparent huge pages where
 * the kernel has them. Returns NFM_OK, NFM_E_NOMEM or NFM_E_IO with the reason in err. */
int nfm_region_init(nfm_region *region, const char *name, size_t size, nfm_error *err);
/* Maps the shared object |fd|, which must have at least |size| bytes (0: what it has), writable or
 * read-only. The descriptor stays the caller's. */
int nfm_region_adopt(nfm_region *region, int fd, size_t size, bool writable, nfm_error *err);
/* Faults the first |size| bytes in now, as far as the kernel knows how. */
void nfm_region_populate(nfm_region *region, size_t size);
void nfm_region_fini(nfm_region *region);

#endif
