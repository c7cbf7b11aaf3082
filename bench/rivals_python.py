# SPDX-License-Identifier: Apache-2.0
"""Python programs over one capture: our NFs, NFStream, dpkt, scapy; each in its own process."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from bench.measure import BUILD, ROOT, Result, build, checked, run_json

PACKETS = 200_000
FEW = 20_000
"""Enough for libraries that take microseconds a packet."""


@functools.cache
def capture(packets: int) -> Path:
    """Writes the `short` workload to a capture, once."""
    path = BUILD / f"short-{packets}.pcap"
    program = str(build() / "nfm-workload")
    run_json([program, "short", str(path), "--packets", str(packets)])
    return path


def ours(style: str) -> Result:
    passes = 20 if style == "numpy" else 3
    return _run("-m", "bench.python_nf", style, str(capture(PACKETS)), str(passes))


def nfstream() -> Result | None:
    return checked(_try(str(ROOT / "bench/rivals/from_file.py"), "nfstream", str(capture(PACKETS))))


def library(name: str) -> Result | None:
    return checked(_try(str(ROOT / "bench/rivals/from_file.py"), name, str(capture(FEW))))


def _try(*arguments: str) -> Result | None:
    return run_json([sys.executable, *arguments])


def _run(*arguments: str) -> Result:
    result = _try(*arguments)
    assert result is not None
    return result
