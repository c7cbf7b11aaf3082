# SPDX-License-Identifier: Apache-2.0
"""A capture through the mesh into a capture: what passes is what came, whoever looks at it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_rig import PASS, by_flow, run, traffic, write_nf
from live_rig import public_folder
from pcap_file import packets

from mesh.testing import write_capture

DROP = """
from mesh import NF, on

class Drop(NF):
    \"\"\"Drops what goes to one port.\"\"\"
    name = "drop"

    @on("packet.udp", mode="inline")
    def judge(self, batch):
        batch.drop(batch.dst_port == 53)
"""
DIES = """
import os
from mesh import NF, on

class Dies(NF):
    \"\"\"Dies at every packet.\"\"\"
    name = "dies"

    @on("packet.udp", mode="inline")
    def judge(self, batch):
        os._exit(3)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as made:
        yield made


@pytest.mark.parametrize("observers", [[], ["--nf", "http_log", "--nf", "flow_counter"]])
def test_what_nobody_judges_is_the_same_file(folder: Path, observers: list[str]) -> None:
    before, after = folder / "before.pcap", folder / "after.pcap"
    write_capture(before, traffic(40), form="pcap-ns")
    report = run("--in", str(before), "--out", str(after), *observers)
    assert after.read_bytes() == before.read_bytes()
    assert report["counters"]["forward.packets"] == report["statistics"]["packets"]


@pytest.mark.parametrize("stages", [(0,), (0, 0), (0, 1, 1)])
def test_judges_that_pass_all_change_nothing(folder: Path, stages: tuple[int, ...]) -> None:
    before, after = folder / "before.pcap", folder / "after.pcap"
    write_capture(before, traffic(40), form="pcap-ns")
    nfs = [
        word
        for n, stage in enumerate(stages)
        for word in ("--nf", write_nf(folder, f"pass{n}", PASS.format(n=n, stage=stage)))
    ]
    report = run("--in", str(before), "--out", str(after), *nfs)
    frames = packets(after)
    assert by_flow(frames) == by_flow(packets(before))
    assert sorted(frames) == sorted(packets(before))
    assert [nf["results"]["seen"] for nf in report["nfs"]] == [len(frames)] * len(stages)


def test_what_is_dropped_is_not_in_the_file(folder: Path) -> None:
    before, after = folder / "before.pcap", folder / "after.pcap"
    write_capture(before, traffic(40), form="pcap-ns")
    nf = write_nf(folder, "drop", DROP)
    report = run("--in", str(before), "--out", str(after), "--nf", nf)
    is_dns = [frame[23] == 17 and frame[36:38] == b"\0\x35" for _, frame in packets(before)]
    wanted = [f for f, dns in zip(packets(before), is_dns, strict=True) if not dns]
    assert by_flow(packets(after)) == by_flow(wanted)
    assert report["counters"]["inline.dropped"] == sum(is_dns) > 0


@pytest.mark.parametrize("fail", ["open", "closed"])
def test_a_judge_that_only_dies_takes_its_policy(folder: Path, fail: str) -> None:
    before, after = folder / "before.pcap", folder / "after.pcap"
    write_capture(before, traffic(10), form="pcap-ns")
    spec = folder / "mesh.yaml"
    nf = {"use": write_nf(folder, "dies", DIES), "fail": fail, "restart": "never"}
    ports = [{"pcap": str(before), "out": "after"}, {"record": str(after), "name": "after"}]
    spec.write_text(json.dumps({"nfs": [nf], "ports": ports}))
    report = run(str(spec))
    wanted = [f for f in packets(before) if fail == "open" or f[1][23] != 17]
    assert by_flow(packets(after)) == by_flow(wanted)
    assert report["statistics"]["packets"] == len(packets(before))


def test_a_capture_in_a_loop_does_not_end(folder: Path) -> None:
    before, after = folder / "before.pcap", folder / "after.pcap"
    write_capture(before, traffic(4), form="pcap-ns")
    wanted = [frame for _, frame in packets(before)]
    spec = folder / "mesh.yaml"
    loop = {"pcap": str(before), "out": "after", "replay": {"loop": True, "speed": 0}}
    ports = [loop, {"record": str(after), "name": "after"}]
    spec.write_text(json.dumps({"ports": ports, "max_packets": 3 * len(wanted)}))
    statistics = run(str(spec))["statistics"]
    assert statistics["packets"] == 3 * len(wanted)
    assert statistics["flows_opened"] == 3 * len(by_flow(packets(before)))
    frames = [frame for _, frame in packets(after)]
    assert frames[: len(wanted)] == wanted
    without_addresses = [frame[:26] + frame[34:] for frame in frames]
    assert without_addresses == [frame[:26] + frame[34:] for frame in wanted] * 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--out", "x.pcap"], "name where they enter, too, with --in"),
        (["--in", "x.pcap"], "--nf: name a spec file"),
        (["--in", "a.pcap", "--out", "pcap:b"], "a pcap port is read; it belongs to --in"),
        (["--in", "record:b", "--out", "c.pcap"], "a record port is written"),
        (["--in", "", "--out", "c.pcap"], "names nothing"),
        (["--in", "an-interface-with-a-long-name", "--out", "c.pcap"], "at most 15 characters"),
        (["--in", "a.pcap", "--pcap", "b.pcap"], "--pcap: and --in say where packets enter"),
    ],
)
def test_words_that_make_no_sense_are_explained(arguments: list[str], says: str) -> None:
    line = [sys.executable, "-m", "mesh.cli", "run", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr


def test_a_judge_needs_packets_that_pass(folder: Path) -> None:
    before = folder / "before.pcap"
    write_capture(before, traffic(1))
    nf = write_nf(folder, "drop", DROP)
    line = [sys.executable, "-m", "mesh.cli", "run", "--in", str(before), "--nf", nf]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "drop.judge.mode: inline NFs decide over packets that pass, and none do" in done.stderr


def test_what_an_impaired_link_did_is_in_the_report(folder: Path) -> None:
    before = folder / "before.pcap"
    write_capture(before, traffic(20), form="pcap-ns")
    spec = folder / "mesh.yaml"
    port = {"pcap": str(before), "impair": {"drop": 0.5, "seed": 3}}
    spec.write_text(json.dumps({"nfs": [{"use": "flow_counter"}], "ports": [port]}))
    report = run(str(spec))
    lost = len(packets(before)) - report["statistics"]["packets"]
    assert report["counters"]["impair.dropped"] == lost > 0
