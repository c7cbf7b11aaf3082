# SPDX-License-Identifier: Apache-2.0
"""Builds the benchmark programs, runs them and reduces repetitions to rows."""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "bench"
Result = dict[str, Any]
Run = Callable[[], Result | None]


class BenchError(Exception):
    """A program failed, or counted something other than the workload holds."""


@dataclass(frozen=True)
class Row:
    """One figure: median, least and most of n runs; ratio is ours to theirs, larger is better."""

    bench: str
    case: str
    value: float
    unit: str
    min: float
    max: float
    n: int
    against: str | None = None
    ratio: float | None = None

    def as_json(self) -> str:
        return json.dumps(asdict(self))


def row(
    bench: str,
    case: str,
    values: Sequence[float],
    unit: str,
    against: str | None = None,
    ratio: float | None = None,
) -> Row:
    ratio = None if ratio is None else round(ratio, 3)
    median = statistics.median(values)
    return Row(
        bench, case, _short(median), unit, _short(min(values)), _short(max(values)), len(values),
        against, ratio,
    )  # fmt: skip


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@functools.cache
def build(target: str = "all") -> Path:
    """Builds the programs in Release, or one; returns their folder."""
    steps = (
        ["cmake", "-G", "Ninja", "-S", str(ROOT / "bench"), "-B", str(BUILD)],
        ["cmake", "--build", str(BUILD), "--target", target],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"{' '.join(step)}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return BUILD


def run_json(command: Sequence[str]) -> Result | None:
    """Runs a program that ends with a JSON line; None when it says (exit code 3) it is not here."""
    text = _run(command)
    return None if text is None else json.loads(text.splitlines()[-1])


def run_lines(command: Sequence[str]) -> list[Result]:
    """Runs a program whose processes print a JSON line each."""
    return [json.loads(line) for line in (_run(command) or "").splitlines()]


def _run(command: Sequence[str]) -> str | None:
    # numpy's BLAS starts threads that spin for work; nobody here multiplies matrices.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    if done.returncode == 3:
        return None
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-1000:]}")
    return done.stdout.strip()


def options(**values: Any) -> list[str]:
    """Turns keyword arguments into long options."""
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def ours(**values: Any) -> Result:
    """One run of our stack; what it counted must be what the workload holds."""
    result = run_json([str(build() / "nfm-bench"), *options(**values)])
    assert result is not None
    return checked(result)


def rival(name: str, **values: Any) -> Result | None:
    """One run of another C stack, or None when its library was missing."""
    program = build() / f"rival-{name}"
    return checked(run_json([str(program), *options(**values)])) if program.exists() else None


def checked(result: Result | None) -> Any:
    """Raises BenchError unless what was counted is what the workload holds."""
    if result is None:
        return None
    for counted in ("packets", "flows", "bytes"):
        want = result.get(f"want_{counted}")
        applies = counted != "bytes" or result.get("level", "data") == "data"
        if want is not None and applies and result[counted] != want:
            raise BenchError(
                f"{result['name']} counted {result[counted]} {counted}, the workload has {want}"
            )
    return result


def alternate(runs: dict[str, Run], n: int) -> dict[str, list[Result]]:
    """Runs each program n times, in turns, so that a disturbance hits all of them."""
    results: dict[str, list[Result]] = {name: [] for name in runs}
    for _ in range(n):
        for name, run in runs.items():
            result = run()
            if result is not None:
                results[name].append(result)
    for name, found in results.items():
        if not found:
            say(f"{name} is not installed: left out")
    return {name: found for name, found in results.items() if found}


def ns_per_packet(results: Sequence[Result]) -> list[float]:
    return [r["cpu_ns"] / r["packets"] for r in results]


def mpps(results: Sequence[Result]) -> list[float]:
    """Million packets per second of processor time."""
    return [1e3 / ns for ns in ns_per_packet(results)]


def speedup(mine: Sequence[Result], theirs: Sequence[Result]) -> float:
    """How many times faster the median of ours is, per packet."""
    return statistics.median(ns_per_packet(theirs)) / statistics.median(ns_per_packet(mine))
