/* SPDX-License-Identifier: Apache-2.0 */
#include "io/rotate.h"

#include "io/fail.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Writes the name of the |n|th file before |path|: the number stands before the extension. False:
 * it is too long. */
static bool name_of(const char *path, uint32_t n, char out[PATH_MAX]) {
    const char *slash = strrchr(path, '/'), *file = slash == NULL ? path : slash + 1;
    const char *dot = strrchr(file, '.');
    size_t stem = dot == NULL || dot == file ? strlen(path) : (size_t)(dot - path);
    int len = n == 0 ? snprintf(out, PATH_MAX, "%s", path)
                     : snprintf(out, PATH_MAX, "%.*s.%u%s", (int)stem, path, n, path + stem);
    return len >= 0 && len < PATH_MAX;
}

static int make_empty(const char *path, nfm_error *err) {
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0600);
    if (fd < 0)
        return nfm_io_fail_errno(err, path, "write", errno);
    close(fd);
    return NFM_OK;
}

int nfm_rotate(const char *path, uint32_t n_files, nfm_error *err) {
    char from[PATH_MAX], to[PATH_MAX];
    struct stat found;
    if (stat(path, &found) == 0 && !S_ISREG(found.st_mode))
        return NFM_OK;
    for (uint32_t n = n_files - 1; n > 0; n--) {
        if (!name_of(path, n - 1, from) || !name_of(path, n, to))
            return nfm_io_fail(err, NFM_E_INVAL, "%.300s: its name is too long", path);
        if (rename(from, to) < 0 && errno != ENOENT)
            return nfm_io_fail_errno(err, from, "rename", errno);
    }
    return make_empty(path, err);
}
