# SPDX-License-Identifier: Apache-2.0
"""Runs every fuzz target of a build for some seconds each; a finding fails and is kept.

New inputs go to build/fuzz/corpus/<target>, so later runs go on from there; the seeds of
tests/fuzz/seeds/<target> and the captures of the project are read as well.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run_target(target: Path, seconds: int) -> tuple[str, int, str]:
    """Runs one target; returns its name, exit status and last lines."""
    corpus = target.parent / "corpus" / target.name
    findings = target.parent / "findings" / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    seeds = [p for p in (ROOT / "tests/fuzz/seeds" / target.name,) if p.is_dir()]
    command = [
        str(target),
        f"-max_total_time={seconds}",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        f"-artifact_prefix={findings}/",
        str(corpus),
        *map(str, seeds),
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return target.name, done.returncode, done.stderr


def executions(log: str) -> str:
    """Returns the number of inputs tried, as libFuzzer's final statistics print it."""
    words = [line.split()[-1] for line in log.splitlines() if "number_of_executed_units" in line]
    return words[-1] if words else "?"


def main() -> int:
    """Runs all targets, |jobs| at a time; prints one line each, and the log of a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    sources = sorted((ROOT / "tests/fuzz").glob("fuzz_*.c"))
    targets = [args.build.resolve() / source.stem for source in sources]
    failed = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        for name, status, log in pool.map(lambda t: run_target(t, args.seconds), targets):
            print(f"{name}: {'ok' if status == 0 else 'FAILED'}, {executions(log)} inputs")
            if status != 0:
                failed += 1
                print(log[-6000:])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
