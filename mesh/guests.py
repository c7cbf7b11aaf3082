# SPDX-License-Identifier: Apache-2.0
"""NFs that join from other containers: the supervisor's side.

Theory of operation. A guest is never started here. It comes to the attach socket, shows its token,
gets what a child of its kind gets, and is alive as long as that connection is open. While it is
away its rings are passed and say so, so that packets take its policy and nobody waits; from the
moment in which it asks for its rings they are its own. When it leaves, in whatever way, the key
that it spoke to the controller with is void and the next one may come. One that hangs cannot be
killed from here: its connection is closed, which counts as leaving.

Rules of this file. A guest may lie about everything: it writes its own ring, log and journal, and
what is read of those is checked as a child's is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mesh.child import Child, Patience
from mesh.control import messages as m
from mesh.control.stats import ProcessStats
from mesh.control.wire import ChildPart
from mesh.drainer import Drainer
from mesh.fdpass import DescriptorService, Handle, make_token
from mesh.journal import Journal, Phase
from mesh.process import Identity

__all__ = ["Guest", "Guests"]


@dataclass(slots=True)
class Guest(Child):
    """An NF that joins; `process` stays None.

    Attributes:
        is_here: its connection is open.
        uid: of its last coming, as the kernel tells it on this side.
        gave_up: that came to nothing, and it said why.
    """

    is_here: bool = False
    uid: int = 0
    gave_up: bool = False

    def came(self, uid: int, now: float) -> None:
        """Takes note of a coming."""
        if self.journal is not None:
            self.journal.begin()
        self.is_here, self.uid, self.started_at = True, uid, now
        self.state, self.hang = "starting", ""
        self.starts += 1

    def left(self, now: float) -> str:
        """Takes note of its leaving; returns how that was, "" for one that had finished."""
        self.is_here, self.state = False, "away"
        work, phase, last = None, Phase.NEW, ""
        if self.journal is not None:
            work, phase = self.journal.at_hand(), self.journal.life()[1]
            last = self.journal.read_last_words()
        words = ": ".join(filter(None, (self.hang, last)))
        self.had_begun = phase >= Phase.RUNNING
        self.gave_up = bool(last) and not self.had_begun
        if phase is Phase.ENDING and work is None and not words:
            self.last_exit = ""
            return ""
        if work is not None:
            self.crashes.record(work, ran_s=now - self.started_at, had_begun=True)
        self.last_exit = words or f"its connection closed while {phase.name.lower()}"
        return self.last_exit

    def check_life(self, patience: Patience, now: float, awake_since: float) -> None:
        """Notes that it hangs, and whether it runs by now."""
        if not self.is_here or self.journal is None or self.hang:
            return
        beat_ns, phase = self.journal.life()
        if phase in (Phase.RUNNING, Phase.ENDING):
            self.state = "running"
        silent = now - max(min(beat_ns / 1e9, now), self.started_at, awake_since)
        if silent > patience.limit(phase):
            self.hang = f"no sign of life for {silent:.1f} s while {phase.name.lower()}"

    def stats(self, patience: Patience) -> ProcessStats:
        """Returns what a heartbeat says of it; its cores are its own container's business."""
        silent_s, patience_s = self.life(patience)
        return ProcessStats(
            name=self.name,
            role=self.role,
            pid=0,
            uid=self.uid,
            state=self.state,
            restarts=max(0, self.starts - 1),
            last_exit=self.last_exit[:4096],
            silent_s=silent_s,
            patience_s=patience_s,
        )


class Guests:
    """All guests of a supervisor; what the attach socket tells of them.

    Args:
        service: the attach socket.
        drainer: of rings that nobody has.
        grants: what a child may have.
        tell: sends a message to the controller.
        keys_changed: called when a guest has another key.
    """

    def __init__(
        self,
        service: DescriptorService,
        drainer: Drainer,
        grants: Callable[[ChildPart], dict[str, Handle]],
        tell: Callable[[m.Body], None],
        keys_changed: Callable[[], None],
    ) -> None:
        self._service, self._drainer, self._grants = service, drainer, grants
        self._tell, self._keys_changed = tell, keys_changed
        self._guests: dict[str, Guest] = {}
        self._is_closed = False
        service.host = self

    def make(self, part: ChildPart, journal: Journal) -> Guest:
        """Returns a guest that is not expected yet."""
        guest = Guest(part.name, "nf", Identity(), part, journal=journal, state="away")
        self._guests[part.name] = guest
        return guest

    def regrant(self, guest: Guest, part: ChildPart) -> None:
        """Goes on with another part of the plan; another token ends what there is."""
        before, guest.part = guest.part, part
        if self._is_closed:
            return
        if before is not None and before.token != part.token:
            self._service.withdraw(guest.name)
            if guest.is_here:
                self.left(guest.name)
            else:
                self.expect(guest)
            return
        self._service.extend(guest.name, self._grants(part))
        if not guest.is_here:
            self._drain(guest)

    def drop(self, name: str) -> None:
        """Expects a guest no longer."""
        if self._guests.pop(name, None) is not None:
            self._drainer.forget(name)

    def close(self) -> None:
        """Lets nobody come any more: who leaves now would find a stack that ends."""
        self._is_closed = True

    def send_away_hanging(self) -> None:
        """Ends the connections of guests that give no sign of life."""
        for guest in list(self._guests.values()):
            if guest.is_here and guest.hang:
                self._service.send_away(guest.name)

    # ---- what the attach socket tells ----------------------------------------------------

    def came(self, name: str, uid: int) -> None:
        """A guest has shown its token."""
        self._guests[name].came(uid, time.monotonic())

    def takes(self, name: str, objects: Sequence[str]) -> None:
        """From here on a guest's rings are its own."""
        if any(each.startswith("ring/") for each in objects):
            self._drainer.forget(name)

    def left(self, name: str) -> None:
        """A guest is gone: nobody waits for it, and it may come again."""
        guest = self._guests.get(name)
        if guest is None:
            return
        text = guest.left(time.monotonic())
        self._tell(m.Away(name=name, text=text[:4096], failed=guest.gave_up))
        if self._is_closed:
            self._service.withdraw(name)
            self._drain(guest)
        else:
            self.expect(guest)

    def expect(self, guest: Guest) -> None:
        """Lets a guest come: with a key of its own, once."""
        part = guest.part
        if part is None:
            return
        guest.key = make_token()
        welcome: Mapping[str, object] = {
            "key": guest.key,
            "arguments": guest.crashes.arguments(),
        }
        digest = bytes.fromhex(part.token)
        self._service.expect(guest.name, digest, welcome, self._grants(part))
        self._keys_changed()
        self._drain(guest)

    def _drain(self, guest: Guest) -> None:
        if guest.part is not None:
            rings = [name for name in guest.part.writes if name.startswith("ring/")]
            self._drainer.add(guest.name, rings)
