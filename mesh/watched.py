# SPDX-License-Identifier: Apache-2.0
"""A file that is read again whenever it changes, beside the packets.

An NF makes its table of the file in `start` itself. In `poll` it asks `take` for the next one: what
a thread has made of a changed file, or why nothing could be made of it, so that what runs stays.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ["LOOK_S", "Outcome", "Watched"]

LOOK_S = 0.5
"""How often the file is looked at."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What became of a changed file: what was made of it, or the error."""

    made: T | None
    error: Exception | None


class Watched(Generic[T]):
    """Watches one file.

    Args:
        path: the file.
        make: makes the next table; runs in a thread of its own.
    """

    def __init__(self, path: Path, make: Callable[[], T]) -> None:
        self.path, self._make = path, make
        self._seen = self._signature()
        self._next_look = 0.0
        self._thread: threading.Thread | None = None
        self._outcome: Outcome[T] | None = None

    def _signature(self) -> tuple[int, ...]:
        """What differs when the file is another one; empty while there is none."""
        try:
            stat = self.path.stat()
        except OSError:
            return ()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def take(self) -> Outcome[T] | None:
        """Returns what was made since the last call, or None. Looks at the file now and then."""
        if self._thread is not None:
            if self._thread.is_alive():
                return None
            self._thread = None
            return self._outcome
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_S
            self.look()
        return None

    def look(self) -> None:
        """Looks at the file now, unless the one before is being made."""
        signature = self._signature()
        if self._thread is None and signature != self._seen:
            self._seen = signature
            self._thread = threading.Thread(target=self._run, name=self.path.name, daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Waits for what is being made, if anything is."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._outcome = Outcome(self._make(), None)
        except Exception as error:
            self._outcome = Outcome(None, error)
