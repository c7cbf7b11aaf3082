# SPDX-License-Identifier: Apache-2.0
"""The controller's core: what is watched, and what status and metrics say."""

from itertools import count

import pytest
from control_play import Play

from mesh.cli.status import _process_row
from mesh.control import messages as m
from mesh.control.metrics import families
from mesh.control.process import SILENT_S
from mesh.control.stats import (
    HostStats,
    NFStats,
    ObjectStats,
    PortStats,
    ProcessStats,
    RingStats,
    WorkerStats,
)
from mesh.control.status import status
from mesh.report import Statistics


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


def counted(model, numbers, **more):
    """A row whose numbers are all different."""
    kinds = {name: each.annotation for name, each in model.model_fields.items()}
    return model(**{k: next(numbers) for k, v in kinds.items() if v is int}, **more)


def full() -> Play:
    """A mesh of which every number is another one."""
    play = Play("finder")
    play.bring_up()
    n = count(1001)
    ring = counted(RingStats, n, ring="ring/finder/w0", quarantined=True)
    port = PortStats(source="x.pcap", counters={"rx_packets": next(n), "rx_bytes": next(n)})
    statistics = {name: next(n) for name in Statistics.__slots__}
    counters = {"tcp_track.bad_ack": next(n), "time.went_back": next(n)}
    worker = counted(
        WorkerStats, n, statistics=statistics, counters=counters, ports=[port], rings=[ring]
    )
    handlers, published = {"ended": next(n)}, {"finder.found": next(n)}
    nf = counted(NFStats, n, handlers=handlers, published=published, disabled=True)
    row = counted(ProcessStats, n, name="finder", role="nf", state="running", cores=[next(n)])
    memory = counted(ObjectStats, n, name="w0/packets", backing="huge_2m")
    host = HostStats(processes=[row], objects=[memory], refused={"token": next(n)})
    for name, stats in (("worker-0", worker), ("finder", nf), ("supervisor", host)):
        play.tell(name, m.Heartbeat(stats=stats))
    play.mesh.refused["mac"] = next(n)
    play.now += 1.25
    return play


def numbers_of(value: object) -> set[float]:
    """All numbers in plain data."""
    if isinstance(value, dict):
        return set().union(*map(numbers_of, value.values()))
    if isinstance(value, list):
        return set().union(*map(numbers_of, value))
    return {float(value)} if isinstance(value, int | float) else set()


def test_every_number_of_the_status_is_a_metric_and_the_other_way_round():
    play = full()
    found = status(play.mesh, play.now)
    samples = [sample for family in families(found) for sample in family.samples]
    shown = {sample.value for sample in samples}
    words = {float(w) for s in samples for w in s.labels.values() if w.isdigit()}
    assert numbers_of(found) <= shown | words
    assert shown <= numbers_of(found) | {0.0, 1.0}
    assert len([number for number in shown if number > 1000]) > 30
    names = [family.name for family in families(found)]
    assert len(names) == len(set(names))


def test_a_mesh_of_which_nothing_is_known_has_metrics_too():
    play = Play("finder")
    play.bring_up()
    names = {family.name for family in families(status(play.mesh, play.now))}
    assert {"nfmesh_worker_packets", "nfmesh_nf_events", "nfmesh_ring_depth"} <= names


def test_a_process_that_does_not_answer_is_said_to_hang():
    play = Play("finder", "counter")
    play.bring_up()
    silent = {"finder": 4.5, "counter": 0.5}
    rows = [
        ProcessStats(name=name, role="nf", pid=7, state="running", silent_s=s, patience_s=10.0)
        for name, s in silent.items()
    ]
    play.tell("supervisor", m.Heartbeat(stats=HostStats(processes=rows)))
    found = {row["name"]: row for row in status(play.mesh, play.now)["processes"]}
    assert (found["finder"]["state"], found["counter"]["state"]) == ("hangs", "running")
    assert (found["finder"]["silent_s"], found["finder"]["patience_s"]) == (4.5, 10.0)
    row = _process_row(found["finder"])
    assert row["last"] == "has not answered for 4 s; it is ended after 10 s"
    assert _process_row(found["counter"])["last"] is None
    assert "nfmesh_process_silent_s" in {f.name for f in families(status(play.mesh, play.now))}


def test_status_says_all_that_is_known():
    play = Play("finder")
    play.bring_up()
    ring = RingStats(ring="ring/finder/w0", entries=64, head=9, tail=4, dropped=1)
    play.tell("worker-0", m.Heartbeat(stats=WorkerStats(statistics={"packets": 3}, rings=[ring])))
    play.tell("finder", m.Heartbeat(stats=NFStats(events=4, handlers={"ended": 4})))
    process = ProcessStats(name="finder", role="nf", pid=7, state="running", restarts=2)
    own = ProcessStats(name="controller", role="controller", pid=8, state="starting")
    host = HostStats(processes=[process, own], notices=["few"])
    play.tell("supervisor", m.Heartbeat(stats=host))
    found = status(play.mesh, play.now + 10)
    rows = {row["name"]: row for row in found["processes"]}
    assert rows["finder"]["restarts"] == 2
    assert rows["controller"]["state"] == "running"
    assert rows["finder"]["state"] == "silent"
    assert found["workers"]["worker-0"]["statistics"] == {"packets": 3}
    assert (found["rings"][0]["depth"], found["rings"][0]["nf"]) == (5, "finder")
    assert found["subscriptions"][0]["entries"] == 4
    assert found["publishes"] == {"finder.found": ["finder"]}
    assert found["notices"] == ["few"]


def with_pod():
    """A mesh that runs, and an NF of another container that has just registered."""
    play = Play("counter")
    play.bring_up()
    entry = {"use": "counter", "name": "pod", "place": "pod", "token": "0" * 64}
    play.tell("tool", m.NfPut(entries=[entry]))
    play.settle()
    play.register("pod")
    return play


@pytest.mark.parametrize("order", [("failed", "away"), ("away", "failed"), ("away",)])
def test_why_an_nf_that_joins_could_not_begin_is_said_whatever_is_heard_first(order):
    """Its own message and the supervisor's come by two ways; its key is void once it is gone."""
    play = with_pod()
    for said in order:
        if said == "failed":
            play.tell("pod", m.Failed(where="start", text="no licence", fatal=True))
        else:
            play.tell("supervisor", m.Away(name="pod", text="no licence", failed=True))
    found = status(play.mesh, play.now)["attachments"]["pod"]
    assert (found["phase"], found["error_where"], found["error"]) == ("away", "start", "no licence")
    play.register("pod")
    assert status(play.mesh, play.now)["attachments"]["pod"]["error"] == ""


def test_an_nf_that_left_is_away_though_nobody_heard_it_leave():
    play = with_pod()
    row = ProcessStats(name="pod", role="nf", pid=0, state="away")
    beat = m.Heartbeat(stats=HostStats(processes=[row]))
    play.tell("supervisor", beat)
    assert "pod" in play.mesh.processes, "it may just have come"
    play.tick(SILENT_S + 0.1)
    play.tell("supervisor", beat)
    assert status(play.mesh, play.now)["attachments"]["pod"]["phase"] == "away"
