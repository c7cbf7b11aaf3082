# SPDX-License-Identifier: Apache-2.0
"""What `nfmesh status` prints and the metrics are made of: all that is known, as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mesh.control.functions import Seen, function_of
from mesh.control.process import SILENT_S, Process
from mesh.control.stats import HostStats, NFStats, RingStats, WorkerStats

if TYPE_CHECKING:
    from mesh.control.state import Mesh

__all__ = ["functions", "status"]


def functions(mesh: Mesh, now: float) -> list[dict[str, Any]]:
    """Returns every NF as the object that it would be in a cluster, by name."""
    rows = {row["name"]: row for row in _processes(mesh, now)}
    entries = {
        entry["name"]: entry for entry in mesh.desired.spec.get("nfs", ()) if "name" in entry
    }
    leaving = {name: gone["entry"] for name, gone in mesh.desired.leaving.items()}
    found = []
    for name in sorted({*entries, *leaving, *mesh.history.refused}):
        process = mesh.processes.get(name)
        said = None if process is None else process.found
        seen = Seen(
            entry=leaving.get(name) or entries.get(name) or {},
            row=rows.get(name, {}),
            attachment=_attachment(mesh, name, now) if name in mesh.joining else None,
            cpus="" if said is None else said.cpus,
            backing=None if said is None else said.backing,
            refusal=mesh.history.refused.get(name),
            is_leaving=name in leaving,
        )
        found.append(function_of(name, seen))
    return found


def status(mesh: Mesh, now: float) -> dict[str, Any]:
    """Returns everything, JSON values only."""
    return {
        "revision": mesh.desired.revision,
        "state": _state(mesh),
        "processes": _processes(mesh, now),
        "objects": [each.model_dump() for each in _host(mesh).objects],
        "workers": {p.name: _worker(p) for p in _of_role(mesh, "worker")},
        "nfs": {p.name: _nf(p) for p in _of_role(mesh, "nf")},
        "attachments": {name: _attachment(mesh, name, now) for name in sorted(mesh.joining)},
        "rings": _rings(mesh),
        "subscriptions": _subscriptions(mesh),
        "modules": [] if mesh.now is None else [m.name for m in mesh.now.plan.modules],
        "stack": _stack(mesh),
        "publishes": _publishes(mesh),
        "metrics": mesh.metrics,
        "pinning": _host(mesh).pinning,
        "listen": mesh.listening,
        "notices": [*_host(mesh).notices, *mesh.notices],
        "refused": {
            **dict(mesh.refused),
            **{f"descriptors.{k}": v for k, v in _host(mesh).refused.items()},
        },
    }


def _state(mesh: Mesh) -> str:
    if mesh.is_over:
        return "over"
    if mesh.stopping or mesh.ends:
        return "ending"
    workers = _of_role(mesh, "worker")
    return "running" if workers and all(p.attached for p in workers) else "starting"


def _of_role(mesh: Mesh, role: str) -> list[Process]:
    return [p for p in mesh.processes.values() if p.role == role]


def _host(mesh: Mesh) -> HostStats:
    supervisor = mesh.processes.get("supervisor")
    stats = supervisor.stats if supervisor else None
    return stats if isinstance(stats, HostStats) else HostStats()


def _processes(mesh: Mesh, now: float) -> list[dict[str, Any]]:
    """The supervisor's list, with what only the controller knows; then processes not on it."""
    rows: dict[str, dict[str, Any]] = {
        each.name: each.model_dump() for each in _host(mesh).processes
    }
    for row in rows.values():
        if row["state"] == "running" and row["silent_s"] > min(SILENT_S, row["patience_s"] / 2) > 0:
            row["state"] = "hangs"
    for process in mesh.processes.values():
        row = rows.setdefault(
            process.name,
            {
                "name": process.name,
                "role": process.role,
                "pid": process.pid,
                "state": "running",
                "cores": list(process.cores),
            },
        )
        row["phase"] = _phase(process)
        row["revision"] = process.ready
        row["seen_ago_s"] = round(max(0.0, now - process.seen_at), 3)
        if process.is_silent(now):
            row["state"] = "silent"
    if "controller" in rows:
        rows["controller"]["state"] = "running"  # it is the one that answers
    for name, failed in mesh.failures.items():
        rows.setdefault(name, {"name": name})["failed"] = f"{failed.where}: {failed.text}"
    return list(rows.values())


