/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A pcapng file is a chain of blocks, each with its length at both ends; sections begin with a
 * section header that sets the byte order and forgets the interfaces described before. Every block
 * is looked at only when it is wholly in the file and its two lengths agree. Blocks larger than
 * the input's window cannot hold a packet that fits a slot; they are walked over, and only the
 * interface descriptions among them are read, as far as the window reaches.
 *
 * A wrong inside (unknown interface, captured length past the block's end) costs that block; a
 * wrong length costs the rest of the file, since the next block cannot be found.
 *
 * Source: draft-ietf-opsawg-pcapng; the obsolete packet block from its appendix A.
 */
#include "io/fail.h"
#include "io/pcap_file.h"

#include <stdlib.h>
#include <string.h>

enum block {
    BLOCK_INTERFACE = 1,
    BLOCK_OLD_PACKET = 2,
    BLOCK_SIMPLE_PACKET = 3,
    BLOCK_ENHANCED_PACKET = 6,
    BLOCK_SECTION = 0x0a0d0d0a
};
enum option { OPTION_END = 0, OPTION_TSRESOL = 9, OPTION_TSOFFSET = 14 };

#define BYTE_ORDER_MAGIC 0x1a2b3c4du
#define BLOCK_MIN 12u       /* type, length, length again */
#define SECTION_MIN 28u     /* + byte order magic, version, section length */
#define MAX_IFACES 65536u   /* bounds memory; more are refused as bad records */
#define RESOLUTION_MICRO 6u /* the default of if_tsresol */

static int64_t get64(const nfm_pcap_file *file, const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return (int64_t)(file->swapped ? __builtin_bswap64(v) : v);
}

/* Checks the section header at input->at (12 bytes and more) and takes over its byte order. */
static bool section_order(nfm_pcap_file *file) {
    uint32_t magic;
    memcpy(&magic, file->input.at + 8, sizeof(magic));
    if (magic != BYTE_ORDER_MAGIC && magic != __builtin_bswap32(BYTE_ORDER_MAGIC))
        return false;
    file->swapped = magic != BYTE_ORDER_MAGIC;
    return true;
}

/* Versions 1.0 and 1.2 are the same format, says the draft. */
static bool section_version(const nfm_pcap_file *file, const uint8_t *p) {
    uint16_t minor = nfm_pcap_get16(file, p + 14);
    return nfm_pcap_get16(file, p + 12) == 1 && (minor == 0 || minor == 2);
}

/* Reads if_tsresol and if_tsoffset from the options in [p, end). */
static void interface_options(const nfm_pcap_file *file, nfm_pcapng_iface *iface, const uint8_t *p,
                              const uint8_t *end) {
    while (end - p >= 4) {
        uint16_t code = nfm_pcap_get16(file, p), len = nfm_pcap_get16(file, p + 2);
        p += 4;
        if (code == OPTION_END || len > end - p)
            return;
        if (code == OPTION_TSRESOL && len == 1)
            iface->resolution = p[0];
        if (code == OPTION_TSOFFSET && len == 8)
            iface->offset_s = get64(file, p);
        size_t padded = ((size_t)len + 3) & ~(size_t)3;
        if (padded > (size_t)(end - p))
            return;
        p += padded;
    }
}

/* An interface description of |len| bytes, of which the first |seen| are at |p|. */
static bool add_interface(nfm_pcap_file *file, const uint8_t *p, uint32_t len, size_t seen) {
    if (len < BLOCK_MIN + 8 || file->n_ifaces >= MAX_IFACES)
        return false;
    if (file->n_ifaces == file->max_ifaces) {
        uint32_t max = file->max_ifaces ? 2 * file->max_ifaces : 4;
        nfm_pcapng_iface *grown = realloc(file->ifaces, max * sizeof(*grown));
        if (grown == NULL)
            return false;
        file->ifaces = grown;
        file->max_ifaces = max;
    }
    nfm_pcapng_iface *iface = &file->ifaces[file->n_ifaces++];
    *iface = (nfm_pcapng_iface){.link_type = nfm_pcap_get16(file, p + 8),
                                .snaplen = nfm_pcap_get32(file, p + 12),
                                .resolution = RESOLUTION_MICRO};
    interface_options(file, iface, p + 16, p + (seen < len - 4 ? seen : len - 4));
    return true;
}

/* A simple packet block: of interface 0, without a time; it gets the one before. */
static bool simple_packet(nfm_pcap_file *file, const uint8_t *p, uint32_t len, nfm_captured *out) {
    if (len < BLOCK_MIN + 4 || file->n_ifaces == 0)
        return false;
    const nfm_pcapng_iface *iface = &file->ifaces[0];
    uint32_t room = len - BLOCK_MIN - 4, captured = nfm_pcap_get32(file, p + 8);
    out->wire_len = captured;
    if (iface->snaplen != 0 && captured > iface->snaplen)
        captured = iface->snaplen;
    if (captured > room)
        return false;
    out->data = p + 12;
    out->len = captured;
    out->link_type = iface->link_type;
    out->ts_ns = file->last_ns;
    return true;
}

/* An enhanced or an obsolete packet block: they differ in the interface number's width alone. */
static bool timed_packet(nfm_pcap_file *file, const uint8_t *p, uint32_t len, nfm_captured *out) {
    if (len < BLOCK_MIN + 20)
        return false;
    bool old = nfm_pcap_get32(file, p) == BLOCK_OLD_PACKET;
    uint32_t id = old ? nfm_pcap_get16(file, p + 8) : nfm_pcap_get32(file, p + 8);
    uint32_t captured = nfm_pcap_get32(file, p + 20), wire = nfm_pcap_get32(file, p + 24);
    if (id >= file->n_ifaces || captured > len - BLOCK_MIN - 20)
        return false;
    const nfm_pcapng_iface *iface = &file->ifaces[id];
    uint64_t units = (uint64_t)nfm_pcap_get32(file, p + 12) << 32 | nfm_pcap_get32(file, p + 16);
    out->data = p + 28;
    out->len = captured;
    out->wire_len = wire > captured ? wire : captured;
    out->link_type = iface->link_type;
    out->ts_ns = file->last_ns = nfm_pcap_time(units, iface->resolution, iface->offset_s);
    return true;
}

/* Looks into the whole block at |p|. Returns true when it is a packet that fits a slot. */
static bool open_block(nfm_pcap_file *file, const uint8_t *p, uint32_t len, nfm_captured *out) {
    uint32_t type = nfm_pcap_get32(file, p);
    bool good = true, packet = true;
    if (type == BLOCK_ENHANCED_PACKET || type == BLOCK_OLD_PACKET) {
        good = timed_packet(file, p, len, out);
    } else if (type == BLOCK_SIMPLE_PACKET) {
        good = simple_packet(file, p, len, out);
    } else {
        packet = false;
        if (type == BLOCK_INTERFACE)
            good = add_interface(file, p, len, len);
        else if (type == BLOCK_SECTION)
            file->n_ifaces = 0;
    }
    file->bad_records += !good;
    if (!good || !packet)
        return false;
    file->oversize += out->len > NFM_MAX_FRAME;
    return out->len <= NFM_MAX_FRAME;
}

/* A block that does not fit the window. Returns false when the file ends in it. */
static bool skip_block(nfm_pcap_file *file, uint32_t len) {
    nfm_input *input = &file->input;
    if (!nfm_input_need(input, NFM_INPUT_WINDOW))
        return false;
    uint32_t type = nfm_pcap_get32(file, input->at);
    if (type == BLOCK_INTERFACE)
        file->bad_records += !add_interface(file, input->at, len, NFM_INPUT_WINDOW);
    else if (type == BLOCK_SECTION)
        file->n_ifaces = 0;
    else if (type == BLOCK_ENHANCED_PACKET || type == BLOCK_OLD_PACKET ||
             type == BLOCK_SIMPLE_PACKET)
        file->oversize++;
    return nfm_input_skip(input, len);
}

/* Length of the block at input->at; 0 when it cannot be one. */
static uint32_t block_len(nfm_pcap_file *file) {
    const uint8_t *p = file->input.at;
    uint32_t min = BLOCK_MIN;
    if (nfm_pcap_get32(file, p) == BLOCK_SECTION) {
        if (!section_order(file))
            return 0;
        min = SECTION_MIN;
    }
    uint32_t len = nfm_pcap_get32(file, p + 4);
    return len < min || len % 4 != 0 ? 0 : len;
}

static int pcapng_next(nfm_pcap_file *file, nfm_captured *out) {
    nfm_input *input = &file->input;
    for (;;) {
        uint64_t at = input->offset;
        if (!nfm_input_need(input, BLOCK_MIN)) {
            if (input->avail > 0)
                return nfm_pcap_file_cut(file, at);
            file->ended = true;
            return input->problem ? nfm_pcap_file_stop(file, at, input->problem) : 0;
        }
        uint32_t len = block_len(file);
        if (len > NFM_INPUT_WINDOW) {
            if (!skip_block(file, len))
                return nfm_pcap_file_cut(file, at);
            continue;
        }
        if (len > 0 && !nfm_input_need(input, len))
            return nfm_pcap_file_cut(file, at);
        const uint8_t *p = input->at;
        if (len == 0 || nfm_pcap_get32(file, p + len - 4) != len) {
            file->bad_records++;
            return nfm_pcap_file_stop(file, at, "the length of a block is impossible");
        }
        if (nfm_pcap_get32(file, p) == BLOCK_SECTION && !section_version(file, p)) {
            file->bad_records++;
            return nfm_pcap_file_stop(file, at, "a section of an unknown pcapng version begins");
        }
        bool packet = open_block(file, p, len, out);
        nfm_input_take(input, len);
        if (packet)
            return 1;
    }
}

int nfm_pcapng_start(nfm_pcap_file *file, nfm_error *err) {
    nfm_input *input = &file->input;
    file->swapped = false;
    if (!nfm_input_need(input, SECTION_MIN))
        return nfm_io_fail(err, NFM_E_FORMAT,
                           "%s: the file ends inside its section header; record the capture again",
                           file->name);
    if (block_len(file) == 0)
        return nfm_io_fail(err, NFM_E_FORMAT,
                           "%s: not a capture: its pcapng section header is damaged; record the "
                           "capture again",
                           file->name);
    if (!section_version(file, input->at))
        return nfm_io_fail(err, NFM_E_FORMAT,
                           "%s: pcapng version %u.%u is not supported; convert it with "
                           "'editcap -F pcapng IN OUT'",
                           file->name, nfm_pcap_get16(file, input->at + 12),
                           nfm_pcap_get16(file, input->at + 14));
    file->next = pcapng_next;
    return NFM_OK;
}
