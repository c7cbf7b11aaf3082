# SPDX-License-Identifier: Apache-2.0
"""An NF in Python as a process of its own: what nfm-processes runs as `--nf`.

`python -m bench.process_nf STYLE --spin-ns N --objects N,N,N,N,N --ring N --begin N --ready N`, the
last four by nfm-processes: descriptors. It serves the ring with the loop of NFs' processes and
prints a JSON line of what it counted and cost. `late` counts how late its handler learns of each
packet; `inline` decides on packets by columns; `firewall` is the NF of that name with so many rules
(`--rules`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from pathlib import Path

from bench.python_nf import Counting, Numpy, PerEvent
from mesh import NF, Context, EventBatch, make_plan, on
from mesh.attached import AttachedRing, attach_memory
from mesh.commands import Commands
from mesh.fdpass import Handle
from mesh.journal import JOURNAL_BYTES, Journal
from mesh.native_nf import load
from mesh.nfloop import IDLE_NS, NFLoop
from mesh.seat import Seat
from mesh.serving import NativeFunction, Server
from mesh.sources import RingSource
from nfs.firewall.nf import Firewall

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


class Inline(Counting):
    """Drops what is longer than any packet."""

    @on("packet.tcp", mode="inline")
    def seen(self, batch: EventBatch) -> None:
        self.packets += len(batch)
        batch.drop(batch.payload_len > 65535)


STYLES: dict[str, type[Counting]] = {
    "numpy": Numpy,
    "per-event": PerEvent,
    "late": Late,
    "inline": Inline,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("style", choices=[*STYLES, "firewall"])
    parser.add_argument("--spin-ns", type=int, default=0)
    parser.add_argument("--rules", type=int, default=10)
    parser.add_argument("--objects", required=True)
    for name in ("--ring", "--begin", "--ready"):
        parser.add_argument(name, type=int, required=True)
    return parser.parse_args()


def rules(n: int) -> tuple[str, ...]:
    """Makes rules that accept: whichever matches, each flow is looked for in all of them."""
    draw = random.Random(n)
    found = []
    for number in range(n):
        net = f"10.{draw.randrange(256)}.{draw.randrange(256)}.0/{draw.randrange(24, 29)}"
        side = "saddr" if number % 2 else "daddr"
        found.append(f"ip {side} {net} tcp dport {draw.randrange(1024, 60000)} accept")
    return tuple(found)


def make_source(objects: str, ring: int) -> RingSource:
    handles = [Handle("objects", int(fd), 0, "") for fd in objects.split(",")]
    return RingSource(AttachedRing(Handle("ring", ring, 0, ""), attach_memory(handles)), 0)


def make_loop(nf: NF, source: RingSource, spin_ns: int) -> NFLoop:
    """Serves an NF as its process does in a mesh."""
    descriptor = os.memfd_create("journal")
    os.ftruncate(descriptor, JOURNAL_BYTES)
    journal = Journal(descriptor)
    plan = make_plan([nf])
    planned = plan.nfs[0]
    natives, server = {}, None
    if planned.cls.native is not None:
        nf.native_handle, process, _ = load(planned.cls, {})
        function = NativeFunction(planned.name, process, nf.native_handle.state)
        natives = {s.handler: function for s in planned.subscriptions if not s.method}
        server = Server(
            function,
            journal,
            in_line=planned.is_inline,
            fail_open=planned.fail_open,
            spin_ns=spin_ns,
            idle_ns=IDLE_NS,
        )
    seat = Seat(planned, nf, plan.catalogue, (), (), 1, natives)
    commands = Commands(source.ring.pointer)
    seat.connect({(0, False): commands, (0, True): commands})
    seat.start(Context(planned.name, "memory", Path()))
    return NFLoop(seat, [source], journal, spin_ns=spin_ns, server=server)


def result(nf: NF, spent_ns: int) -> dict[str, object]:
    late = nf.late_ns if isinstance(nf, Late) else [0, 0]
    hundredths = statistics.quantiles(late, n=100, method="inclusive")
    counted = (nf.packets, nf.payload) if isinstance(nf, Counting) else (0, 0)
    return {
        "name": "nf",
        "events": counted[0],
        "bytes": counted[1],
        "cpu_ns": spent_ns,
        "p50_ns": hundredths[49],
        "p99_ns": hundredths[98],
    }


def main() -> None:
    given = arguments()
    style = STYLES.get(given.style)
    nf = Firewall(lines=rules(given.rules), default="accept") if style is None else style()
    os.read(given.begin, 1)
    source = make_source(given.objects, given.ring)
    loop = make_loop(nf, source, given.spin_ns)
    os.write(given.ready, b"\0")
    source.wait(0, FOREVER_NS)
    begin = time.process_time_ns()
    while loop.round():
        pass
    spent = time.process_time_ns() - begin
    if loop.seat.counts().failures:
        raise SystemExit(loop.seat.stop().errors[0])
    print(json.dumps(result(nf, spent)))


if __name__ == "__main__":
    main()
