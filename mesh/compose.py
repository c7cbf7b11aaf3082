# SPDX-License-Identifier: Apache-2.0
"""Composition: from NFs and their subscriptions to the plan of a worker. Pure.

What somebody subscribed to decides which stack modules run and which level each flow needs. All
checks that need no packet happen here, and every error names the NF, the subscription and the
place in the spec.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from mesh.bounds import Bounds
from mesh.errors import PlanError, SpecError, UnknownEvent, did_you_mean
from mesh.events import Catalogue, EventType
from mesh.module import LimitDef, ModuleDescriptor
from mesh.needs import (
    check_inline,
    check_raised,
    check_raising,
    check_shares,
    check_stages,
    edges_of,
    in_order,
    needed_modules,
    raised_edges,
)
from mesh.plan import Plan, PlannedModule
from mesh.raisers import Raisers
from mesh.subscribe import CheckFilter, Subscriber
from mesh.uses import NFUse, SubscriptionOverride, UserEvent

__all__ = ["NFUse", "SubscriptionOverride", "UserEvent", "build_catalogue", "compose"]


def compose(
    core: Iterable[EventType],
    modules: Sequence[ModuleDescriptor],
    uses: Sequence[NFUse],
    user_events: Sequence[UserEvent] = (),
    limits: Mapping[str, Mapping[str, int | str]] | None = None,
    check_filter: CheckFilter | None = None,
    numbers: Mapping[str, int] | None = None,
    kept: Collection[str] = (),
) -> Plan:
    """Composes a plan.

    Args:
        core: the core's event types.
        modules: descriptors of all installed stack modules.
        uses: the NFs.
        user_events: named events that filters define.
        limits: module → limit → number or word.
        check_filter: parses filters; None takes them unread.
        numbers: event type → id, as a mesh that runs has them.
        kept: modules that run on, also when nobody needs them.

    Raises:
        PlanError: see the tree in mesh.errors.
        SpecError: a limit that a module does not have or that is out of bounds.
    """
    uses = _named_uses(uses)
    modules = sorted(modules, key=lambda module: (module.phase, module.name))
    catalogue = _catalogue_for(core, modules, uses, user_events, numbers)
    raisers = Raisers(catalogue, modules)
    subscriber = Subscriber(raisers, check_filter)
    for event in user_events:
        subscriber.check_user_event(event)
    planned = [subscriber.nf(use) for use in uses]
    edges, raised = edges_of(planned), raised_edges(raisers, planned)
    check_shares(uses, (*edges, *raised))
    check_raising(planned, raised)
    check_raised(raisers, planned)
    ordered = in_order(planned, edges)
    check_stages(ordered)
    check_inline(ordered)
    needed = {**dict.fromkeys(kept, ()), **needed_modules(raisers, ordered)}
    given = _check_limits(modules, limits or {})
    return Plan(
        catalogue=catalogue,
        modules=tuple(
            _planned_module(m, needed[m.name], given, catalogue)
            for m in modules
            if m.name in needed
        ),
        nfs=tuple(ordered),
        edges=edges,
        skipped=tuple(m.name for m in modules if m.name not in needed),
        raised=raised,
    )


def build_catalogue(
    core: Iterable[EventType],
    modules: Iterable[ModuleDescriptor],
    uses: Iterable[NFUse],
    user_events: Iterable[UserEvent] = (),
    numbers: Mapping[str, int] | None = None,
) -> Catalogue:
    """Returns the event types of the core, of modules, of the NFs in use and of the user."""
    types = {event.name: event for event in core}
    for module in modules:
        for event in module.emits:
            if event.bit is None or event.name not in types:
                _add(types, event)
    for use in uses:
        for published in use.cls.publishes:
            _add(types, published.event_type(use.cls.name))
        for raised in use.cls.raises:
            _add(types, raised.event_type(use.cls.name, inline=True))
    for user in user_events:
        doc = f"{user.base} where {user.where}"
        _add(types, EventType(user.name, doc, origin="user", base=user.base, where=user.where))
    return Catalogue(types.values(), numbers)


def _catalogue_for(
    core: Iterable[EventType],
    modules: Iterable[ModuleDescriptor],
    uses: Iterable[NFUse],
    user_events: Sequence[UserEvent],
    numbers: Mapping[str, int] | None,
) -> Catalogue:
    try:
        return build_catalogue(core, modules, uses, user_events, numbers)
    except UnknownEvent as error:  # a user event's base
        paths = {event.name: f"{event.path}.event" for event in user_events if event.path}
        path, name = paths.get(error.subscription, ""), error.subscription
        raise UnknownEvent(error.text, subscription=name, path=path) from error


def _add(types: dict[str, EventType], event: EventType) -> None:
    other = types.get(event.name)
    if other is not None and other.origin and other != event:
        text = f"declared twice, by {other.origin} and {event.origin}"
        raise PlanError(text, subscription=event.name)
    types[event.name] = event


def _named_uses(uses: Sequence[NFUse]) -> list[NFUse]:
    named: list[NFUse] = []
    for use in uses:
        name = use.name or use.cls.name
        if any(other.name == name for other in named):
            raise PlanError("two NFs have this name; give one another name", nf=name, path=use.path)
        named.append(replace(use, name=name))
    return named


def _check_limits(
    modules: Sequence[ModuleDescriptor], limits: Mapping[str, Mapping[str, int | str]]
) -> dict[str, dict[str, int]]:
    by_name = {module.name: module for module in modules}
    given: dict[str, dict[str, int]] = {}
    for name, values in limits.items():
        if name not in by_name:
            raise SpecError(f"modules.{name}", f"no such module{did_you_mean(name, by_name)}")
        known = {limit.name: limit for limit in by_name[name].limits}
        for key, value in values.items():
            path = f"modules.{name}.{key}"
            if key not in known:
                raise SpecError(path, f"the module has no such limit{did_you_mean(key, known)}")
            given.setdefault(name, {})[key] = limit_value(known[key], value, path)
    return given


def limit_value(limit: LimitDef, value: int | str, path: str) -> int:
    """Returns a limit's number; words are those that its text explains ("0 first, 1 last").

    Raises:
        SpecError: an unknown word, or out of bounds.
    """
    if isinstance(value, str):
        words = {
            word: int(number) for number, word in re.findall(r"\b(\d+) ([a-z][\w-]*)", limit.doc)
        }
        found = words.get(value.lower())
        if found is None:
            text = f"is none of: {', '.join(words)}" if words else "is no number"
            raise SpecError(path, f"{value!r} {text}{did_you_mean(value, words)}")
        value = found
    if not limit.min <= value <= limit.max:
        raise SpecError(path, Bounds(limit.min, limit.max, limit.value).refuse(value))
    return value


def _planned_module(
    module: ModuleDescriptor,
    needed_by: tuple[str, ...],
    given: Mapping[str, Mapping[str, int]],
    catalogue: Catalogue,
) -> PlannedModule:
    own = given.get(module.name, {})
    return PlannedModule(
        name=module.name,
        phase=module.phase,
        limits=tuple(own.get(limit.name, limit.value) for limit in module.limits),
        changed={name: value for name, value in own.items()},
        types=tuple(0 if e.bit is not None else catalogue[e.name].id for e in module.emits),
        needed_by=needed_by,
    )
