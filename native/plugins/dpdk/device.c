/* SPDX-License-Identifier: Apache-2.0 */
#include "device.h"

#include "eal.h"
#include "io/fail.h"

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_memzone.h>
#include <stdio.h>
#include <string.h>

enum { KEY_MAX = 64, PAGE = 4096 };

/* The key that gives both directions of a flow the same Toeplitz hash: every 16 bits alike (Woo,
 * Park: "Scalable TCP Session Monitoring with Symmetric Receive-side Scaling", 2012). */
static const uint8_t rss_pair[2] = {0x6d, 0x5a};

/* "pci:0000:3b:02.1,arg" -> "0000:3b:02.1": what ethdevs are called. */
static void plain_name(const char *words, char *name, size_t size) {
    if (strncmp(words, "pci:", 4) == 0)
        words += 4;
    else if (strncmp(words, "vdev:", 5) == 0)
        words += 5;
    snprintf(name, size, "%.*s", (int)strcspn(words, ","), words);
}

static int find_device(const char *words, uint16_t *id, nfm_error *err) {
    char name[RTE_ETH_NAME_MAX_LEN];
    if (words == NULL) {
        uint64_t first = rte_eth_find_next(0);
        *id = (uint16_t)first;
        if (first < RTE_MAX_ETHPORTS)
            return NFM_OK;
        return nfm_io_fail(err, NFM_E_IO,
                           "dpdk: there is no device; bind one to vfio-pci (dpdk-devbind.py -b "
                           "vfio-pci ADDRESS) or name a virtual one (net_null0)");
    }
    plain_name(words, name, sizeof(name));
    if (rte_eth_dev_get_port_by_name(name, id) == 0)
        return NFM_OK;
    int rc = rte_dev_probe(words);
    if (rc >= 0 && rte_eth_dev_get_port_by_name(name, id) == 0)
        return NFM_OK;
    return nfm_io_fail(err, NFM_E_IO,
                       "dpdk: %.100s: no such device (%s); is it bound to vfio-pci "
                       "(dpdk-devbind.py --status), may this user open /dev/vfio, and are the "
                       "device's arguments right?",
                       words, rte_strerror(rc < 0 ? -rc : ENODEV));
}

static device *find_shared(uint16_t id, nfm_error *err) {
    char name[RTE_MEMZONE_NAMESIZE];
    snprintf(name, sizeof(name), "nfm_device_%u", id);
    const struct rte_memzone *zone = rte_memzone_lookup(name);
    if (zone == NULL)
        zone = rte_memzone_reserve(name, sizeof(device), SOCKET_ID_ANY, 0); /* zeroed */
    if (zone == NULL)
        zone = rte_memzone_lookup(name); /* another thread was faster */
    if (zone == NULL) {
        nfm_io_fail(err, NFM_E_NOMEM, "dpdk: no memory for device %u; give EAL more (-m)", id);
        return NULL;
    }
    device *self = zone->addr;
    self->id = id;
    return self;
}

static void ask_for_rss(struct rte_eth_conf *conf, const struct rte_eth_dev_info *info,
                        uint8_t *key) {
    for (int i = 0; i < KEY_MAX; i++)
        key[i] = rss_pair[i % 2];
    conf->rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
    conf->rx_adv_conf.rss_conf = (struct rte_eth_rss_conf){
        .rss_key = key,
        .rss_key_len = info->hash_key_size <= KEY_MAX ? info->hash_key_size : 0,
        .rss_hf = (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_SCTP) &
                  info->flow_type_rss_offloads};
}

static int configure(device *self, const nfm_dpdk_config *config, nfm_error *err) {
    struct rte_eth_dev_info info;
    struct rte_eth_conf conf = {0};
    uint8_t key[KEY_MAX];
    uint16_t n = config->n_queues > 0 ? config->n_queues : 1;
    int rc = rte_eth_dev_info_get(self->id, &info);
    if (rc == 0 && (n > info.max_rx_queues || n > info.max_tx_queues))
        return nfm_io_fail(err, NFM_E_LIMIT,
                           "dpdk: the device has %u receive and %u transmit queues, %u are asked "
                           "for; run fewer workers",
                           info.max_rx_queues, info.max_tx_queues, n);
    if (rc == 0) {
        if (n > 1)
            ask_for_rss(&conf, &info, key);
        if (config->mtu != 0)
            conf.rxmode.mtu = config->mtu;
        if (config->mtu > NFM_SLOT_SMALL - NFM_HEADROOM - 18)
            conf.rxmode.offloads |= info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER;
        rc = rte_eth_dev_configure(self->id, n, n, &conf);
    }
    if (rc != 0)
        return nfm_io_fail(err, NFM_E_IO, "dpdk: device %u cannot be set up: %s; see what EAL said",
                           self->id, rte_strerror(-rc));
    self->n_queues = n;
    self->spreads = conf.rx_adv_conf.rss_conf.rss_hf != 0;
    self->hands_on = strcmp(info.driver_name, "net_ring") == 0;
    self->configured = true;
    return NFM_OK;
}

