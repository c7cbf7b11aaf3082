# SPDX-License-Identifier: Apache-2.0
"""The controller's core: events in, actions out. Processes are played by hand."""

from collections.abc import Callable

import pytest

from mesh import NF, Event, on
from mesh.control import messages as m
from mesh.control.composing import compose_desired
from mesh.control.desired import Desired
from mesh.control.seal import Envelope
from mesh.control.state import CHANGE_S, Compose, Mesh, Publish, Save, Send
from mesh.control.stats import HostStats, NFStats, ProcessStats, RingStats, WorkerStats
from mesh.control.status import status
from mesh.control.wire import NFPart, WorkerPart, from_wire
from mesh.errors import MeshError
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
    """A mesh whose processes are names; it composes at once unless told otherwise."""

    def __init__(self, *nfs: str, **more: object) -> None:
        spec = {"nfs": [{"use": use} for use in nfs], "ports": [{"pcap": "x.pcap"}], **more}
        self.now = 100.0
        self.mesh = Mesh(Desired(1, spec), ABI)
        self.saved: list[Desired] = []
        self.published: list[Publish] = []
        self.sessions: dict[str, int] = {}
        self.seq = 0
        self.said: list[tuple[str, m.Body]] = []
        self.take(self.mesh.start())

    def take(self, actions) -> None:
        for action in actions:
            if isinstance(action, Send):
                assert action.identity == action.name.encode()
                self.said.append((action.name, action.body))
            elif isinstance(action, Save):
                self.saved.append(action.desired)
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

    def tell(self, name: str, body: m.Body) -> list[m.Body]:
        """A process or tool says something; returns what it is told then."""
        self.seq += 1
        envelope = Envelope(name, self.sessions.setdefault(name, 1), self.seq, body)
        before = len(self.said)
        self.take(self.mesh.receive(name.encode(), envelope, self.now))
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


# ---- coming up ----------------------------------------------------------------------------------


def test_a_mesh_comes_up_in_order():
    play = Play("counter")
    assert [desired.revision for desired in play.saved] == [1]
    assert kinds(play.register("counter")) == ["seen", "plan"]
    assert kinds(play.register("worker-0")) == ["seen"], "its memory is not there yet"
    assert kinds(play.register("supervisor")) == ["seen", "plan"]
    assert kinds(play.ready("counter")) == [], "its ring is not there yet"
    play.ready("supervisor")
    assert kinds(play.heard("worker-0", m.PlanPart)) == ["plan"]
    assert kinds(play.ready("worker-0", effective_from=1)) == [], "its receiver is not there yet"
    assert kinds(play.heard("counter", m.Go)) == ["go"]
    play.attached("counter")
    assert kinds(play.heard("worker-0", m.Go)) == ["go"]
    play.attached("worker-0")
    assert status(play.mesh, play.now)["state"] == "running"


def test_saying_it_twice_changes_nothing():
    play = Play("counter")
    play.bring_up()
    before = len(play.said)
    for name in ("counter", "worker-0", "supervisor"):
        assert kinds(play.register(name, revision=1)) == ["seen"]
        assert play.ready(name, effective_from=1) == []
    assert play.attached("counter") == []
    play.tick()
    assert {body.TYPE for _, body in play.said[before:]} == {"seen"}


def test_an_nf_that_does_not_come_up_delays_the_worker_only_so_long():
    play = Play("counter", "double")
    for name in ("supervisor", "worker-0", "counter"):
        play.register(name)
        play.ready(name)
    play.attached("counter")
    play.tick(10)
    assert play.heard("worker-0", m.Go) == []
    play.tick(25)
    assert kinds(play.heard("worker-0", m.Go)) == ["go"]


def test_an_nf_that_failed_for_good_delays_nobody():
    play = Play("counter", "double")
    for name in ("supervisor", "worker-0", "counter"):
        play.register(name)
        play.ready(name)
    play.attached("counter")
    failed = m.Failed(where="import", text="no such module", fatal=True, name="double")
    play.tell("supervisor", failed)
    assert kinds(play.heard("worker-0", m.Go)) == ["go"]


