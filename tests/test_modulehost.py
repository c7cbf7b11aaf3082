# SPDX-License-Identifier: Apache-2.0
"""Stack modules on cores of their own: the same results in the same order, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mesh_rig import Rig, rig, wait_for

from mesh.control.composing import compose_desired
from mesh.control.desired import Desired
from mesh.errors import SpecError
from mesh.registry import Registry
from mesh.runner import replay
from mesh.spec import json_schema, parse

CAPTURES = sorted((Path(__file__).parent / "captures").glob("*.pcap"))
OWN: Mapping[str, Any] = {"http": {"own": True}, "dns": {"own": True}}
RECORDER = """
import hashlib
EXTRA = {
    "tcp.data": ("data", "stream_off"),
    "http.request": ("method", "target", "headers"),
    "http.response": ("status", "request_target", "latency_us"),
    "http.body": ("offset", "length"),
    "dns.query": ("qname", "qtype"),
    "dns.response": ("qname", "rcode", "answers"),
    "flow.end": ("c2s_stream_bytes", "s2c_stream_bytes", "s2c_gap_bytes", "reason"),
}

class Recorder(NF):
    '''Takes a fingerprint of what it hears, per flow and of all.'''
    def __init__(self, stands: bool = False):
        self.flows, self.types, self.all, self.stands = {}, {}, hashlib.sha256(), stands
    @on("packet", "tcp.data", "tcp.anomaly", "http", "dns", "flow.start", "flow.end")
    def hear(self, batch):
        if self.stands:
            stand_still()
        for row in batch:
            words = [row.type, row.packet, row.ts, row.events, row.from_client, row.flow]
            values = [getattr(row, name) for name in EXTRA.get(row.type, ())]
            words += [bytes(v) if isinstance(v, memoryview) else v for v in values]
            text = repr(words).encode()
            self.all.update(text)
            self.flows.setdefault(row.flow, hashlib.sha256()).update(text)
            self.types[row.type] = self.types.get(row.type, 0) + 1
    def results(self):
        flows = {f"{flow:x}": digest.hexdigest() for flow, digest in self.flows.items()}
        return {"all": self.all.hexdigest(), "flows": flows, "types": self.types}
"""


@pytest.fixture
def mesh() -> Iterator[Rig]:
    with rig() as made:
        yield made


def found(capture: Path, modules: Mapping[str, Any], nfs: list[str]) -> tuple[Any, Any]:
    """Runs a mesh; returns results by NF, and the counters."""
    with rig() as made:
        copy = made.folder / capture.name
        copy.write_bytes(capture.read_bytes())
        uses = [{"use": made.nf("recorder", RECORDER)}, *({"use": nf} for nf in nfs)]
        made.start(uses, copy, modules=modules)
        report = made.report()
        assert made.outcome is not None
        assert made.outcome.report is not None
        assert not made.outcome.restarts
        results = {name: (nf["results"], nf["errors"]) for name, nf in report.items()}
        return results, made.outcome.report["counters"]


def corpus() -> list[Path]:
    """Captures of the corpus that say much of HTTP and DNS, when it is there."""
    at = Path(os.environ.get("NFMESH_CORPUS") or Path(__file__).parents[2] / "shared/corpus")
    wanted = ("*http*.pcap*", "*dns*.pcap*")
    paths = sorted(path for name in wanted for path in at.glob(f"**/{name}"))
    return [path for path in paths if 2000 < path.stat().st_size < 1 << 19][:6]


@pytest.mark.parametrize("capture", [*CAPTURES, *corpus()], ids=lambda path: path.name)
def test_results_and_order_are_those_of_modules_in_line(capture: Path):
    nfs = ["http_log", "dns_log", "flow_log"]
    in_line, counted = found(capture, {}, nfs)
    own, own_counted = found(capture, OWN, nfs)
    assert own == in_line
    for module in ("http.", "dns."):
        mine = {name: n for name, n in own_counted.items() if name.startswith(module)}
        assert mine == {name: n for name, n in counted.items() if name.startswith(module)}
    assert not [name for name in own_counted if name.endswith((".lost", ".bad_answers"))]


def test_it_is_a_process_of_its_own_that_maps_packets_read_only(mesh):
    use = mesh.nf("recorder", RECORDER)
    mesh.start(
        [{"use": use, "config": {"stands": True}}],
        mesh.capture(50),
        modules={"http": {"own": True}},
    )
    pid = mesh.running("module-http")
    maps = Path(f"/proc/{pid}/maps").read_text()
    mapped = {
        line.split("nfmesh:")[1].split()[0]: line.split()[1]
        for line in maps.splitlines()
        if "nfmesh:" in line
    }
    assert mapped["w0/packets"] == mapped["w0/records"] == mapped["w0/flows"] == "r--s"
    assert mapped["answers/http/w0"] == mapped["ask/http/w0"] == "rw-s"
    assert mesh.report()["recorder"]["results"]["types"]["http.request"] == 50


def start_held(mesh: Rig, conversations: int) -> None:
    """Starts a mesh that stands still in the middle, as its recorder takes nothing."""
    use = mesh.nf("recorder", RECORDER)
    mesh.start(
        [
            {"use": use, "config": {"stands": True}, "ring": 256},
            {"use": "http_log"},
            {"use": "flow_counter"},
        ],
        mesh.capture(conversations),
        modules={"http": {"own": True}},
    )


def without_http(types: Mapping[str, int]) -> dict[str, int]:
    return {name: n for name, n in types.items() if not name.startswith("http")}


def wait_until_it_stands(mesh: Rig) -> None:
    """Waits until the recorder's ring holds the worker up."""
    wait_for(lambda: mesh.ring("ring/recorder/w0").depth > 192)


