/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: any frame with any word of the kernel's about it becomes whole frames that fit their
 * slots and carry its payload, or nothing; the frame stays as it is and no slot is lost. */
#include "io/whole.h"

#include <stdlib.h>
#include <string.h>

enum { N_SMALL = 160, N_LARGE = 3 };

static void expect(bool fact) {
    if (!fact)
        abort();
}

static uint8_t *packets(void) {
    return calloc(1, (size_t)N_SMALL * NFM_SLOT_SMALL + (size_t)N_LARGE * NFM_SLOT_LARGE);
}

static void check_parts(nfm_pool *pool, const nfm_tx *whole, const nfm_tx *parts, int n) {
    uint64_t bytes = 0;
    for (int i = 0; i < n; i++) {
        expect(parts[i].slot != whole->slot && nfm_is_whole(pool, parts[i].slot));
        expect(parts[i].off == NFM_HEADROOM && parts[i].len <= nfm_pool_room(pool, parts[i].slot));
        expect(parts[i].len <= whole->len);
        bytes += parts[i].len;
        nfm_pool_put(pool, parts[i].slot);
    }
    expect(n <= 0 || bytes >= whole->len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nfm_pool pool;
    nfm_tx parts[NFM_WHOLE_MAX];
    if (size < sizeof(nfm_slot_meta) || size - sizeof(nfm_slot_meta) > NFM_MAX_FRAME)
        return 0;
    uint8_t *memory = packets();
    uint32_t len = (uint32_t)(size - sizeof(nfm_slot_meta));
    if (memory == NULL || nfm_pool_init(&pool, memory, N_SMALL, N_LARGE) != NFM_OK)
        abort();
    /* At the very end of the memory: a byte over is noticed. */
    nfm_tx frame = {.slot = N_SMALL + N_LARGE - 1, .len = len};
    pool.refs[frame.slot] = 1;
    nfm_pool_rebuild(&pool);
    uint8_t *slot = nfm_pool_addr(&pool, frame.slot);
    frame.off = NFM_SLOT_LARGE - len;
    memcpy(slot, data, sizeof(nfm_slot_meta));
    if (len > 0)
        memcpy(slot + frame.off, data + sizeof(nfm_slot_meta), len);
    int n = nfm_whole_make(&pool, &frame, parts);
    expect(n == NFM_E_LIMIT || n == NFM_E_FORMAT || (n > 0 && n <= NFM_WHOLE_MAX));
    check_parts(&pool, &frame, parts, n);
    expect(memcmp(slot + frame.off, data + sizeof(nfm_slot_meta), len) == 0);
    expect(pool.n_free_small == N_SMALL && pool.n_free_large == N_LARGE - 1);
    nfm_pool_fini(&pool);
    free(memory);
    return 0;
}
