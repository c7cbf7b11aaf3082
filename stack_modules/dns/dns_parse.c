/* SPDX-License-Identifier: Apache-2.0 */
/* DNS messages: header, questions, records, EDNS (RFC 1035 section 4, RFC 6891, RFC 7871). */
#include "dns_parse.h"

#include <string.h>

enum { OPTION_SUBNET = 8, RR_FIXED = 10, MAX_QUESTIONS = 64 };

const char *nfm__dns_error_name(int error) {
    static const char *const names[NFM__DNS_E_COUNT] = {
        [NFM__DNS_OK] = "ok",
        [NFM__DNS_E_HEADER] = "header",
        [NFM__DNS_E_SHORT] = "short",
        [NFM__DNS_E_LABEL] = "label_type",
        [NFM__DNS_E_POINTER] = "pointer",
        [NFM__DNS_E_NAME] = "name_length",
        [NFM__DNS_E_WORK] = "too_complex",
        [NFM__DNS_E_RDATA] = "rdata",
        [NFM__DNS_E_TRAILING] = "trailing_bytes",
    };
    return error >= 0 && error < NFM__DNS_E_COUNT ? names[error] : "unknown";
}

/* Notes the first error; true: there is one. */
static bool failed(nfm__dns_message *m, const nfm__dns_reader *r, int error) {
    if (error != NFM__DNS_OK && m->error == NFM__DNS_OK) {
        m->error = (uint8_t)error;
        m->error_off = r->at;
    }
    return error != NFM__DNS_OK;
}

static bool read_question(nfm__dns_reader *r, nfm__dns_message *m, bool first) {
    if (failed(m, r, nfm__dns_name(r, first ? &m->qname : NULL)))
        return false;
    if (r->at + 4 > r->len)
        return !failed(m, r, NFM__DNS_E_SHORT);
    if (first) {
        m->qtype = nfm_read16(r->data + r->at);
        m->qclass = nfm_read16(r->data + r->at + 2);
        m->has_question = true;
    }
    r->at += 4;
    return true;
}

/* EDNS client subnet (RFC 7871 section 6): family, source prefix, scope, address bytes. */
static int read_subnet(nfm__dns_message *m, const uint8_t *p, uint32_t len) {
    uint8_t address[16] = {0};
    if (len < 4)
        return NFM__DNS_E_RDATA;
    uint16_t family = nfm_read16(p);
    uint32_t size = family == 1 ? 4 : 16;
    if ((family != 1 && family != 2) || len - 4 > size || p[2] > size * 8)
        return NFM__DNS_E_RDATA;
    memcpy(address, p + 4, len - 4);
    m->subnet.len = 0;
    nfm__dns_put_address(&m->subnet, family == 1 ? 4 : 6, address);
    nfm__dns_put(&m->subnet, "/");
    nfm__dns_put_number(&m->subnet, p[2]);
    return NFM__DNS_OK;
}

static int read_opt(nfm__dns_reader *r, nfm__dns_message *m, const uint8_t *fixed, uint32_t end) {
    m->edns_payload = nfm_read16(fixed + 2);
    m->rcode |= (uint16_t)(fixed[4] << 4);
    m->edns_do = (fixed[6] & 0x80) != 0;
    while (r->at < end) {
        if (r->at + 4 > end)
            return NFM__DNS_E_RDATA;
        uint16_t code = nfm_read16(r->data + r->at), len = nfm_read16(r->data + r->at + 2);
        r->at += 4;
        if (r->at + len > end)
            return NFM__DNS_E_RDATA;
        int rc = code == OPTION_SUBNET ? read_subnet(m, r->data + r->at, len) : NFM__DNS_OK;
        if (rc != NFM__DNS_OK)
            return rc;
        r->at += len;
    }
    return NFM__DNS_OK;
}

