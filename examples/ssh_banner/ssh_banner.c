/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stack module of a third party: the first line of both sides of SSH connections (RFC 4253
 * section 4.2). A side that does not begin with "SSH-" is not SSH: the module leaves the flow, and
 * the stack stops reassembling it unless somebody else needs that. Built with
 *     cc -O2 -shared -fPIC ssh_banner.c $(python -m mesh.sdk) -o ssh_banner.so
 */
#include <string.h>

#include "nfm/module.h"

enum { LONGEST = 255 }; /* RFC 4253 section 4.2, line end included */
enum { EVENT_NODE, EVENT_BANNER };

typedef struct lines { /* state of a flow: what came so far, by side */
    uint8_t text[2][LONGEST];
    uint8_t len[2], done[2];
} lines;

static const nfm_field_def fields[] = {
    NFM_FIELD(0, "banner", STR, "", "the line, without its end"),
};
static const nfm_event_def emits[] = {
    [EVENT_NODE] = {"ssh", -1, 0, NULL, "anything of an SSH connection"},
    [EVENT_BANNER] = NFM_EVENT("ssh.banner", fields, "a side says which software it is"),
};
static const char *const needs[] = {"tcp.data", NULL};
static const char *const counters[] = {"banners", "not_ssh", NULL};
enum { COUNT_BANNERS, COUNT_NOT_SSH };

static void leave(nfm_ctx *ctx) {
    ctx->counters[COUNT_NOT_SSH]++;
    nfm_detach(ctx);
}

static void on_event(nfm_ctx *ctx, const nfm_record *record, nfm_view data, void *state) {
    lines *flow = state;
    uint8_t side = record->side, *text = flow->text[side], *len = &flow->len[side];
    if (flow->done[side])
        return;
    if (record->tcp.stream_off != *len) { /* the begin was not seen */
        leave(ctx);
        return;
    }
    uint32_t n = data.len < (uint32_t)(LONGEST - *len) ? data.len : (uint32_t)(LONGEST - *len);
    memcpy(text + *len, data.data, n);
    *len = (uint8_t)(*len + n);
    const uint8_t *end = memchr(text, '\n', *len);
    if (memcmp(text, "SSH-", *len < 4 ? *len : 4) != 0 || (end == NULL && *len == LONGEST)) {
        leave(ctx);
    } else if (end != NULL) {
        uint32_t size = (uint32_t)(end - text);
        nfm_value banner = nfm_text((nfm_view){text, text[size - 1] == '\r' ? size - 1 : size});
        ctx->counters[COUNT_BANNERS]++;
        flow->done[side] = 1;
        (void)nfm_raise(ctx, EVENT_BANNER, &banner, (nfm_view){NULL, 0});
        if (flow->done[!side])
            nfm_detach(ctx); /* both are known: no more work on this flow */
    }
}

extern const nfm_module nfm_module_ssh_banner;
const nfm_module nfm_module_ssh_banner = {
    .abi = NFM_MODULE_ABI,
    .phase = NFM_PHASE_APP,
    .name = "ssh_banner",
    .summary = "the software of both sides of SSH connections",
    .needs = needs,
    .emits = emits,
    .counters = counters,
    .n_emits = sizeof(emits) / sizeof(emits[0]),
    .flow_size = sizeof(lines),
    .proto = 6,
    .on_event = on_event,
};
