# SPDX-License-Identifier: Apache-2.0
"""The benches of ports: between real interfaces, and through DPDK."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
from collections.abc import Iterator

from bench import wire as rig
from bench.measure import Result, Row, alternate, build, checked, mpps, options, row, run_json, say

EAL = "--no-huge -m 256 --no-pci --no-shconf --no-telemetry --log-level=error"
TESTPMD_S = 5
CONTESTANTS = ("mesh", "bridge", "bridge-2-cores")


def wire(n: int) -> Iterator[Row]:
    """A mesh with the firewall between two hosts, against a Linux bridge with nftables."""
    missing = rig.why_not()
    if missing is not None:
        say(f"wire: left out: {missing}")
        return
    runs = [rig.contest() for _ in range(n)]
    rates = {
        name: [1e3 * run[name]["packets"] / run[name]["wall_ns"] for run in runs]
        for name in ("sender", *(f"{name}-64" for name in CONTESTANTS))
    }
    yield row("wire", "64-sender", rates["sender"], "Mpackets/s, nobody forwards")
    yield from _beside("64", "Mpackets/s", rates)
    if "mesh-gso" in runs[0]:
        gbits = {
            f"{name}-gso": [run[f"{name}-gso"]["bits_per_s"] / 1e9 for run in runs]
            for name in CONTESTANTS
        }
        yield from _beside("gso", "Gbit/s", gbits)


def _beside(case: str, unit: str, rates: dict[str, list[float]]) -> Iterator[Row]:
    """The mesh beside the better of the bridges, and these."""
    best = max(CONTESTANTS[1:], key=lambda name: statistics.median(rates[f"{name}-{case}"]))
    ratio = statistics.median(rates[f"mesh-{case}"]) / statistics.median(rates[f"{best}-{case}"])
    yield row("wire", case, rates[f"mesh-{case}"], unit, best, ratio)
    for name in CONTESTANTS[1:]:
        yield row("wire", f"{case}-{name}", rates[f"{name}-{case}"], unit)


def dpdk(n: int) -> Iterator[Row]:
    """DPDK's null device through the worker, tracked; testpmd forwards without looking."""
    found = alternate({"nfmesh": _null, "testpmd": _testpmd}, n)
    if "nfmesh" not in found:
        return
    mine = mpps(found["nfmesh"])
    yield row("dpdk", "null", mine, "Mpackets/s tracked")
    if "testpmd" in found:
        theirs = [run["packets_per_s"] / 1e6 for run in found["testpmd"]]
        ratio = statistics.median(mine) / statistics.median(theirs)
        yield row("dpdk", "null-testpmd", theirs, "Mpackets/s io", "testpmd", ratio)


def _null() -> Result | None:
    """One run of our own; None: this build is without DPDK."""
    result: Result | None = checked(run_json([str(build() / "nfm-dpdk"), *options(eal=EAL)]))
    return result


def _testpmd() -> Result | None:
    """Two null devices forward to each other; what both received in the last second."""
    if shutil.which("dpdk-testpmd") is None:
        return None
    devices = [f"--vdev=net_null{i},size=60" for i in (0, 1)]
    line = ["timeout", "-s", "INT", str(TESTPMD_S), "dpdk-testpmd"]
    more = ["--forward-mode=io", "--total-num-mbufs=8192", "--stats-period=1"]
    done = subprocess.run(
        [*line, *EAL.split(), "-l", "0,1", *devices, "--", *more],
        capture_output=True,
        text=True,
        check=False,
    )
    rates = [int(rate) for rate in re.findall(r"Rx-pps:\s*(\d+)", done.stdout)]
    return {"packets_per_s": sum(rates[-2:])} if len(rates) >= 4 else None
