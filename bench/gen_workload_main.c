/* SPDX-License-Identifier: Apache-2.0 */
/* nfm-workload NAME OUT.pcap [--packets N] [--seed S]: a workload as a capture (nanosecond pcap),
 * and its truth as one JSON object on standard output and in OUT.pcap.truth.json. */
#include "workload.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINKTYPE_ETHERNET 1
#define FORMAT_NANO 1

static int write_frame(void *to, const uint8_t *frame, uint32_t len, int64_t ts_ns) {
    return nfm_pcap_writer_write(to, frame, len, len, ts_ns);
}

static void print_truth(FILE *out, const char *name, const nfm_workload_truth *t) {
    fprintf(out, "{\"workload\":\"%s\",\"packets\":%" PRIu64 ",\"frame_bytes\":%" PRIu64, name,
            t->packets, t->frame_bytes);
    fprintf(out, ",\"flows\":%" PRIu64 ",\"peak_flows\":%" PRIu64, t->flows, t->peak_flows);
    const struct {
        const char *name;
        const uint64_t *value;
    } pairs[] = {{"side_packets", t->side_packets},
                 {"payload_bytes", t->payload_bytes},
                 {"stream_bytes", t->stream_bytes}};
    for (int i = 0; i < 3; i++)
        fprintf(out, ",\"%s\":[%" PRIu64 ",%" PRIu64 "]", pairs[i].name, pairs[i].value[0],
                pairs[i].value[1]);
    fprintf(out, ",\"flows_fin\":%" PRIu64 ",\"flows_reset\":%" PRIu64, t->flows_fin,
            t->flows_reset);
    fprintf(out, ",\"retransmits\":%" PRIu64 ",\"reordered\":%" PRIu64, t->retransmits,
            t->reordered);
    fprintf(out, ",\"late\":%" PRIu64 ",\"overlaps\":%" PRIu64, t->late, t->overlaps);
    fprintf(out,
            ",\"opening_packets\":%" PRIu64 ",\"start_ns\":%" PRId64 ",\"span_ns\":%" PRId64 "}\n",
            t->opening_packets, t->start_ns, t->span_ns);
}

static int fail(const char *text) {
    fprintf(stderr, "nfm-workload: %s\n", text);
    return 2;
}

static int usage(void) {
    fprintf(stderr, "usage: nfm-workload NAME OUT.pcap [--packets N] [--seed S]\nworkloads:");
    for (const char *const *name = nfm_workload_names(); *name != NULL; name++)
        fprintf(stderr, " %s", *name);
    fprintf(stderr, "\n");
    return 2;
}

static bool known(const char *name) {
    for (const char *const *other = nfm_workload_names(); *other != NULL; other++)
        if (strcmp(name, *other) == 0)
            return true;
    return false;
}

static bool parse(int argc, char **argv, nfm_workload_options *options) {
    for (int i = 3; i < argc; i += 2) {
        uint64_t *value = strcmp(argv[i], "--packets") == 0 ? &options->packets
                          : strcmp(argv[i], "--seed") == 0  ? &options->seed
                                                            : NULL;
        char *end = NULL;
        if (value == NULL || i + 1 == argc)
            return false;
        errno = 0;
        *value = strtoull(argv[i + 1], &end, 10);
        if (errno != 0 || *end != '\0' || end == argv[i + 1])
            return false;
    }
    return argc >= 3 && known(argv[1]);
}

int main(int argc, char **argv) {
    nfm_workload_options options = {0};
    nfm_workload_truth truth;
    nfm_error err = {0}, closing = {0};
    if (!parse(argc, argv, &options))
        return usage();
    nfm_pcap_writer *writer =
        nfm_pcap_writer_open(argv[2], FORMAT_NANO, LINKTYPE_ETHERNET, 0, &err);
    if (writer == NULL)
        return fail(err.text);
    nfm_workload_sink sink = {write_frame, writer};
    int rc = nfm_workload_generate(argv[1], &options, sink, &truth, &err);
    if (nfm_pcap_writer_close(writer, &closing) != NFM_OK)
        return fail(closing.text);
    if (rc != NFM_OK)
        return fail(err.text);
    char path[4096];
    snprintf(path, sizeof(path), "%.4000s.truth.json", argv[2]);
    FILE *json = fopen(path, "w");
    if (json == NULL)
        return fail("cannot write the truth beside the capture");
    print_truth(json, argv[1], &truth);
    print_truth(stdout, argv[1], &truth);
    return fclose(json) == 0 ? 0 : fail("cannot write the truth beside the capture");
}
