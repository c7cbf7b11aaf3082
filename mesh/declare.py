# SPDX-License-Identifier: Apache-2.0
"""Events that network functions declare and publish."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, ClassVar

from mesh.event_types import EventType, FieldDef, Kind, Source

__all__ = ["Event", "Origin"]

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


@dataclass(frozen=True, slots=True)
class Origin:
    """What a native NF copied of the event that it publishes something about.

    Attributes:
        record: the nfm_record, 128 bytes.
        flow: the nfm_flow_info, 64 bytes; None without a flow.
    """

    record: bytes
    flow: bytes | None = None


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
    def event_type(cls, nf: str, *, inline: bool = False) -> EventType:
        """Returns the catalogue entry of this class.

        Args:
            nf: whose it is.
            inline: it is raised with verdicts; else published.
        """
        doc = (cls.__doc__ or "").strip().partition("\n")[0]
        origin = f"{'inline' if inline else 'nf'}:{nf}"
        return EventType(cls.event_name, doc, cls.own_fields(), origin=origin)
