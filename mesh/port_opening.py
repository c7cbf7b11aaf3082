# SPDX-License-Identifier: Apache-2.0
"""Opens a worker's ports as its part of the plan says, with what is around them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from mesh.control.wire import PortPart
from mesh.port_capture import Captured
from mesh.port_spec import record_format
from mesh.port_wrappers import Impaired, Impairment, Replay, Tee
from mesh.ports import Port

__all__ = ["fanout_group", "open_port", "open_ports"]

_WORDS = {
    "promiscuous": "is_promiscuous",
    "past_queue": "is_past_queue",
    "persist": "is_persistent",
    "offload": "is_offload",
    "generic": "is_generic",
    "copies": "copy",
}
"""Options of a spec that a Port calls otherwise."""
_OPEN: Mapping[str, Callable[..., Port]] = {
    "pcap": Port.pcap,
    "record": Port.record,
    "afpacket": Port.afpacket,
    "tap": Port.tap,
    "afxdp": Port.afxdp,
    "dpdk": Port.dpdk,
    "remote": Port.remote,
}


def open_ports(parts: Sequence[PortPart], mesh: str, *, is_again: bool = False) -> list[Port]:
    """Opens all ports, or none.

    Args:
        parts: of the worker.
        mesh: names it on this host: packets are spread over the ports of one mesh.
        is_again: a worker that had them is gone.

    Raises:
        NativeError: says what is missing, and how to get it.
    """
    with ExitStack() as made:
        ports = []
        for part in parts:
            ports.append(open_port(part, mesh, is_again=is_again))
            made.callback(ports[-1].close)
        made.pop_all()
    return ports


def open_port(part: PortPart, mesh: str, *, is_again: bool = False) -> Port:
    """Opens one port; arguments as for `open_ports`.

    Raises:
        NativeError: says what is missing, and how to get it.
    """
    options: dict[str, Any] = {_WORDS.get(k, k): v for k, v in part.options.items()}
    if part.kind == "record":
        options["format"] = record_format(options)
    options.pop("queues", None)  # whose this is says `queue`
    if part.kind in ("afxdp", "dpdk"):
        options.setdefault("is_promiscuous", True)
    if part.send_only and part.kind == "afpacket":
        options["is_send_only"] = True
    if part.fanout:
        options["fanout_group"] = fanout_group(mesh, part.source)
    if part.replay is not None:
        options["is_loop"] = part.replay.loop
    port = _OPEN[part.kind](**options)
    if part.kind == "remote":
        return port  # what is around it is around the port that it stands for
    try:
        if part.replay is not None:
            port = Replay(port, part.replay.speed, is_live=part.replay.live)
        if part.capture is not None:
            port = Captured(port, part.capture, is_again=is_again)
        port = Tee(port)
        if part.impair is not None:
            impairment: dict[str, Any] = dict(part.impair)
            port = Impaired(port, Impairment(**impairment))
    except BaseException:
        port.close()
        raise
    return port


def fanout_group(mesh: str, source: str) -> int:
    """Returns the number of the kernel's group that the ports of all workers join."""
    return zlib.crc32(f"{mesh} {source}".encode()) % 0xFFFF + 1
