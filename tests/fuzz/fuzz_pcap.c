/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes are either refused with one line or give packets that lie in the input, and an end.
 * Packets never hold more bytes than the input; a prefix gives a prefix of the packets. */
#include "io/pcap_file.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
    if (!holds)
        abort();
}

/* Reads all packets; returns how many, and a sum over their bytes in *sum after |limit| packets. */
static uint64_t read_all(const uint8_t *data, size_t size, uint64_t limit, uint64_t *sum) {
    nfm_pcap_file file;
    nfm_captured packet;
    nfm_error err = {0};
    uint64_t n = 0, bytes = 0;
    *sum = 0;
    if (nfm_pcap_file_borrow(&file, data, size, "fuzz", &err) != NFM_OK) {
        require(err.code < 0 && err.text[0] != '\0');
        return 0;
    }
    bool plain = file.input.window == NULL;
    while (nfm_pcap_file_next(&file, &packet) == 1) {
        require(packet.len <= NFM_MAX_FRAME && packet.wire_len >= packet.len);
        require(packet.ts_ns >= 0 && packet.ts_ns <= NFM_TIME_MAX);
        bytes += packet.len;
        for (uint32_t i = 0; i < packet.len && n < limit; i++)
            *sum = *sum * 31 + packet.data[i];
        require(!plain || (packet.data >= data && packet.data + packet.len <= data + size));
        n++;
    }
    require(!plain || bytes <= size);
    require(n == file.packets && nfm_pcap_file_next(&file, &packet) == 0);
    nfm_pcap_file_close(&file);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t whole, prefix;
    size_t cut = size > 0 ? data[size - 1] * size / 256 : 0;
    uint8_t *copy = malloc(cut + 1); /* ends where the prefix ends, for the address checks */
    if (copy == NULL)
        return 0;
    memcpy(copy, data, cut);
    uint8_t *exact = realloc(copy, cut > 0 ? cut : 1);
    uint64_t n = read_all(exact, cut, UINT64_MAX, &prefix);
    require(read_all(data, size, n, &whole) >= n && whole == prefix);
    free(exact);
    return 0;
}
