/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: whatever an ICMP error quotes, rewriting it keeps its checksum right, stays inside its
 * bytes and leaves its own header alone. */
#include <stdlib.h>

#include "engine/transit.h"

enum { HEADER = 8, MAX = 1500 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static nfm_edit edit_of(const uint8_t *bytes) {
    nfm_edit e = {.fields = NFM_EDIT_SRC | NFM_EDIT_DST | NFM_EDIT_SRC_PORT | NFM_EDIT_DST_PORT};
    memcpy(e.src, bytes, 16);
    memcpy(e.dst, bytes + 4, 16);
    e.src_port = nfm_read16(bytes + 20);
    e.dst_port = nfm_read16(bytes + 22);
    return e;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 25 + HEADER || size > 25 + MAX)
        return 0;
    bool ipv6 = data[0] & 1;
    nfm_edit edit = edit_of(data + 1);
    uint32_t len = (uint32_t)size - 25;
    uint8_t *icmp = malloc(len);
    if (icmp == NULL)
        return 0;
    memcpy(icmp, data + 25, len);
    nfm_write16(icmp + 2, 0);
    nfm_write16(icmp + 2, nfm_csum_fold(nfm_csum_add(0, icmp, len)));
    if (nfm__quoted_edit(icmp, icmp + len, ipv6, &edit)) {
        if (nfm_csum_fold(nfm_csum_add(0, icmp, len)) != 0)
            abort();
        if (memcmp(icmp + 4, data + 29, 4) != 0)
            abort();
    }
    free(icmp);
    return 0;
}
