# SPDX-License-Identifier: Apache-2.0
"""From service chains to stages and filters of their functions. Pure.

Packets go through inline NFs by stage, so chains are one order over all functions that any chain
names: function before function, as each chain has it. Every function gets a stage of its own
(editors cannot share one) and hears what the selectors of its chains let through.

A chain whose order contradicts the chains before it is left out and says so; one that names a
function that is not there keeps the order of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from mesh.conditions import Trouble
from mesh.kube.models import NetworkFunctionSpec, ServiceChainSpec

__all__ = ["Arrangement", "Place", "arrange"]

MAX_STAGES = 256
"""That there are (mesh.spec)."""


@dataclass(frozen=True, slots=True)
class Place:
    """What chains say of one function: its stage, and the filter; None hears all traffic."""

    stage: int
    where: str | None


@dataclass(frozen=True, slots=True)
class Arrangement:
    """All chains together.

    Attributes:
        places: function → place, of those that are in a chain.
        problems: chain → why it is not as asked.
    """

    places: Mapping[str, Place] = field(default_factory=dict)
    problems: Mapping[str, Trouble] = field(default_factory=dict)


def arrange(
    chains: Sequence[tuple[str, ServiceChainSpec]], functions: Mapping[str, NetworkFunctionSpec]
) -> Arrangement:
    """Puts the functions of all chains in order.

    Args:
        chains: name and spec, oldest first: an older one wins where two contradict.
        functions: those that there are.
    """
    after: dict[str, set[str]] = {}
    wheres: dict[str, list[str | None]] = {}
    problems: dict[str, Trouble] = {}
    for name, chain in chains:
        problem = _misfit(chain, functions)
        there = [each for each in chain.functions if each in functions]
        if problem is None or problem.reason == "UnknownFunction":
            problem = _contradiction(there, after) or problem
        if problem is not None:
            problems[name] = problem
            if problem.reason != "UnknownFunction":
                continue
        for each in there:
            after.setdefault(each, set())
            wheres.setdefault(each, []).append(chain.selector.where)
        for first, second in pairwise(there):
            after[first].add(second)
    places = {
        name: Place(stage, _either(wheres[name])) for stage, name in enumerate(_in_order(after))
    }
    return Arrangement(places, problems)


def _misfit(
    chain: ServiceChainSpec, functions: Mapping[str, NetworkFunctionSpec]
) -> Trouble | None:
    unknown = [name for name in chain.functions if name not in functions]
    for name in chain.functions:
        spec = functions.get(name)
        if spec is None:
            continue
        if spec.stage is not None:
            return Trouble("StageGiven", f"{name!r} has a stage of its own: leave one of them out")
        if spec.mode == "observe":
            return Trouble("NotInline", f"{name!r} is beside packets (mode: observe), not in line")
    if unknown:
        return Trouble("UnknownFunction", f"there is no NetworkFunction {unknown[0]!r}")
    return None


def _contradiction(names: Sequence[str], after: Mapping[str, set[str]]) -> Trouble | None:
    for name in names:
        if names.count(name) > 1:
            return Trouble("Cycle", f"{name!r} comes twice")
    if len(set(after) | set(names)) > MAX_STAGES:
        return Trouble("TooManyStages", f"chains have more than {MAX_STAGES} functions together")
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            if _leads(second, first, after):
                text = f"{first!r} comes before {second!r} here, and after it in an older chain"
                return Trouble("Cycle", text)
    return None


def _leads(start: str, end: str, after: Mapping[str, set[str]]) -> bool:
    seen, left = {start}, [start]
    while left:
        for name in after.get(left.pop(), ()):
            if name == end:
                return True
            if name not in seen:
                seen.add(name)
                left.append(name)
    return False


def _in_order(after: Mapping[str, set[str]]) -> list[str]:
    """Sorts so that each comes before those that are after it; ties by name."""
    ordered: list[str] = []
    left = dict(after)
    while left:
        blocked = {name for followers in left.values() for name in followers}
        ready = min(name for name in left if name not in blocked)
        ordered.append(ready)
        del left[ready]
    return ordered


def _either(wheres: Sequence[str | None]) -> str | None:
    """Joins filters: what any of them lets through; None lets all through."""
    texts = list(dict.fromkeys(text for text in wheres if text))
    if any(text is None for text in wheres):
        return None
    return texts[0] if len(texts) == 1 else " or ".join(f"({text})" for text in texts)
