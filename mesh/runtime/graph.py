# SPDX-License-Identifier: Apache-2.0
"""Whether what is asked of a cluster fits together, as far as it can be known from here. Pure.

Classes of other images are not at hand, so what they publish is not known: the operator asks the
stacks, which know, and says in conditions what this could not see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mesh.control.composing import name_at, named
from mesh.errors import PlanError, SpecError, UnknownEvent, UnraisedEvent
from mesh.kube.chains import arrange
from mesh.kube.manifests import Manifests, as_in_file, entry_of
from mesh.kube.models import NetworkFunctionSpec, ServiceChainSpec, parse_object
from mesh.registry import Registry
from mesh.spec import parse
from mesh.spec_plan import plan_of

__all__ = ["check_graph"]


def check_graph(wanted: Manifests, there: Iterable[Mapping[str, Any]], registry: Registry) -> None:
    """Composes what would be there.

    Args:
        wanted: what is asked for.
        there: objects of the cluster; those of the same names are replaced.
        registry: what is installed here.

    Raises:
        SpecError: something that is asked for does not fit; names object and place.
    """
    functions, chains = _together(wanted, there)
    found = arrange(list(chains.items()), functions)
    for name, _ in wanted.chains:
        if name in found.problems:
            raise SpecError(f"ServiceChain {name}", found.problems[name].text)
    known = {name for name, spec in functions.items() if _is_known(spec, registry)}
    entries = [entry_of(name, functions[name], found.places.get(name)) for name in sorted(known)]
    try:
        plan_of(named(parse({"nfs": entries}), registry), registry)
    except (SpecError, PlanError) as error:
        if isinstance(error, UnknownEvent | UnraisedEvent) and known != functions.keys():
            return
        name = error.nf or name_at(error.path, entries)
        if name in wanted.functions:
            raise as_in_file(error, name) from error


def _together(
    wanted: Manifests, there: Iterable[Mapping[str, Any]]
) -> tuple[dict[str, NetworkFunctionSpec], dict[str, ServiceChainSpec]]:
    functions: dict[str, NetworkFunctionSpec] = {}
    chains: dict[str, ServiceChainSpec] = {}
    for each in sorted(there, key=lambda each: str(each["metadata"].get("creationTimestamp"))):
        try:
            spec = parse_object(each)
        except SpecError:
            continue  # its status says what is wrong
        name = str(each["metadata"]["name"])
        if isinstance(spec, NetworkFunctionSpec):
            functions[name] = spec
        else:
            chains[name] = spec
    return {**functions, **wanted.functions}, {**chains, **dict(wanted.chains)}


def _is_known(spec: NetworkFunctionSpec, registry: Registry) -> bool:
    """True for a function of the release's image that is installed here, too."""
    return spec.image is None and spec.use in registry.nf_names()
