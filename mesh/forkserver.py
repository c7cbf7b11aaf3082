# SPDX-License-Identifier: Apache-2.0
"""The fork server: `python -m mesh.forkserver`, started by the supervisor before anything else.

Theory of operation. What takes a process of the mesh long at its start is not its work but loading
the interpreter and the libraries. The server loads once what children need, on one core while the
supervisor loads its own on the other, and then each child is a fork of it, which has its code after
some milliseconds, again and again at restarts; their memory is the same pages until somebody writes
to them.

A child is forked twice: the process in between ends at once, and the supervisor, which is the
"subreaper" of its descendants for that moment, becomes the child's parent. So it waits for it, and
the child dies with it, as if the supervisor had forked it itself.

Rules of this file. One thread, no ZeroMQ context, no secret: what is here is in every child. No
NF's code. Nobody of the same user may trace it, since tokens pass through as pipes, unread. A child
is what an executed one would be: own session, no descriptor but what was given, its own affinity
from the first moment, its main module as `__main__`. All else it does to itself as ever
(mesh/confine.py). What differs from an execution: children have the addresses and the hash seed of
the server, so of each other, though not of the supervisor.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import gc
import importlib
import json
import os
import runpy
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from pydantic.dataclasses import rebuild_dataclass

from mesh._ffi import native
from mesh.confine import become, keep_private
from mesh.control import messages as m
from mesh.control.stats import NFStats, WorkerStats
from mesh.control.wire import NFPart, WorkerPart
from mesh.errors import ProcessError
from mesh.forks import Order
from mesh.process import CANNOT_START

__all__ = ["main"]

MODULES = ("mesh.control.controller", "mesh.worker", "mesh.modulehost", "mesh.nfhost")
"""What children usually are: loaded here. Whatever else one is, it loads itself."""
MESSAGES = (
    *(m.Register, m.Seen, m.PlanPart, m.Ready, m.Go, m.Attached, m.Heartbeat, NFStats, WorkerStats),
    *(m.Eof, m.Result, m.Drained, m.Leave),
)
"""What children say and hear in every run: what checks them is built here, once for all."""
PARTS: tuple[Any, ...] = (WorkerPart, NFPart)
"""What they are told to do, likewise."""
MAX_ORDER = 1 << 17
GIVEN = 3
"""Number of the descriptor that a child is given."""
LOOK_S = 0.0002
FIRST_FIELD = 3
"""Of /proc/self/stat after the program's name, as proc(5) counts."""
_PR_SET_NAME = 15


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the server until the supervisor is gone, and in each child that child's own `main`."""
    parser = argparse.ArgumentParser(prog="python -m mesh.forkserver")
    parser.add_argument("socket", type=int, help="descriptor")
    arguments = parser.parse_args(argv)
    keep_private(True)
    os.closerange(arguments.socket + 1, os.sysconf("SC_OPEN_MAX"))
    gc.disable()
    _load()
    gc.freeze()
    if len(os.listdir("/proc/self/task")) > 1:
        print("fork server: a library has started a thread", file=sys.stderr)
        return CANNOT_START
    with socket.socket(fileno=arguments.socket) as line:
        found = _serve(line)
        if found is None:
            return 0
        order, fd = found
        line.detach()
    return _be(order, fd)


def _load() -> None:
    """Loads and builds what children need."""
    for name in MODULES:
        importlib.import_module(name)
    native()
    for message in MESSAGES:
        message.model_rebuild()
    for part in PARTS:
        rebuild_dataclass(part)


def _serve(line: socket.socket) -> tuple[Order, int] | None:
    """Answers orders; returns None when there are no more, and in a child its order."""
    everywhere = os.sched_getaffinity(0)
    while True:
        data, fds, _, _ = socket.recv_fds(line, MAX_ORDER, 1)
        if not data:
            return None
        order = Order(**json.loads(data))
        try:
            if not fds:
                raise OSError(errno.EMFILE, "no descriptor came with the order")
            os.sched_setaffinity(0, order.cores or everywhere)
            pid = _fork()
        except OSError as error:
            pid = -(error.errno or errno.EIO)
        if pid == 0:
            return order, fds[0]
        os.sched_setaffinity(0, everywhere)
        for fd in fds:
            os.close(fd)
        line.send(str(pid).encode())


def _fork() -> int:
    """Forks a child whose parent is the supervisor: returns its pid, or 0 in it."""
    out, into = os.pipe()
    between = os.fork()
    if between == 0:
        between = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            pid = -(error.errno or errno.EIO)
        if pid == 0:
            while os.getppid() == between:
                time.sleep(LOOK_S)
            return 0
        os.write(into, str(pid).encode())
        os._exit(0)
    os.waitpid(between, 0)
    pid = int(os.read(out, 32))
    os.close(out)
    os.close(into)
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    return pid


def _be(order: Order, fd: int) -> int:
    """Makes this process the child; returns its exit status."""
    os.setsid()
    os.umask(0o077)
    os.dup2(fd, GIVEN, inheritable=False)
    os.closerange(GIVEN + 1, os.sysconf("SC_OPEN_MAX"))
    _rename(order)
    gc.enable()
    try:
        if order.user is not None:
            become(*order.user)
    except ProcessError as error:
        print(f"{order.name}: {error}", file=sys.stderr)
        return CANNOT_START
    sys.argv = [order.module, *order.arguments, str(GIVEN)]
    if order.module not in MODULES:
        runpy.run_module(order.module, run_name="__main__", alter_sys=True)
        return 0
    module = sys.modules["__main__"] = sys.modules[order.module]
    status: int = module.main(sys.argv[1:])
    return status


def _rename(order: Order) -> None:
    """Lets tools show whose process this is: its name, and as much of a command line as fits.

    The room is where the system put the server's own command line; nobody needs that any more.
    """
    ctypes.CDLL(None).prctl(_PR_SET_NAME, order.name.encode()[:15], 0, 0, 0)
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    start, end = (int(fields[number - FIRST_FIELD]) for number in (48, 49))
    with open("/proc/self/cmdline", "rb") as file:
        if not start or file.read() != ctypes.string_at(start, end - start):
            return
    words = f"{order.module} --name {order.name}".encode().replace(b" ", b"\0")
    ctypes.memmove(start, words[: end - start - 1].ljust(end - start, b"\0"), end - start)


if __name__ == "__main__":
    sys.exit(main())
