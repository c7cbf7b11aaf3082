# SPDX-License-Identifier: Apache-2.0
"""From what is known of a NetworkFunction to its status: conditions and rows per pod. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.conditions import Trouble, conditions_of, failure_of, with_times
from mesh.kube.api import Object
from mesh.kube.models import NetworkFunctionSpec
from mesh.kube.pods import PodFacts, trouble_of

__all__ = [
    "Attachment",
    "Facts",
    "attachment_of",
    "cores_of",
    "function_status",
    "same_status",
    "with_conditions",
]


@dataclass(frozen=True, slots=True)
class Attachment:
    """What a node's stack says of a function.

    Attributes:
        phase: away, undeclared, starting, attached, draining.
        cpus: its threads may run on these, as the kernel writes them: "2-3".
        backing: what the memory that it maps lies in.
        error: why it is not there, and where that went wrong: plan, import, start, ...
    """

    phase: str = "away"
    cpus: str = ""
    backing: str = ""
    error: str = ""
    error_where: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a function's status is made of.

    Attributes:
        wanted: pods that there shall be.
        pods: those that there are, without those that are over.
        stacks: number of nodes with a stack that is up.
        stack_trouble: why another one does not come up.
        seen: node → what its stack says of this function; none where it says nothing.
        neighbours: node → function → cores of others that have cores of their own.
        unreachable: node → why its stack does not answer.
        trouble: what is wrong before any pod: the spec, the graph, a name that is taken.
        refused: why the server takes no more pods: a quota, a policy; "" it does.
        rolling: an update is under way.
    """

    spec: NetworkFunctionSpec
    generation: int
    selector: str
    wanted: int
    pods: Sequence[PodFacts] = ()
    stacks: int = 0
    stack_trouble: Trouble | None = None
    seen: Mapping[str, Attachment] = field(default_factory=dict)
    neighbours: Mapping[str, Mapping[str, frozenset[int]]] = field(default_factory=dict)
    unreachable: Mapping[str, str] = field(default_factory=dict)
    trouble: Trouble | None = None
    refused: str = ""
    rolling: bool = False


def attachment_of(row: Mapping[str, Any]) -> Attachment:
    """Reads a row of a stack's status."""
    backing = row.get("backing") or {}
    kinds = sorted({str(kind) for kind in backing.values()}) if backing else []
    return Attachment(
        phase=str(row.get("phase") or "away"),
        cpus=str(row.get("cpus_allowed_list") or ""),
        backing=", ".join(kinds),
        error=str(row.get("error") or ""),
        error_where=str(row.get("error_where") or ""),
    )


def cores_of(text: str) -> frozenset[int]:
    """Reads a list of cores as the kernel writes it.

    >>> sorted(cores_of("0,2-4"))
    [0, 2, 3, 4]
    """
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit() and (last or first).isdigit():
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def function_status(facts: Facts) -> Object:
    """Returns the status; conditions have no times yet. None: there shall be no such field."""
    live = [pod for pod in facts.pods if not pod.is_leaving]
    good = [pod for pod in live if _is_attached(pod, facts) and _misplaced(pod, facts) is None]
    ready = len(good)
    trouble = facts.trouble or _trouble(facts, live)
    step = None if trouble else _step(facts, live, ready)
    rows = [_row(pod, facts) for pod in sorted(facts.pods, key=lambda each: each.name)]
    text = _attached_text(facts, ready)
    return {
        "observedGeneration": facts.generation,
        "replicas": len(live),
        "readyReplicas": ready,
        "selector": facts.selector,
        "cores": _cores_text(rows) or None,
        "nodes": rows,
        "conditions": conditions_of(trouble, step, text, observedGeneration=facts.generation),
    }


def _is_attached(pod: PodFacts, facts: Facts) -> bool:
    seen = facts.seen.get(pod.node)
    return pod.phase == "Running" and seen is not None and seen.phase == "attached"


def _misplaced(pod: PodFacts, facts: Facts) -> Trouble | None:
    """Says why the cores of a pod that is attached are not what was asked for."""
    spec, seen = facts.spec, facts.seen.get(pod.node)
    if seen is None or spec.cores == 0:
        return None
    if pod.qos != "Guaranteed":
        text = f"pod {pod.name} is {pod.qos or 'of no class'}: nothing is reserved for it"
        return Trouble("NotGuaranteed", f"{text}; something changed its requests or limits")
    cores = cores_of(seen.cpus)
    if len(cores) != spec.cores:
        text = f"asked for {spec.cores} cores of its own, its threads run on {seen.cpus or 'any'}"
        hint = "is the CPU manager policy of that kubelet static?"
        return Trouble("CoresShared", f"node {pod.node}: {text}; {hint}")
    for other, theirs in sorted(facts.neighbours.get(pod.node, {}).items()):
        if cores & theirs:
            text = f"node {pod.node}: cores {seen.cpus} are also those of {other!r}"
            return Trouble("CoresShared", text)
    return None


