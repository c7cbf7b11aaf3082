# SPDX-License-Identifier: Apache-2.0
"""All commands of `nfmesh`, as one Typer application.

A command is loaded when it is asked for; what is listed of the others is said here.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from mesh.cli.output import accept_all_text, complain, explain
from mesh.errors import MeshError

if TYPE_CHECKING:
    from mesh.forks import ForkServer

__all__ = ["COMMANDS", "app", "load", "run"]

COMMANDS = {
    "run": (
        "mesh.cli.capture:run",
        "Runs NFs over a capture or between interfaces, and prints what they found.",
    ),
    "flows": (
        "mesh.cli.flows:flows",
        "Prints one line per connection, in order of its first packet.",
    ),
    "events": (
        "mesh.cli.show:events",
        "Shows the event types as a tree; of one event also the fields, inherited ones included.",
    ),
    "modules": (
        "mesh.cli.show:modules",
        "Shows the installed stack modules: what they need, raise, and may be limited to.",
    ),
    "nfs": (
        "mesh.cli.show:nfs",
        "Shows the installed network functions: what they hear, publish, and can be set to.",
    ),
    "plan": (
        "mesh.cli.show:plan",
        "Draws the composed stack of a spec: which modules run, and who hears what. Runs nothing.",
    ),
    "schema": (
        "mesh.cli.show:schema",
        "Prints the JSON schema of spec files, for editors and checks.",
    ),
    "status": (
        "mesh.cli.status:status",
        "Shows a mesh that runs: processes, memory, rings, counters; or the NFs of a cluster.",
    ),
    "stop": (
        "mesh.cli.meshes:stop",
        "Ends a mesh: flows end, NFs give their totals, `nfmesh run` prints them.",
    ),
    "stack": (
        "mesh.cli.pods:stack",
        "Runs the stack of a node, which NFs of other containers join: nfmesh nf.",
    ),
    "keys": (
        "mesh.cli.pods:keys",
        "Makes keys for control over the network, readable for this user alone.",
    ),
    "watch": (
        "mesh.cli.meshes:watch",
        "Prints events that NFs publish, or raise in Python, until the mesh ends or Ctrl-C.",
    ),
    "capture": (
        "mesh.cli.record:capture",
        "Records packets of a mesh while they flow, until Ctrl-C or the mesh ends.",
    ),
    "apply": (
        "mesh.cli.apply:apply",
        "Makes a mesh that runs equal to a spec file, or runs what a file of custom resources "
        "names.",
    ),
    "delete": (
        "mesh.cli.apply:delete",
        "Takes away what a file of custom resources names, once it has handled what it was sent.",
    ),
    "subscribe": (
        "mesh.cli.meshes:subscribe",
        "Lets an NF hear more events, or others by a new filter, while packets flow.",
    ),
    "unsubscribe": (
        "mesh.cli.meshes:unsubscribe",
        "Lets an NF hear fewer events while packets flow.",
    ),
    "operator": (
        "mesh.cli.operator:operator",
        "Keeps the custom resources of a release and what runs on its nodes equal.",
    ),
    "doctor": (
        "mesh.cli.doctor:doctor",
        "Says what this machine offers to a mesh, and the remedy for what is missing.",
    ),
    "bench": (
        "mesh.cli.bench:bench",
        "Measures: medians, spread, and ratios to other programs that are installed here.",
    ),
    "nf": ("mesh.cli.joining:app", "Adds and removes NFs of a mesh while packets flow."),
}
"""Name → where it is, a function or a Typer application, and the first sentence of its help."""

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


class _Commands(TyperGroup):
    """Loads the command that was named; the others are names with a sentence each."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else load(name), rest


app = typer.Typer(
    cls=_Commands,
    help=_HELP,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=True,
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

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


def _later() -> None:
    """Stands for a command that is not loaded."""


for _name, (_, _sentence) in COMMANDS.items():
    app.command(_name, help=_sentence)(_later)


def load(name: str) -> Any:
    """Returns a command with its options, and its own commands if it has some."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        function, found = found, typer.Typer(add_completion=False, rich_markup_mode="rich")
        found.command(name)(function)
    return typer.main.get_command(found)


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
