/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * One program serves all queues: it looks its queue up in a map of sockets. It hangs on the
 * interface by a BPF link, which the kernel takes off when the last descriptor of it is closed: a
 * worker that is killed leaves nothing behind. Workers of other processes that open further queues
 * find program, map and link through the kernel's ids, and hold the link too.
 */
#include "redirect.h"

#include "io/fail.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MAX_QUEUES = 256, MAX_MAPS = 4 };

#define NAME "nfm_xsk"

static int load_program(int map) {
    const struct bpf_insn program[] = {
        /* r2 = context->rx_queue_index */
        {.code = BPF_LDX | BPF_MEM | BPF_W,
         .dst_reg = BPF_REG_2,
         .src_reg = BPF_REG_1,
         .off = offsetof(struct xdp_md, rx_queue_index)},
        /* r1 = map */
        {.code = BPF_LD | BPF_DW | BPF_IMM,
         .dst_reg = BPF_REG_1,
         .src_reg = BPF_PSEUDO_MAP_FD,
         .imm = map},
        {0},
        /* r3 = what to do when the map has no socket for the queue */
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_3, .imm = XDP_PASS},
        {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect_map},
        {.code = BPF_JMP | BPF_EXIT},
    };
    return bpf_prog_load(BPF_PROG_TYPE_XDP, NAME, "Apache-2.0", program,
                         sizeof(program) / sizeof(program[0]), NULL);
}

static int attach(int program, int index, uint32_t mode) {
    LIBBPF_OPTS(bpf_link_create_opts, options, .flags = mode);
    return bpf_link_create(program, index, BPF_XDP, &options);
}

/* Makes map and program and hangs it on the interface. Returns 0 or a negative errno. */
static int begin(redirect *self, int index, bool generic) {
    self->map = bpf_map_create(BPF_MAP_TYPE_XSKMAP, NAME, sizeof(uint32_t), sizeof(int32_t),
                               MAX_QUEUES, NULL);
    if (self->map < 0)
        return -errno;
    int program = load_program(self->map);
    if (program < 0)
        return -errno;
    self->link = generic ? -EOPNOTSUPP : attach(program, index, XDP_FLAGS_DRV_MODE);
    if (self->link < 0 && (generic || errno == EOPNOTSUPP || errno == EINVAL))
        self->link = attach(program, index, XDP_FLAGS_SKB_MODE);
    int rc = self->link < 0 ? -errno : 0;
    close(program);
    return rc;
}

/* The link by which program |id| hangs on the interface. */
static int find_link(int index, uint32_t id) {
    for (uint32_t at = 0; bpf_link_get_next_id(at, &at) == 0;) {
        struct bpf_link_info info = {0};
        uint32_t size = sizeof(info);
        int link = bpf_link_get_fd_by_id(at);
        if (link >= 0 && bpf_obj_get_info_by_fd(link, &info, &size) == 0 &&
            info.type == BPF_LINK_TYPE_XDP && info.xdp.ifindex == (uint32_t)index &&
            info.prog_id == id)
            return link;
        if (link >= 0)
            close(link);
    }
    return -1;
}

/* Joins the program that is on the interface when it is one of ours. Returns 0 or a negative errno.
 */
static int join(redirect *self, int index) {
    uint32_t id = 0, maps[MAX_MAPS] = {0};
    if (bpf_xdp_query_id(index, 0, &id) != 0 || id == 0)
        return -ENOENT;
    int program = bpf_prog_get_fd_by_id(id);
    if (program < 0)
        return -errno;
    struct bpf_prog_info info = {.nr_map_ids = MAX_MAPS, .map_ids = (uintptr_t)maps};
    uint32_t size = sizeof(info);
    int rc = bpf_obj_get_info_by_fd(program, &info, &size);
    close(program);
    if (rc != 0 || strcmp(info.name, NAME) != 0 || info.nr_map_ids != 1)
        return -EBUSY;
    self->link = find_link(index, id);
    self->map = bpf_map_get_fd_by_id(maps[0]);
    return self->link >= 0 && self->map >= 0 ? 0 : -EBUSY;
}

static const char *remedy(int errnum) {
    switch (errnum) {
    case EPERM:
    case EACCES:
        return "it takes CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF (CAP_SYS_ADMIN to join the queues "
               "of another worker): run as root";
    case EBUSY:
    case EEXIST:
        return "another XDP program is on it: take it off (ip link set dev NAME xdp off)";
    case EOPNOTSUPP:
        return "neither its driver nor this kernel has XDP";
    case EINVAL:
    case ERANGE:
        return "lower its MTU and turn off its receive offloads (ethtool -K NAME lro off)";
    default:
        return "dmesg may say more";
    }
}

int redirect_open(redirect *self, int index, bool generic, nfm_error *err) {
    libbpf_set_print(NULL); /* the kernel's refusals are told by errno */
    *self = (redirect){.link = -1, .map = -1};
    int rc = begin(self, index, generic);
    if (rc == -EBUSY || rc == -EEXIST) {
        redirect_close(self);
        rc = join(self, index);
    }
    if (rc == 0)
        return NFM_OK;
    redirect_close(self);
    return nfm_io_fail(err, NFM_E_IO, "afxdp: no XDP program on interface %d: %s; %s", index,
                       strerror(-rc), remedy(-rc));
}

void redirect_close(redirect *self) {
    if (self->link >= 0)
        close(self->link);
    if (self->map >= 0)
        close(self->map);
    *self = (redirect){.link = -1, .map = -1};
}

int redirect_queue(const redirect *self, uint32_t queue, int socket) {
    return bpf_map_update_elem(self->map, &queue, &socket, BPF_ANY) == 0 ? 0 : -errno;
}
