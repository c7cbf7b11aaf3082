/* SPDX-License-Identifier: Apache-2.0 */
#include "dns_events.h"

#include <string.h>

enum { N_ID, N_OPCODE, N_QNAME, N_QTYPE, N_QTYPE_NAME, N_QCLASS, N_QUESTIONS, N_RD, OWN };

static const nfm_field_def node_fields[] = {
    NFM_FIELD(N_ID, "id", U16, "", "transaction id"),
    NFM_FIELD(N_OPCODE, "opcode", U8, "", "0 query, 4 notify, 5 update"),
    NFM_FIELD(N_QNAME, "qname", STR, "", "first question's name, escaped, no dot at the end"),
    NFM_FIELD(N_QTYPE, "qtype", U16, "", "first question's type"),
    NFM_FIELD(N_QTYPE_NAME, "qtype_name", STR, "", "\"A\", \"TYPE65280\""),
    NFM_FIELD(N_QCLASS, "qclass", U16, "", "first question's class as sent"),
    NFM_FIELD(N_QUESTIONS, "n_questions", U16, "", "questions announced"),
    NFM_FIELD(N_RD, "rd", BOOL, "", "recursion desired"),
};

enum { QU_PAYLOAD = OWN, QU_DO, QU_SUBNET };

static const nfm_field_def query_fields[] = {
    NFM_FIELD(QU_PAYLOAD, "edns_payload", U16, "bytes", "UDP payload the sender takes, 0: no EDNS"),
    NFM_FIELD(QU_DO, "edns_do", BOOL, "", "DNSSEC wanted"),
    NFM_FIELD(QU_SUBNET, "edns_subnet", STR, "", "EDNS client subnet, \"192.0.2.0/24\""),
};

enum {
    RE_RCODE = OWN,
    RE_RCODE_NAME,
    RE_AA,
    RE_TC,
    RE_RA,
    RE_AD,
    RE_N_ANSWERS,
    RE_N_AUTHORITY,
    RE_N_ADDITIONAL,
    RE_TTL_MIN,
    RE_ANSWERS,
    RE_LATENCY
};

static const nfm_field_def response_fields[] = {
    NFM_FIELD(RE_RCODE, "rcode", U16, "", "response code, with its EDNS part"),
    NFM_FIELD(RE_RCODE_NAME, "rcode_name", STR, "", "\"NOERROR\", \"NXDOMAIN\""),
    NFM_FIELD(RE_AA, "aa", BOOL, "", "authoritative"),
    NFM_FIELD(RE_TC, "tc", BOOL, "", "truncated by the server"),
    NFM_FIELD(RE_RA, "ra", BOOL, "", "recursion available"),
    NFM_FIELD(RE_AD, "ad", BOOL, "", "authentic data"),
    NFM_FIELD(RE_N_ANSWERS, "n_answers", U16, "", "answers announced"),
    NFM_FIELD(RE_N_AUTHORITY, "n_authority", U16, "", "authority records announced"),
    NFM_FIELD(RE_N_ADDITIONAL, "n_additional", U16, "", "additional records announced"),
    NFM_FIELD(RE_TTL_MIN, "ttl_min", U32, "s", "smallest TTL of the answers, 0 without"),
    NFM_FIELD(RE_ANSWERS, "answers", STR, "",
              "\"A 192.0.2.1;CNAME a.example\", whole answers only"),
    NFM_FIELD(RE_LATENCY, "latency_us", I64, "us", "since the query, -1: no query seen"),
};

static const nfm_field_def error_fields[] = {
    NFM_FIELD(OWN, "reason", STR, "", "what is wrong, see the module's README"),
    NFM_FIELD(OWN + 1, "offset", U32, "bytes", "where in the message"),
};

/* The catalogue of this module, in the order of enum nfm__dns_event. */
const nfm_event_def nfm__dns_events[NFM__DNS_EV_COUNT] = {
    [NFM__DNS_EV_NODE] = NFM_EVENT("dns", node_fields, "a DNS message"),
    [NFM__DNS_EV_QUERY] = NFM_EVENT("dns.query", query_fields, "a query, mDNS and LLMNR included"),
    [NFM__DNS_EV_RESPONSE] = NFM_EVENT("dns.response", response_fields, "a response"),
    [NFM__DNS_EV_ERROR] = NFM_EVENT("dns.error", error_fields, "a message that breaks the format"),
};

static nfm_value text(const nfm__dns_text *t) {
    return nfm_text((nfm_view){(const uint8_t *)t->data, t->len});
}

/*
 * nfm__dns_fill_node fills the fields that every event inherits; qtype's name goes to |names|.
 */
void nfm__dns_fill_node(nfm_value *v, const nfm__dns_message *m, nfm__dns_names *names) {
    names->qtype.len = 0;
    if (m->has_question)
        nfm__dns_type_name(m->qtype, &names->qtype);
    v[N_ID] = nfm_number(m->id);
    v[N_OPCODE] = nfm_number(m->flags >> 11 & 15);
    v[N_QNAME] = text(&m->qname);
    v[N_QTYPE] = nfm_number(m->qtype);
    v[N_QTYPE_NAME] = text(&names->qtype);
    v[N_QCLASS] = nfm_number(m->qclass);
    v[N_QUESTIONS] = nfm_number(m->count[0]);
    v[N_RD] = nfm_number(m->flags >> 8 & 1);
}

/*
 * nfm__dns_fill_query fills dns.query's own fields.
 */
void nfm__dns_fill_query(nfm_value *v, const nfm__dns_message *m) {
    v[QU_PAYLOAD] = nfm_number(m->edns_payload);
    v[QU_DO] = nfm_number(m->edns_do);
    v[QU_SUBNET] = text(&m->subnet);
}

/*
 * nfm__dns_fill_response fills dns.response's own fields; rcode's name goes to |names|.
 */
void nfm__dns_fill_response(nfm_value *v, const nfm__dns_message *m, nfm__dns_names *names,
                            int64_t latency_us) {
    names->rcode.len = 0;
    nfm__dns_rcode_name(m->rcode, &names->rcode);
    v[RE_RCODE] = nfm_number(m->rcode);
    v[RE_RCODE_NAME] = text(&names->rcode);
    v[RE_AA] = nfm_number(m->flags >> 10 & 1);
    v[RE_TC] = nfm_number(m->flags >> 9 & 1);
    v[RE_RA] = nfm_number(m->flags >> 7 & 1);
    v[RE_AD] = nfm_number(m->flags >> 5 & 1);
    v[RE_N_ANSWERS] = nfm_number(m->count[1]);
    v[RE_N_AUTHORITY] = nfm_number(m->count[2]);
    v[RE_N_ADDITIONAL] = nfm_number(m->count[3]);
    v[RE_TTL_MIN] = nfm_number(m->ttl_min);
    v[RE_ANSWERS] = text(&m->answers);
    v[RE_LATENCY] = nfm_number((uint64_t)latency_us);
}

/*
 * nfm__dns_fill_error fills dns.error's own fields.
 */
void nfm__dns_fill_error(nfm_value *v, const char *reason, uint32_t offset) {
    v[OWN] = nfm_text((nfm_view){(const uint8_t *)reason, (uint32_t)strlen(reason)});
    v[OWN + 1] = nfm_number(offset);
}