def test_a_strange_abi_is_sent_away_and_named():
    play = Play("counter")
    assert kinds(play.register("counter", abi=9)) == ["leave"]
    assert "ABI 9" in play.mesh.failures["counter"].text
    assert "counter" not in play.mesh.processes


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("counter", m.Register(role="worker", pid=1)),
        ("counter", m.Keys(keys={"x": b"k" * 32})),
        ("counter", m.NfRemove(nf="counter")),
        ("counter", m.Stop()),
        ("counter", m.PlanPart(revision=1, part={})),
        ("tool", m.Register(role="nf", pid=1)),
        ("tool", m.Eof(source="", seconds=0, statistics={}, counters={})),
        ("worker-0", m.Register(role="supervisor", pid=1)),
    ],
)
def test_nobody_says_what_is_not_its_to_say(name, body):
    play = Play("counter")
    play.tell(name, body)
    assert play.mesh.refused == {"role": 1}
    assert play.mesh.processes == {}
    assert not play.mesh.stopping


def test_a_stranger_to_the_controller_is_asked_who_it_is():
    play = Play("counter")
    assert kinds(play.tell("counter", m.Heartbeat())) == ["who"]
    play.register("counter")
    play.sessions["counter"] = 2
    assert kinds(play.tell("counter", m.Heartbeat())) == ["who"]


def test_a_restarted_nf_gets_its_plan_again_and_goes_at_once():
    play = Play("counter")
    play.bring_up()
    play.sessions["counter"] = 2
    assert kinds(play.register("counter")) == ["seen", "plan"]
    assert kinds(play.ready("counter")) == ["go"]
    assert len(play.heard("worker-0", m.PlanPart)) == 1


def test_keys_are_those_that_the_supervisor_says():
    play = Play("counter")
    play.tell("supervisor", m.Keys(keys={"counter": b"a" * 32}))
    assert play.mesh.key_of("counter") == b"a" * 32
    play.tell("supervisor", m.Keys(keys={"double": b"b" * 32}))
    assert play.mesh.key_of("counter") is None


# ---- the controller comes back ------------------------------------------------------------------


def test_a_controller_that_comes_back_disturbs_nobody():
    before = Play("finder", "hearer")
    before.bring_up()
    play = Play("finder", "hearer")
    play.compose(before.saved[-1])
    play.said.clear()
    for name in ("supervisor", "worker-0", "finder", "hearer"):
        play.register(name, revision=1)
        play.tell(name, m.Ready(revision=1, effective_from=1))
    for name in ("worker-0", "finder", "hearer"):
        play.attached(name)
    play.tick()
    assert [body.TYPE for _, body in play.said if not isinstance(body, m.Seen | m.Go)] == []
    assert status(play.mesh, play.now)["state"] == "running"


def test_a_change_that_was_saved_is_carried_on_by_the_next_controller():
    before = Play("counter")
    before.bring_up()
    before.tell("tool", m.NfAdd(entry={"use": "double"}))
    play = Play("counter")
    play.compose(before.saved[-1])
    for name in ("supervisor", "worker-0", "counter"):
        play.register(name, revision=1)
        play.tell(name, m.Ready(revision=1))
    part = play.heard("supervisor", m.PlanPart)[-1]
    assert part.revision == 2
    assert play.heard("counter", m.PlanPart) == [] or part.revision == 2


# ---- the end ------------------------------------------------------------------------------------


def eof(**more: object) -> m.Eof:
    counts = {"packets": 5, "bytes": 9}
    return m.Eof(source="x.pcap", seconds=1.0, statistics=counts, counters={"a": 0, "b": 2}, **more)


def result(name: str, **more: object) -> m.Result:
    return m.Result(report={"name": name, "errors": [], **more})


def test_the_end_of_a_capture_makes_the_report_and_sends_all_home():
    play = Play("finder", "counter")
    play.bring_up()
    play.tell("worker-0", eof())
    play.tell("counter", result("counter"))
    assert play.heard("supervisor", m.Finished) == []
    play.tell("finder", result("finder"))
    [finished] = play.heard("supervisor", m.Finished)
    assert finished.report["packets"] == 5
    assert finished.report["counters"] == {"b": 2}
    assert [nf["name"] for nf in finished.report["nfs"]] == ["finder", "counter"]
    for name in ("worker-0", "finder", "counter"):
        assert kinds(play.heard(name, m.Leave)) == ["leave"]


def test_an_nf_that_reads_another_ends_after_it():
    play = Play("finder", "hearer")
    play.bring_up()
    play.tell("worker-0", eof())
    assert play.heard("hearer", m.Drain) == []
    play.tell("finder", result("finder"))
    assert [drain.reason for drain in play.heard("hearer", m.Drain)] == ["end"]
    play.tell("hearer", result("hearer"))
    assert len(play.heard("supervisor", m.Finished)) == 1


