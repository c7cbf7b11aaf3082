/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * While nothing is recorded a tee costs a call. While something is, each frame that came, and each
 * that the inner port took to be sent, is judged by the filter and copied into the spool, whose
 * thread writes the file. Slots that were handed to the inner port are held until that is done:
 * they may be sent and free before tx returns.
 *
 * The filter sees a frame as the first of a flow: headers parsed anew, no history. It is asked
 * through the public interface, as by any tool; this folder knows nothing of parsing.
 *
 * Whatever happens to the file ends the recording, never the port: the disk full, limits reached,
 * the spool full (that frame is lost, and counted).
 */
#include "io/fail.h"
#include "io/spool.h"
#include "io/wrap.h"

#include <stdlib.h>
#include <time.h>

enum {
    ETHERNET = 1, /* LINKTYPE_ETHERNET */
    DEFAULT_BUFFER = 4 << 20,
    MIN_BUFFER = 256 << 10, /* some of the largest frames */
    MAX_BUFFER = 1 << 30,
    TUNNEL_DEPTH = 4,
};

typedef struct tee_port {
    nfm_wrap wrap;
    nfm_tee_config config;
    nfm_spool *spool; /* NULL: nothing is, or was, recorded */
    nfm_tee_stats stats;
} tee_port;

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

static bool is_at_limit(const tee_port *self) {
    return (self->config.max_frames > 0 && self->stats.recorded >= self->config.max_frames) ||
           (self->config.max_bytes > 0 && self->stats.bytes >= self->config.max_bytes);
}

static void end_recording(tee_port *self) {
    self->stats.recording = 0;
    nfm_spool_end(self->spool);
}

static void record(tee_port *self, const nfm_captured_frame *frame, uint32_t link_type) {
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

static bool records(tee_port *self, uint32_t direction) {
    if (!self->stats.recording || !(self->config.direction & direction))
        return false;
    if (nfm_spool_failed(self->spool))
        end_recording(self);
    return self->stats.recording != 0;
}

static int tee_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    tee_port *self = (tee_port *)port;
    int got = nfm_wrap_rx(port, pool, frames, n);
    if (got <= 0 || !records(self, NFM_DIR_RX))
        return got;
    for (int i = 0; i < got; i++) {
        const nfm_captured_frame frame = {.data =
                                              nfm_pool_addr(pool, frames[i].slot) + NFM_HEADROOM,
                                          .len = frames[i].len,
                                          .wire_len = frames[i].wire_len,
                                          .ts_ns = frames[i].ts_ns,
                                          .way = NFM_DIR_RX};
        record(self, &frame, frames[i].link_type);
    }
    return got;
}

static void record_sent(tee_port *self, const nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t now_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    bool live = nfm_wrap_is_live(&self->wrap);
    for (uint32_t i = 0; i < n; i++) {
        const nfm_captured_frame frame = {
            .data = nfm_pool_addr(pool, frames[i].slot) + frames[i].off,
            .len = frames[i].len,
            .wire_len = frames[i].wire_len > frames[i].len ? frames[i].wire_len : frames[i].len,
            .ts_ns = live || frames[i].ts_ns == 0 ? now_ns : frames[i].ts_ns,
            .way = NFM_DIR_TX};
        record(self, &frame, self->config.link_type);
    }
}

static int tee_tx(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    tee_port *self = (tee_port *)port;
    if (!records(self, NFM_DIR_TX))
        return nfm_wrap_tx(port, pool, frames, n);
    for (uint32_t i = 0; i < n; i++)
        nfm_pool_hold(pool, frames[i].slot);
    int sent = nfm_wrap_tx(port, pool, frames, n);
    if (sent > 0)
        record_sent(self, pool, frames, (uint32_t)sent);
    for (uint32_t i = 0; i < n; i++)
        nfm_pool_put(pool, frames[i].slot);
    return sent;
}

static void tee_free(nfm_port *port) {
    tee_port *self = (tee_port *)port;
    nfm_spool_close(self->spool, NULL);
    nfm_wrap_free(port);
}

static const nfm_port_ops tee_ops = {.name = "tee",
                                     .rx = tee_rx,
                                     .tx = tee_tx,
                                     .poll = nfm_wrap_poll,
                                     .wait_fd = nfm_wrap_wait_fd,
                                     .detach = nfm_wrap_detach,
                                     .free = tee_free};

