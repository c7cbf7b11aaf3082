/* SPDX-License-Identifier: Apache-2.0 */
/* A file and the older ones beside it: x.pcapng, x.1.pcapng (the last one before), x.2.pcapng, ...
 */
#ifndef NFM_IO_ROTATE_H
#define NFM_IO_ROTATE_H

#include "nfm/nfm.h"

/*
 * nfm_rotate gives the file |path| and those before it the next higher number; the oldest of
 * |n_files| goes. Devices and pipes keep their names. There is a |path| then, made for this user
 * alone if there was none.
 * Returns NFM_OK; NFM_E_IO or NFM_E_INVAL (a name that is too long) with the reason in |err|.
 */
int nfm_rotate(const char *path, uint32_t n_files, nfm_error *err);

#endif