def test_a_worker_that_fails_for_good_ends_the_run_with_its_words():
    play = Play("counter")
    play.bring_up()
    play.tell("worker-0", m.Failed(where="worker", text="x.pcap: gone", fatal=True))
    assert [drain.reason for drain in play.heard("counter", m.Drain)] == ["worker failed"]
    play.tell("counter", result("counter"))
    [finished] = play.heard("supervisor", m.Finished)
    assert finished.error == "worker-0: x.pcap: gone"


def test_a_spec_that_does_not_compose_ends_the_run():
    play = Play("nobody")
    [finished] = [play.register("supervisor")[-1]]
    assert isinstance(finished, m.Finished)
    assert "nobody" in finished.error


def test_stop_ends_the_flows_and_the_report_says_so():
    play = Play("counter")
    play.bring_up()
    assert kinds(play.tell("tool", m.Stop())) == ["ok"]
    assert [drain.reason for drain in play.heard("worker-0", m.Drain)] == ["stop"]
    play.tell("worker-0", eof())
    play.tell("counter", result("counter"))
    [finished] = play.heard("supervisor", m.Finished)
    assert finished.report["interrupted"] is True
    assert kinds(play.tell("tool", m.NfAdd(entry={"use": "double"}))) == ["error"]


def test_stop_now_waits_for_nobody():
    play = Play("counter")
    play.bring_up()
    play.tell("tool", m.Stop(now=True))
    assert len(play.heard("supervisor", m.Finished)) == 1
    assert kinds(play.heard("counter", m.Leave)) == ["leave"]


# ---- changes ------------------------------------------------------------------------------------


def test_an_added_nf_is_constructed_before_the_worker_subscribes_it():
    play = Play("counter")
    play.bring_up()
    assert play.tell("tool", m.NfAdd(entry={"use": "double"})) == []
    assert play.saved[-1].revision == 2
    play.settle()
    assert play.mesh.processes["worker-0"].sent == 1
    play.register("double")
    play.ready("double")
    assert play.mesh.processes["worker-0"].sent == 2
    play.settle()
    assert kinds(play.heard("double", m.Go)) == ["go"]
    play.attached("double")
    [answer] = play.heard("tool", m.Ok)
    assert answer.result == {"revision": 2, "nf": "double", "pid": 7, "effective_from": 50}
    assert len(play.heard("counter", m.PlanPart)) == 1, "the other NF is not disturbed"


def test_an_added_nf_that_fails_is_taken_back_before_the_worker_knows_it():
    play = Play("counter")
    play.bring_up()
    play.tell("tool", m.NfAdd(entry={"use": "double"}))
    play.settle()
    failed = m.Failed(where="import", text="no numba", fatal=True, name="double")
    play.tell("supervisor", failed)
    [answer] = play.heard("tool", m.Error)
    assert "no numba" in answer.text
    assert play.saved[-1].revision == 3
    assert [nf["use"] for nf in play.saved[-1].spec["nfs"]] == ["counter"]
    play.settle()
    part = from_wire(WorkerPart, play.heard("worker-0", m.PlanPart)[-1].part)
    assert [receiver.nf for receiver in part.receivers] == ["counter"]


def test_a_removed_nf_drains_after_the_worker_has_let_it_go():
    play = Play("counter", "double")
    play.bring_up()
    play.tell("tool", m.NfRemove(nf="double"))
    assert play.heard("double", m.Drain) == []
    play.settle()
    part = from_wire(WorkerPart, play.heard("worker-0", m.PlanPart)[-1].part)
    left = {receiver.nf: bool(receiver.subscriptions) for receiver in part.receivers}
    assert left == {"counter": True, "double": False}
    assert [drain.reason for drain in play.heard("double", m.Drain)] == ["removed"]
    assert play.heard("tool", m.Ok) == []
    play.tell("double", result("double", events=3))
    play.tell("double", m.Drained(position={"ring/double/w0": 8}))
    [answer] = play.heard("tool", m.Ok)
    assert (answer.result["effective_from"], answer.result["report"]["events"]) == (50, 3)
    assert kinds(play.heard("double", m.Leave)) == ["leave"]
    play.settle()
    part = from_wire(WorkerPart, play.heard("worker-0", m.PlanPart)[-1].part)
    assert [receiver.nf for receiver in part.receivers] == ["counter"]
    assert play.saved[-1].leaving == {}
    play.tell("worker-0", eof())
    play.tell("counter", result("counter"))
    [finished] = play.heard("supervisor", m.Finished)
    assert [nf["name"] for nf in finished.report["nfs"]] == ["counter", "double"]


