/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting for whatever an NF hears: rings of workers and logs of other NFs. */
#include <stdlib.h>

#include "base/ring.h"
#include "event/log.h"

int nfm_wait_any(const nfm_wait_set *set, int64_t spin_ns, int64_t timeout_ns) {
    nfm__place few[16], *places = few;
    uint32_t n = 0;
    uint64_t wanted = (uint64_t)set->n_rings + set->n_logs;
    if (wanted > UINT32_MAX)
        return NFM_E_LIMIT;
    if (wanted > sizeof(few) / sizeof(few[0]))
        places = malloc(wanted * sizeof(*places));
    if (places == NULL)
        return NFM_E_NOMEM;
    for (uint32_t i = 0; i < set->n_rings; i++)
        places[n++] = nfm_ring_place(set->rings[i]);
    for (uint32_t i = 0; i < set->n_logs; i++)
        places[n++] = nfm__log_place(set->logs[i]);
    int state = nfm__wait(places, n, spin_ns, timeout_ns);
    if (places != few)
        free(places);
    return state;
}
