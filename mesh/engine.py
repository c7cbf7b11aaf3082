# SPDX-License-Identifier: Apache-2.0
"""The engine: a plan applied to native workers, run in this process.

Theory of operation: the worker runs until a budget of packets is done, a ring wants draining, or
the end. Then a round serves every NF once, publishers before their subscribers (mesh/seat.py says
in which order events arrive), and the worker goes on. Everything happens in the calling thread, so
the same capture and plan give the same calls. Of several workers, which read the same capture, one
after the other has its turn, none gets further ahead than a turn, and what they found comes to NFs
in the order of packets.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from mesh._ffi import check, native
from mesh.capacity import SIZES, check_capacity
from mesh.commands import Commands
from mesh.errors import NFError, SpecError, StateError
from mesh.events import Catalogue
from mesh.module import ModuleInfo
from mesh.native_nf import load
from mesh.native_worker import (
    Filters,
    NativeWorker,
    Sharing,
    Terms,
    counters_of,
    worker_config,
)
from mesh.nf import NF, Context
from mesh.options import nf_config
from mesh.placing import Place
from mesh.plan import HeardPart, Plan, PlannedNF, PlannedSubscription
from mesh.ports import Port
from mesh.publish import Published
from mesh.raisers import raisable_of
from mesh.report import (
    NFReport,
    Progress,
    Report,
    Statistics,
    merged_counters,
    merged_statistics,
)
from mesh.seat import Heard, Seat

__all__ = ["Engine"]

RING_ENTRIES = 4096
"""A round's batch is at most this long: large enough for numpy, small enough for the cache."""
BURST = 32
"""Packets between two rounds where NFs decide on them: what follows may depend on it."""
BUDGET = 65536
"""Packets between two looks at the clock and at Ctrl-C."""
TURN = 256
"""Packets of one of several workers before the next has its turn."""
MAX_FAILURES = 10
PROGRESS_S = 0.1


