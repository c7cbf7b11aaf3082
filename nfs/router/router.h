/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A router: where each packet goes next, and what its sender is told when it goes nowhere.
 *
 * Theory of operation. Every packet of the router's ports is judged by itself, from the bytes of
 * its outermost IP header; packets of other ports pass. What is to be sent on gets one verdict that
 * names the port, both MAC addresses and a hop less; the worker applies it. What is for the router
 * ends here, and answers (ARP, ND, echo, ICMP errors) are frames of its own, which the worker
 * sends.
 *
 * A next hop's MAC address is a neighbour's (neighbours.c). Packets to one that is not known yet
 * are kept by the worker, a few for each, and sent on when it answers; when it does not, their
 * senders are told. States are those of RFC 4861 section 7.3.2, for ARP alike, without DELAY. Time
 * is that of packets, and on live ports that of router_poll.
 *
 * Where a stage before translates addresses, the router decides on what they will be; who sent the
 * packet is told with what it said.
 *
 * Routes (lpm.h) are replaced as a whole: a table is built beside the packets and swapped between
 * two batches. All other memory is taken at the start.
 *
 * Rules of this folder: addresses are 16 bytes, IPv4 in the first four and zeroes behind. Nothing
 * of a frame is read before its length was compared.
 */
#ifndef NFS_ROUTER_ROUTER_H
#define NFS_ROUTER_ROUTER_H

#include "lpm.h"
#include "nfm/nfm.h"

#pragma GCC visibility push(default)
#include "router.cdef"
#pragma GCC visibility pop

enum {
    ROUTER_ETH = 14,
    ROUTER_IPV4 = 20,
    ROUTER_IPV6 = 40,
    ROUTER_FRAME = 1514, /* of the router's own frames, but for echo replies */
};

typedef struct router_packet { /* one that is judged */
    nfm_ring *ring;
    const nfm_mem *mem;
    const nfm_record *record;
    uint32_t number; /* of the record */
    uint32_t len;    /* of the frame */
    const nfm_slot_meta *meta;
    const uint8_t *frame;
    const uint8_t *l3; /* IP header, once it was checked; its options or first extension behind */
    uint32_t l3_len;   /* of the whole IP packet */
    uint8_t src[16], dst[16]; /* as it came: who is told, and what is its own */
    uint8_t from[16], to[16]; /* the same, translated where a stage before said so */
    uint8_t ip_version;
    uint8_t port;
    uint8_t ttl;
    bool is_group; /* the frame was to more than one */
} router_packet;

typedef struct router_kept { /* a packet that waits */
    nfm_ring *ring;
    const nfm_mem *mem;
    uint32_t hold, record;
} router_kept;

typedef struct router_entry { /* a neighbour */
    router_neighbour is;
    router_kept kept[ROUTER_WAITING];
    uint32_t n_kept;
    uint32_t chain;  /* next of its bucket, or of the free ones; UINT32_MAX last */
    uint32_t probes; /* requests without an answer */
    int64_t next_ns; /* when something is due; INT64_MAX: nothing */
    int64_t used_ns;
} router_entry;

struct router_table {
    lpm routes[2];    /* IPv4, IPv6: values are numbers of hops */
    router_hop *hops; /* the first: nowhere */
};

struct router {
    router_config config;
    router_address addresses[ROUTER_MAX_ADDRESSES];
    router_table *table; /* NULL: none yet */
    bool has_config;
    router_entry *entries;
    uint32_t *buckets;
    uint32_t n_buckets, free_list, hand; /* hand: of the search for one that may go */
    uint64_t hash_key;
    uint8_t *scratch; /* NFM_MAX_FRAME bytes, for echo replies */
    nfm_ring *ring;   /* the last batch's: for what no packet gives rise to */
    int64_t now_ns, next_tick_ns;
    int64_t tokens; /* of ICMP errors, in thousandths */
    int64_t refill_ns;
    router_stats stats;
};

static inline uint16_t router_read16(const uint8_t *p) {
    return (uint16_t)(p[0] << 8 | p[1]);
}
static inline void router_write16(uint8_t *p, uint32_t value) {
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}
static inline void router_write32(uint8_t *p, uint32_t value) {
    router_write16(p, value >> 16);
    router_write16(p + 2, value & 0xffff);
}
static inline bool router_is_port(const router *self, uint32_t port) {
    return port < ROUTER_MAX_PORTS && self->config.interfaces[port].mtu != 0;
}

