# SPDX-License-Identifier: Apache-2.0
"""The controller's core: what is watched, and what status and metrics say."""

from control_play import Play

from mesh.control import messages as m
from mesh.control.stats import HostStats, NFStats, ProcessStats, RingStats, WorkerStats
from mesh.control.status import status


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
