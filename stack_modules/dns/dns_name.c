/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of DNS messages in presentation form, and the text they are written to.
 *
 * Theory of operation
 *   A name is a chain of labels that may jump to an earlier place (RFC 1035 section 4.1.4). Each
 *   jump must land before where the chain it leaves began, so a name ends after finitely many
 *   steps whatever the bytes; a budget over the whole message bounds the work of many such names.
 *   Labels may hold any byte: what is not plain ASCII becomes an escape (RFC 1035 section 5.1), so
 *   a name in a log is one word and cannot be mistaken for two.
 */
#include "dns_parse.h"

#include <string.h>

enum { NAME_MAX_WIRE = 255 };

static void put_char(nfm__dns_text *out, char c) {
    if (out->len < out->cap)
        out->data[out->len++] = c;
    else
        out->cut = true;
}

/*
 * nfm__dns_put appends a string; what does not fit is cut off and noted.
 */
void nfm__dns_put(nfm__dns_text *out, const char *text) {
    for (; *text != 0; text++)
        put_char(out, *text);
}

/*
 * nfm__dns_put_number appends a number in decimal.
 */
void nfm__dns_put_number(nfm__dns_text *out, uint32_t value) {
    char digits[11];
    int i = 11;
    digits[--i] = 0;
    do {
        digits[--i] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    nfm__dns_put(out, digits + i);
}

/*
 * nfm__dns_put_hex appends bytes as lower-case hexadecimal.
 */
void nfm__dns_put_hex(nfm__dns_text *out, nfm_view bytes) {
    static const char hex[] = "0123456789abcdef";
    for (uint32_t i = 0; i < bytes.len && !out->cut; i++) {
        put_char(out, hex[bytes.data[i] >> 4]);
        put_char(out, hex[bytes.data[i] & 15]);
    }
}

/*
 * nfm__dns_put_escaped appends bytes of a label, or of a quoted character string. A semicolon is
 * always written \059, so that lists can be split at semicolons. Source: RFC 1035 section 5.1.
 */
void nfm__dns_put_escaped(nfm__dns_text *out, nfm_view bytes, bool quoted) {
    for (uint32_t i = 0; i < bytes.len && !out->cut; i++) {
        uint8_t c = bytes.data[i];
        bool plain = c > 0x20 && c < 0x7f && c != ';';
        if (plain && c != '"' && c != '\\' &&
            (quoted || (c != '.' && c != '(' && c != ')' && c != '@' && c != '$'))) {
            put_char(out, (char)c);
        } else if (quoted && c == ' ') {
            put_char(out, ' ');
        } else if (plain) {
            put_char(out, '\\');
            put_char(out, (char)c);
        } else {
            put_char(out, '\\');
            put_char(out, (char)('0' + c / 100));
            put_char(out, (char)('0' + c / 10 % 10));
            put_char(out, (char)('0' + c % 10));
        }
    }
}

/*
 * nfm__dns_name reads the name at r->at and moves there past it. |out| may be NULL. No dot at the
 * end; the root is ".". Source: RFC 1035 sections 3.1, 4.1.4.
 * Returns NFM__DNS_OK or the error; r->at is where it was found then.
 */
int nfm__dns_name(nfm__dns_reader *r, nfm__dns_text *out) {
    uint32_t at = r->at, begin = r->at, wire = 0, after = 0;
    for (;; r->steps++) {
        if (r->steps > NFM__DNS_MAX_STEPS)
            return NFM__DNS_E_WORK;
        if (at >= r->len)
            return NFM__DNS_E_SHORT;
        uint8_t n = r->data[at];
        if (n >= 0xc0) {
            if (at + 2 > r->len)
                return NFM__DNS_E_SHORT;
            uint32_t target = nfm_read16(r->data + at) & 0x3fffu;
            if (target >= begin)
                return NFM__DNS_E_POINTER;
            if (after == 0)
                after = at + 2;
            at = begin = target;
            continue;
        }
        if (n >= 0x40)
            return NFM__DNS_E_LABEL;
        wire += n + 1u;
        if (wire > NAME_MAX_WIRE)
            return NFM__DNS_E_NAME;
        if (n == 0)
            break;
        if (at + 1 + n > r->len)
            return NFM__DNS_E_SHORT;
        if (out != NULL) {
            if (wire > n + 1u)
                put_char(out, '.');
            nfm__dns_put_escaped(out, (nfm_view){r->data + at + 1, n}, false);
        }
        at += n + 1u;
    }
    if (out != NULL && wire == 1)
        put_char(out, '.');
    r->at = after != 0 ? after : at + 1;
    return NFM__DNS_OK;
}
