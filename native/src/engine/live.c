/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker whose ports do not end: what it does while they are quiet.
 *
 * Theory of operation. nfm_worker_run works on for one turn, some milliseconds, before its caller
 * gets to look at other things. In a turn, a quiet worker first looks at ports and rings again and
 * again: a packet or a verdict that comes within |spin_ns| of the last one is seen at once. Then it
 * sleeps in ppoll on the ports' descriptors. A verdict wakes nobody, so while frames wait for one
 * (or modules elsewhere have to answer) naps are short: a quarter of the time since anything
 * happened, within NAP_LEAST_NS and NAP_MOST_NS. A port that has no descriptor is
 * looked at after naps of NAP_BLIND_NS at most.
 *
 * Event time goes on while no packet comes: it is the clock's, less SLACK_NS, since a packet that
 * the kernel has stamped already may be on its way here.
 */
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <time.h>

#include "engine/hosted.h"
#include "engine/share.h"
#include "engine/transit.h"

enum {
    NAP_LEAST_NS = 20000,
    NAP_MOST_NS = 1000000,
    NAP_BLIND_NS = 50000, /* a NIC's ring of 1024 holds what comes meanwhile at 14.8 Mpackets/s */
    SLACK_NS = 10000000,
    TURN_MOST_NS = 1000000000,
};

static int64_t clock_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void relax(void) {
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

/*
 * nfm_worker_live makes nfm_worker_run stay for |config|'s turn while ports are quiet, and makes
 * sleeps of the calling thread, which is to run the worker, as short as they say.
 * Returns NFM_OK; NFM_E_INVAL when the times make no sense.
 */
int nfm_worker_live(nfm_worker *w, const nfm_live_config *config) {
    if (config->turn_ns < 0 || config->turn_ns > TURN_MOST_NS || config->spin_ns < 0)
        return NFM_E_INVAL;
    w->live.config = *config;
    (void)prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    return NFM_OK;
}

void nfm__live_begin(nfm_worker *w) {
    if (w->live.config.turn_ns > 0)
        w->live.end_ns = clock_ns(CLOCK_MONOTONIC) + w->live.config.turn_ns;
}

void nfm__live_poll(nfm_worker *w) {
    for (uint32_t i = 0; i < w->n_ports; i++)
        if (w->ports[i]->ops->poll != NULL)
            w->ports[i]->ops->poll(w->ports[i], &w->pool);
}

/* Whether somebody has still to answer whom nothing but looking tells of. */
static bool awaits(const nfm_worker *w) {
    return (w->way != NULL && w->way->n_transits > 0) || !nfm__output_is_idle(w) ||
           (w->hosts != NULL && nfm__hosts_are_busy(w));
}

static void tell_time(nfm_worker *w) {
    if (!w->live.config.is_realtime)
        return;
    int64_t now = clock_ns(CLOCK_REALTIME) - SLACK_NS;
    if (!w->time_known || now > w->now_ns)
        nfm__advance_time(w, now);
}

/* Looks whether anything has happened since it looked last. */
static void look(nfm_worker *w, int64_t now) {
    const uint64_t *count = w->core_counters;
    uint64_t signs = w->packets + count[NFM_CC_FORWARDED] + count[NFM_CC_INLINE_DROPPED] +
                     count[NFM_CC_INLINE_REJECTED] + count[NFM_CC_HANDED_OVER] +
                     count[NFM_CC_TAKEN_OVER];
    if (signs == w->live.signs)
        return;
    w->live.signs = signs;
    w->live.active_ns = now;
}

/* The ports' descriptors; returns how many, or -1 when only polling tells of some port. */
static int descriptors(const nfm_worker *w, struct pollfd *fds) {
    int n = 0;
    for (uint32_t i = 0; i < w->n_ports; i++) {
        nfm_port *port = w->ports[i];
        if (w->port_done[i] || port->ops->wait_fd == NULL)
            continue;
        int fd = port->ops->wait_fd(port);
        if (fd < 0)
            return -1;
        fds[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    if (w->share != NULL && w->share->bells[w->config.id] >= 0)
        fds[n++] = (struct pollfd){.fd = w->share->bells[w->config.id], .events = POLLIN};
    return n;
}

/* How long to sleep where only looking tells that something has come. */
static int64_t short_nap(const nfm_worker *w, int64_t now, int64_t longest) {
    int64_t most = (now - w->live.active_ns) / 4;
    most = most < NAP_LEAST_NS ? NAP_LEAST_NS : most;
    return most > longest ? longest : most;
}

static void nap(nfm_worker *w, int64_t now) {
    struct pollfd fds[NFM_MAX_PORTS + 1];
    int n = descriptors(w, fds);
    if (w->share != NULL && (n < 0 || !nfm__share_sleep(w))) {
        sched_yield();
        return;
    }
    int64_t left = w->live.end_ns - now, most = left;
    if (n < 0)
        most = short_nap(w, now, NAP_BLIND_NS);
    else if (awaits(w))
        most = short_nap(w, now, NAP_MOST_NS);
    left = left < most ? left : most;
    struct timespec t = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
    (void)ppoll(fds, n < 0 ? 0 : (nfds_t)n, &t, NULL); /* interrupted: then it was short */
    if (w->share != NULL)
        nfm__share_awake(w);
}

bool nfm__live_wait(nfm_worker *w) {
    if (w->live.config.turn_ns == 0)
        return false;
    int64_t now = clock_ns(CLOCK_MONOTONIC);
    look(w, now);
    if (now >= w->live.end_ns) {
        tell_time(w);
        return false;
    }
    if (now - w->live.active_ns < w->live.config.spin_ns) {
        relax();
        return true;
    }
    nap(w, now);
    tell_time(w);
    return true;
}
