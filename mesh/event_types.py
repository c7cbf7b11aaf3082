# SPDX-License-Identifier: Apache-2.0
"""Event types and their fields as plain data, mirroring nfm_event_def and nfm_field_def."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

__all__ = ["EventType", "FieldDef", "Kind", "Source"]


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
        origin: who raises it: "core", a stack module, "nf:NAME" (by its log), "inline:NAME" (an NF
            with its verdicts), "user"; "" for a pure inner node.
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
        """True when a network function publishes it."""
        return self.origin.startswith("nf:")

    @property
    def is_raised_inline(self) -> bool:
        """True when a network function raises it with its verdicts."""
        return self.origin.startswith("inline:")
