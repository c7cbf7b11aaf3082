# SPDX-License-Identifier: Apache-2.0
"""The controller's core: what is heard comes in, what to do comes out. No socket, no clock.

Theory of operation. `Mesh` knows what shall run (`Desired`), its composition (`Composed`), and
every registered process. Whatever happens, it notes the fact and then walks over all processes and
tells each what it lacks (`steps.py`): so the order of events, lost messages and restarts of anybody
end in the same state. Composing loads code and takes time; it is an action whose result comes back
by `composed` or `not_composed`.

Rules of this file. At most one change is under way; others wait for their turn. A change is saved
before anybody is told. A change that fails is taken back by a further revision, so that numbers
only grow.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import asdict, replace

from mesh.control import messages as m
from mesh.control import steps
from mesh.control.actions import Action, Compose, Pending, Publish, Save, Send
from mesh.control.applying import difference
from mesh.control.composing import Composed
from mesh.control.desired import Desired
from mesh.control.history import History
from mesh.control.keys import REMOTE
from mesh.control.process import Process
from mesh.control.requests import (
    CHANGES,
    Change,
    Declared,
    changed,
    finished,
    is_dry,
    is_news,
    refusal_of,
    started_here,
    without_leaving,
)
from mesh.control.rights import ASKED_BY, FROM_PROCESSES, may_say
from mesh.control.seal import Envelope, pack
from mesh.control.stats import HostStats
from mesh.control.status import functions, status
from mesh.errors import MeshError, SpecError
from mesh.spec import parse

__all__ = ["Mesh"]

CHANGE_S = 30.0
"""A change that has not come into effect by then is taken back."""
MAX_WAITING = 16
"""Changes that wait for their turn; more are refused."""
KEPT_NOTICES = 100
LOOK_S = 0.5
"""How often NFs are looked at while nothing but heartbeats comes."""


class Mesh:
    """What the controller knows.

    Args:
        desired: what shall run.
        abi: version that processes must have.
        history: what happened before.
    """

    def __init__(self, desired: Desired, abi: int, history: History | None = None) -> None:
        self.desired, self.abi, self.history = desired, abi, history or History()
        self.now: Composed | None = None
        self.processes: dict[str, Process] = {}
        self.keys: dict[str, bytes] = {}
        self.results: dict[str, m.Result] = {}
        self.failures: dict[str, m.Failed] = {}
        self.notices: list[str] = []
        self.metrics = ""
        self.refused: Counter[str] = Counter()
        self.gone: dict[str, float] = {}
        self.comings: Counter[str] = Counter()
        self.listening: m.Data = {}
        self.ends: dict[str, m.Eof] = {}
        self.pending: Pending | None = None
        self.stopping = ""
        self.is_over = self.has_begun = False
        self.followed_at = -math.inf
        self.watched: frozenset[str] = frozenset()
        self._waiting: deque[tuple[bytes, Envelope, Change]] = deque()
        self._applying: Pending | None = None
        self._made: Composed | None = None
        self._out: list[Action] = []
        self._look_at = 0.0

    # ---- events in, actions out --------------------------------------------------------------

    def follow(self, now: float) -> None:
        """Takes over from a controller before this one: what has begun goes on."""
        self.has_begun, self.followed_at = True, now

    def start(self) -> list[Action]:
        """Begins: asks for the composition of what shall run."""
        return [Compose(self.desired)]

    def receive(self, identity: bytes, message: Envelope, now: float) -> list[Action]:
        """Takes a message of a process or a tool."""
        body = message.body
        if not isinstance(body, m.Heartbeat | m.Published):
            self._look_at = now
        if isinstance(body, m.Keys) and message.name == "supervisor":
            self.keys = dict(body.keys)
        elif isinstance(body, m.Away) and message.name == "supervisor":
            self._gone(body, now)
        elif isinstance(body, ASKED_BY.get(message.name, ())):
            self._asked(identity, message, now)
        elif isinstance(body, FROM_PROCESSES) and message.name not in ("tool", REMOTE):
            self._heard(identity, message, now)
        else:
            self.refused["role"] += 1
        return self._advance(now)

    def composed(self, made: Composed, now: float) -> list[Action]:
        """Takes a composition that was asked for."""
        if self.pending is not None and is_dry(self.pending.request):
            self._answer_dry(self.pending)
            self.pending = None
            return self._advance(now)
        self._made = made
        return [Save(made.desired)]

    def saved(self, now: float) -> list[Action]:
        """Takes the news that what was composed is saved: it holds from now on."""
        made, self._made = self._made, None
        if made is None:
            return []
        self.now, self.desired = made, made.desired
        for known in (self.gone, self.comings):
            for name in known.keys() - self.joining:
                del known[name]
        for process in self.processes.values():
            self._recognize(process)
        if self.pending is not None:
            self.pending.revision = made.desired.revision
            if isinstance(self.pending.request, m.NfAdd):
                self.pending.nf = str(made.desired.spec["nfs"][-1]["name"])
            for name, revision in made.desired.joined.items():
                if revision == made.desired.revision:  # not the one of that name that has left
                    self.results.pop(name, None)
                    self.failures.pop(name, None)
        return self._advance(now)

    def not_saved(self, error: MeshError, now: float) -> list[Action]:
        """Takes the news that it cannot be saved: what was asked for is refused.

        What has to follow from what runs is done all the same, and saved when there is room.
        """
        pending = self.pending
        if pending is None or pending.request is None or self.desired.then is not None:
            self._note(f"what runs is not saved: {error}")
            return self.saved(now)
        self.pending = self._made = None
        self._refuse(pending, error, "host")
        return self._advance(now)

    def not_composed(self, error: MeshError, now: float) -> list[Action]:
        """Takes the news that what was asked for cannot be composed; nothing has changed."""
        pending, self.pending = self.pending, None
        if pending is None or self.now is None:
            failed = m.Failed(where="plan", text=str(error), fatal=True)
            self.failures["controller"] = failed
            return self._advance(now)
        self._refuse(pending, error)
        return self._advance(now)

    @property
    def has_ended(self) -> bool:
        """True when all workers are at the end of their ports."""
        return self.now is not None and self.ends.keys() >= self.now.parts.workers.keys()

    def watch(self, events: frozenset[str], now: float) -> list[Action]:
        """Takes the names of the events that somebody watches; "" is all."""
        self.watched = events
        return self._advance(now)

    def tick(self, now: float) -> list[Action]:
        """Takes note of the time; call it several times a second."""
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self.history.look(functions(self, now))
        return self._advance(now)

    def key_of(self, name: str) -> bytes | None:
        """Returns the key of a process that the supervisor has started."""
        return self.keys.get(name)

    # ---- processes ---------------------------------------------------------------------------

    def _heard(self, identity: bytes, message: Envelope, now: float) -> None:
        body, name = message.body, message.name
        if isinstance(body, m.Register):
            self._registered(identity, message, body, now)
            return
        process = self.processes.get(name)
        is_known = process is not None and process.session == message.session
        if process is None or not is_known or process.identity != identity:
            self._send(identity, name, m.Who())  # it says again what is not taken here
            return
        if not may_say(process, body):
            self.refused["role"] += 1
            return
        process.seen_at = now
        if isinstance(body, m.Heartbeat):
            process.stats = body.stats or process.stats
            self._send(identity, name, m.Seen(revision=process.holds))
            self._miss(process, now)
        elif isinstance(body, m.Ready):
            process.has_applied(body)
        elif isinstance(body, m.Attached):
            process.attached = process.went = True
            process.found = body
            self.gone.pop(name, None)
            if name in self.joining:
                self.failures.pop(name, None)
            self.has_begun = self.has_begun or process.role == "worker"
            self.history.look_at(name, functions(self, now))  # it may be gone by the next look
        elif isinstance(body, m.Drained):
            process.drained = True
            if name in self.joining and not process.draining:  # its container ends
                self._send(process.identity, name, m.Leave())
        elif isinstance(body, m.Held):
            process.held = body.revision
        elif isinstance(body, m.Published):
            process.watches = process.watches or None  # who was told that nobody does is quiet
            self._published(name, body)
        else:
            self._ended(process, body)

    def _registered(self, identity: bytes, message: Envelope, body: m.Register, now: float) -> None:
        name = message.name
        role = "worker" if name.startswith("worker-") else "nf"
        if body.role != ("supervisor" if name == "supervisor" else role):
            self.refused["role"] += 1
            return
        if body.abi not in (0, self.abi):
            text = f"its library has ABI {body.abi}, this mesh has {self.abi}; reinstall nfmesh"
            self.failures[name] = m.Failed(where="register", text=text, fatal=True)
            self._send(identity, name, m.Leave())
            return
        known = self.processes.get(name)
        again: list[m.Body] = []
        if known is not None and known.session == message.session:
            known.seen_at = now
            again = known.reconnected(identity, body.revision)
        else:
            self.processes[name] = self._new_process(identity, message, body, now)
            self.failures.pop(name, None)
            if not body.revision:
                self.history.begins(name)
            elif body.role != "supervisor":  # which begins with what the controller will say
                self.has_begun = True
        for each in (m.Seen(revision=self.processes[name].holds), *again):
            self._send(identity, name, each)

    def _new_process(
        self, identity: bytes, message: Envelope, body: m.Register, now: float
    ) -> Process:
        made = Process(
            name=message.name,
            role=body.role,
            identity=identity,
            session=message.session,
            pid=body.pid,
            cores=tuple(body.cores),
            registered_at=now,
            seen_at=now,
        )
        made.ready, made.declares = body.revision, body.declares
        self._recognize(made)
        if message.name in self.joining:
            self.comings[message.name] += 1
            self.results.pop(message.name, None)
        return made

    @property
    def joining(self) -> frozenset[str]:
        """Names of NFs that join from elsewhere."""
        return frozenset() if self.now is None else self.now.parts.joining

    @property
    def declaring(self) -> frozenset[str]:
        """Names of NFs whose declarations are looked at: they get no plan until that is done."""
        asked: list[Change | None] = [request for _, _, request in self._waiting]
        asked += [] if self.pending is None else [self.pending.request]
        new = (p.name for p in self.processes.values() if p.declares and not p.declared_at)
        return frozenset([*new, *(each.nf for each in asked if isinstance(each, Declared))])

    def _gone(self, body: m.Away, now: float) -> None:
        """Forgets an NF that had joined; it may come again."""
        if body.name not in self.joining:
            return
        if body.failed:
            failed = m.Failed(where="start", text=body.text, fatal=True)
            self.failures.setdefault(body.name, failed)
        if self.processes.pop(body.name, None) is None:
            return
        self.gone[body.name] = now
        if body.text:
            self._note(f"{body.name}: left: {body.text}")

    def _miss(self, supervisor: Process, now: float) -> None:
        """Forgets NFs that are away, when the word that they left was lost."""
        stats = supervisor.stats
        rows = stats.processes if isinstance(stats, HostStats) else []
        for name in [row.name for row in rows if row.state == "away"]:
            process = self.processes.get(name)
            if process is not None and process.is_silent(now):
                self._gone(m.Away(name=name), now)

    def _dismiss(self) -> None:
        """Sends away NFs that have no place: of a change that was taken back, or that have left."""
        if self.now is None or self.pending is not None:
            return
        places = {"supervisor", *(child.name for child in self.now.parts.host.children)}
        for name in self.processes.keys() - places:
            process = self.processes.pop(name)
            self._send(process.identity, name, m.Leave())

    def _declare(self, now: float) -> None:
        """Looks at what NFs say of their classes, once per NF and entry of the spec."""
        revision = self.desired.revision
        late = [p for p in self.processes.values() if p.declares and p.declared_at != revision]
        if not late or self.now is None or self.pending is not None or self._is_ending:
            return
        entries = {entry.name: entry for entry in self.desired.parsed.nfs}
        for process in late:
            entry, process.declared_at = entries.get(process.name), revision
            if entry is None or entry == process.declared_for:
                continue
            process.declared_for = entry
            request = Declared(process.name, process.declares or {})
            try:
                if is_news(request, self.desired, self.now.plan):
                    self._waiting.append((process.identity, _own(process), request))
            except SpecError as error:
                self.failures[process.name] = m.Failed(where="plan", text=str(error), fatal=True)

    def _recognize(self, process: Process) -> None:
        """Notes that a process has the part of now, which a controller before this one told it."""
        part = None if self.now is None else steps.part_of(self.now.parts, process)
        if part is not None and not process.sent and process.ready == self.desired.revision:
            process.sent, process.part, process.acked = process.ready, part, part

    def _ended(self, process: Process, body: m.Body) -> None:
        if isinstance(body, m.Eof):
            self.ends[process.name] = body
        elif isinstance(body, m.Result):
            self.results[process.name] = body
        elif isinstance(body, m.Failed):
            about = body.name if process.role == "supervisor" and body.name else process.name
            if 0 < body.revision < self.desired.joined.get(about, 0):
                return  # it is about the last one of this name
            self._note(f"{about}: {body.where}: {body.text}")
            if body.fatal:
                self.failures[about] = body
            elif self._ends_a_change(process, body):
                nf = "" if about == process.name else about
                text = body.text if nf else f"{about}: {body.text}"
                self._take_back(SpecError(body.path, text, nf=nf), body.where)

    def _ends_a_change(self, process: Process, body: m.Failed) -> bool:
        """True when the change under way cannot be; an NF says so of its own part alone."""
        pending = self.pending
        if pending is None or body.where not in ("plan", "host"):
            return False
        return process.role != "nf" or process.ready < process.sent == pending.revision

    def _published(self, nf: str, body: m.Published) -> None:
        for event in body.events:
            payload = pack({"nf": nf, **event.model_dump()})
            self._out.append(Publish(f"{event.event}.".encode(), payload))
        if body.missed:
            payload = pack({"nf": nf, "missed": body.missed})
            self._out.append(Publish(b".missed", payload))

    # ---- tools -------------------------------------------------------------------------------

    def _asked(self, identity: bytes, message: Envelope, now: float) -> None:
        body = message.body
        if isinstance(body, m.Status):
            self._answer(identity, message.name, message.seq, status(self, now))
        elif isinstance(body, m.Functions):
            self.history.look(found := functions(self, now))
            said = {"functions": found, "events": self.history.events}
            self._answer(identity, message.name, message.seq, said)
        elif isinstance(body, m.Stop):
            self.stopping = "now" if body.now else "stop"
            self._answer(identity, message.name, message.seq, {"stopping": True})
        elif isinstance(body, m.Record | m.RecordEnd):
            self._hand_on(identity, message, body)
        elif message.name == REMOTE and (path := started_here(body)):
            text = "what is put in over the network joins (place: pod), and is not started here"
            error = m.Error(request=message.seq, text=text, path=path)
            self._send(identity, message.name, error)
        elif isinstance(body, CHANGES):
            self._waiting.append((identity, message, body))
            if len(self._waiting) > MAX_WAITING:
                asked = Pending(body, identity, message.name, message.seq, self.desired, now)
                self._waiting.pop()
                self._refuse(asked, SpecError("", "too many changes are under way; try again"))

    def _hand_on(self, identity: bytes, message: Envelope, body: m.Record | m.RecordEnd) -> None:
        """Tells a process to record what passes it."""
        process = self.processes.get(body.process)
        if process is None or not process.attached:
            text = f"{body.process!r} does not run"
            self._send(identity, message.name, m.Error(request=message.seq, text=text, path="at"))
            return
        self._send(process.identity, process.name, body)
        self._answer(identity, message.name, message.seq, {"process": process.name})

    @property
    def _is_ending(self) -> bool:
        return bool(self.stopping or self.ends)

    def _begin_next(self, now: float) -> None:
        if self.desired.then is not None and not self._is_ending:
            self._begin_second(now)
            return
        if self._applying is not None:
            self._refuse(self._applying, SpecError("", "the run has ended before all was applied"))
            self._applying = None
        while self._waiting and self.pending is None and self.now is not None:
            self._begin(*self._waiting.popleft(), now)

    def _begin_second(self, now: float) -> None:
        """Begins the second revision of an apply, once those that are replaced have left."""
        if self.pending is not None or self.desired.leaving or self.now is None:
            return
        before = replace(self.desired, then=None)
        asked = self._applying or Pending(None, b"", "", 0, before, now)
        names = asked.found.get("replaced", ())
        reports = {name: self.results[name].report for name in names if name in self.results}
        asked.found = {**asked.found, "reports": reports}
        self._applying = None
        self.pending = replace(asked, before=before, since=now, revision=0)
        self._out.append(Compose(finished(self.desired)))

    def _begin(self, identity: bytes, message: Envelope, request: Change, now: float) -> None:
        asked = Pending(request, identity, message.name, message.seq, self.desired, now)
        asked.nf = str(getattr(request, "nf", "") or getattr(request, "entry", {}).get("name", ""))
        if self.now is None or self._is_ending:
            self._refuse(asked, SpecError("", "the run is ending"))
            return
        try:
            desired = changed(request, self.desired, self.now.plan)
        except MeshError as error:
            self._refuse(asked, error)
            return
        if isinstance(request, m.Apply | m.NfPut):
            wanted = parse(dict(desired.then or desired.spec))
            asked.found = asdict(difference(self.desired.parsed, wanted))
        if desired is self.desired:
            self.history.accept(request)
            if isinstance(request, m.NfRemove):
                asked.found = {"nf": asked.nf, "report": None}
            self._answer_dry(asked)
            return
        self.pending = asked
        self._out.append(Compose(desired))

    def _refuse(self, pending: Pending, error: MeshError, where: str = "plan") -> None:
        """Answers that a change is not made.

        Args:
            pending: the change.
            error: why.
            where: it went wrong, as in `Failed`.
        """
        if isinstance(pending.request, Declared):
            failed = m.Failed(where="plan", text=str(error), fatal=True)
            self.failures[pending.request.nf] = failed
            self._note(f"{pending.request.nf}: plan: {error}")
            return
        if pending.request is None:
            self._note(f"change failed: {error}")
            return
        if isinstance(pending.request, m.NfPut) and not pending.request.dry_run:
            self.history.refuse(pending.request, error, where)
        error_body = refusal_of(pending.request, error, pending.seq)
        self._send(pending.identity, pending.name, error_body)

    def _answer_dry(self, pending: Pending) -> None:
        """Answers a request after which all is as before."""
        found = {"revision": 0, **pending.found}
        self._answer(pending.identity, pending.name, pending.seq, found)

    def _answer(self, identity: bytes, name: str, seq: int, result: m.Data) -> None:
        if not seq:
            return  # nobody has asked
        self._send(identity, name, m.Ok(request=seq, result=result))

    # ---- changes under way -------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Ends the change under way if it has come into effect or will not."""
        pending = self.pending
        if pending is None or not pending.revision:
            return
        result = steps.outcome(self, pending.request, pending.nf, now)
        if isinstance(result, MeshError):
            failed = self.failures.get(getattr(result, "nf", ""))
            self._take_back(result, failed.where if failed else "start")
        elif self.is_over or (pending.request is None and now - pending.since > CHANGE_S):
            self.pending = None
        elif result is not None:
            self.pending = None
            if isinstance(pending.request, Declared):
                self.failures.pop(pending.nf, None)
            elif pending.request is not None:
                self.history.accept(pending.request)
            if "reports" in pending.found:  # of those that were replaced
                result = {"replaced_from": result["effective_from"]}
            pending.found = {**pending.found, **result, "revision": pending.revision}
            if pending.request is not None and self.desired.then is not None:
                self._applying = pending
            elif pending.request is not None:
                self._answer(pending.identity, pending.name, pending.seq, pending.found)
        elif now - pending.since > CHANGE_S:
            text = f"not in effect after {CHANGE_S:.0f} s; taken back"
            self._take_back(SpecError("", text), "start")

    def _take_back(self, error: MeshError, where: str) -> None:
        pending = self.pending
        if pending is None:
            return
        self._refuse(pending, error, where)
        if self.ends:
            self.pending = None
            return
        self.pending = replace(pending, request=None, revision=0, nf="")
        numbers = self.desired.numbers
        revision = self.desired.revision + 1
        self._out.append(Compose(replace(pending.before, revision=revision, numbers=numbers)))

    def _say_goodbye(self, now: float) -> None:
        """Begins the revision without an NF that has left."""
        for name in self.desired.leaving:
            if self.pending is None and steps.has_left(self, name, now):
                process = self.processes.pop(name, None)
                if process is not None:
                    self._send(process.identity, name, m.Leave())
                self.pending = Pending(None, b"", "", 0, self.desired, now)
                self._out.append(Compose(without_leaving(self.desired, name)))

    # ---- going on ----------------------------------------------------------------------------

    def _advance(self, now: float) -> list[Action]:
        self._settle(now)
        self._say_goodbye(now)
        self._dismiss()
        self._declare(now)
        self._begin_next(now)
        for process, body in steps.messages(self, now):
            self._send(process.identity, process.name, body)
        found, self._out = self._out, []
        return found

    def _send(self, identity: bytes, name: str, body: m.Body) -> None:
        self._out.append(Send(identity, name, body))

    def _note(self, text: str) -> None:
        self.notices = [*self.notices, text][-KEPT_NOTICES:]


def _own(process: Process) -> Envelope:
    """Stands for the message of a request that is the controller's own: nobody is answered."""
    return Envelope(process.name, process.session, 0, m.Leave())
