# SPDX-License-Identifier: Apache-2.0
"""Custom resources on one host: the same file, read as a part of a spec.

What only a cluster has (image, replicas, node labels) is left out there; what a host has in its
place is taken over: `cores` says how many, the host's allocator says which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mesh.errors import PlanError, SpecError
from mesh.kube.chains import Place, arrange
from mesh.kube.models import GROUP, NetworkFunctionSpec, ServiceChainSpec, parse_object
from mesh.spec import read_yaml

__all__ = [
    "Manifests",
    "as_in_file",
    "entry_of",
    "is_manifest",
    "local_entries",
    "read_manifests",
]

_TAKEN = (
    "config",
    "events",
    "subscriptions",
    "mode",
    "poll",
    "delivery",
    "domain",
    "share",
    "hold",
    "ring",
)


class Manifests:
    """The network functions and chains of a file, checked.

    Attributes:
        functions: name → spec, in the order of the file.
        chains: name and spec, in the order of the file.
        objects: all of them, as they were written.
    """

    def __init__(self, documents: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        self.functions: dict[str, NetworkFunctionSpec] = {}
        self.chains: list[tuple[str, ServiceChainSpec]] = []
        self.objects: list[dict[str, Any]] = []
        for place, data in documents:
            self._take(place, data)

    def _take(self, place: str, data: Mapping[str, Any]) -> None:
        try:
            spec = parse_object(data)
        except SpecError as error:
            raise SpecError(f"{place}.{error.path}", error.text) from error
        metadata = data.get("metadata")
        name = metadata.get("name") if isinstance(metadata, Mapping) else None
        if not isinstance(name, str) or not name:
            raise SpecError(f"{place}.metadata.name", "give the object a name")
        if isinstance(spec, ServiceChainSpec):
            taken = any(name == chain for chain, _ in self.chains)
            self.chains.append((name, spec))
        else:
            taken = name in self.functions
            self.functions[name] = spec
        if taken:
            raise SpecError(f"{place}.metadata.name", f"there are two of the name {name!r}")
        self.objects.append(dict(data))

    def entries(self) -> list[dict[str, Any]]:
        """Returns entries for the `nfs` of a spec.

        Raises:
            SpecError: a chain that is not possible.
        """
        found = arrange(self.chains, self.functions)
        for chain, problem in found.problems.items():
            raise SpecError(f"ServiceChain {chain}", problem.text)
        return [
            entry_of(name, spec, found.places.get(name)) for name, spec in self.functions.items()
        ]


def local_entries(manifests: Manifests) -> list[dict[str, Any]]:
    """Returns entries for a mesh of this host: as many cores for itself as each function asks for.

    Raises:
        SpecError: a chain that is not possible, or a function that only a cluster can run.
    """
    entries = manifests.entries()
    for entry in entries:
        spec = manifests.functions[entry["name"]]
        if spec.cores:
            entry["cores"] = spec.cores
        if spec.replicas > 1 and not spec.every_node:
            text = f"{spec.replicas} replicas on one host; each is on a node of its own"
            raise SpecError(f"NetworkFunction {entry['name']}: spec.replicas", text)
    return entries


def entry_of(name: str, spec: NetworkFunctionSpec, place: Place | None) -> dict[str, Any]:
    """Returns what a stack is told of a function: an entry as in a spec's `nfs`."""
    said = spec.model_dump(mode="json", exclude_none=True)
    entry = {"name": name, "use": spec.use, "fail": spec.fail, "deadline_ms": spec.deadline_ms}
    entry |= {key: said[key] for key in _TAKEN if said.get(key)}
    wheres = [text for text in (spec.where, place.where if place else None) if text]
    if wheres:
        entry["where"] = wheres[0] if len(wheres) == 1 else " and ".join(f"({w})" for w in wheres)
    stage = place.stage if place else spec.stage
    if stage is not None:
        entry["stage"] = stage
    return entry


def as_in_file(error: SpecError | PlanError, name: str) -> SpecError:
    """Names the place of an error in an NF's entry as the function's object has it."""
    path = error.path
    inside = path.partition("].")[2] if path.startswith("nfs[") else path
    place = inside.removeprefix(f"nfs.{name}").removeprefix(".")
    place = place.replace("deadline_ms", "deadlineMs")
    where = f"NetworkFunction {name}: spec"
    return SpecError(f"{where}.{place}" if place else where, error.text)


def is_manifest(data: object) -> bool:
    """True for a document that is an object of this group, right or wrong."""
    if not isinstance(data, Mapping):
        return False
    return str(data.get("apiVersion", "")).startswith(f"{GROUP}/")


def read_manifests(path: Path) -> Manifests | None:
    """Reads a file of custom resources; None when it is something else, such as a spec.

    Raises:
        SpecError: unreadable, too long, no YAML, or wrong; the text names the place.
    """
    try:
        found = read_yaml(path, lambda raw: list(yaml.safe_load_all(raw)))
    except SpecError as error:
        raise SpecError(str(path), str(error)) from error
    documents = [each for each in found if each is not None]
    if not any(is_manifest(each) for each in documents):
        return None
    return Manifests(_numbered(documents, path))


def _numbered(documents: Sequence[Any], path: Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for number, data in enumerate(documents, 1):
        place = f"{path}, document {number}" if len(documents) > 1 else str(path)
        if not is_manifest(data):
            raise SpecError(place, "is no object of nfmesh.io, as others in this file are")
        yield place, data
