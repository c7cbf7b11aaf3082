/* SPDX-License-Identifier: Apache-2.0 */
/* Impaired links: the same frames meet the same fate; every slot is accounted for. */
#include "fake_port.h"
#include "nfm_test.h"

enum { SMALL = 8192, FRAMES = 20000, MS = 1000000 };

typedef struct outcome {
    uint32_t n;
    uint32_t numbers[2 * FRAMES];
    int64_t ts[2 * FRAMES];
    uint32_t damaged;
} outcome;

/* A recording of numbered frames, |gap_ns| apart. */
static nfm_port *recording(uint32_t n, int64_t gap_ns) {
    nfm_port *port = nfm_port_mem_new(1, NULL);
    uint8_t data[FAKE_LEN];
    for (uint32_t i = 0; i < n; i++) {
        fake_bytes(data, i);
        nfm_port_mem_push(port, data, sizeof(data), sizeof(data), SECOND + i * gap_ns);
    }
    return port;
}

static void collect(const bench *b, const nfm_frame *frame, outcome *o) {
    uint32_t at = o->n < 2 * FRAMES ? o->n++ : 0;
    o->damaged += !fake_is_whole(frame_at(b, frame), &o->numbers[at]);
    o->ts[at] = frame->ts_ns;
}

/* Reads everything through |config|, up to |burst| frames at a time. */
static nfm_impair_stats read_all(const nfm_impair_config *config, int64_t gap_ns, uint32_t burst,
                                 outcome *o) {
    bench b = setup(SMALL, 0);
    nfm_port *port = nfm_port_impair_new(recording(FRAMES, gap_ns), config, NULL);
    nfm_frame frames[NFM_BURST];
    nfm_impair_stats stats = {0};
    o->n = o->damaged = 0;
    for (int n; (n = port->ops->rx(port, &b.pool, frames, burst)) != NFM_E_EOF;)
        for (int i = 0; i < n; i++) {
            collect(&b, &frames[i], o);
            nfm_pool_put(&b.pool, frames[i].slot);
        }
    CHECK_EQ(nfm_port_impair_stats(port, NFM_DIR_RX, &stats), NFM_OK);
    CHECK_EQ(b.pool.n_free_small, SMALL);
    CHECK_EQ(stats.seen, FRAMES);
    CHECK_EQ(o->n, FRAMES - stats.dropped - stats.overflow + stats.duplicated);
    port->ops->detach(port, &b.pool);
    nfm_port_free(port);
    teardown(&b);
    return stats;
}

static bool is_near(uint64_t count, double share) {
    double want = share * FRAMES, slack = 0.1 * want + 30;
    return (double)count > want - slack && (double)count < want + slack;
}

static void no_impairment_changes_nothing(void) {
    static outcome o;
    nfm_impair_config config = {.seed = 1};
    (void)read_all(&config, 1000, 32, &o);
    for (uint32_t i = 0; i < o.n; i++) {
        CHECK_EQ(o.numbers[i], i);
        CHECK_EQ(o.ts[i], SECOND + (int64_t)i * 1000);
    }
    CHECK_EQ(o.damaged, 0);
}

static void shares_are_kept_and_the_seed_decides(void) {
    static outcome first, again, other;
    nfm_impair_config config = {.seed = 7,
                                .drop = 0.1,
                                .duplicate = 0.05,
                                .corrupt = 0.02,
                                .reorder = 0.03,
                                .delay = 0.2,
                                .delay_ns = 5 * MS,
                                .jitter_ns = 3 * MS,
                                .reorder_gap = 4};
    nfm_impair_stats stats = read_all(&config, 100000, 32, &first);
    CHECK(is_near(stats.dropped, 0.1));
    CHECK(is_near(stats.duplicated, 0.9 * 0.05));
    CHECK(is_near(stats.corrupted, 0.9 * 0.02));
    CHECK(is_near(stats.reordered, 0.9 * 0.03));
    CHECK(is_near(stats.delayed, 0.9 * 0.2));
    CHECK(stats.overflow == 0 && first.damaged >= stats.corrupted);
    (void)read_all(&config, 100000, 7, &again); /* how much is read at a time does not matter */
    CHECK_EQ(again.n, first.n);
    CHECK(memcmp(again.numbers, first.numbers, first.n * sizeof(uint32_t)) == 0);
    CHECK(memcmp(again.ts, first.ts, first.n * sizeof(int64_t)) == 0);
    config.seed = 8;
    (void)read_all(&config, 100000, 32, &other);
    CHECK(other.n != first.n ||
          memcmp(other.numbers, first.numbers, first.n * sizeof(uint32_t)) != 0);
}

