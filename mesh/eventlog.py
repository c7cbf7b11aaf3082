# SPDX-License-Identifier: Apache-2.0
"""The event log of an NF that runs as a process: written by the NF, read by its subscribers.

Theory of operation: what an NF published in a run (`mesh.publish.Published`) goes into the log as
it is, and comes out of it as blocks of the same kind, so that a `Seat` hears both alike. The log is
shared memory (native/src/event/log.h); a reader's place in it is a cursor object that only the
reader writes.

Exactly once: a run is a batch that an NF was given, from one source and position on. It is begun
in the log before the handlers are called. An NF that was killed finds in `pending` what its
predecessor had begun, takes the same batch again, and publishes the same events; those that are in
the log already are not written again. A reader passes a block (`advance`) when it has done its own
work with it, and gets it again if it dies before.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from mesh._ffi import check, check_pointer, native
from mesh.errors import StateError
from mesh.memory import Memory
from mesh.publish import Block

__all__ = [
    "HEARD",
    "LogReader",
    "LogStatistics",
    "LogWriter",
    "ReaderStatistics",
    "Run",
    "Waited",
]

HEARD = 64
"""Number of the first source that is a log; sources below are rings, by their worker's id."""
BATCH = 1024
"""Events of a block at most."""
DEADLINE_S = 1.0


class Waited(enum.IntEnum):
    """What a wait ended with."""

    READY = 1
    TIMEOUT = 2
    ENDED = 3


@dataclass(frozen=True, slots=True)
class Run:
    """A batch that an NF was given.

    Attributes:
        first: position of its first entry in the source.
        n: entries.
    """

    first: int
    n: int


@dataclass(frozen=True, slots=True)
class LogStatistics:
    """The writer's view of its log; see nfm_log_stats."""

    head: int
    written: int
    repeated: int
    too_large: int
    waits: int
    missed_deadlines: int
    bad_cursors: int
    wakeups: int
    capacity: int
    max_entry: int
    readers: int


@dataclass(frozen=True, slots=True)
class ReaderStatistics:
    """A reader's view of a log; see nfm_log_reader_stats."""

    position: int
    behind: int
    read: int
    lost: int
    gaps: int
    bad: int


