# SPDX-License-Identifier: Apache-2.0
"""Cpusets for processes that have cores for themselves: they cannot leave them.

Three tiers, looked for once: a cgroup of version 2 that was delegated to this process (systemd's
`Delegate=cpuset`), the cpuset hierarchy of version 1, or none, where the affinity that a process
was started with is all there is. What belongs to others is not touched: a tree of version 2 that
nobody has delegated is left alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from mesh.topology import cpu_text

__all__ = ["Cpusets", "find_cpusets"]

PROC = Path("/proc/self")
_DELEGATED = ("user.delegate", "trusted.delegate")
_LEAF = "supervisor"
_LOG = logging.getLogger("nfmesh.supervisor")


class Cpusets:
    """Groups of one mesh.

    Args:
        parent: group that they are made in; None: there are none.
        mesh: its name, part of theirs; no other mesh of the host has the same.
        tier: "cgroup v2", "cgroup v1" or "affinity".
    """

    def __init__(self, parent: Path | None, mesh: str, tier: str) -> None:
        self.tier = tier
        self._parent, self._prefix = parent, f"nfmesh-{mesh}-"
        self._made: set[str] = set()

    def hold(self, name: str, pid: int, cores: Iterable[int]) -> bool:
        """Puts a process into a group of its own with these cores; True when that was done."""
        if self._parent is None:
            return False
        group = self._parent / f"{self._prefix}{name}"
        try:
            group.mkdir(exist_ok=True)
            self._made.add(name)
            if self.tier == "cgroup v1":
                (group / "cpuset.mems").write_text((self._parent / "cpuset.mems").read_text())
            (group / "cpuset.cpus").write_text(cpu_text(cores))
            (group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            _LOG.warning("%s keeps to its cores by affinity alone: %s", name, error)
            return False
        return True

    def drop(self, name: str) -> None:
        """Removes the group of a process that has ended."""
        if self._parent is not None and name in self._made:
            with contextlib.suppress(OSError):
                (self._parent / f"{self._prefix}{name}").rmdir()
                self._made.discard(name)

    def close(self) -> None:
        """Removes all groups."""
        for name in list(self._made):
            self.drop(name)


def find_cpusets(mesh: str, proc: Path = PROC) -> Cpusets:
    """Finds the best tier that this process has.

    Args:
        mesh: whose processes it is for.
        proc: /proc/self.
    """
    mounts, groups = _lines(proc / "mountinfo"), _lines(proc / "cgroup")
    for find, tier in ((_delegated, "cgroup v2"), (_hierarchy, "cgroup v1")):
        parent = find(mounts, groups)
        if parent is not None:
            return Cpusets(parent, mesh, tier)
    return Cpusets(None, mesh, "affinity")


def _delegated(mounts: list[str], groups: list[str]) -> Path | None:
    """Returns a group of version 2 in which others may be made, after this process left it."""
    own = _own(mounts, groups, "cgroup2", "")
    if own is None or not _is_delegated(own):
        return None
    try:
        if "cpuset" not in (own / "cgroup.controllers").read_text().split():
            return None
        leaf = own / _LEAF
        leaf.mkdir(exist_ok=True)
        for pid in (own / "cgroup.procs").read_text().split():
            (leaf / "cgroup.procs").write_text(pid)
        (own / "cgroup.subtree_control").write_text("+cpuset")
    except OSError:
        return None
    return own


def _hierarchy(mounts: list[str], groups: list[str]) -> Path | None:
    """Returns this process' group in the cpuset hierarchy of version 1, if it may write there."""
    own = _own(mounts, groups, "cgroup", "cpuset")
    if own is None or not os.access(own, os.W_OK) or not (own / "cpuset.cpus").is_file():
        return None
    return own


def _own(mounts: list[str], groups: list[str], kind: str, controller: str) -> Path | None:
    """Returns the folder of this process' group in a hierarchy that is mounted."""
    rows = [line.split(":", 2) for line in groups if line.count(":") >= 2]
    paths = [row[2] for row in rows if controller in row[1].split(",")]
    if not paths:
        return None
    for line in mounts:
        left, _, right = line.partition(" - ")
        words, more = left.split(), right.split()
        if len(words) < 5 or len(more) < 3 or more[0] != kind:
            continue
        if controller and controller not in more[2].split(","):
            continue
        root = words[3].rstrip("/")
        inside = paths[0].removeprefix(root) if paths[0].startswith(root) else paths[0]
        return Path(words[4]) / inside.lstrip("/")
    return None


def _is_delegated(group: Path) -> bool:
    for name in _DELEGATED:
        with contextlib.suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    return False


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
