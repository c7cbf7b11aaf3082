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
CRASHES_AT_START = 3
"""A process that dies so often in a row before it has attached its NF is given up."""
CRASHES_IN_A_ROW = 10
"""So is one that dies so often with no entry at hand, each time soon after its start."""
MAX_SKIPPED = 5
"""And one that died at so many entries."""
REMEMBERED = 64


def wants_restart(policy: Policy, status: int) -> bool:
    """Says whether a child that ended so is started again; 0 means that it was done."""
    return status != 0 and policy != "never"


@dataclass(slots=True)
class Backoff:
    """Waits between restarts: 0.1 s, doubling to 5 s, short again after a healthy time."""

    next_s: float = FIRST_S

    def delay(self, ran_s: float, *, is_mended: bool = False) -> float:
        """Returns how long to wait after a run of so many seconds.

        Args:
            ran_s: how long the process lived.
            is_mended: what killed it will be left out, so it may be well next time.
        """
        if ran_s >= HEALTHY_S or is_mended:
            self.next_s = FIRST_S
        delay, self.next_s = self.next_s, min(LONGEST_S, 2 * self.next_s)
        return delay


@dataclass(slots=True)
class CrashMemory:
    """Where an NF's process died, and whether it is worth another start.

    A run of several entries at hand is gone through in PARTS parts next time, the part that kills
    again likewise, until one entry is alone at hand; one that kills three times alone is left out.
    So a bad entry among thousands is found after a few crashes, and a process that was killed for
    another reason is not held up for long. Whoever dies at the start again and again, or at ever
    more entries, or at none, is given up: nobody is to wait for it without an end.

    Attributes:
        careful: the last run or entry that killed it, by source.
        skip: (source, position) of entries that are left out.
        is_mended: the last crash led to an entry that is left out.
        verdict: why it is given up, "" as long as it is not.
    """

    careful: dict[int, Work] = field(default_factory=dict)
    skip: set[tuple[int, int]] = field(default_factory=set)
    is_mended: bool = False
    verdict: str = ""
    _crashes: Counter[tuple[int, int]] = field(default_factory=Counter)
    _idle: int = 0
    _early: int = 0

    def record(self, work: Work | None, *, ran_s: float, had_begun: bool) -> None:
        """Takes down a crash.

        Args:
            work: what was at hand.
            ran_s: how long the process lived.
            had_begun: it had loaded and attached its NF.
        """
        self.is_mended = False
        self._early = 0 if had_begun else self._early + 1
        self._idle = 0 if work is not None or ran_s >= HEALTHY_S else self._idle + 1
        if work is not None:
            self._at(work)
        if self._early >= CRASHES_AT_START:
            self.verdict = f"given up after {self._early} starts that came to nothing"
        elif len(self.skip) >= MAX_SKIPPED:
            self.verdict = f"given up after it died at {len(self.skip)} entries"
        elif self._idle >= CRASHES_IN_A_ROW:
            self.verdict = f"given up after {self._idle} crashes in a row"

    def _at(self, work: Work) -> None:
        self.careful[work.source] = work
        if work.n > 1:
            return
        entry = (work.source, work.position)
        self._crashes[entry] += 1
        if self._crashes[entry] >= CRASHES_PER_ENTRY:
            self.skip.add(entry)
            self.is_mended = True
        if len(self._crashes) > REMEMBERED:
            del self._crashes[min(self._crashes, key=lambda e: e[1])]

    def arguments(self) -> list[str]:
        """Returns them for the command line of `mesh.nfhost`."""
        works = sorted(self.careful.values(), key=lambda work: work.source)
        careful = [f"--careful={w.source}:{w.position}:{w.n}" for w in works]
        return careful + [f"--skip={source}:{position}" for source, position in sorted(self.skip)]
