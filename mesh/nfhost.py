# SPDX-License-Identifier: Apache-2.0
"""The process of one NF: `python -m mesh.nfhost`, started by the supervisor and by nobody else.

Theory of operation. Before it loads any code of the NF it gives up its privileges. It proves who it
is, and learns from the controller what to run. Then it loads the class (the only process beside the
controller that imports an NF's code), maps what it was granted, and serves the NF until its rings
end or it is told to drain. The report goes to the controller, which answers `leave`. The controller
may be away for any time: the loop does not ask it anything. What the NF raises is caught as in an
engine; whatever kills the process is the supervisor's to handle, and the journal tells how far it
was.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from mesh._ffi import native
from mesh.child_main import ChildHost, child_parser, run_child
from mesh.control import messages as m
from mesh.control.client import Control, Settings
from mesh.control.stats import NFStats
from mesh.control.wire import NFPart, from_wire
from mesh.errors import MeshError, NFError, NFMissing
from mesh.journal import Phase, Work
from mesh.nfloop import IDLE_NS, Caution, Change, NFLoop
from mesh.nfseat import Station
from mesh.process import CANNOT_START, resident_bytes
from mesh.publish import Block
from mesh.recording import NFRecorder, Recordings
from mesh.report import NFReport
from mesh.sources import RingSource

__all__ = ["HostGone", "NFHost", "caution_of", "cpus_allowed", "main"]

POLL_S = 0.1
LEAVE_S = 30.0
"""How long a report waits for a controller that takes it."""
LINGER_S = 0.5
"""How long its last words may take to the controller."""
HOLD_S = 10.0
"""How long a change of the plan may take before the NF goes on without."""
LOOK_S = 0.02
"""Time between two looks at the controller's messages while events flow."""
SPIN_NS = 20_000
BUSY_NS = 1_000_000_000
"""Longer than any wait: an NF that is busy never sleeps."""
_Message = TypeVar("_Message", bound=m.Body)


class HostGone(Exception):
    """The supervisor is gone, and its memory means nothing any more."""


class LeaveNow(Exception):
    """The controller or a signal wants this process to end before it has begun."""


