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
 * nfm_port_free closes |port| and frees it; NULL is fine. Slots that it filled belong to the
 * worker and are not touched.
 */
void nfm_port_free(nfm_port *port) {
    if (port != NULL)
        port->ops->free(port);
}
