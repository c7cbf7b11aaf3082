/* SPDX-License-Identifier: Apache-2.0 */
/* Captures built by hand, byte by byte, in either byte order. */
#ifndef CAPTURE_BYTES_H
#define CAPTURE_BYTES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <zlib.h>

#define CAPTURE_ROOM ((size_t)64 << 20)

typedef struct capture {
    uint8_t *data; /* CAPTURE_ROOM mapped bytes, touched as far as used; never unmapped (tests) */
    size_t len;
    bool big; /* byte order of what is put next */
} capture;

static inline void cap_put(capture *c, const void *bytes, size_t n) {
    if (c->data == NULL)
        c->data = mmap(NULL, CAPTURE_ROOM, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (c->data == MAP_FAILED || c->len + n > CAPTURE_ROOM)
        abort();
    if (n > 0)
        memcpy(c->data + c->len, bytes, n);
    c->len += n;
}

/* The low |n| bytes of |v|. */
static inline void cap_int(capture *c, uint64_t v, unsigned n) {
    uint8_t b[8];
    for (unsigned i = 0; i < n; i++)
        b[c->big ? n - 1 - i : i] = (uint8_t)(v >> (8 * i));
    cap_put(c, b, n);
}

static inline void cap_u16(capture *c, uint64_t v) {
    cap_int(c, v, 2);
}
static inline void cap_u32(capture *c, uint64_t v) {
    cap_int(c, v, 4);
}

/* Frame bytes that differ from frame to frame. */
static inline void cap_frame(capture *c, uint32_t len, uint32_t seed) {
    for (uint32_t i = 0; i < len; i++) {
        uint8_t b = (uint8_t)(seed * 31 + i * 7 + (i >> 8));
        cap_put(c, &b, 1);
    }
}

static inline bool cap_is_frame(const uint8_t *p, uint32_t len, uint32_t seed) {
    for (uint32_t i = 0; i < len; i++)
        if (p[i] != (uint8_t)(seed * 31 + i * 7 + (i >> 8)))
            return false;
    return true;
}

static inline void cap_pcap_header(capture *c, uint32_t magic, uint32_t snaplen, uint32_t network) {
    cap_u32(c, magic);
    cap_u16(c, 2);
    cap_u16(c, 4);
    cap_u32(c, 0);
    cap_u32(c, 0);
    cap_u32(c, snaplen);
    cap_u32(c, network);
}

static inline void cap_pcap_record(capture *c, uint32_t s, uint32_t fraction, uint32_t len,
                                   uint32_t wire) {
    cap_u32(c, s);
    cap_u32(c, fraction);
    cap_u32(c, len);
    cap_u32(c, wire);
}

/* A pcapng block around |body|. */
static inline void cap_block(capture *c, uint32_t type, const void *body, size_t len) {
    uint32_t total = (uint32_t)((12 + len + 3) & ~(size_t)3);
    cap_u32(c, type);
    cap_u32(c, total);
    cap_put(c, body, len);
    cap_put(c, "\0\0\0", total - 12 - len);
    cap_u32(c, total);
}

static inline void cap_section(capture *c) {
    capture b = {.big = c->big};
    cap_u32(&b, 0x1a2b3c4d);
    cap_u16(&b, 1);
    cap_u16(&b, 0);
    cap_int(&b, UINT64_MAX, 8);
    cap_block(c, 0x0a0d0d0a, b.data, b.len);
    munmap(b.data, CAPTURE_ROOM);
}

/* resolution 255, offset 0: the options are left out. */
static inline void cap_interface(capture *c, uint16_t link_type, uint32_t snaplen,
                                 uint8_t resolution, int64_t offset_s) {
    capture b = {.big = c->big};
    cap_u16(&b, link_type);
    cap_u16(&b, 0);
    cap_u32(&b, snaplen);
    cap_u16(&b, 2); /* if_name, to be passed over */
    cap_u16(&b, 3);
    cap_put(&b, "abc\0", 4);
    if (resolution != 255) {
        cap_u16(&b, 9);
        cap_u16(&b, 1);
        cap_put(&b, &resolution, 1);
        cap_put(&b, "\0\0\0", 3);
    }
    if (offset_s != 0) {
        cap_u16(&b, 14);
        cap_u16(&b, 8);
        cap_int(&b, (uint64_t)offset_s, 8);
    }
    cap_u32(&b, 0);
    cap_block(c, 1, b.data, b.len);
    munmap(b.data, CAPTURE_ROOM);
}

static inline void cap_enhanced(capture *c, uint32_t iface, uint64_t units, uint32_t len,
                                uint32_t wire, uint32_t seed) {
    capture b = {.big = c->big};
    cap_u32(&b, iface);
    cap_u32(&b, units >> 32);
    cap_u32(&b, units);
    cap_u32(&b, len);
    cap_u32(&b, wire);
    cap_frame(&b, len, seed);
    cap_block(c, 6, b.data, b.len);
    munmap(b.data, CAPTURE_ROOM);
}

static inline void cap_simple(capture *c, uint32_t wire, uint32_t len, uint32_t seed) {
    capture b = {.big = c->big};
    cap_u32(&b, wire);
    cap_frame(&b, len, seed);
    cap_block(c, 3, b.data, b.len);
    munmap(b.data, CAPTURE_ROOM);
}

/* One gzip member with |n| bytes of |from|, appended. */
static inline void cap_gzip(capture *c, const uint8_t *from, size_t n) {
    z_stream z = {0};
    size_t room = n + n / 100 + 1024;
    uint8_t *out = malloc(room);
    if (out == NULL || deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        abort();
    z.next_in = (z_const Bytef *)(uintptr_t)from;
    z.avail_in = (uInt)n;
    z.next_out = out;
    z.avail_out = (uInt)room;
    if (deflate(&z, Z_FINISH) != Z_STREAM_END)
        abort();
    cap_put(c, out, room - z.avail_out);
    deflateEnd(&z);
    free(out);
}

#endif
