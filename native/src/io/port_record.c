/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A capture file as a sink. Writes are the worker's own and wait for the disk: nothing is lost, as
 * in a run from file to file. Once a write fails (disk full) the link is down: frames are refused,
 * whoever sends them counts, and the worker goes on.
 */
#include "io/fail.h"
#include "io/port.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct record_port {
    nfm_port port;
    nfm_pcap_writer *writer; /* NULL: it failed */
} record_port;

/* A sink has nothing to say, and never ends: the other ports do. */
static int record_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    (void)port;
    (void)pool;
    (void)frames;
    (void)n;
    return NFM_E_EOF;
}

/* Ends the file and says why. */
static void give_up(record_port *self) {
    nfm_error err = {0};
    nfm_pcap_writer_close(self->writer, &err);
    self->writer = NULL;
    self->port.stats.link_up = 0;
    self->port.stats.link_changes++;
    snprintf(self->port.warning, sizeof(self->port.warning), "%.255s", err.text);
}

static int record_tx(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    record_port *self = (record_port *)port;
    uint32_t done = 0;
    if (self->writer == NULL)
        return NFM_E_IO;
    for (; done < n; done++) {
        const nfm_tx *frame = &frames[done];
        const uint8_t *data = nfm_pool_addr(pool, frame->slot) + frame->off;
        if (nfm_pcap_writer_write(self->writer, data, frame->len, frame->wire_len, frame->ts_ns) !=
            NFM_OK) {
            give_up(self);
            break;
        }
        port->stats.tx_packets++;
        port->stats.tx_bytes += frame->len;
        nfm_pool_put(pool, frame->slot);
    }
    return done > 0 || n == 0 ? (int)done : NFM_E_IO;
}

static void record_free(nfm_port *port) {
    record_port *self = (record_port *)port;
    if (self->writer != NULL)
        nfm_pcap_writer_close(self->writer, NULL);
    free(self);
}

static int record_flush(nfm_port *port) {
    record_port *self = (record_port *)port;
    if (self->writer != NULL && nfm_pcap_writer_flush(self->writer) != NFM_OK)
        give_up(self);
    return self->writer != NULL ? NFM_OK : NFM_E_IO;
}

static const nfm_port_ops record_ops = {
    .name = "record", .rx = record_rx, .tx = record_tx, .flush = record_flush, .free = record_free};

/*
 * nfm_port_record_open creates or empties |path| as nfm_pcap_writer_open does. The caller frees the
 * port with nfm_port_free, which ends the file; nfm_port_flush before says whether it is
 * whole.
 * Returns NULL with the reason in |err|.
 */
nfm_port *nfm_port_record_open(const char *path, int format, uint32_t link_type, nfm_error *err) {
    record_port *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        nfm_io_fail(err, NFM_E_NOMEM, "%.300s: no memory to write it; free some", path);
        return NULL;
    }
    self->writer = nfm_pcap_writer_open(path, format, link_type, 0, err);
    if (self->writer == NULL) {
        free(self);
        return NULL;
    }
    self->port.ops = &record_ops;
    self->port.stats.link_up = 1;
    return &self->port;
}
