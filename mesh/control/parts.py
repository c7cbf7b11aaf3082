# SPDX-License-Identifier: Apache-2.0
"""From a composed plan to the part of each process. Pure.

Every NF has a ring of every worker, also one that hears nothing of the stack at the moment: what
it subscribes to later needs no new memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mesh.control.layout import RING_ENTRIES, Layout, Leaving, Placement
from mesh.control.shared_ports import handover_objects, handover_of, ports_of_worker
from mesh.control.wire import (
    ChildPart,
    HandlerPart,
    HeardWire,
    HostedPart,
    HostPart,
    InboxPart,
    InLinePart,
    LogPart,
    ModuleHostPart,
    ModulePart,
    NativeSubscription,
    NFPart,
    ObjectPart,
    Receiver,
    RingPart,
    RoomPart,
    TypeWire,
    WorkerPart,
    types_of,
)
from mesh.errors import SpecError
from mesh.events import Catalogue
from mesh.outputs import output_paths
from mesh.plan import Plan, PlannedNF, PlannedSubscription
from mesh.raisers import raisable_of
from mesh.words import OWN_DOMAIN

__all__ = [
    "OBJECTS",
    "Parts",
    "make_parts",
    "native_subscriptions",
]

OBJECTS = ("header", "packets", "records", "fields", "flows")
"""A worker's shared objects by enum nfm_object."""
MAX_FAILURES = 10
SKEW_NS = 10_000_000
"""What NFs hear of captures of two workers differs by so much event time at most: little against
windows over time, and much against the time between packets of a fast link."""
DEADLINE_MS: Mapping[Literal["file", "live"], int] = {"file": 20_000, "live": 1_000}
"""How long a silent module host is waited for: packets of a capture wait, live ones do not."""


@dataclass(frozen=True, slots=True)
class Parts:
    """All parts of one revision."""

    host: HostPart
    workers: Mapping[str, WorkerPart]
    nfs: Mapping[str, NFPart]

    @property
    def joining(self) -> frozenset[str]:
        """Names of NFs that join from elsewhere: nobody waits for them."""
        return frozenset(child.name for child in self.host.children if child.place == "pod")


def make_parts(plan: Plan, layout: Layout) -> Parts:
    """Cuts a plan into parts.

    Raises:
        SpecError: an NF wants to decide where nothing passes.
    """
    types = types_of(plan.catalogue)
    made = [_worker(plan, layout, types, number) for number in range(layout.workers)]
    workers = {worker.worker: worker for worker in made}
    nfs = {nf.name: _nf(nf, plan, layout, types) for nf in plan.nfs}
    return Parts(_host(plan, layout, workers, nfs), workers, nfs)


def native_subscriptions(planned: PlannedNF) -> tuple[NativeSubscription, ...]:
    """Returns the rows of one NF in the order of its class, each with an id of its own."""
    found: list[NativeSubscription] = []
    numbers: dict[str, int] = {}
    for sub in planned.subscriptions:
        for part in sub.parts:
            number = numbers.get(sub.name, 0)
            numbers[sub.name] = number + 1
            found.append(
                NativeSubscription(
                    id=f"{planned.name}.{sub.name}#{number}",
                    handler=sub.handler,
                    events=part.events,
                    level=int(part.stack_level),
                    types=part.types,
                    modules=part.modules,
                    where=part.where,
                    where_on=part.where_on,
                    as_type=part.as_type,
                    group=sub.group,
                    per_flow=sub.per_flow,
                    in_line=sub.mode == "inline",
                    stage=sub.stage if sub.mode == "inline" else 0,
                )
            )
    return tuple(found)


