# SPDX-License-Identifier: Apache-2.0
"""An NF in Python as a process of its own: what nfm-processes runs as `--nf`.

`python -m bench.process_nf numpy|per-event|late SPIN_NS --objects N,N,N,N,N --ring N --begin N
--ready N`, the last four by nfm-processes: descriptors. It serves the ring with the loop of NFs'
processes and prints a JSON line of what it counted and cost. `late` counts how late its handler
learns of each packet.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

from bench.python_nf import Counting, Numpy, PerEvent
from mesh import Context, EventBatch, make_plan, on
from mesh.attached import AttachedRing, attach_memory
from mesh.fdpass import Handle
from mesh.journal import JOURNAL_BYTES, Journal
from mesh.nfloop import NFLoop
from mesh.seat import Seat
from mesh.sources import RingSource

FOREVER_NS = 60_000_000_000


class Late(Counting):
    """Takes the time from a packet's own time to its handler."""

    def __init__(self) -> None:
        super().__init__()
        self.late_ns: list[int] = []

    @on("packet.tcp")
    def seen(self, batch: EventBatch) -> None:
        now = time.monotonic_ns()
        self.packets += len(batch)
        self.late_ns += (now - batch.ts).tolist()


STYLES: dict[str, type[Counting]] = {"numpy": Numpy, "per-event": PerEvent, "late": Late}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("style", choices=STYLES)
    parser.add_argument("spin_ns", type=int)
    parser.add_argument("--objects", required=True)
    for name in ("--ring", "--begin", "--ready"):
        parser.add_argument(name, type=int, required=True)
    return parser.parse_args()


def make_seat(nf: Counting) -> Seat:
    plan = make_plan([nf])
    seat = Seat(plan.nfs[0], nf, plan.catalogue, None, (), 1)
    seat.start(Context(plan.nfs[0].name, "memory", Path()))
    return seat


def make_source(objects: str, ring: int) -> RingSource:
    handles = [Handle("objects", int(fd), 0, "") for fd in objects.split(",")]
    return RingSource(AttachedRing(Handle("ring", ring, 0, ""), attach_memory(handles)), 0)


def main() -> None:
    given = arguments()
    nf = STYLES[given.style]()
    seat = make_seat(nf)
    journal = os.memfd_create("journal")
    os.ftruncate(journal, JOURNAL_BYTES)
    os.read(given.begin, 1)
    source = make_source(given.objects, given.ring)
    loop = NFLoop(seat, [source], Journal(journal), spin_ns=given.spin_ns)
    os.write(given.ready, b"\0")
    source.wait(0, FOREVER_NS)
    begin = time.process_time_ns()
    while loop.round():
        pass
    spent = time.process_time_ns() - begin
    late = nf.late_ns if isinstance(nf, Late) else [0, 0]
    hundredths = statistics.quantiles(late, n=100, method="inclusive")
    result = {"name": "nf", "events": nf.packets, "bytes": nf.payload, "cpu_ns": spent}
    print(json.dumps({**result, "p50_ns": hundredths[49], "p99_ns": hundredths[98]}))


if __name__ == "__main__":
    main()