@pytest.mark.parametrize("is_alive", [False, True])
def test_a_removed_nf_that_does_not_end_is_given_up(is_alive):
    play = Play("counter", "double")
    play.bring_up()
    play.tell("tool", m.NfRemove(nf="double"))
    play.settle()
    while not play.heard("tool", m.Ok):
        assert play.now < 100 + CHANGE_S
        play.tick(0.5)
        if is_alive:
            play.tell("double", m.Heartbeat())
    assert play.heard("tool", m.Ok)[0].result["report"] is None
    assert play.saved[-1].leaving == {}
    assert kinds(play.heard("double", m.Leave)) == ["leave"]


def test_a_changed_subscription_holds_from_a_position_in_the_ring():
    play = Play("counter", "double")
    play.bring_up()
    asked = m.Subscribe(nf="counter", events=["flow.end"], where="tcp")
    assert play.tell("tool", asked) == []
    play.ready("supervisor")
    assert play.mesh.processes["worker-0"].sent == 1, "the NF still takes entries"
    play.hold("counter")
    assert len(play.heard("counter", m.PlanPart)) == 1
    positions = {"ring/counter/w0": 33, "ring/double/w0": 44}
    play.settle(lambda: {"effective_from": 9, "positions": positions})
    plan = play.heard("counter", m.PlanPart)[-1]
    assert plan.after == {"ring/counter/w0": 33}
    part = from_wire(NFPart, plan.part)
    assert (part.handlers[0].events, part.handlers[0].where) == (("packet", "flow.end"), "tcp")
    play.ready("counter")
    assert play.heard("tool", m.Ok)[0].result["effective_from"] == 9
    assert len(play.heard("double", m.PlanPart)) == 1


def test_what_is_unsubscribed_is_no_longer_in_the_plan():
    play = Play("counter", "double")
    play.bring_up()
    play.tell("tool", m.Unsubscribe(nf="double", subscription="two"))
    play.hold("double")
    play.settle()
    play.ready("double")
    part = from_wire(NFPart, play.heard("double", m.PlanPart)[-1].part)
    assert [handler.name for handler in part.handlers] == ["one"]
    play.tell("tool", m.Subscribe(nf="double", subscription="two", events=["packet.udp"]))
    play.hold("double")
    play.settle()
    play.ready("double")
    part = from_wire(NFPart, play.heard("double", m.PlanPart)[-1].part)
    assert [(handler.name, handler.handler) for handler in part.handlers] == [
        ("one", 0),
        ("two", 1),
    ]


def test_an_added_reader_makes_its_publisher_know_it_first():
    play = Play("finder")
    play.bring_up()
    play.tell("tool", m.NfAdd(entry={"use": "hearer"}))
    play.settle()
    play.register("hearer")
    play.ready("hearer")
    play.hold("finder")
    play.settle()
    assert play.heard("hearer", m.Go) == []
    part = from_wire(NFPart, play.heard("finder", m.PlanPart)[-1].part)
    assert [reader.peer for reader in part.readers] == ["hearer"]
    play.ready("finder")
    assert kinds(play.heard("hearer", m.Go)) == ["go"]
    part = from_wire(NFPart, play.heard("hearer", m.PlanPart)[-1].part)
    assert part.reads[0].from_now


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (m.NfAdd(entry={"use": "cuonter"}), "did you mean 'counter'?"),
        (m.NfAdd(entry={"use": "counter"}), "there already"),
        (m.NfAdd(entry={"use": "double", "whre": "tcp"}), "did you mean 'where'?"),
        (m.NfAdd(entry={"use": "double", "where": "port (80"}), "not closed"),
        (m.NfAdd(entry={"use": "hearer"}), "finder.found"),
        (m.NfRemove(nf="duoble"), "no NF 'duoble' runs here"),
        (m.NfRemove(nf="counter"), "last NF"),
        (m.Subscribe(nf="counter", events=["tcp.dta"]), "did you mean 'tcp.data'?"),
        (m.Subscribe(nf="counter"), "name events"),
        (m.Subscribe(nf="counter", events=["x"], subscription="cuont"), "did you mean 'count'?"),
        (m.Unsubscribe(nf="counter", events=["flow.end"]), "does not hear"),
        (m.Apply(spec={"nfs": []}), "nfs"),
    ],
)
def test_a_refused_change_leaves_all_as_it_was(request_, says):
    play = Play("counter")
    play.bring_up()
    [answer] = play.tell("tool", request_)
    assert isinstance(answer, m.Error)
    assert says in f"{answer.path}: {answer.text}"
    assert [desired.revision for desired in play.saved] == [1]
    assert play.mesh.pending is None


