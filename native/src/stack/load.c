/* SPDX-License-Identifier: Apache-2.0 */
/* Modules compiled by third parties: a shared object that links to libnfm and exports a descriptor.
 */
#include <dlfcn.h>
#include <stdio.h>

#include "nfm/module.h"

const nfm_module *nfm_module_load(const char *path, const char *symbol, nfm_error *err) {
    /* The handle stays open for the life of the process: descriptors point into the library. */
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const nfm_module *module = library == NULL ? NULL : dlsym(library, symbol);
    if (module == NULL) {
        const char *why = dlerror();
        err->code = NFM_E_IO;
        snprintf(err->text, sizeof(err->text), "%s: %s", path, why ? why : "no such module");
        return NULL;
    }
    if (module->abi != NFM_MODULE_ABI) {
        err->code = NFM_E_ABI;
        snprintf(err->text, sizeof(err->text),
                 "%s: %s is built for module ABI %u, this library has %u: compile it again", path,
                 symbol, module->abi, NFM_MODULE_ABI);
        return NULL;
    }
    return module;
}
