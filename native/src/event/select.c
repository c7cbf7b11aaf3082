/* SPDX-License-Identifier: Apache-2.0 */
#include "event/filter.h"

/*
 * nfm_filter_select judges the events of |n| descriptors with all that is known of them, as the
 * worker would have: for events that did not come from the worker's rings (published by NFs).
 * Borrows everything; |out| has room for n answers. A descriptor without a record does not pass.
 */
void nfm_filter_select(const nfm_filter *filter, const nfm_mem *mem, const nfm_desc *desc,
                       uint32_t n, uint8_t *out) {
    for (uint32_t i = 0; i < n; i++) {
        if (desc[i].record >= mem->n_records) {
            out[i] = 0;
            continue;
        }
        nfm_filter_input input = {.mem = mem, .record = &mem->records[desc[i].record]};
        input.flow = desc[i].flow < mem->n_flows ? &mem->flows[desc[i].flow] : NULL;
        input.base = nfm_slot_ptr(mem, input.record->slot);
        out[i] = nfm_filter_eval(filter, &input);
    }
}
