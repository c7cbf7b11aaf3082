# SPDX-License-Identifier: Apache-2.0
"""The catalogue of event types: hierarchy, inherited fields, numbering.

A type's parent is everything before its last dot. A type inherits its ancestors' fields, and who
subscribes to a node hears the whole subtree below it. Types are numbered in preorder, so that a
subtree is an interval of ids. While a mesh runs numbers stay: types that join later are numbered
behind all others, and a subtree is then its interval and what joined it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from mesh.errors import PlanError, UnknownEvent, UnknownField, did_you_mean
from mesh.event_types import EventType, FieldDef, Kind, Source

__all__ = ["CELL", "Catalogue", "EventType", "FieldDef", "Kind", "Source", "shared_fields"]

MAX_BITS = 48
"""A descriptor has room for this many stack events (NFM_EV_MAX)."""


class Catalogue:
    """All event types that a plan may name: immutable, ordered by id.

    Args:
        types: in any order. Missing inner nodes are made; the same name twice is an error.
        numbers: name → id of the types that have one already, those that have left as well.

    Raises:
        PlanError: a name twice, a field that shadows an inherited one, a base that is not there,
            or a published event below a stack event.
    """

    __slots__ = (
        *("_bits", "_by_id", "_children", "_fields", "_list", "_masks", "_names", "_spans"),
        *("_types", "numbers"),
    )

    def __init__(
        self, types: Iterable[EventType], numbers: Mapping[str, int] | None = None
    ) -> None:
        known = _with_inner_nodes(types)
        self.numbers = dict(numbers or {})
        self._children: dict[str, list[str]] = {name: [] for name in known}
        for name in sorted(known, key=lambda n: n.split(".")):
            parent = known[name].parent
            if parent is not None:
                self._children[parent].append(name)
        self._types: dict[str, EventType] = {}
        self._fields: dict[str, dict[str, FieldDef]] = {}
        self._number("", known, {})
        self._list = tuple(sorted(self._types.values(), key=lambda event: event.id))
        self._by_id = {event.id: event for event in self._list}
        self._spans = {name: _spans(t.id for t in self._below(name)) for name in self._types}
        self._bits = {t.bit: t for t in self._list if t.bit is not None}
        self._masks = {name: self._mask(name) for name in self._types}
        self._names: dict[int, tuple[str, ...]] = {}
        for event in self._list:
            if event.base is not None:
                self._check_base(event)

    def _number(
        self, name: str, known: Mapping[str, EventType], inherited: dict[str, FieldDef]
    ) -> None:
        event = known[name]
        if event.is_published or event.is_raised_inline:
            event = dataclasses.replace(event, fields=_lay_out(event, inherited))
            _check_published_parent(event, known)
        for own in event.fields:
            other = inherited.get(own.name)
            if other is not None and other.kind != own.kind:
                raise PlanError(
                    f"field {own.name!r} is {own.kind.name} but inherited as {other.kind.name}",
                    subscription=name,
                )
        number = self.numbers.setdefault(name, max(self.numbers.values(), default=0) + 1)
        event = dataclasses.replace(event, id=number)
        self._types[name] = event
        self._fields[name] = {**inherited, **{f.name: f for f in event.fields}}
        for child in self._children[name]:
            self._number(child, known, self._fields[name])

    def _below(self, name: str) -> Iterator[EventType]:
        yield self._types[name]
        for child in self._children[name]:
            yield from self._below(child)

    def _check_base(self, event: EventType) -> None:
        seen = [event.name]
        base = event.base
        while base is not None:
            if base in seen:
                raise PlanError(f"user events refer in a circle: {' → '.join([*seen, base])}")
            if base not in self:
                hint = did_you_mean(base, self._types)
                raise UnknownEvent(f"unknown event {base!r}{hint}", subscription=event.name)
            seen.append(base)
            base = self[base].base

    def __getitem__(self, name: str) -> EventType:
        """Returns the type of this name, or raises UnknownEvent with the closest name."""
        found = self._types.get(name)
        if found is None:
            hint = did_you_mean(name, self._types)
            raise UnknownEvent(f"unknown event {name!r}{hint}")
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._types

    def __iter__(self) -> Iterator[EventType]:
        return iter(self._list)

    def __len__(self) -> int:
        return len(self._list)

    def by_id(self, number: int) -> EventType:
        """Returns the type with this id (from 1)."""
        return self._by_id[number]

    def between(self, first: int, last: int) -> tuple[EventType, ...]:
        """Returns the types with ids from `first` to `last`, in order of id."""
        return tuple(event for event in self._list if first <= event.id <= last)

    def by_bit(self, bit: int) -> EventType:
        """Returns the built-in stack event of this bit."""
        return self._bits[bit]

    def fields(self, name: str) -> Mapping[str, FieldDef]:
        """Returns all fields of a type by name, inherited ones first.

        A user event has the fields of its base.
        """
        event = self[name]
        if event.base is not None:
            return self.fields(event.base)
        return self._fields[name]

    def field(self, name: str, field_name: str) -> FieldDef:
        """Returns one field of a type, or raises UnknownField with the closest name."""
        fields = self.fields(name)
        found = fields.get(field_name)
        if found is None:
            hint = did_you_mean(field_name, fields)
            raise UnknownField(f"event {name!r} has no field {field_name!r}{hint}")
        return found

    def ancestors(self, name: str) -> tuple[EventType, ...]:
        """Returns the parents from the nearest to the root."""
        found: list[EventType] = []
        parent = self[name].parent
        while parent is not None:
            found.append(self._types[parent])
            parent = self._types[parent].parent
        return tuple(found)

    def roots(self) -> tuple[EventType, ...]:
        """Returns the top-level types in order of name."""
        return self.children("")

    def children(self, name: str) -> tuple[EventType, ...]:
        """Returns the direct children in order of name."""
        self[name]
        return tuple(self._types[child] for child in self._children[name])

    def subtree(self, name: str) -> tuple[EventType, ...]:
        """Returns the type and everything below it, in order of id."""
        return tuple(sorted(self._below(self[name].name), key=lambda event: event.id))

    def interval(self, name: str) -> tuple[int, int]:
        """Returns first and last id of the subtree, without NFs' events that joined later."""
        first, own = self[name].id, self.spans(name)[0]
        raised = [
            t.id
            for t in self._below(name)
            if not (t.is_published or t.is_raised_inline) and t.base is None
        ]
        return first, max([own[1], *raised])

    def spans(self, name: str) -> tuple[tuple[int, int], ...]:
        """Returns the ids of the subtree as intervals, in order; one unless types joined later."""
        return self._spans[self[name].name]

    def bits(self, name: str) -> int:
        """Returns the mask of the built-in stack events in the subtree."""
        return self._masks[self[name].name]

    def _mask(self, name: str) -> int:
        return sum(1 << event.bit for event in self.subtree(name) if event.bit is not None)

    def names_of_bits(self, bits: int) -> tuple[str, ...]:
        """Returns the names of the stack events in a mask, lowest bit first."""
        found = self._names.get(bits)
        if found is None:
            found = tuple(
                event.name for bit, event in sorted(self._bits.items()) if bits >> bit & 1
            )
            self._names[bits] = found
        return found

    def ids_of_bits(self) -> list[int]:
        """Returns the id of each stack event by bit; the last entry, no event at all, is 0."""
        ids = [0] * (MAX_BITS + 1)
        for bit, event in self._bits.items():
            ids[bit] = event.id
        return ids

    def is_a(self, name: str, ancestor: str) -> bool:
        """True when `name` is `ancestor` or lies below it; a user event also is its base."""
        event = self[name]
        if any(first <= event.id <= last for first, last in self.spans(ancestor)):
            return True
        return event.base is not None and self.is_a(event.base, ancestor)

    def extended(self, types: Iterable[EventType]) -> Catalogue:
        """Returns a new catalogue that also has `types`."""
        return Catalogue([*(t for t in self._list if t.origin), *types])


