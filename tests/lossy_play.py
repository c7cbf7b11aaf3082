# SPDX-License-Identifier: Apache-2.0
"""A mesh whose connections break: the real controller's core, the real way to say things again.

What is played is what processes do with messages, as their hosts do it (mesh/nfhost.py,
mesh/worker.py, mesh/supervisor.py). Time stands still, so no time-out helps; but a controller that
follows another one waits some heartbeats for NFs that leave, which may have left.
"""

import json
from collections import deque
from dataclasses import asdict

from control_play import ABI, REGISTRY, Play

from mesh.control import messages as m
from mesh.control.actions import Compose, Publish, Save, Send
from mesh.control.composing import Composed, compose_desired
from mesh.control.process import SILENT_S, is_same
from mesh.control.seal import Envelope
from mesh.control.state import Mesh
from mesh.control.status import status
from mesh.control.steps import part_of
from mesh.control.talk import Talk
from mesh.control.wire import HostPart, NFPart, WorkerPart, from_wire

ROUNDS = 3
"""Of heartbeats, after each of which all is said that anybody has to say."""
ENOUGH = 10_000
"""Messages, in which they are said."""
COMPOSED: dict[str, Composed] = {}
"""Compositions are made once: they are pure, and take longer than all the rest."""


class Host:
    """A process: its line to the controller, and what it does with what comes."""

    kind: type = HostPart

    def __init__(self, name, role, session):
        self.name, self.role, self.session = name, role, session
        self.talk = Talk(m.Register(role=role, pid=7, abi=ABI))
        self.line = self.seq = 0
        self.up, self.down = deque(), deque()
        self.inbox = deque()
        self.part, self.revision, self.is_gone = None, 0, False
        self.put(self.talk.register())

    @property
    def identity(self):
        return b"%s/%d/%d" % (self.name.encode(), self.session, self.line)

    def put(self, body):
        self.seq += 1
        self.up.append((self.identity, Envelope(self.name, self.session, self.seq, body)))

    def flush(self):
        while (body := self.talk.next()) is not None:
            self.put(body)

    def say(self, body):
        self.talk.say(body)
        self.flush()

    def beat(self):
        self.put(m.Heartbeat(revision=self.talk.revision))

    def breaks(self, lost):
        """The connection breaks; of what is under way bits of `lost` say what is lost.

        What the library had not begun to write goes over the next connection.
        """
        kept = [each for i, each in enumerate(self.up) if not lost >> (i % 8) & 1]
        written = lost >> 8 & 3
        self.line += 1
        self.up = deque(
            each if i < written else (self.identity, each[1]) for i, each in enumerate(kept)
        )
        self.down.clear()

    def reopens(self):
        """The process has lost patience, and makes a new connection."""
        self.breaks(0xFF)
        self.talk.is_known = False
        self.put(self.talk.register())

    def hears(self):
        """Takes a message off the line, as Control does."""
        body = self.down.popleft()
        self.talk.heard(body)
        if isinstance(body, m.Who):
            self.put(self.talk.register())
        elif not isinstance(body, m.Seen):
            self.inbox.append(body)
        self.flush()

    def works(self):
        """Does what one message says."""
        body = self.inbox.popleft()
        if isinstance(body, m.Leave):
            self.is_gone = True
        elif isinstance(body, m.PlanPart):
            self.plan(body)
        else:
            self.told(body)

    def plan(self, body):
        raise NotImplementedError

    def told(self, body):
        pass

    def take(self, body):
        self.part, self.revision = from_wire(self.kind, body.part), body.revision


class Supervisor(Host):
    kind = HostPart

    def __init__(self, *args):
        super().__init__(*args)
        self.part = HostPart((), (), {})

    def plan(self, body):
        assert body.revision >= self.revision, "the past does not come back"
        self.take(body)
        self.say(m.Ready(revision=body.revision))


class Worker(Host):
    kind = WorkerPart

    def __init__(self, *args):
        super().__init__(*args)
        self.ready, self.pushed, self.since, self.runs = None, 0, {}, False

    def plan(self, body):
        if body.revision > self.revision:
            self.take(body)
            self.pushed += 10
            positions = {receiver.ring: self.pushed for receiver in self.part.receivers}
            self.since[body.revision] = positions
            self.ready = m.Ready(
                revision=body.revision, effective_from=self.pushed, positions=positions
            )
        self.say(self.ready)

    def told(self, body):
        if isinstance(body, m.Go) and not self.runs:
            assert self.part is not None
            self.runs = True
            self.say(m.Attached(revision=body.revision))


class NF(Host):
    kind = NFPart

    def __init__(self, *args):
        super().__init__(*args)
        self.runs = self.holds = self.drained = False
        self.newer, self.after = None, {}

    def plan(self, body):
        if self.part is not None and not self.runs:
            self.newer = body
        elif body.revision > self.revision:
            is_news = self.part is None or not is_same(self.part, from_wire(NFPart, body.part))
            assert not self.runs or self.holds or not is_news, "it was to hold before"
            self.take(body)
            self.after[body.revision] = dict(body.after)
            self.holds = False
            self.say(m.Ready(revision=body.revision))

    def told(self, body):
        if isinstance(body, m.Go) and not self.runs:
            assert self.part is not None
            self.runs = True
            self.say(m.Attached(revision=body.revision))
            if self.newer is not None:
                self.holds = True  # it has not begun
                self.plan(self.newer)
                self.holds = False
        elif isinstance(body, m.Hold) and self.runs:
            self.holds = True
            self.say(m.Held(revision=body.revision))
        elif isinstance(body, m.Drain) and not self.drained:
            self.drained = True
            if self.runs:
                self.say(m.Result(report={"name": self.name, "errors": []}))
            self.say(m.Drained())


