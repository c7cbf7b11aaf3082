/* SPDX-License-Identifier: Apache-2.0 */
/* Builds DNS messages for tests. */
#ifndef NFM_DNS_BYTES_H
#define NFM_DNS_BYTES_H

#include <string.h>

#include "nfm/module.h"

typedef struct dns_bytes {
    uint8_t data[4096];
    uint32_t len;
} dns_bytes;

static inline void dns_u16(dns_bytes *b, uint32_t v) {
    nfm_write16(b->data + b->len, (uint16_t)v);
    b->len += 2;
}

static inline void dns_u32(dns_bytes *b, uint32_t v) {
    nfm_write32(b->data + b->len, v);
    b->len += 4;
}

static inline void dns_raw(dns_bytes *b, const void *bytes, size_t len) {
    memcpy(b->data + b->len, bytes, len);
    b->len += (uint32_t)len;
}

static inline void dns_header(dns_bytes *b, uint16_t id, uint16_t flags, int questions,
                              int answers) {
    b->len = 0;
    dns_u16(b, id);
    dns_u16(b, flags);
    dns_u16(b, (uint32_t)questions);
    dns_u16(b, (uint32_t)answers);
    dns_u32(b, 0); /* authority, additional */
}

/* Labels of a dotted name, with the root's. */
static inline void dns_name(dns_bytes *b, const char *name) {
    while (*name != 0) {
        size_t len = strcspn(name, ".");
        b->data[b->len++] = (uint8_t)len;
        dns_raw(b, name, len);
        name += len + (name[len] == '.');
    }
    b->data[b->len++] = 0;
}

static inline void dns_question(dns_bytes *b, const char *name, uint16_t type) {
    dns_name(b, name);
    dns_u16(b, type);
    dns_u16(b, 1);
}

/* A record whose owner is the first question's name. */
static inline void dns_record(dns_bytes *b, uint16_t type, uint32_t ttl, const void *data,
                              size_t len) {
    dns_u16(b, 0xc00c);
    dns_u16(b, type);
    dns_u16(b, 1);
    dns_u32(b, ttl);
    dns_u16(b, (uint32_t)len);
    dns_raw(b, data, len);
}

#endif
