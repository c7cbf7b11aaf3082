# SPDX-License-Identifier: Apache-2.0
"""What syn_flood remembers: whole columns at a time, in memory of fixed size.

Theory of operation. Addresses are hashed with a secret seed. Targets are counted in slots by hash:
two that share one are taken for one. Sources and attempts are remembered in Bloom filters of two
generations, of which the older is emptied when a period ends: what was added is found for at least
one period and at most two, and what was not added is found with a small probability, so that
mistakes let packets pass and never drop them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Remembered", "Targets", "hashes"]

Hashes = npt.NDArray[np.uint64]
Slots = npt.NDArray[np.intp]
_ODD = np.array([0x9E3779B97F4A7C15], np.uint64)


def hashes(seed: int, *columns: npt.NDArray[np.uint8] | npt.NDArray[np.unsignedinteger]) -> Hashes:
    """Hashes rows: each column is a number, or an address as u8[n, 16]."""
    found = np.full(len(columns[0]), seed, np.uint64)
    for column in columns:
        words = column.view(np.uint64) if column.ndim == 2 else column[:, None]
        for word in words.astype(np.uint64).T:
            found = (found ^ word) * _ODD
            found ^= found >> np.uint64(29)
    return found * _ODD ^ found >> np.uint64(32)


class Remembered:
    """A set of hashes that forgets.

    Args:
        size: places of a generation, a power of two; a byte each.
        period_ns: for how long something is remembered at least.
    """

    __slots__ = ("_places", "_since", "period_ns")

    def __init__(self, size: int, period_ns: int) -> None:
        if size & (size - 1) or size < 1:
            raise ValueError("size is a power of two")
        self.period_ns = period_ns
        self._places = np.zeros((2, size), np.bool_)
        self._since: int | None = None

    def turn(self, now_ns: int) -> None:
        """Forgets what is old; time that runs backwards does nothing."""
        period = now_ns // self.period_ns
        if self._since is None:
            self._since = period
        if period <= self._since:
            return
        self._places[1] = self._places[0] if period == self._since + 1 else False
        self._places[0] = False
        self._since = period

    def add(self, found: Hashes) -> None:
        """Remembers hashes."""
        for places in self._of(found):
            self._places[0, places] = True

    def has(self, found: Hashes) -> npt.NDArray[np.bool_]:
        """Says which were added; one that was not may be among them."""
        one, two = self._of(found)
        newer, older = self._places
        return (newer[one] & newer[two]) | (older[one] & older[two])

    def _of(self, found: Hashes) -> tuple[Hashes, Hashes]:
        mask = np.uint64(self._places.shape[1] - 1)
        return found & mask, found >> np.uint64(32) & mask


class Targets:
    """Attempts and finished handshakes of the current interval by target, and who is attacked.

    Args:
        size: slots, a power of two.
        limit: attempts without a finished handshake in an interval that may be an attack.
        ratio: a target that finishes more than this share is busy, not attacked.
        calm: intervals with less than half of `limit` after which an attack is over.
    """

    __slots__ = (
        "_attack",
        "_calm",
        "_finished",
        "_syns",
        "attacked",
        "calm",
        "limit",
        "ratio",
        "size",
    )

    def __init__(self, size: int, limit: int, ratio: float, calm: int) -> None:
        self.size, self.limit, self.ratio, self.calm = size, limit, ratio, calm
        self._syns, self._finished = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self._calm = np.zeros(size, np.int64)
        self._attack = np.zeros((2, size), np.int64)
        self.attacked = np.zeros(size, np.bool_)

    def slots(self, found: Hashes) -> Slots:
        """Returns the slots of targets by their hashes."""
        return (found & np.uint64(self.size - 1)).astype(np.intp)

    def count(self, syns: Slots, finished: Slots) -> Slots:
        """Counts attempts and finished handshakes; returns whose attack begins."""
        np.add.at(self._syns, syns, 1)
        np.add.at(self._finished, finished, 1)
        seen = np.unique(syns)
        half_open = self._syns[seen] - self._finished[seen]
        few = self._finished[seen] <= self.ratio * self._syns[seen]
        begun = seen[(half_open >= self.limit) & few & ~self.attacked[seen]]
        self.attacked[begun], self._calm[begun] = True, 0
        self._attack[:, begun] = 0
        return begun

    def hold(self, syns: Slots, is_held: npt.NDArray[np.bool_]) -> None:
        """Counts attempts on attacked targets, and which of them were held back."""
        np.add.at(self._attack[0], syns, 1)
        np.add.at(self._attack[1], syns[is_held], 1)

    def attack(self, slot: int) -> tuple[int, int]:
        """Returns the attempts, and those held back, of the last attack on a target."""
        syns, held_back = self._attack[:, slot].tolist()
        return syns, held_back

    def turn(self, intervals: int) -> Slots:
        """Begins another interval, `intervals` after the last; returns whose attack is over."""
        quiet = 2 * self._syns < self.limit
        self._calm = np.where(quiet, self._calm + 1, 0) + (intervals - 1)
        over = np.flatnonzero(self.attacked & (self._calm >= self.calm))
        self.attacked[over] = False
        self._syns[:] = 0
        self._finished[:] = 0
        return over

    def syns(self, slot: int) -> tuple[int, int]:
        """Returns a target's attempts and unfinished ones of this interval."""
        attempts = int(self._syns[slot])
        return attempts, attempts - int(self._finished[slot])
