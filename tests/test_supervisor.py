"""The supervisor: starting, pinning, restarting, ending, and leaving nothing behind."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from mesh_rig import Rig, few_descriptors_left, is_alive, rig, wait_for
from patience import PATIENCE_S

from mesh.child import Child, Patience
from mesh.control import messages as m
from mesh.control.tool import ask
from mesh.cores import CoreRequest, Room, allocate
from mesh.errors import CapacityError, ProcessError, SpecError
from mesh.journal import Journal, Phase, Work
from mesh.objects import Objects
from mesh.process import CANNOT_START, Identity
from mesh.restart import Backoff, CrashMemory, wants_restart
from mesh.rundir import RunFolder
from mesh.runner import replay
from mesh.topology import Topology
from mesh.users import closed_to_others, find_users

SLOW = """
class Slow(NF):
    flows = 0
    @on("flow.end")
    def end(self, batch):
        if self.flows > 500:
            stand_still()
        self.flows += len(batch)
        time.sleep(0.02)
    def checkpoint(self):
        return self.flows
    def restore(self, state):
        self.flows = state
    def results(self):
        return {"flows": self.flows}
"""


@pytest.fixture
def mesh() -> Iterator[Rig]:
    with rig() as made:
        yield made


def slow(mesh: Rig, flows: int = 1500) -> None:
    """Starts a mesh that does not come to its end before the test waits for it."""
    nfs = [{"use": mesh.nf("slow", SLOW), "ring": 64}, {"use": "flow_counter"}]
    mesh.start(nfs, mesh.capture(flows))


# ---- whole meshes -------------------------------------------------------------------------------


def test_a_mesh_is_a_process_each_and_nothing_is_left(mesh):
    slow(mesh)
    pids = {name: mesh.running(name) for name in ("worker-0", "slow", "flow_counter")}
    pids["controller"] = mesh.child("controller").process.pid
    assert len(set(pids.values())) == 4
    folder = mesh.supervisor.folder.path
    assert folder.stat().st_mode & 0o007 == 0
    assert mesh.report()["slow"]["results"] == {"flows": 1500}
    assert not any(map(is_alive, pids.values()))
    mesh.supervisor.close()
    assert not folder.exists()
    mesh.supervisor = None


def test_the_first_signal_ends_the_flows_and_nfs_get_their_totals(mesh):
    slow(mesh, flows=20000)
    wait_for(lambda: mesh.ring("ring/slow/w0").tail)
    mesh.supervisor.stop()
    found = mesh.report()
    assert mesh.outcome.report["interrupted"]
    assert 0 < found["slow"]["results"]["flows"] < 20000
    assert found["slow"]["events"] == found["slow"]["results"]["flows"]


def test_the_second_signal_kills(mesh):
    slow(mesh, flows=20000)
    pids = [mesh.running(name) for name in ("worker-0", "slow")]
    mesh.supervisor.stop()
    mesh.supervisor.stop()
    outcome = mesh.wait()
    assert (outcome.report, outcome.error) == (None, "the run was ended")
    assert not any(map(is_alive, pids))


def test_a_killed_controller_comes_back_and_the_run_ends_as_if_nothing_was(mesh):
    slow(mesh)
    slow_pid, worker_pid = mesh.running("slow"), mesh.running("worker-0")
    first = mesh.child("controller").process.pid
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: mesh.child("controller").starts == 2)
    assert (mesh.running("slow"), mesh.running("worker-0")) == (slow_pid, worker_pid)
    found = mesh.report()
    assert found["slow"]["results"] == {"flows": 1500}
    assert mesh.outcome.restarts == {"controller": 1}


def test_a_killed_worker_reads_the_capture_again_and_pushes_nothing_twice(mesh):
    slow(mesh)
    pid = mesh.running("worker-0")
    wait_for(lambda: mesh.ring("ring/slow/w0").tail)
    os.kill(pid, signal.SIGKILL)
    mesh.running("worker-0", after=pid)
    found = mesh.report()
    inside = replay(mesh.folder / "in.pcap", ["flow_counter"])["flow_counter"]
    assert mesh.outcome.restarts == {"worker-0": 1}
    assert found["slow"]["results"] == {"flows": 1500}
    assert found["flow_counter"]["events"] == inside.events
    assert mesh.outcome.report["packets"] == 15000


def test_nobody_outlives_a_killed_supervisor(tmp_path):
    with rig() as mesh:
        mesh.capture(20000)
        script = mesh.folder / "run.py"
        script.write_text(
            "import signal, sys\n"
            f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            "from mesh_rig import *\n"
            f"made = Rig(Path({str(mesh.folder)!r}))\n"
            f"nfs = [{{'use': made.nf('slow', {SLOW!r}), 'ring': 64}}]\n"
            "made.start(nfs, made.folder / 'in.pcap')\n"
            "pids = [made.running(n) for n in ('worker-0', 'slow')]\n"
            "pids.append(made.child('controller').process.pid)\n"
            "print(*pids, flush=True)\n"
            "signal.pause()\n"
        )
        with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as run:
            pids = [int(pid) for pid in run.stdout.readline().split()]
            assert len(pids) == 3
            assert all(map(is_alive, pids))
            run.kill()
        wait_for(lambda: not any(map(is_alive, pids)))
        folder = RunFolder("t", mesh.folder / "run")
        assert "earlier instance left" in folder.notices[0]
        folder.close()


def test_a_worker_whose_capture_is_gone_fails_in_words(mesh):
    mesh.start([{"use": "flow_counter"}], mesh.folder / "none.pcap")
    outcome = mesh.wait()
    assert "none.pcap" in outcome.error
    assert outcome.restarts == {}


def test_an_nf_asked_for_a_core_that_is_not_there_fails_in_words(mesh):
    mesh.start([{"use": "flow_counter", "cores": [9999]}], mesh.capture(5))
    assert "core 9999 is not there" in mesh.wait().error


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_each_process_is_pinned_to_its_core(mesh):
    first, second, *_ = sorted(os.sched_getaffinity(0))
    nfs = [{"use": mesh.nf("slow", SLOW), "ring": 64, "cores": [second]}]
    mesh.start(nfs, mesh.capture(1000), worker_cores=[first])
    pids = {mesh.running("worker-0"): first, mesh.running("slow"): second}
    for pid, core in pids.items():
        threads = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
        assert len(threads) > 1
        assert all(os.sched_getaffinity(thread) == {core} for thread in threads)
    mesh.report()


def test_status_says_what_could_not_be_had(mesh):
    slow(mesh)
    mesh.running("slow")
    stats = mesh.supervisor.stats()
    if len(os.sched_getaffinity(0)) < 3:
        assert any("run unpinned" in notice for notice in stats.notices)
    by_name = {process.name: process for process in stats.processes}
    assert by_name["slow"].uid == mesh.supervisor.children["slow"].identity.effective_uid
    assert {o.name for o in stats.objects} >= {"w0/packets", "ring/slow/w0", "ckpt/slow"}


def test_a_second_process_cannot_take_an_nfs_place(mesh):
    slow(mesh)
    mesh.running("slow")
    from mesh.errors import AttachError
    from mesh.fdclient import DescriptorClient
    from mesh.fdpass import make_token

    client = DescriptorClient(mesh.supervisor.folder.path / "attach.sock", "slow", make_token())
    with pytest.raises(AttachError, match=r"wrong token|runs as uid"):
        client.fetch(["ring/slow/w0"])
    client.close()
    mesh.report()
    assert sum(mesh.supervisor.stats().refused.values()) == 1


@pytest.mark.skipif(find_users().first is None, reason="needs NFs that are users of their own")
def test_an_nf_whose_file_others_cannot_read_runs_without_capabilities(mesh):
    hidden = mesh.folder / "hidden"
    hidden.mkdir(mode=0o700)
    use = Path(mesh.nf("slow", SLOW)).rename(hidden / "slow.py")
    mesh.start([{"use": str(use)}, {"use": "flow_counter"}], mesh.capture(20))
    assert mesh.report()["slow"]["results"] == {"flows": 20}
    notices = mesh.supervisor.stats().notices
    assert f"slow runs as root without capabilities: other users cannot read {hidden}" in notices
    users = {process.name: process.uid for process in mesh.supervisor.stats().processes}
    assert users["slow"] == 0
    assert users["flow_counter"] == mesh.settings.users.first


# ---- users --------------------------------------------------------------------------------------


def test_without_root_the_status_says_what_is_not_kept_apart():
    users = find_users(is_root=False)
    assert users.owner is users.first is users.group is None
    assert "not to open them again" in users.notice


def test_what_others_cannot_read_is_found(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    file = inner / "file"
    file.touch(mode=0o644)
    tmp_path.chmod(0o700)
    assert closed_to_others([file]) in (tmp_path, *tmp_path.parents)
    assert closed_to_others([Path("/etc/passwd")]) is None
    assert closed_to_others([Path("/etc/nothing")]) == Path("/etc/nothing")


# ---- cores --------------------------------------------------------------------------------------


def test_every_process_gets_a_core_when_there_are_enough():
    found = allocate([CoreRequest("w"), CoreRequest("a", (2,)), CoreRequest("b")], [0, 1, 2, 3])
    assert found.cores == {"w": (0,), "a": (2,), "b": (1,)}
    assert found.notices == ()


def test_too_few_cores_pin_nobody_but_those_who_named_theirs():
    found = allocate([CoreRequest("w"), CoreRequest("a", (1,)), CoreRequest("b")], [0, 1])
    assert found.cores == {"a": (1,)}
    assert "1 free cores for 2 processes: w, b run unpinned" in found.notices[0]


@pytest.mark.parametrize(
    ("second", "text"),
    [((1,), "core 1 is given twice, first to a"), ((7,), "core 7 is not there"), ((), "at least")],
)
def test_cores_that_cannot_be_are_refused(second, text):
    with pytest.raises(SpecError, match=text) as error:
        allocate([CoreRequest("a", (1,)), CoreRequest("b", second, "nfs[1]")], [0, 1])
    assert error.value.path == "nfs[1].cores"


def test_cores_of_running_processes_are_taken():
    assert allocate([CoreRequest("a")], Room(Topology.flat([0, 1]), [0])).cores == {"a": (1,)}
    with pytest.raises(SpecError, match="given twice"):
        allocate([CoreRequest("a", (0,))], Room(Topology.flat([0, 1]), [0]))


# ---- restarting ---------------------------------------------------------------------------------


def test_waits_double_up_to_five_seconds_and_a_healthy_run_resets_them():
    backoff = Backoff()
    assert [backoff.delay(0) for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert backoff.delay(60) == 0.1
    backoff.delay(0)
    assert backoff.delay(0, is_mended=True) == 0.1


@pytest.mark.parametrize(
    ("policy", "status", "again"),
    [
        ("always", -9, True),
        ("always", 0, False),
        ("on-failure", 3, True),
        ("never", -9, False),
    ],
)
def test_policies(policy, status, again):
    assert wants_restart(policy, status) is again


def crash(memory: CrashMemory, work: Work | None = None, *, had_begun: bool = True) -> None:
    memory.record(work, ran_s=0.5, had_begun=had_begun)


def test_an_entry_is_left_out_after_three_crashes_alone_at_hand():
    memory = CrashMemory()
    crash(memory)
    crash(memory, Work(0, 100, 64))
    assert memory.arguments() == ["--careful=0:100:64"]
    crash(memory, Work(0, 120, 4))
    assert memory.arguments() == ["--careful=0:120:4"]
    for _ in range(2):
        crash(memory, Work(0, 122, 1))
    assert not memory.skip
    crash(memory, Work(0, 122, 1))
    assert memory.is_mended
    assert memory.arguments() == ["--careful=0:122:1", "--skip=0:122"]
    assert not memory.verdict


def test_a_process_that_dies_at_ever_more_entries_is_given_up():
    memory = CrashMemory()
    for position in range(5):
        assert not memory.verdict
        for _ in range(3):
            crash(memory, Work(0, position, 1))
    assert memory.verdict == "given up after it died at 5 entries"


def test_a_process_that_dies_at_its_start_three_times_in_a_row_is_given_up():
    memory = CrashMemory()
    crash(memory, had_begun=False)
    crash(memory, had_begun=False)
    crash(memory, Work(0, 7, 3))
    for _ in range(3):
        assert not memory.verdict
        crash(memory, had_begun=False)
    assert memory.verdict == "given up after 3 starts that came to nothing"


def test_crashes_at_no_entry_are_counted_as_long_as_none_ran_well():
    memory = CrashMemory()
    for _ in range(9):
        crash(memory)
    memory.record(None, ran_s=60, had_begun=True)
    for _ in range(9):
        crash(memory)
    assert not memory.verdict
    crash(memory)
    assert memory.verdict == "given up after 10 crashes in a row"


@pytest.mark.parametrize("status", [1, -9, CANNOT_START])
def test_a_controller_that_dies_ten_times_in_a_row_is_given_up(status):
    child = Child("controller", "controller", Identity())
    for n in range(10):
        assert child.state == "waiting"
        child.started_at = float(n)
        child.ended(status, n + 0.5)
    assert child.state == "failed"
    assert child.last_exit.startswith("given up after 10 crashes in a row: ")


def test_a_child_that_the_system_will_not_start_is_given_up():
    child = Child("slow", "nf", Identity())
    for n in range(3):
        assert child.state == "waiting"
        child.refused("cannot be started: Too many open files", float(n))
    assert child.state == "failed"


# ---- the journal --------------------------------------------------------------------------------


@pytest.fixture
def journal() -> Iterator[Journal]:
    objects = Objects()
    from mesh.journal import JOURNAL_BYTES

    made = Journal(objects.create_sparse("ckpt/x", JOURNAL_BYTES).fd)
    yield made
    made.close()
    objects.close()


def test_a_journal_says_how_far_a_process_was(journal):
    assert journal.at_hand() is None
    before = time.monotonic_ns()
    journal.beat(Phase.RUNNING)
    journal.work(Work(3, 1 << 40, 7))
    journal.last_words("no more")
    assert journal.life()[1] is Phase.RUNNING
    assert before <= journal.life()[0] <= time.monotonic_ns()
    assert journal.at_hand() == Work(3, 1 << 40, 7)
    assert journal.read_last_words() == "no more"
    journal.save({"kept": 1})
    journal.begin()
    assert journal.at_hand() is None
    assert journal.read_last_words() == ""
    assert journal.load() == {"kept": 1}


def test_the_newest_whole_checkpoint_counts(journal):
    assert journal.load() is None
    for i in range(5):
        journal.save([i] * 100)
        assert journal.load() == [i] * 100
    raw = journal._map
    for at in (64, 96):
        number = int.from_bytes(raw[at : at + 8], "little")
        if number == 5:
            raw[at + 12] ^= 0xFF
    assert journal.load() == [3] * 100


def test_a_checkpoint_that_is_too_large_is_refused_and_the_last_one_stays(journal):
    journal.save("small")
    with pytest.raises(CapacityError, match="are allowed"):
        journal.save(bytes(33 << 20))
    assert journal.load() == "small"


def test_garbage_in_a_journal_is_no_checkpoint(journal):
    journal.save("x")
    journal._map[24:4096] = os.urandom(4072)
    journal.load()
    journal.life()
    journal.read_last_words()


# ---- objects ------------------------------------------------------------------------------------


def test_objects_are_sealed_private_and_as_large_as_asked_for():
    objects = Objects()
    made = objects.create("w0/x", 100_000)
    assert made.size >= 100_000
    assert os.fstat(made.fd).st_mode & 0o777 == 0o600
    with pytest.raises(PermissionError):
        os.ftruncate(made.fd, 1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(made.read_only_fd, b"x", 0)
    assert objects.create("w0/x", 100_000) is made
    with pytest.raises(CapacityError):
        objects.create("w0/x", made.size + 1)
    objects.close()


def test_a_step_down_from_huge_pages_is_said():
    objects = Objects()
    objects.create("w0/big", 4 << 20)
    if objects["w0/big"].backing == "ordinary":
        assert "vm.nr_hugepages=2" in objects.notices[0]
    else:
        assert objects.notices == ()
    objects.close()


def test_who_writes_an_object_keeps_nobody_from_mapping_it():
    objects = Objects()
    for made in (objects.create_ring("ring/x/w0", 64), objects.create_sparse("ckpt/x", 4096)):
        with pytest.raises(PermissionError):
            fcntl.fcntl(made.fd, fcntl.F_ADD_SEALS, 0x10)  # F_SEAL_FUTURE_WRITE
        with pytest.raises(PermissionError):
            os.ftruncate(made.fd, 0)
    objects.close()


def test_too_few_descriptors_is_an_error_with_its_remedy():
    objects = Objects()
    with few_descriptors_left(1), pytest.raises(CapacityError, match=r"Too many .* \(ulimit -n\)"):
        objects.create_sparse("ckpt/a", 4096)
    with few_descriptors_left(0), pytest.raises(CapacityError, match="ulimit -n"):
        objects.create_sparse("ckpt/b", 4096)
    assert list(objects) == []
    objects.close()


def test_patience_is_by_phase():
    patience = Patience(1, 2, 3)
    assert [patience.limit(phase) for phase in Phase] == [1, 1, 2, 3]


# ---- as a program -------------------------------------------------------------------------------

PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from mesh_rig import *

class InMain(Rig):
    def start(self, nfs, capture):
        super().start(nfs, capture)
        report = self.supervisor.run().report
        self.supervisor.close()
        print("over", report and report["nfs"][0]["results"], flush=True)

made = InMain(Path({folder!r}))
made._run = lambda: None
made.start([{{"use": made.nf("slow", {nf!r}), "ring": 64}}], made.folder / "in.pcap")
"""


