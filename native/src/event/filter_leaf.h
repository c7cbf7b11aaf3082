/* SPDX-License-Identifier: Apache-2.0 */
/* The leaves of a filter: pcap expressions and field comparisons. Private to filter*.c. */
#ifndef NFM_EVENT_FILTER_LEAF_H
#define NFM_EVENT_FILTER_LEAF_H

#include "event/filter.h"

struct bpf_insn;

typedef struct nfm__bpf {
    struct bpf_insn *insns; /* owned; valid by bpf_validate, jumps go forward */
    uint32_t n;
    uint8_t on_frame; /* the whole frame from the link layer on, not the innermost packet */
} nfm__bpf;

typedef struct nfm__predicate {
    nfm_field_def field; /* its strings are not kept */
    uint32_t compare;
    uint32_t prefix;
    uint64_t number;
    int64_t integer;
    double real;
    uint8_t *bytes; /* owned */
    uint32_t bytes_len;
} nfm__predicate;

/* Compiles |text| with libpcap. Returns NFM_OK or a status with err filled. */
int nfm__bpf_init(nfm__bpf *bpf, const char *text, bool on_frame, nfm_error *err);
void nfm__bpf_fini(nfm__bpf *bpf);
/* The program's answer for the bytes of one record. Returns bool. */
bool nfm__bpf_eval(const nfm__bpf *bpf, const nfm_filter_input *input);
/* What the key of |flow| alone decides for packets of |side|. Returns enum nfm_truth. */
int nfm__bpf_eval_key(const nfm__bpf *bpf, const nfm_flow_info *flow, uint8_t side);
/* True when every run of the program is decided by the key. */
bool nfm__bpf_is_key_only(const nfm__bpf *bpf);

/* Checks and copies the comparison of |op|. Returns NFM_OK or a status with err filled. */
int nfm__predicate_init(nfm__predicate *predicate, const nfm_filter_op *op, nfm_error *err);
void nfm__predicate_fini(nfm__predicate *predicate);
/* A value that is not there compares as no, whatever the comparison. Returns bool. */
bool nfm__predicate_eval(const nfm__predicate *predicate, const nfm_filter_input *input);
/* The same from the key alone. Returns enum nfm_truth. */
int nfm__predicate_eval_key(const nfm__predicate *predicate, const nfm_flow_info *flow,
                            uint8_t side, uint8_t client_side);
bool nfm__predicate_is_key_only(const nfm__predicate *predicate);

/* Fills |err| (may be NULL) and returns |code|. */
int nfm__filter_fail(nfm_error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
