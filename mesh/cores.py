# SPDX-License-Identifier: Apache-2.0
"""Which process runs on which core. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mesh.errors import SpecError

__all__ = ["CoreRequest", "Placement", "allocate"]


@dataclass(frozen=True, slots=True)
class CoreRequest:
    """What a process asks for.

    Attributes:
        name: of the process.
        cores: those that it wants for itself; None: any one core.
        path: place in the spec for messages.
    """

    name: str
    cores: tuple[int, ...] | None = None
    path: str = ""


@dataclass(frozen=True, slots=True)
class Placement:
    """Who runs where.

    Attributes:
        cores: process → its cores; a process that is not in here is not pinned.
        notices: one line per thing that could not be had.
    """

    cores: dict[str, tuple[int, ...]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


def allocate(
    requests: Sequence[CoreRequest], available: Iterable[int], taken: Iterable[int] = ()
) -> Placement:
    """Gives every process cores of its own, or says that there are too few.

    Processes that name cores get them. The others get one each, in their order, when there is one
    for all of them; else none of them is pinned, since two processes pinned to one core would wait
    for each other while another core idles.

    Args:
        requests: in order of importance, workers first.
        available: cores that this process may use.
        taken: cores that processes already running have.

    Raises:
        SpecError: a core is asked for twice, or is not there.
    """
    usable = sorted(set(available))
    owners: dict[int, str] = dict.fromkeys(taken, "a running process")
    placed: dict[str, tuple[int, ...]] = {}
    for request in requests:
        if request.cores is not None:
            _claim(request, usable, owners)
            placed[request.name] = request.cores
    unnamed = [request.name for request in requests if request.cores is None]
    free = [core for core in usable if core not in owners]
    if len(free) >= len(unnamed):
        placed |= {name: (core,) for name, core in zip(unnamed, free, strict=False)}
        return Placement(placed)
    text = (
        f"{len(free)} free cores for {len(unnamed)} processes: {', '.join(unnamed)} run unpinned; "
        "give the host more cores, or name cores in the spec"
    )
    return Placement(placed, (text,))


def _claim(request: CoreRequest, usable: Sequence[int], owners: dict[int, str]) -> None:
    path = f"{request.path}.cores" if request.path else f"{request.name}.cores"
    if not request.cores:
        raise SpecError(path, "name at least one core, or leave the key out")
    for core in request.cores:
        if core not in usable:
            raise SpecError(path, f"core {core} is not there; this process may use {usable}")
        if core in owners:
            raise SpecError(path, f"core {core} is given twice, first to {owners[core]}")
        owners[core] = request.name
