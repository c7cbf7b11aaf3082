# SPDX-License-Identifier: Apache-2.0
"""The controller's core: how a mesh comes up, and how a controller comes back."""

import pytest
from control_play import Play, kinds

from mesh.control import messages as m
from mesh.control.desired import Desired
from mesh.control.stats import HostStats, WorkerStats
from mesh.control.status import status


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


def test_a_mesh_is_looked_at_before_it_is_composed():
    play = Play(is_composing=True)
    play.mesh.desired = Desired(1, {"ports": [{"pcap": "x.pcap"}]})
    play.tick(1)
    assert status(play.mesh, play.now)["state"] == "starting"


def test_what_was_said_over_a_connection_that_is_gone_is_said_again():
    play = Play("counter")
    for name in ("counter", "supervisor", "worker-0"):
        play.register(name)
        play.lines[name] = 1
        assert "seen" in kinds(play.register(name))
    assert [len(play.heard(name, m.PlanPart)) for name in ("counter", "supervisor")] == [2, 2]
    play.ready("supervisor")
    play.lines["worker-0"] = 2
    play.register("worker-0")
    assert len(play.heard("worker-0", m.PlanPart)) == 2
    play.ready("counter")
    play.ready("worker-0", effective_from=1)
    assert kinds(play.heard("counter", m.Go)) == ["go"]
    play.lines["counter"] = 2
    assert kinds(play.register("counter", revision=1)) == ["seen", "go"]
    play.attached("counter")
    play.attached("worker-0")
    play.lines["counter"] = 3
    assert kinds(play.register("counter", revision=1)) == ["seen"], "it has answered everything"
    assert len(play.heard("counter", m.PlanPart)) == 2


def test_an_end_that_was_said_over_a_connection_that_is_gone_is_said_again():
    play = Play("counter")
    play.bring_up()
    play.tell("tool", m.Stop(now=True))
    assert [len(play.heard(name, m.Leave)) for name in ("counter", "worker-0")] == [1, 1]
    assert len(play.heard("supervisor", m.Finished)) == 1
    for name in ("counter", "worker-0", "supervisor"):
        play.lines[name] = 1
        play.register(name, revision=1)
    assert [len(play.heard(name, m.Leave)) for name in ("counter", "worker-0")] == [2, 2]
    assert len(play.heard("supervisor", m.Finished)) == 2


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


def test_an_nf_that_does_not_start_ends_a_run_that_has_not_begun():
    play = Play("counter", "double")
    for name in ("supervisor", "worker-0", "counter"):
        play.register(name)
        play.ready(name)
    play.attached("counter")
    failed = m.Failed(where="import", text="no such module", fatal=True, name="double")
    play.tell("supervisor", failed)
    assert play.heard("worker-0", m.Go) == []
    assert kinds(play.heard("worker-0", m.Leave)) == ["leave"]
    [finished] = play.heard("supervisor", m.Finished)
    assert finished.start_failed == ["double"]
    assert finished.report["packets"] == 0


def test_one_that_fails_later_delays_nobody():
    play = Play("counter", "double")
    play.bring_up()
    play.sessions["double"] = 2
    play.register("double")
    failed = m.Failed(where="start", text="no such file", fatal=True, name="double")
    play.tell("supervisor", failed)
    assert play.heard("worker-0", m.Leave) == []
    assert not play.mesh.is_over


def test_a_controller_that_comes_back_ends_no_run_that_others_began():
    play = Play("counter", "double")
    play.register("supervisor", revision=1)
    play.register("counter", revision=1)
    failed = m.Failed(where="start", text="no such file", fatal=True, name="double")
    play.tell("supervisor", failed)
    assert not play.mesh.is_over


def test_an_nf_that_failed_for_good_delays_nobody_when_it_is_read_again():
    play = Play("counter", "double")
    for name in ("supervisor", "worker-0", "counter"):
        play.register(name, revision=1)
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


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("counter", m.Eof(source="", seconds=0, statistics={}, counters={})),
        ("counter", m.Heartbeat(stats=HostStats())),
        ("counter", m.Heartbeat(stats=WorkerStats(statistics={}, counters={}))),
        ("worker-0", m.Result(report={"name": "counter"})),
        ("worker-0", m.Published(events=[], missed=1)),
    ],
)
def test_a_process_of_the_mesh_says_what_its_role_says(name, body):
    play = Play("counter")
    play.bring_up()
    before = status(play.mesh, play.now)
    play.tell(name, body)
    assert play.mesh.refused == {"role": 1}
    assert status(play.mesh, play.now) == {**before, "refused": {"role": 1}}


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


def test_a_process_that_comes_before_the_plan_is_composed_is_not_told_again():
    before = Play("finder", "hearer")
    before.bring_up()
    play = Play("finder", "hearer", is_composing=True)
    play.mesh.desired = before.saved[-1]
    names = ("supervisor", "worker-0", "finder", "hearer")
    for name in names:
        [seen] = play.register(name, revision=1)
        assert seen.revision == 1, "what it holds is not forgotten meanwhile"
        play.tell(name, m.Ready(revision=1, effective_from=7))
    for name in names[1:]:
        play.attached(name)
    play.compose(before.saved[-1])
    play.tick()
    assert [body.TYPE for _, body in play.said if not isinstance(body, m.Seen)] == []
    found = status(play.mesh, play.now)
    assert {row["revision"] for row in found["processes"]} == {1}
    assert found["workers"]["worker-0"]["effective_from"] == 7


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
