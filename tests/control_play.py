# SPDX-License-Identifier: Apache-2.0
"""A controller's core whose processes and tools are played by hand."""

from collections.abc import Callable

from mesh import NF, Event, on
from mesh.control import messages as m
from mesh.control.actions import Compose, Publish, Save, Send
from mesh.control.composing import compose_desired
from mesh.control.desired import Desired
from mesh.control.seal import Envelope
from mesh.control.state import Mesh
from mesh.control.status import status
from mesh.errors import CapacityError, MeshError
from mesh.registry import Registry

ABI = 1


class Found(Event, name="finder.found"):
    host: str


class Finder(NF):
    publishes = (Found,)

    @on("flow.end")
    def ended(self, batch):
        pass


class Hearer(NF):
    @on("finder.found")
    def found(self, batch):
        pass


class Counter(NF):
    @on("packet")
    def count(self, batch):
        pass


class Double(NF):
    @on("packet.tcp")
    def one(self, batch):
        pass

    @on("packet.udp")
    def two(self, batch):
        pass


CLASSES = {"finder": Finder, "hearer": Hearer, "counter": Counter, "double": Double}
INSTALLED = Registry.installed()
REGISTRY = Registry(
    {name: (lambda cls=cls: cls) for name, cls in CLASSES.items()}, INSTALLED.modules_by_name
)


class Play:
    """A mesh whose processes are names; it composes at once, or when `compose` is called."""

    def __init__(self, *nfs: str, is_composing: bool = False, **more: object) -> None:
        spec = {"nfs": [{"use": use} for use in nfs], "ports": [{"pcap": "x.pcap"}], **more}
        self.now = 100.0
        self.mesh = Mesh(Desired(1, spec), ABI)
        self.saved: list[Desired] = []
        self.is_full = False
        self.published: list[Publish] = []
        self.sessions: dict[str, int] = {}
        self.seq = 0
        self.lines: dict[str, int] = {}
        self.said: list[tuple[str, m.Body]] = []
        actions = self.mesh.start()
        if not is_composing:
            self.take(actions)

    def take(self, actions) -> None:
        for action in actions:
            if isinstance(action, Send):
                assert action.identity == self.line(action.name)
                self.said.append((action.name, action.body))
            elif isinstance(action, Save):
                self.save(action.desired)
            elif isinstance(action, Publish):
                self.published.append(action)
            elif isinstance(action, Compose):
                self.compose(action.desired)

    def compose(self, desired: Desired) -> None:
        try:
            made = compose_desired(desired, REGISTRY)
        except MeshError as error:
            self.take(self.mesh.not_composed(error, self.now))
        else:
            self.take(self.mesh.composed(made, self.now))

    def save(self, desired: Desired) -> None:
        if self.is_full:
            self.take(self.mesh.not_saved(CapacityError("desired.json: no room"), self.now))
            return
        self.saved.append(desired)
        self.take(self.mesh.saved(self.now))

    def line(self, name: str) -> bytes:
        """Identity of a process' connection; `lines` counts those that it has left."""
        return b"%s/%d" % (name.encode(), self.lines.get(name, 0))

    def tell(self, name: str, body: m.Body) -> list[m.Body]:
        """A process or tool says something; returns what it is told then."""
        self.seq += 1
        envelope = Envelope(name, self.sessions.setdefault(name, 1), self.seq, body)
        before = len(self.said)
        self.take(self.mesh.receive(self.line(name), envelope, self.now))
        return [body for to, body in self.said[before:] if to == name]

    def tick(self, seconds: float = 0.1) -> None:
        self.now += seconds
        self.take(self.mesh.tick(self.now))

    def heard(self, name: str, kind: type[m.Body]) -> list[m.Body]:
        return [body for to, body in self.said if to == name and isinstance(body, kind)]

    def register(self, name: str, *, revision: int = 0, abi: int = ABI) -> list[m.Body]:
        role = "supervisor" if name == "supervisor" else "nf"
        role = "worker" if name.startswith("worker-") else role
        return self.tell(name, m.Register(role=role, pid=7, abi=abi, revision=revision))

    def ready(self, name: str, **more: object) -> list[m.Body]:
        revision = self.mesh.processes[name].sent
        return self.tell(name, m.Ready(revision=revision, **more))

    def attached(self, name: str) -> list[m.Body]:
        return self.tell(name, m.Attached(revision=self.mesh.processes[name].sent))

    def bring_up(self) -> None:
        names = [str(entry.name) for entry in self.mesh.desired.parsed.nfs]
        self.register("supervisor")
        self.ready("supervisor")
        for name in (*names, "worker-0"):
            self.register(name)
            self.ready(name, **({"effective_from": 1} if name == "worker-0" else {}))
        for name in (*names, "worker-0"):
            self.attached(name)
        assert status(self.mesh, self.now)["state"] == "running"

    def hold(self, name: str) -> None:
        """A running NF says that it holds, for which it was asked once."""
        asked = self.heard(name, m.Hold)[-1]
        assert asked.revision == self.mesh.desired.revision
        self.tell(name, m.Held(revision=asked.revision))

    def settle(self, worker: Callable[[], dict[str, object]] = lambda: {"effective_from": 50}):
        """Supervisor and worker apply whatever they were told."""
        for name, more in (("supervisor", {}), ("worker-0", worker())):
            process = self.mesh.processes[name]
            if process.ready < process.sent:
                self.ready(name, **more)


def kinds(bodies: list[m.Body]) -> list[str]:
    return [body.TYPE for body in bodies]


def eof(**more: object) -> m.Eof:
    counts = {"packets": 5, "bytes": 9}
    return m.Eof(source="x.pcap", seconds=1.0, statistics=counts, counters={"a": 0, "b": 2}, **more)


def result(name: str, **more: object) -> m.Result:
    return m.Result(report={"name": name, "errors": [], **more})
