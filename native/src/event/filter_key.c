/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a flow's key decides of a pcap expression.
 *
 * Theory of operation. The BPF program runs on a header of which only the key is known: version,
 * protocol, addresses, ports, and that the packet is whole. Every bit of the accumulator is then
 * one of three: known; *unknown*, a thing of the packet (lengths, flags, TTL, payload); or *free*,
 * a thing of the key that this run leaves open. A branch on known bits is taken. A branch on an
 * unknown bit ends the run: not yet. So the same run that accepts "port 443" by the key answers
 * "tcp[tcpflags] & tcp-syn != 0 and port 443" with no for every flow of another port.
 *
 * For one flow nothing is free. To learn whether a program is decided by the key for *every* flow,
 * addresses and ports are made free, and the program is walked for both IP versions and each
 * protocol: a branch on a free bit leads both ways. Branches go forward, so one walk in program
 * order does, in which the states that meet at an instruction are joined.
 *
 * The index register is known only as "length of the IPv4 header", which is how libpcap reaches the
 * ports behind options. Loads that a short packet would fail end the run too, for failing is an
 * answer that depends on the packet.
 */
#include "event/filter_leaf.h"

#include <pcap/pcap.h>
#include <stdlib.h>
#include <string.h>

enum { V4_LEN = 20, V6_LEN = 40, PORTS_LEN = 4, KEY_MAX = V6_LEN + PORTS_LEN, IPV6_FRAGMENT = 44 };

typedef struct bits { /* a value whose bits may be unknown or free; those are 0 in value */
    uint32_t value, unknown, free;
} bits;

typedef struct header { /* the key as a packet */
    uint8_t value[KEY_MAX];
    const uint8_t *unknown; /* mask per byte, of the fixed header */
    const uint8_t *free;    /* NULL: nothing is free */
    uint8_t fixed;          /* bytes of the fixed header */
    uint8_t has_ports;
    uint8_t is_fragment; /* IPv6, and what it is a fragment of is not known: that byte is 0 */
} header;

typedef struct machine {
    bits a;
    uint8_t x_is_ihl;
    uint8_t reached; /* in walks */
} machine;

enum step { STEP_NEXT, STEP_JUMP, STEP_FORK, STEP_UNKNOWN, STEP_YES, STEP_NO };

/* Byte 0: version known, header length not. Bytes 6, 7: the flags are the packet's, the fragment
 * offset of a whole packet is 0. RFC 791 section 3.1. */
static const uint8_t v4_unknown[V4_LEN] = {0x0f, 0xff, 0xff, 0xff, 0xff, 0xff,
                                           0xe0, 0,    0xff, 0,    0xff, 0xff};
