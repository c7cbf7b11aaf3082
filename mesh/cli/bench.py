# SPDX-License-Identifier: Apache-2.0
"""`nfmesh bench`: hands over to the benchmarks of a checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from mesh.cli.output import AsJson
from mesh.errors import SpecError

__all__ = ["bench"]


def bench(
    name: Annotated[str, typer.Argument(help="A benchmark, or all.")] = "all",
    runs: Annotated[int, typer.Option(min=1, help="Runs of each program.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Measures: medians, spread, and ratios to other programs that are installed here.

    The benchmarks are part of a checkout, not of the installed package: run this inside of one.

    [bold]Examples[/bold]
      nfmesh bench track
      nfmesh bench all --json > today.jsonl
    """
    command = [sys.executable, "-m", "bench", name, "--runs", str(runs)]
    command += ["--json"] if as_json else []
    raise typer.Exit(subprocess.run(command, cwd=checkout(), check=False).returncode)


def checkout() -> Path:
    """Returns the folder of the checkout around the working directory, or around this file."""
    here = Path.cwd()
    for folder in (here, *here.parents, *Path(__file__).resolve().parents):
        if (folder / "bench" / "__main__.py").is_file() and (folder / "native").is_dir():
            return folder
    raise SpecError("bench", "the benchmarks are not here; run this inside a checkout of nfmesh")
