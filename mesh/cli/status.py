# SPDX-License-Identifier: Apache-2.0
"""`nfmesh status`: all that is known of a mesh that runs, the numbers that its metrics have too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli.meshes import MeshName, run_folder
from mesh.cli.output import AsJson, dump, heading, stdout, table
from mesh.cli.runtimes import Context, Kubeconfig, Namespace, On, Where, runtime_at
from mesh.conditions import seconds_of
from mesh.control import messages as m
from mesh.control.tool import ask
from mesh.errors import SpecError
from mesh.runtime.local import ANSWER_S, LocalRuntime

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["status"]

Ask = Callable[[m.Body, float], dict[str, Any]]


def status(
    name: MeshName = None,
    events: Annotated[
        bool, typer.Option("--events", help="What happened to NFs, instead of how they are.")
    ] = False,
    connect: Annotated[
        str | None, typer.Option(help="Of a stack elsewhere: tcp://HOST:PORT.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(help="Folder with client.key and server.pub for that.")
    ] = None,
    on: On = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = "",
    as_json: AsJson = False,
) -> None:
    """Shows a mesh that runs: processes, memory, rings, counters; or the NFs of a cluster.

    [bold]Examples[/bold]
      nfmesh status
      nfmesh status office --json | jq .rings
      nfmesh status --events
      nfmesh status --on kubernetes --namespace edge
      nfmesh status --connect tcp://10.0.0.7:7600 --keys ./keys
    """
    where = Where(on, name, context, kubeconfig, namespace)
    if where.is_cluster:
        runtime = runtime_at(where)
        show = _print_events if events else _print_functions
        show(runtime.events() if events else runtime.status(), as_json)
        return
    with ExitStack() as stack:
        mesh, asks = _near(name) if connect is None else _afar(connect, keys, stack)
        runtime = LocalRuntime(asks)
        if events:
            _print_events(runtime.events(), as_json)
            return
        functions = runtime.status()
        found = {"mesh": mesh, **asks(m.Status(), ANSWER_S), "functions": functions}
    if as_json:
        dump(found)
    else:
        _print_mesh(found)


def _print_mesh(found: Mapping[str, Any]) -> None:
    console = stdout()
    heading(console, f"{found['mesh']}: {found['state']}, revision {found['revision']}")
    console.print(table("", [_process_row(row) for row in found["processes"]]))
    if found["functions"]:
        heading(console, "network functions")
        _print_functions(found["functions"], False)
    _print_joined(console, found["attachments"])
    _print_work(console, found)
    _print_objects(console, found["objects"])
    if found["pinning"]:
        console.print(f"cores are kept by {found['pinning']}", markup=False)
    if found["metrics"]:
        console.print(f"metrics: {found['metrics']}", markup=False)
    for notice in found["notices"]:
        console.print(f"notice: {notice}", markup=False)


def _near(name: str | None) -> tuple[str, Ask]:
    folder = run_folder(name)
    return folder.name, partial(ask, folder)


def _afar(address: str, keys: Path | None, stack: ExitStack) -> tuple[str, Ask]:
    if keys is None:
        raise SpecError("--keys", "name the folder with client.key and server.pub")
    from mesh.control.keys import ClientKeys
    from mesh.control.remote import Remote

    return address, stack.enter_context(Remote(address, ClientKeys.read(keys))).ask


def _print_functions(found: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Prints network functions as `kubectl get networkfunctions -o wide` does."""
    if as_json:
        dump(found)
        return
    if not found:
        stdout().print("no network functions")
        return
    from mesh.kube.crd import row_of

    rows = [
        {column.lower(): value for column, value in row_of("networkfunctions", each).items()}
        for each in found
    ]
    for row in rows:
        row["age"] = _age(row["age"])
    stdout().print(table("", rows))


