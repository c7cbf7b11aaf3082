# SPDX-License-Identifier: Apache-2.0
"""What an NF asks of a worker beside its ring: keeping records, choosing flows, sending frames.

Theory of operation. Commands go through a small queue in the NF's ring; the worker takes them
between two bursts, before it releases what the NF passed after it. The queue is rarely full, since
the worker takes commands also while it waits for receivers: then the NF waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mesh._ffi import check, native
from mesh.errors import CapacityError, StateError, did_you_mean

__all__ = ["ALL_GROUPS", "Commands", "Flow", "FlowControl", "Group"]

PATIENCE_S = 10.0
"""How long a full queue may stay full; the worker's restart lies within it."""
NAP_S = 0.00005
ALL_GROUPS = 0xFFFFFF


def _nap() -> None:
    time.sleep(NAP_S)


class Commands:
    """The queue beside one ring.

    Args:
        ring: `nfm_ring *`, the receiver's side.
        relieve: called while the queue is full: gives the worker a chance.
    """

    def __init__(self, ring: Any, relieve: Callable[[], object] = _nap) -> None:
        self.ring, self._relieve = ring, relieve
        self._lib = native().lib
        self._again = int(self._lib.NFM_E_AGAIN)

    def hold(self, record: int) -> int:
        """Keeps the record of an entry at hand; returns the hold's number.

        Raises:
            CapacityError: the NF's quota is used up.
        """
        rc = self._do(lambda: self._lib.nfm_ring_hold(self.ring, record))
        if rc == int(self._lib.NFM_E_LIMIT):
            raise CapacityError(
                "no more entries may be held: release some, or raise `holds` of the class (`hold` "
                "in the spec)"
            )
        return check(rc, "hold")

    def release(self, hold: int) -> None:
        """Lets a record go."""
        check(self._do(lambda: self._lib.nfm_ring_release(self.ring, hold)), "release")

    def judge(self, hold: int, verdict: int) -> None:
        """Says what becomes of a packet that was kept, and lets it go."""
        call = self._lib.nfm_ring_judge
        check(self._do(lambda: call(self.ring, hold, verdict)), "judge")

    def inject(self, port: int, frame: bytes) -> None:
        """Sends a frame by a port."""
        call = self._lib.nfm_ring_inject
        rc = self._do(lambda: call(self.ring, port, frame, len(frame)))
        if rc == int(self._lib.NFM_E_INVAL):
            raise ValueError(f"a frame of {len(frame)} bytes cannot be sent")
        check(rc, "inject")

    def raise_event(self, entry: int, number: int, fields: bytes) -> None:
        """Raises an event about an entry that is not passed yet.

        Args:
            entry: its place among those that are not passed.
            number: the event's type.
            fields: its field record.
        """
        call = self._lib.nfm_ring_raise
        rc = self._do(lambda: call(self.ring, entry, number, fields, len(fields)))
        if rc == int(self._lib.NFM_E_INVAL):
            limit = int(self._lib.NFM_RAISE_BYTES)
            raise ValueError(f"an event has {limit} bytes at most, not {len(fields)}")
        check(rc, "raise")

    def subscribe(self, flow: int, group: int) -> None:
        """Begins a group of subscriptions on a flow."""
        call = self._lib.nfm_ring_subscribe
        check(self._do(lambda: call(self.ring, flow, group)), "subscribe")

    def unsubscribe(self, flow: int, group: int) -> None:
        """Ends a group of subscriptions, or ALL_GROUPS, on a flow."""
        call = self._lib.nfm_ring_unsubscribe
        check(self._do(lambda: call(self.ring, flow, group)), "unsubscribe")

    def _do(self, call: Callable[[], int]) -> int:
        rc = int(call())
        if rc != self._again:
            return rc
        until = time.monotonic() + PATIENCE_S
        while rc == self._again and time.monotonic() < until:
            self._relieve()
            rc = int(call())
        if rc == self._again:
            raise StateError(f"the worker took no commands for {PATIENCE_S:.0f} s")
        return rc


@dataclass(frozen=True, slots=True)
class Group:
    """One subscription of an NF as its code names it.

    Attributes:
        number: the worker's; name: the subscription's; events: as it asks for them.
        native: it is the native function's.
    """

    number: int
    name: str
    events: Sequence[str]
    native: bool


class FlowControl:
    """Chooses subscriptions flow by flow, at the worker that owns the flow.

    Args:
        groups: the NF's subscriptions.
        commands: (worker's id, whether native) → queue; one queue may serve both.
        is_inline: the NF decides over packets, and may send some of its own.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        commands: Mapping[tuple[int, bool], Commands],
        *,
        is_inline: bool = False,
    ) -> None:
        self._groups, self._commands, self._is_inline = groups, commands, is_inline

    def choose(self, flow: int, names: Sequence[str], *, on: bool) -> None:
        """Begins or ends the subscriptions that `names` names, or all of them.

        Raises:
            StateError: the NF has no such subscription.
        """
        for group in self._named(names):
            commands = self._commands.get((flow >> 56, group.native))
            if commands is not None:
                (commands.subscribe if on else commands.unsubscribe)(flow, group.number)

    def inject(self, frame: bytes, port: int) -> None:
        """Sends a frame by a port of the first worker.

        Raises:
            StateError: the NF decides over no packets.
        """
        commands = self._commands.get((0, False)) or self._commands.get((0, True))
        if commands is None or not self._is_inline:
            raise StateError("only an inline NF sends frames of its own")
        commands.inject(port, frame)

    def _named(self, names: Sequence[str]) -> list[Group]:
        found: list[Group] = []
        for name in names:
            some = [g for g in self._groups if name == g.name or name in g.events]
            if not some:
                known = sorted({key for g in self._groups for key in (g.name, *g.events)})
                hint = did_you_mean(name, known) or f"; it has: {', '.join(known)}"
                raise StateError(f"the NF has no subscription to {name!r}{hint}")
            found += some
        return list(dict.fromkeys(found)) if names else list(self._groups)


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow as an NF's code steers it: `self.flow(event.flow)`.

    Attributes:
        id: as in events; never used again within a run.
    """

    id: int
    _control: FlowControl

    def subscribe(self, *events: str) -> None:
        """Hears these subscriptions (event or subscription names; none: all) on this flow.

        From the flow's next packet on that the worker sees. A flow that has ended is no error.
        """
        self._control.choose(self.id, events, on=True)

    def unsubscribe(self, *events: str) -> None:
        """Hears these subscriptions (none: all) on this flow no longer.

        What is on its way already is still delivered.
        """
        self._control.choose(self.id, events, on=False)
