# SPDX-License-Identifier: Apache-2.0
"""Commands about a mesh that runs: stop, watch, nf add, nf remove, subscribe, ..."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.cli.output import AsJson, dump, stdout, warn
from mesh.control import messages as m
from mesh.control.tool import ask, watch_events
from mesh.errors import ProcessError, SpecError, did_you_mean
from mesh.rundir import base_folder, running

__all__ = ["MeshName", "nf_app", "run_folder", "stop", "subscribe", "unsubscribe", "watch"]

CHANGE_S = 60.0
STOP_S = 60.0
MeshName = Annotated[
    str | None, typer.Argument(help="Name of the mesh; may be left out when one runs.")
]
OfMesh = Annotated[
    str | None, typer.Option("--mesh", help="Name of the mesh; may be left out when one runs.")
]
nf_app = typer.Typer(
    name="nf",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
)


def run_folder(name: str | None) -> Path:
    """Returns the run folder of a mesh that runs.

    Raises:
        ProcessError: none of this name, or several when there is no name.
    """
    names = running()
    if name is None and len(names) == 1:
        name = names[0]
    if name is None:
        text = f"several meshes run, name one: {', '.join(names)}" if names else "no mesh runs here"
        raise ProcessError(f"{text}{'' if names else '; start one with: nfmesh run'}")
    if name not in names:
        hint = did_you_mean(name, names) or (f" (running: {', '.join(names)})" if names else "")
        raise ProcessError(f"no mesh {name!r} runs here{hint}")
    return base_folder() / name


# ---- stop ---------------------------------------------------------------------------------------


def stop(
    name: MeshName = None,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for NFs.")] = False,
) -> None:
    """Ends a mesh: flows end, NFs give their totals, `nfmesh run` prints them.

    [bold]Examples[/bold]
      nfmesh stop
      nfmesh stop office --now
    """
    folder = run_folder(name)
    ask(folder, m.Stop(now=now))
    until = time.monotonic() + STOP_S
    while folder.name in running():
        if time.monotonic() > until:
            raise ProcessError(f"{folder.name!r} is still ending; try: nfmesh stop --now")
        time.sleep(0.05)


# ---- watch --------------------------------------------------------------------------------------


def watch(
    event: Annotated[str, typer.Argument(help="Published event; a node means all below it.")],
    mesh: OfMesh = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many.")] = None,
    as_json: AsJson = False,
) -> None:
    """Prints events that NFs publish, or raise in Python, until the mesh ends or Ctrl-C.

    [bold]Examples[/bold]
      nfmesh watch syn_scan.port_scan
      nfmesh watch syn_scan --json | jq .fields
    """
    folder = run_folder(mesh)
    _check_published(event, ask(folder, m.Status())["publishes"])
    left = count
    try:
        for found in watch_events(folder, [event]):
            if "missed" in found:
                warn(f"{found['missed']} events of {found['nf']} were too many to show")
            elif found:
                _print_event(found, as_json)
                left = None if left is None else left - 1
            elif folder.name not in running():
                return
            if left == 0:
                return
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _check_published(event: str, publishes: Mapping[str, list[str]]) -> None:
    if not any(name == event or name.startswith(f"{event}.") for name in publishes):
        known = ", ".join(publishes) or "none"
        hint = did_you_mean(event, publishes) or f" (published: {known})"
        raise SpecError("", f"no NF of this mesh publishes or raises {event!r}{hint}")


def _print_event(found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        dump(dict(found))
    else:
        fields = "  ".join(f"{key}={value}" for key, value in found["fields"].items())
        sys.stdout.write(f"{found['ts_ns'] / 1e9:.6f}  {found['event']}  {fields}\n")
    sys.stdout.flush()  # a pipe sees each event when it happens


# ---- changes ------------------------------------------------------------------------------------


@nf_app.command("add")
def add(
    use: Annotated[
        str, typer.Argument(help="Installed name, file.py:Class or package.module:Class.")
    ],
    where: Annotated[str | None, typer.Option(help="Filter that narrows what it hears.")] = None,
    name: Annotated[str | None, typer.Option(help="Of this instance.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Option of the NF: KEY=VALUE; lists as JSON.")
    ] = None,
    cores: Annotated[list[int] | None, typer.Option("--core", help="Core to pin it to.")] = None,
    mesh: OfMesh = None,
    as_json: AsJson = False,
) -> None:
    """Adds an NF while packets flow, and says from which packet on it hears.

    [bold]Examples[/bold]
      nfmesh nf add dns_log
      nfmesh nf add syn_scan --name strict --set limit=5 --where "tcp port 22"
    """
    entry: dict[str, Any] = {"use": str(Path(use).absolute()) if ".py" in use else use}
    for key, value in (("where", where), ("name", name), ("cores", cores)):
        if value is not None:
            entry[key] = value
    entry["config"] = dict(_setting(text) for text in settings or ())
    result = ask(run_folder(mesh), m.NfAdd(entry=entry), CHANGE_S)
    _tell(result, as_json, f"{result['nf']} runs as process {result['pid']}")


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (equals and key):
        raise SpecError(f"--set {text}", "write it as KEY=VALUE")
    return key, value


@nf_app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="The NF.")],
    mesh: OfMesh = None,
    as_json: AsJson = False,
) -> None:
    """Removes an NF after it has handled all that it was sent, and prints what it found.

    [bold]Example[/bold]
      nfmesh nf remove dns_log
    """
    result = ask(run_folder(mesh), m.NfRemove(nf=name), CHANGE_S)
    _tell(result, as_json, f"{name} has left")
    report = result.get("report")
    if not as_json and report and report.get("results"):
        stdout().print_json(json.dumps(report["results"], default=str))


def subscribe(
    nf: Annotated[str, typer.Argument(help="The NF.")],
    events: Annotated[list[str] | None, typer.Argument(help="Events that it hears too.")] = None,
    where: Annotated[str | None, typer.Option(help="New filter; '' for none.")] = None,
    subscription: Annotated[
        str | None, typer.Option(help="Which of its subscriptions, when it has several.")
    ] = None,
    mesh: OfMesh = None,
    as_json: AsJson = False,
) -> None:
    """Lets an NF hear more events, or others by a new filter, while packets flow.

    [bold]Examples[/bold]
      nfmesh subscribe flow_counter udp.datagram
      nfmesh subscribe http_log --where "net 10.0.0.0/8"
    """
    body = m.Subscribe(nf=nf, events=events or [], subscription=subscription, where=where)
    _tell(ask(run_folder(mesh), body, CHANGE_S), as_json, f"{nf} hears it")


def unsubscribe(
    nf: Annotated[str, typer.Argument(help="The NF.")],
    events: Annotated[
        list[str] | None, typer.Argument(help="Events that it hears no more; default all.")
    ] = None,
    subscription: Annotated[
        str | None, typer.Option(help="Which of its subscriptions, when it has several.")
    ] = None,
    mesh: OfMesh = None,
    as_json: AsJson = False,
) -> None:
    """Lets an NF hear fewer events while packets flow.

    [bold]Examples[/bold]
      nfmesh unsubscribe flow_counter udp.datagram
      nfmesh unsubscribe flow_counter
    """
    body = m.Unsubscribe(nf=nf, events=events or [], subscription=subscription)
    _tell(ask(run_folder(mesh), body, CHANGE_S), as_json, f"{nf} hears it no more")


def _tell(result: Mapping[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        dump(dict(result))
        return
    at = result.get("effective_from")
    stdout().print(f"{text}, from packet {at} on" if at is not None else text, markup=False)
