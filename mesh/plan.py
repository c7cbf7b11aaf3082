# SPDX-License-Identifier: Apache-2.0
"""A composed plan as frozen data: what runs, who hears what, in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from mesh.events import Catalogue
from mesh.module import Phase
from mesh.words import OWN_DOMAIN

if TYPE_CHECKING:
    from mesh.nf import NF

__all__ = [
    "Edge",
    "HeardPart",
    "Level",
    "Part",
    "Plan",
    "PlannedModule",
    "PlannedNF",
    "PlannedSubscription",
]


class Level(IntEnum):
    """What the stack does for a flow (enum nfm_level)."""

    PACKET = 0
    TRACK = 1
    DATA = 2
    SPLIT = 3
    """Streams are decided on: what leaves is made of judged bytes."""


@dataclass(frozen=True, slots=True)
class Part:
    """One native subscription; a subscription is one or several of them.

    Attributes:
        events: bits of the stack events.
        names: their names.
        types: first and last id of application types, or None.
        modules: application modules that raise them.
        level: what the flow needs.
        stack_level: what the stack events alone need; modules add theirs as long as they listen.
        where: the filter, or None.
        where_on: event types whose shared fields the filter may name.
        as_type: id of the user event that this is delivered as; 0 as is.
    """

    events: int
    names: tuple[str, ...]
    types: tuple[int, int] | None
    modules: tuple[str, ...]
    level: Level
    stack_level: Level
    where: str | None
    where_on: tuple[str, ...]
    as_type: int = 0


@dataclass(frozen=True, slots=True)
class HeardPart:
    """Published events that a subscription hears.

    Attributes:
        names: their types.
        where: the filter, or None; `where_on` as in Part.
        as_type: id of the user event that they are delivered as; 0 as is.
    """

    names: tuple[str, ...]
    where: str | None
    where_on: tuple[str, ...]
    as_type: int = 0


@dataclass(frozen=True, slots=True)
class PlannedSubscription:
    """What one handler hears.

    Attributes:
        name: the subscription's.
        handler: number in descriptors; subscriptions of one method share it.
        method: name of the handler, "" for the native function.
        events: as asked for.
        where: all filters together, or None.
        parts: native subscriptions.
        heard: published events that it hears.
        mode: "observe" or "inline"; stage and edits for the latter.
        group: number among the NF's subscriptions; per_flow: on no flow until the NF says so.
    """

    name: str
    handler: int
    method: str
    events: tuple[str, ...]
    where: str | None
    parts: tuple[Part, ...]
    heard: tuple[HeardPart, ...]
    mode: str
    stage: int
    edits: bool
    group: int = 0
    per_flow: bool = False

    @property
    def published(self) -> tuple[str, ...]:
        """Names of the published event types that it hears."""
        return tuple(dict.fromkeys(name for part in self.heard for name in part.names))

    @property
    def level(self) -> Level:
        """The highest level of its parts."""
        return max((part.level for part in self.parts), default=Level.PACKET)


@dataclass(frozen=True, slots=True)
class PlannedNF:
    """One NF: its class and configuration, and what it hears."""

    name: str
    cls: type[NF]
    options: Mapping[str, Any]
    instance: NF | None
    subscriptions: tuple[PlannedSubscription, ...]
    publishes: tuple[str, ...]
    domain: str
    holds: int = 0
    fail_open: bool = False
    deadline_ms: int = 100

    @property
    def raises(self) -> tuple[str, ...]:
        """Names of the event types that it raises with its verdicts."""
        return tuple(event.event_name for event in self.cls.raises)

    @property
    def is_inline(self) -> bool:
        """True when packets wait for it."""
        return any(sub.mode == "inline" for sub in self.subscriptions)

    @property
    def needs_order(self) -> bool:
        """True when it hears all workers' entries in the order of packets.

        Who decides may need to know all that came before.
        """
        return self.is_inline or self.cls.needs_order

    @property
    def edits(self) -> bool:
        """True when it changes packets."""
        return any(sub.mode == "inline" and sub.edits for sub in self.subscriptions)


@dataclass(frozen=True, slots=True)
class PlannedModule:
    """One stack module that runs.

    Attributes:
        name: the module's.
        phase: order in the worker.
        limits: values in the order of its descriptor.
        changed: those that the user set, by name.
        types: catalogue id per emitted event; 0 for stack events.
        needed_by: subscriptions (`nf.subscription`) and modules.
    """

    name: str
    phase: Phase
    limits: tuple[int, ...]
    changed: Mapping[str, int]
    types: tuple[int, ...]
    needed_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Edge:
    """An event's way from the NF whose it is to another's subscription."""

    publisher: str
    event: str
    subscriber: str
    subscription: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole: event types, modules in order, NFs with publishers before their subscribers.

    Attributes:
        edges: by logs; raised: by the worker, of events that come with verdicts.
        skipped: installed modules that nobody needs.
    """

    catalogue: Catalogue = field(repr=False)
    modules: tuple[PlannedModule, ...]
    nfs: tuple[PlannedNF, ...]
    edges: tuple[Edge, ...]
    skipped: tuple[str, ...] = ()
    raised: tuple[Edge, ...] = ()

    @property
    def level(self) -> Level:
        """The highest level that any flow may need."""
        return max((s.level for nf in self.nfs for s in nf.subscriptions), default=Level.PACKET)

    def render(self) -> str:
        """Draws the plan as text: modules in order with who needs them, then who hears what."""
        lines = ["stack", *_module_lines(self), "", "network functions"]
        for nf in self.nfs:
            lines += _nf_lines(nf, (*self.edges, *self.raised))
        named = [event for event in self.catalogue if event.base is not None]
        lines += ["", "named events"] if named else []
        lines += [f"  {event.name} = {event.base} where {event.where}" for event in named]
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as JSON values."""
        return {
            "level": self.level.name.lower(),
            "modules": [
                {
                    "name": m.name,
                    "phase": m.phase.name.lower(),
                    "changed": dict(m.changed),
                    "needed_by": list(m.needed_by),
                }
                for m in self.modules
            ],
            "skipped": list(self.skipped),
            "nfs": [_nf_json(nf) for nf in self.nfs],
            "events": [
                {"name": event.name, "event": event.base, "where": event.where}
                for event in self.catalogue
                if event.base is not None
            ],
            "edges": [
                {"from": e.publisher, "event": e.event, "to": f"{e.subscriber}.{e.subscription}"}
                for e in (*self.edges, *self.raised)
            ],
        }


def _module_lines(plan: Plan) -> list[str]:
    width = max((len(m.name) for m in plan.modules), default=0)
    lines = ["  packets, flows"]
    for module in plan.modules:
        changed = "".join(f"  {key}={value}" for key, value in module.changed.items())
        needed = ", ".join(module.needed_by) or "nobody any more"
        lines.append(f"  └ {module.name:<{width}}  needed by {needed}{changed}")
    if plan.skipped:
        lines.append(f"  not needed: {', '.join(plan.skipped)}")
    return lines


def _nf_lines(nf: PlannedNF, edges: tuple[Edge, ...]) -> list[str]:
    lines = [f"  {nf.name}" + ("" if nf.domain == OWN_DOMAIN else f"  (domain {nf.domain})")]
    for sub in nf.subscriptions:
        inline = f", inline stage {sub.stage}" if sub.mode == "inline" else ""
        level = sub.level.name.lower() if sub.parts else "published"
        lines.append(f"    hears {', '.join(sub.events)} → {sub.name} [{level}{inline}]")
        if sub.where:
            lines.append(f"      where {sub.where}")
    for event in (*nf.publishes, *nf.raises):
        heard = [
            f"{e.subscriber}.{e.subscription}"
            for e in edges
            if (e.publisher, e.event) == (nf.name, event)
        ]
        verb = "raises" if event in nf.raises else "publishes"
        lines.append(f"    {verb} {event} → {', '.join(heard) or 'nobody'}")
    return lines


def _nf_json(nf: PlannedNF) -> dict[str, Any]:
    return {
        "name": nf.name,
        "class": f"{nf.cls.__module__}:{nf.cls.__qualname__}",
        "domain": nf.domain,
        "options": {key: str(value) for key, value in nf.options.items()},
        "publishes": list(nf.publishes),
        "subscriptions": [
            {
                "name": s.name,
                "events": list(s.events),
                "where": s.where,
                "level": s.level.name.lower(),
                "mode": s.mode,
                "published": list(s.published),
                "modules": sorted({m for part in s.parts for m in part.modules}),
            }
            for s in nf.subscriptions
        ],
    }
