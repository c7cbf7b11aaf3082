/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compiled filters.
 *
 * Theory of operation. A filter arrives as a postfix program: leaves (pcap expressions, field
 * comparisons) and the operators and, or, not. Creation checks it and keeps the leaves only, in
 * their order, each with two targets: the leaf to go to when it says yes, and when it says no. The
 * operators have become targets: "a and b" sends a's yes to b and a's no to the end. Judging a
 * record is a walk along targets, each leaf visited at most once, and no leaf that cannot matter
 * any more.
 *
 * Targets point forward. So what a flow's key decides is found by one pass from the last leaf to
 * the first: a leaf that the key does not decide has an answer only where both of its targets have
 * the same one.
 *
 * Rules of this file: a filter is immutable after creation, and many workers may share it; judging
 * allocates nothing and never fails.
 */
#include "event/filter_leaf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_OPS = 4096, MAX_LEAVES = 1024 };

/* Targets beyond the leaves. */
#define ANSWER_NO 0xfffffffeu
#define ANSWER_YES 0xffffffffu

typedef struct leaf {
    uint32_t kind; /* NFM_OP_BPF, NFM_OP_BPF_L2 or NFM_OP_FIELD */
    uint32_t on_yes, on_no;
    union {
        nfm__bpf bpf;
        nfm__predicate predicate;
    };
} leaf;

struct nfm_filter {
    uint32_t n_leaves;
    uint32_t key_only;
    leaf leaves[];
};

typedef struct node {     /* of the expression while it is checked; index = place in the program */
    uint32_t left, right; /* operands; NOT has a right one only */
    uint32_t first;       /* first leaf of this subexpression */
    uint32_t on_yes, on_no;
} node;

/*
 * nfm__filter_fail fills |err|, when there is one, with |code| and a formatted line.
 * Returns |code|.
 */
int nfm__filter_fail(nfm_error *err, int code, const char *format, ...) {
    va_list args;
    if (err == NULL)
        return code;
    err->code = code;
    va_start(args, format);
    vsnprintf(err->text, sizeof(err->text), format, args);
    va_end(args);
    return code;
}

static bool is_leaf(uint32_t kind) {
    return kind == NFM_OP_BPF || kind == NFM_OP_BPF_L2 || kind == NFM_OP_FIELD;
}

/* Finds the operands of each step. |stack| and |nodes| have room for n entries.
 * Returns the number of leaves or a negative status. */
static int link_operands(const nfm_filter_op *ops, uint32_t n, node *nodes, uint32_t *stack,
                         nfm_error *err) {
    uint32_t depth = 0, leaves = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t kind = ops[i].kind, arity = kind == NFM_OP_NOT ? 1 : is_leaf(kind) ? 0 : 2;
        if (kind < NFM_OP_AND || kind > NFM_OP_FIELD)
            return nfm__filter_fail(err, NFM_E_INVAL, "filter: step %u has unknown kind %u", i,
                                    kind);
        if (depth < arity)
            return nfm__filter_fail(err, NFM_E_INVAL, "filter: step %u lacks an operand", i);
        if (arity == 0)
            nodes[i].first = leaves++;
        if (arity > 0)
            nodes[i].right = stack[--depth];
        if (arity == 2)
            nodes[i].left = stack[--depth];
        if (arity > 0)
            nodes[i].first = nodes[arity == 2 ? nodes[i].left : nodes[i].right].first;
        stack[depth++] = i;
    }
    if (depth != 1)
        return nfm__filter_fail(err, NFM_E_INVAL, "filter: %u expressions where one is expected",
                                depth);
    if (leaves > MAX_LEAVES)
        return nfm__filter_fail(err, NFM_E_LIMIT, "filter: %u terms, at most %d fit", leaves,
                                MAX_LEAVES);
    return (int)leaves;
}

/* Hands targets down from the last step, which is the root, to the leaves. */
static void assign_targets(const nfm_filter_op *ops, uint32_t n, node *nodes) {
    nodes[n - 1].on_yes = ANSWER_YES;
    nodes[n - 1].on_no = ANSWER_NO;
    for (uint32_t i = n; i-- > 0;) {
        const node *self = &nodes[i];
        node *left = &nodes[self->left], *right = &nodes[self->right];
        if (is_leaf(ops[i].kind))
            continue;
        right->on_yes = ops[i].kind == NFM_OP_NOT ? self->on_no : self->on_yes;
        right->on_no = ops[i].kind == NFM_OP_NOT ? self->on_yes : self->on_no;
        if (ops[i].kind == NFM_OP_AND) {
            left->on_yes = right->first;
            left->on_no = self->on_no;
        } else if (ops[i].kind == NFM_OP_OR) {
            left->on_yes = self->on_yes;
            left->on_no = right->first;
        }
    }
}

static int init_leaf(leaf *self, const nfm_filter_op *op, nfm_error *err) {
    self->kind = op->kind;
    if (op->kind == NFM_OP_FIELD)
        return nfm__predicate_init(&self->predicate, op, err);
    return nfm__bpf_init(&self->bpf, op->text, op->kind == NFM_OP_BPF_L2, err);
}

