/* SPDX-License-Identifier: Apache-2.0 */
/* What a stack module may ask of its worker; the contract is in nfm/module.h. */
#include <string.h>

#include "engine/hosted.h"
#include "engine/module_host.h"
#include "engine/strand.h"

void *nfm_flow_state(nfm_ctx *ctx, uint32_t flow_index) {
    const nfm_instance *in = &ctx->worker->graph.instances[ctx->index];
    return nfm_instance_state(in, flow_index);
}

bool nfm_wanted(nfm_ctx *ctx, uint32_t flow_index, uint32_t event) {
    const nfm_worker *w = ctx->worker;
    if (w->host != NULL)
        return nfm__host_wants(w->host, event);
    uint32_t type = w->graph.instances[ctx->index].types[event];
    const nfm_subset *a = nfm__set_of(w, flow_index, 0), *b = nfm__set_of(w, flow_index, 1);
    return nfm_subset_wants(a, type) || (b != a && nfm_subset_wants(b, type));
}

bool nfm_snapshot_wanted(nfm_ctx *ctx, const nfm_packet *packet) {
    const nfm_subs *subs = &ctx->worker->subs;
    const nfm_flow *flow = packet->flow;
    /* A filter may choose another set once the tracker has found the client. */
    const nfm_subset *set = &subs->sets[flow->subs[packet->rec.side]];
    return ((set->events | set->inline_events) & packet->rec.events) != 0 || flow->modules != 0 ||
           subs->any_filter;
}

/* Bytes of the field record: 8-byte cells, then what BYTES, STR and ADDR cells point to. */
uint64_t nfm__fields_len(const nfm_instance *in, uint32_t event, const nfm_value *values) {
    uint64_t len = in->n_cells[event] * UINT64_C(8);
    for (uint64_t left = in->bytes_cells[event]; left != 0; left &= left - 1)
        len += values[__builtin_ctzll(left)].bytes.len;
    return len;
}

