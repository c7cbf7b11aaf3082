# SPDX-License-Identifier: Apache-2.0
"""What an NF's class says of itself, as plain data: for who composes without its code.

An NF that joins from another container may be of an image of its own. Composition needs its
subscriptions and the events that it publishes, and nothing else of it: `declaration_of` takes them
from the class where that is loaded, `class_of` makes a class of them that composes alike.
"""

from __future__ import annotations

import types
from dataclasses import asdict
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mesh.declare import Event
from mesh.event_types import Kind
from mesh.nf import NF, Option, Subscription

__all__ = ["Declaration", "class_of", "declaration_of"]

Text = Annotated[str, Field(max_length=1024)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$", max_length=128)]
_Kind = Literal["i64", "f64", "str", "bytes", "bool", "addr"]
_TYPES: dict[str, Any] = {
    "i64": int,
    "f64": float,
    "str": str,
    "bytes": bytes,
    "bool": bool,
    "addr": IPv4Address | IPv6Address,
}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class DeclaredField(_Model):
    """One field of an event that the NF publishes."""

    name: Annotated[_Name, Field(description="of the field")]
    kind: Annotated[_Kind, Field(description="what it holds")]


class DeclaredEvent(_Model):
    """One event that the NF publishes."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$",
            max_length=256,
            description="with its parents",
        ),
    ]
    doc: Annotated[Text, Field(description="a sentence")] = ""
    fields: Annotated[list[DeclaredField], Field(max_length=128, description="its own")] = []


class DeclaredSubscription(_Model):
    """One subscription, as `mesh.Subscription` has it."""

    events: Annotated[
        list[Text], Field(min_length=1, max_length=256, description="names of event types")
    ]
    where: Annotated[str | None, Field(max_length=65536, description="filter")] = None
    mode: Annotated[
        Literal["observe", "inline"], Field(description="beside or in the way of packets")
    ] = "observe"
    name: Annotated[_Name, Field(description="of the subscription")]
    handler: Annotated[
        str,
        Field(
            pattern=r"^([A-Za-z_]\w*)?$", max_length=128, description="method; none: native code"
        ),
    ] = ""
    stage: Annotated[int, Field(ge=0, le=255, description="place in line")] = 0
    edits: Annotated[bool, Field(description="changes packets")] = False
    per_flow: Annotated[bool, Field(description="on no flow until the NF says so")] = False
    beside: Annotated[bool, Field(description="observes also in an NF that is inline")] = False


class Declaration(_Model):
    """What an NF's class says of itself, for who has not its code."""

    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", max_length=64, description="of the class"),
    ]
    holds: Annotated[int, Field(ge=0, le=4096, description="entries that it keeps at once")] = 0
    needs_order: Annotated[bool, Field(description="hears workers in the order of packets")] = False
    subscriptions: Annotated[
        list[DeclaredSubscription], Field(max_length=256, description="what it hears")
    ] = []
    publishes: Annotated[
        list[DeclaredEvent], Field(max_length=256, description="events of its own")
    ] = []
    raises: Annotated[
        list[DeclaredEvent], Field(max_length=32, description="events with its verdicts")
    ] = []


def declaration_of(cls: type[NF]) -> Declaration:
    """Returns what a class says of itself."""
    return Declaration(
        name=cls.name,
        holds=cls.holds,
        needs_order=cls.needs_order,
        subscriptions=[
            DeclaredSubscription(**{**asdict(sub), "events": list(sub.events)})
            for sub in cls.subscriptions()
        ],
        publishes=[_declared(event) for event in cls.publishes],
        raises=[_declared(event) for event in cls.raises],
    )


def class_of(declared: Declaration) -> type[NF]:
    """Returns a class that composes as the declared one; it cannot run."""
    subscriptions = tuple(
        Subscription(**{**sub.model_dump(), "events": tuple(sub.events)})
        for sub in declared.subscriptions
    )

    class Declared(NF):
        """An NF whose code is elsewhere."""

        name = declared.name
        holds = declared.holds
        needs_order = declared.needs_order
        publishes = tuple(_event(event) for event in declared.publishes)
        raises = tuple(_event(event) for event in declared.raises)

        @classmethod
        def subscriptions(cls) -> tuple[Subscription, ...]:
            return subscriptions

        @classmethod
        def options(cls) -> tuple[Option, ...]:
            return ()

    return Declared


def _declared(event: type[Event]) -> DeclaredEvent:
    fields = [
        DeclaredField(name=own.name, kind=Kind(own.kind).name.lower())  # type: ignore[arg-type]
        for own in event.own_fields()
    ]
    doc = (event.__doc__ or "").strip().partition("\n")[0]
    return DeclaredEvent(name=event.event_name, doc=doc[:1024], fields=fields)


def _event(declared: DeclaredEvent) -> type[Event]:
    """Makes an event class; its annotations are the types that its fields' kinds stand for."""
    body = {
        "__doc__": declared.doc,
        "__module__": __name__,
        "__annotations__": {field.name: _TYPES[field.kind] for field in declared.fields},
    }
    made: type[Event] = types.new_class(
        "DeclaredEventClass", (Event,), {"name": declared.name}, lambda space: space.update(body)
    )
    return made
