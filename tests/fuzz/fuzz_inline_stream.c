/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: whatever two ends send, and whatever is decided on it, what leaves is what was
 * accepted: see tests/native/stream_sim.h. */
#include "../native/stream_sim.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    stream_sim *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return 0;
    s->random = (sim_random){data, size, UINT64_C(0x9e3779b97f4a7c15)};
    sim_run(s);
    free(s);
    if (nfm_test_failed)
        abort();
    return 0;
}
