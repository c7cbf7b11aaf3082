/* SPDX-License-Identifier: Apache-2.0 */
/* The events of the dns module: their definitions, and their fields filled from parsed messages. */
#ifndef NFM_DNS_EVENTS_H
#define NFM_DNS_EVENTS_H

#include "dns_parse.h"

enum nfm__dns_event { /* index into nfm__dns_events */
                      NFM__DNS_EV_NODE = 0,
                      NFM__DNS_EV_QUERY,
                      NFM__DNS_EV_RESPONSE,
                      NFM__DNS_EV_ERROR,
                      NFM__DNS_EV_COUNT
};

enum { NFM__DNS_MAX_FIELDS = 24 };

typedef struct nfm__dns_names { /* texts of one event, in the caller's memory */
    nfm__dns_text qtype, rcode;
} nfm__dns_names;

extern const nfm_event_def nfm__dns_events[NFM__DNS_EV_COUNT];

void nfm__dns_fill_node(nfm_value *v, const nfm__dns_message *m, nfm__dns_names *names);
void nfm__dns_fill_query(nfm_value *v, const nfm__dns_message *m);
void nfm__dns_fill_response(nfm_value *v, const nfm__dns_message *m, nfm__dns_names *names,
                            int64_t latency_us);
void nfm__dns_fill_error(nfm_value *v, const char *reason, uint32_t offset);

#endif
