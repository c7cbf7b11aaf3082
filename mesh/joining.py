# SPDX-License-Identifier: Apache-2.0
"""An NF in a container of its own: `nfmesh nf`. It joins the stack of its node, again and again.

Theory of operation. The class is loaded first, once. Then sessions follow each other: connect to
the attach socket, prove the token, say what the class subscribes to, learn the plan, map what was
granted, serve. A session is an NF's process under a supervisor (mesh/nfhost.py), but for whom to
belong to: this one ends when its connection does, for then the stack is gone and the memory that
is mapped is nobody's. All of it is let go, so that the stack that follows finds free pages, and
the next session begins with a new object of the class. An NF that has `checkpoint` takes its state
along. Until a stack is there, expects this NF and knows its token, it asks again, ever less often.

What ends the process is SIGTERM, and what starting it again may mend: code that does not load or a
`start` that fails. The container's runtime is its supervisor.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mesh.control import messages as m
from mesh.control.stats import NFStats
from mesh.control.wire import NFPart
from mesh.declared import declaration_of
from mesh.errors import AttachError, MeshError, SpecError, system_text
from mesh.nf import NF
from mesh.nfhost import HostGone, NFHost, caution_of
from mesh.nfloop import Carried, Caution, NFLoop
from mesh.nfseat import Station
from mesh.registry import Registry

__all__ = ["Joining", "Member", "read_shown_token"]

FIRST_S, LONGEST_S = 0.02, 1.0
"""Between two tries to join."""
STAND_BY_S = 0.05
"""The same while another process of the NF is attached, which may leave at any time."""
GOODBYE_S = 2.0
"""How long an NF that was told to end by its own container waits for the controller's word."""
MIN_TOKEN, MAX_TOKEN = 16, 1024
_LOG = logging.getLogger("nfmesh.nf")


def read_shown_token(path: Path) -> bytes:
    """Reads the token of an NF that joins: the file's text without what is white around it.

    Raises:
        SpecError: it cannot be read, or is too short or too long to be one.
    """
    try:
        with path.open("rb") as file:
            token = file.read(MAX_TOKEN + 64).strip()
    except OSError as error:
        raise SpecError(str(path), system_text(error)) from error
    if not MIN_TOKEN <= len(token) <= MAX_TOKEN:
        text = f"holds {len(token)} bytes; a token has {MIN_TOKEN} to {MAX_TOKEN}"
        raise SpecError(str(path), text)
    return token


@dataclass(frozen=True, slots=True)
class Member:
    """Who joins.

    Attributes:
        name: in the plan.
        run: the stack's run folder.
        token_file: read anew for each session: it may be replaced.
        cls: its class; None: the plan says which installed one.
        use: how the class is found here, when the plan is not to say it.
    """

    name: str
    run: Path
    token_file: Path
    cls: type[NF] | None = None
    use: str | None = None

    @classmethod
    def of(cls, name: str, run: Path, token_file: Path, use: str | None) -> Member:
        """Loads the class, so that no stack waits for its imports.

        Raises:
            NFMissing: it does not load.
        """
        found = None if use is None else Registry.installed().nf(use)
        return cls(name, run, token_file, found, use)


class _Session(NFHost):
    """From attaching to the end of the connection."""

    def __init__(self, member: Member, carried: Carried | None) -> None:
        self._member, self._carried = member, carried
        super().__init__(member.name, member.run, read_shown_token(member.token_file), Caution())
        self._caution = caution_of(self._client.welcome.get("arguments", ()))
        self.is_attached = self._is_called = False
        self.heard_at: float | None = None

    def end(self) -> None:
        """Makes it hand over what it has, soon: the container ends."""
        self._leave_s, self._is_called = GOODBYE_S, True
        self.stop()

    @property
    def looked_at(self) -> float:
        """Monotonic seconds of its last sign of life."""
        return self.journal.life()[0] / 1e9

    def take_along(self) -> Carried | None:
        """Returns what the NF's next session begins with."""
        return self._carried if self._loop is None else self._loop.carry()

    def abandon(self) -> None:
        """Ends the NF without a report: there is nobody to take it."""
        self._linger_s = 0.0
        if self._station is not None:
            self._station.stop()

    def stats(self) -> NFStats | None:
        """Returns what a heartbeat says."""
        return self._stats()

    def close(self) -> None:
        """Lets everything go that was mapped."""
        super().close()
        self._station = self._loop = None

    def _finish(self, loop: NFLoop) -> None:
        """The worker goes on pushing when it is the container that ends."""
        if self._is_called:
            loop.leave()
        else:
            super()._finish(loop)

    def _register(self) -> m.Register:
        declares = None
        if self._member.cls is not None:
            declares = declaration_of(self._member.cls).model_dump(mode="json", exclude_unset=True)
        return super()._register().model_copy(update={"declares": declares})

    def _give_up(self, error: MeshError) -> None:
        if isinstance(error, AttachError):
            raise HostGone from error
        super()._give_up(error)

    def _check_host(self) -> None:
        if not self._client.is_open:
            raise HostGone
        if self.heard_at is None and self._loop is not None and self._loop.seat.counts().events:
            self.heard_at = time.monotonic()

    def _make(self, part: NFPart) -> Station:
        use = self._member.use
        return Station(part if use is None else replace(part, use=use))

    def _restore(self, loop: NFLoop) -> None:
        loop.restore(self._carried)

    def _attached(self, revision: int, station: Station) -> m.Attached:
        self.is_attached = True
        return super()._attached(revision, station)


