# SPDX-License-Identifier: Apache-2.0
"""Sealing and opening messages: size, form, sender, order.

Theory of operation: a sender numbers its messages from 1 within a random session. The receiver
checks, cheapest first: number of frames, size, msgpack with bounded depth, the envelope's form,
whether it knows the sender's key, the HMAC, that the number is greater than the last of that
session, and last the body's model. The first check that fails names the refusal; nothing of a
refused message is used. Sessions are remembered after the HMAC only, so that a stranger cannot
fill the memory.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import msgpack
from pydantic import Field, ValidationError

from mesh.control.messages import BODIES, NAME, VERSION, Body
from mesh.control.stats import Strict
from mesh.errors import MeshError

__all__ = ["MAX_BYTES", "Envelope", "Opener", "Reason", "Refused", "Sealer", "pack"]

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_SESSIONS = 4096


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

    def seal(self, body: Body, key: bytes) -> list[bytes]:
        """Returns the two frames.

        Raises:
            Refused: the message is longer than MAX_BYTES or cannot be packed.
        """
        self.seq += 1
        head = {
            "v": VERSION,
            "type": body.TYPE,
            "name": self.name,
            "session": self.session,
            "seq": self.seq,
            "body": body.model_dump(),
        }
        raw = pack(head)
        if len(raw) > MAX_BYTES:
            raise Refused(Reason.TOO_LARGE, f"{body.TYPE} of {len(raw)} bytes", self.name)
        return [raw, _mac(key, raw)]


def pack(value: Any) -> bytes:
    """Packs plain data; what msgpack lacks (addresses, paths, numpy scalars) becomes text."""
    try:
        raw: bytes = msgpack.packb(value, use_bin_type=True, default=_plain)
    except (TypeError, ValueError, OverflowError) as error:
        raise Refused(Reason.NOT_MSGPACK, str(error)) from error
    return raw


def _plain(value: Any) -> Any:
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "shape", None) == ():
        return item()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)


class Opener:
    """Opens messages of senders whose keys it is told.

    Args:
        key_of: name → key, or None for a stranger.
    """

    def __init__(self, key_of: Callable[[str], bytes | None]) -> None:
        self._key_of = key_of
        self._last: OrderedDict[tuple[str, int], int] = OrderedDict()
        self.refused: Counter[str] = Counter()

    def open(self, frames: Sequence[bytes]) -> Envelope:
        """Returns the message.

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
        return Envelope(head.name, head.session, head.seq, _body(head))

    def _check_order(self, head: _Head) -> None:
        sender = (head.name, head.session)
        if head.seq <= self._last.get(sender, 0):
            raise Refused(Reason.REPLAY, f"number {head.seq} again", head.name)
        self._last[sender] = head.seq
        self._last.move_to_end(sender)
        if len(self._last) > MAX_SESSIONS:
            self._last.popitem(last=False)


def _mac(key: bytes, raw: bytes) -> bytes:
    return hmac.digest(key, raw, hashlib.sha256)


def _head(raw: bytes) -> _Head:
    try:
        value = msgpack.unpackb(raw, raw=False, strict_map_key=True)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise Refused(Reason.NOT_MSGPACK, type(error).__name__) from error
    if _is_deeper(value, MAX_DEPTH):
        raise Refused(Reason.TOO_DEEP, f"deeper than {MAX_DEPTH}")
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
