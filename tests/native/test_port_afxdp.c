/* SPDX-License-Identifier: Apache-2.0 */
/* The afxdp port on veth, in a network namespace of the test's own; needs root. */
#include "nfm_test.h"
#include "port_fixture.h"

#include "base/region.h"
#include "io/whole.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <sys/socket.h>

enum { SMALL = 2048, LARGE = 4, ROUNDS = 3000000 };

#define MARK "nfm-afxdp-test" /* begins the payload of our frames: the kernel sends some, too */

typedef struct rig {
    nfm_region region; /* the packets begin at a page */
    nfm_pool pool;
    nfm_port *port;
    int peer; /* a packet socket on the other end */
} rig;

static bool run(const char *command) {
    return system(command) == 0;
}

static bool make_veth(void) {
    return run("ip link add nfm0 type veth peer name nfm1 && ip link set nfm0 up && "
               "ip link set nfm1 up");
}

static int open_peer(void) {
    int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETH_P_ALL),
                                  .sll_ifindex = (int)if_nametoindex("nfm1")};
    struct timeval wait = {.tv_sec = 2};
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) != 0)
        abort();
    return fd;
}

/* On a veth that is there. */
static rig begin_on(const nfm_afxdp_config *config) {
    rig r = {.peer = -1};
    nfm_error err = {0};
    size_t size = (size_t)SMALL * NFM_SLOT_SMALL + (size_t)LARGE * NFM_SLOT_LARGE;
    if (nfm_region_init(&r.region, "packets", size, &err) != NFM_OK ||
        nfm_pool_init(&r.pool, r.region.base, SMALL, LARGE) != NFM_OK)
        abort();
    r.port = nfm_port_afxdp_open(config, &err);
    if (r.port == NULL)
        printf("# %s\n", err.text);
    r.peer = open_peer();
    return r;
}

static rig begin(const nfm_afxdp_config *config) {
    if (!make_veth())
        abort();
    return begin_on(config);
}

static void end(rig *r) {
    r->port->ops->detach(r->port, &r->pool);
    CHECK_EQ(r->pool.n_free_small, SMALL);
    nfm_port_free(r->port);
    nfm_pool_fini(&r->pool);
    nfm_region_fini(&r->region);
    close(r->peer);
    (void)run("ip link del nfm0 2>/dev/null");
}

static bool wait_link(rig *r, uint32_t up) {
    for (int i = 0; i < ROUNDS && r->port->stats.link_up != up; i++)
        r->port->ops->poll(r->port, &r->pool);
    if (r->port->stats.link_up != up && r->port->warning[0] != '\0')
        printf("# %s\n", r->port->warning);
    return r->port->stats.link_up == up;
}

static uint32_t fill_frame(uint8_t *frame, uint32_t len, uint32_t seed) {
    memset(frame, 0xff, 6);
    memset(frame + 6, 0x02, 6);
    memcpy(frame + 12, "\x88\xb5", 2); /* IEEE 802 experimental */
    memcpy(frame + 14, MARK, sizeof(MARK));
    for (uint32_t i = 14 + sizeof(MARK); i < len; i++)
        frame[i] = (uint8_t)(seed * 31 + i * 7);
    return len;
}

static bool is_frame(const uint8_t *frame, uint32_t len, uint32_t want_len, uint32_t seed) {
    uint8_t want[2048];
    return len == fill_frame(want, want_len, seed) && memcmp(frame, want, len) == 0;
}

static bool is_ours(const uint8_t *frame, uint32_t len) {
    return len >= 14 + sizeof(MARK) && memcmp(frame + 14, MARK, sizeof(MARK)) == 0;
}

static void send_from_peer(const rig *r, uint32_t len, uint32_t seed) {
    uint8_t frame[2048];
    if (send(r->peer, frame, fill_frame(frame, len, seed), 0) != (ssize_t)len)
        abort();
}

/* The next of our frames from the port; false: none came. */
static bool receive(rig *r, nfm_frame *frame) {
    for (int i = 0; i < ROUNDS; i++) {
        int n = r->port->ops->rx(r->port, &r->pool, frame, 1);
        if (n == 1 && is_ours(nfm_pool_addr(&r->pool, frame->slot) + NFM_HEADROOM, frame->len))
            return true;
        if (n == 1)
            nfm_pool_put(&r->pool, frame->slot);
        else
            r->port->ops->poll(r->port, &r->pool);
    }
    return false;
}

static void expect_at_port(rig *r, uint32_t len, uint32_t seed) {
    nfm_frame frame;
    bool came = receive(r, &frame);
    CHECK(came);
    if (!came)
        return;
    CHECK(is_frame(nfm_pool_addr(&r->pool, frame.slot) + NFM_HEADROOM, frame.len, len, seed));
    CHECK(frame.ts_ns > 0 && frame.link_type == 1 && nfm_is_whole(&r->pool, frame.slot));
    nfm_pool_put(&r->pool, frame.slot);
}

