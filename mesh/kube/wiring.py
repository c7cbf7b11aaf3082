# SPDX-License-Identifier: Apache-2.0
"""All stacks of a release, by node: an agent for each (`agent.py`).

A stack that was replaced gets an agent of its own, and is told all again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from mesh.kube.agent import Agent, Connect, View, Wish

__all__ = ["Stacks"]


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

    def check(self, name: str, entry: Mapping[str, Any]) -> str | None:
        """Returns why no stack would take a function; None: that is not known yet.

        "" when one would, or when there is none that could be asked. One after the other is asked,
        first those that have the function.
        """
        with self._lock:
            agents = sorted(self._agents.items(), key=lambda each: (not each[1].has(name), each[0]))
        first = ""
        for node, agent in agents:
            if agent.view.error:
                continue
            said = agent.check(name, entry)
            if not said:
                return said
            first = first or f"node {node}: {said}"
        return first

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