static void a_draw_does_not_depend_on_other_shares(void) {
    static outcome a, b;
    nfm_impair_config config = {.seed = 3, .drop = 0.1};
    (void)read_all(&config, 1000, 32, &a);
    config.corrupt = 0.5;
    (void)read_all(&config, 1000, 32, &b);
    CHECK_EQ(a.n, b.n);
}

static void reordered_frames_let_others_pass(void) {
    static outcome o;
    nfm_impair_config config = {.seed = 5, .reorder = 0.01, .reorder_gap = 3, .reorder_ns = SECOND};
    nfm_impair_stats stats = read_all(&config, 1000, 32, &o);
    uint32_t late = 0;
    for (uint32_t i = 0; i < o.n; i++) {
        late += i > 0 && o.numbers[i] < o.numbers[i - 1];
        CHECK(o.numbers[i] <= i + stats.reordered && o.numbers[i] + 3 >= i);
    }
    CHECK(late > stats.reordered * 9 / 10 && late <= stats.reordered);
}

static void delayed_frames_arrive_later_and_in_order_of_time(void) {
    static outcome o;
    nfm_impair_config config = {.seed = 5, .delay = 1, .delay_ns = 3 * MS};
    (void)read_all(&config, MS, 32, &o);
    for (uint32_t i = 0; i < o.n; i++) {
        CHECK_EQ(o.numbers[i], i);
        CHECK_EQ(o.ts[i], SECOND + ((int64_t)i + 3) * MS);
    }
}

static void a_slow_link_queues_and_then_loses(void) {
    static outcome o;
    /* 64 bytes in 1 ms at 512 kbit/s; they come every 0.5 ms. */
    nfm_impair_config config = {.seed = 1, .rate_bps = 512000, .queue = 100};
    nfm_impair_stats stats = read_all(&config, MS / 2, 1, &o);
    CHECK(stats.overflow > FRAMES / 2 - 200 && stats.overflow < FRAMES / 2);
    for (uint32_t i = 1; i < o.n; i++)
        CHECK(o.ts[i] - o.ts[i - 1] == MS);
}

static fake_port *live(void) {
    fake_port *fake = calloc(1, sizeof(*fake));
    fake->port.ops = &fake_live_ops;
    fake->room = UINT32_MAX;
    return fake;
}

static void sent_frames_are_impaired_too(void) {
    bench b = setup(SMALL, 0);
    fake_port *fake = live();
    nfm_impair_config config = {.seed = 2, .drop = 0.2, .corrupt = 0.1, .direction = NFM_DIR_TX};
    nfm_port *port = nfm_port_impair_new(&fake->port, &config, NULL);
    nfm_tx watched = fake_frame(&b, 0);
    for (uint32_t i = 0; i < 2000; i++) {
        nfm_tx tx = fake_frame(&b, i);
        nfm_pool_hold(&b.pool, tx.slot); /* an observer: what it reads stays as it is */
        CHECK_EQ(port->ops->tx(port, &b.pool, &tx, 1), 1);
        uint32_t number;
        CHECK(fake_is_whole(nfm_pool_addr(&b.pool, tx.slot) + NFM_HEADROOM, &number) &&
              number == i);
        nfm_pool_put(&b.pool, tx.slot);
    }
    nfm_impair_stats stats;
    CHECK_EQ(nfm_port_impair_stats(port, NFM_DIR_TX, &stats), NFM_OK);
    CHECK_EQ(fake->n_sent, 2000 - stats.dropped);
    CHECK_EQ(fake->damaged, stats.corrupted);
    CHECK(stats.dropped > 300 && stats.corrupted > 100);
    nfm_frame frames[4];
    fake->left = 3;
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 4), 3); /* the other way is as it was */
    for (int i = 0; i < 3; i++)
        nfm_pool_put(&b.pool, frames[i].slot);
    nfm_pool_put(&b.pool, watched.slot);
    port->ops->detach(port, &b.pool);
    CHECK(fake->detached);
    CHECK_EQ(b.pool.n_free_small, SMALL);
    nfm_port_free(port);
    free(fake);
    teardown(&b);
}

