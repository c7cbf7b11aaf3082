# SPDX-License-Identifier: Apache-2.0
"""The process of one worker: `python -m mesh.worker`, started by the supervisor.

Theory of operation. The stack runs in the main thread, inside C with the interpreter unlocked;
messages of the controller are seen between two runs, so a change takes effect at a known packet.
A plan's part says all that shall be: what differs from the part applied before is changed
(mesh/reconcile.py). The worker imports no NF's code: it gets rows of numbers and filters as text.
At the end of its ports it waits until every receiver has passed everything, ends the rings, and
reports. Begun again on a capture, it reads it from the start and does not push twice what its
predecessor pushed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mesh._ffi import native
from mesh.child_main import ChildHost, child_parser, run_child
from mesh.control import messages as m
from mesh.control.client import Control, Settings
from mesh.control.stats import PortStats, WorkerStats
from mesh.control.wire import WorkerPart, from_wire
from mesh.errors import MeshError, NativeError
from mesh.journal import Phase
from mesh.native_worker import layers_of
from mesh.port_capture import finish_captures, look_at_captures
from mesh.ports import Port
from mesh.process import CANNOT_START, resident_bytes
from mesh.recording import PortRecorder, Recordings
from mesh.stack import Stack

__all__ = ["WorkerHost", "main"]

POLL_S = 0.1
NAP_S = 0.0002
"""Between two looks at receivers that have still to pass their last entries."""
BUDGET = 16384
"""Packets between two looks at the controller's messages."""
SNAPSHOT_S = 0.1
LEAVE_S = 30.0


