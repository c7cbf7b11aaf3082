"""What a mesh bears: processes that do harm, and hosts that have too little of something."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from mesh_rig import Rig, rig, wait_for
from patience import PATIENCE_S, until

from mesh import child as child_module
from mesh.child import Patience
from mesh.control import messages as m
from mesh.control.tool import ask
from mesh.supervisor import SupervisorSettings

OFFICE = Path(__file__).parent / "captures" / "office.pcap"
IS_ROOT = os.geteuid() == 0


@pytest.fixture
def mesh() -> Iterator[Rig]:
    before = open_descriptors()
    with rig() as made:
        yield made
    assert open_descriptors() == before, "the supervisor has let go of everything"


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def instead_of(monkeypatch: pytest.MonkeyPatch, mesh: Rig, role: str, body: str) -> None:
    """Has children of a role run another program."""
    (mesh.folder / "strange.py").write_text(textwrap.dedent(body))
    monkeypatch.setenv("PYTHONPATH", str(mesh.folder))
    monkeypatch.setitem(child_module.MODULES, role, "strange")


# ---- processes that do harm ----------------------------------------------------------------------

GARBAGE = """
import ctypes, random

class Garbage(NF):
    '''Writes all over its ring at the first entry, as often as it is started.'''
    @on("packet")
    def see(self, batch):
        random.seed(int(self.seed))
        for line in open("/proc/self/maps"):
            if "nfmesh:ring/" in line:
                first, last = (int(end, 16) for end in line.split()[0].split("-"))
                ctypes.memmove(first, random.randbytes(last - first), last - first)
    def __init__(self, seed: int = 0):
        self.seed = seed
