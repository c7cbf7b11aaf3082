# SPDX-License-Identifier: Apache-2.0
"""Measures a Python NF over packet.tcp: `python -m bench.python_nf numpy|per-event FILE PASSES`.

Frames are read into a memory port first. Both NFs count packets and payload bytes, as columns or
event by event; the JSON line has the processor time of the whole run and that of the NF alone.
"""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from mesh import NF, EventBatch, on, replay
from mesh.ports import Frame, Port

cpu_ns = time.process_time_ns


class Counting(NF):
    """Counts packets and payload bytes, and its own time."""

    def __init__(self) -> None:
        self.packets = self.payload = self.spent_ns = 0


class Numpy(Counting):
    """Columns."""

    @on("packet.tcp")
    def seen(self, batch: EventBatch) -> None:
        begin = cpu_ns()
        self.packets += len(batch)
        self.payload += int(batch.payload_len.sum())
        self.spent_ns += cpu_ns() - begin


class PerEvent(Counting):
    """A Python loop."""

    @on("packet.tcp")
    def seen(self, batch: EventBatch) -> None:
        begin = cpu_ns()
        packets = payload = 0
        for event in batch:
            packets += 1
            payload += event.payload_len
        self.packets += packets
        self.payload += payload
        self.spent_ns += cpu_ns() - begin


def frames(path: Path) -> Iterator[Frame]:
    """Reads a nanosecond pcap of this machine's byte order."""
    data, at = path.read_bytes(), 24
    while at < len(data):
        seconds, nanoseconds, size, wire = struct.unpack_from("=IIII", data, at)
        at += 16 + size
        yield Frame(data[at - size : at], seconds * 1_000_000_000 + nanoseconds, wire)


def main(style: str, path: str, passes: str) -> None:
    all_frames = list(frames(Path(path)))
    port = Port.memory(all_frames)
    span = all_frames[-1].ts_ns - all_frames[0].ts_ns + 30_000_000_000
    n, total = int(passes), len(all_frames)
    del all_frames
    port.loop(n, span)
    nf = Numpy() if style == "numpy" else PerEvent()
    begin = cpu_ns()
    replay(port, [nf])
    spent = cpu_ns() - begin
    if nf.packets != total * n:
        raise SystemExit(f"counted {nf.packets} packets of {total * n}")
    result = {"name": "nfmesh", "packets": nf.packets, "bytes": nf.payload, "cpu_ns": spent}
    print(json.dumps({**result, "nf_ns": nf.spent_ns}))


if __name__ == "__main__":
    main(*sys.argv[1:])
