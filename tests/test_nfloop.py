"""The loop of an NF's process: how runs are cut, and that no event is written twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from eventlog_child import alerts, catalogue

from mesh.columns import Schema
from mesh.eventlog import LogReader, LogWriter, Run
from mesh.journal import JOURNAL_BYTES, Journal, Work
from mesh.nf import NF
from mesh.nfloop import PARTS, Caution, Change, NFLoop
from mesh.objects import Objects, cursor_size, log_size
from mesh.serving import Served
from mesh.sources import RingSource

TYPES = catalogue()


class Ring(RingSource):
    """A ring of `total` entries that are numbers."""

    def __init__(self, total: int) -> None:
        self.name, self.number, self.at, self.total = "ring/x/w0", 0, 0, total

    @property
    def position(self) -> int:
        return self.at

    @property
    def now_ns(self) -> int:
        return 1

    def take(self, most: int = 0xFFFFFFFF) -> int:
        return min(most, self.total - self.at)

    def hand(self, seat: Any, n: int, now_ns: Callable[[], int]) -> None:
        seat.hear(self.at, n)

    def passed(self, n: int) -> None:
        self.at += n

    def wait(self, spin_ns: int, timeout_ns: int) -> bool:
        return self.at < self.total


class Seat:
    """Publishes an event for every third entry; dies at `dies_at`."""

    is_disabled = False

    def __init__(self, dies_at: int = -1) -> None:
        self.instance, self.dies_at = NF(), dies_at
        self.runs: list[tuple[int, int]] = []
        self._published: Any = None

    def hear(self, first: int, n: int) -> None:
        if first <= self.dies_at < first + n:
            raise SystemExit
        self.runs.append((first, n))
        self._published = alerts(TYPES, first, n)

    def poll(self, now_ns: Callable[[], int]) -> None: ...

    def take_published(self) -> Any:
        return self._published

    def take_raised(self) -> Any: ...


@pytest.fixture
def objects() -> Iterator[SimpleNamespace]:
    made = Objects()
    yield SimpleNamespace(
        journal=made.create_sparse("ckpt/x", JOURNAL_BYTES).fd,
        log=made.create("log/x", log_size(1 << 20)).fd,
        cursor=made.create("cursor/x/y", cursor_size()).fd,
    )
    made.close()


def loop(objects: SimpleNamespace, ring: Ring, log: Any, seat: Seat, *caution: Work) -> NFLoop:
    return NFLoop(seat, [ring], Journal(objects.journal), log=log, caution=Caution(caution))


def run_out(made: NFLoop) -> None:
    while made.round():
        pass


class Torn:
    """A log whose writer is killed after so many events of a block."""

    def __init__(self, log: LogWriter, events: int) -> None:
        self._log, self._events = log, events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def write(self, block: Any) -> int:
        numbers = len(block)
        assert numbers > self._events
        first = self._log.pending(0).first
        self._log.write(alerts(TYPES, first, 3 * self._events))
        raise SystemExit


def heard(objects: SimpleNamespace) -> list[int]:
    schema, wanted = Schema(TYPES, ("source.alert",)), [TYPES["source.alert"].id]
    with LogReader(objects.log, objects.cursor) as reader:
        block = reader.read()
        batch = block.batch(schema, wanted, None, 0)
        return batch.number.tolist()


def test_a_run_whose_events_were_on_their_way_is_taken_whole_whatever_changes(objects):
    ring = Ring(90)
    with LogWriter(objects.log) as log, pytest.raises(SystemExit):
        loop(objects, ring, Torn(log, 10), Seat()).round()
    assert ring.at == 0
    with LogWriter(objects.log) as log:
        assert log.pending(0) == Run(0, 90)
        seat, applied = Seat(), []
        again = loop(objects, ring, log, seat)
        again.change(Change({ring.name: 40}, lambda: applied.append(ring.at)))
        again.round()
        assert seat.runs == [(0, 90)]
        assert applied == [90]
    assert heard(objects) == list(range(0, 90, 3))


def test_a_change_cuts_a_run_that_has_not_begun(objects):
    ring, seat, applied = Ring(90), Seat(), []
    made = loop(objects, ring, None, seat)
    made.change(Change({ring.name: 40}, lambda: applied.append(ring.at)))
    run_out(made)
    assert seat.runs == [(0, 40), (40, 50)]
    assert applied == [40]


def test_a_run_that_killed_is_gone_through_in_parts_that_get_smaller(objects):
    ring, caution, runs = Ring(1000), [], []
    while True:
        seat = Seat(dies_at=700)
        with LogWriter(objects.log) as log, pytest.raises(SystemExit):
            run_out(loop(objects, ring, log, seat, *caution))
        runs += seat.runs
        work = Journal(objects.journal).at_hand()
        if work.n == 1:
            break
        caution = [work]
    assert work == Work(0, 700, 1)
    assert len(runs) <= 3 * PARTS
    assert sum(n for _, n in runs) == 700
    with LogWriter(objects.log) as log:
        seat = Seat(dies_at=700)
        skip = frozenset({(0, 700)})
        made = NFLoop(
            seat, [ring], Journal(objects.journal), log=log, caution=Caution(tuple(caution), skip)
        )
        run_out(made)
    assert made.skipped == 1
    assert heard(objects) == [n for n in range(0, 1000, 3) if n != 700]


def test_entries_before_one_that_is_left_out_are_handled(objects):
    ring, seat = Ring(50), Seat(dies_at=20)
    made = NFLoop(seat, [ring], Journal(objects.journal), caution=Caution((), frozenset({(0, 20)})))
    run_out(made)
    assert seat.runs == [(0, 20), (21, 29)]
    assert made.skipped == 1


class NativeSeat(Seat):
    """The seat of a native NF: what it polls publishes an event for every third entry."""

    is_native = True

    def __init__(self, server: NativeServer) -> None:
        super().__init__()
        self.server = server

    def poll(self, now_ns: Callable[[], int]) -> None:
        if self.server.last:
            self._published = alerts(TYPES, *self.server.last)


class NativeServer:
    """Serves all that is there, in turns of 30 entries."""

    def __init__(self) -> None:
        self.turns: list[tuple[int, int]] = []
        self.last: tuple[int, int] | None = None

    def fits(self, sources: Any) -> bool:
        return True

    def turn(self, rings: list[Ring]) -> Served:
        [ring] = rings
        n = ring.take(30)
        self.last = (ring.at, n) if n else None
        self.turns.append((ring.at, n))
        ring.at += n
        return Served(batches=n, status=0, stopped=False, idle=n == 0, ended=n == 0)


def test_a_native_nf_is_served_without_python_and_publishes_what_it_polls(objects):
    ring, server = Ring(70), NativeServer()
    seat = NativeSeat(server)
    with LogWriter(objects.log) as log:
        run_out(NFLoop(seat, [ring], Journal(objects.journal), log=log, server=server))
    assert server.turns == [(0, 30), (30, 30), (60, 10), (70, 0)]
    assert seat.runs == []
    assert heard(objects) == list(range(0, 70, 3))


def test_what_killed_a_native_nf_is_gone_through_in_parts_before_it_is_served_again(objects):
    ring, server = Ring(100), NativeServer()
    seat = NativeSeat(server)
    caution = Caution((Work(0, 0, 32),), frozenset({(0, 40)}))
    made = NFLoop(seat, [ring], Journal(objects.journal), caution=caution, server=server)
    run_out(made)
    assert made.skipped == 1
    assert seat.runs[:2] == [(0, 2), (2, 2)]
    assert sum(n for _, n in seat.runs) == 40
    assert server.turns == [(41, 30), (71, 29), (100, 0)]


def test_a_change_waits_for_its_place_also_in_a_native_nf(objects):
    ring, server, applied = Ring(90), NativeServer(), []
    seat = NativeSeat(server)
    made = NFLoop(seat, [ring], Journal(objects.journal), server=server)
    made.change(Change({ring.name: 40}, lambda: applied.append(ring.at)))
    run_out(made)
    assert applied == [40]
    assert seat.runs == [(0, 40)]
    assert server.turns[0] == (40, 30)


def test_a_native_nf_that_is_recorded_is_served_run_by_run(objects):
    ring, server, shown = Ring(50), NativeServer(), []
    ring.show = lambda recorder, n: shown.append((ring.at, n))  # type: ignore[method-assign]
    seat = NativeSeat(server)
    made = NFLoop(seat, [ring], Journal(objects.journal), server=server)
    made.recorders = [object()]
    run_out(made)
    assert shown == seat.runs == [(0, 50)]
    assert server.turns == []
