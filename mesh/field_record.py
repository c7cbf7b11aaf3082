# SPDX-License-Identifier: Apache-2.0
"""Field records of NFs' own events, and the way to the worker of those that come with verdicts."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

from mesh.declare import Event, Origin
from mesh.errors import StateError
from mesh.event_types import FieldDef, Kind, Source
from mesh.events import CELL, Catalogue

if TYPE_CHECKING:
    from mesh.batch import EventView

__all__ = ["fields_of", "raise_about"]

_BYTES = (Kind.BYTES, Kind.STR, Kind.ADDR)


def raise_about(event: Event, about: EventView) -> None:
    """Has the worker deliver an event while the packet that it is about waits.

    Args:
        event: what is raised.
        about: the event that caused it, of an inline handler's batch that is still valid.

    Raises:
        StateError: no packet waits; or the event inherits fields that `about` does not have.
        ValueError: it is too large.
    """
    batch = about._batch
    entry, commands = batch.waiting(about._index)
    catalogue = batch._schema.catalogue
    fields = fields_of(catalogue, event, about)
    commands.raise_event(entry, catalogue[event.event_name].id, fields)


def _placed(catalogue: Catalogue, name: str) -> list[FieldDef]:
    placed = [f for f in catalogue.fields(name).values() if f.source is Source.FIELDS]
    return sorted(placed, key=lambda field: field.offset)


def fields_of(catalogue: Catalogue, event: Event, about: EventView | Origin | None) -> bytes:
    """Lays out an event's fields.

    Raises:
        StateError: the event inherits fields that `about` does not have.
    """
    placed = _placed(catalogue, event.event_name)
    return _field_record([(field, _value(event, about, field)) for field in placed])


def _value(event: Event, about: EventView | Origin | None, field: FieldDef) -> Any:
    if field.name in type(event).__dataclass_fields__:  # type: ignore[attr-defined]
        return getattr(event, field.name)
    if about is None or isinstance(about, Origin):
        raise StateError(f"publish {event.event_name} about an event that has {field.name!r}")
    schema = about._batch._schema.of(about.type)
    own = schema.fields.get(field.name)
    if own is None or own.kind is not field.kind:
        raise StateError(f"{about.type} has no {field.name!r}, which {event.event_name} inherits")
    batch = about._batch
    single = type(batch)(schema, batch._memory, batch._pointer() + about._index, 1, batch)
    if field.kind in (Kind.BYTES, Kind.STR):
        return bytes(single.views(field.name)[0])
    if field.kind is Kind.ADDR:
        text = single.text(field.name)[0]
        return ip_address(text) if text else b""
    return single.column(field.name)[0].item()


def _field_record(values: Sequence[tuple[FieldDef, Any]]) -> bytes:
    """Lays out cells, then the bytes that cells point to."""
    end = len(values) * CELL
    cells: list[bytes] = []
    tail: list[bytes] = []
    for field, value in values:
        if field.kind not in _BYTES:
            cells.append(_cell(field.kind, value))
            continue
        raw = _raw(field.kind, value)
        cells.append(struct.pack("<II", end, len(raw)))
        tail.append(raw)
        end += len(raw)
    return b"".join([*cells, *tail])


def _cell(kind: Kind, value: Any) -> bytes:
    if kind is Kind.F64:
        return struct.pack("<d", value)
    if kind in (Kind.I64, Kind.TIME):
        return struct.pack("<q", value)
    return struct.pack("<Q", int(value))


def _raw(kind: Kind, value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, IPv4Address | IPv6Address):
        return value.packed
    if kind is Kind.ADDR and len(bytes(value)) not in (0, 4, 16):
        raise ValueError(f"an address has 4 or 16 bytes, not {len(bytes(value))}")
    return bytes(value)
