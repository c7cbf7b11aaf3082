# SPDX-License-Identifier: Apache-2.0
"""Which process runs on which core. Pure.

As a node's static CPU manager does it: who asks for a number of cores gets whole ones that belong
together, and has them alone; reserved ones are nobody's alone; the rest is shared by all others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mesh.errors import SpecError
from mesh.topology import Topology, cpu_text

__all__ = ["CoreRequest", "Placement", "Room", "allocate"]


@dataclass(frozen=True, slots=True)
class CoreRequest:
    """What a process asks for.

    Attributes:
        name: of the process.
        cores: those that it wants for itself; None: any one core.
        path: place in the spec for messages.
        count: so many for itself, whichever; 0: as `cores` says.
    """

    name: str
    cores: tuple[int, ...] | None = None
    path: str = ""
    count: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """What cores there are to give away.

    Attributes:
        topology: of those that this process may use.
        taken: cores that processes already running have for themselves.
        reserved: given to nobody for itself, unless by name.
        before: process → what it had before a restart; it gets the same if it asks for as many.
    """

    topology: Topology
    taken: Collection[int] = ()
    reserved: Collection[int] = ()
    before: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Placement:
    """Who runs where.

    Attributes:
        cores: process → its cores; a process that is not in here is not pinned.
        notices: one line per thing that could not be had.
        own: those of `cores` that their processes have for themselves by their own wish.
        shared: for all others, when somebody has cores for itself; empty: nobody has.
    """

    cores: dict[str, tuple[int, ...]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    own: frozenset[str] = frozenset()
    shared: tuple[int, ...] = ()


def allocate(requests: Sequence[CoreRequest], room: Room | Iterable[int]) -> Placement:
    """Gives every process cores of its own, or says that there are too few.

    Processes that name cores get them, then those that ask for a number. The others get one each,
    in their order, when there is one for all of them; else none of them is pinned to one, since two
    processes pinned to one core would wait for each other while another core idles.

    Args:
        requests: in order of importance, workers first.
        room: what there is; cores alone are a core each.

    Raises:
        SpecError: a core is asked for twice or is not there, or there are fewer than asked for.
    """
    if not isinstance(room, Room):
        room = Room(Topology.flat(room))
    usable = sorted(room.topology.cpus)
    owners: dict[int, str] = dict.fromkeys(room.taken, "a running process")
    placed: dict[str, tuple[int, ...]] = {}
    for request in requests:
        if request.cores is not None:
            _claim(request, usable, owners)
            placed[request.name] = request.cores
    for request in sorted(
        (r for r in requests if r.count), key=lambda r: r.name not in room.before
    ):
        chosen = _choose(request, room, owners)
        placed[request.name] = chosen
        owners.update(dict.fromkeys(chosen, request.name))
    own = frozenset(placed)
    shared = tuple(cpu for cpu in usable if cpu not in owners) if owners else ()
    unnamed = [r.name for r in requests if r.cores is None and not r.count]
    free = [cpu for cpu in usable if cpu not in owners and cpu not in room.reserved]
    if len(free) >= len(unnamed):
        placed |= {name: (cpu,) for name, cpu in zip(unnamed, free, strict=False)}
        return Placement(placed, (), own, shared)
    text = (
        f"{len(free)} free cores for {len(unnamed)} processes: {', '.join(unnamed)} run unpinned; "
        "give the host more cores, or name cores in the spec"
    )
    return Placement(placed, (text,), own, shared)


def _choose(request: CoreRequest, room: Room, owners: Mapping[int, str]) -> tuple[int, ...]:
    free = {cpu for cpu in room.topology.cpus if cpu not in owners and cpu not in room.reserved}
    before = room.before.get(request.name, ())
    if len(before) == request.count and free.issuperset(before):
        return tuple(before)
    chosen = room.topology.choose(request.count, free)
    if chosen is None:
        kept = f"; {cpu_text(room.reserved)} reserved" if room.reserved else ""
        text = f"Insufficient cpu: asked {request.count}, free {len(free)}{kept}"
        raise SpecError(_path(request), text, nf=request.name)
    return chosen


def _path(request: CoreRequest) -> str:
    return f"{request.path or request.name}.cores"


def _claim(request: CoreRequest, usable: Sequence[int], owners: dict[int, str]) -> None:
    path = _path(request)
    if not request.cores:
        raise SpecError(path, "name at least one core, or leave the key out", nf=request.name)
    for core in request.cores:
        if core not in usable:
            text = f"core {core} is not there; this process may use {usable}"
            raise SpecError(path, text, nf=request.name)
        if core in owners:
            text = f"core {core} is given twice, first to {owners[core]}"
            raise SpecError(path, text, nf=request.name)
        owners[core] = request.name
