/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writer of captures in this machine's byte order. Records collect in a buffer and leave in large
 * writes; after the first failure nothing more is written, every later call returns the same
 * status, and close says what the operating system said.
 */
#include "io/fail.h"
#include "io/pcap_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUFFER_SIZE ((size_t)256 * 1024)
#define SNAPLEN_MAX 262144u
#define PIPE_WAIT_MS 5000
#define NS_PER_S INT64_C(1000000000)

enum format { FORMAT_MICRO = 0, FORMAT_NANO = 1, FORMAT_PCAPNG = 2 };

struct nfm_pcap_writer {
    int fd;
    int format;
    uint32_t snaplen;
    int failed;      /* errno of the first failure */
    int64_t last_ns; /* of the newest frame */
    char *path;
    size_t used;
    uint8_t buffer[BUFFER_SIZE];
};

/* A pipe whose reader takes nothing for a while is given up. */
static bool wait_for_reader(int fd) {
    struct pollfd pipe = {.fd = fd, .events = POLLOUT};
    int rc;
    do {
        rc = poll(&pipe, 1, PIPE_WAIT_MS);
    } while (rc < 0 && errno == EINTR);
    errno = rc == 0 ? ETIMEDOUT : errno;
    return rc > 0;
}

static void flush(nfm_pcap_writer *writer) {
    size_t done = 0;
    while (done < writer->used && writer->failed == 0) {
        ssize_t n = write(writer->fd, writer->buffer + done, writer->used - done);
        if (n > 0)
            done += (size_t)n;
        else if (n == 0)
            writer->failed = EIO;
        else if (errno != EINTR && !(errno == EAGAIN && wait_for_reader(writer->fd)))
            writer->failed = errno;
    }
    writer->used = 0;
}

static void put(nfm_pcap_writer *writer, const void *data, size_t len) {
    const uint8_t *from = data;
    while (len > 0 && writer->failed == 0) {
        size_t room = BUFFER_SIZE - writer->used, n = len < room ? len : room;
        memcpy(writer->buffer + writer->used, from, n);
        writer->used += n;
        from += n;
        len -= n;
        if (writer->used == BUFFER_SIZE)
            flush(writer);
    }
}

static void put_pcap_header(nfm_pcap_writer *writer, uint32_t link_type) {
    const struct {
        uint32_t magic;
        uint16_t major, minor;
        uint32_t zone, accuracy, snaplen, link_type;
    } header = {.magic = writer->format == FORMAT_NANO ? 0xa1b23c4d : 0xa1b2c3d4,
                .major = 2,
                .minor = 4,
                .snaplen = writer->snaplen,
                .link_type = link_type};
    static_assert(sizeof(header) == 24, "pcap file header");
    put(writer, &header, sizeof(header));
}

/* One section with one interface of nanosecond resolution. */
static void put_pcapng_header(nfm_pcap_writer *writer, uint32_t link_type) {
    const struct {
        uint32_t type, len, magic;
        uint16_t major, minor;
        uint32_t section_len[2]; /* all ones: not given */
        uint32_t len_again;
    } section = {.type = 0x0a0d0d0a,
                 .len = sizeof(section),
                 .magic = 0x1a2b3c4d,
                 .major = 1,
                 .section_len = {UINT32_MAX, UINT32_MAX},
                 .len_again = sizeof(section)};
    const struct {
        uint32_t type, len;
        uint16_t link_type, reserved;
        uint32_t snaplen;
        uint16_t tsresol_code, tsresol_len;
        uint8_t tsresol, pad[3];
        uint32_t end_of_options, len_again;
    } interface = {.type = 1,
                   .len = sizeof(interface),
                   .link_type = (uint16_t)link_type,
                   .snaplen = writer->snaplen,
                   .tsresol_code = 9,
                   .tsresol_len = 1,
                   .tsresol = 9,
                   .len_again = sizeof(interface)};
    static_assert(sizeof(section) == 28 && sizeof(interface) == 32, "pcapng headers");
    put(writer, &section, sizeof(section));
    put(writer, &interface, sizeof(interface));
}

