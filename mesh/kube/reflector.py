# SPDX-License-Identifier: Apache-2.0
"""A copy of the objects of one kind, kept up to date by list and watch.

Theory of operation: a thread lists once, then watches from the list's version on. Every event
moves the version, bookmarks too, so a watch that ends goes on where it was. "Expired" (410, as an
answer or as an event in the stream) means that the server has forgotten that version: list again,
and tell the differences. Anything else that fails is tried again after a pause that doubles.

What the operator has just written is put into the copy at once (`put`), so that nothing is written
twice because the watch is slow; an older version never replaces a newer one, and what was deleted
does not come back.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from mesh.errors import ApiError
from mesh.kube.api import Api, Kind, Object
from mesh.kube.workqueue import Backoff

__all__ = ["Reflector", "Store"]

log = logging.getLogger("nfmesh.operator")

Changed = Callable[[Object | None, Object | None], None]
"""Called with an object before and after; None: it was not there, is not there any more."""
REMEMBERED = 4096
GONE = 410
SHORT_S, LONG_S = 0.5, 5.0


class Store:
    """Objects by name; written by one reflector and by who writes objects."""

    def __init__(self, changed: Changed) -> None:
        self._lock = threading.RLock()
        self._objects: dict[str, Object] = {}
        self._gone: deque[str] = deque(maxlen=REMEMBERED)
        self._changed = changed
        self.serial = 0

    def get(self, name: str) -> Object | None:
        """Returns one object; it is not to be written to."""
        with self._lock:
            return self._objects.get(name)

    def __iter__(self) -> Iterator[Object]:
        with self._lock:
            return iter(list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    def put(self, after: Object) -> None:
        """Takes an object, unless a newer version is here or it is known to be gone."""
        name = after["metadata"]["name"]
        with self._lock:
            before = self._objects.get(name)
            if after["metadata"].get("uid") in self._gone:
                return
            if before is not None and not _is_newer(after, before):
                return
            self._set(name, after)
        self._changed(before, after)

    def remove(self, last: Object) -> None:
        """Removes an object that was deleted; its namesake stays."""
        uid = last["metadata"].get("uid")
        name = last["metadata"]["name"]
        with self._lock:
            if uid is not None:
                self._gone.append(uid)
            before = self._objects.get(name)
            if before is None or before["metadata"].get("uid") != uid:
                return
            del self._objects[name]
            self.serial += 1
        self._changed(before, None)

    def replace(self, objects: list[Object]) -> None:
        """Takes a whole list, also an older one: what is not in it is gone."""
        listed = {each["metadata"].get("uid") for each in objects}
        for before in self:
            if before["metadata"].get("uid") not in listed:
                self.remove(before)
        for after in objects:
            name = after["metadata"]["name"]
            with self._lock:
                old = self._objects.get(name)
                if old is not None and _version(old) == _version(after):
                    continue
                self._set(name, after)
            self._changed(old, after)

    def _set(self, name: str, after: Object) -> None:
        self._objects[name] = after
        self.serial += 1


def _is_newer(after: Object, before: Object) -> bool:
    (new_uid, new), (old_uid, old) = _version(after), _version(before)
    if new_uid != old_uid:
        return True
    return int(new) > int(old) if new.isdigit() and old.isdigit() else new != old


def _version(found: Object) -> tuple[str, str]:
    metadata = found["metadata"]
    return str(metadata.get("uid", "")), str(metadata.get("resourceVersion", ""))


class Reflector:
    """Keeps a store equal to the server's objects.

    Args:
        api: the server.
        kind: of the objects.
        changed: called for each difference, in the reflector's thread or the writer's.
        selector: of labels; "" takes all.
        backoff: pauses after failures.
    """

    def __init__(
        self,
        api: Api,
        kind: Kind,
        changed: Changed,
        selector: str = "",
        backoff: Backoff = Backoff(0.2, 30.0),  # noqa: B008 # immutable
    ) -> None:
        self.kind, self.store = kind, Store(changed)
        self._api, self._selector, self._backoff = api, selector, backoff
        self._synced, self._stopping = threading.Event(), threading.Event()
        self._version = ""
        self.lists = self.watches = self.failures = 0
        self.is_watching = False
        self.thread = threading.Thread(target=self._run, name=f"watch-{kind.plural}", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self.thread.start()

    def stop(self) -> None:
        """Ends the thread some time soon; it may still wait for the server."""
        self._stopping.set()

    def join(self, timeout: float) -> None:
        """Waits for the thread."""
        self.thread.join(timeout)

    def wait_synced(self, timeout: float) -> bool:
        """Waits until the first list is in the store."""
        return self._synced.wait(timeout)

    @property
    def is_synced(self) -> bool:
        """True once the first list is in the store."""
        return self._synced.is_set()

    def statistics(self) -> dict[str, int]:
        """Returns numbers of objects, lists, watches, and failures in a row."""
        return {
            "objects": len(self.store),
            "lists": self.lists,
            "watches": self.watches,
            "failures": self.failures,
        }

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if not self._version:
                    self._list()
                self._watch()
                self.failures = 0
            except ApiError as error:
                self._failed(error)
            except Exception:
                log.exception("the watch of %s", self.kind.plural)
                self._failed(None)

    def _failed(self, error: ApiError | None) -> None:
        if error is not None and error.status == GONE:
            self._version = ""
            if self.failures == 0:
                self.failures = 1
                return
        self.failures += 1
        pause = self._backoff.pause(self.failures, random.random())
        if error is not None:
            pause = max(pause, error.retry_after_s)
            log.warning("%s: %s; again in %.1f s", self.kind.plural, error.text, pause)
        self._stopping.wait(pause)

    def _list(self) -> None:
        found = self._api.list(self.kind, self._selector)
        self.lists += 1
        items = found.get("items") or []
        for each in items:  # a list's items do not say what they are
            each.setdefault("kind", self.kind.name)
            each.setdefault("apiVersion", self.kind.api_version)
        self.store.replace(items)
        self._version = str(found.get("metadata", {}).get("resourceVersion") or "0")
        self._synced.set()

    def _watch(self) -> None:
        self.watches += 1
        began = time.monotonic()
        with self._api.watch(self.kind, self._version, self._selector) as events:
            self.is_watching = True
            try:
                for event in events:
                    if self._stopping.is_set():
                        return
                    self._take(event)
            finally:
                self.is_watching = False
                if time.monotonic() - began > LONG_S:
                    self.failures = 0
        if time.monotonic() - began < SHORT_S:  # a server that ends every watch at once
            self._stopping.wait(SHORT_S)

    def _take(self, event: Object) -> None:
        found, kind = event.get("object") or {}, event.get("type")
        version = str(found.get("metadata", {}).get("resourceVersion") or "")
        if kind in ("ADDED", "MODIFIED"):
            self.store.put(found)
        elif kind == "DELETED":
            self.store.remove(found)
        if version:
            self._version = version
        self.failures = 0
