/* SPDX-License-Identifier: Apache-2.0 */
/* An ethdev that the queues of one process share: configured by the first, started by the last. */
#ifndef NFM_DPDK_DEVICE_H
#define NFM_DPDK_DEVICE_H

#include "base/pool.h"

#include <rte_mempool.h>
#include <rte_spinlock.h>

typedef struct device_memory { /* what a device reads and writes */
    void *base;                /* NULL: its own, DPDK's */
    size_t size;
} device_memory;

typedef struct device_user {  /* a port of the device: a queue */
    struct device_user *next; /* of those that are closed */
    device_memory memory;     /* made known to the device */
} device_user;

typedef struct device {  /* in a memzone that the process' ports find by the device's number */
    rte_spinlock_t lock; /* taken when ports open and close, never per packet */
    uint16_t id;
    uint16_t n_queues;
    uint16_t n_open;     /* ports */
    uint16_t n_attached; /* queues that have their mbufs, and have not stopped */
    bool hands_on;       /* its mbufs are freed by whoever reads the other end: copies only */
    bool spreads; /* flows over its queues; else each queue gets what its far end sends there */
    bool configured;
    volatile bool started;
    device_user *closed; /* ports that are closed while others are open */
} device;

/* Finds or probes the device of |config| and configures it, or joins those that did.
 * NULL with the reason in |err|. */
device *device_open(const nfm_dpdk_config *config, nfm_error *err);
device_memory device_memory_of(const nfm_pool *pool);
/* Gives the queue of |config| its mbufs; the last queue starts the device. |memory| is what the
 * mbufs lie in when it is not DPDK's own (else base is NULL): it is made known to the device's DMA.
 */
int device_attach(device *self, const nfm_dpdk_config *config, struct rte_mempool *mempool,
                  const device_memory *memory, nfm_error *err);
/* The queue's worker ends; with the last one the device stops. */
void device_detach(device *self);
/* Closes a port. As long as others are open the device may still write to this one's memory and
 * free its mbufs: the result is NULL, and |user| the device's. The last port closes the device and
 * gets all users that are to be freed, itself too. */
device_user *device_close(device *self, device_user *user);

#endif
