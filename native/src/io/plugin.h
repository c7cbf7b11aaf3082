/* SPDX-License-Identifier: Apache-2.0 */
/* Ports that need a library which few machines have: each is a shared object of its own beside
 * libnfm, loaded when somebody opens such a port. Nothing else links DPDK or libxdp. */
#ifndef NFM_IO_PLUGIN_H
#define NFM_IO_PLUGIN_H

#include "io/port.h"

#define NFM_PORT_PLUGIN_MAGIC 0x706d666eu /* "nfmp" */
/* Counts up when port.h or pool.h change in a way that the sizes below do not show. */
#define NFM_PORT_PLUGIN_ABI 1u

/* What the library exports under the name nfm_port_plugin. It has parts of libnfm compiled in
 * (inline functions of the pool), so it must be of the same build. */
typedef struct nfm_port_plugin_info {
    uint32_t magic, abi;
    uint32_t port_size, pool_size, config_size;
    /* |config|: the struct of nfm_abi.h. NULL with the reason in err. */
    nfm_port *(*open)(const void *config, nfm_error *err);
} nfm_port_plugin_info;

#define NFM_PORT_PLUGIN(config_type, open_fn)                                                      \
    {                                                                                              \
        .magic = NFM_PORT_PLUGIN_MAGIC, .abi = NFM_PORT_PLUGIN_ABI,                                \
        .port_size = sizeof(nfm_port) + sizeof(nfm_port_ops), .pool_size = sizeof(nfm_pool),       \
        .config_size = sizeof(config_type), .open = open_fn                                        \
    }

#endif
