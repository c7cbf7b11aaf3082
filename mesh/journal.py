# SPDX-License-Identifier: Apache-2.0
"""What a process leaves in memory for whoever outlives it: life, work at hand, checkpoints.

Theory of operation. The supervisor makes one memfd per child and owns it, so it survives the child.
The child writes it, the supervisor and the child's next start read it:

    0     magic, version, bytes of a checkpoint's place
    16    time of the last sign of life, phase
    32    work at hand: source, entries (0: none), position of the first entry
    64    heads of two checkpoints: number, length, CRC-32
    1024  why the process ended: length, text
    4096  two places for checkpoints, written in turn

A checkpoint counts when its head does: the place is written first, then length and checksum, then
the number. A process killed in between leaves the other checkpoint, which is whole. Everything
read is checked, since the writer may be hostile: the worst that it can leave is no checkpoint.
"""

from __future__ import annotations

import mmap
import struct
import time
import zlib
from dataclasses import dataclass
from enum import IntEnum

import msgpack

from mesh.errors import CapacityError, StateError

__all__ = ["AT_LIFE", "AT_WORK", "CHECKPOINT_BYTES", "JOURNAL_BYTES", "Journal", "Phase", "Work"]

CHECKPOINT_BYTES = 32 << 20
"""The most that an NF's state may take; memory is used as it is written."""
JOURNAL_BYTES = 4096 + 2 * CHECKPOINT_BYTES
_MAGIC = 0x6C6E726A6D666E00
_VERSION = 1
_HEAD = struct.Struct("<QII")
_WORK = struct.Struct("<IIQ")
_CHECKPOINT = struct.Struct("<QII")
AT_LIFE = 16
"""Where the time of the last sign of life is: monotonic ns, i64."""
AT_WORK = 32
"""Where the work at hand is: source u32, entries u32, position u64."""
_AT_HEADS, _AT_WORDS, _PLACES = 64, 1024, 4096
_HEAD_STEP, _WORDS = 32, 2048


class Phase(IntEnum):
    """How far a process is."""

    NEW = 0
    STARTING = 1
    RUNNING = 2
    ENDING = 3


@dataclass(frozen=True, slots=True)
class Work:
    """Entries that an NF had begun to handle: `source` is its number in event logs."""

    source: int
    position: int
    n: int


class Journal:
    """A view of one journal.

    Args:
        fd: of its memfd; stays the caller's.

    Raises:
        StateError: the memory is no journal.
    """

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, JOURNAL_BYTES)
        magic, version, size = _HEAD.unpack_from(self._map)
        if magic == 0:
            _HEAD.pack_into(self._map, 0, _MAGIC, _VERSION, CHECKPOINT_BYTES)
        elif (magic, version, size) != (_MAGIC, _VERSION, CHECKPOINT_BYTES):
            self._map.close()
            raise StateError("the journal was written by another version of nfmesh")
        # Whole words: who reads a sign of life never sees half of one, or the zeros that
        # struct.pack_into writes first.
        self._words = memoryview(self._map).cast("q")

    def close(self) -> None:
        """Unmaps it."""
        self._words.release()
        self._map.close()

    @property
    def memory(self) -> mmap.mmap:
        """The mapped journal, for native code that gives signs of life."""
        return self._map

    def begin(self) -> None:
        """Marks a new start of the process; checkpoints stay."""
        self.beat(Phase.NEW)
        self.idle()
        self.last_words("")

    def beat(self, phase: Phase) -> None:
        """Gives a sign of life."""
        self._words[AT_LIFE // 8 + 1] = phase
        self._words[AT_LIFE // 8] = time.monotonic_ns()

    def life(self) -> tuple[int, Phase]:
        """Returns the time of the last sign of life (monotonic ns), and the phase."""
        at, phase = self._words[AT_LIFE // 8], self._words[AT_LIFE // 8 + 1]
        return at, Phase(phase) if 0 <= phase <= max(Phase) else Phase.NEW

    def work(self, work: Work) -> None:
        """Says which entries are handled next."""
        _WORK.pack_into(self._map, AT_WORK, work.source, work.n, work.position)

    def idle(self) -> None:
        """Says that no entry is at hand."""
        _WORK.pack_into(self._map, AT_WORK, 0, 0, 0)

    def at_hand(self) -> Work | None:
        """Returns the entries that were being handled."""
        source, n, position = _WORK.unpack_from(self._map, AT_WORK)
        return Work(source, position, n) if n else None

    def last_words(self, text: str) -> None:
        """Says why the process ends, for its supervisor."""
        raw = text.encode("utf-8", "replace")[: _WORDS - 4]
        self._map[_AT_WORDS : _AT_WORDS + 4 + len(raw)] = len(raw).to_bytes(4, "little") + raw

    def read_last_words(self) -> str:
        """Returns why the process ended, "" when it did not say."""
        n = int.from_bytes(self._map[_AT_WORDS : _AT_WORDS + 4], "little")
        start = _AT_WORDS + 4
        return self._map[start : start + min(n, _WORDS - 4)].decode("utf-8", "replace")

    def save(self, state: object) -> None:
        """Stores a checkpoint: whatever happens, it or the one before can be loaded.

        Raises:
            CapacityError: it is larger than CHECKPOINT_BYTES.
            TypeError: it holds what msgpack cannot write.
        """
        raw: bytes = msgpack.packb(state)
        if len(raw) > CHECKPOINT_BYTES:
            raise CapacityError(f"a checkpoint of {len(raw)} bytes; {CHECKPOINT_BYTES} are allowed")
        numbers = [head[0] for head in self._heads()]
        which = numbers.index(min(numbers))
        start = _PLACES + which * CHECKPOINT_BYTES
        at = _AT_HEADS + which * _HEAD_STEP
        _CHECKPOINT.pack_into(self._map, at, 0, 0, 0)
        self._map[start : start + len(raw)] = raw
        _CHECKPOINT.pack_into(self._map, at, max(numbers) + 1, len(raw), zlib.crc32(raw))

    def load(self) -> object | None:
        """Returns the newest checkpoint that is whole, None when there is none."""
        for which, (number, size, crc) in sorted(enumerate(self._heads()), key=lambda e: -e[1][0]):
            if number == 0 or size > CHECKPOINT_BYTES:
                continue
            start = _PLACES + which * CHECKPOINT_BYTES
            raw = self._map[start : start + size]
            if zlib.crc32(raw) == crc:
                found: object = msgpack.unpackb(raw, strict_map_key=False)
                return found
        return None

    def _heads(self) -> list[tuple[int, int, int]]:
        return [
            (head[0], head[1], head[2])
            for head in (
                _CHECKPOINT.unpack_from(self._map, _AT_HEADS + which * _HEAD_STEP)
                for which in (0, 1)
            )
        ]
