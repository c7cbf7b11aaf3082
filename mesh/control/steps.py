# SPDX-License-Identifier: Apache-2.0
"""What each process lacks, given all that is known: the order in which a mesh comes up and changes.

    supervisor  makes objects, starts processes           ─┐
    NF          registers, constructs itself               │ ready
    worker      modules, rings, subscriptions              │ ready, at a packet
    NF          go: attaches, starts                       │ attached
    worker      go: takes packets, once all NFs do        ─┘

An NF that does not come up before the first packet ends the run: it was asked for. One that fails
later does not. A new NF is constructed before the worker subscribes it, so that nobody waits for
its imports. An NF whose part changes holds first; the worker changes; then the NF is told, with the
positions in its rings from which the change holds. An NF that leaves is told to drain after the
worker has ended its subscriptions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mesh.control import messages as m
from mesh.control.composing import FIRST
from mesh.control.parts import Parts
from mesh.control.process import SILENT_S, AnyPart, Process, is_same
from mesh.control.reporting import final_report, start_failures
from mesh.control.requests import Change, Declared
from mesh.control.wire import NFPart, WorkerPart
from mesh.errors import MeshError, PlanError, SpecError

if TYPE_CHECKING:
    from mesh.control.state import Mesh

__all__ = ["has_left", "messages", "outcome", "part_of"]

DRAIN_S = 20.0
"""A leaving NF that lives but does not come to an end is given up; one that is silent, earlier."""


def part_of(parts: Parts, process: Process) -> AnyPart | None:
    """Returns what a process has to do, or None when it has no place."""
    if process.role == "supervisor":
        return parts.host
    if process.role == "worker":
        return parts.workers.get(process.name)
    return parts.nfs.get(process.name)


def messages(mesh: Mesh, now: float) -> Iterator[tuple[Process, m.Body]]:
    """Yields what has to be said, and notes it as said."""
    if mesh.now is None or mesh.is_over:
        if mesh.is_over or "controller" in mesh.failures:
            yield from _farewells(mesh)
        return
    if not mesh.has_begun and start_failures(mesh):
        mesh.is_over = True
        yield from _farewells(mesh)
        return
    yield from _plans(mesh)
    yield from _gos(mesh, now)
    yield from _drains(mesh, now)
    yield from _watches(mesh)
    if _is_done(mesh):
        mesh.is_over = True
        yield from _farewells(mesh)


# ---- plans --------------------------------------------------------------------------------------


def _plans(mesh: Mesh) -> Iterator[tuple[Process, m.Body]]:
    revision, declaring = mesh.desired.revision, mesh.declaring
    for process in list(mesh.processes.values()):
        part = _part(mesh, process)
        if part is None or process.sent >= revision or process.name in declaring:
            continue
        if _is_unchanged(process, part):
            process.keep(revision, part)
        elif _is_changing(mesh, process) and process.holding < revision:
            process.holding = revision
            yield process, m.Hold(revision=revision)
        elif _may_have(mesh, process, part):
            after = _after(mesh, process, part)
            yield process, process.give(revision, part, after)


def _is_unchanged(process: Process, part: AnyPart) -> bool:
    """True when a process need not be told; one that holds waits for a part, whatever it says."""
    is_settled = process.ready == process.sent and not process.holding
    return is_settled and is_same(process.acked, part)


def _is_changing(mesh: Mesh, process: Process) -> bool:
    """True for a running NF whose part is another in this revision."""
    part = _part(mesh, process)
    if not isinstance(part, NFPart) or not process.attached or process.draining:
        return False
    is_late = process.sent < mesh.desired.revision and not _is_unchanged(process, part)
    return is_late and not _is_finished(mesh, process.name)


def _may_have(mesh: Mesh, process: Process, part: AnyPart) -> bool:
    """True when what the part builds upon is there.

    An NF that is coming up is told of further changes when it runs.
    """
    if process.role == "supervisor" or process.sent == 0 == process.ready:
        return process.role != "worker" or (
            _supervisor_is_ready(mesh) and _has_its_turn(mesh, part)
        )
    if process.role == "worker":
        return (
            _supervisor_is_ready(mesh)
            and all(_is_constructed(mesh, name) for name in _joining(mesh))
            and all(_holds(mesh, nf) for nf in mesh.processes.values() if _is_changing(mesh, nf))
        )
    is_holding = process.held >= process.holding
    return process.attached and is_holding and _worker_is_ready(mesh)


def _has_its_turn(mesh: Mesh, part: AnyPart) -> bool:
    """True when a worker may open its ports.

    The kernel spreads packets over its group's members in the order in which they joined, so that
    each gets its own from the start.
    """
    if not isinstance(part, WorkerPart) or not any(port.fanout for port in part.ports):
        return True
    before = [mesh.processes.get(name) for name in _worker_names(mesh)[: part.id]]
    return all(worker is not None and worker.ready > 0 for worker in before)


def _holds(mesh: Mesh, nf: Process) -> bool:
    return nf.held >= mesh.desired.revision


def _part(mesh: Mesh, process: Process) -> AnyPart | None:
    return None if mesh.now is None else part_of(mesh.now.parts, process)


def _supervisor_is_ready(mesh: Mesh) -> bool:
    """True when the objects of this revision are there; a mesh without one needs none."""
    supervisor = mesh.processes.get("supervisor")
    return supervisor is not None and supervisor.ready >= mesh.desired.revision


def _worker_is_ready(mesh: Mesh) -> bool:
    """True when every worker of the plan has the revision, also those that begin again."""
    workers = [mesh.processes.get(name) for name in _worker_names(mesh)]
    return all(w is not None and w.ready >= mesh.desired.revision for w in workers)


def _workers(mesh: Mesh) -> list[Process]:
    return [p for p in mesh.processes.values() if p.role == "worker"]


def _joining(mesh: Mesh) -> list[str]:
    """NFs that this revision adds to a mesh that runs, and that are waited for."""
    joined, revision = mesh.desired.joined, mesh.desired.revision
    new = [name for name, at in joined.items() if at > FIRST and at == revision]
    return [name for name in new if name not in mesh.joining]


def _is_constructed(mesh: Mesh, name: str) -> bool:
    process = mesh.processes.get(name)
    return name in mesh.failures or (process is not None and process.ready > 0)


def _after(mesh: Mesh, process: Process, part: AnyPart) -> dict[str, int]:
    """Positions from which a running NF's changed part holds."""
    if not isinstance(part, NFPart) or not process.attached:
        return {}
    own = {ring.ring for ring in part.rings}
    return {
        ring: position
        for worker in _workers(mesh)
        for ring, position in worker.positions.items()
        if ring in own
    }


