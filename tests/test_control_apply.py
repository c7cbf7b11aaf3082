# SPDX-License-Identifier: Apache-2.0
"""The controller's core: a running mesh is made equal to a spec."""

import pytest
from control_play import Play, eof, kinds, result

from mesh.control import messages as m
from mesh.control.keys import REMOTE
from mesh.control.wire import NFPart, WorkerPart, from_wire


def entry(use: str, **more: object) -> dict[str, object]:
    return {"use": use, "name": use, **more}


def apply(play: Play, *nfs: dict[str, object], **more: object) -> list[m.Body]:
    return play.tell("tool", m.Apply(spec={"nfs": list(nfs), **more}))


def come_up(play: Play, name: str) -> None:
    """A process that the supervisor has started."""
    play.sessions[name] = play.sessions.get(name, 1) + 1
    play.register(name)
    play.ready(name)


def leave(play: Play, name: str) -> None:
    play.tell(name, result(name, events=3))
    play.tell(name, m.Drained())


def names(play: Play) -> list[str]:
    return [nf["name"] for nf in play.saved[-1].spec["nfs"]]


def answer(play: Play) -> dict[str, object]:
    [found] = play.heard("tool", m.Ok)
    return found.result


def test_nothing_to_change_changes_nothing():
    play = Play("counter", "double", max_packets=9)
    play.bring_up()
    [found] = apply(play, entry("counter"), entry("double"), ports=[{"pcap": "x.pcap"}])
    assert isinstance(found, m.Ok)
    assert not any(found.result[key] for key in ("added", "removed", "changed", "replaced"))
    assert [desired.revision for desired in play.saved] == [1]


def test_nfs_join_and_leave_from_one_packet_on():
    play = Play("counter", "double")
    play.bring_up()
    assert apply(play, entry("counter"), entry("finder")) == []
    play.settle()
    come_up(play, "finder")
    play.settle()
    assert play.heard("tool", m.Ok) == [], "it does not hear yet"
    play.attached("finder")
    found = answer(play)
    assert (found["added"], found["removed"]) == (("finder",), ("double",))
    assert (found["revision"], found["effective_from"]) == (2, 50)
    assert kinds(play.heard("double", m.Drain)) == ["drain"]
    assert len(play.heard("counter", m.PlanPart)) == 1, "the one that stays is not disturbed"


def test_what_an_nf_hears_changes_in_place():
    play = Play("counter", "double")
    play.bring_up()
    heard = {"count": {"events": ["packet", "flow.end"], "where": "tcp"}}
    apply(play, entry("counter", subscriptions=heard), entry("double"))
    play.hold("counter")
    play.settle()
    play.ready("counter")
    assert answer(play)["changed"] == ("counter",)
    part = from_wire(NFPart, play.heard("counter", m.PlanPart)[-1].part)
    assert (part.handlers[0].events, part.handlers[0].where) == (("packet", "flow.end"), "tcp")
    assert len(play.heard("double", m.PlanPart)) == 1


def test_a_dry_run_says_what_would_change_and_changes_nothing():
    play = Play("counter", "double")
    play.bring_up()
    request = m.Apply(spec={"nfs": [entry("counter"), entry("finder")]}, dry_run=True)
    [found] = play.tell("tool", request)
    assert (found.result["added"], found.result["removed"]) == (("finder",), ("double",))
    assert found.result["revision"] == 0
    assert (play.mesh.desired.revision, play.mesh.pending, len(play.saved)) == (1, None, 1)
    request = m.Apply(spec={"nfs": [entry("counter", where="tcp prt 80")]}, dry_run=True)
    [refused] = play.tell("tool", request)
    assert (refused.path, play.mesh.pending) == ("nfs[0].where", None)


def test_several_nfs_are_put_in_at_once_or_none_is():
    play = Play("counter")
    play.bring_up()
    hearer = entry("hearer")  # hears what the one behind it publishes
    [refused] = play.tell("tool", m.NfPut(entries=[hearer, entry("finder", where="tcp prt 80")]))
    assert refused.path == "nfs.finder.where"
    assert play.mesh.desired.revision == 1
    assert play.tell("tool", m.NfPut(entries=[hearer, entry("finder")])) == []
    play.settle()
    for name in ("finder", "hearer"):
        come_up(play, name)
    play.settle()
    for name in ("finder", "hearer"):
        play.attached(name)
    assert answer(play)["added"] == ("hearer", "finder")


def replacing() -> Play:
    """A mesh whose NF `double` is about to be replaced, and has left."""
    play = Play("counter", "double")
    play.bring_up()
    apply(play, entry("counter"), entry("double", ring=128))
    assert names(play) == ["counter"]
    play.settle()
    leave(play, "double")
    return play


