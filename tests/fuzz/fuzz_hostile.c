/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: whatever inline receivers write where they may, the worker goes on and keeps nothing:
 * see tests/native/hostile_sim.h. */
#include "../native/hostile_sim.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    hostile_sim s = {.bytes = data, .left = size, .state = UINT64_C(0x9e3779b97f4a7c15)};
    hostile_run(&s);
    if (nfm_test_failed)
        abort();
    return 0;
}