class NFHost(ChildHost):
    """Runs one NF from its start to its report.

    Args:
        name: in the plan.
        run: the mesh's run folder.
        token: of this start.
        caution: what earlier crashes teach.
    """

    def __init__(self, name: str, run: Path, token: bytes, caution: Caution) -> None:
        super().__init__(name, run, token)
        self._caution = caution
        self._station: Station | None = None
        self._loop: NFLoop | None = None
        self._newer: m.PlanPart | None = None
        self._is_draining = self._has_left = False
        self._leave_s, self._linger_s = LEAVE_S, LINGER_S
        self._looked_at = 0.0
        key = self._client.welcome.get("key", token)
        address = f"ipc://{run}/control"
        self.control = Control(Settings(address, name, key, self._register(), self._stats))
        self._recordings: Recordings[NFRecorder] = Recordings(NFRecorder, self.control.send)

    def _register(self) -> m.Register:
        abi = int(native().lib.nfm_abi_version())
        return m.Register(
            role="nf", pid=os.getpid(), abi=abi, cores=sorted(os.sched_getaffinity(0))
        )

    def _check_host(self) -> None:
        """Raises HostGone when there is no supervisor any more; a child of it is gone then, too."""

    def close(self) -> None:
        """Frees native code and the journal, and says goodbye to the controller."""
        self._recordings.close()
        if self._station is not None:
            self._station.close()
        self.control.close(self._linger_s)
        super().close()

    def stop(self, *_: object) -> None:
        """Makes the loop finish what is there: also a signal handler."""
        self._is_draining = True

    def run(self) -> int:
        """Runs the NF; returns the exit status of the process."""
        try:
            loop = self._begin()
        except LeaveNow:
            return 0
        except MeshError as error:
            self._give_up(error)
            return CANNOT_START
        self._serve(loop)
        self._end(loop)
        return 0

    def _give_up(self, error: MeshError) -> None:
        where = {NFMissing: "import", NFError: "start"}.get(type(error), "plan")
        text = f"{error}{_remedy(error)}"
        self.journal.last_words(text)
        self.control.send(m.Failed(where=where, text=text, fatal=True))

    # ---- beginning -----------------------------------------------------------------------

    def _begin(self) -> NFLoop:
        plan = self._await(m.PlanPart)
        station = self._station = self._make(from_wire(NFPart, plan.part))
        station.revision = plan.revision
        self.control.send(m.Ready(revision=plan.revision))
        self._await(m.Go)
        sources = station.attach(self._client)
        spin_ns = _spin_ns(station.part)
        self._loop = loop = NFLoop(
            station.seat,
            sources,
            self.journal,
            log=station.log,
            published=self._tell,
            caution=self._caution,
            spin_ns=spin_ns,
            skew_ns=station.part.skew_ns,
            server=station.server(self.journal, spin_ns, IDLE_NS),
        )
        self._restore(loop)
        station.start()
        self.control.send(self._attached(plan.revision, station))
        if self._newer is not None:
            self._replan(self._newer)
        return loop

    def _make(self, part: NFPart) -> Station:
        return Station(part)

    def _restore(self, loop: NFLoop) -> None:
        loop.restore()

    def _attached(self, revision: int, station: Station) -> m.Attached:
        """Says where it runs, as whom, and what memory it maps."""
        backing = dict(station.backing)
        return m.Attached(revision=revision, cpus=cpus_allowed(), uid=os.getuid(), backing=backing)

    def _await(self, kind: type[_Message]) -> _Message:
        """Waits for a message of the controller, which may take its time."""
        while not self._is_draining:
            self._check_host()
            self.journal.beat(Phase.STARTING)
            message = self.control.poll(POLL_S)
            if isinstance(message, kind):
                return message
            if isinstance(message, m.PlanPart):  # of a controller that came back meanwhile
                self._newer = message
            if isinstance(message, m.Drain):
                self._take_leave({})
            if isinstance(message, m.Leave | m.Drain):
                break
        raise LeaveNow

    # ---- serving -------------------------------------------------------------------------

    def _serve(self, loop: NFLoop) -> None:
        while loop.round():
            self._look()
            if self._is_draining:
                self._finish(loop)
                return

    def _finish(self, loop: NFLoop) -> None:
        loop.finish()

    def _look(self) -> None:
        """Sees what the controller has said, now and then."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        self._check_host()
        self._recordings.look()
        loop = self._loop
        if loop is not None:
            loop.recorders = self._recordings.running
        while (message := self.control.poll()) is not None:
            if isinstance(message, m.Drain | m.Leave):
                self._leave(message)
            elif isinstance(message, m.PlanPart):
                self._replan(message)
            elif isinstance(message, m.Hold):
                self._hold(message)
            elif isinstance(message, m.Record):
                self._recordings.begin(message)
            elif isinstance(message, m.RecordEnd):
                self._recordings.finish(message)
            elif isinstance(message, m.Watch) and self._station is not None:
                self._station.watch(message.events)

    def _leave(self, message: m.Drain | m.Leave) -> None:
        self._is_draining = True
        self._has_left = isinstance(message, m.Leave)

    def _hold(self, message: m.Hold) -> None:
        """Takes nothing from rings until the part of the plan that follows, or for HOLD_S."""
        self.control.send(m.Held(revision=message.revision))
        until = time.monotonic() + HOLD_S
        while time.monotonic() < until and not self._is_draining:
            self._check_host()
            self.journal.beat(Phase.RUNNING)
            found = self.control.poll(POLL_S)
            if isinstance(found, m.PlanPart) and self._replan(found):
                return
            if isinstance(found, m.Drain | m.Leave):
                self._leave(found)
            elif isinstance(found, m.Hold):
                self.control.send(m.Held(revision=found.revision))
            elif isinstance(found, m.Watch) and self._station is not None:
                self._station.watch(found.events)

    def _replan(self, message: m.PlanPart) -> bool:
        """Goes on with another part of the plan; returns False for one that it has or cannot."""
        station, loop = self._station, self._loop
        if station is None or loop is None or message.revision <= station.revision:
            return False
        try:
            part = from_wire(NFPart, message.part)
            loop.sources += station.attach_new_logs(self._client, part)
        except MeshError as error:
            self.control.send(m.Failed(where="plan", text=str(error)))
            return False
        station.revision = message.revision
        loop.change(Change(message.after, lambda: station.replan(part)))
        self.control.send(m.Ready(revision=message.revision))
        return True

    def _tell(self, block: Block) -> None:
        """Sends published and raised events to who watches them."""
        station = self._station
        if station is None or not station.watched:
            return
        events, missed = station.shown(block)
        if events or missed:
            self.control.send(m.Published(events=events, missed=missed))

    def _stats(self) -> NFStats | None:
        """Makes a heartbeat, in the control thread: reads numbers, changes nothing."""
        station, loop = self._station, self._loop
        if station is None or loop is None:
            return None
        counts = station.seat.counts()
        rings = [s.ring.stats() for s in loop.sources if isinstance(s, RingSource)]
        return NFStats(
            events=counts.events,
            batches=counts.batches,
            handlers=dict(counts.handlers),
            published=dict(counts.published),
            failures=counts.failures,
            disabled=station.seat.is_disabled,
            rings=rings,
            log_gaps=station.log_gaps(),
            skipped=loop.skipped,
            memory_bytes=resident_bytes(os.getpid()),
        )

    # ---- ending --------------------------------------------------------------------------

    def _end(self, loop: NFLoop) -> None:
        self.journal.beat(Phase.ENDING)
        station = self._station
        if station is None:
            return
        report = station.stop()
        self.control.send(_result(report))
        self._take_leave(loop.positions())

    def _take_leave(self, positions: dict[str, int]) -> None:
        """Says that nothing is left to do, and waits to be let go."""
        self.control.send(m.Drained(position=positions))
        until = time.monotonic() + self._leave_s
        while time.monotonic() < until and not self._has_left:
            self._check_host()
            self.journal.beat(Phase.ENDING)
            if isinstance(self.control.poll(POLL_S), m.Leave):
                return


def cpus_allowed() -> str:
    """Returns Cpus_allowed_list of this thread, as the kernel writes it: "2-3"; "" if unknown."""
    try:
        with open("/proc/thread-self/status", encoding="ascii", errors="replace") as file:
            words = [line.split() for line in file if line.startswith("Cpus_allowed_list:")]
    except OSError:
        return ""
    return words[0][1] if words and len(words[0]) > 1 else ""


def _spin_ns(part: NFPart) -> int:
    if part.is_busy:
        return BUSY_NS
    return SPIN_NS if len(os.sched_getaffinity(0)) == 1 else 0


def _remedy(error: MeshError) -> str:
    if isinstance(error, NFError) and isinstance(error.cause, PermissionError):
        return (
            f"; the NF runs as user {os.getuid()}: a file that it writes is opened for it when "
            "NF.writes names the option with its path and NF.start uses ctx.open"
        )
    return ""


def _result(report: NFReport) -> m.Result:
    return m.Result(report=report.to_json())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the process; the arguments are the supervisor's."""
    parser = child_parser("mesh.nfhost")
    _add_caution(parser)
    given = parser.parse_args(argv)
    return run_child(given, lambda token: NFHost(given.name, given.run, token, _caution(given)))


def caution_of(words: Sequence[str]) -> Caution:
    """Reads what a supervisor says of earlier crashes (mesh/restart.py).

    >>> caution_of(["--skip=0:17"]).skip
    frozenset({(0, 17)})
    """
    parser = argparse.ArgumentParser()
    _add_caution(parser)
    return _caution(parser.parse_args(list(words)))


def _add_caution(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--careful", action="append", default=[], metavar="SOURCE:POSITION:N")
    parser.add_argument("--skip", action="append", default=[], metavar="SOURCE:POSITION")


def _caution(arguments: argparse.Namespace) -> Caution:
    careful = [Work(*(int(part) for part in text.split(":"))) for text in arguments.careful]
    skip = [text.partition(":") for text in arguments.skip]
    return Caution(tuple(careful), frozenset((int(a), int(b)) for a, _, b in skip))


if __name__ == "__main__":
    sys.exit(main())
