# SPDX-License-Identifier: Apache-2.0
"""The stacks of a release: telling each which functions are on its node, and hearing how they are.

Theory of operation: `Stacks` has, per node with a stack pod, an agent: a thread with a line to that
stack. Reconciling only says what an agent's stack shall have (`want`, `unwant`) and reads what it
last said (`view`); it never waits for a stack. An agent looks at its stack every few seconds and
when something was asked for: what is wanted and not there, or was told in other words, is put;
what is unwanted and there is removed; what is there and was never heard of is reported by name, so
that the operator decides (it may have been deleted while nobody looked). A stack that does not
answer is asked again after pauses that double; one that was replaced gets an agent of its own, and
is told all again. Putting is idempotent, so saying it once more costs nothing.

Rules of this file. An agent calls `changed` only outside its lock. What a stack refused is kept
with its words, until the words of the wish change or something else on that node does.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from mesh.errors import MeshError, SpecError
from mesh.kube.status import Attachment, attachment_of
from mesh.kube.workqueue import Backoff

__all__ = ["Connect", "StackLink", "Stacks", "View", "Wish"]

log = logging.getLogger("nfmesh.operator")
JOIN_S = 5.0


class StackLink(Protocol):
    """A line to one stack; `mesh.control.remote.Remote` is one. Used by one thread at a time."""

    def status(self) -> Mapping[str, Any]:
        """Returns all that the stack knows, `attachments` by name of function."""

    def put_nf(self, entry: Mapping[str, Any], token_sha256: str) -> Mapping[str, Any]:
        """Makes a function be as its entry says; doing it again does nothing."""

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

    def unwant(self, name: str) -> None:
        """Says that the stack shall not have it."""
        with self._lock:
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
            names = {*self._wishes, *self._view.attachments}
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
            news = _differences(before, self._view)
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
                self._refused.clear()
        return bool(names)

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
                self._refuse(name, wish, str(error))
                continue
            self._taken(name, wish)
        return bool(todo)

    def _refuse(self, name: str, wish: Wish, text: str) -> None:
        with self._lock:
            self._refused[name] = (wish, text)

    def _taken(self, name: str, wish: Wish) -> None:
        """Notes that a function is told; others that were refused may fit now."""
        with self._lock:
            if self._told.get(name) != wish:
                self._refused = {n: r for n, r in self._refused.items() if n == name}
            self._refused.pop(name, None)
            self._told[name] = wish


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


class Stacks:
    """All stacks of a release, by node.

    Args:
        connect: makes a line.
        changed: called with names of functions of which something new is known.
        poll_s: seconds between two looks at a stack.
    """

    def __init__(
        self, connect: Connect, changed: Callable[[Iterable[str]], None], poll_s: float
    ) -> None:
        self._connect, self._changed, self._poll_s = connect, changed, poll_s
        self._lock = threading.Lock()
        self._agents: dict[str, Agent] = {}
        self._ids: dict[str, str] = {}

    def __enter__(self) -> Stacks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def set_nodes(self, stacks: Mapping[str, tuple[str, str]]) -> None:
        """Says which stacks there are: node → (what it is known by, address)."""
        begun: list[tuple[str, Agent]] = []
        with self._lock:
            ended = [
                (node, self._agents.pop(node))
                for node in list(self._agents)
                if node not in stacks or self._ids[node] != stacks[node][0]
            ]
            wishes = {node: agent.wishes() for node, agent in ended}
            for node, (identity, address) in stacks.items():
                self._ids[node] = identity
                if node not in self._agents:
                    agent = Agent(address, self._connect, self._changed, self._poll_s)
                    for name, wish in wishes.get(node, {}).items():
                        agent.want(name, wish)
                    self._agents[node] = agent
                    begun.append((node, agent))
        for _, agent in ended:
            agent.stop()
        for node, agent in begun:
            agent.start(node)
        affected = {name for agent in (a for _, a in ended) for name in agent.view.attachments}
        affected |= {name for found in wishes.values() for name in found}
        if affected:
            self._changed(affected)

    def nodes(self) -> list[str]:
        """Returns the nodes that have a stack."""
        with self._lock:
            return sorted(self._agents)

    def views(self) -> dict[str, View]:
        """Returns what is known of each node's stack."""
        with self._lock:
            return {node: agent.view for node, agent in self._agents.items()}

    def want(self, node: str, name: str, wish: Wish) -> None:
        """Says that a node's stack shall have a function; a node without a stack is passed by."""
        if (agent := self._agent(node)) is not None:
            agent.want(name, wish)

    def unwant(self, name: str, nodes: Iterable[str] | None = None) -> None:
        """Says that stacks shall not have a function: those of some nodes, or all."""
        for node in self.nodes() if nodes is None else list(nodes):
            if (agent := self._agent(node)) is not None:
                agent.unwant(name)

    def having(self, name: str) -> list[str]:
        """Returns the nodes whose stack has a function, or shall have it, or lets it go."""
        with self._lock:
            return [node for node, agent in self._agents.items() if agent.has(name)]

    def close(self) -> None:
        """Ends all lines."""
        with self._lock:
            agents = list(self._agents.values())
            self._agents.clear()
        for agent in agents:
            agent.stop()
        for agent in agents:
            agent.join()

    def _agent(self, node: str) -> Agent | None:
        with self._lock:
            return self._agents.get(node)
