# SPDX-License-Identifier: Apache-2.0
"""One child process of the supervisor: starting it as another user on its cores, and its end.

A child gets a new session (no signal of the terminal reaches it), no descriptor but its token's
pipe, standard error for its output, and the affinity of its first moment: who forks it takes it on
itself meanwhile, so that no thread of the child ever runs elsewhere. The fork server does that
(mesh/forkserver.py); without it the supervisor forks and executes a new interpreter, to the same
effect but later.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from mesh.errors import ProcessError, system_text
from mesh.forks import ENVIRONMENT, STDERR, ForkServer, ForkServerGone, Order

__all__ = ["CANNOT_START", "Identity", "Process", "exit_text", "resident_bytes"]

CANNOT_START = 78
"""Exit status of a child that will not do better when started again (EX_CONFIG)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a child runs as; None leaves the user as it is.

    Attributes:
        is_late: it is told its user, and becomes that by itself once it is loaded.
    """

    uid: int | None = None
    gid: int | None = None
    is_late: bool = False

    @property
    def effective_uid(self) -> int:
        """The uid that the kernel will report."""
        return os.getuid() if self.uid is None else self.uid


class Process:
    """A running child.

    Args:
        name: in the mesh.
        module: run as `python -m module`.
        arguments: for the module; `--parent` is added, and `secret_option` with the descriptor of
            a pipe in which `secret` lies.
        identity: whom it runs as.
        cores: where it may run; empty: anywhere.
        forks: who forks it; without one, or when that is gone, it is executed.

    Raises:
        ProcessError: it cannot be started.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        *,
        secret: bytes,
        secret_option: str = "--token-fd",
        identity: Identity,
        cores: Sequence[int] = (),
        forks: ForkServer | None = None,
    ) -> None:
        self.name, self.identity, self.cores = name, identity, tuple(cores)
        arguments = ["--parent", str(os.getpid()), *arguments]
        if identity.is_late:
            arguments.append(f"--user={identity.uid}:{identity.gid}")
            identity = Identity()
        user = None if identity.uid is None else (identity.uid, identity.gid or 0)
        order = Order(module, (*arguments, secret_option), name, self.cores, user)
        self._status: int | None = None
        try:
            self.pid = _start(order, secret, forks)
            self.pidfd = _pidfd(self.pid)
        except OSError as error:
            raise ProcessError(f"cannot be started: {system_text(error)}", name) from error

    def signal(self, number: int) -> None:
        """Sends a signal to it, and to nobody else if it is gone."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return

    def reap(self) -> int | None:
        """Returns its wait status as `subprocess` writes it when it has ended, else None."""
        if self._status is None:
            found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
            if found is None:
                return None
            is_exit = found.si_code == os.CLD_EXITED
            self._status = found.si_status if is_exit else -found.si_status
        return self._status

    def close(self) -> None:
        """Lets go of the pidfd of a process that has been reaped."""
        os.close(self.pidfd)


def _start(order: Order, secret: bytes, forks: ForkServer | None) -> int:
    out, into = os.pipe()
    try:
        os.write(into, secret)
        if forks is not None:
            with suppress(ForkServerGone):
                return forks.fork(order, out)
        return _execute(order, out)
    finally:
        os.close(out)
        os.close(into)


def _pidfd(pid: int) -> int:
    """Opens the pidfd of a child, which does not live without."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _execute(order: Order, fd: int) -> int:
    uid, gid = (None, None) if order.user is None else order.user
    with _running_on(order.cores):
        popen = subprocess.Popen(
            [sys.executable, "-P", "-m", order.module, *order.arguments, str(fd)],
            stdin=subprocess.DEVNULL,
            stdout=STDERR,
            stderr=STDERR,
            pass_fds=(fd,),
            start_new_session=True,
            umask=0o077,
            user=uid,
            group=gid,
            extra_groups=None if uid is None else (),
            env={**ENVIRONMENT, **os.environ},
        )
    popen.returncode = 0  # it is waited for by its pidfd
    return popen.pid


@contextmanager
def _running_on(cores: Sequence[int]) -> Iterator[None]:
    """Puts this thread on cores while it forks a child, which inherits them."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def exit_text(status: int) -> str:
    """Says how a process ended.

    >>> exit_text(-9), exit_text(3)
    ('killed by SIGKILL', 'exit status 3')
    """
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def resident_bytes(pid: int) -> int:
    """Returns the resident memory of a process, 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
