# SPDX-License-Identifier: Apache-2.0
"""The command line over real processes: the same results, and changes while packets flow."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

import pytest
import yaml
from patience import PATIENCE_S, until

from mesh.control import messages as m
from mesh.control.tool import ask
from mesh.errors import ProcessError
from mesh.rundir import base_folder, running
from mesh.testing import conversation, write_capture

HERE = Path(__file__).parent
OFFICE = HERE / "captures" / "office.pcap"
EXAMPLES = HERE.parent / "examples"
NFMESH = [sys.executable, "-m", "mesh.cli"]


def nfmesh(*words, status=0):
    done = subprocess.run(
        [*NFMESH, *map(str, words)], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == status, done.stderr
    return done


def objects(*words, status=0):
    lines = nfmesh(*words, "--json", status=status).stdout.splitlines()
    return [json.loads(line) for line in lines]


def comparable(report):
    """A report without what depends on how it was run: times, sizes of memory and of batches."""
    sizes = ("mapped_bytes", "flow_bytes")
    statistics = {k: v for k, v in report["statistics"].items() if k not in sizes}
    nfs = [{k: v for k, v in nf.items() if k != "batches"} for nf in report["nfs"]]
    return {**report, "seconds": 0, "statistics": statistics, "nfs": nfs}


@pytest.mark.parametrize(
    "words",
    [
        ("--nf", "http_log", "--nf", "dns_log", "--nf", "syn_scan"),
        ("--nf", "flow_counter", "--nf", "flow_log", "--where", "net 10.20.0.0/16"),
        ("--nf", "syn_scan", "--set", "syn_scan.limit=30", "--max-packets", "200"),
        ("--nf", "http_log", "--limit", "tcp_stream.overlap=last", "--checksums", "verify"),
        ("--nf", f"{EXAMPLES}/chain.py:Refusals", "--nf", f"{EXAMPLES}/chain.py:Alarm"),
    ],
    ids=lambda words: words[1].rpartition("/")[2],
)
def test_processes_find_what_one_process_finds(words):
    [apart] = objects("run", "--pcap", OFFICE, *words)
    [together] = objects("run", "--pcap", OFFICE, *words, "--in-process")
    assert comparable(apart) == comparable(together)
    assert apart["packets"] > 0
    assert not running()


def test_a_spec_runs_with_files_beside_it(tmp_path):
    write_spec(tmp_path, nfs=[{"use": "./mine.py:Counts"}], ports=[{"pcap": "x.pcapng"}])
    write_capture(tmp_path / "x.pcapng", conversation())
    [apart] = objects("run", tmp_path / "mesh.yaml")
    [together] = objects("run", tmp_path / "mesh.yaml", "--in-process")
    assert comparable(apart) == comparable(together)
    assert apart["nfs"][0]["results"]["packets"] == apart["packets"] == len(conversation())


@pytest.mark.parametrize(
    "words",
    [
        ("--in", "day.pcap", "--out", "./day.pcap"),
        ("--in", "day.pcap", "--out", "link.pcap", "--workers", "2"),
        ("--pcap", "day.pcap", "--set", "flow_log.path=day.pcap"),
        ("--pcap", "day.pcap", "--set", "flow_log.path=link.pcap", "--in-process"),
    ],
)
def test_the_capture_that_is_read_is_never_written(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    write_capture(tmp_path / "day.pcap", conversation())
    (tmp_path / "link.pcap").symlink_to("day.pcap")
    before = (tmp_path / "day.pcap").read_bytes()
    done = nfmesh("run", *words, "--nf", "flow_log", status=2)
    assert "is read by this mesh" in done.stderr
    assert (tmp_path / "day.pcap").read_bytes() == before


def test_a_mesh_empties_no_folder_but_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("NFMESH_RUN", str(tmp_path))
    tmp_path.chmod(0o755)
    (tmp_path / "office").mkdir()
    (tmp_path / "office" / "thesis.txt").write_text("years of work")
    for name, words in {"office": "no run folder", "../office": "no name of a mesh"}.items():
        done = nfmesh("run", "--pcap", OFFICE, "--nf", "http_log", "--name", name, status=2)
        assert words in done.stderr
    assert (tmp_path / "office" / "thesis.txt").read_text() == "years of work"


def test_a_spec_says_how_long_a_process_may_be_silent(tmp_path):
    nfs = [{"use": "./mine.py:Hangs", "restart": "never"}, {"use": "./mine.py:Counts"}]
    write_spec(tmp_path, nfs=nfs, ports=[{"pcap": str(OFFICE)}], patience={"run": 2.0})
    [found] = objects("run", tmp_path / "mesh.yaml", status=1)
    [error] = found["nfs"][0]["errors"]
    assert float(error.partition("no sign of life for ")[2].split()[0]) >= 2
    assert found["nfs"][1]["results"]["packets"] > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run",), "--pcap"),
        (("run", "--pcap", OFFICE), "--nf"),
        (("run", "--nf", "http_log"), "--pcap"),
        (("run", "--pcap", "/no/such.pcap", "--nf", "http_log"), "/no/such.pcap"),
        (("run", "--pcap", OFFICE, "--nf", "http_log", "--nf-cores", "x"), "--nf-cores"),
        (("run", "--pcap", OFFICE, "--nf", "http_log", "--worker-cores", "4095"), "4095"),
        (("run", EXAMPLES / "user_event.yaml", "--nf", "http_log"), "leave out"),
        (("status",), "no mesh runs"),
        (("stop", "nobody"), "no mesh 'nobody'"),
        (("watch", "x.y"), "no mesh runs"),
        (("nf", "add", "dns_log"), "no mesh runs"),
    ],
)
def test_foreseen_errors_are_one_line_and_status_2(words, says):
    done = nfmesh(*words, status=2)
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_doctor_has_a_remedy_for_whatever_is_missing():
    found = objects("doctor")
    assert {each["topic"] for each in found} >= {"kernel", "cores", "memfd", "DPDK", "open files"}
    assert all(each["state"] != "bad" for each in found)
    assert any(each["remedy"] for each in found)


# ---- while packets flow -------------------------------------------------------------------------

MINE = """
import time
from mesh import NF, Event, on

