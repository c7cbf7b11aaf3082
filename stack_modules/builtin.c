/* SPDX-License-Identifier: Apache-2.0 */
/* The modules that ship with the library. Adding one: its folder and one line here. */
#include "nfm/module.h"

extern const nfm_module nfm_module_ip_defrag;
extern const nfm_module nfm_module_tcp_track;
extern const nfm_module nfm_module_tcp_stream;
extern const nfm_module nfm_module_udp;
extern const nfm_module nfm_module_dns;
extern const nfm_module nfm_module_http;

const nfm_module *const *nfm_builtin_modules(uint32_t *n) {
    static const nfm_module *const modules[] = {
        &nfm_module_ip_defrag, &nfm_module_tcp_track, &nfm_module_tcp_stream,
        &nfm_module_udp,       &nfm_module_dns,       &nfm_module_http,
    };
    *n = sizeof(modules) / sizeof(modules[0]);
    return modules;
}
