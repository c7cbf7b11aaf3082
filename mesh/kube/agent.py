# SPDX-License-Identifier: Apache-2.0
"""One stack of a release: telling it which functions are on its node, and hearing how they are.

Theory of operation. An agent is a thread with a line to a stack. It is told what its stack shall
have (`want`, `unwant`) and what to ask it (`check`), and shows what the stack last said (`view`);
who tells it never waits. It looks at its stack every few seconds and when something was asked for:
what is wanted and not there, or was told in other words, is put; what is unwanted and there is
removed; what is there and was never heard of is reported by name, so that the operator decides (it
may have been deleted while nobody looked). A stack that does not answer is asked again after pauses
that double. Putting and checking are idempotent, so saying it once more costs nothing.

Rules of this file. An agent calls `changed` only outside its lock. What a stack refused is kept
with its words until the words of the wish change, or a function of that node comes, goes, or says
what it publishes: then the refused ones are looked at again.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mesh.errors import MeshError, SpecError
from mesh.kube.status import Attachment, attachment_of
from mesh.kube.workqueue import Backoff

__all__ = ["Agent", "Connect", "StackLink", "View", "Wish"]

log = logging.getLogger("nfmesh.operator")
JOIN_S = 5.0


class StackLink(Protocol):
    """A line to one stack; `mesh.control.remote.Remote` is one. Used by one thread at a time."""

    def status(self) -> Mapping[str, Any]:
        """Returns all that the stack knows, `attachments` by name of function."""

    def put_nf(self, entry: Mapping[str, Any], token_sha256: str) -> Mapping[str, Any]:
        """Makes a function be as its entry says; doing it again does nothing."""

    def check_nf(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """Says whether that would be refused; changes nothing."""

    def remove_nf(self, name: str) -> Mapping[str, Any]:
        """Removes a function after it has handled what it was sent."""

    def close(self) -> None:
        """Ends the line."""


Connect = Callable[[str], StackLink]
"""Makes a line to an address; does not wait for an answer."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a stack shall have: an entry as in a spec's `nfs`, and the digest of its token."""

    entry: Mapping[str, Any]
    token_sha256: str


@dataclass(frozen=True, slots=True)
class View:
    """What is known of a node's stack.

    Attributes:
        error: why it does not answer, "" when it does; is_known: it has answered once.
        attachments: function → what the stack says of it.
        refused: function → why it was not taken.
    """

    error: str = ""
    is_known: bool = False
    attachments: Mapping[str, Attachment] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


