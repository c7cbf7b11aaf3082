/* SPDX-License-Identifier: Apache-2.0 */
/* What a stack module may ask of its worker; the contract is in nfm/module.h. */
#include <string.h>

#include "engine/worker.h"

void *nfm_flow_state(nfm_ctx *ctx, uint32_t flow_index) {
    const nfm_instance *in = &ctx->worker->graph.instances[ctx->index];
    return nfm_instance_state(in, flow_index);
}

static bool set_wants(const nfm_subset *set, uint32_t type) {
    for (uint32_t i = 0; i < set->n_app; i++)
        if (type >= set->app[i].type_first && type <= set->app[i].type_last)
            return true;
    return false;
}

bool nfm_wanted(nfm_ctx *ctx, uint32_t flow_index, uint32_t event) {
    const nfm_worker *w = ctx->worker;
    uint32_t type = w->graph.instances[ctx->index].types[event];
    const nfm_subset *a = nfm__set_of(w, flow_index, 0), *b = nfm__set_of(w, flow_index, 1);
    return set_wants(a, type) || (b != a && set_wants(b, type));
}

bool nfm_snapshot_wanted(nfm_ctx *ctx, const nfm_packet *packet) {
    const nfm_subs *subs = &ctx->worker->subs;
    const nfm_flow *flow = packet->flow;
    /* A filter may choose another set once the tracker has found the client. */
    return (subs->sets[flow->subs[packet->rec.side]].events & packet->rec.events) != 0 ||
           flow->modules != 0 || subs->any_filter;
}

/* Bytes of the field record: 8-byte cells, then what BYTES, STR and ADDR cells point to. */
static uint64_t fields_len(const nfm_instance *in, uint32_t event, const nfm_value *values) {
    uint64_t len = in->n_cells[event] * UINT64_C(8);
    for (uint64_t left = in->bytes_cells[event]; left != 0; left &= left - 1)
        len += values[__builtin_ctzll(left)].bytes.len;
    return len;
}

static void write_fields(const nfm_instance *in, uint32_t event, const nfm_value *values,
                         uint8_t *out) {
    uint32_t n = in->n_cells[event], end = n * 8;
    for (uint32_t i = 0; i < n; i++) {
        if (!(in->bytes_cells[event] >> i & 1)) {
            memcpy(out + i * 8, &values[i].number, 8);
            continue;
        }
        uint32_t cell[2] = {end, values[i].bytes.len};
        memcpy(out + i * 8, cell, 8);
        if (cell[1] > 0)
            memcpy(out + end, values[i].bytes.data, cell[1]);
        end += cell[1];
    }
}

int nfm_raise(nfm_ctx *ctx, uint32_t event, const nfm_value *values, nfm_view data) {
    nfm_worker *w = ctx->worker;
    const nfm_instance *in = &w->graph.instances[ctx->index];
    const nfm_subset *set = nfm__set_of(w, w->trigger_flow, w->trigger_side);
    if (!set_wants(set, in->types[event]))
        return NFM_OK;
    uint64_t len = fields_len(in, event, values), offset;
    if (len > UINT32_MAX || nfm_fields_get(&w->delivery, (uint32_t)len, &offset) != NFM_OK) {
        w->core_counters[NFM_CC_RAISE_LIMIT]++;
        return NFM_E_LIMIT;
    }
    write_fields(in, event, values, w->delivery.fields + offset);
    nfm_record rec = *w->trigger;
    const uint8_t *base = nfm_slot_ptr(&w->mem, rec.slot);
    rec.kind = NFM_REC_APP;
    rec.side = w->trigger_side;
    rec.events = 0;
    rec.reason = 0;
    uint64_t stream_off = w->trigger->kind == NFM_REC_PACKET ? w->trigger->tcp.stream_off : 0;
    memset(&rec.app, 0, sizeof(rec.app));
    rec.app.stream_off = stream_off;
    rec.app.type = in->types[event];
    rec.app.fields = offset;
    rec.app.fields_len = (uint32_t)len;
    rec.app.ordinal = w->trigger_ordinal++;
    if (data.len > 0 && base != NULL) {
        rec.app.data_off = (uint32_t)(data.data - base);
        rec.app.data_len = data.len;
        if (w->trigger->tcp.data_len > 0)
            rec.app.stream_off += rec.app.data_off - w->trigger->tcp.data_off;
    }
    nfm_deliver_app(&w->delivery, set, &rec, &w->table.info[w->trigger_flow]);
    return NFM_OK;
}

void nfm_raise_side(nfm_ctx *ctx, uint8_t side) {
    ctx->worker->trigger_side = side & 1;
}

void nfm_detach(nfm_ctx *ctx) {
    nfm_worker *w = ctx->worker;
    nfm_flow *flow = nfm_table_flow(&w->table, w->trigger_flow);
    flow->modules &= (uint16_t) ~(1u << ctx->index);
    nfm__flow_set_level(w, w->trigger_flow);
}

void nfm_slot_hold(nfm_ctx *ctx, uint32_t slot) {
    nfm_pool_hold(&ctx->worker->pool, slot);
}

void nfm_slot_release(nfm_ctx *ctx, uint32_t slot) {
    nfm_pool_put(&ctx->worker->pool, slot);
}

uint32_t nfm_slot_new(nfm_ctx *ctx, uint32_t len) {
    return nfm_pool_get(&ctx->worker->pool, len);
}

uint8_t *nfm_slot_base(nfm_ctx *ctx, uint32_t slot) {
    return nfm_pool_addr(&ctx->worker->pool, slot);
}

uint32_t nfm_slots_free(const nfm_ctx *ctx) {
    return ctx->worker->pool.n_free_small;
}

void nfm_reparse(nfm_ctx *ctx, nfm_packet *packet) {
    uint32_t off = packet->rec.l3_off;
    nfm_wire_parse_ip(&ctx->worker->wire, packet, off, NFM_HEADROOM + packet->rec.frame_len - off);
}