def test_a_killed_host_loses_its_events_and_nothing_else(mesh):
    start_held(mesh, 2000)
    pid = mesh.running("module-http")
    wait_until_it_stands(mesh)
    os.kill(pid, signal.SIGSTOP)
    mesh.go()
    wait_for(lambda: mesh.ring("ask/http/w0").depth > 32)
    os.kill(pid, signal.SIGKILL)
    report = mesh.report()
    outcome = mesh.outcome
    assert outcome is not None
    assert outcome.restarts == {"module-http": 1}
    assert outcome.report is not None
    lost = outcome.report["counters"].get("module.http.lost", 0)
    assert 0 < lost < 2000
    types = report["recorder"]["results"]["types"]
    inside = replay(mesh.folder / "in.pcap", [str(mesh.folder / "recorder.py"), "flow_counter"])
    expected = inside["recorder"].results["types"]
    assert without_http(types) == without_http(expected)
    assert report["flow_counter"]["results"] == inside["flow_counter"].results
    assert 0 < types["http.request"] < expected["http.request"] == 2000
    assert outcome.report["statistics"]["slots_used"] == 0
    assert outcome.report["statistics"]["records_used"] == 0


def test_a_killed_worker_reads_again_with_a_host_that_begins_anew(mesh):
    expected, _ = found(mesh.capture(2000), {}, ["http_log", "flow_counter"])
    start_held(mesh, 2000)
    pid = mesh.running("worker-0")
    wait_until_it_stands(mesh)
    os.kill(pid, signal.SIGKILL)
    report = mesh.report()
    assert mesh.outcome is not None
    assert mesh.outcome.restarts == {"worker-0": 1}
    assert {name: (nf["results"], nf["errors"]) for name, nf in report.items()} == expected


def test_a_module_that_cannot_start_is_named_and_the_rest_goes_on(mesh):
    mesh.start(
        [{"use": mesh.nf("recorder", RECORDER)}],
        mesh.capture(20),
        modules={"http": {"own": True, "core": 999}},
    )
    outcome = mesh.wait()
    assert "core 999 is not there" in outcome.error


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ({"http": {"own": "yes please"}}, "modules.http.own: input should be a valid boolean"),
        ({"http": {"own": False, "core": 1}}, "modules.http: a core is named"),
        ({"http": {"core": -1}}, "modules.http.core: -1 is not within 0..65535"),
    ],
)
def test_errors_of_a_spec_name_the_place(modules, words):
    with pytest.raises(SpecError) as error:
        parse({"nfs": [{"use": "http_log"}], "modules": modules})
    assert words in str(error.value)


def test_a_module_of_the_stack_itself_cannot_leave_the_worker(mesh):
    spec = {
        "nfs": [{"use": "http_log"}],
        "ports": [{"pcap": str(CAPTURES[0])}],
        "modules": {"tcp_stream": {"own": True}},
    }
    with pytest.raises(SpecError) as error:
        compose_desired(Desired(1, spec), Registry.installed())
    assert "modules.tcp_stream.own: 'tcp_stream' cannot leave the worker" in str(error.value)


def test_the_schema_knows_where_a_module_runs():
    text = json.dumps(json_schema()["$defs"]["ModuleSpec"])
    assert "core of its own" in text
    assert parse({"nfs": [{"use": "x"}], "modules": {"http": {"core": 3}}}).own_cores == {
        "http": (3,)
    }
