# SPDX-License-Identifier: Apache-2.0
"""One child as the supervisor keeps it: what it is, its process if it has one, how it fared."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Literal

from mesh.control.stats import ProcessStats
from mesh.control.wire import ChildPart
from mesh.fdpass import make_token
from mesh.forks import ForkServer
from mesh.journal import Journal, Phase
from mesh.process import CANNOT_START, Identity, Process, exit_text, resident_bytes
from mesh.restart import Backoff, CrashMemory, wants_restart
from mesh.spec import PatienceSpec

__all__ = ["MODULES", "Child", "Patience"]

State = Literal["starting", "running", "waiting", "done", "failed", "away"]
Role = Literal["controller", "worker", "module", "nf"]
MODULES: dict[Role, str] = {
    "controller": "mesh.control.controller",
    "worker": "mesh.worker",
    "module": "mesh.modulehost",
    "nf": "mesh.nfhost",
}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a child may give no sign of life, in seconds, by what it does.

    What is not said is what a spec that does not say it means.

    Attributes:
        start_s: until it is attached: loading its code, constructing the NF.
        run_s: between two looks at its ring, so also in one call of a handler.
        end_s: for the NF's `stop` and results.
    """

    start_s: float = PatienceSpec().start
    run_s: float = PatienceSpec().run
    end_s: float = PatienceSpec().end

    @classmethod
    def of(cls, spec: PatienceSpec) -> Patience:
        """Returns what a spec says."""
        return cls(spec.start, spec.run, spec.end)

    def within(self, seconds: float) -> Patience:
        """Returns one that is never longer than that."""
        return Patience(*(min(each, seconds) for each in astuple(self)))

    def limit(self, phase: Phase) -> float:
        """Returns what holds in a phase."""
        return {Phase.RUNNING: self.run_s, Phase.ENDING: self.end_s}.get(phase, self.start_s)


