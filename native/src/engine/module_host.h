/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process that runs one application module of a worker.
 *
 * Theory of operation. The host answers what a module asks of its worker (services.c): its nfm_ctx
 * points to a worker of which only the graph with that one module, the mapped memory and a pool of
 * slots of its own are there. Questions come from a ring, in the order in which the module would be
 * called in-line; events and detaches go into the answer ring under the position of the question.
 * What the module keeps per flow lies in this process: a flow's place is begun anew when a record
 * of another flow id comes, after a close, or when the flow comes back after a detach.
 *
 * Memory that is read here is the worker's, read-only; a worker that dies and begins again writes
 * it anew under our eyes. So a record is copied before use, numbers are checked, and bytes of slots
 * may be nonsense but lie in the slot. Then the worker says reset, and all flows are forgotten.
 */
#ifndef NFM_ENGINE_MODULE_HOST_H
#define NFM_ENGINE_MODULE_HOST_H

#include "base/answers.h"
#include "engine/worker.h"

/* ---- what services.c does for a hosted module ---- */

/* Whether somebody wants own event |event| on the flow at hand. */
bool nfm__host_wants(const nfm_module_host *host, uint32_t event);
/* Writes an event into the answer ring; waits for room. */
int nfm__host_raise(nfm_module_host *host, uint32_t event, const nfm_value *values, nfm_view data);
void nfm__host_detach(nfm_module_host *host);
/* Whether |*slot| is one of the host's own; *slot becomes its number in the host's pool. Others are
 * the worker's, which alone counts references to them. */
bool nfm__host_has_slot(nfm_module_host *host, uint32_t *slot);

#endif