def program(mesh: Rig, nf: str, *before: str) -> subprocess.Popen[str]:
    """Starts a mesh whose supervisor is the main thread of a process."""
    script = mesh.folder / "run.py"
    tests = str(Path(__file__).parent)
    script.write_text(PROGRAM.format(tests=tests, folder=str(mesh.folder), nf=nf))
    return subprocess.Popen([*before, sys.executable, script], stdout=subprocess.PIPE, text=True)


def events_of(run: Path, nf: str) -> int:
    """Returns how many entries an NF has had; none while nobody answers."""
    with suppress(ProcessError):
        return int(ask(run, m.Status())["nfs"].get(nf, {}).get("events", 0))
    return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_in_order(mesh, number):
    mesh.capture(20000)
    with program(mesh, SLOW) as run:
        wait_for(lambda: events_of(mesh.folder / "run" / "t", "slow"))
        run.send_signal(number)
        mesh.go()
        said = run.communicate(timeout=PATIENCE_S)[0]
        assert re.fullmatch(r"over \{'flows': [1-9]\d*\}\n", said)
    assert not any(path.name == "control" for path in (mesh.folder / "run").rglob("*"))


ORPHANS = """
import subprocess

class Orphans(NF):
    @on("flow.end")
    def end(self, batch): ...
    def results(self):
        made = subprocess.run(["sh", "-c", "sleep 0.1 & echo $!"], stdout=-1, stderr=-3)
        orphan = f"/proc/{int(made.stdout)}"
        while os.path.exists(orphan):
            time.sleep(0.01)
        return {"reaped": True}
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a process namespace")
def test_as_pid_1_it_reaps_what_others_leave_behind(mesh):
    mesh.capture(5)
    unshare = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if subprocess.run([*unshare, "true"], check=False).returncode != 0:
        pytest.skip("no process namespace may be made here")
    with program(mesh, ORPHANS, *unshare) as run:
        assert run.communicate(timeout=PATIENCE_S)[0] == "over {'reaped': True}\n"