def _print_events(found: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Prints events as `kubectl get events` does."""
    if as_json:
        dump(found)
        return
    rows = [
        {
            "last seen": _age(each.get("lastTimestamp")),
            "type": each["type"],
            "reason": each["reason"],
            "object": "{kind}/{name}".format(**each["involvedObject"]).lower(),
            "count": each.get("count") or 1,
            "message": each["message"],
        }
        for each in found
    ]
    stdout().print(table("", rows) if rows else "no events")


def _age(stamp: str | None) -> str | None:
    """Returns how long ago something was: 40s, 5m, 3h, 2d."""
    if not stamp:
        return None
    age = max(0, int(time.time() - seconds_of(stamp)))
    for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60)):
        if age >= 2 * seconds:
            return f"{age // seconds}{unit}"
    return f"{age}s"


def _process_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "process": row["name"],
        "pid": row.get("pid") or None,
        "user": row.get("uid"),
        "state": row.get("state"),
        "phase": row.get("phase"),
        "asked": _list(row.get("cores_asked")),
        "cores": _list(row.get("cores")),
        "restarts": row.get("restarts", 0),
        "MiB": round(row.get("memory_bytes", 0) / (1 << 20), 1),
        "last": _hangs(row) or row.get("failed") or row.get("last_exit") or None,
    }


def _hangs(row: Mapping[str, Any]) -> str:
    """Says of a process that hangs for how long it has, and when that is too long."""
    if row.get("state") != "hangs":
        return ""
    silent, patience = row["silent_s"], row["patience_s"]
    return f"has not answered for {silent:.0f} s; it is ended after {patience:g} s"


def _list(cores: Any) -> str | None:
    return ",".join(map(str, cores)) if cores else None


def _print_joined(console: Console, found: Mapping[str, Any]) -> None:
    """Prints NFs that join from other containers."""
    if not found:
        return
    heading(console, "NFs that join")
    rows = [
        {
            "nf": name,
            "phase": row["phase"],
            "user": row["uid"],
            "cores": row["cpus_allowed_list"] or None,
            "lies on": ", ".join(sorted(set(row["backing"].values()))) or None,
            "restarts": row["restarts"],
            "error": row["error"] or None,
        }
        for name, row in found.items()
    ]
    console.print(table("", rows))


def _print_work(console: Console, found: Mapping[str, Any]) -> None:
    for name, worker in found["workers"].items():
        statistics = worker.get("statistics", {})
        heading(console, name)
        line = "  ".join(f"{key.replace('_', ' ')} {n:,}" for key, n in statistics.items())
        console.print(line, markup=False)
        counters = sorted(worker.get("counters", {}).items())
        _print_counters(console, "", counters)
        for port in worker.get("ports", ()):
            _print_counters(console, f"port {port['source']}: ", port["counters"].items())
            if port.get("warning"):
                console.print(f"port {port['source']}: {port['warning']}", markup=False)
    _print_rows(console, "stack", found["stack"], ("module", "phase", "flow_bytes", "needed_by"))
    _print_rows(console, "rings", found["rings"], [*(found["rings"] or [{}])[0]])
    nfs = [{"nf": name, **stats} for name, stats in found["nfs"].items() if stats]
    _print_rows(console, "handled by NFs", nfs, [*(nfs or [{}])[0]])
    names = ("nf", "subscription", "events", "where", "entries")
    _print_rows(console, "subscriptions", found["subscriptions"], names)
    _print_counters(console, "refused: ", found["refused"].items())


def _print_counters(console: Console, title: str, counters: Iterable[tuple[str, int]]) -> None:
    text = "  ".join(f"{key} {value:,}" for key, value in counters if value)
    if text:
        console.print(f"{title}{text}", markup=False)


def _print_rows(
    console: Console, title: str, rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> None:
    """Prints a table; what is no number or text in a row is written as words."""
    if not rows:
        return
    heading(console, title)
    console.print(table("", [{name: _flat(row.get(name)) for name in names} for row in rows]))


def _flat(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, Mapping):
        return "  ".join(f"{key} {n:,}" for key, n in value.items())
    return value


def _print_objects(console: Console, objects: list[Mapping[str, Any]]) -> None:
    if not objects:
        return
    heading(console, "memory")
    rows = [{"object": o["name"], "KiB": o["size"] >> 10, "lies on": o["backing"]} for o in objects]
    console.print(table("", rows))