def test_an_nf_that_differs_otherwise_leaves_first_then_the_new_one_joins():
    play = replacing()
    assert names(play) == ["counter"], "the worker still has its ring"
    play.settle(lambda: {"effective_from": 60})
    assert names(play) == ["counter", "double"]
    play.settle(lambda: {"effective_from": 70})
    come_up(play, "double")
    play.settle(lambda: {"effective_from": 70})
    play.attached("double")
    found = answer(play)
    assert (found["effective_from"], found["replaced_from"]) == (50, 70)
    assert found["replaced"] == ("double",)
    assert found["reports"]["double"]["events"] == 3
    part = from_wire(WorkerPart, play.heard("worker-0", m.PlanPart)[-1].part)
    assert [r.entries for r in part.receivers if r.nf == "double"] == [128]
    assert play.saved[-1].then is None


def test_other_changes_wait_until_all_is_applied():
    play = replacing()
    play.tell("tool", m.NfAdd(entry={"use": "finder"}))
    play.settle()
    play.settle()
    come_up(play, "double")
    play.settle()
    play.attached("double")
    assert names(play) == ["counter", "double", "finder"]


def test_a_controller_that_comes_back_goes_on_applying():
    saved = replacing().saved[-1]
    assert saved.then is not None
    play = Play("counter", is_composing=True)
    play.mesh.desired = saved
    play.compose(saved)
    for name in ("supervisor", "worker-0", "counter"):
        play.register(name, revision=saved.revision)
        play.tell(name, m.Ready(revision=saved.revision))
    play.attached("worker-0")
    play.tick()
    play.settle()
    assert names(play) == ["counter", "double"]


def test_a_run_that_ends_meanwhile_is_said():
    play = replacing()
    play.tell("worker-0", eof())
    play.settle()
    [error] = play.heard("tool", m.Error)
    assert "ended" in error.text
    play.tell("counter", result("counter"))
    [finished] = play.heard("supervisor", m.Finished)
    assert {nf["name"] for nf in finished.report["nfs"]} == {"counter", "double"}


def test_a_new_nf_that_fails_is_an_error_and_the_rest_stays():
    play = Play("counter")
    play.bring_up()
    apply(play, entry("counter"), entry("double"))
    play.settle()
    failed = m.Failed(where="import", text="no numba", fatal=True, name="double")
    play.tell("supervisor", failed)
    [error] = play.heard("tool", m.Error)
    assert "no numba" in error.text
    assert names(play) == ["counter"]


@pytest.mark.parametrize(
    ("nfs", "more", "path", "says"),
    [
        ([{"use": "counter"}], {}, "nfs[0].name", "needs its name"),
        ([entry("counter", ring=128)], {}, "nfs", "no NF would stay"),
        ([entry("counter")], {"ports": [{"pcap": "y.pcap"}]}, "ports", "run it again"),
        ([entry("counter")], {"worker": {"n_records": 2048}}, "worker", "cannot change"),
        ([entry("counter")], {"checksums": "verify"}, "checksums", "cannot change"),
        ([entry("counter"), entry("nobody")], {}, "nfs[1].use", "no NF 'nobody'"),
        ([entry("counter", where="port (80")], {}, "nfs[0].where", "not closed"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(nfs, more, path, says):
    play = Play("counter")
    play.bring_up()
    [error] = apply(play, *nfs, **more)
    assert isinstance(error, m.Error)
    assert (error.path, says in error.text) == (path, True)
    assert [desired.revision for desired in play.saved] == [1]
    assert play.mesh.pending is None


def test_all_may_go_when_a_new_one_comes():
    play = Play("counter")
    play.bring_up()
    apply(play, entry("double"))
    assert (names(play), list(play.saved[-1].leaving)) == (["double"], ["counter"])


def test_what_is_put_in_over_the_network_is_not_started_here():
    play = Play("counter")
    play.bring_up()
    pod = {"use": "double", "name": "a", "place": "pod", "token": "0" * 64}
    for dry_run in (False, True):
        for entries in ([{"use": "/tmp/mine.py:Mine", "name": "x"}], [pod, {**pod, "place": ""}]):
            [refused] = play.tell(REMOTE, m.NfPut(entries=entries, dry_run=dry_run))
            assert refused.path == f"entries[{len(entries) - 1}].place"
    assert play.mesh.desired.revision == 1
    play.tell(REMOTE, m.NfPut(entries=[pod]))
    assert play.heard(REMOTE, m.Error)[4:] == []
    assert play.mesh.desired.revision == 2
