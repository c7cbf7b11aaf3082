/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * open() looks at the first four bytes and leaves the format's own function in file->next; pcapng
 * lives in pcapng.c. Both ask the input for the whole record before they believe any of it, so a
 * packet is delivered wholly or not at all, and nothing is read past the file.
 *
 * Source: pcap as in draft-ietf-opsawg-pcap. The "modified" magic a1b2cd34 is that of an old Linux
 * patch whose records have 8 more header bytes. Before version 2.3 the two length fields were the
 * other way round; at 2.3 both orders exist, and the smaller is the captured one.
 */
#include "io/pcap_file.h"

#include "io/fail.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PCAP_HEADER 24u
#define PCAP_RECORD 16u
#define PCAP_RECORD_MODIFIED 24u
/* No capture tool writes longer records on its own account: one that claims more, and more than
 * the file's own snap length, is damage. */
#define PCAP_SANE_LEN 262144u
#define NS_PER_S INT64_C(1000000000)

enum { MAGIC_MICRO = 0xa1b2c3d4, MAGIC_NANO = 0xa1b23c4d, MAGIC_MODIFIED = 0xa1b2cd34 };
enum { MAGIC_PCAPNG = 0x0a0d0d0a };

static int64_t clamp_time(__int128 ns) {
    if (ns < 0)
        return 0;
    return ns > NFM_TIME_MAX ? NFM_TIME_MAX : (int64_t)ns;
}

int64_t nfm_pcap_time(uint64_t units, uint8_t resolution, int64_t offset_s) {
    unsigned __int128 ns = units;
    unsigned exponent = resolution & 0x7f;
    if (resolution & 0x80) {
        ns = (ns * (uint64_t)NS_PER_S) >> exponent;
    } else {
        for (; exponent < 9; exponent++)
            ns *= 10;
        for (; exponent > 9 && ns > 0; exponent--)
            ns /= 10;
    }
    return clamp_time((__int128)ns + (__int128)offset_s * NS_PER_S);
}

int nfm_pcap_file_stop(nfm_pcap_file *file, uint64_t at, const char *what) {
    const char *where = file->input.window != NULL ? " of the inflated capture" : "";
    file->ended = true;
    snprintf(file->warning, sizeof(file->warning), "%s: %.60s at byte %" PRIu64 "%s", file->name,
             what, at, where);
    return 0;
}

int nfm_pcap_file_cut(nfm_pcap_file *file, uint64_t at) {
    const char *problem = file->input.problem;
    return nfm_pcap_file_stop(file, at, problem ? problem : "the file ends inside the record");
}

/* Lengths of a record header in the order of the file's version. */
static void lengths(const nfm_pcap_file *file, const uint8_t *p, uint32_t *len, uint32_t *wire) {
    *len = nfm_pcap_get32(file, p + 8);
    *wire = nfm_pcap_get32(file, p + 12);
    if (file->minor < 3 || (file->minor == 3 && *len > *wire)) {
        uint32_t swap = *len;
        *len = *wire;
        *wire = swap;
    }
}

/* The end of a file between two records: silent, unless the input had a problem. */
static int end(nfm_pcap_file *file, uint64_t at) {
    file->ended = true;
    return file->input.problem ? nfm_pcap_file_stop(file, at, file->input.problem) : 0;
}

static int pcap_next(nfm_pcap_file *file, nfm_captured *out) {
    nfm_input *input = &file->input;
    for (;;) {
        uint64_t begin = input->offset;
        if (!nfm_input_need(input, file->header_len))
            return input->avail == 0 ? end(file, begin) : nfm_pcap_file_cut(file, begin);
        uint32_t len, wire, seconds = nfm_pcap_get32(file, input->at);
        uint32_t fraction = nfm_pcap_get32(file, input->at + 4);
        lengths(file, input->at, &len, &wire);
        if (len > PCAP_SANE_LEN && len > file->snaplen) {
            file->bad_records++;
            return nfm_pcap_file_stop(file, begin, "the length of a record is impossible");
        }
        if (len > NFM_MAX_FRAME) {
            if (!nfm_input_skip(input, (uint64_t)file->header_len + len))
                return nfm_pcap_file_cut(file, begin);
            file->oversize++;
            continue;
        }
        if (!nfm_input_need(input, file->header_len + len))
            return nfm_pcap_file_cut(file, begin);
        out->data = input->at + file->header_len;
        out->len = len;
        out->wire_len = wire > len ? wire : len;
        out->link_type = file->link_type;
        out->ts_ns = clamp_time((int64_t)seconds * NS_PER_S +
                                (file->nanoseconds ? fraction : (int64_t)fraction * 1000));
        nfm_input_take(input, file->header_len + len);
        return 1;
    }
}

