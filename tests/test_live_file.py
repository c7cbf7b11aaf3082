# SPDX-License-Identifier: Apache-2.0
"""A capture through the mesh into a capture: what passes is what came, whoever looks at it."""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from live_mesh import LiveMesh

from mesh.testing import Frame, conversation, packet, timed, udp, write_capture

PASS = """
from mesh import NF, on

class Pass{n}(NF):
    \"\"\"Lets all pass.\"\"\"
    name = "pass{n}"

    def __init__(self):
        self.seen = 0

    @on("packet", mode="inline", stage={stage})
    def judge(self, batch):
        self.seen += len(batch)

    def results(self):
        return {{"seen": self.seen}}
"""
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
    """A folder that NFs, which run as other users, can read."""
    made = Path(tempfile.mkdtemp(prefix="nfmesh-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def write_nf(folder: Path, name: str, text: str) -> str:
    """Writes an NF; returns how a command line names it."""
    path = folder / f"{name}.py"
    path.write_text(text)
    path.chmod(0o644)
    return str(path)


def datagram(source: str, port: int, payload: bytes) -> bytes:
    """Returns a frame with a UDP datagram."""
    src, dst = IPv4Address(source), IPv4Address("10.2.0.1")
    return packet(udp(payload, src, 5000, dst, port), src, dst, 17)


def traffic(n: int) -> list[Frame]:
    """Returns conversations over TCP and UDP, mixed."""
    flows = []
    for i in range(n):
        request = f"GET /{i} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
        talk = conversation([("client", request), ("server", answer)], client=(f"10.0.0.{i}", 4000))
        flows.append([frame.data for frame in talk])
        words = [f"{i}.{k}".encode() for k in range(8)]
        port = 53 if i % 2 else 54
        flows.append([datagram(f"10.1.0.{i}", port, word) for word in words])
    mixed = itertools.zip_longest(*flows)
    return timed([data for row in mixed for data in row if data is not None])


def run(*arguments: str) -> dict[str, Any]:
    """Runs a mesh to its end; returns its report."""
    mesh = LiveMesh(None, *arguments)
    try:
        return mesh.wait()
    finally:
        mesh.close()


def packets(path: Path) -> list[tuple[int, bytes]]:
    """Returns times and frames of a pcap file."""
    data, at, found = path.read_bytes(), 24, []
    assert struct.unpack_from("<I", data)[0] == 0xA1B23C4D, "nanoseconds"
    while at < len(data):
        seconds, ns, size, _ = struct.unpack_from("<4I", data, at)
        found.append((seconds * 1_000_000_000 + ns, data[at + 16 : at + 16 + size]))
        at += 16 + size
    return found


def flow_of(frame: bytes) -> tuple[Any, ...]:
    """Returns what both directions of a flow have in common; all of these are IPv4."""
    ends = sorted([(frame[26:30], frame[34:36]), (frame[30:34], frame[36:38])])
    return (frame[23], *ends)


def by_flow(frames: list[tuple[int, bytes]]) -> dict[tuple[Any, ...], list[tuple[int, bytes]]]:
    """Returns the frames of each flow, in order."""
    found: dict[tuple[Any, ...], list[tuple[int, bytes]]] = {}
    for frame in frames:
        found.setdefault(flow_of(frame[1]), []).append(frame)
    return found


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
    assert run(str(spec))["statistics"]["packets"] == 3 * len(wanted)
    assert [frame for _, frame in packets(after)] == wanted * 3


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
