# SPDX-License-Identifier: Apache-2.0
"""Captures that several workers write: a part by each, put together at the end of the run.

Theory of operation. Packets of one flow are all in one part, in their order, and the workers' event
time is the same; so frames in the order of their times are in per-flow order. The parts lie beside
the capture and stay there when they cannot be put together.
"""

from __future__ import annotations

from pathlib import Path

from mesh.errors import NativeError
from mesh.port_spec import record_format
from mesh.ports import Port
from mesh.spec import Spec

__all__ = ["join_parts", "part_path"]


def part_path(path: str, worker: int) -> str:
    """Returns where a worker writes its part.

    >>> part_path("out.pcap", 1)
    'out.pcap.w1'
    """
    return f"{path}.w{worker}"


def join_parts(spec: Spec) -> list[str]:
    """Puts the parts of all recordings of a run together.

    Returns:
        A line for each that could not be.
    """
    problems: list[str] = []
    recordings = [port for port in spec.ports if port.record is not None and spec.workers > 1]
    for port in recordings:
        path = str(port.path)
        parts = [part_path(path, worker) for worker in range(spec.workers)]
        try:
            Port.merge(parts, path, record_format(port.options))
        except NativeError as error:
            problems.append(f"{error}; the workers' parts are {', '.join(parts)}")
            continue
        for part in parts:
            Path(part).unlink(missing_ok=True)
    return problems