class WorkerHost(ChildHost):
    """Runs one worker from its start to its report.

    Args:
        name: in the plan.
        run: the mesh's run folder.
        token: of this start.
        is_again: a worker of this name ran before.
    """

    def __init__(self, name: str, run: Path, token: bytes, *, is_again: bool) -> None:
        super().__init__(name, run, token)
        self._is_again, self._mesh = is_again, str(run)
        self._stack: Stack | None = None
        self._ready = m.Ready(revision=0)
        self._snapshot: WorkerStats | None = None
        self._snapshot_at = 0.0
        self._may_run = self._is_stopping = self._has_left = self._is_interrupted = False
        abi = int(native().lib.nfm_abi_version())
        cores = sorted(os.sched_getaffinity(0))
        register = m.Register(role="worker", pid=os.getpid(), abi=abi, cores=cores)
        address = f"ipc://{run}/control"
        self.control = Control(Settings(address, name, token, register, lambda: self._snapshot))
        self._recordings = Recordings(self._recorder, self.control.send)

    def close(self) -> None:
        """Frees the stack and says goodbye to the controller."""
        self._recordings.close()
        self.control.close()
        if self._stack is not None:
            self._stack.close()
        super().close()

    def stop(self, *_: object) -> None:
        """Ends the flows as at the end of a capture: also a signal handler."""
        self._is_stopping = self._is_interrupted = True

    def run(self) -> int:
        """Runs the worker; returns the exit status of the process."""
        began = time.monotonic()
        try:
            if not self._loop():
                return 0
        except MeshError as error:
            self.journal.last_words(str(error))
            self.control.send(m.Failed(where="worker", text=str(error), fatal=True))
            return CANNOT_START
        self._end(time.monotonic() - began)
        return 0

    def _loop(self) -> bool:
        """Takes packets until the end; returns False when told to leave before."""
        lib = native().lib
        is_finishing = False
        while not self._has_left:
            self._look(wait=not self._may_run)
            stack = self._stack
            if stack is None or not (self._may_run or self._is_stopping):
                self.journal.beat(Phase.STARTING)
                continue
            self.journal.beat(Phase.RUNNING)
            if not is_finishing and (self._is_stopping or stack.left == 0):
                stack.worker.finish()
                is_finishing = True
            reason = stack.run(BUDGET)
            self._take_snapshot(stack)
            if reason == lib.NFM_RUN_EOF:
                return True
            if reason == lib.NFM_RUN_DRAIN and stack.part.mode == "file":
                time.sleep(NAP_S)
        return False

    def _look(self, *, wait: bool) -> None:
        """Does what the controller has said."""
        message = self.control.poll(POLL_S if wait else 0.0)
        while message is not None:
            if isinstance(message, m.PlanPart):
                self._apply(message)
            elif isinstance(message, m.Go):
                self._go(message)
            elif isinstance(message, m.Drain):
                self._is_stopping = True
            elif isinstance(message, m.Leave):
                self._has_left = True
            elif isinstance(message, m.Record):
                self._recordings.begin(message)
            elif isinstance(message, m.RecordEnd):
                self._recordings.finish(message)
            message = self.control.poll()

    def _apply(self, message: m.PlanPart) -> None:
        if message.revision <= self._ready.revision:
            self.control.send(self._ready)  # it holds from where it did
            return
        part = from_wire(WorkerPart, message.part)
        if self._stack is None:
            self._stack = Stack(part, self._client, is_again=self._is_again, mesh=self._mesh)
        else:
            try:
                self._stack.apply(part)
            except MeshError as error:
                self.control.send(m.Failed(where="plan", text=str(error)))
                return
        self._stack.revision = message.revision
        self._ready = m.Ready(
            revision=message.revision,
            effective_from=self._stack.frames + 1,
            positions=self._stack.positions(),
        )
        self.control.send(self._ready)

    def _recorder(self, wanted: m.Record) -> PortRecorder:
        return PortRecorder(self._stack.ports if self._stack is not None else (), wanted)

    def _go(self, message: m.Go) -> None:
        if not self._may_run and self._stack is not None:
            self._may_run = True
            self.control.send(m.Attached(revision=message.revision))

    def _take_snapshot(self, stack: Stack, *, at_once: bool = False) -> None:
        """Takes numbers for heartbeats, which another thread sends."""
        now = time.monotonic()
        if not at_once and now - self._snapshot_at < SNAPSHOT_S:
            return
        self._snapshot_at = now
        self._recordings.look()
        for port in stack.ports:
            if text := look_at_captures(port):
                self.control.send(m.Failed(where=port.source, text=text))
        stats = stack.worker.statistics()
        self._snapshot = WorkerStats(
            statistics={name: getattr(stats, name) for name in type(stats).__slots__},
            counters=stack.counters(),
            ports=[
                _port_stats(port, part.names)
                for port, part in zip(stack.ports, stack.part.ports, strict=True)
            ],
            rings=stack.ring_stats(),
            memory_bytes=resident_bytes(os.getpid()),
        )

    def _end(self, seconds: float) -> None:
        stack = self._stack
        if stack is None:
            return
        self.journal.beat(Phase.ENDING)
        native().lib.nfm_worker_end_rings(stack.worker.pointer)
        for port in stack.ports:
            with suppress(NativeError):  # its warning is in the report
                port.flush()
            finish_captures(port)
        self._take_snapshot(stack, at_once=True)
        stats = stack.worker.statistics()
        self.control.send(
            m.Eof(
                source=", ".join(port.source for port in stack.ports),
                seconds=seconds,
                statistics={name: getattr(stats, name) for name in type(stats).__slots__},
                counters=stack.counters(),
                warnings=[port.warning for port in stack.ports if port.warning],
                interrupted=self._is_interrupted,
            )
        )
        self.control.send(m.Drained(position=stack.positions()))
        until = time.monotonic() + LEAVE_S
        while time.monotonic() < until and not self._has_left:
            self.journal.beat(Phase.ENDING)
            self._look(wait=True)


def _port_stats(port: Port, names: tuple[str, ...]) -> PortStats:
    stats = port.statistics()
    counters = {name: getattr(stats, name) for name in type(stats).__slots__}
    counters |= layers_of(port)
    warning = port.warning or ""
    return PortStats(source=port.source, counters=counters, warning=warning, names=list(names))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the process; the arguments are the supervisor's."""
    parser = child_parser("mesh.worker")
    parser.add_argument("--again", action="store_true", help="one of this name ran before")
    given = parser.parse_args(argv)

    def make(token: bytes) -> WorkerHost:
        return WorkerHost(given.name, given.run, token, is_again=given.again)

    return run_child(given, make, is_worker=True)


if __name__ == "__main__":
    sys.exit(main())
