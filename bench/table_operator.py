# SPDX-License-Identifier: Apache-2.0
"""The bench of the Kubernetes operator: many functions at once, then none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

from bench.measure import ROOT, BenchError, Result, Row, row, say

FUNCTIONS = 200
IDLE_S = 30
ROWS = (
    ("ready_s", "ready", "s until all are Ready"),
    ("writes", "writes", "API writes per function"),
    ("cpu_s", "cpu", "s of processor time until then"),
    ("idle_cpu", "idle-cpu", "% of a core"),
    ("idle_writes", "idle-writes", f"writes in {IDLE_S} s, without its lease"),
)


def operator(n: int) -> Iterator[Row]:
    """200 NetworkFunctions on four nodes; the server is the tests' fake one, and a real one."""
    for kind in ("fake", "real"):
        runs = [found for _ in range(min(n, 3)) if (found := _run(kind))]
        if not runs:
            say(f"no real API server here: make kube, or see tests/real_kube.py ({kind})")
            continue
        for key, case, unit in ROWS:
            yield row("operator", f"{kind}-{case}", [run[key] for run in runs], unit)
        memory = [run["rss"] / 1e6 for run in runs]
        yield row("operator", f"{kind}-rss", memory, "MB resident")


def _run(kind: str) -> Result:
    command = [sys.executable, "-m", "bench.operator_cluster", kind, str(FUNCTIONS), str(IDLE_S)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"bench.operator_cluster {kind} failed")
    found: Result = json.loads(done.stdout.splitlines()[-1])
    return found
