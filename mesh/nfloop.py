# SPDX-License-Identifier: Apache-2.0
"""The loop of an NF's process: runs of entries, exactly once where the NF's state allows it.

Theory of operation. For each run, in this order: its bounds are noted in the NF's event log and in
the journal; it is handed out; what was published goes into the log; a checkpoint is stored that
says which run it covers; the source is advanced. Killed before the checkpoint, the next start
handles the run again with the same bounds from the state before it, and the log does not take the
same events twice. Killed after it, the next start lets the covered run go. So totals and events of
an NF that has `checkpoint` are those of an undisturbed run; others may see a run again, and their
state begins anew.

A run that killed the process is gone through in parts next time (`careful`), and a part that kills
in smaller ones, until the journal names the entry; the supervisor has one that kills again and
again left out (`skip`). A run whose events were on their way into the log is never cut: its bounds
are what the log knows them by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from mesh.errors import StateError
from mesh.eventlog import LogWriter, Run
from mesh.journal import Journal, Phase, Work
from mesh.nf import NF
from mesh.placing import Place
from mesh.publish import Published
from mesh.recording import NFRecorder
from mesh.seat import Seat, SeatCounts
from mesh.serving import Server
from mesh.sources import RingSource, Source, wait_any

__all__ = ["IDLE_NS", "Carried", "Caution", "Change", "NFLoop"]

IDLE_NS = 50_000_000
"""The longest sleep: how late a message of the controller may be seen."""
PARTS = 16
ALL = 0xFFFFFFFF
LAST: Place = ((1 << 63) - 1, (1 << 64) - 1)
LAG_NS = 500_000
"""Between two looks how far a worker is that has nothing for the NF."""


@dataclass(frozen=True, slots=True)
class Caution:
    """What earlier crashes teach.

    Attributes:
        careful: runs to go through in PARTS parts.
        skip: (source, position) of entries that are passed unheard.
    """

    careful: tuple[Work, ...] = ()
    skip: frozenset[tuple[int, int]] = frozenset()

    def part(self, source: int, position: int) -> tuple[int, int]:
        """Returns how many entries from here on killed the process, and how many to take of them.

        (0, 0) where nothing is known.
        """
        for work in self.careful:
            if (work.source, work.position) == (source, position):
                return work.n, max(1, work.n // PARTS)
        return 0, 0

    def is_past(self, source: int, position: int) -> bool:
        """Says whether nothing that it knows of a source is still to come."""
        last = [work.position + work.n for work in self.careful if work.source == source]
        last += [at + 1 for number, at in self.skip if number == source]
        return max(last, default=0) <= position

    def next_skip(self, source: int, position: int) -> int:
        """Returns how many entries lie before the next one of a ring that is left out."""
        ahead = [at - position for number, at in self.skip if number == source and at > position]
        return min(ahead, default=ALL)


@dataclass(frozen=True, slots=True)
class Change:
    """What holds from given positions on.

    Attributes:
        after: source → position; sources that are not named have no part in it.
        apply: called when all of them are there.
    """

    after: Mapping[str, int]
    apply: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Carried:
    """An NF's state and totals, on the way from one stack to the next."""

    state: object
    counts: SeatCounts