# ---- go -----------------------------------------------------------------------------------------


def _gos(mesh: Mesh, now: float) -> Iterator[tuple[Process, m.Body]]:
    for process in list(mesh.processes.values()):
        if process.went or not process.ready:
            continue
        if _may_go(mesh, process, now):
            process.went = True
            mesh.has_begun = mesh.has_begun or process.role == "worker"
            yield process, m.Go(revision=process.ready)


def _may_go(mesh: Mesh, process: Process, now: float) -> bool:
    if process.role == "nf":
        return _rings_are_there(mesh, process)
    return process.role == "worker" and _nfs_are_there(mesh, process, now)


def _rings_are_there(mesh: Mesh, process: Process) -> bool:
    part = process.acked or _part(mesh, process)  # none: of a controller before this one
    if not isinstance(part, NFPart):
        return False
    made = {
        receiver.ring
        for worker in _workers(mesh)
        if isinstance(worker.acked, WorkerPart)
        for receiver in worker.acked.receivers
    }
    rings = all(ring.ring in made for ring in part.rings)
    return rings and all(_is_writing(mesh, log.peer, part.nf) for log in part.reads)


def _is_writing(mesh: Mesh, publisher: str, reader: str) -> bool:
    """True when a publisher knows of its reader, or never will."""
    if _is_finished(mesh, publisher):
        return True
    process = mesh.processes.get(publisher)
    if process is None and publisher in mesh.joining:
        return True
    part = process.acked if process is not None else None
    return isinstance(part, NFPart) and any(log.peer == reader for log in part.readers)


def _nfs_are_there(mesh: Mesh, worker: Process, now: float) -> bool:
    if mesh.now is not None and now - worker.registered_at > mesh.now.patience.start:
        return True
    return all(_is_attached(mesh, n) or n in mesh.joining for n in _nf_names(mesh))


def _is_attached(mesh: Mesh, name: str) -> bool:
    process = mesh.processes.get(name)
    return (process is not None and process.attached) or _is_finished(mesh, name)


def _is_finished(mesh: Mesh, name: str) -> bool:
    return name in mesh.results or name in mesh.failures


def _nf_names(mesh: Mesh) -> list[str]:
    return [] if mesh.now is None else list(mesh.now.parts.nfs)


# ---- draining -----------------------------------------------------------------------------------


def _drains(mesh: Mesh, now: float) -> Iterator[tuple[Process, m.Body]]:
    for process in list(mesh.processes.values()):
        reason = _drain_reason(mesh, process)
        if reason and not process.draining:
            process.draining, process.draining_since = reason, now
            yield process, m.Drain(reason=reason)


def _drain_reason(mesh: Mesh, process: Process) -> str:
    if process.role == "worker":
        return mesh.stopping or ("worker failed" if _has_lost_a_worker(mesh) else "")
    if process.role == "supervisor":
        return ""
    if process.name in mesh.desired.leaving:
        return "removed" if _hears_nothing(mesh, process.name) else ""
    if _has_lost_a_worker(mesh):
        return "worker failed"
    if mesh.has_ended and _is_at_its_end(mesh, process):
        return "end"
    return ""


