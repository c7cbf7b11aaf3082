# SPDX-License-Identifier: Apache-2.0
"""A plan's parts as they travel: what each process needs, as plain data. Pure.

Three parts make a revision of the plan:

- `HostPart`, for the supervisor: which processes there are, and which shared objects.
- `WorkerPart`, for a worker: modules, receivers with their subscriptions, ports. No NF code, no
  object of Python's: a worker never imports an NF.
- `NFPart`, for an NF host: where the class is found, its configuration, its handlers, what it
  hears of other NFs, its rings and logs.

A part is level-triggered: it says all that shall be, and the receiver works out what to change
(mesh/reconcile.py). Worker and NF parts carry the event types with their ids, so that everybody
numbers them alike whatever is installed where they run. parts.py makes parts of a plan, unpack.py
what their receivers work with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from mesh.control.port_parts import CapturePart, HandoverPart, PortPart, ReplayPart
from mesh.errors import SpecError
from mesh.events import Catalogue
from mesh.words import MAX_WORKERS, OWN_DOMAIN

__all__ = [
    "CapturePart",
    "ChildPart",
    "FieldWire",
    "HandlerPart",
    "HandoverPart",
    "HeardWire",
    "HostPart",
    "HostedPart",
    "InLinePart",
    "InboxPart",
    "LogPart",
    "ModuleHostPart",
    "ModulePart",
    "NFPart",
    "NativeSubscription",
    "ObjectPart",
    "PortPart",
    "Receiver",
    "ReplayPart",
    "RingPart",
    "RoomPart",
    "TypeWire",
    "WorkerPart",
    "from_wire",
    "to_wire",
    "types_of",
]

_STRICT = ConfigDict(extra="forbid", defer_build=True)
_U32 = Annotated[int, Field(ge=0, lt=1 << 32)]
_U64 = Annotated[int, Field(ge=0, lt=1 << 64)]
Text = Annotated[str, Field(max_length=4096)]


@checked(frozen=True, slots=True, config=_STRICT)
class FieldWire:
    """One field of an event type: FieldDef without its text."""

    name: Text
    kind: _U32
    source: _U32
    offset: _U32
    unit: Text = ""


@checked(frozen=True, slots=True, config=_STRICT)
class TypeWire:
    """One event type with its id: EventType without its text."""

    name: Text
    id: _U32
    origin: Text = ""
    bit: Annotated[int, Field(ge=0, lt=48)] | None = None
    base: Text | None = None
    where: Text | None = None
    fields: tuple[FieldWire, ...] = ()


@checked(frozen=True, slots=True, config=_STRICT)
class HostedPart:
    """How a worker speaks to the process that runs a module of its.

    Attributes:
        ring: what the module is asked; answers: what it says.
        deadline_ms: a host that is silent for so long is not waited for.
    """

    ring: Text
    answers: Text
    deadline_ms: _U32


@checked(frozen=True, slots=True, config=_STRICT)
class ModulePart:
    """One stack module, in the order in which the worker runs them.

    Attributes:
        library, symbol: where a third party's is found, as in ModuleInfo; "" for libnfm's own.
        limits: values in the order of its descriptor.
        types: id per emitted event; 0 for stack events.
        host: None for a module that runs in the worker.
    """

    name: Text
    limits: tuple[_U64, ...]
    types: tuple[_U32, ...]
    library: Text = ""
    symbol: Text = ""
    host: HostedPart | None = None


@checked(frozen=True, slots=True, config=_STRICT)
class RoomPart:
    """A stack module that may be needed later: its state gets room in every flow's block."""

    name: Text
    library: Text = ""
    symbol: Text = ""


@checked(frozen=True, slots=True, config=_STRICT)
class NativeSubscription:
    """One row for nfm_worker_subscribe.

    Attributes:
        id: the same as long as an NF has it: `nf.subscription#0`. What stands under an id may
            change; then the new row replaces the old one.
        events: mask of stack events.
        level: what the stack events need (enum nfm_level).
        types: first and last id of application types, or None.
        modules: names of the application modules that raise them.
        where: the filter, or None; where_on: event types whose shared fields it may name.
        as_type: id of the user event that this is delivered as; 0 as is.
        group: of the NF's subscription; per_flow: on no flow until the NF says so.
        in_line: packets wait for the NF's verdict; stage: smaller ones are asked before.
    """

    id: Text
    handler: Annotated[int, Field(ge=0, lt=256)]
    events: Annotated[int, Field(ge=0, lt=1 << 48)]
    level: Annotated[int, Field(ge=0, lt=6)]
    types: tuple[_U32, _U32] | None
    modules: tuple[Text, ...]
    where: Text | None = None
    where_on: tuple[Text, ...] = ()
    as_type: _U32 = 0
    group: Annotated[int, Field(ge=0, lt=256)] = 0
    per_flow: bool = False
    in_line: bool = False
    stage: Annotated[int, Field(ge=0, lt=256)] = 0


