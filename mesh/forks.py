# SPDX-License-Identifier: Apache-2.0
"""The supervisor's side of its fork server: starts that, and has children forked by it.

This module loads little, so that a command can start the server before it loads its own code.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

__all__ = ["ENVIRONMENT", "ForkServer", "ForkServerGone", "Order"]

ENVIRONMENT = {
    **{"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    "PYDANTIC_DISABLE_PLUGINS": "__all__",
}
"""A child has one core: libraries that would start a thread per core of the host need not. Nor does
it search all that is installed for plugins of a library that only checks its messages."""
PATIENCE_S = 20.0
"""For one answer; the first has to wait until the server has loaded its code."""
STDERR, SOCKET = 2, 3
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37


class ForkServerGone(Exception):
    """The server does not answer any more: children are to be started without it."""


@dataclass(frozen=True, slots=True)
class Order:
    """A child that is wanted.

    Attributes:
        module: whose `main` it is.
        arguments: for that, as a command line has them.
        name: that tools shall show.
        cores: where it may run; empty: anywhere.
        user: (uid, gid) that it becomes first; None: stays who it is.
    """

    module: str
    arguments: tuple[str, ...]
    name: str
    cores: tuple[int, ...] = ()
    user: tuple[int, int] | None = None


class ForkServer:
    """A process that forks children with their code loaded; see mesh/forkserver.py.

    It returns from its constructor at once, while the server loads. What the server and all of its
    children have of this process is its environment, working folder and limits of now.

    Attributes:
        pid: of the server; 0 when it is gone.
        notices: why it is gone, when it was not closed.
    """

    def __init__(self) -> None:
        self.pid = 0
        self.notices: list[str] = []
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(PATIENCE_S)
        with theirs:
            try:
                self.pid = _spawn(theirs.fileno())
            except OSError as error:
                self._give_up(str(error))

    def fork(self, order: Order, fd: int) -> int:
        """Has a child forked, which is a child of this process.

        Args:
            order: what it is.
            fd: its only descriptor beside standard error; the child is told its number there.

        Returns:
            Its pid, which is nobody else's before it is waited for.

        Raises:
            OSError: the system refuses.
            ForkServerGone: the server is not there, or was given up because it does not answer.
        """
        if not self.pid:
            raise ForkServerGone
        data = json.dumps(asdict(order)).encode()
        try:
            with _adopting():
                socket.send_fds(self._socket, [data], [fd])
                answer = int(self._socket.recv(32) or b"0")
        except OSError as error:
            self._give_up(str(error))
            raise ForkServerGone from error
        if answer == 0:
            self._give_up("it has ended")
            raise ForkServerGone
        if answer < 0:
            raise OSError(-answer, os.strerror(-answer))
        return answer

    def close(self) -> None:
        """Ends the server; its children live on."""
        self._socket.close()
        pid, self.pid = self.pid, 0
        if pid:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _give_up(self, why: str) -> None:
        self.notices.append(f"processes start slowly: there is no fork server ({why})")
        self.close()


def _spawn(socket_fd: int) -> int:
    command = [sys.executable, "-P", "-m", "mesh.forkserver", str(SOCKET)]
    return os.posix_spawn(
        sys.executable,
        command,
        {**ENVIRONMENT, **os.environ},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, STDERR, 1),
            (os.POSIX_SPAWN_DUP2, socket_fd, SOCKET),
        ],
        setsid=True,
    )


@contextmanager
def _adopting() -> Iterator[None]:
    """Makes orphans among this process' descendants its children for as long as it lasts."""
    libc = ctypes.CDLL(None)
    before = ctypes.c_int()
    libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)
