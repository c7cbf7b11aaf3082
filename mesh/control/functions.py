# SPDX-License-Identifier: Apache-2.0
"""Every NF of a mesh, as the NetworkFunction that it would be in a cluster. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.conditions import Trouble, conditions_of, failure_of
from mesh.topology import cpu_text

__all__ = ["Seen", "function_of"]

API_VERSION = "nfmesh.io/v1alpha1"
_NOT_SAID = ("name", "place", "token", "declares")


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of an NF.

    Attributes:
        entry: of the spec; empty for one that was never taken in.
        row: of its process, as `nfmesh status --json` has it; empty: there is none.
        attachment: of one that joins, as there.
        cpus: those that its threads may run on, as it said when it attached.
        backing: what the memory that it maps lies on.
        refusal: why what was asked for last is not what runs.
        is_leaving: it was removed.
    """

    entry: Mapping[str, Any]
    row: Mapping[str, Any]
    attachment: Mapping[str, Any] | None = None
    cpus: str = ""
    backing: Mapping[str, str] | None = None
    refusal: Trouble | None = None
    is_leaving: bool = False

    @property
    def phase(self) -> str:
        """How far it is."""
        found = self.row if self.attachment is None else self.attachment
        return str(found.get("phase") or "starting")


def function_of(name: str, seen: Seen) -> dict[str, Any]:
    """Returns an NF as an object: what was asked for, and its status."""
    own = _trouble(seen)
    trouble = seen.refusal or own
    step = None if trouble else _step(seen)
    cores = cpu_text(seen.row.get("cores") or ()) or seen.cpus
    is_misplaced = own is not None and own.reason == "CoresShared"
    is_attached = seen.phase == "attached" and (own is None or is_misplaced)
    text = "attached" + (f", on {cores}" if cores else "")
    row: dict[str, Any] = {"pod": name, "attached": is_attached}
    said = {"cores": cores, "backing": ", ".join(sorted(set((seen.backing or {}).values())))}
    row |= {key: value for key, value in said.items() if value and is_attached}
    return {
        "apiVersion": API_VERSION,
        "kind": "NetworkFunction",
        "metadata": {"name": name},
        "spec": _spec(seen.entry),
        "status": {
            "replicas": int(bool(seen.entry)),
            "readyReplicas": int(is_attached and not is_misplaced),
            **({"cores": row["cores"]} if "cores" in row else {}),
            "nodes": [row] if seen.entry else [],
            "conditions": conditions_of(trouble, step, text),
        },
    }


def _spec(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Writes an entry as a custom resource has it: how many cores, not which."""
    found = {key: value for key, value in entry.items() if key not in _NOT_SAID}
    if "deadline_ms" in found:
        found["deadlineMs"] = found.pop("deadline_ms")
    cores = found.get("cores")
    return {**found, "cores": len(cores) if isinstance(cores, list) else int(cores or 0)}


def _trouble(seen: Seen) -> Trouble | None:
    row, attachment = seen.row, seen.attachment
    if attachment is not None and attachment["error"]:
        return failure_of(attachment["error_where"], str(attachment["error"]))
    where, _, failed = str(row.get("failed") or "").partition(": ")
    if failed:
        return failure_of(where, failed)
    last = str(row.get("last_exit") or "it ended")
    is_again = row.get("state") == "waiting" and row.get("restarts", 0) > 0
    if row.get("state") == "failed" or is_again:
        return Trouble("CrashLoop", f"its process ends again and again: {last}")
    asked, has = row.get("cores_asked") or [], row.get("cores") or []
    if asked and has and set(asked) != set(has):
        text = f"asked for {cpu_text(asked)}, its threads run on {cpu_text(has)}"
        return Trouble("CoresShared", text)
    return None


def _step(seen: Seen) -> Trouble | None:
    if seen.is_leaving or seen.phase in ("draining", "drained"):
        return Trouble("Draining", "it finishes what it was sent")
    if seen.phase == "attached":
        return None
    if seen.attachment is None:
        return Trouble("Starting", f"its process is {seen.row.get('state') or 'about to start'}")
    if seen.phase == "away":
        return Trouble("Starting", "no process of it has joined")
    if seen.phase == "undeclared":
        return Trouble("Attaching", "its class is being looked at")
    return Trouble("Attaching", "it maps its memory")