class Tick(Event, name="slow.tick"):
    entries: int

class Slow(NF):
    "Holds the worker back, and the more the longer it takes, so that a test has time."
    publishes = (Tick,)
    n = 0
    @on("packet")
    def see(self, batch):
        self.n += len(batch)
        self.publish(Tick(entries=self.n))
        time.sleep(0.03 + self.n * 1e-5)
    def results(self): return {"packets": self.n}

class Counts(NF):
    n = 0
    @on("packet.tcp")
    def see(self, batch): self.n += len(batch)
    def results(self): return {"packets": self.n}

class Streams(NF):
    "Counts bytes of streams, and tells flows whose begin it did not see by their client's port."
    def __init__(self):
        self.bytes, self.joined, self.ports = 0, 0, {False: set(), True: set()}
    @on("tcp.data")
    def data(self, batch):
        self.bytes += int(batch.column("data_len").sum())
        for port, late in zip(batch.column("client_port"), batch.column("midstream")):
            self.ports[bool(late)].add(int(port))
    @on("tcp.anomaly.midstream")
    def late(self, batch):
        self.joined += len(batch)
    def results(self):
        late, whole = sorted(self.ports[True]), sorted(self.ports[False])
        return {"bytes": self.bytes, "joined": self.joined, "late": late, "whole": whole}

class Hangs(NF):
    @on("packet")
    def see(self, batch): time.sleep(3600)

class Broken(NF):
    def __init__(self): raise RuntimeError("broken on purpose")
    @on("packet.tcp")
    def see(self, batch): pass