class Engine:
    """Workers with their NFs. Make it, run it, close it; or use it in a `with`.

    Args:
        plan: what to run.
        port: where packets come from; closed with the engine.
        modules: the plan's stack modules by name.
        config: sizes and switches that override the defaults, by name in nfm_worker_config.
        out: folder for files that NFs write.
        max_failures: exceptions after which an NF hears nothing more.
        sink: where packets go to; closed with the engine. None: they only come.
        others: ports over the same packets: a further worker for each shares them.

    Raises:
        SpecError: `config` names what a worker does not have.
        CapacityError: the plan does not fit the worker, or the worker not into memory.
        NFError: an NF's constructor failed.
        PlanError: a native NF cannot be loaded.
    """

    def __init__(
        self,
        plan: Plan,
        port: Port,
        modules: Mapping[str, ModuleInfo],
        *,
        config: Mapping[str, int] | None = None,
        out: Path | None = None,
        max_failures: int = MAX_FAILURES,
        sink: Port | None = None,
        others: Sequence[Port] = (),
    ) -> None:
        self.plan, self.port, self.sink = plan, port, sink
        self._ports = (port, *others)
        self._out, self._max_failures = out or Path(), max_failures
        self._filters = Filters(plan.catalogue)
        self._cleanups: list[Callable[[], None]] = []
        row = worker_config(config or {})
        sizes = {name: int(getattr(row, name)) for name in SIZES}
        check_capacity(plan, [modules[m.name].descriptor for m in plan.modules], sizes)
        self._workers: list[NativeWorker] = []
        self._interrupted = False
        self._has_run = False
        self._seats: list[Seat] = []
        try:
            for number in range(len(self._ports)):
                row.id = number
                self._workers.append(NativeWorker(row))
            self._set_up(modules)
        except BaseException:
            self.close()
            raise

    def _set_up(self, modules: Mapping[str, ModuleInfo]) -> None:
        for worker, port in zip(self._live(), self._ports, strict=True):
            worker.add_port(port)
            if self.sink is not None:
                worker.add_port(self.sink)
                worker.forward(0, 1)
            if len(self._ports) > 1:
                worker.share(Sharing(len(self._ports), read_by_all=1))
            for planned in self.plan.modules:
                worker.add_module(planned, modules[planned.name])
        self._seats = [self._seat(nf) for nf in self.plan.nfs]
        for worker in self._workers:
            worker.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the workers, native NFs and the ports; a second time does nothing."""
        while self._cleanups:
            self._cleanups.pop()()
        self._seats = []
        for worker in self._workers:
            worker.release_ports()
        self._workers = []
        for port in self._ports:
            port.close()

    def run(
        self,
        progress: Callable[[Progress], None] | None = None,
        max_packets: int | None = None,
    ) -> Report:
        """Runs to the end of the port.

        Ctrl-C ends the flows as at the end of a capture, so NFs still get their totals; pressed
        again it raises KeyboardInterrupt at once.

        Args:
            progress: called at most ten times a second, between rounds.
            max_packets: stop after so many frames, with the same ending.

        Returns:
            The report. What NFs raised is in there.

        Raises:
            StateError: it has run before.
            NativeError: the port failed.
            NFError: an NF did not start; nothing was read.
        """
        self._live()
        if self._has_run:
            raise StateError("an engine runs once: make another")
        self._has_run = True
        began = time.monotonic()
        self._start()
        with self._catching_interrupts():
            self._loop(progress, max_packets, began)
        nfs = tuple(seat.stop() for seat in self._seats)
        return self._report(nfs, time.monotonic() - began)

    def _start(self) -> None:
        """Starts every NF; when one fails, stops those that had started."""
        for seat in self._seats:
            ports = tuple((port.source,) for port in (self.port, self.sink) if port is not None)
            name, source = seat.planned.name, self.port.source
            types = self.plan.catalogue.numbers
            workers = len(self._ports)
            context = Context(name, source, self._out, {}, ports, types, workers)
            seat.start(context)
            if not seat.started:
                reports = [other.stop() for other in self._seats]
                raise next(error for nf in reports for error in nf.errors)

    def statistics(self) -> Statistics:
        """Returns a snapshot of the workers."""
        parts = [asdict(worker.statistics()) for worker in self._live()]
        return Statistics(**merged_statistics(parts))

    def counters(self) -> dict[str, int]:
        """Returns all counters by name, those that are zero too."""
        return merged_counters([worker.counters() for worker in self._live()], reads_all=True)

    def _live(self) -> list[NativeWorker]:
        if not self._workers:
            raise StateError("the engine is closed")
        return self._workers

    # ---- running -------------------------------------------------------------------------

    def _loop(
        self, progress: Callable[[Progress], None] | None, max_packets: int | None, began: float
    ) -> None:
        most = TURN if len(self._ports) > 1 else BUDGET
        if any(nf.is_inline for nf in self.plan.nfs):
            most = BURST
        told, running = began, list(self._live())
        while running:
            until = min(_frames(worker) for worker in running) + most
            last = until if max_packets is None else min(until, max_packets)
            running = [worker for worker in running if self._take_turn(worker, last, max_packets)]
            self._round()
            if progress is not None and time.monotonic() - told >= PROGRESS_S:
                told = time.monotonic()
                progress(self._progress(told - began))
        if progress is not None:
            progress(self._progress(time.monotonic() - began))

    def _take_turn(self, worker: NativeWorker, until: int, max_packets: int | None) -> bool:
        """Lets a worker go on to a packet; returns False at its end."""
        at = _frames(worker)
        if self._interrupted or at == max_packets:
            worker.finish()
        elif at >= until:
            return True
        return worker.run(max(0, until - at), self.port.source) != int(native().lib.NFM_RUN_EOF)

    def _round(self) -> None:
        """Serves every NF once, in the order of the plan."""
        blocks: list[Published] = []
        for seat in self._seats:
            self._drain(seat)
            seat.hear(blocks, self._now_ns)
            seat.poll(self._now_ns)
            published = seat.take_published()
            if published is not None:
                blocks.append(published)

    def _drain(self, seat: Seat) -> None:
        """Hands out what a seat's rings hold: of several in the order of packets."""
        workers = self._live() if seat.rings else []
        if len(workers) < 2 or self._interrupted:  # then workers end at different packets
            for number, worker in enumerate(workers):
                seat.drain(worker.memory, self._now_ns, number)
            return
        clocks = [_clock(worker) for worker in workers]
        found = 1
        while found:
            found = 0
            for number, worker in enumerate(workers):
                others = [other for other in range(len(workers)) if other != number]
                firsts = [seat.first(workers[o].memory, o) or clocks[o] for o in others]
                found += seat.drain(worker.memory, self._now_ns, number, min(firsts))

    def _now_ns(self) -> int:
        return max(worker.statistics().now_ns for worker in self._live())

    @contextmanager
    def _catching_interrupts(self) -> Iterator[None]:
        """Turns the first Ctrl-C into a flag; only the main thread may."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)
        if before is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True

    def _progress(self, seconds: float) -> Progress:
        stats, port = self.statistics(), self.port.statistics()
        return Progress(
            packets=stats.packets,
            bytes=stats.bytes,
            position=port.file_offset,
            size=port.file_size,
            seconds=seconds,
            flows=stats.flows_now,
        )

    def _report(self, nfs: tuple[NFReport, ...], seconds: float) -> Report:
        warning = self.port.warning
        return Report(
            source=self.port.source,
            seconds=seconds,
            statistics=self.statistics(),
            nfs=nfs,
            counters=merged_counters(
                [
                    counters_of(worker, [port])
                    for worker, port in zip(self._live(), self._ports, strict=True)
                ],
                reads_all=True,
            ),
            warnings=(warning,) if warning else (),
            interrupted=self._interrupted,
        )

    # ---- setting up ----------------------------------------------------------------------

    def _seat(self, planned: PlannedNF) -> Seat:
        instance = _instance_of(planned)
        self._check_inline(planned)
        made = [self._subscribe(planned, worker) for worker in self._live()]
        if True in made[0]:
            self._attach_native(instance, planned, [rings[True] for rings in made])
        seat = Seat(
            planned,
            instance,
            self.plan.catalogue,
            [rings[False] for rings in made if False in rings],
            [self._heard(sub, part) for sub in planned.subscriptions for part in sub.heard],
            self._max_failures,
        )
        seat.connect(
            {
                (number, is_native): Commands(ring, worker.take_commands)
                for number, (rings, worker) in enumerate(zip(made, self._live(), strict=True))
                for is_native, ring in rings.items()
            }
        )
        return seat

    def _check_inline(self, planned: PlannedNF) -> None:
        for sub in planned.subscriptions:
            if sub.mode == "inline" and self.sink is None:
                text = "inline NFs decide over packets that go on; say where these go (a sink)"
                raise SpecError(f"{planned.name}.{sub.name}.mode", text)

    def _subscribe(self, planned: PlannedNF, worker: NativeWorker) -> dict[bool, Any]:
        """Subscribes an NF at a worker; returns its rings there: Python's, and the native one."""
        rings: dict[bool, Any] = {}
        for sub in planned.subscriptions:
            is_native = not sub.method
            if sub.parts and is_native not in rings:
                rings[is_native] = _ring_of(planned, worker, self.plan.catalogue)
            for part in sub.parts:
                terms = Terms(sub.group, sub.per_flow, sub.mode == "inline", sub.stage)
                ring = rings[is_native]
                worker.subscribe(ring, sub.handler, part, self._filters, terms, sub.name)
        return rings

    def _attach_native(self, instance: NF, planned: PlannedNF, rings: Sequence[Any]) -> None:
        ffi, lib = native()
        handle, process, free = load(planned.cls, planned.options)
        instance.native_handle = handle
        self._cleanups.append(free)
        state = ffi.cast("void *", handle.state)
        for worker, ring in zip(self._live(), rings, strict=True):
            rc = lib.nfm_worker_attach_native(worker.pointer, ring, process, state)
            check(rc, f"NF {planned.name}")

    def _heard(self, sub: PlannedSubscription, part: HeardPart) -> Heard:
        types = tuple(self.plan.catalogue[name].id for name in part.names)
        made = None if part.where is None else self._filters.pointer(part.where, part.where_on)
        return Heard(sub.handler, types, made, part.as_type)


def _frames(worker: NativeWorker) -> int:
    """Number of the last frame, whoever's it was."""
    statistics = worker.statistics()
    return statistics.packets + statistics.foreign


def _clock(worker: NativeWorker) -> Place:
    """What a worker's further entries are not earlier than."""
    return worker.statistics().now_ns, _frames(worker)


def _ring_of(planned: PlannedNF, worker: NativeWorker, catalogue: Catalogue) -> Any:
    ring = worker.add_ring(RING_ENTRIES)
    if planned.is_inline:
        worker.make_inline(ring, fail_open=planned.fail_open, deadline_ms=0)
        worker.allow_raise(ring, raisable_of(catalogue, planned.raises))
    worker.allow_holds(ring, planned.holds)
    return ring


def _instance_of(planned: PlannedNF) -> NF:
    if planned.instance is not None:
        return planned.instance
    options = nf_config(planned.cls, planned.options, planned.name)
    try:
        return planned.cls(**options)
    except Exception as error:
        raise NFError(planned.name, "__init__", error) from error
