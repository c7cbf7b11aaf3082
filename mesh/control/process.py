# SPDX-License-Identifier: Apache-2.0
"""One process as the controller knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from mesh.control import messages as m
from mesh.control.stats import Stats
from mesh.control.wire import HostPart, NFPart, WorkerPart, to_wire
from mesh.spec import NFSpec

__all__ = ["SILENT_S", "AnyPart", "Process", "is_same"]

AnyPart = WorkerPart | NFPart | HostPart
SILENT_S = 3.0
"""Several heartbeats: who lives is heard within this time."""


@dataclass(slots=True)
class Process:
    """A registered process; a restarted one is another, with another session.

    Attributes:
        identity: of its connection, for the ROUTER.
        seen_at: seconds, when it was last heard.
        sent: revision that it was told; part: what that said; after: from which positions on.
        ready: revision that it said it has applied; acked: the part of that revision.
        effective_from: first packet that the revision holds for (workers).
        positions: ring → entries pushed before that (workers).
        went: it was told to go; attached: it said that it did.
        holding: revision that it was told to hold for, 0 none; held: that it said it does.
        draining: why it was told to drain, or ""; draining_since: seconds.
        told: it was told that the run is over.
        watches: what it was told of watchers; None: nothing since it may have lost that.
        declares: what an NF that joined says of its class; declared_at: revision for which that
            was looked at, with the entry of the spec in declared_for.
        found: what it says of itself since it is attached.
    """

    name: str
    role: Literal["worker", "nf", "supervisor"]
    identity: bytes
    session: int
    pid: int
    cores: tuple[int, ...]
    registered_at: float
    seen_at: float
    sent: int = 0
    part: AnyPart | None = None
    after: Mapping[str, int] = field(default_factory=dict)
    ready: int = 0
    acked: AnyPart | None = None
    effective_from: int | None = None
    positions: Mapping[str, int] = field(default_factory=dict)
    went: bool = False
    attached: bool = False
    holding: int = 0
    held: int = 0
    draining: str = ""
    draining_since: float = 0.0
    drained: bool = False
    told: bool = False
    watches: tuple[str, ...] | None = ()
    stats: Stats | None = None
    declares: m.Data | None = None
    declared_at: int = 0
    declared_for: NFSpec | None = None
    found: m.Attached | None = None

    def is_silent(self, now: float) -> bool:
        """True when it has not been heard for several heartbeats."""
        return now - self.seen_at > SILENT_S

    def reconnected(self, identity: bytes, applied: int) -> list[m.Body]:
        """Takes note of another connection; returns what is to be said again over it.

        What was said over the one before may be lost, so all that it has not answered is said
        again, word for word; it bears to hear it twice.

        Args:
            identity: of the connection.
            applied: revision that it registers with: it is about to say so again.
        """
        if identity == self.identity:
            return []
        self.identity, self.watches, self.told = identity, None, False
        again: list[m.Body] = []
        if max(self.ready, applied) < self.sent and self.part is not None:
            again.append(self._plan(self.part))
        if self.held < self.holding:
            again.append(m.Hold(revision=self.holding))
        if self.went and not self.attached:
            again.append(m.Go(revision=self.ready))
        if self.draining and not self.drained:
            again.append(m.Drain(reason=self.draining))
        return again

    def give(self, revision: int, part: AnyPart, after: Mapping[str, int]) -> m.PlanPart:
        """Notes a part as sent and returns the message."""
        self.sent, self.part, self.after, self.holding = revision, part, dict(after), 0
        return self._plan(part)

    def _plan(self, part: AnyPart) -> m.PlanPart:
        return m.PlanPart(revision=self.sent, part=to_wire(part), after=dict(self.after))

    def keep(self, revision: int, part: AnyPart) -> None:
        """Notes that a revision changes nothing for it."""
        self.sent = self.ready = revision
        self.part = self.acked = part
        self.effective_from = None

    def has_applied(self, message: m.Ready) -> None:
        """Notes that it is ready."""
        if message.revision < self.ready:
            return  # said before it was told that a later revision changes nothing for it
        self.ready = message.revision
        if message.revision == self.sent:
            self.acked = self.part
        self.effective_from = message.effective_from
        self.positions = dict(message.positions)

    @property
    def holds(self) -> int:
        """The revision that its part holds for; 0 while another is on its way.

        Of one that was told nothing yet: what it says itself.
        """
        return self.ready if self.sent in (0, self.ready) else 0


def is_same(one: AnyPart | None, other: AnyPart) -> bool:
    """True when a process that has one part need not be told the other.

    Event types that it does not hear of otherwise do not matter: ids never change.
    """
    if one is None or type(one) is not type(other):
        return False
    if isinstance(one, HostPart) or isinstance(other, HostPart):
        return one == other
    return replace(one, types=()) == replace(other, types=())
