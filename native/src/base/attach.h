/* SPDX-License-Identifier: Apache-2.0 */
/* The header object: what a worker's other shared objects hold, checked by those who attach. */
#ifndef NFM_BASE_ATTACH_H
#define NFM_BASE_ATTACH_H

#include "base/region.h"

#define NFM_HEADER_MAGIC UINT64_C(0x726564616568666e)

typedef struct nfm_header {
    uint64_t magic;
    uint32_t abi, worker;
    uint32_t record_size, flow_info_size, desc_size, slot_small, slot_large;
    uint32_t n_small, n_slots, n_records, n_flows, reserved;
    uint64_t fields_size;
} nfm_header;

/* Fills the header for a worker whose objects are laid out as |mem| says. */
void nfm_header_write(nfm_header *header, uint32_t worker, const nfm_mem *mem);
/* Bytes of each object by enum nfm_object for these counts. */
void nfm_header_sizes(const nfm_mem *mem, uint64_t *sizes);

#endif
