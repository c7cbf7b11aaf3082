/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Each frame is judged by the filter and copied into the spool, whose thread writes the file. The
 * filter sees a frame as the first of a flow: headers parsed anew, no history. It is asked through
 * the public interface, as by any tool; this folder knows nothing of parsing.
 *
 * Whatever happens to the file ends the recording and nothing else: the disk full, the reader of a
 * pipe gone, limits reached, the spool full (that frame is lost, and counted). What was received
 * and lost stands in the file's last block.
 */
#include "io/recorder.h"

#include "base/ring.h"
#include "io/fail.h"

#include <stdlib.h>

enum {
    ETHERNET = 1, /* LINKTYPE_ETHERNET */
    DEFAULT_BUFFER = 4 << 20,
    MIN_BUFFER = 256 << 10, /* some of the largest frames */
    MAX_BUFFER = 1 << 30,
    TUNNEL_DEPTH = 4,
};

/* Whether the filter wants the frame. */
static bool matches(const nfm_filter *filter, const nfm_captured_frame *frame, uint32_t link_type) {
    nfm_record record;
    nfm_flow_info flow;
    uint8_t answer = 0;
    (void)nfm_parse_frame(frame->data, frame->len, frame->wire_len, link_type, TUNNEL_DEPTH,
                          &record, &flow);
    record.ts_ns = frame->ts_ns;
    record.slot = 0;
    /* A pool of one slot, whose frame this is; what would lie before it is not read. */
    const nfm_mem mem = {.packets = frame->data - NFM_HEADROOM,
                         .records = &record,
                         .flows = &flow,
                         .n_small = 1,
                         .n_slots = 1,
                         .n_records = 1,
                         .n_flows = 1};
    const nfm_desc desc = {.record = 0, .flow = 0};
    nfm_filter_select(filter, &mem, &desc, 1, &answer);
    return answer != 0;
}

static bool is_at_limit(const nfm_recorder *self) {
    return (self->config.max_frames > 0 && self->stats.recorded >= self->config.max_frames) ||
           (self->config.max_bytes > 0 && self->stats.bytes >= self->config.max_bytes);
}

static void end_recording(nfm_recorder *self) {
    self->stats.recording = 0;
    nfm_spool_end(self->spool, self->stats.seen - self->stats.not_matched, self->stats.lost);
}

void nfm_recorder_put(nfm_recorder *self, const nfm_captured_frame *frame, uint32_t link_type) {
    if (!self->stats.recording)
        return;
    self->stats.seen++;
    if (link_type != self->config.link_type ||
        (self->config.filter != NULL && !matches(self->config.filter, frame, link_type))) {
        self->stats.not_matched++;
        return;
    }
    nfm_spool_frame spooled = {.captured = *frame, .keep = frame->len};
    if (self->config.snaplen > 0 && spooled.keep > self->config.snaplen)
        spooled.keep = self->config.snaplen;
    if (!nfm_spool_put(self->spool, &spooled)) {
        self->stats.lost++;
        return;
    }
    self->stats.recorded++;
    self->stats.bytes += spooled.keep;
    if (is_at_limit(self))
        end_recording(self);
}

bool nfm_recorder_wants(nfm_recorder *self, uint32_t direction) {
    if (!self->stats.recording || !(self->config.direction & direction))
        return false;
    if (nfm_spool_failed(self->spool))
        end_recording(self);
    return self->stats.recording != 0;
}

void nfm_recorder_miss(nfm_recorder *self, uint32_t direction, uint32_t n) {
    bool has_failed = self->spool != NULL ? nfm_spool_failed(self->spool) : self->stats.failed != 0;
    if (has_failed && self->config.direction & direction)
        self->stats.lost += n;
}

static int complete(nfm_tee_config *c, nfm_error *err) {
    c->direction = c->direction == 0 ? NFM_DIR_BOTH : c->direction;
    c->buffer = c->buffer == 0 ? DEFAULT_BUFFER : c->buffer;
    c->link_type = c->link_type == 0 ? ETHERNET : c->link_type;
    if (c->max_file > 0 && c->max_files == 0)
        return nfm_io_fail(err, NFM_E_INVAL, "tee: keep one file at least");
    if (c->path == NULL || c->direction > NFM_DIR_BOTH)
        return nfm_io_fail(err, NFM_E_INVAL,
                           "tee: it takes a path; directions are 1 rx, 2 tx, 3 both");
    if (c->buffer < MIN_BUFFER || c->buffer > MAX_BUFFER || (c->buffer & (c->buffer - 1)) != 0)
        return nfm_io_fail(err, NFM_E_INVAL,
                           "tee: a buffer of %u bytes; it must be a power of two, %d to %d",
                           c->buffer, MIN_BUFFER, MAX_BUFFER);
    return NFM_OK;
}

