/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network interface as a port sees it: found by name, then followed by its index, looked at now
 * and then. The socket keeps the network namespace in which it was opened.
 */
#ifndef NFM_IO_LINK_H
#define NFM_IO_LINK_H

#include "nfm/nfm.h"

#include <net/if.h>

#define NFM_LINK_LOOK_NS INT64_C(50000000) /* how often a port looks at its link */

typedef struct nfm_link {
    int control;           /* a socket for the ioctls */
    int index;             /* 0: there is no such interface now */
    char name[IFNAMSIZ];   /* configured: an interface is found again by it */
    char actual[IFNAMSIZ]; /* what it is called now */
    bool enabled;          /* administratively up: it may be sent on */
    bool up;               /* enabled and, as the kernel learned some time ago, with a carrier */
    uint32_t mtu;
    uint32_t hardware; /* ARPHRD_* */
    int64_t next_look_ns;
} nfm_link;

enum nfm_link_news {
    NFM_LINK_SAME = 0,
    NFM_LINK_CHANGED = 1, /* up, mtu or actual */
    NFM_LINK_GONE = 2     /* the interface that was followed does not exist any longer */
};

/* Opens the control socket and checks the form of |name|; finds nothing yet. */
int nfm_link_init(nfm_link *link, const char *name, nfm_error *err);
void nfm_link_fini(nfm_link *link);
/* Finds the interface of the configured name. NFM_E_IO when there is none. */
int nfm_link_find(nfm_link *link, nfm_error *err);
/* Looks at the interface that was found. Returns enum nfm_link_news. */
int nfm_link_look(nfm_link *link);
/* Whether it is time to look again; sets the next time. Costs no system call. */
bool nfm_link_due(nfm_link *link);
/* Sets the MTU (0: leaves it) and takes the interface up when |up|. */
int nfm_link_configure(nfm_link *link, uint32_t mtu, bool up, nfm_error *err);

#endif
