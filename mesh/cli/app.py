# SPDX-License-Identifier: Apache-2.0
"""All commands of `nfmesh`, as one Typer application."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from mesh.cli import (
    apply,
    bench,
    capture,
    doctor,
    flows,
    joining,
    meshes,
    operator,
    pods,
    record,
    show,
    status,
)
from mesh.cli.output import accept_all_text, complain, explain
from mesh.errors import MeshError
from mesh.forks import ForkServer

__all__ = ["app", "run"]

_HELP = """Network functions beside one consolidated protocol stack.

[bold]What is in a capture[/bold]
  nfmesh flows capture.pcap
  nfmesh run --pcap capture.pcap --nf http_log --nf dns_log

[bold]What could be heard, and by whom[/bold]
  nfmesh events http · nfmesh modules · nfmesh nfs

[bold]What would run, and running it[/bold]
  nfmesh plan mesh.yaml · nfmesh run mesh.yaml --name office

[bold]In line, between two interfaces[/bold]
  sudo nfmesh run --in eth0 --out eth1 --nf http_log

[bold]While packets flow[/bold]
  nfmesh status · nfmesh watch syn_scan.port_scan · nfmesh nf add dns_log
  nfmesh apply mesh.yaml · nfmesh apply -f nf.yaml · nfmesh stop
  nfmesh capture --at eth0 -w eth0.pcapng

Each command explains itself: nfmesh run --help
"""

app = typer.Typer(
    help=_HELP,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=True,
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"nfmesh {version('nfmesh')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None: ...


app.command("run")(capture.run)
app.command("flows")(flows.flows)
app.command("events")(show.events)
app.command("modules")(show.modules)
app.command("nfs")(show.nfs)
app.command("plan")(show.plan)
app.command("schema")(show.schema)
app.command("status")(status.status)
app.command("stop")(meshes.stop)
app.command("stack")(pods.stack)
app.command("keys")(pods.keys)
meshes.nf_app.callback(invoke_without_command=True)(joining.nf)
app.command("watch")(meshes.watch)
app.command("capture")(record.capture)
app.add_typer(meshes.nf_app, name="nf")
app.command("apply")(apply.apply)
app.command("delete")(apply.delete)
app.command("subscribe")(meshes.subscribe)
app.command("unsubscribe")(meshes.unsubscribe)
app.command("operator")(operator.operator)
app.command("doctor")(doctor.doctor)
app.command("bench")(bench.bench)


def run(forks: ForkServer | None) -> None:
    """Runs the command line; every error that nfmesh foresees is one line.

    Args:
        forks: for a command that starts processes.
    """
    accept_all_text()
    try:
        app(prog_name="nfmesh", obj=forks)
    except (MeshError, OSError) as error:
        complain(explain(error))
        sys.exit(2)
