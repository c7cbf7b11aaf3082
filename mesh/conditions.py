# SPDX-License-Identifier: Apache-2.0
"""The words for how a network function is: conditions, their reasons, and what is told of changes.

    Ready        it is attached, on the cores that it asked for
    Progressing  something is on its way that ends by itself
    Degraded     something is wrong, and the reason says what

The reason of Ready = False is that of Degraded, else that of Progressing. A mesh of one host
(`mesh/control/functions.py`) and the operator of a cluster (`mesh/kube/status.py`) find out in
their own ways what holds, and say it with these words. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

__all__ = [
    "MOST_TEXT",
    "Condition",
    "News",
    "Reason",
    "Trouble",
    "condition",
    "conditions_of",
    "failure_of",
    "is_ready",
    "news_of",
    "seconds_of",
    "shortage_in",
    "shortened",
    "stamp_of",
    "with_times",
]

Condition = dict[str, Any]
Reason = Literal[
    # as it should be
    "Attached",
    "AsWanted",
    "Settled",
    "InPlace",
    # under way
    "Scheduling",
    "Starting",
    "Attaching",
    "Updating",
    "Draining",
    "WaitingForStack",
    "WaitingForFunction",
    # asked for, and not possible
    "Invalid",
    "GraphInvalid",
    "NameTaken",
    "SecretInvalid",
    # of chains
    "Cycle",
    "NotInline",
    "StageGiven",
    "TooManyStages",
    "UnknownFunction",
    # too little of something
    "InsufficientCpu",
    "InsufficientHugepages",
    "InsufficientMemory",
    "InsufficientDevices",
    "Unschedulable",
    "NotGuaranteed",
    "CoresShared",
    # does not run, or is not seen
    "StartFailed",
    "CrashLoop",
    "ImagePullFailed",
    "ContainerFailed",
    "PodFailed",
    "PodRefused",
    "StackUnreachable",
]
MOST_TEXT = 1000
"""Characters of a message: a definition takes no more than 4096, an event 1024."""
_SHORT: tuple[tuple[str, Reason], ...] = (
    ("Insufficient cpu", "InsufficientCpu"),
    ("Insufficient hugepages-", "InsufficientHugepages"),
    ("Insufficient memory", "InsufficientMemory"),
    ("Insufficient ", "InsufficientDevices"),
)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something is as it is: a word for the condition, and a sentence."""

    reason: Reason
    text: str


@dataclass(frozen=True, slots=True)
class News:
    """What an event says."""

    kind: Literal["Normal", "Warning"]
    reason: str
    text: str


_STAMP = "%Y-%m-%dT%H:%M:%SZ"
_SETTLED = Trouble("Settled", "nothing is under way")
_FINE = Trouble("AsWanted", "nothing is wrong")


def conditions_of(
    trouble: Trouble | None, step: Trouble | None, attached: str, **more: Any
) -> list[Condition]:
    """Returns the conditions of a function.

    Args:
        trouble: what is wrong.
        step: what is under way, when nothing is wrong.
        attached: what is said when neither is.
        more: keys of each condition.
    """
    why = trouble or step or Trouble("Attached", attached)
    found = (
        ("Ready", trouble is None and step is None, why),
        ("Progressing", step is not None, step or _SETTLED),
        ("Degraded", trouble is not None, trouble or _FINE),
    )
    return [condition(kind, holds, why, **more) for kind, holds, why in found]


def condition(kind: str, holds: bool, why: Trouble, **more: Any) -> Condition:
    """Returns one condition."""
    status = "True" if holds else "False"
    return {
        "type": kind,
        "status": status,
        "reason": why.reason,
        "message": shortened(why.text),
        **more,
    }


def is_ready(conditions: Iterable[Condition]) -> bool:
    """Returns True when a function does what it is for."""
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def with_times(
    new: Iterable[Condition], old: Iterable[Condition] | None, now: str
) -> list[Condition]:
    """Gives conditions the time of their last change of status."""
    before = _by_type(old or ())
    timed = []
    for each in new:
        was = before.get(each["type"], {})
        same = was.get("status") == each["status"] and was.get("lastTransitionTime")
        timed.append({**each, "lastTransitionTime": was["lastTransitionTime"] if same else now})
    return timed


def shortened(text: str, most: int = MOST_TEXT) -> str:
    """Returns a text of no more than so many characters.

    >>> shortened("too long", 5)
    'too …'
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


def stamp_of(seconds: float) -> str:
    """Writes a time, in seconds since the epoch, as objects of a cluster have it.

    >>> stamp_of(90.5)
    '1970-01-01T00:01:30Z'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime(_STAMP)


def seconds_of(stamp: str) -> float:
    """Reads what `stamp_of` has written."""
    return datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC).timestamp()


def failure_of(where: str, text: str) -> Trouble:
    """Says what it means that something went wrong there: "plan", "start", "exit", ..."""
    reasons: Mapping[str, Reason] = {"plan": "GraphInvalid", "exit": "CrashLoop"}
    return Trouble(shortage_in(text) or reasons.get(where, "StartFailed"), text)


def shortage_in(text: str) -> Reason | None:
    """Returns what there is too little of, in a scheduler's words.

    >>> shortage_in("0/3 nodes are available: 3 Insufficient cpu.")
    'InsufficientCpu'
    """
    return next((reason for words, reason in _SHORT if words in text), None)


def news_of(new: Iterable[Condition], old: Iterable[Condition] | None) -> News | None:
    """Returns what is told of a change; None: nothing that anybody would look for.

    Args:
        new: conditions as they are.
        old: as they were; None: nobody has said any before, and that it came well is no news.
    """
    after, before = _by_type(new), _by_type(old or ())
    ready, wrong = after["Ready"], after["Degraded"]
    step = after.get("Progressing", {})
    was_wrong = before.get("Degraded", {})
    if wrong["status"] == "True":
        is_new = was_wrong.get("reason") != wrong["reason"]
        return News("Warning", wrong["reason"], wrong["message"]) if is_new else None
    if ready["status"] == "True":
        came = before.get("Ready", ready)["status"] != "True"
        return News("Normal", ready["reason"], ready["message"]) if came else None
    leaves = step.get("reason") == "Draining" != before.get("Progressing", {}).get("reason")
    return News("Normal", "Draining", step["message"]) if leaves else None


def _by_type(conditions: Iterable[Condition]) -> Mapping[str, Condition]:
    return {str(each.get("type")): each for each in conditions}