static const uint8_t v4_free[V4_LEN + PORTS_LEN] = {[12] = 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                                    0xff,        0xff, 0xff, 0xff, 0xff, 0xff};
/* RFC 8200 section 3; the next header is the transport's, as in the flow's key. */
static const uint8_t v6_unknown[V6_LEN] = {0x0f, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0xff};
static const uint8_t v6_free[V6_LEN + PORTS_LEN] = {
    [8] = 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff,       0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff,       0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

static const bits nothing = {0, 0xffffffffu, 0};

static void header_init(header *h, uint8_t version, uint8_t proto) {
    bool v4 = version == 4;
    memset(h, 0, sizeof(*h));
    h->value[0] = v4 ? 0x40 : 0x60;
    h->value[v4 ? 9 : 6] = proto;
    h->fixed = v4 ? V4_LEN : V6_LEN;
    h->unknown = v4 ? v4_unknown : v6_unknown;
    h->has_ports = proto == 6 || proto == 17 || proto == 132; /* TCP, UDP, SCTP */
    h->is_fragment = !v4 && proto == IPV6_FRAGMENT;
}

static void header_from_flow(header *h, const nfm_flow_info *flow, uint8_t side) {
    uint32_t src = side & 1, dst = src ^ 1, len = flow->ip_version == 4 ? 4 : 16;
    header_init(h, flow->ip_version, flow->proto);
    memcpy(h->value + h->fixed - 2 * len, flow->addr[src], len);
    memcpy(h->value + h->fixed - len, flow->addr[dst], len);
    nfm_write16(h->value + h->fixed, flow->port[src]);
    nfm_write16(h->value + h->fixed + 2, flow->port[dst]);
}

/* |size| bytes at |at| of the header. */
static bits load_bits(const header *h, uint32_t at, uint32_t size) {
    bits out = {0, 0, 0};
    for (uint32_t i = at; i < at + size; i++) {
        out.value = out.value << 8 | h->value[i];
        out.unknown = out.unknown << 8 | (i < h->fixed ? h->unknown[i] : 0);
        out.free = out.free << 8 | (h->free == NULL ? 0 : h->free[i]);
    }
    out.value &= ~(out.unknown | out.free);
    return out;
}

static uint32_t load_size(uint16_t code) {
    return BPF_SIZE(code) == BPF_W ? 4 : BPF_SIZE(code) == BPF_H ? 2 : 1;
}

static enum step step_load(const header *h, const struct bpf_insn *insn, machine *m) {
    uint32_t size = load_size(insn->code), k = insn->k, fixed = h->fixed;
    switch (BPF_MODE(insn->code)) {
    case BPF_IMM:
        m->a = (bits){k, 0, 0};
        return STEP_NEXT;
    case BPF_ABS:
        if (fixed == V6_LEN) /* what follows has a fixed place in IPv6 only */
            fixed += h->has_ports ? PORTS_LEN : h->is_fragment;
        if (k > fixed || size > fixed - k)
            return STEP_UNKNOWN;
        m->a = load_bits(h, k, size);
        return STEP_NEXT;
    case BPF_IND:
        if (!m->x_is_ihl || !h->has_ports || k > PORTS_LEN || size > PORTS_LEN - k)
            return STEP_UNKNOWN;
        m->a = load_bits(h, fixed + k, size);
        return STEP_NEXT;
    default: /* BPF_LEN, BPF_MEM */
        m->a = nothing;
        return STEP_NEXT;
    }
}

static enum step step_alu(const struct bpf_insn *insn, machine *m) {
    bits *a = &m->a;
    uint32_t k = insn->k;
    if (BPF_SRC(insn->code) == BPF_X) {
        *a = nothing;
        uint32_t op = BPF_OP(insn->code);
        return op == BPF_DIV || op == BPF_MOD ? STEP_UNKNOWN : STEP_NEXT; /* X may be 0 */
    }
    switch (BPF_OP(insn->code)) {
    case BPF_AND:
        *a = (bits){a->value & k, a->unknown & k, a->free & k};
        return STEP_NEXT;
    case BPF_OR:
        *a = (bits){a->value | k, a->unknown & ~k, a->free & ~k};
        return STEP_NEXT;
    case BPF_LSH:
        *a = k < 32 ? (bits){a->value << k, a->unknown << k, a->free << k} : nothing;
        return STEP_NEXT;
    case BPF_RSH:
        *a = k < 32 ? (bits){a->value >> k, a->unknown >> k, a->free >> k} : nothing;
        return STEP_NEXT;
    default:
        *a = nothing;
        return STEP_NEXT;
    }
}

/* The branch of a comparison of the accumulator with a constant. */
static enum step compare(const struct bpf_insn *insn, const bits *a, bool *taken) {
    uint32_t k = insn->k, open = a->unknown | a->free;
    switch (BPF_OP(insn->code)) {
    case BPF_JSET:
        *taken = (a->value & k) != 0;
        if (*taken || (open & k) == 0)
            return STEP_JUMP;
        return (a->unknown & k) != 0 ? STEP_UNKNOWN : STEP_FORK;
    case BPF_JEQ:
        *taken = ((a->value ^ k) & ~open) == 0;
        if (!*taken || open == 0)
            return STEP_JUMP;
        return a->unknown != 0 ? STEP_UNKNOWN : STEP_FORK;
    default: /* BPF_JGT, BPF_JGE */
        *taken = BPF_OP(insn->code) == BPF_JGT ? a->value > k : a->value >= k;
        if (open == 0)
            return STEP_JUMP;
        return a->unknown != 0 ? STEP_UNKNOWN : STEP_FORK;
    }
}

/* One instruction. After STEP_JUMP *taken tells the branch. */
static enum step step(const header *h, const struct bpf_insn *insn, machine *m, bool *taken) {
    switch (BPF_CLASS(insn->code)) {
    case BPF_LD:
        return step_load(h, insn, m);
    case BPF_LDX:
        m->x_is_ihl = BPF_MODE(insn->code) == BPF_MSH && insn->k == 0 && h->fixed == V4_LEN;
        return BPF_MODE(insn->code) == BPF_MSH && !m->x_is_ihl ? STEP_UNKNOWN : STEP_NEXT;
    case BPF_ALU:
        return step_alu(insn, m);
    case BPF_JMP:
        return BPF_SRC(insn->code) == BPF_X ? STEP_UNKNOWN : compare(insn, &m->a, taken);
    case BPF_MISC:
        if (BPF_MISCOP(insn->code) == BPF_TAX)
            m->x_is_ihl = 0;
        else
            m->a = nothing;
        return STEP_NEXT;
    case BPF_RET:
        if (BPF_RVAL(insn->code) != BPF_K)
            return STEP_UNKNOWN;
        return insn->k != 0 ? STEP_YES : STEP_NO;
    default: /* stores */
        return STEP_NEXT;
    }
}

static uint32_t target(const struct bpf_insn *insns, uint32_t at, bool taken) {
    return at + 1 + (taken ? insns[at].jt : insns[at].jf);
}

/* Where a jump that is always taken leads; 0 for other instructions, and n for a jump back (the
 * loop of "protochain"). */
static uint32_t always_target(const nfm__bpf *bpf, uint32_t at) {
    const struct bpf_insn *insn = &bpf->insns[at];
    if (BPF_CLASS(insn->code) != BPF_JMP || BPF_OP(insn->code) != BPF_JA)
        return 0;
    return insn->k < bpf->n - at - 1 ? at + 1 + insn->k : bpf->n;
}

/*
 * nfm__bpf_eval_key runs the program on what the key of |flow| says of every packet that |side|
 * sends. Borrows both. Returns NFM_YES or NFM_NO when that decides, else NFM_NOT_YET.
 */
int nfm__bpf_eval_key(const nfm__bpf *bpf, const nfm_flow_info *flow, uint8_t side) {
    header h;
    machine m = {nothing, 0, 1};
    if (bpf->on_frame || (flow->ip_version != 4 && flow->ip_version != 6))
        return NFM_NOT_YET;
    header_from_flow(&h, flow, side);
    for (uint32_t at = 0; at < bpf->n;) {
        bool taken = false;
        uint32_t always = always_target(bpf, at);
        if (always != 0) {
            at = always;
            continue;
        }
        switch (step(&h, &bpf->insns[at], &m, &taken)) {
        case STEP_NEXT:
            at++;
            break;
        case STEP_JUMP:
            at = target(bpf->insns, at, taken);
            break;
        case STEP_YES:
            return NFM_YES;
        case STEP_NO:
            return NFM_NO;
        case STEP_FORK:
        case STEP_UNKNOWN:
            return NFM_NOT_YET;
        }
    }
    return NFM_NOT_YET;
}

/* Adds the state |from| to what reaches an instruction. Bits in which known values differ depend
 * on the way taken, which the key decides: they are free. */
static void join(machine *into, const machine *from) {
    if (!into->reached) {
        *into = *from;
        return;
    }
    bits *a = &into->a;
    uint32_t differ = (a->value ^ from->a.value) | a->free | from->a.free;
    a->unknown |= from->a.unknown;
    a->free = differ & ~a->unknown;
    a->value &= ~(a->unknown | a->free);
    into->x_is_ihl &= from->x_is_ihl;
}

/* Whether all ways through the program that |h| allows end without a look at the packet. */
static bool walk(const nfm__bpf *bpf, const header *h, machine *states) {
    const struct bpf_insn *insns = bpf->insns;
    memset(states, 0, bpf->n * sizeof(*states));
    states[0] = (machine){nothing, 0, 1};
    for (uint32_t at = 0; at < bpf->n; at++) {
        machine m = states[at];
        bool taken = false;
        if (!m.reached)
            continue;
        uint32_t always = always_target(bpf, at);
        if (always == bpf->n)
            return false;
        if (always != 0) {
            join(&states[always], &m);
            continue;
        }
        switch (step(h, &insns[at], &m, &taken)) {
        case STEP_NEXT:
            join(&states[at + 1], &m);
            break;
        case STEP_JUMP:
            join(&states[target(insns, at, taken)], &m);
            break;
        case STEP_FORK:
            join(&states[target(insns, at, true)], &m);
            join(&states[target(insns, at, false)], &m);
            break;
        case STEP_UNKNOWN:
            return false;
        case STEP_YES:
        case STEP_NO:
            break;
        }
    }
    return true;
}

/*
 * nfm__bpf_is_key_only tells whether nfm__bpf_eval_key decides for every flow, whatever its
 * version, protocol, addresses and ports. Allocates for its own time. Returns bool; false also when
 * there is no memory, which costs speed only.
 */
bool nfm__bpf_is_key_only(const nfm__bpf *bpf) {
    machine *states = bpf->on_frame ? NULL : malloc(bpf->n * sizeof(*states));
    bool decided = states != NULL;
    for (uint32_t i = 0; i < 512 && decided; i++) {
        header h;
        header_init(&h, i < 256 ? 4 : 6, (uint8_t)i);
        h.free = i < 256 ? v4_free : v6_free;
        decided = walk(bpf, &h, states);
    }
    free(states);
    return decided;
}