@checked(frozen=True, slots=True, config=_STRICT)
class InLinePart:
    """What packets do that an NF has not decided on by its deadline.

    Attributes:
        is_open: they pass; else they are dropped.
        deadline_ms: of live packets; those of captures wait.
        raisable: events that it raises: id, cells of a field record, which of them point to bytes.
    """

    is_open: bool
    deadline_ms: _U32
    raisable: tuple[tuple[_U32, _U32, _U64], ...] = ()


@checked(frozen=True, slots=True, config=_STRICT)
class Receiver:
    """One NF as a worker sees it.

    Attributes:
        nf: its name.
        ring: name of the shared object: `ring/http_log/w0`.
        entries: of the ring, a power of two.
        lossy: count what does not fit, instead of waiting.
        in_line: what it is as one who decides; None: it only observes.
        subscriptions: none while the NF is leaving: it finishes what is in its ring.
        holds: records that it may keep past its ring's tail.
        domain: whose memory its entries name.
    """

    nf: Text
    ring: Text
    entries: _U32
    lossy: bool
    subscriptions: tuple[NativeSubscription, ...]
    holds: _U32 = 0
    domain: Text = OWN_DOMAIN
    in_line: InLinePart | None = None


@checked(frozen=True, slots=True, config=_STRICT)
class InboxPart:
    """The inbox of a domain at one worker.

    Attributes:
        domain: its name.
        objects: names by enum nfm_object: `w0/domain/tenant/header`, ...
        config: sizes by name in nfm_domain_config.
    """

    domain: Text
    objects: tuple[Text, ...]
    config: dict[Text, _U64]


@checked(frozen=True, slots=True, config=_STRICT)
class WorkerPart:
    """What one worker does.

    Attributes:
        worker: its name, as in `worker-0`; `id` is its number, part of flow ids.
        objects: names of its shared objects by enum nfm_object: `w0/header`, ...
        config: sizes and switches, by name in nfm_worker_config.
        workers: how many there are that share the packets.
        is_busy: it never sleeps while live ports are quiet.
        handover: None where each finds all that is its own by itself.
        mode: "file" ends at the end of its ports, "live" never.
        max_packets: stop after so many; None all.
        types: all event types.
        room: modules that may join while packets flow; read at the start only.
        inboxes: of the receivers' domains, all but the mesh's own.
    """

    worker: Text
    id: Annotated[int, Field(ge=0, lt=256)]
    objects: tuple[Text, ...]
    config: dict[Text, _U64]
    mode: Literal["file", "live"]
    ports: tuple[PortPart, ...]
    modules: tuple[ModulePart, ...]
    receivers: tuple[Receiver, ...]
    types: tuple[TypeWire, ...]
    max_packets: _U64 | None = None
    room: tuple[RoomPart, ...] = ()
    inboxes: tuple[InboxPart, ...] = ()
    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = 1
    is_busy: bool = False
    handover: HandoverPart | None = None


@checked(frozen=True, slots=True, config=_STRICT)
class HeardWire:
    """Published events that a subscription hears: HeardPart."""

    names: tuple[Text, ...]
    where: Text | None
    where_on: tuple[Text, ...]
    as_type: _U32 = 0


@checked(frozen=True, slots=True, config=_STRICT)
class HandlerPart:
    """One subscription of an NF as its host needs it.

    Attributes:
        handler: number in descriptors; method: "" for the native function.
        events: what it hears, for the schema of its batches.
        heard: published events that it hears.
    """

    name: Text
    handler: Annotated[int, Field(ge=0, lt=256)]
    method: Text
    events: tuple[Text, ...]
    where: Text | None = None
    heard: tuple[HeardWire, ...] = ()
    mode: Text = "observe"
    stage: _U32 = 0
    edits: bool = False
    group: Annotated[int, Field(ge=0, lt=256)] = 0


@checked(frozen=True, slots=True, config=_STRICT)
class RingPart:
    """One ring of an NF, and the objects of the worker that fills it, by enum nfm_object."""

    ring: Text
    worker: Text
    objects: tuple[Text, ...]


@checked(frozen=True, slots=True, config=_STRICT)
class LogPart:
    """One log between two NFs, as either of them sees it.

    Attributes:
        peer: the publisher's name to its reader, the reader's to the publisher.
        log: the log's object; cursor: the reader's own object.
        lossy: what is overwritten before it was read is counted, instead of waiting.
        from_now: the reader joined while the publisher ran: it starts at the log's end.
    """

    peer: Text
    log: Text
    cursor: Text
    lossy: bool
    from_now: bool = False


