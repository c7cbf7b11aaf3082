/* SPDX-License-Identifier: Apache-2.0 */
#include "io/port.h"

/*
 * nfm_port_stats_get copies the counters of |port| to |out|.
 */
void nfm_port_stats_get(const nfm_port *port, nfm_port_stats *out) {
    *out = port->stats;
}

/*
 * nfm_port_warning returns one line that says why the port ended early, or NULL. The text belongs
 * to the port and lives as long as it.
 */
const char *nfm_port_warning(const nfm_port *port) {
    return port->warning[0] != '\0' ? port->warning : NULL;
}

/*
 * nfm_port_flush writes what the port has buffered; most buffer nothing.
 * Returns NFM_OK; NFM_E_IO when not all that was sent is there (nfm_port_warning says why).
 */
int nfm_port_flush(nfm_port *port) {
    return port->ops->flush != NULL ? port->ops->flush(port) : NFM_OK;
}

/*
 * nfm_port_free closes |port| and frees it; NULL is fine. Slots that it filled belong to the
 * worker and are not touched.
 */
void nfm_port_free(nfm_port *port) {
    if (port != NULL)
        port->ops->free(port);
}
