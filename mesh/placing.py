# SPDX-License-Identifier: Apache-2.0
"""Where entries stand in a capture that several workers read: event time, number of the packet."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, TypeAlias

from mesh.memory import Memory

__all__ = ["Place", "count_until", "place_of"]

Place: TypeAlias = tuple[int, int]
"""Event time in ns, and the number of the packet that it was at: the same at all workers."""


def place_of(memory: Memory, desc: Any) -> Place:
    """Returns the place of an entry (`nfm_desc`)."""
    record = memory.mem.records[desc.record]
    return int(record.ts_ns), int(record.packet)


def count_until(memory: Memory, desc: Any, n: int, place: Place) -> int:
    """Returns how many of `n` entries, which are in order, are not later than a place."""
    if n == 0 or place_of(memory, desc[n - 1]) <= place:
        return n
    return bisect_right(range(n), place, key=lambda i: place_of(memory, desc[i]))
