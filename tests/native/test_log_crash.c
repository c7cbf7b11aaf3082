/* SPDX-License-Identifier: Apache-2.0 */
/* A log's writer is stepped through, instruction by instruction, as by a debugger. After each one
 * that changed the log it might have died: from a copy of that moment's memory the next writer must
 * bring the log to the same contents. */
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "log_rig.h"
#include "nfm_test.h"

enum {
    BEFORE = 90, /* events before, each in a run of its own: the ring is full */
    RUN = 3      /* events of the run that is cut off */
};

typedef struct scene {
    uint8_t *memory; /* shared with the child */
    uint8_t *moment; /* a copy of it */
    uint64_t size;
    nfm__log_cursor cursor;
    nfm_log log;
    nfm_log_reader reader;
    log_rig rig;
    uint32_t seen[RUN + 1]; /* moments by the number of events of the run that are visible */
} scene;

static void fill(scene *s) {
    CHECK_EQ(nfm__log_init(&s->log, s->memory, s->size, 0, NULL), NFM_OK);
    for (uint32_t n = 0; n < BEFORE; n++) {
        nfm_log_begin(&s->log, 0, n, 1);
        nfm_log_write(&s->log, rig_batch(&s->rig, n, 1));
    }
}

static void write_run(nfm_log *log, log_rig *rig) {
    nfm_log_begin(log, 0, BEFORE, RUN);
    nfm_log_write(log, rig_batch(rig, BEFORE, RUN));
}

static pid_t traced_writer(scene *s) {
    pid_t pid = fork();
    if (pid == 0) {
        rig_batch(&s->rig, BEFORE, RUN);
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
            _exit(9);
        raise(SIGSTOP);
        nfm_log_begin(&s->log, 0, BEFORE, RUN);
        nfm_log_write(&s->log, &s->rig.batch);
        _exit(0);
    }
    return pid;
}

/* Reads the whole log: whole events up to |last|, none twice. */
static void check_events(scene *s, uint32_t last) {
    memset(&s->cursor, 0, sizeof(s->cursor));
    CHECK_EQ(nfm__log_reader_init(&s->reader, s->moment, s->size, &s->cursor, false, NULL), 0);
    const nfm_batch *batch;
    uint32_t next = UINT32_MAX;
    while ((batch = nfm_log_read(&s->reader, 16))->n > 0) {
        for (uint32_t i = 0; i < batch->n; i++) {
            next = next == UINT32_MAX ? (uint32_t)s->reader.lost : next;
            CHECK_EQ(rig_event(batch, i), next);
            next++;
        }
    }
    CHECK_EQ(next, last);
    CHECK_EQ(s->reader.bad, 0);
    CHECK_EQ(s->reader.read + s->reader.lost, last);
    nfm__log_reader_fini(&s->reader);
}

static void recover_and_check(scene *s) {
    uint64_t first = BEFORE;
    uint32_t n = 0;
    CHECK_EQ(nfm__log_init(&s->log, s->moment, s->size, 0, NULL), NFM_OK);
    uint32_t visible = (uint32_t)s->log.written - BEFORE;
    CHECK(visible <= RUN);
    check_events(s, BEFORE + visible);
    if (nfm_log_pending(&s->log, 0, &first, &n) == 1 && first == BEFORE)
        CHECK_EQ(n, RUN);
    else
        CHECK_EQ(visible, 0);
    write_run(&s->log, &s->rig);
    CHECK_EQ(s->log.repeated, visible);
    CHECK_EQ(s->log.written, BEFORE + RUN);
    check_events(s, BEFORE + RUN);
    s->seen[visible <= RUN ? visible : 0]++;
}

/* Steps through the writer to its end. Returns the steps, -1 when it cannot be traced here. */
static int step_through(scene *s, pid_t pid) {
    int status, steps = 0;
    uint8_t *last = malloc(s->size);
    memcpy(last, s->memory, s->size);
    waitpid(pid, &status, 0);
    if (!WIFSTOPPED(status))
        steps = -1;
    while (steps >= 0 && WIFSTOPPED(status) && !nfm_test_failed) {
        if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) != 0 || waitpid(pid, &status, 0) != pid)
            break;
        steps++;
        if (memcmp(last, s->memory, s->size) == 0)
            continue;
        memcpy(last, s->memory, s->size);
        memcpy(s->moment, last, s->size);
        recover_and_check(s);
    }
    free(last);
    return steps;
}

static void test_a_writer_may_die_at_any_instruction(void) {
    static scene s;
    s.size = (nfm_log_object_size(NFM_LOG_MIN) + 4095) / 4096 * 4096;
    s.memory = mmap(NULL, s.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    s.moment = aligned_alloc(64, s.size);
    CHECK(s.memory != MAP_FAILED);
    fill(&s);
    int steps = step_through(&s, traced_writer(&s));
    if (steps < 0) {
        printf("# processes cannot be traced here: skipped\n");
    } else {
        for (int i = 0; i <= RUN; i++)
            CHECK(s.seen[i] > 0);
        printf("# %d instructions, states with 0..3 events: %u %u %u %u\n", steps, s.seen[0],
               s.seen[1], s.seen[2], s.seen[3]);
    }
    free(s.moment);
    munmap(s.memory, s.size);
}

int main(int argc, char **argv) {
    static const nfm_test tests[] = {T(test_a_writer_may_die_at_any_instruction)};
    return nfm_run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
