"""Runs whole meshes of real processes for tests: supervisor in a thread, everything else real."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from patience import PATIENCE_S, until

from mesh._ffi import native
from mesh.attached import ring_stats
from mesh.child import Child, Patience
from mesh.control.desired import Desired, save_desired, with_files
from mesh.control.stats import RingStats
from mesh.rundir import RunFolder
from mesh.spec import parse
from mesh.supervisor import Outcome, Supervisor, SupervisorSettings
from mesh.testing import conversation, timed, write_capture

T = TypeVar("T")
HELPERS = """
def stand_still():
    while not os.path.exists({go!r}):
        time.sleep(0.005)
"""


def patient() -> SupervisorSettings:
    """Settings with which nobody is killed for being slow."""
    patience = Patience(PATIENCE_S, PATIENCE_S, PATIENCE_S)
    return SupervisorSettings(patience=patience, stop_s=PATIENCE_S)


@dataclass
class Rig:
    """A mesh that runs in a thread of the test.

    An NF whose handler calls `stand_still` keeps the mesh from ending before the test lets it
    (`go`) or waits for its end.

    Attributes:
        folder: readable for NFs, whoever they run as.
    """

    folder: Path
    settings: SupervisorSettings = field(default_factory=patient)
    supervisor: Supervisor | None = None
    outcome: Outcome | None = None
    _thread: threading.Thread | None = None

    def nf(self, name: str, body: str) -> str:
        """Writes an NF's file; returns how a spec names it."""
        path = self.folder / f"{name}.py"
        helpers = HELPERS.format(go=str(self.folder / "go"))
        path.write_text("import os, time\nfrom mesh import *\n" + textwrap.dedent(body) + helpers)
        path.chmod(0o644)
        return str(path)

    def go(self) -> None:
        """Lets NFs go on that stand still, and lets those to come pass."""
        (self.folder / "go").touch()

    def capture(self, conversations: int, name: str = "in.pcap") -> Path:
        """Writes a capture of so many HTTP conversations."""
        frames: list[bytes] = []
        for i in range(conversations):
            request = f"GET /{i} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
            client = f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}"
            frames += [
                frame.data
                for frame in conversation(
                    [("client", request), ("server", answer)], client=(client, 40000)
                )
            ]
        path = self.folder / name
        write_capture(path, timed(frames))
        return path

    def start(self, nfs: Sequence[Mapping[str, Any]], capture: Path, **spec: Any) -> None:
        """Starts a mesh."""
        plain = {"nfs": list(nfs), "ports": [{"pcap": str(capture)}], **spec}
        checked = with_files(parse(plain), self.folder)
        run = RunFolder("t", self.folder / "run", self.settings.users.group)
        desired = Desired(1, checked.model_dump(mode="json", exclude_unset=True))
        save_desired(run.path, desired)
        self.supervisor = Supervisor(run, self.settings)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        assert self.supervisor is not None
        self.outcome = self.supervisor.run()

    def child(self, name: str) -> Child:
        """Returns a child that has a process, once it has."""
        supervisor = self.supervisor
        assert supervisor is not None

        def is_there() -> bool:
            assert self.outcome is None, f"it ended: {self.outcome}"
            child = supervisor.children.get(name)
            return child is not None and child.process is not None

        wait_for(is_there)
        return supervisor.children[name]

    def running(self, name: str, after: int = 0) -> int:
        """Returns the pid of a child once it runs, as another process than `after`."""

        def pid() -> int:
            child = self.child(name)
            process = child.process
            runs = process is not None and process.pid != after and child.state == "running"
            return process.pid if process is not None and runs else 0

        return wait_for(pid)

    def ring(self, name: str) -> RingStats:
        """Returns how far a ring is; nothing in it when nobody has laid it out."""
        ffi, lib = native()
        nothing = RingStats(ring=name, entries=0, head=0, tail=0)
        if self.supervisor is None or name not in self.supervisor.objects:
            return nothing
        at = lib.nfm_ring_attach(self.supervisor.objects[name].fd, ffi.new("nfm_error *"))
        if at == ffi.NULL:
            return nothing
        try:
            return ring_stats(name, at)
        finally:
            lib.nfm_ring_detach(at)

    def handled(self, name: str) -> int:
        """Returns how many entries an NF with a checkpoint has had."""
        journal = self.child(name).journal
        found = None if journal is None else journal.load()
        return int(found["counts"]["events"]) if isinstance(found, dict) else 0

    def wait(self) -> Outcome:
        """Waits until the mesh is over; nobody stands still meanwhile."""
        assert self._thread is not None
        self.go()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), self.describe()
        assert self.outcome is not None
        return self.outcome

    def report(self) -> Mapping[str, Any]:
        """Waits and returns the report by NF's name."""
        outcome = self.wait()
        assert outcome.report is not None, f"{outcome.error}\n{self.describe()}"
        return {nf["name"]: nf for nf in outcome.report["nfs"]}

    def describe(self) -> str:
        """Says where everybody is."""
        assert self.supervisor is not None
        return "\n".join(map(str, self.supervisor.stats().processes))

    def close(self) -> None:
        self.go()
        if self.supervisor is not None:
            self.supervisor.stop()
            self.supervisor.stop()
            if self._thread is not None:
                self._thread.join(PATIENCE_S)
            self.supervisor.close()


@contextmanager
def rig(settings: SupervisorSettings | None = None) -> Iterator[Rig]:
    """Makes a rig in a folder that every user can read."""
    folder = Path(tempfile.mkdtemp(prefix="nfmesh-"))
    folder.chmod(0o755)
    made = Rig(folder, settings or patient())
    try:
        yield made
    finally:
        made.close()
        left = [path for path in (folder / "run").glob("*") if path.stem != "cores"]
        shutil.rmtree(folder)
        assert not left


@contextmanager
def few_descriptors_left(n: int) -> Iterator[None]:
    """Leaves this process so many descriptors to open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, limits[1]))
    fillers: list[int] = []
    try:
        while True:
            try:
                fillers.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        for _ in range(n):
            os.close(fillers.pop())
        yield
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def wait_for(condition: Callable[[], T]) -> T:
    """Waits until something holds, and returns it."""
    found: T = until(condition, nap=0.005)
    return found


def is_alive(pid: int) -> bool:
    """True while a process is there, zombies not counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
