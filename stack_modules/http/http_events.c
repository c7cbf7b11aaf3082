/* SPDX-License-Identifier: Apache-2.0 */
#include "http_events.h"

/* Own cells begin after the two that every event inherits from the node "http". */
enum { OWN = 2 };

static const nfm_field_def node_fields[] = {
    NFM_FIELD(0, "message", U32, "", "ordinal of the message on its side, from 0"),
    NFM_FIELD(1, "is_response", BOOL, "", "sent by the HTTP server"),
};

enum {
    RQ_METHOD = OWN,
    RQ_TARGET,
    RQ_HOST,
    RQ_VERSION,
    RQ_USER_AGENT,
    RQ_CONTENT_TYPE,
    RQ_CONTENT_LENGTH,
    RQ_UPGRADE,
    RQ_N_HEADERS,
    RQ_HEADERS,
    RQ_COMPLETE
};

static const nfm_field_def request_fields[] = {
    NFM_FIELD(RQ_METHOD, "method", STR, "", "as sent, upper case"),
    NFM_FIELD(RQ_TARGET, "target", STR, "", "request target as sent"),
    NFM_FIELD(RQ_HOST, "host", STR, "", "Host field, first if several"),
    NFM_FIELD(RQ_VERSION, "version", STR, "", "\"1.1\""),
    NFM_FIELD(RQ_USER_AGENT, "user_agent", STR, "", "User-Agent field"),
    NFM_FIELD(RQ_CONTENT_TYPE, "content_type", STR, "", "Content-Type field"),
    NFM_FIELD(RQ_CONTENT_LENGTH, "content_length", I64, "bytes", "Content-Length, -1 without"),
    NFM_FIELD(RQ_UPGRADE, "upgrade", STR, "", "Upgrade field when Connection names it"),
    NFM_FIELD(RQ_N_HEADERS, "n_headers", U16, "", "header fields"),
    NFM_FIELD(RQ_HEADERS, "headers", BYTES, "", "header section as sent, without the empty line"),
    NFM_FIELD(RQ_COMPLETE, "complete", BOOL, "", "false: the head was cut"),
};

enum {
    RS_STATUS = OWN,
    RS_REASON,
    RS_VERSION,
    RS_SERVER,
    RS_CONTENT_TYPE,
    RS_CONTENT_LENGTH,
    RS_REQUEST_METHOD,
    RS_REQUEST_TARGET,
    RS_REQUEST_HOST,
    RS_LATENCY,
    RS_N_HEADERS,
    RS_HEADERS,
    RS_COMPLETE
};

static const nfm_field_def response_fields[] = {
    NFM_FIELD(RS_STATUS, "status", U16, "", "status code"),
    NFM_FIELD(RS_REASON, "reason", STR, "", "reason phrase"),
    NFM_FIELD(RS_VERSION, "version", STR, "", "\"1.1\""),
    NFM_FIELD(RS_SERVER, "server", STR, "", "Server field"),
    NFM_FIELD(RS_CONTENT_TYPE, "content_type", STR, "", "Content-Type field"),
    NFM_FIELD(RS_CONTENT_LENGTH, "content_length", I64, "bytes", "Content-Length, -1 without"),
    NFM_FIELD(RS_REQUEST_METHOD, "request_method", STR, "",
              "of the request answered, empty: not seen"),
    NFM_FIELD(RS_REQUEST_TARGET, "request_target", STR, "", "of that request; long ones are cut"),
    NFM_FIELD(RS_REQUEST_HOST, "request_host", STR, "", "of that request; long ones are cut"),
    NFM_FIELD(RS_LATENCY, "latency_us", U64, "us",
              "from the request's head to this one, 0: not known"),
    NFM_FIELD(RS_N_HEADERS, "n_headers", U16, "", "header fields"),
    NFM_FIELD(RS_HEADERS, "headers", BYTES, "", "header section as sent, without the empty line"),
    NFM_FIELD(RS_COMPLETE, "complete", BOOL, "", "false: the head was cut"),
};

static const nfm_field_def body_fields[] = {
    NFM_FIELD(OWN, "offset", U64, "bytes", "of these bytes in the body, transfer coding removed"),
    NFM_FIELD(OWN + 1, "length", U32, "bytes", "of these bytes"),
};

enum { EN_BODY = OWN, EN_GAP, EN_CHUNKED, EN_COMPLETE, EN_TRAILERS };

static const nfm_field_def end_fields[] = {
    NFM_FIELD(EN_BODY, "body_bytes", U64, "bytes", "of the body, missing ones included"),
    NFM_FIELD(EN_GAP, "gap_bytes", U64, "bytes", "of the body that were never seen"),
    NFM_FIELD(EN_CHUNKED, "chunked", BOOL, "", "sent in chunks"),
    NFM_FIELD(EN_COMPLETE, "complete", BOOL, "", "false: cut short or given up"),
    NFM_FIELD(EN_TRAILERS, "trailers", BYTES, "", "trailer section as sent"),
};

