/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * An interface is asked by ioctl, some 20 times a second and never on behalf of a packet: a renamed
 * one is followed by its index, one that went away is looked for by the configured name. A link
 * that falls and rises between two looks is not seen here; frames sent meanwhile fail and are
 * counted by the port.
 */
#include "io/link.h"
#include "io/fail.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/*
 * nfm_link_init checks |name| and opens the socket that all questions go through; it belongs to
 * the network namespace of the calling thread. nfm_link_fini closes it.
 * Returns NFM_OK, NFM_E_INVAL or NFM_E_IO.
 */
int nfm_link_init(nfm_link *link, const char *name, nfm_error *err) {
    memset(link, 0, sizeof(*link));
    link->control = -1;
    if (name == NULL || name[0] == '\0' || strlen(name) >= IFNAMSIZ || strchr(name, '/') != NULL)
        return nfm_io_fail(err, NFM_E_INVAL,
                           "%.32s: no name of an interface (1 to %d characters); `ip link` lists "
                           "those that exist",
                           name == NULL ? "" : name, IFNAMSIZ - 1);
    memcpy(link->name, name, strlen(name) + 1);
    memcpy(link->actual, link->name, sizeof(link->actual));
    link->control = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return link->control >= 0 ? NFM_OK : nfm_io_fail_errno(err, name, "open a socket", errno);
}

/*
 * nfm_link_fini closes the control socket; a link that was never opened is fine when it is zeroed
 * by nfm_link_init.
 */
void nfm_link_fini(nfm_link *link) {
    if (link->control >= 0)
        close(link->control);
    link->control = -1;
}

static bool ask(const nfm_link *link, unsigned long what, struct ifreq *request) {
    return ioctl(link->control, what, request) == 0;
}

static struct ifreq request_of(const char *name) {
    struct ifreq request = {0};
    memcpy(request.ifr_name, name, IFNAMSIZ);
    return request;
}

/* Reads state and MTU of |link->actual|. False: it went away meanwhile. */
static bool read_state(nfm_link *link) {
    struct ifreq flags = request_of(link->actual), mtu = flags;
    if (!ask(link, SIOCGIFFLAGS, &flags) || !ask(link, SIOCGIFMTU, &mtu))
        return false;
    link->enabled = (flags.ifr_flags & IFF_UP) != 0;
    link->up = link->enabled && (flags.ifr_flags & IFF_RUNNING) != 0;
    link->mtu = mtu.ifr_mtu > 0 ? (uint32_t)mtu.ifr_mtu : 0;
    return true;
}

static void lost(nfm_link *link) {
    link->index = 0;
    link->enabled = false;
    link->up = false;
}

/*
 * nfm_link_find looks for the interface |link->name| and reads what it is.
 * Returns NFM_OK, or NFM_E_IO: there is none now; link->index is 0 then.
 */
int nfm_link_find(nfm_link *link, nfm_error *err) {
    struct ifreq index = request_of(link->name), hardware = index;
    lost(link);
    memcpy(link->actual, link->name, sizeof(link->actual));
    if (!ask(link, SIOCGIFINDEX, &index) || !ask(link, SIOCGIFHWADDR, &hardware) ||
        !read_state(link))
        return nfm_io_fail(err, NFM_E_IO,
                           "%s: no such interface in this network namespace; `ip link` lists those "
                           "that exist",
                           link->name);
    link->index = index.ifr_ifindex;
    link->hardware = hardware.ifr_hwaddr.sa_family;
    return NFM_OK;
}

/*
 * nfm_link_look reads name, state and MTU of the interface that nfm_link_find found.
 * Returns NFM_LINK_SAME, NFM_LINK_CHANGED, or NFM_LINK_GONE (also when none was found).
 */
int nfm_link_look(nfm_link *link) {
    nfm_link before = *link;
    struct ifreq name = {.ifr_ifindex = link->index};
    bool there = link->index != 0 && ask(link, SIOCGIFNAME, &name);
    if (there) {
        memcpy(link->actual, name.ifr_name, IFNAMSIZ);
        there = read_state(link);
    }
    if (!there) {
        lost(link);
        return NFM_LINK_GONE;
    }
    bool same = link->up == before.up && link->enabled == before.enabled &&
                link->mtu == before.mtu && strncmp(link->actual, before.actual, IFNAMSIZ) == 0;
    return same ? NFM_LINK_SAME : NFM_LINK_CHANGED;
}

/*
 * nfm_link_due says whether NFM_LINK_LOOK_NS have gone by since it last said so.
 */
bool nfm_link_due(nfm_link *link) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    int64_t now_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    if (now_ns < link->next_look_ns)
        return false;
    link->next_look_ns = now_ns + NFM_LINK_LOOK_NS;
    return true;
}

/*
 * nfm_link_configure sets the MTU of the interface unless it is 0, and takes it up when asked to.
 * Returns NFM_OK, or NFM_E_IO with a line that says which privilege is missing.
 */
int nfm_link_configure(nfm_link *link, uint32_t mtu, bool up, nfm_error *err) {
    struct ifreq request = request_of(link->actual);
    request.ifr_mtu = (int)mtu;
    if (mtu != 0 && mtu != link->mtu && !ask(link, SIOCSIFMTU, &request))
        return nfm_io_fail(err, NFM_E_IO, "%s: cannot set an MTU of %u: %s; %s", link->actual, mtu,
                           strerror(errno),
                           errno == EPERM ? "it takes CAP_NET_ADMIN: run with sudo"
                                          : "`ip -d link` shows its limits");
    request = request_of(link->actual);
    if (up && !ask(link, SIOCGIFFLAGS, &request))
        return nfm_io_fail_errno(err, link->actual, "read its state", errno);
    request.ifr_flags |= IFF_UP;
    if (up && !ask(link, SIOCSIFFLAGS, &request))
        return nfm_io_fail(err, NFM_E_IO, "%s: cannot take it up: %s; %s", link->actual,
                           strerror(errno),
                           errno == EPERM ? "it takes CAP_NET_ADMIN: run with sudo"
                                          : "`ip link set` may say more");
    return NFM_OK;
}
