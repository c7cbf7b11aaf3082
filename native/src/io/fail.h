/* SPDX-License-Identifier: Apache-2.0 */
/* One-line error texts of the ports. */
#ifndef NFM_IO_FAIL_H
#define NFM_IO_FAIL_H

#include "nfm/nfm.h"

/*
 * nfm_io_fail writes |code| and a formatted line into |err| (may be NULL); control characters,
 * as file names may hold them, become '?'. Returns |code|.
 */
int nfm_io_fail(nfm_error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Writes such a line to |text|, cut to |room| bytes: a port's warning. */
void nfm_io_say(char *text, size_t room, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* nfm_io_fail for a failed system call on |path|: adds the reason of |errnum| and a remedy. */
int nfm_io_fail_errno(nfm_error *err, const char *path, const char *what, int errnum);

#endif
