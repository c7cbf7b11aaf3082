# SPDX-License-Identifier: Apache-2.0
"""Processes that tests leave behind, and the namespaces and the memory that they hold."""

import os
import signal
import time
from pathlib import Path

from patience import PATIENCE_S

from mesh.rundir import VARIABLE

LEAVING_S = PATIENCE_S / 4
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


def processes():
    """Returns the pids of processes of this session, this one left out.

    Of a mesh that died they have another parent, but this run folder in their environment.
    """
    mark = f"{VARIABLE}={os.environ[VARIABLE]}".encode()
    found = descendants(os.getpid())
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                found.add(int(path.parent.name))
        except OSError:
            continue  # it has just ended, or is another user's
    return {pid for pid in found - {os.getpid()} if _runs(pid)}


def end(before, tests):
    """Waits for processes beyond those of before; kills what stays and describes it.

    Args:
        tests: pid -> the test in which a process came up.
    """
    until = time.monotonic() + LEAVING_S
    while (left := processes() - before) and time.monotonic() < until:
        time.sleep(0.05)
    said = [f"{pid}: {_command(pid)} ({tests.get(pid, 'of no test')})" for pid in sorted(left)]
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
