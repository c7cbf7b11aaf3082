# SPDX-License-Identifier: Apache-2.0
"""Which cores a host has, as the kernel tells it: threads of one core, NUMA nodes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cpu", "Topology", "cpu_list", "cpu_text"]

SYS = Path("/sys")
MAX_CPU = 65536


@dataclass(frozen=True, slots=True)
class Cpu:
    """One logical CPU.

    Attributes:
        id: its number.
        core: (package, first thread) of the physical core that it is a thread of.
        node: NUMA node; the package where the kernel tells of none.
    """

    id: int
    core: tuple[int, int]
    node: int


@dataclass(frozen=True, slots=True)
class Topology:
    """The CPUs that this process may use.

    Attributes:
        cpus: by number.
    """

    cpus: dict[int, Cpu]

    @classmethod
    def read(cls, sys: Path = SYS, allowed: Collection[int] | None = None) -> Topology:
        """Reads it.

        Args:
            sys: where sysfs is mounted.
            allowed: CPUs that may be used; default is what the kernel lets this process use, which
                is what its cpuset leaves.
        """
        usable = os.sched_getaffinity(0) if allowed is None else set(allowed)
        online = _numbers(sys / "devices/system/cpu/online")
        if online:
            usable = usable & online
        nodes = {
            cpu: int(folder.name.removeprefix("node"))
            for folder in sorted((sys / "devices/system/node").glob("node[0-9]*"))
            for cpu in _numbers(folder / "cpulist")
        }
        found: dict[int, Cpu] = {}
        for cpu in sorted(usable):
            place = sys / f"devices/system/cpu/cpu{cpu}/topology"
            package = max(0, _number(place / "physical_package_id"))
            threads = _numbers(place / "core_cpus_list", place / "thread_siblings_list") or {cpu}
            found[cpu] = Cpu(cpu, (package, min(threads)), nodes.get(cpu, package))
        return cls(found)

    @classmethod
    def flat(cls, cpus: Iterable[int]) -> Topology:
        """Makes one of CPUs that are a core each, all near to each other."""
        return cls({cpu: Cpu(cpu, (0, cpu), 0) for cpu in sorted(set(cpus))})

    def choose(self, n: int, free: Collection[int]) -> tuple[int, ...] | None:
        """Picks `n` free CPUs that belong together, or None when there are too few.

        All of one NUMA node, the fullest one that has room; else as few nodes as possible. Whole
        cores first; what is left over fills cores of which some threads are given away already.
        """
        left = {cpu for cpu in free if cpu in self.cpus}
        if n > len(left):
            return None
        chosen: list[int] = []
        while len(chosen) < n:
            by_node: dict[int, set[int]] = defaultdict(set)
            for cpu in left:
                by_node[self.cpus[cpu].node].add(cpu)
            wanted = n - len(chosen)
            fitting = [node for node, cpus in by_node.items() if len(cpus) >= wanted]
            if fitting:
                node = min(fitting, key=lambda each: (len(by_node[each]), each))
            else:
                node = min(by_node, key=lambda each: (-len(by_node[each]), each))
            taken = self._of_node(wanted, by_node[node])
            chosen += taken
            left -= set(taken)
        return tuple(sorted(chosen))

    def _of_node(self, n: int, free: Collection[int]) -> list[int]:
        """Picks up to `n` CPUs of one node."""
        threads: dict[tuple[int, int], list[int]] = defaultdict(list)
        for cpu in self.cpus.values():
            threads[cpu.core].append(cpu.id)
        mine = {core: [cpu for cpu in cpus if cpu in free] for core, cpus in threads.items()}
        whole = sorted(core for core, cpus in mine.items() if len(cpus) == len(threads[core]))
        broken = sorted(
            (core for core, cpus in mine.items() if 0 < len(cpus) < len(threads[core])),
            key=lambda core: (len(mine[core]), core),
        )
        chosen: list[int] = []
        for core in whole:
            if len(chosen) + len(mine[core]) <= n:
                chosen += mine[core]
        rest = [number for core in (*broken, *whole) for number in mine[core]]
        rest = [number for number in rest if number not in chosen]
        return chosen + rest[: n - len(chosen)]


def cpu_list(text: str) -> set[int]:
    """Reads a list as the kernel writes it.

    Raises:
        ValueError: it is none.

    >>> sorted(cpu_list("0,2-4"))
    [0, 2, 3, 4]
    """
    found: set[int] = set()
    for part in text.strip().split(","):
        if not part:
            continue
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if not 0 <= low <= high < MAX_CPU:
            raise ValueError(f"{part!r} are no CPUs")
        found.update(range(low, high + 1))
    return found


def cpu_text(cpus: Iterable[int]) -> str:
    """Writes a list as the kernel does.

    >>> cpu_text([4, 2, 3, 0])
    '0,2-4'
    """
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def _numbers(*paths: Path) -> set[int]:
    for path in paths:
        try:
            return cpu_list(path.read_text(encoding="ascii"))
        except (OSError, ValueError, UnicodeDecodeError):
            continue
    return set()


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