/*
 * nfm_pcap_writer_open creates or empties the file |path|. |format| is 0 pcap with microseconds,
 * 1 pcap with nanoseconds, 2 pcapng with nanoseconds; frames are cut to |snaplen| bytes (0: 256
 * KiB, the largest). The caller ends it with nfm_pcap_writer_close.
 * Returns NULL with a line in |err| that names the file, what is wrong and what to do.
 */
nfm_pcap_writer *nfm_pcap_writer_open(const char *path, int format, uint32_t link_type,
                                      uint32_t snaplen, nfm_error *err) {
    if (format < FORMAT_MICRO || format > FORMAT_PCAPNG || link_type > UINT16_MAX) {
        nfm_io_fail(err, NFM_E_INVAL,
                    "%.300s: cannot write format %d, link type %u; formats are 0 to 2, link types "
                    "16 bits",
                    path, format, link_type);
        return NULL;
    }
    nfm_pcap_writer *writer = malloc(sizeof(*writer));
    char *copy = strdup(path);
    if (writer == NULL || copy == NULL) {
        nfm_io_fail(err, NFM_E_NOMEM, "%.300s: no memory to write it; free some", path);
        free(writer);
        free(copy);
        return NULL;
    }
    /* A pipe that nobody reads is an error, not a wait for its reader. */
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK, 0666);
    if (fd < 0) {
        nfm_io_fail_errno(err, path, "write", errno);
        free(writer);
        free(copy);
        return NULL;
    }
    writer->fd = fd;
    writer->format = format;
    writer->snaplen = snaplen == 0 || snaplen > SNAPLEN_MAX ? SNAPLEN_MAX : snaplen;
    writer->failed = 0;
    writer->last_ns = 0;
    writer->path = copy;
    writer->used = 0;
    if (format == FORMAT_PCAPNG)
        put_pcapng_header(writer, link_type);
    else
        put_pcap_header(writer, link_type);
    return writer;
}

static void put_pcap(nfm_pcap_writer *writer, uint32_t len, uint32_t wire_len, int64_t ts_ns) {
    int64_t seconds = ts_ns / NS_PER_S, fraction = ts_ns % NS_PER_S;
    if (writer->format == FORMAT_MICRO)
        fraction /= 1000;
    const uint32_t record[4] = {(uint32_t)seconds, (uint32_t)fraction, len, wire_len};
    put(writer, record, sizeof(record));
}

/* An enhanced packet block; its flags option says which way the frame went. */
static void put_pcapng(nfm_pcap_writer *writer, const nfm_captured_frame *frame, uint32_t len) {
    static const uint8_t zero[4];
    const uint16_t flags_option[2] = {2, 4};
    const uint32_t way[2] = {frame->way == NFM_DIR_RX ? 1 : 2, 0}; /* and the end of the options */
    uint32_t padding = (4 - len % 4) % 4;
    uint32_t total = 32 + len + padding + (frame->way != 0 ? 12 : 0);
    const uint32_t block[7] = {
        6,   total,          0, (uint32_t)((uint64_t)frame->ts_ns >> 32), (uint32_t)frame->ts_ns,
        len, frame->wire_len};
    put(writer, block, sizeof(block));
    put(writer, frame->data, len);
    put(writer, zero, padding);
    if (frame->way != 0) {
        put(writer, flags_option, sizeof(flags_option));
        put(writer, way, sizeof(way));
    }
    put(writer, &total, sizeof(total));
}

/*
 * nfm_pcap_writer_write_way appends one frame of |frame->len| bytes, |wire_len| on the wire (at
 * least len), captured at |ts_ns|, which is clamped to what the reader knows. |way| is kept by
 * pcapng only.
 * Returns NFM_OK, or NFM_E_IO once a write has failed; nfm_pcap_writer_close has the reason.
 */
