# SPDX-License-Identifier: Apache-2.0
"""Sets of numbers as sorted ranges: addresses, ports, protocols."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

__all__ = ["Ranges", "complement", "holds", "intersect", "union"]

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""(first, last), both in; sorted, with a gap between neighbours."""


def union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Merges ranges in any order.

    >>> union([(5, 9), (1, 4), (20, 20)])
    ((1, 9), (20, 20))
    """
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def intersect(a: Ranges, b: Ranges) -> Ranges:
    """Returns what is in both.

    >>> intersect(((1, 9), (20, 30)), ((5, 22),))
    ((5, 9), (20, 22))
    """
    found: list[tuple[int, int]] = []
    i = j = 0
    while i < len(a) and j < len(b):
        first, last = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if first <= last:
            found.append((first, last))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


def complement(ranges: Ranges, most: int) -> Ranges:
    """Returns what of 0..most is not in `ranges`.

    >>> complement(((0, 4), (6, 6)), 9)
    ((5, 5), (7, 9))
    """
    found: list[tuple[int, int]] = []
    begin = 0
    for first, last in ranges:
        if begin < first:
            found.append((begin, first - 1))
        begin = last + 1
    if begin <= most:
        found.append((begin, most))
    return tuple(found)


def holds(ranges: Ranges, number: int) -> bool:
    """Says whether a number is in one of the ranges."""
    return any(first <= number <= last for first, last in ranges)
