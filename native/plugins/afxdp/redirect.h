/* SPDX-License-Identifier: Apache-2.0 */
/* The XDP program of an interface that hands the frames of each queue to that queue's socket. */
#ifndef NFM_AFXDP_REDIRECT_H
#define NFM_AFXDP_REDIRECT_H

#include "nfm/nfm.h"

typedef struct redirect {
    int link; /* keeps the program on the interface; the last one that closes it takes it off */
    int map;  /* queue -> socket; frames of a queue without one go the kernel's usual way */
} redirect;

/*
 * redirect_open puts the program on the interface |index|, or joins the one that another worker
 * put there. |generic|: the kernel's generic XDP; else the driver's, and generic where it has none.
 * Returns NFM_OK, or NFM_E_IO with a line in |err| that says which right is missing.
 */
int redirect_open(redirect *self, int index, bool generic, nfm_error *err);
void redirect_close(redirect *self);
/* Frames of |queue| go to |socket| from now on. Returns 0 or a negative errno. */
int redirect_queue(const redirect *self, uint32_t queue, int socket);

#endif
