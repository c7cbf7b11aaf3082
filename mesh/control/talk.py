# SPDX-License-Identifier: Apache-2.0
"""What a process says to the controller, and what it says again. No socket, no clock.

Theory of operation. Connections break, and what was under way over one is lost, in both directions;
neither side is told. What repairs it is one rule: whoever speaks over a connection over which it
has not registered is asked `who`, and heartbeats see to it that everybody speaks soon. A process
that is asked registers, and repeats the last message of each kind in REPEATED, so that the
controller knows how far it is; the controller repeats what the process has not answered
(process.py). Everybody bears to hear everything twice. So a controller that is another one, and
one that was silent for long, are no cases of their own.
"""

from __future__ import annotations

from collections import deque

from mesh.control import messages as m

__all__ = ["MAX_WAITING", "Talk"]

MAX_WAITING = 1024
REPEATED = (m.Keys, m.Ready, m.Attached, m.Eof, m.Result, m.Drained, m.Failed)
"""Said again, in this order; of failures those for good, the last one of each process."""


class Talk:
    """One process' side of what is said.

    Args:
        register: what it registers as; `revision` is kept up to date from its `ready`.

    Attributes:
        is_known: the controller has answered over the connection of now.
        dropped: messages that found no room.
    """

    def __init__(self, register: m.Register) -> None:
        self.is_known = False
        self.dropped = 0
        self._registration = register
        self._outbox: deque[m.Body] = deque()
        self._said: dict[tuple[type[m.Body], str], m.Body] = {}
        self._holds = 0

    def say(self, message: m.Body) -> None:
        """Queues a message; the oldest `published` one goes when there is no room."""
        if _is_repeated(message):
            self._said[_key(message)] = message
        if len(self._outbox) >= MAX_WAITING:
            self._drop_one()
        self._outbox.append(message)

    def next(self) -> m.Body | None:
        """Takes what is to be sent next; nothing before the controller has answered."""
        return self._outbox.popleft() if self.is_known and self._outbox else None

    def register(self) -> m.Register:
        """Returns what to register with, to be sent at once; what is repeated waits behind it."""
        waiting = {_key(message) for message in self._outbox if _is_repeated(message)}
        for kind in REPEATED:
            self._outbox += [
                message
                for key, message in self._said.items()
                if key[0] is kind and key not in waiting
            ]
        return self._registration.model_copy(update={"revision": self.revision})

    def heard(self, body: m.Body) -> None:
        """Takes note of what the controller says."""
        self.is_known = True
        if isinstance(body, m.Seen):
            self._holds = body.revision

    @property
    def revision(self) -> int:
        """The revision of the plan that this process has applied."""
        ready = self._said.get((m.Ready, ""))
        applied = ready.revision if isinstance(ready, m.Ready) else 0
        return max(applied, self._holds, self._registration.revision)

    def _drop_one(self) -> None:
        """Makes room: a published message if there is one; what is repeated is not lost anyway."""
        self.dropped += 1
        for i, each in enumerate(self._outbox):
            if isinstance(each, m.Published):
                del self._outbox[i]
                return
        self._outbox.popleft()


def _is_repeated(message: m.Body) -> bool:
    """True for what a process says once; a plan that cannot be is said again with the plan."""
    return type(message) in REPEATED and not (isinstance(message, m.Failed) and not message.fatal)


def _key(message: m.Body) -> tuple[type[m.Body], str]:
    return type(message), (message.name or "") if isinstance(message, m.Failed) else ""
