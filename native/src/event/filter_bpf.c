/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leaves that are pcap expressions: compiled by libpcap and run by its interpreter, which was
 * measured against one of our own and is as fast or faster (10 to 20 ns for usual expressions).
 *
 * Theory of operation. libpcap turns the text into a classic BPF program for raw IP packets (or,
 * for terms about the link layer, for Ethernet frames). The packet that it sees begins with the
 * innermost IP header and ends with the frame. Two records need care, because the same question
 * may have been answered before from the flow's key (filter_key.c), and the answers must agree:
 *
 * - A record without a slot (timers, gaps) has no packet; the key answers.
 * - In an IPv6 packet with extension headers, and in a fragment, the expression does not find the
 *   ports that the flow has. The key is asked first, the packet only when the key does not know.
 *   So "tcp port 443" means the flow's protocol and ports, also behind extension headers.
 *
 * Programs about the link layer read Ethernet headers: they say no to frames of other link types.
 */
#include "event/filter_leaf.h"

#include <pcap/pcap.h>
#include <stdlib.h>
#include <string.h>

enum { SNAPLEN = 262144, MAX_TEXT = 65536, IPV6_FRAGMENT = 44 };

/*
 * nfm__bpf_init compiles |text| for packets, or for frames when |on_frame|, and keeps a copy of the
 * program. Names of hosts and ports in the text are looked up by libpcap, now and not later.
 * Returns NFM_OK, or a negative status with libpcap's words in err.
 */
int nfm__bpf_init(nfm__bpf *bpf, const char *text, bool on_frame, nfm_error *err) {
    struct bpf_program program;
    int rc = NFM_OK;
    if (text == NULL || strnlen(text, MAX_TEXT) == MAX_TEXT)
        return nfm__filter_fail(err, NFM_E_INVAL, "filter: no pcap expression, or one too long");
    pcap_t *pcap = pcap_open_dead(on_frame ? DLT_EN10MB : DLT_RAW, SNAPLEN);
    if (pcap == NULL)
        return nfm__filter_fail(err, NFM_E_NOMEM, "filter: out of memory");
    if (pcap_compile(pcap, &program, text, 1, PCAP_NETMASK_UNKNOWN) != 0) {
        rc = nfm__filter_fail(err, NFM_E_INVAL, "filter \"%.200s\": %s", text, pcap_geterr(pcap));
        pcap_close(pcap);
        return rc;
    }
    size_t size = program.bf_len * sizeof(struct bpf_insn);
    *bpf = (nfm__bpf){malloc(size), program.bf_len, on_frame};
    if (bpf->insns == NULL) {
        rc = nfm__filter_fail(err, NFM_E_NOMEM, "filter: out of memory");
    } else {
        memcpy(bpf->insns, program.bf_insns, size);
        if (!bpf_validate(bpf->insns, (int)bpf->n)) {
            rc = nfm__filter_fail(err, NFM_E_INVAL, "filter \"%.200s\": invalid program", text);
            nfm__bpf_fini(bpf);
        }
    }
    pcap_freecode(&program);
    pcap_close(pcap);
    return rc;
}

/*
 * nfm__bpf_fini releases the program.
 */
void nfm__bpf_fini(nfm__bpf *bpf) {
    free(bpf->insns);
}

/* True when the packet hides from the expression what the flow's key says. */
static bool key_goes_first(const nfm_record *record, const uint8_t *packet, uint32_t len) {
    if (record->flags & NFM_F_FRAGMENT)
        return true;
    if (len < 40 || packet[0] >> 4 != 6)
        return false;
    return packet[6] != record->proto || packet[6] == IPV6_FRAGMENT;
}

static bool run(const nfm__bpf *bpf, const nfm_record *record, const uint8_t *at, uint32_t len) {
    uint32_t wire_len = len;
    if (record->kind != NFM_REC_FLOW && record->wire_len > record->frame_len)
        wire_len += record->wire_len - record->frame_len;
    return bpf_filter(bpf->insns, at, wire_len, len) != 0;
}

/*
 * nfm__bpf_eval runs the program on the packet or frame of one record, or asks the flow's key where
 * the theory of operation says so. Borrows the input. Returns bool.
 */
bool nfm__bpf_eval(const nfm__bpf *bpf, const nfm_filter_input *input) {
    const nfm_record *record = input->record;
    bool has_frame = input->base != NULL && record->frame_len <= NFM_MAX_FRAME;
    uint32_t end = NFM_HEADROOM + record->frame_len, off = record->l3_off;
    if (bpf->on_frame)
        return has_frame && (record->flags & NFM_F_NOT_ETHERNET) == 0 &&
               run(bpf, record, input->base + NFM_HEADROOM, record->frame_len);
    bool has_packet = has_frame && off >= NFM_HEADROOM && off < end;
    if (input->flow != NULL &&
        (!has_packet || key_goes_first(record, input->base + off, end - off))) {
        int truth = nfm__bpf_eval_key(bpf, input->flow, record->side);
        if (truth != NFM_NOT_YET || !has_packet)
            return truth == NFM_YES;
    }
    return has_packet && run(bpf, record, input->base + off, end - off);
}