def test_one_change_at_a_time():
    play = Play("counter")
    play.bring_up()
    play.tell("tool", m.NfAdd(entry={"use": "double"}))
    play.tell("tool", m.Subscribe(nf="counter", events=["flow.end"]))
    assert play.saved[-1].revision == 2
    play.settle()
    play.register("double")
    play.ready("double")
    play.settle()
    play.attached("double")
    assert play.saved[-1].revision == 3
    play.hold("counter")
    play.settle()
    play.ready("counter")
    assert [answer.result["revision"] for answer in play.heard("tool", m.Ok)] == [2, 3]


def test_changes_that_wait_are_bounded():
    play = Play("counter")
    play.bring_up()
    for _ in range(20):
        play.tell("tool", m.NfAdd(entry={"use": "double"}))
    assert len(play.heard("tool", m.Error)) == 3
    assert "too many" in play.heard("tool", m.Error)[0].text


def test_a_change_that_takes_too_long_is_taken_back():
    play = Play("counter")
    play.bring_up()
    play.tell("tool", m.NfAdd(entry={"use": "double"}))
    play.settle()
    play.tick(CHANGE_S + 1)
    [answer] = play.heard("tool", m.Error)
    assert "taken back" in answer.text
    assert [nf["use"] for nf in play.saved[-1].spec["nfs"]] == ["counter"]


def test_a_change_that_the_worker_cannot_make_is_taken_back():
    play = Play("counter")
    play.bring_up()
    play.tell("tool", m.Subscribe(nf="counter", events=["http.request"]))
    play.hold("counter")
    play.ready("supervisor")
    play.tell("worker-0", m.Failed(where="plan", text="no room for a module"))
    [answer] = play.heard("tool", m.Error)
    assert "no room for a module" in answer.text
    assert play.saved[-1].revision == 3
    play.hold("counter")
    play.settle()
    assert len(play.heard("counter", m.PlanPart)) == 2, "what holds is told to go on"


# ---- watching and status ------------------------------------------------------------------------


def test_only_publishers_of_what_is_watched_are_asked_to_send():
    play = Play("finder", "counter")
    play.bring_up()
    play.take(play.mesh.watch(frozenset({"finder", "tcp.data", "no.such"}), play.now))
    assert [watch.events for watch in play.heard("finder", m.Watch)] == [["finder"]]
    assert play.heard("counter", m.Watch) == []
    event = m.PublishedEvent(event="finder.found", ts_ns=5, fields={"host": "x"})
    play.tell("finder", m.Published(events=[event], missed=2))
    assert [action.topic for action in play.published] == [b"finder.found.", b".missed"]
    play.take(play.mesh.watch(frozenset(), play.now))
    assert play.heard("finder", m.Watch)[-1].events == []


def test_status_says_all_that_is_known():
    play = Play("finder")
    play.bring_up()
    ring = RingStats(ring="ring/finder/w0", entries=64, head=9, tail=4, dropped=1)
    play.tell("worker-0", m.Heartbeat(stats=WorkerStats(statistics={"packets": 3}, rings=[ring])))
    play.tell("finder", m.Heartbeat(stats=NFStats(events=4, handlers={"ended": 4})))
    process = ProcessStats(name="finder", role="nf", pid=7, state="running", restarts=2)
    play.tell("supervisor", m.Heartbeat(stats=HostStats(processes=[process], notices=["few"])))
    found = status(play.mesh, play.now + 10)
    rows = {row["name"]: row for row in found["processes"]}
    assert rows["finder"]["restarts"] == 2
    assert rows["finder"]["state"] == "silent"
    assert found["workers"]["worker-0"]["statistics"] == {"packets": 3}
    assert (found["rings"][0]["depth"], found["rings"][0]["nf"]) == (5, "finder")
    assert found["subscriptions"][0]["entries"] == 4
    assert found["publishes"] == {"finder.found": ["finder"]}
    assert found["notices"] == ["few"]
