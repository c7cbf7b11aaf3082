# SPDX-License-Identifier: Apache-2.0
"""The report of a run from what its processes said; the same JSON as Report.to_json()."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mesh.control import messages as m
from mesh.control.composing import FIRST
from mesh.report import merged_counters, merged_statistics

if TYPE_CHECKING:
    from mesh.control.state import Mesh

__all__ = ["final_report", "start_failures"]


def final_report(mesh: Mesh) -> tuple[dict[str, Any], str]:
    """Returns the report, and why it is not whole ("" when it is)."""
    eof = _end_of_all(mesh)
    order = [] if mesh.now is None else [nf.name for nf in mesh.now.plan.nfs]
    names = [*order, *(name for name in mesh.results if name not in order)]
    report = {
        "source": eof.source,
        "seconds": eof.seconds,
        "packets": eof.statistics.get("packets", 0),
        "statistics": dict(eof.statistics),
        "nfs": [_nf(mesh, name) for name in names],
        "counters": {k: v for k, v in eof.counters.items() if v},
        "warnings": [*eof.warnings, *_failed_modules(mesh)],
        "interrupted": bool(mesh.stopping) or eof.interrupted,
    }
    return report, _error(mesh)


def _end_of_all(mesh: Mesh) -> m.Eof:
    """What the workers that came to their end saw together."""
    ends = list(mesh.ends.values())
    reads_all = mesh.now is not None and all(
        worker.handover is None for worker in mesh.now.parts.workers.values()
    )
    return m.Eof(
        source=ends[0].source if ends else "",
        seconds=max((end.seconds for end in ends), default=0.0),
        statistics=merged_statistics([end.statistics for end in ends]),
        counters=merged_counters([end.counters for end in ends], reads_all=reads_all),
        warnings=list(dict.fromkeys(text for end in ends for text in end.warnings)),
        interrupted=any(end.interrupted for end in ends),
    )


def _failed_modules(mesh: Mesh) -> list[str]:
    """Says which modules on cores of their own were missing."""
    return [
        f"{name} failed in {failed.where}: {failed.text}"
        for name, failed in mesh.failures.items()
        if name.startswith("module-")
    ]


def start_failures(mesh: Mesh) -> list[str]:
    """Returns the names of NFs of the first plan that did not start."""
    nfs = () if mesh.now is None else mesh.now.parts.nfs
    first = {
        name
        for name in nfs
        if mesh.desired.joined.get(name, FIRST) == FIRST and name not in mesh.joining
    }
    failed = {name for name in first if name in mesh.failures}
    if mesh.has_begun:
        failed = {name for name in failed if mesh.failures[name].where in ("import", "start")}
    return sorted({*failed, *(name for name, r in mesh.results.items() if r.start_failed)})


def _nf(mesh: Mesh, name: str) -> dict[str, Any]:
    result = mesh.results.get(name)
    if result is not None:
        return result.report
    failed = mesh.failures.get(name)
    text = ""
    if failed is not None:
        who = f"NF {name!r}"
        is_whole = failed.text.startswith(who)
        text = failed.text if is_whole else f"{who} failed in {failed.where}: {failed.text}"
    return {
        "name": name,
        "events": 0,
        "batches": 0,
        "published": {},
        "results": None,
        "errors": [text] if text else [],
        "failures": int(bool(failed)),
        "disabled": True,
    }


def _error(mesh: Mesh) -> str:
    nfs = set() if mesh.now is None else set(mesh.now.parts.nfs)
    for name, failed in mesh.failures.items():
        if name not in nfs and not mesh.has_ended:
            return failed.text if name == "controller" else f"{name}: {failed.text}"
    return ""