KINDS = {"supervisor": Supervisor, "worker": Worker, "nf": NF}


class LossyPlay(Play):
    """A mesh of played processes; `moves` are what may happen next, in any order."""

    def __init__(self, *nfs):
        self.hosts, self.started = {}, set()
        self.sessions_begun = 0
        self.answers = []
        super().__init__(*nfs)
        self.start("supervisor", "supervisor")

    def start(self, name, role):
        self.sessions_begun += 1
        self.hosts[name] = KINDS[role](name, role, self.sessions_begun)

    # ---- the controller ----------------------------------------------------------------------

    def take(self, actions):
        for action in actions:
            if isinstance(action, Send) and action.name == "tool":
                self.answers.append(action.body)
            elif isinstance(action, Send):
                host = self.hosts.get(action.name)
                if host is not None and action.identity == host.identity:
                    host.down.append(action.body)
            elif isinstance(action, Save):
                self.save(action.desired)
            elif isinstance(action, Compose):
                self.compose(action.desired)
            else:
                assert isinstance(action, Publish)

    def compose(self, desired):
        key = json.dumps(asdict(desired), sort_keys=True, default=str)
        if key not in COMPOSED:
            COMPOSED[key] = compose_desired(desired, REGISTRY)
        self.take(self.mesh.composed(COMPOSED[key], self.now))

    def restart(self):
        """The controller is killed, and another one reads what was saved."""
        self.mesh = Mesh(self.saved[-1], ABI)
        self.mesh.follow(self.now)
        for host in self.hosts.values():
            host.breaks(0xFF)
        self.take(self.mesh.start())

    def ask(self, body):
        self.seq += 1
        envelope = Envelope("tool", 1, self.seq, body)
        self.take(self.mesh.receive(b"tool", envelope, self.now))

    # ---- what may happen ---------------------------------------------------------------------

    def moves(self):
        """Names every step that is possible now."""
        found = []
        for name, host in self.hosts.items():
            found += [("beat", name), ("break", name), ("reopen", name)]
            found += [("arrive", name)] * 3 * bool(host.up)
            found += [("hear", name)] * 3 * bool(host.down)
            found += [("work", name)] * 3 * bool(host.inbox)
        return found

    def move(self, what, name, choice=0):
        host = self.hosts[name]
        if what == "beat":
            host.beat()
        elif what == "break":
            host.breaks(choice)
        elif what == "reopen":
            host.reopens()
        elif what == "arrive":
            self.take(self.mesh.receive(*host.up.popleft(), self.now))
        elif what == "hear":
            host.hears()
        elif what == "work":
            host.works()
        self.supervise()

    def supervise(self):
        """Processes end, and those that are new in the plan are started."""
        for name in [n for n, host in self.hosts.items() if host.is_gone]:
            del self.hosts[name]
        supervisor = self.hosts["supervisor"]
        wanted = {child.name: child.role for child in supervisor.part.children}
        self.started &= wanted.keys()
        for name in sorted(wanted.keys() - self.started):
            self.started.add(name)
            self.start(name, wanted[name])

    def crash(self, name):
        """An NF's process dies and is started again."""
        if isinstance(self.hosts.get(name), NF):
            self.start(name, "nf")

    def settle(self):
        """Nothing is lost any more: heartbeats go on until all is quiet."""
        steps = 0
        for i in range(ROUNDS):
            if self.mesh.followed_at == self.now and i > 0:
                self.tick(SILENT_S + 0.1)
            for name in list(self.hosts):
                self.move("beat", name)
            while busy := [move for move in self.moves() if move[0] in ("arrive", "hear", "work")]:
                self.move(*busy[0])
                steps += 1
                assert steps < ENOUGH, "it has to come to an end"

    # ---- what must be then -------------------------------------------------------------------

    def check(self):
        """Everybody runs what the controller says, and has it from where the workers do."""
        mesh = self.mesh
        assert status(mesh, self.now)["state"] == "running"
        assert mesh.pending is None
        assert not mesh.desired.leaving
        parts = mesh.now.parts
        assert self.hosts.keys() == {"supervisor", *parts.nfs, *parts.workers}
        assert mesh.processes.keys() == self.hosts.keys(), "nobody is left over"
        for name, process in mesh.processes.items():
            host, wanted = self.hosts[name], part_of(parts, process)
            assert is_same(host.part, wanted), name
            assert is_same(process.acked, wanted), name
            assert process.ready == mesh.desired.revision, name
            assert process.role == "supervisor" or (process.attached and host.runs), name
            assert not getattr(host, "holds", False), name
            for revision, after in getattr(host, "after", {}).items():
                since = self.hosts["worker-0"].since.get(revision, {})
                assert after.items() <= since.items(), name
