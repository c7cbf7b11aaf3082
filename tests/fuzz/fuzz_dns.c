/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: no message is read beyond its end, texts stay in their room, hold printable ASCII only
 * and as many answers as semicolons say, and a parse of the same bytes gives the same. */
#include <stdlib.h>
#include <string.h>

#include "../../stack_modules/dns/dns_parse.h"

enum { ANSWERS = 512 };

typedef struct memory {
    char qname[NFM__DNS_NAME_TEXT];
    char subnet[NFM__DNS_SUBNET_TEXT];
    char answers[ANSWERS];
    nfm__dns_message m;
} memory;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok) {
    if (!ok)
        abort();
}

static void check_text(const nfm__dns_text *t) {
    require(t->len <= t->cap);
    for (uint32_t i = 0; i < t->len; i++)
        require(t->data[i] >= ' ' && t->data[i] < 0x7f);
}

static void parse(memory *mem, const uint8_t *data, uint32_t len) {
    memset(mem, 0, sizeof(*mem));
    mem->m.qname = (nfm__dns_text){.data = mem->qname, .cap = sizeof(mem->qname)};
    mem->m.subnet = (nfm__dns_text){.data = mem->subnet, .cap = sizeof(mem->subnet)};
    mem->m.answers = (nfm__dns_text){.data = mem->answers, .cap = sizeof(mem->answers)};
    require(nfm__dns_parse((nfm_view){data, len}, &mem->m) == mem->m.error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > 65535)
        return 0;
    uint8_t *copy = malloc(size + 1);
    require(copy != NULL);
    memcpy(copy + 1, data, size); /* unaligned, and a byte beyond either end is seen */
    memory *a = malloc(sizeof(*a)), *b = malloc(sizeof(*b));
    require(a != NULL && b != NULL);
    parse(a, copy + 1, (uint32_t)size);
    parse(b, copy + 1, (uint32_t)size);
    const nfm__dns_message *m = &a->m;
    check_text(&m->qname);
    check_text(&m->subnet);
    check_text(&m->answers);
    require(memcmp(a->qname, b->qname, sizeof(a->qname)) == 0 &&
            memcmp(a->answers, b->answers, sizeof(a->answers)) == 0);
    require(!m->qname.cut && !m->subnet.cut && m->n_answers <= m->count[1]);
    require(m->error_off <= size && strcmp(nfm__dns_error_name(m->error), "unknown") != 0);
    uint32_t semicolons = 0;
    for (uint32_t i = 0; i < m->answers.len; i++)
        semicolons += m->answers.data[i] == ';';
    require(m->answers.cut || m->n_answers == (m->answers.len > 0 ? semicolons + 1 : 0));
    require(nfm__dns_plausible((nfm_view){copy + 1, (uint32_t)size}) <= (size >= NFM__DNS_HEADER));
    free(a);
    free(b);
    free(copy);
    return 0;
}
