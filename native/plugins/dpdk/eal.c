/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DPDK's environment: once per process, never ended (EAL cannot be begun again after it ended).
 * EAL pins the thread that starts it and starts a thread per core it is given; a worker is pinned
 * by its supervisor and needs no other, so it is given the one core that the thread runs on.
 */
#include "eal.h"

#include "io/fail.h"

#include <errno.h>
#include <pthread.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_memzone.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WORDS = 64, MAX_TEXT = 4096 };

#define MARK "nfm_eal" /* a memzone that says that EAL has begun here */
#define DEFAULT_ARGS "--in-memory --no-telemetry --log-level=warning"

static const char *remedy(int errnum) {
    switch (errnum) {
    case EACCES:
    case EPERM:
        return "run as root or with access to huge pages and /dev/vfio, or add --no-huge for "
               "virtual devices";
    case EINVAL:
        return "see what EAL said above about its arguments; without huge pages add --no-huge, "
               "or reserve some (echo 512 > /proc/sys/vm/nr_hugepages)";
    case ENOMEM:
    case ENODEV:
        return "reserve huge pages (echo 512 > /proc/sys/vm/nr_hugepages) or add --no-huge -m 64";
    case EPROTO:
        return "there is no PCI bus here: add --no-pci";
    default:
        return "see what EAL said above";
    }
}

static bool chooses_cores(char **words, int n) {
    for (int i = 1; i < n; i++)
        if (strncmp(words[i], "-l", 2) == 0 || strncmp(words[i], "-c", 2) == 0 ||
            strncmp(words[i], "--lcores", 8) == 0)
            return true;
    return false;
}

/* Splits |text| at blanks, in place. Returns how many words there are with the program's name, or
 * -1: too many. */
static int split(char *text, char **words) {
    int n = 0;
    char *rest = NULL;
    static const char name[] = "nfmesh";
    words[n++] = (char *)(uintptr_t)name;
    for (char *word = strtok_r(text, " \t\n", &rest); word != NULL;
         word = strtok_r(NULL, " \t\n", &rest)) {
        if (n == MAX_WORDS)
            return -1;
        words[n++] = word;
    }
    return n;
}

int eal_begin(const char *args, nfm_error *err) {
    char text[MAX_TEXT], cores[32], *words[MAX_WORDS + 2] = {NULL};
    cpu_set_t before;
    /* No core: nobody has begun. Memory cannot be asked for anything then. */
    if (rte_lcore_count() > 0 && rte_memzone_lookup(MARK) != NULL)
        return NFM_OK;
    if (args == NULL)
        args = DEFAULT_ARGS;
    if (strlen(args) >= sizeof(text))
        return nfm_io_fail(err, NFM_E_INVAL, "dpdk: EAL arguments are longer than %d bytes",
                           MAX_TEXT - 1);
    strcpy(text, args);
    int n = split(text, words);
    if (n < 0)
        return nfm_io_fail(err, NFM_E_INVAL, "dpdk: more than %d EAL arguments", MAX_WORDS - 1);
    if (!chooses_cores(words, n)) {
        snprintf(cores, sizeof(cores), "--lcores=0@%d", sched_getcpu());
        words[n++] = cores;
    }
    bool known = pthread_getaffinity_np(pthread_self(), sizeof(before), &before) == 0;
    rte_errno = 0;
    int rc = rte_eal_init(n, words);
    int why = rte_errno;
    if (known)
        pthread_setaffinity_np(pthread_self(), sizeof(before), &before);
    if (rc >= 0 && rte_memzone_reserve(MARK, 1, SOCKET_ID_ANY, 0) != NULL)
        return NFM_OK;
    if (why == EALREADY)
        return nfm_io_fail(err, NFM_E_STATE,
                           "dpdk: EAL failed before in this process, and starts only once in each");
    return nfm_io_fail(err, NFM_E_IO, "dpdk: EAL does not start with \"%.200s\": %s; %s", args,
                       rte_strerror(why), remedy(why));
}
