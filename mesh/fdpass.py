# SPDX-License-Identifier: Apache-2.0
"""Descriptors of shared memory from their owner to the processes that may have them.

Theory of operation. The supervisor listens on a Unix socket of packets. A process that it started
connects, names itself, shows the token of this start and says which objects it wants. The kernel
tells the peer's uid. When name, token and uid fit, the descriptors come back as SCM_RIGHTS in the
order asked for, and the connection stays good for further objects that are granted later (a ring of
an NF that joins). A token serves one connection; a further one with it is refused, so a token that
leaks after the start is worth nothing. Everything refused is counted by reason and logged without
the token. Messages are msgpack maps:

    first    {v: 1, name, token, want: [object names]}     later   {v: 1, want: [object names]}
    answer   {ok: true, objects: [{name, size, backing}]} and descriptors, or {ok: false, error}
"""

from __future__ import annotations

import hmac
import logging
import os
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

from mesh.errors import AttachError

__all__ = ["TOKEN_BYTES", "DescriptorClient", "DescriptorService", "Handle", "make_token"]

VERSION = 1
TOKEN_BYTES = 32
MAX_MESSAGE = 65536
MAX_WANT = 128
"""Objects per request; the kernel takes 253 descriptors in one message."""
MAX_STRANGERS = 32
"""Connections that have not shown a token yet; the oldest gives way."""
STRANGER_S = 5.0
MAX_REFUSED = 8
"""Refused requests after which a known child's connection is closed."""
_CREDENTIALS = struct.Struct("3i")
_LOG = logging.getLogger("nfmesh.fdpass")


def make_token() -> bytes:
    """Returns a fresh token."""
    return os.urandom(TOKEN_BYTES)


@dataclass(frozen=True, slots=True)
class Handle:
    """A descriptor of an object as one process may have it.

    Attributes:
        name: "w0/packets", "ring/<nf>/w0", …
        fd: read-only or writable, as its holder may use it.
        size: bytes.
        backing: word of enum nfm_backing.
    """

    name: str
    fd: int
    size: int
    backing: str


@dataclass(slots=True)
class _Grant:
    """What one start of a child may have."""

    token: bytes
    uid: int
    objects: dict[str, Handle]
    is_used: bool = False


@dataclass(slots=True)
class _Peer:
    """A connection; `name` is known once its token was right."""

    sock: socket.socket
    since: float
    name: str | None = None
    grant: _Grant | None = field(default=None, repr=False)
    refused: int = 0


