# SPDX-License-Identifier: Apache-2.0
"""`nfmesh apply` and `nfmesh delete`: what a file says is made to run, or to end."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.cli.meshes import CHANGE_S, OfMesh, run_folder
from mesh.cli.output import AsJson, dump, stdout
from mesh.cli.runtimes import Context, Kubeconfig, Namespace, On, Where, runtime_at
from mesh.control import messages as m
from mesh.control.composing import named
from mesh.control.desired import with_files
from mesh.control.tool import ask
from mesh.errors import SpecError
from mesh.kube.manifests import read_manifests
from mesh.registry import Registry
from mesh.runtime.interface import Change
from mesh.spec import Spec, load
from mesh.spec_plan import plan_of

__all__ = ["apply", "delete"]

STEPS = 3
"""An NF that is replaced leaves, its memory goes, the new one joins."""
Objects = Annotated[
    Path | None,
    typer.Option("--file", "-f", help="NetworkFunctions and ServiceChains, as kubectl takes them."),
]


def apply(
    file: Annotated[
        Path | None, typer.Argument(help="Spec file (YAML or JSON); see nfmesh schema.")
    ] = None,
    objects: Objects = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")
    ] = False,
    mesh: OfMesh = None,
    on: On = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = "",
    as_json: AsJson = False,
) -> None:
    """Makes a mesh that runs equal to a spec file, or runs what a file of custom resources names.

    A spec: NFs join and leave; what one hears changes in place; one that differs in anything else
    is replaced. What is equal is not touched. Ports, sizes and the like cannot change while packets
    flow: leave them out, or as they are.

    Custom resources: what the file names is added or changed, all else stays. The same file goes to
    a mesh of this host or, with --on kubernetes, to a cluster in which the chart is installed. On a
    host, what only a cluster has (image, replicas, nodes) is left out; `cores` is how many an NF
    has for itself.

    [bold]Examples[/bold]
      nfmesh apply mesh.yaml
      nfmesh apply -f nf.yaml --dry-run
      nfmesh apply -f nf.yaml --on kubernetes --namespace edge
    """
    path = file or objects
    if path is None or (file is not None and objects is not None):
        raise SpecError("", "name one file: nfmesh apply mesh.yaml, or nfmesh apply -f nf.yaml")
    where = Where(on, mesh, context, kubeconfig, namespace)
    manifests = read_manifests(path)
    if manifests is not None:
        runtime = runtime_at(where)
        changes = runtime.plan(manifests) if dry_run else runtime.start(manifests)
        _print(changes, " (dry run)" if dry_run else "", as_json)
        return
    if where.is_cluster:
        raise SpecError(str(path), "is a spec; a cluster takes NetworkFunctions and ServiceChains")
    spec = _checked(path)
    body = m.Apply(spec=spec.model_dump(mode="json", exclude_unset=True), dry_run=dry_run)
    found = ask(run_folder(mesh), body, STEPS * CHANGE_S)
    if as_json:
        dump(found)
    else:
        stdout().print("\n".join(_lines(found)), markup=False)


def delete(
    objects: Objects = None,
    mesh: OfMesh = None,
    on: On = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = "",
    as_json: AsJson = False,
) -> None:
    """Takes away what a file of custom resources names, once it has handled what it was sent.

    [bold]Examples[/bold]
      nfmesh delete -f nf.yaml
      nfmesh delete -f nf.yaml --on kubernetes
    """
    manifests = None if objects is None else read_manifests(objects)
    if manifests is None:
        raise SpecError("", "name a file of custom resources: nfmesh delete -f nf.yaml")
    runtime = runtime_at(Where(on, mesh, context, kubeconfig, namespace))
    _print(runtime.stop(manifests), "", as_json)


def _print(changes: Iterable[Change], how: str, as_json: bool) -> None:
    if as_json:
        dump([asdict(each) for each in changes])
        return
    for each in changes:
        stdout().print(f"{each}{how}", markup=False)


def _checked(file: Path) -> Spec:
    """Reads a spec and composes it, so that what is wrong is found before anything changes."""
    registry = Registry.installed()
    spec = named(with_files(load(file), file.parent), registry)
    plan_of(spec, registry)
    ports = [port.with_files(os.path.abspath) for port in spec.ports]
    return spec.model_copy(update={"ports": ports}) if ports else spec


def _lines(found: Mapping[str, Any]) -> list[str]:
    at = found.get("effective_from")
    point = f" from packet {at} on" if at is not None else ""
    lines = [
        f"{text}{point}: {', '.join(found[key])}"
        for key, text in (
            ("added", "hears"),
            ("removed", "hears nothing"),
            ("changed", "hears something else"),
            ("others", "changed"),
        )
        if found.get(key)
    ]
    if found.get("replaced"):
        names = ", ".join(found["replaced"])
        lines.append(f"left at packet {at} and began anew at {found['replaced_from']}: {names}")
    return lines or ["nothing to change"]