class Agent:
    """One stack: what it shall have, and what it says.

    Args:
        address: of its control socket.
        connect: makes the line, in the agent's thread.
        changed: called with the names of functions of which something new is known.
        poll_s: seconds between two looks.
    """

    def __init__(
        self,
        address: str,
        connect: Connect,
        changed: Callable[[Iterable[str]], None],
        poll_s: float,
    ) -> None:
        self.address = address
        self._connect, self._changed, self._poll_s = connect, changed, poll_s
        self._lock = threading.Lock()
        self._wishes: dict[str, Wish] = {}
        self._removals: set[str] = set()
        self._told: dict[str, Wish] = {}
        self._refused: dict[str, tuple[Wish, str]] = {}
        self._checked: dict[str, tuple[Mapping[str, Any], str | None]] = {}
        self._again: set[str] = set()
        self._view = View()
        self._link: StackLink | None = None
        self._failures = 0
        self._backoff = Backoff(0.5, 15.0)
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, name: str) -> None:
        """Starts the thread."""
        thread = threading.Thread(target=self._run, name=f"stack-{name}", daemon=True)
        thread.start()
        self._thread = thread  # who closes meanwhile need not wait for it

    def stop(self) -> None:
        """Ends the thread soon."""
        self._stopping.set()
        self._wake.set()

    def join(self) -> None:
        """Waits for the thread."""
        if self._thread is not None:
            self._thread.join(JOIN_S)

    @property
    def view(self) -> View:
        """What is known now."""
        return self._view

    def want(self, name: str, wish: Wish) -> None:
        """Says that the stack shall have a function."""
        with self._lock:
            self._removals.discard(name)
            if self._wishes.get(name) == wish:
                return
            self._wishes[name] = wish
        self._wake.set()

    def check(self, name: str, entry: Mapping[str, Any]) -> str | None:
        """Returns why the stack would not take an entry, "" when it would; None: not known yet.

        `changed` is called with the name when it is known.
        """
        with self._lock:
            known = self._checked.get(name)
            if known is not None and known[0] == entry:
                return known[1]
            self._checked[name] = (entry, None)
        self._wake.set()
        return None

    def unwant(self, name: str) -> None:
        """Says that the stack shall not have it."""
        with self._lock:
            self._checked.pop(name, None)
            had = self._wishes.pop(name, None)
            if had is None and (name in self._removals or name not in self._view.attachments):
                return
            self._removals.add(name)
            self._told.pop(name, None)
            self._refused.pop(name, None)
        self._wake.set()

    def has(self, name: str) -> bool:
        """True while the stack has a function, or shall have it, or it is being removed."""
        with self._lock:
            asked = name in self._wishes or name in self._removals
        return asked or name in self._view.attachments

    def wishes(self) -> dict[str, Wish]:
        """Returns what the stack shall have."""
        with self._lock:
            return dict(self._wishes)

    # ---- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                try:
                    self.step()
                    self._failures = 0
                    pause = self._poll_s
                except MeshError as error:
                    pause = self._failed(str(error))
                except Exception as error:
                    log.exception("stack at %s", self.address)
                    pause = self._failed(f"{type(error).__name__}: {error}")
                self._wait(pause)
        finally:
            self._drop_link()

    def _wait(self, pause: float) -> None:
        if self._failures:
            self._stopping.wait(pause)
        else:
            self._wake.wait(pause)

    def _failed(self, text: str) -> float:
        self._failures += 1
        self._drop_link()
        with self._lock:
            self._told.clear()
            names = {*self._wishes, *self._view.attachments, *self._checked}
            first = self._view.error != text
            self._view = View(text, self._view.is_known, self._view.attachments)
        if first:
            log.warning("stack at %s: %s", self.address, text)
            self._changed(names)
        return self._backoff.pause(self._failures, random.random())

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def step(self) -> None:
        """Looks at the stack, and does one round of what is to be done there."""
        if self._link is None:
            self._link = self._connect(self.address)
        rows = self._look(self._link)
        self._check(self._link)
        if self._remove(self._link, rows) | self._put(self._link, rows):
            self._look(self._link)

    def _look(self, link: StackLink) -> set[str]:
        """Takes the stack's status; returns the functions that it has."""
        rows = link.status().get("attachments") or {}
        found = {str(name): attachment_of(row) for name, row in rows.items()}
        with self._lock:
            self._removals &= set(found)
            before = self._view
            refused = {name: text for name, (_, text) in self._refused.items()}
            self._view = View("", True, found, refused)
            lost = set(self._told) - set(found)
            for name in lost:
                del self._told[name]
            if _moved(before, self._view):
                self._reconsider()
            news, self._again = _differences(before, self._view) | self._again, set()
            news |= {name for name in found if name not in self._wishes} - self._removals
        if news:
            self._changed(news)
        return set(found)

    def _remove(self, link: StackLink, rows: set[str]) -> bool:
        with self._lock:
            names = sorted(self._removals & rows)
            self._removals &= rows
        for name in names:
            link.remove_nf(name)
        if names:
            with self._lock:
                self._reconsider()
        return bool(names)

    def _check(self, link: StackLink) -> None:
        with self._lock:
            todo = [(name, entry) for name, (entry, said) in self._checked.items() if said is None]
        for name, entry in todo:
            if self._stopping.is_set():
                return
            try:
                link.check_nf(entry)
                said = ""
            except SpecError as error:
                said = _in_words_of_object(name, error)
            with self._lock:
                if self._checked.get(name) == (entry, None):
                    self._checked[name] = (entry, said)
        if todo:
            self._changed([name for name, _ in todo])

    def _put(self, link: StackLink, rows: set[str]) -> bool:
        with self._lock:
            todo = [
                (name, wish)
                for name, wish in self._wishes.items()
                if (self._told.get(name) != wish or name not in rows)
                and self._refused.get(name, (None, ""))[0] != wish
            ]
        for name, wish in todo:
            if self._stopping.is_set():
                return False
            try:
                link.put_nf(wish.entry, wish.token_sha256)
            except SpecError as error:
                self._refuse(name, wish, _in_words_of_object(name, error))
                continue
            self._taken(name, wish)
        return bool(todo)

    def _refuse(self, name: str, wish: Wish, text: str) -> None:
        with self._lock:
            self._refused[name] = (wish, text)

    def _taken(self, name: str, wish: Wish) -> None:
        """Notes that a function is told; others that were refused may fit now."""
        with self._lock:
            self._refused.pop(name, None)
            if self._told.get(name) != wish:
                self._reconsider()
            self._told[name] = wish

    def _reconsider(self) -> None:
        """Forgets what was refused, with the lock held; the next look reports their names."""
        unfit = [name for name, (_, said) in self._checked.items() if said]
        for name in unfit:
            del self._checked[name]
        self._again |= {*unfit, *self._refused}
        self._refused.clear()


def _in_words_of_object(name: str, error: SpecError) -> str:
    """Returns a refusal with places as the object has them."""
    return str(error).replace(f"nfs.{name}.", "spec.")


def _moved(before: View, after: View) -> bool:
    """True when a function came, went, or is further on than before."""
    was, now = before.attachments, after.attachments
    return was.keys() != now.keys() or any(was[name].phase != now[name].phase for name in now)


def _differences(before: View, after: View) -> set[str]:
    names = {*before.attachments, *after.attachments, *before.refused, *after.refused}
    if (before.error, before.is_known) != (after.error, after.is_known):
        return names
    return {
        name
        for name in names
        if before.attachments.get(name) != after.attachments.get(name)
        or before.refused.get(name) != after.refused.get(name)
    }
