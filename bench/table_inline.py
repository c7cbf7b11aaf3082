# SPDX-License-Identifier: Apache-2.0
"""The benches of packets that wait for verdicts: one core for the worker, one for the NFs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from functools import partial

from bench.measure import Result, Row, alternate, row
from bench.processes import hosted_nf, inline

AWAKE_NS = 1_000_000_000
SMALL = {"workload": "lookup-1k", "packets": 4_000_000}
"""64-byte packets of a thousand flows."""
POLLING = {"spin-ns": AWAKE_NS}
SHARES = (0, 25, 50, 75, 100)
RULES = (10, 1_000, 10_000)


def rate(found: Sequence[Result], what: str = "packets") -> list[float]:
    """Millions a second, of the time that all of it took."""
    return [1e3 * run[what] / run["wall_ns"] for run in found]


def inline_nfs(n: int) -> Iterator[Row]:
    """Packets per second past NFs that let all of them pass."""
    found = alternate(
        {
            "native": partial(inline, **SMALL, **POLLING),
            "numpy": partial(inline, **SMALL, nf=hosted_nf("inline", f"--spin-ns {AWAKE_NS}")),
            "4-sharing": partial(inline, **SMALL, nfs=4),
        },
        n,
    )
    one = statistics.median(rate(found["native"]))
    for case, runs in found.items():
        rates = rate(runs)
        against = None if case == "native" else "native"
        ratio = None if case == "native" else statistics.median(rates) / one
        yield row("inline", case, rates, "Mpackets/s", against, ratio)


def verdict(n: int) -> Iterator[Row]:
    """From a packet's arrival until it leaves, packets far apart."""
    far = {"workload": "http", "worker-spin-ns": AWAKE_NS}
    found = alternate(
        {
            "polling": partial(inline, **far, packets=20_000, **POLLING, **{"gap-ns": 50_000}),
            "sleeping": partial(inline, **far, packets=4_000, **{"gap-ns": 500_000, "spin-ns": 0}),
        },
        n,
    )
    for case, runs in found.items():
        for part in ("p50", "p99"):
            late = [run[f"{part}_ns"] / 1e3 for run in runs]
            yield row("verdict", f"{case}-{part}", late, "us")


def offload(n: int) -> Iterator[Row]:
    """Packets per second when a share of the flows is settled by the first verdict."""
    runs = {str(share): partial(inline, **SMALL, **POLLING, offload=share) for share in SHARES}
    found = alternate(runs, n)
    base = statistics.median(rate(found["0"]))
    for share in SHARES:
        rates = rate(found[str(share)])
        factor = statistics.median(rates) / base
        yield row("offload", f"{share}%", rates, "Mpackets/s", "0%", factor)


def firewall(n: int) -> Iterator[Row]:
    """The firewall with more and more rules: flows that are new to it, packets of known ones."""
    loads = {
        "flows": {"workload": "short", "packets": 200_000, "passes": 10},
        "packets": SMALL,
    }
    for what, load in loads.items():
        runs = {
            str(rules): partial(inline, **load, nf=hosted_nf("firewall", f"--rules {rules}"))
            for rules in RULES
        }
        found = alternate(runs, n)
        few = statistics.median(rate(found[str(RULES[0])]))
        for rules in RULES:
            rates = rate(found[str(rules)], what)
            cost = few / statistics.median(rate(found[str(rules)]))
            unit = "M new flows/s" if what == "flows" else "Mpackets/s"
            yield row("firewall", f"{what}-{rules}", rates, unit, "10 rules' cost", cost)