def _spans(ids: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Joins ids to intervals.

    >>> _spans([5, 3, 4, 9])
    ((3, 5), (9, 9))
    """
    found: list[tuple[int, int]] = []
    for number in sorted(ids):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return tuple(found)


def shared_fields(catalogue: Catalogue, names: tuple[str, ...]) -> Mapping[str, FieldDef]:
    """Returns the fields that all of these types have, in the same place."""
    first, *others = [catalogue.fields(name) for name in names]
    return {
        name: field
        for name, field in first.items()
        if all(_same_place(other.get(name), field) for other in others)
    }


def _same_place(other: FieldDef | None, field: FieldDef) -> bool:
    return other is not None and (other.kind, other.source, other.offset) == (
        field.kind,
        field.source,
        field.offset,
    )


def _with_inner_nodes(types: Iterable[EventType]) -> dict[str, EventType]:
    known = {"": EventType("", "any event; its fields belong to every event")}
    for event in types:
        other = known.get(event.name)
        if other is not None and other.origin:
            text = f"declared twice, by {other.origin} and {event.origin or 'nobody'}"
            raise PlanError(text, subscription=event.name)
        known[event.name] = event
    for name in list(known):
        parent = known[name].parent
        while parent is not None and parent not in known:
            known[parent] = EventType(parent, f"everything that begins with {parent}.")
            parent = known[parent].parent
    return known


def _check_published_parent(event: EventType, known: Mapping[str, EventType]) -> None:
    """A published event stands alone or below an application event, never below a snapshot."""
    parent, nf = event.parent, event.origin.partition(":")[2]
    while parent:
        above = known[parent]
        if above.bit is not None or above.origin == "core" or above.base is not None:
            raise PlanError(
                f"{nf} publishes below {parent!r}, which is no application event; "
                f"choose a name such as '{nf}.{event.name.rpartition('.')[2]}'",
                subscription=event.name,
            )
        parent = above.parent


CELL = 8
"""Bytes that a value takes in a field record; text, bytes and addresses lie behind the cells."""


def _lay_out(event: EventType, inherited: Mapping[str, FieldDef]) -> tuple[FieldDef, ...]:
    """Places a published event's own fields behind the inherited cells of the field record."""
    cells = [f for f in inherited.values() if f.source is Source.FIELDS]
    end = max((f.offset + CELL for f in cells), default=0)
    placed: list[FieldDef] = []
    for own in event.fields:
        if own.name in inherited:
            continue
        placed.append(dataclasses.replace(own, source=Source.FIELDS, offset=end))
        end += CELL
    return tuple(placed)
