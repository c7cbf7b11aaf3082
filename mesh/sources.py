# SPDX-License-Identifier: Apache-2.0
"""What an NF's process reads: rings of workers and logs of other NFs, in runs and alike.

A run is a number of entries side by side from a position on. `take` looks at the next one, `hand`
gives it to the NF's seat, `passed` lets it go. A position means the same after a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mesh._ffi import check, native
from mesh.attached import AttachedRing
from mesh.eventlog import HEARD, LogReader, Waited
from mesh.placing import Place, count_until, place_of
from mesh.publish import Block
from mesh.recording import NFRecorder
from mesh.seat import Seat
from mesh.verdicts import fitting

__all__ = ["LogSource", "RingSource", "Source", "wait_any"]

_ALL = 0xFFFFFFFF


class Source(Protocol):
    """One place that entries come from.

    Attributes:
        name: of the shared object.
        number: in event logs: the worker's id, or HEARD and more for a log.
    """

    name: str
    number: int

    @property
    def position(self) -> int:
        """Where the next run begins."""

    @property
    def now_ns(self) -> int:
        """Event time of the last entry handed out."""

    def take(self, most: int = _ALL) -> int:
        """Looks at the next run; returns its entries, 0 when there is none."""

    def hand(self, seat: Seat, n: int, now_ns: Callable[[], int]) -> None:
        """Hands out the first `n` entries of the run that was taken."""

    def passed(self, n: int) -> None:
        """Lets them go."""

    def show(self, recorder: NFRecorder, n: int) -> None:
        """Shows what was handed out to a recorder, before it is passed."""

    def skip(self, first: int, n: int) -> None:
        """Lets a run go that was handled before a restart; nothing when it is gone already."""

    def wait(self, spin_ns: int, timeout_ns: int) -> bool:
        """Waits for an entry; returns False when the source has ended and is empty."""


class RingSource:
    """A worker's ring.

    Args:
        ring: the receiver's side.
        worker: whose.
        edits: its receiver may replace payloads: runs are no longer than there is room for that.
    """

    def __init__(self, ring: AttachedRing, worker: int, *, edits: bool = False) -> None:
        self.ring, self.name, self.number, self.edits = ring, ring.name, worker, edits
        self._desc: Any = None
        self._now_ns = self._gap = 0

    @property
    def position(self) -> int:
        """Entries passed, ever."""
        return self.ring.position

    @property
    def now_ns(self) -> int:
        """Event time of the last entry handed out."""
        return self._now_ns

    def saw(self, now_ns: int) -> None:
        """Takes the event time of entries that others handed out."""
        self._now_ns = max(self._now_ns, now_ns)

    def take(self, most: int = _ALL) -> int:
        """Looks at what stands side by side in the ring; a gap is a run of its own."""
        self._desc, n = self.ring.peek(most)
        self._gap = self.ring.gap() if n == 0 else 0
        if n and self.edits:
            return fitting(self.ring.pointer, self.ring.memory, self._desc, n)
        return n if self._gap == 0 else 1

    def hand(self, seat: Seat, n: int, now_ns: Callable[[], int]) -> None:
        """Hands out entries."""
        if self._gap:
            seat.lose(self._gap, now_ns)
            return
        self._now_ns = place_of(self.ring.memory, self._desc[n - 1])[0]
        seat.deliver(self.ring.memory, self._desc, n, now_ns, self.number)

    def floor(self) -> Place:
        """Returns what nothing is earlier than of what is to be handed out."""
        clock = self.ring.clock
        desc, n = self.ring.peek(1)
        return place_of(self.ring.memory, desc[0]) if n else clock

    def until(self, place: Place) -> int:
        """Returns how many entries of the next run are not later than a place."""
        desc, n = self.ring.peek()
        reached = count_until(self.ring.memory, desc, n, place)
        return _ALL if reached == n else reached

    def show(self, recorder: NFRecorder, n: int) -> None:
        """Shows packets and verdicts."""
        if not self._gap:
            recorder.take(self.ring.pointer, self.ring.memory.mem, n)

    def passed(self, n: int) -> None:
        """Advances the ring."""
        self.ring.advance(n)

    def skip(self, first: int, n: int) -> None:
        """Advances the ring to the end of a run."""
        behind = first + n - self.position
        if 0 < behind <= n:
            self.ring.advance(behind)

    def wait(self, spin_ns: int, timeout_ns: int) -> bool:
        """Waits for an entry."""
        return self.ring.wait(spin_ns, timeout_ns)


class LogSource:
    """Another NF's event log; `place` is its number among those that the NF reads."""

    def __init__(self, name: str, reader: LogReader, place: int) -> None:
        self.reader, self.name, self.number = reader, name, HEARD + place
        self._block: Block | None = None

    @property
    def position(self) -> int:
        """Bytes passed, ever."""
        return self.reader.position

    @property
    def now_ns(self) -> int:
        """Events of a log carry their own time."""
        return 0

    def take(self, most: int = _ALL) -> int:
        """Reads the next block; asked again, it is the one that was not passed."""
        if self._block is None:
            self._block = self.reader.read() if most == _ALL else self.reader.read(most)
        return 0 if self._block is None else len(self._block)

    def hand(self, seat: Seat, n: int, now_ns: Callable[[], int]) -> None:
        """Hands out the block."""
        if self._block is not None:
            seat.hear([self._block], now_ns)

    def show(self, recorder: NFRecorder, n: int) -> None:
        """Shows nothing: published events are no packets."""

    def passed(self, n: int) -> None:
        """Moves the cursor behind the block."""
        self._block = None
        self.reader.advance()

    def skip(self, first: int, n: int) -> None:
        """Reads a block and passes it."""
        if self.position == first and self.reader.read(n) is not None:
            self.reader.advance()

    def wait(self, spin_ns: int, timeout_ns: int) -> bool:
        """Waits for an event."""
        return self.reader.wait(timeout_ns / 1e9, spin_ns / 1e9) is not Waited.ENDED


def wait_any(sources: Sequence[Source], spin_ns: int, timeout_ns: int) -> bool:
    """Waits until one of several sources has an entry; returns False when all have ended."""
    if len(sources) == 1:
        return sources[0].wait(spin_ns, timeout_ns)
    ffi, lib = native()
    rings = [source.ring.pointer for source in sources if isinstance(source, RingSource)]
    logs = [source.reader.pointer for source in sources if isinstance(source, LogSource)]
    row = ffi.new("nfm_wait_set *", {"n_rings": len(rings), "n_logs": len(logs)})
    row.rings = kept_rings = ffi.new("nfm_ring *[]", rings)
    row.logs = kept_logs = ffi.new("nfm_log_reader *[]", logs)
    state = check(lib.nfm_wait_any(row, spin_ns, timeout_ns), "wait")
    del kept_rings, kept_logs
    return state != int(lib.NFM_RING_ENDED)
