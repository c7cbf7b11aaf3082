/* SPDX-License-Identifier: Apache-2.0 */
#include "base/attach.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct nfm_attachment {
    nfm_mem mem;
    nfm_region regions[NFM_OBJ_COUNT];
};

void nfm_header_write(nfm_header *header, uint32_t worker, const nfm_mem *mem) {
    header->magic = 0;
    *header = (nfm_header){
        .abi = NFM_ABI_VERSION,
        .worker = worker,
        .record_size = NFM_RECORD_SIZE,
        .flow_info_size = NFM_FLOW_INFO_SIZE,
        .desc_size = NFM_DESC_SIZE,
        .slot_small = NFM_SLOT_SMALL,
        .slot_large = NFM_SLOT_LARGE,
        .n_small = mem->n_small,
        .n_slots = mem->n_slots,
        .n_records = mem->n_records,
        .n_flows = mem->n_flows,
        .fields_size = mem->fields_size,
    };
    header->magic = NFM_HEADER_MAGIC;
}

void nfm_header_sizes(const nfm_mem *mem, uint64_t *sizes) {
    sizes[NFM_OBJ_HEADER] = sizeof(nfm_header);
    sizes[NFM_OBJ_PACKETS] = (uint64_t)mem->n_small * NFM_SLOT_SMALL +
                             (uint64_t)(mem->n_slots - mem->n_small) * NFM_SLOT_LARGE;
    sizes[NFM_OBJ_RECORDS] = (uint64_t)mem->n_records * NFM_RECORD_SIZE;
    sizes[NFM_OBJ_FIELDS] = mem->fields_size;
    sizes[NFM_OBJ_FLOWS] = (uint64_t)mem->n_flows * NFM_FLOW_INFO_SIZE;
}

static int refuse(nfm_error *err, int code, const char *text) {
    err->code = code;
    snprintf(err->text, sizeof(err->text), "attach: %s", text);
    return code;
}

static int check_header(const nfm_header *h, nfm_error *err) {
    if (h->magic != NFM_HEADER_MAGIC)
        return refuse(err, NFM_E_FORMAT, "no worker has laid out this memory yet");
    if (h->abi != NFM_ABI_VERSION) {
        snprintf(
            err->text, sizeof(err->text),
            "attach: the worker has ABI %u, this library has ABI %u: run one version of nfmesh",
            h->abi, NFM_ABI_VERSION);
        return err->code = NFM_E_ABI;
    }
    if (h->record_size != NFM_RECORD_SIZE || h->flow_info_size != NFM_FLOW_INFO_SIZE ||
        h->desc_size != NFM_DESC_SIZE || h->slot_small != NFM_SLOT_SMALL ||
        h->slot_large != NFM_SLOT_LARGE || h->n_small > h->n_slots)
        return refuse(err, NFM_E_ABI, "the worker's layout differs from this library's");
    return NFM_OK;
}

static int map_all(nfm_attachment *a, const int32_t *fds, nfm_error *err) {
    nfm_region *header = &a->regions[NFM_OBJ_HEADER];
    uint64_t sizes[NFM_OBJ_COUNT];
    int rc = nfm_region_adopt(header, fds[NFM_OBJ_HEADER], sizeof(nfm_header), false, err);
    if (rc == NFM_OK)
        rc = check_header((const nfm_header *)(const void *)header->base, err);
    if (rc != NFM_OK)
        return rc;
    const nfm_header *h = (const nfm_header *)(const void *)header->base;
    a->mem = (nfm_mem){.n_small = h->n_small,
                       .n_slots = h->n_slots,
                       .n_records = h->n_records,
                       .n_flows = h->n_flows,
                       .fields_size = h->fields_size};
    nfm_header_sizes(&a->mem, sizes);
    for (int i = NFM_OBJ_PACKETS; rc == NFM_OK && i < NFM_OBJ_COUNT; i++)
        rc = nfm_region_adopt(&a->regions[i], fds[i], sizes[i], false, err);
    a->mem.packets = a->regions[NFM_OBJ_PACKETS].base;
    a->mem.records = (const nfm_record *)(const void *)a->regions[NFM_OBJ_RECORDS].base;
    a->mem.fields = a->regions[NFM_OBJ_FIELDS].base;
    a->mem.flows = (const nfm_flow_info *)(const void *)a->regions[NFM_OBJ_FLOWS].base;
    return rc;
}

nfm_attachment *nfm_attach(const int32_t *fds, nfm_error *err) {
    nfm_attachment *a = calloc(1, sizeof(*a));
    if (a != NULL && map_all(a, fds, err) == NFM_OK)
        return a;
    if (a == NULL)
        (void)refuse(err, NFM_E_NOMEM, nfm_strerror(NFM_E_NOMEM));
    nfm_attachment_free(a);
    return NULL;
}

const nfm_mem *nfm_attachment_mem(const nfm_attachment *a) {
    return &a->mem;
}

void nfm_attachment_free(nfm_attachment *a) {
    for (int i = 0; a != NULL && i < NFM_OBJ_COUNT; i++)
        nfm_region_fini(&a->regions[i]);
    free(a);
}
