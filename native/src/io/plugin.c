/* SPDX-License-Identifier: Apache-2.0 */
/* Loads the libraries of ports that are not part of libnfm, and says what to install. */
#include "io/plugin.h"

#include "io/fail.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct plugin_file {
    const char *name; /* of the port: "dpdk" */
    const char *file;
    const char *runtime; /* Debian packages that running needs */
    const char *build;   /* and building */
    uint32_t config_size;
} plugin_file;

static const plugin_file dpdk_file = {"dpdk", "libnfm_dpdk.so", "dpdk", "libdpdk-dev pkg-config",
                                      sizeof(nfm_dpdk_config)};
static const plugin_file afxdp_file = {"afxdp", "libnfm_afxdp.so", "libxdp1 libbpf1",
                                       "libxdp-dev libbpf-dev pkg-config",
                                       sizeof(nfm_afxdp_config)};

/* The library's path: beside the object that this function lies in. */
static void find_path(const plugin_file *which, char *path, size_t size) {
    Dl_info own;
    const char *slash = NULL;
    if (dladdr((const void *)&nfm_port_free, &own) != 0 && own.dli_fname != NULL)
        slash = strrchr(own.dli_fname, '/');
    int folder = slash != NULL ? (int)(slash - own.dli_fname) + 1 : 0;
    snprintf(path, size, "%.*s%s", folder, slash != NULL ? own.dli_fname : "", which->file);
}

static const nfm_port_plugin_info *refuse(const plugin_file *which, const char *path,
                                          nfm_error *err) {
    if (access(path, F_OK) != 0)
        nfm_io_fail(err, NFM_E_IO,
                    "%s: this build of nfmesh is without it (no %.250s); install %s and build "
                    "again (make setup)",
                    which->name, path, which->build);
    else
        nfm_io_fail(err, NFM_E_IO, "%s: %.300s; install the package %s", which->name, dlerror(),
                    which->runtime);
    return NULL;
}

/* The library's description, checked. The library stays loaded for the life of the process. */
static const nfm_port_plugin_info *load(const plugin_file *which, nfm_error *err) {
    char path[PATH_MAX];
    find_path(which, path, sizeof(path));
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return refuse(which, path, err);
    const nfm_port_plugin_info *info = dlsym(library, "nfm_port_plugin");
    const nfm_port_plugin_info want = {.magic = NFM_PORT_PLUGIN_MAGIC,
                                       .abi = NFM_PORT_PLUGIN_ABI,
                                       .port_size = sizeof(nfm_port) + sizeof(nfm_port_ops),
                                       .pool_size = sizeof(nfm_pool),
                                       .config_size = which->config_size};
    if (info != NULL && memcmp(info, &want, offsetof(nfm_port_plugin_info, open)) == 0)
        return info;
    nfm_io_fail(err, NFM_E_ABI, "%s: %.300s is of another build of nfmesh: build both again",
                which->name, path);
    return NULL;
}

/*
 * nfm_port_dpdk_open loads the DPDK plugin and opens a queue of an ethdev (nfm_abi.h). The caller
 * frees the port with nfm_port_free, after its worker.
 * Returns NULL with a line in |err|: which package, right or huge page is missing.
 */
nfm_port *nfm_port_dpdk_open(const nfm_dpdk_config *config, nfm_error *err) {
    const nfm_port_plugin_info *info = load(&dpdk_file, err);
    return info != NULL ? info->open(config, err) : NULL;
}

/*
 * nfm_port_afxdp_open loads the AF_XDP plugin and opens a queue of an interface (nfm_abi.h). The
 * caller frees the port with nfm_port_free, after its worker.
 * Returns NULL with a line in |err|: which package or capability is missing.
 */
nfm_port *nfm_port_afxdp_open(const nfm_afxdp_config *config, nfm_error *err) {
    const nfm_port_plugin_info *info = load(&afxdp_file, err);
    return info != NULL ? info->open(config, err) : NULL;
}