static void frames_that_find_no_room_wait_their_turn(void) {
    bench b = setup(SMALL, 0);
    fake_port *fake = live();
    nfm_impair_config config = {.seed = 2, .queue = 50};
    nfm_port *port = nfm_port_impair_new(&fake->port, &config, NULL);
    fake->room = 5;
    for (uint32_t i = 0; i < 60; i++) {
        nfm_tx tx = fake_frame(&b, i);
        CHECK_EQ(port->ops->tx(port, &b.pool, &tx, 1), 1);
    }
    fake->room = 1000;
    port->ops->poll(port, &b.pool);
    CHECK_EQ(fake->n_sent, 55); /* the queue was full for the last five */
    for (uint32_t i = 0; i < fake->n_sent; i++)
        CHECK_EQ(fake->sent[i], i);
    fake->down = true;
    nfm_tx tx = fake_frame(&b, 99);
    CHECK_EQ(port->ops->tx(port, &b.pool, &tx, 1), 1); /* it is on its way when the link falls */
    nfm_tx refused = fake_frame(&b, 100);
    CHECK_EQ(port->ops->tx(port, &b.pool, &refused, 1), NFM_E_IO);
    fake->down = false;
    CHECK_EQ(port->ops->tx(port, &b.pool, &refused, 1), 1);
    CHECK(fake->n_sent == 57 && fake->sent[55] == 99 && fake->sent[56] == 100);
    port->ops->detach(port, &b.pool);
    CHECK_EQ(b.pool.n_free_small, SMALL);
    nfm_port_free(port);
    free(fake);
    teardown(&b);
}

static void what_is_on_its_way_goes_back_when_the_worker_ends(void) {
    bench b = setup(SMALL, 0);
    fake_port *fake = live();
    nfm_impair_config config = {.seed = 2, .delay = 1, .delay_ns = 600 * (uint64_t)SECOND};
    nfm_port *port = nfm_port_impair_new(&fake->port, &config, NULL);
    fake->left = 10;
    nfm_frame frames[16];
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 16), 0);
    nfm_tx tx = fake_frame(&b, 1);
    CHECK_EQ(port->ops->tx(port, &b.pool, &tx, 1), 1);
    CHECK_EQ(b.pool.n_free_small, SMALL - 11);
    port->ops->detach(port, &b.pool);
    CHECK_EQ(b.pool.n_free_small, SMALL);
    CHECK_EQ(fake->n_sent, 0);
    nfm_port_free(port);
    free(fake);
    teardown(&b);
}

static void without_slots_nothing_is_doubled(void) {
    bench b = setup(4, 0);
    fake_port *fake = live();
    nfm_impair_config config = {.seed = 2, .duplicate = 1, .direction = NFM_DIR_RX};
    nfm_port *port = nfm_port_impair_new(&fake->port, &config, NULL);
    fake->left = 4;
    nfm_frame frames[16];
    CHECK_EQ(port->ops->rx(port, &b.pool, frames, 16), 4);
    nfm_impair_stats stats;
    CHECK_EQ(nfm_port_impair_stats(port, NFM_DIR_RX, &stats), NFM_OK);
    CHECK(stats.no_slot == 4 && stats.duplicated == 0);
    for (int i = 0; i < 4; i++)
        nfm_pool_put(&b.pool, frames[i].slot);
    nfm_port_free(port);
    free(fake);
    teardown(&b);
}

static void nonsense_is_refused(void) {
    fake_port *fake = live();
    nfm_error err = {0};
    const nfm_impair_config bad[] = {
        {.drop = 1.5},    {.corrupt = -0.1},  {.delay = __builtin_nan("")},
        {.rate_bps = 10}, {.direction = 4},   {.queue = 1u << 30},
        {.duplicate = 2}, {.reorder = 1e300}, {.delay_ns = UINT64_MAX},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        CHECK(nfm_port_impair_new(&fake->port, &bad[i], &err) == NULL);
        CHECK(err.code == NFM_E_INVAL && strncmp(err.text, "impair:", 7) == 0);
    }
    nfm_impair_stats stats;
    CHECK_EQ(nfm_port_impair_stats(&fake->port, NFM_DIR_RX, &stats), NFM_E_INVAL);
    free(fake);
}

static const nfm_test tests[] = {
    T(no_impairment_changes_nothing),
    T(shares_are_kept_and_the_seed_decides),
    T(a_draw_does_not_depend_on_other_shares),
    T(reordered_frames_let_others_pass),
    T(delayed_frames_arrive_later_and_in_order_of_time),
    T(a_slow_link_queues_and_then_loses),
    T(sent_frames_are_impaired_too),
    T(frames_that_find_no_room_wait_their_turn),
    T(what_is_on_its_way_goes_back_when_the_worker_ends),
    T(without_slots_nothing_is_doubled),
    T(nonsense_is_refused),
};

int main(int argc, char **argv) {
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