/*
 * nfm_port_tee_new makes a port around |inner| that can record what passes, and owns it from then
 * on.
 * Returns NULL with the reason in |err|; |inner| stays the caller's then.
 */
nfm_port *nfm_port_tee_new(nfm_port *inner, nfm_error *err) {
    tee_port *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        nfm_io_fail(err, NFM_E_NOMEM, "tee: no memory for a port; free some");
        return NULL;
    }
    nfm_wrap_init(&self->wrap, inner, &tee_ops);
    return &self->wrap.port;
}

static bool is_tee(const nfm_port *port) {
    return port != NULL && port->ops->rx == tee_rx;
}

static int complete(nfm_tee_config *c, nfm_error *err) {
    c->direction = c->direction == 0 ? NFM_DIR_BOTH : c->direction;
    c->buffer = c->buffer == 0 ? DEFAULT_BUFFER : c->buffer;
    c->link_type = c->link_type == 0 ? ETHERNET : c->link_type;
    if (c->path == NULL || c->direction > NFM_DIR_BOTH)
        return nfm_io_fail(err, NFM_E_INVAL,
                           "tee: it takes a path; directions are 1 rx, 2 tx, 3 both");
    if (c->buffer < MIN_BUFFER || c->buffer > MAX_BUFFER || (c->buffer & (c->buffer - 1)) != 0)
        return nfm_io_fail(err, NFM_E_INVAL,
                           "tee: a buffer of %u bytes; it must be a power of two, %d to %d",
                           c->buffer, MIN_BUFFER, MAX_BUFFER);
    return NFM_OK;
}

/*
 * nfm_port_tee_start begins a recording into the file of |config|, which is created or emptied. The
 * filter is borrowed until nfm_port_tee_stop. Counters begin at 0.
 * Returns NFM_OK; NFM_E_INVAL; NFM_E_STATE: the last recording was not stopped; NFM_E_IO.
 */
int nfm_port_tee_start(nfm_port *port, const nfm_tee_config *config, nfm_error *err) {
    tee_port *self = (tee_port *)port;
    nfm_tee_config c = *config;
    if (!is_tee(port))
        return nfm_io_fail(err, NFM_E_INVAL, "tee: this port has none");
    if (self->spool != NULL)
        return nfm_io_fail(err, NFM_E_STATE, "tee: a recording is under way; stop it first");
    int rc = complete(&c, err);
    if (rc != NFM_OK)
        return rc;
    self->spool = nfm_spool_open(c.path, c.link_type, c.buffer, err);
    if (self->spool == NULL)
        return NFM_E_IO;
    self->config = c;
    self->config.path = NULL; /* not kept */
    self->stats = (nfm_tee_stats){.recording = 1};
    return NFM_OK;
}

/*
 * nfm_port_tee_stop ends the recording and waits until the file is written; none is fine.
 * Returns NFM_OK; NFM_E_IO with the reason in |err|: the file is not whole; NFM_E_INVAL.
 */
int nfm_port_tee_stop(nfm_port *port, nfm_error *err) {
    tee_port *self = (tee_port *)port;
    if (!is_tee(port))
        return nfm_io_fail(err, NFM_E_INVAL, "tee: this port has none");
    if (self->spool == NULL)
        return NFM_OK;
    end_recording(self);
    nfm_tee_stats last;
    (void)nfm_port_tee_stats(port, &last);
    int rc = nfm_spool_close(self->spool, err);
    self->spool = NULL;
    self->config.filter = NULL;
    self->stats = last;
    self->stats.failed = rc != NFM_OK;
    if (rc == NFM_OK)
        self->stats.written = self->stats.recorded;
    return rc;
}

/*
 * nfm_port_tee_stats copies the counters of this recording, or of the last one, to |out|.
 * Returns NFM_OK, or NFM_E_INVAL: this port has no tee.
 */
int nfm_port_tee_stats(const nfm_port *port, nfm_tee_stats *out) {
    const tee_port *self = (const tee_port *)port;
    if (!is_tee(port))
        return NFM_E_INVAL;
    *out = self->stats;
    if (self->spool != NULL) {
        out->written = nfm_spool_written(self->spool);
        out->failed = nfm_spool_failed(self->spool);
        out->recording = self->stats.recording && !out->failed;
    }
    return NFM_OK;
}
