# SPDX-License-Identifier: Apache-2.0
"""One NF at its place in an engine: its ring, its handlers, its failures.

Order of delivery. A round hands an NF everything that its ring holds, in runs. Within a run each
handler gets one batch, handlers in the order of the class, and within a batch events stand in the
order of the stack. Events published by NFs before it in the plan follow after its ring is empty,
publisher by publisher. Who needs one order over several event types names them in one `@on`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mesh._ffi import native
from mesh.batch import EventBatch
from mesh.columns import DESC, Schema
from mesh.commands import Commands, FlowControl, Group
from mesh.errors import NFError
from mesh.events import Catalogue
from mesh.memory import Memory
from mesh.nf import NF, Context
from mesh.placing import Place, count_until, place_of
from mesh.plan import PlannedNF
from mesh.publish import Block, Published, Row, encode
from mesh.report import NFReport
from mesh.verdicts import Verdicts, fitting

__all__ = ["Heard", "NativeProcess", "Seat", "SeatCounts"]

KEPT_ERRORS = 10
_HANDLER_SHIFT = np.uint64(48)
_HANDLER_MASK = np.uint64(0xFF)
_RAISED = (Exception, SystemExit, GeneratorExit)
"""What an NF may raise without ending the run of the others: all but KeyboardInterrupt."""


NativeProcess: TypeAlias = Callable[[Memory, Any, Any, int, "Verdicts | None"], None]
"""Calls a native NF: memory, ring (`nfm_ring *`), `n` descriptors (`nfm_desc *`), verdicts."""


@dataclass(slots=True)
class _Run:
    """A run of ring entries: `n` from `desc` (`nfm_desc *`) on."""

    memory: Memory
    desc: Any
    n: int
    worker: int
    verdicts: Verdicts | None = None


@dataclass(frozen=True, slots=True)
class SeatCounts:
    """A snapshot of what an NF did.

    Attributes:
        events: entries handed to its Python handlers; batches: calls.
        handlers: entries by handler.
        published: by event name.
        failures: exceptions caught.
        lost: entries that its lossy rings had no room for.
    """

    events: int
    batches: int
    handlers: Mapping[str, int]
    published: Mapping[str, int]
    failures: int
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Heard:
    """A subscription's published half.

    Attributes:
        handler: its number.
        types: ids of the event types.
        filter: `nfm_filter *`, or None.
        as_type: id of the user event that they are delivered as; 0 as is.
    """

    handler: int
    types: tuple[int, ...]
    filter: Any
    as_type: int


class Seat:
    """Runs one NF.

    Args:
        planned: its part of the plan.
        instance: the object.
        catalogue: all event types.
        rings: `nfm_ring *` of its Python handlers by worker; none where it hears nothing of them,
            or somebody else takes what is there.
        heard: its subscriptions to published events.
        max_failures: exceptions after which it hears nothing more.
        natives: handler number → native function; none where the worker calls it itself.
    """

    def __init__(
        self,
        planned: PlannedNF,
        instance: NF,
        catalogue: Catalogue,
        rings: Sequence[Any],
        heard: Sequence[Heard],
        max_failures: int,
        natives: Mapping[int, NativeProcess] | None = None,
    ) -> None:
        self.planned, self.instance, self.rings = planned, instance, tuple(rings)
        self._catalogue, self._heard, self._max_failures = catalogue, heard, max_failures
        self._handlers = _handlers(planned, instance, catalogue)
        self._deciding = _deciding(planned)
        self._natives = dict(natives or {})
        self._commands: Mapping[tuple[int, bool], Commands] = {}
        self._failures = self._events = self._batches = self._lost = 0
        self._by_handler: Counter[str] = Counter()
        self._errors: list[NFError] = []
        self._published: Counter[str] = Counter()
        self._rows: list[Row] = []
        self._raised_rows: list[Row] = []
        self.started = False

    @property
    def is_disabled(self) -> bool:
        """True when it did not start or failed too often."""
        return not self.started or self._failures >= self._max_failures

    @property
    def is_native(self) -> bool:
        """True when all that it hears goes to its native function."""
        return bool(self._natives) and not self._handlers and not self._heard

    def start(self, ctx: Context) -> None:
        """Calls the NF's `start`; a failure disables it."""
        try:
            self.instance.start(ctx)
            self.started = True
        except _RAISED as error:
            self._failed("start", error)

    def stop(self) -> NFReport:
        """Calls `stop` and `results` of an NF that has started; returns the report."""
        results = None
        if self.started:
            try:
                self.instance.stop()
                results = _mapping(self.instance.results())
            except _RAISED as error:
                self._failed("stop", error)
        return NFReport(
            name=self.planned.name,
            events=self._events,
            batches=self._batches,
            published=dict(self._published),
            results=results,
            errors=tuple(self._errors),
            failures=self._failures,
            disabled=self.is_disabled,
        )

    def connect(self, commands: Mapping[tuple[int, bool], Commands]) -> None:
        """Gives the NF its way to the workers.

        Args:
            commands: (worker's id, whether of the native ring) → queue.
        """
        self._commands = commands
        self.instance._flows = FlowControl(
            _groups(self.planned), commands, is_inline=self.planned.is_inline
        )

    def lose(self, entries: int, now_ns: Callable[[], int]) -> None:
        """Tells the NF of a gap in a lossy ring."""
        self._lost += entries
        if not self.is_disabled:
            self._guarded(lambda: self.instance.lost(entries), "lost", now_ns)

    def drain(
        self,
        memory: Memory,
        now_ns: Callable[[], int],
        worker: int = 0,
        until: Place | None = None,
    ) -> int:
        """Hands out what a worker's ring holds, and passes it; returns how many entries.

        Args:
            memory: the worker's.
            now_ns: event time.
            worker: its number.
            until: entries that are later stay there; None: all are handed out.
        """
        ffi, lib = native()
        desc, ring, total = ffi.new("nfm_desc **"), self.rings[worker], 0
        while n := int(lib.nfm_ring_peek(ring, desc, 0xFFFFFFFF)):
            if until is not None:
                n = count_until(memory, desc[0], n, until)
            if n and self.planned.edits:
                n = fitting(ring, memory, desc[0], n)  # the worker takes first what was said before
            if n == 0:
                break
            try:
                self.deliver(memory, desc[0], n, now_ns, worker)
            finally:
                lib.nfm_ring_advance(ring, n)
            total += n
        return total

    def first(self, memory: Memory, worker: int) -> Place | None:
        """Returns the place of the next entry of a worker's ring; None: it is empty."""
        ffi, lib = native()
        desc = ffi.new("nfm_desc **")
        n = lib.nfm_ring_peek(self.rings[worker], desc, 1)
        return place_of(memory, desc[0][0]) if n else None

    def deliver(
        self, memory: Memory, desc: Any, n: int, now_ns: Callable[[], int], worker: int = 0
    ) -> None:
        """Hands out a run of a worker's ring entries; the caller passes them afterwards."""
        run = _Run(memory, desc, n, worker)
        if self.planned.is_inline:
            run.verdicts = Verdicts.of_ring(self._commands[worker, False].ring, n)
        if not self.is_disabled:
            self._run(run, now_ns)
        elif run.verdicts is not None:
            run.verdicts.fail(slice(None), is_open=self.planned.fail_open)

    def hear(self, blocks: Iterable[Block], now_ns: Callable[[], int]) -> None:
        """Hands out what NFs before it published in this round."""
        for block in blocks:
            for heard in self._heard:
                schema = self._handlers[heard.handler][0]
                batch = block.batch(schema, heard.types, heard.filter, heard.as_type)
                if batch is not None and not self.is_disabled:
                    self._call(heard.handler, batch, None, None, now_ns)

    def poll(self, now_ns: Callable[[], int]) -> None:
        """Calls the NF's `poll`."""
        if not self.is_disabled:
            self._guarded(self.instance.poll, "poll", now_ns)

    def counts(self) -> SeatCounts:
        """Returns what it did so far."""
        return SeatCounts(
            self._events,
            self._batches,
            dict(self._by_handler),
            dict(self._published),
            self._failures,
            self._lost,
        )

    def replan(self, planned: PlannedNF, catalogue: Catalogue, heard: Sequence[Heard]) -> None:
        """Goes on with other subscriptions: what is delivered from now on was meant for them."""
        self.planned, self._catalogue, self._heard = planned, catalogue, heard
        self._handlers = _handlers(planned, self.instance, catalogue)
        self._deciding = _deciding(planned)
        self.connect(self._commands)

    def resume(self, counts: SeatCounts) -> None:
        """Goes on counting where another seat of the same NF stopped."""
        self._events, self._batches = counts.events, counts.batches
        self._by_handler, self._published = Counter(counts.handlers), Counter(counts.published)
        self._failures, self._lost = counts.failures, counts.lost

    def fail(self, label: str, error: BaseException) -> None:
        """Counts an exception of the NF that was caught outside of its handlers."""
        self._failed(label, error)

    def show_raised(self, on: bool) -> None:
        """Says whether what its handlers raise is to be kept for `take_raised`."""
        self.instance._raised = [] if on else None

    def take_raised(self) -> Published | None:
        """Returns copies of what the NF raised since the last call, while they are kept."""
        if not self._raised_rows:
            return None
        block = Published(self._raised_rows)
        self._raised_rows = []
        return block

    def take_published(self) -> Published | None:
        """Returns what the NF published since the last call."""
        if not self._rows:
            return None
        block = Published(self._rows)
        self._rows = []
        return block

    def _run(self, run: _Run, now_ns: Callable[[], int]) -> None:
        commands = self._commands.get((run.worker, False))
        if len(self._handlers) + len(self._natives) == 1:
            self._run_all(run, commands, now_ns)
            return
        ffi = native().ffi
        rows = np.frombuffer(ffi.buffer(run.desc, run.n * DESC.itemsize), DESC)
        numbers = (rows["what"] >> _HANDLER_SHIFT) & _HANDLER_MASK
        for number in (*self._handlers, *self._natives):
            places = np.flatnonzero(numbers == number)
            if len(places) == 0:
                continue
            chosen = rows[places]
            part = _Run(run.memory, ffi.from_buffer("nfm_desc[]", chosen), len(chosen), run.worker)
            if number in self._natives:
                part.verdicts = None if run.verdicts is None else Verdicts.empty(len(chosen))
                self._call_native(self._natives[number], part, now_ns)
                if run.verdicts is not None and part.verdicts is not None:
                    run.verdicts.scatter(places, part.verdicts)
            else:
                schema = self._handlers[number][0]
                batch = EventBatch(schema, run.memory, part.desc, part.n, chosen, commands)
                self._call(number, batch, run.verdicts, places, now_ns)

    def _run_all(self, run: _Run, commands: Commands | None, now_ns: Callable[[], int]) -> None:
        """Hands a whole run to the only handler that there is."""
        if self._natives:
            [process] = self._natives.values()
            self._call_native(process, run, now_ns)
            return
        [(number, (schema, _, _))] = self._handlers.items()
        batch = EventBatch(schema, run.memory, run.desc, run.n, None, commands)
        self._call(number, batch, run.verdicts, None, now_ns)

    def _call_native(self, process: NativeProcess, run: _Run, now_ns: Callable[[], int]) -> None:
        ring = self._commands[run.worker, True].ring
        call = functools.partial(process, run.memory, ring, run.desc, run.n, run.verdicts)
        if not self._guarded(call, "native", now_ns) and run.verdicts is not None:
            run.verdicts.fail(slice(None), is_open=self.planned.fail_open)

    def _call(
        self,
        number: int,
        batch: EventBatch,
        verdicts: Verdicts | None,
        places: npt.NDArray[np.intp] | None,
        now_ns: Callable[[], int],
    ) -> None:
        _, method, label = self._handlers[number]
        decides = verdicts is not None and number in self._deciding
        if decides and verdicts is not None:
            batch.decide(verdicts, places)
        self._events += len(batch)
        self._batches += 1
        self._by_handler[label] += len(batch)
        if not self._guarded(lambda: method(batch), label, now_ns) and decides:
            rows = slice(None) if places is None else places
            if verdicts is not None:
                verdicts.fail(rows, is_open=self.planned.fail_open)
        batch.close()

    def _guarded(self, call: Callable[[], None], label: str, now_ns: Callable[[], int]) -> bool:
        """Calls the NF; returns whether it raised nothing."""
        published = self.instance._published
        before = self._failures
        try:
            call()
        except _RAISED as error:
            self._failed(label, error)
        if published or self.instance._raised:
            self._take_down(label, now_ns())
        return self._failures == before

    def _take_down(self, label: str, now_ns: int) -> None:
        """Encodes what was published while the batch that it is about is still valid."""
        try:
            for event, about in self.instance._published:
                self._rows.append(encode(self._catalogue, event, about, now_ns))
                self._published[event.event_name] += 1
            for event, about in self.instance._raised or ():
                self._raised_rows.append(encode(self._catalogue, event, about, now_ns))
        except Exception as error:
            self._failed(f"{label} (publish)", error)
        finally:
            self.instance._published.clear()
            if self.instance._raised is not None:
                self.instance._raised.clear()

    def _failed(self, label: str, error: BaseException) -> None:
        self._failures += 1
        if len(self._errors) < KEPT_ERRORS:
            self._errors.append(NFError(self.planned.name, label, error))


def _mapping(results: Any) -> Mapping[str, Any] | None:
    if results is not None and not isinstance(results, Mapping):
        raise TypeError(f"results() returns a mapping or None, not {type(results).__name__}")
    return results


def _deciding(planned: PlannedNF) -> frozenset[int]:
    """Numbers of the handlers whose packets wait."""
    return frozenset(sub.handler for sub in planned.subscriptions if sub.mode == "inline")


def _groups(planned: PlannedNF) -> list[Group]:
    return [Group(s.group, s.name, s.events, not s.method) for s in planned.subscriptions]


_Handlers = dict[int, tuple[Schema, Callable[[EventBatch], None], str]]


def _handlers(planned: PlannedNF, instance: NF, catalogue: Catalogue) -> _Handlers:
    """Handler number → schema, bound method and label; subscriptions of one method are one."""
    events: dict[int, list[str]] = {}
    methods: dict[int, str] = {}
    for sub in planned.subscriptions:
        if sub.method:
            events.setdefault(sub.handler, []).extend(sub.events)
            methods[sub.handler] = sub.method
    return {
        number: (
            Schema(catalogue, tuple(dict.fromkeys(names))),
            getattr(instance, methods[number]),
            methods[number],
        )
        for number, names in sorted(events.items())
    }