class LogWriter:
    """The NF's side of its own log. Make it, close it; or use it in a `with`.

    Args:
        fd: the log object, writable; stays the caller's.
        deadline_s: how long a write waits for a lossless reader that has not caught up.

    Raises:
        NativeError: the object is no log, or one of another version.
    """

    def __init__(self, fd: int, deadline_s: float = DEADLINE_S) -> None:
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        log = lib.nfm_log_open(fd, int(deadline_s * 1e9), error)
        self._log: Any = check_pointer(log, "event log", error)

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmaps the log; a second time does nothing."""
        if self._log is not None:
            native().lib.nfm_log_close(self._log)
            self._log = None

    def add_reader(self, cursor_fd: int, *, lossless: bool = True) -> int:
        """Counts a reader in, and returns its number.

        Args:
            cursor_fd: its cursor object, readable; stays the caller's. The reader need not have
                attached yet: a lossless one misses nothing from now on.
            lossless: writes wait for it, up to the deadline.

        Raises:
            CapacityError: the log has as many readers as it can.
        """
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        rc = lib.nfm_log_add_reader(self._live(), cursor_fd, lossless, error)
        return check(rc, "reader of an event log", error if error.code else None)

    def remove_reader(self, number: int) -> None:
        """Forgets a reader: nothing waits for it any more."""
        check(native().lib.nfm_log_remove_reader(self._live(), number), f"reader {number}")

    def pending(self, source: int) -> Run | None:
        """Returns the run of a source that was begun last, by this process or one before it."""
        ffi, lib = native()
        first, n = ffi.new("uint64_t *"), ffi.new("uint32_t *")
        if not check(lib.nfm_log_pending(self._live(), source, first, n), f"source {source}"):
            return None
        return Run(int(first[0]), int(n[0]))

    def begin(self, source: int, run: Run) -> None:
        """Begins a run: what is written from now on belongs to it."""
        check(native().lib.nfm_log_begin(self._live(), source, run.first, run.n), str(run))

    def write(self, block: Block) -> int:
        """Appends what the NF published in this run, and wakes readers.

        May wait for lossless readers, up to the deadline.

        Returns:
            How many of the events are in the log now: all but those that are too large.

        Raises:
            StateError: no run was begun.
        """
        return check(native().lib.nfm_log_write(self._live(), block.native_batch()), "event log")

    def end(self) -> None:
        """Says that nothing follows."""
        native().lib.nfm_log_end(self._live())

    def statistics(self) -> LogStatistics:
        """Returns a snapshot."""
        ffi, lib = native()
        out = ffi.new("nfm_log_stats *")
        lib.nfm_log_stats_get(self._live(), out)
        return LogStatistics(**{n: int(getattr(out, n)) for n in LogStatistics.__slots__})

    def _live(self) -> Any:
        if self._log is None:
            raise StateError("the log is closed")
        return self._log


class LogReader:
    """A subscriber's side of another NF's log. Make it, close it; or use it in a `with`.

    Args:
        log_fd: the log object, readable; stays the caller's. Its writer need not have begun.
        cursor_fd: the reader's cursor object, writable; stays the caller's. One that was used
            before goes on where it was.
        from_now: a new cursor begins behind what is in the log, else at the first event ever.

    Raises:
        NativeError: the object is no log, or one of another version.
    """

    def __init__(self, log_fd: int, cursor_fd: int, *, from_now: bool = False) -> None:
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        reader = lib.nfm_log_attach(log_fd, cursor_fd, from_now, error)
        check_pointer(reader, "event log", error)
        self._reader: Any = ffi.gc(reader, lib.nfm_log_detach)
        self._memory: Memory | None = None

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets the log go; it is unmapped when no batch of it is left. Twice does nothing."""
        self._reader = self._memory = None

    def read(self, most: int = BATCH) -> Block | None:
        """Returns the next events, None when there are none; valid until the next call.

        Args:
            most: events at most. After a restart `Run.n` of the pending run, for the same block.
        """
        batch = native().lib.nfm_log_read(self._live(), most)
        if batch.n == 0:
            return None
        if self._memory is None:
            self._memory = Memory(batch.mem, self._reader)
        return Block(self._memory, batch.desc, int(batch.n))

    def advance(self) -> None:
        """Passes everything that was read: the writer may overwrite it."""
        native().lib.nfm_log_advance(self._live())

    def wait(self, timeout_s: float, spin_s: float = 0.0) -> Waited:
        """Waits for an event: spins, then sleeps.

        Only a reader that the writer was told of (`LogWriter.add_reader`) is woken from its sleep;
        others see an event when the time is over.
        """
        spin, timeout = int(spin_s * 1e9), int(timeout_s * 1e9)
        return Waited(native().lib.nfm_log_wait(self._live(), spin, timeout))

    @property
    def pointer(self) -> Any:
        """The `nfm_log_reader *`, valid until `close`."""
        return self._live()

    @property
    def position(self) -> int:
        """Where the next event lies that is not passed, in bytes from the first event ever."""
        return int(native().lib.nfm_log_position(self._live()))

    def statistics(self) -> ReaderStatistics:
        """Returns a snapshot; `lost` counts events that were overwritten before they were read."""
        ffi, lib = native()
        out = ffi.new("nfm_log_reader_stats *")
        lib.nfm_log_reader_stats_get(self._live(), out)
        return ReaderStatistics(**{n: int(getattr(out, n)) for n in ReaderStatistics.__slots__})

    def _live(self) -> Any:
        if self._reader is None:
            raise StateError("the log is closed")
        return self._reader
