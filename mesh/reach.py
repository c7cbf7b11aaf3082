# SPDX-License-Identifier: Apache-2.0
"""Keeps an installation readable for a process that becomes a user who could not walk to it.

A Python below a home folder is closed to others only by a folder on the way: what lies in it is
readable by all. A folder that is opened before the user changes is a way in afterwards: imports go
through its descriptor, /proc/self/fd/N. Nothing else becomes reachable: who may read a file, and
which folders may be walked below, is checked as ever.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from mesh.users import closed_to_others

__all__ = ["keep_reachable"]


def keep_reachable() -> None:
    """Has imports go through descriptors where other users could not walk.

    Call it as the user who can, before that changes; the descriptors stay open.
    """
    ways = {entry: _opened(entry) for entry in sys.path if _is_closed(entry)}
    sys.path[:] = [ways.get(entry, entry) for entry in sys.path]
    for module in list(sys.modules.values()):
        path = getattr(module, "__path__", None)
        if isinstance(path, list):
            path[:] = [_through(each, ways) for each in path]
    sys.path_importer_cache.clear()


def _is_closed(entry: str) -> bool:
    return os.path.isdir(entry) and closed_to_others([Path(entry)]) is not None


def _opened(entry: str) -> str:
    return f"/proc/self/fd/{os.open(entry, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)}"


def _through(path: str, ways: Mapping[str, str]) -> str:
    """Returns a package's folder by the way of the longest entry that it lies below.

    >>> _through("/root/lib/json", {"/root/lib": "/proc/self/fd/3"})
    '/proc/self/fd/3/json'
    """
    found = [entry for entry in ways if path == entry or path.startswith(f"{entry}/")]
    if not found:
        return path
    entry = max(found, key=len)
    return ways[entry] + path[len(entry) :]
