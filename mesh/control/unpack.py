# SPDX-License-Identifier: Apache-2.0
"""From a part that arrived to what its receiver works with: the other way than parts.py. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mesh.control.wire import HandlerPart, ModulePart, NativeSubscription, NFPart, TypeWire
from mesh.event_types import EventType, FieldDef, Kind, Source
from mesh.events import Catalogue
from mesh.module import ModuleInfo, Phase
from mesh.plan import (
    HeardPart,
    Level,
    Part,
    PlannedModule,
    PlannedNF,
    PlannedSubscription,
)
from mesh.words import OWN_DOMAIN

if TYPE_CHECKING:
    from mesh.nf import NF

__all__ = ["catalogue_of", "part_of", "planned_module", "planned_nf"]


def catalogue_of(types: Sequence[TypeWire]) -> Catalogue:
    """Makes the catalogue of a part, numbered as the plan is.

    Raises:
        PlanError: the types do not fit together.
    """
    events = [
        EventType(
            name=t.name,
            fields=tuple(
                FieldDef(f.name, Kind(f.kind), Source(f.source), f.offset, f.unit) for f in t.fields
            ),
            bit=t.bit,
            origin=t.origin,
            base=t.base,
            where=t.where,
        )
        for t in types
    ]
    return Catalogue(events, {t.name: t.id for t in types})


def planned_nf(part: NFPart, cls: type[NF], options: Mapping[str, Any]) -> PlannedNF:
    """Makes what a Seat takes from an NF's part, its class and its checked options."""
    return PlannedNF(
        name=part.nf,
        cls=cls,
        options=options,
        instance=None,
        subscriptions=tuple(_planned(handler) for handler in part.handlers),
        publishes=part.publishes,
        domain=OWN_DOMAIN,
        fail_open=part.fail_open,
    )


def planned_module(part: ModulePart) -> tuple[PlannedModule, ModuleInfo]:
    """Makes what a NativeWorker takes to add a module."""
    planned = PlannedModule(
        name=part.name,
        phase=Phase.APP,
        limits=part.limits,
        changed={},
        types=part.types,
        needed_by=(),
    )
    return planned, ModuleInfo(part.name, part.library, part.symbol)


def part_of(sub: NativeSubscription) -> Part:
    """Makes what a NativeWorker takes to subscribe."""
    level = Level(sub.level)
    return Part(
        events=sub.events,
        names=(),
        types=sub.types,
        modules=sub.modules,
        level=level,
        stack_level=level,
        where=sub.where,
        where_on=sub.where_on,
        as_type=sub.as_type,
    )


def _planned(part: HandlerPart) -> PlannedSubscription:
    return PlannedSubscription(
        name=part.name,
        handler=part.handler,
        method=part.method,
        events=part.events,
        where=part.where,
        parts=(),
        heard=tuple(HeardPart(h.names, h.where, h.where_on, h.as_type) for h in part.heard),
        mode=part.mode,
        stage=part.stage,
        edits=part.edits,
        group=part.group,
    )
