/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ICMP errors whose flow the worker does not know any more, while the mapping lives (RFC 5508 REQ-4
 * and REQ-5). Those of living flows the worker translates by itself.
 */
#include <netinet/in.h>

#include "nat.h"

enum { ICMP_HEADER = 8, IPV4_MIN = 20, PORTS = 8 };

typedef struct quoted {
    nat_endpoint src, dst;
    uint32_t klass;
} quoted;

static bool read_quoted(quoted *q, const uint8_t *icmp, uint32_t len) {
    const uint8_t *ip = icmp + ICMP_HEADER;
    if (len < ICMP_HEADER + IPV4_MIN || ip[0] >> 4 != 4)
        return false;
    uint32_t size = (ip[0] & 0xfu) * 4;
    if (size < IPV4_MIN || len < ICMP_HEADER + size + PORTS || (nat__read16(ip + 6) & 0x1fff) != 0)
        return false;
    const uint8_t *l4 = ip + size;
    bool is_query = ip[9] == IPPROTO_ICMP && (l4[0] == 8 || l4[0] == 0);
    if (ip[9] != IPPROTO_TCP && ip[9] != IPPROTO_UDP && !is_query)
        return false;
    q->klass = ip[9] == IPPROTO_TCP ? NAT_TCP : ip[9] == IPPROTO_UDP ? NAT_UDP : NAT_ICMP;
    q->src = (nat_endpoint){nat__read32(ip + 12), nat__read16(l4 + (is_query ? 4 : 0))};
    q->dst = (nat_endpoint){nat__read32(ip + 16), nat__read16(l4 + (is_query ? 4 : 2))};
    return true;
}

uint32_t nat__judge_error(nat *self, const uint8_t *icmp, uint32_t len, bool outbound,
                          nfm_edit *edit) {
    quoted q;
    uint32_t at = NAT_NONE, index;
    if (read_quoted(&q, icmp, len)) {
        if (outbound)
            at = nat__find_internal(self, q.klass, q.dst);
        else if ((index = nat__external_index(self, q.src.address)) != NAT_NONE)
            at = nat__find_external(self, index, q.klass, q.src.port);
    }
    if (at == NAT_NONE) {
        self->stats.no_mapping++;
        return NFM_DROP;
    }
    const nat_mapping *m = &self->mappings[at];
    if (outbound) {
        *edit =
            (nfm_edit){.fields = NFM_EDIT_SRC | NFM_EDIT_SRC_PORT, .src_port = m->external_port};
        nat__write32(edit->src, m->external);
    } else {
        *edit =
            (nfm_edit){.fields = NFM_EDIT_DST | NFM_EDIT_DST_PORT, .dst_port = m->internal_port};
        nat__write32(edit->dst, m->internal);
    }
    self->stats.errors++;
    return NFM_REWRITE;
}
