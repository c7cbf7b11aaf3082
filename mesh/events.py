# SPDX-License-Identifier: Apache-2.0
"""Event types: the catalogue, its hierarchy and fields, and events that NFs declare themselves.

A type's parent is everything before its last dot. A type inherits its ancestors' fields, and who
subscribes to a node hears the whole subtree below it. Types are numbered in preorder, so that a
subtree is an interval of ids.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mesh._ffi import native
from mesh.errors import PlanError, UnknownEvent, UnknownField, did_you_mean

__all__ = [
    "Catalogue",
    "Event",
    "EventType",
    "FieldDef",
    "Kind",
    "Source",
    "core_events",
    "shared_fields",
]


MAX_BITS = 48
"""A descriptor has room for this many stack events (NFM_EV_MAX)."""


class Kind(IntEnum):
    """What a field's value is (enum nfm_kind)."""

    U8 = 1
    U16 = 2
    U32 = 3
    U64 = 4
    I64 = 5
    F64 = 6
    BOOL = 7
    BYTES = 8
    STR = 9
    ADDR = 10
    TIME = 11


class Source(IntEnum):
    """Where a field's value is found (enum nfm_source)."""

    RECORD = 1
    FLOW = 2
    FIELDS = 3
    FLOW_SRC = 4
    FLOW_DST = 5
    FLOW_CLIENT = 6
    FLOW_SERVER = 7
    RECORD_CLIENT = 8
    RECORD_SERVER = 9
    FLAG = 10
    SENDER = 11
    PAYLOAD = 12
    DATA = 13


@dataclass(frozen=True, slots=True)
class FieldDef:
    """One field of an event type.

    Attributes:
        name: as filters and columns name it.
        kind: type of the value.
        source: snapshot, flow or field record.
        offset: bytes from the start of that source.
        unit: "ns", "bytes", "" or the enumeration that its number is of: "conn_state".
        doc: one line.
    """

    name: str
    kind: Kind
    source: Source
    offset: int
    unit: str = ""
    doc: str = ""


@dataclass(frozen=True, slots=True)
class EventType:
    """One node of the hierarchy.

    Attributes:
        name: dotted.
        doc: one line.
        fields: its own; `Catalogue.fields` adds the inherited ones.
        bit: number of the built-in stack event, None for all others.
        origin: who raises it: "core", a stack module, "nf:NAME", "user"; "" for a pure inner node.
        base: a user event's base event: it is that event, where `where` holds.
        where: a user event's filter.
        id: number within its catalogue, from 1 in preorder; 0 outside of one.
    """

    name: str
    doc: str = ""
    fields: tuple[FieldDef, ...] = ()
    bit: int | None = None
    origin: str = ""
    base: str | None = None
    where: str | None = None
    id: int = 0

    @property
    def parent(self) -> str | None:
        """Name of the parent; "" is the root of all and has none."""
        return self.name.rpartition(".")[0] if self.name else None

    @property
    def is_published(self) -> bool:
        """True when a network function raises it."""
        return self.origin.startswith("nf:")


class Catalogue:
    """All event types that a plan may name: immutable, ordered by id.

    Args:
        types: in any order. Missing inner nodes are made; the same name twice is an error.

    Raises:
        PlanError: a name twice, a field that shadows an inherited one, a base that is not there,
            or a published event below a stack event.
    """

    __slots__ = ("_bits", "_children", "_fields", "_last", "_list", "_masks", "_names", "_types")

    def __init__(self, types: Iterable[EventType]) -> None:
        known = _with_inner_nodes(types)
        self._children: dict[str, list[str]] = {name: [] for name in known}
        for name in sorted(known, key=lambda n: n.split(".")):
            parent = known[name].parent
            if parent is not None:
                self._children[parent].append(name)
        self._types: dict[str, EventType] = {}
        self._last: dict[str, int] = {}
        self._fields: dict[str, dict[str, FieldDef]] = {}
        self._number("", known, {})
        self._list = tuple(self._types.values())
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
        if event.is_published:
            event = dataclasses.replace(event, fields=_lay_out(event, inherited))
            _check_published_parent(event, known)
        for own in event.fields:
            other = inherited.get(own.name)
            if other is not None and other.kind != own.kind:
                raise PlanError(
                    f"field {own.name!r} is {own.kind.name} but inherited as {other.kind.name}",
                    subscription=name,
                )
        event = dataclasses.replace(event, id=len(self._types) + 1)
        self._types[name] = event
        self._fields[name] = {**inherited, **{f.name: f for f in event.fields}}
        for child in self._children[name]:
            self._number(child, known, self._fields[name])
        self._last[name] = len(self._types)

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
        """Returns the type with this id (1..len)."""
        return self._list[number - 1]

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
        return self._list[self[name].id - 1 : self._last[name]]

    def interval(self, name: str) -> tuple[int, int]:
        """Returns first and last id of the subtree."""
        return self[name].id, self._last[name]

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

    def ids_of_bits(self) -> npt.NDArray[np.uint32]:
        """Returns the id of each stack event by bit; the last entry, no event at all, is 0."""
        ids = np.zeros(MAX_BITS + 1, np.uint32)
        for bit, event in self._bits.items():
            ids[bit] = event.id
        return ids

    def is_a(self, name: str, ancestor: str) -> bool:
        """True when `name` is `ancestor` or lies below it; a user event also is its base."""
        first, last = self.interval(ancestor)
        event = self[name]
        if first <= event.id <= last:
            return True
        return event.base is not None and self.is_a(event.base, ancestor)

    def extended(self, types: Iterable[EventType]) -> Catalogue:
        """Returns a new catalogue that also has `types`."""
        return Catalogue([*(t for t in self._list if t.origin), *types])


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
            known[parent] = EventType(parent)
            parent = known[parent].parent
    return known


