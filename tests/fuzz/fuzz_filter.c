/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: any program is refused with a reason or judges any record without a bad access, and */
/* what a flow's key decides is what each record of that flow and side gets. */
#include "event/filter.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_STEPS = 24, FRAME = 256, FIELDS = 128 };

typedef struct input {
    const uint8_t *data;
    size_t size;
} input;

/* |n| bytes of the input; zeros when it is used up. */
static void take(input *in, void *out, size_t n) {
    size_t have = in->size < n ? in->size : n;
    memset(out, 0, n);
    memcpy(out, in->data, have);
    in->data += have;
    in->size -= have;
}

static uint8_t take8(input *in) {
    uint8_t v;
    take(in, &v, 1);
    return v;
}

static const char *const expressions[] = {
    "tcp",
    "udp port 53",
    "host 10.0.0.1",
    "ip6 net 2001:db8::/32",
    "portrange 1",
    "tcp[13] & 2 != 0",
    "ip6 protochain 6",
    "greater 60 and not port 443",
    "icmp[0] = 8",
    "ip[6:2] & 1 = 0",
    "udp[0:2] + ip[1] > 9",
    "net 10 or sctp dst port 7",
    "tcp prot 80",
    "ether host ::1",
    "vlan 5",
    "ether[0] & 1 = 1",
    "src net 0/1",
    "tcp src port 1000",
    "(icmp or icmp6)",
    "ip[8] < 64 or ip6[7] < 64",
};

static void take_op(input *in, nfm_filter_op *op, const uint8_t *literal) {
    memset(op, 0, sizeof(*op));
    op->kind = take8(in) % 8;
    op->compare = take8(in) % 12;
    op->field.name = "f";
    op->field.kind = take8(in) % 13;
    op->field.source = take8(in) % 15;
    op->field.offset = take8(in);
    op->number = take8(in);
    op->integer = (int8_t)op->number;
    op->real = (double)op->integer / 2;
    op->prefix = take8(in) % 140;
    op->bytes = literal;
    op->bytes_len = take8(in) % 17;
    op->text = expressions[op->number % (sizeof(expressions) / sizeof(expressions[0]))];
}

/* Makes |record| one that a worker could have written for |flow|: the packet in the slot says the
 * flow's key. Everything else stays as the fuzzer wants it. */
static void agree(const nfm_flow_info *flow, nfm_record *record, uint8_t *slot) {
    uint32_t len = flow->ip_version == 4 ? 4 : 16, side = record->side, fixed = len == 4 ? 20 : 40;
    uint8_t *ip = slot + record->l3_off;
    ip[0] = (uint8_t)(len == 4 ? 0x45 : 0x60 | (ip[0] & 0xf));
    if (len == 4) {
        ip[6] &= 0xe0;
        ip[7] = 0;
    }
    ip[len == 4 ? 9 : 6] = flow->proto;
    memcpy(ip + fixed - 2 * len, flow->addr[side], len);
    memcpy(ip + fixed - len, flow->addr[side ^ 1], len);
    nfm_write16(ip + fixed, flow->port[side]);
    nfm_write16(ip + fixed + 2, flow->port[side ^ 1]);
}

static void take_flow(input *in, nfm_flow_info *flow) {
    static const uint8_t protos[] = {6, 17, 132, 1, 58, 44, 0, 50};
    take(in, flow, sizeof(*flow));
    flow->ip_version = flow->ip_version & 1 ? 6 : 4;
    flow->proto = protos[flow->proto % 8];
}

/* The program on one record of one flow, with and without its slot. */
static void judge(const nfm_filter *filter, input *in) {
    nfm_flow_info flow;
    nfm_record record;
    uint8_t fields[FIELDS];
    uint8_t *slot = malloc(NFM_HEADROOM + FRAME); /* ends where the frame ends */
    take_flow(in, &flow);
    take(in, &record, sizeof(record));
    take(in, fields, sizeof(fields));
    memset(slot, 0, NFM_HEADROOM);
    take(in, slot + NFM_HEADROOM, FRAME);
    nfm_mem mem = {.fields = fields, .fields_size = sizeof(fields)};
    record.frame_len = FRAME;
    record.side &= 1;
    record.l3_off = NFM_HEADROOM + record.l3_off % 128;
    record.proto = flow.proto;
    agree(&flow, &record, slot);
    int truth =
        nfm_filter_eval_key(filter, &flow, record.side, (record.flags & NFM_F_CLIENT_IS_1) != 0);
    nfm_filter_input with = {&mem, &record, &flow, slot};
    nfm_filter_input bare = {&mem, &record, &flow, NULL};
    nfm_filter_input lost = {&mem, &record, NULL, slot};
    bool yes = nfm_filter_eval(filter, &with), bare_yes = nfm_filter_eval(filter, &bare);
    if (truth != NFM_NOT_YET && (yes != (truth == NFM_YES) || bare_yes != yes))
        abort();
    if (truth == NFM_NOT_YET && nfm_filter_is_key_only(filter))
        abort();
    nfm_filter_eval(filter, &lost);
    free(slot);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    nfm_filter_op ops[MAX_STEPS];
    nfm_error err = {0};
    uint8_t literal[16];
    uint32_t n = take8(&in) % (MAX_STEPS + 1);
    take(&in, literal, sizeof(literal));
    for (uint32_t i = 0; i < n; i++)
        take_op(&in, &ops[i], literal);
    nfm_filter *filter = nfm_filter_new(ops, n, &err);
    if (filter == NULL && (err.code >= 0 || err.text[0] == '\0'))
        abort();
    if (filter != NULL)
        judge(filter, &in);
    nfm_filter_free(filter);
    return 0;
}
