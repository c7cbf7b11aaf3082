# SPDX-License-Identifier: Apache-2.0
"""The ports of one of several workers. Pure.

Every worker reads all captures and leaves to the others what is theirs; each writes a part of a
recording of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mesh.control.wire import PortPart
from mesh.port_spec import record_format
from mesh.recordings import part_path

__all__ = ["ports_of_worker"]


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
    if port.kind == "record":
        path = part_path(str(port.options["path"]), worker)
        own = {**port.options, "path": path, "format": record_format(port.options)}
        return replace(port, options=own)
    return port
