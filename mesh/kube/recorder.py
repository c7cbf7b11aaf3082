# SPDX-License-Identifier: Apache-2.0
"""Events on objects, as `kubectl describe` shows them; the same one is written once in a while.

An event's name is a digest of what it says of whom, so a restarted operator goes on with the event
that is there instead of writing another.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from mesh.conditions import MOST_TEXT, stamp_of
from mesh.errors import ApiError
from mesh.kube.api import EVENTS, Api, Object

__all__ = ["Recorder"]

log = logging.getLogger("nfmesh.operator")
AGAIN_S = 600.0
REMEMBERED = 2048


class Recorder:
    """Writes events.

    Args:
        api: the server.
        me: who reports.
        clock: monotonic seconds.
    """

    def __init__(self, api: Api, me: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._api, self._me, self._clock = api, me, clock
        self._lock = threading.Lock()
        self._said: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def normal(self, about: Object, reason: str, text: str) -> None:
        """Says that something happened as it should."""
        self._say(about, "Normal", reason, text)

    def warning(self, about: Object, reason: str, text: str) -> None:
        """Says that something is wrong."""
        self._say(about, "Warning", reason, text)

    def _say(self, about: Object, kind: str, reason: str, text: str) -> None:
        metadata = about["metadata"]
        told = "\n".join((metadata.get("uid", ""), kind, reason, text))
        name = f"{metadata['name']}.{hashlib.sha256(told.encode()).hexdigest()[:16]}"
        with self._lock:
            at, count = self._said.get(name, (float("-inf"), 0))
            if self._clock() - at < AGAIN_S:
                return
            self._said[name] = (self._clock(), count + 1)
            self._said.move_to_end(name)
            while len(self._said) > REMEMBERED:
                self._said.popitem(last=False)
        try:
            self._write(name, about, (kind, reason, text[:MOST_TEXT]), count + 1)
        except ApiError as error:
            log.info("event %s of %s was not written: %s", reason, metadata["name"], error.text)

    def _write(self, name: str, about: Object, what: tuple[str, str, str], count: int) -> None:
        now = stamp_of(time.time())
        kind, reason, text = what
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name},
            "involvedObject": {
                "apiVersion": about.get("apiVersion"),
                "kind": about.get("kind"),
                "namespace": self._api.namespace,
                "name": about["metadata"]["name"],
                "uid": about["metadata"].get("uid"),
                "resourceVersion": about["metadata"].get("resourceVersion"),
            },
            "type": kind,
            "reason": reason,
            "message": text,
            "source": {"component": "nfmesh-operator"},
            "reportingComponent": "nfmesh-operator",
            "reportingInstance": self._me,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": count,
        }
        try:
            self._api.create(EVENTS, body)
        except ApiError as error:
            if error.status != 409:
                raise
            self._api.patch(EVENTS, name, {"count": max(2, count), "lastTimestamp": now})
