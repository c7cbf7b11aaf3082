# SPDX-License-Identifier: Apache-2.0
"""Instructions per packet, by callgrind: repeatable on a noisy machine, so it guards the speed.

`python -m bench.instructions` compares with bench/instructions.json and fails on a regression;
`--update` writes the file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.measure import ROOT, BenchError, Row, build, options, row, say

BASELINE = ROOT / "bench" / "instructions.json"
TOLERANCE = 0.08
"""Another compiler of the same family moves the counts by a few per cent."""
CASES = {
    **{f"{w}-{v}": (w, v, 1, []) for v in ("header", "track", "data") for w in ("http", "short")},
    "http-packets": ("http", "packets", 1, []),
    "http-packets-x4": ("http", "packets", 4, []),
    "http-packets-inline": ("http", "packets", 1, ["--inline"]),
    "http-packets-shared": ("http", "packets", 1, ["--shared"]),
    "http-packets-shared-x4": ("http", "packets", 4, ["--shared"]),
}
"""Workload, level, number of subscribers and further options by case."""
PACKETS = 20_000


def count(workload: str, level: str, subscribers: int, more: list[str], passes: int) -> int:
    """Instructions that one run executes, generation of the workload included."""
    if shutil.which("valgrind") is None:
        raise BenchError("valgrind is not installed: apt-get install valgrind")
    program = str(build("nfm-bench") / "nfm-bench")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", program]
        command += options(workload=workload, level=level, subscribers=subscribers)
        command += [*options(packets=PACKETS, passes=passes), *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = re.search(r"^(?:totals|summary): (\d+)", out.read_text(), re.M)
    if done.returncode or found is None:
        raise BenchError(f"{' '.join(command)}: {done.stderr[-500:]}")
    return int(found.group(1))


def per_packet(workload: str, level: str, subscribers: int, more: list[str]) -> float:
    """Instructions of one more pass, so that making the workload and the worker cancels out."""
    two, three = (count(workload, level, subscribers, more, passes) for passes in (2, 3))
    return (three - two) / PACKETS


def instructions(n: int) -> Iterator[Row]:
    """Instructions per packet against the recorded ones; `n` is not needed, they repeat."""
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    build("nfm-bench")
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # counts need no quiet machine
        counts = list(pool.map(lambda what: per_packet(*what), CASES.values()))
    for case, found in zip(CASES, counts, strict=True):
        before = baseline.get(case)
        ratio = before / found if before else None
        against = "recorded" if before else None
        yield row("instructions", case, [found], "per packet", against, ratio)


def main() -> int:
    if shutil.which("valgrind") is None:
        say("instructions per packet: skipped, valgrind is not installed")
        return 0
    rows = []
    for one in instructions(1):
        recorded = "not recorded" if one.ratio is None else f"recorded {one.value * one.ratio:.1f}"
        say(f"{one.case:22} {one.value:7.1f} instructions per packet, {recorded}")
        rows.append(one)
    if "--update" in sys.argv:
        BASELINE.write_text(json.dumps({one.case: one.value for one in rows}, indent=1) + "\n")
        return 0
    worse = [one.case for one in rows if one.ratio is not None and one.ratio < 1 - TOLERANCE]
    if worse:
        say(
            f"more instructions than recorded: {', '.join(worse)}; mend it, or --update and say why"
        )
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
