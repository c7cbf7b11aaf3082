# SPDX-License-Identifier: Apache-2.0
"""The controller process over real ZeroMQ; the processes of the mesh are played by Control."""

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import msgpack
import pytest
import zmq
from fake_host import FakeHost
from patience import PATIENCE_S, until

from mesh.control import messages as m
from mesh.control.desired import Desired, load_desired, save_desired
from mesh.control.metrics import families, serve
from mesh.control.tool import TOOL_KEY, ask, watch_events
from mesh.control.wire import WorkerPart, from_wire
from mesh.errors import ProcessError, SpecError

OFFICE = Path(__file__).parent / "captures" / "office.pcap"
SPEC = {"nfs": [{"use": "syn_scan"}, {"use": "dns_log"}], "ports": [{"pcap": str(OFFICE)}]}


@pytest.fixture
def host():
    with tempfile.TemporaryDirectory(prefix="nfm") as folder:
        run = Path(folder)
        save_desired(run, Desired(1, SPEC))
        made = FakeHost(run)
        yield made
        errors = made.close()
        assert "Traceback" not in errors
        assert made.process.returncode == 0


@pytest.fixture
def running(host):
    until(lambda: host.is_state("running"), "the mesh to run")
    return host


def test_a_mesh_registers_composes_attaches_and_beats(running):
    found = until(
        lambda: s if (s := running.status())["workers"]["worker-0"].get("statistics") else None,
        "a heartbeat",
    )
    assert {row["name"]: row["phase"] for row in found["processes"]} == {
        "supervisor": "ready",
        "worker-0": "attached",
        "syn_scan": "attached",
        "dns_log": "attached",
    }
    assert found["workers"]["worker-0"]["statistics"] == {"packets": 7}
    assert found["rings"][0]["depth"] == 7
    assert set(found["modules"]) >= {"tcp_track", "dns", "udp"}
    part = from_wire(WorkerPart, running.fakes["worker-0"].heard(m.PlanPart)[0].part)
    assert {receiver.nf for receiver in part.receivers} == {"syn_scan", "dns_log"}


def test_draining_leaves_a_report_and_everybody_leaves(running):
    assert running.ask(m.Stop()) == {"stopping": True}
    until(lambda: running.work() or running.fakes["worker-0"].heard(m.Drain), "draining")
    for name in ("syn_scan", "dns_log"):
        running.fakes[name].control.send(m.Result(report={"name": name, "results": {}}))
    until(lambda: running.work() or running.supervisor.heard(m.Finished), "the report")
    report = running.supervisor.heard(m.Finished)[0].report
    assert [nf["name"] for nf in report["nfs"]] == ["syn_scan", "dns_log"]
    until(lambda: running.work() or running.fakes["dns_log"].heard(m.Leave), "leaving")


def test_a_report_longer_than_a_message_arrives(running):
    rows = [{"row": i, "text": "x" * 500} for i in range(5000)]
    worker = running.fakes["worker-0"]
    worker.control.send(m.Eof(source="x", seconds=1, statistics={}, counters={}))
    for name in ("syn_scan", "dns_log"):
        report = {"name": name, "results": {"rows": rows}}
        running.fakes[name].control.send(m.Result(report=report))
    until(lambda: running.work() or running.supervisor.heard(m.Finished), "the report")
    report = running.supervisor.heard(m.Finished)[0].report
    assert [nf["results"]["rows"] for nf in report["nfs"]] == [rows, rows]


def test_nfs_join_and_leave(running):
    running.fakes["worker-0"].position = 500
    added = running.ask(m.NfAdd(entry={"use": "http_log"}))
    assert (added["nf"], added["effective_from"]) == ("http_log", 500)
    assert len(running.fakes["dns_log"].heard(m.PlanPart)) == 1
    removed = running.ask(m.NfRemove(nf="http_log"))
    assert removed["report"]["results"] == {"n": 1}
    until(lambda: load_desired(running.run).leaving == {}, "the end of leaving")
    with pytest.raises(SpecError, match="did you mean 'dns_log'"):
        running.ask(m.NfRemove(nf="dns_lgo"))


def test_a_killed_controller_comes_back_and_knows_all_again(running):
    running.ask(m.NfAdd(entry={"use": "http_log"}))
    for fake in running.fakes.values():
        until(lambda f=fake: running.work() or f.control._talk.revision == 2, "all to hold it")
    before = {name: revisions(fake) for name, fake in running.fakes.items()}
    assert before["supervisor"] == before["worker-0"] == [1, 2]
    running.kill()
    running.start()
    until(lambda: running.is_state("running"), "the mesh to be known again")
    expected = {"dns_log", "http_log", "syn_scan", "worker-0"}
    until(lambda: attached(running.status()) == expected, "all to be known again")
    found = until(lambda: s if (s := running.status())["modules"] else None, "the plan")
    assert found["revision"] == 2
    assert {row["name"]: row["revision"] for row in found["processes"]} == dict.fromkeys(before, 2)
    assert {name: revisions(fake) for name, fake in running.fakes.items()} == before
    assert running.ask(m.NfRemove(nf="http_log"))["nf"] == "http_log"
    until(lambda: running.work() or revisions(running.supervisor)[-1] == 4, "the end of leaving")
    assert revisions(running.supervisor) == [1, 2, 3, 4], "nobody is told what it knows"
    # What came before the removal was said before it.
    after = {name: [r for r in revisions(f) if r < 3] for name, f in running.fakes.items()}
    assert after == before, "nobody is told what it knows"


def revisions(fake):
    return [plan.revision for plan in fake.heard(m.PlanPart)]


