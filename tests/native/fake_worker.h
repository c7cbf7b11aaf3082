/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker for the tests of application modules: it gives a module its limits, flow state and
 * events and keeps what the module raises as text, one line per event: "http.body message=0
 * length=5 |data|".
 */
#ifndef NFM_FAKE_WORKER_H
#define NFM_FAKE_WORKER_H

#include "nfm/module.h"
#include "nfm_test.h"

enum { FAKE_SLOTS = 8, FAKE_LOG = 1 << 16, FAKE_LIMITS = 8, FAKE_COUNTERS = 16 };

struct nfm_worker {
    const nfm_module *module;
    nfm_ctx ctx;
    nfm_mem mem;
    nfm_flow_info flow;
    uint64_t limits[FAKE_LIMITS];
    uint64_t counters[FAKE_COUNTERS];
    void *state;
    uint64_t unwanted; /* bit per event number that nobody subscribes to */
    bool detached;
    bool slot_used[FAKE_SLOTS];
    int64_t ts_ns;
    uint16_t flags; /* of the records to come */
    uint32_t len;
    char log[FAKE_LOG];
    uint8_t slot[FAKE_SLOTS][NFM_SLOT_LARGE];
};
typedef struct nfm_worker fake_worker;

static void fake_print(fake_worker *w, const char *bytes, size_t len) {
    for (size_t i = 0; i < len && w->len + 5 < FAKE_LOG; i++) {
        uint8_t c = (uint8_t)bytes[i];
        w->len += (uint32_t)sprintf(w->log + w->len, c >= ' ' && c < 0x7f ? "%c" : "\\%02x", c);
    }
}

static void fake_print_field(fake_worker *w, const nfm_field_def *field, const nfm_value *value) {
    fake_print(w, " ", 1);
    fake_print(w, field->name, strlen(field->name));
    fake_print(w, "=", 1);
    if (field->kind == NFM_KIND_STR || field->kind == NFM_KIND_BYTES)
        fake_print(w, (const char *)value->bytes.data, value->bytes.len);
    else
        w->len += (uint32_t)sprintf(w->log + w->len, "%" PRId64, (int64_t)value->number);
}

int nfm_raise(nfm_ctx *ctx, uint32_t event, const nfm_value *values, nfm_view data) {
    fake_worker *w = ctx->worker;
    const nfm_event_def *defs = w->module->emits, *def = &defs[event];
    if (w->unwanted >> event & 1) {
        fake_print(w, "raised though unwanted: ", 24);
    }
    fake_print(w, def->name, strlen(def->name));
    uint32_t cell = 0;
    for (uint32_t i = 0; i < w->module->n_emits; i++) {
        size_t len = strlen(defs[i].name);
        bool own = strncmp(defs[i].name, def->name, len) == 0 &&
                   (def->name[len] == 0 || def->name[len] == '.');
        for (uint32_t k = 0; own && k < defs[i].n_fields; k++, cell++) {
            CHECK_EQ(defs[i].fields[k].offset, cell * 8);
            fake_print_field(w, &defs[i].fields[k], &values[cell]);
        }
    }
    if (data.len > 0) {
        fake_print(w, " |", 2);
        fake_print(w, (const char *)data.data, data.len);
        fake_print(w, "|", 1);
    }
    w->log[w->len++] = '\n';
    w->log[w->len] = 0;
    return NFM_OK;
}

bool nfm_wanted(nfm_ctx *ctx, uint32_t flow_index, uint32_t event) {
    CHECK_EQ(flow_index, 0);
    return !(ctx->worker->unwanted >> event & 1);
}

void nfm_detach(nfm_ctx *ctx) {
    ctx->worker->detached = true;
}

uint32_t nfm_slot_new(nfm_ctx *ctx, uint32_t len) {
    CHECK(len <= NFM_MAX_FRAME);
    for (uint32_t i = 0; i < FAKE_SLOTS; i++)
        if (!ctx->worker->slot_used[i]) {
            ctx->worker->slot_used[i] = true;
            return i;
        }
    return NFM_NO_SLOT;
}

void nfm_slot_release(nfm_ctx *ctx, uint32_t slot) {
    CHECK(ctx->worker->slot_used[slot]);
    ctx->worker->slot_used[slot] = false;
}

uint8_t *nfm_slot_base(nfm_ctx *ctx, uint32_t slot) {
    return ctx->worker->slot[slot];
}