"""


@pytest.mark.parametrize("seed", range(4))
def test_garbage_in_a_ring_harms_nobody_else(mesh, seed):
    nfs = [
        {"use": mesh.nf("garbage", GARBAGE), "config": {"seed": seed}, "ring": 64},
        {"use": "flow_counter"},
        {"use": "http_log"},
    ]
    mesh.start(nfs, mesh.capture(300))
    found = mesh.report()
    report = mesh.outcome.report
    assert report["packets"] == 3000
    assert found["flow_counter"]["events"] == 3000 + 300
    assert found["http_log"]["results"]["requests"] == 300
    assert report["statistics"]["slots_used"] == 0
    assert mesh.outcome.restarts.keys() <= {"garbage"}


def test_a_process_with_another_abi_is_sent_away_in_words(mesh, monkeypatch):
    body = """
    import sys
    import mesh.control.messages as messages

    class Register(messages.Register):
        def __init__(self, **fields):
            super().__init__(**{**fields, "abi": 9999})

    messages.Register = Register
    from mesh.nfhost import main
    sys.exit(main())
    """
    instead_of(monkeypatch, mesh, "nf", body)
    mesh.start([{"use": "flow_counter"}], mesh.capture(20))
    outcome = mesh.wait()
    assert outcome.start_failed == ("flow_counter",)
    [text] = outcome.report["nfs"][0]["errors"]
    assert "ABI 9999" in text
    assert "reinstall nfmesh" in text
    assert outcome.report["packets"] == 0


def test_a_program_that_is_no_nf_and_takes_no_part_is_given_up(mesh, monkeypatch):
    instead_of(monkeypatch, mesh, "nf", "raise SystemExit(5)")
    mesh.start([{"use": "flow_counter"}], mesh.capture(20))
    outcome = mesh.wait()
    assert outcome.start_failed == ("flow_counter",)
    assert "3 starts that came to nothing: exit status 5" in outcome.report["nfs"][0]["errors"][0]


def test_a_worker_that_cannot_live_ends_the_run_in_words(mesh, monkeypatch):
    instead_of(monkeypatch, mesh, "worker", "import os; os.abort()")
    mesh.start([{"use": "flow_counter"}], mesh.capture(20))
    outcome = mesh.wait()
    assert "worker-0" in outcome.error
    assert "3 starts that came to nothing: killed by SIGABRT" in outcome.error


def test_a_process_that_stands_still_and_comes_back_is_not_held_against_anybody(mesh):
    stands = """
        class Stands(NF):
            @on("flow.start")
            def see(self, batch):
                stand_still()
    """
    nfs = [{"use": "flow_counter", "ring": 64}, {"use": "http_log"}]
    nfs.append({"use": mesh.nf("stands", stands), "ring": 64})
    mesh.start(nfs, mesh.capture(3000))
    pid = mesh.running("flow_counter")
    wait_for(lambda: mesh.ring("ring/stands/w0").depth > 32)
    os.kill(pid, signal.SIGSTOP)
    mesh.go()
    wait_for(lambda: mesh.ring("ring/flow_counter/w0").depth > 32)
    os.kill(pid, signal.SIGCONT)
    found = mesh.report()
    assert found["flow_counter"]["events"] == 30000 + 3000
    assert found["http_log"]["results"]["requests"] == 3000
    assert not mesh.outcome.restarts


# ---- hosts that have too little ------------------------------------------------------------------


def nfmesh(
    folder: Path, *before: str, within: tuple[str, ...] = (), also: tuple[str, ...] = ()
) -> tuple[int, list[str]]:
    """Runs a mesh in a shell that `before` prepares; returns its status and its complaints."""
    words = ["run", "--in", str(OFFICE), "--nf", "flow_counter", "--nf", "http_log", *also]
    script = " && ".join([*before, 'exec "$@"'])
    command = [*within, "sh", "-c", script, "sh", sys.executable, "-m", "mesh.cli", *words]
    env = {**os.environ, "NFMESH_RUN": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=env)
    return done.returncode, done.stderr.splitlines()


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(f"/tmp/nfmesh-bad-{os.getpid()}")
    made.mkdir(mode=0o755)
    yield made
    assert not [path for path in made.rglob("*") if path.is_socket()]
    subprocess.run(["rm", "-rf", str(made)], check=True)


@pytest.mark.parametrize("limit", [10, 12, 24, 34, 40, 44, 46])
def test_too_few_descriptors_end_the_run_with_the_remedy(folder, limit):
    status, complaints = nfmesh(folder, f"ulimit -n {limit}")
    assert status == 2, complaints
    assert complaints[-1].endswith("raise the limit of open files (ulimit -n)")


needs_mounts = pytest.mark.skipif(
    not IS_ROOT or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="needs root: a mount namespace",
)


@needs_mounts
def test_a_read_only_file_system_is_said_with_the_remedy(folder):
    mount = f"mount -t tmpfs -o ro,mode=755 none {folder}"
    status, [line] = nfmesh(folder, mount, within=("unshare", "-m"))
    assert status == 2
    assert "Read-only file system" in line
    assert "set NFMESH_RUN to a folder of yours" in line


@needs_mounts
def test_no_space_for_the_run_folder_is_said_with_the_remedy(folder):
    fill = f"(dd if=/dev/zero of={folder}/full bs=4096 count=64 2>/dev/null || true)"
    mount = f"mount -t tmpfs -o size=16k,mode=755 none {folder}"
    status, [line] = nfmesh(folder, mount, fill, within=("unshare", "-m"))
    assert status == 2
    assert "No space left on device" in line
    assert "make room" in line or "NFMESH_RUN" in line


@needs_mounts
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_capture_that_is_not_whole_is_an_error(folder, workers):
    disk = f"mkdir {folder}/disk && mount -t tmpfs -o size=64k none {folder}/disk"
    also = ("--out", f"{folder}/disk/x.pcapng", "--workers", workers)
    status, lines = nfmesh(folder, disk, within=("unshare", "-m"), also=also)
    assert status == 2
    assert any(
        line.startswith(f"nfmesh: {folder}/disk/x.pcapng") and "No space left" in line
        for line in lines
    )


def test_an_nf_that_hangs_is_said_to_hang_while_it_is_waited_for():
    with rig(SupervisorSettings(patience=Patience(30, 3600, 5))) as mesh:
        hangs = """
            class Hangs(NF):
                @on("packet")
                def see(self, batch):
                    time.sleep(1000)
        """
        mesh.start([{"use": mesh.nf("hangs", hangs)}, {"use": "http_log"}], mesh.capture(3))
        mesh.running("hangs")
        run = mesh.supervisor.folder.path

        def states() -> dict[str, str]:
            rows = ask(run, m.Status(), PATIENCE_S)["processes"]
            return {row["name"]: row["state"] for row in rows}

        found = until(lambda: s if (s := states())["hangs"] == "hangs" else None, "it to hang")
        assert (found["http_log"], found["worker-0"]) == ("running", "running")
        mesh.supervisor.stop()
        mesh.supervisor.stop()
        mesh.wait()


@pytest.mark.parametrize(
    ("see", "patience", "stop_s"),
    [
        ("time.sleep(1000)", Patience(PATIENCE_S, 2.0, 10.0), PATIENCE_S),
        ("pass", Patience(PATIENCE_S, PATIENCE_S, PATIENCE_S), 24.0),
    ],
)
def test_an_nf_that_hangs_does_not_keep_the_others_from_their_totals_when_all_ends(
    see, patience, stop_s
):
    """In `see`, or in its results; it may be that all ends before it was sent a packet."""
    with rig(SupervisorSettings(patience=patience, stop_s=stop_s)) as mesh:
        hangs = f"""
            class Hangs(NF):
                @on("packet")
                def see(self, batch):
                    {see}

                def results(self):
                    time.sleep(1000)
        """
        nfs = [{"use": mesh.nf("hangs", hangs)}, {"use": "http_log"}]
        mesh.start(nfs, mesh.capture(3))
        mesh.running("hangs")
        mesh.running("http_log")
        starts = mesh.supervisor.children["hangs"].starts
        mesh.supervisor.stop()
        found = mesh.report()
    assert mesh.outcome.restarts.get("hangs", 0) <= starts
    assert found["http_log"]["results"] is not None
    assert "no sign of life" in found["hangs"]["errors"][0]
