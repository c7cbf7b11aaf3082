# SPDX-License-Identifier: Apache-2.0
"""`nfmesh apply`: makes a mesh that runs equal to a spec file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.cli.meshes import CHANGE_S, OfMesh, run_folder
from mesh.cli.output import AsJson, dump, stdout
from mesh.control import messages as m
from mesh.control.composing import named
from mesh.control.desired import with_files
from mesh.control.tool import ask
from mesh.errors import SpecError
from mesh.kube.manifests import local_entries, read_manifests
from mesh.registry import Registry
from mesh.spec import Spec, load
from mesh.spec_plan import plan_of

__all__ = ["apply"]

STEPS = 3
"""An NF that is replaced leaves, its memory goes, the new one joins."""


def apply(
    file: Annotated[
        Path | None, typer.Argument(help="Spec file (YAML or JSON); see nfmesh schema.")
    ] = None,
    objects: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="The same, or NetworkFunctions and ServiceChains."),
    ] = None,
    mesh: OfMesh = None,
    as_json: AsJson = False,
) -> None:
    """Makes a mesh that runs equal to a spec file, and says what changed from which packet on.

    NFs join and leave; what one hears changes in place; one that differs in anything else is
    replaced. What is equal is not touched. Ports, sizes and the like cannot change while packets
    flow: leave them out, or as they are.

    A file of custom resources is what kubectl apply takes, too. What it names is added or changed,
    all else stays. What only a cluster has (image, replicas, nodes) is left out here; `cores` is
    how many an NF has for itself.

    [bold]Examples[/bold]
      nfmesh apply mesh.yaml
      nfmesh apply mesh.yaml --mesh office --json
      nfmesh apply -f nf.yaml
    """
    path = file or objects
    if path is None or (file is not None and objects is not None):
        raise SpecError("", "name one file: nfmesh apply mesh.yaml, or nfmesh apply -f nf.yaml")
    folder = run_folder(mesh)
    manifests = read_manifests(path)
    if manifests is not None:
        _put(folder, local_entries(manifests), as_json)
        return
    spec = _checked(path)
    body = m.Apply(spec=spec.model_dump(mode="json", exclude_unset=True))
    found = ask(folder, body, STEPS * CHANGE_S)
    if as_json:
        dump(found)
    else:
        stdout().print("\n".join(_lines(found)), markup=False)


def _put(folder: Path, entries: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Puts NFs in, one after the other, and says of each what became of it."""
    for entry in entries:
        found = ask(folder, m.NfPut(entries=[dict(entry)]), STEPS * CHANGE_S)
        if as_json:
            dump(found)
        else:
            lines = "; ".join(_lines({"replaced_from": None, **found}))
            stdout().print(f"networkfunction/{entry['name']}: {lines}", markup=False)


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