static int pcap_start(nfm_pcap_file *file, uint32_t magic, nfm_error *err) {
    nfm_input *input = &file->input;
    if (!nfm_input_need(input, PCAP_HEADER))
        return nfm_io_fail(err, NFM_E_FORMAT,
                           "%s: the file ends inside its header (%zu of %u bytes); "
                           "record the capture again",
                           file->name, input->avail, PCAP_HEADER);
    const uint8_t *p = input->at;
    uint16_t major = nfm_pcap_get16(file, p + 4);
    file->minor = nfm_pcap_get16(file, p + 6);
    if (major != 2)
        return nfm_io_fail(err, NFM_E_FORMAT,
                           "%s: pcap version %u.%u is not supported; convert it with "
                           "'editcap -F pcap IN OUT'",
                           file->name, major, file->minor);
    file->snaplen = nfm_pcap_get32(file, p + 16);
    /* The upper bits say whether frames end in a checksum; it is left in place as padding. */
    file->link_type = nfm_pcap_get32(file, p + 20) & 0xffff;
    file->nanoseconds = magic == MAGIC_NANO;
    file->header_len = magic == MAGIC_MODIFIED ? PCAP_RECORD_MODIFIED : PCAP_RECORD;
    file->next = pcap_next;
    nfm_input_take(input, PCAP_HEADER);
    return NFM_OK;
}

/* What a file is that is no capture, when its first bytes tell; else NULL. */
static const char *known_format(const uint8_t *p, size_t len) {
    static const struct {
        uint8_t magic[4];
        const char *text;
    } known[] = {
        {{0x28, 0xb5, 0x2f, 0xfd}, "it is compressed with zstd; decompress it first"},
        {{0x04, 0x22, 0x4d, 0x18}, "it is compressed with lz4; decompress it first"},
        {{0xfd, '7', 'z', 'X'}, "it is compressed with xz; decompress it first"},
        {{'B', 'Z', 'h', '9'}, "it is compressed with bzip2; decompress it first"},
        {{'P', 'K', 3, 4}, "it is a zip archive; unpack it first"},
        {{'s', 'n', 'o', 'o'}, "it is a snoop file; convert it with 'editcap -F pcap IN OUT'"},
        {{0x1f, 0x8b, 0x08, 0x00}, "it is gzipped twice; decompress it once"},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (len >= 4 && memcmp(p, known[i].magic, 4) == 0)
            return known[i].text;
    return NULL;
}

static int not_a_capture(const nfm_pcap_file *file, nfm_error *err) {
    const nfm_input *input = &file->input;
    const char *text = input->problem ? input->problem : known_format(input->at, input->avail);
    if (text == NULL)
        text = "its first bytes are neither pcap's nor pcapng's; name a file that tcpdump or "
               "Wireshark wrote";
    return nfm_io_fail(err, NFM_E_FORMAT, "%s: not a capture: %s", file->name, text);
}

static int begin(nfm_pcap_file *file, nfm_error *err) {
    if (!nfm_input_need(&file->input, 4))
        return not_a_capture(file, err);
    uint32_t magic;
    memcpy(&magic, file->input.at, sizeof(magic));
    for (int i = 0; i < 2; i++, magic = __builtin_bswap32(magic)) {
        file->swapped = i == 1;
        if (magic == MAGIC_PCAPNG)
            return nfm_pcapng_start(file, err);
        if (magic == MAGIC_MICRO || magic == MAGIC_NANO || magic == MAGIC_MODIFIED)
            return pcap_start(file, magic, err);
    }
    return not_a_capture(file, err);
}

/* Keeps the end of a path, which tells files apart, where all of it has no room. */
static void set_name(nfm_pcap_file *file, const char *path) {
    size_t len = strlen(path), room = sizeof(file->name) - 1;
    if (len <= room)
        snprintf(file->name, sizeof(file->name), "%s", path);
    else
        snprintf(file->name, sizeof(file->name), "...%s", path + (len - room + 3));
    for (char *p = file->name; *p != '\0'; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
}

int nfm_pcap_file_open(nfm_pcap_file *file, const char *path, nfm_error *err) {
    memset(file, 0, sizeof(*file));
    set_name(file, path);
    int rc = nfm_input_open(&file->input, path, err);
    if (rc == NFM_OK)
        rc = begin(file, err);
    if (rc != NFM_OK)
        nfm_pcap_file_close(file);
    return rc;
}

int nfm_pcap_file_borrow(nfm_pcap_file *file, const uint8_t *data, size_t len, const char *name,
                         nfm_error *err) {
    memset(file, 0, sizeof(*file));
    set_name(file, name);
    int rc = nfm_input_borrow(&file->input, data, len);
    if (rc != NFM_OK)
        nfm_io_fail(err, rc, "%s: no memory to inflate it; free some", file->name);
    else
        rc = begin(file, err);
    if (rc != NFM_OK)
        nfm_pcap_file_close(file);
    return rc;
}

void nfm_pcap_file_close(nfm_pcap_file *file) {
    nfm_input_close(&file->input);
    free(file->ifaces);
    file->ifaces = NULL;
    file->n_ifaces = file->max_ifaces = 0;
    file->ended = true;
}

int nfm_pcap_file_next(nfm_pcap_file *file, nfm_captured *out) {
    if (file->ended || file->next(file, out) == 0)
        return 0;
    file->packets++;
    return 1;
}
