# SPDX-License-Identifier: Apache-2.0
"""How a process comes by its descriptors: the other end of mesh/fdpass.py."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgpack

from mesh.errors import AttachError
from mesh.fdpass import MAX_MESSAGE, MAX_WANT, VERSION, Handle

__all__ = ["DescriptorClient"]


class DescriptorClient:
    """A child's end. Keep it open to ask for objects that are granted later.

    Args:
        path: the supervisor's socket.
        name: of this process.
        token: read from the pipe that the supervisor left.
        timeout_s: how long an answer may take.

    Attributes:
        welcome: what a guest was told with its first answer.
    """

    def __init__(self, path: Path, name: str, token: bytes, timeout_s: float = 10.0) -> None:
        self.welcome: Mapping[str, Any] = {}
        self._first: dict[str, Any] = {"name": name, "token": token}
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.settimeout(timeout_s)
        try:
            self._sock.connect(str(path))
        except OSError as error:
            self.close()
            text = f"{path}: {error.strerror or error}; is the supervisor running?"
            raise AttachError(text) from error

    def fetch(self, want: Sequence[str]) -> dict[str, Handle]:
        """Asks for objects.

        Returns:
            Handles by name. Their descriptors are the caller's and close on exec.

        Raises:
            AttachError: refused, no answer, or too few descriptors left.
        """
        found: dict[str, Handle] = {}
        for start in range(0, len(want), MAX_WANT):
            found |= self._fetch(want[start : start + MAX_WANT])
        return found

    def _fetch(self, want: Sequence[str]) -> dict[str, Handle]:
        request = {"v": VERSION, **self._first, "want": list(want)}
        try:
            self._sock.send(msgpack.packb(request))
            raw, fds, flags, _ = socket.recv_fds(self._sock, MAX_MESSAGE, MAX_WANT)
        except OSError as error:
            raise AttachError(f"no answer from the supervisor: {error}") from error
        self._first = {}
        for fd in fds:
            os.set_inheritable(fd, False)
        try:
            answer = _answered(raw)
            self.welcome = answer.get("welcome", self.welcome)
            return _handles(answer, fds, want, flags)
        except AttachError:
            for fd in fds:
                os.close(fd)
            raise

    @property
    def is_open(self) -> bool:
        """True as long as the other side is there: it says nothing unasked."""
        waiting = select.poll()
        waiting.register(self._sock, select.POLLIN)
        return not waiting.poll(0)

    def close(self) -> None:
        """Closes the connection; descriptors stay."""
        self._sock.close()


def _answered(raw: bytes) -> Mapping[str, Any]:
    if not raw:
        raise AttachError("the supervisor closed the connection")
    answer = msgpack.unpackb(raw)
    if not answer.get("ok"):
        text = f"refused: {answer.get('error', 'no reason given')}"
        raise AttachError(text, reason=str(answer.get("reason", "")))
    found: Mapping[str, Any] = answer
    return found


def _handles(
    answer: Mapping[str, Any], fds: Sequence[int], want: Sequence[str], flags: int
) -> dict[str, Handle]:
    if flags & socket.MSG_CTRUNC or len(fds) != len(want):
        text = f"{len(fds)} of {len(want)} descriptors came; raise the limit of open files"
        raise AttachError(f"{text} (ulimit -n)")
    rows = zip(answer["objects"], fds, strict=True)
    return {row["name"]: Handle(row["name"], fd, row["size"], row["backing"]) for row, fd in rows}
