# SPDX-License-Identifier: Apache-2.0
"""Ports: where packets come from and go to. Wraps the C ports; each is read by one engine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mesh._ffi import check, check_pointer, native
from mesh.errors import StateError

__all__ = [
    "LINKTYPE_ETHERNET",
    "LINKTYPE_RAW",
    "REMOTE",
    "Copy",
    "Frame",
    "Port",
    "PortStatistics",
]

LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101
REMOTE = "of worker-0"
"""Source of a port that stands for one of the first worker's."""

Copy = Literal["auto", "always", "never"]
"""Whether frames are copied between a device's memory and slots; `auto`: where they must be."""

_COPIES: dict[str, int] = {"auto": 0, "always": 1, "never": 2}
_FORMATS: dict[str, int] = {"pcap": 0, "pcap-ns": 1, "pcapng": 2}


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
    rx_missed: int
    rx_errors: int
    tx_packets: int
    tx_bytes: int
    tx_full: int
    tx_oversize: int
    tx_errors: int
    link_changes: int
    link_up: int
    mtu: int


class Port:
    """Where frames come from and go to. Made by `pcap`, `dpdk` and so on; closed by its engine."""

    def __init__(self, pointer: Any, source: str) -> None:
        self.source = source
        self._pointer = pointer

    @classmethod
    def pcap(cls, path: str | Path, *, is_loop: bool = False) -> Port:
        """Opens a capture: pcap or pcapng, also gzipped.

        Args:
            path: of the file.
            is_loop: it is read again and again, with times that go on.

        Raises:
            NativeError: there is no such file, or it is no capture.
        """
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        make = lib.nfm_port_pcap_loop_open if is_loop else lib.nfm_port_pcap_open
        return cls(check_pointer(make(os.fsencode(path), error), "", error), str(path))

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

    @classmethod
    def dpdk(
        cls,
        device: str | None = None,
        eal: str | None = None,
        *,
        queue: int = 0,
        queues: int = 1,
        mtu: int = 0,
        is_promiscuous: bool = False,
        copy: Copy = "auto",
    ) -> Port:
        """Opens a queue of a DPDK device: a NIC's virtual function, or a virtual device.

        DPDK's environment begins once per process, with the first port's `eal`; the queues of one
        device belong to one process.

        Args:
            device: "0000:3b:02.1", "net_null0,size=60"; None: the first there is.
            eal: arguments of EAL, blanks between; None: `--in-memory --no-telemetry`.
            queue: number of this port's queue.
            queues: how many the device has; flows are spread over them, both directions alike.
            mtu: bytes; 0: as it is.
            is_promiscuous: takes frames for other MAC addresses, too.
            copy: whether frames are copied.

        Raises:
            NativeError: says which package, right or huge page is missing, and how to get it.
        """
        ffi, lib = native()
        error, row = ffi.new("nfm_error *"), ffi.new("nfm_dpdk_config *")
        texts = [ffi.NULL if t is None else ffi.new("char[]", t.encode()) for t in (device, eal)]
        row.device, row.eal = texts
        row.queue, row.n_queues, row.mtu = queue, queues, mtu
        row.promiscuous, row.copy = is_promiscuous, _COPIES[copy]
        found = lib.nfm_port_dpdk_open(row, error)
        return cls(check_pointer(found, "", error), f"dpdk:{device or 'first device'}")

    @classmethod
    def afxdp(
        cls,
        interface: str,
        *,
        queue: int = 0,
        is_generic: bool = False,
        is_promiscuous: bool = False,
        copy: Copy = "auto",
    ) -> Port:
        """Opens a queue of an interface through AF_XDP.

        Args:
            interface: its name.
            queue: number of the queue.
            is_generic: uses the kernel's generic XDP even where the driver has its own.
            is_promiscuous: takes frames for other MAC addresses, too.
            copy: between driver and slots; `never` fails where the driver has no zero-copy.

        Raises:
            NativeError: says which package or capability is missing.
        """
        ffi, lib = native()
        error, row = ffi.new("nfm_error *"), ffi.new("nfm_afxdp_config *")
        name = ffi.new("char[]", os.fsencode(interface))
        row.interface, row.queue, row.copy = name, queue, _COPIES[copy]
        row.generic, row.promiscuous = is_generic, is_promiscuous
        found = lib.nfm_port_afxdp_open(row, error)
        return cls(check_pointer(found, "", error), f"afxdp:{interface}")

    @classmethod
    def afpacket(
        cls,
        interface: str,
        *,
        block_ms: int = 0,
        rx_frames: int = 0,
        fanout_group: int = 0,
        is_promiscuous: bool = True,
        is_past_queue: bool = False,
        is_send_only: bool = False,
    ) -> Port:
        """Opens an interface of this host through packet sockets.

        The port follows its interface when it goes down, is renamed, or goes away and comes back.

        Args:
            interface: its name; it may be down.
            block_ms: 0: frames are seen at once; else in blocks, when full or after so long, which
                is less work per frame: for observers.
            rx_frames: of 2 KiB in the receive ring, at least so many; 0: 4096.
            fanout_group: 1..65535: packets are spread over all ports of the group, both directions
                of a flow alike; 0: this port sees all.
            is_promiscuous: takes frames for other MAC addresses, too.
            is_past_queue: short frames are sent past the interface's queueing discipline.
            is_send_only: nothing is received.

        Raises:
            NativeError: no such interface, a capability is missing, a value is out of range.
        """
        ffi, lib = native()
        error, row = ffi.new("nfm_error *"), ffi.new("nfm_afpacket_config *")
        name = ffi.new("char[]", os.fsencode(interface))
        row.interface, row.block_ms, row.rx_frames = name, block_ms, rx_frames
        row.fanout_group = fanout_group
        row.promiscuous, row.qdisc_bypass = is_promiscuous, is_past_queue
        row.send_only = is_send_only
        found = lib.nfm_port_afpacket_open(row, error)
        return cls(check_pointer(found, "", error), f"afpacket:{interface}")

    @classmethod
    def tap(
        cls,
        interface: str = "nfmesh%d",
        *,
        mtu: int = 0,
        is_up: bool = True,
        is_persistent: bool = False,
        is_offload: bool = True,
        is_multi_queue: bool = False,
    ) -> Port:
        """Makes an Ethernet interface of this host whose other end is the port.

        Args:
            interface: its name; one that exists is taken; `%d`: the kernel counts.
            mtu: bytes; 0: as it is.
            is_up: takes it up.
            is_persistent: it outlives the port.
            is_offload: the kernel may hand over large frames to be segmented and frames without
                checksum.
            is_multi_queue: several ports may open it; the kernel spreads flows over them.

        Raises:
            NativeError: a capability or /dev/net/tun is missing, or the interface is in use.
        """
        ffi, lib = native()
        error, row = ffi.new("nfm_error *"), ffi.new("nfm_tap_config *")
        name = ffi.new("char[]", os.fsencode(interface))
        row.interface, row.mtu, row.up, row.persist = name, mtu, is_up, is_persistent
        row.offload, row.multi_queue = is_offload, is_multi_queue
        found = lib.nfm_port_tap_open(row, error)
        return cls(check_pointer(found, "", error), f"tap:{interface}")

    @classmethod
    def record(
        cls,
        path: str | Path,
        format: Literal["pcap", "pcap-ns", "pcapng"] = "pcapng",
        link_type: int = LINKTYPE_ETHERNET,
    ) -> Port:
        """Makes a sink: what is sent there is written to a capture, with its event time.

        Raises:
            NativeError: the file cannot be written.
        """
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        found = lib.nfm_port_record_open(os.fsencode(path), _FORMATS[format], link_type, error)
        return cls(check_pointer(found, "", error), str(path))

    @classmethod
    def remote(cls) -> Port:
        """Makes a port that stands for one which only the first of several workers has."""
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        return cls(check_pointer(lib.nfm_port_remote_open(error), "", error), REMOTE)

    @staticmethod
    def merge(
        parts: Sequence[str | Path],
        path: str | Path,
        format: Literal["pcap", "pcap-ns", "pcapng"] = "pcapng",
    ) -> None:
        """Writes several captures as one, in the order of their frames' times.

        Args:
            parts: those that are not there count as empty.
            path: file, made or emptied.
            format: as for `record`.

        Raises:
            NativeError: a part cannot be read, or the file cannot be written.
        """
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        names = [ffi.new("char[]", os.fsencode(part)) for part in parts]
        pointers = ffi.new("char *[]", names)
        target = os.fsencode(path)
        rc = lib.nfm_pcap_merge(pointers, len(names), target, _FORMATS[format], error)
        check(rc, str(path), error)

    def flush(self) -> None:
        """Writes what is buffered of a `record` port, also of one inside this.

        Raises:
            NativeError: what was sent is not all in the file; `warning` says why.
        """
        rc = native().lib.nfm_port_flush(self.pointer)
        check(rc, self.warning or self.source)

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

    def hand_over(self) -> None:
        """Says that a port around this one owns it now: this object is as if closed."""
        self._pointer = None

    def close(self) -> None:
        """Closes it; a second time does nothing."""
        if self._pointer is not None:
            native().lib.nfm_port_free(self._pointer)
            self._pointer = None
