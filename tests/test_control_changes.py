# SPDX-License-Identifier: Apache-2.0
"""The controller's core: changes while packets flow."""

import pytest
from control_play import Play, eof, kinds, result

from mesh.control import messages as m
from mesh.control.state import CHANGE_S
from mesh.control.status import status
from mesh.control.wire import NFPart, WorkerPart, from_wire


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


def test_what_an_nf_found_is_not_what_the_next_of_its_name_found():
    play = Play("counter", "double")
    play.bring_up()
    play.tell("tool", m.NfRemove(nf="double"))
    play.settle()
    play.tell("double", result("double", events=3))
    play.tell("double", m.Drained())
    play.settle()
    play.sessions["double"] = 2
    play.tell("tool", m.NfAdd(entry={"use": "double"}))
    play.settle()
    play.register("double")
    play.ready("double")
    play.settle()
    play.attached("double")
    play.tell("worker-0", eof())
    play.tell("counter", result("counter"))
    assert play.heard("supervisor", m.Finished) == [], "the second has not said what it found"
    play.tell("double", result("double", events=9))
    [finished] = play.heard("supervisor", m.Finished)
    assert [nf.get("events") for nf in finished.report["nfs"]] == [None, 9]


def test_modules_come_when_needed_and_stay():
    play = Play("counter")
    play.bring_up()
    part = from_wire(WorkerPart, play.heard("worker-0", m.PlanPart)[-1].part)
    assert [module.name for module in part.modules] == []
    assert {"tcp_track", "tcp_stream", "udp"} <= {room.name for room in part.room}
    for heard in (m.Subscribe(nf="counter", events=["tcp.data"]), m.Unsubscribe(nf="counter")):
        play.tell("tool", heard)
        play.hold("counter")
        play.settle()
        play.ready("counter")
        part = from_wire(WorkerPart, play.heard("worker-0", m.PlanPart)[-1].part)
        assert [m.name for m in part.modules] == ["ip_defrag", "tcp_track", "tcp_stream"]
    assert play.saved[-1].modules == ("ip_defrag", "tcp_track", "tcp_stream")
    assert "needed by nobody any more" in play.mesh.now.plan.render()


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


def test_an_nf_that_a_change_leaves_alone_does_not_end_it():
    play = Play("counter")
    play.bring_up()
    play.tell("tool", m.NfAdd(entry={"use": "double"}))
    play.tell("counter", m.Failed(where="plan", text="I do not like it"))
    assert play.heard("tool", m.Error) == []
    play.register("double")
    play.ready("double")
    play.settle()
    play.attached("double")
    assert kinds(play.heard("tool", m.Ok)) == ["ok"]


@pytest.mark.parametrize(
    "request_", [m.NfAdd(entry={"use": "finder"}), m.NfRemove(nf="double"), m.Apply(spec={})]
)
def test_a_change_that_cannot_be_saved_is_refused(request_):
    if isinstance(request_, m.Apply):
        spec = {"nfs": [{"use": "double", "name": "double"}], "ports": [{"pcap": "x.pcap"}]}
        request_ = m.Apply(spec=spec)
    play = Play("counter", "double")
    play.bring_up()
    before = status(play.mesh, play.now)
    play.is_full = True
    [answer] = play.tell("tool", request_)
    assert isinstance(answer, m.Error)
    assert "desired.json: no room" in answer.text
    assert status(play.mesh, play.now) == before, "nothing has changed"
    play.is_full = False
    play.tell("tool", request_)
    assert play.saved[-1].revision == 2


def test_what_follows_from_a_change_is_done_and_saved_later():
    play = Play("counter", "double")
    play.bring_up()
    play.tell("tool", m.NfRemove(nf="double"))
    play.settle()
    play.is_full = True
    play.tell("double", result("double"))
    play.tell("double", m.Drained())
    play.settle()
    assert kinds(play.heard("tool", m.Ok)) == ["ok"]
    assert (play.mesh.desired.revision, play.saved[-1].revision) == (3, 2)
    assert "not saved" in status(play.mesh, play.now)["notices"][-1]