class Joining:
    """Joins until it is told to end.

    Args:
        member: who.
    """

    def __init__(self, member: Member) -> None:
        self.member = member
        self.why_not, self.sessions, self.stands_by = "has not tried yet", 0, False
        self._carried: Carried | None = None
        self._session: _Session | None = None
        self._over = threading.Event()
        self._loaded_at = self._tried_at = time.monotonic()
        self._first_event_ms = 0.0

    def run(self) -> int:
        """Returns the exit status: 0 when it was told to end."""
        pause = FIRST_S
        while not self._over.is_set():
            self._tried_at = time.monotonic()
            session = self._join()
            if session is None:
                self._over.wait(STAND_BY_S if self.stands_by else pause)
                pause = min(LONGEST_S, 2 * pause)
                continue
            pause = FIRST_S
            status = self._serve(session)
            if status != 0:
                return status
        return 0

    def end(self, *_: Any) -> None:
        """Ends in order: also a signal handler."""
        self._over.set()
        session = self._session
        if session is not None:
            session.end()

    # ---- what probes ask -----------------------------------------------------------------

    @property
    def silent_s(self) -> float:
        """Seconds since the last sign of life of what runs now."""
        session = self._session
        try:
            seen = self._tried_at if session is None else session.looked_at
        except ValueError:  # its journal has just been closed
            seen = self._tried_at
        return max(0.0, time.monotonic() - max(seen, self._tried_at))

    @property
    def missing(self) -> str:
        """Why events do not come, "" while it is attached, or stands by for who is.

        A second process of an NF is ready as soon as it could take over: an update of a Deployment
        ends the first one only then, and it attaches when that has left.
        """
        session = self._session
        if session is None:
            return "" if self.stands_by else self.why_not
        return "" if session.is_attached else "waits for its plan"

    def status(self) -> dict[str, Any]:
        """Returns numbers in the form of a mesh's status."""
        session = self._session
        stats = None if session is None else session.stats()
        nf = {} if stats is None else stats.model_dump(exclude={"kind", "rings"})
        rings = [] if stats is None else [ring.model_dump() for ring in stats.rings]
        name = self.member.name
        if session is not None and session.heard_at is not None and not self._first_event_ms:
            self._first_event_ms = 1000 * (session.heard_at - self._loaded_at)
        own: dict[str, float] = {"sessions": self.sessions, "attached": int(not self.missing)}
        own["first_event_ms"] = round(self._first_event_ms, 3)
        return {
            "revision": 0,
            "workers": {},
            "stack": [],
            "rings": [{"nf": name, **ring} for ring in rings],
            "nfs": {name: {**nf, **own}},
            "subscriptions": [],
            "processes": [],
            "refused": {},
            "objects": [],
        }

    # ---- sessions ------------------------------------------------------------------------

    def _join(self) -> _Session | None:
        try:
            return _Session(self.member, self._carried)
        except (AttachError, SpecError, OSError) as error:
            text = system_text(error) if isinstance(error, OSError) else str(error)
            self.stands_by = isinstance(error, AttachError) and error.reason == "twice"
            if text != self.why_not:
                _LOG.warning("%s waits: %s", self.member.name, text)
            self.why_not = text
            return None

    def _serve(self, session: _Session) -> int:
        self._session = session
        self.sessions += 1
        self.stands_by = False
        if self._over.is_set():
            session.end()
        status = 0
        try:
            status = session.run()
            self._carried, self.why_not = None, "the stack has let it go"
        except HostGone:
            self._carried = session.take_along()
            session.abandon()
            self.why_not = "the stack is gone"
            _LOG.warning("%s: the stack is gone; joins the next one", self.member.name)
        finally:
            self._session = None
            session.close()
        del session
        gc.collect()  # whatever of the old memory is still mapped, by a batch in a cycle for one
        return status
