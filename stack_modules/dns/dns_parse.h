/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pure DNS parser: one message in, its header, first question and answers as text out. It knows
 * no worker and no flow, reads no clock and allocates nothing.
 */
#ifndef NFM_DNS_PARSE_H
#define NFM_DNS_PARSE_H

#include "nfm/module.h"

enum nfm__dns_error {
    NFM__DNS_OK = 0,
    NFM__DNS_E_HEADER,   /* shorter than a header */
    NFM__DNS_E_SHORT,    /* ends inside a name or record */
    NFM__DNS_E_LABEL,    /* reserved label type */
    NFM__DNS_E_POINTER,  /* compression pointer that does not point backwards */
    NFM__DNS_E_NAME,     /* longer than 255 bytes */
    NFM__DNS_E_WORK,     /* more labels than a message is worth */
    NFM__DNS_E_RDATA,    /* data of a record does not fit its type */
    NFM__DNS_E_TRAILING, /* bytes after the last record */
    NFM__DNS_E_COUNT
};

enum {
    NFM__DNS_HEADER = 12,
    NFM__DNS_NAME_TEXT = 1024, /* 255 bytes, each at worst four characters */
    NFM__DNS_SUBNET_TEXT = 64,
    NFM__DNS_MAX_STEPS = 8192
};

enum nfm__dns_type {
    NFM__DNS_A = 1,
    NFM__DNS_NS = 2,
    NFM__DNS_CNAME = 5,
    NFM__DNS_SOA = 6,
    NFM__DNS_PTR = 12,
    NFM__DNS_HINFO = 13,
    NFM__DNS_MX = 15,
    NFM__DNS_TXT = 16,
    NFM__DNS_AAAA = 28,
    NFM__DNS_SRV = 33,
    NFM__DNS_DNAME = 39,
    NFM__DNS_OPT = 41,
    NFM__DNS_SPF = 99,
    NFM__DNS_SVCB = 64,
    NFM__DNS_HTTPS = 65,
    NFM__DNS_CAA = 257
};

typedef struct nfm__dns_text { /* text under construction in the caller's memory */
    char *data;
    uint32_t len, cap;
    bool cut; /* something did not fit */
} nfm__dns_text;

typedef struct nfm__dns_reader {
    const uint8_t *data;
    uint32_t len;
    uint32_t at;
    uint32_t steps; /* labels and pointers walked in this message */
} nfm__dns_reader;

typedef struct nfm__dns_message {
    uint16_t id;
    uint16_t flags;    /* the header's second word */
    uint16_t rcode;    /* extended by EDNS */
    uint16_t count[4]; /* question, answer, authority, additional */
    uint16_t qtype, qclass;
    uint16_t edns_payload; /* 0: no EDNS */
    bool edns_do;
    bool has_header, has_question;
    uint8_t error;      /* enum nfm__dns_error: the first */
    uint32_t error_off; /* where, from the begin of the message */
    uint32_t n_answers; /* read */
    uint32_t ttl_min;   /* over the answers read, 0 without */
    nfm__dns_text qname;
    nfm__dns_text subnet;  /* EDNS client subnet, empty without */
    nfm__dns_text answers; /* "A 192.0.2.1;CNAME a.example" */
} nfm__dns_message;

/* dns_parse.c */
const char *nfm__dns_error_name(int error);
bool nfm__dns_plausible(nfm_view data);
int nfm__dns_parse(nfm_view data, nfm__dns_message *out);

/* dns_name.c */
int nfm__dns_name(nfm__dns_reader *r, nfm__dns_text *out);
void nfm__dns_put(nfm__dns_text *out, const char *text);
void nfm__dns_put_number(nfm__dns_text *out, uint32_t value);
void nfm__dns_put_hex(nfm__dns_text *out, nfm_view bytes);
void nfm__dns_put_escaped(nfm__dns_text *out, nfm_view bytes, bool quoted);

/* dns_rdata.c */
void nfm__dns_type_name(uint16_t type, nfm__dns_text *out);
void nfm__dns_rcode_name(uint16_t rcode, nfm__dns_text *out);
int nfm__dns_rdata(nfm__dns_reader *r, uint16_t type, uint32_t len, nfm__dns_text *out);
void nfm__dns_put_address(nfm__dns_text *out, int version, const uint8_t *bytes);

#endif
