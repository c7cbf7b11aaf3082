# SPDX-License-Identifier: Apache-2.0
"""Composition: from NFs and their subscriptions to the plan of a worker. Pure.

What somebody subscribed to decides which stack modules run and which level each flow needs. All
checks that need no packet happen here, and every error names the NF, the subscription and the
place in the spec.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mesh.errors import (
    CapacityError,
    FilterError,
    ModuleMissing,
    NeedCycle,
    PlanError,
    SpecError,
    StageConflict,
    UnknownEvent,
    UnknownField,
    UnraisedEvent,
    did_you_mean,
)
from mesh.events import Catalogue, EventType, FieldDef, shared_fields
from mesh.module import LimitDef, ModuleDescriptor, Phase
from mesh.nf import NF, Subscription
from mesh.plan import Edge, Level, Part, Plan, PlannedModule, PlannedNF, PlannedSubscription

__all__ = ["NFUse", "SubscriptionOverride", "UserEvent", "compose"]

CheckFilter = Callable[[str, Mapping[str, FieldDef]], object]
"""Parses a filter against the fields that it may name; raises FilterError or UnknownField."""

MAX_HANDLERS = 256
"""A descriptor has 8 bits for the handler (nfm_desc.what)."""
_DATA_EVENTS = frozenset(
    {
        "tcp.data",
        "tcp.anomaly.gap",
        "tcp.anomaly.overlap",
        "tcp.anomaly.inconsistent_overlap",
    }
)
_TOTALS = frozenset({"flow.end", "flow.update"})


@dataclass(frozen=True, slots=True)
class SubscriptionOverride:
    """What a spec changes of one subscription; None leaves the NF's own."""

    events: tuple[str, ...] | None = None
    where: str | None = None


@dataclass(frozen=True, slots=True)
class NFUse:
    """One NF of a plan.

    Attributes:
        cls: its class.
        name: of this instance; default is the class's name.
        options: keyword arguments of its `__init__`.
        instance: a ready object instead of options.
        where: a filter that narrows all of its subscriptions.
        overrides: subscription name → what to change.
        mode: "inline" or "observe" for all subscriptions, or None.
        stage: of all inline subscriptions, or None.
        domain: NFs of one domain share memory.
        path: place in the spec for messages, such as `nfs[2]`.
    """

    cls: type[NF]
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    instance: NF | None = None
    where: str | None = None
    overrides: Mapping[str, SubscriptionOverride] = field(default_factory=dict)
    mode: str | None = None
    stage: int | None = None
    domain: str = "default"
    path: str = ""


@dataclass(frozen=True, slots=True)
class UserEvent:
    """A named event: a base event where a filter holds."""

    name: str
    base: str
    where: str
    path: str = ""


def compose(
    core: Iterable[EventType],
    modules: Sequence[ModuleDescriptor],
    uses: Sequence[NFUse],
    user_events: Sequence[UserEvent] = (),
    limits: Mapping[str, Mapping[str, int | str]] | None = None,
    check_filter: CheckFilter | None = None,
) -> Plan:
    """Composes a plan.

    Args:
        core: the core's event types.
        modules: descriptors of all installed stack modules.
        uses: the NFs.
        user_events: named events that filters define.
        limits: module → limit → number or word.
        check_filter: parses filters; None takes them unread.

    Raises:
        PlanError: see the tree in mesh.errors.
        SpecError: a limit that a module does not have or that is out of bounds.
    """
    uses = _named_uses(uses)
    modules = sorted(modules, key=lambda module: (module.phase, module.name))
    catalogue = _catalogue_for(core, modules, uses, user_events)
    composer = _Composer(catalogue, modules, check_filter)
    for event in user_events:
        composer.check_user_event(event)
    planned = [composer.nf(use) for use in uses]
    edges = _edges(catalogue, planned)
    composer.check_raised(planned)
    ordered = _in_order(planned, edges)
    _check_stages(ordered)
    needed = composer.needed_modules(ordered)
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
    )