device *device_open(const nfm_dpdk_config *config, nfm_error *err) {
    uint16_t id, n = config->n_queues > 0 ? config->n_queues : 1;
    if (eal_begin(config->eal, err) != NFM_OK || find_device(config->device, &id, err) != NFM_OK)
        return NULL;
    device *self = find_shared(id, err);
    if (self == NULL)
        return NULL;
    rte_spinlock_lock(&self->lock);
    int rc = self->configured ? NFM_OK : configure(self, config, err);
    if (rc == NFM_OK && (self->n_queues != n || config->queue >= n || self->n_open == n))
        rc = nfm_io_fail(err, NFM_E_INVAL,
                         "dpdk: queue %u of %u is asked for, the device is open with %u queues, %u "
                         "of them taken",
                         config->queue, n, self->n_queues, self->n_open);
    if (rc == NFM_OK)
        self->n_open++;
    rte_spinlock_unlock(&self->lock);
    return rc == NFM_OK ? self : NULL;
}

device_memory device_memory_of(const nfm_pool *pool) {
    size_t size = (size_t)pool->n_small * NFM_SLOT_SMALL +
                  (size_t)(pool->n_slots - pool->n_small) * NFM_SLOT_LARGE;
    return (device_memory){pool->packets, (size + PAGE - 1) / PAGE * PAGE};
}

/* Lets the device reach the slots by their virtual addresses. Virtual devices do not need to. */
static int map_slots(const device *self, const device_memory *memory, nfm_error *err) {
    struct rte_eth_dev_info info;
    void *base = memory->base;
    if (rte_eth_dev_info_get(self->id, &info) != 0 || info.device == NULL)
        return NFM_OK;
    if (rte_extmem_register(base, memory->size, NULL, 0, PAGE) != 0 && rte_errno != EEXIST)
        return NFM_OK; /* not whole pages: memory of a test, which no real device is given */
    if (rte_dev_dma_map(info.device, base, (uintptr_t)base, memory->size) == 0 ||
        rte_errno == ENOTSUP)
        return NFM_OK;
    return nfm_io_fail(
        err, NFM_E_IO,
        "dpdk: the device cannot be given the packets' memory: %s; it needs vfio-pci "
        "with an IOMMU and --iova-mode=va, and enough locked memory (ulimit -l)",
        rte_strerror(rte_errno));
}

static int set_up_queue(device *self, const nfm_dpdk_config *config, struct rte_mempool *mempool) {
    uint16_t rx = config->rx_desc, tx = config->tx_desc;
    unsigned socket = (unsigned)SOCKET_ID_ANY;
    int node = rte_eth_dev_socket_id(self->id);
    if (node >= 0)
        socket = (unsigned)node;
    int rc = rte_eth_dev_adjust_nb_rx_tx_desc(self->id, &rx, &tx);
    if (rc == 0)
        rc = rte_eth_rx_queue_setup(self->id, config->queue, rx, socket, NULL, mempool);
    if (rc == 0)
        rc = rte_eth_tx_queue_setup(self->id, config->queue, tx, socket, NULL);
    return rc;
}

int device_attach(device *self, const nfm_dpdk_config *config, struct rte_mempool *mempool,
                  const device_memory *memory, nfm_error *err) {
    if (memory->base != NULL && map_slots(self, memory, err) != NFM_OK)
        return NFM_E_IO;
    rte_spinlock_lock(&self->lock);
    int rc = set_up_queue(self, config, mempool);
    if (rc == 0 && ++self->n_attached == self->n_queues) {
        rc = rte_eth_dev_start(self->id);
        if (rc == 0 && config->promiscuous)
            (void)rte_eth_promiscuous_enable(self->id); /* virtual devices may not know it */
        self->started = rc == 0;
        self->n_attached -= rc != 0;
    }
    rte_spinlock_unlock(&self->lock);
    if (rc != 0)
        return nfm_io_fail(err, NFM_E_IO, "dpdk: queue %u does not start: %s; see what EAL said",
                           config->queue, rte_strerror(-rc));
    return NFM_OK;
}

void device_detach(device *self) {
    rte_spinlock_lock(&self->lock);
    if (--self->n_attached == 0 && self->started) {
        (void)rte_eth_dev_stop(self->id);
        self->started = false;
    }
    rte_spinlock_unlock(&self->lock);
}

static void forget_memory(struct rte_device *of, const device_memory *memory) {
    if (memory->base == NULL)
        return;
    (void)rte_dev_dma_unmap(of, memory->base, (uintptr_t)memory->base, memory->size);
    (void)rte_extmem_unregister(memory->base, memory->size);
}

/* Ends the device itself: nobody uses it any more. */
static void shut(device *self) {
    struct rte_eth_dev_info info = {0};
    if (self->started)
        (void)rte_eth_dev_stop(self->id);
    self->started = self->configured = false;
    self->n_attached = 0;
    if (rte_eth_dev_info_get(self->id, &info) != 0)
        return;
    (void)rte_eth_dev_close(self->id);
    for (const device_user *user = self->closed; user != NULL; user = user->next)
        forget_memory(info.device, &user->memory);
    (void)rte_dev_remove(info.device);
}

device_user *device_close(device *self, device_user *user) {
    device_user *all = NULL;
    rte_spinlock_lock(&self->lock);
    user->next = self->closed;
    self->closed = user;
    if (--self->n_open == 0) {
        shut(self);
        all = self->closed;
        self->closed = NULL;
    }
    rte_spinlock_unlock(&self->lock);
    return all;
}