static nfm_tx make_tx(rig *r, uint32_t len, uint32_t seed) {
    nfm_tx tx = {.slot = nfm_pool_get(&r->pool, len), .off = NFM_HEADROOM, .len = len};
    uint8_t *slot = nfm_pool_addr(&r->pool, tx.slot);
    memset(slot, 0, sizeof(nfm_slot_meta));
    fill_frame(slot + NFM_HEADROOM, len, seed);
    return tx;
}

static void expect_at_peer(const rig *r, uint32_t len, uint32_t seed) {
    uint8_t frame[4096];
    ssize_t got;
    do
        got = recv(r->peer, frame, sizeof(frame), 0);
    while (got > 0 && !is_ours(frame, (uint32_t)got));
    CHECK(got > 0 && is_frame(frame, (uint32_t)got, len, seed));
}

static void pass_both_ways(rig *r) {
    for (uint32_t i = 0; i < 3000; i++) {
        send_from_peer(r, 60 + i % 1455, i);
        expect_at_port(r, 60 + i % 1455, i);
        if (nfm_test_failed)
            return;
    }
    for (uint32_t i = 0; i < 3000; i += 10) {
        nfm_tx tx[10];
        for (uint32_t k = 0; k < 10; k++)
            tx[k] = make_tx(r, 60 + (i + k) % 1455, i + k);
        CHECK_EQ(r->port->ops->tx(r->port, &r->pool, tx, 10), 10);
        for (uint32_t k = 0; k < 10; k++)
            expect_at_peer(r, 60 + (i + k) % 1455, i + k);
        if (nfm_test_failed)
            return;
    }
    CHECK_EQ(r->port->stats.rx_missed, 0);
    CHECK_EQ(r->port->stats.tx_packets, 3000);
}

static void frames_pass_in_the_drivers_mode(void) {
    nfm_afxdp_config config = {.interface = "nfm0", .rx_size = 256, .tx_size = 256};
    rig r = begin(&config);
    CHECK(wait_link(&r, 1));
    pass_both_ways(&r);
    end(&r);
}

static void frames_pass_in_generic_mode(void) {
    nfm_afxdp_config config = {.interface = "nfm0", .generic = 1, .copy = NFM_COPY_ALWAYS};
    rig r = begin(&config);
    CHECK(wait_link(&r, 1));
    pass_both_ways(&r);
    end(&r);
}

static void an_interface_that_comes_back_is_used_again(void) {
    nfm_afxdp_config config = {.interface = "nfm0", .rx_size = 256, .tx_size = 256};
    rig r = begin(&config);
    CHECK(wait_link(&r, 1));
    CHECK(run("ip link set nfm1 down") && wait_link(&r, 0));
    nfm_tx tx = make_tx(&r, 100, 1);
    CHECK_EQ(r.port->ops->tx(r.port, &r.pool, &tx, 1), NFM_E_IO);
    CHECK(run("ip link set nfm1 up") && wait_link(&r, 1));
    CHECK(run("ip link del nfm0") && wait_link(&r, 0));
    CHECK_EQ(r.pool.n_free_small, SMALL - 1); /* tx is ours */
    close(r.peer);
    CHECK(make_veth() && wait_link(&r, 1));
    r.peer = open_peer();
    send_from_peer(&r, 200, 3);
    expect_at_port(&r, 200, 3);
    CHECK_EQ(r.port->ops->tx(r.port, &r.pool, &tx, 1), 1);
    expect_at_peer(&r, 100, 1);
    CHECK_EQ(r.port->stats.link_changes, 5);
    end(&r);
}

/* Another worker's port on the same interface; its pool is its own. */
static nfm_port *open_queue(const char *interface, uint32_t queue) {
    nfm_error err = {0};
    nfm_afxdp_config config = {.interface = interface, .queue = queue};
    nfm_port *port = nfm_port_afxdp_open(&config, &err);
    if (port == NULL)
        printf("# %s\n", err.text);
    return port;
}

static void queues_share_the_program_and_outlive_each_other(void) {
    CHECK(run("ip link add nfm0 numrxqueues 2 numtxqueues 2 type veth peer name nfm1 "
              "numrxqueues 1 numtxqueues 1 && ip link set nfm0 up && ip link set nfm1 up"));
    nfm_port *first = open_queue("nfm0", 1);
    CHECK(first != NULL);
    nfm_afxdp_config config = {.interface = "nfm0"};
    rig r = begin_on(&config); /* the other end sends all to queue 0 */
    CHECK(r.port != NULL && wait_link(&r, 1));
    send_from_peer(&r, 100, 1);
    expect_at_port(&r, 100, 1);
    nfm_port_free(first); /* made the program: it stays as long as anybody needs it */
    send_from_peer(&r, 101, 2);
    expect_at_port(&r, 101, 2);
    end(&r);
}