int nfm_pcap_writer_write_way(nfm_pcap_writer *writer, const nfm_captured_frame *frame) {
    nfm_captured_frame f = *frame;
    uint32_t len = f.len < writer->snaplen ? f.len : writer->snaplen;
    if (f.wire_len < f.len)
        f.wire_len = f.len;
    /* Seconds of NFM_TIME_MAX overflow the 32 bits of pcap: its own end is earlier. */
    int64_t last = writer->format == FORMAT_PCAPNG ? NFM_TIME_MAX : UINT32_MAX * NS_PER_S;
    f.ts_ns = f.ts_ns < 0 ? 0 : (f.ts_ns > last ? last : f.ts_ns);
    writer->last_ns = f.ts_ns > writer->last_ns ? f.ts_ns : writer->last_ns;
    if (writer->format == FORMAT_PCAPNG) {
        put_pcapng(writer, &f, len);
    } else {
        put_pcap(writer, len, f.wire_len, f.ts_ns);
        put(writer, f.data, len);
    }
    return writer->failed == 0 ? NFM_OK : NFM_E_IO;
}

/*
 * nfm_pcap_writer_write is nfm_pcap_writer_write_way for a frame that went no known way.
 */
int nfm_pcap_writer_write(nfm_pcap_writer *writer, const uint8_t *frame, uint32_t len,
                          uint32_t wire_len, int64_t ts_ns) {
    const nfm_captured_frame captured = {
        .data = frame, .len = len, .wire_len = wire_len, .ts_ns = ts_ns};
    return nfm_pcap_writer_write_way(writer, &captured);
}

/*
 * nfm_pcap_writer_write_totals appends to a pcapng file how many frames were |received|, and how
 * many of them were |lost| on the way to the file; other formats have no place for it.
 * Returns NFM_OK, or NFM_E_IO once a write has failed.
 */
int nfm_pcap_writer_write_totals(nfm_pcap_writer *writer, uint64_t received, uint64_t lost) {
    const struct {
        uint32_t type, len, interface, time[2];
        uint16_t received_code, received_len;
        uint32_t received[2];
        uint16_t lost_code, lost_len;
        uint32_t lost[2];
        uint32_t end_of_options, len_again;
    } block = {.type = 5,
               .len = sizeof(block),
               .time = {(uint32_t)((uint64_t)writer->last_ns >> 32), (uint32_t)writer->last_ns},
               .received_code = 4, /* isb_ifrecv */
               .received_len = 8,
               .received = {(uint32_t)received, (uint32_t)(received >> 32)},
               .lost_code = 5, /* isb_ifdrop */
               .lost_len = 8,
               .lost = {(uint32_t)lost, (uint32_t)(lost >> 32)},
               .len_again = sizeof(block)};
    static_assert(sizeof(block) == 52, "interface statistics block");
    if (writer->format == FORMAT_PCAPNG)
        put(writer, &block, sizeof(block));
    return writer->failed == 0 ? NFM_OK : NFM_E_IO;
}

/*
 * nfm_pcap_writer_flush writes what is buffered, for readers that follow the file.
 * Returns NFM_OK, or NFM_E_IO once a write has failed.
 */
int nfm_pcap_writer_flush(nfm_pcap_writer *writer) {
    flush(writer);
    return writer->failed == 0 ? NFM_OK : NFM_E_IO;
}

/*
 * nfm_pcap_writer_close writes what is buffered, closes the file and frees |writer|; NULL is fine.
 * Returns NFM_OK, or NFM_E_IO with a line in |err| when any byte could not be written.
 */
int nfm_pcap_writer_close(nfm_pcap_writer *writer, nfm_error *err) {
    if (writer == NULL)
        return NFM_OK;
    flush(writer);
    if (close(writer->fd) != 0 && writer->failed == 0)
        writer->failed = errno;
    int rc = NFM_OK;
    if (writer->failed != 0)
        rc = nfm_io_fail_errno(err, writer->path, "write", writer->failed);
    free(writer->path);
    free(writer);
    return rc;
}