def _worker(plan: Plan, layout: Layout, types: tuple[TypeWire, ...], number: int) -> WorkerPart:
    receivers = [_receiver_of(nf, layout, plan.catalogue) for nf in plan.nfs]
    receivers += [
        _receiver(name, gone.placement, layout, (), _LEFT if gone.is_inline else None)
        for name, gone in layout.leaving.items()
    ]
    return WorkerPart(
        worker=f"worker-{number}",
        id=number,
        workers=layout.workers,
        is_busy=layout.is_busy,
        handover=handover_of(layout.ports, number, layout.workers),
        objects=_objects(number),
        config=dict(layout.config),
        mode=layout.mode,
        ports=ports_of_worker(layout.ports, number, layout.workers),
        modules=tuple(
            ModulePart(
                m.name,
                m.limits,
                m.types,
                layout.modules[m.name].library,
                layout.modules[m.name].symbol,
                _hosted(m.name, layout, number) if m.name in layout.own_cores else None,
            )
            for m in plan.modules
        ),
        receivers=tuple(replace(r, ring=_ring(r.nf, number)) for r in receivers),
        types=types,
        max_packets=layout.max_packets,
        room=tuple(RoomPart(m.name, m.library, m.symbol) for m in layout.room),
        inboxes=tuple(
            InboxPart(name, _objects(number, name), dict(sizes))
            for name, sizes in layout.inboxes.items()
        ),
    )


def _hosted(module: str, layout: Layout, worker: int) -> HostedPart:
    deadline_ms = DEADLINE_MS[layout.mode]
    return HostedPart(f"ask/{module}/w{worker}", f"answers/{module}/w{worker}", deadline_ms)


_LEFT = InLinePart(is_open=False, deadline_ms=0)
"""Of an NF that leaves: it is asked no more."""


def _receiver_of(planned: PlannedNF, layout: Layout, catalogue: Catalogue) -> Receiver:
    place = layout.placements[planned.name]
    how = None
    if planned.is_inline:
        raisable = raisable_of(catalogue, planned.raises)
        how = InLinePart(planned.fail_open, planned.deadline_ms, raisable)
    made = _receiver(planned.name, place, layout, native_subscriptions(planned), how)
    return replace(made, holds=planned.holds)


def _receiver(
    name: str,
    place: Placement,
    layout: Layout,
    subscriptions: tuple[NativeSubscription, ...],
    in_line: InLinePart | None,
) -> Receiver:
    lossy = layout.mode == "live" if place.delivery is None else place.delivery == "lossy"
    return Receiver(
        nf=name,
        ring=_ring(name, 0),
        entries=place.ring_entries,
        lossy=lossy and in_line is None,
        subscriptions=subscriptions,
        domain=place.domain,
        in_line=in_line,
    )


def _check_inline(planned: PlannedNF, layout: Layout) -> None:
    """Refuses to let an NF decide where it cannot.

    Raises:
        SpecError: nothing passes, it may miss packets, or sees none of them.
    """
    sub = next((sub for sub in planned.subscriptions if sub.mode == "inline"), None)
    if sub is None:
        return
    place, where = layout.placements[planned.name], f"{planned.name}.{sub.name}.mode"
    if all(port.out is None for port in layout.ports):
        text = (
            "inline NFs decide over packets that pass, and none do: say where they leave, "
            "`out` of a port, or --in and --out"
        )
        raise SpecError(where, text)
    if place.delivery == "lossy":
        raise SpecError(where, "an inline NF has to see every packet: leave out `delivery: lossy`")
    if place.domain != OWN_DOMAIN:
        text = f"an NF of another domain ({place.domain}) can only observe: leave out its domain"
        raise SpecError(where, text)


def _nf(planned: PlannedNF, plan: Plan, layout: Layout, types: tuple[TypeWire, ...]) -> NFPart:
    place = layout.placements[planned.name]
    _check_inline(planned, layout)
    pairs = _pairs(plan)
    return NFPart(
        nf=planned.name,
        use=place.use,
        config=dict(place.config),
        handlers=tuple(_handler(sub) for sub in planned.subscriptions),
        publishes=planned.publishes,
        raises=planned.raises,
        rings=tuple(
            RingPart(_ring(planned.name, n), f"worker-{n}", _objects(n, place.domain))
            for n in range(layout.workers)
        ),
        log=_log(planned.name) if planned.publishes else None,
        reads=tuple(
            _log_part(publisher, reader, publisher, layout)
            for publisher, reader in pairs
            if reader == planned.name
        ),
        readers=tuple(
            _log_part(publisher, reader, reader, layout)
            for publisher, reader in pairs
            if publisher == planned.name
        ),
        source=", ".join(port.source for port in layout.ports),
        out=layout.out,
        max_failures=MAX_FAILURES,
        fail_open=planned.fail_open,
        types=types,
        skew_ns=_skew_ns(planned, layout),
        opens_files=place.token is not None,
        ports=tuple(port.names for port in layout.ports),
        is_busy=place.is_busy,
    )


