/* SPDX-License-Identifier: Apache-2.0 */
/* A native NF: payload bytes by server port. Built with
 *     cc -O2 -shared -fPIC port_bytes.c $(python -m mesh.sdk) -o port_bytes.so */
#include <stdlib.h>

#include "nfm/nfm.h"

void *port_bytes_init(const char *config);
void port_bytes_fini(void *state);
int port_bytes_process(void *state, const nfm_batch *batch);

void *port_bytes_init(const char *config) {
    (void)config; /* the NF's options, as JSON */
    return calloc(1 << 16, sizeof(uint64_t));
}

void port_bytes_fini(void *state) {
    free(state);
}

int port_bytes_process(void *state, const nfm_batch *batch) {
    uint64_t *bytes = state;
    for (uint32_t i = 0; i < batch->n; i++) {
        const nfm_record *record = &batch->mem->records[batch->desc[i].record];
        uint32_t flow = batch->desc[i].flow, server = record->flags & NFM_F_CLIENT_IS_1 ? 0 : 1;
        if (flow != NFM_NO_FLOW)
            bytes[batch->mem->flows[flow].port[server]] += record->payload_len;
    }
    return NFM_OK;
}
