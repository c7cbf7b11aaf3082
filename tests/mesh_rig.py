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
from typing import Any

from patience import PATIENCE_S, until

from mesh.child import Child
from mesh.control.desired import Desired, save_desired, with_files
from mesh.rundir import RunFolder
from mesh.spec import parse
from mesh.supervisor import Outcome, Supervisor, SupervisorSettings
from mesh.testing import conversation, timed, write_capture


@dataclass
class Rig:
    """A mesh that runs in a thread of the test.

    Attributes:
        folder: readable for NFs, whoever they run as.
    """

    folder: Path
    settings: SupervisorSettings = field(default_factory=SupervisorSettings)
    supervisor: Supervisor | None = None
    outcome: Outcome | None = None
    _thread: threading.Thread | None = None

    def nf(self, name: str, body: str) -> str:
        """Writes an NF's file; returns how a spec names it."""
        path = self.folder / f"{name}.py"
        path.write_text("import os, time\nfrom mesh import *\n" + textwrap.dedent(body))
        path.chmod(0o644)
        return str(path)

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

    def running(self, name: str) -> int:
        """Returns the pid of a child once it runs."""
        child = self.child(name)
        wait_for(lambda: (child.state == "running" and child.process) or self.outcome)
        assert child.process is not None
        return child.process.pid

    def wait(self) -> Outcome:
        """Waits until the mesh is over."""
        assert self._thread is not None
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
    made = Rig(folder, settings or SupervisorSettings())
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


def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE_S) -> None:
    """Waits until something holds."""
    until(condition, patience=seconds, nap=0.005)


def is_alive(pid: int) -> bool:
    """True while a process is there, zombies not counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
