/* SPDX-License-Identifier: Apache-2.0 */
#include "http_events.h"

/* Own cells begin after the two that every event inherits from the node "http". */
enum { OWN = 2 };

#define FIELD(cell, name_, kind_, unit_, doc_)                                                     \
    {                                                                                              \
        .name = name_, .kind = NFM_KIND_##kind_, .source = NFM_FROM_FIELDS, .offset = (cell)*8,    \
        .unit = unit_, .doc = doc_                                                                 \
    }
#define EVENT(name_, fields_, doc_)                                                                \
    {                                                                                              \
        .name = name_, .bit = -1, .n_fields = sizeof(fields_) / sizeof((fields_)[0]),              \
        .fields = fields_, .doc = doc_                                                             \
    }

static const nfm_field_def node_fields[] = {
    FIELD(0, "message", U32, "", "ordinal of the message on its side, from 0"),
    FIELD(1, "is_response", BOOL, "", "sent by the HTTP server"),
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
    FIELD(RQ_METHOD, "method", STR, "", "as sent, upper case"),
    FIELD(RQ_TARGET, "target", STR, "", "request target as sent"),
    FIELD(RQ_HOST, "host", STR, "", "Host field, first if several"),
    FIELD(RQ_VERSION, "version", STR, "", "\"1.1\""),
    FIELD(RQ_USER_AGENT, "user_agent", STR, "", "User-Agent field"),
    FIELD(RQ_CONTENT_TYPE, "content_type", STR, "", "Content-Type field"),
    FIELD(RQ_CONTENT_LENGTH, "content_length", I64, "bytes", "Content-Length, -1 without"),
    FIELD(RQ_UPGRADE, "upgrade", STR, "", "Upgrade field when Connection names it"),
    FIELD(RQ_N_HEADERS, "n_headers", U16, "", "header fields"),
    FIELD(RQ_HEADERS, "headers", BYTES, "", "header section as sent, without the empty line"),
    FIELD(RQ_COMPLETE, "complete", BOOL, "", "false: the head was cut"),
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
    FIELD(RS_STATUS, "status", U16, "", "status code"),
    FIELD(RS_REASON, "reason", STR, "", "reason phrase"),
    FIELD(RS_VERSION, "version", STR, "", "\"1.1\""),
    FIELD(RS_SERVER, "server", STR, "", "Server field"),
    FIELD(RS_CONTENT_TYPE, "content_type", STR, "", "Content-Type field"),
    FIELD(RS_CONTENT_LENGTH, "content_length", I64, "bytes", "Content-Length, -1 without"),
    FIELD(RS_REQUEST_METHOD, "request_method", STR, "", "of the request answered, empty: not seen"),
    FIELD(RS_REQUEST_TARGET, "request_target", STR, "", "of that request; long ones are cut"),
    FIELD(RS_REQUEST_HOST, "request_host", STR, "", "of that request; long ones are cut"),
    FIELD(RS_LATENCY, "latency_us", U64, "us", "from the request's head to this one, 0: not known"),
    FIELD(RS_N_HEADERS, "n_headers", U16, "", "header fields"),
    FIELD(RS_HEADERS, "headers", BYTES, "", "header section as sent, without the empty line"),
    FIELD(RS_COMPLETE, "complete", BOOL, "", "false: the head was cut"),
};

static const nfm_field_def body_fields[] = {
    FIELD(OWN, "offset", U64, "bytes", "of these bytes in the body, transfer coding removed"),
    FIELD(OWN + 1, "length", U32, "bytes", "of these bytes"),
};

enum { EN_BODY = OWN, EN_GAP, EN_CHUNKED, EN_COMPLETE, EN_TRAILERS };

static const nfm_field_def end_fields[] = {
    FIELD(EN_BODY, "body_bytes", U64, "bytes", "of the body, missing ones included"),
    FIELD(EN_GAP, "gap_bytes", U64, "bytes", "of the body that were never seen"),
    FIELD(EN_CHUNKED, "chunked", BOOL, "", "sent in chunks"),
    FIELD(EN_COMPLETE, "complete", BOOL, "", "false: cut short or given up"),
    FIELD(EN_TRAILERS, "trailers", BYTES, "", "trailer section as sent"),
};

static const nfm_field_def upgrade_fields[] = {
    FIELD(OWN, "protocol", STR, "", "Upgrade field of the 101, \"connect\" for a tunnel, \"h2\""),
    FIELD(OWN + 1, "target", STR, "", "target of the request that asked for it"),
};

