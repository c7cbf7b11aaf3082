# SPDX-License-Identifier: Apache-2.0
"""Commands that only show: events, modules, NFs, plans, the schema of spec files."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from mesh.cli.output import AsJson, dump, stdout, table
from mesh.errors import MeshError
from mesh.events import Catalogue, EventType
from mesh.module import ModuleInfo
from mesh.nf import NF, Option
from mesh.options import bounds_of
from mesh.registry import Registry
from mesh.runner import catalogue

if TYPE_CHECKING:
    from rich.tree import Tree

__all__ = ["events", "modules", "nfs", "plan", "schema"]


def events(
    name: Annotated[str, typer.Argument(help="An event: it and everything below it.")] = "",
    as_json: AsJson = False,
) -> None:
    """Shows the event types as a tree; of one event also the fields, inherited ones included.

    A subscriber of a node hears everything below it. Fields are columns of
    a batch and words of filters.

    [bold]Examples[/bold]
      nfmesh events
      nfmesh events tcp.data
      nfmesh events http --json
    """
    found = catalogue()
    if as_json:
        for event in found.subtree(name) if name else found:
            dump(_event_json(found, event))
        return
    console = stdout()
    if not name:
        for root in found.roots():
            console.print(_tree(found, root))
        return
    console.print(_tree(found, found[name]))
    rows = [
        {"field": f.name, "kind": f.kind.name.lower(), "unit": f.unit, "what": f.doc}
        for f in found.fields(name).values()
    ]
    if rows:
        console.print()
        console.print(table("fields", rows, ("field", "kind", "unit", "what")))


def _tree(found: Catalogue, event: EventType) -> Tree:
    from rich.markup import escape
    from rich.tree import Tree

    origin = f" [dim]({escape(event.origin)})[/dim]" if event.origin not in ("", "core") else ""
    tree = Tree(f"[bold]{escape(event.name)}[/bold]  {escape(event.doc)}{origin}")
    for child in found.children(event.name):
        tree.children.append(_tree(found, child))
    return tree


def _event_json(found: Catalogue, event: EventType) -> dict[str, Any]:
    return {
        "name": event.name,
        "parent": event.parent,
        "origin": event.origin,
        "doc": event.doc,
        "fields": [
            {"name": f.name, "kind": f.kind.name.lower(), "unit": f.unit, "doc": f.doc}
            for f in found.fields(event.name).values()
        ],
    }


def modules(
    name: Annotated[str, typer.Argument(help="One module, with its limits and counters.")] = "",
    as_json: AsJson = False,
) -> None:
    """Shows the installed stack modules: what they need, raise, and may be limited to.

    [bold]Examples[/bold]
      nfmesh modules
      nfmesh modules tcp_stream
    """
    registry = Registry.installed()
    infos = (registry.module(name),) if name else registry.modules()
    infos = tuple(sorted(infos, key=lambda info: (info.phase, info.name)))
    if as_json:
        for info in infos:
            dump(_module_json(info))
        return
    console = stdout()
    rows = [
        {
            "module": info.name,
            "phase": info.phase.name.lower(),
            "needs": ", ".join(info.needs),
            "emits": ", ".join(event.name for event in info.emits),
            "what": info.summary,
        }
        for info in infos
    ]
    console.print(table("", rows, ("module", "phase", "what", "needs", *(["emits"] * bool(name)))))
    if name:
        limits = [_module_json(infos[0])["limits"]][0]
        if limits:
            console.print(table("\nlimits", limits))
        console.print(f"\ncounters: {', '.join(infos[0].counters) or 'none'}", markup=False)


def _module_json(info: ModuleInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "summary": info.summary,
        "phase": info.phase.name.lower(),
        "needs": list(info.needs),
        "emits": [event.name for event in info.emits],
        "limits": [
            {"name": x.name, "default": x.value, "min": x.min, "max": x.max, "doc": x.doc}
            for x in info.limits.values()
        ],
        "counters": list(info.counters),
        "flow_size": info.descriptor.flow_size,
    }


def nfs(
    name: Annotated[str, typer.Argument(help="One NF, with its options.")] = "",
    as_json: AsJson = False,
) -> None:
    """Shows the installed network functions: what they hear, publish, and can be set to.

    [bold]Examples[/bold]
      nfmesh nfs
      nfmesh nfs syn_scan
      nfmesh nfs ./mine.py:Mine
    """
    registry = Registry.installed()
    rows = [_nf_json(registry, each) for each in ([name] if name else registry.nf_names())]
    if as_json:
        for row in rows:
            dump(row)
        return
    console = stdout()
    shown = [
        {
            "nf": row["name"],
            "what": row["summary"] or row["error"],
            "hears": ", ".join(event for sub in row["subscriptions"] for event in sub["events"]),
            "publishes": ", ".join(row["publishes"]),
        }
        for row in rows
    ]
    console.print(table("", shown))
    if name and rows[0]["options"]:
        console.print(table(f"\noptions: --set {rows[0]['name']}.NAME=VALUE", rows[0]["options"]))


def _nf_json(registry: Registry, name: str) -> dict[str, Any]:
    try:
        cls = registry.nf(name)
    except MeshError as error:
        if name not in registry.nfs:
            raise
        empty: dict[str, Any] = {"subscriptions": [], "publishes": [], "options": []}
        return {"name": name, "summary": "", "error": str(error), **empty}
    return {"name": cls.name, "summary": _summary(cls), "error": None, **_nf_parts(cls)}


def _summary(cls: type[NF]) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]


def _nf_parts(cls: type[NF]) -> dict[str, Any]:
    return {
        "subscriptions": [
            {"name": sub.name, "events": list(sub.events), "where": sub.where, "mode": sub.mode}
            for sub in cls.subscriptions()
        ],
        "publishes": [event.event_name for event in cls.publishes],
        "options": [_option_json(option) for option in cls.options()],
    }


def _option_json(option: Option) -> dict[str, Any]:
    bounds = bounds_of(option)
    return {
        "name": option.name,
        "type": type_text(option.type),
        "default": option.default,
        "min": None if bounds is None else bounds.low,
        "max": None if bounds is None else bounds.high,
        "doc": option.doc,
    }


def type_text(annotation: Any) -> str:
    """Writes the type of an option for people.

    >>> type_text(Annotated[int, "1 to 9"]), type_text(Literal["json", "csv"] | None)
    ('int', 'json|csv')
    """
    inner = [arg for arg in get_args(annotation) if arg is not type(None)]
    if get_origin(annotation) is Annotated:
        return type_text(inner[0])
    if get_origin(annotation) is Literal:
        return "|".join(map(str, inner))
    if get_origin(annotation) in (Union, UnionType):
        return "|".join(map(type_text, inner))
    return getattr(annotation, "__name__", str(annotation))


def plan(
    spec: Annotated[Path, typer.Argument(help="Spec file (YAML); see nfmesh schema.")],
    as_json: AsJson = False,
) -> None:
    """Draws the composed stack of a spec: which modules run, and who hears what. Runs nothing.

    [bold]Examples[/bold]
      nfmesh plan mesh.yaml
      nfmesh plan mesh.yaml --json | jq .modules
    """
    from mesh.kube.manifests import local_entries, read_manifests
    from mesh.spec import load, parse
    from mesh.spec_plan import plan_of

    manifests = read_manifests(spec)
    said = load(spec) if manifests is None else parse({"nfs": local_entries(manifests)})
    made = plan_of(said, Registry.installed())
    if as_json:
        dump(made.to_json())
    else:
        stdout().print(made.render(), markup=False, end="")


def schema(as_json: AsJson = True) -> None:
    """Prints the JSON schema of spec files, for editors and checks.

    [bold]Example[/bold]
      nfmesh schema > nfmesh.schema.json
    """
    from mesh.spec import json_schema

    dump(json_schema())
