# SPDX-License-Identifier: Apache-2.0
"""Whom the processes of a mesh run as, and what that keeps apart.

A supervisor that is root makes each NF a user of its own, and the shared memory the property of one
that no process runs as. Where other users cannot walk to the installation (a Python below /root),
an NF's process is started as root and becomes its user before it loads the NF (mesh/reach.py). An
NF whose own file others cannot read stays root but loses every capability: it still cannot open the
memory for writing, since it does not own it. A supervisor that is not root cannot give anything
away: then the kernel refuses an NF to map packets writable, but not to open them again.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mesh._ffi import native

__all__ = ["GROUP", "MAX_NFS", "OWNER", "Users", "closed_to_others", "find_users", "may_give_away"]

OWNER = 64000
"""The user that memory belongs to; NFs are those after it."""
GROUP = 64000
"""The group of all NFs."""
MAX_NFS = 1000
_NEEDED = (0, 6, 7)
"""CAP_CHOWN, CAP_SETGID, CAP_SETUID."""


@dataclass(frozen=True, slots=True)
class Users:
    """Who is who.

    Attributes:
        owner: user that owns shared memory; None: this one.
        first: user of the first NF; None: NFs are this user.
        group: group of NFs that have users of their own.
        is_late: NFs become their users after the interpreter is loaded, which they cannot reach.
        notice: what is not kept apart, or "".
    """

    owner: int | None = None
    first: int | None = None
    group: int | None = None
    notice: str = ""
    is_late: bool = False


def find_users(*, is_root: bool | None = None) -> Users:
    """Finds out what this host allows."""
    root = os.geteuid() == 0 and may_give_away() if is_root is None else is_root
    if not root:
        return Users(
            notice="all processes run as one user: the kernel refuses NFs to map packets writable, "
            "but not to open them again; start as root to give each NF a user of its own"
        )
    is_late = closed_to_others(_installation()) is not None
    return Users(OWNER, OWNER + 1, GROUP, is_late=is_late)


def may_give_away() -> bool:
    """True with the capabilities that make other users of children and files: root may lack them.

    Where the kernel does not say, root is taken to have them.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            words = next(line.split() for line in file if line.startswith("CapEff:"))
        effective = int(words[1], 16)
    except (OSError, StopIteration, IndexError, ValueError):
        return True
    return all(effective >> capability & 1 for capability in _NEEDED)


def closed_to_others(paths: Iterable[Path]) -> Path | None:
    """Returns the first file or folder on the way to `paths` that other users cannot read."""
    for path in paths:
        for spelling in (path.absolute(), path.resolve()):
            for each in reversed([spelling, *spelling.parents]):
                if not _is_open(each):
                    return each
    return None


def _is_open(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    needed = stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
    return bool(mode & needed)


def _installation() -> list[Path]:
    """The files that a process of the mesh needs at its start."""
    native()
    extension = getattr(sys.modules.get("mesh._native"), "__file__", None)
    found = [Path(sys.executable), Path(os.__file__), Path(__file__)]
    return found if extension is None else [*found, Path(extension)]
