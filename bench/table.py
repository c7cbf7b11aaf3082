# SPDX-License-Identifier: Apache-2.0
"""The benches: each yields the rows of one line of the table of figures."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial

from bench import rivals_python as python
from bench import table_inline as in_line
from bench import table_operator as kube
from bench import table_pods as apart_pods
from bench import table_ports as ports
from bench import table_processes as apart
from bench.measure import (
    Row,
    alternate,
    build,
    mpps,
    ns_per_packet,
    options,
    ours,
    rival,
    row,
    run_json,
    speedup,
)

PASSES = {"http": 60, "short": 6, "bulk": 60, "mix": 6, "c100k": 1}
"""Passes that make a run last about half a second."""


def track(n: int) -> Iterator[Row]:
    """Connection events."""
    for case in ("http", "short", "c100k"):
        passes = PASSES[case]
        found = alternate(
            {
                "nfmesh": partial(ours, workload=case, level="track", passes=passes),
                "libnids": partial(rival, "libnids", workload=case, level="data", passes=1),
                "libnids-no-data": partial(
                    rival, "libnids", workload=case, level="track", passes=1
                ),
            },
            n,
        )
        yield row("track", case, mpps(found["nfmesh"]), "Mpackets/s")
        yield from _against("track", case, found)
        yield from _budgets(case, found["nfmesh"])


def _against(bench: str, case: str, found: dict[str, list[dict[str, object]]]) -> Iterator[Row]:
    """A row for each other program: its own figure, and how many times faster we are."""
    for name, theirs in found.items():
        if name != "nfmesh":
            factor = speedup(found["nfmesh"], theirs)
            yield row(bench, case, mpps(theirs), "Mpackets/s of " + name, name, factor)


def _budgets(case: str, mine: list[dict[str, int]]) -> Iterator[Row]:
    """Time stamp counter cycles beside what 40 Gbit/s leaves for frames of this size at 2 GHz."""
    cycles = [r["tsc_cycles"] / r["packets"] for r in mine]
    size = mine[0]["wire_bytes"] / mine[0]["packets"]
    budget = (size + 20) * 8 / 40 * 2  # preamble and gap: 20 bytes
    factor = budget / statistics.median(cycles)
    yield row("track", f"{case}-cycles", cycles, "cycles/packet", "40 Gbit/s at 2 GHz", factor)


def stream(n: int) -> Iterator[Row]:
    """In-order bytes, every one counted."""
    for case in ("http", "bulk", "mix"):
        passes = PASSES[case]
        runs = {
            "nfmesh": partial(ours, workload=case, level="data", passes=passes),
            "libnids": partial(rival, "libnids", workload=case, level="data", passes=1),
            "libtins": partial(rival, "libtins", workload=case, level="data", passes=1),
        }
        found = alternate(runs, n)
        mine = found["nfmesh"]
        yield row("stream", case, mpps(mine), "Mpackets/s")
        gbit = [r["wire_bytes"] * 8 / r["cpu_ns"] for r in mine]
        yield row("stream", f"{case}-gbit", gbit, "Gbit/s")
        yield from _against("stream", case, found)


def lookup(n: int) -> Iterator[Row]:
    """64-byte packets over more and more open flows."""
    sizes = ("lookup-1k", "lookup-100k", "lookup-1m")
    arguments = {"level": "track", "packets": 4_000_000, "max-flows": 1 << 21}
    found = alternate({w: partial(ours, workload=w, **arguments) for w in sizes}, n)
    for size in sizes:
        cost = ns_per_packet(found[size])
        ratio = statistics.median(cost) / statistics.median(ns_per_packet(found["lookup-1k"]))
        case = size.removeprefix("lookup-")
        yield row("lookup", case, cost, "ns/packet", "1k", ratio)


def customise(n: int) -> Iterator[Row]:
    """What a flow costs at each level: only the work that somebody needs is done."""
    levels = ("header", "packets", "track", "data")
    found = alternate(
        {v: partial(ours, workload="http", level=v, passes=PASSES["http"]) for v in levels}, n
    )
    for level in levels:
        factor = speedup(found[level], found["data"])
        yield row("customise", level, mpps(found[level]), "Mpackets/s", "data", factor)


def fanout(n: int) -> Iterator[Row]:
    """Each further subscriber of the same events, in one process and in others."""
    counts = (1, 2, 4, 8, 16)
    arguments = {"workload": "http", "level": "packets", "passes": PASSES["http"]}
    found = alternate({str(k): partial(ours, subscribers=k, **arguments) for k in counts}, n)
    base = ns_per_packet(found["1"])
    yield row("fanout", "1", base, "ns/packet")
    for k in counts[1:]:
        pairs = zip(ns_per_packet(found[str(k)]), base, strict=True)
        each = [(cost - alone) / (k - 1) for cost, alone in pairs]
        yield row("fanout", str(k), each, "ns/event and subscriber")
    yield from apart.fanout(n)


def python_nfs(n: int) -> Iterator[Row]:
    """NFs in Python over packet.tcp, stack included; NFStream does the same count."""
    short = partial(python.ours, "numpy"), partial(python.ours, "per-event")
    found = alternate({"numpy": short[0], "per-event": short[1], "nfstream": python.nfstream}, n)
    for case in ("numpy", "per-event"):
        yield row("python", case, mpps(found[case]), "Mevents/s")
        alone = [1e3 * r["packets"] / r["nf_ns"] for r in found[case]]
        yield row("python", f"{case}-nf-only", alone, "Mevents/s")
        if "nfstream" in found:
            theirs = mpps(found["nfstream"])
            factor = speedup(found[case], found["nfstream"])
            yield row("python", case, theirs, "Mevents/s of nfstream", "nfstream", factor)
    if "nfstream" in found:  # it reads the file itself: what reading alone costs a Python program
        reading = [r["read_ns"] / r["packets"] for r in found["nfstream"]]
        yield row("python", "read-file", reading, "ns/packet")
    for name in ("dpkt", "scapy"):
        other = alternate({name: partial(python.library, name)}, 1)
        if name in other:
            factor = speedup(found["numpy"], other[name])
            yield row("python", "numpy", mpps(other[name]), f"Mevents/s of {name}", name, factor)
    yield from apart.python(n)


def memory(n: int) -> Iterator[Row]:
    """What flows cost: resident memory of the worker, a million flows open."""
    found = [
        ours(workload=f"lookup-{k}", level="track", packets=p, **{"max-flows": 1 << 21})
        for k, p in (("1k", 10_000), ("1m", 2_000_000))
    ]
    less, more = (r["rss_kib"] * 1024 for r in found)
    yield row("memory", "flow", [(more - less) / (1_000_000 - 1_000)], "bytes/flow")
    yield row("memory", "1m-rss", [more / 2**20], "MiB")


def handoff(n: int) -> Iterator[Row]:
    """Descriptors from the worker to a process on another core, beside the barest ring."""
    program = str(build() / "nfm-handoff")
    for burst in (32, 256):
        run = partial(run_json, [program, *options(burst=burst)])
        found = alternate({"handoff": run}, n)["handoff"]
        rate = {k: [1e3 * r["entries"] / r[f"{k}_ns"] for r in found] for k in HANDOFFS}
        factor = statistics.median(r["raw16_ns"] / r["ring_ns"] for r in found)
        case = f"burst{burst}"
        yield row("handoff", case, rate["ring"], "M descriptors/s", "raw ring", factor)
        yield row("handoff", f"{case}-raw", rate["raw16"], "M entries of 16 bytes/s")
        yield row("handoff", f"{case}-raw8", rate["raw8"], "M entries of 8 bytes/s")
        yield row("handoff", f"{case}-records", rate["records"], "M records of 128 bytes/s")


HANDOFFS = ("ring", "raw16", "raw8", "records")
BENCHES: dict[str, Callable[[int], Iterator[Row]]] = {
    "track": track,
    "stream": stream,
    "lookup": lookup,
    "customise": customise,
    "fanout": fanout,
    "handoff": handoff,
    "consolidate": apart.consolidate,
    "wake": apart.wake,
    "attach": apart.attach,
    "python": python_nfs,
    "memory": memory,
    "inline": in_line.inline_nfs,
    "verdict": in_line.verdict,
    "offload": in_line.offload,
    "firewall": in_line.firewall,
    "wire": ports.wire,
    "dpdk": ports.dpdk,
    "operator": kube.operator,
    "pods": apart_pods.pods,
}


def machine() -> str:
    """The processor's name, for the head of the table."""
    for line in open("/proc/cpuinfo", encoding="utf-8"):  # noqa: SIM115
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return sys.platform
