# SPDX-License-Identifier: Apache-2.0
"""Processes that tests leave behind, and the namespaces and the memory that they hold."""

import os
import signal
import time
from pathlib import Path

from mesh.rundir import VARIABLE

LEAVING_S = 10.0
"""What was told to leave may take so long."""


def children(pid):
    """Returns the pids of a process' children."""
    found = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found.update(map(int, path.read_text().split()))
        except OSError:
            continue  # that thread has just ended
    return found


def descendants(pid, known=frozenset()):
    """Returns the pids of children, their children and so on, those that still run.

    Those of `known` and what they started since are left out.
    """
    found, new = set(), {pid}
    while new := {child for each in new for child in children(each)} - found - known:
        found |= new
    return {each for each in found if _runs(each)}


def of_session():
    """Returns the pids of processes that run with this session's run folder, this one left out.

    A process of a mesh that died has another parent, but its environment is the session's.
    """
    mark = f"{VARIABLE}={os.environ[VARIABLE]}".encode()
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                found.add(int(path.parent.name))
        except OSError:
            continue  # it has just ended, or is another user's
    return found - {os.getpid()}


def end(find, before):
    """Waits for processes that `find` finds beyond `before`; kills what stays and describes it."""
    until = time.monotonic() + LEAVING_S
    while (left := find() - before) and time.monotonic() < until:
        time.sleep(0.02)
    said = [f"{pid}: {_command(pid)}" for pid in sorted(left)]
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return said


def memory():
    """Returns the shared memory that this process has open, by descriptor."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(path)
        except OSError:
            continue  # of the listing itself
        if target.startswith("/memfd:"):
            found[int(path.name)] = target.removesuffix(" (deleted)")
    return found


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return "gone"