def _phase(process: Process) -> str:
    """How far it is: registered, ready, attached, draining, drained."""
    if process.drained:
        return "drained"
    if process.draining:
        return "draining"
    if process.attached:
        return "attached"
    return "ready" if process.ready else "registered"


def _worker(process: Process) -> dict[str, Any]:
    stats = process.stats
    if not isinstance(stats, WorkerStats):
        return {"effective_from": process.effective_from}
    return {
        "statistics": dict(stats.statistics),
        "counters": dict(stats.counters),
        "ports": [port.model_dump() for port in stats.ports],
        "memory_bytes": stats.memory_bytes,
        "effective_from": process.effective_from,
    }


def _nf(process: Process) -> dict[str, Any]:
    stats = process.stats
    if not isinstance(stats, NFStats):
        return {}
    return stats.model_dump(exclude={"kind", "rings"})


def _attachment(mesh: Mesh, name: str, now: float) -> dict[str, Any]:
    """An NF that joins from elsewhere: whether it is here, and what it says of itself."""
    process, failed = mesh.processes.get(name), mesh.failures.get(name)
    found = None if process is None else process.found
    return {
        "place": "pod",
        "phase": _phase_of_joined(mesh, process),
        "cores": [] if process is None else list(process.cores),
        "cpus_allowed_list": "" if found is None else found.cpus,
        "uid": None if found is None else found.uid,
        "backing": {} if found is None else dict(found.backing),
        "error": "" if failed is None else failed.text,
        "error_where": "" if failed is None else failed.where,
        "restarts": max(0, mesh.comings[name] - 1),
        "gone_s": round(now - mesh.gone[name], 3) if name in mesh.gone else None,
    }


def _phase_of_joined(mesh: Mesh, process: Process | None) -> str:
    if process is None:
        return "away"
    if mesh.now is None or process.name not in mesh.now.parts.nfs:
        return "draining" if process.name in mesh.desired.leaving else "undeclared"
    phase = _phase(process)
    return phase if phase in ("attached", "draining", "drained") else "starting"


def _rings(mesh: Mesh) -> list[dict[str, Any]]:
    """Every ring once: as its worker sees it, else as its NF does."""
    found: dict[str, tuple[RingStats, str]] = {}
    for role in ("nf", "worker"):
        for process in _of_role(mesh, role):
            stats = process.stats
            if isinstance(stats, WorkerStats | NFStats):
                found.update({ring.ring: (ring, process.name) for ring in stats.rings})
    return [
        {"nf": name.split("/")[1] if "/" in name else "", **ring.model_dump(), "depth": ring.depth}
        for name, (ring, _) in found.items()
    ]


def _subscriptions(mesh: Mesh) -> list[dict[str, Any]]:
    """What is subscribed, with the entries that the NF's handler has had."""
    if mesh.now is None:
        return []
    rows = []
    for nf in mesh.now.plan.nfs:
        process = mesh.processes.get(nf.name)
        stats = process.stats if process else None
        heard = stats.handlers if isinstance(stats, NFStats) else {}
        for sub in nf.subscriptions:
            rows.append(
                {
                    "nf": nf.name,
                    "subscription": sub.name,
                    "events": list(sub.events),
                    "where": sub.where,
                    "handler": sub.method,
                    "entries": heard.get(sub.method),
                }
            )
    return rows


def _stack(mesh: Mesh) -> list[dict[str, Any]]:
    """The modules that run, in order: who needs them, what they keep per flow."""
    if mesh.now is None:
        return []
    return [
        {
            "module": module.name,
            "phase": module.phase.name.lower(),
            "flow_bytes": mesh.now.flow_bytes.get(module.name, 0),
            "needed_by": list(module.needed_by),
        }
        for module in mesh.now.plan.modules
    ]


def _publishes(mesh: Mesh) -> dict[str, list[str]]:
    """Event → NFs that publish it, or raise it with their verdicts."""
    found: dict[str, list[str]] = {}
    for nf in mesh.now.plan.nfs if mesh.now else ():
        for event in (*nf.publishes, *nf.raises):
            found.setdefault(event, []).append(nf.name)
    return found
