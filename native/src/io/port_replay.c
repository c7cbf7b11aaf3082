/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Frames of a recording are read ahead, a burst at a time, and handed on when they are due: as long
 * after the first one as in the recording, divided by the speed. The clock is read once per call. A
 * worker that is slower than the recording finds many frames due and takes them in bursts.
 *
 * Event time is that of the recording, and the port remains one that ends, unless |live| is asked
 * for: then frames carry the clock's time, and a timer's descriptor tells a sleeping worker that
 * the next one is due.
 */
#include "io/fail.h"
#include "io/wrap.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S INT64_C(1000000000)

typedef struct replay_port {
    nfm_wrap wrap;
    double speed;
    int64_t wait_ns;
    bool live;
    bool begun;
    int ended;                  /* what the inner port said at its end, 0: not yet */
    int64_t first_ts, begun_ns; /* of the first frame: recorded, and by the clock */
    nfm_frame ahead[NFM_BURST];
    uint32_t at, n; /* ahead[at..n) are not handed on */
    int timer;      /* -1: not live */
} replay_port;

static int64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

static int64_t due_ns(const replay_port *self, const nfm_frame *frame) {
    double after = (double)(frame->ts_ns - self->first_ts) / self->speed;
    if (!(after > 0)) /* recorded out of order: at once */
        return self->begun_ns;
    return after > 1e18 ? INT64_MAX : self->begun_ns + (int64_t)after;
}

/* Reads the next burst when there is none. False: nothing to hand on. */
static bool read_ahead(replay_port *self, nfm_pool *pool) {
    if (self->at < self->n)
        return true;
    if (self->ended != 0)
        return false;
    int got = nfm_wrap_rx(&self->wrap.port, pool, self->ahead, NFM_BURST);
    if (got < 0)
        self->ended = got;
    self->at = 0;
    self->n = got > 0 ? (uint32_t)got : 0;
    if (got > 0 && !self->begun) {
        self->begun = true;
        self->first_ts = self->ahead[0].ts_ns;
        self->begun_ns = clock_ns(CLOCK_MONOTONIC);
    }
    return got > 0;
}

static void set_timer(const replay_port *self, int64_t due) {
    const struct itimerspec when = {
        .it_value = {.tv_sec = due / NS_PER_S, .tv_nsec = due % NS_PER_S}};
    (void)timerfd_settime(self->timer, TFD_TIMER_ABSTIME, &when, NULL);
}

/* The clock, after a nap when nothing is due and naps are allowed. */
static int64_t wait_for(replay_port *self, int64_t due) {
    int64_t now = clock_ns(CLOCK_MONOTONIC), left = due - now;
    if (left <= 0)
        return now;
    if (self->timer >= 0)
        set_timer(self, due);
    if (self->wait_ns == 0)
        return now;
    left = left < self->wait_ns ? left : self->wait_ns;
    struct timespec nap = {.tv_sec = left / NS_PER_S, .tv_nsec = left % NS_PER_S};
    nanosleep(&nap, NULL);
    return clock_ns(CLOCK_MONOTONIC);
}

static int replay_rx(nfm_port *port, nfm_pool *pool, nfm_frame *frames, uint32_t n) {
    replay_port *self = (replay_port *)port;
    uint32_t done = 0;
    int64_t now = 0;
    while (done < n && read_ahead(self, pool)) {
        nfm_frame *frame = &self->ahead[self->at];
        int64_t due = self->speed > 0 ? due_ns(self, frame) : 0;
        if (due > now && done == 0)
            now = wait_for(self, due);
        if (due > now)
            break;
        frames[done++] = *frame;
        self->at++;
    }
    if (self->live && done > 0) {
        int64_t time = clock_ns(CLOCK_REALTIME);
        for (uint32_t i = 0; i < done; i++)
            frames[i].ts_ns = time;
    }
    return done == 0 && self->at == self->n && self->ended != 0 && n > 0 ? self->ended : (int)done;
}

static int replay_wait_fd(nfm_port *port) {
    return ((const replay_port *)port)->timer;
}

static void replay_detach(nfm_port *port, nfm_pool *pool) {
    replay_port *self = (replay_port *)port;
    for (; self->at < self->n; self->at++)
        nfm_pool_put(pool, self->ahead[self->at].slot);
    nfm_wrap_detach(port, pool);
}

static void replay_free(nfm_port *port) {
    replay_port *self = (replay_port *)port;
    if (self->timer >= 0)
        close(self->timer);
    nfm_wrap_free(port);
}

static const nfm_port_ops replay_ops = {.name = "replay",
                                        .rx = replay_rx,
                                        .tx = nfm_wrap_tx,
                                        .poll = nfm_wrap_poll,
                                        .detach = replay_detach,
                                        .flush = nfm_wrap_flush,
                                        .free = replay_free};

static int check(const nfm_port *inner, const nfm_replay_config *config, nfm_error *err) {
    if (inner == NULL || inner->ops->wait_fd != NULL)
        return nfm_io_fail(err, NFM_E_INVAL, "replay: only recordings are replayed");
    if (!isfinite(config->speed) || config->speed < 0)
        return nfm_io_fail(err, NFM_E_INVAL,
                           "replay: a speed of %g makes no sense; 1 is as recorded, 0 as fast as "
                           "it goes",
                           config->speed);
    return NFM_OK;
}

/*
 * nfm_port_replay_new makes a port that hands on the frames of the recording |inner| at the pace of
 * |config|, and owns it from then on.
 * Returns NULL with the reason in |err|; |inner| stays the caller's then.
 */
nfm_port *nfm_port_replay_new(nfm_port *inner, const nfm_replay_config *config, nfm_error *err) {
    if (check(inner, config, err) != NFM_OK)
        return NULL;
    replay_port *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        nfm_io_fail(err, NFM_E_NOMEM, "replay: no memory for a port; free some");
        return NULL;
    }
    self->timer = config->live ? timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC) : -1;
    if (config->live && self->timer < 0) {
        nfm_io_fail_errno(err, "replay", "make a timer", errno);
        free(self);
        return NULL;
    }
    self->speed = config->speed;
    self->wait_ns = (int64_t)config->wait_us * 1000;
    self->live = config->live != 0;
    nfm_wrap_init(&self->wrap, inner, &replay_ops);
    if (self->live) {
        self->wrap.ops.wait_fd = replay_wait_fd;
        set_timer(self, 1); /* readable until the first frame is waited for */
    }
    return &self->wrap.port;
}
