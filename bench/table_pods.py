# SPDX-License-Identifier: Apache-2.0
"""The bench of containers: worker to NF across two, beside two plain processes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

from bench.measure import ROOT, BenchError, Row, row, say

SKIPPED = 77
"""Status of bench.pods where there is nothing to measure with."""


def pods(n: int) -> Iterator[Row]:
    """Events per second from a stack's container into an NF's, and how soon one is back.

    Needs root, podman and the image.
    """
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-m", "bench.pods", str(n)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode == SKIPPED:
        say("no containers here: see above, or tests/pod_rig.py")
        return
    if done.returncode:
        raise BenchError("bench.pods failed: what it said is above")
    measured = json.loads(done.stdout)
    restarts = measured.pop("restart")
    found = {name: [each / 1e6 for each in runs] for name, runs in measured.items()}
    plain = statistics.median(found["processes"])
    factor = statistics.median(found["containers"]) / plain
    yield row("pods", "containers", found["containers"], "Mevents/s", "processes", factor)
    yield row("pods", "processes", found["processes"], "Mevents/s")
    yield row("pods", "restart", restarts, "ms")
