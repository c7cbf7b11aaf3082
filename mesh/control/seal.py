# SPDX-License-Identifier: Apache-2.0
"""Sealing and opening messages: size, form, sender, order.

Theory of operation: a sender numbers its messages from 1 within a random session. The receiver
checks, cheapest first: number of frames, size, msgpack with bounded depth, the envelope's form,
whether it knows the sender's key, the HMAC, that the number is greater than the last of that
session, and last the body's model. The first check that fails names the refusal; nothing of a
refused message is used. Sessions are remembered after the HMAC only, so that a stranger cannot
fill the memory. A body longer than PIECE_BYTES is cut; its pieces come in order, one such message
at a time per session, and the last of them opens as the whole.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

import msgpack
from pydantic import Field, ValidationError

from mesh.control.messages import BODIES, NAME, VERSION, Body, Piece
from mesh.control.stats import Strict
from mesh.errors import MeshError

__all__ = ["MAX_BYTES", "Envelope", "Opener", "Reason", "Refused", "Sealer", "as_plain", "pack"]

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_SESSIONS = 4096
PIECE_BYTES = 1 << 19
MAX_PIECES = 128


class Reason(StrEnum):
    """Why a message was refused."""

    FRAMES = "frames"
    TOO_LARGE = "too_large"
    NOT_MSGPACK = "not_msgpack"
    TOO_DEEP = "too_deep"
    ENVELOPE = "envelope"
    VERSION = "version"
    TYPE = "type"
    NAME = "name"
    MAC = "mac"
    REPLAY = "replay"
    SCHEMA = "schema"
    PIECE = "piece"


class Refused(MeshError):
    """A message that is not taken.

    Attributes:
        reason: for the counter.
        sender: name of an authenticated sender, else "".
    """

    def __init__(self, reason: Reason, text: str, sender: str = "") -> None:
        super().__init__(f"message refused ({reason}): {text}")
        self.reason, self.sender = reason, sender


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message that was taken."""

    name: str
    session: int
    seq: int
    body: Body


class _Head(Strict):
    v: int
    type: str
    name: Annotated[str, Field(pattern=NAME)]
    session: Annotated[int, Field(ge=0, lt=1 << 64)]
    seq: Annotated[int, Field(ge=1, lt=1 << 64)]
    body: dict[str, Any]