def _skew_ns(planned: PlannedNF, layout: Layout) -> int | None:
    if layout.workers == 1 or layout.mode == "live":
        return None
    return 0 if planned.needs_order else SKEW_NS


def _pairs(plan: Plan) -> list[tuple[str, str]]:
    """Publisher and reader of each log, each pair once, publishers in the order of the plan."""
    found = dict.fromkeys((edge.publisher, edge.subscriber) for edge in plan.edges)
    order = [nf.name for nf in plan.nfs]
    return sorted(found, key=lambda pair: (order.index(pair[0]), order.index(pair[1])))


def _log_part(publisher: str, reader: str, peer: str, layout: Layout) -> LogPart:
    return LogPart(
        peer=peer,
        log=_log(publisher),
        cursor=f"cursor/{publisher}/{reader}",
        lossy=layout.placements[reader].delivery == "lossy",
        from_now=reader in layout.joined,
    )


def _handler(sub: PlannedSubscription) -> HandlerPart:
    return HandlerPart(
        name=sub.name,
        handler=sub.handler,
        method=sub.method,
        events=sub.events,
        where=sub.where,
        heard=tuple(HeardWire(h.names, h.where, h.where_on, h.as_type) for h in sub.heard),
        mode=sub.mode,
        stage=sub.stage,
        edits=sub.edits,
        group=sub.group,
    )


def _host(
    plan: Plan,
    layout: Layout,
    workers: Mapping[str, WorkerPart],
    nfs: Mapping[str, NFPart],
) -> HostPart:
    receivers = [r for worker in workers.values() for r in worker.receivers]
    names = [*nfs, *layout.leaving, *layout.undeclared]
    objects = [ObjectPart(name, "worker") for w in workers.values() for name in w.objects]
    inboxes = [inbox for worker in workers.values() for inbox in worker.inboxes]
    objects += [ObjectPart(name, "inbox") for inbox in inboxes for name in inbox.objects]
    objects += [ObjectPart(r.ring, "ring", r.entries) for r in receivers]
    objects += handover_objects(worker.handover for worker in workers.values())
    hosts = [(w.id, m, m.host) for w in workers.values() for m in w.modules if m.host]
    objects += [ObjectPart(host.ring, "ring", RING_ENTRIES) for _, _, host in hosts]
    objects += [ObjectPart(host.answers, "answers") for _, _, host in hosts]
    objects += [ObjectPart(nf.log, "log") for nf in nfs.values() if nf.log]
    objects += [ObjectPart(_log(n), "log") for n, gone in layout.leaving.items() if gone.has_log]
    objects += [ObjectPart(r.cursor, "cursor") for nf in nfs.values() for r in nf.reads]
    objects += [ObjectPart(_checkpoint(name), "checkpoint") for name in names]
    children = [_worker_child(worker, layout) for worker in workers.values()]
    children += [_module_child(number, module, host, layout) for number, module, host in hosts]
    children += [_nf_child(nfs[nf.name], nf, layout) for nf in plan.nfs]
    children += [_leaving_child(name, gone, layout) for name, gone in layout.leaving.items()]
    children += [_undeclared_child(name, place) for name, place in layout.undeclared.items()]
    return HostPart(
        children=tuple(children),
        objects=tuple(objects),
        worker_config={name: dict(layout.config) for name in workers},
        inboxes={each.objects[0].rpartition("/")[0]: dict(each.config) for each in inboxes},
        reserved=layout.reserved,
    )


