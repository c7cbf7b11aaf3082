/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A capture file as a port.
 *
 * Theory of operation. A capture ends once, or is read again and again: then the file is opened
 * anew at its end, its times go on PAUSE_NS after the last frame of the pass before, and its IPv4
 * addresses are others (io/again.h): the same segments of the same flow would be old duplicates. A
 * pass without any frame ends the port, as does a file that cannot be opened any more.
 */
#include "io/again.h"
#include "io/fail.h"
#include "io/pcap_file.h"
#include "io/port.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How far ahead of the packet at hand the file is pulled into the cache. */
#define PREFETCH_AHEAD 1024
/* From the last frame of a pass to the first one of the next. */
#define PAUSE_NS INT64_C(100000000)

typedef struct nfm_port_pcap {
    nfm_port port;
    nfm_pcap_file file;
    nfm_captured next; /* read from the file, not yet in a slot */
    bool has_next;
    char *path;                     /* of a capture that begins again; NULL: it ends */
    uint64_t pass, shift;           /* of the addresses in this pass, 0: none */
    int64_t shift_ns;               /* added to the times of this pass */
    int64_t last_ns;                /* of the frame handed out last */
    uint64_t oversize, bad_records; /* of passes before this one */
} nfm_port_pcap;

/* Copies what the reader counted; at the end also why it ended. */
static void report(nfm_port_pcap *self) {
    nfm_port_stats *stats = &self->port.stats;
    stats->rx_oversize = self->oversize + self->file.oversize;
    stats->rx_bad_record = self->bad_records + self->file.bad_records;
    stats->file_offset = nfm_input_consumed(&self->file.input);
    if (self->file.ended) {
        static_assert(sizeof(self->port.warning) == sizeof(self->file.warning), "same text");
        memcpy(self->port.warning, self->file.warning, sizeof(self->port.warning));
    }
}

/* Opens the file anew and reads its first frame. False: it is over, self->next is not filled. */
static bool begin_again(nfm_port_pcap *self) {
    nfm_error error;
    if (self->file.packets == 0)
        return false;
    uint64_t oversize = self->file.oversize, bad_records = self->file.bad_records;
    nfm_pcap_file_close(&self->file);
    memset(&self->file, 0, sizeof(self->file));
    self->oversize += oversize;
    self->bad_records += bad_records;
    if (nfm_pcap_file_open(&self->file, self->path, &error) != NFM_OK) {
        snprintf(self->file.warning, sizeof(self->file.warning), "%.200s", error.text);
        self->file.ended = true;
        return false;
    }
    if (nfm_pcap_file_next(&self->file, &self->next) == 0)
        return false;
    self->shift_ns = self->last_ns + PAUSE_NS - self->next.ts_ns;
    self->shift = nfm_again_shift(++self->pass);
    return true;
}

static bool read_next(nfm_port_pcap *self) {
    if (self->has_next || nfm_pcap_file_next(&self->file, &self->next) != 0)
        return true;
    return self->path != NULL && begin_again(self);
}

static void move_addresses(const nfm_port_pcap *self, uint8_t *frame) {
    uint32_t at = nfm_again_addresses(self->next.link_type, frame, self->next.len);
    if (at != 0)
        nfm_again_move(frame + at, frame + at, self->shift);
}

static int pcap_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    nfm_port_pcap *self = (nfm_port_pcap *)port;
    nfm_captured *next = &self->next;
    uint32_t done = 0;
    while (done < n) {
        if (!read_next(self))
            break;
        uint32_t slot = nfm_pool_get(pool, next->len);
        self->has_next = slot == NFM_NO_SLOT;
        if (self->has_next)
            break;
        __builtin_prefetch(next->data + next->len + PREFETCH_AHEAD);
        uint8_t *to = nfm_pool_addr(pool, slot);
        memset(to, 0, sizeof(nfm_slot_meta)); /* a capture's frames are whole */
        memcpy(to + NFM_HEADROOM, next->data, next->len);
        if (self->shift != 0)
            move_addresses(self, to + NFM_HEADROOM);
        frames[done++] = (nfm_frame){.slot = slot,
                                     .len = next->len,
                                     .wire_len = next->wire_len,
                                     .link_type = next->link_type,
                                     .ts_ns = next->ts_ns + self->shift_ns};
        self->last_ns = frames[done - 1].ts_ns;
        port->stats.rx_bytes += next->len;
        port->stats.rx_truncated += next->len < next->wire_len;
    }
    port->stats.rx_packets += done;
    report(self);
    return done == 0 && !self->has_next && n > 0 ? NFM_E_EOF : (int)done;
}

static void pcap_free(nfm_port *port) {
    nfm_port_pcap *self = (nfm_port_pcap *)port;
    nfm_pcap_file_close(&self->file);
    free(self->path);
    free(self);
}

static const nfm_port_ops pcap_ops = {.name = "pcap", .rx = pcap_rx, .free = pcap_free};

/*
 * nfm_port_pcap_open opens the capture |path|: pcap or pcapng, plain or gzipped. The caller frees
 * the port with nfm_port_free.
 * Returns NULL with one line in |err| that names the file, what is wrong and what to do.
 */
nfm_port *nfm_port_pcap_open(const char *path, nfm_error *err) {
    nfm_port_pcap *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        nfm_io_fail(err, NFM_E_NOMEM, "%.300s: no memory to read it; free some", path);
        return NULL;
    }
    if (nfm_pcap_file_open(&self->file, path, err) != NFM_OK) {
        free(self);
        return NULL;
    }
    self->port.ops = &pcap_ops;
    self->port.stats.file_size = self->file.input.map_len;
    return &self->port;
}

/*
 * nfm_port_pcap_loop_open opens the capture |path| like nfm_port_pcap_open, to be read again and
 * again: times go on from pass to pass.
 * Returns NULL with one line in |err| that names the file, what is wrong and what to do.
 */
nfm_port *nfm_port_pcap_loop_open(const char *path, nfm_error *err) {
    char *copy = strdup(path);
    nfm_port *port = copy == NULL ? NULL : nfm_port_pcap_open(path, err);
    if (copy == NULL)
        nfm_io_fail(err, NFM_E_NOMEM, "%.300s: no memory to read it; free some", path);
    if (port == NULL) {
        free(copy);
        return NULL;
    }
    ((nfm_port_pcap *)port)->path = copy;
    return port;
}
