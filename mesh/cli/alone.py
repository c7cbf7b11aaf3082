# SPDX-License-Identifier: Apache-2.0
"""The one command of an NF's container, without all the others."""

from __future__ import annotations

import sys

import typer

from mesh.cli.joining import nf
from mesh.errors import MeshError

__all__ = ["run"]


def run() -> None:
    """Runs `nfmesh nf --name ...`."""
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.callback(invoke_without_command=True)(nf)
    try:
        app(sys.argv[2:], prog_name="nfmesh nf")
    except (MeshError, OSError) as error:
        sys.stderr.write(f"nfmesh: {' '.join(str(error).split())}\n")
        sys.exit(2)