class NFLoop:
    """Serves one NF.

    Args:
        seat: of the NF.
        sources: rings and logs; may grow.
        journal: where signs of life and checkpoints go.
        log: the NF's own, or None.
        published: told of what the NF published, and of what it raised while that is watched.
        caution: from the supervisor.
        spin_ns: how long to wait awake.
        skew_ns: the rings' workers read captures, each at its own speed: an entry waits for those
            of other workers that are so much earlier in event time; 0: for those of all earlier
            packets. None: for nobody.
        server: of an NF that is native; used as long as there is nothing to do between its batches.

    Attributes:
        recorders: what the NF is handed is shown to them.
    """

    def __init__(
        self,
        seat: Seat,
        sources: Sequence[Source],
        journal: Journal,
        *,
        log: LogWriter | None = None,
        published: Callable[[Published], None] | None = None,
        caution: Caution | None = None,
        spin_ns: int = 0,
        skew_ns: int | None = None,
        server: Server | None = None,
    ) -> None:
        self.seat, self.sources, self._journal, self._log = seat, list(sources), journal, log
        self._published, self._caution = published, caution or Caution()
        self._spin_ns, self._skew_ns = spin_ns, skew_ns
        self._server = server if skew_ns is None else None
        self.recorders: Sequence[NFRecorder] = ()
        self._has_checkpoint = type(seat.instance).checkpoint is not NF.checkpoint
        self._covered: dict[str, tuple[int, int]] = {}
        self._changes: list[Change] = []
        self._parts: dict[int, tuple[int, int]] = {}
        self._now_ns = 0
        self.skipped = 0

    def now_ns(self) -> int:
        """Event time: of the last entry that was handed out."""
        return self._now_ns

    def restore(self, carried: Carried | None = None) -> None:
        """Goes on from the checkpoint that an earlier process left; before the NF's `start`.

        Args:
            carried: what this process took along from another stack, for when there is none.
        """
        found = self._journal.load() if self._has_checkpoint else None
        if not isinstance(found, dict):
            if carried is not None and self._has_checkpoint:
                self.seat.instance.restore(carried.state)
                self.seat.resume(carried.counts)
            return
        self.seat.instance.restore(found["state"])
        self.seat.resume(SeatCounts(**found["counts"]))
        self._now_ns, self.skipped = found["now_ns"], found["skipped"]
        self._covered = {name: (first, n) for name, (first, n) in found["covered"].items()}
        for source in self.sources:
            if source.name in self._covered:
                source.skip(*self._covered[source.name])

    def carry(self) -> Carried | None:
        """Returns what goes along to another stack; None for an NF that has no checkpoint."""
        if not self._has_checkpoint or self.seat.is_disabled:
            return None
        try:
            return Carried(self.seat.instance.checkpoint(), self.seat.counts())
        except Exception as error:
            self.seat.fail("checkpoint", error)
            return None

    def change(self, change: Change) -> None:
        """Applies something when the sources are as far as it says; changes keep their order."""
        self._changes.append(change)
        self._apply_changes()

    def round(self) -> bool:
        """Handles what is there, or waits a short while for it.

        Returns:
            False when all sources have ended.
        """
        self._journal.beat(Phase.RUNNING)
        rings = self._rings_to_serve()
        if rings and self._server is not None:
            return self._serve_natively(self._server, rings)
        if self._serve_all() > 0:
            return True
        self.seat.poll(self.now_ns)  # what it publishes now goes out with the next run
        return self._wait()

    def finish(self) -> None:
        """Handles what is there, until the sources are empty; nobody is waited for any more."""
        self._skew_ns = None
        while self._serve_all():
            self._journal.beat(Phase.RUNNING)

    def leave(self) -> None:
        """Handles what is there now; from then on packets take the NF's policy at once."""
        self._skew_ns = None
        rings = [source.ring for source in self.sources if isinstance(source, RingSource)]
        ends = [(ring, ring.head) for ring in rings]
        while any(ring.position < end for ring, end in ends) and self._serve_all():
            self._journal.beat(Phase.RUNNING)
        for ring in rings:
            ring.leave()

    def positions(self) -> dict[str, int]:
        """Returns the position of the next entry by source."""
        return {source.name: source.position for source in self.sources}

    def _wait(self) -> bool:
        waiting = self.sources
        if self._changes:  # a source that is as far as the change goes has entries for later
            waiting = [source for source in waiting if self._most(source, source.position)]
        if self._skew_ns is not None:
            return self._wait_for_late(waiting)
        return wait_any(waiting, self._spin_ns, IDLE_NS) or len(waiting) < len(self.sources)

    def _wait_for_late(self, sources: Sequence[Source]) -> bool:
        """Waits for workers that are behind: they wake nobody when they have nothing to say."""
        empty = [source for source in sources if not source.take()]
        if len(empty) == len(self.sources):
            return wait_any(empty, self._spin_ns, IDLE_NS)
        wait_any(empty, self._spin_ns, LAG_NS)
        return True

    def _rings_to_serve(self) -> list[RingSource]:
        """The sources, when the native loop may serve them; else none.

        Checkpoints, changes, recorders, runs that killed and runs half published want each run.
        """
        server = self._server
        if server is None or self._has_checkpoint or self._changes or self.recorders:
            return []
        if not server.fits(self.sources):
            return []
        if self.seat.is_disabled or not self.seat.is_native:
            return []
        rings = [source for source in self.sources if isinstance(source, RingSource)]
        return rings if all(self._is_clear(ring) for ring in rings) else []

    def _is_clear(self, source: Source) -> bool:
        pending = None if self._log is None else self._log.pending(source.number)
        at = source.position
        return (pending is None or pending.first < at) and self._caution.is_past(source.number, at)

    def _serve_natively(self, server: Server, rings: Sequence[RingSource]) -> bool:
        """A turn of the native loop; what the NF publishes belongs to all that it handled."""
        before = [(ring, ring.position) for ring in rings]
        served = server.turn(rings)
        if served.batches:
            for ring, position in before:
                n = ring.position - position
                if n and self._log is not None:
                    self._log.begin(ring.number, Run(position, n))
                self._now_ns = max(self._now_ns, ring.now_ns)
            if served.status < 0:
                self.seat.fail("native", StateError(f"it refused a batch: status {served.status}"))
            self.seat.poll(self.now_ns)
            self._take_published()
        else:
            self.seat.poll(self.now_ns)
        if served.stopped:
            self._serve_all()
        return not served.ended

    def _serve_all(self) -> int:
        return sum([self._serve(source) for source in self.sources])

    def _serve(self, source: Source) -> int:
        position = source.position
        n = source.take(self._most(source, position))
        if n == 0:
            return 0
        if (source.number, position) in self._caution.skip:
            self.skipped += n
        else:
            self._handle(source, position, n)
        if self._has_checkpoint and not self.seat.is_disabled:
            self._checkpoint(source.name, position, n)
        source.passed(n)
        if source.number in self._parts:
            left, step = self._parts[source.number]
            self._parts[source.number] = (max(0, left - n), step)
        if self._changes:
            self._apply_changes()
        return n

    def _most(self, source: Source, position: int) -> int:
        """How many entries the next run may have; 0: a change has to come first."""
        if (source.number, position) in self._caution.skip:
            return 1
        killed, step = self._caution.part(source.number, position)
        if killed:
            self._parts[source.number] = (killed, step)
        left, step = self._parts.get(source.number, (0, 0))
        if left:
            return min(left, step)
        pending = None if self._log is None else self._log.pending(source.number)
        if pending is not None and pending.first == position:
            return pending.n
        if not isinstance(source, RingSource):
            return ALL
        most = self._caution.next_skip(source.number, position)
        if self._changes and source.name in self._changes[0].after:
            most = min(most, max(0, self._changes[0].after[source.name] - position))
        return most if self._skew_ns is None else min(most, self._in_order(source, self._skew_ns))

    def _in_order(self, source: RingSource, skew_ns: int) -> int:
        """How many entries other workers have nothing for that is much earlier."""
        others = [s for s in self.sources if isinstance(s, RingSource) and s is not source]
        now_ns, packet = min((other.floor() for other in others), default=LAST)
        return source.until((now_ns + skew_ns, LAST[1] if skew_ns else packet))

    def _handle(self, source: Source, position: int, n: int) -> None:
        if self._log is not None:
            self._log.begin(source.number, Run(position, n))
        self._journal.work(Work(source.number, position, n))
        source.hand(self.seat, n, self.now_ns)
        for recorder in self.recorders:
            source.show(recorder, n)
        self._now_ns = max(self._now_ns, source.now_ns)
        self.seat.poll(self.now_ns)
        self._journal.idle()
        self._take_published()

    def _take_published(self) -> None:
        raised = self.seat.take_raised()
        if raised is not None and self._published is not None:
            self._published(raised)
        block = self.seat.take_published()
        if block is None:
            return
        if self._log is not None:
            self._log.write(block)
        if self._published is not None:
            self._published(block)

    def _checkpoint(self, name: str, position: int, n: int) -> None:
        self._covered[name] = (position, n)
        try:
            self._journal.save(
                {
                    "covered": self._covered,
                    "state": self.seat.instance.checkpoint(),
                    "counts": asdict(self.seat.counts()),
                    "now_ns": self._now_ns,
                    "skipped": self.skipped,
                }
            )
        except Exception as error:
            self.seat.fail("checkpoint", error)

    def _apply_changes(self) -> None:
        at = self.positions()
        while self._changes:
            if any(at[name] < after for name, after in self._changes[0].after.items()):
                return
            self._changes.pop(0).apply()
