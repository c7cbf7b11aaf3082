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

Guests come from other containers, by the same door. Nobody here has started them: their pids and
users mean nothing on this side, so the token decides, of which only the hash is known, and it is
good for as many comings as there are, one at a time. As long as the connection is open the guest
is alive. Its first answer has `welcome` with what a child would have been given at its start.
"""

from __future__ import annotations

import hashlib
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
from typing import Any, Protocol

import msgpack

__all__ = [
    "SOCKET",
    "TOKEN_BYTES",
    "DescriptorService",
    "Handle",
    "Host",
    "make_token",
]

VERSION = 1
SOCKET = "attach.sock"
"""Its name in a run folder."""
TOKEN_BYTES = 32
MAX_TOKEN = 1024
"""Of a guest; those of children have TOKEN_BYTES."""
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
    uid: int | None
    objects: dict[str, Handle]
    is_used: bool = False
    welcome: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def is_guest(self) -> bool:
        """True when `token` is a hash, and nobody here has started the process."""
        return self.welcome is not None

    def fits(self, token: bytes) -> bool:
        """True for the right token."""
        shown = hashlib.sha256(token).digest() if self.is_guest else token
        return hmac.compare_digest(shown, self.token)


class Host(Protocol):
    """Who is told of guests."""

    def came(self, name: str, uid: int) -> None:
        """A guest has shown its token; the kernel says who runs it."""

    def takes(self, name: str, objects: Sequence[str]) -> None:
        """A guest is about to get objects."""

    def left(self, name: str) -> None:
        """A guest's connection is closed."""


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
        is_open: everybody may who can enter the folder: guests have users of their own.

    Attributes:
        host: who is told of guests, once there are some.

    Raises:
        OSError: the socket cannot be made.
    """

    def __init__(self, path: Path, gid: int | None = None, *, is_open: bool = False) -> None:
        self.path = path
        self.host: Host | None = None
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
            if is_open:
                path.chmod(0o666)
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

    def expect(
        self, name: str, digest: bytes, welcome: Mapping[str, Any], objects: Mapping[str, Handle]
    ) -> None:
        """Grants whoever shows the token of this SHA-256 these objects, one process at a time.

        Args:
            name: of the guest.
            digest: 32 bytes.
            welcome: what it is told when it comes.
            objects: that it may have.
        """
        self.withdraw(name)
        self._grants[name] = _Grant(digest, None, dict(objects), welcome=dict(welcome))

    def extend(self, name: str, objects: Mapping[str, Handle]) -> None:
        """Grants further objects to a process that runs."""
        self._grants[name].objects.update(objects)

    def revoke(self, object_name: str) -> None:
        """Grants an object to nobody any longer; who has it keeps it."""
        for grant in self._grants.values():
            grant.objects.pop(object_name, None)

    def send_away(self, name: str) -> None:
        """Ends the connection of a guest, which may come again."""
        for peer in [peer for peer in self._peers.values() if peer.name == name]:
            self._drop(peer)

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
        self.host = None
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
        grant = peer.grant
        if grant is None or not grant.is_guest or self._grants.get(peer.name or "") is not grant:
            return
        grant.is_used = False
        if self.host is not None and peer.name is not None:
            self.host.left(peer.name)

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
        was_known = peer.grant is not None
        try:
            handles = self._check(peer, raw)
            answer: dict[str, Any] = {"ok": True, "objects": [_described(h) for h in handles]}
            if not was_known and peer.grant is not None and peer.grant.is_guest:
                answer["welcome"] = dict(peer.grant.welcome or {})
        except _RefusedError as error:
            self._count(error.reason, str(error))
            handles, answer = [], {"ok": False, "error": str(error), "reason": error.reason}
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
        """Counts, and says it at the first time, the second, the fourth, the eighth, ..."""
        n = self.refused[reason] = self.refused[reason] + 1
        if n & (n - 1) == 0:
            _LOG.warning("descriptors refused (%s, %d times): %s", reason, n, text)

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
        if peer.grant.is_guest and self.host is not None and peer.name is not None:
            self.host.takes(peer.name, want)
        return [peer.grant.objects[name] for name in want]

    def _identify(self, peer: _Peer, message: Mapping[str, Any]) -> None:
        name, token = message.get("name"), message.get("token")
        if not isinstance(name, str) or not isinstance(token, bytes) or len(token) > MAX_TOKEN:
            raise _RefusedError("malformed", "a message without name and token")
        grant = self._grants.get(name)
        fits = (grant or _Grant(bytes(TOKEN_BYTES), 0, {})).fits(token)
        if grant is None:
            raise _RefusedError("name", f"no process {name!r:.80} was started or is expected here")
        _, uid, _ = _credentials(peer.sock)
        if grant.uid is not None and uid != grant.uid:
            raise _RefusedError("uid", f"{name} runs as uid {grant.uid}, the peer as {uid}")
        if not fits:
            raise _RefusedError("token", f"wrong token for {name}")
        if grant.is_used:
            raise _RefusedError("twice", f"{name} has attached already")
        grant.is_used = True
        peer.name, peer.grant = name, grant
        if grant.is_guest and self.host is not None:
            self.host.came(name, uid)


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
