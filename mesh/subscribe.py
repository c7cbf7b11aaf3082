# SPDX-License-Identifier: Apache-2.0
"""From an NF's subscriptions to native ones: masks, intervals, levels and filters. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from mesh.errors import (
    CapacityError,
    FilterError,
    NeedCycle,
    PlanError,
    UnknownEvent,
    UnknownField,
    did_you_mean,
)
from mesh.events import FieldDef, shared_fields
from mesh.nf import Subscription
from mesh.plan import HeardPart, Level, Part, PlannedNF, PlannedSubscription
from mesh.raisers import Raisers, level_of
from mesh.uses import NFUse, SubscriptionOverride, UserEvent

__all__ = ["CheckFilter", "Subscriber"]

CheckFilter = Callable[[str, Mapping[str, FieldDef]], object]
"""Parses a filter against the fields that it may name; raises FilterError or UnknownField."""

MAX_HANDLERS = 256
"""A descriptor has 8 bits for the handler (nfm_desc.what)."""


class Subscriber:
    """Turns NFs into planned NFs; holds nothing that a step changes.

    Args:
        raisers: event types, and who raises them.
        check_filter: parses filters; None takes them unread.
    """

    def __init__(self, raisers: Raisers, check_filter: CheckFilter | None) -> None:
        self.raisers, self.catalogue, self.check = raisers, raisers.catalogue, check_filter

    def check_user_event(self, event: UserEvent) -> None:
        """Checks the filter of a named event against its base."""
        path = f"{event.path}.where" if event.path else ""
        self._filter_fits(event.where, (event.base,), "", event.name, path)

    def _filter_fits(
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
        """Plans one NF: all its subscriptions, checked."""
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
        subs = tuple(
            self._subscription(use, sub, methods.index(sub.handler), group)
            for group, sub in enumerate(own)
            if use.overrides.get(sub.name, SubscriptionOverride()).events != ()
        )
        return PlannedNF(
            name=use.name,
            cls=use.cls,
            options=use.options,
            instance=use.instance,
            subscriptions=subs,
            publishes=tuple(event.event_name for event in use.cls.publishes),
            domain=use.domain,
            holds=use.cls.holds if use.holds is None else use.holds,
            fail_open=use.fail_open,
            deadline_ms=use.deadline_ms,
        )

    def _subscription(
        self, use: NFUse, sub: Subscription, handler: int, group: int
    ) -> PlannedSubscription:
        change = use.overrides.get(sub.name, SubscriptionOverride())
        place = f"{use.path}.subscriptions.{sub.name}" if use.path else ""
        events = sub.events if change.events is None else change.events
        for event in events:
            self._check_event(event, use, sub, place if change.events is not None else use.path)
        own = sub.where if change.where is None else change.where
        wheres = [(text, path) for text, path in ((own, place), (use.where, use.path)) if text]
        filters = tuple(text for text, _ in wheres)
        for text, path in wheres:
            self._filter_fits(text, events, use.name, sub.name, f"{path}.where" if path else "")
        heard = self._heard(events, filters, use)
        if heard and not sub.handler:
            text = f"native code cannot hear {heard[0].names[0]!r}, which an NF publishes"
            raise PlanError(text, nf=use.name, subscription=sub.name, path=use.path)
        if heard and sub.per_flow:
            text = f"{heard[0].names[0]!r} is published by an NF: only stack events are per flow"
            raise PlanError(text, nf=use.name, subscription=sub.name, path=use.path)
        mode = sub.mode if sub.beside else use.mode or sub.mode
        parts = self._parts(events, filters)
        return PlannedSubscription(
            name=sub.name,
            handler=handler,
            method=sub.handler,
            events=events,
            where=_both(filters),
            parts=tuple(map(_decided, parts)) if mode == "inline" else parts,
            heard=heard,
            mode=mode,
            stage=sub.stage if use.stage is None else use.stage,
            edits=sub.edits,
            group=group,
            per_flow=sub.per_flow,
        )

    def _check_event(self, event: str, use: NFUse, sub: Subscription, path: str) -> None:
        if event == "" or event not in self.catalogue:
            hint = did_you_mean(event, (t.name for t in self.catalogue))
            text = f"unknown event {event!r}{hint}"
            raise UnknownEvent(text, nf=use.name, subscription=sub.name, path=path)

    def _published(self, events: Iterable[str], use: NFUse) -> tuple[str, ...]:
        """Names of the published types in these subtrees, in order of id; never its own."""
        own = {event.event_name for event in (*use.cls.publishes, *use.cls.raises)}
        for event in events:
            if event in own:
                raise NeedCycle(f"NF {use.name!r} waits for its own event {event!r}")
        found = {t.id: t.name for e in events for t in self.catalogue.subtree(e) if t.is_published}
        return tuple(found[number] for number in sorted(found) if found[number] not in own)

    def _heard(
        self, events: tuple[str, ...], filters: tuple[str, ...], use: NFUse
    ) -> tuple[HeardPart, ...]:
        """The published events below `events`, and those that user events there stand for."""
        parts = [HeardPart(self._published(events, use), _both(filters), events)]
        for alias in self._all_aliases(events):
            root, wheres = self._unfolded(alias, filters)
            names = self._published((root,), use)
            parts.append(HeardPart(names, _both(wheres), (root,), self.catalogue[alias].id))
        return tuple(part for part in parts if part.names)

    def _parts(self, events: tuple[str, ...], filters: tuple[str, ...]) -> tuple[Part, ...]:
        """The native subscriptions: one for all stack events, one per interval, one per alias."""
        bits = 0
        intervals: list[tuple[int, int]] = []
        for event in events:
            bits |= self.catalogue.bits(event)
            intervals += [self.catalogue.interval(event), *self.catalogue.spans(event)[1:]]
        parts: list[Part] = []
        spans = [span for span in _merged(intervals) if self.raisers.app_types(span)]
        if bits or spans:
            first = spans[0] if spans else None
            parts.append(self._part(bits, first, events, filters))
            parts += [self._part(0, span, events, filters) for span in spans[1:]]
        for alias in self._all_aliases(events):
            root, wheres = self._unfolded(alias, filters)
            number = self.catalogue[alias].id
            parts += [replace(part, as_type=number) for part in self._parts((root,), wheres)]
        return tuple(parts)

    def _all_aliases(self, events: tuple[str, ...]) -> list[str]:
        return list(dict.fromkeys(a for event in events for a in self._aliases(event, events)))

    def _aliases(self, event: str, heard: tuple[str, ...]) -> list[str]:
        """User events below `event` whose base is not heard under its own name anyway."""
        return [
            t.name
            for t in self.catalogue.subtree(event)
            if t.base is not None and not any(self._covers(other, t.base) for other in heard)
        ]

    def _covers(self, event: str, base: str) -> bool:
        """True when a subscriber of `event` hears everything that `base` is."""
        return self.catalogue.is_a(base, event)

    def _unfolded(self, alias: str, filters: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        """The event at the bottom of a user event, and all filters on the way there."""
        event = self.catalogue[alias]
        wheres = list(filters)
        while event.base is not None:
            if event.where:
                wheres.insert(0, event.where)
            event = self.catalogue[event.base]
        return event.name, tuple(wheres)

    def _part(
        self,
        bits: int,
        span: tuple[int, int] | None,
        events: tuple[str, ...],
        filters: tuple[str, ...],
    ) -> Part:
        names = [self.catalogue.by_bit(bit).name for bit in range(64) if bits >> bit & 1]
        apps = dict.fromkeys(
            self.raisers.raised_by[t.name]
            for t in (self.raisers.app_types(span) if span else ())
            if not t.is_raised_inline
        )
        own = max((level_of(name) for name in names), default=Level.PACKET)
        level = max([own, *(self.raisers.level_of_module(app) for app in apps)])
        return Part(
            events=bits,
            names=tuple(names),
            types=span,
            modules=tuple(apps),
            level=level,
            stack_level=own,
            where=_both(filters),
            where_on=events,
        )


def _decided(part: Part) -> Part:
    """The same for one that packets wait for: streams that it decides on leave as judged."""
    level = Level.SPLIT if part.level >= Level.DATA else part.level
    own = Level.SPLIT if part.stack_level >= Level.DATA else part.stack_level
    return replace(part, level=level, stack_level=own)


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
