# SPDX-License-Identifier: Apache-2.0
"""`python -m bench NAME [--json] [--runs N]`: prints the rows of one bench, or of all."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from bench.instructions import instructions
from bench.measure import BenchError, Row, build, say
from bench.table import BENCHES, machine

ALL = {**BENCHES, "instructions": instructions}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nfmesh bench", description=__doc__)
    parser.add_argument("name", choices=[*ALL, "all"])
    parser.add_argument("--json", action="store_true", help="a JSON line per row")
    parser.add_argument("--runs", type=int, default=5, help="runs of each program (default 5)")
    return parser.parse_args()


def show(rows: Iterable[Row], as_json: bool) -> None:
    for row in rows:
        if as_json:
            print(row.as_json(), flush=True)
            continue
        spread = f"{row.min:g} to {row.max:g}" if row.n > 1 else ""
        ratio = "" if row.ratio is None else f"  {row.ratio:g}x {row.against}"
        line = f"{row.bench:12} {row.case:18} {row.value:>9g} {row.unit:28} {spread:22}{ratio}"
        print(line.rstrip(), flush=True)


def main() -> int:
    wanted = arguments()
    names = list(ALL) if wanted.name == "all" else [wanted.name]
    say("building")
    try:
        build()
        say(f"{machine()}, one core, {wanted.runs} runs: medians, least to most")
        for name in names:
            show(ALL[name](wanted.runs), wanted.json)
    except BenchError as error:
        say(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
