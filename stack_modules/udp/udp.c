/* SPDX-License-Identifier: Apache-2.0 */
/*
 * udp raises udp.datagram for every whole datagram. The bytes are the packet's payload, where they
 * lie; a datagram put together from fragments arrives here whole.
 */
#include "nfm/module.h"

/* clang-format off */
static const nfm_event_def emits[] = {
    {"udp.datagram", NFM_EV_UDP_DATAGRAM, 0, NULL, "a whole datagram with its bytes"},
};
/* clang-format on */

static const char *const needs[] = {"packet.udp", NULL};
static const char *const counters[] = {"datagrams", "cut", NULL};
enum { COUNT_DATAGRAMS, COUNT_CUT };

static int on_packet(nfm_ctx *ctx, nfm_packet *packet, void *state) {
    (void)state;
    ctx->counters[COUNT_DATAGRAMS]++;
    if (packet->rec.payload_len < packet->l4_len)
        ctx->counters[COUNT_CUT]++; /* delivered all the same; rec.flags says truncated */
    packet->rec.events |= NFM_BIT(NFM_EV_UDP_DATAGRAM);
    return 0;
}

extern const nfm_module nfm_module_udp;
const nfm_module nfm_module_udp = {
    .abi = NFM_MODULE_ABI,
    .phase = NFM_PHASE_TRACK,
    .name = "udp",
    .summary = "raises an event for every UDP datagram",
    .needs = needs,
    .emits = emits,
    .counters = counters,
    .n_emits = sizeof(emits) / sizeof(emits[0]),
    .proto = 17,
    .on_packet = on_packet,
};