def attached(found):
    return {row["name"] for row in found["processes"] if row.get("phase") == "attached"}


def test_results_survive_the_controller(running):
    running.fakes["worker-0"].control.send(m.Eof(source="x", seconds=1, statistics={}, counters={}))
    running.fakes["dns_log"].control.send(m.Result(report={"name": "dns_log", "results": {"a": 1}}))
    until(lambda: running.status()["state"] == "ending", "the end")
    running.kill()
    running.start()
    until(lambda: running.is_state("ending"), "the end to be known again")
    running.fakes["syn_scan"].control.send(m.Result(report={"name": "syn_scan", "results": {}}))
    until(lambda: running.work() or running.supervisor.heard(m.Finished), "the report")
    report = running.supervisor.heard(m.Finished)[0].report
    assert {nf["name"]: nf["results"] for nf in report["nfs"]} == {
        "syn_scan": {},
        "dns_log": {"a": 1},
    }


def test_watchers_see_what_is_published(running):
    nf = running.fakes["syn_scan"]
    watcher = watch_events(running.run, ["syn_scan"], time.monotonic() + PATIENCE_S)
    assert next(watcher) == {}
    until(lambda: running.work() or nf.heard(m.Watch), "the NF to be asked")
    event = m.PublishedEvent(event="syn_scan.port_scan", ts_ns=5, fields={"ports": 3})
    nf.control.send(m.Published(events=[event]))
    found = next(each for each in watcher if each)
    assert (found["event"], found["fields"], found["nf"]) == (event.event, {"ports": 3}, "syn_scan")
    watcher.close()
    until(
        lambda: running.work() or nf.heard(m.Watch)[-1].events == [], "the NF to be asked no more"
    )


def test_garbage_is_counted_and_disturbs_nobody(running):
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 500)
        socket.connect(f"ipc://{running.run}/control")
        forged = msgpack.packb(
            {"v": 1, "type": "nf_remove", "name": "tool", "session": 1, "seq": 1, "body": {}}
        )
        for frames in (
            [b""],
            [b"x", b"y"],
            [b"\xc1" * 100, b""],
            [forged, b"0" * 32],
            [b"\0" * (1 << 21), b""],
        ):
            socket.send_multipart(frames)
        expected = {"frames": 1, "envelope": 1, "not_msgpack": 1, "mac": 1, "too_large": 1}
        until(lambda: running.status()["refused"].items() >= expected.items(), "refusals")
    assert running.status()["state"] == "running"


def test_published_events_are_for_tools_of_the_same_user(running):
    modes = {name: (running.run / name).stat().st_mode & 0o777 for name in ("control", "events")}
    assert modes == {"control": 0o666, "events": 0o600}


def test_a_tool_with_another_key_gets_no_answer(running):
    def refusals():
        (running.run / TOOL_KEY).write_bytes(b"0" * 32)
        with pytest.raises(ProcessError, match="does not answer"):
            ask(running.run, m.Status(), 0.5)
        (running.run / TOOL_KEY).write_bytes(running.tool)
        return running.status()["refused"].get("mac")

    until(refusals, "one that came in time to be counted")


def test_tools_say_when_nothing_runs(tmp_path):
    with pytest.raises(ProcessError, match="no mesh runs"):
        ask(tmp_path, m.Status())


@pytest.mark.parametrize("keys", [b"", b"\xc1", msgpack.packb({"tool": b"x"}), msgpack.packb(5)])
def test_a_controller_without_keys_says_so(tmp_path, keys):
    out, into = os.pipe()
    os.write(into, keys)
    os.close(into)
    command = [sys.executable, "-m", "mesh.control.controller", "--run", str(tmp_path)]
    done = subprocess.run(
        [*command, "--key-fd", str(out)], pass_fds=(out,), capture_output=True, text=True
    )
    os.close(out)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"nfmesh: controller: --key-fd: no keys come from descriptor {out}"
    ]


def test_metrics_show_what_status_shows(running):
    running.fakes["syn_scan"].control.send(m.Heartbeat(stats=running.fakes["syn_scan"].stats()))
    running.fakes["worker-0"].control.send(m.Heartbeat(stats=running.fakes["worker-0"].stats()))
    found = until(
        lambda: s if (s := running.status())["nfs"]["syn_scan"] and s["rings"] else None, "beats"
    )
    port, close = serve(0, lambda: found)
    try:
        with pytest.raises(SpecError, match="--metrics-port"):
            serve(port, lambda: found)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            lines = set(answer.read().decode().splitlines())
    finally:
        close()
    assert 'nfmesh_worker_packets_total{worker="worker-0"} 7.0' in lines
    assert 'nfmesh_ring_depth{nf="syn_scan",ring="ring/syn_scan/w0"} 7.0' in lines
    assert 'nfmesh_subscription_entries_total{nf="syn_scan",subscription="watch"} 3.0' in lines
    names = [family.name for family in families(found)]
    assert len(names) == len(set(names))


def test_the_controller_serves_metrics_itself():
    with tempfile.TemporaryDirectory(prefix="nfm") as folder:
        run = Path(folder)
        save_desired(run, Desired(1, SPEC))
        host = FakeHost(run, ("--metrics-port", "0"))
        try:
            until(lambda: host.is_state("running"), "the mesh to run")
            until(lambda: host.status()["nfs"]["dns_log"], "a heartbeat")
            with urllib.request.urlopen(host.status()["metrics"]) as answer:
                assert b'nfmesh_nf_events_total{nf="dns_log"} 3.0' in answer.read()
        finally:
            errors = host.close()
    assert "Traceback" not in errors
