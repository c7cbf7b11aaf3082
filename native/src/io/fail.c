/* SPDX-License-Identifier: Apache-2.0 */
#include "io/fail.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int nfm_io_fail(nfm_error *err, int code, const char *format, ...) {
    if (err == NULL)
        return code;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof(err->text), format, args);
    va_end(args);
    for (char *p = err->text; *p != '\0'; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    err->code = code;
    return code;
}

static const char *remedy(int errnum) {
    switch (errnum) {
    case ENOENT:
    case ENOTDIR:
        return "check the path";
    case EACCES:
    case EPERM:
    case EROFS:
        return "change its permissions or run as a user that has them";
    case EISDIR:
        return "name a file in it";
    case ENOSPC:
    case EDQUOT:
        return "free some space or write elsewhere";
    case EMFILE:
    case ENFILE:
        return "raise the limit of open files (ulimit -n)";
    default:
        return "see whether the file system is in order";
    }
}

int nfm_io_fail_errno(nfm_error *err, const char *path, const char *what, int errnum) {
    const char *reason = strerror(errnum); /* per thread in glibc (2.32) and musl */
    int code = errnum == ENOMEM ? NFM_E_NOMEM : NFM_E_IO;
    return nfm_io_fail(err, code, "%.300s: cannot %s: %s; %s", path, what, reason, remedy(errnum));
}
