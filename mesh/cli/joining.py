# SPDX-License-Identifier: Apache-2.0
"""`nfmesh nf`: an NF in a container of its own, or a command about the NFs of a mesh."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.meshes import nf_app as app
from mesh.errors import SpecError
from mesh.rundir import base_folder

if TYPE_CHECKING:
    from mesh.joining import Joining

__all__ = ["HealthPort", "app"]

NF_HANGS_S = 60.0
"""An NF that is silent for so long is to be started again; the stack lets it go earlier."""
HealthPort = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="HTTP: /healthz, /readyz, /metrics; 0 any, none: off."),
]


@app.callback(invoke_without_command=True)
def nf(
    context: typer.Context,
    name: Annotated[str | None, typer.Option(help="Of the NF in the stack's plan.")] = None,
    use: Annotated[
        str | None, typer.Option(help="Its class, when it is not an installed one of the plan.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The stack's run folder.")] = None,
    token_file: Annotated[Path, typer.Option(help="File with the token of this NF.")] = Path(
        "/etc/nfmesh/token"
    ),
    health_port: HealthPort = None,
) -> None:
    """Adds and removes NFs of a mesh while packets flow.

    Without a command it is one NF: the process joins the stack whose run folder it sees, and the
    next one when that is gone. It needs no privilege, and writes nothing but what it was granted.
    SIGTERM ends it in order.

    [bold]Examples[/bold]
      nfmesh nf add dns_log
      nfmesh nf --name scan --use ./mine.py:Mine --run-dir /var/run/nfmesh/edge
    """
    if context.invoked_subcommand is not None:
        return
    if name is None:
        raise SpecError("--name", "say which NF this is, or what to do: nfmesh nf --help")
    from mesh.confine import give_up_privileges
    from mesh.health import HealthServer
    from mesh.joining import Joining, Member

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):  # the container's log: seen line by line
        sys.stdout.reconfigure(line_buffering=True)
    give_up_privileges()
    joining = Joining(Member.of(name, run_dir or base_folder() / "stack", token_file, use))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, joining.end)
    server = None
    if health_port is not None:
        cores = sorted(os.sched_getaffinity(0))
        server = HealthServer(
            health_port, partial(_wrong, joining), lambda: joining.missing, joining.status, cores
        )
    try:
        status = joining.run()
    finally:
        if server is not None:
            server.close()
    raise typer.Exit(status)


def _wrong(joining: Joining) -> str:
    silent = joining.silent_s
    return f"no sign of life for {silent:.0f} s" if silent > NF_HANGS_S else ""