void nfm__fields_write(const nfm_instance *in, uint32_t event, const nfm_value *values,
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

nfm_record nfm__raised_record(const nfm_record *trigger, const nfm_raised *raised) {
    nfm_record rec = *trigger;
    rec.kind = NFM_REC_APP;
    rec.side = raised->side;
    rec.events = 0;
    rec.reason = 0;
    memset(&rec.app, 0, sizeof(rec.app));
    rec.app.stream_off = trigger->kind == NFM_REC_PACKET ? trigger->tcp.stream_off : 0;
    rec.app.type = raised->type;
    rec.app.fields = raised->fields;
    rec.app.fields_len = raised->fields_len;
    rec.app.ordinal = raised->ordinal;
    if (raised->data_len > 0) {
        rec.app.data_off = raised->data_off;
        rec.app.data_len = raised->data_len;
        if (trigger->tcp.data_len > 0)
            rec.app.stream_off += rec.app.data_off - trigger->tcp.data_off;
    }
    return rec;
}

/* An event that inline receivers decide on: they and all others get the same record. */
static void deliver_decided(nfm_worker *w, const nfm_subset *set, const nfm_record *record) {
    nfm_delivery *d = &w->delivery;
    uint32_t id = nfm_record_keep(d, record);
    if (id == NFM_NO_RECORD) { /* nobody can be asked */
        nfm_fields_put(d, record->app.fields, record->app.fields_len);
        nfm__inquire_app_lost(w, (uint32_t)(set - w->subs.sets), record->app.type);
        return;
    }
    d->kept = id;
    nfm_deliver_app(d, set, record, &w->table.info[w->trigger_flow]);
    d->kept = NFM_NO_RECORD;
    nfm__inquire_app(w, (uint32_t)(set - w->subs.sets), id);
}

int nfm_raise(nfm_ctx *ctx, uint32_t event, const nfm_value *values, nfm_view data) {
    nfm_worker *w = ctx->worker;
    const nfm_instance *in = &w->graph.instances[ctx->index];
    if (w->host != NULL)
        return nfm__host_raise(w->host, event, values, data);
    const nfm_subset *set = nfm__set_of(w, w->trigger_flow, w->trigger_side);
    if (!nfm_subset_wants(set, in->types[event]))
        return NFM_OK;
    uint64_t len = nfm__fields_len(in, event, values);
    nfm_raised raised = {.type = in->types[event], .side = w->trigger_side};
    if (len > UINT32_MAX || nfm_fields_get(&w->delivery, (uint32_t)len, &raised.fields) != NFM_OK) {
        w->core_counters[NFM_CC_RAISE_LIMIT]++;
        if (w->way != NULL && nfm_subset_decides(set, raised.type))
            nfm__inquire_app_lost(w, (uint32_t)(set - w->subs.sets), raised.type);
        return NFM_E_LIMIT;
    }
    nfm__fields_write(in, event, values, w->delivery.fields + raised.fields);
    raised.fields_len = (uint32_t)len;
    raised.ordinal = w->trigger_ordinal++;
    const uint8_t *base = nfm_slot_ptr(&w->mem, w->trigger->slot);
    if (data.len > 0 && base != NULL) {
        raised.data_off = (uint32_t)(data.data - base);
        raised.data_len = data.len;
    }
    nfm_record rec = nfm__raised_record(w->trigger, &raised);
    if (w->hosts != NULL && w->hosts->deferring)
        nfm__pending_app(w, &rec);
    else if (w->way != NULL && nfm_subset_decides(set, raised.type))
        deliver_decided(w, set, &rec);
    else
        nfm_deliver_app(&w->delivery, set, &rec, &w->table.info[w->trigger_flow]);
    return NFM_OK;
}

void nfm_raise_side(nfm_ctx *ctx, uint8_t side) {
    ctx->worker->trigger_side = side & 1;
}

void nfm_detach(nfm_ctx *ctx) {
    nfm_worker *w = ctx->worker;
    if (w->host != NULL) {
        nfm__host_detach(w->host);
        return;
    }
    nfm_flow *flow = nfm_table_flow(&w->table, w->trigger_flow);
    flow->modules &= (uint16_t) ~(1u << ctx->index);
    nfm__flow_set_level(w, w->trigger_flow);
}

void nfm_slot_hold(nfm_ctx *ctx, uint32_t slot) {
    if (ctx->worker->host == NULL || nfm__host_has_slot(ctx->worker->host, &slot))
        nfm_pool_hold(&ctx->worker->pool, slot);
}

void nfm_slot_release(nfm_ctx *ctx, uint32_t slot) {
    if (ctx->worker->host == NULL || nfm__host_has_slot(ctx->worker->host, &slot))
        nfm_pool_put(&ctx->worker->pool, slot);
}

uint32_t nfm_slot_new(nfm_ctx *ctx, uint32_t len) {
    uint32_t slot = nfm_pool_get(&ctx->worker->pool, len);
    if (slot != NFM_NO_SLOT) /* nothing is left undone in what will be in it */
        memset(nfm_pool_addr(&ctx->worker->pool, slot), 0, NFM_HEADROOM);
    bool is_hosted = ctx->worker->host != NULL && slot != NFM_NO_SLOT;
    return is_hosted ? slot + ctx->mem->n_slots : slot; /* numbers behind the worker's */
}

uint8_t *nfm_slot_base(nfm_ctx *ctx, uint32_t slot) {
    if (ctx->worker->host != NULL && !nfm__host_has_slot(ctx->worker->host, &slot))
        return (uint8_t *)(uintptr_t)nfm_slot_ptr(ctx->mem, slot); /* can be read */
    return nfm_pool_addr(&ctx->worker->pool, slot);
}

uint32_t nfm_slots_free(const nfm_ctx *ctx) {
    return ctx->worker->pool.n_free_small;
}

uint64_t nfm_secret(const nfm_ctx *ctx) {
    const uint64_t *k = ctx->worker->table.key.k; /* tells nothing of the flow table's */
    return nfm_fold_mul(k[0] ^ k[2], (k[1] ^ k[3]) | 1) ^ nfm_fold_mul(k[0] + k[1], k[2] | 1);
}

void nfm_reparse(nfm_ctx *ctx, nfm_packet *packet) {
    uint32_t off = packet->rec.l3_off;
    nfm_wire_parse_ip(&ctx->worker->wire, packet, off, NFM_HEADROOM + packet->rec.frame_len - off);
}