int nfm_recorder_begin(nfm_recorder *self, const nfm_tee_config *config, nfm_error *err) {
    nfm_tee_config c = *config;
    int rc = complete(&c, err);
    if (rc != NFM_OK)
        return rc;
    const nfm_spool_config spool = {.path = c.path,
                                    .link_type = c.link_type,
                                    .bytes = c.buffer,
                                    .max_file = c.max_file,
                                    .max_files = c.max_files};
    self->spool = nfm_spool_open(&spool, err);
    if (self->spool == NULL)
        return NFM_E_IO;
    self->config = c;
    self->config.path = NULL; /* not kept */
    self->stats = (nfm_tee_stats){.recording = 1};
    return NFM_OK;
}

int nfm_recorder_finish(nfm_recorder *self, nfm_error *err) {
    nfm_tee_stats last;
    if (self->spool == NULL)
        return NFM_OK;
    nfm_recorder_end(self);
    nfm_spool_wait(self->spool);
    nfm_recorder_stats(self, &last);
    int rc = nfm_spool_close(self->spool, err);
    self->spool = NULL;
    self->config.filter = NULL;
    self->stats = last;
    self->stats.failed = rc != NFM_OK;
    self->stats.ended = 1;
    return rc;
}

/* ---- what an NF is handed ------------------------------------------------------------------- */

/*
 * nfm_recorder_open begins a recording that belongs to no port: of the entries of a ring that
 * nfm_recorder_take is shown. The filter is borrowed.
 * Returns NULL with the reason in |err|. nfm_recorder_close frees it.
 */
nfm_recorder *nfm_recorder_open(const nfm_tee_config *config, nfm_error *err) {
    nfm_recorder *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        nfm_io_fail(err, NFM_E_NOMEM, "no memory to record; free some");
        return NULL;
    }
    if (nfm_recorder_begin(self, config, err) == NFM_OK)
        return self;
    free(self);
    return NULL;
}

static bool passes(const nfm_ring *ring, uint64_t position) {
    uint32_t action = *nfm_ring_verdict_of(ring, position) & 0xff;
    return action != NFM_DROP && action != NFM_REJECT && action != NFM_KEEP;
}

/*
 * nfm_recorder_take records the packets of the next |n| entries of |ring|, whose receiver has seen
 * and not passed them: as received what it was handed, as sent what its verdicts let pass. Several
 * entries about one packet count once. Records without a whole frame are not matched.
 */
void nfm_recorder_take(nfm_recorder *self, const nfm_ring *ring, const nfm_mem *mem, uint32_t n) {
    uint64_t last = 0;
    if (!nfm_recorder_wants(self, NFM_DIR_BOTH))
        return;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t position = ring->tail + i;
        const nfm_desc *desc = &ring->desc[position & ring->mask];
        if (desc->record >= mem->n_records || mem->records[desc->record].packet == last)
            continue;
        const nfm_record *record = &mem->records[desc->record];
        nfm_view view = nfm_record_frame(mem, record);
        uint32_t link_type = record->flags & (NFM_F_NOT_ETHERNET | NFM_F_PART) ? 0 : ETHERNET;
        nfm_captured_frame frame = {.data = view.data,
                                    .len = view.len,
                                    .wire_len = record->kind == NFM_REC_FLOW ? 0 : record->wire_len,
                                    .ts_ns = record->ts_ns,
                                    .way = NFM_DIR_RX};
        last = record->packet;
        if (view.data == NULL)
            continue;
        if (self->config.direction & NFM_DIR_RX)
            nfm_recorder_put(self, &frame, link_type);
        frame.way = NFM_DIR_TX;
        if (self->config.direction & NFM_DIR_TX && passes(ring, position))
            nfm_recorder_put(self, &frame, link_type);
    }
}

/*
 * nfm_recorder_end says that nothing follows; the thread writes what it has. Does not wait.
 */
void nfm_recorder_end(nfm_recorder *self) {
    if (self->stats.recording)
        end_recording(self);
}

/*
 * nfm_recorder_stats copies the counters to |out|.
 */
void nfm_recorder_stats(const nfm_recorder *self, nfm_tee_stats *out) {
    *out = self->stats;
    if (self->spool == NULL)
        return;
    out->written = nfm_spool_written(self->spool);
    out->files = nfm_spool_files(self->spool);
    out->failed = nfm_spool_failed(self->spool);
    out->recording = self->stats.recording && !out->failed;
    out->ended = nfm_spool_has_ended(self->spool);
}

/*
 * nfm_recorder_close ends the recording, waits until the file is written, and frees; NULL is fine.
 * Returns NFM_OK, or NFM_E_IO with the reason in |err|.
 */
int nfm_recorder_close(nfm_recorder *self, nfm_error *err) {
    if (self == NULL)
        return NFM_OK;
    int rc = nfm_recorder_finish(self, err);
    free(self);
    return rc;
}