/* Fills the leaves from the checked program. On failure the caller frees those that exist. */
static int fill_leaves(nfm_filter *filter, const nfm_filter_op *ops, uint32_t n, const node *nodes,
                       nfm_error *err) {
    filter->key_only = 1;
    for (uint32_t i = 0; i < n; i++) {
        if (!is_leaf(ops[i].kind))
            continue;
        leaf *self = &filter->leaves[filter->n_leaves];
        int rc = init_leaf(self, &ops[i], err);
        if (rc != NFM_OK)
            return rc;
        self->on_yes = nodes[i].on_yes;
        self->on_no = nodes[i].on_no;
        filter->n_leaves++;
        filter->key_only &= self->kind == NFM_OP_FIELD
                                ? nfm__predicate_is_key_only(&self->predicate)
                                : nfm__bpf_is_key_only(&self->bpf);
    }
    return NFM_OK;
}

/*
 * nfm_filter_new compiles the postfix program of |n| steps; |ops| and all that it points to are
 * copied. Limits: 4096 steps, 1024 leaves. Returns a filter for nfm_filter_free, or NULL with err
 * (may be NULL) telling the step, libpcap's words or the comparison that does not fit its field.
 */
nfm_filter *nfm_filter_new(const nfm_filter_op *ops, uint32_t n, nfm_error *err) {
    nfm_filter *filter = NULL;
    if (n == 0 || n > MAX_OPS) {
        nfm__filter_fail(err, NFM_E_LIMIT, "filter: %u steps, 1 to %d fit", n, MAX_OPS);
        return NULL;
    }
    node *nodes = calloc(n, sizeof(*nodes));
    uint32_t *stack = calloc(n, sizeof(*stack));
    if (nodes == NULL || stack == NULL) {
        nfm__filter_fail(err, NFM_E_NOMEM, "filter: out of memory");
        goto out;
    }
    int leaves = link_operands(ops, n, nodes, stack, err);
    if (leaves < 0)
        goto out;
    assign_targets(ops, n, nodes);
    filter = calloc(1, sizeof(*filter) + (size_t)leaves * sizeof(leaf));
    if (filter == NULL) {
        nfm__filter_fail(err, NFM_E_NOMEM, "filter: out of memory");
    } else if (fill_leaves(filter, ops, n, nodes, err) != NFM_OK) {
        nfm_filter_free(filter);
        filter = NULL;
    }
out:
    free(nodes);
    free(stack);
    return filter;
}

/*
 * nfm_filter_free releases |filter|; NULL is fine. No worker may still use it.
 */
void nfm_filter_free(nfm_filter *filter) {
    if (filter == NULL)
        return;
    for (uint32_t i = 0; i < filter->n_leaves; i++) {
        if (filter->leaves[i].kind == NFM_OP_FIELD)
            nfm__predicate_fini(&filter->leaves[i].predicate);
        else
            nfm__bpf_fini(&filter->leaves[i].bpf);
    }
    free(filter);
}

/*
 * nfm_filter_is_key_only tells whether nfm_filter_eval_key decides every flow, so that no packet
 * needs judging. Returns 1 or 0.
 */
int nfm_filter_is_key_only(const nfm_filter *filter) {
    return filter->key_only != 0;
}

static int leaf_eval_key(const leaf *self, const nfm_flow_info *flow, uint8_t side,
                         uint8_t client_side) {
    if (self->kind == NFM_OP_FIELD)
        return nfm__predicate_eval_key(&self->predicate, flow, side, client_side);
    return nfm__bpf_eval_key(&self->bpf, flow, side);
}

static uint8_t target_truth(const uint8_t *truths, uint32_t target) {
    if (target == ANSWER_YES)
        return NFM_YES;
    return target == ANSWER_NO ? NFM_NO : truths[target];
}

/*
 * nfm_filter_eval_key judges the packets that |side| of |flow| sends, by the flow's key and by who
 * its client is. An answer other than NFM_NOT_YET holds for every such packet as long as the client
 * stays |client_side|. Returns enum nfm_truth.
 */
int nfm_filter_eval_key(const nfm_filter *filter, const nfm_flow_info *flow, uint8_t side,
                        uint8_t client_side) {
    uint8_t truths[MAX_LEAVES];
    uint32_t at = 0;
    while (at < filter->n_leaves) { /* as long as the key decides, few leaves need a look */
        int truth = leaf_eval_key(&filter->leaves[at], flow, side, client_side);
        if (truth == NFM_NOT_YET)
            break;
        at = truth == NFM_YES ? filter->leaves[at].on_yes : filter->leaves[at].on_no;
    }
    if (at >= filter->n_leaves)
        return at == ANSWER_YES ? NFM_YES : NFM_NO;
    for (uint32_t i = filter->n_leaves; i-- > at;) {
        const leaf *self = &filter->leaves[i];
        uint8_t yes = target_truth(truths, self->on_yes), no = target_truth(truths, self->on_no);
        int truth =
            i == at || yes == no ? NFM_NOT_YET : leaf_eval_key(self, flow, side, client_side);
        truths[i] = yes == no          ? yes
                    : truth == NFM_YES ? yes
                    : truth == NFM_NO  ? no
                                       : (uint8_t)NFM_NOT_YET;
    }
    return truths[at];
}

/*
 * nfm_filter_eval judges one record with all that is known of it. A leaf whose value the record
 * does not have (no slot, no flow, a field of another kind of record) says no. Returns bool.
 */
bool nfm_filter_eval(const nfm_filter *filter, const nfm_filter_input *input) {
    uint32_t at = 0;
    while (at < filter->n_leaves) {
        const leaf *self = &filter->leaves[at];
        bool yes = self->kind == NFM_OP_FIELD ? nfm__predicate_eval(&self->predicate, input)
                                              : nfm__bpf_eval(&self->bpf, input);
        at = yes ? self->on_yes : self->on_no;
    }
    return at == ANSWER_YES;
}