class _RefusedError(Exception):
    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class DescriptorService:
    """The supervisor's end. Waits for nothing: call `serve` when `fileno()` is readable.

    Args:
        path: of the socket; made with mode 0600, or 0660 for `gid`.
        gid: group whose processes may connect, or None: only this user.

    Raises:
        OSError: the socket cannot be made.
    """

    def __init__(self, path: Path, gid: int | None = None) -> None:
        self.path = path
        self.refused: Counter[str] = Counter()
        self.served = 0
        self._grants: dict[str, _Grant] = {}
        self._peers: dict[int, _Peer] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._epoll = select.epoll()
        try:
            before = os.umask(0o177)
            try:
                self._listener.bind(str(path))
            finally:
                os.umask(before)
            if gid is not None:
                os.chown(path, -1, gid)
                path.chmod(0o660)
            self._listener.listen(64)
            self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Returns a descriptor that is readable when there is something to serve."""
        return self._epoll.fileno()

    def offer(self, name: str, token: bytes, uid: int, objects: Mapping[str, Handle]) -> None:
        """Grants one start of `name`, run as `uid`, these objects; replaces an earlier start's."""
        self.withdraw(name)
        self._grants[name] = _Grant(token, uid, dict(objects))

    def extend(self, name: str, objects: Mapping[str, Handle]) -> None:
        """Grants further objects to a process that runs."""
        self._grants[name].objects.update(objects)

    def revoke(self, object_name: str) -> None:
        """Grants an object to nobody any longer; who has it keeps it."""
        for grant in self._grants.values():
            grant.objects.pop(object_name, None)

    def withdraw(self, name: str) -> None:
        """Ends what `name` was granted and its connection."""
        self._grants.pop(name, None)
        for peer in [peer for peer in self._peers.values() if peer.name == name]:
            self._drop(peer)

    def serve(self) -> None:
        """Answers what has come in."""
        for fd, _ in self._epoll.poll(0):
            if fd == self._listener.fileno():
                self._accept()
            elif fd in self._peers:
                self._answer(self._peers[fd])
        self._drop_strangers()

    def close(self) -> None:
        """Closes all connections and removes the socket; granted descriptors stay the caller's."""
        for peer in list(self._peers.values()):
            self._drop(peer)
        self._epoll.close()
        self._listener.close()
        self.path.unlink(missing_ok=True)

    # ---- connections ---------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # out of descriptors: the peer times out and tries again
            self._count("accept", f"{error.strerror}; raise the limit of open files (ulimit -n)")
            return
        sock.setblocking(False)
        self._peers[sock.fileno()] = _Peer(sock, time.monotonic())
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _drop(self, peer: _Peer) -> None:
        if self._peers.pop(peer.sock.fileno(), None) is not None:
            self._epoll.unregister(peer.sock.fileno())
        peer.sock.close()

    def _drop_strangers(self) -> None:
        strangers = [peer for peer in self._peers.values() if peer.name is None]
        oldest = time.monotonic() - STRANGER_S
        surplus = len(strangers) - MAX_STRANGERS
        for i, peer in enumerate(sorted(strangers, key=lambda peer: peer.since)):
            if i < surplus or peer.since < oldest:
                self._count("silent", "connected and said nothing")
                self._drop(peer)

    def _answer(self, peer: _Peer) -> None:
        try:
            raw = peer.sock.recv(MAX_MESSAGE + 1)
        except BlockingIOError:
            return
        except OSError:
            raw = b""
        if not raw:
            self._drop(peer)
            return
        try:
            handles = self._check(peer, raw)
            answer: dict[str, Any] = {"ok": True, "objects": [_described(h) for h in handles]}
        except _RefusedError as error:
            self._count(error.reason, str(error))
            handles, answer = [], {"ok": False, "error": str(error)}
            peer.refused += 1
        self._send(peer, answer, handles)
        if peer.name is None or peer.refused >= MAX_REFUSED:
            self._drop(peer)

    def _send(self, peer: _Peer, answer: dict[str, Any], handles: Sequence[Handle]) -> None:
        try:
            socket.send_fds(peer.sock, [msgpack.packb(answer)], [h.fd for h in handles])
            self.served += len(handles)
        except OSError as error:  # gone, or does not read: it may ask again
            self._count("send", f"{peer.name or 'a stranger'}: {error.strerror}")
            peer.refused = MAX_REFUSED

    def _count(self, reason: str, text: str) -> None:
        self.refused[reason] += 1
        _LOG.warning("descriptors refused (%s): %s", reason, text)

    # ---- who may have what ---------------------------------------------------------------

    def _check(self, peer: _Peer, raw: bytes) -> list[Handle]:
        message = _unpacked(raw)
        if peer.grant is None:
            self._identify(peer, message)
        if peer.grant is None:
            raise _RefusedError("name", "nobody")
        want = message.get("want")
        if not isinstance(want, list) or len(want) > MAX_WANT:
            raise _RefusedError("malformed", f"{peer.name}: 'want' is no list of names")
        for name in want:
            if not isinstance(name, str) or name not in peer.grant.objects:
                raise _RefusedError("object", f"{peer.name} may not have {name!r:.80}")
        return [peer.grant.objects[name] for name in want]

    def _identify(self, peer: _Peer, message: Mapping[str, Any]) -> None:
        name, token = message.get("name"), message.get("token")
        if not isinstance(name, str) or not isinstance(token, bytes):
            raise _RefusedError("malformed", "a message without name and token")
        grant = self._grants.get(name)
        expected = grant.token if grant is not None else bytes(TOKEN_BYTES)
        fits = hmac.compare_digest(token, expected)
        if grant is None:
            raise _RefusedError("name", f"no process {name!r:.80} was started here")
        _, uid, _ = _credentials(peer.sock)
        if uid != grant.uid:
            raise _RefusedError("uid", f"{name} runs as uid {grant.uid}, the peer as {uid}")
        if not fits:
            raise _RefusedError("token", f"wrong token for {name}")
        if grant.is_used:
            raise _RefusedError("twice", f"{name} has attached already")
        grant.is_used = True
        peer.name, peer.grant = name, grant


def _unpacked(raw: bytes) -> Mapping[str, Any]:
    if len(raw) > MAX_MESSAGE:
        raise _RefusedError("malformed", "a message that is too long")
    try:
        message = msgpack.unpackb(raw)
    except Exception as error:
        raise _RefusedError("malformed", "a message that is no msgpack") from error
    if not isinstance(message, dict):
        raise _RefusedError("malformed", "a message that is no map")
    if message.get("v") != VERSION:
        found = message.get("v")
        raise _RefusedError("version", f"message version {found!r:.20}, this side has {VERSION}")
    return message


def _credentials(sock: socket.socket) -> tuple[int, int, int]:
    """Returns pid, uid and gid of the peer, as the kernel knows them."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return pid, uid, gid


def _described(handle: Handle) -> dict[str, Any]:
    return {"name": handle.name, "size": handle.size, "backing": handle.backing}


class DescriptorClient:
    """A child's end. Keep it open to ask for objects that are granted later.

    Args:
        path: the supervisor's socket.
        name: of this process.
        token: read from the pipe that the supervisor left.
        timeout_s: how long an answer may take.
    """

    def __init__(self, path: Path, name: str, token: bytes, timeout_s: float = 10.0) -> None:
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
            return _handles(raw, fds, want, flags)
        except AttachError:
            for fd in fds:
                os.close(fd)
            raise

    def close(self) -> None:
        """Closes the connection; descriptors stay."""
        self._sock.close()


def _handles(raw: bytes, fds: Sequence[int], want: Sequence[str], flags: int) -> dict[str, Handle]:
    if not raw:
        raise AttachError("the supervisor closed the connection")
    answer = msgpack.unpackb(raw)
    if not answer.get("ok"):
        raise AttachError(f"refused: {answer.get('error', 'no reason given')}")
    if flags & socket.MSG_CTRUNC or len(fds) != len(want):
        text = f"{len(fds)} of {len(want)} descriptors came; raise the limit of open files"
        raise AttachError(f"{text} (ulimit -n)")
    rows = zip(answer["objects"], fds, strict=True)
    return {row["name"]: Handle(row["name"], fd, row["size"], row["backing"]) for row, fd in rows}
