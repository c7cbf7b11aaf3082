/* SPDX-License-Identifier: Apache-2.0 */
/* Which addresses are the router's, and which nobody's. */
#include <string.h>

#include "router.h"

static bool same_prefix(const uint8_t *a, const uint8_t *b, uint32_t bits) {
    uint32_t whole = bits / 8, rest = bits % 8;
    if (memcmp(a, b, whole) != 0)
        return false;
    return rest == 0 || ((a[whole] ^ b[whole]) >> (8 - rest)) == 0;
}

const router_address *router_own(const router *self, uint32_t port, uint8_t ip_version,
                                 const uint8_t *address) {
    for (uint32_t i = 0; i < self->config.n_addresses; i++) {
        const router_address *a = &self->addresses[i];
        if (a->port == port && a->ip_version == ip_version && memcmp(a->address, address, 16) == 0)
            return a;
    }
    return NULL;
}

const router_address *router_source(const router *self, uint32_t port, uint8_t ip_version,
                                    const uint8_t *peer) {
    const router_address *found = NULL;
    for (uint32_t i = 0; i < self->config.n_addresses; i++) {
        const router_address *a = &self->addresses[i];
        if (a->port != port || a->ip_version != ip_version)
            continue;
        if (same_prefix(a->address, peer, a->bits))
            return a;
        bool is_wider = found != NULL && router_is_link_local(found->address, ip_version);
        if (found == NULL || is_wider)
            found = a;
    }
    return found;
}

bool router_is_on_link(const router *self, uint32_t port, uint8_t ip_version,
                       const uint8_t *address) {
    const router_address *a = router_source(self, port, ip_version, address);
    return a != NULL && same_prefix(a->address, address, a->bits);
}

bool router_is_group(const uint8_t *a, uint8_t ip_version) {
    static const uint8_t all[4] = {255, 255, 255, 255};
    if (ip_version == 6)
        return a[0] == 0xff;
    return a[0] >> 4 == 14 || memcmp(a, all, 4) == 0;
}

bool router_is_link_local(const uint8_t *a, uint8_t ip_version) {
    return ip_version == 6 ? a[0] == 0xfe && (a[1] & 0xc0) == 0x80 : a[0] == 169 && a[1] == 254;
}

/* "This network", loopback, reserved; IPv4-mapped and loopback in IPv6. */
static bool is_nobodys(const uint8_t *a, uint8_t ip_version) {
    static const uint8_t zero[16] = {0};
    if (ip_version == 4)
        return a[0] == 0 || a[0] == 127 || a[0] >= 240;
    if (memcmp(a, zero, 10) != 0)
        return false;
    return (a[10] == 0xff && a[11] == 0xff) || (memcmp(a, zero, 15) == 0 && a[15] <= 1);
}

bool router_is_bad_source(const uint8_t *address, uint8_t ip_version) {
    return is_nobodys(address, ip_version) || router_is_group(address, ip_version);
}

bool router_is_bad_destination(const uint8_t *address, uint8_t ip_version) {
    return is_nobodys(address, ip_version) && !router_is_group(address, ip_version);
}