static const nfm_field_def upgrade_fields[] = {
    NFM_FIELD(OWN, "protocol", STR, "",
              "Upgrade field of the 101, \"connect\" for a tunnel, \"h2\""),
    NFM_FIELD(OWN + 1, "target", STR, "", "target of the request that asked for it"),
};

static const nfm_field_def error_fields[] = {
    NFM_FIELD(OWN, "kind", STR, "", "what is wrong, see the module's README"),
};

/* The catalogue of this module, in the order of enum nfm__http_event. */
const nfm_event_def nfm__http_events[NFM__HTTP_EV_COUNT] = {
    [NFM__HTTP_EV_NODE] = NFM_EVENT("http", node_fields, "anything of an HTTP/1.x connection"),
    [NFM__HTTP_EV_REQUEST] = NFM_EVENT("http.request", request_fields, "the head of a request"),
    [NFM__HTTP_EV_RESPONSE] = NFM_EVENT("http.response", response_fields,
                                        "the head of a response, interim ones included"),
    [NFM__HTTP_EV_BODY] = NFM_EVENT("http.body", body_fields, "bytes of a body, in order"),
    [NFM__HTTP_EV_END] = NFM_EVENT("http.message_end", end_fields, "the end of a message"),
    [NFM__HTTP_EV_UPGRADE] = NFM_EVENT("http.upgrade", upgrade_fields,
                                       "the connection carries another protocol from here on"),
    [NFM__HTTP_EV_ERROR] =
        NFM_EVENT("http.error", error_fields, "a violation; once per kind and message"),
};

/*
 * nfm__http_fill_node fills the fields that every event inherits.
 */
void nfm__http_fill_node(nfm_value *v, const nfm__http_side *side) {
    v[0] = nfm_number(side->message);
    v[1] = nfm_number(side->role == NFM__HTTP_RESPONSE);
}

/*
 * nfm__http_fill_request fills http.request's own fields with views into |head|.
 */
void nfm__http_fill_request(nfm_value *v, const nfm__http_head *head) {
    nfm_view none = {NULL, 0};
    v[RQ_METHOD] = nfm_text(head->method);
    v[RQ_TARGET] = nfm_text(head->target);
    v[RQ_HOST] = nfm_text(head->known[NFM__HTTP_HOST]);
    v[RQ_VERSION] = nfm_text(head->version);
    v[RQ_USER_AGENT] = nfm_text(head->known[NFM__HTTP_USER_AGENT]);
    v[RQ_CONTENT_TYPE] = nfm_text(head->known[NFM__HTTP_CONTENT_TYPE]);
    v[RQ_CONTENT_LENGTH] = nfm_number((uint64_t)head->content_length);
    v[RQ_UPGRADE] = nfm_text(head->upgrade ? head->known[NFM__HTTP_UPGRADE] : none);
    v[RQ_N_HEADERS] = nfm_number(head->n_headers);
    v[RQ_HEADERS] = nfm_text(head->headers);
    v[RQ_COMPLETE] = nfm_number(!head->partial);
}

/*
 * nfm__http_fill_response fills http.response's own fields with views into |head| and |asked|.
 */
void nfm__http_fill_response(nfm_value *v, const nfm__http_head *head, const nfm__http_asked *asked,
                             int64_t now_ns) {
    bool timed = asked->ts_ns != 0 && now_ns > asked->ts_ns;
    v[RS_STATUS] = nfm_number(head->status);
    v[RS_REASON] = nfm_text(head->reason);
    v[RS_VERSION] = nfm_text(head->version);
    v[RS_SERVER] = nfm_text(head->known[NFM__HTTP_SERVER]);
    v[RS_CONTENT_TYPE] = nfm_text(head->known[NFM__HTTP_CONTENT_TYPE]);
    v[RS_CONTENT_LENGTH] = nfm_number((uint64_t)head->content_length);
    v[RS_REQUEST_METHOD] = nfm_text(asked->method);
    v[RS_REQUEST_TARGET] = nfm_text(asked->target);
    v[RS_REQUEST_HOST] = nfm_text(asked->host);
    v[RS_LATENCY] = nfm_number(timed ? (uint64_t)(now_ns - asked->ts_ns) / 1000 : 0);
    v[RS_N_HEADERS] = nfm_number(head->n_headers);
    v[RS_HEADERS] = nfm_text(head->headers);
    v[RS_COMPLETE] = nfm_number(!head->partial);
}

/*
 * nfm__http_fill_end fills http.message_end's own fields.
 */
void nfm__http_fill_end(nfm_value *v, const nfm__http_side *side, const nfm__http_end *end) {
    v[EN_BODY] = nfm_number(side->body_len);
    v[EN_GAP] = nfm_number(side->gap_len);
    v[EN_CHUNKED] = nfm_number((side->flags & NFM__HTTP_F_CHUNKED) != 0);
    v[EN_COMPLETE] = nfm_number(end->complete);
    v[EN_TRAILERS] = nfm_text(end->trailers);
}
