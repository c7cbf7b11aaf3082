/* SPDX-License-Identifier: Apache-2.0 */
/* The events of the http module: their definitions, and their fields filled from parsed heads. */
#ifndef NFM_HTTP_EVENTS_H
#define NFM_HTTP_EVENTS_H

#include "http_queue.h"

enum nfm__http_event { /* index into nfm__http_events */
                       NFM__HTTP_EV_NODE = 0,
                       NFM__HTTP_EV_REQUEST,
                       NFM__HTTP_EV_RESPONSE,
                       NFM__HTTP_EV_BODY,
                       NFM__HTTP_EV_END,
                       NFM__HTTP_EV_UPGRADE,
                       NFM__HTTP_EV_ERROR,
                       NFM__HTTP_EV_COUNT
};

enum { NFM__HTTP_MAX_FIELDS = 16 };

extern const nfm_event_def nfm__http_events[NFM__HTTP_EV_COUNT];

void nfm__http_fill_node(nfm_value *v, const nfm__http_side *side);
void nfm__http_fill_request(nfm_value *v, const nfm__http_head *head);
void nfm__http_fill_response(nfm_value *v, const nfm__http_head *head, const nfm__http_asked *asked,
                             int64_t now_ns);
void nfm__http_fill_end(nfm_value *v, const nfm__http_side *side, const nfm__http_end *end);

#endif
