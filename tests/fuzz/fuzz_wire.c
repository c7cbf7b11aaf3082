/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: whatever the bytes, link type and capture cut, all offsets lie inside the frame,
 * payload_off + payload_len ends inside it, the status is one of four, and the fast path says what
 * the walk says. */
#include <stdlib.h>
#include <string.h>

#include "wire/layers.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok) {
    if (!ok)
        abort();
}

static void check(const nfm_packet *p) {
    const nfm_record *rec = &p->rec;
    uint32_t end = NFM_HEADROOM + rec->frame_len;
    require(rec->l3_off <= end && rec->l4_off <= end && rec->payload_off <= end);
    require(rec->payload_off + rec->payload_len <= end);
    require(p->ext_off <= end && p->depth <= 4 && p->tcp.n_sack <= 4 && p->tcp.wscale <= 14);
    require(p->status <= NFM_PARSE_MALFORMED && p->malformed < NFM_PD_COUNT);
    require((p->status == NFM_PARSE_MALFORMED) == (p->malformed != NFM_PD_NONE));
    require(p->status != NFM_PARSE_FRAGMENT || rec->payload_off == rec->l4_off);
    require(rec->payload_len <= p->l4_len || p->status != NFM_PARSE_OK);
}

/* The first four bytes choose configuration, link type, and how much the capture cut off. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint16_t links[] = {1,   0,   9,   12,  50,  51,  101, 104,
                                     108, 113, 228, 229, 276, 147, 1,   1};
    if (size < 4 || size - 4 > NFM_MAX_FRAME)
        return 0;
    nfm_wire_config config = {.max_depth = data[0] & 7u,
                              .verify_checksums = data[0] >> 3 & 1,
                              .key_vlan = data[0] >> 4 & 1,
                              .key_tunnel = data[0] >> 5 & 1};
    if (config.max_depth > 4)
        config.max_depth = 4;
    uint32_t len = (uint32_t)(size - 4);
    uint8_t *slot =
        malloc(NFM_HEADROOM + len); /* exact, so that the sanitizer sees one byte over */
    if (slot == NULL)
        return 0;
    memcpy(slot + NFM_HEADROOM, data + 4, len);
    nfm_packet fast;
    memset(&fast, 0, sizeof(fast));
    fast.base = slot;
    fast.rec.frame_len = len;
    fast.rec.wire_len = len + (uint32_t)data[2] * data[3];
    fast.link_type = links[data[1] & 15];
    nfm_packet general = fast;
    nfm_wire_parse(&config, &fast);
    nfm__wire_parse_general(&config, &general);
    check(&fast);
    check(&general);
    require(memcmp(&fast, &general, sizeof(fast)) == 0);
    if (fast.status ==
        NFM_PARSE_OK) { /* reading it again from its IP header on finds a packet too */
        uint32_t off = fast.rec.l3_off;
        nfm_wire_parse_ip(&config, &general, off, NFM_HEADROOM + len - off);
        check(&general);
    }
    free(slot);
    return 0;
}
