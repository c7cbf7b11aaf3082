# SPDX-License-Identifier: Apache-2.0
"""Cores of a supervisor's children: who gets which, also after a restart, and what others share.

Theory of operation: cores that a child has for itself are kept free of all other children: who is
not pinned to a core of its own runs on what is left, also when that changes while it runs. Cores
asked for by number are noted in a file of the host (mesh/corestate.py), so that two meshes never
give away the same one, and a mesh that is started again gives its NFs those that they had.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from mesh.cgroups import Cpusets, find_cpusets
from mesh.child import Child
from mesh.cores import CoreRequest, Room, allocate
from mesh.corestate import CoreState
from mesh.rundir import running
from mesh.topology import Topology

__all__ = ["Pinning"]


class Pinning:
    """The cores of one mesh.

    Args:
        folder: its run folder.
        topology: what there is; default is what this process may use.
    """

    def __init__(self, folder: Path, topology: Topology | None = None) -> None:
        self._topology = topology or Topology.read()
        self._base, self._state = folder.parent, CoreState(folder.parent, folder.name)
        # a mesh of another base folder may have the same name
        self._group = f"{folder.name}-{zlib.crc32(os.fsencode(folder.absolute())):08x}"
        self._counted: dict[str, tuple[int, ...]] = {}
        self._own: set[str] = set()
        self._cpusets: Cpusets | None = None
        self.notices: list[str] = []

    def place(
        self,
        requests: Sequence[CoreRequest],
        children: Iterable[Child],
        reserved: Collection[int] = (),
    ) -> dict[str, tuple[int, ...]]:
        """Finds cores for children that start; those that share get what is left.

        Args:
            requests: of those that start.
            children: that run already.
            reserved: cores that are nobody's own.

        Raises:
            SpecError: a core is given twice or is not there, or there are too few.
            ProcessError: what is given away cannot be noted.
        """
        kept = [child for child in children if child.cores and not child.shares]
        taken = {cpu for child in kept for cpu in child.cores}
        counted = {request.name for request in requests if request.count}
        with self._state.locked() if counted else contextlib.nullcontext():
            before: Mapping[str, tuple[int, ...]] = {}
            if counted:
                others = set(running(self._base))
                before = {**self._state.before(), **self._counted}
                taken |= self._state.taken(others)
            found = allocate(requests, Room(self._topology, taken, reserved, before))
            if counted:
                self._counted |= {name: found.cores[name] for name in counted}
                self._state.save(self._counted, others)
        self.notices += [*found.notices, *self._state.notices]
        self._state.notices.clear()
        self._own |= found.own
        return found.cores

    @property
    def tier(self) -> str:
        """How cores are kept; "" as long as nobody has any for itself."""
        return "" if self._cpusets is None else self._cpusets.tier

    def hold(self, child: Child) -> None:
        """Keeps a child that has just been started on cores of its own."""
        if child.name not in self._own or child.process is None or child.shares:
            return
        if self._cpusets is None:
            self._cpusets = find_cpusets(self._group)
        self._cpusets.hold(child.name, child.process.pid, child.cores)

    def close(self) -> None:
        """Removes what was made to keep cores."""
        if self._cpusets is not None:
            self._cpusets.close()

    def forget(self, name: str) -> None:
        """Gives a child's cores back; the file knows them until others are noted."""
        if self._cpusets is not None:
            self._cpusets.drop(name)
        self._counted.pop(name, None)
        self._own.discard(name)

    def share(self, children: Iterable[Child]) -> None:
        """Lets those without cores of their own run on what the others leave, now."""
        all_of_them = list(children)
        own = {cpu for c in all_of_them if c.name in self._own and not c.shares for cpu in c.cores}
        left = tuple(cpu for cpu in self._topology.cpus if cpu not in own)
        for child in all_of_them:
            if child.cores and not child.shares:
                continue
            wanted = left if own else ()
            if child.cores != wanted:
                child.cores, child.shares = wanted, bool(wanted)
                self._move(child, wanted or tuple(self._topology.cpus))

    def _move(self, child: Child, cores: tuple[int, ...]) -> None:
        """Moves all threads of a running child."""
        if child.process is None or not cores:
            return
        with contextlib.suppress(OSError):  # it has just ended
            for task in Path(f"/proc/{child.process.pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(int(task.name), cores)