static void fake_init(fake_worker *w, const nfm_module *module, uint8_t proto, uint16_t port) {
    memset(w, 0, offsetof(fake_worker, slot));
    w->module = module;
    w->flow.proto = proto;
    w->flow.port[0] = 40000;
    w->flow.port[1] = port;
    w->mem.flows = &w->flow;
    w->mem.n_flows = 1;
    w->ts_ns = 1000000000;
    for (uint32_t i = 0; i < module->n_limits; i++)
        w->limits[i] = module->limits[i].value;
    w->ctx = (nfm_ctx){.limits = w->limits, .counters = w->counters, .worker = w, .mem = &w->mem};
}

static void fake_open(fake_worker *w) {
    w->state = calloc(1, w->module->flow_size);
    w->detached = false;
    w->log[w->len = 0] = 0;
}

/* Starts a module on one flow. */
static void fake_start(fake_worker *w, const nfm_module *module, uint8_t proto, uint16_t port) {
    fake_init(w, module, proto, port);
    CHECK_EQ(module->start(&w->ctx), NFM_OK);
    fake_open(w);
}

static void fake_close(fake_worker *w) {
    w->module->flow_close(&w->ctx, NULL, 0, w->ts_ns, w->state);
    free(w->state);
    w->state = NULL;
}

/* Closes the flow and stops the module; no slot may be left. */
static void fake_stop(fake_worker *w) {
    fake_close(w);
    w->module->stop(&w->ctx);
    for (int i = 0; i < FAKE_SLOTS; i++)
        CHECK(!w->slot_used[i]);
}

static nfm_record fake_record(const fake_worker *w, uint8_t kind, int side) {
    nfm_record rec = {.ts_ns = w->ts_ns, .slot = NFM_NO_SLOT, .kind = kind, .flags = w->flags};
    rec.side = (uint8_t)side;
    rec.proto = w->flow.proto;
    return rec;
}

/* New bytes of a side, at a guard page. */
static void fake_data(fake_worker *w, int side, const void *data, size_t len) {
    if (w->detached)
        return;
    nfm_record rec = fake_record(w, NFM_REC_PACKET, side);
    rec.events = NFM_BIT(w->flow.proto == 6 ? NFM_EV_TCP_DATA : NFM_EV_UDP_DATAGRAM);
    nfm_view view = {nfm_guarded(data, len), (uint32_t)len};
    w->module->on_event(&w->ctx, &rec, view, w->state);
}

static void fake_gap(fake_worker *w, int side, uint32_t len) {
    if (w->detached)
        return;
    nfm_record rec = fake_record(w, NFM_REC_GAP, side);
    rec.events = NFM_BIT(NFM_EV_TCP_GAP);
    rec.tcp.data_len = len;
    w->module->on_event(&w->ctx, &rec, (nfm_view){NULL, 0}, w->state);
}

static void fake_end(fake_worker *w, int reason) {
    if (w->detached)
        return;
    nfm_record rec = fake_record(w, NFM_REC_FLOW, 0);
    rec.events = NFM_BIT(NFM_EV_FLOW_END);
    rec.reason = (uint8_t)reason;
    w->module->on_event(&w->ctx, &rec, (nfm_view){NULL, 0}, w->state);
}

/* Whether some event line begins with |name| and holds |part|. */
static bool fake_has(const fake_worker *w, const char *name, const char *part) {
    for (const char *line = w->log; *line != 0; line = strchr(line, '\n') + 1) {
        const char *end = strchr(line, '\n'), *found = strstr(line, part);
        if (strncmp(line, name, strlen(name)) == 0 && found != NULL && found < end)
            return true;
    }
    return false;
}

static uint64_t fake_counter(const fake_worker *w, const char *name) {
    for (uint32_t i = 0; w->module->counters[i] != NULL; i++)
        if (strcmp(w->module->counters[i], name) == 0)
            return w->counters[i];
    CHECK(!"a counter of that name");
    return 0;
}

#define CHECK_HAS(w, name, part)                                                                   \
    do {                                                                                           \
        if (!fake_has(w, name, part)) {                                                            \
            printf("# %s:%d: no %s with \"%s\" in\n%s", __FILE__, __LINE__, name, part, (w)->log); \
            nfm_test_failed = 1;                                                                   \
        }                                                                                          \
    } while (0)

#endif
