# SPDX-License-Identifier: Apache-2.0
"""`nfmesh status`: all that is known of a mesh that runs, the numbers that its metrics have too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mesh.cli.capture import heading
from mesh.cli.meshes import MeshName, run_folder
from mesh.cli.output import AsJson, dump, stdout, table
from mesh.control import messages as m
from mesh.control.keys import ClientKeys
from mesh.control.remote import Remote
from mesh.control.tool import ask
from mesh.errors import SpecError

__all__ = ["status"]


def status(
    name: MeshName = None,
    connect: Annotated[
        str | None, typer.Option(help="Of a stack elsewhere: tcp://HOST:PORT.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(help="Folder with client.key and server.pub for that.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Shows a mesh that runs: processes, memory, rings, counters.

    [bold]Examples[/bold]
      nfmesh status
      nfmesh status office --json | jq .rings
      nfmesh status --connect tcp://10.0.0.7:7600 --keys ./keys
    """
    found = _near(name) if connect is None else _afar(connect, keys)
    if as_json:
        dump(found)
        return
    console = stdout()
    heading(console, f"{found['mesh']}: {found['state']}, revision {found['revision']}")
    console.print(table("", [_process_row(row) for row in found["processes"]]))
    _print_conditions(console, found["conditions"])
    _print_joined(console, found["attachments"])
    _print_work(console, found)
    _print_objects(console, found["objects"])
    if found["pinning"]:
        console.print(f"cores are kept by {found['pinning']}", markup=False)
    if found["metrics"]:
        console.print(f"metrics: {found['metrics']}", markup=False)
    for notice in found["notices"]:
        console.print(f"notice: {notice}", markup=False)


def _near(name: str | None) -> dict[str, Any]:
    folder = run_folder(name)
    return {"mesh": folder.name, **ask(folder, m.Status())}


def _afar(address: str, keys: Path | None) -> dict[str, Any]:
    if keys is None:
        raise SpecError("--keys", "name the folder with client.key and server.pub")
    with Remote(address, ClientKeys.read(keys)) as stack:
        return {"mesh": address, **stack.status()}


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
        "last": row.get("failed") or row.get("last_exit") or None,
    }


def _list(cores: Any) -> str | None:
    return ",".join(map(str, cores)) if cores else None


def _print_conditions(console: Console, found: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    """Prints what is said of each NF as of a custom resource: whether it is ready, and why not."""
    if not found:
        return
    heading(console, "conditions")
    rows = []
    for name, conditions in found.items():
        by_type = {each["type"]: each for each in conditions}
        ready = by_type["Ready"]
        rows.append(
            {
                "nf": name,
                "ready": ready["status"],
                "degraded": by_type["Degraded"]["status"],
                "reason": ready["reason"],
                "message": ready["message"],
            }
        )
    console.print(table("", rows))


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
    _print_rows(console, "network functions", nfs, [*(nfs or [{}])[0]])
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
