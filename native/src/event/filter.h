/* SPDX-License-Identifier: Apache-2.0 */
/* Compiled filters: a postfix program over pcap expressions and field comparisons, evaluated in
 * three values (yes, no, not yet) as soon as its operands are known. */
#ifndef NFM_EVENT_FILTER_H
#define NFM_EVENT_FILTER_H

#include "nfm/module.h"

enum nfm_truth { NFM_NO = 0, NFM_YES = 1, NFM_NOT_YET = 2 };

typedef struct nfm_filter_input {
    const nfm_mem *mem;
    const nfm_record *record;  /* the record to judge */
    const nfm_flow_info *flow; /* NULL: none */
    const uint8_t *base;       /* slot start, NULL: none */
} nfm_filter_input;

/* What the flow's key alone decides for packets sent by |side|. Leaves that need more are NOT_YET;
 * pcap expressions that read only addresses, protocol and ports are decided on a header
 * synthesised from the key. */
int nfm_filter_eval_key(const nfm_filter *filter, const nfm_flow_info *flow, uint8_t side,
                        uint8_t client_side);
/* The whole filter for one record. NOT_YET leaves count as no. Returns bool. */
bool nfm_filter_eval(const nfm_filter *filter, const nfm_filter_input *input);

#endif
