# SPDX-License-Identifier: Apache-2.0
"""Ports: where packets come from. Wraps the C ports; each is read by one engine."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh._ffi import check, check_pointer, native
from mesh.errors import StateError

__all__ = ["LINKTYPE_ETHERNET", "LINKTYPE_RAW", "Frame", "Port", "PortStatistics"]

LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame with its time.

    Attributes:
        data: bytes from the link layer on.
        ts_ns: nanoseconds since the epoch.
        wire_len: length on the wire when it was captured shorter; 0: the same.
    """

    data: bytes
    ts_ns: int
    wire_len: int = 0


@dataclass(frozen=True, slots=True)
class PortStatistics:
    """A snapshot of a port's counters; file_size is 0 when the source is no file."""

    rx_packets: int
    rx_bytes: int
    rx_truncated: int
    rx_oversize: int
    rx_bad_record: int
    rx_unsupported_link: int
    file_size: int
    file_offset: int


class Port:
    """A source of frames. Made by `pcap` or `memory`; closed by the engine that reads it."""

    def __init__(self, pointer: Any, source: str) -> None:
        self.source = source
        self._pointer = pointer

    @classmethod
    def pcap(cls, path: str | Path) -> Port:
        """Opens a capture: pcap or pcapng, also gzipped.

        Raises:
            NativeError: there is no such file, or it is no capture.
        """
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        found = lib.nfm_port_pcap_open(os.fsencode(path), error)
        return cls(check_pointer(found, "", error), str(path))

    @classmethod
    def memory(cls, frames: Iterable[Frame], link_type: int = LINKTYPE_ETHERNET) -> Port:
        """Makes a port over frames, which are copied."""
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        port = cls(check_pointer(lib.nfm_port_mem_new(link_type, error), "", error), "memory")
        for frame in frames:
            size = len(frame.data)
            rc = lib.nfm_port_mem_push(
                port.pointer, frame.data, size, frame.wire_len or size, frame.ts_ns
            )
            check(rc, "frame in memory")
        return port

    def loop(self, passes: int, span_ns: int) -> None:
        """Serves a memory port's frames several times; each pass is new traffic, later in time."""
        check(native().lib.nfm_port_mem_loop(self.pointer, passes, span_ns), "loop")

    @property
    def pointer(self) -> Any:
        """The `nfm_port *`. Raises StateError when closed."""
        if self._pointer is None:
            raise StateError(f"the port of {self.source} was read already: open it again")
        return self._pointer

    @property
    def warning(self) -> str | None:
        """One line about a file that ends inside a packet, or None."""
        ffi, lib = native()
        text = lib.nfm_port_warning(self.pointer)
        return None if text == ffi.NULL else ffi.string(text).decode("utf-8", "replace")

    def statistics(self) -> PortStatistics:
        """Returns a snapshot of the counters."""
        ffi, lib = native()
        out = ffi.new("nfm_port_stats *")
        lib.nfm_port_stats_get(self.pointer, out)
        return PortStatistics(*(int(getattr(out, name)) for name in PortStatistics.__slots__))

    def close(self) -> None:
        """Closes it; a second time does nothing."""
        if self._pointer is not None:
            native().lib.nfm_port_free(self._pointer)
            self._pointer = None