/* ---- wire.c: reading and writing headers ---- */

uint32_t router_sum(uint32_t sum, const uint8_t *bytes, uint32_t len);
uint16_t router_fold(uint32_t sum);
/* The sum of the pseudo-header (RFC 8200 section 8.1). */
uint32_t router_pseudo_sum(const uint8_t *src, const uint8_t *dst, uint32_t len, uint8_t proto);
/* Reads the IP header; false: it is damaged. */
bool router_read_ip(router_packet *p);
/* The upper layer's header and protocol; NULL: none, or not the first fragment. */
const uint8_t *router_upper(const router_packet *p, uint8_t *proto, uint32_t *len);
/* Writes Ethernet and IP headers for |len| bytes behind them; returns where these begin. */
uint8_t *router_write_ip(uint8_t *frame, const router_packet *head, uint32_t len, uint8_t proto);
/* Sends a frame of the router's own. */
void router_send(router *self, nfm_ring *ring, uint32_t port, const uint8_t *frame, uint32_t len);

/* ---- addresses.c ---- */

/* The router's own address |address| on |port|; NULL: it is none. */
const router_address *router_own(const router *self, uint32_t port, uint8_t ip_version,
                                 const uint8_t *address);
/* An address of the router's on |port|, best one on the link of |peer|. NULL: it has none there. */
const router_address *router_source(const router *self, uint32_t port, uint8_t ip_version,
                                    const uint8_t *peer);
bool router_is_group(const uint8_t *address, uint8_t ip_version);
/* Whether no packet may have such a source; such a destination. Sources: RFC 1812 section 5.3.7,
 * RFC 6890, RFC 4291. */
bool router_is_bad_source(const uint8_t *address, uint8_t ip_version);
bool router_is_bad_destination(const uint8_t *address, uint8_t ip_version);
bool router_is_link_local(const uint8_t *address, uint8_t ip_version);
/* Whether an address is on the link of |port|. */
bool router_is_on_link(const router *self, uint32_t port, uint8_t ip_version,
                       const uint8_t *address);

/* ---- neighbours.c ---- */

bool router_neighbours_init(router *self, uint32_t max);
void router_neighbours_fini(router *self);
router_entry *router_neighbour_find(const router *self, uint32_t port, uint8_t ip_version,
                                    const uint8_t *address);
/* The verdict over a packet that goes on through |address| on |port|: rewritten, kept or dropped.
 */
uint32_t router_resolve(router *self, const router_packet *p, const router_hop *to, nfm_edit *edit);

typedef struct router_word { /* what somebody said of a neighbour */
    uint32_t port;
    uint8_t ip_version;
    uint8_t address[16];
    uint8_t mac[6];
    bool is_answer; /* asked for by us, to us: it is reachable */
    bool may_change, may_add;
} router_word;
void router_hear(router *self, const router_word *word);
/* What is due. */
void router_tick(router *self);

/* ---- arp_nd.c ---- */

/* Asks who has a neighbour's address: all of the link, or itself when it is known. */
void router_ask(router *self, nfm_ring *ring, const router_entry *entry);
void router_take_arp(router *self, const router_packet *p);
/* Takes a neighbour solicitation or advertisement; false: |p| is none. */
bool router_take_nd(router *self, const router_packet *p);

/* ---- icmp.c ---- */

enum router_error { /* types and codes by IP version: icmp.c */
                    ROUTER_E_NET = 0,
                    ROUTER_E_HOST,
                    ROUTER_E_PROHIBITED,
                    ROUTER_E_PORT,
                    ROUTER_E_PROTOCOL,
                    ROUTER_E_TTL,
                    ROUTER_E_TOO_BIG,
                    ROUTER_E_SCOPE,
                    ROUTER_ERRORS
};
/* Tells the sender of |p|, if it may be told. rest: the error's second word. */
void router_tell(router *self, const router_packet *p, enum router_error error, uint32_t rest);
/* What is for the router itself. */
void router_serve(router *self, const router_packet *p);

/* ---- forward.c ---- */

/* A view of the frame of |number|, a record; false: it has none with an Ethernet header. */
bool router_view(nfm_ring *ring, const nfm_mem *mem, uint32_t number, router_packet *p);
/* The verdict. |edit| says what stages before have changed, when |is_edited|. */
uint32_t router_judge(router *self, router_packet *p, bool is_edited, nfm_edit *edit);

#endif
