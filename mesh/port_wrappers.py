# SPDX-License-Identifier: Apache-2.0
"""Ports around a port: a pace for recordings, impaired links, and a tee into a capture.

Each takes the port that it is given over, counts as that port does, and is used in its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mesh._ffi import check, check_pointer, native
from mesh.errors import StateError
from mesh.ports import LINKTYPE_ETHERNET, Port

__all__ = [
    "DIRECTIONS",
    "Direction",
    "Impaired",
    "Impairment",
    "ImpairmentStatistics",
    "Replay",
    "Tee",
    "TeeStatistics",
    "Wrapper",
]

Direction = Literal["rx", "tx", "both"]
"""Of frames: received, sent, or either."""

DIRECTIONS: dict[str, int] = {"rx": 1, "tx": 2, "both": 3}
"""enum nfm_direction."""
_IMPAIRED = (
    *("dropped", "duplicated", "reordered", "delayed", "corrupted", "overflow", "no_slot"),
)
_NS_PER_S = 1_000_000_000


def _around(inner: Port, make: Callable[[Any, Any], Any]) -> Any:
    """Makes a native port around `inner`, which is the new one's from then on."""
    error = native().ffi.new("nfm_error *")
    found = check_pointer(make(inner.pointer, error), inner.source, error)
    inner.hand_over()
    return found


class Wrapper(Port):
    """A port around a port: what it does itself can be asked for as long as the outermost is open.

    Args:
        inner: which it takes over.
        make: makes the native port of (inner, place for an error).
    """

    def __init__(self, inner: Port, make: Callable[[Any, Any], Any]) -> None:
        source = inner.source
        super().__init__(_around(inner, make), source)
        self._inner, self._own = inner, self.pointer

    @property
    def own(self) -> Any:
        """Its `nfm_port *`, also when another port is around it.

        Raises:
            StateError: it is closed.
        """
        if self._own is None:
            raise StateError(f"port {self.source} is closed")
        return self._own

    trouble: str = ""
    """What went wrong beside the port itself: part of its warning."""

    @property
    def warning(self) -> str | None:
        """One line about the port, or about what is around it; or None."""
        said = [super().warning, *(layer.trouble for layer in self.layers())]
        return "; ".join(filter(None, said)) or None

    def own_counters(self) -> dict[str, int]:
        """Returns what this layer counts itself, by name."""
        return {}

    def layers(self) -> list[Wrapper]:
        """Returns this port and those that it is around."""
        return [self, *(self._inner.layers() if isinstance(self._inner, Wrapper) else [])]

    def close(self) -> None:
        """Closes it and what it is around; a second time does nothing."""
        if self._pointer is not None:
            for layer in self.layers():
                layer._own = None
        super().close()


class Replay(Wrapper):
    """A recording whose frames come at a pace.

    Args:
        inner: the recording.
        speed: 1: as recorded; 10: ten times faster; 0: as fast as it goes.
        wait: seconds that reading may sleep until the next frame is due.
        is_live: frames get the time at which they come; else event time is the recording's.

    Raises:
        NativeError: `inner` is an interface, or the speed makes no sense.
    """

    def __init__(
        self, inner: Port, speed: float = 1.0, *, wait: float = 0.0, is_live: bool = False
    ) -> None:
        ffi, lib = native()
        row = ffi.new("nfm_replay_config *")
        row.speed, row.wait_us, row.live = speed, round(wait * 1e6), is_live
        super().__init__(inner, lambda port, error: lib.nfm_port_replay_new(port, row, error))


@dataclass(frozen=True, slots=True)
class Impairment:
    """What is wrong with a link. Shares are 0..1 of the frames; the seed decides which.

    Attributes:
        seed: the same frames in the same order meet the same fate.
        drop: share that is lost.
        duplicate: share that comes twice.
        corrupt: share in which one bit is turned.
        reorder: share that lets `reorder_gap` others pass, or as many as come in `reorder_s`.
        delay: share that waits `delay_s` seconds, and up to `jitter_s` more.
        delay_s: seconds.
        jitter_s: seconds.
        reorder_gap: frames.
        reorder_s: seconds.
        rate_bps: bits per second that the link carries; 0: no limit.
        queue: frames that are kept at most; what comes more is lost.
        direction: which frames are meant.
    """

    seed: int = 0
    drop: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0
    reorder_gap: int = 1
    reorder_s: float = 0.01
    rate_bps: int = 0
    queue: int = 1024
    direction: Direction = "both"


@dataclass(frozen=True, slots=True)
class ImpairmentStatistics:
    """What became of the frames of one direction; `kept` are on their way."""

    seen: int
    dropped: int
    duplicated: int
    reordered: int
    delayed: int
    corrupted: int
    overflow: int
    no_slot: int
    kept: int


