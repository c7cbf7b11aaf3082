/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * While nothing is recorded a tee costs a call. While something is, each frame that came, and each
 * that the inner port took to be sent, is put to the recorder. Slots that were handed to the inner
 * port are held until that is done: they may be sent and free before tx returns. Whatever happens
 * to the file, the port goes on.
 */
#include "io/fail.h"
#include "io/recorder.h"
#include "io/wrap.h"

#include <stdlib.h>
#include <time.h>

typedef struct tee_port {
    nfm_wrap wrap;
    nfm_recorder recorder;
} tee_port;

static int tee_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    tee_port *self = (tee_port *)port;
    int got = nfm_wrap_rx(port, pool, frames, n);
    if (got <= 0)
        return got;
    if (!nfm_recorder_wants(&self->recorder, NFM_DIR_RX)) {
        nfm_recorder_miss(&self->recorder, NFM_DIR_RX, (uint32_t)got);
        return got;
    }
    for (int i = 0; i < got; i++) {
        const nfm_captured_frame frame = {.data =
                                              nfm_pool_addr(pool, frames[i].slot) + NFM_HEADROOM,
                                          .len = frames[i].len,
                                          .wire_len = frames[i].wire_len,
                                          .ts_ns = frames[i].ts_ns,
                                          .way = NFM_DIR_RX};
        nfm_recorder_put(&self->recorder, &frame, frames[i].link_type);
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
        nfm_recorder_put(&self->recorder, &frame, self->recorder.config.link_type);
    }
}

static int tee_tx(nfm_port *port, nfm_pool *pool, const nfm_tx *frames, uint32_t n) {
    tee_port *self = (tee_port *)port;
    if (!nfm_recorder_wants(&self->recorder, NFM_DIR_TX)) {
        int taken = nfm_wrap_tx(port, pool, frames, n);
        nfm_recorder_miss(&self->recorder, NFM_DIR_TX, taken > 0 ? (uint32_t)taken : 0);
        return taken;
    }
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
    (void)nfm_recorder_finish(&self->recorder, NULL);
    nfm_wrap_free(port);
}

static const nfm_port_ops tee_ops = {.name = "tee",
                                     .rx = tee_rx,
                                     .tx = tee_tx,
                                     .poll = nfm_wrap_poll,
                                     .wait_fd = nfm_wrap_wait_fd,
                                     .detach = nfm_wrap_detach,
                                     .flush = nfm_wrap_flush,
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

/*
 * nfm_port_tee_start begins a recording into the file of |config|, which is created or emptied. The
 * filter is borrowed until nfm_port_tee_stop. Counters begin at 0.
 * Returns NFM_OK; NFM_E_INVAL; NFM_E_STATE: the last recording was not stopped; NFM_E_IO.
 */
int nfm_port_tee_start(nfm_port *port, const nfm_tee_config *config, nfm_error *err) {
    tee_port *self = (tee_port *)port;
    if (!is_tee(port))
        return nfm_io_fail(err, NFM_E_INVAL, "tee: this port has none");
    if (self->recorder.spool != NULL)
        return nfm_io_fail(err, NFM_E_STATE, "tee: a recording is under way; stop it first");
    return nfm_recorder_begin(&self->recorder, config, err);
}

/*
 * nfm_port_tee_end says that nothing follows; nfm_tee_stats says when all is written. Does not
 * wait. Returns NFM_OK, or NFM_E_INVAL: this port has no tee.
 */
int nfm_port_tee_end(nfm_port *port) {
    if (!is_tee(port))
        return NFM_E_INVAL;
    nfm_recorder_end(&((tee_port *)port)->recorder);
    return NFM_OK;
}

/*
 * nfm_port_tee_stop ends the recording and waits until the file is written; none is fine.
 * Returns NFM_OK; NFM_E_IO with the reason in |err|: the file is not whole; NFM_E_INVAL.
 */
int nfm_port_tee_stop(nfm_port *port, nfm_error *err) {
    if (!is_tee(port))
        return nfm_io_fail(err, NFM_E_INVAL, "tee: this port has none");
    return nfm_recorder_finish(&((tee_port *)port)->recorder, err);
}

/*
 * nfm_port_tee_stats copies the counters of this recording, or of the last one, to |out|.
 * Returns NFM_OK, or NFM_E_INVAL: this port has no tee.
 */
int nfm_port_tee_stats(const nfm_port *port, nfm_tee_stats *out) {
    if (!is_tee(port))
        return NFM_E_INVAL;
    nfm_recorder_stats(&((const tee_port *)port)->recorder, out);
    return NFM_OK;
}
