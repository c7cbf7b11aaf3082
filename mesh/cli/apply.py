# SPDX-License-Identifier: Apache-2.0
"""`nfmesh apply`: makes a mesh that runs equal to a spec file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.cli.meshes import CHANGE_S, OfMesh, run_folder
from mesh.cli.output import AsJson, dump, stdout
from mesh.control import messages as m
from mesh.control.composing import named
from mesh.control.desired import with_files
from mesh.control.tool import ask
from mesh.registry import Registry
from mesh.spec import Spec, load, parse, plan_of

__all__ = ["apply"]

STEPS = 3
"""An NF that is replaced leaves, its memory goes, the new one joins."""


def apply(
    file: Annotated[Path, typer.Argument(help="Spec file (YAML or JSON); see nfmesh schema.")],
    mesh: OfMesh = None,
    as_json: AsJson = False,
) -> None:
    """Makes a mesh that runs equal to a spec file, and says what changed from which packet on.

    NFs join and leave; what one hears changes in place; one that differs in anything else is
    replaced. What is equal is not touched. Ports, sizes and the like cannot change while packets
    flow: leave them out, or as they are.

    A file of NetworkFunctions and ServiceChains, as kubectl apply takes it, adds or changes those
    that it names and leaves all others as they are.

    [bold]Examples[/bold]
      nfmesh apply mesh.yaml
      nfmesh apply mesh.yaml --mesh office --json
      nfmesh apply nf.yaml
    """
    from mesh.kube.manifests import read_manifests

    folder = run_folder(mesh)
    manifests = read_manifests(file)
    if manifests is None:
        found = [_apply(folder, file)]
    else:
        found = [_put(folder, file, entry) for entry in manifests.entries()]
    if as_json:
        dump(found[0] if manifests is None else found)
    else:
        for each in found:
            stdout().print("\n".join(_lines(each)), markup=False)


def _apply(folder: Path, file: Path) -> dict[str, Any]:
    spec = _checked(file)
    body = m.Apply(spec=spec.model_dump(mode="json", exclude_unset=True))
    return ask(folder, body, STEPS * CHANGE_S)


def _put(folder: Path, file: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    spec = with_files(parse({"nfs": [entry]}), file.parent)
    plain = spec.nfs[0].model_dump(mode="json", exclude_unset=True)
    return ask(folder, m.NfPut(entry=plain), STEPS * CHANGE_S)


def _checked(file: Path) -> Spec:
    """Reads a spec and composes it, so that what is wrong is found before anything changes."""
    registry = Registry.installed()
    spec = named(with_files(load(file), file.parent), registry)
    plan_of(spec, registry)
    ports = [
        port if port.path is None else port.with_path(str(Path(port.path).absolute()))
        for port in spec.ports
    ]
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
        if found[key]
    ]
    if found["replaced"]:
        names = ", ".join(found["replaced"])
        lines.append(f"left at packet {at} and began anew at {found['replaced_from']}: {names}")
    return lines or ["nothing to change"]
