# SPDX-License-Identifier: Apache-2.0
"""Names of objects to look at: each waits once, however often something happened to it.

Theory of operation: a key is *waiting*, *in hand* or neither. Adding a waiting key does nothing;
adding one in hand makes it wait again once it is put back, so that no two threads have one key and
nothing that happened meanwhile is missed. `later` is a heap of keys with a time; `retry` adds a key
after a pause that doubles with every failure in a row and is jittered, so that what failed together
does not come again together.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Backoff", "WorkQueue"]

Key = tuple[str, str]
"""Kind and name."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses after failures in a row: doubled from `first_s` up to `most_s`, less up to a half."""

    first_s: float = 0.2
    most_s: float = 120.0

    def pause(self, failures: int, chance: float) -> float:
        """Returns seconds; `chance` is a random number from 0 to 1."""
        doubled = min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return doubled * (1.0 - chance / 2.0)


class WorkQueue:
    """Keys to look at.

    Args:
        backoff: of `retry`.
        clock: monotonic seconds.
        chance: random numbers from 0 to 1.
    """

    def __init__(
        self,
        backoff: Backoff = Backoff(),  # immutable
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.backoff, self._clock, self._chance = backoff, clock, chance
        self._changed = threading.Condition()
        self._order: deque[Key] = deque()
        self._waiting: set[Key] = set()
        self._in_hand: set[Key] = set()
        self._later: list[tuple[float, Key]] = []
        self._due: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._closed = False

    def add(self, key: Key) -> None:
        """Says that something may have changed."""
        with self._changed:
            self._add(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Adds a key after a while; an earlier time already set stays."""
        with self._changed:
            due = self._clock() + seconds
            if due >= self._due.get(key, float("inf")):
                return
            self._due[key] = due
            heapq.heappush(self._later, (due, key))
            self._changed.notify_all()

    def retry(self, key: Key, at_least_s: float = 0.0) -> float:
        """Adds a key after a pause that doubles with each failure in a row; returns the pause."""
        with self._changed:
            self._failures[key] = self._failures.get(key, 0) + 1
            pause = self.backoff.pause(self._failures[key], self._chance())
        pause = max(pause, at_least_s)
        self.add_after(key, pause)
        return pause

    def forget(self, key: Key) -> None:
        """Says that a key went well: its failures are over."""
        with self._changed:
            self._failures.pop(key, None)

    def get(self, timeout: float) -> Key | None:
        """Takes the next key in hand; None when none came, or the queue is closed."""
        until = self._clock() + timeout
        with self._changed:
            while True:
                self._take_due()
                if self._closed:
                    return None
                if self._order:
                    key = self._order.popleft()
                    self._waiting.discard(key)
                    self._in_hand.add(key)
                    return key
                left = until - self._clock()
                if left <= 0:
                    return None
                if self._later:
                    left = min(left, max(0.0, self._later[0][0] - self._clock()))
                self._changed.wait(left)

    def done(self, key: Key) -> None:
        """Puts a key back; it comes again when it was added meanwhile."""
        with self._changed:
            self._in_hand.discard(key)
            if key in self._waiting:
                self._order.append(key)
                self._changed.notify_all()

    def close(self) -> None:
        """Lets all who wait go; nothing comes any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Forgets all that waits."""
        with self._changed:
            self._order.clear()
            self._waiting.clear()
            self._later.clear()
            self._due.clear()
            self._failures.clear()

    def statistics(self) -> dict[str, int]:
        """Returns how many wait, are in hand, wait for a time, and failed the last time."""
        with self._changed:
            return {
                "waiting": len(self._order),
                "in_hand": len(self._in_hand),
                "later": len(self._due),
                "failing": len(self._failures),
            }

    def _add(self, key: Key) -> None:
        if key in self._waiting:
            return
        self._waiting.add(key)
        if key not in self._in_hand:
            self._order.append(key)
            self._changed.notify_all()

    def _take_due(self) -> None:
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            due, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self._add(key)