def _worker_child(part: WorkerPart, layout: Layout) -> ChildPart:
    return ChildPart(
        name=part.worker,
        role="worker",
        cores=_worker_cores(part, layout),
        restart="on-failure",
        writes=(
            *part.objects,
            *(name for inbox in part.inboxes for name in inbox.objects),
            *(receiver.ring for receiver in part.receivers),
            *(part.handover.objects if part.handover else ()),
            *(name for m in part.modules if m.host for name in (m.host.ring, m.host.answers)),
        ),
        reads=(),
    )


def _worker_cores(part: WorkerPart, layout: Layout) -> tuple[int, ...] | None:
    cores = layout.worker_cores
    return cores if cores is None or layout.workers == 1 else (cores[part.id],)


def _module_child(worker: int, part: ModulePart, host: HostedPart, layout: Layout) -> ChildPart:
    runs = ModuleHostPart(
        module=part.name,
        library=part.library,
        symbol=part.symbol,
        limits=part.limits,
        objects=_objects(worker),
        ring=host.ring,
        answers=host.answers,
    )
    return ChildPart(
        name=f"module-{part.name}" + (f"-w{worker}" if worker else ""),
        role="module",
        cores=layout.own_cores[part.name],
        restart="on-failure",
        writes=(host.ring, host.answers),
        reads=_objects(worker),
        module=runs,
    )


def _files(planned: PlannedNF, layout: Layout) -> tuple[str, ...]:
    if layout.placements[planned.name].token is not None:
        return ()  # they are in its own container
    return tuple(f"file/{path}" for path in output_paths(planned.cls, planned.options, layout.out))


def _nf_child(part: NFPart, planned: PlannedNF, layout: Layout) -> ChildPart:
    place = layout.placements[planned.name]
    rings = tuple(ring.ring for ring in part.rings)
    own_log = (part.log,) if part.log else ()
    cursors = tuple(log.cursor for log in part.reads)
    return ChildPart(
        name=part.nf,
        role="nf",
        cores=place.cores,
        restart=place.restart,
        writes=(*rings, *own_log, *cursors, _checkpoint(part.nf), *_files(planned, layout)),
        reads=(
            *(name for ring in part.rings for name in ring.objects),
            *(log.log for log in part.reads),
            *(log.cursor for log in part.readers),
        ),
        domain=place.domain,
        is_waited_for=_is_waited_for(planned, place, layout),
        n_cores=place.n_cores,
        **_where(place),
    )


def _is_waited_for(planned: PlannedNF, place: Placement, layout: Layout) -> bool:
    return place.token is None and (layout.mode == "file" or not planned.is_inline)


def _where(place: Placement) -> dict[str, Any]:
    return {} if place.token is None else {"place": "pod", "token": place.token}


def _undeclared_child(name: str, place: Placement) -> ChildPart:
    """An NF that may join: it gets its journal, and tells the controller the rest."""
    return ChildPart(
        name=name,
        role="nf",
        cores=None,
        restart="on-failure",
        writes=(_checkpoint(name),),
        reads=(),
        is_waited_for=False,
        **_where(place),
    )


def _leaving_child(name: str, gone: Leaving, layout: Layout) -> ChildPart:
    """An NF that finishes what it has; it mapped all of it long ago."""
    log = (_log(name),) if gone.has_log else ()
    numbers = range(layout.workers)
    objects = [each for n in numbers for each in _objects(n, gone.placement.domain)]
    return ChildPart(
        name=name,
        role="nf",
        cores=gone.placement.cores,
        restart="never",
        writes=(*(_ring(name, n) for n in numbers), *log, _checkpoint(name)),
        reads=tuple(objects),
        domain=gone.placement.domain,
        **_where(gone.placement),
    )


def _objects(worker: int, domain: str = OWN_DOMAIN) -> tuple[str, ...]:
    """Names of what a worker's entries refer to: its own objects, or a domain's inbox."""
    prefix = f"w{worker}" if domain == OWN_DOMAIN else f"w{worker}/domain/{domain}"
    return tuple(f"{prefix}/{name}" for name in OBJECTS)


def _ring(nf: str, worker: int) -> str:
    return f"ring/{nf}/w{worker}"


def _log(nf: str) -> str:
    return f"log/{nf}"


def _checkpoint(nf: str) -> str:
    return f"ckpt/{nf}"