class Sealer:
    """Makes messages of one sender.

    Args:
        name: the sender's.
        session: drawn at the start of the process unless given.
    """

    def __init__(self, name: str, session: int | None = None) -> None:
        self.name = name
        self.session = secrets.randbits(63) if session is None else session
        self.seq = 0

    def seal(self, body: Body, key: bytes) -> list[list[bytes]]:
        """Returns messages of two frames each: one, or a long one's pieces.

        Raises:
            Refused: the message is too long, too deep, or cannot be packed.
        """
        plain = as_plain(body.model_dump())
        raw = pack(plain)
        if len(raw) <= PIECE_BYTES:
            return [self._frames(body.TYPE, plain, key)]
        total = -(-len(raw) // PIECE_BYTES)
        if total > MAX_PIECES:
            raise Refused(Reason.TOO_LARGE, f"{body.TYPE} of {len(raw)} bytes", self.name)
        pieces = [raw[i * PIECE_BYTES : (i + 1) * PIECE_BYTES] for i in range(total)]
        return [
            self._frames(
                Piece.TYPE, {"of": body.TYPE, "index": i, "total": total, "data": piece}, key
            )
            for i, piece in enumerate(pieces)
        ]

    def _frames(self, kind: str, body: Any, key: bytes) -> list[bytes]:
        self.seq += 1
        raw = pack(
            {
                "v": VERSION,
                "type": kind,
                "name": self.name,
                "session": self.session,
                "seq": self.seq,
                "body": body,
            }
        )
        return [raw, _mac(key, raw)]


def pack(value: Any) -> bytes:
    """Packs plain data.

    Raises:
        Refused: it is none.
    """
    try:
        raw: bytes = msgpack.packb(value, use_bin_type=True, unicode_errors="surrogateescape")
    except (TypeError, ValueError, OverflowError) as error:
        raise Refused(Reason.NOT_MSGPACK, str(error)) from error
    return raw


def as_plain(value: Any, depth: int = MAX_DEPTH - 2) -> Any:
    """Turns what NFs may return into what msgpack has: strangers become text.

    Raises:
        Refused: containers nest too deep.
    """
    if depth < 0:
        raise Refused(Reason.TOO_DEEP, f"deeper than {MAX_DEPTH}")
    if isinstance(value, str | bytes | bool | float | None):
        return value
    if isinstance(value, int):
        return int(value) if -(1 << 63) <= value < 1 << 64 else str(value)
    if isinstance(value, Mapping):
        return {
            k if isinstance(k, str) else str(k): as_plain(v, depth - 1) for k, v in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [as_plain(each, depth - 1) for each in value]
    if callable(item := getattr(value, "item", None)) and getattr(value, "shape", None) == ():
        return item()
    return str(value)


class Opener:
    """Opens messages of senders whose keys it is told.

    Args:
        key_of: name → key, or None for a stranger.
        refused: where refusals are counted by reason; default is a counter of its own.
    """

    def __init__(
        self, key_of: Callable[[str], bytes | None], refused: Counter[str] | None = None
    ) -> None:
        self._key_of = key_of
        self._last: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._pieces: dict[str, _Pieces] = {}
        self.refused: Counter[str] = Counter() if refused is None else refused

    def open(self, frames: Sequence[bytes]) -> Envelope:
        """Returns the message; a piece that is not the last of its message is one itself.

        Raises:
            Refused: with the reason, which was counted.
        """
        try:
            return self._open(frames)
        except Refused as error:
            self.refused[error.reason] += 1
            raise

    def _open(self, frames: Sequence[bytes]) -> Envelope:
        if len(frames) != 2:
            raise Refused(Reason.FRAMES, f"{len(frames)} frames instead of 2")
        raw, mac = frames
        if len(raw) > MAX_BYTES:
            raise Refused(Reason.TOO_LARGE, f"{len(raw)} bytes")
        head = _head(raw)
        key = self._key_of(head.name)
        if key is None:
            raise Refused(Reason.NAME, f"nobody of the name {head.name!r} is expected")
        if not hmac.compare_digest(_mac(key, raw), mac):
            raise Refused(Reason.MAC, f"not from {head.name!r}")
        self._check_order(head)
        body = _body(head)
        if isinstance(body, Piece):
            body = self._joined(head, body)
        return Envelope(head.name, head.session, head.seq, body)

    def _joined(self, head: _Head, piece: Piece) -> Body:
        whole = self._pieces.pop(head.name, None)
        if piece.index == 0:
            whole = _Pieces(head.session, piece.of, piece.total)
        if whole is None or not whole.takes(head.session, piece):
            raise Refused(Reason.PIECE, f"{piece.of}: piece {piece.index} out of order", head.name)
        whole.data.append(piece.data)
        if len(whole.data) < whole.total:
            self._pieces[head.name] = whole
            return piece
        inner = _unpacked(b"".join(whole.data))
        if not isinstance(inner, dict) or piece.of not in BODIES or piece.of == Piece.TYPE:
            raise Refused(Reason.TYPE, f"unknown type {piece.of[:40]!r}", head.name)
        return _body(head.model_copy(update={"type": piece.of, "body": inner}))

    def _check_order(self, head: _Head) -> None:
        sender = (head.name, head.session)
        if head.seq <= self._last.get(sender, 0):
            raise Refused(Reason.REPLAY, f"number {head.seq} again", head.name)
        self._last[sender] = head.seq
        self._last.move_to_end(sender)
        if len(self._last) > MAX_SESSIONS:
            self._last.popitem(last=False)


@dataclass(slots=True)
class _Pieces:
    """A long message under way."""

    session: int
    of: str
    total: int
    data: list[bytes] = field(default_factory=list)

    def takes(self, session: int, piece: Piece) -> bool:
        same = (self.session, self.of, self.total) == (session, piece.of, piece.total)
        return same and piece.index == len(self.data)


def _mac(key: bytes, raw: bytes) -> bytes:
    return hmac.digest(key, raw, hashlib.sha256)


def _unpacked(raw: bytes) -> Any:
    try:
        value = msgpack.unpackb(
            raw, raw=False, strict_map_key=True, unicode_errors="surrogateescape"
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise Refused(Reason.NOT_MSGPACK, type(error).__name__) from error
    if _is_deeper(value, MAX_DEPTH):
        raise Refused(Reason.TOO_DEEP, f"deeper than {MAX_DEPTH}")
    return value


def _head(raw: bytes) -> _Head:
    value = _unpacked(raw)
    if isinstance(value, dict) and value.get("v") != VERSION:
        raise Refused(Reason.VERSION, f"version {value.get('v')!r:.40}, this is {VERSION}")
    try:
        head = _Head.model_validate(value)
    except ValidationError as error:
        raise Refused(Reason.ENVELOPE, _first(error)) from error
    if head.type not in BODIES:
        raise Refused(Reason.TYPE, f"unknown type {head.type[:40]!r}")
    return head


def _body(head: _Head) -> Body:
    try:
        return BODIES[head.type].model_validate(head.body)
    except ValidationError as error:
        raise Refused(Reason.SCHEMA, f"{head.type}: {_first(error)}", head.name) from error


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part)[:40] for part in first["loc"][:6])
    return f"{place}: {first['msg']}" if place else first["msg"]


def _is_deeper(value: Any, depth: int) -> bool:
    """True when containers nest deeper; walks without recursion."""
    level = [value]
    for _ in range(depth + 1):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True
