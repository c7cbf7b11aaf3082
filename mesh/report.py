# SPDX-License-Identifier: Apache-2.0
"""What a run did, as frozen data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.errors import NFError

__all__ = [
    "NFReport",
    "Progress",
    "Report",
    "Statistics",
    "merged_counters",
    "merged_statistics",
]

OF_THE_FILE = ("port.", "ip_defrag.")
"""Counters of what every worker does with the whole of a capture."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot of a worker.

    Attributes:
        packets: frames processed so far.
        bytes: their bytes.
        now_ns: event time.
        flows_opened: flows so far; flows_closed and flows_now likewise.
        slots_used: packet slots that are held now; records_used likewise.
        flow_bytes: memory per tracked flow in this plan.
        mapped_bytes: memory of the worker.
        foreign: frames that it read and left to the other workers, beside `packets`.
    """

    packets: int
    bytes: int
    now_ns: int
    flows_opened: int
    flows_closed: int
    flows_now: int
    slots_used: int
    records_used: int
    flow_bytes: int
    mapped_bytes: int
    foreign: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        packets: frames so far.
        bytes: their bytes.
        position: bytes of the source consumed; size: all of them, 0 when unknown.
        seconds: since the run began.
        flows: open now.
    """

    packets: int
    bytes: int
    position: int
    size: int
    seconds: float
    flows: int


@dataclass(frozen=True, slots=True)
class NFReport:
    """What one NF did.

    Attributes:
        name: in the plan.
        events: entries handed to its Python handlers (native handlers count their own).
        batches: calls of its Python handlers.
        published: event name → how many.
        results: what its `results()` returned, or None.
        errors: exceptions caught, the first few.
        failures: how many there were.
        disabled: it failed too often and heard nothing more.
    """

    name: str
    events: int = 0
    batches: int = 0
    published: Mapping[str, int] = field(default_factory=dict)
    results: Mapping[str, Any] | None = None
    errors: tuple[NFError, ...] = ()
    failures: int = 0
    disabled: bool = False

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        return {
            "name": self.name,
            "events": self.events,
            "batches": self.batches,
            "published": dict(self.published),
            "results": None if self.results is None else dict(self.results),
            "errors": [str(error) for error in self.errors],
            "failures": self.failures,
            "disabled": self.disabled,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did.

    Attributes:
        source: what was read.
        seconds: wall clock.
        statistics: of the worker at the end.
        nfs: one report per NF, in the order of the plan.
        counters: name → value of every counter that is not zero.
        warnings: one line each (a truncated capture, a skipped block).
        interrupted: Ctrl-C ended it early.
    """

    source: str
    seconds: float
    statistics: Statistics
    nfs: tuple[NFReport, ...]
    counters: Mapping[str, int]
    warnings: tuple[str, ...] = ()
    interrupted: bool = False

    def __getitem__(self, nf: str) -> NFReport:
        """Returns the report of the NF with this name."""
        for report in self.nfs:
            if report.name == nf:
                return report
        raise KeyError(nf)

    @property
    def packets(self) -> int:
        """Frames processed."""
        return self.statistics.packets

    @property
    def errors(self) -> tuple[NFError, ...]:
        """All NFs' caught exceptions."""
        return tuple(error for nf in self.nfs for error in nf.errors)

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        stats = {name: getattr(self.statistics, name) for name in Statistics.__slots__}
        return {
            "source": self.source,
            "seconds": self.seconds,
            "packets": self.packets,
            "statistics": stats,
            "nfs": [nf.to_json() for nf in self.nfs],
            "counters": dict(self.counters),
            "warnings": list(self.warnings),
            "interrupted": self.interrupted,
        }


def merged_statistics(parts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Returns the statistics of several workers as those of one.

    >>> merged_statistics([{"packets": 2, "now_ns": 5}, {"packets": 1, "now_ns": 7}])
    {'packets': 3, 'now_ns': 7}
    """
    greatest = ("now_ns", "flow_bytes")
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: (max if name in greatest else sum)(part.get(name, 0) for part in parts)
        for name in names
    }


def merged_counters(parts: Sequence[Mapping[str, int]], *, reads_all: bool) -> dict[str, int]:
    """Returns the counters of several workers as those of one.

    Args:
        parts: of each worker.
        reads_all: each has read the same captures, and counted the same of them.

    >>> merged_counters([{"port.truncated": 1, "x": 1}, {"port.truncated": 1}], reads_all=True)
    {'port.truncated': 1, 'x': 1}
    """
    found: Counter[str] = Counter()
    for part in parts:
        for name, value in part.items():
            is_same = reads_all and name.startswith(OF_THE_FILE)
            found[name] = max(found[name], value) if is_same else found[name] + value
    return dict(found)
