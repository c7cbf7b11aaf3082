/* SPDX-License-Identifier: Apache-2.0 */
/* Prints what the parser makes of captures, for comparison with other dissectors: a line "# path"
 * per file, then a line per frame: number, status, reason, version, source, destination, protocol,
 * ports, payload bytes on the wire and captured, fragment offset, tunnel kind and id, tab
 * separated. */
#include <arpa/inet.h>

#include "io/pcap_file.h"
#include "wire_frames.h"

static const char *address(uint8_t version, const uint8_t *addr, char *text) {
    if (version == 0 || inet_ntop(version == 4 ? AF_INET : AF_INET6, addr, text, 64) == NULL)
        return "";
    return text;
}

static void print(unsigned n, const nfm_packet *p) {
    static const char *const status[] = {"ok", "fragment", "other", "malformed"};
    char src[64], dst[64];
    printf("%u\t%s\t%s\t%u\t%s\t%s\t%u\t%u\t%u\t%u\t%u\t%u\t%u\t%u\n", n, status[p->status],
           nfm_wire_drop_name(p->malformed), p->key.ip_version,
           address(p->key.ip_version, p->key.addr[0], src),
           address(p->key.ip_version, p->key.addr[1], dst), p->key.proto, p->key.port[0],
           p->key.port[1], p->l4_len, p->rec.payload_len, p->frag_off, p->tunnel_kind,
           p->tunnel_id);
}

int main(int argc, char **argv) {
    static const nfm_wire_config config = {.max_depth = 4};
    for (int i = 1; i < argc; i++) {
        nfm_pcap_file file;
        nfm_captured captured;
        nfm_error err;
        printf("# %s\n", argv[i]);
        if (nfm_pcap_file_open(&file, argv[i], &err) != NFM_OK)
            continue;
        for (unsigned n = 1; nfm_pcap_file_next(&file, &captured) == 1; n++) {
            uint16_t link =
                captured.link_type < UINT16_MAX ? (uint16_t)captured.link_type : UINT16_MAX;
            nfm_packet p =
                parse_at(&config, captured.data, captured.len, captured.wire_len, link, false);
            print(n, &p);
        }
        nfm_pcap_file_close(&file);
    }
    return nfm_test_failed;
}
