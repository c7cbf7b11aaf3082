# SPDX-License-Identifier: Apache-2.0
"""The benches of meshes whose parts are processes: two cores, nothing else running."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial

from bench import processes
from bench.measure import Result, Row, alternate, ns_per_packet, row

HTTP = {"workload": "http", "passes": 60}
AWAKE_NS = 1_000_000_000


def consolidate(n: int) -> Iterator[Row]:
    """NFs that count stream bytes: one stack for all of them against a stack for each."""
    for k in (5, 3, 2):
        found = alternate(
            {
                "shared": partial(processes.mesh, nfs=k, level="data", **HTTP),
                "own": partial(processes.stacks, k, level="data", **HTTP),
            },
            n,
        )
        shared, own = (_all_ns(found[name]) for name in ("shared", "own"))
        factor = statistics.median(own) / statistics.median(shared)
        yield row("consolidate", f"{k}", shared, "ns/packet, all processes", f"{k} stacks", factor)
        yield row("consolidate", f"{k}-stacks", own, "ns/packet, all processes")
        worker = ns_per_packet(found["shared"])
        yield row("consolidate", f"{k}-worker", worker, "ns/packet, the worker alone")


def _all_ns(found: list[Result]) -> list[float]:
    return [run["all_cpu_ns"] / run["packets"] for run in found]


def fanout(n: int) -> Iterator[Row]:
    """What each further process that subscribes costs the worker."""
    counts = (1, 2, 4, 8)
    run = partial(processes.mesh, level="packets", **HTTP)
    found = alternate({str(k): partial(run, nfs=k) for k in counts}, n)
    base = ns_per_packet(found["1"])
    yield row("fanout", "processes-1", base, "ns/packet")
    for k in counts[1:]:
        pairs = zip(ns_per_packet(found[str(k)]), base, strict=True)
        each = [(cost - alone) / (k - 1) for cost, alone in pairs]
        yield row("fanout", f"processes-{k}", each, "ns/event and subscriber")


def python(n: int) -> Iterator[Row]:
    """NFs in Python, each in its process: events per second of all that the process does."""
    short = {"workload": "short", "packets": 200_000}
    found = alternate(
        {
            "numpy": partial(processes.python_nf, "numpy", passes=40, **short),
            "per-event": partial(processes.python_nf, "per-event", passes=5, **short),
        },
        n,
    )
    for case, runs in found.items():
        rate = [1e3 * run["events"] / run["cpu_ns"] for run in runs]
        yield row("python", f"{case}-process", rate, "Mevents/s")


def wake(n: int) -> Iterator[Row]:
    """From the port's hand to the handler of an NF in another process, packets far apart."""
    polling = {"packets": 10_000, "gap-ns": 50_000, "spin-ns": AWAKE_NS, "workload": "http"}
    sleeping = {"packets": 3_000, "gap-ns": 500_000, "spin-ns": 0, "workload": "http"}
    found = alternate(
        {
            "polling": partial(_late, polling),
            "sleeping": partial(_late, sleeping),
            "python-polling": partial(_late_python, polling),
            "python-sleeping": partial(_late_python, sleeping),
        },
        n,
    )
    for case, runs in found.items():
        for part in ("p50", "p99"):
            yield row("wake", f"{case}-{part}", [run[f"{part}_ns"] / 1e3 for run in runs], "us")


def _late(how: dict[str, object]) -> Result:
    found: Result = processes.mesh(level="packets", **how)["nfs"][0]
    return found


def _late_python(how: dict[str, object]) -> Result:
    spin_ns = AWAKE_NS if how["spin-ns"] else 0
    return processes.python_nf("late", spin_ns, **how)


def attach(n: int) -> Iterator[Row]:
    """How long a mesh takes to come up, and an NF that joins it."""
    runs: dict[str, list[float]] = {"running": [], "first-event": [], "imports": []}
    for _ in range(n):
        runs["running"].append(processes.running())
        runs["first-event"].append(processes.joining())
        runs["imports"].append(processes.imports())
    yield row("attach", "running", runs["running"], "ms, nfmesh run to events at 3 NFs")
    yield row("attach", "first-event", runs["first-event"], "ms, start of an NF that joins")
    yield row("attach", "imports", runs["imports"], "ms, loading what a fork has already")
