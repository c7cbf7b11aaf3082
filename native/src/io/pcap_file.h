/* SPDX-License-Identifier: Apache-2.0 */
/* Reader of capture files: pcap and pcapng, either gzipped, any byte order and time resolution. */
#ifndef NFM_IO_PCAP_FILE_H
#define NFM_IO_PCAP_FILE_H

#include "io/input.h"

/* Times are clamped to 0..NFM_TIME_MAX (year 2116): past what 32-bit seconds can say, and far
 * enough from the type's end that a time-out can be added without overflow. */
#define NFM_TIME_MAX (INT64_MAX / 2)

typedef struct nfm_captured { /* one packet as it is in the file */
    const uint8_t *data;      /* valid until the next call */
    uint32_t len;
    uint32_t wire_len; /* at least len */
    uint32_t link_type;
    int64_t ts_ns;
} nfm_captured;

typedef struct nfm_pcapng_iface {
    uint32_t snaplen; /* 0: no limit */
    uint16_t link_type;
    uint8_t resolution; /* if_tsresol: power of 10, or with bit 7 power of 2 */
    int64_t offset_s;   /* if_tsoffset */
} nfm_pcapng_iface;

typedef struct nfm_pcap_file {
    nfm_input input;
    int (*next)(struct nfm_pcap_file *file, nfm_captured *out);
    uint64_t packets;  /* delivered */
    uint64_t oversize; /* longer than NFM_MAX_FRAME: skipped */
    uint64_t bad_records;
    bool swapped; /* byte order is not this machine's */
    bool ended;
    /* pcap */
    bool nanoseconds;
    uint8_t header_len; /* of a record */
    uint16_t minor;
    uint32_t link_type, snaplen;
    /* pcapng */
    nfm_pcapng_iface *ifaces; /* of this section */
    uint32_t n_ifaces, max_ifaces;
    int64_t last_ns;   /* time of the last packet that had one */
    char name[160];    /* the end of the path, for texts */
    char warning[256]; /* why the file ended early; empty: it did not */
} nfm_pcap_file;

/*
 * nfm_pcap_file_open opens |path| and reads its file header. Returns NFM_OK, or a negative status
 * with a line in |err| that names the file, what is wrong and what to do; then nothing is left
 * open.
 */
int nfm_pcap_file_open(nfm_pcap_file *file, const char *path, nfm_error *err);
/* The same over |len| bytes of the caller, which must outlive |file|; |name| is for texts. */
int nfm_pcap_file_borrow(nfm_pcap_file *file, const uint8_t *data, size_t len, const char *name,
                         nfm_error *err);
void nfm_pcap_file_close(nfm_pcap_file *file);

/*
 * nfm_pcap_file_next reads the next packet. A packet that is not wholly in the file is never
 * delivered. Unknown blocks are skipped; blocks whose inside is wrong are skipped and counted;
 * where the next record cannot be found the file ends with a warning.
 * Returns 1 with *out filled, or 0 at the end (then see file->warning).
 */
int nfm_pcap_file_next(nfm_pcap_file *file, nfm_captured *out);

/* ---- for pcapng.c ------------------------------------------------------------------------- */

/* Reads the first section header; NFM_OK or a negative status with a line in |err|. */
int nfm_pcapng_start(nfm_pcap_file *file, nfm_error *err);
/* Ends the file with a warning: |what| happened in the record that begins at byte |at|.
 * Returns 0, what next() returns at the end. */
int nfm_pcap_file_stop(nfm_pcap_file *file, uint64_t at, const char *what);
/* The same for a record that the file does not hold wholly. */
int nfm_pcap_file_cut(nfm_pcap_file *file, uint64_t at);

/* A time of |units| / (10^exponent or 2^exponent) seconds after |offset_s| in ns, clamped. */
int64_t nfm_pcap_time(uint64_t units, uint8_t resolution, int64_t offset_s);

static inline uint16_t nfm_pcap_get16(const nfm_pcap_file *file, const uint8_t *p) {
    uint16_t v;
    __builtin_memcpy(&v, p, sizeof(v));
    return file->swapped ? __builtin_bswap16(v) : v;
}

static inline uint32_t nfm_pcap_get32(const nfm_pcap_file *file, const uint8_t *p) {
    uint32_t v;
    __builtin_memcpy(&v, p, sizeof(v));
    return file->swapped ? __builtin_bswap32(v) : v;
}

#endif
