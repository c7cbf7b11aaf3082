# SPDX-License-Identifier: Apache-2.0
"""Event types as the C library declares them."""

from __future__ import annotations

from typing import Any

from mesh._ffi import native
from mesh.event_types import EventType, FieldDef, Kind, Source

__all__ = ["core_events", "read_events"]


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
    return "" if pointer == ffi.NULL else str(ffi.string(pointer).decode())