static const nfm_field_def error_fields[] = {
    FIELD(OWN, "kind", STR, "", "what is wrong, see the module's README"),
};

/* The catalogue of this module, in the order of enum nfm__http_event. */
const nfm_event_def nfm__http_events[NFM__HTTP_EV_COUNT] = {
    [NFM__HTTP_EV_NODE] = EVENT("http", node_fields, "anything of an HTTP/1.x connection"),
    [NFM__HTTP_EV_REQUEST] = EVENT("http.request", request_fields, "the head of a request"),
    [NFM__HTTP_EV_RESPONSE] =
        EVENT("http.response", response_fields, "the head of a response, interim ones included"),
    [NFM__HTTP_EV_BODY] = EVENT("http.body", body_fields, "bytes of a body, in order"),
    [NFM__HTTP_EV_END] = EVENT("http.message_end", end_fields, "the end of a message"),
    [NFM__HTTP_EV_UPGRADE] = EVENT("http.upgrade", upgrade_fields,
                                   "the connection carries another protocol from here on"),
    [NFM__HTTP_EV_ERROR] =
        EVENT("http.error", error_fields, "a violation; once per kind and message"),
};

static nfm_value number(uint64_t n) {
    return (nfm_value){.number = n};
}

static nfm_value text(nfm_view v) {
    return (nfm_value){.bytes = v};
}

/*
 * nfm__http_fill_node fills the fields that every event inherits.
 */
void nfm__http_fill_node(nfm_value *v, const nfm__http_side *side) {
    v[0] = number(side->message);
    v[1] = number(side->role == NFM__HTTP_RESPONSE);
}

/*
 * nfm__http_fill_request fills http.request's own fields with views into |head|.
 */
void nfm__http_fill_request(nfm_value *v, const nfm__http_head *head) {
    nfm_view none = {NULL, 0};
    v[RQ_METHOD] = text(head->method);
    v[RQ_TARGET] = text(head->target);
    v[RQ_HOST] = text(head->known[NFM__HTTP_HOST]);
    v[RQ_VERSION] = text(head->version);
    v[RQ_USER_AGENT] = text(head->known[NFM__HTTP_USER_AGENT]);
    v[RQ_CONTENT_TYPE] = text(head->known[NFM__HTTP_CONTENT_TYPE]);
    v[RQ_CONTENT_LENGTH] = number((uint64_t)head->content_length);
    v[RQ_UPGRADE] = text(head->upgrade ? head->known[NFM__HTTP_UPGRADE] : none);
    v[RQ_N_HEADERS] = number(head->n_headers);
    v[RQ_HEADERS] = text(head->headers);
    v[RQ_COMPLETE] = number(!head->partial);
}

/*
 * nfm__http_fill_response fills http.response's own fields with views into |head| and |asked|.
 */
void nfm__http_fill_response(nfm_value *v, const nfm__http_head *head, const nfm__http_asked *asked,
                             int64_t now_ns) {
    bool timed = asked->ts_ns != 0 && now_ns > asked->ts_ns;
    v[RS_STATUS] = number(head->status);
    v[RS_REASON] = text(head->reason);
    v[RS_VERSION] = text(head->version);
    v[RS_SERVER] = text(head->known[NFM__HTTP_SERVER]);
    v[RS_CONTENT_TYPE] = text(head->known[NFM__HTTP_CONTENT_TYPE]);
    v[RS_CONTENT_LENGTH] = number((uint64_t)head->content_length);
    v[RS_REQUEST_METHOD] = text(asked->method);
    v[RS_REQUEST_TARGET] = text(asked->target);
    v[RS_REQUEST_HOST] = text(asked->host);
    v[RS_LATENCY] = number(timed ? (uint64_t)(now_ns - asked->ts_ns) / 1000 : 0);
    v[RS_N_HEADERS] = number(head->n_headers);
    v[RS_HEADERS] = text(head->headers);
    v[RS_COMPLETE] = number(!head->partial);
}

/*
 * nfm__http_fill_end fills http.message_end's own fields.
 */
void nfm__http_fill_end(nfm_value *v, const nfm__http_side *side, const nfm__http_end *end) {
    v[EN_BODY] = number(side->body_len);
    v[EN_GAP] = number(side->gap_len);
    v[EN_CHUNKED] = number((side->flags & NFM__HTTP_F_CHUNKED) != 0);
    v[EN_COMPLETE] = number(end->complete);
    v[EN_TRAILERS] = text(end->trailers);
}
