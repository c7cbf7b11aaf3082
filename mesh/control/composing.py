# SPDX-License-Identifier: Apache-2.0
"""From what shall run to the parts of a revision: loads NF classes, composes, checks sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mesh.capacity import MAX_RINGS, SIZES, check_capacity
from mesh.control.desired import RESERVED, Desired
from mesh.control.layout import RING_ENTRIES, Layout, Leaving, Placement
from mesh.control.parts import Parts, make_parts
from mesh.control.wire import CapturePart, PortPart, ReplayPart
from mesh.errors import CapacityError, PlanError, SpecError
from mesh.module import ModuleInfo, Phase
from mesh.native_worker import worker_config
from mesh.plan import Plan
from mesh.port_spec import CaptureSpec, PortSpec, ReplaySpec, check_ports, is_live, outs_of
from mesh.registry import Registry
from mesh.runner import make_plan
from mesh.spec import NFSpec, PatienceSpec, Spec
from mesh.spec_plan import inboxes_of, user_events_of, uses_of
from mesh.words import OWN_DOMAIN

__all__ = ["FIRST", "Composed", "compose_desired", "name_at", "named", "place_of"]
FIRST = 1
"""The revision that a run begins with."""


@dataclass(frozen=True, slots=True)
class Composed:
    """One revision, ready to be handed out.

    Attributes:
        desired: what was asked for, with the names of all NFs and the ids of all event types.
        patience: how long processes may be silent.
        flow_bytes: stack module → memory that it keeps per flow.
    """

    desired: Desired
    plan: Plan
    parts: Parts
    patience: PatienceSpec
    flow_bytes: Mapping[str, int]


def compose_desired(desired: Desired, registry: Registry) -> Composed:
    """Composes.

    Raises:
        MeshError: of the kinds that make_plan and check_capacity raise; the text names the place.
    """
    try:
        return _compose(desired, registry)
    except (SpecError, PlanError) as error:
        error.nf = error.nf or name_at(error.path, desired.spec.get("nfs", ()))
        raise


def name_at(path: str, nfs: Sequence[Mapping[str, Any]]) -> str:
    """Returns the name of the NF that a place of a spec is in, "" of none.

    >>> name_at("nfs[0].where", [{"use": "http_log", "name": "web"}])
    'web'
    """
    found = re.match(r"nfs\[(\d+)\]", path)
    if found is None or int(found[1]) >= len(nfs):
        return ""
    return str(nfs[int(found[1])].get("name") or "")


def _compose(desired: Desired, registry: Registry) -> Composed:
    spec = named(desired.parsed, registry)
    if not spec.ports:
        text = "name a capture or an interface: ports: [{pcap: FILE}] or [{afpacket: eth0}]"
        raise SpecError("ports", text)
    plan = make_plan(
        uses_of(spec, registry),
        events=user_events_of(spec),
        limits=spec.limits,
        registry=registry,
        numbers=desired.numbers or None,
        kept=desired.modules,
    )
    modules = {m.name: registry.module(m.name) for m in plan.modules}
    names = [entry.name or "" for entry in spec.nfs]
    joined = {name: desired.joined.get(name, desired.revision) for name in names}
    config = {**spec.worker.sizes, "verify_checksums": int(spec.checksums == "verify")}
    row = worker_config(config)
    sizes = {name: int(getattr(row, name)) for name in SIZES}
    places = {entry.name or "": place_of(entry) for entry in spec.nfs}
    silent = {entry.name for entry in spec.nfs if entry.is_undeclared}
    placements = {name: place for name, place in places.items() if name not in silent}
    leaving = {name: _leaving(gone) for name, gone in desired.leaving.items()}
    inboxes = inboxes_of(spec, _domains(placements, leaving))
    check_capacity(plan, [modules[m.name].descriptor for m in plan.modules], sizes, inboxes)
    layout = Layout(
        ports=_ports(spec.ports),
        mode="live" if is_live(spec.ports) else "file",
        config=config,
        modules=modules,
        room=tuple(m for m in registry.modules() if m.phase in (Phase.TRACK, Phase.STREAM)),
        placements=placements,
        leaving=leaving,
        joined=frozenset(name for name, revision in joined.items() if revision > FIRST),
        own_cores=_own_cores(spec, modules, plan),
        workers=spec.workers,
        worker_cores=None if spec.worker_cores is None else tuple(spec.worker_cores),
        is_busy=spec.worker_poll == "busy",
        max_packets=spec.max_packets,
        out=spec.out,
        inboxes=inboxes,
        undeclared={name: place for name, place in places.items() if name in silent},
        reserved=tuple(spec.reserved_cores),
    )
    plain = spec.model_dump(mode="json", exclude_unset=True)
    flow_bytes = {name: module.descriptor.flow_size for name, module in modules.items()}
    numbers = plan.catalogue.numbers
    known = replace(desired, spec=plain, numbers=numbers, joined=joined, modules=tuple(modules))
    return Composed(known, plan, make_parts(plan, layout), spec.patience, flow_bytes)


def _ports(ports: Sequence[PortSpec]) -> tuple[PortPart, ...]:
    check_ports(ports)
    return tuple(
        PortPart(
            kind=port.kind,  # type: ignore[arg-type]
            source=port.source,
            options=port.options,
            out=out,
            replay=_pace(port.replay),
            impair=port.impair.model_dump(exclude_unset=True) if port.impair else None,
            names=port.names,
            send_only=port.send_only,
            capture=_capture(port.capture),
        )
        for port, out in zip(ports, outs_of(ports), strict=True)
    )


def _pace(replay: ReplaySpec | None) -> ReplayPart | None:
    return ReplayPart(replay.speed, replay.is_live, replay.loop) if replay else None


def _capture(said: CaptureSpec | None) -> CapturePart | None:
    if said is None:
        return None
    return CapturePart(
        path=said.path,
        where=said.filter,
        max_file=said.max_mb << 20,
        files=said.files,
        snaplen=said.snaplen,
        direction=said.direction,
    )


def _own_cores(
    spec: Spec, modules: Mapping[str, ModuleInfo], plan: Plan
) -> dict[str, tuple[int, ...] | None]:
    """Finds the modules of the plan that run in processes of their own.

    Raises:
        SpecError: a module that has to run in the worker.
    """
    found = {name: cores for name, cores in spec.own_cores.items() if name in modules}
    for name in found:
        if modules[name].phase is not Phase.APP:
            text = "only application modules (nfmesh modules) can; leave the key out"
            raise SpecError(f"modules.{name}.own", f"{name!r} cannot leave the worker: {text}")
        for nf in plan.nfs:
            for sub in nf.subscriptions:
                if sub.mode == "inline" and any(name in part.modules for part in sub.parts):
                    text = (
                        f"packets wait for {nf.name!r} to decide on its events; leave the key out"
                    )
                    raise SpecError(
                        f"modules.{name}.own", f"{name!r} cannot leave the worker: {text}"
                    )
    return found


def place_of(entry: NFSpec) -> Placement:
    """Takes from an entry of a spec what does not matter to composition."""
    return Placement(
        use=entry.use,
        config=entry.config,
        delivery=entry.delivery,
        restart=entry.restart,
        cores=tuple(entry.cores) if isinstance(entry.cores, list) else None,
        n_cores=entry.cores if isinstance(entry.cores, int) else 0,
        ring_entries=entry.ring or RING_ENTRIES,
        domain=entry.domain,
        token=entry.token if entry.place == "pod" else None,
        is_busy=entry.poll == "busy",
    )


def _domains(placements: Mapping[str, Placement], leaving: Mapping[str, Leaving]) -> list[str]:
    """Domains in use, without the mesh's own."""
    places = [*placements.values(), *(gone.placement for gone in leaving.values())]
    return sorted({place.domain for place in places} - {OWN_DOMAIN})


def _leaving(gone: Mapping[str, Any]) -> Leaving:
    entry = NFSpec.model_validate(gone["entry"])
    return Leaving(place_of(entry), bool(gone["has_log"]), bool(gone.get("is_inline")))


def named(spec: Spec, registry: Registry) -> Spec:
    """Gives every NF the name that it has in the plan.

    Raises:
        PlanError: there is no such NF.
        SpecError: a name is taken.
    """
    nfs: list[NFSpec] = []
    for i, entry in enumerate(spec.nfs):
        try:
            name = entry.name or registry.nf(entry.use).name
        except PlanError as error:
            raise type(error)(error.text, path=f"nfs[{i}].use") from error
        if name in RESERVED or name.startswith(("worker-", "module-")):
            raise SpecError(f"nfs[{i}].name", f"{name!r} is the name of another process")
        if any(name == other.name for other in nfs):
            raise SpecError(f"nfs[{i}].name", f"an NF {name!r} is there already")
        nfs.append(entry.model_copy(update={"name": name}))
    if len(nfs) > MAX_RINGS:
        raise CapacityError(f"{len(nfs)} NFs; a worker has rings for {MAX_RINGS}")
    return spec.model_copy(update={"nfs": nfs})
