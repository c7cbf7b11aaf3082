/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Record data as text, in the presentation form of each type's RFC without quotes around names.
 * Types that are not known, and data that does not fit its type, use the form of RFC 3597
 * section 5.
 */
#include "dns_parse.h"

#include <arpa/inet.h>
#include <string.h>

typedef struct type_name {
    uint16_t type;
    const char *name;
} type_name;

static const char *find_name(const type_name *names, size_t n, uint16_t value) {
    for (size_t i = 0; i < n; i++)
        if (names[i].type == value)
            return names[i].name;
    return NULL;
}

static void put_name_or(nfm__dns_text *out, const char *name, const char *prefix, uint16_t value) {
    if (name != NULL) {
        nfm__dns_put(out, name);
        return;
    }
    nfm__dns_put(out, prefix);
    nfm__dns_put_number(out, value);
}

/*
 * nfm__dns_type_name appends the mnemonic of a record or query type, or TYPEn (RFC 3597).
 */
void nfm__dns_type_name(uint16_t type, nfm__dns_text *out) {
    static const type_name names[] = {
        {1, "A"},       {28, "AAAA"},    {5, "CNAME"},       {12, "PTR"},    {65, "HTTPS"},
        {16, "TXT"},    {33, "SRV"},     {15, "MX"},         {2, "NS"},      {6, "SOA"},
        {255, "ANY"},   {64, "SVCB"},    {43, "DS"},         {48, "DNSKEY"}, {46, "RRSIG"},
        {47, "NSEC"},   {50, "NSEC3"},   {51, "NSEC3PARAM"}, {35, "NAPTR"},  {39, "DNAME"},
        {41, "OPT"},    {44, "SSHFP"},   {52, "TLSA"},       {99, "SPF"},    {257, "CAA"},
        {13, "HINFO"},  {17, "RP"},      {18, "AFSDB"},      {24, "SIG"},    {25, "KEY"},
        {29, "LOC"},    {10, "NULL"},    {32, "NIMLOC"},     {36, "KX"},     {37, "CERT"},
        {59, "CDS"},    {60, "CDNSKEY"}, {61, "OPENPGPKEY"}, {63, "ZONEMD"}, {108, "EUI48"},
        {109, "EUI64"}, {249, "TKEY"},   {250, "TSIG"},      {251, "IXFR"},  {252, "AXFR"},
        {256, "URI"},
    };
    put_name_or(out, find_name(names, sizeof(names) / sizeof(names[0]), type), "TYPE", type);
}

/*
 * nfm__dns_rcode_name appends the name of a response code, or RCODEn. Source: the IANA registry
 * founded by RFC 6895.
 */
void nfm__dns_rcode_name(uint16_t rcode, nfm__dns_text *out) {
    static const type_name names[] = {
        {0, "NOERROR"},  {1, "FORMERR"},  {2, "SERVFAIL"},   {3, "NXDOMAIN"}, {4, "NOTIMP"},
        {5, "REFUSED"},  {6, "YXDOMAIN"}, {7, "YXRRSET"},    {8, "NXRRSET"},  {9, "NOTAUTH"},
        {10, "NOTZONE"}, {16, "BADVERS"}, {23, "BADCOOKIE"},
    };
    put_name_or(out, find_name(names, sizeof(names) / sizeof(names[0]), rcode), "RCODE", rcode);
}

/*
 * nfm__dns_put_address appends an IPv4 (version 4) or IPv6 address of 4 or 16 bytes.
 */
void nfm__dns_put_address(nfm__dns_text *out, int version, const uint8_t *bytes) {
    char text[INET6_ADDRSTRLEN];
    if (inet_ntop(version == 4 ? AF_INET : AF_INET6, bytes, text, sizeof(text)) != NULL)
        nfm__dns_put(out, text);
}

static int put_u16s(nfm__dns_reader *r, uint32_t end, int n, nfm__dns_text *out) {
    if (r->at + 2u * (uint32_t)n > end)
        return NFM__DNS_E_RDATA;
    for (int i = 0; i < n; i++, r->at += 2) {
        nfm__dns_put_number(out, nfm_read16(r->data + r->at));
        nfm__dns_put(out, " ");
    }
    return NFM__DNS_OK;
}

static int put_addresses(nfm__dns_reader *r, uint32_t end, uint32_t size, nfm__dns_text *out) {
    for (const char *comma = ""; r->at < end; r->at += size, comma = ",") {
        if (r->at + size > end)
            return NFM__DNS_E_RDATA;
        nfm__dns_put(out, comma);
        nfm__dns_put_address(out, size == 4 ? 4 : 6, r->data + r->at);
    }
    return NFM__DNS_OK;
}

/* Character strings (RFC 1035 section 3.3.14), each quoted, |separator| between them. */
static int put_strings(nfm__dns_reader *r, uint32_t end, const char *separator,
                       nfm__dns_text *out) {
    for (const char *between = ""; r->at < end; between = separator) {
        uint32_t n = r->data[r->at];
        if (r->at + 1 + n > end)
            return NFM__DNS_E_RDATA;
        nfm__dns_put(out, between);
        nfm__dns_put(out, "\"");
        nfm__dns_put_escaped(out, (nfm_view){r->data + r->at + 1, n}, true);
        nfm__dns_put(out, "\"");
        r->at += 1 + n;
    }
    return NFM__DNS_OK;
}

