# SPDX-License-Identifier: Apache-2.0
"""Recordings of a running mesh, at their source: a worker's port, or the entries of an NF's rings.

Theory of operation. A tool makes a named pipe and reads it; the process that is asked writes a
pcapng file into it, by a thread of the C library that never holds up packets: what the pipe does
not take in time is lost and counted in the file's last block. When the tool is gone, the pipe is
broken and the recording over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from mesh._ffi import check_pointer, native
from mesh.control import messages as m
from mesh.errors import MeshError, SpecError
from mesh.events import Catalogue, shared_fields
from mesh.native_events import core_events
from mesh.native_filter import NativeFilter
from mesh.port_wrappers import DIRECTIONS, Tee, Wrapper
from mesh.ports import LINKTYPE_ETHERNET, Port

__all__ = ["NFRecorder", "PortRecorder", "Recordings", "packet_filter"]


def packet_filter(text: str) -> NativeFilter | None:
    """Compiles a filter over packets; None for "".

    Raises:
        FilterError: it is none.
        UnknownField: it asks for something that packets do not have.
    """
    if not text:
        return None
    return NativeFilter(text, shared_fields(Catalogue(core_events()), ("packet",)))


class Recorder(Protocol):
    """One recording: `end` begins its end, `has_ended` says that closing does not wait."""

    def end(self) -> None: ...

    def has_ended(self) -> bool: ...

    def close(self) -> None: ...


R = TypeVar("R", bound=Recorder)


class PortRecorder:
    """Records at one of a worker's ports.

    Raises:
        SpecError: there is no such port, or it is being recorded.
        NativeError: the pipe cannot be written.
    """

    def __init__(self, ports: Sequence[Port], wanted: m.Record) -> None:
        self._tee = _tee_of(ports, wanted.port)
        self._tee.start(
            wanted.path,
            packet_filter(wanted.where),
            snaplen=wanted.snaplen,
            direction=wanted.direction,
        )

    def end(self) -> None:
        """Begins the end."""
        self._tee.end()

    def has_ended(self) -> bool:
        """True when nothing is left to write."""
        found = self._tee.recording()
        if found.failed:
            self._tee.end()
        return bool(found.ended)

    def close(self) -> None:
        """Makes the port ready for another one."""
        self._tee.stop()


class NFRecorder:
    """Records what an NF is handed, and what it lets pass.

    Raises:
        NativeError: the pipe cannot be written.
    """

    def __init__(self, wanted: m.Record) -> None:
        ffi, lib = native()
        self._filter = packet_filter(wanted.where)
        row, error = ffi.new("nfm_tee_config *"), ffi.new("nfm_error *")
        path = ffi.new("char[]", os.fsencode(wanted.path))
        row.path = path
        row.filter = ffi.NULL if self._filter is None else self._filter.pointer
        row.snaplen, row.link_type = wanted.snaplen, LINKTYPE_ETHERNET
        row.direction = DIRECTIONS[wanted.direction]
        self._pointer = check_pointer(lib.nfm_recorder_open(row, error), wanted.path, error)

    def take(self, ring: Any, mem: Any, n: int) -> None:
        """Records the packets of the next `n` entries, which have been handled."""
        native().lib.nfm_recorder_take(self._pointer, ring, mem, n)

    def end(self) -> None:
        """Begins the end."""
        native().lib.nfm_recorder_end(self._pointer)

    def has_ended(self) -> bool:
        """True when nothing is left to write."""
        ffi, lib = native()
        out = ffi.new("nfm_tee_stats *")
        lib.nfm_recorder_stats(self._pointer, out)
        if out.failed:
            self.end()
        return bool(out.ended)

    def close(self) -> None:
        """Frees it."""
        native().lib.nfm_recorder_close(self._pointer, native().ffi.NULL)


class Recordings(Generic[R]):
    """The recordings of one process.

    Args:
        open_recorder: makes one.
        tell: sends a message to the controller.
    """

    def __init__(
        self, open_recorder: Callable[[m.Record], R], tell: Callable[[m.Body], object]
    ) -> None:
        self._open, self._tell = open_recorder, tell
        self._running: dict[str, R] = {}

    @property
    def running(self) -> Sequence[R]:
        """Those that have not been closed."""
        return tuple(self._running.values())

    def begin(self, wanted: m.Record) -> None:
        """Begins one; what is wrong is told."""
        self.look()
        try:
            self._running[wanted.path] = self._open(wanted)
        except MeshError as error:
            self._tell(m.Failed(where="record", text=str(error)))

    def finish(self, wanted: m.RecordEnd) -> None:
        """Begins the end of one; nothing when it is over."""
        found = self._running.get(wanted.path)
        if found is not None:
            found.end()

    def look(self) -> None:
        """Closes those that have ended: also because nobody reads them any more."""
        for path in [p for p, each in self._running.items() if each.has_ended()]:
            self._close(self._running.pop(path))

    def close(self) -> None:
        """Ends all, and waits until they are written."""
        while self._running:
            self._close(self._running.popitem()[1])

    def _close(self, recorder: Recorder) -> None:
        try:
            recorder.close()
        except MeshError:
            return  # its reader has gone, and knows


def _tee_of(ports: Sequence[Port], number: int) -> Tee:
    port = ports[number] if number < len(ports) else None
    for layer in port.layers() if isinstance(port, Wrapper) else ():
        if isinstance(layer, Tee):
            return layer
    raise SpecError("at", f"there is no port {number} that can be recorded")
