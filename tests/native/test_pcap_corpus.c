/* SPDX-License-Identifier: Apache-2.0 */
/* The capture reader against libpcap's over a directory of captures, whole and damaged ones: the
 * same packets with the same bytes, lengths and times up to where libpcap gives up. The directory
 * is NFMESH_CORPUS, or ../shared/corpus; without one the test says so and has nothing to compare.
 *
 * Differences that are meant: libpcap delivers frames larger than a slot, shows 32-bit seconds and
 * fractions as signed numbers, gives simple packet blocks the time 0 and cuts packets that are
 * longer than the file's own snap length, and it gives up at a pcapng interface whose link type or
 * snap length differs from the first one's. */
#include "io/pcap_file.h"
#include "nfm_test.h"

#include <dirent.h>
#include <pcap/pcap.h>
#include <sys/stat.h>

typedef struct tally {
    unsigned files, packets, given_up;
} tally;

static bool same(const nfm_captured *ours, const struct pcap_pkthdr *head, const u_char *data) {
    int64_t ts = (int64_t)head->ts.tv_sec * 1000000000 + head->ts.tv_usec;
    bool comparable = head->ts.tv_sec > 0 && head->ts.tv_usec >= 0;
    bool cut = ours->len > head->caplen; /* by the file's snap length */
    return ours->len >= head->caplen && memcmp(ours->data, data, head->caplen) == 0 &&
           (cut || ours->wire_len == (head->len > ours->len ? head->len : ours->len)) &&
           (!comparable || ours->ts_ns == ts);
}

static void compare_packets(nfm_pcap_file *file, pcap_t *theirs, tally *sum) {
    nfm_captured ours;
    struct pcap_pkthdr *head;
    const u_char *data;
    unsigned n = 0, oversize = 0;
    int got;
    while ((got = pcap_next_ex(theirs, &head, &data)) == 1) {
        n++;
        if (head->caplen > NFM_MAX_FRAME) {
            oversize++;
            continue;
        }
        if (nfm_pcap_file_next(file, &ours) != 1 || !same(&ours, head, data)) {
            printf("# %s: packet %u differs\n", file->name, n);
            CHECK(false);
            return;
        }
    }
    bool more = nfm_pcap_file_next(file, &ours) == 1;
    CHECK(!more || got == PCAP_ERROR);
    CHECK(more || file->warning[0] == '\0' || got == PCAP_ERROR);
    CHECK(file->oversize >= oversize);
    sum->packets += n;
    sum->given_up += got == PCAP_ERROR;
}

static void compare(const char *path, tally *sum) {
    char text[PCAP_ERRBUF_SIZE];
    nfm_error err = {0};
    nfm_pcap_file file;
    pcap_t *theirs =
        pcap_open_offline_with_tstamp_precision(path, PCAP_TSTAMP_PRECISION_NANO, text);
    int rc = nfm_pcap_file_open(&file, path, &err);
    if (theirs != NULL && rc != NFM_OK) {
        printf("# only libpcap opens it: %s\n", err.text);
        CHECK(false);
    }
    if (theirs != NULL && rc == NFM_OK)
        compare_packets(&file, theirs, sum);
    if (rc == NFM_OK)
        nfm_pcap_file_close(&file);
    if (theirs != NULL)
        pcap_close(theirs);
    sum->files++;
}

static void walk(const char *dir, tally *sum) {
    DIR *d = opendir(dir);
    if (d == NULL)
        return;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char path[1024];
        struct stat st;
        snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        if (e->d_name[0] == '.' || stat(path, &st) != 0)
            continue;
        if (S_ISDIR(st.st_mode))
            walk(path, sum);
        else if (strstr(e->d_name, ".pcap") != NULL)
            compare(path, sum);
    }
    closedir(d);
}

static void reads_what_libpcap_reads(void) {
    const char *dir = getenv("NFMESH_CORPUS");
    struct stat st;
    if (dir == NULL)
        dir = "../shared/corpus";
    if (stat(dir, &st) != 0) {
        printf("# skipped: no captures at %s (set NFMESH_CORPUS)\n", dir);
        return;
    }
    tally sum = {0};
    walk(dir, &sum);
    printf("# %u files, %u packets compared, libpcap gave up in %u files\n", sum.files, sum.packets,
           sum.given_up);
    CHECK(sum.packets > 0);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {T(reads_what_libpcap_reads)};
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