static void the_last_port_takes_the_program_off(void) {
    nfm_afxdp_config config = {.interface = "nfm0"};
    rig r = begin(&config);
    CHECK(wait_link(&r, 1));
    CHECK(run("ip link show nfm0 | grep -q xdp"));
    r.port->ops->detach(r.port, &r.pool);
    CHECK(!run("ip link show nfm0 | grep -q xdp"));
    end(&r);
}

static void a_received_slot_is_sent_from_where_it_lies(void) {
    nfm_afxdp_config config = {.interface = "nfm0"};
    rig r = begin(&config);
    CHECK(wait_link(&r, 1));
    send_from_peer(&r, 333, 8);
    nfm_frame frame;
    CHECK(receive(&r, &frame));
    nfm_pool_hold(&r.pool, frame.slot); /* an observer reads it meanwhile */
    nfm_tx tx[2] = {{.slot = frame.slot, .off = NFM_HEADROOM, .len = frame.len}};
    tx[1] = tx[0];
    nfm_pool_hold(&r.pool, frame.slot);
    CHECK_EQ(r.port->ops->tx(r.port, &r.pool, tx, 2), 2);
    expect_at_peer(&r, 333, 8);
    expect_at_peer(&r, 333, 8);
    for (int i = 0; i < ROUNDS && r.pool.refs[frame.slot] > 1; i++)
        r.port->ops->poll(r.port, &r.pool);
    CHECK_EQ(r.pool.refs[frame.slot], 1);
    nfm_pool_put(&r.pool, frame.slot);
    end(&r);
}

static void what_cannot_be_sent_is_counted(void) {
    nfm_afxdp_config config = {.interface = "nfm0", .rx_size = 64, .tx_size = 64};
    rig r = begin(&config);
    CHECK(wait_link(&r, 1));
    nfm_tx tx = make_tx(&r, 1600, 1);
    CHECK_EQ(r.port->ops->tx(r.port, &r.pool, &tx, 1), 1);
    CHECK_EQ(r.port->stats.tx_oversize, 1);
    tx = make_tx(&r, 100, 1);
    nfm_slot_meta_at(nfm_pool_addr(&r.pool, tx.slot))->gso_type = 77;
    CHECK_EQ(r.port->ops->tx(r.port, &r.pool, &tx, 1), 1);
    CHECK_EQ(r.port->stats.tx_errors, 1);
    CHECK_EQ(r.port->stats.tx_packets, 0);
    end(&r);
}

static void errors_say_what_to_do(void) {
    nfm_error err = {0};
    nfm_afxdp_config config = {.interface = "nosuch0"};
    CHECK(nfm_port_afxdp_open(&config, &err) == NULL);
    CHECK(strstr(err.text, "nosuch0") != NULL && strstr(err.text, "ip link") != NULL);
    config = (nfm_afxdp_config){.interface = "lo", .rx_size = 100};
    CHECK(nfm_port_afxdp_open(&config, &err) == NULL && strstr(err.text, "powers of two") != NULL);
    config = (nfm_afxdp_config){.interface = "nfm0", .queue = 17};
    rig r = begin(&config);
    CHECK(!wait_link(&r, 1));
    CHECK(strstr(r.port->warning, "queue 17") != NULL);
    end(&r);
}

static const nfm_test tests[] = {
    T(frames_pass_in_the_drivers_mode),
    T(frames_pass_in_generic_mode),
    T(an_interface_that_comes_back_is_used_again),
    T(queues_share_the_program_and_outlive_each_other),
    T(the_last_port_takes_the_program_off),
    T(a_received_slot_is_sent_from_where_it_lies),
    T(what_cannot_be_sent_is_counted),
    T(errors_say_what_to_do),
};

/* Why this machine cannot run the tests; NULL: it can. */
static const char *missing(nfm_error *err) {
    nfm_afxdp_config config = {.interface = "nfm0"};
    if (unshare(CLONE_NEWNET) != 0 || !make_veth())
        return "no right to make a network namespace with veth";
    nfm_port *port = nfm_port_afxdp_open(&config, err);
    nfm_port_free(port);
    (void)run("ip link del nfm0");
    return port == NULL ? err->text : NULL;
}

int main(int argc, char **argv) {
    nfm_error err = {0};
    const char *why = missing(&err);
    if (why != NULL) {
        printf("ok # skip: %s\n0 passed, 0 failed\n", why);
        return 0;
    }
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