def build_catalogue(
    core: Iterable[EventType],
    modules: Iterable[ModuleDescriptor],
    uses: Iterable[NFUse],
    user_events: Iterable[UserEvent] = (),
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
    for user in user_events:
        doc = f"{user.base} where {user.where}"
        _add(types, EventType(user.name, doc, origin="user", base=user.base, where=user.where))
    return Catalogue(types.values())


def _catalogue_for(
    core: Iterable[EventType],
    modules: Iterable[ModuleDescriptor],
    uses: Iterable[NFUse],
    user_events: Sequence[UserEvent],
) -> Catalogue:
    try:
        return build_catalogue(core, modules, uses, user_events)
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


class _Composer:
    """The steps that look things up; holds no state that a step changes."""

    def __init__(
        self,
        catalogue: Catalogue,
        modules: Sequence[ModuleDescriptor],
        check_filter: CheckFilter | None,
    ) -> None:
        self.catalogue = catalogue
        self.modules = {module.name: module for module in modules}
        self.raised_by = {e.name: m.name for m in modules for e in m.emits}
        self.check = check_filter

    def check_user_event(self, event: UserEvent) -> None:
        self.filter_fits(event.where, (event.base,), "", event.name, f"{event.path}.where")

    def filter_fits(
        self, text: str, events: tuple[str, ...], nf: str, subscription: str, path: str
    ) -> None:
        if self.check is None:
            return
        try:
            self.check(text, shared_fields(self.catalogue, events))
        except UnknownField as error:
            message = f"{error.text} (in filter {text!r} on {', '.join(events)})"
            raise UnknownField(message, nf=nf, subscription=subscription, path=path) from error
        except FilterError as error:
            raise PlanError(str(error), nf=nf, subscription=subscription, path=path) from error

    def nf(self, use: NFUse) -> PlannedNF:
        own = use.cls.subscriptions()
        if not own:
            text = "subscribes to nothing: mark a method with @on(…)"
            raise PlanError(text, nf=use.name, path=use.path)
        unknown = set(use.overrides) - {sub.name for sub in own}
        if unknown:
            name = min(unknown)
            hint = did_you_mean(name, (sub.name for sub in own))
            text = f"has no subscription {name!r}{hint}"
            raise PlanError(text, nf=use.name, path=f"{use.path}.subscriptions")
        methods = list(dict.fromkeys(sub.handler for sub in own))
        if len(methods) > MAX_HANDLERS:
            raise CapacityError(f"NF {use.name!r} has more than {MAX_HANDLERS} handlers")
        subs = tuple(self.subscription(use, sub, methods.index(sub.handler)) for sub in own)
        return PlannedNF(
            name=use.name,
            cls=use.cls,
            options=use.options,
            instance=use.instance,
            subscriptions=subs,
            publishes=tuple(event.event_name for event in use.cls.publishes),
            domain=use.domain,
        )

    def subscription(self, use: NFUse, sub: Subscription, handler: int) -> PlannedSubscription:
        change = use.overrides.get(sub.name, SubscriptionOverride())
        place = f"{use.path}.subscriptions.{sub.name}" if use.path else ""
        events = sub.events if change.events is None else change.events
        for event in events:
            self.check_event(event, use, sub, place if change.events is not None else use.path)
        wheres = [(sub.where if change.where is None else change.where, f"{place}.where")]
        wheres.append((use.where, f"{use.path}.where" if use.path else ""))
        filters = tuple(text for text, _ in wheres if text)
        for text, path in wheres:
            if text:
                self.filter_fits(text, events, use.name, sub.name, path.lstrip("."))
        published = self.published(events, use)
        if published and not sub.handler:
            text = f"native code cannot hear {published[0]!r}, which an NF publishes"
            raise PlanError(text, nf=use.name, subscription=sub.name, path=use.path)
        return PlannedSubscription(
            name=sub.name,
            handler=handler,
            method=sub.handler,
            events=events,
            where=_both(filters),
            parts=self.parts(events, filters),
            published=published,
            mode=use.mode or sub.mode,
            stage=sub.stage if use.stage is None else use.stage,
            edits=sub.edits,
        )

    def check_event(self, event: str, use: NFUse, sub: Subscription, path: str) -> None:
        if event == "" or event not in self.catalogue:
            hint = did_you_mean(event, (t.name for t in self.catalogue))
            text = f"unknown event {event!r}{hint}"
            raise UnknownEvent(text, nf=use.name, subscription=sub.name, path=path)

    def published(self, events: Iterable[str], use: NFUse) -> tuple[str, ...]:
        """Names of the published types in these subtrees, in order of id; never its own."""
        own = {event.event_name for event in use.cls.publishes}
        for event in events:
            if event in own:
                raise NeedCycle(f"NF {use.name!r} waits for its own event {event!r}")
        found = {t.id: t.name for e in events for t in self.catalogue.subtree(e) if t.is_published}
        return tuple(found[number] for number in sorted(found) if found[number] not in own)

    def parts(self, events: tuple[str, ...], filters: tuple[str, ...]) -> tuple[Part, ...]:
        """The native subscriptions: one for all stack events, one per interval, one per alias."""
        bits = 0
        intervals: list[tuple[int, int]] = []
        aliases: dict[str, None] = {}
        for event in events:
            bits |= self.catalogue.bits(event)
            intervals.append(self.catalogue.interval(event))
            for alias in self.aliases(event, events):
                aliases[alias] = None
        parts: list[Part] = []
        spans = [span for span in _merged(intervals) if self.app_types(span)]
        if bits or spans:
            first = spans[0] if spans else None
            parts.append(self.part(bits, first, events, filters))
            parts += [self.part(0, span, events, filters) for span in spans[1:]]
        for alias in aliases:
            parts += self.alias_parts(alias, filters)
        return tuple(parts)

    def aliases(self, event: str, heard: tuple[str, ...]) -> list[str]:
        """User events below `event` whose base is not heard under its own name anyway."""
        return [
            t.name
            for t in self.catalogue.subtree(event)
            if t.base is not None and not any(self.covers(other, t.base) for other in heard)
        ]

    def covers(self, event: str, base: str) -> bool:
        """True when a subscriber of `event` hears everything that `base` is."""
        first, last = self.catalogue.interval(event)
        found = self.catalogue[base]
        while found.base is not None and not first <= found.id <= last:
            found = self.catalogue[found.base]
        return first <= found.id <= last

    def alias_parts(self, alias: str, filters: tuple[str, ...]) -> list[Part]:
        event = self.catalogue[alias]
        wheres = list(filters)
        number = event.id
        while event.base is not None:
            if event.where:
                wheres.insert(0, event.where)
            event = self.catalogue[event.base]
        return [replace(part, as_type=number) for part in self.parts((event.name,), tuple(wheres))]

    def app_types(self, span: tuple[int, int]) -> list[EventType]:
        """The types of an interval that an application module raises."""
        ids = range(span[0], span[1] + 1)
        types = [self.catalogue.by_id(number) for number in ids]
        return [t for t in types if t.bit is None and t.name in self.raised_by and _is_leaf(t)]

    def part(
        self,
        bits: int,
        span: tuple[int, int] | None,
        events: tuple[str, ...],
        filters: tuple[str, ...],
    ) -> Part:
        names = [self.catalogue.by_bit(bit).name for bit in range(64) if bits >> bit & 1]
        apps = dict.fromkeys(self.raised_by[t.name] for t in (self.app_types(span) if span else ()))
        level = max((level_of(name) for name in names), default=Level.PACKET)
        for app in apps:
            level = max(level, self.level_of_module(app))
        return Part(
            events=bits,
            names=tuple(names),
            types=span,
            modules=tuple(apps),
            level=level,
            where=_both(filters),
            where_on=events,
        )

    def level_of_module(self, name: str) -> Level:
        needs = [t.name for need in self.modules[name].needs for t in self.catalogue.subtree(need)]
        return max((level_of(need) for need in needs), default=Level.PACKET)

    def check_raised(self, planned: Sequence[PlannedNF]) -> None:
        """Every event that is asked for has somebody in the plan who raises it."""
        publishers = {event for nf in planned for event in nf.publishes}
        for nf in planned:
            for sub in nf.subscriptions:
                for event in sub.events:
                    if not self.is_raised(event, publishers):
                        text = f"nobody in this plan raises {event!r}"
                        raise UnraisedEvent(text, nf=nf.name, subscription=sub.name)

    def is_raised(self, event: str, publishers: set[str]) -> bool:
        for found in self.catalogue.subtree(event):
            if found.base is not None:
                if self.is_raised(found.base, publishers):
                    return True
                continue
            is_own = found.bit is not None and not needs_module(found.name)
            if is_own or found.name in self.raised_by or found.name in publishers:
                return True
        return False

    def needed_modules(self, planned: Sequence[PlannedNF]) -> dict[str, tuple[str, ...]]:
        """Returns module name → who needs it, transitively."""
        needed: dict[str, dict[str, None]] = {}
        for nf in planned:
            for sub in nf.subscriptions:
                for part in sub.parts:
                    self.need_part(part, f"{nf.name}.{sub.name}", needed)
        return {name: tuple(who) for name, who in needed.items()}

    def need_part(self, part: Part, who: str, needed: dict[str, dict[str, None]]) -> None:
        for name in part.names:
            self.need_event(name, who, needed, ())
        for module in part.modules:
            self.need_module(module, who, needed, ())
        if not _TOTALS.isdisjoint(part.names) and "tcp.state" in self.raised_by:
            self.need_event("tcp.state", who, needed, ())  # conn_state is the tracker's
        whole_datagrams = part.level > Level.PACKET or "flow.start" in part.names
        for planned in self.modules.values():
            if planned.phase is Phase.IP and whole_datagrams:  # flows are of whole datagrams
                self.need_module(planned.name, who, needed, ())

    def need_event(
        self, event: str, who: str, needed: dict[str, dict[str, None]], above: tuple[str, ...]
    ) -> None:
        module = self.raised_by.get(event)
        if module is not None:
            self.need_module(module, who, needed, above)
        elif needs_module(event):
            raise ModuleMissing(f"no installed stack module raises {event!r}", subscription=who)

    def need_module(
        self, name: str, who: str, needed: dict[str, dict[str, None]], above: tuple[str, ...]
    ) -> None:
        if name in above:
            raise NeedCycle(f"modules need each other: {' → '.join([*above, name])}")
        is_new = name not in needed
        needed.setdefault(name, {})[who] = None
        if not is_new:
            return
        for need in self.modules[name].needs:
            if need not in self.catalogue:
                raise ModuleMissing(f"module {name!r} needs event {need!r}, which nobody declares")
            for event in self.catalogue.subtree(need):
                raiser = self.raised_by.get(event.name)
                if raiser != name and (event.bit is not None or raiser is not None):
                    self.need_event(event.name, name, needed, (*above, name))


def level_of(event: str) -> Level:
    """Returns what the stack has to do for a flow so that a stack event is raised."""
    if event in _DATA_EVENTS:
        return Level.DATA
    if event.startswith("packet.") or event == "flow.start":
        return Level.PACKET
    return Level.TRACK


def needs_module(event: str) -> bool:
    """True for the stack events that a module raises, not the worker itself."""
    return event.partition(".")[0] not in ("packet", "flow")


def _is_leaf(event: EventType) -> bool:
    return event.base is None and not event.is_published


def _both(filters: Sequence[str]) -> str | None:
    if len(filters) < 2:
        return filters[0] if filters else None
    return " and ".join(f"({text})" for text in filters)


def _merged(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Drops intervals that lie inside others (subtrees nest or are apart)."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(set(intervals), key=lambda span: (span[0], -span[1])):
        if not found or first > found[-1][1]:
            found.append((first, last))
    return found


def _edges(catalogue: Catalogue, planned: Sequence[PlannedNF]) -> tuple[Edge, ...]:
    return tuple(
        Edge(publisher.name, event, nf.name, sub.name)
        for publisher in planned
        for event in publisher.publishes
        for nf in planned
        for sub in nf.subscriptions
        if event in sub.published
    )


def _in_order(planned: Sequence[PlannedNF], edges: Sequence[Edge]) -> list[PlannedNF]:
    """Publishers before their subscribers, else as the user wrote them."""
    left = list(planned)
    ordered: list[PlannedNF] = []
    while left:
        waiting = {nf.name for nf in left}
        ready = next(
            (
                nf
                for nf in left
                if not any(e.subscriber == nf.name and e.publisher in waiting for e in edges)
            ),
            None,
        )
        if ready is None:
            raise NeedCycle(f"NFs wait for each other's events: {_cycle(waiting, edges)}")
        left.remove(ready)
        ordered.append(ready)
    return ordered


def _cycle(names: set[str], edges: Sequence[Edge]) -> str:
    """Walks back from a waiting NF until one comes again, and writes the circle."""
    walk = [min(names)]
    while walk[-1] not in walk[:-1]:
        walk.append(
            next(e.publisher for e in edges if e.subscriber == walk[-1] and e.publisher in names)
        )
    circle = walk[walk.index(walk[-1]) :]
    return " → ".join(reversed(circle))


def _check_stages(planned: Sequence[PlannedNF]) -> None:
    editors: dict[int, tuple[str, str]] = {}
    for nf in planned:
        for sub in nf.subscriptions:
            if sub.mode != "inline" or not sub.edits:
                continue
            other = editors.setdefault(sub.stage, (nf.name, sub.name))
            if other[0] != nf.name:
                text = f"stage {sub.stage} already has the editor {other[0]!r}; use another stage"
                raise StageConflict(text, nf=nf.name, subscription=sub.name)


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
        if value not in words:
            known = ", ".join(words) or "a number"
            raise SpecError(path, f"{value!r} is none of: {known}{did_you_mean(value, words)}")
        value = words[value]
    if not limit.min <= value <= limit.max:
        raise SpecError(path, f"{value} is not within {limit.min}..{limit.max}")
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
