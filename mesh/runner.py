# SPDX-License-Identifier: Apache-2.0
"""Running NFs on a capture in this process: the embedded way."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import Literal, TypeAlias

from mesh.compose import NFUse, UserEvent, build_catalogue, compose
from mesh.errors import NFMissing, PlanError, SpecError, UnknownEvent, UnraisedEvent
from mesh.events import Catalogue
from mesh.native_events import core_events
from mesh.native_filter import NativeFilter
from mesh.nf import NF
from mesh.outputs import check_apart, output_paths
from mesh.plan import Plan
from mesh.ports import Port
from mesh.registry import Registry
from mesh.report import Progress, Report

__all__ = ["AnyNF", "UserEvents", "catalogue", "make_plan", "replay"]

AnyNF: TypeAlias = str | type[NF] | NF | NFUse
UserEvents: TypeAlias = Mapping[str, tuple[str, str]] | Sequence[UserEvent]


def catalogue(registry: Registry | None = None) -> Catalogue:
    """Returns all event types that the core, the installed modules and NFs declare.

    Args:
        registry: what is installed; default `Registry.installed()`.
    """
    found = registry or Registry.installed()
    modules = [module.descriptor for module in found.modules()]
    uses = []
    for name in found.nf_names():
        try:
            uses.append(NFUse(found.nf(name)))
        except NFMissing:
            continue  # `nfmesh nfs` says why
    return build_catalogue(core_events(), modules, uses)


def make_plan(
    nfs: Sequence[AnyNF],
    *,
    events: UserEvents = (),
    limits: Mapping[str, Mapping[str, int | str]] | None = None,
    registry: Registry | None = None,
    numbers: Mapping[str, int] | None = None,
    kept: Collection[str] = (),
) -> Plan:
    """Composes NFs into a plan without running anything.

    Args:
        nfs: as for `replay`, like the next three.
        events: named user events.
        limits: of stack modules.
        registry: what is installed.
        numbers: event type → id, as a mesh that runs has them.
        kept: stack modules that run on, also when nobody needs them.
    """
    found = registry or Registry.installed()
    uses = [_use_of(nf, found) for nf in nfs]
    modules = [module.descriptor for module in found.modules()]
    try:
        return compose(
            core_events(), modules, uses, _user_events(events), limits, NativeFilter, numbers, kept
        )
    except UnknownEvent as error:
        raise _with_publisher(error, found) from error


def replay(
    source: str | Path | Port,
    nfs: Sequence[AnyNF],
    *,
    events: UserEvents = (),
    limits: Mapping[str, Mapping[str, int | str]] | None = None,
    checksums: Literal["ignore", "verify"] = "ignore",
    worker: Mapping[str, int] | None = None,
    out: str | Path = ".",
    registry: Registry | None = None,
    progress: Callable[[Progress], None] | None = None,
    max_packets: int | None = None,
    sink: Port | None = None,
    workers: int = 1,
) -> Report:
    """Runs NFs over a capture, all in this process and deterministic.

    Args:
        source: a capture file (pcap or pcapng, also gzipped), or a port, which is closed.
        nfs: installed names, `file.py:Class`, classes, instances, or NFUse with options.
        events: user events: name → (base event, filter).
        limits: module → limit → number or word, as in `{"tcp_stream": {"overlap": "last"}}`.
        checksums: "verify" makes packets with bad TCP and UDP checksums malformed.
        worker: sizes that override the defaults, by name in nfm_worker_config: `max_flows`, …
        out: folder for files that NFs write.
        registry: what is installed; default `Registry.installed()`.
        progress: called about ten times a second.
        max_packets: stop after so many.
        sink: where the packets go to, which is closed: then inline NFs decide what does.
        workers: that share the packets of a capture, one after the other in turn.

    Returns:
        The report; Ctrl-C ends the run early and sets `interrupted`.

    Raises:
        PlanError: the NFs cannot be composed.
        SpecError: several workers, and a port that only one can read.
        NativeError: the capture cannot be read.
    """
    from mesh.engine import Engine  # the processes of a mesh compose, and have no use for it

    found = registry or Registry.installed()
    plan = make_plan(nfs, events=events, limits=limits, registry=found)
    if not isinstance(source, Port):
        files = [output_paths(nf.cls, nf.options, out) for nf in plan.nfs]
        check_apart([os.fspath(source)], (), chain.from_iterable(files))
    config = {**(worker or {}), "verify_checksums": int(checksums == "verify")}
    modules = {module.name: found.module(module.name) for module in plan.modules}
    if isinstance(source, Port) and workers > 1:
        raise SpecError("workers", "a port has one reader: name the capture, or leave workers out")
    with ExitStack() as made:
        if sink is not None:
            made.callback(sink.close)
        ports = [
            made.enter_context(closing(source if isinstance(source, Port) else Port.pcap(source)))
            for _ in range(workers)
        ]
        engine = Engine(
            plan,
            ports[0],
            modules,
            config=config,
            out=Path(out),
            sink=sink,
            others=ports[1:],
        )
        return made.enter_context(engine).run(progress, max_packets)


def _use_of(nf: AnyNF, registry: Registry) -> NFUse:
    if isinstance(nf, NFUse):
        return nf
    if isinstance(nf, NF):
        return NFUse(type(nf), instance=nf)
    return NFUse(registry.nf(nf) if isinstance(nf, str) else nf)


def _user_events(events: UserEvents) -> list[UserEvent]:
    if isinstance(events, Mapping):
        return [UserEvent(name, *definition) for name, definition in events.items()]
    return list(events)


def _with_publisher(error: UnknownEvent, registry: Registry) -> PlanError:
    """Names the installed NF that publishes the event nobody in the plan declares."""
    for name in registry.nf_names():
        try:
            published = [event.event_name for event in registry.nf(name).publishes]
        except NFMissing:
            continue
        for event in published:
            if f"{event!r}" in error.text.partition(";")[0]:
                text = f"nobody in this plan raises {event!r}: add the NF {name!r}"
                where = {"nf": error.nf, "subscription": error.subscription, "path": error.path}
                return UnraisedEvent(text, **where)
    return error
