/* SPDX-License-Identifier: Apache-2.0 */
/* A port that another worker has: nothing comes by it, and what is sent is handed over. */
#ifndef NFM_IO_REMOTE_H
#define NFM_IO_REMOTE_H

#include "io/handover.h"

/* Whether |port| is one that only stands for another worker's. */
bool nfm_port_is_remote(const nfm_port *port);
/* Connects |port|, which is port |number| of the mesh: |to| leads to the worker that has it, |bell|
 * wakes this one; both are borrowed. */
void nfm_port_remote_bind(nfm_port *port, nfm_handover *to, uint32_t number, int bell);

#endif
