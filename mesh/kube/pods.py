# SPDX-License-Identifier: Apache-2.0
"""What the operator wants to know of a pod, read from what the API server says. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.conditions import Trouble, shortage_in, shortened
from mesh.kube.api import Object

__all__ = ["PodFacts", "pod_facts", "trouble_of"]

_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_LOOP = ("CrashLoopBackOff",)
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_TEXT_LIMIT = 400


@dataclass(frozen=True, slots=True)
class PodFacts:
    """One pod.

    Attributes:
        node: where it is, "" nowhere yet.
        phase: Kubernetes' word; qos: its class.
        ip: of the pod, "" none yet.
        is_ready: its readiness probe says so.
        is_leaving: it was told to end.
        waiting: why its container does not run, as (reason, message).
        unplaced: why the scheduler found no node, or "".
    """

    name: str
    uid: str
    node: str
    phase: str
    qos: str
    ip: str
    is_ready: bool
    is_leaving: bool
    waiting: tuple[str, str] | None
    unplaced: str

    @property
    def is_over(self) -> bool:
        """True when none of its processes runs any more."""
        return self.phase in ("Succeeded", "Failed")


def pod_facts(pod: Object) -> PodFacts:
    """Reads a pod."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    conditions = {each.get("type"): each for each in status.get("conditions") or ()}
    placed = conditions.get("PodScheduled", {})
    unplaced = ""
    if placed.get("status") == "False" and placed.get("reason") == "Unschedulable":
        unplaced = str(placed.get("message") or "no node takes it")
    return PodFacts(
        name=metadata["name"],
        uid=str(metadata.get("uid", "")),
        node=(pod.get("spec") or {}).get("nodeName") or "",
        phase=str(status.get("phase") or "Pending"),
        qos=str(status.get("qosClass") or ""),
        ip=str(status.get("podIP") or ""),
        is_ready=conditions.get("Ready", {}).get("status") == "True",
        is_leaving="deletionTimestamp" in metadata,
        waiting=_waiting(status),
        unplaced=unplaced,
    )


def _waiting(status: Mapping[str, Any]) -> tuple[str, str] | None:
    for each in status.get("containerStatuses") or ():
        state = (each.get("state") or {}).get("waiting")
        if state and state.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            last = (each.get("lastState") or {}).get("terminated") or {}
            text = str(last.get("message") or state.get("message") or "")
            return str(state["reason"]), text.strip()
    return None


def trouble_of(pod: PodFacts) -> Trouble | None:
    """Says why a pod does not come up; None: nothing is wrong (yet)."""
    if pod.unplaced and not pod.node:
        return Trouble(shortage_in(pod.unplaced) or "Unschedulable", _short(pod.unplaced))
    if pod.phase == "Failed" and not pod.is_leaving:
        return Trouble("PodFailed", f"pod {pod.name} failed")
    if pod.waiting is None:
        return None
    reason, text = pod.waiting
    if reason in _PULL:
        return Trouble("ImagePullFailed", _short(text or reason))
    if reason in _LOOP:
        return Trouble("CrashLoop", _short(f"its process ends again and again: {text}"))
    if reason in _CONFIG:
        return Trouble("ContainerFailed", _short(f"{reason}: {text}"))
    return None


def _short(text: str) -> str:
    return shortened(" ".join(text.split()), _TEXT_LIMIT)