static int put_soa(nfm__dns_reader *r, uint32_t end, nfm__dns_text *out) {
    for (int i = 0; i < 2; i++) {
        int rc = nfm__dns_name(r, out);
        if (rc != NFM__DNS_OK)
            return rc;
        nfm__dns_put(out, " ");
    }
    if (r->at + 20 > end)
        return NFM__DNS_E_RDATA;
    for (int i = 0; i < 5; i++, r->at += 4) {
        nfm__dns_put(out, i > 0 ? " " : "");
        nfm__dns_put_number(out, nfm_read32(r->data + r->at));
    }
    return NFM__DNS_OK;
}

static int put_caa(nfm__dns_reader *r, uint32_t end, nfm__dns_text *out) { /* RFC 8659 */
    if (r->at + 2 > end || r->at + 2u + r->data[r->at + 1] > end)
        return NFM__DNS_E_RDATA;
    uint32_t tag = r->data[r->at + 1];
    nfm__dns_put_number(out, r->data[r->at]);
    nfm__dns_put(out, " ");
    nfm__dns_put_escaped(out, (nfm_view){r->data + r->at + 2, tag}, false);
    r->at += 2 + tag;
    nfm__dns_put(out, " \"");
    nfm__dns_put_escaped(out, (nfm_view){r->data + r->at, end - r->at}, true);
    nfm__dns_put(out, "\"");
    r->at = end;
    return NFM__DNS_OK;
}

/* One service parameter's value (RFC 9460 section 7); |end| is the value's. */
static int put_svc_value(nfm__dns_reader *r, uint16_t key, uint32_t end, nfm__dns_text *out) {
    nfm__dns_put(out, "=");
    switch (key) {
    case 1:
        return put_strings(r, end, ",", out);
    case 3:
        if (end - r->at != 2)
            return NFM__DNS_E_RDATA;
        nfm__dns_put_number(out, nfm_read16(r->data + r->at));
        return NFM__DNS_OK;
    case 4:
        return put_addresses(r, end, 4, out);
    case 6:
        return put_addresses(r, end, 16, out);
    default:
        nfm__dns_put_hex(out, (nfm_view){r->data + r->at, end - r->at});
        return NFM__DNS_OK;
    }
}

static int put_svcb(nfm__dns_reader *r, uint32_t end, nfm__dns_text *out) { /* RFC 9460 */
    static const char *const keys[] = {"mandatory", "alpn", "no-default-alpn", "port",
                                       "ipv4hint",  "ech",  "ipv6hint",        "dohpath"};
    int rc = put_u16s(r, end, 1, out);
    if (rc == NFM__DNS_OK)
        rc = nfm__dns_name(r, out);
    while (rc == NFM__DNS_OK && r->at < end) {
        if (r->at + 4 > end)
            return NFM__DNS_E_RDATA;
        uint16_t key = nfm_read16(r->data + r->at), len = nfm_read16(r->data + r->at + 2);
        r->at += 4;
        if (r->at + len > end)
            return NFM__DNS_E_RDATA;
        nfm__dns_put(out, " ");
        put_name_or(out, key < 8 ? keys[key] : NULL, "key", key);
        uint32_t next = r->at + len;
        if (len > 0)
            rc = put_svc_value(r, key, next, out);
        r->at = next;
    }
    return rc;
}

static int put_known(nfm__dns_reader *r, uint16_t type, uint32_t end, nfm__dns_text *out) {
    int rc = NFM__DNS_OK;
    switch (type) {
    case NFM__DNS_A:
        return end - r->at == 4 ? put_addresses(r, end, 4, out) : NFM__DNS_E_RDATA;
    case NFM__DNS_AAAA:
        return end - r->at == 16 ? put_addresses(r, end, 16, out) : NFM__DNS_E_RDATA;
    case NFM__DNS_MX:
        rc = put_u16s(r, end, 1, out);
        break;
    case NFM__DNS_SRV:
        rc = put_u16s(r, end, 3, out);
        break;
    case NFM__DNS_TXT:
    case NFM__DNS_SPF:
    case NFM__DNS_HINFO:
        return put_strings(r, end, " ", out);
    case NFM__DNS_SOA:
        return put_soa(r, end, out);
    case NFM__DNS_CAA:
        return put_caa(r, end, out);
    case NFM__DNS_SVCB:
    case NFM__DNS_HTTPS:
        return put_svcb(r, end, out);
    case NFM__DNS_NS:
    case NFM__DNS_CNAME:
    case NFM__DNS_PTR:
    case NFM__DNS_DNAME:
        break;
    default: /* RFC 3597 section 5 */
        nfm__dns_put(out, "\\# ");
        nfm__dns_put_number(out, end - r->at);
        nfm__dns_put(out, end > r->at ? " " : "");
        nfm__dns_put_hex(out, (nfm_view){r->data + r->at, end - r->at});
        r->at = end;
        return NFM__DNS_OK;
    }
    return rc == NFM__DNS_OK ? nfm__dns_name(r, out) : rc;
}

/*
 * nfm__dns_rdata appends the |len| bytes of record data at r->at as text and moves past them; they
 * must lie in the message. Data that does not fit its type is written in the form for unknown
 * types. Returns NFM__DNS_OK or what is wrong with the data.
 */
int nfm__dns_rdata(nfm__dns_reader *r, uint16_t type, uint32_t len, nfm__dns_text *out) {
    uint32_t end = r->at + len, begin = r->at, text = out->len;
    int rc = put_known(r, type, end, out);
    if (rc == NFM__DNS_OK && r->at != end)
        rc = NFM__DNS_E_RDATA;
    if (rc != NFM__DNS_OK) {
        out->len = text;
        r->at = begin;
        (void)put_known(r, 0, end, out);
    }
    r->at = end;
    return rc;
}
