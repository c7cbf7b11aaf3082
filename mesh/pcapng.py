# SPDX-License-Identifier: Apache-2.0
"""Puts the pcapng streams of several recordings together: one section, an interface for each.

A stream is what the native writer makes: a section with one interface, enhanced packet blocks, and
last an interface statistics block. Block types and options: draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mesh.errors import StateError

__all__ = ["Joined"]

_HEAD = struct.Struct("=II")
_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_MAX_BLOCK = 1 << 20
_NAME, _DROPPED, _DROPPED_AT = 2, 5, 36
"""Options if_name and isb_ifdrop, and where the value of the latter is in a block."""


class Joined:
    """Takes pieces of streams, gives whole blocks of one file.

    Args:
        names: of the interfaces, one for each stream.
        most: packets to let through; None: all.

    Attributes:
        captured: packets let through; lost: by the sources, as they say at their end.
    """

    def __init__(self, names: list[str], most: int | None = None) -> None:
        self._names, self._most = names, most
        self._rest = [bytearray() for _ in names]
        self._numbers: dict[int, int] = {}
        self.captured = self.lost = 0

    @property
    def is_full(self) -> bool:
        """True when no further packet is let through."""
        return self._most is not None and self.captured >= self._most

    def take(self, stream: int, data: bytes) -> bytes:
        """Takes a piece of a stream; returns what follows in the file.

        Raises:
            StateError: it is no such stream.
        """
        self._rest[stream] += data
        return b"".join(self._convert(stream, block) for block in self._blocks(stream))

    def _blocks(self, stream: int) -> Iterator[bytes]:
        rest, at = self._rest[stream], 0
        while len(rest) - at >= _HEAD.size:
            _, size = _HEAD.unpack_from(rest, at)
            if size < 12 or size % 4 or size > _MAX_BLOCK:
                raise StateError(f"{self._names[stream]} sent what is no pcapng")
            if len(rest) - at < size:
                break
            yield bytes(rest[at : at + size])
            at += size
        del rest[:at]

    def _convert(self, stream: int, block: bytes) -> bytes:
        kind, _ = _HEAD.unpack_from(block)
        if kind == _SECTION:
            return b"" if self._numbers else block
        if kind == _INTERFACE:
            self._numbers[stream] = len(self._numbers)
            return _named(block, self._names[stream])
        if kind == _PACKET:
            if self.is_full:
                return b""
            self.captured += 1
        elif kind == _STATISTICS:
            self.lost += int(struct.unpack_from("=Q", block, _DROPPED_AT)[0])
        else:
            return b""
        return block[:8] + struct.pack("=I", self._numbers[stream]) + block[12:]


def _named(block: bytes, name: str) -> bytes:
    """Adds the option if_name to an interface description, which has options already."""
    text = name.encode()[:256]
    option = struct.pack("=HH", _NAME, len(text)) + text + b"\0" * (-len(text) % 4)
    size = len(block) + len(option)
    body = block[8:16] + option + block[16:-4]
    return _HEAD.pack(_INTERFACE, size) + body + struct.pack("=I", size)
