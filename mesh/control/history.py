# SPDX-License-Identifier: Apache-2.0
"""What happened to the NFs of a mesh: events, in the words and the shape of a cluster's.

The controller looks at all NFs now and then and tells what has changed for the better or the worse
since it looked last. Equal events are one with a count. All of it lies in the run folder too, so a
controller that comes back goes on where the last one was.
"""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from mesh.conditions import (
    MOST_TEXT,
    Condition,
    News,
    Reason,
    Trouble,
    conditions_of,
    failure_of,
    is_ready,
    news_of,
    stamp_of,
    with_times,
)
from mesh.control import messages as m
from mesh.control.requests import Change, is_dry, place_in
from mesh.errors import MeshError
from mesh.whole_file import write_whole

__all__ = ["FILE", "History", "load_history", "save_history"]

log = logging.getLogger("nfmesh.controller")

FILE = "history.json"
KEPT_EVENTS = 256
KEPT_REFUSALS = 64
RETURN_S = 5.0
"""Processes have made themselves known to a controller that came back."""
_STARTING = conditions_of(None, Trouble("Starting", "it is new"), "")


class History:
    """Events, and what they are found by.

    Args:
        clock: seconds since the epoch.

    Attributes:
        refused: NF → why what was asked for last was not taken; it goes when something is.
        is_fresh: something has changed since it was saved.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._events: OrderedDict[tuple[str, str, str], dict[str, Any]] = OrderedDict()
        self._told: dict[str, list[Condition]] = {}
        self.refused: dict[str, Trouble] = {}
        self.is_fresh = False
        self._restored_at = float("-inf")

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events, the last one last."""
        return list(self._events.values())

    def refuse(self, request: m.NfPut, error: MeshError, where: str) -> None:
        """Notes that NFs were not put in: the one that is wrong, or all when none is known.

        Args:
            request: what was asked for.
            error: why not.
            where: it went wrong, as in `Failed`.
        """
        place, text = place_in(error), str(getattr(error, "text", error))
        why = failure_of(where, f"spec.{place}: {text}" if place else text)
        names = [str(entry.get("name") or "") for entry in request.entries]
        wrong = getattr(error, "nf", "")
        for name in [wrong] if wrong in names else names:
            self.refused.pop(name, None)
            self.refused[name] = why
            self.is_fresh = True
        while len(self.refused) > KEPT_REFUSALS:
            del self.refused[next(iter(self.refused))]

    def accept(self, request: Change) -> None:
        """Notes that a change was made: what was refused before of what it is about is past."""
        if is_dry(request):
            return
        if isinstance(request, m.NfPut):
            names = [str(entry.get("name")) for entry in request.entries]
        elif isinstance(request, m.Apply):
            names = list(self.refused)
        else:
            names = [str(getattr(request, "nf", ""))]
        for name in names:
            self.is_fresh |= self.refused.pop(name, None) is not None

    def look(self, functions: Iterable[dict[str, Any]]) -> None:
        """Looks at all NFs, and tells what has changed; their conditions get times."""
        found = {each["metadata"]["name"]: self._seen(each) for each in functions}
        self.is_fresh |= found != self._told
        self._told = found

    def look_at(self, name: str, functions: Iterable[dict[str, Any]]) -> None:
        """Looks at one of them, and tells what has changed."""
        for each in functions:
            if each["metadata"]["name"] == name:
                self._told[name] = self._seen(each)
                self.is_fresh = True

    def _seen(self, function: dict[str, Any]) -> list[Condition]:
        """Tells what has changed of an NF; returns its conditions, which get times."""
        name, status = function["metadata"]["name"], function["status"]
        before, found = self._told.get(name), status["conditions"]
        timed = status["conditions"] = with_times(found, before, self._now())
        if before is not None and self._may_be_here(before, found):
            return before
        news = news_of(found, before or _STARTING)
        if news is not None:
            self.tell(name, news)
        return timed

    def _may_be_here(self, before: list[Condition], found: list[Condition]) -> bool:
        """True for an NF that ran when this controller began, and had no time to say so yet."""
        is_early = self._clock() < self._restored_at + RETURN_S
        return is_early and is_ready(before) and found[0]["reason"] == _STARTING[0]["reason"]

    def begins(self, name: str) -> None:
        """Notes that an NF is about to attach anew: when it has, that is told.

        It may be quicker than the next look, which then finds it attached as it was.
        """
        before = self._told.get(name)
        if before is not None and is_ready(before):
            self._told[name] = with_times(_STARTING, before, self._now())
            self.is_fresh = True

    def tell(self, name: str, news: News) -> None:
        """Adds an event, or counts the one that says the same."""
        text = news.text[:MOST_TEXT]
        now = self._now()
        key = (name, news.reason, text)
        known = self._events.get(key)
        self._events[key] = {
            "type": news.kind,
            "reason": news.reason,
            "message": text,
            "involvedObject": {"kind": "NetworkFunction", "name": name},
            "count": known["count"] + 1 if known else 1,
            "firstTimestamp": known["firstTimestamp"] if known else now,
            "lastTimestamp": now,
        }
        self._events.move_to_end(key)
        while len(self._events) > KEPT_EVENTS:
            self._events.popitem(last=False)
        self.is_fresh = True

    def _now(self) -> str:
        return stamp_of(self._clock())

    def saved(self) -> dict[str, Any]:
        """Returns all of it as plain data; it is not fresh then."""
        self.is_fresh = False
        refused = {name: [why.reason, why.text] for name, why in self.refused.items()}
        return {"events": self.events, "told": self._told, "refused": refused}

    def restore(self, saved: _File) -> None:
        """Takes what another controller has saved."""
        for each in saved.events:
            key = (each["involvedObject"]["name"], each["reason"], each["message"])
            self._events[key] = each
        self._told, self._restored_at = saved.told, self._clock()
        self.refused = {name: Trouble(*why) for name, why in saved.refused.items()}


@checked(frozen=True, slots=True)
class _File:
    events: list[dict[str, Any]]
    told: dict[str, list[Condition]]
    refused: dict[str, tuple[Reason, str]]


def save_history(folder: Path, history: History) -> None:
    """Writes it whole or not at all; a full disk is noted."""
    path = folder / FILE
    try:
        write_whole(path, json.dumps(history.saved()))
    except OSError as error:
        log.warning("%s: %s", path, error.strerror)


def load_history(folder: Path, clock: Callable[[], float] = time.time) -> History:
    """Reads it; one that is not there or damaged is begun anew: nothing hangs on it."""
    found = History(clock)
    try:
        found.restore(TypeAdapter(_File).validate_json((folder / FILE).read_bytes()))
    except FileNotFoundError:
        pass
    except (OSError, ValidationError, KeyError) as error:
        log.warning("%s: events begin anew: %s", folder / FILE, error)
        return History(clock)
    return found