static void add_answer(nfm__dns_reader *r, nfm__dns_message *m, const uint8_t *fixed,
                       uint32_t len) {
    nfm__dns_text *out = &m->answers;
    uint32_t before = out->len, ttl = nfm_read32(fixed + 4);
    m->ttl_min = m->n_answers++ == 0 || ttl < m->ttl_min ? ttl : m->ttl_min;
    if (out->cut) {
        r->at += len;
        return;
    }
    if (before > 0)
        nfm__dns_put(out, ";");
    nfm__dns_type_name(nfm_read16(fixed), out);
    nfm__dns_put(out, " ");
    (void)failed(m, r, nfm__dns_rdata(r, nfm_read16(fixed), len, out));
    if (out->cut)
        out->len = before; /* whole answers only */
}

static bool read_record(nfm__dns_reader *r, nfm__dns_message *m, int section) {
    if (failed(m, r, nfm__dns_name(r, NULL)))
        return false;
    if (r->at + RR_FIXED > r->len)
        return !failed(m, r, NFM__DNS_E_SHORT);
    const uint8_t *fixed = r->data + r->at;
    uint32_t len = nfm_read16(fixed + 8), end = r->at + RR_FIXED + len;
    if (end > r->len)
        return !failed(m, r, NFM__DNS_E_SHORT);
    r->at += RR_FIXED;
    if (section == 1)
        add_answer(r, m, fixed, len);
    else if (section == 3 && nfm_read16(fixed) == NFM__DNS_OPT)
        (void)failed(m, r, read_opt(r, m, fixed, end));
    r->at = end;
    return true;
}

static void read_sections(nfm__dns_reader *r, nfm__dns_message *m) {
    for (uint32_t i = 0; i < m->count[0]; i++)
        if (!read_question(r, m, i == 0))
            return;
    for (int section = 1; section < 4; section++)
        for (uint32_t i = 0; i < m->count[section]; i++)
            if (!read_record(r, m, section))
                return;
    if (r->at < r->len)
        (void)failed(m, r, NFM__DNS_E_TRAILING);
}

/*
 * nfm__dns_parse reads one message. The caller sets the three texts' memory in |out|; the rest is
 * written here. What was read before an error stays. Answers beyond the text's room are counted,
 * not written. Source: RFC 1035 section 4.1. Returns NFM__DNS_OK or the first error.
 */
int nfm__dns_parse(nfm_view data, nfm__dns_message *out) {
    nfm__dns_text qname = out->qname, subnet = out->subnet, answers = out->answers;
    nfm__dns_reader r = {.data = data.data, .len = data.len};
    qname.len = subnet.len = answers.len = 0;
    qname.cut = subnet.cut = answers.cut = false;
    *out = (nfm__dns_message){.qname = qname, .subnet = subnet, .answers = answers};
    if (data.len < NFM__DNS_HEADER) {
        (void)failed(out, &r, NFM__DNS_E_HEADER);
        return out->error;
    }
    out->has_header = true;
    out->id = nfm_read16(data.data);
    out->flags = nfm_read16(data.data + 2);
    out->rcode = out->flags & 15;
    for (int i = 0; i < 4; i++)
        out->count[i] = nfm_read16(data.data + 4 + 2 * i);
    r.at = NFM__DNS_HEADER;
    read_sections(&r, out);
    return out->error;
}

/*
 * nfm__dns_plausible judges a header on its own: a known opcode, the reserved bit clear, counts
 * that the opcode allows. It tells DNS from other traffic where framing or ports do not.
 */
bool nfm__dns_plausible(nfm_view data) {
    if (data.len < NFM__DNS_HEADER)
        return false;
    uint16_t flags = nfm_read16(data.data + 2);
    uint32_t opcode = flags >> 11 & 15, questions = nfm_read16(data.data + 4);
    uint32_t records = 0;
    for (int i = 6; i < NFM__DNS_HEADER; i += 2)
        records += nfm_read16(data.data + i);
    bool response = flags >> 15;
    if (opcode > 6 || opcode == 3 || (flags & 0x40) || questions > MAX_QUESTIONS)
        return false;
    return questions + records > 0 && (response || opcode != 0 || nfm_read16(data.data + 6) == 0);
}
