# SPDX-License-Identifier: Apache-2.0
"""The ports of one of several workers, and how it reaches the others. Pure.

Every worker reads all captures and leaves to the others what is theirs; each writes a part of a
recording of its own. Packet sockets are opened by all, and the kernel spreads the packets; so are
the queues of an AF_XDP interface, over which the network card does. Any other port is the first
worker's; the others have ports that stand for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from mesh.control.wire import HandoverPart, ObjectPart, PortPart
from mesh.port_spec import FILES, record_format
from mesh.recordings import part_path

__all__ = ["handover_objects", "handover_of", "ports_of_worker"]


def ports_of_worker(ports: Sequence[PortPart], worker: int, workers: int) -> tuple[PortPart, ...]:
    """Returns a worker's own ports; their numbers are those of the mesh.

    Args:
        ports: of the mesh.
        worker: its number.
        workers: how many there are.
    """
    if workers == 1:
        return tuple(ports)
    return tuple(_port_of(port, worker) for port in ports)


def _port_of(port: PortPart, worker: int) -> PortPart:
    port = _with_capture(port, worker)
    if port.kind == "record":
        path = part_path(str(port.options["path"]), worker)
        own = {**port.options, "path": path, "format": record_format(port.options)}
        return replace(port, options=own)
    if port.kind == "afpacket":
        return replace(port, fanout=not port.send_only)
    if port.kind == "afxdp" and int(port.options.get("queues") or 1) > 1:
        queue = int(port.options.get("queue") or 0) + worker
        return replace(port, options={**port.options, "queue": queue})
    if port.kind == "pcap" or worker == 0:
        return port
    return PortPart("remote", port.source, out=port.out, names=port.names, send_only=port.send_only)


def _with_capture(port: PortPart, worker: int) -> PortPart:
    """Gives each worker a file of its own: x.pcapng, x.w1.pcapng; all of them read captures."""
    if port.capture is None or worker == 0:
        return port
    path = Path(port.capture.path)
    own = path.with_name(f"{path.stem}.w{worker}{path.suffix}")
    capture = None if port.kind == "pcap" else replace(port.capture, path=str(own))
    return replace(port, capture=capture)


def handover_of(ports: Sequence[PortPart], worker: int, workers: int) -> HandoverPart | None:
    """Returns how a worker reaches the others; None when all ports are captures."""
    if workers == 1 or all(port.kind in FILES for port in ports):
        return None
    others = range(workers)
    return HandoverPart(
        to=tuple(_ring(worker, n) for n in others),
        taken=tuple(_ring(n, worker) for n in others),
        bells=tuple(f"bell/w{n}" for n in others),
    )


def handover_objects(parts: Iterable[HandoverPart | None]) -> list[ObjectPart]:
    """Returns the objects of all workers' handing over, each once."""
    found: dict[str, ObjectPart] = {}
    for part in parts:
        if part is not None:
            found |= {name: ObjectPart(name, "handover") for name in part.to if name}
            found |= {name: ObjectPart(name, "bell") for name in part.bells}
    return list(found.values())


def _ring(giver: int, taker: int) -> str:
    return f"hand/w{giver}/w{taker}" if giver != taker else ""