"""


def write_spec(folder, **spec):
    (folder / "mine.py").write_text(MINE)
    (folder / "mesh.yaml").write_text(yaml.safe_dump(spec))


@pytest.fixture(scope="module")
def long_capture(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "x.pcapng"
    write_capture(path, [f for _ in range(10_000) for f in conversation()])
    return path


@pytest.fixture
def slow(tmp_path, long_capture):
    """A mesh over a long capture that runs until it is stopped; yields (name, its process)."""
    with held_back(tmp_path, long_capture, {"use": "./mine.py:Counts", "name": "first"}) as mesh:
        yield mesh


@contextmanager
def held_back(folder, capture, *nfs):
    """Runs a mesh whose first NF is slow."""
    slow = {"use": "./mine.py:Slow", "ring": 64}
    write_spec(folder, nfs=[slow, *nfs], ports=[{"pcap": str(capture)}], metrics_port=0)
    name = f"test-{os.getpid()}"
    command = [*NFMESH, "run", folder / "mesh.yaml", "--name", name, "--json"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: run.poll() is not None or is_known(status_of(name)))
        assert run.poll() is None, run.communicate()[1]
        yield name, run
    finally:
        if run.poll() is None:
            run.send_signal(signal.SIGINT)
            run.send_signal(signal.SIGINT)
        run.communicate(timeout=PATIENCE_S)
        assert not (base_folder() / name).exists()


def is_known(found):
    """True once a mesh runs, and its processes have told their numbers."""
    has_beaten = all(each.get("statistics") for each in found.get("workers", {}).values())
    return found.get("state") == "running" and found["objects"] and has_beaten


def status_of(name):
    """What a mesh says of itself; nothing while nobody answers."""
    with suppress(ProcessError):
        return ask(base_folder() / name, m.Status())
    return {}


def packets(name):
    worker = status_of(name).get("workers", {}).get("worker-0", {})
    return worker.get("statistics", {}).get("packets", 0)


def ended(run, status=130):
    out, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == status, err
    return json.loads(out)


def test_an_added_nf_sees_exactly_the_packets_from_its_point_on(slow, tmp_path):
    name, run = slow
    [added] = objects("nf", "add", f"{tmp_path}/mine.py:Counts", "--name", "second", "--mesh", name)
    assert added["effective_from"] > 1
    [removed] = objects("nf", "remove", "second", "--mesh", name)
    seen = removed["report"]["results"]["packets"]
    assert seen == removed["effective_from"] - added["effective_from"]
    nfmesh("stop", name)
    report = ended(run)
    found = {nf["name"]: nf["results"]["packets"] for nf in report["nfs"]}
    assert found == {"slow": report["packets"], "first": report["packets"], "second": seen}
    assert report["interrupted"] is True


LONG, SHORT = range(30000, 30004), range(31000, 35000)


def lanes():
    """Four long connections, and short ones one after another in four lanes: frames by turns."""
    said = [("client", b"x" * 10), ("server", b"y" * 30)]
    long = [conversation(said * 5000, client=("10.1.0.1", port)) for port in LONG]
    short = [conversation(said, client=("10.2.0.1", port)) for port in SHORT]
    queues = [list(chain(*short[i::4])) for i in range(4)]
    return [frame for turn in zip(*long, *queues, strict=False) for frame in turn]


def test_modules_that_nobody_needed_start_while_packets_flow(tmp_path):
    frames = lanes()
    write_capture(tmp_path / "lanes.pcapng", frames)
    with held_back(tmp_path, tmp_path / "lanes.pcapng") as (name, run):
        [before] = objects("status", name)
        assert "tcp_stream" not in before["modules"]
        use = f"{tmp_path}/mine.py:Streams"
        [added] = objects("nf", "add", use, "--mesh", name)
        [during] = objects("status", name)
        assert {"tcp_track", "tcp_stream"} <= set(during["modules"])
        until(lambda: packets(name) > added["effective_from"] + 1500, "short connections")
        [removed] = objects("nf", "remove", "streams", "--mesh", name)
        [again] = objects("nf", "add", use, "--mesh", name)
        nfmesh("stop", name)
        report = ended(run)
    begin, end = added["effective_from"] - 1, removed["effective_from"] - 1
    found = removed["report"]["results"]
    assert found["bytes"] == sum(len(frame.data) - 54 for frame in frames[begin:end])
    assert set(LONG) <= set(found["late"])
    assert not set(LONG) & set(found["whole"])
    assert len(found["late"]) <= 8
    assert len(found["whole"]) > 10
    assert len(found["late"]) <= found["joined"] <= 8
    last = {nf["name"]: nf["results"] for nf in report["nfs"]}
    assert last["slow"]["packets"] == report["packets"]
    rest = frames[again["effective_from"] - 1 : report["packets"]]
    assert last["streams"]["bytes"] == sum(len(frame.data) - 54 for frame in rest)
    assert set(LONG) <= set(last["streams"]["late"])


def test_a_subscription_ends_and_begins_at_a_packet(slow):
    name, run = slow
    [ends] = objects("unsubscribe", "first", "--mesh", name)
    [begins] = objects("subscribe", "first", "packet.tcp", "--mesh", name)
    nfmesh("stop", name)
    report = ended(run)
    missed = begins["effective_from"] - ends["effective_from"]
    assert missed > 0
    found = {nf["name"]: nf["results"]["packets"] for nf in report["nfs"]}
    assert found == {"slow": report["packets"], "first": report["packets"] - missed}


def test_status_watch_and_refused_changes_disturb_nobody(slow, tmp_path):
    name, run = slow
    [found] = objects("status", name)
    rows = {row["name"]: row for row in found["processes"]}
    assert {"controller", "worker-0", "slow", "first"} <= set(rows)
    assert len({rows[each]["pid"] for each in ("controller", "worker-0", "slow", "first")}) == 4
    assert {each["name"] for each in found["objects"]} >= {"w0/packets", "ring/slow/w0"}
    assert all(each["backing"] for each in found["objects"])
    text = nfmesh("status", name).stdout
    for shown in ("w0/packets", "network functions", "ring/slow/w0", "port ", found["metrics"]):
        assert shown in text
    with urllib.request.urlopen(found["metrics"]) as answer:
        lines = answer.read().decode().splitlines()
    [packets] = [line for line in lines if line.startswith("nfmesh_worker_packets_total")]
    assert float(packets.split()[-1]) >= found["workers"]["worker-0"]["statistics"]["packets"]
    watched = objects("watch", "slow", "--mesh", name, "--count", "3")
    assert [each["event"] for each in watched] == ["slow.tick"] * 3
    assert watched[0]["fields"]["entries"] < watched[-1]["fields"]["entries"]
    for words, says in (
        (("watch", "slow.tock", "--mesh", name), "did you mean 'slow.tick'?"),
        (("nf", "add", f"{tmp_path}/mine.py:Broken", "--mesh", name), "broken on purpose"),
        (("nf", "add", "dns_lgo", "--mesh", name), "did you mean 'dns_log'?"),
        (("nf", "remove", "frist", "--mesh", name), "did you mean 'first'?"),
        (("subscribe", "first", "tcp.dta", "--mesh", name), "did you mean 'tcp.data'?"),
        (("run", "--pcap", OFFICE, "--nf", "dns_log", "--name", name), "runs already"),
    ):
        assert says in nfmesh(*words, status=2).stderr
    run.send_signal(signal.SIGINT)
    report = ended(run)
    found = {nf["name"]: nf["results"]["packets"] for nf in report["nfs"]}
    assert found == {"slow": report["packets"], "first": report["packets"]}


def test_a_spec_is_applied_to_what_runs(slow, tmp_path):
    name, run = slow
    spec = yaml.safe_load((tmp_path / "mesh.yaml").read_text())
    file = tmp_path / "next.yaml"

    def apply(*nfs, status=0, **more):
        file.write_text(yaml.safe_dump({"nfs": [spec["nfs"][0], *nfs], **more}))
        return objects("apply", file, "--mesh", name, status=status)

    first = spec["nfs"][1]
    [found] = apply(first, ports=spec["ports"])
    assert not any(found[key] for key in ("added", "removed", "changed", "replaced"))
    [joins] = apply(first, {"use": "./mine.py:Counts", "name": "second"})
    assert (joins["added"], joins["removed"]) == (["second"], [])
    [anew] = apply({**first, "ring": 1024})
    assert (anew["removed"], anew["replaced"]) == (["second"], ["first"])
    assert anew["reports"]["first"]["results"]["packets"] == anew["effective_from"] - 1
    assert anew["replaced_from"] > anew["effective_from"]
    assert apply(first, max_packets=7, status=2) == []
    until(lambda: entries(name).get("first") == 1024, "the worker's next heartbeat")
    nfmesh("stop", name)
    report = ended(run)
    found = {nf["name"]: nf["results"]["packets"] for nf in report["nfs"]}
    assert found == {
        "slow": report["packets"],
        "first": report["packets"] - anew["replaced_from"] + 1,
        "second": anew["effective_from"] - joins["effective_from"],
    }


def entries(name):
    return {ring["nf"]: ring["entries"] for ring in status_of(name).get("rings", ())}


def test_a_killed_controller_does_not_change_what_is_found(slow):
    name, run = slow
    [found] = objects("status", name)
    pid = next(row["pid"] for row in found["processes"] if row["name"] == "controller")
    os.kill(pid, signal.SIGKILL)
    until(lambda: status_of(name).get("state") == "running", "another controller")
    nfmesh("stop", name)
    report = ended(run)
    found = {nf["name"]: nf["results"]["packets"] for nf in report["nfs"]}
    assert found == {"slow": report["packets"], "first": report["packets"]}
