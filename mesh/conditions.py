# SPDX-License-Identifier: Apache-2.0
"""How each NF of a mesh is, in the words that its custom resource would have in a cluster. Pure.

    Ready        it is attached, on the cores that it asked for
    Progressing  it is on its way there
    Degraded     something is wrong, and the reason says what

The reason of Ready = False is that of Degraded, else that of Progressing. Reasons are those of
`mesh/kube/status.py`, as far as a host without a cluster knows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["conditions_of"]

Condition = dict[str, str]
Why = tuple[str, str]
_FINE: Why = ("AsWanted", "nothing is wrong")
_SETTLED: Why = ("Settled", "nothing is under way")


def conditions_of(status: Mapping[str, Any]) -> dict[str, list[Condition]]:
    """Returns the conditions of every NF, from what `nfmesh status --json` prints."""
    attachments = status.get("attachments", {})
    rows = {
        row["name"]: row
        for row in status["processes"]
        if row.get("role") == "nf" or row["name"] in status["nfs"] or row["name"] in attachments
    }
    return {
        name: _conditions(rows.get(name, {}), attachments.get(name))
        for name in sorted({*rows, *attachments})
    }


def _conditions(row: Mapping[str, Any], attachment: Mapping[str, Any] | None) -> list[Condition]:
    phase = attachment["phase"] if attachment is not None else row.get("phase", "starting")
    trouble = _trouble(row, attachment)
    step = None if trouble else _step(row, attachment, phase)
    cores = row.get("cores") or (attachment or {}).get("cores") or []
    text = "attached" + (f", on {_list(cores)}" if cores else "")
    why = trouble or step or ("Attached", text)
    return [
        _condition("Ready", trouble is None and step is None, why),
        _condition("Progressing", step is not None, step or _SETTLED),
        _condition("Degraded", trouble is not None, trouble or _FINE),
    ]


def _trouble(row: Mapping[str, Any], attachment: Mapping[str, Any] | None) -> Why | None:
    if attachment is not None and attachment["error"]:
        reason = "GraphInvalid" if attachment["error_where"] == "plan" else "StartFailed"
        return reason, str(attachment["error"])
    failed = str(row.get("failed") or "")
    if failed:
        where = failed.partition(":")[0]
        return ("GraphInvalid" if where == "plan" else "StartFailed"), failed
    last = str(row.get("last_exit") or "it ended")
    if row.get("state") == "failed":
        return "CrashLoop", last
    if row.get("state") == "waiting" and row.get("restarts", 0) > 0:
        return "CrashLoop", f"is started again, {row['restarts']} times so far: {last}"
    asked, has = row.get("cores_asked") or [], row.get("cores") or []
    if asked and has and set(asked) != set(has):
        return "CoresShared", f"asked for {_list(asked)}, its threads run on {_list(has)}"
    return None


def _step(row: Mapping[str, Any], attachment: Mapping[str, Any] | None, phase: str) -> Why | None:
    if phase == "attached":
        return None
    if phase in ("draining", "drained"):
        return "Draining", "it finishes what it was sent"
    if attachment is None:
        return "Starting", f"its process is {row.get('state') or 'about to start'}"
    if phase == "away":
        return "Starting", "no process of it has joined"
    if phase == "undeclared":
        return "Attaching", "its class is being looked at"
    return "Attaching", "it maps its memory"


def _condition(kind: str, holds: bool, why: Why) -> Condition:
    status = "True" if holds else "False"
    return {"type": kind, "status": status, "reason": why[0], "message": why[1]}


def _list(cores: Sequence[int]) -> str:
    return ",".join(map(str, cores))