@checked(frozen=True, slots=True, config=_STRICT)
class NFPart:
    """What one NF host runs.

    Attributes:
        nf: its name in the plan.
        use: the class, as `Registry.nf` takes it; files are absolute.
        config: its options as in the spec, unchecked (`mesh.options.nf_config` checks them).
        handlers: its subscriptions in the order of the class.
        publishes: names of the events that it may publish; raises: with its verdicts.
        rings: one per worker.
        log: name of its own log, or None when it publishes nothing.
        reads: logs of NFs that it hears, in the order of the plan; readers: of its own log.
        source: what packets come from, for its Context; out: folder for files.
        max_failures: exceptions after which it hears nothing more.
        fail_open: packets that an inline NF does not judge pass; else they are dropped.
        types: all event types.
        skew_ns: where workers read captures: event time that entries of one of them may be handed
            out before those of another, at most; 0: they come in the order of packets; None: as
            they come.
        opens_files: the NF opens the files that it writes by itself; nobody does it for it.
        ports: what each port may be called.
        is_busy: it never sleeps.
    """

    nf: Text
    use: Text
    config: dict[str, Any]
    handlers: tuple[HandlerPart, ...]
    publishes: tuple[Text, ...]
    rings: tuple[RingPart, ...]
    log: Text | None
    reads: tuple[LogPart, ...]
    readers: tuple[LogPart, ...]
    source: Text
    out: Text
    max_failures: _U32
    types: tuple[TypeWire, ...]
    fail_open: bool = False
    skew_ns: _U64 | None = None
    opens_files: bool = False
    ports: tuple[tuple[Text, ...], ...] = ()
    is_busy: bool = False
    raises: tuple[Text, ...] = ()


@checked(frozen=True, slots=True, config=_STRICT)
class ModuleHostPart:
    """What the process of a stack module runs; library, symbol and limits as in ModulePart.

    Attributes:
        objects: the worker's, by enum nfm_object.
        ring: what it is asked; answers: what it says.
    """

    module: Text
    library: Text
    symbol: Text
    limits: tuple[_U64, ...]
    objects: tuple[Text, ...]
    ring: Text
    answers: Text


@checked(frozen=True, slots=True, config=_STRICT)
class ChildPart:
    """One process that the supervisor keeps running.

    Attributes:
        name: `worker-0`, `module-http`, or the NF's.
        cores: that it is pinned to; None leaves it to the supervisor.
        restart: when it is started again.
        writes: objects that it may write; reads: objects that it gets read-only.
        module: what it runs, when it is the process of a stack module.
        is_waited_for: what is in its rings stays there while it is started again; else packets
            that wait for its verdicts take its policy, and are not read again.
        place: "pod": it joins from elsewhere, and is never started here.
        token: of one that joins: SHA-256 of what it has to show, in hexadecimal.
        n_cores: so many cores for itself, whichever; 0: as `cores` says.
    """

    name: Text
    role: Literal["worker", "nf", "module"]
    cores: tuple[_U32, ...] | None
    restart: Literal["always", "on-failure", "never"]
    writes: tuple[Text, ...]
    reads: tuple[Text, ...]
    domain: Text = OWN_DOMAIN
    module: ModuleHostPart | None = None
    is_waited_for: bool = True
    place: Literal["process", "pod"] = "process"
    token: Text = ""
    n_cores: _U32 = 0


@checked(frozen=True, slots=True, config=_STRICT)
class ObjectPart:
    """One shared object.

    Attributes:
        kind: "worker" and "inbox": size is asked of the library with a config; "ring": `entries`
            long; "bell": an eventfd; "answers", "handover", "log", "cursor" and "checkpoint": as
            the supervisor sees fit.
    """

    name: Text
    kind: Literal[
        "worker", "inbox", "ring", "answers", "handover", "bell", "log", "cursor", "checkpoint"
    ]
    entries: _U32 = 0


@checked(frozen=True, slots=True, config=_STRICT)
class HostPart:
    """What one supervisor keeps up: children in the order of starting.

    Attributes:
        worker_config: by worker's name, for the sizes of its objects.
        inboxes: the same for domains, by what their objects' names begin with.
        reserved: cores that no child gets for itself unless it names them.
    """

    children: tuple[ChildPart, ...]
    objects: tuple[ObjectPart, ...]
    worker_config: dict[Text, dict[Text, _U64]]
    inboxes: dict[Text, dict[Text, _U64]] = field(default_factory=dict)
    reserved: tuple[_U32, ...] = ()


_Part = TypeVar("_Part", WorkerPart, NFPart, HostPart, ModuleHostPart)


def to_wire(part: WorkerPart | NFPart | HostPart) -> dict[str, Any]:
    """Turns a part into plain data for `messages.PlanPart.part`."""
    return asdict(part)


def from_wire(kind: type[_Part], data: Mapping[str, Any]) -> _Part:
    """Turns plain data into a part.

    Raises:
        SpecError: it is none; the path names the place.
    """
    try:
        found: _Part = TypeAdapter(kind).validate_python(dict(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise SpecError(f"plan.{place}", first["msg"]) from error
    return found


def types_of(catalogue: Catalogue) -> tuple[TypeWire, ...]:
    """Returns a catalogue's types with their ids, for a part."""
    return tuple(
        TypeWire(
            name=event.name,
            id=event.id,
            origin=event.origin,
            bit=event.bit,
            base=event.base,
            where=event.where,
            fields=tuple(
                FieldWire(f.name, int(f.kind), int(f.source), f.offset, f.unit)
                for f in event.fields
            ),
        )
        for event in catalogue
    )
