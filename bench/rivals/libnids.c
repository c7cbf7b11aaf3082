/* SPDX-License-Identifier: Apache-2.0 */
/* libnids from memory, checksums off. Its library keeps all state in globals, so one run a process.
 * Without reassembly a stream asks for urgent data only: libnids drops a stream that asks for
 * nothing, and then does not say when it ends. */
#include "rival.h"

#include <nids.h>
#include <pcap/pcap.h>
#include <stdio.h>

static rival_run *running; /* libnids' callbacks carry no argument of ours */

static void silent(int type, int err, struct ip *header, void *data) {
    (void)type;
    (void)err;
    (void)header;
    (void)data;
}

static void on_tcp(struct tcp_stream *stream, void **state) {
    (void)state;
    switch (stream->nids_state) {
    case NIDS_JUST_EST:
        running->flows++;
        if (running->reassemble)
            stream->client.collect = stream->server.collect = 1;
        else
            stream->client.collect_urg = stream->server.collect_urg = 1;
        break;
    case NIDS_DATA:
        /* A half's count is of the bytes that it receives. */
        running->bytes += (uint64_t)stream->client.count_new + (uint64_t)stream->server.count_new;
        break;
    case NIDS_CLOSE:
    case NIDS_RESET:
    case NIDS_TIMED_OUT:
        running->closed++;
        break;
    default:
        break;
    }
}

static int start(rival_run *run) {
    static struct nids_chksum_ctl no_checksums = {.action = NIDS_DONT_CHKSUM};
    running = run;
    nids_params.pcap_desc = pcap_open_dead(DLT_EN10MB, 65535);
    nids_params.pcap_filter = NULL;
    nids_params.scan_num_hosts = 0;
    nids_params.syslog = silent;
    /* It follows three quarters of this; streams linger, so twice the peak. */
    nids_params.n_tcp_streams = (int)(run->truth.peak_flows * 2 + 4096);
    if (!nids_init()) {
        fprintf(stderr, "libnids: %s\n", nids_errbuf);
        return -1;
    }
    nids_register_chksum_ctl(&no_checksums, 1);
    nids_register_tcp((void *)on_tcp);
    return 0;
}

static void feed(rival_run *run, uint64_t from, uint64_t to) {
    for (uint64_t i = from; i < to; i++) {
        const rival_frame *frame = &run->frames[i];
        struct pcap_pkthdr head = {
            .ts = {.tv_sec = frame->ts_ns / 1000000000, .tv_usec = frame->ts_ns / 1000 % 1000000},
            .caplen = frame->len,
            .len = frame->len};
        nids_pcap_handler(NULL, &head, frame->data);
    }
}

static void finish(rival_run *run) {
    (void)run;
}

const rival_driver rival = {.name = "libnids", .start = start, .feed = feed, .finish = finish};
