/* SPDX-License-Identifier: Apache-2.0 */
/* Several captures as one, in the order of their frames' times. */
#include "io/fail.h"
#include "io/pcap_file.h"

#include <stdlib.h>
#include <unistd.h>

typedef struct part {
    nfm_pcap_file file;
    nfm_captured next;
    bool has_next, is_open;
} part;

static void advance(part *p) {
    p->has_next = nfm_pcap_file_next(&p->file, &p->next) == 1;
}

/* The part with the earliest frame; of equals the first. NULL: all are at their end. */
static part *earliest(part *parts, uint32_t n) {
    part *found = NULL;
    for (uint32_t i = 0; i < n; i++)
        if (parts[i].has_next && (found == NULL || parts[i].next.ts_ns < found->next.ts_ns))
            found = &parts[i];
    return found;
}

/* Opens the parts that there are. */
static int open_all(part *parts, const char *const *paths, uint32_t n, nfm_error *err) {
    for (uint32_t i = 0; i < n; i++) {
        if (access(paths[i], F_OK) != 0)
            continue;
        int rc = nfm_pcap_file_open(&parts[i].file, paths[i], err);
        if (rc != NFM_OK)
            return rc;
        parts[i].is_open = true;
        advance(&parts[i]);
    }
    return NFM_OK;
}

static int write_all(part *parts, uint32_t n, nfm_pcap_writer *writer) {
    for (part *p = earliest(parts, n); p != NULL; p = earliest(parts, n)) {
        const nfm_captured *c = &p->next;
        if (nfm_pcap_writer_write(writer, c->data, c->len, c->wire_len, c->ts_ns) != NFM_OK)
            return NFM_E_IO;
        advance(p);
    }
    return NFM_OK;
}

/*
 * nfm_pcap_merge writes the frames of |n| captures, each in the order of its times, to one; |path|
 * and |format| are as for nfm_pcap_writer_open, the link type is that of the first frame. Parts
 * that are not there count as empty. Returns NFM_OK, or a negative status with a line in |err|.
 */
int nfm_pcap_merge(const char *const *parts, uint32_t n, const char *path, int format,
                   nfm_error *err) {
    part *open = calloc(n > 0 ? n : 1, sizeof(*open));
    if (open == NULL)
        return nfm_io_fail(err, NFM_E_NOMEM, "%.300s: no memory to write it; free some", path);
    int rc = open_all(open, parts, n, err);
    const part *first = earliest(open, n);
    uint32_t link_type = first != NULL ? first->next.link_type : 1; /* none: Ethernet's */
    nfm_pcap_writer *writer =
        rc == NFM_OK ? nfm_pcap_writer_open(path, format, link_type, 0, err) : NULL;
    if (rc == NFM_OK && writer == NULL)
        rc = NFM_E_IO;
    if (rc == NFM_OK) {
        rc = write_all(open, n, writer);
        int closed = nfm_pcap_writer_close(writer, err);
        rc = rc == NFM_OK ? closed : rc;
    }
    for (uint32_t i = 0; i < n; i++)
        if (open[i].is_open)
            nfm_pcap_file_close(&open[i].file);
    free(open);
    return rc;
}
