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
from mesh.spec import Spec, load, plan_of

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

    [bold]Examples[/bold]
      nfmesh apply mesh.yaml
      nfmesh apply mesh.yaml --mesh office --json
    """
    folder = run_folder(mesh)
    spec = _checked(file)
    body = m.Apply(spec=spec.model_dump(mode="json", exclude_unset=True))
    found = ask(folder, body, STEPS * CHANGE_S)
    if as_json:
        dump(found)
    else:
        stdout().print("\n".join(_lines(found)), markup=False)


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