def _trouble(facts: Facts, live: Sequence[PodFacts]) -> Trouble | None:
    for pod in live:
        seen = facts.seen.get(pod.node)
        if seen is not None and seen.error:
            return failure_of(seen.error_where, f"node {pod.node}: {seen.error}")
    if facts.stacks == 0 and facts.wanted and facts.stack_trouble:
        short = facts.stack_trouble
        return Trouble(short.reason, f"no stack is up: {short.text}")
    is_making_room = len(live) < len(facts.pods)
    if facts.refused and not is_making_room:
        return Trouble("PodRefused", facts.refused)
    for pod in live:
        found = trouble_of(pod)
        if found is None:
            continue
        if pod.unplaced and (is_making_room or facts.stacks == 0):
            continue  # what leaves frees cores; without a stack there is no node to be on
        if pod.unplaced and facts.rolling and found.reason == "InsufficientCpu":
            hint = "no node has cores for the old and the new pod; use updateStrategy Recreate"
            return Trouble(found.reason, f"{hint}: {found.text}")
        return found
    for pod in live:
        if (found := _misplaced(pod, facts)) is not None and _is_attached(pod, facts):
            return found
    for pod in live:
        if pod.node in facts.unreachable:
            text = f"node {pod.node}: {facts.unreachable[pod.node]}"
            return Trouble("StackUnreachable", text)
    return None


def _step(facts: Facts, live: Sequence[PodFacts], ready: int) -> Trouble | None:
    """Says what is under way; None when all is as wanted."""
    of = f"{ready} of {facts.wanted} attached"
    if facts.stacks == 0 and facts.wanted:
        return Trouble("WaitingForStack", "no node has a stack that is up")
    if facts.rolling:
        return Trouble("Updating", f"pods of a new revision come; {of}")
    if len(live) > facts.wanted:
        return Trouble("Draining", f"{len(live) - facts.wanted} pods leave; {of}")
    if ready >= facts.wanted:
        return None
    if any(not pod.node for pod in live) or len(live) < facts.wanted:
        return Trouble("Scheduling", f"pods are being placed; {of}")
    if any(pod.phase != "Running" for pod in live):
        return Trouble("Starting", f"pods are starting; {of}")
    waiting = [pod.node for pod in live if pod.node not in facts.seen]
    if waiting:
        return Trouble("WaitingForStack", f"node {waiting[0]}: its stack is not up; {of}")
    return Trouble("Attaching", f"pods run and are not attached yet; {of}")


def _attached_text(facts: Facts, ready: int) -> str:
    if facts.wanted == 0:
        return "no pods are wanted"
    if facts.spec.cores == 0:
        return f"{ready} of {facts.wanted} attached"
    return f"{ready} of {facts.wanted} attached, on cores of their own"


def _row(pod: PodFacts, facts: Facts) -> Object:
    seen = facts.seen.get(pod.node)
    row: Object = {"pod": pod.name, "attached": _is_attached(pod, facts)}
    if pod.node:
        row["node"] = pod.node
    if seen is not None and seen.phase == "attached":
        said = {"cores": seen.cpus, "backing": seen.backing}
        row |= {key: text for key, text in said.items() if text}
    return row


def _cores_text(rows: Sequence[Object]) -> str:
    placed = [row for row in rows if row.get("cores")]
    if len(placed) == 1:
        return str(placed[0]["cores"])
    return ", ".join(f"{row.get('node')}: {row['cores']}" for row in placed[:16])


# ---- against what was written before -------------------------------------------------------


def with_conditions(status: Object, old: Object | None, now: str) -> Object:
    """Returns a status with the times of its conditions."""
    conditions = with_times(status["conditions"], (old or {}).get("conditions"), now)
    return {**status, "conditions": conditions}


def same_status(new: Object, old: Object | None) -> bool:
    """True when writing `new` would change nothing but times."""
    if old is None:
        return False
    for key, value in new.items():
        if key != "conditions" and old.get(key) != value:
            return False
    before = {each.get("type"): each for each in old.get("conditions") or ()}
    for each in new["conditions"]:
        was = before.get(each["type"], {})
        if any(was.get(key) != each[key] for key in each if key != "lastTransitionTime"):
            return False
    return True
