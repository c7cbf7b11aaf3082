# SPDX-License-Identifier: Apache-2.0
"""When a child is started again, and what it is warned of. Pure: time is an argument."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from mesh.journal import Work

__all__ = ["Backoff", "CrashMemory", "Policy", "wants_restart"]

Policy = Literal["always", "on-failure", "never"]
FIRST_S = 0.1
LONGEST_S = 5.0
HEALTHY_S = 10.0
"""A child that ran this long begins with a short wait again."""
CRASHES_PER_ENTRY = 3
REMEMBERED = 64


def wants_restart(policy: Policy, status: int) -> bool:
    """Says whether a child that ended so is started again; 0 means that it was done."""
    return status != 0 and policy != "never"


@dataclass(slots=True)
class Backoff:
    """Waits between restarts: 0.1 s, doubling to 5 s, short again after a healthy time."""

    next_s: float = FIRST_S

    def delay(self, ran_s: float) -> float:
        """Returns how long to wait after a run of so many seconds."""
        if ran_s >= HEALTHY_S:
            self.next_s = FIRST_S
        delay, self.next_s = self.next_s, min(LONGEST_S, 2 * self.next_s)
        return delay


@dataclass(slots=True)
class CrashMemory:
    """Where an NF's process died.

    A run of several entries at hand is gone through one by one next time; an entry that was alone
    at hand three times is left out.
    """

    careful: list[Work] = field(default_factory=list)
    skip: set[tuple[int, int]] = field(default_factory=set)
    _crashes: Counter[tuple[int, int]] = field(default_factory=Counter)

    def record(self, work: Work | None) -> None:
        """Takes down what was at hand when the process died."""
        if work is None:
            return
        if work.n > 1:
            self.careful = [*self.careful, work][-REMEMBERED:]
            return
        entry = (work.source, work.position)
        self._crashes[entry] += 1
        if self._crashes[entry] >= CRASHES_PER_ENTRY:
            self.skip.add(entry)
        if len(self._crashes) > REMEMBERED:
            del self._crashes[min(self._crashes, key=lambda e: e[1])]

    def arguments(self) -> list[str]:
        """Returns them for the command line of `mesh.nfhost`."""
        careful = [f"--careful={w.source}:{w.position}:{w.n}" for w in self.careful]
        return careful + [f"--skip={source}:{position}" for source, position in sorted(self.skip)]