def _hears_nothing(mesh: Mesh, nf: str) -> bool:
    """True when every worker has ended the subscriptions of an NF."""
    for worker in _workers(mesh):
        if not isinstance(worker.acked, WorkerPart):
            return False
        if any(r.nf == nf and r.subscriptions for r in worker.acked.receivers):
            return False
    return True


def _is_at_its_end(mesh: Mesh, process: Process) -> bool:
    """True for an NF that does not see its end in its rings, when nothing more comes."""
    part = process.acked
    if not isinstance(part, NFPart) or (part.rings and not part.reads):
        return False
    return all(_is_finished(mesh, log.peer) for log in part.reads)


def _has_lost_a_worker(mesh: Mesh) -> bool:
    """True when a worker has failed for good: what it would have seen nobody sees."""
    return any(worker in mesh.failures for worker in _worker_names(mesh))


def _worker_names(mesh: Mesh) -> list[str]:
    return [] if mesh.now is None else list(mesh.now.parts.workers)


def has_left(mesh: Mesh, name: str, now: float) -> bool:
    """True when a leaving NF has nothing left to do, or cannot say so."""
    process = mesh.processes.get(name)
    if name in mesh.failures:
        return True
    if process is None:  # it may not have said yet that it is there
        return now - mesh.followed_at > SILENT_S
    if process.draining and now - process.draining_since > DRAIN_S:
        return True
    patience = mesh.now.patience.run if mesh.now is not None else 0.0
    return process.drained or now - process.seen_at > patience


# ---- watching and the end -----------------------------------------------------------------------


def _watches(mesh: Mesh) -> Iterator[tuple[Process, m.Body]]:
    if mesh.now is None:
        return
    catalogue = mesh.now.plan.catalogue
    for process in list(mesh.processes.values()):
        part = process.acked
        if not process.attached or not isinstance(part, NFPart):
            continue
        own = (*part.publishes, *part.raises)
        if not own:
            continue
        wanted = tuple(
            sorted(
                name
                for name in mesh.watched
                if name in catalogue and any(catalogue.is_a(event, name) for event in own)
            )
        )
        if wanted != process.watches:
            process.watches = wanted
            yield process, m.Watch(events=list(wanted))


def _is_done(mesh: Mesh) -> bool:
    if mesh.stopping == "now":
        return True
    if _has_lost_a_worker(mesh):
        return all(_is_finished(mesh, n) or not _is_attached(mesh, n) for n in _nf_names(mesh))
    return mesh.has_ended and all(_has_ended(mesh, name) for name in _nf_names(mesh))


def _has_ended(mesh: Mesh, name: str) -> bool:
    """True for an NF with nothing left to say; one that joins may be away."""
    is_away = name in mesh.joining and not _is_attached(mesh, name)
    return is_away or _is_finished(mesh, name)


def _farewells(mesh: Mesh) -> Iterator[tuple[Process, m.Body]]:
    for process in list(mesh.processes.values()):
        if process.told:
            continue
        process.told = True
        if process.role != "supervisor":
            yield process, m.Leave()
            continue
        report, error = final_report(mesh)
        yield process, m.Finished(report=report, start_failed=start_failures(mesh), error=error)


# ---- what became of a change --------------------------------------------------------------------


def outcome(
    mesh: Mesh, request: Change | None, nf: str, now: float
) -> dict[str, Any] | MeshError | None:
    """Returns what to answer, the error that takes the change back, or None to wait on."""
    for name in _joining(mesh) if isinstance(request, m.NfAdd | m.NfPut | m.Apply) else ():
        if name in mesh.failures:
            failed = mesh.failures[name]
            return PlanError(f"failed in {failed.where}: {failed.text}", nf=name)
    if not (_supervisor_is_ready(mesh) and _worker_is_ready(mesh)):
        return SpecError("", "the run has ended") if mesh.ends else None
    found: dict[str, Any] = {"effective_from": _effective_from(mesh)}
    process = mesh.processes.get(nf)
    if isinstance(request, m.NfAdd):
        if process is None or not process.attached:
            return None
        return {"nf": nf, "pid": process.pid, **found}
    if isinstance(request, Declared):
        return found
    if isinstance(request, m.NfRemove):
        if not has_left(mesh, nf, now):
            return None
        result = mesh.results.get(nf)
        return {"nf": nf, "report": result.report if result else None, **found}
    waiting = [p for p in mesh.processes.values() if p.ready < mesh.desired.revision]
    named = [name for name in _nf_names(mesh) if name not in mesh.joining]
    if any(p.role == "nf" and p.name in named for p in waiting):
        return None
    if not all(_is_attached(mesh, name) for name in _joining(mesh)):
        return None
    return found


def _effective_from(mesh: Mesh) -> int | None:
    revision = mesh.desired.revision
    found = [w.effective_from for w in _workers(mesh) if w.ready == revision]
    return max((at for at in found if at is not None), default=None)
