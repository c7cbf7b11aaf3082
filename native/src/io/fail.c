/* SPDX-License-Identifier: Apache-2.0 */
#include "io/fail.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void __attribute__((format(printf, 3, 0)))
write_line(char *text, size_t room, const char *format, va_list args) {
    vsnprintf(text, room, format, args);
    for (char *p = text; *p != '\0'; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
}

int nfm_io_fail(nfm_error *err, int code, const char *format, ...) {
    if (err == NULL)
        return code;
    va_list args;
    va_start(args, format);
    write_line(err->text, sizeof(err->text), format, args);
    va_end(args);
    err->code = code;
    return code;
}

void nfm_io_say(char *text, size_t room, const char *format, ...) {
    va_list args;
    va_start(args, format);
    write_line(text, room, format, args);
    va_end(args);
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