class Impaired(Wrapper):
    """A port whose link is not what it should be.

    Raises:
        NativeError: the impairment makes no sense.
    """

    def __init__(self, inner: Port, impairment: Impairment) -> None:
        ffi, lib = native()
        row = ffi.new("nfm_impair_config *")
        for name in ("seed", "drop", "duplicate", "corrupt", "reorder", "delay", "reorder_gap"):
            setattr(row, name, getattr(impairment, name))
        for name in ("delay", "jitter", "reorder"):
            setattr(row, f"{name}_ns", round(getattr(impairment, f"{name}_s") * _NS_PER_S))
        row.rate_bps, row.queue = impairment.rate_bps, impairment.queue
        row.direction = DIRECTIONS[impairment.direction]
        super().__init__(inner, lambda port, error: lib.nfm_port_impair_new(port, row, error))

    def own_counters(self) -> dict[str, int]:
        """Returns what became of the frames of both directions together."""
        both = self.impairments("rx"), self.impairments("tx")
        return {f"impair.{name}": sum(getattr(each, name) for each in both) for name in _IMPAIRED}

    def impairments(self, direction: Literal["rx", "tx"]) -> ImpairmentStatistics:
        """Returns what became of the frames of one direction."""
        ffi, lib = native()
        out = ffi.new("nfm_impair_stats *")
        check(lib.nfm_port_impair_stats(self.own, DIRECTIONS[direction], out), self.source)
        names = ImpairmentStatistics.__slots__
        return ImpairmentStatistics(*(int(getattr(out, name)) for name in names))


@dataclass(frozen=True, slots=True)
class TeeStatistics:
    """Of this recording, or of the last: `lost` frames came faster than the file takes them."""

    seen: int
    recorded: int
    bytes: int
    not_matched: int
    lost: int
    written: int
    recording: int
    failed: int
    ended: int
    files: int


class Tee(Wrapper):
    """A port whose frames can be recorded into a pcapng file while they pass.

    `start` and `stop` belong to the thread that runs the worker, between two runs. Whatever
    happens to the file, the port goes on.
    """

    def __init__(self, inner: Port) -> None:
        super().__init__(inner, native().lib.nfm_port_tee_new)
        self._filter: Any = None

    def start(
        self,
        path: str | Path,
        where: Any = None,
        *,
        max_frames: int = 0,
        max_bytes: int = 0,
        max_file: int = 0,
        max_files: int = 1,
        snaplen: int = 0,
        direction: Direction = "both",
        link_type: int = LINKTYPE_ETHERNET,
    ) -> None:
        """Begins a recording.

        Args:
            path: of the file, which is made or emptied.
            where: a `NativeFilter` over packets; None: all.
            max_frames: ends the recording; 0: no limit.
            max_bytes: of frames; ends the recording; 0: no limit.
            max_file: bytes of a file, about: then another one is begun; 0: no limit.
            max_files: that are kept: x.pcapng is written, x.1.pcapng was before it.
            snaplen: bytes of a frame that are kept; 0: all.
            direction: which frames.
            link_type: of the port's frames.

        Raises:
            NativeError: the file cannot be written.
            StateError: a recording is under way.
        """
        ffi, lib = native()
        row, error = ffi.new("nfm_tee_config *"), ffi.new("nfm_error *")
        text = ffi.new("char[]", os.fsencode(path))
        row.path, row.filter = text, ffi.NULL if where is None else where.pointer
        row.max_frames, row.max_bytes, row.snaplen = max_frames, max_bytes, snaplen
        row.direction, row.link_type = DIRECTIONS[direction], link_type
        row.max_file, row.max_files = max_file, max_files
        check(lib.nfm_port_tee_start(self.own, row, error), str(path), error)
        self._filter = where

    def end(self) -> None:
        """Ends the recording; `stop` does not wait once `recording().ended`."""
        check(native().lib.nfm_port_tee_end(self.own), self.source)

    def stop(self) -> TeeStatistics:
        """Ends the recording and waits until the file is written; none is fine.

        Raises:
            NativeError: the file is not whole.
        """
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        rc = lib.nfm_port_tee_stop(self.own, error)
        self._filter = None
        check(rc, "", error)
        return self.recording()

    def recording(self) -> TeeStatistics:
        """Returns how the recording goes, or went."""
        ffi, lib = native()
        out = ffi.new("nfm_tee_stats *")
        check(lib.nfm_port_tee_stats(self.own, out), self.source)
        return TeeStatistics(*(int(getattr(out, name)) for name in TeeStatistics.__slots__))
