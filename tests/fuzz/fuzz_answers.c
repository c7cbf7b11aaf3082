/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever a module's process leaves in its answer ring, the worker's side reads inside of it,
 * stays behind what is published, and comes to an end. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/answers.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int make_object(void) {
    nfm_object_info info;
    nfm_error err;
    if (nfm_object_create("fuzz", nfm_answers_object_size(NFM_ANSWERS_MIN), &info, &err) != NFM_OK)
        abort();
    return info.fd;
}

/* The first 16 bytes say where reading begins and what is published. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nfm_answers worker;
    nfm_answer answer;
    nfm_error err;
    const uint8_t *fields;
    uint64_t at, head;
    if (size < 16)
        return 0;
    int fd = make_object();
    if (nfm_answers_open(&worker, fd, false, &err) != NFM_OK)
        abort();
    memcpy(&at, data, 8);
    memcpy(&head, data + 8, 8);
    worker.at = at &= (UINT64_C(1) << 60) - 8; /* positions never wrap */
    for (size_t i = 16; i < size; i++)
        worker.shared->data[(at + i - 16) & (worker.capacity - 1)] = data[i];
    atomic_store(&worker.shared->head, head % 4 == 0 ? head : at + (size - 16) / 8 * 8);
    uint64_t published = atomic_load(&worker.shared->head), before = worker.at;
    int found;
    while ((found = nfm_answers_peek(&worker, &answer, &fields)) == 1) {
        const uint8_t *end = worker.shared->data + worker.capacity;
        if (fields < worker.shared->data || answer.fields_len > (size_t)(end - fields))
            abort();
        nfm_answers_take(&worker, &answer);
        if (worker.at <= before || published - worker.at > worker.capacity)
            abort();
        before = worker.at;
    }
    if (found != 0 && found != NFM_E_FORMAT)
        abort();
    nfm_answers_close(&worker);
    close(fd);
    return 0;
}