def _check_published_parent(event: EventType, known: Mapping[str, EventType]) -> None:
    """A published event stands alone or below an application event, never below a snapshot."""
    parent = event.parent
    while parent:
        above = known[parent]
        if above.bit is not None or above.origin == "core" or above.base is not None:
            raise PlanError(
                f"{event.origin[3:]} publishes below {parent!r}, which is no application event; "
                f"choose a name such as '{event.origin[3:]}.{event.name.rpartition('.')[2]}'",
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


# ---- events that network functions declare ---------------------------------------------------

_KINDS: dict[Any, Kind] = {
    int: Kind.I64,
    float: Kind.F64,
    str: Kind.STR,
    bytes: Kind.BYTES,
    bool: Kind.BOOL,
    IPv4Address: Kind.ADDR,
    IPv6Address: Kind.ADDR,
    IPv4Address | IPv6Address: Kind.ADDR,
}


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
class Event:
    """Base of the events that network functions publish.

    A subclass is a frozen, keyword-only dataclass; its annotations are the fields: int, float, str,
    bytes, bool, IPv4Address, IPv6Address or a union of the two. The class keyword `name` is the
    event's dotted name. An event below an application event (`http.request.sqli`) has the fields of
    its ancestors as well, filled from the event that it is published about.

    >>> class PortScan(Event, name="syn_scan.port_scan"):
    ...     source: str
    ...     ports: int
    >>> PortScan(source="192.0.2.1", ports=40).ports
    40
    >>> PortScan.event_name
    'syn_scan.port_scan'
    """

    event_name: ClassVar[str] = ""

    def __init_subclass__(cls, *, name: str = "", **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if not name or not all(part.isidentifier() for part in name.split(".")):
            raise TypeError(f"{cls.__name__}: give the event a dotted name: class X(Event, name=…)")
        cls.event_name = name
        dataclass(frozen=True, kw_only=True)(cls)

    @classmethod
    def own_fields(cls) -> tuple[FieldDef, ...]:
        """Returns the declared fields, not placed yet (`Catalogue` does).

        Raises:
            TypeError: an annotation is none of the types that events may have.
        """
        hints = typing.get_type_hints(cls)
        found: list[FieldDef] = []
        for own in dataclasses.fields(typing.cast(Any, cls)):
            kind = _KINDS.get(hints[own.name])
            if kind is None:
                raise TypeError(
                    f"{cls.__name__}.{own.name}: {hints[own.name]!r} is no event field type; use "
                    "int, float, str, bytes, bool, IPv4Address or IPv6Address"
                )
            found.append(FieldDef(own.name, kind, Source.FIELDS, 0))
        return tuple(found)

    @classmethod
    def event_type(cls, nf: str) -> EventType:
        """Returns the catalogue entry of this class as published by the NF `nf`."""
        doc = (cls.__doc__ or "").strip().partition("\n")[0]
        return EventType(cls.event_name, doc, cls.own_fields(), origin=f"nf:{nf}")


# ---- the native part of the catalogue --------------------------------------------------------


def core_events() -> tuple[EventType, ...]:
    """Reads the core's event types from the C library."""
    ffi, lib = native()
    count = ffi.new("uint32_t *")
    table = lib.nfm_core_events(count)
    return read_events(table, int(count[0]), "core")


def read_events(table: Any, count: int, origin: str) -> tuple[EventType, ...]:
    """Copies a C array of `nfm_event_def` into event types raised by `origin`."""
    return tuple(_read_event(table[i], origin) for i in range(count))


def _read_event(row: Any, origin: str) -> EventType:
    fields = tuple(_read_field(row.fields[i]) for i in range(int(row.n_fields)))
    bit = int(row.bit)
    return EventType(_text(row.name), _text(row.doc), fields, bit if bit >= 0 else None, origin)


def _read_field(row: Any) -> FieldDef:
    return FieldDef(
        _text(row.name),
        Kind(int(row.kind)),
        Source(int(row.source)),
        int(row.offset),
        _text(row.unit),
        _text(row.doc),
    )


def _text(pointer: Any) -> str:
    ffi = native().ffi
    return "" if pointer == ffi.NULL else typing.cast(str, ffi.string(pointer).decode())