@dataclass(slots=True)
class Child:
    """A child that is kept running.

    Attributes:
        part: of the plan; None for the controller.
        cores: that it is pinned to; empty: not.
        shares: those are what others have left, not its own.
        key: its token, also its key to the controller.
        secret: what it reads at its start, when that is not its key.
        arguments: for its command line.
        journal: None for the controller.
        state: what it does; "waiting" to be started again, "away" as a guest.
        had_begun: its last process had come so far that it ran.
        is_unwanted: its end is not to be mended; was_told: it got a SIGTERM.
    """

    name: str
    role: Role
    identity: Identity
    part: ChildPart | None = None
    cores: tuple[int, ...] = ()
    journal: Journal | None = None
    key: bytes = field(default_factory=make_token, repr=False)
    secret: bytes | None = field(default=None, repr=False)
    arguments: tuple[str, ...] = ()
    process: Process | None = None
    state: State = "waiting"
    restart_at: float = 0.0
    started_at: float = 0.0
    starts: int = 0
    last_exit: str = ""
    had_begun: bool = False
    is_unwanted: bool = False
    was_told: bool = False
    backoff: Backoff = field(default_factory=Backoff)
    crashes: CrashMemory = field(default_factory=CrashMemory)
    hang: str = ""
    shares: bool = False

    @property
    def policy(self) -> Literal["always", "on-failure", "never"]:
        """When it is started again; a controller always is."""
        return "always" if self.part is None else self.part.restart

    def start(self, run: Path, forks: ForkServer | None = None) -> None:
        """Starts its process.

        Args:
            run: the mesh's run folder.
            forks: who forks it; None: it is executed.

        Raises:
            ProcessError: the system refuses.
        """
        arguments = ["--run", str(run), *self.arguments]
        if self.role != "controller":
            arguments += ["--name", self.name]
        if self.part is not None and self.part.module is not None:
            arguments += ["--part", json.dumps(asdict(self.part.module))]
        if self.role == "nf":
            arguments += self.crashes.arguments()
        if self.role in ("worker", "controller") and self.starts:
            arguments.append("--again")
        if self.journal is not None:
            self.journal.begin()
        self.state, self.hang, self.started_at = "starting", "", time.monotonic()
        self.starts += 1
        self.process = Process(
            self.name,
            MODULES[self.role],
            arguments,
            secret=self.key if self.secret is None else self.secret,
            secret_option="--key-fd" if self.role == "controller" else "--token-fd",
            identity=self.identity,
            cores=self.cores,
            forks=forks,
        )

    def ended(self, status: int, now: float) -> None:
        """Takes note of the end of its process, and of what follows from it."""
        if self.process is not None:
            self.process.close()
        self.process = None
        words = self.journal.read_last_words() if self.journal is not None else ""
        how = self.hang or exit_text(status)
        self.last_exit = (
            (words or how) if status == CANNOT_START else ": ".join(filter(None, (how, words)))
        )
        ran_s = now - self.started_at
        self.had_begun = self.journal is None or self.journal.life()[1] >= Phase.RUNNING
        if status != 0 and (status != CANNOT_START or self.role == "controller"):
            work = self.journal.at_hand() if self.journal is not None else None
            self.crashes.record(work, ran_s=ran_s, had_begun=self.had_begun)
        if self.is_unwanted or status == 0:
            self.state = "done"
        elif status == CANNOT_START and self.role != "controller":
            self.state = "failed"
        elif self.crashes.verdict:
            self.state = "failed"
            self.last_exit = f"{self.crashes.verdict}: {self.last_exit}"
        elif wants_restart(self.policy, status):
            self.state = "waiting"
            delay = self.backoff.delay(ran_s, is_mended=self.crashes.is_mended)
            self.restart_at = now + delay
        else:
            self.state = "failed"

    def refused(self, why: str, now: float) -> None:
        """Takes note that the system would not start its process."""
        self.crashes.record(None, ran_s=0.0, had_begun=self.had_begun)
        self.last_exit = why
        self.state = "failed" if self.crashes.verdict else "waiting"
        self.restart_at = now + self.backoff.delay(0.0)

    def check_life(self, patience: Patience, now: float, awake_since: float) -> None:
        """Kills its process when it hangs, and sees whether it runs by now.

        Args:
            patience: how long it may be silent.
            now: monotonic seconds.
            awake_since: since when the supervisor itself runs without a pause: a host that was
                suspended is no fault of the child.
        """
        if self.process is None or self.journal is None or self.hang:
            return
        beat_ns, phase = self.journal.life()
        if phase in (Phase.RUNNING, Phase.ENDING):
            self.state = "running"
        silent = now - max(beat_ns / 1e9, self.started_at, awake_since)
        if silent > patience.limit(phase):
            self.hang = f"no sign of life for {silent:.1f} s while {phase.name.lower()}"
            self.signal(signal.SIGKILL)

    def life(self, patience: Patience) -> tuple[float, float]:
        """Returns how long one that runs has given no sign of life, and how long it may."""
        if self.journal is None or self.state != "running":
            return 0.0, 0.0
        try:
            beat_ns, phase = self.journal.life()
        except ValueError:  # it has just been let go
            return 0.0, 0.0
        silent = time.monotonic() - max(beat_ns / 1e9, self.started_at)
        return round(max(0.0, silent), 3), patience.limit(phase)

    def signal(self, number: int) -> None:
        """Sends a signal, if there is anybody to get it."""
        if self.process is not None:
            self.process.signal(number)

    def stats(self, patience: Patience) -> ProcessStats:
        """Returns what a heartbeat says of it."""
        pid = self.process.pid if self.process is not None else 0
        silent_s, patience_s = self.life(patience)
        return ProcessStats(
            name=self.name,
            role=self.role,
            pid=pid,
            uid=self.identity.effective_uid,
            state=self.state,
            cores_asked=list(self.part.cores or ()) if self.part is not None else [],
            cores=_affinity(pid),
            restarts=max(0, self.starts - 1),
            last_exit=self.last_exit[:4096],
            memory_bytes=resident_bytes(pid) if pid else 0,
            silent_s=silent_s,
            patience_s=patience_s,
        )


def _affinity(pid: int) -> list[int]:
    try:
        return sorted(os.sched_getaffinity(pid)) if pid else []
    except ProcessLookupError:
        return []
