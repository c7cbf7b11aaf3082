# SPDX-License-Identifier: Apache-2.0
"""Several workers over captures: what one finds they find together, also when one of them dies."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from file_rig import run, traffic, with_fragments
from live_rig import public_folder
from mesh_rig import Rig, rig, wait_for

from mesh.errors import SpecError
from mesh.spec import parse
from mesh.testing import timed, write_capture

CAPTURES = Path(__file__).parent / "captures"
NFS = ("http_log", "dns_log", "syn_scan", "flow_counter", "heavy_hitter")
OF_MEMORY = {"mapped_bytes", "foreign"}
OF_WORKERS = {"subscription.sets"}
"""What several workers have more of than one has."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as made:
        yield made


@pytest.fixture
def mesh() -> Iterator[Rig]:
    with rig() as made:
        yield made


def plain(value: Any) -> Any:
    """Puts lists in an order of their own: flows of different workers come in any order."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return sorted((plain(each) for each in value), key=repr)
    return value


def found(report: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a run found, whoever of its workers did."""
    statistics = {k: v for k, v in report["statistics"].items() if k not in OF_MEMORY}
    counters = {k: v for k, v in report["counters"].items() if k not in OF_WORKERS}
    nfs = {nf["name"]: (nf["events"], plain(nf["results"])) for nf in report["nfs"]}
    return {"statistics": statistics, "counters": counters, "nfs": nfs}


@pytest.mark.parametrize("capture", ["office", "impaired"])
def test_several_workers_find_what_one_finds(capture: str) -> None:
    words = ["--pcap", str(CAPTURES / f"{capture}.pcap")]
    words += [word for name in NFS for word in ("--nf", name)]
    alone = found(run(*words))
    assert alone["statistics"]["packets"] > 100
    for workers in (2, 3, 4):
        assert found(run(*words, "--workers", str(workers))) == alone


def test_fragments_are_put_together_once(folder: Path) -> None:
    path = folder / "in.pcap"
    write_capture(path, with_fragments(20), form="pcap-ns")
    words = ["--pcap", str(path), "--nf", "flow_counter", "--nf", "dns_log"]
    alone = found(run(*words))
    assert alone["counters"]["ip_defrag.reassembled"] == 20
    assert found(run(*words, "--workers", "3")) == alone


def test_every_worker_has_its_share(mesh: Rig) -> None:
    frames = traffic(40)
    write_capture(mesh.folder / "in.pcap", frames)
    cores = sorted(os.sched_getaffinity(0))[:2]
    pinned = {"worker_cores": cores} if len(cores) == 2 else {}
    mesh.start([{"use": "flow_counter"}], mesh.folder / "in.pcap", workers=2, **pinned)
    outcome = mesh.wait()
    if pinned:
        asked = {c.name: c.cores for c in mesh.supervisor.children.values()}
        assert (asked["worker-0"], asked["worker-1"]) == ((cores[0],), (cores[1],))
    assert outcome.report is not None
    statistics = outcome.report["statistics"]
    assert statistics["packets"] == statistics["foreign"] == len(frames)
    assert {o.name for o in mesh.supervisor.stats().objects} >= {"w0/packets", "w1/packets"}
    assert {"worker-0", "worker-1"} <= set(mesh.supervisor.children)


def test_a_killed_worker_begins_again_and_disturbs_nobody(mesh: Rig) -> None:
    slow = mesh.nf(
        "slow",
        """
        class Slow(NF):
            name = "slow"
            def __init__(self):
                self.seen = 0
            @on("packet")
            def handle(self, batch):
                stand_still()
                self.seen += len(batch)
            def results(self):
                return {"seen": self.seen}
        """,
    )
    capture = mesh.capture(3000)
    mesh.start([{"use": slow, "ring": 256}, {"use": "flow_counter"}], capture, workers=2)
    pids = {name: mesh.running(name) for name in ("worker-0", "worker-1", "slow", "flow_counter")}
    wait_for(lambda: mesh.supervisor.children["worker-1"].journal.life()[1] == 2)
    os.kill(pids["worker-1"], signal.SIGKILL)
    mesh.running("worker-1", after=pids["worker-1"])
    reports = mesh.report()
    assert mesh.outcome is not None
    assert mesh.outcome.report is not None
    assert mesh.outcome.restarts == {"worker-1": 1}
    total = mesh.outcome.report["packets"]
    assert total == mesh.outcome.report["statistics"]["foreign"] > 20000
    assert reports["slow"]["results"] == {"seen": total}


def test_handlers_hear_captures_in_time(mesh: Rig) -> None:
    """Entries of two workers are at most 10 ms of event time apart from their order."""
    keeper = mesh.nf(
        "keeper",
        """
        class Keeper(NF):
            name = "keeper"
            def __init__(self):
                self.last, self.back = 0, 0
            @on("packet")
            def handle(self, batch):
                times = batch.ts
                self.back = max(self.back, self.last - int(times[0]))
                self.last = max(self.last, int(times[-1]))
            def results(self):
                return {"back": self.back}
        """,
    )
    frames = [frame.data for frame in traffic(60)]
    random.Random(1).shuffle(frames)
    write_capture(mesh.folder / "in.pcap", timed(frames, step_ns=3_000_000))
    mesh.start([{"use": keeper}], mesh.folder / "in.pcap", workers=3)
    assert 0 <= mesh.report()["keeper"]["results"]["back"] <= 10_000_000


def test_who_needs_order_hears_captures_packet_by_packet(mesh: Rig) -> None:
    keeper = mesh.nf(
        "keeper",
        """
        class Keeper(NF):
            name = "keeper"
            needs_order = True
            def __init__(self):
                self.last, self.back, self.seen = 0, 0, 0
            @on("packet")
            def handle(self, batch):
                for number in batch.packet.tolist():
                    self.back += number <= self.last
                    self.last = number
                self.seen += len(batch)
            def results(self):
                return {"back": self.back, "seen": self.seen}
        """,
    )
    frames = [frame.data for frame in traffic(40)]
    random.Random(1).shuffle(frames)
    write_capture(mesh.folder / "in.pcap", timed(frames, step_ns=0))  # time alone says nothing
    mesh.start([{"use": keeper}], mesh.folder / "in.pcap", workers=3)
    assert mesh.report()["keeper"]["results"] == {"back": 0, "seen": len(frames)}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"workers": 2, "worker_cores": [0]}, "worker_cores: 1 cores for 2 workers"),
        ({"workers": 2, "worker_cores": [1, 1]}, "worker_cores[1]: core 1 is given twice"),
        ({"workers": 0}, "workers: 0 is not within 1..32; the default is 1"),
        ({"workers": 33}, "workers: 33 is not within 1..32"),
        ({"workers": 2, "modules": {"http": {"core": 1}}}, "modules.http.core: each of 2 workers"),
        ({"workers": 2, "ports": [{"afxdp": {"interface": "e", "queues": 3}}]}, "3 queues for 2"),
    ],
)
def test_what_several_workers_cannot_have_is_said(spec: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse({"nfs": [{"use": "http_log"}], "ports": [{"pcap": "x.pcap"}], **spec})
    assert says in str(caught.value)


def test_a_module_on_its_own_core_is_one_for_each_worker(folder: Path) -> None:
    words = ["--pcap", str(CAPTURES / "office.pcap"), "--nf", "http_log"]
    alone = found(run(*words))
    apart = found(run(*words, "--workers", "2", "--own-core", "http"))
    assert apart["nfs"] == alone["nfs"]
    assert json.dumps(apart["statistics"]) == json.dumps(alone["statistics"])
